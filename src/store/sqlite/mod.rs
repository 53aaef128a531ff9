//! The SQLite engine: one file, one writer, nothing to install.
//!
//! Owns the database file, its connections and migrations. All writes go through one connection, so they never wait for
//! each other's locks; reads go through a few others and, the journal being a WAL, never wait for the writer.
//!
//! A batch of many rows is one statement: its rows travel as one JSON text and are taken apart by `json_each`.

mod agent;
mod auth;
mod batch;
mod connections;
mod error;
mod events;
mod logs;
mod migrate;
mod seed;
mod statement;
#[cfg(test)]
mod tests;

use std::fs;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicI64;
use std::time::Duration;

use async_trait::async_trait;
use sqlx::SqlitePool;
use sqlx::sqlite::{
    SqliteAutoVacuum, SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous,
};

pub use self::migrate::SCHEMA_VERSION;
use self::statement::Counters;
use super::{
    Agent, AgentStat, Authenticated, ConnectionChange, LifecycleUpdate, LogBatch, LogSource, LogsInserted,
    ManifestParts, MetadataValue, Monitors, SeededAgent, StartupUpdate, Store, StoreError, StoredEvent,
    Workspace,
};
use crate::clock::Timestamp;
use crate::ids::{AgentId, AgentToken, BuildId, ReplicaId, WorkspaceId};

/// Name of the database file in the data directory.
const FILE_NAME: &str = "drpcd.db";

/// Connections that read. Reads are short and mostly at session start; each connection is a thread and a page cache.
const READERS: u32 = 2;

/// How long a statement waits for a lock that another process holds, and for a free connection. What takes longer
/// counts as the store being away.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// Page cache of one connection in KiB (negative is SQLite's way to say KiB).
const CACHE_SIZE: &str = "-4096";

/// Prepared statements that a connection keeps; there are fewer than that.
const STATEMENT_CACHE: usize = 128;

/// How much a commit survives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Durability {
    /// A crash of the process. After a power loss the last commits may be missing; the file is never damaged.
    #[default]
    Process,
    /// A loss of power too, for one sync of the disk per commit.
    PowerLoss,
}

/// Why a database could not be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The directory could not be made or written to.
    #[error("data directory {path}: {source}", path = path.display())]
    Directory {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file could not be opened as a database.
    #[error("database {path}: {source}", path = path.display())]
    Database {
        /// Which.
        path: PathBuf,
        /// Why.
        source: StoreError,
    },
    /// A newer drpcd has written the file.
    #[error("database {path} has schema version {found}, this program knows {SCHEMA_VERSION}", path = path.display())]
    Newer {
        /// Which.
        path: PathBuf,
        /// Its version.
        found: i64,
    },
}

/// A store in one SQLite file.
#[derive(Debug)]
pub struct SqliteStore {
    writer: SqlitePool,
    readers: SqlitePool,
    counters: Counters,
    /// Id of the last event that [`Store::take_events`] has seen.
    last_event: AtomicI64,
    /// `PRAGMA data_version` at that time.
    data_version: AtomicI64,
}

impl SqliteStore {
    /// Opens the database in `directory`, making both if need be, and brings its schema up to date.
    pub async fn open(directory: &Path, durability: Durability) -> Result<Self, OpenError> {
        let path = prepare_file(directory)?;
        let options = options(&path, durability);
        let failed = |source: sqlx::Error| OpenError::Database {
            path: path.clone(),
            source: source.into(),
        };

        let writer = pool(1).connect_with(options.clone()).await.map_err(failed)?;
        migrate::run(&writer, &path).await?;
        let readers = pool(READERS).connect_lazy_with(options.optimize_on_close(false, None));

        let store = Self {
            writer,
            readers,
            counters: Counters::default(),
            last_event: AtomicI64::new(0),
            data_version: AtomicI64::new(-1),
        };
        store.skip_events().await.map_err(|source| OpenError::Database {
            path: path.clone(),
            source,
        })?;
        Ok(store)
    }
}

/// Makes the directory and the file. The file holds secrets, so only its owner may read it; SQLite gives its journal the
/// same mode.
fn prepare_file(directory: &Path) -> Result<PathBuf, OpenError> {
    let failed = |source| OpenError::Directory {
        path: directory.to_owned(),
        source,
    };
    fs::create_dir_all(directory).map_err(failed)?;
    let path = directory.join(FILE_NAME);
    let file = fs::OpenOptions::new()
        .read(true)
        .append(true)
        .create(true)
        .mode(0o600)
        .open(&path)
        .map_err(failed)?;
    let mode = file.metadata().map_err(failed)?.permissions().mode();
    if mode & 0o077 != 0 {
        tracing::warn!(path = %path.display(), "the database holds secrets and can be read by others");
    }
    Ok(path)
}

