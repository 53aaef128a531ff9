//! Opening the database file: directory, file mode, connection settings, migrations, and errors that name the path.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use sqlx::migrate::{MigrateError, Migration, MigrationType, Migrator};
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqliteSynchronous};
use sqlx::{ConnectOptions as _, Connection as _, SqlSafeStr as _};

use super::error::{NOTADB, is_busy, primary_code, store_error};
use super::look::{self, Looked};
use crate::store::schema::{self, Found};

/// Name of the database within the data directory.
pub(in crate::store) const FILE_NAME: &str = "drpcd.db";

/// How long a statement waits for another process's write lock. With the answer it stays within the 2 s in which REST
/// calls and verbs must fail when the store is away.
pub(super) const LOCK_TIMEOUT: Duration = Duration::from_millis(1_500);

/// Tries to open a file that another process is just creating, and the pause between them: SQLite does not wait by
/// itself while the journal mode changes. Together [`LOCK_TIMEOUT`].
const OPEN_ATTEMPTS: u32 = 30;
const OPEN_PAUSE: Duration = Duration::from_millis(50);

/// Page cache of one connection in KiB: the operating system caches the file too, so this saves copies only.
const WRITER_CACHE_KIB: u32 = 1_024;
const READER_CACHE_KIB: u32 = 256;

/// Prepared statements kept by one connection: more than the statements that any connection runs.
const STATEMENT_CACHE: usize = 128;

/// Bytes to which the write-ahead log is cut back after a large transaction.
const JOURNAL_SIZE_LIMIT: u32 = 16 << 20;

/// Whether a commit survives a power loss or only the end of the process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Synchronous {
    /// A commit survives the process; a power loss may undo the last ones.
    #[default]
    Normal,
    /// A commit survives a power loss, at the cost of one disk flush each.
    Full,
}

/// How a database file is opened.
#[derive(Clone, Copy, Debug)]
pub struct SqliteOptions {
    /// What a commit survives.
    pub synchronous: Synchronous,
    /// Pages of 4 KiB to which the file may grow; `None` is SQLite's own limit.
    pub max_pages: Option<u32>,
    /// Whether the schema is brought up to date; otherwise one that is not is an error.
    pub migrate: bool,
}

impl Default for SqliteOptions {
    fn default() -> Self {
        Self {
            synchronous: Synchronous::default(),
            max_pages: None,
            migrate: true,
        }
    }
}

/// Why a store could not be opened. The text names the path and the reason.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The data directory does not exist and could not be created.
    #[error("cannot create data directory {}: {source}", path.display())]
    CreateDirectory {
        /// The directory.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// The database file could not be created or opened for writing.
    #[error("cannot open database {} for writing: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// The file is something else than a SQLite database.
    #[error("cannot open database {}: the file is not a SQLite database", path.display())]
    NotADatabase {
        /// The file.
        path: PathBuf,
    },
    /// The schema is older than this program, which may not bring it up to date.
    #[error(
        "the schema of database {} is not up to date (`drpcd migrate up` changes that):\n  {}",
        path.display(),
        missing.join("\n  ")
    )]
    NotMigrated {
        /// The file.
        path: PathBuf,
        /// The migrations.
        missing: Vec<String>,
    },
    /// The tables are not ours; they are left alone.
    #[error("cannot open database {}: it has {found}", path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
        /// Whose they are.
        found: Found,
    },
    /// The schema is of a newer program.
    #[error(
        "cannot open database {}: its schema has version {version}, which this program does not know; \
         it was written by a newer one",
        path.display()
    )]
    NewerSchema {
        /// The file.
        path: PathBuf,
        /// The unknown version.
        version: i64,
    },
    /// The database refused.
    #[error("cannot open database {}: {reason}", path.display())]
    Database {
        /// The file.
        path: PathBuf,
        /// SQLite's reason.
        reason: String,
    },
}

/// A migrated database file.
pub(super) struct Opened {
    pub(super) writer: SqliteConnection,
    pub(super) writer_options: SqliteConnectOptions,
    pub(super) reader_options: SqliteConnectOptions,
}

