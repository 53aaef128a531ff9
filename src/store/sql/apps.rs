//! Health and statuses of agents' apps.

use super::batch::{Hex, json};
use super::database::Database;
use super::row::Row;
use super::statement::{Dialect, statements};
use super::value::{Value, ids, label, texts};
use crate::ids::{AgentId, AppId, WorkspaceId};
use crate::store::{
    AppBeforeStatus, AppHealth, AppStatusState, AppTask, AppWithHealth, NewAppStatus, StoreError,
};

statements! {
    APP_HEALTHS = "app_healths_by_agent":
        "SELECT id, slug, healthcheck_url <> '' AS checked, health FROM workspace_apps WHERE agent_id = $1";
    UPDATE_APP_HEALTHS = "update_app_healths":
        "UPDATE workspace_apps SET health = new.health
        FROM (SELECT unhex(value ->> 0) AS app_id, value ->> 1 AS health FROM json_each($1)) AS new
        WHERE id = new.app_id",
        postgres:
        "WITH locked AS (
            SELECT app.id, new.health FROM workspace_apps AS app
            JOIN unnest($1::uuid[], $2::text[]) AS new(app_id, health) ON app.id = new.app_id
            ORDER BY app.id FOR NO KEY UPDATE OF app
        )
        UPDATE workspace_apps AS app SET health = locked.health::workspace_app_health
        FROM locked WHERE app.id = locked.id";
    /// Of a workspace's tasks the newest that is not deleted counts, whatever views make of them; which app it runs in is its
    /// newest build's. The agent's row is looked at only where there is a task.
    APP_BEFORE_STATUS = "app_before_status":
        "SELECT app.id,
            (
                SELECT state FROM workspace_app_statuses
                WHERE app_id = app.id ORDER BY created_at DESC, id DESC LIMIT 1
            ) AS latest,
            task.name AS task_name,
            (
                SELECT workspace_app_id FROM task_workspace_apps
                WHERE task_id = task.id ORDER BY workspace_build_number DESC LIMIT 1
            ) IS NOT DISTINCT FROM app.id AS runs_in_app,
            CASE WHEN task.id IS NOT NULL THEN EXISTS (
                SELECT 1 FROM workspace_agents
                WHERE id = app.agent_id AND NOT deleted AND lifecycle_state = 'ready'
            ) END AS agent_ready
        FROM workspace_apps AS app
        LEFT JOIN tasks AS task ON task.id = (
            SELECT id FROM tasks WHERE workspace_id = $3 AND deleted_at IS NULL ORDER BY created_at DESC, id LIMIT 1
        )
        WHERE app.agent_id = $1 AND app.slug = $2";
    /// May be asked for twice when the first answer was lost.
    INSERT_APP_STATUS = "insert_app_status":
        "INSERT INTO workspace_app_statuses (id, created_at, agent_id, app_id, workspace_id, state, message, uri)
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8) ON CONFLICT (id) DO NOTHING";
}

/// The health of a new app, until its agent reports one: a check that has not run, or none.
pub(super) fn initial_health(healthcheck_url: &str) -> Value<'static> {
    let health = if healthcheck_url.is_empty() {
        AppHealth::Disabled
    } else {
        AppHealth::Initializing
    };
    label(health.as_str())
}

pub(super) async fn healths(database: &Database, agent: AgentId) -> Result<Vec<AppWithHealth>, StoreError> {
    let rows = database.read().await?.all(APP_HEALTHS.bind(agent.0)).await?;
    let app = |row| -> Result<_, StoreError> {
        let row: &Row = row;
        Ok(AppWithHealth {
            id: row.id("id")?,
            slug: row.get("slug")?,
            checked: row.get("checked")?,
            health: row.label("health", AppHealth::from_label)?,
        })
    };
    rows.iter().map(app).collect()
}

pub(super) async fn update_healths(
    database: &Database,
    changes: &[(AppId, AppHealth)],
) -> Result<(), StoreError> {
    let call = match database.dialect() {
        Dialect::Sqlite => {
            let list = changes.iter().map(|(id, health)| (Hex(id.0), health.as_str()));
            UPDATE_APP_HEALTHS.bind(json(list)?)
        }
        Dialect::Postgres => UPDATE_APP_HEALTHS
            .bind(ids(changes.iter().map(|(id, _)| id.0)))
            .bind(texts(changes.iter().map(|(_, health)| health.as_str()))),
    };
    database.write().await?.execute(call).await.map(|_| ())
}

pub(super) async fn before_status(
    database: &Database,
    agent: AgentId,
    workspace: WorkspaceId,
    slug: &str,
) -> Result<AppBeforeStatus, StoreError> {
    let call = APP_BEFORE_STATUS.bind(agent.0).bind(slug).bind(workspace.0);
    let row = database.read().await?.one(call).await?;
    let latest = match row.get::<Option<&str>>("latest")? {
        None => None,
        Some(_) => Some(row.label("latest", AppStatusState::from_label)?),
    };
    let task = match row.get("task_name")? {
        None => None,
        Some(name) => Some(AppTask {
            name,
            runs_in_app: row.get("runs_in_app")?,
            agent_ready: row.get("agent_ready")?,
        }),
    };
    Ok(AppBeforeStatus {
        id: row.id("id")?,
        latest,
        task,
    })
}

pub(super) async fn insert_status(database: &Database, status: &NewAppStatus) -> Result<(), StoreError> {
    let call = INSERT_APP_STATUS
        .bind(status.id.0)
        .bind(status.created_at)
        .bind(status.agent_id.0)
        .bind(status.app_id.0)
        .bind(status.workspace_id.0)
        .bind(label(status.state.as_str()))
        .bind(status.message.as_str())
        .bind(status.uri.as_deref());
    database.write().await?.execute(call).await.map(|_| ())
}
