//! Notifications to users, and what resource monitors write.

use uuid::Uuid;

use super::MonitorState;
use crate::clock::Timestamp;
use crate::ids::{NotificationId, NotificationTemplateId, UserId};

labels! {
    /// How a notification reaches its user.
    NotificationMethod { Smtp = "smtp", Webhook = "webhook", Inbox = "inbox" }
}

/// A template together with a user who shall be notified by it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotificationRecipient {
    /// The template's name.
    pub template_name: String,
    /// JSON list of the template's labelled links, not rendered.
    pub actions: Option<String>,
    /// Takes the place of the deployment's method.
    pub method: Option<NotificationMethod>,
    /// Where mail goes.
    pub user_email: String,
    /// Name for people; the user name when there is none.
    pub user_name: String,
    /// User name.
    pub user_username: String,
}

/// One notification by one method, waiting to be delivered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewNotification {
    /// Its id.
    pub id: NotificationId,
    /// Its template.
    pub template_id: NotificationTemplateId,
    /// Who is notified.
    pub user_id: UserId,
    /// How.
    pub method: NotificationMethod,
    /// JSON of all that the template's texts need.
    pub payload: String,
    /// What it is about.
    pub targets: Vec<Uuid>,
    /// Which part of the program made it.
    pub created_by: &'static str,
    /// When.
    pub created_at: Timestamp,
}

/// What a resource monitor came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MonitorUpdate {
    /// Path of the volume; `None` is memory.
    pub path: Option<String>,
    /// The new state.
    pub state: MonitorState,
    /// No alert until then.
    pub debounced_until: Timestamp,
    /// When it was written.
    pub updated_at: Timestamp,
}
