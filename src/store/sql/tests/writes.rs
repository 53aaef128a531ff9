//! What agents report: startup, lifecycle, logs, statistics, metadata.

use super::{EXAMPLE, Kit, NOW, SMALL, at};
use crate::ids::{AgentId, LogSourceId, TemplateId, UserId, WorkspaceId};
use crate::store::{
    AgentStat, LifecycleState, LifecycleUpdate, LogBatch, LogLevel, LogLine, LogSource, LogsInserted,
    MetadataValue, StartupUpdate, Store, StoreError, Subsystem, Violation,
};

#[tokio::test]
async fn startup_writes_its_four_columns_and_no_other() {
    let (mut kit, agents) = Kit::seeded(SMALL).await;
    let update = StartupUpdate {
        version: "v2.31.0".to_owned(),
        expanded_directory: "/home/ada/src".to_owned(),
        subsystems: vec![Subsystem::Envbox, Subsystem::Exectrace],
        api_version: "2.8".to_owned(),
    };
    kit.store
        .update_startup(agents[0].agent_id, &update)
        .await
        .unwrap();
    let columns = "version, expanded_directory, subsystems, api_version, updated_at";
    assert_eq!(
        kit.table(&format!("SELECT {columns} FROM workspace_agents"))
            .await,
        [format!(
            "v2.31.0|/home/ada/src|[\"envbox\",\"exectrace\"]|2.8|{}",
            NOW.as_micros()
        )]
    );
    let long = StartupUpdate {
        expanded_directory: "x".repeat(4_097),
        ..update.clone()
    };
    let error = kit
        .store
        .update_startup(agents[0].agent_id, &long)
        .await
        .unwrap_err();
    assert!(error.is_violation(Violation::Other), "{error:?}");
    assert!(!error.to_string().contains("xxx"), "{error}");
    let nobody = kit.store.update_startup(AgentId::random(), &update).await;
    assert_eq!(nobody, Err(StoreError::NoRows));
    kit.sql("UPDATE workspace_agents SET deleted = 1").await;
    assert_eq!(
        kit.store.update_startup(agents[0].agent_id, &update).await,
        Err(StoreError::NoRows)
    );
}

#[tokio::test]
async fn lifecycle_times_follow_the_state_by_one_statement() {
    use LifecycleState::{Created, Off, Ready, ShuttingDown, StartError, StartTimeout, Starting};
    let (mut kit, agents) = Kit::seeded(SMALL).await;
    let agent = agents[0].agent_id;
    for (second, state, started, ready) in [
        (1, Created, None, None),
        // Ready without starting sets both.
        (2, Ready, Some(2), Some(2)),
        (3, StartError, Some(2), Some(3)),
        // s1: a restart clears ready_at.
        (4, Starting, Some(4), None),
        (5, ShuttingDown, Some(4), None),
        (6, StartTimeout, Some(4), Some(6)),
        (7, Off, Some(4), Some(6)),
    ] {
        let update = LifecycleUpdate {
            state,
            changed_at: at(second),
        };
        kit.store.update_lifecycle(agent, &update).await.unwrap();
        assert_eq!(kit.time("started_at", agent).await, started.map(at), "{state:?}");
        assert_eq!(kit.time("ready_at", agent).await, ready.map(at), "{state:?}");
        assert_eq!(
            kit.table("SELECT lifecycle_state FROM workspace_agents").await,
            [state.as_str()]
        );
    }
    assert_eq!(kit.ran("update_lifecycle"), 7);
    assert_eq!(kit.ran("agent_by_id"), 0);
    let update = LifecycleUpdate {
        state: Ready,
        changed_at: NOW,
    };
    assert_eq!(
        kit.store.update_lifecycle(AgentId::random(), &update).await,
        Err(StoreError::NoRows)
    );
}

