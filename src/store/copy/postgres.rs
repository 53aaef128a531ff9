//! The Postgres side of a copy.

use futures_util::StreamExt as _;
use sqlx::postgres::{PgConnection, PgRow};
use sqlx::{AssertSqlSafe, Row as _};

use super::plan::{Column, Form, Table};
use super::{Cell, CopyError, Row, Rows, reading};
use crate::clock::Timestamp;
use crate::store::StoreError;
use crate::store::postgres::{Time, store_error};

/// Postgres did not do what it was asked to.
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
pub(super) async fn begin_reading(connection: &mut PgConnection) -> Result<(), Failed> {
    end(connection, "BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY").await
}

/// A message that was queued stays queued, although its user may have opted out since; the trigger would refuse it. Only
/// this transaction sees the trigger off.
pub(super) async fn begin_writing(connection: &mut PgConnection) -> Result<(), Failed> {
    end(connection, "BEGIN").await?;
    end(
        connection,
        "ALTER TABLE notification_messages DISABLE TRIGGER inhibit_enqueue_if_disabled",
    )
    .await
}

pub(super) async fn finish_writing(connection: &mut PgConnection) -> Result<(), Failed> {
    end(
        connection,
        "ALTER TABLE notification_messages ENABLE TRIGGER inhibit_enqueue_if_disabled",
    )
    .await
}

/// Transaction control.
pub(super) async fn end(connection: &mut PgConnection, sql: &'static str) -> Result<(), Failed> {
    sqlx::raw_sql(sql).execute(connection).await?;
    Ok(())
}

pub(super) async fn count(connection: &mut PgConnection, table: &Table) -> Result<u64, Failed> {
    let sql = AssertSqlSafe(format!("SELECT count(*) FROM \"{}\"", table.name));
    let count: i64 = sqlx::query_scalar(sql).fetch_one(connection).await?;
    Ok(count.unsigned_abs())
}

pub(super) async fn clear(connection: &mut PgConnection, table: &str) -> Result<(), Failed> {
    let sql = AssertSqlSafe(format!("DELETE FROM \"{table}\""));
    sqlx::query(sql).execute(connection).await?;
    Ok(())
}

/// Makes a counting column go on after `last`.
pub(super) async fn move_sequence(
    connection: &mut PgConnection,
    table: &str,
    column: &str,
    last: i64,
) -> Result<(), Failed> {
    // 0 is what a sequence that was never used says.
    let move_it = sqlx::query("SELECT setval(pg_get_serial_sequence($1, $2), greatest($3, 1), $3 > 0)");
    move_it
        .bind(table)
        .bind(column)
        .bind(last)
        .execute(connection)
        .await?;
    Ok(())
}

/// All rows, in an order in which none refers to a later one of its table.
pub(super) fn rows<'c>(connection: &'c mut PgConnection, table: &'c Table) -> Rows<'c> {
    let columns: Vec<_> = table.columns.iter().map(read_as).collect();
    let has = |name: &str| table.columns.iter().any(|column| column.name == name);
    let order = match (has("parent_id"), has("created_at")) {
        (true, _) => " ORDER BY parent_id IS NOT NULL, created_at, id",
        (false, true) => " ORDER BY created_at",
        (false, false) => "",
    };
    let sql = AssertSqlSafe(format!(
        "SELECT {} FROM \"{}\"{order}",
        columns.join(", "),
        table.name
    ));
    let rows = sqlx::query(sql).fetch(connection);
    let cells = move |row: Result<PgRow, sqlx::Error>| {
        let row = row.map_err(|error| reading(Failed::from(error)))?;
        let cell = |(index, column): (usize, &Column)| {
            cell(&row, index, &column.form).map_err(|_| CopyError::Value {
                table: table.name.clone(),
                column: column.name.clone(),
            })
        };
        table.columns.iter().enumerate().map(cell).collect()
    };
    rows.map(cells).boxed()
}

/// A column in SQLite's form.
fn read_as(column: &Column) -> String {
    let name = format!("\"{}\"", column.name);
    match column.form {
        Form::Boolean => format!("{name}::int::bigint"),
        Form::Integer => format!("{name}::bigint"),
        Form::Time => format!("(extract(epoch FROM {name}) * 1000000)::bigint"),
        Form::Id => format!("uuid_send({name})"),
        Form::Address => format!("host({name})"),
        Form::List(_) => format!("to_jsonb({name})::text"),
        Form::Text | Form::Json | Form::Label(_) => format!("{name}::text"),
        Form::Real | Form::Bytes => name,
    }
}

