//! Opening, statements, errors.

use std::collections::HashSet;
use std::os::unix::fs::PermissionsExt as _;

use sqlx::{Connection as _, Executor as _, SqlSafeStr as _};
use tempfile::TempDir;

use super::super::PER_AGENT;
use super::{EXAMPLE, Kit, NOW, SMALL, raw};
use crate::ids::{AgentId, LogSourceId};
use crate::seed::Seed;
use crate::store::sql::all_statements;
use crate::store::sql::statement::Statement;
use crate::store::sqlite::{self, OpenError, SqliteOptions, Synchronous, store_error};
use crate::store::{LogBatch, LogLevel, LogLine, Store, StoreError, Violation};

#[tokio::test]
async fn every_statement_prepares_under_a_name_of_its_own() {
    let kit = Kit::new().await;
    let mut connection = raw(kit.dir().path()).await;
    let mut names = HashSet::new();
    for Statement { name, sqlite, .. } in all_statements() {
        if let Err(error) = connection.prepare((*sqlite).into_sql_str()).await {
            panic!("{name}: {error}");
        }
        assert!(names.insert(name), "{name} stands for two statements");
    }
}

#[tokio::test]
async fn per_agent_statements_scan_no_table() {
    let mut kit = Kit::new().await;
    for name in PER_AGENT {
        let statement = all_statements().find(|statement| statement.name == name).unwrap();
        let plan = kit
            .table(&format!("EXPLAIN QUERY PLAN {}", statement.sqlite))
            .await;
        // The last column says what is done.
        let steps: Vec<_> = plan
            .iter()
            .map(|row| row.splitn(4, '|').nth(3).unwrap())
            .collect();
        let scans: Vec<_> = steps
            .iter()
            .filter(|step| step.starts_with("SCAN "))
            // The JSON list itself, results of a subquery over it, and a row that no table holds.
            .filter(|step| !step.contains("VIRTUAL TABLE"))
            .filter(|step| !["SCAN listed", "SCAN new", "SCAN CONSTANT ROW"].contains(*step))
            .collect();
        assert!(scans.is_empty(), "{name}: {steps:#?}");
    }
}

#[tokio::test]
async fn a_data_directory_is_made_and_both_are_private() {
    let parent = TempDir::new().unwrap();
    let dir = parent.path().join("a/b");
    let store = sqlite::open(&dir, SqliteOptions::default()).await.unwrap();
    store.seed(&Seed::parse("f", SMALL).unwrap(), NOW).await.unwrap();
    let mode = |name: &str| dir.join(name).metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(""), 0o700);
    for file in ["drpcd.db", "drpcd.db-wal", "drpcd.db-shm"] {
        assert_eq!(mode(file), 0o600, "{file}");
    }
}

#[tokio::test]
async fn a_readable_database_file_is_made_private() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("drpcd.db");
    std::fs::write(&path, "").unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
    sqlite::open(dir.path(), SqliteOptions::default()).await.unwrap();
    assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
}

#[tokio::test]
async fn a_file_that_is_no_database_is_named_and_left() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("drpcd.db");
    let garbage = "not a database ".repeat(100);
    std::fs::write(&path, &garbage).unwrap();
    let error = sqlite::open(dir.path(), SqliteOptions::default())
        .await
        .unwrap_err();
    assert!(matches!(error, OpenError::NotADatabase { .. }), "{error}");
    assert!(error.to_string().contains(&path.display().to_string()), "{error}");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), garbage);
}

#[tokio::test]
async fn a_data_directory_that_is_a_file_is_named() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("file");
    std::fs::write(&path, "").unwrap();
    let error = sqlite::open(&path.join("data"), SqliteOptions::default())
        .await
        .unwrap_err();
    assert!(matches!(error, OpenError::CreateDirectory { .. }), "{error}");
    assert!(error.to_string().contains(&path.display().to_string()), "{error}");
}

#[tokio::test]
async fn a_newer_schema_is_refused_and_left() {
    let mut kit = Kit::new().await;
    kit.sql(
        "INSERT INTO drpcd_migrations (version, description, success, checksum, execution_time)
        VALUES (99, 'future', TRUE, x'00', 0)",
    )
    .await;
    let error = sqlite::open(kit.dir().path(), SqliteOptions::default())
        .await
        .unwrap_err();
    assert!(
        matches!(error, OpenError::NewerSchema { version: 99, .. }),
        "{error}"
    );
    assert!(error.to_string().contains("drpcd.db"), "{error}");
}

#[tokio::test]
async fn commits_are_as_durable_as_the_option_says() {
    for (synchronous, pragma) in [(Synchronous::Normal, 1), (Synchronous::Full, 2)] {
        let dir = TempDir::new().unwrap();
        let options = SqliteOptions {
            synchronous,
            max_pages: None,
            ..SqliteOptions::default()
        };
        let store = sqlite::open(dir.path(), options).await.unwrap();
        let mut session = store.database.write().await.unwrap();
        assert_eq!(session.pragma("PRAGMA synchronous").await.unwrap(), pragma);
        assert_eq!(session.pragma("PRAGMA foreign_keys").await.unwrap(), 1);
    }
}

