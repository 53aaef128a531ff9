//! The stream of a client over a real store, whose rows tests change behind its back.

mod bounds;

use std::collections::VecDeque;

use tokio::task::JoinHandle;
use uuid::Uuid;

use super::*;
use crate::clock::testing::{driven, settle};
use crate::coordinator::{MemoryCoordinator, PeerId};
use crate::ids::{AgentId, WorkspaceId};
use crate::mux::Status;
use crate::mux::testing::{Caller, call};
use crate::proto::tailnet::{Tailnet as _, WorkspaceUpdate, WorkspaceUpdatesRequest, workspace};
use crate::seed::Seed;
use crate::services::tailnet::derp::DerpMaps;
use crate::services::tailnet::derp_map::default_map;
use crate::services::tailnet::resume::ResumeTokens;
use crate::services::tailnet::{Authority, ClientParts, Identity, TailnetApi, TailnetServices, UserParts};
use crate::store::testing::{Engine, FaultyStore, NOW};

const SEED: &str = "owner: { username: ada }
workspace: { name: dev }
agents: [{ name: main }]
---
owner: { username: grace }
workspace: { name: hers }
agents: [{ name: main }]
";

const CLIENT: PeerId = PeerId(Uuid::from_u128(7));

struct Kit {
    store: Arc<FaultyStore>,
    pubsub: Pubsub,
    updates: WorkspaceUpdates,
    resume: Arc<ResumeTokens>,
    services: Arc<TailnetServices>,
    ada: UserId,
    grace: UserId,
}

impl Kit {
    async fn new() -> Self {
        let (store, _) = FaultyStore::of(SEED).await;
        store.take_events().await.unwrap();
        let (pubsub, clock) = (Pubsub::in_process(), Clock::driven(NOW));
        let updates = WorkspaceUpdates::new(store.clone(), pubsub.clone(), clock.clone());
        let resume = Arc::new(ResumeTokens::open(&*store, clock.clone()).await.unwrap());
        let maps = DerpMaps::fixed(default_map(&"http://127.0.0.1:3000".parse().unwrap()));
        let services = Arc::new(TailnetServices::new(
            Box::new(MemoryCoordinator::new(clock)),
            maps,
        ));
        let mut users = Vec::new();
        for name in ["ada", "grace"] {
            let query = format!("SELECT id FROM users WHERE username = '{name}'");
            users.push(UserId(Uuid::parse_str(&store.query(&query).await[0]).unwrap()));
        }
        let (ada, grace) = (users[0], users[1]);
        Self {
            store,
            pubsub,
            updates,
            resume,
            services,
            ada,
            grace,
        }
    }

    /// The service of a client of ada's; `None` for one that is about a single agent.
    fn api(&self, user: Option<UserParts>) -> TailnetApi {
        let identity = Identity {
            id: CLIENT,
            name: "client".into(),
            authority: Authority::SingleAgentClient(CLIENT),
        };
        let client = ClientParts {
            resume: Arc::clone(&self.resume),
            user,
        };
        TailnetApi::for_client(Arc::clone(&self.services), identity, client)
    }

    fn user_parts(&self) -> UserParts {
        UserParts {
            owner: self.ada,
            updates: self.updates.clone(),
        }
    }

    /// A client of ada's that asks for these workspaces.
    fn stream_of(&self, owner: &[u8]) -> Stream {
        let api = self.api(Some(self.user_parts()));
        let (_, replies, caller) = call();
        let request = WorkspaceUpdatesRequest {
            workspace_owner_id: owner.to_vec(),
        };
        let task = tokio::spawn(async move { api.workspace_updates(request, replies).await });
        Stream {
            caller,
            task,
            updates: self.updates.clone(),
            unread: VecDeque::new(),
        }
    }

    fn stream(&self) -> Stream {
        self.stream_of(self.ada.as_bytes())
    }

    fn publish(&self, kind: WorkspaceEventKind) {
        let event = WorkspaceEvent {
            kind,
            workspace_id: WorkspaceId(Uuid::from_u128(8)),
            agent_id: Some(AgentId(Uuid::from_u128(9))),
        };
        self.pubsub.publish_workspace_event(self.ada, &event);
    }

    async fn change(&self, sql: impl AsRef<str>) {
        self.store.query(sql.as_ref()).await;
        self.publish(WorkspaceEventKind::StateChange);
    }

