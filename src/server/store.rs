//! The store that the settings name: opening it, bringing it up to date, looking at it.

use std::time::Duration;

use crate::clock::Clock;
use crate::config::{CommonConfig, NoStorePlace, StorePlace, Synchronous};
use crate::store::postgres::notify::Notifications;
use crate::store::postgres::{
    self, CONNECTION_WAIT, PostgresError, PostgresOptions, SERVER_WAIT, VERB_LOCK_WAIT, VERB_WAIT,
};
use crate::store::sqlite::{self, OpenError, SqliteOptions};
use crate::store::{Report, SchemaStep, SqlStore, Store as _, Tables};

/// Why the store could not be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenStoreError {
    /// The settings name none.
    #[error(transparent)]
    NotNamed(#[from] NoStorePlace),
    /// The file cannot be opened.
    #[error(transparent)]
    Sqlite(#[from] OpenError),
    /// The database cannot be opened.
    #[error(transparent)]
    Postgres(#[from] PostgresError),
}

/// The way to the other servers on the store that a configuration names, where there can be any.
pub(super) fn notifications(config: &CommonConfig) -> Result<Option<Notifications>, OpenStoreError> {
    match config.store_place() {
        Ok(StorePlace::Postgres { url, .. }) => Ok(Some(postgres::notifications(url)?)),
        _ => Ok(None),
    }
}

/// How long a Postgres database is waited for.
#[derive(Clone, Copy)]
struct Waits {
    /// For each answer.
    answer: Duration,
    /// For another process that migrates it.
    lock: Option<Duration>,
}

/// A server has nothing to do without its schema.
const SERVER: Waits = Waits {
    answer: SERVER_WAIT,
    lock: None,
};

const VERB: Waits = Waits {
    answer: VERB_WAIT,
    lock: Some(VERB_LOCK_WAIT),
};

/// Opens the store that a configuration names, for a server.
pub(super) async fn open_to_serve(config: &CommonConfig, clock: &Clock) -> Result<SqlStore, OpenStoreError> {
    let migrate = config.auto_migrate;
    open(config, config.store_place()?, migrate, SERVER, clock).await
}

/// Opens the store that a configuration names, for a verb: what it asks of a store that is away fails soon.
pub async fn open_store(config: &CommonConfig, clock: &Clock) -> Result<SqlStore, OpenStoreError> {
    let migrate = config.auto_migrate;
    open(config, config.store_place()?, migrate, VERB, clock).await
}

async fn open(
    config: &CommonConfig,
    place: StorePlace<'_>,
    migrate: bool,
    waits: Waits,
    clock: &Clock,
) -> Result<SqlStore, OpenStoreError> {
    match place {
        StorePlace::Directory(directory) => {
            let options = SqliteOptions {
                synchronous: match config.sqlite_synchronous {
                    Synchronous::Normal => sqlite::Synchronous::Normal,
                    Synchronous::Full => sqlite::Synchronous::Full,
                },
                migrate,
                ..SqliteOptions::default()
            };
            Ok(sqlite::open(directory, options).await?)
        }
        StorePlace::Postgres { url, expected } => {
            let options = PostgresOptions {
                url: url.clone(),
                max_connections: config.postgres_conn_max_open,
                max_idle: config.postgres_conn_max_idle.of(config.postgres_conn_max_open),
                connection_wait: CONNECTION_WAIT,
                wait: waits.answer,
                lock_wait: waits.lock,
                migrate,
                expected,
            };
            Ok(postgres::open(&options, clock.clone()).await?)
        }
    }
}

/// Brings the schema of the store up to date, if it is ours.
pub async fn migrate_store(config: &CommonConfig, clock: &Clock) -> Result<(), OpenStoreError> {
    let place = match config.store_place()? {
        StorePlace::Postgres { url, .. } => StorePlace::Postgres {
            url,
            expected: Some(Tables::Own),
        },
        directory @ StorePlace::Directory(_) => directory,
    };
    open(config, place, true, VERB, clock).await?.close().await;
    Ok(())
}

/// The steps of our schema, made or not, in a store where nothing is written.
pub async fn store_migrations(
    config: &CommonConfig,
    clock: &Clock,
) -> Result<Vec<SchemaStep>, OpenStoreError> {
    Ok(match config.store_place()? {
        StorePlace::Directory(directory) => sqlite::migrations(directory).await?,
        StorePlace::Postgres { url, .. } => postgres::migrations(url, clock).await?,
    })
}

/// What is where the store should be, where nothing is written. It fails when nobody answers there.
pub async fn examine_store(config: &CommonConfig, clock: &Clock) -> Result<Report, OpenStoreError> {
    let place = config.store_place()?;
    let mut report = match place {
        StorePlace::Directory(directory) => sqlite::examine(directory).await?,
        StorePlace::Postgres { url, .. } => postgres::examine(url, clock).await?,
    };
    if let StorePlace::Postgres {
        expected: Some(expected),
        ..
    } = place
        && !report.tables.are(expected)
    {
        report.missing = vec![format!(
            "tables: {} instead of {}",
            report.tables,
            expected.as_str()
        )];
    }
    Ok(report)
}
