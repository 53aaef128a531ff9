//! The check against the shapes of a real deployment, with something taken away each time.

use sqlx::AssertSqlSafe;
use sqlx::{Connection as _, Executor as _, SqlSafeStr as _};

use super::required::{LABELS, NAMED, PRIMARY, RELATIONS, TRIGGERS, UNIQUE};
use super::*;
use crate::store::postgres::coordination;
use crate::store::sql::all_statements;
use crate::store::testing::postgres::Database;
use crate::store::testing::{Place, Raw, coder};

pub(super) async fn connect(database: &Database) -> PgConnection {
    PgConnection::connect(database.url()).await.unwrap()
}

/// What the database lacks after `sql`, which is undone.
pub(super) async fn missing_after(connection: &mut PgConnection, sql: &str) -> Vec<String> {
    let mut transaction = connection.begin().await.unwrap();
    transaction
        .execute(sqlx::raw_sql(AssertSqlSafe(sql.to_owned())))
        .await
        .unwrap_or_else(|error| panic!("{sql}: {error}"));
    let schema = examine(&mut transaction).await.unwrap();
    transaction.rollback().await.unwrap();
    schema.missing
}

#[tokio::test]
async fn a_coder_database_is_told_from_others_and_lacks_nothing() {
    let Some(database) = coder::deployment() else {
        return;
    };
    let mut connection = connect(&database).await;
    assert_eq!(layout(&mut connection).await.unwrap(), Found::Coder);
    let found = examine(&mut connection).await.unwrap();
    let expected = CoderSchema {
        version: Some(440),
        missing: Vec::new(),
    };
    assert_eq!(found, expected);
}

#[tokio::test]
async fn an_empty_database_is_nobodys_whatever_extensions_it_has() {
    let Some(database) = Database::new() else {
        return;
    };
    let mut connection = connect(&database).await;
    assert_eq!(layout(&mut connection).await.unwrap(), Found::None);
    connection
        .execute("CREATE EXTENSION pg_stat_statements")
        .await
        .unwrap();
    assert_eq!(layout(&mut connection).await.unwrap(), Found::None);
    connection
        .execute("CREATE TABLE drpcd_migrations (version bigint); CREATE TABLE workspace_agents (id uuid)")
        .await
        .unwrap();
    assert_eq!(layout(&mut connection).await.unwrap(), Found::Own);
}

#[tokio::test]
async fn a_database_of_another_program_is_told_by_its_tables() {
    let Some(database) = Database::new() else {
        return;
    };
    let mut connection = connect(&database).await;
    connection
        .execute("CREATE TABLE orders (id int); CREATE VIEW baskets AS SELECT 1 AS id; CREATE SCHEMA x; CREATE TABLE x.y ()")
        .await
        .unwrap();
    let tables = ["baskets", "orders"].map(str::to_owned).to_vec();
    assert_eq!(layout(&mut connection).await.unwrap(), Found::Foreign(tables));
}

#[tokio::test]
async fn whatever_column_table_or_label_is_taken_away_is_named() {
    let Some(database) = coder::deployment() else {
        return;
    };
    let mut connection = connect(&database).await;
    for relation in RELATIONS {
        let name = relation.name;
        let missing = missing_after(&mut connection, &format!("DROP TABLE {name} CASCADE")).await;
        assert!(missing.contains(&format!("table {name}: missing")), "{missing:?}");
        for (column, _) in relation.columns {
            let sql = format!("ALTER TABLE {name} DROP COLUMN \"{column}\" CASCADE");
            let missing = missing_after(&mut connection, &sql).await;
            let expected = format!("table {name}: column {column} missing");
            assert!(missing.contains(&expected), "{expected}: {missing:?}");
        }
    }
    for (name, labels) in LABELS {
        let missing = missing_after(&mut connection, &format!("DROP TYPE {name} CASCADE")).await;
        assert!(missing.contains(&format!("type {name}: missing")), "{missing:?}");
        for label in *labels {
            let sql = format!("ALTER TYPE {name} RENAME VALUE '{label}' TO 'other'");
            let missing = missing_after(&mut connection, &sql).await;
            assert_eq!(missing, [format!("type {name}: label {label} missing")]);
        }
    }
}

#[tokio::test]
async fn constraints_indexes_and_triggers_that_are_relied_on_are_named() {
    let Some(database) = coder::deployment() else {
        return;
    };
    let mut connection = connect(&database).await;
    for (table, columns) in UNIQUE {
        // Whatever it is called, and a partial one in its place will not do.
        let sql = format!(
            "DO $$ DECLARE name text; BEGIN
                FOR name IN SELECT conname FROM pg_constraint WHERE conrelid = '{table}'::regclass AND contype IN ('p', 'u') LOOP
                    EXECUTE format('ALTER TABLE {table} DROP CONSTRAINT %I CASCADE', name);
                END LOOP;
                FOR name IN SELECT indexrelid::regclass FROM pg_index WHERE indrelid = '{table}'::regclass AND indisunique LOOP
                    EXECUTE format('DROP INDEX %s', name);
                END LOOP;
            END $$;
            CREATE UNIQUE INDEX ON {table} ({first}) WHERE {first} IS NOT NULL",
            first = columns[0]
        );
        let missing = missing_after(&mut connection, &sql).await;
        let expected = format!("table {table}: unique index of {} missing", columns.join(", "));
        assert!(missing.contains(&expected), "{expected}: {missing:?}");
    }
    for (table, column) in PRIMARY {
        let sql = format!("ALTER TABLE {table} DROP CONSTRAINT {table}_pkey CASCADE");
        let missing = missing_after(&mut connection, &sql).await;
        assert_eq!(missing, [format!("table {table}: primary key {column} missing")]);
    }
    for (table, name) in NAMED {
        let sql = match *name {
            "notification_messages_dedupe_hash_idx" => format!("ALTER INDEX {name} RENAME TO other"),
            _ => format!("ALTER TABLE {table} RENAME CONSTRAINT {name} TO other"),
        };
        let missing = missing_after(&mut connection, &sql).await;
        assert_eq!(
            missing,
            [format!(
                "table {table}: constraint or unique index {name} missing"
            )]
        );
    }
    for (table, name) in TRIGGERS {
        for sql in [
            format!("DROP TRIGGER {name} ON {table}"),
            format!("ALTER TABLE {table} DISABLE TRIGGER {name}"),
        ] {
            let missing = missing_after(&mut connection, &sql).await;
            assert_eq!(missing, [format!("table {table}: trigger {name} missing")]);
        }
    }
}

