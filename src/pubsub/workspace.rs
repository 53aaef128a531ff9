//! Events about workspaces, one channel per owner.
//!
//! What they are and how they read is the store's ([`WorkspaceEvent`]), since its transactions leave some too.

use super::{Lagged, Pubsub, Subscription};
use crate::ids::UserId;
use crate::store::WorkspaceEvent;

/// Who follows the workspaces of one owner.
#[derive(Debug)]
pub struct WorkspaceEvents(Subscription);

impl WorkspaceEvents {
    /// Waits for the next event. [`Lagged`] stands for any number of events that were missed, and for what is no event:
    /// nobody knows what it was about. Cancel safe.
    pub async fn next(&mut self) -> Result<WorkspaceEvent, Lagged> {
        let payload = self.0.next().await?;
        WorkspaceEvent::parse(&payload).map_err(|_| Lagged)
    }

    /// Forgets the events that came so far.
    pub fn clear(&mut self) {
        while self.0.try_next().is_some() {}
    }
}

impl Pubsub {
    /// Follows the events of an owner's workspaces from now on.
    pub fn workspace_events(&self, owner: UserId) -> WorkspaceEvents {
        WorkspaceEvents(self.subscribe(&WorkspaceEvent::channel(owner)))
    }

    /// Publishes an event to who follows `owner`. An invalid event is dropped with a warning.
    pub fn publish_workspace_event(&self, owner: UserId, event: &WorkspaceEvent) {
        if let Err(error) = event.validate() {
            tracing::warn!(%error, ?event, "invalid workspace update event");
            return;
        }
        self.publish(&WorkspaceEvent::channel(owner), &event.payload());
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::ids::{AgentId, WorkspaceId};
    use crate::store::WorkspaceEventKind;

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
