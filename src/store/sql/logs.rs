//! Agents' log lines and their sources.

use super::batch::json;
use super::database::{Database, Session};
use super::statement::{Call, Dialect, statements};
use super::value::texts;
use crate::ids::AgentId;
use crate::store::{LogBatch, LogSource, LogsInserted, StoreError};

statements! {
    INSERT_LOG_SOURCE = "insert_log_source":
        "INSERT INTO workspace_agent_log_sources (workspace_agent_id, id, created_at, display_name, icon)
        VALUES ($1, $2, $3, $4, $5)";
    /// The check `max_logs_length` on the sum is the log limit.
    ADD_LOGS_LENGTH = "add_logs_length":
        "UPDATE workspace_agents SET logs_length = logs_length + $2
        WHERE id = $1 AND NOT deleted AND NOT logs_overflowed
        RETURNING logs_length";
    /// Lines are cut at 1,024 characters, as the original's cast does.
    INSERT_LOGS = "insert_logs":
        "INSERT INTO workspace_agent_logs (agent_id, log_source_id, created_at, level, output)
        SELECT $1, $2, $3, listed.value ->> 0, substr(listed.value ->> 1, 1, 1024)
        FROM json_each($4) AS listed ORDER BY listed.key",
        postgres:
        "WITH inserted AS (
            INSERT INTO workspace_agent_logs (agent_id, log_source_id, created_at, level, output)
            SELECT $1, $2, $3, listed.level::log_level, left(listed.output, 1024)
            FROM unnest($4::text[], $5::text[]) WITH ORDINALITY AS listed(level, output, n) ORDER BY listed.n
            RETURNING id
        )
        SELECT min(id) AS first_id FROM inserted";
    LOGS_OVERFLOWED = "logs_overflowed":
        "SELECT 1 FROM workspace_agents WHERE id = $1 AND NOT deleted AND logs_overflowed";
    SET_LOGS_OVERFLOWED = "set_logs_overflowed": "UPDATE workspace_agents SET logs_overflowed = TRUE WHERE id = $1";
}

pub(super) async fn insert_source(database: &Database, source: &LogSource) -> Result<(), StoreError> {
    let call = INSERT_LOG_SOURCE
        .bind(source.agent_id.0)
        .bind(source.id.0)
        .bind(source.created_at)
        .bind(source.display_name.as_str())
        .bind(source.icon.as_str());
    database.write().await?.execute(call).await.map(|_| ())
}

pub(super) async fn insert(database: &Database, batch: &LogBatch) -> Result<LogsInserted, StoreError> {
    let insert = INSERT_LOGS
        .bind(batch.agent_id.0)
        .bind(batch.source_id.0)
        .bind(batch.created_at);
    let lines = || batch.lines.iter();
    let insert = match database.dialect() {
        Dialect::Sqlite => {
            let lines = lines().map(|line| (line.level.as_str(), line.output.as_str()));
            insert.bind(json(lines)?)
        }
        Dialect::Postgres => insert
            .bind(texts(lines().map(|line| line.level.as_str())))
            .bind(texts(lines().map(|line| line.output.as_str()))),
    };
    let mut transaction = database.transaction().await?;
    let outcome = insert_in(&mut transaction, batch, insert).await;
    transaction.finish(outcome).await
}

async fn insert_in(
    transaction: &mut Session<'_>,
    batch: &LogBatch,
    insert: Call<'_>,
) -> Result<LogsInserted, StoreError> {
    let add = ADD_LOGS_LENGTH.bind(batch.agent_id.0).bind(batch.output_length);
    let Some(row) = transaction.optional(add).await? else {
        transaction.one(LOGS_OVERFLOWED.bind(batch.agent_id.0)).await?;
        return Ok(LogsInserted::AlreadyOverflowed);
    };
    let length: i64 = row.get("logs_length")?;
    let first_id = match transaction.dialect() {
        Dialect::Sqlite => {
            let inserted = transaction.execute(insert).await?;
            // Ids ascend by one within the transaction, which is the only writer.
            let count = i64::try_from(inserted.rows).unwrap_or(i64::MAX);
            inserted.last_id - count + 1
        }
        Dialect::Postgres => transaction.one(insert).await?.get("first_id")?,
    };
    Ok(LogsInserted::Stored {
        first_id,
        previous_length: length - batch.output_length,
    })
}

pub(super) async fn set_overflowed(database: &Database, agent: AgentId) -> Result<(), StoreError> {
    let call = SET_LOGS_OVERFLOWED.bind(agent.0);
    database.write().await?.execute(call).await.map(|_| ())
}
