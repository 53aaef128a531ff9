//! Several handles and processes on one file.

use std::sync::Arc;

use tempfile::TempDir;

use super::{EXAMPLE, Kit, NOW, SMALL, TICK, at, raw};
use crate::ids::AgentToken;
use crate::seed::Seed;
use crate::store::sqlite::{self, SqliteOptions};
use crate::store::{Invalidation, SqlStore, Store, WorkspaceEvent, WorkspaceEventKind};

async fn open(dir: &TempDir) -> SqlStore {
    sqlite::open(dir.path(), SqliteOptions::default()).await.unwrap()
}

/// New events about copies of rows.
async fn events(store: &SqlStore) -> Vec<Invalidation> {
    let events = store.take_events().await.unwrap();
    let invalidations = events
        .iter()
        .filter(|event| event.channel == Invalidation::CHANNEL);
    invalidations
        .map(|event| Invalidation::from_payload(&event.payload).unwrap())
        .collect()
}

/// Channels and payloads of new events for those who follow an owner's workspaces.
async fn owner_events(store: &SqlStore) -> Vec<(String, WorkspaceEvent)> {
    let events = store.take_events().await.unwrap();
    let others = events
        .into_iter()
        .filter(|event| event.channel != Invalidation::CHANNEL);
    others
        .map(|event| (event.channel, WorkspaceEvent::parse(&event.payload).unwrap()))
        .collect()
}

#[tokio::test]
async fn conn_076_seeding_beside_a_running_server_is_seen_by_it() {
    let (kit, agents) = Kit::seeded(EXAMPLE).await;
    let agent_id = agents[0].agent_id;
    let server = open(kit.dir()).await;
    assert_eq!(
        events(&server).await,
        [],
        "what was there at the start is not news"
    );
    let changed = EXAMPLE.replace("directory: ~/src", "directory: ~/code");
    let again = kit.seed(&changed, at(1)).await.unwrap();
    assert_eq!(events(&server).await, [Invalidation::Agent { agent_id }]);
    assert_eq!(events(&server).await, []);
    assert_eq!(again[0].agent_id, agent_id);
    assert_eq!(server.agent(agent_id).await.unwrap().directory, "~/code");
}

#[tokio::test]
async fn an_unchanged_seed_leaves_no_event() {
    let (kit, _) = Kit::seeded(EXAMPLE).await;
    let server = open(kit.dir()).await;
    kit.seed(EXAMPLE, at(1)).await.unwrap();
    assert_eq!(events(&server).await, []);
}

#[tokio::test]
async fn each_kind_of_change_leaves_its_event() {
    let (kit, agents) = Kit::seeded(EXAMPLE).await;
    let agent_id = agents[0].agent_id;
    let server = open(kit.dir()).await;
    let agent = Invalidation::Agent { agent_id };
    let token = AgentToken::random().reveal().to_string();
    let steps = [
        (
            "message: \"Maintenance on Friday\"",
            "message: Hello".to_owned(),
            vec![Invalidation::Banners],
        ),
        ("template: docker", "template: podman".to_owned(), vec![agent]),
        ("username: ada", "username: Ada".to_owned(), vec![agent]),
        (
            "script: echo starting",
            "script: echo going".to_owned(),
            vec![agent],
        ),
        ("threshold: 90 }\n", "threshold: 80 }\n".to_owned(), vec![agent]),
        (
            "token: null",
            format!("token: {token}"),
            vec![Invalidation::Token { agent_id }, agent],
        ),
    ];
    let mut yaml = EXAMPLE.to_owned();
    for (second, (from, to, expected)) in (1..).zip(steps) {
        assert!(yaml.contains(from), "{from}");
        yaml = yaml.replacen(from, &to, 1);
        kit.seed(&yaml, at(second)).await.unwrap();
        assert_eq!(events(&server).await, expected, "{to}");
    }
}

#[tokio::test]
async fn a_seed_tells_who_follows_an_owner_once_of_each_workspace_that_is_shown_otherwise() {
    let (mut kit, _) = Kit::seeded(SMALL).await;
    let added = format!("{SMALL}---\nowner: {{ username: ada }}\nworkspace: {{ name: two }}\nagents: []\n");
    let stop = "UPDATE workspace_builds SET transition = 'stop'
        WHERE workspace_id = (SELECT id FROM workspaces WHERE name = 'Dev')";
    let seeds = [
        ("what was there at the start is not news", SMALL.to_owned(), None),
        (
            "a new agent",
            SMALL.replace("main }]", "main }, { name: other }]"),
            Some("dev"),
        ),
        ("a new workspace", added, Some("two")),
        ("a new name", SMALL.replace("name: dev", "name: Dev"), Some("Dev")),
        (
            "a new build",
            SMALL.replace("name: dev", "name: Dev"),
            Some("Dev"),
        ),
    ];
    let server = open(kit.dir()).await;
    for (second, (what, yaml, expected)) in (1..).zip(seeds) {
        if what == "a new build" {
            kit.sql(stop).await;
        }
        kit.seed(&yaml, at(second)).await.unwrap();
        let mut ids = Vec::new();
        if let Some(name) = expected {
            let sql =
                format!("SELECT lower(hex(owner_id)), lower(hex(id)) FROM workspaces WHERE name = '{name}'");
            ids = kit.table(&sql).await;
        }
        let events = owner_events(&server).await;
        let told: Vec<_> = events
            .iter()
            .map(|(channel, event)| {
                assert_eq!(
                    (event.kind, event.agent_id),
                    (WorkspaceEventKind::StateChange, None)
                );
                let owner = channel.strip_prefix("workspace_owner:").unwrap();
                format!("{}|{}", owner.replace('-', ""), event.workspace_id.0.simple())
            })
            .collect();
        assert_eq!(told, ids, "{what}");
    }
}

