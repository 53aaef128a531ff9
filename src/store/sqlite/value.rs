//! Arguments in SQLite's few types: ids are blobs, times integers, lists JSON.

use serde::Serialize;
use sqlx::query::Query;
use sqlx::sqlite::{Sqlite, SqliteArguments};

use crate::clock::Timestamp;
use crate::store::sql::batch::Hex;
use crate::store::sql::value::Value;

type SqliteQuery<'q> = Query<'q, Sqlite, SqliteArguments>;

/// A statement with its arguments.
pub(super) fn query<'q>(sql: &'static str, arguments: Vec<Value<'q>>) -> SqliteQuery<'q> {
    arguments.into_iter().fold(sqlx::query(sql), bind)
}

fn bind<'q>(query: SqliteQuery<'q>, value: Value<'q>) -> SqliteQuery<'q> {
    match value {
        Value::Boolean(value) => query.bind(value),
        Value::Integer(value) => query.bind(value),
        Value::Real(value) => query.bind(value),
        Value::Text(value) | Value::Json(value) => query.bind(value),
        Value::Label(value) => query.bind(value),
        Value::Bytes(value) => query.bind(value),
        Value::Id(value) => query.bind(value),
        Value::Time(value) => query.bind(value.map(Timestamp::as_micros)),
        Value::Address(value) => query.bind(value.map(|address| address.to_string())),
        Value::Integers(values) => query.bind(list(&values)),
        Value::Reals(values) => query.bind(list(&values)),
        Value::Booleans(values) => query.bind(list(&values)),
        Value::Texts(values) => query.bind(list(&values)),
        Value::Ids(values) => query.bind(list(&values.into_iter().map(Hex).collect::<Vec<_>>())),
        Value::Times(values) => query.bind(list(
            &values.into_iter().map(Timestamp::as_micros).collect::<Vec<_>>(),
        )),
        Value::Blobs(values) => query.bind(list(&values.into_iter().map(digits).collect::<Vec<_>>())),
    }
}

/// Bytes as the hexadecimal digits that SQL's `unhex` reads.
fn digits(bytes: &[u8]) -> String {
    bytes
        .iter()
        .flat_map(|byte| [byte >> 4, byte & 15])
        .map(|digit| char::from(DIGITS[usize::from(digit)]))
        .collect()
}

const DIGITS: &[u8; 16] = b"0123456789abcdef";

/// A JSON list for `json_each`.
fn list<T: Serialize>(values: &[T]) -> String {
    // Lists of numbers and texts always serialize; an empty text would be refused as JSON.
    serde_json::to_string(values).unwrap_or_default()
}
