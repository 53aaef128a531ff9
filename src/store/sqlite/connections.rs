//! Connection times of many agents.

use serde_json::{Value, json};

use super::SqliteStore;
use super::batch::{ROWS_PER_STATEMENT, hex, hex_list};
use super::statement::Statement;
use crate::clock::Timestamp;
use crate::ids::{AgentId, ReplicaId};
use crate::store::{ConnectionChange, StoreError};

impl SqliteStore {
    pub(super) async fn record_connects(
        &self,
        replica: ReplicaId,
        changes: &[ConnectionChange],
    ) -> Result<(), StoreError> {
        self.record_changes(Statement::RecordConnects, replica, changes)
            .await
    }

    pub(super) async fn record_disconnects(
        &self,
        replica: ReplicaId,
        changes: &[ConnectionChange],
    ) -> Result<(), StoreError> {
        self.record_changes(Statement::RecordDisconnects, replica, changes)
            .await
    }

    pub(super) async fn record_heartbeats(
        &self,
        replica: ReplicaId,
        agents: &[AgentId],
        at: Timestamp,
    ) -> Result<(), StoreError> {
        for chunk in agents.chunks(ROWS_PER_STATEMENT) {
            let agents = hex_list(chunk.iter().map(|agent| agent.0));
            let query = self.counters.query(Statement::RecordHeartbeats);
            query
                .bind(agents)
                .bind(at.as_micros())
                .bind(replica.0)
                .execute(&self.writer)
                .await?;
        }
        Ok(())
    }

    /// Repeating a change that was written is harmless, so a batch that is split needs no transaction.
    async fn record_changes(
        &self,
        statement: Statement,
        replica: ReplicaId,
        changes: &[ConnectionChange],
    ) -> Result<(), StoreError> {
        for chunk in changes.chunks(ROWS_PER_STATEMENT) {
            let rows = chunk
                .iter()
                .map(|change| json!([hex(change.agent_id.0), change.at.as_micros()]));
            let rows = Value::from_iter(rows).to_string();
            self.counters
                .query(statement)
                .bind(rows)
                .bind(replica.0)
                .execute(&self.writer)
                .await?;
        }
        Ok(())
    }
}