pub(super) async fn open(dir: &Path, options: SqliteOptions) -> Result<Opened, OpenError> {
    let path = dir.join(FILE_NAME);
    if !options.migrate {
        expect_migrated(dir, &path).await?;
    }
    create_directory(dir)?;
    create_file(&path).map_err(|source| OpenError::File {
        path: path.clone(),
        source,
    })?;
    let writer_options = connect_options(&path, options, WRITER_CACHE_KIB);
    let reader_options = connect_options(&path, options, READER_CACHE_KIB).pragma("query_only", "ON");
    let mut writer = connect(&writer_options)
        .await
        .map_err(|error| refused(&path, &error))?;
    let found = look::found(&mut writer).await;
    let found = found.map_err(|error| refused(&path, &error))?;
    if let Found::Foreign(_) = found {
        return Err(OpenError::Foreign { path, found });
    }
    migrate(&mut writer).await.map_err(|error| match error {
        MigrateError::VersionMissing(version) => OpenError::NewerSchema {
            path: path.clone(),
            version,
        },
        MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _) => refused(&path, &error),
        other => OpenError::Database {
            path: path.clone(),
            reason: other.to_string(),
        },
    })?;
    Ok(Opened {
        writer,
        writer_options,
        reader_options,
    })
}

/// Looks before anything is made or changed.
async fn expect_migrated(dir: &Path, path: &Path) -> Result<(), OpenError> {
    match Looked::at(dir).await? {
        Some(mut file) => file.expect_migrated().await,
        None => Err(OpenError::NotMigrated {
            path: path.to_owned(),
            missing: schema::unmigrated(&schema::migrations(&migrator(), &[])).collect(),
        }),
    }
}

/// A connection that writes into a file which exists.
pub(in crate::store) async fn connect_for_writing(dir: &Path) -> Result<SqliteConnection, OpenError> {
    let path = dir.join(FILE_NAME);
    let options = connect_options(&path, SqliteOptions::default(), WRITER_CACHE_KIB);
    connect(&options).await.map_err(|error| refused(&path, &error))
}

fn create_directory(dir: &Path) -> Result<(), OpenError> {
    // Private, for the database holds tokens.
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .map_err(|source| OpenError::CreateDirectory {
            path: dir.to_owned(),
            source,
        })
}

/// Creates the file before SQLite does, so that it is private from the start; SQLite's side files follow its mode.
fn create_file(path: &Path) -> io::Result<()> {
    let file = fs::OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)?;
    let mode = file.metadata()?.permissions().mode();
    if mode & 0o077 != 0 {
        file.set_permissions(fs::Permissions::from_mode(mode & !0o077))?;
    }
    Ok(())
}

fn connect_options(path: &Path, options: SqliteOptions, cache_kib: u32) -> SqliteConnectOptions {
    let connect = SqliteConnectOptions::new()
        .filename(path)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(match options.synchronous {
            Synchronous::Normal => SqliteSynchronous::Normal,
            Synchronous::Full => SqliteSynchronous::Full,
        })
        .busy_timeout(LOCK_TIMEOUT)
        .statement_cache_capacity(STATEMENT_CACHE)
        .pragma("cache_size", format!("-{cache_kib}"))
        .pragma("journal_size_limit", JOURNAL_SIZE_LIMIT.to_string())
        .pragma("temp_store", "MEMORY")
        .disable_statement_logging();
    match options.max_pages {
        Some(pages) => connect.pragma("max_page_count", pages.to_string()),
        None => connect,
    }
}

async fn connect(options: &SqliteConnectOptions) -> Result<SqliteConnection, sqlx::Error> {
    let mut attempt = 1;
    loop {
        match options.connect().await {
            Err(error) if is_busy(&error) && attempt < OPEN_ATTEMPTS => {
                attempt += 1;
                tokio::time::sleep(OPEN_PAUSE).await;
            }
            result => return result,
        }
    }
}

/// Brings the schema up to date under the database's exclusive lock, so that two processes cannot both do it.
async fn migrate(connection: &mut SqliteConnection) -> Result<(), MigrateError> {
    let mut transaction = connection.begin_with("BEGIN EXCLUSIVE").await?;
    // Not `run`, whose future is not Send when it is handed a connection.
    migrator().run_direct(None, &mut *transaction, false).await?;
    transaction.commit().await?;
    Ok(())
}

pub(super) fn migrator() -> Migrator {
    let initial = Migration::new(
        1,
        "initial".into(),
        MigrationType::Simple,
        include_str!("migrations/0001_initial.sql").into_sql_str(),
        false,
    );
    let notification_templates = Migration::new(
        3,
        "notification templates".into(),
        MigrationType::Simple,
        include_str!("migrations/0003_notification_templates.sql").into_sql_str(),
        false,
    );
    let mut migrator = Migrator::with_migrations(vec![initial, notification_templates]);
    migrator.dangerous_set_table_name("drpcd_migrations");
    migrator
}

pub(super) fn refused(path: &Path, error: &sqlx::Error) -> OpenError {
    let path = path.to_owned();
    if primary_code(error) == Some(NOTADB) {
        return OpenError::NotADatabase { path };
    }
    OpenError::Database {
        path,
        reason: store_error(error).to_string(),
    }
}