fn batch(agent_id: AgentId, lines: &[(&str, LogLevel)]) -> LogBatch {
    LogBatch {
        agent_id,
        source_id: LogSourceId(uuid::Uuid::from_u128(7)),
        created_at: at(3),
        output_length: i64::try_from(lines.iter().map(|(output, _)| output.len()).sum::<usize>()).unwrap(),
        lines: lines
            .iter()
            .map(|(output, level)| LogLine {
                output: (*output).to_owned(),
                level: *level,
            })
            .collect(),
    }
}

#[tokio::test]
async fn log_lines_keep_their_order_under_ascending_ids() {
    let (mut kit, agents) = Kit::seeded(SMALL).await;
    let agent = agents[0].agent_id;
    let first = batch(
        agent,
        &[("eins", LogLevel::Info), ("zwei \"2\"", LogLevel::Error)],
    );
    let second = batch(agent, &[("drei\n", LogLevel::Trace)]);
    let stored = kit.store.insert_logs(&first).await.unwrap();
    assert_eq!(
        stored,
        LogsInserted::Stored {
            first_id: 1,
            previous_length: 0
        }
    );
    let stored = kit.store.insert_logs(&second).await.unwrap();
    assert_eq!(
        stored,
        LogsInserted::Stored {
            first_id: 3,
            previous_length: 12
        }
    );
    let time = at(3).as_micros();
    assert_eq!(
        kit.table("SELECT id, level, output, created_at FROM workspace_agent_logs ORDER BY id")
            .await,
        [
            format!("1|info|eins|{time}"),
            format!("2|error|zwei \"2\"|{time}"),
            format!("3|trace|drei\n|{time}")
        ]
    );
    assert_eq!(kit.store.agent(agent).await.unwrap().logs_length, 17);
}

#[tokio::test]
async fn s2_048_the_log_limit_is_inclusive_and_stores_nothing_beyond_it() {
    let (mut kit, agents) = Kit::seeded(SMALL).await;
    let agent = agents[0].agent_id;
    kit.sql("UPDATE workspace_agents SET logs_length = 1048570").await;
    for (line, length) in [("sechs", 1_048_575), ("!", 1_048_576)] {
        kit.store
            .insert_logs(&batch(agent, &[(line, LogLevel::Info)]))
            .await
            .unwrap();
        assert_eq!(kit.store.agent(agent).await.unwrap().logs_length, length);
    }
    let error = kit
        .store
        .insert_logs(&batch(agent, &[("x", LogLevel::Info)]))
        .await
        .unwrap_err();
    assert!(error.is_violation(Violation::MaxLogsLength), "{error:?}");
    assert_eq!(kit.integer("SELECT count(*) FROM workspace_agent_logs").await, 2);
    assert_eq!(kit.store.agent(agent).await.unwrap().logs_length, 1_048_576);
    kit.store.set_logs_overflowed(agent).await.unwrap();
    let again = kit
        .store
        .insert_logs(&batch(agent, &[("", LogLevel::Info)]))
        .await
        .unwrap();
    assert_eq!(again, LogsInserted::AlreadyOverflowed);
    assert_eq!(kit.integer("SELECT count(*) FROM workspace_agent_logs").await, 2);
}

#[tokio::test]
async fn s2_049_a_long_line_is_cut_at_1024_characters_and_counted_whole() {
    let (mut kit, agents) = Kit::seeded(SMALL).await;
    let line = "é".repeat(3_000);
    kit.store
        .insert_logs(&batch(agents[0].agent_id, &[(&line, LogLevel::Info)]))
        .await
        .unwrap();
    assert_eq!(
        kit.integer("SELECT length(output) FROM workspace_agent_logs")
            .await,
        1_024
    );
    assert_eq!(
        kit.store.agent(agents[0].agent_id).await.unwrap().logs_length,
        6_000
    );
}

