//! One database of either engine: sessions on it, and every statement counted by name.
//!
//! Owns the choice of the dialect. Must never know a table.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use super::row::Row;
use super::statement::{Call, Dialect, Statement};
use crate::store::StoreError;
use crate::store::postgres::engine as postgres;
use crate::store::sqlite::engine as sqlite;

/// What a statement that returns no rows did.
#[derive(Clone, Copy, Debug)]
pub(in crate::store) struct Done {
    /// Rows inserted, updated or deleted.
    pub(in crate::store) rows: u64,
    /// SQLite's row id of the last inserted row of the connection; 0 elsewhere.
    pub(in crate::store) last_id: i64,
}

/// How often each statement ran.
#[derive(Debug)]
struct Counters(BTreeMap<&'static str, AtomicU64>);

impl Counters {
    fn count(&self, statement: &Statement) {
        if let Some(counter) = self.0.get(statement.name) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }
}

#[derive(Debug)]
enum Engine {
    Sqlite(Box<sqlite::Database>),
    Postgres(postgres::Database),
}

/// A database, open.
#[derive(Debug)]
pub(in crate::store) struct Database {
    engine: Engine,
    counters: Counters,
}

impl Database {
    pub(in crate::store) fn sqlite(
        database: sqlite::Database,
        statements: impl Iterator<Item = &'static Statement>,
    ) -> Self {
        Self::new(Engine::Sqlite(Box::new(database)), statements)
    }

    pub(in crate::store) fn postgres(
        database: postgres::Database,
        statements: impl Iterator<Item = &'static Statement>,
    ) -> Self {
        Self::new(Engine::Postgres(database), statements)
    }

    fn new(engine: Engine, statements: impl Iterator<Item = &'static Statement>) -> Self {
        Self {
            engine,
            counters: Counters(statements.map(|s| (s.name, AtomicU64::new(0))).collect()),
        }
    }

    pub(in crate::store) fn dialect(&self) -> Dialect {
        match &self.engine {
            Engine::Sqlite(_) => Dialect::Sqlite,
            Engine::Postgres(_) => Dialect::Postgres,
        }
    }

    fn session<'d>(&'d self, connection: Connection<'d>) -> Session<'d> {
        Session {
            connection,
            counters: &self.counters,
        }
    }

    /// A connection for reading; statements on it see one snapshot each.
    pub(in crate::store) async fn read(&self) -> Result<Session<'_>, StoreError> {
        let connection = match &self.engine {
            Engine::Sqlite(database) => Connection::Sqlite(database.read().await?),
            Engine::Postgres(database) => Connection::Postgres(database.session().await?),
        };
        Ok(self.session(connection))
    }

    /// A connection for reading whose statements all see the same snapshot; must be finished.
    pub(in crate::store) async fn snapshot(&self) -> Result<Session<'_>, StoreError> {
        let connection = match &self.engine {
            Engine::Sqlite(database) => Connection::Sqlite(database.snapshot().await?),
            Engine::Postgres(database) => Connection::Postgres(database.snapshot().await?),
        };
        Ok(self.session(connection))
    }

    /// A connection for one writing statement that is a transaction of its own.
    pub(in crate::store) async fn write(&self) -> Result<Session<'_>, StoreError> {
        let connection = match &self.engine {
            Engine::Sqlite(database) => Connection::Sqlite(database.write().await?),
            Engine::Postgres(database) => Connection::Postgres(database.session().await?),
        };
        Ok(self.session(connection))
    }

    /// As [`Database::read`], for a statement that must not wait behind those of calls. A row that it returns says nothing
    /// of whether the database is written.
    pub(in crate::store) async fn read_apart(&self) -> Result<Session<'_>, StoreError> {
        let connection = match &self.engine {
            Engine::Sqlite(database) => Connection::Sqlite(database.read().await?),
            Engine::Postgres(database) => Connection::Postgres(database.session_apart().await?),
        };
        Ok(self.session(connection))
    }

    /// As [`Database::write`], for a statement that must not wait behind those of calls and returns a row when it has
    /// written. On SQLite there is one connection that writes.
    pub(in crate::store) async fn write_apart(&self) -> Result<Session<'_>, StoreError> {
        let connection = match &self.engine {
            Engine::Sqlite(database) => Connection::Sqlite(database.write().await?),
            Engine::Postgres(database) => Connection::Postgres(database.write_apart().await?),
        };
        Ok(self.session(connection))
    }

    /// A connection within a transaction that writes; must be finished. On SQLite it holds the database's write lock, on
    /// Postgres the locks of the rows that it changes.
    pub(in crate::store) async fn transaction(&self) -> Result<Session<'_>, StoreError> {
        let connection = match &self.engine {
            Engine::Sqlite(database) => Connection::Sqlite(database.transaction().await?),
            Engine::Postgres(database) => Connection::Postgres(database.transaction().await?),
        };
        Ok(self.session(connection))
    }

    /// As [`Database::transaction`], beside which no other of its kind runs.
    pub(in crate::store) async fn exclusive(&self) -> Result<Session<'_>, StoreError> {
        let connection = match &self.engine {
            Engine::Sqlite(database) => Connection::Sqlite(database.transaction().await?),
            Engine::Postgres(database) => Connection::Postgres(database.exclusive().await?),
        };
        Ok(self.session(connection))
    }

    /// Succeeds unless it is known that nothing can be written.
    pub(in crate::store) async fn expect_writable(&self) -> Result<(), StoreError> {
        match &self.engine {
            Engine::Sqlite(database) => database.expect_writable().await,
            Engine::Postgres(database) => database.expect_writable().await,
        }
    }

    /// Succeeds when the database takes a write.
    pub(in crate::store) async fn probe(&self) -> Result<(), StoreError> {
        match &self.engine {
            Engine::Sqlite(database) => database.probe().await,
            Engine::Postgres(database) => database.probe().await,
        }
    }

    /// Why the last write failed, if none has succeeded since.
    #[cfg(test)]
    pub(in crate::store) fn write_error(&self) -> Option<StoreError> {
        match &self.engine {
            Engine::Sqlite(database) => database.write_error(),
            Engine::Postgres(database) => database.write_error(),
        }
    }

    /// How often each statement ran, by name.
    pub(in crate::store) fn statements(&self) -> Vec<(&'static str, u64)> {
        self.counters
            .0
            .iter()
            .map(|(name, count)| (*name, count.load(Ordering::Relaxed)))
            .collect()
    }

    /// Waits for running sessions and closes the database.
    pub(in crate::store) async fn close(&self) {
        match &self.engine {
            Engine::Sqlite(database) => database.close().await,
            Engine::Postgres(database) => database.close().await,
        }
    }
}

