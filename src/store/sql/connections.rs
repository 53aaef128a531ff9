//! When agents were connected: times of `workspace_agents`, written for many agents by one statement.
//!
//! A row belongs to the replica that wrote it last, since the end of a session counts only there. Owns the rule by which
//! another may take it: never from one that writes it, always from one that is gone. Must never trust clocks of several
//! replicas to agree.

use std::time::Duration;

use super::batch::{Hex, json, write};
use super::database::Database;
use super::statement::{Dialect, Statement, statements};
use super::value::ids;
use crate::clock::Timestamp;
use crate::ids::{AgentId, ReplicaId};
use crate::store::{ConnectionChange, StoreError};

/// Agents that one statement writes; bounds the time that the write lock is held to some tens of milliseconds.
const AGENTS_PER_STATEMENT: usize = 5_000;

/// A connect that is written within this is the newest there is, whatever the clocks of others say: what it waits for
/// company, and time for a slow write. An older one had to wait for the database, and others may have written since.
const PROMPT: Duration = Duration::from_secs(1);

/// How far clocks of replicas may differ. A later time is not another's but from before the clock went back.
const CLOCKS_DIFFER: Duration = Duration::from_secs(5);

/// After how many ticks without a write a replica has lost its agents to others that hold sessions of them. A late tick
/// loses nothing, and an agent of one that died is taken over while it hardly looks gone: that is after two.
const SILENT_TICKS: f64 = 1.5;

/// How many ticks late a heartbeat may be written, since a newer one replaces it. A later time is from before the clock
/// went back.
const LATE_TICKS: u32 = 2;

/// Whether the row is this replica's, or nobody else's any more. Another has it that wrote it after `$since` and up to
/// `$latest`, unless it wrote the end.
macro_rules! is_free {
    (since: $since:literal, latest: $latest:literal) => {
        concat!(
            "(
            last_connected_replica_id <> $2 AND last_connected_at > ",
            $since,
            " AND last_connected_at <= ",
            $latest,
            " AND (disconnected_at IS NULL OR disconnected_at < last_connected_at)
        ) IS NOT TRUE"
        )
    };
}

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
    /// One that had to wait is not written over what another replica wrote meanwhile.
    RECORD_CONNECTS = "record_connects": concat!(
        "UPDATE workspace_agents SET
            first_connected_at = coalesce(first_connected_at, listed.at),
            last_connected_at = max(
                listed.at, coalesce(disconnected_at + 1, listed.at), coalesce(first_connected_at, listed.at)
            ),
            last_connected_replica_id = $2,
            updated_at = listed.at
        FROM ", listed_changes!(), " WHERE id = listed.agent_id AND (
            listed.at >= $4 OR ", is_free!(since: "listed.at", latest: "$3"), "
        )"
    ), postgres: concat!(
        "WITH ", listed_and_locked!(), "
        UPDATE workspace_agents SET
            first_connected_at = coalesce(first_connected_at, locked.at),
            last_connected_at = greatest(locked.at, disconnected_at + interval '1 microsecond', first_connected_at),
            last_connected_replica_id = $2,
            updated_at = locked.at
        FROM locked WHERE workspace_agents.id = locked.id AND (
            locked.at >= $5 OR ", is_free!(since: "locked.at", latest: "$4"), "
        )"
    );
    /// Ordered as a connect is. A session whose end has not arrived yet must not take the row from a newer one elsewhere.
    RECORD_HEARTBEATS = "record_heartbeats": concat!(
        "UPDATE workspace_agents SET
            last_connected_at = max($3, coalesce(disconnected_at + 1, $3), coalesce(first_connected_at, $3)),
            last_connected_replica_id = $2, updated_at = $3
        WHERE id IN (SELECT unhex(value) FROM json_each($1)) AND ", is_free!(since: "$4", latest: "$5")
    ), postgres: concat!(
        "UPDATE workspace_agents SET
            last_connected_at = greatest($3, disconnected_at + interval '1 microsecond', first_connected_at),
            last_connected_replica_id = $2, updated_at = $3
        WHERE id IN (SELECT id FROM workspace_agents WHERE id = ANY($1) ORDER BY id FOR NO KEY UPDATE)
        AND ", is_free!(since: "$4", latest: "$5")
    );
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
    now: Timestamp,
) -> Result<(), StoreError> {
    let times = [now.saturating_add(CLOCKS_DIFFER), now.saturating_sub(PROMPT)];
    record(database, &RECORD_CONNECTS, replica, changes, &times).await
}

pub(super) async fn record_disconnects(
    database: &Database,
    replica: ReplicaId,
    changes: &[ConnectionChange],
) -> Result<(), StoreError> {
    record(database, &RECORD_DISCONNECTS, replica, changes, &[]).await
}

async fn record(
    database: &Database,
    statement: &'static Statement,
    replica: ReplicaId,
    changes: &[ConnectionChange],
    times: &[Timestamp],
) -> Result<(), StoreError> {
    let dialect = database.dialect();
    write(database, changes, AGENTS_PER_STATEMENT, |chunk| {
        let call = match dialect {
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
        };
        Ok(times.iter().fold(call, |call, time| call.bind(*time)))
    })
    .await
}

pub(super) async fn record_heartbeats(
    database: &Database,
    replica: ReplicaId,
    agents: &[AgentId],
    at: Timestamp,
    tick: Duration,
) -> Result<(), StoreError> {
    let since = at.saturating_sub(tick.mul_f64(SILENT_TICKS));
    let latest = at.saturating_add(tick * LATE_TICKS);
    write(database, agents, AGENTS_PER_STATEMENT, |chunk| {
        let listed = ids(chunk.iter().map(|agent| agent.0));
        let call = RECORD_HEARTBEATS.bind(listed).bind(replica.0).bind(at);
        Ok(call.bind(since).bind(latest))
    })
    .await
}