    fn reads(&self) -> usize {
        self.store.calls("owned_workspaces")
    }

    async fn pass(&self, duration: Duration) {
        idle(&self.updates).await;
        tokio::time::advance(duration).await;
        idle(&self.updates).await;
    }
}

/// Lets everything run until it waits for time or for events.
async fn idle(updates: &WorkspaceUpdates) {
    let mut quiet = 0;
    while quiet < 20 {
        let reading = updates.0.reads.available_permits() < MAX_READS;
        quiet = if reading { 0 } else { quiet + 1 };
        tokio::task::yield_now().await;
    }
}

struct Stream {
    caller: Caller<WorkspaceUpdatesRequest, WorkspaceUpdate>,
    task: JoinHandle<Result<(), Status>>,
    updates: WorkspaceUpdates,
    unread: VecDeque<WorkspaceUpdate>,
}

impl Stream {
    /// What has come, as soon as all is quiet.
    async fn come(&mut self) -> Vec<WorkspaceUpdate> {
        idle(&self.updates).await;
        self.unread.extend(self.caller.replies());
        self.unread.drain(..).collect()
    }

    /// The next message, however often the time between two reads has to pass for it.
    async fn next(&mut self) -> WorkspaceUpdate {
        loop {
            self.unread.extend(self.caller.replies());
            if let Some(update) = self.unread.pop_front() {
                return update;
            }
            idle(&self.updates).await;
            tokio::time::advance(MIN_INTERVAL).await;
        }
    }

    async fn error(mut self) -> String {
        (&mut self.task).await.unwrap().unwrap_err().text().to_owned()
    }
}

/// Ends the call as the session does when its peer leaves.
impl Drop for Stream {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// One line for each entry.
fn text(update: &WorkspaceUpdate) -> Vec<String> {
    let workspace = |sign: char, workspace: &crate::proto::tailnet::Workspace| {
        let status = workspace::Status::try_from(workspace.status).unwrap();
        format!("{sign}{} {status:?}", workspace.name)
    };
    let agent = |sign: char, agent: &crate::proto::tailnet::Agent| format!("{sign}agent {}", agent.name);
    let mut lines = Vec::new();
    lines.extend(
        update
            .upserted_workspaces
            .iter()
            .map(|entry| workspace('+', entry)),
    );
    lines.extend(update.deleted_agents.iter().map(|entry| agent('-', entry)));
    lines.extend(
        update
            .deleted_workspaces
            .iter()
            .map(|entry| workspace('-', entry)),
    );
    lines.extend(update.upserted_agents.iter().map(|entry| agent('+', entry)));
    lines
}

#[tokio::test]
async fn the_first_message_is_everything_and_later_ones_are_what_changed() {
    let kit = Kit::new().await;
    driven(async {
        let mut stream = kit.stream();
        let first = stream.next().await;
        assert_eq!(text(&first), ["+dev Running", "+agent main"]);
        let ids = kit.store.query("SELECT id FROM workspaces WHERE name = 'dev'").await;
        assert_eq!(Uuid::from_slice(&first.upserted_workspaces[0].id).unwrap().simple().to_string(), ids[0]);
        assert_eq!(first.upserted_agents[0].workspace_id, first.upserted_workspaces[0].id);
        let dev = "(SELECT id FROM workspaces WHERE name LIKE 'dev%')";
        let job = format!("(SELECT job_id FROM workspace_builds WHERE workspace_id = {dev})");
        let steps: [(String, &[&str]); 8] = [
            (format!("UPDATE workspaces SET name = 'dev2' WHERE id = {dev}"), &["+dev2 Running"]),
            (
                format!("UPDATE provisioner_jobs SET completed_at = NULL WHERE id = {job}"),
                &["+dev2 Starting"],
            ),
            (
                format!("UPDATE workspace_builds SET transition = 'stop' WHERE workspace_id = {dev}"),
                &["+dev2 Stopping"],
            ),
            (
                format!(
                    "INSERT INTO workspace_agents (id, created_at, updated_at, name, resource_id, auth_token,
                        architecture, operating_system)
                    SELECT randomblob(16), created_at, updated_at, 'other', resource_id, randomblob(16), '', ''
                    FROM workspace_agents
                    WHERE resource_id IN (SELECT id FROM workspace_resources WHERE job_id = {job})"
                ),
                &["+agent other"],
            ),
            (
                "UPDATE workspace_agents SET name = 'third' WHERE name = 'other'".to_owned(),
                &["-agent other", "+agent third"],
            ),
            (
                "UPDATE workspace_agents SET deleted = 1 WHERE name = 'third'".to_owned(),
                &["-agent third"],
            ),
            // Of no interest; what comes next is about the step after it.
            ("UPDATE workspaces SET ttl = 7".to_owned(), &[]),
            (
                format!("UPDATE workspaces SET deleted = 1 WHERE id = {dev}"),
                &["-agent main", "-dev2 Stopping"],
            ),
        ];
        for (sql, expected) in steps {
            kit.change(&sql).await;
            if expected.is_empty() {
                let reads = kit.reads();
                kit.pass(MIN_INTERVAL).await;
                assert_eq!(kit.reads(), reads + 1);
                assert_eq!(stream.come().await, []);
            } else {
                assert_eq!(text(&stream.next().await), expected, "{sql}");
            }
        }
    })
    .await;
}

