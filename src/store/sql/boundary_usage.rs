//! What boundaries let through, one row per replica.

use super::database::Database;
use super::statement::statements;
use crate::clock::Timestamp;
use crate::ids::ReplicaId;
use crate::store::{BoundaryUsage, StoreError};

statements! {
    /// A new row counts what is new; whoever emptied the table has the rest.
    UPSERT_BOUNDARY_USAGE = "upsert_boundary_usage":
        "INSERT INTO boundary_usage_stats (
            replica_id, unique_workspaces_count, unique_users_count, allowed_requests, denied_requests, window_start,
            updated_at
        )
        VALUES ($1, $2, $3, $4, $5, $6, $6)
        ON CONFLICT (replica_id) DO UPDATE SET
            unique_workspaces_count = $7,
            unique_users_count = $8,
            allowed_requests = boundary_usage_stats.allowed_requests + excluded.allowed_requests,
            denied_requests = boundary_usage_stats.denied_requests + excluded.denied_requests,
            updated_at = excluded.updated_at
        RETURNING window_start = updated_at AS inserted";
}

pub(super) async fn upsert(
    database: &Database,
    replica: ReplicaId,
    usage: &BoundaryUsage,
    now: Timestamp,
) -> Result<bool, StoreError> {
    let call = UPSERT_BOUNDARY_USAGE
        .bind(replica.0)
        .bind(usage.workspaces.new)
        .bind(usage.users.new)
        .bind(usage.allowed)
        .bind(usage.denied)
        .bind(now)
        .bind(usage.workspaces.all)
        .bind(usage.users.all);
    database.write().await?.one(call).await?.get("inserted")
}
