//! Claims of prebuilt workspaces, one channel per workspace.

use super::{Lagged, Pubsub, Subscription};
use crate::ids::WorkspaceId;

/// Who waits for a prebuilt workspace to get an owner.
#[derive(Debug)]
pub struct PrebuildClaims(Subscription);

impl PrebuildClaims {
    /// Waits for the next claim. Cancel safe.
    ///
    /// What travels says no more than that there was one: it is the reason or the new owner, by version of the
    /// original (coder/coder `coderd/prebuilds/claim.go`). After [`Lagged`] the workspace's owner tells.
    pub async fn next(&mut self) -> Result<(), Lagged> {
        self.0.next().await.map(drop)
    }
}

impl Pubsub {
    /// Follows the claims of a workspace from now on. There is a channel for each, so only prebuilds should be followed.
    pub fn prebuild_claims(&self, workspace: WorkspaceId) -> PrebuildClaims {
        PrebuildClaims(self.subscribe(&format!("prebuild_claimed_{workspace}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_claim_is_known_by_the_originals_channel() {
        let pubsub = Pubsub::in_process();
        let mut claims = pubsub.prebuild_claims(WorkspaceId(uuid::Uuid::from_u128(7)));
        pubsub.publish("prebuild_claimed_00000000-0000-0000-0000-000000000007", "any");
        assert_eq!(claims.next().await, Ok(()));
    }
}
