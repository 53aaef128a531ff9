//! The engine against real files.

use std::path::Path;

use sqlx::Row;
use tempfile::TempDir;
use uuid::Uuid;

use super::statement::Statement;
use super::{Durability, SqliteStore};
use crate::clock::Timestamp;
use crate::ids::{AgentId, AgentToken, BuildId, LogSourceId, ReplicaId};
use crate::seed::Seed;
use crate::store::{
    ConnectionChange, LifecycleState, LifecycleUpdate, LogBatch, LogLevel, LogLine, LogSource, LogsInserted,
    MetadataValue, SeededAgent, StartupUpdate, Store, StoreError, Subsystem, Violation,
};

const EXAMPLE: &str = include_str!("../../../examples/seed.yaml");
const NOW: Timestamp = Timestamp::from_micros(1_700_000_000_000_000);
const SECOND: i64 = 1_000_000;

struct Fixture {
    store: SqliteStore,
    agent: SeededAgent,
    directory: TempDir,
}

async fn open(directory: &Path) -> SqliteStore {
    SqliteStore::open(directory, Durability::Process).await.unwrap()
}

async fn seed(store: &SqliteStore, text: &str) -> SeededAgent {
    let seed = Seed::parse("seed.yaml", text).unwrap();
    Store::seed(store, &seed, NOW).await.unwrap().remove(0)
}

impl Fixture {
    async fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let store = open(directory.path()).await;
        let agent = seed(&store, EXAMPLE).await;
        Self {
            store,
            agent,
            directory,
        }
    }

    /// Runs a statement that stands for something outside drpcd.
    async fn execute(&self, sql: &'static str) {
        sqlx::raw_sql(sql).execute(&self.store.writer).await.unwrap();
    }

    async fn value(&self, sql: &'static str) -> String {
        let row = sqlx::query(sql).fetch_one(&self.store.writer).await.unwrap();
        row.get(0)
    }

    /// Adds build `number` of the seeded workspace, with a job in the state that the columns say.
    async fn add_build(
        &self,
        number: i64,
        transition: &str,
        started: bool,
        completed: bool,
        error: Option<&str>,
    ) {
        let job = Uuid::new_v4();
        sqlx::query(
            "INSERT INTO provisioner_jobs (id, organization_id, initiator_id, file_id, created_at, updated_at,
                 started_at, completed_at, error, provisioner, storage_method, type, input)
             SELECT ?1, organization_id, initiator_id, file_id, 1, 1, iif(?2, 1, NULL), iif(?3, 2, NULL), ?4,
                 'terraform', 'file', 'workspace_build', '{}' FROM provisioner_jobs LIMIT 1",
        )
        .bind(job)
        .bind(started)
        .bind(completed)
        .bind(error.map(str::to_owned))
        .execute(&self.store.writer)
        .await
        .unwrap();
        sqlx::query(
            "INSERT INTO workspace_builds (id, created_at, updated_at, workspace_id, template_version_id,
                 build_number, transition, initiator_id, job_id)
             SELECT ?1, 1, 1, workspace_id, template_version_id, ?2, ?3, initiator_id, ?4
             FROM workspace_builds WHERE build_number = 1",
        )
        .bind(Uuid::new_v4())
        .bind(number)
        .bind(transition.to_owned())
        .bind(job)
        .execute(&self.store.writer)
        .await
        .unwrap();
    }

    /// Whether the agent may connect, which must be what the build check says.
    async fn eligible(&self) -> bool {
        let build = sqlx::query("SELECT id FROM workspace_builds WHERE build_number = 1");
        let build = BuildId(build.fetch_one(&self.store.writer).await.unwrap().get(0));
        let outdated = Store::outdated_builds(&self.store, &[build]).await.unwrap();
        let authenticated = Store::authenticate(&self.store, &self.agent.token).await.unwrap();
        assert_eq!(
            authenticated.is_some(),
            outdated.is_empty(),
            "authentication and build check disagree"
        );
        authenticated.is_some()
    }

    async fn times(&self) -> (Option<i64>, Option<i64>, Option<i64>) {
        let row = sqlx::query(
            "SELECT first_connected_at, last_connected_at, disconnected_at FROM workspace_agents",
        );
        let row = row.fetch_one(&self.store.writer).await.unwrap();
        (row.get(0), row.get(1), row.get(2))
    }

    fn change(&self, seconds: i64) -> [ConnectionChange; 1] {
        [ConnectionChange {
            agent_id: self.agent.agent_id,
            at: after(seconds),
        }]
    }

    fn batch(&self, lines: &[&str]) -> LogBatch {
        LogBatch {
            agent_id: self.agent.agent_id,
            source_id: LogSourceId(Uuid::nil()),
            created_at: NOW,
            output_length: lines.iter().map(|line| i64::try_from(line.len()).unwrap()).sum(),
            lines: lines
                .iter()
                .map(|line| LogLine {
                    output: (*line).into(),
                    level: LogLevel::Info,
                })
                .collect(),
        }
    }
}

