//! What one session has for itself: who it is, and copies of its rows.
//!
//! Must stay small: there is one for each connected agent. The copies come from authentication and serve every call; an
//! event drops them, and the next use reads again.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::resources_monitoring::Monitoring;
use super::{AgentApi, AgentServices, agent_error};
use crate::batch::connections::Subject;
use crate::ids::{AgentId, TemplateId, TemplateVersionId, UserId, WorkspaceId};
use crate::mux::Status;
use crate::pubsub::{WorkspaceEvent, WorkspaceEventKind};
use crate::store::{Agent, Authenticated, Monitors, StoreError, Workspace};

#[derive(Debug)]
pub(super) struct Session {
    pub(super) agent_id: AgentId,
    /// At connection, as in the original: reports carry it without reading the row.
    pub(super) agent_name: Box<str>,
    pub(super) workspace_id: WorkspaceId,
    /// At connection, for the log of what boundaries let through.
    pub(super) template_id: TemplateId,
    pub(super) template_version_id: TemplateVersionId,
    /// At connection; events go to this owner even if the workspace has another one by now, as in the original.
    pub(super) owner_id: UserId,
    pub(super) api_version: Box<str>,
    pub(super) monitoring: Option<Box<Monitoring>>,
    copies: Mutex<Copies>,
    /// The agent's log is full; never reset.
    logs_overflowed: AtomicBool,
    /// The source of log lines that name none is in the store, where it stays.
    pub(super) external_source_exists: AtomicBool,
    /// The agent has reported the end of its start over this session, so its build's duration was looked at.
    pub(super) build_observed: AtomicBool,
}

/// Copies of rows; `None` makes the next use read.
#[derive(Debug, Default)]
struct Copies {
    agent: Option<Arc<AgentRow>>,
    /// Empty for a prebuild, whose owner may change at any time.
    workspace: Option<Arc<Workspace>>,
    /// Counts invalidations, so that a row which was read before one is not kept after it.
    epoch: u32,
}

/// The columns of an agent's row that calls read.
#[derive(Debug)]
pub(super) struct AgentRow {
    pub(super) parent_id: Option<AgentId>,
    pub(super) name: Box<str>,
    pub(super) directory: Box<str>,
    pub(super) motd_file: Box<str>,
    pub(super) environment_variables: Option<Box<str>>,
}

impl From<Agent> for AgentRow {
    fn from(row: Agent) -> Self {
        Self {
            parent_id: row.parent_id,
            name: row.name.into(),
            directory: row.directory.into(),
            motd_file: row.motd_file.into(),
            environment_variables: row.environment_variables.map(Into::into),
        }
    }
}

impl Session {
    pub(super) fn new(authenticated: Authenticated, api_version: String, monitors: Monitors) -> Self {
        let Authenticated {
            agent,
            workspace,
            template_version_id,
            ..
        } = authenticated;
        Self {
            agent_id: agent.id,
            agent_name: agent.name.as_str().into(),
            workspace_id: workspace.id,
            template_id: workspace.template_id,
            template_version_id,
            owner_id: workspace.owner_id,
            api_version: api_version.into(),
            monitoring: Monitoring::new(monitors),
            logs_overflowed: AtomicBool::new(agent.logs_overflowed),
            external_source_exists: AtomicBool::new(false),
            build_observed: AtomicBool::new(false),
            copies: Mutex::new(Copies {
                workspace: cacheable(&Arc::new(workspace)),
                agent: Some(Arc::new(agent.into())),
                epoch: 0,
            }),
        }
    }

    /// Makes the next use of the agent's and the workspace's row read it.
    pub(super) fn drop_copies(&self) {
        let mut copies = self.copies();
        *copies = Copies {
            epoch: copies.epoch.wrapping_add(1),
            ..Copies::default()
        };
    }

    pub(super) fn cached_workspace(&self) -> Option<Arc<Workspace>> {
        self.copies().workspace.clone()
    }

    pub(super) fn cache_workspace(&self, workspace: Arc<Workspace>) {
        self.copies().workspace = Some(workspace);
    }

    fn copies(&self) -> MutexGuard<'_, Copies> {
        // Every holder leaves them whole at each step.
        self.copies.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn logs_overflowed(&self) -> bool {
        self.logs_overflowed.load(Ordering::Relaxed)
    }

    pub(super) fn set_logs_overflowed(&self) {
        self.logs_overflowed.store(true, Ordering::Relaxed);
    }
}

/// The workspace, unless it is a prebuild.
fn cacheable(workspace: &Arc<Workspace>) -> Option<Arc<Workspace>> {
    (!workspace.is_prebuild()).then(|| Arc::clone(workspace))
}

impl AgentApi {
    /// The agent's row, from its copy if there is one.
    pub(super) async fn agent(&self) -> Result<Arc<AgentRow>, Status> {
        let epoch = {
            let copies = self.session.copies();
            if let Some(agent) = &copies.agent {
                return Ok(Arc::clone(agent));
            }
            copies.epoch
        };
        let (parts, id) = (&self.services.parts, self.session.agent_id);
        let read = parts
            .patience
            .call(self.session.workspace_id, 0, || parts.store.agent(id))
            .await;
        let agent: Arc<AgentRow> = Arc::new(read.map_err(|error| agent_error(id, &error))?.into());
        let mut copies = self.session.copies();
        if copies.epoch == epoch {
            copies.agent = Some(Arc::clone(&agent));
        }
        Ok(agent)
    }

    /// The workspace, from its copy if there is one. A prebuild is read at each use.
    pub(super) async fn workspace(&self) -> Result<Arc<Workspace>, StoreError> {
        let epoch = {
            let copies = self.session.copies();
            if let Some(workspace) = &copies.workspace {
                return Ok(Arc::clone(workspace));
            }
            copies.epoch
        };
        let (workspace, agent) = (self.session.workspace_id, self.session.agent_id);
        let workspace = Arc::new(self.services.workspace(workspace, agent).await?);
        let mut copies = self.session.copies();
        if copies.epoch == epoch {
            copies.workspace = cacheable(&workspace);
        }
        Ok(workspace)
    }

    /// Tells who follows the owner's workspaces.
    pub(super) fn publish(&self, kind: WorkspaceEventKind) {
        self.services.publish(self.subject(), kind);
    }

    /// Whose session it is.
    pub(super) fn subject(&self) -> Subject {
        Subject {
            agent_id: self.session.agent_id,
            workspace_id: self.session.workspace_id,
            owner_id: self.session.owner_id,
        }
    }
}

impl AgentServices {
    /// The workspace `id` of an agent as it is now, with its owner of today.
    pub(super) async fn workspace(&self, id: WorkspaceId, agent: AgentId) -> Result<Workspace, StoreError> {
        let parts = &self.parts;
        let read = || parts.store.workspace_by_agent(agent);
        parts.patience.call(id, 0, read).await
    }

    /// Tells who follows the owner's workspaces.
    pub(super) fn publish(&self, subject: Subject, kind: WorkspaceEventKind) {
        let event = WorkspaceEvent {
            kind,
            workspace_id: subject.workspace_id,
            agent_id: Some(subject.agent_id),
        };
        self.parts
            .pubsub
            .publish_workspace_event(subject.owner_id, &event);
    }
}
