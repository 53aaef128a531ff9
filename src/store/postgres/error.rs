//! Postgres' errors in the store's own terms.

use std::borrow::Cow;

use sqlx::postgres::PgDatabaseError;

use crate::store::{StoreError, Violation};

/// Classes of SQLSTATE that say that the database is away or could not finish: connection lost, resources exhausted,
/// failures of its system, damaged files (https://www.postgresql.org/docs/current/errcodes-appendix.html).
const AWAY_CLASSES: [&str; 4] = ["08", "53", "58", "XX"];

/// And single ones: a standby that does not write, a transaction that idled too long; a lock that was not to be had; a
/// statement that was cancelled; shutdown, crash, start-up, idle too long.
const AWAY: [&str; 8] = [
    "25006", "25P03", "55P03", "57014", "57P01", "57P02", "57P03", "57P05",
];

/// Those of a transaction that another one went before: serialization failure, deadlock.
const CONFLICT: [&str; 2] = ["40001", "40P01"];

/// What the original's triggers say, and ours with them.
const NAME_TAKEN: &str = "workspace agent name \"";
const NOTIFICATION_DISABLED: &str = "cannot enqueue message: notification is not enabled";

/// Whether the database takes no writes: it is a standby, or was told to be read only.
pub(super) fn is_read_only(error: &sqlx::Error) -> bool {
    code(error).is_some_and(|code| code == "25006")
}

/// Whether the database's disk is full or fails.
pub(super) fn is_disk(error: &sqlx::Error) -> bool {
    code(error).is_some_and(|code| code == "53100" || code.starts_with("58"))
}

/// Whether the database has found its files damaged.
pub(super) fn is_damage(error: &sqlx::Error) -> bool {
    code(error).is_some_and(|code| code == "XX001" || code == "XX002")
}

/// Whether the connection is of no more use: it is broken, or the server is about to end it.
pub(super) fn ends_connection(error: &sqlx::Error) -> bool {
    match code(error) {
        Some(code) => code.starts_with("08") || code.starts_with("57P") || code == "25P03",
        None => !matches!(error, sqlx::Error::RowNotFound | sqlx::Error::ColumnDecode { .. }),
    }
}

/// Whether a statement was prepared for a schema that has changed since, as an upgrade of a deployment changes it: its result
/// has other types now (PostgreSQL `src/backend/utils/cache/plancache.c`, of which the code alone says less), a type of its
/// arguments is gone (`src/backend/utils/cache/lsyscache.c`, whose text is in one language), or it is itself. Nothing was
/// done, and on a new connection it would be.
pub(super) fn is_outdated(error: &sqlx::Error) -> bool {
    let Some(answer) = error
        .as_database_error()
        .and_then(|answer| answer.try_downcast_ref::<PgDatabaseError>())
    else {
        return false;
    };
    match answer.code() {
        "0A000" => answer.routine() == Some("RevalidateCachedQuery"),
        "26000" => true,
        "XX000" => answer.message().starts_with("cache lookup failed for type"),
        _ => false,
    }
}

fn code(error: &sqlx::Error) -> Option<Cow<'_, str>> {
    error.as_database_error()?.code()
}

/// Sorts an error into the store's kinds. The message of a violation names constraints and tables, never values: those
/// stand in its detail, which is left out.
pub(in crate::store) fn store_error(error: &sqlx::Error) -> StoreError {
    let answer = match error {
        sqlx::Error::RowNotFound => return StoreError::NoRows,
        sqlx::Error::Database(answer) => answer,
        sqlx::Error::PoolTimedOut => {
            return StoreError::Unavailable("no connection to the database was to be had in time".to_owned());
        }
        sqlx::Error::PoolClosed => return StoreError::Unavailable("the store is closed".to_owned()),
        // What the connection says is not to be understood any more, or nothing comes at all.
        sqlx::Error::Io(_) | sqlx::Error::Tls(_) | sqlx::Error::Protocol(_) | sqlx::Error::WorkerCrashed => {
            return StoreError::Unavailable(error.to_string());
        }
        _ => return StoreError::Rejected(error.to_string()),
    };
    let text = answer.message().to_owned();
    let code = answer.code().unwrap_or_default();
    if is_outdated(error) {
        return StoreError::Unavailable(text);
    }
    if AWAY_CLASSES.iter().any(|class| code.starts_with(class)) || AWAY.contains(&&*code) {
        return StoreError::Unavailable(text);
    }
    if CONFLICT.contains(&&*code) {
        return StoreError::Conflict(text);
    }
    let violation = match answer.constraint() {
        Some("max_logs_length") => Violation::MaxLogsLength,
        Some("workspace_agent_log_sources_pkey") => Violation::LogSourceExists,
        Some("workspace_agent_script_timings_script_id_started_at_key") => Violation::ScriptTimingExists,
        Some("notification_messages_dedupe_hash_idx") => Violation::NotificationExists,
        _ if text.starts_with(NAME_TAKEN) => Violation::AgentNameTaken,
        _ if text.contains(NOTIFICATION_DISABLED) => Violation::NotificationDisabled,
        // A text too long, or none of its type, is what SQLite finds by a constraint.
        _ if code.starts_with("23") || code.starts_with("22") => Violation::Other,
        _ => return StoreError::Rejected(text),
    };
    StoreError::Violation { violation, text }
}
