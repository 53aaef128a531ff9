//! The SQLite engine: one file in the data directory, nothing to install.
//!
//! One connection writes, a few read; the file is in WAL mode, so readers never wait for the writer. Several processes
//! may have it open. Owns the file, what SQLite's errors mean, and the migrations; must never hold the write lock while it
//! waits for anything but the disk.

pub(super) mod engine;
mod error;
mod health;
mod open;
mod value;

use std::path::Path;

pub(in crate::store) use self::error::store_error;
pub use self::open::{OpenError, SqliteOptions, Synchronous};
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
    SqlStore::new(Database::sqlite(database, all_statements()))
        .await
        .map_err(|error| OpenError::Database {
            path: dir.to_owned(),
            reason: error.to_string(),
        })
}
