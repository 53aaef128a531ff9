//! Copies a store from one engine to the other: every table of our schema, whole or not at all.
//!
//! Owns what is copied and in which order, and that nothing is lost on the way. The source is read in one snapshot and never
//! written; the target is filled in one transaction, and must be empty before. What a row means is not known here: a
//! column is moved by its type, in SQLite's form of values.

mod plan;
mod postgres;
mod sqlite;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

use futures_util::TryStreamExt as _;
use futures_util::stream::BoxStream;
use sqlx::Connection as _;
use sqlx::postgres::PgConnection;
use sqlx::sqlite::SqliteConnection;

use self::plan::{Plan, Table};
use super::StoreError;
use super::postgres::{PostgresError, Reached};
use super::sqlite::look::Looked;
use super::sqlite::{FILE_NAME, OpenError};
use crate::clock::Clock;
use crate::secret::Secret;

/// Rows that one statement writes.
const ROWS_PER_STATEMENT: usize = 1_000;

/// And their bytes, about: a table of long texts costs no more memory than one of numbers.
const BYTES_PER_STATEMENT: usize = 4 << 20;

/// Tables whose rows are not part of what is kept: they are about processes that run now.
const PASSING: [&str; 4] = [
    "drpcd_events",
    "tailnet_coordinators",
    "tailnet_peers",
    "tailnet_tunnels",
];

/// A table that migrations fill; its rows in the target give way to those of the source.
const PREFILLED: &str = "notification_templates";

/// Where a copy begins or ends.
#[derive(Clone, Debug)]
pub enum End {
    /// The file in this directory.
    Sqlite(PathBuf),
    /// The database at this URL.
    Postgres(Secret),
}

impl End {
    /// Reads `sqlite://PATH`, of a data directory or of the file in it, or `postgres://…`.
    pub fn parse(text: &Secret) -> Option<Self> {
        if let Some(path) = text.reveal().strip_prefix("sqlite://") {
            let path = Path::new(path);
            let directory = match path.file_name() {
                Some(name) if name == FILE_NAME => path.parent().unwrap_or(path),
                _ => path,
            };
            return (!path.as_os_str().is_empty()).then(|| Self::Sqlite(directory.to_owned()));
        }
        let (scheme, _) = text.reveal().split_once("://")?;
        matches!(scheme, "postgres" | "postgresql").then(|| Self::Postgres(text.clone()))
    }
}

/// What was copied of one table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CopiedTable {
    /// Its name.
    pub table: String,
    /// Rows, as many in the source as in the target.
    pub rows: u64,
}

