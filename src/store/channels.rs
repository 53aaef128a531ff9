//! Names of pubsub channels and the payloads that the store itself leaves on them.
//!
//! A rule of two sides: the store writes an event in the transaction that it tells of, the pubsub's readers take it apart.

use serde::{Deserialize, Serialize};

use crate::ids::{AgentId, UserId};

/// Channel of our own: copies of rows that have changed. Payloads are [`Invalidation`].
pub const INVALIDATIONS: &str = "drpcd_events";

/// The channel of workspace events of one owner (coder/coder `coderd/wspubsub/wspubsub.go`).
pub fn workspace_owner(owner: UserId) -> String {
    format!("workspace_owner:{owner}")
}

/// Which copies are out of date.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Invalidation {
    /// The row of an agent, or something that its manifest is made of.
    Agent {
        /// Which.
        agent_id: AgentId,
    },
    /// The site's banners.
    Banners,
}

/// Payload for a change of an agent.
pub fn agent_changed(agent_id: AgentId) -> String {
    payload(Invalidation::Agent { agent_id })
}

/// Payload for a change of the banners.
pub fn banners_changed() -> String {
    payload(Invalidation::Banners)
}

fn payload(invalidation: Invalidation) -> String {
    // Two plain variants always have a JSON form.
    serde_json::to_string(&invalidation).unwrap_or_default()
}
