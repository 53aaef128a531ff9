//! The SQLite engine: one file in the data directory, nothing to install.
//!
//! One connection writes, a few read; the file is in WAL mode, so readers never wait for the writer. Several processes
//! may have it open. Owns the file, what SQLite's errors mean, and the migrations; must never hold the write lock while it
//! waits for anything but the disk.

pub(super) mod engine;
mod error;
mod health;
pub(super) mod look;
mod open;
mod value;

use std::path::Path;

pub(in crate::store) use self::error::store_error;
pub(super) use self::open::{FILE_NAME, connect_for_writing};
pub use self::open::{OpenError, SqliteOptions, Synchronous};
use super::schema::{self, Report, Schema, SchemaStep};
use super::sql::SqlStore;
use super::sql::all_statements;
use super::sql::database::Database;

/// Connections for reading. Reads are short and mostly of cached pages, so more would wait for the same cores.
const READERS: u32 = 4;

/// Opens `drpcd.db` in `dir`, creates both if absent, and brings the schema up to date.
pub async fn open(dir: &Path, options: SqliteOptions) -> Result<SqlStore, OpenError> {
    let opened = open::open(dir, options).await?;
    let database = engine::Database::new(
        opened.writer,
        opened.writer_options,
        opened.reader_options,
        READERS,
    );
    SqlStore::new(Database::sqlite(database, all_statements()), Schema::Own)
        .await
        .map_err(|error| OpenError::Database {
            path: dir.to_owned(),
            reason: error.to_string(),
        })
}

/// The steps of our schema in the file in `dir`, which is not written.
pub async fn migrations(dir: &Path) -> Result<Vec<SchemaStep>, OpenError> {
    match look::Looked::at(dir).await? {
        Some(mut file) => {
            let migrations = file.migrations().await;
            file.close().await;
            migrations
        }
        None => Ok(schema::migrations(&open::migrator(), &[])),
    }
}

/// What is in `dir`, where nothing is written.
pub async fn examine(dir: &Path) -> Result<Report, OpenError> {
    look::report(dir).await
}
