//! Copies between real databases.

use super::plan::{Column, Form};
use super::*;
use crate::seed::Seed;
use crate::store::Store as _;
use crate::store::testing::{EXAMPLE, Engine, NOW, Place, Raw};

/// Rows in the tables that a seed leaves empty, with values at the ends of what they may be.
const TRAFFIC: &str = "
    INSERT INTO external_auth_links VALUES
        ('github', (SELECT id FROM users LIMIT 1), 1, 2, 'access', '', -62135596800000000, NULL, 'key', '{\"a\":[1,null]}', '');
    INSERT INTO workspace_agents (id, parent_id, created_at, updated_at, name, resource_id, auth_token, architecture,
        operating_system, subsystems, display_apps, first_connected_at)
    SELECT randomblob(16), id, created_at + 1, 253402300799999999, 'child', resource_id, randomblob(16), '', '',
        '[\"envbox\",\"exectrace\"]', '[]', -1
    FROM workspace_agents;
    INSERT INTO workspace_app_statuses SELECT id, 1774008000123456, agent_id, id, (SELECT id FROM workspaces), 'idle', 'é\n\"', NULL
    FROM workspace_apps;
    INSERT INTO workspace_agent_script_timings SELECT id, 1, 2, -2147483648, 'cron', 'pipes_left_open'
    FROM workspace_agent_scripts;
    INSERT INTO workspace_agent_logs (agent_id, created_at, output) SELECT id, 3, 'line ' || hex(id) FROM workspace_agents;
    INSERT INTO workspace_agent_logs (agent_id, created_at, output) SELECT id, 3, 'gone' FROM workspace_agents;
    DELETE FROM workspace_agent_logs WHERE output = 'gone';
    INSERT INTO workspace_agent_stats (id, created_at, user_id, agent_id, workspace_id, template_id, connections_by_proto,
        connection_count, rx_bytes, connection_median_latency_ms, usage)
    VALUES (randomblob(16), 4, randomblob(16), randomblob(16), randomblob(16), randomblob(16), '{\"ssh\":2}',
        9223372036854775807, -1, 0.1, 1);
    INSERT INTO connection_logs SELECT randomblob(16), 5, organization_id, owner_id, id, name, 'main', 'ssh', ip, NULL, NULL,
        NULL, NULL, randomblob(16), NULL, NULL FROM workspaces, (SELECT '192.0.2.7' AS ip UNION ALL SELECT '2001:db8::1' UNION ALL SELECT NULL);
    INSERT INTO boundary_usage_stats VALUES (randomblob(16), 1, 2, 3, 4, 5, 6);
    INSERT INTO tasks SELECT randomblob(16), organization_id, owner_id, 'fix', id, (SELECT id FROM template_versions), 'p', 7, NULL
    FROM workspaces;
    INSERT INTO task_workspace_apps SELECT id, NULL, NULL, 1 FROM tasks;
    INSERT INTO notification_messages (id, notification_template_id, user_id, method, created_by, payload, targets, created_at,
        queued_seconds)
    SELECT randomblob(16), (SELECT id FROM notification_templates LIMIT 1), id, 'inbox', 'a test', '{\"b\":1,\"a\":{}}',
        '[\"00000000-0000-0000-0000-000000000001\",\"00000000-0000-0000-0000-000000000002\"]', 8, 1e-9
    FROM users;
    INSERT INTO notification_preferences SELECT id, (SELECT id FROM notification_templates LIMIT 1), 1, 9, 10 FROM users;
    UPDATE notification_templates SET title_template = 'as the operator likes it';
    INSERT INTO drpcd_client_tokens SELECT 'abcdefghij', zeroblob(32), id, 11 FROM users;
    INSERT INTO drpcd_events (channel, payload, created_at) VALUES ('x', 'y', 12)";

/// A store with something in every table.
async fn full() -> (Place, Raw) {
    let place = Place::new(Engine::Sqlite);
    let store = place.open().await;
    store
        .seed(&Seed::parse("seed.yaml", EXAMPLE).unwrap(), NOW)
        .await
        .unwrap();
    store.close().await;
    let mut raw = place.connect().await;
    if let Raw::Sqlite(connection) = &mut raw {
        sqlx::raw_sql(TRAFFIC).execute(connection).await.unwrap();
    }
    (place, raw)
}

/// An empty database of the newest schema; `None` without Postgres.
async fn empty() -> Option<(Place, Raw)> {
    let place = Place::of_postgres()?;
    let raw = place.connect().await;
    Some((place, raw))
}

fn postgres(raw: &mut Raw) -> &mut PgConnection {
    match raw {
        Raw::Postgres(connection) => connection,
        Raw::Sqlite(_) => panic!("not Postgres"),
    }
}

async fn there(source: &mut Raw, target: &mut Raw) -> Result<Vec<CopiedTable>, CopyError> {
    match source {
        Raw::Sqlite(source) => sqlite_to_postgres(source, postgres(target)).await,
        Raw::Postgres(_) => panic!("not SQLite"),
    }
}

