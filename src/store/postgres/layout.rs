//! Which program's tables a database has, and whether those of coder have all that is needed of them.
//!
//! Reads the catalog and nothing else; must never write. A coder database is of a version that nobody here has chosen, so
//! what the statements need is looked for at start, and the operator is told of all that is missing at once.

mod required;
mod rights;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, HashMap};

use sqlx::Row as _;
use sqlx::postgres::PgConnection;

use self::required::{Kind, LABELS, NAMED, PRIMARY, RELATIONS, TRIGGERS, UNIQUE};
use self::rights::Rights;
use crate::store::schema::Found;

/// Relations that are named of a database of another program: enough to recognize it.
const NAMES_SHOWN: i64 = 5;

/// Our own tables by `drpcd_migrations`, coder's by `workspace_agents`. What extensions brought with them is nobody's.
const OVERVIEW: &str = "
    SELECT to_regclass('drpcd_migrations') IS NOT NULL AS own, to_regclass('workspace_agents') IS NOT NULL AS coder,
        ARRAY(
            SELECT relname::text FROM pg_class AS c
            WHERE relkind IN ('r', 'p', 'v', 'm', 'f') AND pg_table_is_visible(c.oid)
                AND relnamespace NOT IN ('pg_catalog'::regnamespace, 'information_schema'::regnamespace)
                AND NOT EXISTS (
                    SELECT 1 FROM pg_depend WHERE classid = 'pg_class'::regclass AND objid = c.oid AND deptype = 'e'
                )
            ORDER BY relname LIMIT $1
        ) AS others";

/// Everything that is compared, of the relations and types that are named. `filled` says that an insert need not name the
/// column. A sequence fills a column and may not be used for that; those of identity columns need no right.
const CATALOG: &str = "
    WITH relation AS (
        SELECT oid, relname::text AS name FROM pg_class
        WHERE relname = ANY ($1) AND relkind IN ('r', 'p', 'v') AND pg_table_is_visible(oid)
    )
    SELECT 'relation' AS what, name AS owner, '' AS name, '' AS detail, false AS is_array, false AS filled FROM relation
    UNION ALL
    SELECT 'column', r.name, a.attname, coalesce(element.typname, t.typname), t.typelem <> 0 AND t.typlen = -1,
        NOT a.attnotnull OR a.atthasdef OR a.attidentity <> ''
    FROM relation AS r
    JOIN pg_attribute AS a ON a.attrelid = r.oid AND a.attnum > 0 AND NOT a.attisdropped
    JOIN pg_type AS t ON t.oid = a.atttypid
    LEFT JOIN pg_type AS element ON element.oid = t.typelem AND t.typlen = -1
    UNION ALL
    SELECT 'label', t.typname, e.enumlabel, '', false, false
    FROM pg_type AS t JOIN pg_enum AS e ON e.enumtypid = t.oid
    WHERE t.typname = ANY ($2) AND pg_type_is_visible(t.oid)
    UNION ALL
    SELECT 'unique', r.name, '', (
            SELECT string_agg(a.attname, ',' ORDER BY a.attname) FROM pg_attribute AS a
            WHERE a.attrelid = r.oid AND a.attnum = ANY (i.indkey)
        ), false, false
    FROM relation AS r JOIN pg_index AS i ON i.indrelid = r.oid
    WHERE i.indisunique AND i.indisvalid AND i.indimmediate AND i.indpred IS NULL AND i.indexprs IS NULL
        AND i.indnkeyatts = i.indnatts
    UNION ALL
    SELECT 'primary', r.name, a.attname, '', false, false
    FROM relation AS r
    JOIN pg_index AS i ON i.indrelid = r.oid AND i.indisprimary AND i.indnatts = 1
    JOIN pg_attribute AS a ON a.attrelid = r.oid AND a.attnum = i.indkey[0]
    UNION ALL
    SELECT 'named', r.name, c.relname, '', false, false
    FROM relation AS r
    JOIN pg_index AS i ON i.indrelid = r.oid AND i.indisunique
    JOIN pg_class AS c ON c.oid = i.indexrelid
    UNION ALL
    SELECT 'named', r.name, c.conname, '', false, false
    FROM relation AS r JOIN pg_constraint AS c ON c.conrelid = r.oid AND c.contype = 'c'
    UNION ALL
    SELECT 'trigger', r.name, t.tgname, '', false, false
    FROM relation AS r
    JOIN pg_trigger AS t ON t.tgrelid = r.oid AND NOT t.tgisinternal AND t.tgenabled IN ('O', 'A')
    UNION ALL
    SELECT 'right', r.name, '', p.privilege, false, false
    FROM relation AS r, unnest(ARRAY['INSERT', 'DELETE']) AS p(privilege)
    WHERE has_table_privilege(r.oid, p.privilege)
    UNION ALL
    SELECT 'right', r.name, a.attname, p.privilege, false, false
    FROM relation AS r
    JOIN pg_attribute AS a ON a.attrelid = r.oid AND a.attnum > 0 AND NOT a.attisdropped,
    unnest(ARRAY['SELECT', 'UPDATE']) AS p(privilege)
    WHERE has_column_privilege(r.oid, a.attnum, p.privilege)
    UNION ALL
    SELECT 'sequence', r.name, s.name, '', false, false
    FROM relation AS r
    JOIN pg_attribute AS a ON a.attrelid = r.oid AND a.atthasdef AND NOT a.attisdropped,
    pg_get_serial_sequence(r.oid::regclass::text, a.attname) AS s(name)
    WHERE NOT has_sequence_privilege(s.name, 'USAGE, UPDATE')";

