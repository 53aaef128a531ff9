//! What the database user must be allowed to do for the statements to run on a coder database, and what it is.
//!
//! Reading is of everything that is named there, inserting of whole rows where that says so; what is updated and deleted
//! stands here. `docs/coder-grants.sql` grants that and nothing else but reading, to which a test holds it.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use super::required::RELATIONS;

/// Columns that are updated, by table.
const UPDATED: &[(&str, &[&str])] = &[
    (
        "workspace_agents",
        &[
            "first_connected_at",
            "last_connected_at",
            "disconnected_at",
            "last_connected_replica_id",
            "updated_at",
            "version",
            "expanded_directory",
            "subsystems",
            "api_version",
            "lifecycle_state",
            "started_at",
            "ready_at",
            "logs_length",
            "logs_overflowed",
            "display_apps",
            "deleted",
        ],
    ),
    ("workspace_apps", &["health"]),
    ("workspace_agent_metadata", &["value", "error", "collected_at"]),
    (
        "workspace_agent_memory_resource_monitors",
        &["state", "debounced_until", "updated_at"],
    ),
    (
        "workspace_agent_volume_resource_monitors",
        &["state", "debounced_until", "updated_at"],
    ),
    (
        "connection_logs",
        &["disconnect_time", "disconnect_reason", "code"],
    ),
    ("workspaces", &["last_used_at"]),
    ("workspace_builds", &["deadline", "updated_at"]),
    (
        "boundary_usage_stats",
        &[
            "unique_workspaces_count",
            "unique_users_count",
            "allowed_requests",
            "denied_requests",
            "updated_at",
        ],
    ),
    ("tailnet_coordinators", &["heartbeat_at"]),
    ("tailnet_peers", &["updated_at", "node", "status"]),
    ("tailnet_tunnels", &["updated_at"]),
];

/// Tables that rows are deleted from.
const DELETED: &[&str] = &["tailnet_peers", "tailnet_tunnels"];

/// Stands for the whole row among names of columns.
const WHOLE: &str = "";

/// Every right that is needed: table, privilege, and the columns that it is about.
fn needed() -> impl Iterator<Item = (&'static str, &'static str, Vec<&'static str>)> {
    RELATIONS.iter().flat_map(|relation| {
        let table = relation.name;
        let read = relation.columns.iter().map(|(name, _)| *name).collect();
        let inserted = relation.inserted.then_some((table, "INSERT", vec![WHOLE]));
        let updated = UPDATED.iter().filter(move |(updated, _)| *updated == table);
        let deleted = DELETED.contains(&table).then_some((table, "DELETE", vec![WHOLE]));
        [(table, "SELECT", read)]
            .into_iter()
            .chain(inserted)
            .chain(updated.map(move |(_, columns)| (table, "UPDATE", columns.to_vec())))
            .chain(deleted)
    })
}

/// What the database user may do.
#[derive(Debug, Default)]
pub(super) struct Rights {
    /// Table, column or none for whole rows, privilege.
    granted: HashSet<(String, String, String)>,
    /// Sequences that may not be used, by the table with a column that they fill.
    withheld: BTreeMap<String, BTreeSet<String>>,
}

impl Rights {
    pub(super) fn grant(&mut self, table: String, column: String, privilege: String) {
        self.granted.insert((table, column, privilege));
    }

    pub(super) fn withhold(&mut self, table: String, sequence: String) {
        self.withheld.entry(table).or_default().insert(sequence);
    }

    pub(super) fn may(&self, table: &str, column: &str, privilege: &str) -> bool {
        let right = (table.to_owned(), column.to_owned(), privilege.to_owned());
        self.granted.contains(&right)
    }

    /// What is not granted, one text for each table and privilege; of what is not there either, none.
    pub(super) fn missing(&self, is_there: impl Fn(&str, &str) -> bool) -> Vec<String> {
        let mut missing = Vec::new();
        for (table, privilege, mut columns) in needed() {
            columns.retain(|column| is_there(table, column));
            let about = columns.len();
            columns.retain(|column| !self.may(table, column, privilege));
            if columns.is_empty() {
                continue;
            }
            let listed = match columns.len() {
                refused if refused == about => String::new(),
                _ => format!(" ({})", columns.join(", ")),
            };
            missing.push(format!("table {table}: right to {privilege}{listed} missing"));
        }
        let filled = RELATIONS.iter().filter(|relation| relation.inserted);
        let sequences = filled.flat_map(|relation| self.withheld.get(relation.name).into_iter().flatten());
        missing.extend(sequences.map(|name| format!("sequence {name}: right to USAGE missing")));
        missing
    }
}

#[cfg(test)]
mod tests {
    //! The list against the file that grants it, each right taken away once.

    use sqlx::{AssertSqlSafe, Connection as _, Executor as _, PgConnection};

