//! What the user of a session may reach: the agents of that user's own workspaces.
//!
//! Remembers nothing between two questions, so that a workspace that went or changed hands counts at once.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;

use super::TunnelAuthorizer;
use crate::clock::Clock;
use crate::coordinator::PeerId;
use crate::ids::{AgentId, UserId};
use crate::services::patience::SHORT_STORE_WAIT;
use crate::store::Store;

/// Lets an owner reach the agents of the latest builds of live workspaces of that owner.
pub struct OwnerAuthorizer {
    store: Arc<dyn Store>,
    clock: Clock,
    owner: UserId,
}

impl OwnerAuthorizer {
    /// For clients of `owner`.
    pub fn new(store: Arc<dyn Store>, clock: Clock, owner: UserId) -> Self {
        Self { store, clock, owner }
    }
}

impl fmt::Debug for OwnerAuthorizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OwnerAuthorizer")
            .field("owner", &self.owner)
            .finish_non_exhaustive()
    }
}

#[async_trait]
impl TunnelAuthorizer for OwnerAuthorizer {
    async fn may_reach(&self, agent: PeerId) -> bool {
        let (owner, agent_id) = (self.owner, AgentId(agent.0));
        let answer = tokio::select! {
            answer = self.store.owns_agent(owner, agent_id) => answer,
            () = self.clock.sleep(SHORT_STORE_WAIT) => {
                tracing::warn!(%owner, %agent_id, "no answer in time to whether an owner may reach an agent");
                return false;
            }
        };
        answer.unwrap_or_else(|error| {
            tracing::warn!(%owner, %agent_id, %error, "failed to find out whether an owner may reach an agent");
            false
        })
    }
}
