//! The SQLite side of a copy.

use std::collections::{BTreeMap, BTreeSet};

use futures_util::StreamExt as _;
use sqlx::sqlite::{SqliteConnection, SqliteRow};
use sqlx::{AssertSqlSafe, Row as _, TypeInfo as _, ValueRef as _};

use super::plan::{Column, Form, Table};
use super::{Cell, CopyError, Row, Rows, reading};
use crate::store::StoreError;
use crate::store::sqlite::store_error;

/// Names in the statements are those of our own schema.
type Sql = AssertSqlSafe<String>;

/// SQLite did not do what it was asked to.
#[derive(Debug)]
pub(super) struct Failed(StoreError);

impl From<sqlx::Error> for Failed {
    fn from(error: sqlx::Error) -> Self {
        Self(store_error(&error))
    }
}

impl From<Failed> for StoreError {
    fn from(failed: Failed) -> Self {
        failed.0
    }
}

/// Everything that is read from now on is of one moment.
pub(super) async fn begin_reading(connection: &mut SqliteConnection) -> Result<(), Failed> {
    end(connection, "BEGIN").await
}

pub(super) async fn begin_writing(connection: &mut SqliteConnection) -> Result<(), Failed> {
    end(connection, "BEGIN IMMEDIATE").await
}

/// Transaction control.
pub(super) async fn end(connection: &mut SqliteConnection, sql: &'static str) -> Result<(), Failed> {
    sqlx::query(sql).execute(connection).await?;
    Ok(())
}

/// The tables of our schema with the columns that are stored.
pub(super) async fn columns(
    connection: &mut SqliteConnection,
) -> Result<BTreeMap<String, BTreeSet<String>>, Failed> {
    let rows = sqlx::query(
        "SELECT t.name AS table_name, c.name AS column_name
        FROM sqlite_schema AS t JOIN pragma_table_xinfo(t.name) AS c
        WHERE t.type = 'table' AND c.hidden = 0 AND t.name NOT LIKE 'sqlite\\_%' ESCAPE '\\' AND t.name <> 'drpcd_migrations'",
    );
    let mut tables: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for row in rows.fetch_all(connection).await? {
        let columns = tables.entry(row.try_get("table_name")?).or_default();
        columns.insert(row.try_get("column_name")?);
    }
    Ok(tables)
}

pub(super) async fn count(connection: &mut SqliteConnection, table: &Table) -> Result<u64, Failed> {
    let sql: Sql = AssertSqlSafe(format!("SELECT count(*) FROM \"{}\"", table.name));
    let count: i64 = sqlx::query_scalar(sql).fetch_one(connection).await?;
    Ok(count.unsigned_abs())
}

pub(super) async fn clear(connection: &mut SqliteConnection, table: &str) -> Result<(), Failed> {
    let sql: Sql = AssertSqlSafe(format!("DELETE FROM \"{table}\""));
    sqlx::query(sql).execute(connection).await?;
    Ok(())
}

/// The last number that each counting column has given out: table, column, number.
pub(super) async fn sequences(
    connection: &mut SqliteConnection,
) -> Result<Vec<(String, String, i64)>, Failed> {
    let rows = sqlx::query(
        "SELECT s.name AS table_name, c.name AS column_name, s.seq
        FROM sqlite_sequence AS s JOIN pragma_table_info(s.name) AS c WHERE c.pk = 1 AND s.name <> 'drpcd_events'",
    );
    let mut sequences = Vec::new();
    for row in rows.fetch_all(connection).await? {
        sequences.push((
            row.try_get("table_name")?,
            row.try_get("column_name")?,
            row.try_get("seq")?,
        ));
    }
    Ok(sequences)
}

/// All rows, older ones first: a row never refers to a later one of its table.
pub(super) fn rows<'c>(connection: &'c mut SqliteConnection, table: &'c Table) -> Rows<'c> {
    let columns: Vec<_> = table
        .columns
        .iter()
        .map(|column| format!("\"{}\"", column.name))
        .collect();
    let sql: Sql = AssertSqlSafe(format!(
        "SELECT {} FROM \"{}\" ORDER BY rowid",
        columns.join(", "),
        table.name
    ));
    let rows = sqlx::query(sql).fetch(connection);
    let cells = move |row: Result<SqliteRow, sqlx::Error>| {
        let row = row.map_err(|error| reading(Failed::from(error)))?;
        let cell = |(index, column): (usize, &Column)| {
            cell(&row, index, column).ok_or_else(|| CopyError::Value {
                table: table.name.clone(),
                column: column.name.clone(),
            })
        };
        table.columns.iter().enumerate().map(cell).collect()
    };
    rows.map(cells).boxed()
}

/// `None` for what is not in the column's form. Tables are strict, so that there is no such thing in a sound file.
fn cell(row: &SqliteRow, index: usize, column: &Column) -> Option<Cell> {
    let value = row.try_get_raw(index).ok()?;
    if value.is_null() {
        return Some(Cell::Null);
    }
    let found = value.type_info().name().to_owned();
    match (&column.form, found.as_str()) {
        (Form::Boolean | Form::Integer | Form::Time, "INTEGER") => row.try_get(index).ok().map(Cell::Integer),
        (Form::Real, "REAL") => row.try_get(index).ok().map(Cell::Real),
        (Form::Id | Form::Bytes, "BLOB") => row.try_get(index).ok().map(Cell::Bytes),
        (Form::Text | Form::Json | Form::Address | Form::Label(_) | Form::List(_), "TEXT") => {
            row.try_get(index).ok().map(Cell::Text)
        }
        _ => None,
    }
}

pub(super) async fn insert(
    connection: &mut SqliteConnection,
    table: &Table,
    rows: &[Row],
) -> Result<(), Failed> {
    let columns: Vec<_> = table
        .columns
        .iter()
        .map(|column| format!("\"{}\"", column.name))
        .collect();
    let marks = vec!["?"; columns.len()].join(", ");
    let sql = format!(
        "INSERT INTO \"{}\" ({}) VALUES ({marks})",
        table.name,
        columns.join(", ")
    );
    for row in rows {
        let insert = sqlx::query(AssertSqlSafe(sql.clone()));
        let insert = row.iter().fold(insert, |insert, cell| match cell {
            Cell::Null => insert.bind(None::<i64>),
            Cell::Integer(value) => insert.bind(value),
            Cell::Real(value) => insert.bind(value),
            Cell::Text(value) => insert.bind(value),
            Cell::Bytes(value) => insert.bind(value),
        });
        insert.execute(&mut *connection).await?;
    }
    Ok(())
}
