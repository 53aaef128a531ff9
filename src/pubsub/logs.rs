//! Notifications that an agent's log has grown, one channel per agent.

use serde::{Deserialize, Serialize};

use super::Pubsub;
use crate::ids::AgentId;

/// New log lines are in the store.
///
/// Its JSON is `{"created_after":N}`, as in coder/coder `coderd/agentapi/logs.go`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogNotification {
    /// The new lines have ids above it.
    pub created_after: i64,
}

impl LogNotification {
    /// The channel on which an agent's notifications travel.
    pub fn channel(agent: AgentId) -> String {
        format!("agent-logs:{agent}")
    }
}

impl Pubsub {
    /// Tells who follows the log of `agent` that it has grown.
    pub fn publish_logs(&self, agent: AgentId, notification: LogNotification) {
        match serde_json::to_string(&notification) {
            Ok(payload) => self.publish(&LogNotification::channel(agent), &payload),
            Err(error) => tracing::warn!(%error, "failed to marshal logs notify message"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_notification_is_the_originals_json_on_the_agents_channel() {
        let pubsub = Pubsub::in_process();
        let mut log = pubsub.subscribe("agent-logs:00000000-0000-0000-0000-000000000007");
        let agent = AgentId(uuid::Uuid::from_u128(7));
        pubsub.publish_logs(agent, LogNotification { created_after: -1 });
        assert_eq!(&*log.try_next().unwrap().unwrap(), r#"{"created_after":-1}"#);
    }
}
