//! The engine against real files in temporary directories.

mod activity;
mod auth;
mod connections;
mod engine;
mod processes;
mod retention;
mod seed_again;
mod seed_new;
mod tailnet;
mod writes;

use std::path::Path;

use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection, SqliteRow};
use sqlx::{AssertSqlSafe, ConnectOptions as _, Row as _};
use tempfile::TempDir;
use uuid::Uuid;

use super::{SqliteOptions, SqliteStore};
use crate::clock::Timestamp;
use crate::ids::{AgentId, AgentToken};
use crate::seed::Seed;
use crate::store::{SeededAgent, Store, StoreError};

/// The repository's example, which has every key of the format but the optional ones.
pub(super) const EXAMPLE: &str = include_str!("../../../../examples/seed.yaml");

/// The smallest workspace with an agent.
pub(super) const SMALL: &str =
    "owner: { username: ada }\nworkspace: { name: dev }\nagents: [{ name: main }]\n";

/// 2026-03-20T12:00:00Z.
pub(super) const NOW: Timestamp = Timestamp::from_micros(1_774_008_000_000_000);

pub(super) fn at(seconds: i64) -> Timestamp {
    Timestamp::from_micros(NOW.as_micros() + seconds * 1_000_000)
}

/// A store in a directory of its own, and a second connection that looks behind it.
pub(super) struct Kit {
    pub(super) store: SqliteStore,
    pub(super) dir: TempDir,
    raw: SqliteConnection,
}

impl Kit {
    pub(super) async fn new() -> Self {
        let dir = TempDir::new().unwrap();
        let store = SqliteStore::open(dir.path(), SqliteOptions::default())
            .await
            .unwrap();
        let raw = raw(dir.path()).await;
        Self { store, dir, raw }
    }

    /// With `yaml` seeded at [`NOW`].
    pub(super) async fn seeded(yaml: &str) -> (Self, Vec<SeededAgent>) {
        let kit = Self::new().await;
        let agents = kit.seed(yaml, NOW).await.unwrap();
        (kit, agents)
    }

    pub(super) async fn seed(&self, yaml: &str, now: Timestamp) -> Result<Vec<SeededAgent>, StoreError> {
        self.store
            .seed(&Seed::parse("seed.yaml", yaml).unwrap(), now)
            .await
    }

    /// Runs SQL behind the store's back.
    pub(super) async fn sql(&mut self, sql: &str) -> Vec<SqliteRow> {
        sqlx::query(AssertSqlSafe(sql.to_owned()))
            .fetch_all(&mut self.raw)
            .await
            .unwrap()
    }

    /// The rows of a query as texts joined by `|`; NULL is `NULL`, a UUID its hexadecimal digits.
    pub(super) async fn table(&mut self, sql: &str) -> Vec<String> {
        let rows = self.sql(sql).await;
        rows.iter().map(text).collect()
    }

    pub(super) async fn integer(&mut self, sql: &str) -> i64 {
        self.sql(sql).await[0].get(0)
    }

    pub(super) async fn time(&mut self, column: &str, agent: AgentId) -> Option<Timestamp> {
        let sql = format!(
            "SELECT {column} FROM workspace_agents WHERE id = x'{}'",
            agent.0.simple()
        );
        let micros: Option<i64> = self.sql(&sql).await[0].get(0);
        micros.map(Timestamp::from_micros)
    }

    pub(super) async fn authenticates(&self, token: &AgentToken) -> bool {
        self.store.authenticate(token).await.unwrap().is_some()
    }

    pub(super) fn ran(&self, statement: &str) -> u64 {
        let statements = self.store.statements();
        statements.iter().find(|(name, _)| *name == statement).unwrap().1
    }
}

pub(super) async fn raw(dir: &Path) -> SqliteConnection {
    SqliteConnectOptions::new()
        .filename(dir.join("drpcd.db"))
        .disable_statement_logging()
        .connect()
        .await
        .unwrap()
}

fn text(row: &SqliteRow) -> String {
    let cells = (0..row.len()).map(|column| {
        if let Ok(value) = row.try_get::<Option<i64>, _>(column) {
            value.map_or("NULL".to_owned(), |value| value.to_string())
        } else if let Ok(value) = row.try_get::<String, _>(column) {
            value
        } else if let Ok(value) = row.try_get::<f64, _>(column) {
            value.to_string()
        } else {
            row.get::<Uuid, _>(column).simple().to_string()
        }
    });
    cells.collect::<Vec<_>>().join("|")
}
