//! Connections to one database file: a single writer, a few readers.
//!
//! Owns what may run at the same time, what happens to a connection whose transaction did not end, and what is known of
//! the file's health. Knows no table.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection, SqliteRow};
use sqlx::{ConnectOptions as _, Connection as _};
use tokio::sync::{Semaphore, SemaphorePermit};

use super::error::{is_read_only, store_error};
use super::health::Health;
use super::value::query;
use crate::store::StoreError;
use crate::store::sql::database::Done;
use crate::store::sql::value::Value;

/// Connections of one kind. At most `limit` exist; further callers wait in order of arrival, and how long is theirs to
/// bound: dropping the wait is safe.
struct Slots {
    limit: u32,
    permits: Semaphore,
    idle: Mutex<Vec<SqliteConnection>>,
    options: SqliteConnectOptions,
    /// Connections opened so far, so that state kept per connection is known to be of another one.
    opened: AtomicU64,
    /// Whether these connections write.
    writes: bool,
    health: Arc<Health>,
}

impl Slots {
    fn new(limit: u32, options: SqliteConnectOptions, writes: bool, health: Arc<Health>) -> Self {
        Self {
            limit,
            permits: Semaphore::new(limit as usize),
            idle: Mutex::new(Vec::new()),
            options,
            opened: AtomicU64::new(0),
            writes,
            health,
        }
    }

    fn idle(&self) -> std::sync::MutexGuard<'_, Vec<SqliteConnection>> {
        // A list of whole connections is valid whoever panicked.
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn adopt(&self, connection: SqliteConnection) {
        self.opened.fetch_add(1, Ordering::Relaxed);
        self.idle().push(connection);
    }

    async fn acquire(&self) -> Result<Session<'_>, StoreError> {
        let permit = self.permits.acquire().await.map_err(|_| closed())?;
        self.session(permit).await
    }

    async fn session<'d>(&'d self, permit: SemaphorePermit<'d>) -> Result<Session<'d>, StoreError> {
        let idle = self.idle().pop();
        let connection = if let Some(connection) = idle {
            connection
        } else {
            let opened = self.options.connect().await;
            let connection = opened.map_err(|error| self.failed(&error))?;
            self.opened.fetch_add(1, Ordering::Relaxed);
            connection
        };
        Ok(Session {
            slots: self,
            connection: Some(connection),
            unfinished: false,
            written: false,
            lost: false,
            _permit: permit,
        })
    }

    /// The store's word for an error, of which the file's health takes note.
    fn failed(&self, error: &sqlx::Error) -> StoreError {
        let answer = store_error(error);
        self.health.failed(self.writes, error, &answer);
        answer
    }

    /// Waits for every session, then closes the connections.
    async fn close(&self) {
        let all = self.permits.acquire_many(self.limit).await;
        self.permits.close();
        drop(all);
        let idle = std::mem::take(&mut *self.idle());
        for connection in idle {
            if let Err(error) = connection.close().await {
                tracing::debug!(error = %store_error(&error), "closing a database connection failed");
            }
        }
    }
}

/// One database file.
pub(in crate::store) struct Database {
    writer: Slots,
    readers: Slots,
    health: Arc<Health>,
}

impl fmt::Debug for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Database").finish_non_exhaustive()
    }
}

impl Database {
    /// `writer` is the connection that migrated the file; others are opened with `options` when they are needed.
    pub(super) fn new(
        writer: SqliteConnection,
        writer_options: SqliteConnectOptions,
        reader_options: SqliteConnectOptions,
        readers: u32,
    ) -> Self {
        let health = Arc::new(Health::new(writer_options.get_filename().to_owned()));
        let slot = Slots::new(1, writer_options, true, Arc::clone(&health));
        slot.adopt(writer);
        Self {
            writer: slot,
            readers: Slots::new(readers, reader_options, false, Arc::clone(&health)),
            health,
        }
    }

    /// A connection for reading; statements on it see one snapshot each.
    pub(in crate::store) async fn read(&self) -> Result<Session<'_>, StoreError> {
        self.readers.acquire().await
    }

    /// A connection for reading whose statements all see the same snapshot; must be finished.
    pub(in crate::store) async fn snapshot(&self) -> Result<Session<'_>, StoreError> {
        let mut session = self.read().await?;
        session.begin("BEGIN").await?;
        Ok(session)
    }

    /// The writing connection, for one statement that is a transaction of its own.
    pub(in crate::store) async fn write(&self) -> Result<Session<'_>, StoreError> {
        self.writer.acquire().await
    }

    /// The writing connection within a transaction that holds the database's write lock; must be finished.
    pub(in crate::store) async fn transaction(&self) -> Result<Session<'_>, StoreError> {
        let mut session = self.write().await?;
        session.begin("BEGIN IMMEDIATE").await?;
        Ok(session)
    }

    /// Succeeds unless it is known that nothing can be written. While that is so, whoever finds the writing connection
    /// free tries again; the others are told at once, so that nobody queues up behind a store that is away.
    pub(in crate::store) async fn expect_writable(&self) -> Result<(), StoreError> {
        let Some(error) = self.write_error() else {
            return Ok(());
        };
        match self.writer.permits.try_acquire() {
            Ok(permit) => self.writer.session(permit).await?.probe().await,
            Err(_) => Err(error),
        }
    }

    /// Why the last write failed, if none has succeeded since.
    pub(in crate::store) fn write_error(&self) -> Option<StoreError> {
        self.health.write_error()
    }

    /// Succeeds when the file takes a write, and none of it was found damaged.
    pub(in crate::store) async fn probe(&self) -> Result<(), StoreError> {
        self.health.check_intact()?;
        self.write().await?.probe().await
    }

    /// Waits for running sessions and closes the file.
    pub(in crate::store) async fn close(&self) {
        self.readers.close().await;
        // SQLite does this when the last connection is closed; one that was given up may be a moment late for it, and then
        // the file by itself would not be whole. What stands in the way is not waited for.
        if let Ok(mut session) = self.write().await
            && let Err(error) = session.pragma("PRAGMA wal_checkpoint(PASSIVE)").await
        {
            tracing::debug!(%error, "bringing the write-ahead log into the database failed");
        }
        self.writer.close().await;
    }
}