fn options(path: &Path, durability: Durability) -> SqliteConnectOptions {
    SqliteConnectOptions::new()
        .filename(path)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(match durability {
            Durability::Process => SqliteSynchronous::Normal,
            Durability::PowerLoss => SqliteSynchronous::Full,
        })
        .auto_vacuum(SqliteAutoVacuum::Incremental)
        .foreign_keys(true)
        .busy_timeout(BUSY_TIMEOUT)
        .pragma("cache_size", CACHE_SIZE)
        .statement_cache_capacity(STATEMENT_CACHE)
}

fn pool(connections: u32) -> SqlitePoolOptions {
    SqlitePoolOptions::new()
        .max_connections(connections)
        .acquire_timeout(BUSY_TIMEOUT)
        .idle_timeout(None)
        .max_lifetime(None)
        .test_before_acquire(false)
}

/// Each method stands in the file that its table group has.
#[async_trait]
impl Store for SqliteStore {
    async fn authenticate(&self, token: &AgentToken) -> Result<Option<Authenticated>, StoreError> {
        self.authenticate(token).await
    }

    async fn outdated_builds(&self, builds: &[BuildId]) -> Result<Vec<BuildId>, StoreError> {
        self.outdated_builds(builds).await
    }

    async fn agent(&self, agent: AgentId) -> Result<Agent, StoreError> {
        self.agent(agent).await
    }

    async fn workspace_by_agent(&self, agent: AgentId) -> Result<Workspace, StoreError> {
        self.workspace_by_agent(agent).await
    }

    async fn workspaces(&self, ids: &[WorkspaceId]) -> Result<Vec<Workspace>, StoreError> {
        self.workspaces(ids).await
    }

    async fn manifest_parts(&self, agent: AgentId) -> Result<ManifestParts, StoreError> {
        self.manifest_parts(agent).await
    }

    async fn monitors(&self, agent: AgentId) -> Result<Monitors, StoreError> {
        self.monitors(agent).await
    }

    async fn site_config(&self, key: &str) -> Result<Option<String>, StoreError> {
        self.site_config(key).await
    }

    async fn update_startup(
        &self,
        agent: AgentId,
        update: &StartupUpdate,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        self.update_startup(agent, update, now).await
    }

    async fn update_lifecycle(
        &self,
        agent: AgentId,
        update: &LifecycleUpdate,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        self.update_lifecycle(agent, update, now).await
    }

    async fn insert_log_source(&self, source: &LogSource) -> Result<(), StoreError> {
        self.insert_log_source(source).await
    }

    async fn insert_logs(&self, batch: &LogBatch) -> Result<LogsInserted, StoreError> {
        self.insert_logs(batch).await
    }

    async fn set_logs_overflowed(&self, agent: AgentId) -> Result<(), StoreError> {
        self.set_logs_overflowed(agent).await
    }

    async fn insert_stats(&self, stats: &[AgentStat]) -> Result<(), StoreError> {
        self.insert_stats(stats).await
    }

    async fn update_metadata(&self, values: &[MetadataValue]) -> Result<(), StoreError> {
        self.update_metadata(values).await
    }

    async fn record_connects(
        &self,
        replica: ReplicaId,
        changes: &[ConnectionChange],
    ) -> Result<(), StoreError> {
        self.record_connects(replica, changes).await
    }

    async fn record_heartbeats(
        &self,
        replica: ReplicaId,
        agents: &[AgentId],
        at: Timestamp,
    ) -> Result<(), StoreError> {
        self.record_heartbeats(replica, agents, at).await
    }

    async fn record_disconnects(
        &self,
        replica: ReplicaId,
        changes: &[ConnectionChange],
    ) -> Result<(), StoreError> {
        self.record_disconnects(replica, changes).await
    }

    async fn seed(&self, seed: &crate::seed::Seed, now: Timestamp) -> Result<Vec<SeededAgent>, StoreError> {
        self.seed(seed, now).await
    }

    async fn take_events(&self) -> Result<Vec<StoredEvent>, StoreError> {
        self.take_events().await
    }

    async fn prune_events(&self, before: Timestamp) -> Result<(), StoreError> {
        self.prune_events(before).await
    }

    async fn ping(&self) -> Result<(), StoreError> {
        self.ping().await
    }

    fn statements(&self) -> Vec<(&'static str, u64)> {
        self.counters.all()
    }

    async fn close(&self) {
        self.readers.close().await;
        self.writer.close().await;
    }
}
