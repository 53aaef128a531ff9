//! Events about workspaces, one channel per owner.
//!
//! Owns the event's JSON and what makes one valid. The rules are those of coder/coder `coderd/wspubsub/wspubsub.go`.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::Pubsub;
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

    fn to_json(self) -> serde_json::Result<String> {
        serde_json::to_string(&Json {
            kind: self.kind,
            workspace_id: self.workspace_id,
            agent_id: self.agent_id,
        })
    }
}

impl Pubsub {
    /// Publishes an event to who follows `owner`. An invalid event is dropped with a warning.
    pub fn publish_workspace_event(&self, owner: UserId, event: &WorkspaceEvent) {
        if let Err(error) = event.validate() {
            tracing::warn!(%error, ?event, "invalid workspace update event");
            return;
        }
        match event.to_json() {
            Ok(payload) => self.publish(&WorkspaceEvent::channel(owner), &payload),
            Err(error) => tracing::warn!(%error, "failed to publish workspace update"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WORKSPACE: WorkspaceId = WorkspaceId(Uuid::from_u128(2));
    const AGENT: AgentId = AgentId(Uuid::from_u128(3));
    const OWNER: UserId = UserId(Uuid::from_u128(1));

    #[test]
    fn an_event_is_published_on_its_owners_channel_as_the_originals_json() {
        let pubsub = Pubsub::in_process();
        let mut owner = pubsub.subscribe("workspace_owner:00000000-0000-0000-0000-000000000001");
        let mut event = WorkspaceEvent {
            kind: WorkspaceEventKind::AgentLifecycleUpdate,
            workspace_id: WORKSPACE,
            agent_id: Some(AGENT),
        };
        pubsub.publish_workspace_event(OWNER, &event);
        let payload = owner.try_next().unwrap().unwrap();
        assert_eq!(
            &*payload,
            r#"{"kind":"agt_lifecycle_update","workspace_id":"00000000-0000-0000-0000-000000000002","agent_id":"00000000-0000-0000-0000-000000000003"}"#
        );
        assert_eq!(WorkspaceEvent::parse(&payload), Ok(event));
        event.kind = WorkspaceEventKind::StatsUpdate;
        event.agent_id = None;
        pubsub.publish_workspace_event(OWNER, &event);
        assert_eq!(
            &*owner.try_next().unwrap().unwrap(),
            r#"{"kind":"stats_update","workspace_id":"00000000-0000-0000-0000-000000000002"}"#
        );
    }

    #[test]
    fn s2_120_events_are_validated_with_the_originals_texts_and_bad_ones_not_delivered() {
        let texts = [
            (
                r#"{"kind":"app_health","workspace_id":"00000000-0000-0000-0000-000000000000"}"#,
                "workspaceID must be set",
            ),
            (
                r#"{"kind":"","workspace_id":"00000000-0000-0000-0000-000000000002"}"#,
                "kind must be set",
            ),
            (
                r#"{"kind":"agt_lifecycle_update","workspace_id":"00000000-0000-0000-0000-000000000002"}"#,
                "agentID must be set for Agent events",
            ),
            ("nonsense", "not a workspace event"),
            (
                r#"{"kind":"unheard_of","workspace_id":"00000000-0000-0000-0000-000000000002"}"#,
                "not a workspace event",
            ),
        ];
        for (payload, text) in texts {
            assert_eq!(WorkspaceEvent::parse(payload).unwrap_err().to_string(), text);
        }

        let pubsub = Pubsub::in_process();
        let mut owner = pubsub.subscribe(&WorkspaceEvent::channel(OWNER));
        let no_agent = WorkspaceEvent {
            kind: WorkspaceEventKind::AgentLifecycleUpdate,
            workspace_id: WORKSPACE,
            agent_id: None,
        };
        let no_workspace = WorkspaceEvent {
            workspace_id: WorkspaceId(Uuid::nil()),
            agent_id: Some(AGENT),
            ..no_agent
        };
        pubsub.publish_workspace_event(OWNER, &no_agent);
        pubsub.publish_workspace_event(OWNER, &no_workspace);
        assert_eq!(owner.try_next(), None);
    }
}
