//! Statements of two servers that lock the same rows.

use std::time::Duration;

use super::{Kit, NOW, TICK, at};
use crate::ids::{AgentId, AppId, ReplicaId, WorkspaceId};
use crate::seed::Seed;
use crate::store::{AppHealth, ConnectionChange, MetadataValue, SqlStore, Store as _};

/// Rows that each statement writes.
const ROWS: usize = 10;

/// How often both servers write them.
const ROUNDS: i64 = 3;

const WORKSPACE: &str = "---
owner: { username: ada }
workspace: { name: wNUMBER }
agents:
  - name: main
    apps: [{ slug: code, healthcheck: { url: 'http://localhost', interval_seconds: 5, threshold: 6 } }]
    metadata: [{ key: load, display_name: Load, script: uptime, interval_seconds: 10, timeout_seconds: 1 }]
";

/// Locks rows one after another, in the order in which a statement comes upon them, where that is not the table's: so few
/// rows would be read as they lie.
const SLOW: &str = "
    CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN PERFORM pg_sleep(0.005); RETURN NEW; END $$;
    CREATE TRIGGER slow BEFORE UPDATE ON workspace_apps FOR EACH ROW EXECUTE FUNCTION slow();
    CREATE TRIGGER slow BEFORE UPDATE ON workspace_agents FOR EACH ROW EXECUTE FUNCTION slow();
    CREATE TRIGGER slow BEFORE UPDATE ON workspace_agent_metadata FOR EACH ROW EXECUTE FUNCTION slow();
    CREATE TRIGGER slow BEFORE UPDATE ON workspaces FOR EACH ROW EXECUTE FUNCTION slow();
    DO $$ BEGIN
        EXECUTE format('ALTER DATABASE %I SET enable_hashjoin = off', current_database());
        EXECUTE format('ALTER DATABASE %I SET enable_mergejoin = off', current_database());
        EXECUTE format('ALTER DATABASE %I SET enable_seqscan = off', current_database());
    END $$";

/// How often the database has ended a statement because two waited for each other.
const DEADLOCKS: &str = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()";

