//! Moving the deadline of a workspace in which somebody works.
//!
//! Owns how long that may take and what is said of it. Must never fail a call: a bump that is lost is made up for by the
//! next report. Source: coder/coder `coderd/workspacestats/activitybump.go`.

use std::time::Duration;

use super::AgentServices;
use crate::ids::WorkspaceId;
use crate::store::{Autostart, StoreError};

/// How long a bump may hold up the call that it belongs to.
const BUMP_TIMEOUT: Duration = Duration::from_secs(15);

impl AgentServices {
    /// Moves the deadline of the workspace's running build by what its template grants from now on; to its next
    /// autostart and beyond when it would reach into that.
    pub(super) async fn bump(&self, workspace: WorkspaceId, next_autostart: Option<Autostart>) {
        let parts = &self.parts;
        let bump = parts
            .store
            .bump_activity(workspace, parts.clock.now(), next_autostart);
        let bumped = tokio::select! {
            bumped = bump => bumped,
            () = parts.clock.sleep(BUMP_TIMEOUT) => {
                Err(StoreError::Unavailable("context deadline exceeded".to_owned()))
            }
        };
        match bumped {
            Ok(moved) => {
                tracing::debug!(workspace_id = %workspace, moved, "bumped deadline from activity");
            }
            Err(error) => tracing::error!(workspace_id = %workspace, %error, "activity bump failed"),
        }
    }
}