#[tokio::test]
async fn a_seed_of_another_process_reaches_who_follows_its_owner() {
    if Engine::of_environment() == Engine::Postgres {
        eprintln!("not tested on Postgres: other processes tell by notifications (tests/pubsub)");
        return;
    }
    let kit = Kit::new().await;
    driven(async {
        let mut stream = kit.stream();
        stream.next().await;
        let added =
            "owner: { username: ada }\nworkspace: { name: new }\nagents: [{ name: one }, { name: two }]\n";
        let seed = Seed::parse("seed.yaml", added).unwrap();
        kit.store.seed(&seed, NOW).await.unwrap();
        for event in kit.store.take_events().await.unwrap() {
            kit.pubsub.deliver(&event.channel, &event.payload);
        }
        let mut lines = text(&stream.next().await);
        lines.sort();
        assert_eq!(lines, ["+agent one", "+agent two", "+new Running"]);
    })
    .await;
}

#[tokio::test]
async fn only_events_that_may_change_what_is_shown_make_it_read_again() {
    let kit = Kit::new().await;
    driven(async {
        let mut stream = kit.stream();
        stream.next().await;
        for (kind, counts) in [
            (WorkspaceEventKind::StateChange, true),
            (WorkspaceEventKind::StatsUpdate, false),
            (WorkspaceEventKind::MetadataUpdate, false),
            (WorkspaceEventKind::AppHealthUpdate, false),
            (WorkspaceEventKind::AgentLifecycleUpdate, true),
            (WorkspaceEventKind::AgentConnectionUpdate, true),
            (WorkspaceEventKind::AgentFirstLogs, false),
            (WorkspaceEventKind::AgentLogsOverflow, false),
            (WorkspaceEventKind::AgentTimeout, true),
            (WorkspaceEventKind::AgentAppStatusUpdate, false),
        ] {
            let reads = kit.reads();
            kit.publish(kind);
            kit.pass(MIN_INTERVAL * 2).await;
            assert_eq!(kit.reads(), reads + usize::from(counts), "{kind:?}");
        }
    })
    .await;
}

#[tokio::test]
async fn missed_events_and_what_is_no_event_make_it_read_again() {
    let kit = Kit::new().await;
    driven(async {
        let mut stream = kit.stream();
        stream.next().await;
        for (name, event_count) in [("lagged", 1_000), ("garbled", 1)] {
            kit.store
                .query(&format!(
                    "UPDATE workspaces SET name = '{name}' WHERE name <> 'hers'"
                ))
                .await;
            let channel = WorkspaceEvent::channel(kit.ada);
            for _ in 0..event_count {
                if event_count == 1 {
                    kit.pubsub.publish(&channel, "{}");
                } else {
                    // Alone, these would not count.
                    kit.publish(WorkspaceEventKind::StatsUpdate);
                }
            }
            assert_eq!(text(&stream.next().await), [format!("+{name} Running")]);
        }
    })
    .await;
}

