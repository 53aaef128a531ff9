//! From the driver's errors to the store's.

use sqlx::error::DatabaseError;

use crate::store::{StoreError, Violation};

// Primary result codes, https://sqlite.org/rescode.html.
const SQLITE_BUSY: u32 = 5;
const SQLITE_LOCKED: u32 = 6;
const SQLITE_NOMEM: u32 = 7;
const SQLITE_READONLY: u32 = 8;
const SQLITE_IOERR: u32 = 10;
const SQLITE_FULL: u32 = 13;
const SQLITE_CANTOPEN: u32 = 14;
const SQLITE_CONSTRAINT: u32 = 19;

/// What a violated constraint is called in SQLite's text: a CHECK by its name, keys by their columns.
const NAMED: [(&str, Violation); 2] = [
    (
        "CHECK constraint failed: max_logs_length",
        Violation::MaxLogsLength,
    ),
    (
        "UNIQUE constraint failed: workspace_agent_log_sources.workspace_agent_id, workspace_agent_log_sources.id",
        Violation::LogSourceExists,
    ),
];

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        match error {
            sqlx::Error::RowNotFound => Self::NoRows,
            sqlx::Error::Database(error) => from_database(&*error),
            sqlx::Error::Io(_)
            | sqlx::Error::PoolTimedOut
            | sqlx::Error::PoolClosed
            | sqlx::Error::WorkerCrashed
            | sqlx::Error::BeginFailed => Self::Unavailable(error.to_string()),
            other => Self::Rejected(other.to_string()),
        }
    }
}

fn from_database(error: &dyn DatabaseError) -> StoreError {
    let code: u32 = error.code().and_then(|code| code.parse().ok()).unwrap_or(0);
    let text = error.message().to_owned();
    // Extended codes carry the primary one in their low byte.
    match code & 0xff {
        SQLITE_BUSY | SQLITE_LOCKED | SQLITE_NOMEM | SQLITE_READONLY | SQLITE_IOERR | SQLITE_FULL
        | SQLITE_CANTOPEN => StoreError::Unavailable(text),
        SQLITE_CONSTRAINT => {
            let named = NAMED.iter().find(|(name, _)| text == *name);
            StoreError::Violation {
                violation: named.map_or(Violation::Other, |(_, violation)| *violation),
                text,
            }
        }
        _ => StoreError::Rejected(text),
    }
}
