//! Queueing notifications for users.
//!
//! Owns what a queued notification holds and by which methods it goes out; whether its user wants it, and whether there
//! is the same one of that day already, is the store's to say. Must never deliver one: that is for whoever reads the
//! queue. Nothing is kept in memory; a notification is written before the call that raised it goes on.
//! Source: coder/coder `coderd/notifications/enqueuer.go`.

mod actions;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Serialize;
use url::Url;
use uuid::Uuid;

use self::actions::Action;
pub use self::actions::ActionsError;
use super::patience::Patience;
use crate::clock::Clock;
use crate::ids::{NotificationId, NotificationTemplateId, UserId};
use crate::pubsub::Pubsub;
use crate::store::{
    NewNotification, NotificationMethod, NotificationRecipient, Store, StoreError, Violation,
};

/// Form of the payload.
const PAYLOAD_VERSION: &str = "1.2";

/// Where it is told that there is something to deliver; the message is empty.
const ENQUEUED_CHANNEL: &str = "notification_enqueued";

/// Bytes of a payload. It lists names, paths and links of one workspace, some hundred bytes; what reaches this bound
/// would only fill the queue.
pub(crate) const MAX_PAYLOAD: usize = 64 << 10;

/// How notifications go out.
#[derive(Clone, Copy, Debug)]
pub struct Methods {
    /// The deployment's method, if anybody delivers by it.
    pub delivery: Option<NotificationMethod>,
    /// Into the users' inboxes too.
    pub inbox: bool,
}

/// Something that a user shall hear of.
#[derive(Clone, Debug)]
pub struct Notice {
    /// Who shall hear of it.
    pub user_id: UserId,
    /// What kind it is.
    pub template_id: NotificationTemplateId,
    /// What the template's texts name.
    pub labels: BTreeMap<&'static str, String>,
    /// What else they need.
    pub data: serde_json::Value,
    /// Which part of the program says so.
    pub created_by: &'static str,
    /// Ids of what it is about.
    pub targets: Vec<Uuid>,
}

/// Why a notification was not queued.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EnqueueError {
    /// Template or user could not be read.
    #[error("new message metadata: {0}")]
    Metadata(#[source] StoreError),
    /// The template's links are of a form that is not known.
    #[error("enqueue notification (payload build): {0}")]
    Actions(#[from] ActionsError),
    /// The notice is too large, or holds what JSON cannot carry.
    #[error("enqueue notification (payload build): {0}")]
    Payload(String),
    /// The user does not want such notifications.
    #[error("notification is not enabled")]
    Disabled,
    /// The same one was queued on this UTC day already.
    #[error("duplicate notification")]
    Duplicate,
    /// It could not be written.
    #[error("enqueue notification: {0}")]
    Insert(#[source] StoreError),
}

impl EnqueueError {
    /// Whether all is as it should be, and the user just hears of nothing.
    pub fn is_expected(&self) -> bool {
        matches!(self, Self::Disabled | Self::Duplicate)
    }
}

/// Queues notifications. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Enqueuer {
    store: Arc<dyn Store>,
    clock: Clock,
    pubsub: Pubsub,
    patience: Patience,
    methods: Methods,
    /// Without a slash at its end.
    base_url: Arc<str>,
}

/// The payload's JSON, in the original's order.
#[derive(Serialize)]
struct Payload<'a> {
    #[serde(rename = "_version")]
    version: &'static str,
    notification_name: &'a str,
    notification_template_id: NotificationTemplateId,
    user_id: UserId,
    user_email: &'a str,
    user_name: &'a str,
    user_username: &'a str,
    actions: Option<Vec<Action>>,
    labels: &'a BTreeMap<&'static str, String>,
    data: &'a serde_json::Value,
    targets: &'a [Uuid],
}

