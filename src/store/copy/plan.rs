//! What is copied: the tables of our schema with their columns, in an order in which foreign keys hold at every step.
//!
//! The schema itself says it, so that a table of a later migration is copied without a word here.

use std::collections::{BTreeMap, BTreeSet};

use sqlx::Row as _;
use sqlx::postgres::PgConnection;

use super::postgres::Failed;
use super::{CopyError, PASSING};

/// Tables and columns; those that the database computes are not copied.
const COLUMNS: &str = "
    SELECT c.relname::text AS table_name, a.attname::text AS column_name, t.typname::text AS type_name,
        e.typname::text AS element_name, t.typtype = 'e' AS is_enum
    FROM pg_class AS c
    JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''
    JOIN pg_type AS t ON t.oid = a.atttypid
    LEFT JOIN pg_type AS e ON e.oid = t.typelem AND t.typlen = -1
    WHERE c.relkind = 'r' AND c.relnamespace = current_schema()::regnamespace AND c.relname <> 'drpcd_migrations'
    ORDER BY c.relname, a.attnum";

const FOREIGN_KEYS: &str = "
    SELECT DISTINCT r.relname::text AS referring, f.relname::text AS referred
    FROM pg_constraint AS k JOIN pg_class AS r ON r.oid = k.conrelid JOIN pg_class AS f ON f.oid = k.confrelid
    WHERE k.contype = 'f' AND r.relnamespace = current_schema()::regnamespace AND r.oid <> f.oid";

/// How values of a column are kept on either side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Form {
    Boolean,
    Integer,
    Real,
    Text,
    Json,
    Bytes,
    Id,
    Time,
    Address,
    /// A label of this enum.
    Label(String),
    /// A list of values of this type.
    List(String),
}

#[derive(Debug)]
pub(super) struct Column {
    pub(super) name: String,
    pub(super) form: Form,
}

#[derive(Debug)]
pub(super) struct Table {
    pub(super) name: String,
    pub(super) columns: Vec<Column>,
}

/// Every table of our schema, those that are referred to first.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) tables: Vec<Table>,
}

impl Plan {
    /// Reads it from a database of the newest schema.
    pub(super) async fn read(connection: &mut PgConnection) -> Result<Self, Failed> {
        let mut tables: BTreeMap<String, Vec<Column>> = BTreeMap::new();
        for row in sqlx::query(COLUMNS).fetch_all(&mut *connection).await? {
            let column = Column {
                name: row.try_get("column_name")?,
                form: form(
                    row.try_get("type_name")?,
                    row.try_get("element_name")?,
                    row.try_get("is_enum")?,
                ),
            };
            tables.entry(row.try_get("table_name")?).or_default().push(column);
        }
        let mut needs: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for row in sqlx::query(FOREIGN_KEYS).fetch_all(&mut *connection).await? {
            let referred = needs.entry(row.try_get("referring")?).or_default();
            referred.insert(row.try_get("referred")?);
        }
        Ok(Self {
            tables: in_order(tables, &needs),
        })
    }

    /// The tables whose rows are copied.
    pub(super) fn kept(&self) -> impl Iterator<Item = &Table> {
        let passing = |table: &&Table| !PASSING.contains(&table.name.as_str());
        self.tables.iter().filter(passing)
    }

    /// Succeeds when the other side has the same tables with the same columns.
    pub(super) fn compare(&self, other: &BTreeMap<String, BTreeSet<String>>) -> Result<(), CopyError> {
        let differs = |table: &str, what: String| {
            Err(CopyError::Shape {
                table: table.to_owned(),
                what,
            })
        };
        for table in self.kept() {
            let Some(columns) = other.get(&table.name) else {
                return differs(&table.name, "is on Postgres only".to_owned());
            };
            let ours: BTreeSet<_> = table.columns.iter().map(|column| column.name.clone()).collect();
            if let Some(column) = ours.symmetric_difference(columns).next() {
                return differs(&table.name, format!("column {column} is on one side only"));
            }
        }
        let known = |name: &str| self.kept().any(|table| table.name == name) || PASSING.contains(&name);
        match other.keys().find(|name| !known(name)) {
            None => Ok(()),
            Some(table) => differs(table, "is on SQLite only".to_owned()),
        }
    }
}

/// Each table after those that it needs. Tables that need each other would come last, and the copy then fails by the key
/// that does not hold.
pub(super) fn in_order(
    mut tables: BTreeMap<String, Vec<Column>>,
    needs: &BTreeMap<String, BTreeSet<String>>,
) -> Vec<Table> {
    let mut ordered = Vec::with_capacity(tables.len());
    while !tables.is_empty() {
        let ready = tables.keys().find(|name| {
            let needed = needs.get(*name);
            needed.is_none_or(|needed| needed.iter().all(|other| !tables.contains_key(other)))
        });
        let Some(name) = ready.or_else(|| tables.keys().next()).cloned() else {
            break;
        };
        let columns = tables.remove(&name).unwrap_or_default();
        ordered.push(Table { name, columns });
    }
    ordered
}

fn form(type_name: String, element: Option<String>, is_enum: bool) -> Form {
    match (element, type_name.as_str()) {
        (Some(element), _) => Form::List(element),
        (None, _) if is_enum => Form::Label(type_name),
        (None, "bool") => Form::Boolean,
        (None, "int2" | "int4" | "int8") => Form::Integer,
        (None, "float8") => Form::Real,
        (None, "jsonb") => Form::Json,
        (None, "bytea") => Form::Bytes,
        (None, "uuid") => Form::Id,
        (None, "timestamptz") => Form::Time,
        (None, "inet") => Form::Address,
        _ => Form::Text,
    }
}
