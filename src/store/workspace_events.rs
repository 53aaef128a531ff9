//! Events about workspaces, one channel per owner: what processes tell each other, and how that reads on the pubsub.
//!
//! Owns the event's JSON and what makes one valid. Must never decide what a receiver does about one. The rules are those
//! of coder/coder `coderd/wspubsub/wspubsub.go`.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::ids::{AgentId, UserId, WorkspaceId};

/// Something happened to a workspace; whoever shows it reads it again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WorkspaceEvent {
    /// What happened.
    pub kind: WorkspaceEventKind,
    /// To which workspace.
    pub workspace_id: WorkspaceId,
    /// To which agent of it, when it concerns one.
    pub agent_id: Option<AgentId>,
}

/// What can happen to a workspace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum WorkspaceEventKind {
    /// A build started or ended.
    #[serde(rename = "state_change")]
    StateChange,
    /// An agent in use reported statistics.
    #[serde(rename = "stats_update")]
    StatsUpdate,
    /// Metadata changed.
    #[serde(rename = "mtd_update")]
    MetadataUpdate,
    /// An app's health changed.
    #[serde(rename = "app_health")]
    AppHealthUpdate,
    /// An agent reported a state.
    #[serde(rename = "agt_lifecycle_update")]
    AgentLifecycleUpdate,
    /// An agent connected or disconnected.
    #[serde(rename = "agt_connection_update")]
    AgentConnectionUpdate,
    /// An agent sent its first log lines.
    #[serde(rename = "agt_first_logs")]
    AgentFirstLogs,
    /// An agent's log is full.
    #[serde(rename = "agt_logs_overflow")]
    AgentLogsOverflow,
    /// An agent did not connect in time.
    #[serde(rename = "agt_timeout")]
    AgentTimeout,
    /// An app reported its status.
    #[serde(rename = "agt_app_status_update")]
    AgentAppStatusUpdate,
}

/// Why an event is not delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidEvent {
    /// All-zero workspace id.
    #[error("workspaceID must be set")]
    NoWorkspace,
    /// Empty kind.
    #[error("kind must be set")]
    NoKind,
    /// A kind that concerns an agent, without one.
    #[error("agentID must be set for Agent events")]
    NoAgent,
    /// Not the JSON of an event, or a kind that does not exist.
    #[error("not a workspace event")]
    Malformed,
}

/// The event's JSON, with a kind that may be anything.
#[derive(Serialize, Deserialize)]
struct Json<K> {
    kind: K,
    workspace_id: WorkspaceId,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    agent_id: Option<AgentId>,
}

impl WorkspaceEvent {
    /// The channel on which events of an owner's workspaces travel.
    pub fn channel(owner: UserId) -> String {
        format!("workspace_owner:{owner}")
    }

    /// Checks what readers rely on.
    pub fn validate(&self) -> Result<(), InvalidEvent> {
        if self.workspace_id.0.is_nil() {
            return Err(InvalidEvent::NoWorkspace);
        }
        if self.kind == WorkspaceEventKind::AgentLifecycleUpdate && self.agent_id.is_none() {
            return Err(InvalidEvent::NoAgent);
        }
        Ok(())
    }

    /// Reads a payload, for subscribers.
    pub fn parse(payload: &str) -> Result<Self, InvalidEvent> {
        let json: Json<String> = serde_json::from_str(payload).map_err(|error| {
            tracing::warn!(%error, "failed to unmarshal workspace event");
            InvalidEvent::Malformed
        })?;
        let event = Self::from_json(&json);
        if let Err(error) = &event {
            tracing::warn!(%error, "invalid workspace event");
        }
        event
    }

    fn from_json(json: &Json<String>) -> Result<Self, InvalidEvent> {
        if json.workspace_id.0 == Uuid::nil() {
            return Err(InvalidEvent::NoWorkspace);
        }
        if json.kind.is_empty() {
            return Err(InvalidEvent::NoKind);
        }
        let kind = WorkspaceEventKind::deserialize(serde::de::value::StrDeserializer::<
            serde::de::value::Error,
        >::new(&json.kind));
        let event = Self {
            kind: kind.map_err(|_| InvalidEvent::Malformed)?,
            workspace_id: json.workspace_id,
            agent_id: json.agent_id,
        };
        event.validate().map(|()| event)
    }

    /// The event's JSON text.
    pub fn payload(&self) -> String {
        let json = Json {
            kind: self.kind,
            workspace_id: self.workspace_id,
            agent_id: self.agent_id,
        };
        // Plain ids and unit kinds always serialize; an empty payload would be refused by every reader.
        serde_json::to_string(&json).unwrap_or_default()
    }
}
