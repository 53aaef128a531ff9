//! The claim of a prebuilt workspace, which its agent waits for to start anew.
//!
//! Owns whose claims are followed: those of workspaces that are prebuilds, since each has a channel of its own. Ordinary
//! ones, nearly all, cost nothing.

use std::sync::Arc;
use std::time::Duration;

use super::AgentServices;
use crate::clock::Clock;
use crate::ids::WorkspaceId;
use crate::pubsub::{Lagged, PrebuildClaims};
use crate::store::{Store, Workspace};

/// Pause before a workspace that could not be read is read again. Its agent waits for days.
const RETRY_PAUSE: Duration = Duration::from_secs(5);

/// Who waits for a workspace to get an owner.
#[derive(Debug)]
pub struct Claims(Option<Unclaimed>);

/// A prebuild, as far as is known.
#[derive(Debug)]
struct Unclaimed {
    store: Arc<dyn Store>,
    clock: Clock,
    workspace: WorkspaceId,
    messages: PrebuildClaims,
    told: bool,
    /// A message may have been missed.
    unsure: bool,
}

impl AgentServices {
    /// Follows the claims of a workspace from now on, of which there are none if it has an owner already.
    pub fn claims(&self, workspace: &Workspace) -> Claims {
        let parts = &self.parts;
        Claims(workspace.is_prebuild().then(|| Unclaimed {
            store: Arc::clone(&parts.store),
            clock: parts.clock.clone(),
            workspace: workspace.id,
            messages: parts.pubsub.prebuild_claims(workspace.id),
            told: false,
            unsure: false,
        }))
    }
}

impl Claims {
    /// Waits for the next claim. Cancel safe.
    pub async fn next(&mut self) {
        match &mut self.0 {
            Some(unclaimed) => unclaimed.next().await,
            None => std::future::pending().await,
        }
    }
}

impl Unclaimed {
    async fn next(&mut self) {
        loop {
            if self.unsure {
                let claimed = self.has_owner().await;
                self.unsure = false;
                if claimed {
                    break;
                }
            }
            match self.messages.next().await {
                Ok(()) => break,
                // A workspace is claimed once.
                Err(Lagged) => self.unsure = !self.told,
            }
        }
        self.told = true;
    }

    /// Reads the workspace, for as long as it takes.
    async fn has_owner(&self) -> bool {
        loop {
            match self.store.workspaces(&[self.workspace]).await {
                Ok(found) => return found.iter().any(|workspace| !workspace.is_prebuild()),
                Err(error) => {
                    tracing::debug!(workspace_id = %self.workspace, %error, "failed to look for a claim");
                    self.clock.sleep(RETRY_PAUSE).await;
                }
            }
        }
    }
}
