//! Log lines and their sources.

use serde_json::{Value, json};
use sqlx::Row;

use super::SqliteStore;
use super::statement::Statement;
use crate::ids::AgentId;
use crate::store::{LogBatch, LogSource, LogsInserted, StoreError};

impl SqliteStore {
    pub(super) async fn insert_log_source(&self, source: &LogSource) -> Result<(), StoreError> {
        let query = self
            .counters
            .query(Statement::InsertLogSource)
            .bind(source.agent_id.0)
            .bind(source.id.0)
            .bind(source.created_at.as_micros())
            .bind(source.display_name.clone())
            .bind(source.icon.clone());
        query.execute(&self.writer).await?;
        Ok(())
    }

    pub(super) async fn insert_logs(&self, batch: &LogBatch) -> Result<LogsInserted, StoreError> {
        let mut transaction = self.writer.begin_with("BEGIN IMMEDIATE").await?;
        let add = self
            .counters
            .query(Statement::AddLogsLength)
            .bind(batch.agent_id.0)
            .bind(batch.output_length);
        let Some(row) = add.fetch_optional(&mut *transaction).await? else {
            let query = self
                .counters
                .query(Statement::LogsOverflowed)
                .bind(batch.agent_id.0);
            return match query.fetch_optional(&mut *transaction).await? {
                Some(_) => Ok(LogsInserted::AlreadyOverflowed),
                None => Err(StoreError::NoRows),
            };
        };
        let previous_length = row.try_get(0)?;
        let lines = batch
            .lines
            .iter()
            .map(|line| json!([line.output, line.level.as_str()]));
        let insert = self
            .counters
            .query(Statement::InsertLogs)
            .bind(batch.agent_id.0)
            .bind(batch.created_at.as_micros())
            .bind(batch.source_id.0)
            .bind(Value::from_iter(lines).to_string());
        let rows = insert.fetch_all(&mut *transaction).await?;
        let first_id = rows.first().ok_or(StoreError::NoRows)?.try_get(0)?;
        transaction.commit().await?;
        Ok(LogsInserted::Stored {
            first_id,
            previous_length,
        })
    }

    pub(super) async fn set_logs_overflowed(&self, agent: AgentId) -> Result<(), StoreError> {
        self.counters
            .query(Statement::SetLogsOverflowed)
            .bind(agent.0)
            .execute(&self.writer)
            .await?;
        Ok(())
    }
}
