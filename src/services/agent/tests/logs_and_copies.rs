//! Logs, monitors, and copies of rows.

use super::*;
use crate::ids::AgentId;
use crate::pubsub::Lagged;
use crate::store::Invalidation;

fn logs(source: &[u8], lines: &[(&str, i32)]) -> proto::BatchCreateLogsRequest {
    let log = |&(output, level): &(&str, i32)| proto::Log {
        created_at: at(1),
        output: output.into(),
        level,
    };
    proto::BatchCreateLogsRequest {
        log_source_id: source.to_vec(),
        logs: lines.iter().map(log).collect(),
    }
}

#[tokio::test]
async fn s2_034_and_035_lines_are_stored_in_order_and_told_of() {
    let fixture = Fixture::new().await;
    let api = fixture.connect().await;
    let mut events = fixture.events().await;
    let mut log = fixture
        .pubsub
        .subscribe(&format!("agent-logs:{}", api.agent_id()));
    let lines = [
        ("trace", 1),
        ("debug", 2),
        ("info", 3),
        ("warn", 4),
        ("error", 5),
        ("other", -999),
    ];
    let reply = api.batch_create_logs(logs(&[7; 16], &lines)).await.unwrap();
    assert!(!reply.log_limit_exceeded);
    let rows = "SELECT output, level FROM workspace_agent_logs ORDER BY id";
    let expected = "trace trace,debug debug,info info,warn warn,error error,other info";
    assert_eq!(fixture.value(rows).await, expected);
    let fixed = "SELECT count(DISTINCT l.created_at), max(a.logs_length) FROM workspace_agent_logs AS l, workspace_agents AS a";
    assert_eq!(fixture.value(fixed).await, "1 28");
    assert_eq!(&*log.try_next().unwrap().unwrap(), r#"{"created_after":0}"#);
    assert_eq!(kinds(&mut events), ["agt_first_logs"]);

    api.batch_create_logs(logs(&[7; 16], &[("more", 3)]))
        .await
        .unwrap();
    assert_eq!(&*log.try_next().unwrap().unwrap(), r#"{"created_after":6}"#);
    assert_eq!(
        kinds(&mut events),
        [""; 0],
        "s2_035: only the first lines are an event"
    );
    assert_eq!(fixture.store.calls("agent"), 0);
}

#[tokio::test(start_paused = true)]
async fn the_first_lines_are_an_event_also_when_the_answer_was_lost_that_they_are_stored() {
    let fixture = Fixture::patient(EXAMPLE, config(), Duration::from_mins(1)).await;
    let api = fixture.connect().await;
    let mut events = fixture.events().await;
    fixture.store.lose_answer("insert_logs", away());
    api.batch_create_logs(logs(&[7; 16], &[("first", 3)]))
        .await
        .unwrap();
    assert_eq!(fixture.store.calls("insert_logs"), 2);
    assert_eq!(kinds(&mut events), ["agt_first_logs"]);
    api.batch_create_logs(logs(&[7; 16], &[("more", 3)]))
        .await
        .unwrap();
    assert_eq!(kinds(&mut events), [""; 0]);
}

#[tokio::test]
async fn s2_036_to_038_what_costs_no_write() {
    let fixture = Fixture::new().await;
    let api = fixture.connect().await;
    assert!(
        !api.batch_create_logs(logs(b"bad", &[]))
            .await
            .unwrap()
            .log_limit_exceeded,
        "s2_038"
    );
    api.session.set_logs_overflowed();
    for request in [logs(&[0; 16], &[]), logs(b"bad", &[("x", 3)])] {
        assert!(api.batch_create_logs(request).await.unwrap().log_limit_exceeded);
    }
    assert_eq!(
        fixture.store.calls("insert_logs") + fixture.store.calls("insert_log_source"),
        0
    );
}

#[tokio::test]
async fn s2_039_and_040_a_source_is_sixteen_bytes() {
    let fixture = Fixture::new().await;
    let api = fixture.connect().await;
    let error = api
        .batch_create_logs(logs(b"invalid", &[("x", 3)]))
        .await
        .unwrap_err();
    assert_eq!(
        error.text(),
        "parse log source ID \"invalid\": invalid UUID (got 7 bytes)"
    );
    let error = api.batch_create_logs(logs(b"", &[("x", 3)])).await.unwrap_err();
    assert_eq!(
        error.text(),
        "parse log source ID \"\": invalid UUID (got 0 bytes)"
    );
}

// covers: s2_047, as nobody follows the channels here
#[tokio::test]
async fn s2_041_to_043_lines_without_a_source_get_the_external_one() {
    let fixture = Fixture::new().await;
    let api = fixture.connect().await;
    for _ in 0..2 {
        api.batch_create_logs(logs(&[0; 16], &[("x", 3)])).await.unwrap();
    }
    let rows = "SELECT display_name, icon, id, (SELECT count(*)
        FROM workspace_agent_logs WHERE log_source_id = workspace_agent_log_sources.id)
        FROM workspace_agent_log_sources WHERE display_name = 'External'";
    let expected = "External /emojis/1f310.png 3b579bf41ed84b9987a8e9a1e3410410 2";
    assert_eq!(fixture.value(rows).await, expected);
    assert_eq!(fixture.store.calls("insert_log_source"), 1, "once per session");
    let again = fixture.connect().await;
    again
        .batch_create_logs(logs(&[0; 16], &[("x", 3)]))
        .await
        .unwrap();
    assert_eq!(fixture.store.calls("insert_log_source"), 2, "s2_042: it exists");

    fixture.store.fail("insert_log_source", away());
    let api = fixture.connect().await;
    let error = api
        .batch_create_logs(logs(&[0; 16], &[("x", 3)]))
        .await
        .unwrap_err();
    assert_eq!(
        error.text(),
        "insert external workspace agent log source: database is locked"
    );
}

#[tokio::test]
async fn s2_044_to_046_and_048_the_limit_is_sticky() {
    let fixture = Fixture::new().await;
    let api = fixture.connect().await;
    let mut events = fixture.events().await;
    fixture
        .store
        .query("UPDATE workspace_agents SET logs_length = 1048570")
        .await;
    let exceeded = async |line: &str| {
        api.batch_create_logs(logs(&[7; 16], &[(line, 3)]))
            .await
            .unwrap()
            .log_limit_exceeded
    };
    assert!(!exceeded("12345").await, "a byte below the limit");
    assert!(!exceeded("6").await, "up to the limit");
    fixture.store.fail("set_logs_overflowed", away());
    assert!(exceeded("x").await, "s2_045: marking it may fail");
    assert_eq!(kinds(&mut events), ["agt_logs_overflow"]);
    assert_eq!(
        fixture.value("SELECT count(*) FROM workspace_agent_logs").await,
        "2"
    );
    assert!(exceeded("").await);

    fixture.store.mend("set_logs_overflowed");
    let other = fixture.connect().await;
    let reply = other
        .batch_create_logs(logs(&[7; 16], &[("yy", 3)]))
        .await
        .unwrap();
    assert!(reply.log_limit_exceeded);
    assert_eq!(
        fixture
            .value("SELECT logs_overflowed FROM workspace_agents")
            .await,
        "1"
    );

    let third = fixture.connect().await;
    let before = fixture.store.calls("insert_logs");
    third
        .batch_create_logs(logs(&[7; 16], &[("z", 3)]))
        .await
        .unwrap();
    assert_eq!(
        fixture.store.calls("insert_logs"),
        before,
        "known from authentication"
    );
}

#[tokio::test]
async fn s2_046_other_failures_are_told() {
    let fixture = Fixture::new().await;
    let api = fixture.connect().await;
    fixture.store.fail("insert_logs", away());
    let error = api
        .batch_create_logs(logs(&[7; 16], &[("x", 3)]))
        .await
        .unwrap_err();
    assert_eq!(error.text(), "insert workspace agent logs: database is locked");
}

#[tokio::test]
async fn s2_049_and_050_long_lines_are_cut_and_nul_is_replaced_before_lengths_count() {
    let fixture = Fixture::new().await;
    let api = fixture.connect().await;
    let long = "x".repeat(3_000);
    api.batch_create_logs(logs(&[7; 16], &[(&long, 3), ("a\0b", 3)]))
        .await
        .unwrap();
    let rows = "SELECT length(output), CASE WHEN length(output) < 9 THEN output ELSE '' END FROM workspace_agent_logs ORDER BY id";
    assert_eq!(fixture.value(rows).await, "1024 ,3 a❌b");
    assert_eq!(
        fixture.value("SELECT logs_length FROM workspace_agents").await,
        "3005"
    );
}

#[tokio::test]
async fn s2_001_to_005_monitors_are_read_at_connection_and_answered_from_memory() {
    let fixture = Fixture::new().await;
    let api = fixture.connect().await;
    fixture.store.fail("monitors", away());
    for _ in 0..2 {
        let request = proto::GetResourcesMonitoringConfigurationRequest {};
        let reply = api.get_resources_monitoring_configuration(request).await.unwrap();
        let config = reply.config.unwrap();
        assert_eq!(
            (config.num_datapoints, config.collection_interval_seconds),
            (20, 10)
        );
        assert!(reply.memory.unwrap().enabled);
        assert_eq!(reply.volumes[0].path, "/home");
    }
    assert_eq!(fixture.store.calls("monitors"), 1);
    let authenticated = fixture.store.authenticate(&fixture.token).await.unwrap().unwrap();
    let error = fixture
        .services
        .begin(authenticated, "2.8".into(), fixture.services.heard())
        .await;
    assert_eq!(
        error.unwrap_err().to_string(),
        format!(
            "initialize resource monitoring: fetch memory resource monitor: {}",
            away()
        )
    );

    let monitorless = EXAMPLE.replacen(
        "resources_monitoring:",
        "resources_monitoring: {}\n    x-unused:",
        1,
    );
    let cut = monitorless.find("    x-unused:").unwrap();
    let rest = monitorless.find("    devcontainers:").unwrap();
    let text = format!("{}{}", &monitorless[..cut], &monitorless[rest..]);
    let fixture = Fixture::with(&text, config()).await;
    let request = proto::GetResourcesMonitoringConfigurationRequest {};
    let reply = fixture
        .connect()
        .await
        .get_resources_monitoring_configuration(request)
        .await
        .unwrap();
    assert!(
        reply.config.is_some() && reply.memory.is_none() && reply.volumes.is_empty(),
        "s2_001"
    );
}

#[tokio::test]
async fn s1_089_to_093_copies_of_workspaces_follow_the_store_on_one_tick_for_all() {
    let fixture = Fixture::new().await;
    let (one, two) = (fixture.connect().await, fixture.connect().await);
    assert_eq!(one.session.cached_workspace().unwrap().name, "dev");
    fixture
        .store
        .query("UPDATE workspaces SET name = 'renamed', autostart_schedule = 'CRON_TZ=UTC 0 8 * * *'")
        .await;
    fixture.store.fail("workspaces", away());
    fixture.services.refresh_workspaces().await;
    assert_eq!(one.session.cached_workspace().unwrap().name, "dev", "s1_092");
    fixture.store.mend("workspaces");
    fixture.services.refresh_workspaces().await;
    for api in [&one, &two] {
        let workspace = api.session.cached_workspace().unwrap();
        assert_eq!(workspace.name, "renamed", "s1_090");
        assert_eq!(
            workspace.autostart_schedule.as_deref(),
            Some("CRON_TZ=UTC 0 8 * * *")
        );
    }
    assert_eq!(
        fixture.store.calls("workspaces"),
        2,
        "one statement for all sessions"
    );
    drop((one, two));
    assert!(fixture.services.list().live.is_empty(), "s1_093");
}

#[tokio::test]
async fn s1_091_a_claimed_prebuild_is_cached_from_the_next_refresh_on() {
    let fixture = Fixture::with(
        &EXAMPLE.replacen("username: ada", "username: prebuilds", 1),
        config(),
    )
    .await;
    let api = fixture.connect().await;
    fixture.services.refresh_workspaces().await;
    assert!(api.session.cached_workspace().is_none());
    let claim = "INSERT INTO users (id, email, username, name, created_at, updated_at, status)
        SELECT x'00000000000000000000000000000009', 'b@example.com', 'bob', '', 1, 1, 'active'";
    fixture.store.query(claim).await;
    fixture
        .store
        .query("UPDATE workspaces SET owner_id = x'00000000000000000000000000000009'")
        .await;
    fixture.services.refresh_workspaces().await;
    assert_eq!(api.session.cached_workspace().unwrap().owner_username, "bob");
}

#[tokio::test]
async fn an_empty_batch_of_a_deleted_agent_is_refused_once_its_copy_is_gone() {
    let fixture = Fixture::new().await;
    let api = fixture.connect().await;
    fixture
        .store
        .query("UPDATE workspace_agents SET deleted = 1")
        .await;
    api.session.drop_copies();
    let expected = format!(
        "get workspace agent by id \"{}\": sql: no rows in result set",
        api.agent_id()
    );
    for request in [logs(&[7; 16], &[]), logs(&[7; 16], &[("x", 3)])] {
        assert_eq!(api.batch_create_logs(request).await.unwrap_err().text(), expected);
    }
}

#[tokio::test]
async fn a_batch_has_a_bounded_number_of_lines() {
    let fixture = Fixture::new().await;
    let api = fixture.connect().await;
    let lines = |count| logs(&[7; 16], &vec![("", 3); count]);
    let error = api.batch_create_logs(lines(65_537)).await.unwrap_err();
    assert_eq!(error.text(), "65537 log lines in one request exceed 65536");
    assert_eq!(fixture.store.calls("insert_logs"), 0);
}

#[tokio::test]
async fn a_row_read_before_an_invalidation_is_not_kept_after_it() {
    let fixture = Fixture::new().await;
    let api = fixture.connect().await;
    api.session.drop_copies();
    let mut reading = Box::pin(api.agent());
    assert!(futures_util::poll!(&mut reading).is_pending());
    api.session.drop_copies();
    reading.await.unwrap();
    api.agent().await.unwrap();
    api.agent().await.unwrap();
    assert_eq!(fixture.store.calls("agent"), 2);
}

#[tokio::test]
async fn a_workspace_is_read_once_after_an_invalidation_and_by_its_own_agents_only() {
    let fixture = Fixture::new().await;
    let api = fixture.connect().await;
    fixture
        .store
        .query("UPDATE workspaces SET name = 'renamed'")
        .await;
    let name = async || {
        let request = proto::GetManifestRequest {};
        api.get_manifest(request).await.unwrap().workspace_name
    };
    let agent_id = AgentId::random();
    fixture
        .services
        .invalidate(Invalidation::Agent { agent_id })
        .await;
    assert_eq!(name().await, "dev", "another agent's");
    let agent_id = api.agent_id();
    fixture
        .services
        .invalidate(Invalidation::Token { agent_id })
        .await;
    assert_eq!(name().await, "renamed");
    assert_eq!(name().await, "renamed");
    assert_eq!(fixture.store.calls("workspace_by_agent"), 1);
}

#[tokio::test]
async fn a_session_that_begins_with_rows_from_before_an_event_reads_them_again() {
    let fixture = Fixture::new().await;
    let agent_id = fixture.connect().await.agent_id();
    let another = AgentId::random();
    let mut reads = 0;
    for (event, concerned) in [
        (Ok(Invalidation::Token { agent_id }), 1),
        (Ok(Invalidation::Agent { agent_id }), 1),
        (Ok(Invalidation::Agent { agent_id: another }), 0),
        (Ok(Invalidation::Banners), 0),
        (Err(Lagged), 1),
    ] {
        let heard = fixture.services.heard();
        let authenticated = fixture.store.authenticate(&fixture.token).await.unwrap().unwrap();
        fixture.services.on_message(event).await;
        let services = &fixture.services;
        let api = services.begin(authenticated, "2.8".into(), heard).await.unwrap();
        for _ in 0..2 {
            api.agent().await.unwrap();
        }
        reads += concerned;
        assert_eq!(fixture.store.calls("agent"), reads, "{event:?}");
    }
}

#[tokio::test]
async fn missed_events_drop_every_copy() {
    let fixture = Fixture::new().await;
    let api = fixture.connect().await;
    fixture.services.on_message(Err(Lagged)).await;
    api.agent().await.unwrap();
    assert_eq!(fixture.store.calls("agent"), 1);
    assert_eq!(fixture.store.calls("site_config"), 1);
}

#[tokio::test]
async fn an_invalidation_makes_the_next_use_read_again() {
    let fixture = Fixture::new().await;
    let api = fixture.connect().await;
    fixture
        .store
        .query("UPDATE workspace_agents SET directory = '/changed'")
        .await;
    let directory = async || {
        api.get_manifest(proto::GetManifestRequest {})
            .await
            .unwrap()
            .directory
    };
    assert_eq!(directory().await, "~/src");
    let invalidation = Invalidation::Agent {
        agent_id: api.agent_id(),
    };
    fixture.services.invalidate(invalidation).await;
    assert_eq!(directory().await, "/changed");
    assert_eq!(directory().await, "/changed");
    assert_eq!(fixture.store.calls("agent"), 1);
}