enum Connection<'d> {
    Sqlite(sqlite::Session<'d>),
    Postgres(postgres::Session<'d>),
}

/// The use of one connection. Dropped within a transaction, it undoes the transaction.
pub(in crate::store) struct Session<'d> {
    connection: Connection<'d>,
    counters: &'d Counters,
}

impl Session<'_> {
    pub(in crate::store) fn dialect(&self) -> Dialect {
        match &self.connection {
            Connection::Sqlite(_) => Dialect::Sqlite,
            Connection::Postgres(_) => Dialect::Postgres,
        }
    }

    /// Runs a statement that returns no rows.
    pub(in crate::store) async fn execute(&mut self, call: Call<'_>) -> Result<Done, StoreError> {
        self.counters.count(call.statement);
        match &mut self.connection {
            Connection::Sqlite(session) => session.execute(call.statement.sqlite, call.arguments).await,
            Connection::Postgres(session) => session.execute(call.statement.postgres, call.arguments).await,
        }
    }

    /// Runs a statement of a transaction that returns no rows and whose refusal undoes nothing but itself.
    pub(in crate::store) async fn try_execute(&mut self, call: Call<'_>) -> Result<Done, StoreError> {
        self.counters.count(call.statement);
        match &mut self.connection {
            // A refused statement is undone, not its transaction.
            Connection::Sqlite(session) => session.execute(call.statement.sqlite, call.arguments).await,
            Connection::Postgres(session) => {
                let sql = call.statement.postgres;
                session.execute_within_savepoint(sql, call.arguments).await
            }
        }
    }

    /// Runs a statement for its first row.
    pub(in crate::store) async fn optional(&mut self, call: Call<'_>) -> Result<Option<Row>, StoreError> {
        self.counters.count(call.statement);
        Ok(match &mut self.connection {
            Connection::Sqlite(session) => {
                let row = session.optional(call.statement.sqlite, call.arguments).await?;
                row.map(Row::Sqlite)
            }
            Connection::Postgres(session) => {
                let row = session.optional(call.statement.postgres, call.arguments).await?;
                row.map(Row::Postgres)
            }
        })
    }

    /// Runs a statement for its one row.
    pub(in crate::store) async fn one(&mut self, call: Call<'_>) -> Result<Row, StoreError> {
        self.optional(call).await?.ok_or(StoreError::NoRows)
    }

    /// Runs a statement for all its rows.
    pub(in crate::store) async fn all(&mut self, call: Call<'_>) -> Result<Vec<Row>, StoreError> {
        self.counters.count(call.statement);
        Ok(match &mut self.connection {
            Connection::Sqlite(session) => {
                let rows = session.all(call.statement.sqlite, call.arguments).await?;
                rows.into_iter().map(Row::Sqlite).collect()
            }
            Connection::Postgres(session) => {
                let rows = session.all(call.statement.postgres, call.arguments).await?;
                rows.into_iter().map(Row::Postgres).collect()
            }
        })
    }

    /// A mark that moves when another process has committed, on SQLite: which connection it is of, and its number.
    pub(in crate::store) async fn data_version(&mut self) -> Result<Option<(u64, i64)>, StoreError> {
        match &mut self.connection {
            Connection::Sqlite(session) => session.data_version().await.map(Some),
            Connection::Postgres(_) => Ok(None),
        }
    }

    /// Reads an integer PRAGMA of SQLite.
    #[cfg(test)]
    pub(super) async fn pragma(&mut self, sql: &'static str) -> Result<i64, StoreError> {
        match &mut self.connection {
            Connection::Sqlite(session) => session.pragma(sql).await,
            Connection::Postgres(_) => Err(StoreError::NoRows),
        }
    }

    /// Ends the transaction: commits what succeeded, undoes what failed.
    pub(in crate::store) async fn finish<T>(self, outcome: Result<T, StoreError>) -> Result<T, StoreError> {
        match self.connection {
            Connection::Sqlite(session) => session.finish(outcome).await,
            Connection::Postgres(session) => session.finish(outcome).await,
        }
    }
}
