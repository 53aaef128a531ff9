//! When agents were connected: times of `workspace_agents`, written for many agents by one statement.

use super::batch::{Hex, json, write};
use super::engine::{Database, Statement, statements};
use crate::clock::Timestamp;
use crate::ids::{AgentId, ReplicaId};
use crate::store::{ConnectionChange, StoreError};

/// Agents that one statement writes; bounds the time that the write lock is held to some tens of milliseconds.
const AGENTS_PER_STATEMENT: usize = 5_000;

/// The listed agents, each with its newest time.
macro_rules! listed_changes {
    () => {
        "(
            SELECT unhex(value ->> 0) AS agent_id, max(value ->> 1) AS at FROM json_each(?1) GROUP BY 1
        ) AS listed"
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
            last_connected_replica_id = ?2,
            updated_at = listed.at
        FROM ", listed_changes!(), " WHERE id = listed.agent_id"
    );
    /// Ordered as a connect is.
    RECORD_HEARTBEATS = "record_heartbeats":
        "UPDATE workspace_agents SET
            last_connected_at = max(?3, coalesce(disconnected_at + 1, ?3), coalesce(first_connected_at, ?3)),
            last_connected_replica_id = ?2, updated_at = ?3
        WHERE id IN (SELECT unhex(value) FROM json_each(?1))";
    /// Only where this replica wrote last: elsewhere the agent has connected anew.
    RECORD_DISCONNECTS = "record_disconnects": concat!(
        "UPDATE workspace_agents SET
            disconnected_at = max(listed.at, coalesce(last_connected_at, listed.at)),
            updated_at = listed.at
        FROM ", listed_changes!(), " WHERE id = listed.agent_id AND last_connected_replica_id = ?2"
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
    let list = |chunk: &[ConnectionChange]| {
        json(
            chunk
                .iter()
                .map(|change| (Hex(change.agent_id.0), change.at.as_micros())),
        )
    };
    write(database, changes, AGENTS_PER_STATEMENT, list, |list| {
        statement.bind(list).bind(replica.0)
    })
    .await
}

pub(super) async fn record_heartbeats(
    database: &Database,
    replica: ReplicaId,
    agents: &[AgentId],
    at: Timestamp,
) -> Result<(), StoreError> {
    let list = |chunk: &[AgentId]| json(chunk.iter().map(|agent| Hex(agent.0)));
    write(database, agents, AGENTS_PER_STATEMENT, list, |list| {
        RECORD_HEARTBEATS.bind(list).bind(replica.0).bind(at.as_micros())
    })
    .await
}