/// The rows of a table, in the same order on either side, and JSON in the same form.
async fn rows(raw: &mut Raw, table: &Table) -> Vec<Vec<Option<String>>> {
    let column = |column: &Column| match (&column.form, &*raw) {
        (Form::Bytes, Raw::Sqlite(_)) => format!("lower(hex({}))", column.name),
        (Form::Bytes, Raw::Postgres(_)) => format!("encode({}, 'hex')", column.name),
        (Form::List(_), Raw::Postgres(_)) => format!("to_jsonb({})::text", column.name),
        (Form::Address, Raw::Postgres(_)) => format!("host({})", column.name),
        _ => format!("\"{}\"", column.name),
    };
    let columns: Vec<_> = table.columns.iter().map(column).collect();
    let mut rows = raw
        .query(&format!("SELECT {} FROM {}", columns.join(", "), table.name))
        .await;
    for row in &mut rows {
        for (cell, column) in row.iter_mut().zip(&table.columns) {
            if let (Some(text), Form::Json | Form::List(_)) = (cell.as_mut(), &column.form) {
                *text = serde_json::from_str::<serde_json::Value>(text)
                    .unwrap()
                    .to_string();
            }
        }
    }
    rows.sort();
    rows
}

#[tokio::test]
async fn everything_is_on_the_other_side_and_comes_back_as_it_was() {
    let Some((_place, mut target)) = empty().await else {
        return;
    };
    let (_source_place, mut source) = full().await;
    let copied = there(&mut source, &mut target).await.unwrap();
    let back = Place::new(Engine::Sqlite);
    back.open().await.close().await;
    let mut again = back.connect().await;
    let Raw::Sqlite(connection) = &mut again else {
        panic!()
    };
    let returned = postgres_to_sqlite(postgres(&mut target), connection)
        .await
        .unwrap();
    assert_eq!(copied, returned);

    let plan = Plan::read(postgres(&mut target)).await.unwrap();
    assert_eq!(plan.kept().count(), copied.len());
    for (table, copied) in plan.kept().zip(copied) {
        let original = rows(&mut source, table).await;
        assert_eq!(
            (table.name.as_str(), original.len() as u64),
            (copied.table.as_str(), copied.rows)
        );
        assert!(!original.is_empty(), "nothing is said of table {}", table.name);
        // A dedupe hash is of the payload's text, which is the engine's own.
        let same = |mut rows: Vec<Vec<Option<String>>>| {
            if let Some(hash) = table
                .columns
                .iter()
                .position(|column| column.name == "dedupe_hash")
            {
                for row in &mut rows {
                    row[hash] = None;
                }
            }
            rows
        };
        let original = same(original);
        assert_eq!(same(rows(&mut target, table).await), original, "{}", table.name);
        assert_eq!(same(rows(&mut again, table).await), original, "{}", table.name);
    }
}

#[tokio::test]
async fn numbers_go_on_after_those_that_were_ever_given_out() {
    let Some((place, mut target)) = empty().await else {
        return;
    };
    let (_source_place, mut source) = full().await;
    let last = source
        .query("SELECT seq FROM sqlite_sequence WHERE name = 'workspace_agent_logs'")
        .await;
    there(&mut source, &mut target).await.unwrap();
    let next = "INSERT INTO workspace_agent_logs (agent_id, created_at, output)
        SELECT id, created_at, 'next' FROM workspace_agents LIMIT 1 RETURNING id";
    let next: i64 = place.connect().await.query(next).await[0][0]
        .as_ref()
        .unwrap()
        .parse()
        .unwrap();
    let last: i64 = last[0][0].as_ref().unwrap().parse().unwrap();
    assert_eq!((last, next), (4, 5));
}

#[tokio::test]
async fn a_sequence_that_was_never_used_begins_at_one() {
    let Some((place, mut target)) = empty().await else {
        return;
    };
    let (_source_place, mut source) = full().await;
    source.query("DELETE FROM workspace_agent_logs").await;
    source.query("UPDATE sqlite_sequence SET seq = 0").await;
    there(&mut source, &mut target).await.unwrap();
    let next = "INSERT INTO workspace_agent_logs (agent_id, created_at, output)
        SELECT id, created_at, 'next' FROM workspace_agents LIMIT 1 RETURNING id";
    assert_eq!(
        place.connect().await.query(next).await[0][0].as_deref(),
        Some("1")
    );
}

#[tokio::test]
async fn a_target_in_use_is_left_alone() {
    for fill in [
        "INSERT INTO site_configs VALUES ('a', 'b')",
        "INSERT INTO tailnet_coordinators VALUES (gen_random_uuid(), now())",
    ] {
        let Some((_place, mut target)) = empty().await else {
            return;
        };
        let (_source_place, mut source) = full().await;
        target.query(fill).await;
        let error = there(&mut source, &mut target).await.unwrap_err();
        assert!(
            error.to_string().starts_with("the target is not empty: table "),
            "{error}"
        );
        assert_eq!(
            target.query("SELECT count(*) FROM users").await[0][0].as_deref(),
            Some("0")
        );
        let templates =
            "SELECT count(*) FROM notification_templates WHERE title_template <> 'as the operator likes it'";
        assert_eq!(target.query(templates).await[0][0].as_deref(), Some("6"));
    }
}

