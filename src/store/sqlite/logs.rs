//! Agents' log lines and their sources.

use super::batch::json;
use super::engine::{Database, Session, statements};
use super::row::Columns as _;
use crate::ids::AgentId;
use crate::store::{LogBatch, LogSource, LogsInserted, StoreError};

statements! {
    INSERT_LOG_SOURCE = "insert_log_source":
        "INSERT INTO workspace_agent_log_sources (workspace_agent_id, id, created_at, display_name, icon)
        VALUES (?1, ?2, ?3, ?4, ?5)";
    /// The check `max_logs_length` on the sum is the log limit.
    ADD_LOGS_LENGTH = "add_logs_length":
        "UPDATE workspace_agents SET logs_length = logs_length + ?2
        WHERE id = ?1 AND deleted = 0 AND logs_overflowed = 0
        RETURNING logs_length";
    /// Lines are cut at 1,024 characters, as the original's cast does.
    INSERT_LOGS = "insert_logs":
        "INSERT INTO workspace_agent_logs (agent_id, log_source_id, created_at, level, output)
        SELECT ?1, ?2, ?3, listed.value ->> 0, substr(listed.value ->> 1, 1, 1024)
        FROM json_each(?4) AS listed ORDER BY listed.key";
    LOGS_OVERFLOWED = "logs_overflowed":
        "SELECT 1 FROM workspace_agents WHERE id = ?1 AND deleted = 0 AND logs_overflowed = 1";
    SET_LOGS_OVERFLOWED = "set_logs_overflowed": "UPDATE workspace_agents SET logs_overflowed = 1 WHERE id = ?1";
}

pub(super) async fn insert_source(database: &Database, source: &LogSource) -> Result<(), StoreError> {
    let call = INSERT_LOG_SOURCE
        .bind(source.agent_id.0)
        .bind(source.id.0)
        .bind(source.created_at.as_micros())
        .bind(source.display_name.as_str())
        .bind(source.icon.as_str());
    database.write().await?.execute(call).await.map(|_| ())
}

pub(super) async fn insert(database: &Database, batch: &LogBatch) -> Result<LogsInserted, StoreError> {
    let lines = json(
        batch
            .lines
            .iter()
            .map(|line| (line.level.as_str(), line.output.as_str())),
    )?;
    let mut transaction = database.transaction().await?;
    let outcome = insert_in(&mut transaction, batch, lines).await;
    transaction.finish(outcome).await
}

async fn insert_in(
    transaction: &mut Session<'_>,
    batch: &LogBatch,
    lines: String,
) -> Result<LogsInserted, StoreError> {
    let add = ADD_LOGS_LENGTH.bind(batch.agent_id.0).bind(batch.output_length);
    let Some(row) = transaction.optional(add).await? else {
        transaction.one(LOGS_OVERFLOWED.bind(batch.agent_id.0)).await?;
        return Ok(LogsInserted::AlreadyOverflowed);
    };
    let length: i64 = row.get("logs_length")?;
    let insert = INSERT_LOGS
        .bind(batch.agent_id.0)
        .bind(batch.source_id.0)
        .bind(batch.created_at.as_micros())
        .bind(lines);
    let inserted = transaction.execute(insert).await?;
    // Ids ascend by one within the transaction, which is the only writer.
    let count = i64::try_from(inserted.rows).unwrap_or(i64::MAX);
    Ok(LogsInserted::Stored {
        first_id: inserted.last_id - count + 1,
        previous_length: length - batch.output_length,
    })
}

pub(super) async fn set_overflowed(database: &Database, agent: AgentId) -> Result<(), StoreError> {
    let call = SET_LOGS_OVERFLOWED.bind(agent.0);
    database.write().await?.execute(call).await.map(|_| ())
}
