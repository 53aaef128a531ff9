//! When agents were connected: times of `workspace_agents`, written for many agents by one statement.

use super::batch::{Hex, json, write};
use super::database::Database;
use super::statement::{Dialect, Statement, statements};
use super::value::ids;
use crate::clock::Timestamp;
use crate::ids::{AgentId, ReplicaId};
use crate::store::{ConnectionChange, StoreError};

/// Agents that one statement writes; bounds the time that the write lock is held to some tens of milliseconds.
const AGENTS_PER_STATEMENT: usize = 5_000;

/// The listed agents, each with its newest time.
macro_rules! listed_changes {
    () => {
        "(
            SELECT unhex(value ->> 0) AS agent_id, max(value ->> 1) AS at FROM json_each($1) GROUP BY 1
        ) AS listed"
    };
}

/// The same on Postgres, their rows locked in the order of ids: two servers that write the same agents wait for each
/// other in one direction.
macro_rules! listed_and_locked {
    () => {
        "listed AS (
            SELECT agent_id, max(at) AS at FROM unnest($1::uuid[], $3::timestamptz[]) AS change(agent_id, at)
            GROUP BY agent_id
        ), locked AS (
            SELECT a.id, listed.at FROM workspace_agents AS a JOIN listed ON listed.agent_id = a.id
            ORDER BY a.id FOR NO KEY UPDATE OF a
        )"
    };
}

statements! {
    /// A connect in the microsecond of the last disconnect would look disconnected, so it is dated one later. The wall
    /// clock may have gone back since: whatever it says, first ≤ last, and an agent that is connected looks so.
    RECORD_CONNECTS = "record_connects": concat!(
        "UPDATE workspace_agents SET
            first_connected_at = coalesce(first_connected_at, listed.at),
            last_connected_at = max(
                listed.at, coalesce(disconnected_at + 1, listed.at), coalesce(first_connected_at, listed.at)
            ),
            last_connected_replica_id = $2,
            updated_at = listed.at
        FROM ", listed_changes!(), " WHERE id = listed.agent_id"
    ), postgres: concat!(
        "WITH ", listed_and_locked!(), "
        UPDATE workspace_agents SET
            first_connected_at = coalesce(first_connected_at, locked.at),
            last_connected_at = greatest(locked.at, disconnected_at + interval '1 microsecond', first_connected_at),
            last_connected_replica_id = $2,
            updated_at = locked.at
        FROM locked WHERE workspace_agents.id = locked.id"
    );
    /// Ordered as a connect is.
    RECORD_HEARTBEATS = "record_heartbeats":
        "UPDATE workspace_agents SET
            last_connected_at = max($3, coalesce(disconnected_at + 1, $3), coalesce(first_connected_at, $3)),
            last_connected_replica_id = $2, updated_at = $3
        WHERE id IN (SELECT unhex(value) FROM json_each($1))",
        postgres:
        "UPDATE workspace_agents SET
            last_connected_at = greatest($3, disconnected_at + interval '1 microsecond', first_connected_at),
            last_connected_replica_id = $2, updated_at = $3
        WHERE id IN (SELECT id FROM workspace_agents WHERE id = ANY($1) ORDER BY id FOR NO KEY UPDATE)";
    /// Only where this replica wrote last: elsewhere the agent has connected anew.
    RECORD_DISCONNECTS = "record_disconnects": concat!(
        "UPDATE workspace_agents SET
            disconnected_at = max(listed.at, coalesce(last_connected_at, listed.at)),
            updated_at = listed.at
        FROM ", listed_changes!(), " WHERE id = listed.agent_id AND last_connected_replica_id = $2"
    ), postgres: concat!(
        "WITH ", listed_and_locked!(), "
        UPDATE workspace_agents SET
            disconnected_at = greatest(locked.at, last_connected_at),
            updated_at = locked.at
        FROM locked WHERE workspace_agents.id = locked.id AND last_connected_replica_id = $2"
    );
}

pub(super) async fn record_connects(
    database: &Database,
    replica: ReplicaId,
    changes: &[ConnectionChange],
) -> Result<(), StoreError> {
    record(database, &RECORD_CONNECTS, replica, changes).await
}

pub(super) async fn record_disconnects(
    database: &Database,
    replica: ReplicaId,
    changes: &[ConnectionChange],
) -> Result<(), StoreError> {
    record(database, &RECORD_DISCONNECTS, replica, changes).await
}

async fn record(
    database: &Database,
    statement: &'static Statement,
    replica: ReplicaId,
    changes: &[ConnectionChange],
) -> Result<(), StoreError> {
    let dialect = database.dialect();
    write(database, changes, AGENTS_PER_STATEMENT, |chunk| {
        Ok(match dialect {
            Dialect::Sqlite => {
                let list = chunk
                    .iter()
                    .map(|change| (Hex(change.agent_id.0), change.at.as_micros()));
                statement.bind(json(list)?).bind(replica.0)
            }
            Dialect::Postgres => statement
                .bind(ids(chunk.iter().map(|change| change.agent_id.0)))
                .bind(replica.0)
                .bind(chunk.iter().map(|change| change.at).collect::<Vec<_>>()),
        })
    })
    .await
}

pub(super) async fn record_heartbeats(
    database: &Database,
    replica: ReplicaId,
    agents: &[AgentId],
    at: Timestamp,
) -> Result<(), StoreError> {
    write(database, agents, AGENTS_PER_STATEMENT, |chunk| {
        let listed = ids(chunk.iter().map(|agent| agent.0));
        Ok(RECORD_HEARTBEATS.bind(listed).bind(replica.0).bind(at))
    })
    .await
}
