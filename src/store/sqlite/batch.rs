//! Writes of many rows by one statement, and the JSON lists that carry them.

use serde::ser::SerializeSeq as _;
use serde::{Serialize, Serializer};
use uuid::Uuid;
use uuid::fmt::Simple;

use super::engine::{Call, Database, Session, statements};
use crate::store::{AgentStat, MetadataValue, StoreError};

/// Rows that one statement writes; bounds the JSON text and the time that the write lock is held. The batchers hand in
/// fewer, except after an outage.
const ROWS_PER_STATEMENT: usize = 2_000;

statements! {
    /// NULL for a latency that JSON cannot carry (NaN, infinite): nothing was measured.
    INSERT_STATS = "insert_stats":
        "INSERT INTO workspace_agent_stats (
            id, created_at, user_id, agent_id, workspace_id, template_id, connections_by_proto, connection_count,
            rx_packets, rx_bytes, tx_packets, tx_bytes, connection_median_latency_ms, session_count_vscode,
            session_count_jetbrains, session_count_reconnecting_pty, session_count_ssh, usage
        )
        SELECT unhex(value ->> 0), value ->> 1, unhex(value ->> 2), unhex(value ->> 3), unhex(value ->> 4),
            unhex(value ->> 5), value ->> 6, value ->> 7, value ->> 8, value ->> 9, value ->> 10, value ->> 11,
            coalesce(value ->> 12, -1), value ->> 13, value ->> 14, value ->> 15, value ->> 16, value ->> 17
        FROM json_each(?1)";
    /// A later value of the same item in the list wins.
    UPDATE_METADATA = "update_metadata":
        "UPDATE workspace_agent_metadata SET value = new.value, error = new.error, collected_at = new.collected_at
        FROM (
            SELECT unhex(value ->> 0) AS agent_id, value ->> 1 AS item, value ->> 2 AS value, value ->> 3 AS error,
                value ->> 4 AS collected_at, max(key)
            FROM json_each(?1) GROUP BY 1, 2
        ) AS new
        WHERE workspace_agent_id = new.agent_id AND \"key\" = new.item";
}

/// A UUID as the 32 hexadecimal digits that SQL's `unhex` reads.
pub(super) struct Hex(pub(super) Uuid);

impl Serialize for Hex {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut digits = [0; Simple::LENGTH];
        serializer.serialize_str(self.0.simple().encode_lower(&mut digits))
    }
}

/// A JSON list for `json_each`.
pub(super) fn json<T: Serialize>(items: impl Iterator<Item = T>) -> Result<String, StoreError> {
    let mut buffer = Vec::with_capacity(1024);
    let mut serializer = serde_json::Serializer::new(&mut buffer);
    serializer
        .collect_seq(items)
        .map_err(|error| StoreError::Rejected(error.to_string()))?;
    String::from_utf8(buffer).map_err(|error| StoreError::Rejected(error.to_string()))
}

/// Writes `rows` in chunks of `per_statement`, as one transaction: `list` makes a chunk's JSON list, `call` the
/// statement that takes it.
pub(super) async fn write<T>(
    database: &Database,
    rows: &[T],
    per_statement: usize,
    list: impl Fn(&[T]) -> Result<String, StoreError>,
    call: impl Fn(String) -> Call<'static>,
) -> Result<(), StoreError> {
    let mut calls = Vec::with_capacity(rows.len().div_ceil(per_statement));
    for chunk in rows.chunks(per_statement) {
        calls.push(call(list(chunk)?));
    }
    if calls.len() < 2 {
        // One statement is a transaction of its own.
        for call in calls {
            database.write().await?.execute(call).await?;
        }
        return Ok(());
    }
    let mut transaction = database.transaction().await?;
    let outcome = run_all(&mut transaction, calls).await;
    transaction.finish(outcome).await
}

async fn run_all(transaction: &mut Session<'_>, calls: Vec<Call<'static>>) -> Result<(), StoreError> {
    for call in calls {
        transaction.execute(call).await?;
    }
    Ok(())
}

pub(super) async fn insert_stats(database: &Database, stats: &[AgentStat]) -> Result<(), StoreError> {
    let list = |chunk: &[AgentStat]| json(chunk.iter().map(StatRow));
    write(database, stats, ROWS_PER_STATEMENT, list, |list| {
        INSERT_STATS.bind(list)
    })
    .await
}

pub(super) async fn update_metadata(database: &Database, values: &[MetadataValue]) -> Result<(), StoreError> {
    let list = |chunk: &[MetadataValue]| {
        json(chunk.iter().map(|value| {
            let collected_at = value.collected_at.as_micros();
            (
                Hex(value.agent_id.0),
                &value.key,
                &value.value,
                &value.error,
                collected_at,
            )
        }))
    };
    write(database, values, ROWS_PER_STATEMENT, list, |list| {
        UPDATE_METADATA.bind(list)
    })
    .await
}

/// A sample as the list that `INSERT_STATS` takes apart, under a new id.
struct StatRow<'s>(&'s AgentStat);

impl Serialize for StatRow<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let stat = self.0;
        let mut row = serializer.serialize_seq(None)?;
        row.serialize_element(&Hex(Uuid::new_v4()))?;
        row.serialize_element(&stat.created_at.as_micros())?;
        row.serialize_element(&Hex(stat.user_id.0))?;
        row.serialize_element(&Hex(stat.agent_id.0))?;
        row.serialize_element(&Hex(stat.workspace_id.0))?;
        row.serialize_element(&Hex(stat.template_id.0))?;
        row.serialize_element(&stat.connections_by_proto)?;
        row.serialize_element(&stat.connection_count)?;
        row.serialize_element(&stat.rx_packets)?;
        row.serialize_element(&stat.rx_bytes)?;
        row.serialize_element(&stat.tx_packets)?;
        row.serialize_element(&stat.tx_bytes)?;
        row.serialize_element(&stat.connection_median_latency_ms)?;
        row.serialize_element(&stat.session_count_vscode)?;
        row.serialize_element(&stat.session_count_jetbrains)?;
        row.serialize_element(&stat.session_count_reconnecting_pty)?;
        row.serialize_element(&stat.session_count_ssh)?;
        row.serialize_element(&stat.usage)?;
        row.end()
    }
}
