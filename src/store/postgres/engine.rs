//! Connections to one Postgres database: a bounded pool, and what happens to a connection whose transaction did not end.
//!
//! Owns how long a statement may take and what is known of the database's readiness to write. Knows no table.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgConnection, PgRow};
use sqlx::{Postgres, Row as _};

use super::error::{ends_connection, is_damage, is_disk, is_outdated, is_read_only, store_error};
use super::pool::Pool;
use super::value::query;
use crate::clock::Clock;
use crate::store::StoreError;
use crate::store::sql::database::Done;
use crate::store::sql::value::Value;

/// Says whether the database is a standby or was set to read only.
const PROBE: &str =
    "SELECT pg_is_in_recovery() OR current_setting('transaction_read_only')::bool AS read_only";

/// The number of the lock is the text `drpcd` in hexadecimal.
const BEGIN_EXCLUSIVE: &str = "BEGIN; SELECT pg_advisory_xact_lock(x'6472706364'::bigint)";

/// One database.
#[derive(Debug)]
pub(in crate::store) struct Database {
    pool: Pool,
    /// One connection, apart from those that calls hold.
    apart: Pool,
    clock: Clock,
    /// How long a statement may take.
    limit: Duration,
    /// What keeps the database from being written, until a write succeeds.
    fault: Mutex<Option<WriteFault>>,
    /// Damaged files were logged.
    damaged: AtomicBool,
}

/// Why a write was refused that a later one may not be.
#[derive(Clone, Debug)]
struct WriteFault {
    error: StoreError,
    /// It is a standby now; otherwise its disk is full or fails.
    read_only: bool,
}

impl Database {
    /// An answer that does not come within `limit` is a connection that is dead and does not know it.
    pub(super) fn new(pool: Pool, apart: Pool, clock: Clock, limit: Duration) -> Self {
        Self {
            pool,
            apart,
            clock,
            limit,
            fault: Mutex::default(),
            damaged: AtomicBool::new(false),
        }
    }

