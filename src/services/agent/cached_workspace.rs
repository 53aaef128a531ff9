//! Keeping the sessions' copies of rows fresh: workspaces on a timer, agents and banners on events.
//!
//! Owns one tick for all sessions, where the original has one per connection. Source: coder/coder
//! `coderd/agentapi/cached_workspace.go`.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use super::{AgentApi, AgentServices};
use crate::ids::WorkspaceId;
use crate::pubsub::Lagged;
use crate::store::Invalidation;

/// How often workspaces are read again.
const REFRESH_INTERVAL: Duration = Duration::from_mins(5);

/// Workspaces in one statement.
const WORKSPACES_PER_READ: usize = 10_000;

impl AgentServices {
    /// Refreshes for as long as it is polled; never returns.
    pub async fn run(&self) {
        let mut invalidations = self.parts.pubsub.invalidations();
        let mut refreshes = self.parts.clock.interval(REFRESH_INTERVAL);
        let mut banners = self
            .parts
            .clock
            .interval(super::announcement_banners::REFRESH_INTERVAL);
        // Before the first agents ask, who would each read for themselves.
        self.appearance.load_full().refresh().await;
        loop {
            tokio::select! {
                _ = refreshes.tick() => self.refresh_workspaces().await,
                _ = banners.tick() => self.appearance.load_full().refresh().await,
                message = invalidations.next() => self.on_message(message).await,
            }
        }
    }

    pub(super) async fn on_message(&self, message: Result<Invalidation, Lagged>) {
        if let Ok(invalidation) = message {
            return self.invalidate(invalidation).await;
        }
        // Whatever was missed concerned somebody.
        self.drop_copies(None);
        self.appearance.load_full().refresh().await;
    }

    pub(super) async fn invalidate(&self, invalidation: Invalidation) {
        match invalidation {
            Invalidation::Agent { agent_id } | Invalidation::Token { agent_id } => {
                self.drop_copies(Some(agent_id));
            }
            Invalidation::Banners => self.appearance.load_full().refresh().await,
            // No row of a build is copied; the build check decides which sessions may stay.
            Invalidation::Build { .. } | Invalidation::ClientToken { .. } => {}
        }
    }

    /// Reads all workspaces that sessions live in; a failure leaves the copies as they are.
    pub(super) async fn refresh_workspaces(&self) {
        let mut sessions: HashMap<WorkspaceId, Vec<Arc<AgentApi>>> = HashMap::new();
        for api in self.live() {
            sessions.entry(api.session.workspace_id).or_default().push(api);
        }
        let ids: Vec<_> = sessions.keys().copied().collect();
        for ids in ids.chunks(WORKSPACES_PER_READ) {
            let workspaces = match self.parts.store.workspaces(ids).await {
                Ok(workspaces) => workspaces,
                Err(error) => {
                    tracing::warn!(%error, "failed to refresh cached workspace fields");
                    return;
                }
            };
            let claimed = workspaces
                .into_iter()
                .filter(|workspace| !workspace.is_prebuild());
            for workspace in claimed.map(Arc::new) {
                for api in sessions.get(&workspace.id).into_iter().flatten() {
                    if api.session.cached_workspace().as_ref() != Some(&workspace) {
                        tracing::debug!(
                            workspace_id = %workspace.id,
                            owner_id = %workspace.owner_id,
                            name = workspace.name,
                            "refreshed cached workspace fields"
                        );
                        api.session.cache_workspace(Arc::clone(&workspace));
                    }
                }
            }
        }
    }
}