fn cell(row: &PgRow, index: usize, form: &Form) -> Result<Cell, sqlx::Error> {
    Ok(match form {
        Form::Boolean | Form::Integer | Form::Time => row
            .try_get::<Option<i64>, _>(index)?
            .map_or(Cell::Null, Cell::Integer),
        Form::Real => row
            .try_get::<Option<f64>, _>(index)?
            .map_or(Cell::Null, Cell::Real),
        Form::Id | Form::Bytes => row
            .try_get::<Option<Vec<u8>>, _>(index)?
            .map_or(Cell::Null, Cell::Bytes),
        Form::Text | Form::Json | Form::Address | Form::Label(_) | Form::List(_) => row
            .try_get::<Option<String>, _>(index)?
            .map_or(Cell::Null, Cell::Text),
    })
}

/// Inserts rows by one statement: for each column a list, of texts that the column's type reads.
pub(super) async fn insert(connection: &mut PgConnection, table: &Table, rows: &[Row]) -> Result<(), Failed> {
    let names: Vec<_> = table
        .columns
        .iter()
        .map(|column| format!("\"{}\"", column.name))
        .collect();
    let values: Vec<_> = table
        .columns
        .iter()
        .enumerate()
        .map(|(n, column)| write_as(n, &column.form))
        .collect();
    let list = |(n, column): (usize, &Column)| match column.form {
        Form::Time => format!("${}::timestamptz[]", n + 1),
        _ => format!("${}::text[]", n + 1),
    };
    let lists: Vec<_> = table.columns.iter().enumerate().map(list).collect();
    let aliases: Vec<_> = (0..names.len()).map(|n| format!("c{n}")).collect();
    let sql = format!(
        "INSERT INTO \"{}\" ({}) SELECT {} FROM unnest({}) WITH ORDINALITY AS rows({}, place) ORDER BY place",
        table.name,
        names.join(", "),
        values.join(", "),
        lists.join(", "),
        aliases.join(", "),
    );
    let mut insert = sqlx::query(AssertSqlSafe(sql));
    for (n, column) in table.columns.iter().enumerate() {
        let cells = rows.iter().map(|row| row.get(n).unwrap_or(&Cell::Null));
        insert = match column.form {
            Form::Time => insert.bind(cells.map(time).collect::<Vec<_>>()),
            _ => insert.bind(cells.map(text).collect::<Vec<_>>()),
        };
    }
    insert.execute(connection).await?;
    Ok(())
}

/// A value, from what stands for it in the list.
fn write_as(n: usize, form: &Form) -> String {
    match form {
        // Without a cast, which would cut what is too long.
        Form::Text | Form::Time => format!("c{n}"),
        Form::Boolean => format!("c{n}::boolean"),
        Form::Integer => format!("c{n}::bigint"),
        Form::Real => format!("c{n}::double precision"),
        Form::Json => format!("c{n}::jsonb"),
        Form::Bytes => format!("decode(c{n}, 'hex')"),
        Form::Id => format!("c{n}::uuid"),
        Form::Address => format!("c{n}::inet"),
        Form::Label(name) => format!("c{n}::\"{name}\""),
        Form::List(element) => format!(
            "CASE WHEN c{n} IS NOT NULL THEN ARRAY(SELECT jsonb_array_elements_text(c{n}::jsonb))::\"{element}\"[] END"
        ),
    }
}

fn text(cell: &Cell) -> Option<String> {
    Some(match cell {
        Cell::Null => return None,
        Cell::Integer(value) => value.to_string(),
        Cell::Real(value) => value.to_string(),
        Cell::Text(value) => value.clone(),
        Cell::Bytes(bytes) => hex(bytes),
    })
}

/// Not by its text, which has no form for the far end of time.
fn time(cell: &Cell) -> Option<Time> {
    match cell {
        Cell::Integer(micros) => Some(Time(Timestamp::from_micros(*micros))),
        _ => None,
    }
}

fn hex(bytes: &[u8]) -> String {
    let digits = bytes.iter().flat_map(|byte| [byte >> 4, byte & 0xf]);
    digits
        .filter_map(|digit| char::from_digit(digit.into(), 16))
        .collect()
}