fn closed() -> StoreError {
    StoreError::Unavailable("the store is closed".to_owned())
}

/// The use of one connection. Dropped within a transaction (an error on the way, or the caller gave up), it takes the
/// connection with it: SQLite then rolls back, whatever state the connection was in.
pub(in crate::store) struct Session<'d> {
    slots: &'d Slots,
    /// Gone only while the session is dropped.
    connection: Option<SqliteConnection>,
    /// Within a transaction.
    unfinished: bool,
    /// The transaction has changed rows.
    written: bool,
    /// The connection is of no more use: its thread has ended, or it cannot write.
    lost: bool,
    _permit: SemaphorePermit<'d>,
}

impl Session<'_> {
    /// Runs a statement that returns no rows.
    pub(in crate::store) async fn execute(
        &mut self,
        sql: &'static str,
        arguments: Vec<Value<'_>>,
    ) -> Result<Done, StoreError> {
        let result = query(sql, arguments).execute(self.connection()?).await;
        let done = self.check(result)?;
        if done.rows_affected() > 0 {
            self.written = true;
            if !self.unfinished {
                self.stored();
            }
        }
        Ok(Done {
            rows: done.rows_affected(),
            last_id: done.last_insert_rowid(),
        })
    }

    /// Runs a statement for its first row.
    pub(in crate::store) async fn optional(
        &mut self,
        sql: &'static str,
        arguments: Vec<Value<'_>>,
    ) -> Result<Option<SqliteRow>, StoreError> {
        let result = query(sql, arguments).fetch_optional(self.connection()?).await;
        self.check(result)
    }

    /// Runs a statement for all its rows.
    pub(in crate::store) async fn all(
        &mut self,
        sql: &'static str,
        arguments: Vec<Value<'_>>,
    ) -> Result<Vec<SqliteRow>, StoreError> {
        let result = query(sql, arguments).fetch_all(self.connection()?).await;
        self.check(result)
    }

    /// A mark that moves when another process has committed: which connection for writing it is of, and its number.
    pub(in crate::store) async fn data_version(&mut self) -> Result<(u64, i64), StoreError> {
        let version = self.pragma("PRAGMA data_version").await?;
        Ok((self.slots.opened.load(Ordering::Relaxed), version))
    }

    /// Reads an integer PRAGMA.
    pub(in crate::store) async fn pragma(&mut self, sql: &'static str) -> Result<i64, StoreError> {
        let result = sqlx::query_scalar(sql).fetch_one(self.connection()?).await;
        self.check(result)
    }

    async fn begin(&mut self, sql: &'static str) -> Result<(), StoreError> {
        // Before the statement: a caller that gives up while it runs leaves a transaction behind.
        self.unfinished = true;
        let begun = self.control(sql).await;
        if matches!(begun, Err(StoreError::Unavailable(_))) && !self.lost {
            // The lock was not to be had, so there is no transaction.
            self.unfinished = false;
        }
        begun
    }

    /// Ends the transaction: commits what succeeded, undoes what failed.
    pub(in crate::store) async fn finish<T>(
        mut self,
        outcome: Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let outcome = match outcome {
            Ok(value) => self.control("COMMIT").await.map(|()| {
                self.stored();
                value
            }),
            Err(error) => Err(error),
        };
        // After some errors SQLite has rolled back by itself; then this fails and the connection is given up.
        let ended = outcome.is_ok() || self.control("ROLLBACK").await.is_ok();
        self.unfinished = !ended;
        outcome
    }

    /// Writes the header page as it is.
    async fn probe(&mut self) -> Result<(), StoreError> {
        // SQLite leaves this number to the application, and we leave it at 0.
        self.control("PRAGMA user_version = 0").await?;
        self.written = true;
        self.stored();
        Ok(())
    }

    /// Something was committed; a transaction that changed nothing says nothing.
    fn stored(&mut self) {
        if std::mem::take(&mut self.written) && self.slots.writes {
            self.slots.health.written();
        }
    }

    /// Transaction control.
    async fn control(&mut self, sql: &'static str) -> Result<(), StoreError> {
        let result = sqlx::query(sql).execute(self.connection()?).await;
        self.check(result).map(|_| ())
    }

    fn connection(&mut self) -> Result<&mut SqliteConnection, StoreError> {
        self.connection.as_mut().ok_or_else(closed)
    }

    fn check<T>(&mut self, result: Result<T, sqlx::Error>) -> Result<T, StoreError> {
        result.map_err(|error| {
            // SQLite opens what may not be written for reading, and the connection then stays so for ever.
            self.lost |=
                is_read_only(&error) || !matches!(error, sqlx::Error::Database(_) | sqlx::Error::RowNotFound);
            self.slots.failed(&error)
        })
    }
}

impl Drop for Session<'_> {
    fn drop(&mut self) {
        if let Some(connection) = self.connection.take()
            && !self.unfinished
            && !self.lost
        {
            self.slots.idle().push(connection);
        }
    }
}
