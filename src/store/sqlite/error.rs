//! SQLite's errors in the store's own terms.

use crate::store::{StoreError, Violation};

// Primary result codes, the low byte of the extended ones (https://www.sqlite.org/rescode.html).
const BUSY: u32 = 5;
const LOCKED: u32 = 6;
const NOMEM: u32 = 7;
const READONLY: u32 = 8;
const IOERR: u32 = 10;
const CORRUPT: u32 = 11;
const FULL: u32 = 13;
const CANTOPEN: u32 = 14;
const PROTOCOL: u32 = 15;
const CONSTRAINT: u32 = 19;
pub(super) const NOTADB: u32 = 26;

/// The primary result code of a database's answer.
pub(super) fn primary_code(error: &sqlx::Error) -> Option<u32> {
    let code: u32 = error.as_database_error()?.code()?.parse().ok()?;
    Some(code & 0xff)
}

/// Whether somebody else holds the lock.
pub(super) fn is_busy(error: &sqlx::Error) -> bool {
    matches!(primary_code(error), Some(BUSY | LOCKED))
}

/// Whether the file could not be opened for writing, or not when it was opened.
pub(super) fn is_read_only(error: &sqlx::Error) -> bool {
    primary_code(error) == Some(READONLY)
}

/// Whether the file is not what SQLite wrote.
pub(super) fn is_damage(error: &sqlx::Error) -> bool {
    matches!(primary_code(error), Some(CORRUPT | NOTADB))
}

/// Sorts an error into the store's kinds. SQLite's texts name constraints and columns, never values.
pub(in crate::store) fn store_error(error: &sqlx::Error) -> StoreError {
    let text = match error {
        sqlx::Error::RowNotFound => return StoreError::NoRows,
        sqlx::Error::Database(answer) => answer.message().to_owned(),
        // The connection's thread is gone, or the file could not be reached.
        sqlx::Error::WorkerCrashed | sqlx::Error::Io(_) => return StoreError::Unavailable(error.to_string()),
        _ => return StoreError::Rejected(error.to_string()),
    };
    match primary_code(error) {
        // A file system that went read-only after an I/O error counts as away, like the error itself; and so does a
        // damaged file, since what it says is no answer and somebody has to put it right.
        Some(BUSY | LOCKED | NOMEM | READONLY | IOERR | CORRUPT | FULL | CANTOPEN | PROTOCOL | NOTADB) => {
            StoreError::Unavailable(text)
        }
        Some(CONSTRAINT) => StoreError::Violation {
            violation: violation(&text),
            text,
        },
        _ => StoreError::Rejected(text),
    }
}

/// SQLite names a CHECK constraint, and for a key its columns (it never names the index).
fn violation(text: &str) -> Violation {
    match text {
        "CHECK constraint failed: max_logs_length" => Violation::MaxLogsLength,
        "UNIQUE constraint failed: workspace_agent_log_sources.workspace_agent_id, workspace_agent_log_sources.id" => {
            Violation::LogSourceExists
        }
        "UNIQUE constraint failed: notification_messages.dedupe_hash" => Violation::NotificationExists,
        "UNIQUE constraint failed: workspace_agent_script_timings.script_id, workspace_agent_script_timings.started_at" => {
            Violation::ScriptTimingExists
        }
        _ => Violation::Other,
    }
}