#[tokio::test]
async fn columns_that_have_changed_are_named_and_wider_ones_do() {
    let Some(database) = coder::deployment() else {
        return;
    };
    let mut connection = connect(&database).await;
    let changed = "DELETE FROM workspace_agent_logs; DELETE FROM workspace_agent_metadata;
        ALTER TABLE workspace_agent_stats ALTER agent_id TYPE text;
        ALTER TABLE notification_messages DROP COLUMN targets, ADD targets uuid;
        ALTER TABLE workspace_agent_logs ADD colour text NOT NULL;
        ALTER TABLE workspace_agent_logs ADD shade text NOT NULL DEFAULT '';
        ALTER TABLE workspace_agent_metadata ADD unit text NOT NULL;
        ALTER TABLE workspace_agent_scripts ALTER timeout_seconds TYPE bigint, ALTER script TYPE varchar(99);
        UPDATE schema_migrations SET dirty = true";
    assert_eq!(
        missing_after(&mut connection, changed).await,
        [
            "table workspace_agent_logs: column colour must be filled in, and is unknown here",
            "table workspace_agent_stats: column agent_id is text, needed is uuid",
            "table notification_messages: column targets is uuid, needed is uuid[]",
            "table schema_migrations: a migration has failed half-way",
        ]
    );
    // Nothing that is looked at only for the log.
    for sql in [
        "DROP TABLE schema_migrations",
        "ALTER TABLE schema_migrations DROP dirty",
    ] {
        assert!(missing_after(&mut connection, sql).await.is_empty(), "{sql}");
    }
}

/// Statements that never run on a coder database: the store refuses what would run them.
fn is_ours_alone(name: &str) -> bool {
    name.starts_with("seed_")
        || name.starts_with("purge_")
        || [
            // Tokens of clients, and what clients are told.
            "create_client_token",
            "client_tokens",
            "revoke_client_token",
            "authenticate_client",
            "owned_workspaces",
            "owns_agent",
            "resume_key",
            "renew_external_auth_link",
            "refuse_external_auth_link",
            // What remains of replicas that are gone.
            "lock_tailnet_cleanup",
            "clean_tailnet_peers",
            "clean_tailnet_tunnels",
            "clean_tailnet_coordinators",
            // Events in a table: SQLite's.
            "last_event",
            "events_since",
            "prune_events",
        ]
        .contains(&name)
}

async fn prepare_all(connection: &mut PgConnection) {
    let mut failed = Vec::new();
    let all = all_statements().chain(coordination::STATEMENTS.iter().copied());
    for statement in all.filter(|statement| !is_ours_alone(statement.name)) {
        if let Err(error) = connection.prepare(statement.postgres.into_sql_str()).await {
            failed.push(format!("{}: {error}", statement.name));
        }
    }
    assert_eq!(failed, [""; 0]);
}

#[tokio::test]
async fn every_statement_runs_on_a_deployment() {
    let Some(database) = coder::deployment() else {
        return;
    };
    prepare_all(&mut connect(&database).await).await;
}

#[tokio::test]
async fn every_statement_needs_no_more_than_is_looked_for() {
    let Some(database) = Database::new() else { return };
    let mut connection = connect(&database).await;
    for (name, labels) in LABELS {
        let labels: Vec<_> = labels.iter().map(|label| format!("'{label}'")).collect();
        let sql = format!("CREATE TYPE {name} AS ENUM ({})", labels.join(", "));
        connection.execute(AssertSqlSafe(sql)).await.unwrap();
    }
    for relation in RELATIONS {
        let column = |(name, kind): &(&str, Kind)| {
            let list = if kind.is_array() { "[]" } else { "" };
            format!("\"{name}\" {}{list}", kind.name())
        };
        let columns: Vec<_> = relation.columns.iter().map(column).collect();
        let sql = format!("CREATE TABLE {} ({})", relation.name, columns.join(", "));
        connection.execute(AssertSqlSafe(sql)).await.unwrap();
    }
    for (table, columns) in UNIQUE {
        let sql = format!("CREATE UNIQUE INDEX ON {table} ({})", columns.join(", "));
        connection.execute(AssertSqlSafe(sql)).await.unwrap();
    }
    for (table, column) in PRIMARY {
        let sql = format!("ALTER TABLE {table} ADD PRIMARY KEY ({column})");
        connection.execute(AssertSqlSafe(sql)).await.unwrap();
    }
    prepare_all(&mut connection).await;
}

#[tokio::test]
async fn what_is_looked_for_is_in_our_own_schema_too() {
    let Some(place) = Place::of_postgres() else {
        return;
    };
    let Raw::Postgres(mut connection) = place.connect().await else {
        panic!("a place of Postgres");
    };
    assert_eq!(layout(&mut connection).await.unwrap(), Found::Own);
    assert_eq!(examine(&mut connection).await.unwrap().missing, [""; 0]);
}
