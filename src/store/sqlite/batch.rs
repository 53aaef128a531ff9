//! Rows of many agents by one statement: statistics and metadata values.

use serde_json::{Value, json};
use uuid::Uuid;

use super::SqliteStore;
use super::statement::Statement;
use crate::store::{AgentStat, MetadataValue, StoreError};

/// Rows in one statement. More are split over several, in one transaction, so that a batch that piled up during an outage
/// makes no text of unbounded size.
pub(super) const ROWS_PER_STATEMENT: usize = 10_000;

/// A JSON list of ids as hexadecimal, which `unhex` takes apart.
pub(super) fn hex_list(ids: impl Iterator<Item = Uuid>) -> String {
    Value::from_iter(ids.map(hex)).to_string()
}

pub(super) fn hex(id: Uuid) -> String {
    id.simple().to_string()
}

impl SqliteStore {
    pub(super) async fn insert_stats(&self, stats: &[AgentStat]) -> Result<(), StoreError> {
        self.write_rows(Statement::InsertStats, stats, |stat| {
            json!([
                hex(Uuid::new_v4()),
                stat.created_at.as_micros(),
                hex(stat.user_id.0),
                hex(stat.agent_id.0),
                hex(stat.workspace_id.0),
                hex(stat.template_id.0),
                stat.connections_by_proto,
                stat.connection_count,
                stat.rx_packets,
                stat.rx_bytes,
                stat.tx_packets,
                stat.tx_bytes,
                // JSON has no NaN and no infinities; such a value measures nothing.
                if stat.connection_median_latency_ms.is_finite() {
                    stat.connection_median_latency_ms
                } else {
                    -1.0
                },
                stat.session_count_vscode,
                stat.session_count_jetbrains,
                stat.session_count_reconnecting_pty,
                stat.session_count_ssh,
                i64::from(stat.usage),
            ])
        })
        .await
    }

    pub(super) async fn update_metadata(&self, values: &[MetadataValue]) -> Result<(), StoreError> {
        self.write_rows(Statement::UpdateMetadata, values, |value| {
            json!([
                hex(value.agent_id.0),
                value.key,
                value.value,
                value.error,
                value.collected_at.as_micros()
            ])
        })
        .await
    }

    /// Runs `statement` with all rows as its JSON parameter.
    async fn write_rows<T: Sync>(
        &self,
        statement: Statement,
        rows: &[T],
        encode: impl Fn(&T) -> Value + Send + Sync,
    ) -> Result<(), StoreError> {
        if rows.len() <= ROWS_PER_STATEMENT {
            if rows.is_empty() {
                return Ok(());
            }
            let batch = Value::from_iter(rows.iter().map(encode)).to_string();
            self.counters
                .query(statement)
                .bind(batch)
                .execute(&self.writer)
                .await?;
            return Ok(());
        }
        let mut transaction = self.writer.begin_with("BEGIN IMMEDIATE").await?;
        for chunk in rows.chunks(ROWS_PER_STATEMENT) {
            let batch = Value::from_iter(chunk.iter().map(&encode)).to_string();
            self.counters
                .query(statement)
                .bind(batch)
                .execute(&mut *transaction)
                .await?;
        }
        transaction.commit().await?;
        Ok(())
    }
}