#[tokio::test]
async fn logs_of_an_absent_or_deleted_agent_are_no_rows() {
    let (mut kit, agents) = Kit::seeded(SMALL).await;
    let nobody = batch(AgentId::random(), &[("x", LogLevel::Info)]);
    assert_eq!(kit.store.insert_logs(&nobody).await, Err(StoreError::NoRows));
    kit.sql("UPDATE workspace_agents SET deleted = 1").await;
    let deleted = batch(agents[0].agent_id, &[("x", LogLevel::Info)]);
    assert_eq!(kit.store.insert_logs(&deleted).await, Err(StoreError::NoRows));
    assert_eq!(kit.integer("SELECT count(*) FROM workspace_agent_logs").await, 0);
}

#[tokio::test]
async fn s2_042_a_second_log_source_of_one_id_is_its_own_violation() {
    let (kit, agents) = Kit::seeded(SMALL).await;
    let source = LogSource {
        agent_id: agents[0].agent_id,
        id: LogSourceId::random(),
        created_at: NOW,
        display_name: "External".to_owned(),
        icon: "/emojis/1f310.png".to_owned(),
    };
    kit.store.insert_log_source(&source).await.unwrap();
    let error = kit.store.insert_log_source(&source).await.unwrap_err();
    assert!(error.is_violation(Violation::LogSourceExists), "{error:?}");
    let long = LogSource {
        id: LogSourceId::random(),
        display_name: "x".repeat(128),
        ..source
    };
    let error = kit.store.insert_log_source(&long).await.unwrap_err();
    assert!(error.is_violation(Violation::Other), "{error:?}");
}

fn stat(latency: f64) -> AgentStat {
    AgentStat {
        id: uuid::Uuid::new_v4(),
        created_at: at(1),
        user_id: UserId(uuid::Uuid::from_u128(1)),
        agent_id: AgentId(uuid::Uuid::from_u128(2)),
        workspace_id: WorkspaceId(uuid::Uuid::from_u128(3)),
        template_id: TemplateId(uuid::Uuid::from_u128(4)),
        connections_by_proto: r#"{"TCP":1}"#.to_owned(),
        connection_count: 5,
        rx_packets: 6,
        rx_bytes: i64::MAX,
        tx_packets: 8,
        tx_bytes: i64::MIN,
        connection_median_latency_ms: latency,
        session_count_vscode: 11,
        session_count_jetbrains: 12,
        session_count_reconnecting_pty: 13,
        session_count_ssh: 14,
        usage: true,
    }
}

#[tokio::test]
async fn a_statistics_row_keeps_every_column() {
    let mut kit = Kit::new().await;
    kit.store.insert_stats(&[stat(0.125)]).await.unwrap();
    let zeros = "0".repeat(31);
    assert_eq!(
        kit.table(
            "SELECT created_at, user_id, agent_id, workspace_id, template_id, connections_by_proto,
                connection_count, rx_packets, rx_bytes, tx_packets, tx_bytes, connection_median_latency_ms,
                session_count_vscode, session_count_jetbrains, session_count_reconnecting_pty,
                session_count_ssh, usage
            FROM workspace_agent_stats"
        )
        .await,
        [format!(
            "{}|{zeros}1|{zeros}2|{zeros}3|{zeros}4|{{\"TCP\":1}}|5|6|{}|8|{}|0.125|11|12|13|14|1",
            at(1).as_micros(),
            i64::MAX,
            i64::MIN
        )]
    );
}

#[tokio::test]
async fn a_latency_that_is_no_number_does_not_lose_the_batch() {
    let mut kit = Kit::new().await;
    let stats = [stat(f64::NAN), stat(f64::INFINITY), stat(3.5)];
    kit.store.insert_stats(&stats).await.unwrap();
    let latencies = "SELECT connection_median_latency_ms FROM workspace_agent_stats ORDER BY 1";
    assert_eq!(kit.table(latencies).await, ["-1", "-1", "3.5"]);
}

#[tokio::test]
async fn a_sample_whose_first_write_had_no_answer_is_stored_once() {
    let mut kit = Kit::new().await;
    let stats = [stat(1.0), stat(2.0)];
    kit.store.insert_stats(&stats[..1]).await.unwrap();
    kit.store.insert_stats(&stats).await.unwrap();
    let latencies = "SELECT connection_median_latency_ms FROM workspace_agent_stats ORDER BY 1";
    assert_eq!(kit.table(latencies).await, ["1", "2"]);
}