    /// A connection; each statement on it is a transaction of its own.
    pub(in crate::store) async fn session(&self) -> Result<Session<'_>, StoreError> {
        self.session_of(&self.pool).await
    }

    /// As [`Database::session`], on a connection that no call ever holds, however many of them wait for a lock.
    pub(in crate::store) async fn session_apart(&self) -> Result<Session<'_>, StoreError> {
        self.session_of(&self.apart).await
    }

    /// As [`Database::session_apart`], for the statement by which others know that this server lives. A row that it returns
    /// was written.
    pub(in crate::store) async fn write_apart(&self) -> Result<Session<'_>, StoreError> {
        let mut session = self.session_apart().await?;
        session.writes = true;
        Ok(session)
    }

    async fn session_of<'d>(&'d self, pool: &'d Pool) -> Result<Session<'d>, StoreError> {
        let connection = pool.acquire().await;
        let connection = connection.map_err(|error| match self.failed(&error) {
            // Nothing was asked yet: whatever a server says that lets nobody in, it is no answer.
            StoreError::Rejected(reason) => StoreError::Unavailable(reason),
            error => error,
        })?;
        Ok(Session {
            database: self,
            pool,
            connection: Some(connection),
            unfinished: false,
            waiting: false,
            writes: false,
            written: false,
            lost: false,
        })
    }

    /// A connection whose statements all see the same snapshot; must be finished.
    pub(in crate::store) async fn snapshot(&self) -> Result<Session<'_>, StoreError> {
        let mut session = self.session().await?;
        session
            .begin("BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY")
            .await?;
        Ok(session)
    }

    /// A connection within a transaction; must be finished.
    pub(in crate::store) async fn transaction(&self) -> Result<Session<'_>, StoreError> {
        let mut session = self.session().await?;
        session.begin("BEGIN").await?;
        Ok(session)
    }

    /// As [`Database::transaction`], beside which no other of its kind runs.
    pub(in crate::store) async fn exclusive(&self) -> Result<Session<'_>, StoreError> {
        let mut session = self.session().await?;
        session.begin(BEGIN_EXCLUSIVE).await?;
        Ok(session)
    }

    /// Succeeds unless it is known that nothing can be written; then it is looked at anew.
    pub(in crate::store) async fn expect_writable(&self) -> Result<(), StoreError> {
        match self.write_error() {
            None => Ok(()),
            Some(_) => self.probe().await,
        }
    }

    /// Succeeds when the database answers and takes writes.
    ///
    /// Nothing is written for it: whether it is a standby it says itself, and a full disk is known from the last write, of
    /// which there is one every few seconds, the heartbeat of this server.
    pub(in crate::store) async fn probe(&self) -> Result<(), StoreError> {
        let mut session = self.session().await?;
        let row = session
            .optional(PROBE, Vec::new())
            .await?
            .ok_or(StoreError::NoRows)?;
        let read_only: bool = row.try_get("read_only").map_err(|error| store_error(&error))?;
        if read_only {
            let error = StoreError::Unavailable("the database takes no writes".to_owned());
            return Err(self.refused(error, true));
        }
        let fault = self.lock().clone();
        match fault {
            Some(fault) if !fault.read_only => Err(fault.error),
            _ => {
                self.written();
                Ok(())
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<WriteFault>> {
        // A fault or none is valid whoever panicked.
        self.fault.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Why the last write failed, if none has succeeded since.
    pub(in crate::store) fn write_error(&self) -> Option<StoreError> {
        self.lock().as_ref().map(|fault| fault.error.clone())
    }

    /// The store's word for an error, of which note is taken when it is about writing.
    fn failed(&self, error: &sqlx::Error) -> StoreError {
        let answer = store_error(error);
        let read_only = is_read_only(error);
        if read_only || is_disk(error) {
            return self.refused(answer, read_only);
        }
        // Its text names the file. Whatever waits for it asks again and again.
        if is_damage(error) && !self.damaged.swap(true, Ordering::Relaxed) {
            tracing::error!(error = %answer, "the database is damaged");
        }
        answer
    }

    /// Takes note of why nothing can be written.
    fn refused(&self, error: StoreError, read_only: bool) -> StoreError {
        let fault = WriteFault {
            error: error.clone(),
            read_only,
        };
        if self.lock().replace(fault).is_none() {
            tracing::error!(%error, "cannot write to the database");
        }
        error
    }

    /// Takes note of a write that succeeded, or could.
    fn written(&self) {
        if self.lock().take().is_some() {
            tracing::info!("the database is written again");
        }
    }

    /// Waits for running sessions, then closes the connections.
    pub(in crate::store) async fn close(&self) {
        self.pool.close().await;
        self.apart.close().await;
    }
}

/// The use of one connection. Dropped within a transaction or a statement (an error on the way, or the caller gave up), it
/// takes the connection with it: Postgres then rolls back, whatever state the connection was in.
pub(in crate::store) struct Session<'d> {
    database: &'d Database,
    /// Of which the connection is.
    pool: &'d Pool,
    /// Gone only while the session is dropped.
    connection: Option<PoolConnection<Postgres>>,
    /// Within a transaction.
    unfinished: bool,
    /// Within a statement.
    waiting: bool,
    /// Whoever returns a row has written it.
    writes: bool,
    /// The transaction has changed rows.
    written: bool,
    /// The connection is of no more use.
    lost: bool,
}

impl Session<'_> {
    /// Runs a statement that returns no rows.
    pub(in crate::store) async fn execute(
        &mut self,
        sql: &'static str,
        arguments: Vec<Value<'_>>,
    ) -> Result<Done, StoreError> {
        let run = async |connection: &mut PgConnection| query(sql, arguments).execute(connection).await;
        let done = self.run(run).await?;
        let rows = done.rows_affected();
        if rows > 0 {
            self.written = true;
            if !self.unfinished {
                self.stored();
            }
        }
        Ok(Done { rows, last_id: 0 })
    }

    /// Runs a statement whose refusal leaves the transaction as it was before.
    pub(in crate::store) async fn execute_within_savepoint(
        &mut self,
        sql: &'static str,
        arguments: Vec<Value<'_>>,
    ) -> Result<Done, StoreError> {
        self.control("SAVEPOINT statement").await?;
        let done = self.execute(sql, arguments).await;
        match done {
            Ok(_) => self.control("RELEASE SAVEPOINT statement").await?,
            Err(_) if self.lost => {}
            Err(_) => self.control("ROLLBACK TO SAVEPOINT statement").await?,
        }
        done
    }

    /// Runs a statement for its first row.
    pub(in crate::store) async fn optional(
        &mut self,
        sql: &'static str,
        arguments: Vec<Value<'_>>,
    ) -> Result<Option<PgRow>, StoreError> {
        let run =
            async |connection: &mut PgConnection| query(sql, arguments).fetch_optional(connection).await;
        let row = self.run(run).await?;
        if self.writes && row.is_some() {
            self.written = true;
            self.stored();
        }
        Ok(row)
    }

    /// Runs a statement for all its rows.
    pub(in crate::store) async fn all(
        &mut self,
        sql: &'static str,
        arguments: Vec<Value<'_>>,
    ) -> Result<Vec<PgRow>, StoreError> {
        let run = async |connection: &mut PgConnection| query(sql, arguments).fetch_all(connection).await;
        self.run(run).await
    }

    async fn begin(&mut self, sql: &'static str) -> Result<(), StoreError> {
        // Before the statement: a caller that gives up while it runs leaves a transaction behind.
        self.unfinished = true;
        self.control(sql).await
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
        let ended = outcome.is_ok() || (!self.lost && self.control("ROLLBACK").await.is_ok());
        self.unfinished = !ended;
        outcome
    }

    /// Something was committed; a transaction that changed nothing says nothing.
    fn stored(&mut self) {
        if std::mem::take(&mut self.written) {
            self.database.written();
        }
    }

    /// Transaction control, which is not counted and not prepared.
    async fn control(&mut self, sql: &'static str) -> Result<(), StoreError> {
        let run = async |connection: &mut PgConnection| sqlx::raw_sql(sql).execute(connection).await;
        self.run(run).await.map(|_| ())
    }

    /// Runs something on the connection, for as long as a statement may take.
    async fn run<T>(
        &mut self,
        run: impl AsyncFnOnce(&mut PgConnection) -> Result<T, sqlx::Error>,
    ) -> Result<T, StoreError> {
        let Some(connection) = self.connection.as_mut() else {
            return Err(store_error(&sqlx::Error::PoolClosed));
        };
        self.waiting = true;
        let result = tokio::select! {
            biased;
            result = run(connection) => result,
            () = self.database.clock.sleep(self.database.limit) => Err(sqlx::Error::Io(io::ErrorKind::TimedOut.into())),
        };
        self.waiting = false;
        result.map_err(|error| {
            let answer = self.database.failed(&error);
            // An answer leaves the connection good; whatever else it was may come again. A standby stays one.
            self.lost |= is_read_only(&error) || ends_connection(&error);
            if is_outdated(&error) {
                // Nor are the others any better.
                self.lost = true;
                self.pool.renew();
            }
            answer
        })
    }
}

impl Drop for Session<'_> {
    fn drop(&mut self) {
        let Some(mut connection) = self.connection.take() else {
            return;
        };
        if self.unfinished || self.waiting || self.lost {
            connection.close_on_drop();
            return;
        }
        self.pool.give_back(connection);
    }
}

#[cfg(test)]
mod tests;