    use super::*;
    use crate::store::postgres::layout::tests;
    use crate::store::testing::coder;

    const GRANTS: &str = include_str!("../../../../docs/coder-grants.sql");

    /// A role with the rights of the file, for one transaction.
    const ROLE: &str = "drpcd_rights";

    async fn granted(connection: &mut PgConnection) {
        let grants = GRANTS.replace(" TO drpcd", &format!(" TO {ROLE}"));
        let sql = format!("CREATE ROLE {ROLE}; {grants}");
        connection
            .execute(sqlx::raw_sql(AssertSqlSafe(sql)))
            .await
            .unwrap();
    }

    /// What the role lacks after `sql`.
    async fn missing_after(connection: &mut PgConnection, sql: &str) -> Vec<String> {
        tests::missing_after(connection, &format!("{sql}; SET LOCAL ROLE {ROLE}")).await
    }

    #[tokio::test]
    async fn the_file_grants_what_is_needed_and_nothing_else_and_whatever_it_leaves_out_is_named() {
        let Some(database) = coder::deployment() else {
            return;
        };
        let mut connection = tests::connect(&database).await;
        // Never committed, so no other test sees the role.
        let mut connection = connection.begin().await.unwrap();
        granted(&mut connection).await;

        assert_eq!(missing_after(&mut connection, "").await, [""; 0]);

        let mut rights: BTreeMap<(String, String), BTreeSet<String>> = BTreeMap::new();
        let acls = format!(
            "SELECT c.relname::text, acl.privilege_type, '' FROM pg_class AS c, aclexplode(c.relacl) AS acl
            WHERE acl.grantee = '{ROLE}'::regrole AND acl.privilege_type NOT IN ('SELECT', 'USAGE')
            UNION ALL
            SELECT c.relname::text, acl.privilege_type, a.attname
            FROM pg_attribute AS a JOIN pg_class AS c ON c.oid = a.attrelid, aclexplode(a.attacl) AS acl
            WHERE acl.grantee = '{ROLE}'::regrole"
        );
        let rows: Vec<(String, String, String)> = sqlx::query_as(AssertSqlSafe(acls))
            .fetch_all(&mut *connection)
            .await
            .unwrap();
        for (table, privilege, column) in rows {
            rights.entry((table, privilege)).or_default().insert(column);
        }
        let needed: BTreeMap<_, _> = needed()
            .filter(|(_, privilege, _)| *privilege != "SELECT")
            .map(|(table, privilege, columns)| {
                let columns: BTreeSet<_> = columns.into_iter().map(str::to_owned).collect();
                ((table.to_owned(), privilege.to_owned()), columns)
            })
            .collect();
        assert_eq!(rights, needed);

        for ((table, privilege), columns) in &rights {
            for column in columns {
                let (about, listed) = match columns.len() {
                    _ if column.is_empty() => (String::new(), String::new()),
                    1 => (format!(" ({column})"), String::new()),
                    _ => (format!(" ({column})"), format!(" ({column})")),
                };
                let sql = format!("REVOKE {privilege}{about} ON {table} FROM {ROLE}");
                assert_eq!(
                    missing_after(&mut connection, &sql).await,
                    [format!("table {table}: right to {privilege}{listed} missing")]
                );
            }
        }
        for relation in RELATIONS {
            let sql = format!("REVOKE SELECT ON {} FROM {ROLE}", relation.name);
            let expected = format!("table {}: right to SELECT missing", relation.name);
            assert_eq!(missing_after(&mut connection, &sql).await, [expected]);
        }
        let sequence = "workspace_agent_startup_logs_id_seq";
        let sql = format!("REVOKE USAGE ON SEQUENCE {sequence} FROM {ROLE}");
        assert_eq!(
            missing_after(&mut connection, &sql).await,
            [format!("sequence public.{sequence}: right to USAGE missing")]
        );
        // What is read only to be logged, and columns for others' eyes, are nobody's need.
        let sql = format!(
            "REVOKE SELECT ON schema_migrations, users FROM {ROLE};
            GRANT SELECT (id, username, name, email) ON users TO {ROLE}"
        );
        assert_eq!(missing_after(&mut connection, &sql).await, [""; 0]);
    }

    #[tokio::test]
    async fn what_is_not_there_is_not_also_missed_as_a_right() {
        let Some(database) = coder::deployment() else {
            return;
        };
        let mut connection = tests::connect(&database).await;
        let mut connection = connection.begin().await.unwrap();
        granted(&mut connection).await;
        let sql = "DROP TABLE connection_logs; ALTER TABLE workspace_builds DROP updated_at CASCADE";
        assert_eq!(
            missing_after(&mut connection, sql).await,
            [
                "table workspace_builds: column updated_at missing",
                "table connection_logs: missing",
            ]
        );
    }
}
