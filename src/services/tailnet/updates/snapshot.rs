//! What an owner's clients are shown, and the messages that turn one state of it into another.
//!
//! Plain values: no time, no store. Source: coder/coder `coderd/workspaceupdates.go` (`produceUpdate`) and
//! `codersdk/provisionerdaemons.go` (`ConvertWorkspaceStatus`).

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use crate::ids::{AgentId, WorkspaceId};
use crate::proto::tailnet::workspace::Status;
use crate::proto::tailnet::{Agent, Workspace, WorkspaceUpdate};
use crate::store::{JobStatus, OwnedAgent, OwnedWorkspace, Transition};

/// Workspaces and agents in one message. An entry takes some 310 bytes at most, since names are of 64 characters: less
/// than 1.3 MB, well below the 4 MiB that a client takes.
pub(in crate::services::tailnet) const MAX_ENTRIES: usize = 4_096;

/// An owner's workspaces.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::services::tailnet) struct Snapshot(BTreeMap<WorkspaceId, Shown>);

/// One of them, as it is shown.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Shown {
    name: Box<str>,
    status: Status,
    agents: BTreeSet<OwnedAgent>,
}

impl Snapshot {
    pub(in crate::services::tailnet) fn new(workspaces: Vec<OwnedWorkspace>) -> Self {
        let shown = workspaces.into_iter().map(|workspace| {
            let shown = Shown {
                name: workspace.name,
                status: status(workspace.job_status, workspace.transition),
                agents: workspace.agents.into_iter().collect(),
            };
            (workspace.id, shown)
        });
        Self(shown.collect())
    }

    /// The messages that turn `self` into `new`; none when nothing changed.
    ///
    /// What changed stands in the order in which clients apply one message, so that it may be cut anywhere: a changed
    /// agent is removed before it is added again, and never later than its workspace.
    pub(in crate::services::tailnet) fn changes_to(&self, new: &Self) -> Vec<WorkspaceUpdate> {
        let mut messages = Messages::default();
        for (id, workspace) in &new.0 {
            let known = self.0.get(id);
            if !known.is_some_and(|known| known.name == workspace.name && known.status == workspace.status) {
                messages.next().upserted_workspaces.push(workspace.message(*id));
            }
        }
        for (id, agent) in self.agents_not_in(new) {
            messages.next().deleted_agents.push(agent_message(id, agent));
        }
        for (id, workspace) in &self.0 {
            if !new.0.contains_key(id) {
                messages.next().deleted_workspaces.push(workspace.message(*id));
            }
        }
        for (id, agent) in new.agents_not_in(self) {
            messages.next().upserted_agents.push(agent_message(id, agent));
        }
        messages.done
    }

    /// Agents that `other` does not have by the same id and name in the same workspace.
    fn agents_not_in<'s>(&'s self, other: &'s Self) -> impl Iterator<Item = (WorkspaceId, &'s OwnedAgent)> {
        self.0.iter().flat_map(|(id, workspace)| {
            let others = other.0.get(id).map(|other| &other.agents);
            let agents = workspace.agents.iter();
            agents
                .filter(move |agent| !others.is_some_and(|others| others.contains(agent)))
                .map(|agent| (*id, agent))
        })
    }
}

impl Shown {
    fn message(&self, id: WorkspaceId) -> Workspace {
        Workspace {
            id: id.as_bytes().to_vec(),
            name: self.name.to_string(),
            status: self.status.into(),
        }
    }
}

fn agent_message(workspace: WorkspaceId, OwnedAgent { id, name }: &OwnedAgent) -> Agent {
    let id: &AgentId = id;
    Agent {
        id: id.as_bytes().to_vec(),
        name: name.to_string(),
        workspace_id: workspace.as_bytes().to_vec(),
    }
}

/// Messages of at most [`MAX_ENTRIES`].
#[derive(Debug, Default)]
struct Messages {
    done: Vec<WorkspaceUpdate>,
    entries: usize,
}

impl Messages {
    /// Where the next entry goes.
    fn next(&mut self) -> &mut WorkspaceUpdate {
        if self.entries.is_multiple_of(MAX_ENTRIES) {
            self.done.push(WorkspaceUpdate::default());
        }
        self.entries += 1;
        // There is one: the first entry has made it.
        let last = self.done.len() - 1;
        &mut self.done[last]
    }
}

/// The status of a workspace by its latest build. A job's status that nobody knows is shown as failed.
fn status(job: JobStatus, transition: Transition) -> Status {
    match (job, transition) {
        (JobStatus::Pending, _) => Status::Pending,
        (JobStatus::Running, Transition::Start) => Status::Starting,
        (JobStatus::Running, Transition::Stop) => Status::Stopping,
        (JobStatus::Running, Transition::Delete) => Status::Deleting,
        (JobStatus::Succeeded, Transition::Start) => Status::Running,
        (JobStatus::Succeeded, Transition::Stop) => Status::Stopped,
        (JobStatus::Succeeded, Transition::Delete) => Status::Deleted,
        (JobStatus::Canceling, _) => Status::Canceling,
        (JobStatus::Canceled, _) => Status::Canceled,
        (JobStatus::Failed | JobStatus::Unknown, _) => Status::Failed,
    }
}