#[tokio::test]
async fn a_burst_of_events_is_two_reads_at_most_and_its_end_is_seen() {
    let kit = Kit::new().await;
    driven(async {
        let mut stream = kit.stream();
        stream.next().await;
        kit.pass(MIN_INTERVAL).await;
        let before = kit.reads();
        for number in 0..20 {
            kit.change(&format!(
                "UPDATE workspaces SET name = 'n{number}' WHERE name <> 'hers'"
            ))
            .await;
        }
        // However few of the changes the first read saw.
        while !text(&stream.next().await).contains(&"+n19 Running".to_owned()) {}
        for _ in 0..3 {
            kit.pass(MIN_INTERVAL).await;
        }
        assert!(kit.reads() <= before + 2, "{} reads", kit.reads() - before);
    })
    .await;
}

#[tokio::test]
async fn who_follows_the_same_owner_shares_its_reads_and_the_last_one_ends_them() {
    let kit = Kit::new().await;
    driven(async {
        let mut streams = [kit.stream(), kit.stream(), kit.stream()];
        for stream in &mut streams {
            assert_eq!(text(&stream.next().await), ["+dev Running", "+agent main"]);
        }
        kit.pass(MIN_INTERVAL).await;
        kit.pass(MIN_INTERVAL).await;
        let before = kit.reads();
        kit.change("UPDATE workspaces SET name = 'all' WHERE name = 'dev'")
            .await;
        for stream in &mut streams {
            assert_eq!(text(&stream.next().await), ["+all Running"]);
        }
        assert_eq!(kit.reads(), before + 1);

        let [one, two, three] = streams;
        drop((one, two));
        idle(&kit.updates).await;
        assert_eq!(kit.updates.0.owners()[&kit.ada].streams, 1);
        assert!(format!("{:?}", kit.pubsub).contains("workspace_owner"));
        drop(three);
        idle(&kit.updates).await;
        assert!(kit.updates.0.owners().is_empty());
        assert!(!format!("{:?}", kit.pubsub).contains("workspace_owner"));
        let reads = kit.reads();
        kit.publish(WorkspaceEventKind::StateChange);
        kit.pass(MIN_INTERVAL).await;
        assert_eq!(kit.reads(), reads, "nobody follows");
    })
    .await;
}

#[tokio::test]
async fn a_reader_that_stalls_finds_the_latest_state_in_one_message() {
    let kit = Kit::new().await;
    driven(async {
        let mut stream = kit.stream();
        stream.next().await;
        stream.caller.stall(true);
        kit.change("UPDATE workspaces SET name = 'stuck' WHERE name = 'dev'")
            .await;
        kit.pass(MIN_INTERVAL).await;
        // That one waits to be taken; these never set out.
        for name in ["skipped", "last"] {
            kit.change(&format!(
                "UPDATE workspaces SET name = '{name}' WHERE name <> 'hers'"
            ))
            .await;
            kit.pass(MIN_INTERVAL).await;
        }
        stream.caller.stall(false);
        assert_eq!(text(&stream.next().await), ["+stuck Running"]);
        assert_eq!(text(&stream.next().await), ["+last Running"]);
        assert_eq!(stream.come().await, []);
    })
    .await;
}

#[tokio::test]
async fn who_comes_later_learns_also_of_what_no_event_told() {
    let kit = Kit::new().await;
    driven(async {
        let mut first = kit.stream();
        first.next().await;
        kit.store
            .query("UPDATE workspaces SET name = 'silent' WHERE name = 'dev'")
            .await;
        let mut second = kit.stream();
        assert_eq!(text(&second.next().await), ["+dev Running", "+agent main"]);
        assert_eq!(text(&second.next().await), ["+silent Running"]);
        assert_eq!(text(&first.next().await), ["+silent Running"]);
    })
    .await;
}

#[tokio::test]
async fn an_owner_without_workspaces_gets_an_empty_first_message() {
    let kit = Kit::new().await;
    driven(async {
        kit.store.query("UPDATE workspaces SET deleted = 1").await;
        let mut stream = kit.stream();
        assert_eq!(stream.next().await, WorkspaceUpdate::default());
    })
    .await;
}

#[tokio::test]
async fn a_foreign_owners_workspaces_are_not_shown_nor_read() {
    let kit = Kit::new().await;
    driven(async {
        for foreign in [kit.grace, UserId(Uuid::from_u128(7))] {
            let mut stream = kit.stream_of(foreign.as_bytes());
            assert_eq!(stream.next().await, WorkspaceUpdate::default());
            kit.change("UPDATE workspaces SET ttl = 8").await;
            kit.pass(MIN_INTERVAL).await;
            assert_eq!(stream.come().await, []);
            assert!(!stream.task.is_finished());
        }
        assert_eq!(kit.reads(), 0);
    })
    .await;
}

