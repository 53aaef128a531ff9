//! The messages between two states, applied as clients do.

use proptest::prelude::*;
use prost::Message as _;
use uuid::Uuid;

use super::*;

/// A client's view, which it changes as coder/coder `tailnet/controllers.go` (`handleUpdate`) does: changed workspaces,
/// then agents that went, then workspaces that went, then changed agents. An agent of an unknown workspace is an error.
#[derive(Debug, Default, PartialEq)]
struct View(BTreeMap<Vec<u8>, (String, i32, Agents)>);

/// Names by id.
type Agents = BTreeMap<Vec<u8>, String>;

impl View {
    fn apply(&mut self, update: &WorkspaceUpdate) {
        for Workspace { id, name, status } in &update.upserted_workspaces {
            let workspace = self.0.entry(id.clone()).or_default();
            (workspace.0, workspace.1) = (name.clone(), *status);
        }
        for agent in &update.deleted_agents {
            let workspace = self.0.get_mut(&agent.workspace_id).unwrap();
            assert_eq!(workspace.2.remove(&agent.id), Some(agent.name.clone()));
        }
        for workspace in &update.deleted_workspaces {
            let (name, status, agents) = self.0.remove(&workspace.id).unwrap();
            assert_eq!((name, status), (workspace.name.clone(), workspace.status));
            assert_eq!(agents, Agents::new(), "each agent is told of");
        }
        for agent in &update.upserted_agents {
            let workspace = self.0.get_mut(&agent.workspace_id).unwrap();
            workspace.2.insert(agent.id.clone(), agent.name.clone());
        }
    }

    fn of(snapshot: &Snapshot) -> Self {
        let workspaces = snapshot.0.iter().map(|(id, workspace)| {
            let agents = workspace.agents.iter();
            let agents = agents.map(|agent| (agent.id.as_bytes().to_vec(), agent.name.to_string()));
            let view = (
                workspace.name.to_string(),
                workspace.status.into(),
                agents.collect(),
            );
            (id.as_bytes().to_vec(), view)
        });
        Self(workspaces.collect())
    }
}

fn entries(update: &WorkspaceUpdate) -> usize {
    update.upserted_workspaces.len()
        + update.upserted_agents.len()
        + update.deleted_workspaces.len()
        + update.deleted_agents.len()
}

fn workspace(id: u128, name: &str, agents: Vec<OwnedAgent>) -> OwnedWorkspace {
    OwnedWorkspace {
        id: WorkspaceId(Uuid::from_u128(id)),
        name: name.into(),
        job_status: JobStatus::Succeeded,
        transition: Transition::Start,
        agents,
    }
}

fn agent(id: u128, name: &str) -> OwnedAgent {
    OwnedAgent {
        id: AgentId(Uuid::from_u128(id)),
        name: name.into(),
    }
}

/// Few ids and names, so that states overlap; an agent's id says which workspace it is of, as it never moves.
fn snapshots() -> impl Strategy<Value = Snapshot> {
    let agents = proptest::collection::btree_map(0_u128..4, "[ab]", 0..4);
    let jobs = prop_oneof![Just(JobStatus::Running), Just(JobStatus::Succeeded)];
    let workspaces = proptest::collection::btree_map(1_u128..5, ("[xy]", jobs, agents), 0..5);
    workspaces.prop_map(|workspaces| {
        let owned = workspaces.into_iter().map(|(id, (name, job_status, agents))| {
            let agents = agents
                .iter()
                .map(|(agent_id, name)| agent(id * 100 + agent_id, name));
            OwnedWorkspace {
                job_status,
                ..workspace(id, &name, agents.collect())
            }
        });
        Snapshot::new(owned.collect())
    })
}

proptest! {
    #[test]
    fn a_view_that_applies_all_changes_is_the_latest_state(states in proptest::collection::vec(snapshots(), 1..6)) {
        let mut last = Snapshot::default();
        let mut view = View::default();
        for state in states {
            let messages = last.changes_to(&state);
            prop_assert_eq!(messages.is_empty(), last == state, "nothing is sent for nothing");
            for message in &messages {
                prop_assert!(entries(message) > 0);
                view.apply(message);
            }
            prop_assert_eq!(&view, &View::of(&state));
            last = state;
        }
    }

    #[test]
    fn only_what_changed_is_told(old in snapshots(), new in snapshots()) {
        let messages = old.changes_to(&new);
        let workspaces = messages.iter().flat_map(|message| &message.upserted_workspaces);
        for workspace in workspaces {
            let id = WorkspaceId(Uuid::from_slice(&workspace.id).unwrap());
            let is_known = old.0.get(&id).is_some_and(|old| old.message(id) == *workspace);
            prop_assert!(!is_known);
        }
        let agents = messages.iter().flat_map(|message| &message.upserted_agents);
        for told in agents {
            let id = WorkspaceId(Uuid::from_slice(&told.workspace_id).unwrap());
            let known = old.0.get(&id).into_iter().flat_map(|old| &old.agents);
            for known in known {
                prop_assert_ne!(&agent_message(id, known), told);
            }
        }
    }
}

#[test]
fn what_is_too_much_for_one_message_comes_in_several_that_apply_one_by_one() {
    // Names as long as they can be.
    let (old_name, new_name) = ("é".repeat(64), "𝄞".repeat(64));
    let state = |name: &str| {
        let workspaces = (0..3_000).map(|id| {
            let agents = (0..2).map(|nth| agent(id * 2 + nth + 1_000_000, name)).collect();
            workspace(id, name, agents)
        });
        Snapshot::new(workspaces.collect())
    };
    let states = [
        Snapshot::default(),
        state(&old_name),
        state(&new_name),
        Snapshot::default(),
    ];
    let mut view = View::default();
    for (pair, expected) in states.windows(2).zip([9_000, 15_000, 9_000_usize]) {
        let messages = pair[0].changes_to(&pair[1]);
        assert_eq!(messages.iter().map(entries).sum::<usize>(), expected);
        assert_eq!(messages.len(), expected.div_ceil(MAX_ENTRIES));
        for message in &messages {
            assert!(
                message.encoded_len() < 4 * 1024 * 1024 / 3,
                "{}",
                message.encoded_len()
            );
            view.apply(message);
        }
        assert_eq!(view, View::of(&pair[1]));
    }
}

#[test]
fn the_status_is_that_of_the_latest_build() {
    let cases = [
        (JobStatus::Pending, [Status::Pending; 3]),
        (
            JobStatus::Running,
            [Status::Starting, Status::Stopping, Status::Deleting],
        ),
        (
            JobStatus::Succeeded,
            [Status::Running, Status::Stopped, Status::Deleted],
        ),
        (JobStatus::Canceling, [Status::Canceling; 3]),
        (JobStatus::Canceled, [Status::Canceled; 3]),
        (JobStatus::Failed, [Status::Failed; 3]),
        (JobStatus::Unknown, [Status::Failed; 3]),
    ];
    for (job, expected) in cases {
        let transitions = [Transition::Start, Transition::Stop, Transition::Delete];
        assert_eq!(
            transitions.map(|transition| status(job, transition)),
            expected,
            "{job:?}"
        );
    }
}