fn after(seconds: i64) -> Timestamp {
    Timestamp::from_micros(NOW.as_micros() + seconds * SECOND)
}

fn micros(seconds: i64) -> Option<i64> {
    Some(after(seconds).as_micros())
}

#[tokio::test]
async fn every_statement_prepares() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path()).await;
    for statement in Statement::ALL {
        let explain = sqlx::AssertSqlSafe(format!("EXPLAIN {}", statement.sql()));
        let explained = sqlx::query(explain).fetch_all(&store.writer).await;
        assert!(explained.is_ok(), "{}: {:?}", statement.name(), explained.err());
    }
}

#[tokio::test]
async fn hot_statements_use_indexes() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path()).await;
    let hot = [
        Statement::Authenticate,
        Statement::EligibleBuilds,
        Statement::RecordConnects,
        Statement::RecordHeartbeats,
        Statement::RecordDisconnects,
        Statement::UpdateMetadata,
        Statement::Workspaces,
    ];
    for statement in hot {
        let explain = sqlx::AssertSqlSafe(format!("EXPLAIN QUERY PLAN {}", statement.sql()));
        let plan = sqlx::query(explain).fetch_all(&store.writer).await.unwrap();
        let plan: Vec<String> = plan.iter().map(|row| row.get("detail")).collect();
        for step in &plan {
            let json = step.contains("asked")
                || step.contains("item")
                || step.contains("json_each")
                || step.contains("new");
            assert!(
                !step.starts_with("SCAN") || json,
                "{} scans a table: {plan:#?}",
                statement.name()
            );
        }
    }
}

