//! What one process tells the others about rows that it changed, and how that reads on the pubsub.
//!
//! Owns the payloads of channel `drpcd_events`. Must never decide what a receiver does about them.

use serde::{Deserialize, Serialize};

use crate::client_token::ClientTokenId;
use crate::ids::{AgentId, WorkspaceId};

/// Copies of rows that somebody has to read again.
///
/// As JSON: `{"kind":"agent","agent_id":"…"}`, `{"kind":"token","agent_id":"…"}`, `{"kind":"banners"}`,
/// `{"kind":"build","workspace_id":"…"}`, `{"kind":"client_token","token_id":"…"}`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Invalidation {
    /// An agent's row, a list of its manifest, a monitor, or its workspace, owner or template changed.
    Agent {
        /// Whose.
        agent_id: AgentId,
    },
    /// An agent's token was replaced: sessions that authenticated with the old one are no longer entitled.
    Token {
        /// Whose.
        agent_id: AgentId,
    },
    /// The announcement banners changed.
    Banners,
    /// A workspace has another latest build.
    Build {
        /// Which.
        workspace_id: WorkspaceId,
    },
    /// A client's token was revoked.
    ClientToken {
        /// Which.
        token_id: ClientTokenId,
    },
}

impl Invalidation {
    /// The pubsub channel of these events.
    pub const CHANNEL: &'static str = "drpcd_events";

    /// The event's JSON text.
    pub fn payload(&self) -> String {
        // Plain ids and unit kinds always serialize; an empty payload would be ignored by every reader.
        serde_json::to_string(self).unwrap_or_default()
    }

    /// Reads a payload; `None` when it is none of these, as a newer process may write.
    pub fn from_payload(payload: &str) -> Option<Self> {
        serde_json::from_str(payload).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn payloads_are_the_documented_json() {
        let agent_id = AgentId(uuid::Uuid::from_u128(1));
        let workspace_id = WorkspaceId(uuid::Uuid::from_u128(2));
        let token_id = ClientTokenId::parse("abcdefghij").unwrap();
        for (event, payload) in [
            (
                Invalidation::Agent { agent_id },
                r#"{"kind":"agent","agent_id":"00000000-0000-0000-0000-000000000001"}"#,
            ),
            (
                Invalidation::Token { agent_id },
                r#"{"kind":"token","agent_id":"00000000-0000-0000-0000-000000000001"}"#,
            ),
            (Invalidation::Banners, r#"{"kind":"banners"}"#),
            (
                Invalidation::Build { workspace_id },
                r#"{"kind":"build","workspace_id":"00000000-0000-0000-0000-000000000002"}"#,
            ),
            (
                Invalidation::ClientToken { token_id },
                r#"{"kind":"client_token","token_id":"abcdefghij"}"#,
            ),
        ] {
            assert_eq!(event.payload(), payload);
            assert_eq!(Invalidation::from_payload(payload), Some(event));
        }
    }

    #[test]
    fn an_unknown_payload_is_no_event() {
        assert_eq!(Invalidation::from_payload(r#"{"kind":"colour"}"#), None);
        assert_eq!(Invalidation::from_payload(""), None);
        let bad = r#"{"kind":"client_token","token_id":"abc"}"#;
        assert_eq!(Invalidation::from_payload(bad), None);
    }
}