#[tokio::test]
async fn transaction_control_and_pragmas_are_not_counted() {
    let (kit, agents) = Kit::seeded(SMALL).await;
    let sum = |kit: &Kit| kit.store.statements().iter().map(|(_, count)| count).sum::<u64>();
    let before = sum(&kit);
    kit.store.take_events().await.unwrap();
    let seen = sum(&kit);
    kit.store.take_events().await.unwrap();
    assert_eq!(sum(&kit), seen, "an idle look at the events runs no statement");
    assert_eq!(seen, before + 1);
    kit.store.manifest_parts(agents[0].agent_id).await.unwrap();
    assert_eq!(sum(&kit), seen + 4);
}

#[tokio::test]
async fn a_full_disk_is_unavailable_and_the_store_goes_on_when_there_is_room() {
    let dir = TempDir::new().unwrap();
    let store = sqlite::open(dir.path(), SqliteOptions::default()).await.unwrap();
    let agents = store.seed(&Seed::parse("f", SMALL).unwrap(), NOW).await.unwrap();
    store.close().await;
    let pages: i64 = sqlx::query_scalar("PRAGMA page_count")
        .fetch_one(&mut raw(dir.path()).await)
        .await
        .unwrap();
    let max_pages = Some(u32::try_from(pages).unwrap());
    let store = sqlite::open(
        dir.path(),
        SqliteOptions {
            max_pages,
            ..SqliteOptions::default()
        },
    )
    .await
    .unwrap();
    let big = log_batch(agents[0].agent_id, &"x".repeat(1_000), 500);
    let small = log_batch(agents[0].agent_id, "y", 1);
    for _ in 0..2 {
        let error = store.insert_logs(&big).await.unwrap_err();
        assert!(error.is_unavailable(), "{error:?}");
        assert_eq!(error.to_string(), "database or disk is full");
    }
    store.insert_logs(&small).await.unwrap();
    assert_eq!(store.agent(agents[0].agent_id).await.unwrap().logs_length, 1);
    store.close().await;
    let store = sqlite::open(dir.path(), SqliteOptions::default()).await.unwrap();
    store.insert_logs(&big).await.unwrap();
}

fn log_batch(agent_id: AgentId, output: &str, count: usize) -> LogBatch {
    let line = LogLine {
        output: output.to_owned(),
        level: LogLevel::Info,
    };
    LogBatch {
        agent_id,
        source_id: LogSourceId::random(),
        created_at: NOW,
        output_length: i64::try_from(output.len() * count).unwrap(),
        lines: vec![line; count],
    }
}

#[tokio::test]
async fn a_lock_that_is_not_to_be_had_is_unavailable() {
    let (kit, agents) = Kit::seeded(SMALL).await;
    let mut other = raw(kit.dir().path()).await;
    let holder = other.begin_with("BEGIN IMMEDIATE").await.unwrap();
    let error = kit
        .store
        .set_logs_overflowed(agents[0].agent_id)
        .await
        .unwrap_err();
    assert!(error.is_unavailable(), "{error:?}");
    let error = kit.seed(SMALL, NOW).await.unwrap_err();
    assert!(error.is_unavailable(), "{error:?}");
    // Readers never wait for a writer.
    kit.store.agent(agents[0].agent_id).await.unwrap();
    holder.rollback().await.unwrap();
    kit.store.set_logs_overflowed(agents[0].agent_id).await.unwrap();
}

#[tokio::test]
async fn violations_are_told_apart_by_constraint() {
    let (kit, _) = Kit::seeded(EXAMPLE).await;
    let mut raw = raw(kit.dir().path()).await;
    let source = "INSERT INTO workspace_agent_log_sources
        SELECT workspace_agent_id, id, 0, '', '' FROM workspace_agent_log_sources";
    for (sql, expected, text) in [
        (
            "UPDATE workspace_agents SET logs_length = 1048577",
            Violation::MaxLogsLength,
            "CHECK constraint failed: max_logs_length",
        ),
        (
            source,
            Violation::LogSourceExists,
            "UNIQUE constraint failed: workspace_agent_log_sources.workspace_agent_id, \
             workspace_agent_log_sources.id",
        ),
        (
            "UPDATE workspace_agents SET subsystems = '[\"none\"]'",
            Violation::Other,
            "CHECK constraint failed: subsystems_not_none",
        ),
        (
            "DELETE FROM workspaces; DELETE FROM users",
            Violation::Other,
            "FOREIGN KEY constraint failed",
        ),
    ] {
        let result = sqlx::query(sqlx::AssertSqlSafe(sql.to_owned()))
            .execute(&mut raw)
            .await;
        let error = store_error(&result.unwrap_err());
        assert!(error.is_violation(expected), "{sql}: {error:?}");
        assert_eq!(error.to_string(), text);
    }
}

