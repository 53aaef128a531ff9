//! Writes of many rows by one statement: on SQLite from a JSON list, on Postgres from a list for each column.

use serde::ser::SerializeSeq as _;
use serde::{Serialize, Serializer};
use uuid::Uuid;
use uuid::fmt::Simple;

use super::database::{Database, Session};
use super::statement::{Call, Dialect, statements};
use super::value::{ids, texts};
use crate::store::{AgentStat, MetadataValue, StoreError};

/// Rows that one statement writes; bounds the JSON text and the time that the write lock is held. The batchers hand in
/// fewer, except after an outage.
const ROWS_PER_STATEMENT: usize = 2_000;

statements! {
    /// May be asked for twice when the first answer was lost. NULL for a latency that JSON cannot carry (NaN, infinite):
    /// nothing was measured.
    INSERT_STATS = "insert_stats":
        "INSERT INTO workspace_agent_stats (
            id, created_at, user_id, agent_id, workspace_id, template_id, connections_by_proto, connection_count,
            rx_packets, rx_bytes, tx_packets, tx_bytes, connection_median_latency_ms, session_count_vscode,
            session_count_jetbrains, session_count_reconnecting_pty, session_count_ssh, usage
        )
        SELECT unhex(value ->> 0), value ->> 1, unhex(value ->> 2), unhex(value ->> 3), unhex(value ->> 4),
            unhex(value ->> 5), value ->> 6, value ->> 7, value ->> 8, value ->> 9, value ->> 10, value ->> 11,
            coalesce(value ->> 12, -1), value ->> 13, value ->> 14, value ->> 15, value ->> 16, value ->> 17
        FROM json_each($1) WHERE TRUE ON CONFLICT DO NOTHING",
        postgres:
        "INSERT INTO workspace_agent_stats (
            id, created_at, user_id, agent_id, workspace_id, template_id, connections_by_proto, connection_count,
            rx_packets, rx_bytes, tx_packets, tx_bytes, connection_median_latency_ms, session_count_vscode,
            session_count_jetbrains, session_count_reconnecting_pty, session_count_ssh, usage
        )
        SELECT id, created_at, user_id, agent_id, workspace_id, template_id, by_proto::jsonb,
            connections, rx_packets, rx_bytes, tx_packets, tx_bytes, latency, vscode, jetbrains, pty, ssh, usage
        FROM unnest(
            $1::uuid[], $2::timestamptz[], $3::uuid[], $4::uuid[], $5::uuid[], $6::uuid[], $7::text[],
            $8::bigint[], $9::bigint[], $10::bigint[], $11::bigint[], $12::bigint[], $13::float8[], $14::bigint[],
            $15::bigint[], $16::bigint[], $17::bigint[], $18::bool[]
        ) AS stat(
            id, created_at, user_id, agent_id, workspace_id, template_id, by_proto, connections, rx_packets, rx_bytes,
            tx_packets, tx_bytes, latency, vscode, jetbrains, pty, ssh, usage
        ) ON CONFLICT DO NOTHING";
    /// A later value of the same item in the list wins.
    UPDATE_METADATA = "update_metadata":
        "UPDATE workspace_agent_metadata SET value = new.value, error = new.error, collected_at = new.collected_at
        FROM (
            SELECT unhex(value ->> 0) AS agent_id, value ->> 1 AS item, value ->> 2 AS value, value ->> 3 AS error,
                value ->> 4 AS collected_at, max(key)
            FROM json_each($1) GROUP BY 1, 2
        ) AS new
        WHERE workspace_agent_id = new.agent_id AND \"key\" = new.item",
        postgres:
        "WITH new AS (
            SELECT DISTINCT ON (agent_id, item) agent_id, item, value, error, collected_at
            FROM unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::timestamptz[])
                WITH ORDINALITY AS listed(agent_id, item, value, error, collected_at, n)
            ORDER BY agent_id, item, n DESC
        ), locked AS (
            SELECT m.workspace_agent_id, m.\"key\" FROM workspace_agent_metadata AS m
            JOIN new ON m.workspace_agent_id = new.agent_id AND m.\"key\" = new.item
            ORDER BY m.workspace_agent_id, m.\"key\" FOR NO KEY UPDATE OF m
        )
        UPDATE workspace_agent_metadata AS m
        SET value = new.value, error = new.error, collected_at = new.collected_at
        FROM new JOIN locked ON locked.workspace_agent_id = new.agent_id AND locked.\"key\" = new.item
        WHERE m.workspace_agent_id = new.agent_id AND m.\"key\" = new.item";
}

