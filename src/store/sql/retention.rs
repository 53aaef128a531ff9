//! What is old goes, a little at a time, so that writers never wait long. Servers that do it at once take different rows.

use super::database::Database;
use super::statement::statements;
use crate::clock::Timestamp;
use crate::store::{Expired, StoreError};

/// Rows that one statement removes: some ten milliseconds of the write lock.
const ROWS_PER_STATEMENT: i64 = 1_000;

macro_rules! old_logs {
    ($lock:literal) => {
        concat!(
            "DELETE FROM workspace_agent_logs WHERE id IN (
                SELECT l.id FROM workspace_agents AS a
                JOIN workspace_resources AS r ON r.id = a.resource_id
                JOIN workspace_builds AS b ON b.job_id = r.job_id
                JOIN workspace_agent_logs AS l ON l.agent_id = a.id
                WHERE coalesce(a.last_connected_at, a.created_at) < $1
                    AND b.build_number < (
                        SELECT max(latest.build_number) FROM workspace_builds AS latest
                        WHERE latest.workspace_id = b.workspace_id
                    )
                LIMIT $2",
            $lock,
            ")"
        )
    };
}

statements! {
    PURGE_STATS = "purge_stats":
        "DELETE FROM workspace_agent_stats WHERE id IN (
            SELECT id FROM workspace_agent_stats WHERE created_at < $1 LIMIT $2
        )",
        postgres:
        "DELETE FROM workspace_agent_stats WHERE id IN (
            SELECT id FROM workspace_agent_stats WHERE created_at < $1 LIMIT $2 FOR UPDATE SKIP LOCKED
        )";
    PURGE_NOTIFICATIONS = "purge_notifications":
        "DELETE FROM notification_messages WHERE id IN (
            SELECT id FROM notification_messages WHERE created_at < $1 LIMIT $2
        )",
        postgres:
        "DELETE FROM notification_messages WHERE id IN (
            SELECT id FROM notification_messages WHERE created_at < $1 LIMIT $2 FOR UPDATE SKIP LOCKED
        )";
    /// Lines of agents that are not in their workspace's latest build and were last seen (or, never seen, made) before.
    PURGE_LOGS = "purge_logs":
        old_logs!(""),
        postgres: old_logs!(" FOR UPDATE OF l SKIP LOCKED");
}

/// Removes at most one statement's worth, and says whether there may be more.
pub(super) async fn purge(database: &Database, what: Expired, before: Timestamp) -> Result<bool, StoreError> {
    let statement = match what {
        Expired::Stats => &PURGE_STATS,
        Expired::Notifications => &PURGE_NOTIFICATIONS,
        Expired::Logs => &PURGE_LOGS,
    };
    let call = statement.bind(before).bind(ROWS_PER_STATEMENT);
    let done = database.write().await?.execute(call).await?;
    Ok(i64::try_from(done.rows) == Ok(ROWS_PER_STATEMENT))
}
