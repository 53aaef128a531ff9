//! Notifications, and the monitors that raise them. Holds what the original's triggers on `notification_messages` do,
//! for SQLite.

use md5::{Digest as _, Md5};
use uuid::Uuid;

use super::batch::json;
use super::database::Database;
use super::statement::{Dialect, statements};
use super::value::{ids, json_text, label};
use crate::ids::{AgentId, NotificationTemplateId, UserId};
use crate::store::{
    MonitorUpdate, NewNotification, NotificationMethod, NotificationRecipient, StoreError, Violation,
};

statements! {
    RECIPIENT = "notification_recipient":
        "SELECT t.name AS template_name, t.actions, t.method, u.email,
            coalesce(nullif(u.name, ''), u.username) AS user_name, u.username
        FROM notification_templates AS t, users AS u WHERE t.id = $2 AND u.id = $1";
    /// Writes no row for a user who has opted out, or not in where the template asks for that: what the original's trigger
    /// `inhibit_enqueue_if_disabled` does on Postgres.
    INSERT_NOTIFICATION = "insert_notification":
        "INSERT INTO notification_messages
            (id, notification_template_id, user_id, method, payload, targets, created_by, created_at, dedupe_hash)
        SELECT $1, $2, $3, $4, $5, $6, $7, $8, $9
        WHERE NOT coalesce(
            (SELECT disabled FROM notification_preferences WHERE user_id = $3 AND notification_template_id = $2),
            (SELECT NOT enabled_by_default FROM notification_templates WHERE id = $2),
            FALSE
        )",
        postgres:
        "INSERT INTO notification_messages
            (id, notification_template_id, user_id, method, payload, targets, created_by, created_at)
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8)";
    UPDATE_MEMORY_MONITOR = "update_memory_monitor":
        "UPDATE workspace_agent_memory_resource_monitors SET state = $2, debounced_until = $3, updated_at = $4
        WHERE agent_id = $1";
    UPDATE_VOLUME_MONITOR = "update_volume_monitor":
        "UPDATE workspace_agent_volume_resource_monitors SET state = $2, debounced_until = $3, updated_at = $4
        WHERE agent_id = $1 AND path = $5";
}

pub(super) async fn recipient(
    database: &Database,
    user: UserId,
    template: NotificationTemplateId,
) -> Result<NotificationRecipient, StoreError> {
    let call = RECIPIENT.bind(user.0).bind(template.0);
    let row = database.read().await?.one(call).await?;
    let method = match row.get::<Option<&str>>("method")? {
        None => None,
        Some(_) => Some(row.label("method", NotificationMethod::from_label)?),
    };
    Ok(NotificationRecipient {
        template_name: row.get("template_name")?,
        actions: row.get("actions")?,
        method,
        user_email: row.get("email")?,
        user_name: row.get("user_name")?,
        user_username: row.get("username")?,
    })
}

pub(super) async fn insert(database: &Database, message: &NewNotification) -> Result<(), StoreError> {
    let targets = match database.dialect() {
        Dialect::Sqlite => json_text(json(message.targets.iter())?),
        Dialect::Postgres => ids(message.targets.iter().copied()),
    };
    let call = INSERT_NOTIFICATION
        .bind(message.id.0)
        .bind(message.template_id.0)
        .bind(message.user_id.0)
        .bind(label(message.method.as_str()))
        .bind(json_text(message.payload.as_str()))
        .bind(targets)
        .bind(message.created_by)
        .bind(message.created_at);
    let call = match database.dialect() {
        Dialect::Sqlite => call.bind(dedupe_hash(message)),
        Dialect::Postgres => call,
    };
    match database.write().await?.execute(call).await?.rows {
        0 => Err(StoreError::Violation {
            violation: Violation::NotificationDisabled,
            text: "cannot enqueue message: notification is not enabled".to_owned(),
        }),
        _ => Ok(()),
    }
}

/// The same for the same notification on one UTC day: the original's trigger `update_notification_message_dedupe_hash`.
fn dedupe_hash(message: &NewNotification) -> String {
    let targets: Vec<_> = message.targets.iter().map(Uuid::to_string).collect();
    let created_at = message.created_at.to_string();
    // RFC 3339 begins with the day.
    let day = created_at.split('T').next().unwrap_or_default();
    let text = format!(
        "{}:{}:{}:{}:{}:{day} 00:00:00",
        message.template_id,
        message.user_id,
        message.method.as_str(),
        message.payload,
        targets.join(","),
    );
    format!("{:032x}", u128::from_be_bytes(Md5::digest(text).into()))
}

pub(super) async fn update_monitor(
    database: &Database,
    agent: AgentId,
    update: &MonitorUpdate,
) -> Result<(), StoreError> {
    let statement = match update.path {
        None => &UPDATE_MEMORY_MONITOR,
        Some(_) => &UPDATE_VOLUME_MONITOR,
    };
    let mut call = statement
        .bind(agent.0)
        .bind(label(update.state.as_str()))
        .bind(update.debounced_until)
        .bind(update.updated_at);
    if let Some(path) = &update.path {
        call = call.bind(path.as_str());
    }
    database.write().await?.execute(call).await.map(|_| ())
}