/// A UUID as the 32 hexadecimal digits that SQL's `unhex` reads.
pub(in crate::store) struct Hex(pub(in crate::store) Uuid);

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

/// Writes `rows` in chunks of `per_statement`, as one transaction: `call` makes the statement of a chunk.
pub(super) async fn write<'r, T>(
    database: &Database,
    rows: &'r [T],
    per_statement: usize,
    call: impl Fn(&'r [T]) -> Result<Call<'r>, StoreError>,
) -> Result<(), StoreError> {
    let mut calls = Vec::with_capacity(rows.len().div_ceil(per_statement));
    for chunk in rows.chunks(per_statement) {
        calls.push(call(chunk)?);
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

async fn run_all(transaction: &mut Session<'_>, calls: Vec<Call<'_>>) -> Result<(), StoreError> {
    for call in calls {
        transaction.execute(call).await?;
    }
    Ok(())
}

pub(super) async fn insert_stats(database: &Database, stats: &[AgentStat]) -> Result<(), StoreError> {
    let dialect = database.dialect();
    write(database, stats, ROWS_PER_STATEMENT, |chunk| match dialect {
        Dialect::Sqlite => Ok(INSERT_STATS.bind(json(chunk.iter().map(StatRow))?)),
        Dialect::Postgres => Ok(stat_columns(chunk)),
    })
    .await
}

pub(super) async fn update_metadata(database: &Database, values: &[MetadataValue]) -> Result<(), StoreError> {
    let dialect = database.dialect();
    write(database, values, ROWS_PER_STATEMENT, |chunk| {
        Ok(match dialect {
            Dialect::Sqlite => UPDATE_METADATA.bind(json(chunk.iter().map(|value| {
                let collected_at = value.collected_at.as_micros();
                (
                    Hex(value.agent_id.0),
                    &value.key,
                    &value.value,
                    &value.error,
                    collected_at,
                )
            }))?),
            Dialect::Postgres => UPDATE_METADATA
                .bind(ids(chunk.iter().map(|value| value.agent_id.0)))
                .bind(texts(chunk.iter().map(|value| value.key.as_str())))
                .bind(texts(chunk.iter().map(|value| value.value.as_str())))
                .bind(texts(chunk.iter().map(|value| value.error.as_str())))
                .bind(chunk.iter().map(|value| value.collected_at).collect::<Vec<_>>()),
        })
    })
    .await
}

/// Samples by column. A latency that is no number says that nothing was measured.
fn stat_columns(stats: &[AgentStat]) -> Call<'_> {
    let all = || stats.iter();
    let integers = |column: fn(&AgentStat) -> i64| all().map(column).collect::<Vec<_>>();
    let latency = |stat: &AgentStat| match stat.connection_median_latency_ms {
        latency if latency.is_finite() => latency,
        _ => -1.0,
    };
    INSERT_STATS
        .bind(ids(all().map(|stat| stat.id)))
        .bind(all().map(|stat| stat.created_at).collect::<Vec<_>>())
        .bind(ids(all().map(|stat| stat.user_id.0)))
        .bind(ids(all().map(|stat| stat.agent_id.0)))
        .bind(ids(all().map(|stat| stat.workspace_id.0)))
        .bind(ids(all().map(|stat| stat.template_id.0)))
        .bind(texts(all().map(|stat| stat.connections_by_proto.as_str())))
        .bind(integers(|stat| stat.connection_count))
        .bind(integers(|stat| stat.rx_packets))
        .bind(integers(|stat| stat.rx_bytes))
        .bind(integers(|stat| stat.tx_packets))
        .bind(integers(|stat| stat.tx_bytes))
        .bind(all().map(latency).collect::<Vec<_>>())
        .bind(integers(|stat| stat.session_count_vscode))
        .bind(integers(|stat| stat.session_count_jetbrains))
        .bind(integers(|stat| stat.session_count_reconnecting_pty))
        .bind(integers(|stat| stat.session_count_ssh))
        .bind(all().map(|stat| stat.usage).collect::<Vec<_>>())
}

/// A sample as the list that `INSERT_STATS` takes apart.
struct StatRow<'s>(&'s AgentStat);

impl Serialize for StatRow<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let stat = self.0;
        let mut row = serializer.serialize_seq(None)?;
        row.serialize_element(&Hex(stat.id))?;
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
