//! Connections to agents: one row each, whatever the order of their reports.

use super::database::Database;
use super::statement::statements;
use super::value::label;
use crate::store::{ConnectionEvent, ConnectionLog, StoreError};

statements! {
    /// A second report fills in how the connection ended, where that is not known yet, and changes nothing else.
    UPSERT_CONNECTION_LOG = "upsert_connection_log":
        "INSERT INTO connection_logs (
            id, connect_time, organization_id, workspace_owner_id, workspace_id, workspace_name, agent_name, type, ip,
            code, connection_id, disconnect_time, disconnect_reason
        )
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)
        ON CONFLICT (connection_id, workspace_id, agent_name) DO UPDATE SET
            disconnect_time = coalesce(connection_logs.disconnect_time, excluded.disconnect_time),
            disconnect_reason = coalesce(connection_logs.disconnect_reason, excluded.disconnect_reason),
            code = coalesce(connection_logs.code, excluded.code)
        WHERE excluded.disconnect_time IS NOT NULL";
}

pub(super) async fn upsert(database: &Database, log: &ConnectionLog) -> Result<(), StoreError> {
    let (code, ended) = match log.event {
        ConnectionEvent::Connected => (None, None),
        ConnectionEvent::Disconnected { code } => (Some(code), Some(log.time)),
    };
    let call = UPSERT_CONNECTION_LOG
        .bind(log.id)
        .bind(log.time)
        .bind(log.organization_id.0)
        .bind(log.workspace_owner_id.0)
        .bind(log.workspace_id.0)
        .bind(log.workspace_name.as_str())
        .bind(log.agent_name.as_str())
        .bind(label(log.kind))
        .bind(log.ip)
        .bind(code)
        .bind(log.connection_id)
        .bind(ended)
        .bind(log.disconnect_reason.as_deref());
    database.write().await?.execute(call).await.map(|_| ())
}
