//! What an operator does to a store of our own: `drpcd migrate`, `drpcd db check`, `drpcd db copy`, on the real binary.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::path::Path;
use std::process::Output;

use serde_json::Value;
use support::postgres::{Database, PASSWORD};
use support::{Data, EXAMPLE_SEED, coder, drpcd, go};
use tempfile::TempDir;

fn run(arguments: &[&str]) -> Output {
    drpcd().args(arguments).output().unwrap()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

/// Runs a verb that ends with `code`; gives its stdout and stderr.
#[track_caller]
fn ends(arguments: &[&str], code: i32) -> (String, String) {
    let output = run(arguments);
    let (out, said) = (text(&output.stdout).to_owned(), text(&output.stderr).to_owned());
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {out}{said}");
    assert!(!said.contains(PASSWORD) && !out.contains(PASSWORD), "{out}{said}");
    (out, said)
}

fn path(directory: &TempDir) -> &str {
    directory.path().to_str().unwrap()
}

/// A server that must not start.
const SERVER: [&str; 3] = ["server", "--http-address", "127.0.0.1:0"];

fn migrates(store: &[&str], version: u32) {
    let verb = |verb: &[&'static str]| [verb, store].concat();
    let pending = format!("1\tpending\tinitial\n{version}\tpending\tnotification templates\n");
    let applied = pending.replace("pending", "applied");
    let (told, said) = ends(&verb(&["migrate", "status"]), 4);
    assert_eq!(told, pending);
    assert!(
        said.contains("2 migrations are not as this program has them"),
        "{said}"
    );
    let (_, said) = ends(&[&SERVER[..], &["--auto-migrate=false"], store].concat(), 1);
    assert!(said.contains("is not up to date"), "{said}");
    assert!(said.contains("migration 1 (initial): missing"), "{said}");
    // Nothing was made so far.
    assert_eq!(ends(&verb(&["migrate", "status"]), 4).0, pending);

    for _ in 0..2 {
        assert_eq!(ends(&verb(&["migrate", "up"]), 0).0, applied);
    }
    assert_eq!(ends(&verb(&["migrate", "status"]), 0).0, applied);
    let (json, _) = ends(&verb(&["migrate", "status", "--output", "json"]), 0);
    let rows: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(
        rows[0].to_string(),
        r#"{"description":"initial","state":"applied","version":1}"#
    );
    let (_, said) = ends(&verb(&["token", "list", "--auto-migrate=false"]), 0);
    assert_eq!(said, "");
}

#[test]
fn a_schema_is_made_when_that_is_asked_for() {
    let directory = tempfile::tempdir().unwrap();
    let store = ["--data-dir", path(&directory)];
    migrates(&store, 3);
    let Some(database) = Database::new() else { return };
    migrates(&["--postgres-url", database.url()], 2);
}

#[test]
fn a_schema_of_a_newer_program_is_told_and_left() {
    let directory = tempfile::tempdir().unwrap();
    let store = ["--data-dir", path(&directory)];
    ends(&[&["migrate", "up"][..], &store].concat(), 0);
    sqlite(
        directory.path(),
        "INSERT INTO drpcd_migrations (version, description, success, checksum, execution_time)
        VALUES (99, 'x', 1, x'00', 0)",
    );
    let (told, _) = ends(&[&["migrate", "status"][..], &store].concat(), 4);
    assert!(told.ends_with("99\tunknown\t\n"), "{told}");
    let (told, _) = ends(&[&["db", "check"][..], &store].concat(), 4);
    assert!(
        told.contains("version\t99\nmissing\tmigration 99: of a newer program\n"),
        "{told}"
    );
}

/// Runs statements on the file in a data directory.
fn sqlite(directory: &Path, sql: &str) {
    use sqlx::{AssertSqlSafe, Connection as _, SqliteConnection};
    let options = sqlx::sqlite::SqliteConnectOptions::new()
        .filename(directory.join("drpcd.db"))
        .create_if_missing(true);
    support::postgres::apart(async || {
        let mut connection = SqliteConnection::connect_with(&options).await.unwrap();
        sqlx::raw_sql(AssertSqlSafe(sql))
            .execute(&mut connection)
            .await
            .unwrap();
        connection.close().await.unwrap();
    });
}

#[test]
fn a_file_is_checked_without_a_change_to_it() {
    let directory = tempfile::tempdir().unwrap();
    let check = ["db", "check", "--data-dir", path(&directory)];
    let file = directory.path().join("drpcd.db");
    let place = format!("store\t{}\n", file.display());
    let (told, said) = ends(&check, 4);
    assert_eq!(told, format!("{place}tables\tnone\nmissing\tfile: missing\n"));
    assert!(said.contains("no server can work on"), "{said}");
    assert!(!file.exists());

    ends(&["migrate", "up", "--data-dir", path(&directory)], 0);
    let before = std::fs::read(&file).unwrap();
    assert_eq!(ends(&check, 0).0, format!("{place}tables\town\nversion\t3\n"));
    assert_eq!(std::fs::read(&file).unwrap(), before);
    let names: Vec<_> = directory
        .path()
        .read_dir()
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(names, ["drpcd.db"]);

    sqlite(
        directory.path(),
        "DROP TABLE boundary_usage_stats; ALTER TABLE gitsshkeys DROP COLUMN updated_at; DROP INDEX workspace_resources_job_id_idx",
    );
    let (told, _) = ends(&[&check[..], &["--output", "json"]].concat(), 4);
    let report: Value = serde_json::from_str(&told).unwrap();
    let missing = [
        "index workspace_resources_job_id_idx: missing",
        "table boundary_usage_stats: missing",
        "table gitsshkeys: column updated_at missing",
    ];
    assert_eq!(report["missing"], serde_json::json!(missing), "{told}");

    std::fs::write(
        &file,
        "something else entirely, which is long enough to be looked at",
    )
    .unwrap();
    let (_, said) = ends(&check, 4);
    assert!(said.contains("the file is not a SQLite database"), "{said}");
}

#[test]
fn a_file_of_another_program_is_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    sqlite(directory.path(), "CREATE TABLE orders (id INTEGER)");
    let store = ["--data-dir", path(&directory)];
    let (told, _) = ends(&[&["db", "check"][..], &store].concat(), 4);
    assert!(
        told.contains("tables\tforeign\nmissing\ttables: tables of another program (orders)"),
        "{told}"
    );
    for verb in [&["migrate", "up"][..], &SERVER] {
        let (_, said) = ends(&[verb, &store].concat(), 1);
        assert!(
            said.contains("it has tables of another program (orders)"),
            "{said}"
        );
    }
}

#[test]
fn a_database_is_checked_without_a_change_to_it() {
    let Some(database) = Database::new() else { return };
    let check = ["db", "check", "--postgres-url", database.url()];
    let (told, _) = ends(&check, 4);
    assert!(
        told.contains("tables\tnone\nmissing\tmigration 1 (initial): missing\n"),
        "{told}"
    );
    ends(&["migrate", "up", "--postgres-url", database.url()], 0);
    let (told, _) = ends(&check, 0);
    assert!(told.ends_with("tables\town\nversion\t2\n"), "{told}");
    database.execute("ALTER TABLE workspace_agents DROP COLUMN version");
    let (told, _) = ends(&check, 4);
    assert!(
        told.ends_with("version\t2\nmissing\ttable workspace_agents: column version missing\n"),
        "{told}"
    );

    // Nobody there.
    let away = format!("postgres://drpcd:{PASSWORD}@127.0.0.1:1/drpcd");
    let (_, said) = ends(&["db", "check", "--postgres-url", &away], 4);
    assert!(
        said.contains("cannot reach database drpcd at 127.0.0.1:1"),
        "{said}"
    );
}

#[test]
fn a_store_moves_to_postgres_with_its_agents_and_back() {
    let Some(data) = Data::in_a_file(EXAMPLE_SEED, "it is copied from a file") else {
        return;
    };
    let Some(database) = Database::new() else { return };
    let server = data.serve(&["--agent-stats-refresh-interval", "1s"]);
    let token = server.agent().token.clone();
    let Some(agent) = go("agent", server.agent(), &["--use", "--stop-after-ready", "8s"]) else {
        return;
    };
    agent.result();
    let client = data.client_token("ada");
    assert_eq!(server.stop(), Some(0));
    let before = std::fs::read(data.database()).unwrap();
    let last_log = data.number("SELECT seq FROM sqlite_sequence WHERE name = 'workspace_agent_logs'");
    assert!(last_log > 0);

    ends(&["migrate", "up", "--postgres-url", database.url()], 0);
    let from = format!("sqlite://{}", data.path().display());
    let (told, _) = ends(&["db", "copy", "--from", &from, "--to", database.url()], 0);
    assert_eq!(std::fs::read(data.database()).unwrap(), before);
    for line in told.lines().filter(|line| !line.starts_with("all")) {
        let (table, rows) = line.split_once('\t').unwrap();
        let count = format!("SELECT count(*) FROM {table}");
        assert_eq!(
            (data.value(&count), coder::query(&database, &count).concat()),
            (rows.to_owned(), rows.to_owned()),
            "{table}"
        );
    }
    // All that an agent leaves was there to be copied.
    for (table, least) in [
        ("workspace_agent_logs", 2),
        ("workspace_agents", 3),
        ("connection_logs", 2),
        ("drpcd_client_tokens", 1),
    ] {
        let rows = told
            .lines()
            .find_map(|line| line.strip_prefix(table)?.strip_prefix('\t'));
        assert!(rows.unwrap().parse::<u32>().unwrap() >= least, "{table}: {told}");
    }
    let tables = told.lines().count();
    assert!(told.lines().last().unwrap().starts_with("all\t"), "{told}");

    // The same agent, with the same token, goes on there; so does the client.
    let moved = data.moved_to(database);
    let server = moved.serve(&[]);
    assert_eq!(server.agent().token, token);
    let agent = go("agent", server.agent(), &["--use", "--stop-after-ready", "2s"]).unwrap();
    agent.result();
    let header = format!("Coder-Session-Token: {client}\r\n");
    let answer = support::http::get(&server.url, "/api/v2/workspaceagents/connection", &header);
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(server.stop(), Some(0));
    let first = moved.number(&format!(
        "SELECT min(id) FROM workspace_agent_logs WHERE id > {last_log}"
    ));
    assert_eq!(first, last_log + 1);

    let back = tempfile::tempdir().unwrap();
    ends(&["migrate", "up", "--data-dir", path(&back)], 0);
    let to = format!("sqlite://{}/drpcd.db", back.path().display());
    let (told, _) = ends(&["db", "copy", "--from", moved.url(), "--to", &to], 0);
    assert_eq!(told.lines().count(), tables);
    let (seeded, _) = ends(
        &[
            "seed",
            moved.seed_file().to_str().unwrap(),
            "--data-dir",
            path(&back),
        ],
        0,
    );
    assert!(seeded.contains(&token), "{seeded}");
}

#[test]
fn a_copy_that_cannot_be_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let from = format!("sqlite://{}", path(&directory));
    let copy = |from: &str, to: &str, code| ends(&["db", "copy", "--from", from, "--to", to], code).1;
    let secret = format!("mysql://drpcd:{PASSWORD}@127.0.0.1/drpcd");
    let said = copy(&from, &secret, 2);
    assert!(
        said.contains("invalid value for --to: must be sqlite://DIR or postgres://"),
        "{said}"
    );
    assert!(copy(&from, &from, 2).contains("from sqlite://PATH to postgres://…, or back"));

    let Some(database) = Database::new() else { return };
    let said = copy(&from, database.url(), 1);
    assert!(
        said.contains("nothing was copied: ") && said.contains("drpcd.db does not exist"),
        "{said}"
    );
    assert!(!directory.path().join("drpcd.db").exists());
    ends(&["migrate", "up", "--data-dir", path(&directory)], 0);
    let said = copy(&from, database.url(), 1);
    assert!(
        said.contains("is not up to date (`drpcd migrate up` changes that)"),
        "{said}"
    );
    ends(&["migrate", "up", "--postgres-url", database.url()], 0);
    copy(&from, database.url(), 0);
    database.execute("INSERT INTO site_configs VALUES ('a', 'b')");
    let said = copy(&from, database.url(), 1);
    assert!(
        said.contains("the target is not empty: table site_configs has rows"),
        "{said}"
    );

    let Some(deployment) = coder::audited() else {
        return;
    };
    let said = copy(&from, deployment.url(), 1);
    assert!(
        said.contains("has the tables of a coder deployment, and wanted are those of drpcd"),
        "{said}"
    );
    let said = copy(deployment.url(), &from, 1);
    assert!(
        said.contains("has the tables of a coder deployment, and wanted are those of drpcd"),
        "{said}"
    );
    assert_eq!(
        coder::query(&deployment, "SELECT operation FROM audit.writes"),
        [""; 0]
    );
}
