//! What one session has for itself: who it is, and copies of its rows.
//!
//! Must stay small: there is one for each connected agent. The copies come from authentication and serve every call; an
//! event drops them, and the next use reads again.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::{AgentApi, agent_error};
use crate::ids::{AgentId, UserId, WorkspaceId};
use crate::mux::Status;
use crate::pubsub::{WorkspaceEvent, WorkspaceEventKind};
use crate::store::{Agent, Authenticated, Monitors, StoreError, Workspace};

#[derive(Debug)]
pub(super) struct Session {
    pub(super) agent_id: AgentId,
    pub(super) workspace_id: WorkspaceId,
    /// At connection; events go to this owner even if the workspace has another one by now, as in the original.
    pub(super) owner_id: UserId,
    pub(super) api_version: Box<str>,
    pub(super) monitors: Monitors,
    agent: Mutex<Option<Arc<Agent>>>,
    /// Empty for a prebuild, whose owner may change at any time.
    workspace: Mutex<Option<Arc<Workspace>>>,
    /// The agent's log is full; never reset.
    logs_overflowed: AtomicBool,
}

impl Session {
    pub(super) fn new(authenticated: Authenticated, api_version: String, monitors: Monitors) -> Self {
        let Authenticated { agent, workspace, .. } = authenticated;
        Self {
            agent_id: agent.id,
            workspace_id: workspace.id,
            owner_id: workspace.owner_id,
            api_version: api_version.into(),
            monitors,
            logs_overflowed: AtomicBool::new(agent.logs_overflowed),
            agent: Mutex::new(Some(Arc::new(agent))),
            workspace: Mutex::new((!workspace.is_prebuild()).then(|| Arc::new(workspace))),
        }
    }

    /// Makes the next use of the agent's row read it.
    pub(super) fn drop_agent(&self) {
        replace(&self.agent, None);
    }

    pub(super) fn cached_workspace(&self) -> Option<Arc<Workspace>> {
        self.workspace
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    pub(super) fn cache_workspace(&self, workspace: Workspace) {
        replace(&self.workspace, Some(Arc::new(workspace)));
    }

    pub(super) fn logs_overflowed(&self) -> bool {
        self.logs_overflowed.load(Ordering::Relaxed)
    }

    pub(super) fn set_logs_overflowed(&self) {
        self.logs_overflowed.store(true, Ordering::Relaxed);
    }
}

fn replace<T>(slot: &Mutex<Option<Arc<T>>>, value: Option<Arc<T>>) {
    *slot.lock().unwrap_or_else(PoisonError::into_inner) = value;
}

impl AgentApi {
    /// The agent's row, from its copy if there is one.
    pub(super) async fn agent(&self) -> Result<Arc<Agent>, Status> {
        let copy = self
            .session
            .agent
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        if let Some(agent) = copy {
            return Ok(agent);
        }
        let (parts, id) = (&self.services.parts, self.session.agent_id);
        let read = parts.patience.call(0, || parts.store.agent(id)).await;
        let agent = Arc::new(read.map_err(|error| agent_error(id, &error))?);
        replace(&self.session.agent, Some(Arc::clone(&agent)));
        Ok(agent)
    }

    /// The workspace, from its copy if there is one; what is read is not kept, as in the original.
    pub(super) async fn workspace(&self) -> Result<Arc<Workspace>, StoreError> {
        if let Some(workspace) = self.session.cached_workspace() {
            return Ok(workspace);
        }
        let (parts, id) = (&self.services.parts, self.session.agent_id);
        parts
            .patience
            .call(0, || parts.store.workspace_by_agent(id))
            .await
            .map(Arc::new)
    }

    /// Tells who follows the owner's workspaces.
    pub(super) fn publish(&self, kind: WorkspaceEventKind) {
        let event = WorkspaceEvent {
            kind,
            workspace_id: self.session.workspace_id,
            agent_id: Some(self.session.agent_id),
        };
        self.services
            .parts
            .pubsub
            .publish_workspace_event(self.session.owner_id, &event);
    }
}