#[tokio::test]
async fn a_copy_that_fails_half_way_leaves_nothing() {
    let Some((_place, mut target)) = empty().await else {
        return;
    };
    let (_source_place, mut source) = full().await;
    let connection = postgres(&mut target);
    sqlx::raw_sql(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'full'; END $$;
        CREATE TRIGGER refuse BEFORE INSERT ON workspace_agent_logs FOR EACH ROW EXECUTE FUNCTION refuse()",
    )
    .execute(&mut *connection)
    .await
    .unwrap();
    let plan = Plan::read(connection).await.unwrap();
    let error = there(&mut source, &mut target).await.unwrap_err();
    assert_eq!(error.to_string(), "cannot write the target: full");
    for table in &plan.tables {
        let expected = if table.name == PREFILLED { 6 } else { 0 };
        let rows = rows(&mut target, table).await.len();
        assert_eq!(rows, expected, "{}", table.name);
    }
    let triggers = "SELECT tgenabled::text FROM pg_trigger WHERE tgname = 'inhibit_enqueue_if_disabled'";
    assert_eq!(target.query(triggers).await[0][0].as_deref(), Some("O"));
    // And another try may go well.
    target.query("DROP TRIGGER refuse ON workspace_agent_logs").await;
    there(&mut source, &mut target).await.unwrap();
}

#[tokio::test]
async fn rows_that_get_lost_are_noticed() {
    let Some((_place, mut target)) = empty().await else {
        return;
    };
    let (_source_place, mut source) = full().await;
    let swallow =
        "CREATE FUNCTION swallow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$;
        CREATE TRIGGER swallow BEFORE INSERT ON site_configs FOR EACH ROW EXECUTE FUNCTION swallow()";
    sqlx::raw_sql(swallow)
        .execute(postgres(&mut target))
        .await
        .unwrap();
    let error = there(&mut source, &mut target).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "table site_configs: 1 rows in the source, 0 in the target"
    );
    assert_eq!(
        target.query("SELECT count(*) FROM users").await[0][0].as_deref(),
        Some("0")
    );
}

#[tokio::test]
async fn schemas_that_do_not_fit_are_named() {
    for (change, named) in [
        (
            "ALTER TABLE users ADD nickname text",
            "table users: column nickname is on one side only",
        ),
        ("CREATE TABLE pets (id uuid)", "table pets: is on Postgres only"),
        (
            "DROP TABLE drpcd_client_tokens",
            "table drpcd_client_tokens: is on SQLite only",
        ),
    ] {
        let Some((_place, mut target)) = empty().await else {
            return;
        };
        let (_source_place, mut source) = full().await;
        target.query(change).await;
        let error = there(&mut source, &mut target).await.unwrap_err();
        assert_eq!(error.to_string(), named);
    }
}

#[tokio::test]
async fn many_rows_and_long_ones_go_in_several_statements() {
    let Some((_place, mut target)) = empty().await else {
        return;
    };
    let (_source_place, mut source) = full().await;
    source
        .query(
            "INSERT INTO workspace_agent_logs (agent_id, created_at, output)
            WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < 9999)
            SELECT (SELECT id FROM workspace_agents LIMIT 1), n, substr(hex(zeroblob(512)), 1, n % 1024) FROM n",
        )
        .await;
    let copied = there(&mut source, &mut target).await.unwrap();
    let logs = copied
        .iter()
        .find(|copied| copied.table == "workspace_agent_logs");
    assert_eq!(logs.unwrap().rows, 10_001);
    let sum = "SELECT sum(id * length(output))::bigint FROM workspace_agent_logs";
    let sqlite = "SELECT sum(id * length(output)) FROM workspace_agent_logs";
    assert_eq!(target.query(sum).await, source.query(sqlite).await);
    if let Raw::Sqlite(source) = source {
        source.close().await.unwrap();
    }
}

#[test]
fn tables_come_after_those_they_refer_to() {
    let names = ["a", "b", "c", "d"];
    let tables = names.map(|name| (name.to_owned(), Vec::new())).into();
    let needs = [("a", vec!["c", "b"]), ("b", vec!["d"]), ("c", vec!["d"])];
    let needs = needs.map(|(name, other)| (name.to_owned(), other.into_iter().map(str::to_owned).collect()));
    let ordered = super::plan::in_order(tables, &needs.into());
    let ordered: Vec<_> = ordered.into_iter().map(|table| table.name).collect();
    assert_eq!(ordered, ["d", "b", "c", "a"]);
}