#[tokio::test]
async fn a_process_reads_the_events_of_its_own_seed_too() {
    let (kit, agents) = Kit::seeded(SMALL).await;
    events(&kit.store).await;
    kit.seed(&SMALL.replace("name: main", "name: main, directory: /x"), at(1))
        .await
        .unwrap();
    let agent_id = agents[0].agent_id;
    assert_eq!(events(&kit.store).await, [Invalidation::Agent { agent_id }]);
}

#[tokio::test]
async fn events_are_read_in_order_across_the_bound_of_one_read() {
    let mut kit = Kit::new().await;
    kit.sql(
        "INSERT INTO drpcd_events (channel, payload, created_at)
        WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 5000)
        SELECT 'c', CAST(i AS TEXT), i FROM n",
    )
    .await;
    let first = kit.store.take_events().await.unwrap();
    let second = kit.store.take_events().await.unwrap();
    assert_eq!((first.len(), second.len()), (4_096, 904));
    assert!(first.iter().chain(&second).map(|event| event.id).is_sorted());
    assert_eq!(kit.store.take_events().await.unwrap(), []);
}

#[tokio::test]
async fn pruning_forgets_old_events_and_ids_go_on() {
    let mut kit = Kit::new().await;
    let insert = |second: i64| {
        let time = at(second).as_micros();
        format!("INSERT INTO drpcd_events (channel, payload, created_at) VALUES ('c', '{second}', {time})")
    };
    kit.sql(&insert(1)).await;
    kit.sql(&insert(2)).await;
    // Not read yet, however old they look.
    kit.store.prune_events(at(86_400)).await.unwrap();
    assert_eq!(kit.table("SELECT payload FROM drpcd_events").await, ["1", "2"]);
    kit.store.take_events().await.unwrap();
    kit.store.prune_events(at(2)).await.unwrap();
    assert_eq!(kit.table("SELECT payload FROM drpcd_events").await, ["2"]);
    kit.store.prune_events(at(3)).await.unwrap();
    kit.sql(&insert(4)).await;
    let events = kit.store.take_events().await.unwrap();
    assert_eq!(
        events
            .iter()
            .map(|event| (event.id, &*event.payload))
            .collect::<Vec<_>>(),
        [(3, "4")]
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn processes_that_open_a_new_file_at_once_all_succeed() {
    for _ in 0..5 {
        let dir = Arc::new(TempDir::new().unwrap());
        let opening: Vec<_> = (0..6)
            .map(|_| {
                let dir = Arc::clone(&dir);
                tokio::spawn(async move { sqlite::open(dir.path(), SqliteOptions::default()).await })
            })
            .collect();
        for task in opening {
            task.await.unwrap().unwrap().ping().await.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_handles_that_write_at_once_both_succeed() {
    let (kit, agents) = Kit::seeded(SMALL).await;
    let agent = agents[0].agent_id;
    let dir = Arc::new(kit.into_dir());
    let writing: Vec<_> = (0..2)
        .map(|_| {
            let dir = Arc::clone(&dir);
            tokio::spawn(async move {
                let store = open(&dir).await;
                for _ in 0..100 {
                    let replica = crate::ids::ReplicaId::random();
                    store
                        .record_heartbeats(replica, &[agent], NOW, TICK)
                        .await
                        .unwrap();
                }
            })
        })
        .collect();
    for task in writing {
        task.await.unwrap();
    }
}

#[tokio::test]
async fn conn_074_what_was_committed_survives_a_process_that_ends_in_the_middle_of_a_write() {
    let (kit, agents) = Kit::seeded(EXAMPLE).await;
    let copy = TempDir::new().unwrap();
    // The files as they lie on the disk while another writer is in a transaction: what a killed process leaves.
    let mut other = raw(kit.dir().path()).await;
    for sql in ["BEGIN IMMEDIATE", "DELETE FROM workspace_agent_metadata"] {
        sqlx::query(sql).execute(&mut other).await.unwrap();
    }
    for file in ["drpcd.db", "drpcd.db-wal"] {
        std::fs::copy(kit.dir().path().join(file), copy.path().join(file)).unwrap();
    }
    let reopened = open(&copy).await;
    assert!(reopened.authenticate(&agents[0].token).await.unwrap().is_some());
    let parts = reopened.manifest_parts(agents[0].agent_id).await.unwrap();
    assert_eq!(parts.metadata.len(), 2, "metadata definitions are still there");
    reopened
        .seed(&Seed::parse("f", SMALL).unwrap(), at(1))
        .await
        .unwrap();
}