#[tokio::test]
async fn a_seeded_agent_is_authenticated_with_everything_around_it() {
    let fixture = Fixture::new().await;
    let found = Store::authenticate(&fixture.store, &fixture.agent.token)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(found.agent.id, fixture.agent.agent_id);
    assert_eq!(found.agent.name, "main");
    assert_eq!(
        found.agent.environment_variables.as_deref(),
        Some(r#"{"GREETING":"hello"}"#)
    );
    assert_eq!(
        (found.agent.directory.as_str(), found.agent.motd_file.as_str()),
        ("~/src", "/etc/motd")
    );
    assert_eq!(found.agent.connection_timeout_seconds, 120);
    assert_eq!(
        (
            found.workspace.name.as_str(),
            found.workspace.owner_username.as_str()
        ),
        ("dev", "ada")
    );
    assert_eq!(found.workspace.template_name, "docker");
    assert_eq!(
        Store::workspace_by_agent(&fixture.store, found.agent.id)
            .await
            .unwrap(),
        found.workspace
    );
    assert_eq!(
        Store::workspaces(&fixture.store, &[found.workspace.id])
            .await
            .unwrap(),
        [found.workspace]
    );
    assert_eq!(
        Store::agent(&fixture.store, found.agent.id).await.unwrap(),
        found.agent
    );
    let stranger = Store::authenticate(&fixture.store, &AgentToken::random())
        .await
        .unwrap();
    assert!(stranger.is_none());
}

#[tokio::test]
async fn every_key_of_the_example_reaches_its_column() {
    let fixture = Fixture::new().await;
    let parts = Store::manifest_parts(&fixture.store, fixture.agent.agent_id)
        .await
        .unwrap();
    let [code, vim] = &parts.apps[..] else {
        panic!("{parts:?}")
    };
    assert_eq!(
        (
            code.slug.as_str(),
            code.display_name.as_str(),
            code.health.as_str()
        ),
        ("code", "Code", "initializing")
    );
    assert_eq!(code.url.as_deref(), Some("http://localhost:13337"));
    assert_eq!(
        (code.icon.as_str(), code.subdomain, code.sharing_level.as_str()),
        ("/icon/code.svg", true, "owner")
    );
    assert_eq!(code.healthcheck_url, "http://localhost:13337/healthz");
    assert_eq!((code.healthcheck_interval, code.healthcheck_threshold), (5, 6));
    assert_eq!(
        (vim.command.as_deref(), vim.health.as_str()),
        (Some("vim"), "disabled")
    );

    let [startup, shutdown] = &parts.scripts[..] else {
        panic!("{parts:?}")
    };
    assert_eq!(
        (
            startup.script.as_str(),
            startup.run_on_start,
            startup.start_blocks_login
        ),
        ("echo starting", true, true)
    );
    assert_eq!((startup.timeout_seconds, shutdown.run_on_stop), (60, true));
    assert_ne!(
        startup.log_source_id, shutdown.log_source_id,
        "each script has a log source of its own"
    );

    let keys: Vec<_> = parts
        .metadata
        .iter()
        .map(|item| (item.key.as_str(), item.interval, item.timeout))
        .collect();
    assert_eq!(keys, [("cpu", 10, 5), ("mem", 10, 5)]);
    assert_eq!(parts.devcontainers[0].workspace_folder, "/workspaces/web");
    assert_eq!(
        parts.devcontainers[0].config_path,
        ".devcontainer/devcontainer.json"
    );

    let monitors = Store::monitors(&fixture.store, fixture.agent.agent_id)
        .await
        .unwrap();
    assert_eq!(
        monitors
            .memory
            .map(|monitor| (monitor.enabled, monitor.threshold)),
        Some((true, 90))
    );
    assert_eq!(monitors.volumes[0].0, "/home");

    let banners = Store::site_config(&fixture.store, "announcement_banners")
        .await
        .unwrap()
        .unwrap();
    let expected = r##"[{"enabled":true,"message":"Maintenance on Friday","background_color":"#004852"}]"##;
    assert_eq!(banners, expected);
    let columns = [
        (
            "SELECT display_apps FROM workspace_agents",
            r#"["vscode","web_terminal","ssh_helper"]"#,
        ),
        (
            "SELECT troubleshooting_url FROM workspace_agents",
            "https://example.com/help",
        ),
        (
            "SELECT CAST(deadline AS TEXT) FROM workspace_builds",
            "1700028800000000",
        ),
        (
            "SELECT transition || '/' || reason FROM workspace_builds",
            "start/initiator",
        ),
        (
            "SELECT job_status FROM provisioner_jobs WHERE type = 'workspace_build'",
            "succeeded",
        ),
        (
            "SELECT status || ' ' || name || ' ' || email FROM users",
            "active Ada Lovelace ada@example.com",
        ),
        ("SELECT name FROM organizations WHERE is_default", "coder"),
    ];
    for (sql, expected) in columns {
        assert_eq!(fixture.value(sql).await, expected, "{sql}");
    }
    let key = fixture.value("SELECT public_key FROM gitsshkeys").await;
    assert!(key.starts_with("ssh-ed25519 "), "{key}");
}

#[tokio::test]
async fn conn_076_seeding_twice_keeps_ids_and_tokens_and_what_agents_reported() {
    let fixture = Fixture::new().await;
    let before = Store::manifest_parts(&fixture.store, fixture.agent.agent_id)
        .await
        .unwrap();
    fixture
        .execute("UPDATE workspace_agents SET lifecycle_state = 'ready', logs_length = 7")
        .await;
    fixture
        .execute("UPDATE workspace_apps SET health = 'healthy' WHERE slug = 'code'")
        .await;
    fixture
        .execute("UPDATE workspace_agent_metadata SET value = '5%' WHERE key = 'cpu'")
        .await;

    let changed = EXAMPLE
        .replacen("directory: ~/src", "directory: /srv", 1)
        .replacen("slug: vim", "slug: emacs", 1);
    let again = seed(&fixture.store, &changed).await;
    assert_eq!(
        (again.agent_id, again.token),
        (fixture.agent.agent_id, fixture.agent.token)
    );
    let after = Store::manifest_parts(&fixture.store, again.agent_id)
        .await
        .unwrap();
    assert_eq!(after.apps[0].id, before.apps[0].id);
    assert_eq!(after.apps[0].health, "healthy", "a runtime column is left");
    assert_eq!(
        after.apps[1].slug, "emacs",
        "a vanished entry goes and a new one comes"
    );
    let ids = |parts: &crate::store::ManifestParts| {
        parts
            .scripts
            .iter()
            .map(|script| (script.id, script.log_source_id))
            .collect::<Vec<_>>()
    };
    assert_eq!(ids(&after), ids(&before));
    assert_eq!(after.devcontainers[0].id, before.devcontainers[0].id);
    assert_eq!(
        fixture
            .value("SELECT lifecycle_state || logs_length FROM workspace_agents")
            .await,
        "ready7"
    );
    assert_eq!(
        fixture
            .value("SELECT value FROM workspace_agent_metadata WHERE key = 'cpu'")
            .await,
        "5%"
    );
    assert_eq!(
        fixture.value("SELECT directory FROM workspace_agents").await,
        "/srv"
    );
    assert_eq!(
        fixture
            .value("SELECT CAST(count(*) AS TEXT) FROM workspace_builds")
            .await,
        "1"
    );
}

#[tokio::test]
async fn a_given_token_replaces_the_stored_one_unless_another_agent_holds_it() {
    let fixture = Fixture::new().await;
    let token = Uuid::from_u128(42);
    let given = EXAMPLE.replacen("token: null", &format!("token: {token}"), 1);
    assert_eq!(*seed(&fixture.store, &given).await.token.reveal(), token);
    assert!(
        Store::authenticate(&fixture.store, &fixture.agent.token)
            .await
            .unwrap()
            .is_none()
    );

    let other = Seed::parse("seed.yaml", &given.replacen("name: dev", "name: other", 1)).unwrap();
    let error = Store::seed(&fixture.store, &other, NOW)
        .await
        .unwrap_err()
        .to_string();
    assert_eq!(error, "the token of agent \"main\" belongs to another agent");
    let workspaces = fixture
        .value("SELECT CAST(count(*) AS TEXT) FROM workspaces")
        .await;
    assert_eq!(workspaces, "1", "a refused file changes nothing");
}

#[tokio::test]
async fn seeding_under_the_name_of_a_sub_agent_is_refused() {
    let fixture = Fixture::new().await;
    fixture
        .execute("UPDATE workspace_agents SET parent_id = id")
        .await;
    let seed = Seed::parse("seed.yaml", EXAMPLE).unwrap();
    let error = Store::seed(&fixture.store, &seed, NOW).await.unwrap_err();
    assert!(error.is_violation(Violation::AgentNameTaken));
    assert_eq!(
        error.to_string(),
        "workspace agent name \"main\" already exists in this workspace build"
    );
}

#[tokio::test]
async fn a_server_on_the_same_file_learns_of_a_seed() {
    let fixture = Fixture::new().await;
    let server = open(fixture.directory.path()).await;
    assert_eq!(
        Store::take_events(&server).await.unwrap(),
        [],
        "what happened before is no news"
    );
    seed(&fixture.store, EXAMPLE).await;
    let events = Store::take_events(&server).await.unwrap();
    let channels: Vec<_> = events.iter().map(|event| event.channel.as_str()).collect();
    assert_eq!(&channels[..2], ["drpcd_events", "drpcd_events"]);
    assert!(channels[2].starts_with("workspace_owner:"), "{channels:?}");
    assert_eq!(events[0].payload, r#"{"kind":"banners"}"#);
    assert_eq!(
        events[1].payload,
        format!(r#"{{"kind":"agent","agent_id":"{}"}}"#, fixture.agent.agent_id)
    );
    assert_eq!(Store::take_events(&server).await.unwrap(), []);
    Store::prune_events(&server, after(1)).await.unwrap();
    assert_eq!(
        fixture
            .value("SELECT CAST(count(*) AS TEXT) FROM drpcd_events")
            .await,
        "0"
    );
}

#[tokio::test]
async fn conn_020_a_deleted_workspace_has_no_agents() {
    let fixture = Fixture::new().await;
    assert!(fixture.eligible().await);
    fixture.execute("UPDATE workspaces SET deleted = 1").await;
    assert!(!fixture.eligible().await);
}

#[tokio::test]
async fn conn_021_to_025_and_027_only_the_latest_build_or_one_being_stopped() {
    let stopping = [(true, false), (false, false)];
    for (started, completed) in stopping {
        let fixture = Fixture::new().await;
        fixture.add_build(2, "stop", started, completed, None).await;
        assert!(
            fixture.eligible().await,
            "conn_022: a stop build that is pending or running"
        );
    }
    let fixture = Fixture::new().await;
    fixture.add_build(2, "start", true, false, None).await;
    assert!(!fixture.eligible().await, "conn_021: a newer start build");

    let fixture = Fixture::new().await;
    fixture.add_build(2, "stop", true, true, None).await;
    assert!(!fixture.eligible().await, "conn_023: a stop build that succeeded");

    let fixture = Fixture::new().await;
    fixture
        .execute("UPDATE provisioner_jobs SET error = 'failed'")
        .await;
    assert!(
        fixture.eligible().await,
        "the state of the latest build's job is not asked"
    );
    fixture.add_build(2, "stop", true, false, None).await;
    assert!(!fixture.eligible().await, "conn_024: a start build that failed");

    let fixture = Fixture::new().await;
    fixture.add_build(2, "stop", true, true, None).await;
    fixture.add_build(3, "stop", true, false, None).await;
    assert!(
        !fixture.eligible().await,
        "conn_025: not the build directly before"
    );

    let fixture = Fixture::new().await;
    fixture
        .execute("UPDATE provisioner_jobs SET completed_at = NULL")
        .await;
    assert!(
        fixture.eligible().await,
        "conn_027: the latest build's job is still running"
    );
}

#[tokio::test]
async fn an_agent_that_is_deleted_may_not_connect() {
    let fixture = Fixture::new().await;
    fixture.execute("UPDATE workspace_agents SET deleted = 1").await;
    assert!(
        Store::authenticate(&fixture.store, &fixture.agent.token)
            .await
            .unwrap()
            .is_none()
    );
    assert_eq!(
        Store::agent(&fixture.store, fixture.agent.agent_id).await,
        Err(StoreError::NoRows)
    );
    let unknown = BuildId(Uuid::new_v4());
    assert_eq!(
        Store::outdated_builds(&fixture.store, &[unknown]).await.unwrap(),
        [unknown]
    );
}

#[tokio::test]
async fn conn_028_and_029_times_of_the_first_and_of_later_connections() {
    let fixture = Fixture::new().await;
    let replica = ReplicaId::random();
    let store = &fixture.store;
    Store::record_connects(store, replica, &fixture.change(1))
        .await
        .unwrap();
    assert_eq!(fixture.times().await, (micros(1), micros(1), None));
    Store::record_heartbeats(store, replica, &[fixture.agent.agent_id], after(15))
        .await
        .unwrap();
    assert_eq!(fixture.times().await, (micros(1), micros(15), None));
    Store::record_disconnects(store, replica, &fixture.change(20))
        .await
        .unwrap();
    assert_eq!(fixture.times().await, (micros(1), micros(15), micros(20)));
    Store::record_connects(store, replica, &fixture.change(20))
        .await
        .unwrap();
    let next = micros(20).map(|at| at + 1);
    assert_eq!(
        fixture.times().await,
        (micros(1), next, micros(20)),
        "strictly after the old disconnect"
    );
}

#[tokio::test]
async fn conn_036_a_disconnect_of_another_replica_is_not_written() {
    let fixture = Fixture::new().await;
    let (old, new) = (ReplicaId::random(), ReplicaId::random());
    Store::record_connects(&fixture.store, old, &fixture.change(1))
        .await
        .unwrap();
    Store::record_connects(&fixture.store, new, &fixture.change(2))
        .await
        .unwrap();
    Store::record_disconnects(&fixture.store, old, &fixture.change(3))
        .await
        .unwrap();
    assert_eq!(fixture.times().await, (micros(1), micros(2), None));
    Store::record_disconnects(&fixture.store, new, &fixture.change(1))
        .await
        .unwrap();
    assert_eq!(
        fixture.times().await.2,
        micros(2),
        "never before the last sign of life"
    );
}

#[tokio::test]
async fn lifecycle_and_startup_are_decided_by_the_statement() {
    let fixture = Fixture::new().await;
    let id = fixture.agent.agent_id;
    let update = |state, seconds| LifecycleUpdate {
        state,
        changed_at: after(seconds),
    };
    let steps = [
        (LifecycleState::Starting, 1, (micros(1), None)),
        (LifecycleState::Ready, 2, (micros(1), micros(2))),
        (LifecycleState::ShuttingDown, 3, (micros(1), micros(2))),
        (LifecycleState::Starting, 4, (micros(4), None)),
        (LifecycleState::StartError, 5, (micros(4), micros(5))),
    ];
    for (state, seconds, expected) in steps {
        Store::update_lifecycle(&fixture.store, id, &update(state, seconds), NOW)
            .await
            .unwrap();
        let row = sqlx::query("SELECT started_at, ready_at, lifecycle_state FROM workspace_agents");
        let row = row.fetch_one(&fixture.store.writer).await.unwrap();
        assert_eq!((row.get(0), row.get(1)), expected, "{state:?}");
        assert_eq!(row.get::<String, _>(2), state.as_str());
    }
    let startup = StartupUpdate {
        version: "v2.31.0".into(),
        expanded_directory: "/home/ada/src".into(),
        subsystems: vec![Subsystem::Envbox, Subsystem::Exectrace],
        api_version: "2.8".into(),
    };
    Store::update_startup(&fixture.store, id, &startup, NOW)
        .await
        .unwrap();
    assert_eq!(
        fixture.value("SELECT subsystems FROM workspace_agents").await,
        r#"["envbox","exectrace"]"#
    );
    let nobody = AgentId::random();
    assert_eq!(
        Store::update_startup(&fixture.store, nobody, &startup, NOW).await,
        Err(StoreError::NoRows)
    );
    let ready = update(LifecycleState::Ready, 1);
    assert_eq!(
        Store::update_lifecycle(&fixture.store, nobody, &ready, NOW).await,
        Err(StoreError::NoRows)
    );
}

#[tokio::test]
async fn s2_048_the_log_limit_is_inclusive_and_refuses_whole_batches() {
    let fixture = Fixture::new().await;
    fixture
        .execute("UPDATE workspace_agents SET logs_length = 1048570")
        .await;
    let stored = Store::insert_logs(&fixture.store, &fixture.batch(&["123456"]))
        .await
        .unwrap();
    assert_eq!(
        stored,
        LogsInserted::Stored {
            first_id: 1,
            previous_length: 1_048_570
        }
    );
    let error = Store::insert_logs(&fixture.store, &fixture.batch(&["", "x"]))
        .await
        .unwrap_err();
    assert!(error.is_violation(Violation::MaxLogsLength), "{error:?}");
    assert_eq!(
        fixture
            .value("SELECT count(*) || ' ' || max(logs_length) FROM workspace_agent_logs, workspace_agents")
            .await,
        "1 1048576"
    );

    Store::set_logs_overflowed(&fixture.store, fixture.agent.agent_id)
        .await
        .unwrap();
    let after = Store::insert_logs(&fixture.store, &fixture.batch(&["y"]))
        .await
        .unwrap();
    assert_eq!(after, LogsInserted::AlreadyOverflowed);
    let mut nobody = fixture.batch(&["z"]);
    nobody.agent_id = AgentId::random();
    assert_eq!(
        Store::insert_logs(&fixture.store, &nobody).await,
        Err(StoreError::NoRows)
    );
}

#[tokio::test]
async fn s2_049_a_line_is_cut_at_1024_characters_and_order_is_kept() {
    let fixture = Fixture::new().await;
    let long = "é".repeat(3_000);
    let batch = fixture.batch(&[&long, "second", "third"]);
    let stored = Store::insert_logs(&fixture.store, &batch).await.unwrap();
    assert_eq!(
        stored,
        LogsInserted::Stored {
            first_id: 1,
            previous_length: 0
        }
    );
    let lines = fixture.value(
        "SELECT group_concat(length(output), ',') FROM (SELECT output FROM workspace_agent_logs ORDER BY id)",
    );
    assert_eq!(lines.await, "1024,6,5");
    assert_eq!(
        fixture
            .value("SELECT CAST(logs_length AS TEXT) FROM workspace_agents")
            .await,
        "6011"
    );
}

#[tokio::test]
async fn a_log_source_is_added_once() {
    let fixture = Fixture::new().await;
    let source = LogSource {
        agent_id: fixture.agent.agent_id,
        id: LogSourceId::random(),
        created_at: NOW,
        display_name: "External".into(),
        icon: "/emojis/1f310.png".into(),
    };
    Store::insert_log_source(&fixture.store, &source).await.unwrap();
    let error = Store::insert_log_source(&fixture.store, &source)
        .await
        .unwrap_err();
    assert!(error.is_violation(Violation::LogSourceExists), "{error:?}");
}

#[tokio::test]
async fn metadata_values_of_unknown_items_are_ignored() {
    let fixture = Fixture::new().await;
    let value = |key: &str, agent_id| MetadataValue {
        agent_id,
        key: key.into(),
        value: "5%".into(),
        error: "\"quoted\" é".into(),
        collected_at: NOW,
    };
    let id = fixture.agent.agent_id;
    let values = [
        value("cpu", id),
        value("unknown", id),
        value("cpu", AgentId::random()),
    ];
    Store::update_metadata(&fixture.store, &values).await.unwrap();
    let stored = "SELECT group_concat(key || '=' || value || ' ' || error, ';') FROM workspace_agent_metadata WHERE value <> ''";
    assert_eq!(fixture.value(stored).await, "cpu=5% \"quoted\" é");
}

#[tokio::test]
async fn statements_are_counted_by_name() {
    let fixture = Fixture::new().await;
    let count = |name| {
        fixture
            .store
            .statements()
            .into_iter()
            .find(|(other, _)| *other == name)
            .unwrap()
            .1
    };
    assert_eq!(count("authenticate"), 0);
    Store::authenticate(&fixture.store, &fixture.agent.token)
        .await
        .unwrap();
    assert_eq!(count("authenticate"), 1);
}

#[tokio::test]
async fn a_full_disk_is_a_store_that_is_away() {
    let fixture = Fixture::new().await;
    fixture.execute("PRAGMA max_page_count = 1").await;
    let line = "x".repeat(1_000);
    let lines = vec![line.as_str(); 900];
    let error = Store::insert_logs(&fixture.store, &fixture.batch(&lines))
        .await
        .unwrap_err();
    assert!(error.is_unavailable(), "{error:?}");
    fixture.execute("PRAGMA max_page_count = 100000").await;
    Store::insert_logs(&fixture.store, &fixture.batch(&lines))
        .await
        .unwrap();
}

#[tokio::test]
async fn a_file_of_a_newer_schema_is_refused_by_name() {
    let fixture = Fixture::new().await;
    fixture.execute("PRAGMA user_version = 99").await;
    Store::close(&fixture.store).await;
    let error = SqliteStore::open(fixture.directory.path(), Durability::Process)
        .await
        .unwrap_err()
        .to_string();
    assert!(error.contains("drpcd.db has schema version 99"), "{error}");
}

#[tokio::test]
async fn what_is_no_database_is_refused_by_name() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(
        directory.path().join("drpcd.db"),
        "not a database, but long enough to look like one".repeat(100),
    )
    .unwrap();
    let error = SqliteStore::open(directory.path(), Durability::Process)
        .await
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("drpcd.db: ") && error.contains("not a database"),
        "{error}"
    );
}

#[tokio::test]
async fn the_file_is_readable_by_its_owner_only() {
    use std::os::unix::fs::PermissionsExt;
    let fixture = Fixture::new().await;
    for name in ["drpcd.db", "drpcd.db-wal"] {
        let mode = std::fs::metadata(fixture.directory.path().join(name))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o077, 0, "{name}");
    }
}
