//! The store against real databases: the same tests on SQLite and on Postgres, which is skipped (and said) where there is
//! none.

#![allow(clippy::duplicate_mod, reason = "each engine runs the same tests")]

use std::fmt::Debug;
use std::marker::PhantomData;
use std::time::Duration;

use crate::clock::Timestamp;
use crate::ids::{AgentId, AgentToken};
use crate::seed::Seed;
use crate::store::testing::{Engine, Place, Raw};
use crate::store::{SeededAgent, SqlStore, Store, StoreError};

pub(crate) use crate::store::testing::{EXAMPLE, NOW};

mod on_postgres;
mod on_sqlite;
mod retention;

/// The smallest workspace with an agent.
const SMALL: &str = "owner: { username: ada }\nworkspace: { name: dev }\nagents: [{ name: main }]\n";

/// Statements of which a scan of a table is too much: what an agent's calls run, and what one does for many agents.
const PER_AGENT: [&str; 31] = [
    "authenticate",
    "bump_activity",
    "touch_workspaces",
    "build_readiness",
    "outdated_builds",
    "agent_by_id",
    "workspace_by_agent",
    "workspaces_by_ids",
    "apps_by_agent",
    "scripts_by_agent",
    "metadata_by_agent",
    "devcontainers_by_agent",
    "monitors",
    "site_config",
    "notification_recipient",
    "insert_notification",
    "update_memory_monitor",
    "update_volume_monitor",
    "app_healths_by_agent",
    "update_app_healths",
    "app_before_status",
    "update_startup",
    "update_lifecycle",
    "add_logs_length",
    "set_logs_overflowed",
    "update_metadata",
    "record_connects",
    "record_heartbeats",
    "record_disconnects",
    "events_since",
    "prune_events",
];

/// Time between heartbeats.
const TICK: Duration = Duration::from_secs(15);

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_micros(NOW.as_micros() + seconds * 1_000_000)
}

trait OnEngine: Debug {
    const ENGINE: Engine;
}

#[derive(Debug)]
struct OnSqlite;

impl OnEngine for OnSqlite {
    const ENGINE: Engine = Engine::Sqlite;
}

#[derive(Debug)]
struct OnPostgres;

impl OnEngine for OnPostgres {
    const ENGINE: Engine = Engine::Postgres;
}

/// A store in a place of its own, and a second connection that looks behind it.
struct Kit<E> {
    store: SqlStore,
    place: Place,
    raw: Raw,
    engine: PhantomData<E>,
}

impl<E: OnEngine> Kit<E> {
    async fn new() -> Self {
        Self::at(Place::new(E::ENGINE)).await
    }

    async fn at(place: Place) -> Self {
        let store = place.open().await;
        let raw = place.connect().await;
        Self {
            store,
            place,
            raw,
            engine: PhantomData,
        }
    }

    /// With `yaml` seeded at [`NOW`].
    async fn seeded(yaml: &str) -> (Self, Vec<SeededAgent>) {
        let kit = Self::new().await;
        let agents = kit.seed(yaml, NOW).await.unwrap();
        (kit, agents)
    }

    async fn seed(&self, yaml: &str, now: Timestamp) -> Result<Vec<SeededAgent>, StoreError> {
        self.store
            .seed(&Seed::parse("seed.yaml", yaml).unwrap(), now)
            .await
    }

    /// Runs SQL behind the store's back.
    async fn sql(&mut self, sql: &str) {
        self.raw.query(sql).await;
    }

    /// The rows of a query as texts joined by `|`; NULL is `NULL`, a UUID its hexadecimal digits.
    async fn table(&mut self, sql: &str) -> Vec<String> {
        let rows = self.raw.query(sql).await;
        let text = |row: Vec<Option<String>>| {
            let cells: Vec<_> = row
                .into_iter()
                .map(|cell| cell.unwrap_or_else(|| "NULL".to_owned()))
                .collect();
            cells.join("|")
        };
        rows.into_iter().map(text).collect()
    }

    /// The one cell of a query; NULL is nothing.
    async fn cell(&mut self, sql: &str) -> Option<String> {
        self.raw.query(sql).await.remove(0).remove(0)
    }

    async fn integer(&mut self, sql: &str) -> i64 {
        self.cell(sql).await.unwrap().parse().unwrap()
    }

    async fn time(&mut self, column: &str, agent: AgentId) -> Option<Timestamp> {
        let sql = format!(
            "SELECT {column} FROM workspace_agents WHERE id = x'{}'",
            agent.0.simple()
        );
        let micros = self.cell(&sql).await;
        micros.map(|micros| Timestamp::from_micros(micros.parse().unwrap()))
    }

    async fn authenticates(&self, token: &AgentToken) -> bool {
        self.store.authenticate(token).await.unwrap().is_some()
    }

    fn ran(&self, statement: &str) -> u64 {
        let statements = self.store.statements();
        statements.iter().find(|(name, _)| *name == statement).unwrap().1
    }
}