#[tokio::test]
async fn a_closed_store_answers_that_it_is_away() {
    let (kit, agents) = Kit::seeded(SMALL).await;
    kit.store.ping().await.unwrap();
    kit.store.close().await;
    kit.store.close().await;
    assert!(kit.store.ping().await.unwrap_err().is_unavailable());
    assert!(
        kit.store
            .authenticate(&agents[0].token)
            .await
            .unwrap_err()
            .is_unavailable()
    );
    let error = kit
        .store
        .set_logs_overflowed(agents[0].agent_id)
        .await
        .unwrap_err();
    assert_eq!(error, StoreError::Unavailable("the store is closed".to_owned()));
}

#[tokio::test]
async fn a_call_that_is_given_up_leaves_no_transaction_behind() {
    let (kit, agents) = Kit::seeded(SMALL).await;
    let batch = log_batch(agents[0].agent_id, "line", 1);
    for polls in 0..12 {
        let mut call = Box::pin(kit.store.insert_logs(&batch));
        for _ in 0..polls {
            if futures_util::poll!(&mut call).is_ready() {
                break;
            }
            tokio::task::yield_now().await;
        }
        drop(call);
        kit.store.insert_logs(&batch).await.unwrap();
    }
}

#[tokio::test]
async fn a_connection_that_may_not_write_is_replaced() {
    let (kit, agents) = Kit::seeded(SMALL).await;
    let mut session = kit.store.database.write().await.unwrap();
    session
        .pragma("PRAGMA query_only = ON; PRAGMA query_only")
        .await
        .unwrap();
    drop(session);
    let write = || kit.store.set_logs_overflowed(agents[0].agent_id);
    let error = write().await.unwrap_err();
    assert!(error.is_unavailable(), "{error:?}");
    write().await.unwrap();
}

#[tokio::test]
async fn who_is_let_in_could_also_write() {
    let (kit, agents) = Kit::seeded(SMALL).await;
    let mut other = raw(kit.dir().path()).await;
    let holder = other.begin_with("BEGIN IMMEDIATE").await.unwrap();
    // Nobody has tried to write.
    assert!(kit.authenticates(&agents[0].token).await);
    assert!(kit.store.ping().await.unwrap_err().is_unavailable());
    let error = kit.store.authenticate(&agents[0].token).await.unwrap_err();
    assert_eq!(error, StoreError::Unavailable("database is locked".to_owned()));
    // One tries, the others are told at once.
    let tries = (0..20).map(|_| kit.store.authenticate(&agents[0].token));
    let tries = futures_util::future::join_all(tries);
    // One after another they would take half a minute.
    let tries = tokio::time::timeout(std::time::Duration::from_secs(10), tries).await;
    assert!(tries.unwrap().iter().all(Result::is_err));
    holder.rollback().await.unwrap();
    assert!(kit.authenticates(&agents[0].token).await);
}

#[tokio::test]
async fn a_write_that_changes_nothing_does_not_prove_that_the_store_is_back() {
    let (kit, agents) = Kit::seeded(SMALL).await;
    let mut other = raw(kit.dir().path()).await;
    let holder = other.begin_with("BEGIN IMMEDIATE").await.unwrap();
    assert!(kit.store.ping().await.is_err());
    holder.rollback().await.unwrap();
    let writable = || kit.store.database.write_error().is_none();
    kit.store.set_logs_overflowed(AgentId::random()).await.unwrap();
    assert!(!writable());
    kit.store.set_logs_overflowed(agents[0].agent_id).await.unwrap();
    assert!(writable());
}

#[tokio::test]
async fn a_damaged_file_is_away_until_it_is_opened_again() {
    let (kit, agents) = Kit::seeded(SMALL).await;
    kit.store.close().await;
    let file = std::fs::File::options()
        .write(true)
        .open(kit.dir().path().join("drpcd.db"))
        .unwrap();
    let sql = "SELECT rootpage FROM sqlite_schema WHERE tbl_name = 'organizations'";
    let roots: Vec<i64> = sqlx::query_scalar(sql)
        .fetch_all(&mut raw(kit.dir().path()).await)
        .await
        .unwrap();
    for root in roots {
        let offset = u64::try_from(root - 1).unwrap() * 4_096;
        std::os::unix::fs::FileExt::write_all_at(&file, &[0xA5; 4_096], offset).unwrap();
    }
    let store = sqlite::open(kit.dir().path(), SqliteOptions::default())
        .await
        .unwrap();
    for _ in 0..2 {
        let error = store.ping().await.unwrap_err();
        assert!(error.is_unavailable(), "{error:?}");
    }
    store.set_logs_overflowed(agents[0].agent_id).await.unwrap();
    assert!(store.ping().await.is_err());
}

#[tokio::test]
async fn the_file_of_a_closed_store_is_whole_by_itself() {
    let (mut kit, agents) = Kit::seeded(SMALL).await;
    // Another connection, for which SQLite itself would leave all in the write-ahead log.
    kit.sql("SELECT 1 FROM users").await;
    kit.store.close().await;
    let copy = TempDir::new().unwrap();
    std::fs::copy(kit.dir().path().join("drpcd.db"), copy.path().join("drpcd.db")).unwrap();
    let store = sqlite::open(copy.path(), SqliteOptions::default()).await.unwrap();
    assert!(store.authenticate(&agents[0].token).await.unwrap().is_some());
}
