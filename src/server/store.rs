//! Opening the store that the settings name.

use crate::clock::Clock;
use crate::config::{CommonConfig, StorePlace, Synchronous};
use crate::store::SqlStore;
use crate::store::postgres::notify::Notifications;
use crate::store::postgres::{self, PostgresError, PostgresOptions};
use crate::store::sqlite::{self, OpenError, SqliteOptions};

/// Why the store could not be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenStoreError {
    /// The settings name none.
    #[error("missing --data-dir (env DRPCD_DATA_DIR), or --postgres-url (env CODER_PG_CONNECTION_URL)")]
    NotNamed,
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
        Some(StorePlace::Postgres(url)) => Ok(Some(postgres::notifications(url)?)),
        _ => Ok(None),
    }
}

/// Opens the store that a configuration names.
pub async fn open_store(config: &CommonConfig, clock: &Clock) -> Result<SqlStore, OpenStoreError> {
    match config.store_place().ok_or(OpenStoreError::NotNamed)? {
        StorePlace::Directory(directory) => {
            let options = SqliteOptions {
                synchronous: match config.sqlite_synchronous {
                    Synchronous::Normal => sqlite::Synchronous::Normal,
                    Synchronous::Full => sqlite::Synchronous::Full,
                },
                ..SqliteOptions::default()
            };
            Ok(sqlite::open(directory, options).await?)
        }
        StorePlace::Postgres(url) => {
            let options = PostgresOptions {
                url: url.clone(),
                max_connections: config.postgres_conn_max_open,
                migrate: true,
            };
            Ok(postgres::open(&options, clock.clone()).await?)
        }
    }
}
