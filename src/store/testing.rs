//! A store that fails when a test says so, around a real one.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions as _, Row as _};
use tempfile::TempDir;

use super::sqlite::{SqliteOptions, SqliteStore};
use super::{
    Agent, AgentStat, Authenticated, ConnectionChange, LifecycleUpdate, LogBatch, LogSource, LogsInserted,
    ManifestParts, MetadataValue, Monitors, SeededAgent, StartupUpdate, Store, StoreError, StoredEvent,
    Workspace,
};
use crate::clock::Timestamp;
use crate::ids::{AgentId, AgentToken, BuildId, ReplicaId, WorkspaceId};
use crate::seed::Seed;

/// The repository's example, with every key of the format.
pub(crate) const EXAMPLE: &str = include_str!("../../examples/seed.yaml");

/// 2026-03-20T12:00:00Z.
pub(crate) const NOW: Timestamp = Timestamp::from_micros(1_774_008_000_000_000);

/// A real store in a directory of its own, some of whose methods fail.
#[derive(Debug)]
pub(crate) struct FaultyStore {
    real: SqliteStore,
    faults: Mutex<HashMap<&'static str, StoreError>>,
    calls: Mutex<HashMap<&'static str, usize>>,
    directory: TempDir,
}

impl FaultyStore {
    /// A store with the example seeded, and its agent.
    pub(crate) async fn seeded(seed: &str) -> (Arc<Self>, SeededAgent) {
        let directory = tempfile::tempdir().unwrap();
        let real = SqliteStore::open(directory.path(), SqliteOptions::default())
            .await
            .unwrap();
        let seed = Seed::parse("seed.yaml", seed).unwrap();
        let agent = real.seed(&seed, NOW).await.unwrap().remove(0);
        let store = Self {
            real,
            faults: Mutex::default(),
            calls: Mutex::default(),
            directory,
        };
        (Arc::new(store), agent)
    }

    /// From here on `method` fails.
    pub(crate) fn fail(&self, method: &'static str, error: StoreError) {
        self.faults.lock().unwrap().insert(method, error);
    }

    /// From here on `method` works again.
    pub(crate) fn mend(&self, method: &'static str) {
        self.faults.lock().unwrap().remove(method);
    }

    /// How often `method` was called.
    pub(crate) fn calls(&self, method: &'static str) -> usize {
        self.calls.lock().unwrap().get(method).copied().unwrap_or(0)
    }

    /// The first column of the rows of a query, as text.
    pub(crate) async fn query(&self, sql: &str) -> Vec<String> {
        let options = SqliteConnectOptions::new().filename(self.directory.path().join("drpcd.db"));
        let mut connection = options.connect().await.unwrap();
        let rows = sqlx::query(AssertSqlSafe(sql.to_owned()))
            .fetch_all(&mut connection)
            .await
            .unwrap();
        rows.iter()
            .map(|row| row.get::<Option<String>, _>(0).unwrap_or_default())
            .collect()
    }

    fn enter(&self, method: &'static str) -> Result<(), StoreError> {
        *self.calls.lock().unwrap().entry(method).or_default() += 1;
        self.faults
            .lock()
            .unwrap()
            .get(method)
            .cloned()
            .map_or(Ok(()), Err)
    }
}

macro_rules! pass {
    ($($name:ident($($argument:ident: $type:ty),*) -> $result:ty;)*) => {
        #[async_trait]
        impl Store for FaultyStore {
            $(async fn $name(&self, $($argument: $type),*) -> Result<$result, StoreError> {
                self.enter(stringify!($name))?;
                Store::$name(&self.real, $($argument),*).await
            })*

            fn statements(&self) -> Vec<(&'static str, u64)> {
                Store::statements(&self.real)
            }

            async fn close(&self) {
                Store::close(&self.real).await;
            }
        }
    };
}

pass! {
    authenticate(token: &AgentToken) -> Option<Authenticated>;
    outdated_builds(builds: &[BuildId]) -> Vec<BuildId>;
    agent(agent: AgentId) -> Agent;
    workspace_by_agent(agent: AgentId) -> Workspace;
    workspaces(ids: &[WorkspaceId]) -> Vec<Workspace>;
    manifest_parts(agent: AgentId) -> ManifestParts;
    monitors(agent: AgentId) -> Monitors;
    site_config(key: &str) -> Option<String>;
    update_startup(agent: AgentId, update: &StartupUpdate) -> ();
    update_lifecycle(agent: AgentId, update: &LifecycleUpdate) -> ();
    insert_log_source(source: &LogSource) -> ();
    insert_logs(batch: &LogBatch) -> LogsInserted;
    set_logs_overflowed(agent: AgentId) -> ();
    insert_stats(stats: &[AgentStat]) -> ();
    update_metadata(values: &[MetadataValue]) -> ();
    record_connects(replica: ReplicaId, changes: &[ConnectionChange]) -> ();
    record_heartbeats(replica: ReplicaId, agents: &[AgentId], at: Timestamp) -> ();
    record_disconnects(replica: ReplicaId, changes: &[ConnectionChange]) -> ();
    seed(seed: &Seed, now: Timestamp) -> Vec<SeededAgent>;
    take_events() -> Vec<StoredEvent>;
    prune_events(before: Timestamp) -> ();
    ping() -> ();
}