impl Enqueuer {
    /// Queues into `store`, by `methods`; links lead to `access_url`.
    pub fn new(
        store: Arc<dyn Store>,
        clock: Clock,
        pubsub: Pubsub,
        patience: Patience,
        methods: Methods,
        access_url: &Url,
    ) -> Self {
        Self {
            store,
            clock,
            pubsub,
            patience,
            methods,
            base_url: access_url.as_str().trim_end_matches('/').into(),
        }
    }

    /// Queues `notice` once for each method and returns the ids.
    ///
    /// As in the original there is one write for each method: an error leaves those before it.
    pub async fn enqueue(&self, notice: &Notice) -> Result<Vec<NotificationId>, EnqueueError> {
        let recipient = self
            .patience
            .call(notice.user_id, 0, || {
                self.store
                    .notification_recipient(notice.user_id, notice.template_id)
            })
            .await
            .map_err(|error| {
                tracing::warn!(
                    user_id = %notice.user_id,
                    template_id = %notice.template_id,
                    %error,
                    "failed to fetch message metadata"
                );
                EnqueueError::Metadata(error)
            })?;
        let payload = self.payload(notice, &recipient).inspect_err(|error| {
            tracing::warn!(template_id = %notice.template_id, %error, "failed to build payload");
        })?;
        let mut message = NewNotification {
            id: NotificationId::random(),
            template_id: notice.template_id,
            user_id: notice.user_id,
            method: NotificationMethod::Inbox,
            payload,
            targets: notice.targets.clone(),
            created_by: notice.created_by,
            created_at: self.clock.now(),
        };
        let mut ids = Vec::with_capacity(2);
        for method in self.methods.of(recipient.method) {
            message.id = NotificationId::random();
            message.method = method;
            self.insert(&message).await?;
            ids.push(message.id);
        }
        tracing::debug!(msg_ids = ?ids, "enqueued notification");
        self.pubsub.publish(ENQUEUED_CHANNEL, "");
        Ok(ids)
    }

    async fn insert(&self, message: &NewNotification) -> Result<(), EnqueueError> {
        let inserted = self
            .patience
            .call(message.user_id, message.payload.len(), || {
                self.store.insert_notification(message)
            })
            .await;
        inserted.map_err(|error| {
            if error.is_violation(Violation::NotificationDisabled) {
                return EnqueueError::Disabled;
            }
            if error.is_violation(Violation::NotificationExists) {
                return EnqueueError::Duplicate;
            }
            tracing::warn!(
                template_id = %message.template_id,
                method = message.method.as_str(),
                %error,
                "failed to enqueue notification"
            );
            EnqueueError::Insert(error)
        })
    }

    fn payload(&self, notice: &Notice, recipient: &NotificationRecipient) -> Result<String, EnqueueError> {
        let payload = Payload {
            version: PAYLOAD_VERSION,
            notification_name: &recipient.template_name,
            notification_template_id: notice.template_id,
            user_id: notice.user_id,
            user_email: &recipient.user_email,
            user_name: &recipient.user_name,
            user_username: &recipient.user_username,
            actions: actions::render(&self.base_url, notice, recipient)?,
            labels: &notice.labels,
            data: &notice.data,
            targets: &notice.targets,
        };
        let payload =
            serde_json::to_string(&payload).map_err(|error| EnqueueError::Payload(error.to_string()))?;
        if payload.len() > MAX_PAYLOAD {
            let text = format!("payload of {} bytes exceeds {MAX_PAYLOAD} bytes", payload.len());
            return Err(EnqueueError::Payload(text));
        }
        Ok(payload)
    }
}

impl Methods {
    /// The template's own method in place of the deployment's, and the inbox, each once.
    fn of(self, template: Option<NotificationMethod>) -> impl Iterator<Item = NotificationMethod> {
        let first = template.or(self.delivery);
        let inbox = self.inbox && first != Some(NotificationMethod::Inbox);
        first
            .into_iter()
            .chain(inbox.then_some(NotificationMethod::Inbox))
    }
}