#[tokio::test]
async fn a_batch_is_one_statement_up_to_its_bound_and_whole_beyond_it() {
    let mut kit = Kit::new().await;
    let stats = |count| (0..count).map(|_| stat(1.0)).collect::<Vec<_>>();
    kit.store.insert_stats(&stats(2_000)).await.unwrap();
    assert_eq!(kit.ran("insert_stats"), 1);
    let mut broken = stats(2_001);
    broken[2_000].connections_by_proto = "not JSON".to_owned();
    let error = kit.store.insert_stats(&broken).await.unwrap_err();
    assert!(error.is_violation(Violation::Other), "{error:?}");
    assert_eq!(kit.ran("insert_stats"), 3);
    assert_eq!(
        kit.integer("SELECT count(*) FROM workspace_agent_stats").await,
        2_000
    );
    kit.store.insert_stats(&[]).await.unwrap();
    assert_eq!(kit.ran("insert_stats"), 3);
}

fn value(agent_id: AgentId, key: &str, value: &str) -> MetadataValue {
    MetadataValue {
        agent_id,
        key: key.to_owned(),
        value: value.to_owned(),
        error: String::new(),
        collected_at: at(9),
    }
}

#[tokio::test]
async fn metadata_values_are_one_statement_and_the_last_of_a_key_wins() {
    let (mut kit, agents) = Kit::seeded(EXAMPLE).await;
    let agent = agents[0].agent_id;
    let mut failed = value(agent, "mem", "");
    failed.error = "exit 1 \"é\"\n".to_owned();
    let values = [
        value(agent, "cpu", "1 %"),
        failed,
        value(agent, "unknown", "x"),
        value(AgentId::random(), "cpu", "x"),
        value(agent, "cpu", "2 %"),
    ];
    kit.store.update_metadata(&values).await.unwrap();
    assert_eq!(kit.ran("update_metadata"), 1);
    let time = at(9).as_micros();
    assert_eq!(
        kit.table("SELECT \"key\", value, error, collected_at FROM workspace_agent_metadata ORDER BY 1")
            .await,
        [format!("cpu|2 %||{time}"), format!("mem||exit 1 \"é\"\n|{time}")]
    );
}

#[tokio::test]
async fn of_the_tasks_of_a_workspace_the_newest_that_lives_is_an_apps() {
    let yaml = SMALL.replace(
        "name: main",
        "name: main, apps: [{ slug: code, display_name: Code }]",
    );
    let (mut kit, agents) = Kit::seeded(&yaml).await;
    let agent = agents[0].agent_id;
    let workspace = kit.store.workspace_by_agent(agent).await.unwrap().id;
    let task = async |kit: &Kit| {
        let before = kit
            .store
            .app_before_status(agent, workspace, "code")
            .await
            .unwrap();
        before.task.map(|task| task.name)
    };
    assert_eq!(task(&kit).await, None);
    // By when they were made: two that were deleted are the oldest and the newest.
    for (number, name, deleted) in [
        (1, "first", "1"),
        (2, "old", "NULL"),
        (3, "new", "NULL"),
        (4, "last", "1"),
    ] {
        kit.sql(&format!(
            "INSERT INTO tasks (id, organization_id, owner_id, name, workspace_id, template_version_id, prompt, created_at,
                deleted_at)
            SELECT x'{number:032x}', organization_id, owner_id, '{name}', workspaces.id,
                (SELECT id FROM template_versions), '', {number}, {deleted} FROM workspaces"
        ))
        .await;
    }
    assert_eq!(task(&kit).await.as_deref(), Some("new"));
    kit.sql("UPDATE tasks SET deleted_at = 1").await;
    assert_eq!(task(&kit).await, None);
}
