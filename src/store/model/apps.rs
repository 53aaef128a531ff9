//! What agents report of their apps.

use crate::clock::Timestamp;
use crate::ids::{AgentId, AppId, AppStatusId, WorkspaceId};

labels! {
    /// Whether an app answers its health check.
    AppHealth {
        Disabled = "disabled", Initializing = "initializing", Healthy = "healthy", Unhealthy = "unhealthy",
    }
    /// What an app says that it is doing.
    AppStatusState { Working = "working", Complete = "complete", Failure = "failure", Idle = "idle" }
}

/// The health of an app, as stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AppWithHealth {
    /// The app.
    pub id: AppId,
    /// Its name in URLs.
    pub slug: String,
    /// Whether it has a health check.
    pub checked: bool,
    /// Its health.
    pub health: AppHealth,
}

/// All that a new status of an app is weighed against, read at one point in time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AppBeforeStatus {
    /// The app.
    pub id: AppId,
    /// The state of its latest status.
    pub latest: Option<AppStatusState>,
    /// The live task of the workspace, if it has one.
    pub task: Option<AppTask>,
}

/// A task, seen from an app that reports a status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AppTask {
    /// The task's name.
    pub name: String,
    /// Whether the task's newest build runs it in this app.
    pub runs_in_app: bool,
    /// Whether the app's agent is ready.
    pub agent_ready: bool,
}

/// A status of an app.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewAppStatus {
    /// Its id.
    pub id: AppStatusId,
    /// When it was reported.
    pub created_at: Timestamp,
    /// Who reported.
    pub agent_id: AgentId,
    /// Of which app.
    pub app_id: AppId,
    /// The agent's workspace.
    pub workspace_id: WorkspaceId,
    /// What the app is doing.
    pub state: AppStatusState,
    /// The same for people: one line, cleaned.
    pub message: String,
    /// Where there is more to see.
    pub uri: Option<String>,
}