/// Why nothing was copied.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CopyError {
    /// Neither this way nor back.
    #[error("a copy goes from sqlite://PATH to postgres://…, or back")]
    Engines,
    /// There is no file.
    #[error("{} does not exist", path.display())]
    NoFile {
        /// Where it should be.
        path: PathBuf,
    },
    /// A file cannot be opened.
    #[error(transparent)]
    OpenSqlite(#[from] OpenError),
    /// A database cannot be reached, or is not ours.
    #[error(transparent)]
    OpenPostgres(#[from] PostgresError),
    /// The source does not answer as it should.
    #[error("cannot read the source: {0}")]
    Source(StoreError),
    /// The target does not answer as it should.
    #[error("cannot write the target: {0}")]
    Target(StoreError),
    /// Somebody has used the target, or does.
    #[error("the target is not empty: table {table} has rows")]
    NotEmpty {
        /// The first such table.
        table: String,
    },
    /// The schemas do not fit, although both are up to date.
    #[error("table {table}: {what}")]
    Shape {
        /// Whose.
        table: String,
        /// The difference.
        what: String,
    },
    /// The source holds something that its schema does not allow.
    #[error("table {table}: column {column} holds a value that it cannot hold")]
    Value {
        /// Whose.
        table: String,
        /// Which.
        column: String,
    },
    /// Rows were lost, or came from nowhere.
    #[error("table {table}: {source_rows} rows in the source, {target_rows} in the target")]
    Count {
        /// Whose.
        table: String,
        /// In the source.
        source_rows: u64,
        /// In the target.
        target_rows: u64,
    },
}

fn reading(error: impl Into<StoreError>) -> CopyError {
    CopyError::Source(error.into())
}

fn writing(error: impl Into<StoreError>) -> CopyError {
    CopyError::Target(error.into())
}

/// A value, in the form in which SQLite keeps it: ids as 16 bytes, times as microseconds, lists and objects as JSON.
#[derive(Clone, Debug, PartialEq)]
enum Cell {
    Null,
    Integer(i64),
    Real(f64),
    Text(String),
    Bytes(Vec<u8>),
}

impl Cell {
    /// Bytes of memory, about.
    fn size(&self) -> usize {
        let owned = match self {
            Self::Text(text) => text.len(),
            Self::Bytes(bytes) => bytes.len(),
            Self::Null | Self::Integer(_) | Self::Real(_) => 0,
        };
        size_of::<Self>() + owned
    }
}

type Row = Vec<Cell>;
type Rows<'c> = BoxStream<'c, Result<Row, CopyError>>;

/// Copies what is in one store into another, which is empty, both of our newest schema, and says what it was.
///
/// Whatever fails, the target is as it was.
pub async fn copy(from: &End, to: &End, clock: &Clock) -> Result<Vec<CopiedTable>, CopyError> {
    match (from, to) {
        (End::Sqlite(directory), End::Postgres(url)) => {
            let mut source = file(directory).await?;
            let mut target = database(url, clock).await?;
            let copied = sqlite_to_postgres(&mut source.connection, &mut target.connection).await;
            source.close().await;
            target.close().await;
            copied
        }
        (End::Postgres(url), End::Sqlite(directory)) => {
            let mut source = database(url, clock).await?;
            file(directory).await?.close().await;
            let mut target = super::sqlite::connect_for_writing(directory).await?;
            let copied = postgres_to_sqlite(&mut source.connection, &mut target).await;
            source.close().await;
            // What was committed is in the file, whatever closing it says.
            let _ = target.close().await;
            copied
        }
        _ => Err(CopyError::Engines),
    }
}

async fn file(directory: &Path) -> Result<Looked, CopyError> {
    let mut file = Looked::at(directory).await?.ok_or_else(|| CopyError::NoFile {
        path: directory.join(FILE_NAME),
    })?;
    file.expect_migrated().await?;
    Ok(file)
}

async fn database(url: &Secret, clock: &Clock) -> Result<Reached, CopyError> {
    let mut database = Reached::at(url, clock).await?;
    database.expect_migrated().await?;
    Ok(database)
}

async fn sqlite_to_postgres(
    source: &mut SqliteConnection,
    target: &mut PgConnection,
) -> Result<Vec<CopiedTable>, CopyError> {
    let plan = Plan::read(target).await.map_err(writing)?;
    sqlite::begin_reading(source).await.map_err(reading)?;
    let copied = into_postgres(&plan, source, target).await;
    // Only read from: there is nothing to keep.
    let _ = sqlite::end(source, "ROLLBACK").await;
    let end = if copied.is_ok() { "COMMIT" } else { "ROLLBACK" };
    let ended = postgres::end(target, end).await.map_err(writing);
    let copied = copied?;
    ended.map(|()| copied)
}

async fn into_postgres(
    plan: &Plan,
    source: &mut SqliteConnection,
    target: &mut PgConnection,
) -> Result<Vec<CopiedTable>, CopyError> {
    let shapes = sqlite::columns(source).await.map_err(reading)?;
    plan.compare(&shapes)?;
    postgres::begin_writing(target).await.map_err(writing)?;
    for table in &plan.tables {
        if table.name != PREFILLED && postgres::count(target, table).await.map_err(writing)? > 0 {
            return Err(CopyError::NotEmpty {
                table: table.name.clone(),
            });
        }
    }
    postgres::clear(target, PREFILLED).await.map_err(writing)?;
    let mut copied = Vec::new();
    for table in plan.kept() {
        let mut rows = sqlite::rows(source, table);
        while let Some(batch) = next_batch(&mut rows).await? {
            let written = postgres::insert(target, table, &batch).await;
            written.map_err(writing)?;
        }
        drop(rows);
        let source_rows = sqlite::count(source, table).await.map_err(reading)?;
        let target_rows = postgres::count(target, table).await.map_err(writing)?;
        copied.push(verified(table, source_rows, target_rows)?);
    }
    for (table, column, last) in sqlite::sequences(source).await.map_err(reading)? {
        let moved = postgres::move_sequence(target, &table, &column, last).await;
        moved.map_err(writing)?;
    }
    postgres::finish_writing(target).await.map_err(writing)?;
    Ok(copied)
}

async fn postgres_to_sqlite(
    source: &mut PgConnection,
    target: &mut SqliteConnection,
) -> Result<Vec<CopiedTable>, CopyError> {
    postgres::begin_reading(source).await.map_err(reading)?;
    let copied = into_sqlite(source, target).await;
    // Only read from: there is nothing to keep.
    let _ = postgres::end(source, "ROLLBACK").await;
    let end = if copied.is_ok() { "COMMIT" } else { "ROLLBACK" };
    let ended = sqlite::end(target, end).await.map_err(writing);
    let copied = copied?;
    ended.map(|()| copied)
}

async fn into_sqlite(
    source: &mut PgConnection,
    target: &mut SqliteConnection,
) -> Result<Vec<CopiedTable>, CopyError> {
    let plan = Plan::read(source).await.map_err(reading)?;
    sqlite::begin_writing(target).await.map_err(writing)?;
    let shapes = sqlite::columns(target).await.map_err(writing)?;
    plan.compare(&shapes)?;
    for table in plan.kept() {
        if table.name != PREFILLED && sqlite::count(target, table).await.map_err(writing)? > 0 {
            return Err(CopyError::NotEmpty {
                table: table.name.clone(),
            });
        }
    }
    sqlite::clear(target, PREFILLED).await.map_err(writing)?;
    let mut copied = Vec::new();
    for table in plan.kept() {
        let mut rows = postgres::rows(source, table);
        while let Some(batch) = next_batch(&mut rows).await? {
            sqlite::insert(target, table, &batch).await.map_err(writing)?;
        }
        drop(rows);
        let source_rows = postgres::count(source, table).await.map_err(reading)?;
        let target_rows = sqlite::count(target, table).await.map_err(writing)?;
        copied.push(verified(table, source_rows, target_rows)?);
    }
    Ok(copied)
}

/// Rows for one statement; `None` at the end.
async fn next_batch(rows: &mut Rows<'_>) -> Result<Option<Vec<Row>>, CopyError> {
    let (mut batch, mut bytes) = (Vec::new(), 0);
    while batch.len() < ROWS_PER_STATEMENT && bytes < BYTES_PER_STATEMENT {
        let Some(row) = rows.try_next().await? else { break };
        bytes += row.iter().map(Cell::size).sum::<usize>();
        batch.push(row);
    }
    Ok((!batch.is_empty()).then_some(batch))
}

fn verified(table: &Table, source_rows: u64, target_rows: u64) -> Result<CopiedTable, CopyError> {
    let table = table.name.clone();
    if source_rows == target_rows {
        return Ok(CopiedTable {
            table,
            rows: source_rows,
        });
    }
    Err(CopyError::Count {
        table,
        source_rows,
        target_rows,
    })
}