#[tokio::test]
async fn an_owner_id_of_another_length_is_an_error() {
    let kit = Kit::new().await;
    for length in [0_usize, 15, 17] {
        let error = kit.stream_of(&vec![1; length]).error().await;
        assert_eq!(
            error,
            format!("parse workspace owner ID: invalid UUID (got {length} bytes)")
        );
    }
}

#[tokio::test]
async fn a_client_of_a_single_agent_has_no_workspace_updates_but_a_resume_token() {
    let kit = Kit::new().await;
    let api = kit.api(None);
    let (_, replies, _caller) = call::<WorkspaceUpdatesRequest, WorkspaceUpdate>();
    let status = api
        .workspace_updates(WorkspaceUpdatesRequest::default(), replies)
        .await;
    assert_eq!(status.unwrap_err().code(), 12);
    for api in [api, kit.api(Some(kit.user_parts()))] {
        let answer = api.refresh_resume_token(crate::proto::tailnet::RefreshResumeTokenRequest {});
        assert_eq!(kit.resume.verify(&answer.await.unwrap().token), Some(CLIENT));
    }
}

#[tokio::test]
async fn a_store_that_fails_or_hangs_fails_who_begins_and_is_asked_again_by_the_next() {
    let kit = Kit::new().await;
    driven(async {
        let away = StoreError::Unavailable("database is locked".to_owned());
        kit.store.fail("owned_workspaces", away);
        let (one, two) = (kit.stream(), kit.stream());
        for stream in [one, two] {
            assert_eq!(
                stream.error().await,
                "subscribe to workspace updates: get workspaces and agents by owner ID: database is locked"
            );
        }
        idle(&kit.updates).await;
        assert!(kit.updates.0.owners().is_empty());
        kit.store.mend("owned_workspaces");

        let reads = u32::try_from(MAX_READS).unwrap();
        let busy = kit.updates.0.reads.acquire_many(reads).await.unwrap();
        let late = kit.stream();
        settle().await;
        assert!(!late.task.is_finished());
        tokio::time::advance(SHORT_STORE_WAIT + Duration::from_millis(1)).await;
        assert_eq!(
            late.error().await,
            "subscribe to workspace updates: get workspaces and agents by owner ID: context deadline exceeded"
        );
        drop(busy);
        assert_eq!(text(&kit.stream().next().await), ["+dev Running", "+agent main"]);
    })
    .await;
}

#[tokio::test]
async fn a_change_that_could_not_be_read_is_read_when_the_store_is_back() {
    let kit = Kit::new().await;
    driven(async {
        let mut stream = kit.stream();
        stream.next().await;
        kit.store.fail(
            "owned_workspaces",
            StoreError::Unavailable("disk full".to_owned()),
        );
        kit.change("UPDATE workspaces SET name = 'late' WHERE name = 'dev'")
            .await;
        for _ in 0..2 {
            let reads = kit.reads();
            kit.pass(RETRY_PAUSE + MIN_INTERVAL).await;
            assert!(kit.reads() > reads);
        }
        assert_eq!(stream.come().await, []);
        assert!(!stream.task.is_finished());
        kit.store.mend("owned_workspaces");
        assert_eq!(text(&stream.next().await), ["+late Running"]);
    })
    .await;
}

#[tokio::test]
async fn streams_of_an_owner_and_owners_are_bounded() {
    let kit = Kit::new().await;
    let text = "too many streams of workspace updates";
    let mut kept = Vec::new();
    for _ in 0..MAX_STREAMS_OF_OWNER {
        kept.push(kit.updates.join(kit.ada).unwrap());
    }
    assert_eq!(kit.updates.join(kit.ada).err().unwrap().to_string(), text);
    assert_eq!(
        kit.stream().error().await,
        format!("subscribe to workspace updates: {text}")
    );
    kept.pop();
    kept.push(kit.updates.join(kit.ada).unwrap());
    for other in 1..MAX_OWNERS {
        kept.push(kit.updates.join(UserId(Uuid::from_u128(other as u128))).unwrap());
    }
    assert_eq!(kit.updates.join(kit.grace).err(), Some(WatchError::TooMany));
    kept.pop();
    assert_eq!(kit.updates.join(kit.grace).err(), None);
}
