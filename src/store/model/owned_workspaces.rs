//! What a user has, as clients are told of it.

use crate::ids::{AgentId, WorkspaceId};

labels! {
    /// How far the job of a build is.
    JobStatus {
        Pending = "pending", Running = "running", Succeeded = "succeeded", Canceling = "canceling",
        Canceled = "canceled", Failed = "failed", Unknown = "unknown",
    }
    /// What a build does to its workspace.
    Transition { Start = "start", Stop = "stop", Delete = "delete" }
}

/// The workspaces of an owner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnedWorkspaces {
    /// In the order of their ids.
    pub workspaces: Vec<OwnedWorkspace>,
    /// Whether there is more than was asked for.
    pub more: bool,
}

/// A live workspace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnedWorkspace {
    /// Its id.
    pub id: WorkspaceId,
    /// Its name.
    pub name: Box<str>,
    /// How far its latest build is.
    pub job_status: JobStatus,
    /// What that build does.
    pub transition: Transition,
    /// The live agents of that build, in the order of their ids.
    pub agents: Vec<OwnedAgent>,
}

/// An agent of such a workspace.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct OwnedAgent {
    /// Its id.
    pub id: AgentId,
    /// Its name.
    pub name: Box<str>,
}