const VERSION: &str = "SELECT version, dirty FROM schema_migrations ORDER BY version DESC LIMIT 1";

/// Looks whose tables a database has, on the search path of the connection.
pub(super) async fn layout(connection: &mut PgConnection) -> Result<Found, sqlx::Error> {
    let row = sqlx::query(OVERVIEW)
        .bind(NAMES_SHOWN)
        .fetch_one(connection)
        .await?;
    let tables: Vec<String> = row.try_get("others")?;
    Ok(if row.try_get("own")? {
        Found::Own
    } else if row.try_get("coder")? {
        Found::Coder
    } else if tables.is_empty() {
        Found::None
    } else {
        Found::Foreign(tables)
    })
}

/// A coder database as it was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct CoderSchema {
    /// The last migration of the program that the database belongs to.
    pub(super) version: Option<i64>,
    /// What the statements need and the database does not have, one text each.
    pub(super) missing: Vec<String>,
}

/// Compares a coder database with what is needed of it.
pub(super) async fn examine(connection: &mut PgConnection) -> Result<CoderSchema, sqlx::Error> {
    let catalog = Catalog::read(connection).await?;
    let mut missing = catalog.missing();
    let mut version = None;
    // A database user who may not read it serves all the same.
    let versioned = ["version", "dirty"]
        .iter()
        .all(|name| catalog.rights.may(MIGRATIONS, name, "SELECT"));
    if versioned && let Some(row) = sqlx::query(VERSION).fetch_optional(connection).await? {
        version = Some(row.try_get("version")?);
        if row.try_get("dirty")? {
            missing.push(format!("table {MIGRATIONS}: a migration has failed half-way"));
        }
    }
    Ok(CoderSchema { version, missing })
}

/// Where the original keeps its version.
const MIGRATIONS: &str = "schema_migrations";

struct Column {
    kind: String,
    is_array: bool,
    /// Whether an insert need not name it.
    filled: bool,
}

/// What the database has, of what is asked for.
#[derive(Default)]
struct Catalog {
    columns: HashMap<String, BTreeMap<String, Column>>,
    labels: HashMap<String, BTreeSet<String>>,
    /// Sorted names of columns, by table.
    unique: HashMap<String, BTreeSet<String>>,
    /// Primary keys of one column, by table.
    primary: HashMap<String, BTreeSet<String>>,
    /// Constraints and unique indexes, by table.
    named: HashMap<String, BTreeSet<String>>,
    /// By table.
    triggers: HashMap<String, BTreeSet<String>>,
    /// What the user that asks may do with all this.
    rights: Rights,
}