/// Waits until a query says so, for half a minute at most.
async fn becomes(kit: &mut Kit, sql: &str, wanted: i64) {
    let mut says = 0;
    for _ in 0..3_000 {
        says = kit.integer(sql).await;
        if says == wanted {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{says}, not {wanted}: {sql}");
}

/// What all servers write, in the order of its ids.
struct Rows {
    agents: Vec<AgentId>,
    apps: Vec<AppId>,
    workspaces: Vec<WorkspaceId>,
}

impl Rows {
    /// The same, from the last to the first.
    fn reversed(&self) -> Self {
        Self {
            agents: self.agents.iter().rev().copied().collect(),
            apps: self.apps.iter().rev().copied().collect(),
            workspaces: self.workspaces.iter().rev().copied().collect(),
        }
    }

    /// Runs every statement that writes rows of several agents, the `round`th time.
    async fn write(&self, store: &SqlStore, replica: ReplicaId, round: i64) {
        let health = if round % 2 == 0 {
            AppHealth::Healthy
        } else {
            AppHealth::Unhealthy
        };
        let healths: Vec<_> = self.apps.iter().map(|app| (*app, health)).collect();
        store.update_app_healths(&healths).await.unwrap();
        let value = |agent: &AgentId| MetadataValue {
            agent_id: *agent,
            key: "load".to_owned(),
            value: round.to_string(),
            error: String::new(),
            collected_at: at(round),
        };
        let values: Vec<_> = self.agents.iter().map(value).collect();
        store.update_metadata(&values).await.unwrap();
        store.touch_workspaces(&self.workspaces, at(round)).await.unwrap();
        let change = |agent: &AgentId| ConnectionChange {
            agent_id: *agent,
            at: at(round),
        };
        let changes: Vec<_> = self.agents.iter().map(change).collect();
        store.record_connects(replica, &changes, at(round)).await.unwrap();
        store
            .record_heartbeats(replica, &self.agents, at(round), TICK)
            .await
            .unwrap();
        store.record_disconnects(replica, &changes).await.unwrap();
    }
}

#[tokio::test]
async fn servers_that_write_the_same_rows_from_both_ends_never_wait_for_each_other() {
    let workspaces: Vec<_> = (0..ROWS)
        .map(|number| WORKSPACE.replace("NUMBER", &number.to_string()))
        .collect();
    let Some(mut kit) = Kit::of_postgres().await else {
        return;
    };
    kit.seed(&workspaces.concat(), NOW).await.unwrap();
    kit.raw.run("", SLOW).await;
    let mut ids = async |table: &str| -> Vec<uuid::Uuid> {
        let rows = kit.table(&format!("SELECT id FROM {table} ORDER BY id")).await;
        assert_eq!(rows.len(), ROWS, "{table}");
        rows.iter().map(|id| id.parse().unwrap()).collect()
    };
    let rows = Rows {
        agents: ids("workspace_agents").await.into_iter().map(AgentId).collect(),
        apps: ids("workspace_apps").await.into_iter().map(AppId).collect(),
        workspaces: ids("workspaces").await.into_iter().map(WorkspaceId).collect(),
    };
    // Opened only now, with the settings of the database.
    let (one, other) = (kit.place.open().await, kit.place.open().await);
    let (replica, foreign) = (ReplicaId::random(), ReplicaId::random());
    let reversed = rows.reversed();
    for round in 0..ROUNDS {
        tokio::join!(
            rows.write(&one, replica, round),
            reversed.write(&other, foreign, round)
        );
    }
    for store in [one, other] {
        // What a connection has counted is told at its end at the latest.
        store.close().await;
    }
    assert_eq!(kit.integer(DEADLOCKS).await, 0);
}

/// An agent with values that a seed writes in this order.
const VALUES: &str = "
owner: { username: ada }
workspace: { name: dev }
agents:
  - name: main
    metadata:
      - { key: first, display_name: NAME, script: uptime, interval_seconds: 10, timeout_seconds: 1 }
      - { key: gate, display_name: NAME, script: uptime, interval_seconds: 10, timeout_seconds: 1 }
      - { key: last, display_name: NAME, script: uptime, interval_seconds: 10, timeout_seconds: 1 }
";

#[tokio::test]
async fn a_seed_that_meets_locks_in_another_order_is_written_again() {
    let Some(mut kit) = Kit::of_postgres().await else {
        return;
    };
    kit.seed(&VALUES.replace("NAME", "before"), NOW).await.unwrap();
    let (mut gate, mut other) = (kit.place.connect().await, kit.place.connect().await);
    let lock = |key: &str| format!("SELECT 1 FROM workspace_agent_metadata WHERE key = '{key}' FOR UPDATE");
    let waiting = "SELECT count(*) FROM pg_stat_activity
        WHERE datname = current_database() AND wait_event_type = 'Lock'";
    for connection in [&mut gate, &mut other] {
        // It is the seed that finds out, and is ended.
        connection.query("SET deadlock_timeout = '1min'").await;
        connection.query("BEGIN").await;
    }
    gate.query(&lock("gate")).await;
    other.query(&lock("last")).await;
    let store = kit.place.open().await;
    let seed = Seed::parse("seed.yaml", &VALUES.replace("NAME", "after")).unwrap();
    let seeding = tokio::spawn(async move { store.seed(&seed, NOW).await });
    becomes(&mut kit, waiting, 1).await;
    let first = lock("first");
    let crossing = tokio::spawn(async move {
        other.query(&first).await;
        other.query("COMMIT").await;
    });
    becomes(&mut kit, waiting, 2).await;
    gate.query("COMMIT").await;
    crossing.await.unwrap();
    assert_eq!(seeding.await.unwrap().unwrap().len(), 1);
    let names = "SELECT DISTINCT display_name FROM workspace_agent_metadata";
    assert_eq!(kit.table(names).await, ["after"]);
    // Told by the connection when it has nothing to do.
    becomes(&mut kit, DEADLOCKS, 1).await;
}
