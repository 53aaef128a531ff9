//! What a query gives on either engine, as texts that read the same: a row is its columns, joined by spaces, of which ids
//! have hyphens, other bytes are hexadecimal, times are microseconds since 1970, booleans 1 or 0, and NULL nothing.

use std::fmt::Write as _;

use jiff::Timestamp;
use sqlx::postgres::PgRow;
use sqlx::sqlite::SqliteRow;
use sqlx::{AssertSqlSafe, Column as _, PgConnection, Row, SqliteConnection, TypeInfo as _, ValueRef as _};
use uuid::Uuid;

/// Rows of SQLite.
pub async fn of_sqlite(connection: &mut SqliteConnection, sql: &str) -> Vec<String> {
    let rows = sqlx::raw_sql(AssertSqlSafe(sql)).fetch_all(connection).await;
    let rows = rows.unwrap_or_else(|error| panic!("{sql}: {error}"));
    rows.iter().map(|row| columns(row, sqlite_text)).collect()
}

/// Rows of Postgres.
pub async fn of_postgres(connection: &mut PgConnection, sql: &str) -> Vec<String> {
    // In the simple protocol, values come as texts.
    let rows = sqlx::raw_sql(AssertSqlSafe(sql)).fetch_all(connection).await;
    let rows = rows.unwrap_or_else(|error| panic!("{sql}: {error}"));
    rows.iter().map(|row| columns(row, postgres_text)).collect()
}

fn columns<R: Row>(row: &R, text: fn(&R, usize) -> String) -> String {
    let texts: Vec<_> = row
        .columns()
        .iter()
        .map(|column| text(row, column.ordinal()))
        .collect();
    texts.join(" ")
}

fn sqlite_text(row: &SqliteRow, column: usize) -> String {
    let value = row.try_get_raw(column).unwrap();
    let kind = value.type_info().name().to_owned();
    match kind.as_str() {
        _ if value.is_null() => String::new(),
        "INTEGER" => row.get_unchecked::<i64, _>(column).to_string(),
        "REAL" => row.get_unchecked::<f64, _>(column).to_string(),
        "BLOB" => bytes(row.get_unchecked::<&[u8], _>(column)),
        _ => row.get_unchecked::<String, _>(column),
    }
}

fn postgres_text(row: &PgRow, column: usize) -> String {
    let value = row.try_get_raw(column).unwrap();
    if value.is_null() {
        return String::new();
    }
    let text = value.as_str().unwrap();
    match value.type_info().name() {
        "BOOL" => i32::from(text == "t").to_string(),
        "BYTEA" => text.trim_start_matches(r"\x").to_owned(),
        "TIMESTAMPTZ" => text.parse::<Timestamp>().unwrap().as_microsecond().to_string(),
        _ => text.to_owned(),
    }
}

/// An id, or else digits.
fn bytes(bytes: &[u8]) -> String {
    if let Ok(id) = Uuid::from_slice(bytes) {
        return id.to_string();
    }
    bytes.iter().fold(String::new(), |mut digits, byte| {
        write!(digits, "{byte:02x}").unwrap();
        digits
    })
}