impl Catalog {
    async fn read(connection: &mut PgConnection) -> Result<Self, sqlx::Error> {
        let relations: Vec<_> = RELATIONS
            .iter()
            .map(|relation| relation.name)
            .chain([MIGRATIONS])
            .collect();
        let types: Vec<_> = LABELS.iter().map(|(name, _)| *name).collect();
        let rows = sqlx::query(CATALOG)
            .bind(relations)
            .bind(types)
            .fetch_all(connection)
            .await?;
        let mut catalog = Self::default();
        for row in rows {
            let (owner, name): (String, String) = (row.try_get("owner")?, row.try_get("name")?);
            let detail: String = row.try_get("detail")?;
            match row.try_get("what")? {
                "column" => {
                    let column = Column {
                        kind: detail,
                        is_array: row.try_get("is_array")?,
                        filled: row.try_get("filled")?,
                    };
                    catalog.columns.entry(owner).or_default().insert(name, column);
                }
                "label" => drop(catalog.labels.entry(owner).or_default().insert(name)),
                "unique" => drop(catalog.unique.entry(owner).or_default().insert(detail)),
                "primary" => drop(catalog.primary.entry(owner).or_default().insert(name)),
                "named" => drop(catalog.named.entry(owner).or_default().insert(name)),
                "trigger" => drop(catalog.triggers.entry(owner).or_default().insert(name)),
                "right" => catalog.rights.grant(owner, name, detail),
                "sequence" => catalog.rights.withhold(owner, name),
                // A relation without columns is one too.
                _ => drop(catalog.columns.entry(owner).or_default()),
            }
        }
        Ok(catalog)
    }

    fn missing(&self) -> Vec<String> {
        let mut missing = Vec::new();
        for relation in RELATIONS {
            let Some(columns) = self.columns.get(relation.name) else {
                missing.push(format!("table {}: missing", relation.name));
                continue;
            };
            let mut tell = |what: String| missing.push(format!("table {}: {what}", relation.name));
            for (name, kind) in relation.columns {
                match columns.get(*name) {
                    None => tell(format!("column {name} missing")),
                    Some(column) if !column.holds(*kind) => {
                        tell(format!(
                            "column {name} is {}, needed is {}",
                            column.name(),
                            kind_name(*kind)
                        ));
                    }
                    Some(_) => {}
                }
            }
            let known = |name: &str| relation.columns.iter().any(|(known, _)| *known == name);
            let unknown = columns
                .iter()
                .filter(|(name, column)| !column.filled && !known(name));
            for (name, _) in unknown.filter(|_| relation.inserted) {
                tell(format!("column {name} must be filled in, and is unknown here"));
            }
        }
        let there = |table: &str| self.columns.contains_key(table);
        let has = |found: &HashMap<String, BTreeSet<String>>, table: &str, name: &str| {
            found.get(table).is_some_and(|names| names.contains(name))
        };
        for (table, columns) in UNIQUE.iter().filter(|(table, _)| there(table)) {
            let mut sorted = columns.to_vec();
            sorted.sort_unstable();
            if !has(&self.unique, table, &sorted.join(",")) {
                missing.push(format!(
                    "table {table}: unique index of {} missing",
                    columns.join(", ")
                ));
            }
        }
        for (table, column) in PRIMARY.iter().filter(|(table, _)| there(table)) {
            if !has(&self.primary, table, column) {
                missing.push(format!("table {table}: primary key {column} missing"));
            }
        }
        for (table, name) in NAMED.iter().filter(|(table, _)| there(table)) {
            if !has(&self.named, table, name) {
                missing.push(format!(
                    "table {table}: constraint or unique index {name} missing"
                ));
            }
        }
        for (table, name) in TRIGGERS.iter().filter(|(table, _)| there(table)) {
            if !has(&self.triggers, table, name) {
                missing.push(format!("table {table}: trigger {name} missing"));
            }
        }
        for (name, labels) in LABELS {
            match self.labels.get(*name) {
                None => missing.push(format!("type {name}: missing")),
                Some(found) => {
                    let absent = labels.iter().filter(|label| !found.contains(**label));
                    missing.extend(absent.map(|label| format!("type {name}: label {label} missing")));
                }
            }
        }
        missing.extend(self.rights.missing(|table, column| {
            let columns = self.columns.get(table);
            columns.is_some_and(|columns| column.is_empty() || columns.contains_key(column))
        }));
        missing
    }
}

impl Column {
    fn holds(&self, kind: Kind) -> bool {
        self.is_array == kind.is_array() && kind.takes(&self.kind)
    }

    fn name(&self) -> String {
        shown(&self.kind, self.is_array)
    }
}

fn kind_name(kind: Kind) -> String {
    shown(kind.name(), kind.is_array())
}

fn shown(name: &str, is_array: bool) -> String {
    if is_array {
        format!("{name}[]")
    } else {
        name.to_owned()
    }
}
