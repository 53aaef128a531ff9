//! The real binary against the libraries of real agents: storj.io/drpc, hashicorp/yamux and coder/websocket in Go.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(clippy::disallowed_methods, reason = "real peers keep real time")]

mod support;

use std::net::TcpListener;
use std::time::{Duration, Instant};

use drpcd::clock::{Clock, Timestamp};
use support::{Data, EXAMPLE_SEED, go};
use uuid::Uuid;

/// Skips the test where there is no Go.
macro_rules! go {
    ($($argument:expr),* $(,)?) => {
        match go($($argument),*) {
            Some(go) => go,
            None => return,
        }
    };
}

const LIFECYCLE: &str = "SELECT lifecycle_state FROM workspace_agents";

#[test]
fn conn_047_an_agent_becomes_ready_and_says_goodbye() {
    let data = Data::new(EXAMPLE_SEED);
    let server = data.serve(&[]);
    let mut agent = go!("agent", server.agent(), &["--duration", "1m"]);
    agent.await_line("lifecycle READY");
    data.await_status("connected");
    agent.terminate();
    let report = agent.result();
    data.await_status("disconnected");

    assert_eq!(
        report["lifecycle"].to_string(),
        r#"["STARTING","READY","SHUTTING_DOWN","OFF"]"#
    );
    // Two seconds, on a machine that has other things to do.
    assert!(
        report["steps_ms"]["ready"].as_i64().unwrap() < 8_000,
        "{report:#}"
    );
    assert_eq!(report["connections"], 1);
    assert_eq!(report["disconnect_ended"], true);
    for method in ["Coordinate", "StreamDERPMaps", "GetManifest", "UpdateStartup"] {
        assert_eq!(report["rpcs"][method]["calls"], 1, "{method}");
    }
    for (method, rpc) in report["rpcs"].as_object().unwrap() {
        let errors = rpc["errors"].as_array().unwrap();
        assert!(errors.is_empty(), "{method}: {errors:?}");
    }
    assert_eq!(data.value(LIFECYCLE), "off");
    assert_eq!(
        data.value("SELECT version, api_version FROM workspace_agents"),
        "v2.31.0 2.8"
    );
    let lines = data.query("SELECT output FROM workspace_agent_logs ORDER BY id");
    assert_eq!(lines, ["output of echo starting", "output of echo stopping"]);
    data.await_value(
        "SELECT count(*) FROM workspace_agent_metadata WHERE value <> ''",
        "2",
    );
    assert_eq!(server.stop(), Some(0));
}

#[test]
fn the_manifest_reaches_a_go_agent_whole() {
    let data = Data::new(EXAMPLE_SEED);
    let server = data.serve(&["--wildcard-access-url", "*.apps.example.com"]);
    let report = go!("agent", server.agent(), &["--stop-after-ready", "3s"]).result();
    let manifest = &report["manifest"];
    assert_eq!(manifest["agent_name"], "main");
    assert_eq!(manifest["owner_username"], "ada");
    assert_eq!(manifest["workspace_name"], "dev");
    assert_eq!(manifest["environment_variables"]["GREETING"], "hello");
    assert_eq!(manifest["motd_path"], "/etc/motd");
    assert_eq!(
        manifest["metadata"][0]["interval"], "0.000000010s",
        "agents read nanoseconds as seconds"
    );
    assert_eq!(manifest["apps"][0]["subdomain_name"], "code--dev--ada");
    assert_eq!(manifest["apps"][0]["healthcheck"]["interval"], "5s");
    assert_eq!(manifest["apps"][1]["health"], "DISABLED");
    assert_eq!(manifest["scripts"][0]["timeout"], "60s");
    assert_eq!(manifest["devcontainers"][0]["name"], "web");
    let node = &report["derp_map"]["regions"]["999"]["nodes"][0];
    assert_eq!(node["host_name"], "127.0.0.1");
    assert_eq!(
        (&node["force_http"], &node["stun_port"]),
        (&true.into(), &(-1).into())
    );
    assert_eq!(
        report["banners"]["announcement_banners"][0]["message"],
        "Maintenance on Friday"
    );
    assert_eq!(report["monitoring"]["memory"]["enabled"], true);
    assert_eq!(report["stats_interval_ms"], 30_000);
}

#[test]
#[ignore = "three minutes"]
fn an_agent_keeps_its_long_streams_for_three_minutes() {
    let data = Data::new(EXAMPLE_SEED);
    let server = data.serve(&[]);
    let mut agent = go!(
        "agent",
        server.agent(),
        &["--duration", "10m", "--stop-after-ready", "180s"]
    );
    agent.await_line("lifecycle READY");
    let report = agent.result();
    let left = Clock::system().now();
    data.await_status("disconnected");
    // By the server's word, so that a busy machine's look at the store does not count.
    let ended = data.number("SELECT disconnected_at FROM workspace_agents");
    let took = Timestamp::from_micros(ended).saturating_since(left);
    assert!(took < Duration::from_secs(1), "{took:?}");
    assert_eq!(report["connections"], 1);
    for method in ["Coordinate", "StreamDERPMaps"] {
        assert_eq!(report["rpcs"][method]["calls"], 1, "{method}");
    }
    // An empty one at first, then one each 30 s.
    assert!(
        report["rpcs"]["UpdateStats"]["calls"].as_i64().unwrap() >= 6,
        "{report:#}"
    );
    assert_eq!(report["rpcs"]["GetAnnouncementBanners"]["calls"], 2);
    data.await_value("SELECT count(*) >= 5 FROM workspace_agent_stats", "1");
}

#[test]
fn a_workspace_in_use_is_seen_in_the_metrics_and_after_the_end_in_the_store() {
    let data = Data::new(EXAMPLE_SEED);
    let address = free_address();
    let server = data.serve_alone(&[
        "--prometheus-enable",
        "--prometheus-address",
        &address,
        "--prometheus-collect-agent-stats",
        "--prometheus-aggregate-agent-stats-by=workspace_name",
    ]);
    let deadline = data.later("updated_at", Duration::from_mins(30));
    data.execute(&format!("UPDATE workspace_builds SET deadline = {deadline}"));
    let result = go!("calls", server.agent(), &["--count", "2", "--method", "use"]).result();
    assert_eq!(result["errors"], serde_json::json!({}));
    let metrics = support::http::get(&format!("http://{address}"), "/metrics", "").body;
    for line in [
        "agent_scripts_total{workspace_name=\"dev\",success=\"true\"} 2.0",
        "coderd_prometheusmetrics_metrics_aggregator_store_size 1",
        "coderd_template_workspace_build_duration_seconds_count{template_name=\"docker\",organization_name=\"coder\",transition=\"start\",status=\"success\",is_prebuild=\"false\"} 1",
    ] {
        assert!(metrics.lines().any(|other| other == line), "{line}\n{metrics}");
    }
    let hour = data.later("updated_at", Duration::from_hours(1));
    let bumped = format!("SELECT deadline = {hour} FROM workspace_builds");
    assert_eq!(data.value(&bumped), "1");
    // A minute has not passed, so this is the end's doing.
    assert_eq!(server.stop(), Some(0));
    assert!(data.number("SELECT last_used_at FROM workspaces") > 0);
}

#[test]
fn an_agent_comes_again_when_there_is_a_new_coordinator() {
    let data = Data::new(EXAMPLE_SEED);
    let address = free_address();
    let server = data.serve_alone(&["--prometheus-enable", "--prometheus-address", &address]);
    let mut agent = go!("agent", server.agent(), &["--duration", "1m"]);
    let await_peer = || {
        let known = || {
            let metrics = support::http::get(&format!("http://{address}"), "/metrics", "").body;
            metrics.lines().any(|line| line == "drpcd_tailnet_peers 1.0")
        };
        support::eventually(known).unwrap();
    };
    for _ in 0..2 {
        await_peer();
        server.swap_coordinator();
        agent.await_error("coordination: EOF");
    }
    await_peer();
    agent.terminate();
    let (report, ok) = agent.finish();
    assert!(ok, "{report:#}");
    assert_eq!(report["connections"], 3);
    let told = "coordinator closed";
    assert_eq!(report["coordinate_errors"], serde_json::json!([told, told]));
    assert_eq!(report["disconnect_ended"], true);
}

/// Picked and freed: the server prints the address of its main listener only.
fn free_address() -> String {
    let free = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
    free.unwrap().to_string()
}

#[test]
fn wire_079_twenty_thousand_calls_one_after_another_and_sixteen_at_a_time() {
    let data = Data::new(EXAMPLE_SEED);
    let server = data.serve(&[]);
    for concurrency in ["1", "16"] {
        for method in ["metadata", "unimplemented"] {
            let count = if method == "metadata" { "20000" } else { "5000" };
            let flags = ["--count", count, "--concurrency", concurrency, "--method", method];
            let result = go!("calls", server.agent(), &flags).result();
            eprintln!("{concurrency} callers, {method}: {result}");
            assert_eq!(result["errors"], serde_json::json!({}));
        }
    }
}

#[test]
fn wire_064_ten_thousand_errors_at_once_keep_their_texts() {
    let data = Data::new(EXAMPLE_SEED);
    let server = data.serve(&[]);
    let flags = ["--count", "10000", "--concurrency", "200", "--method", "errors"];
    let result = go!("calls", server.agent(), &flags).result();
    assert_eq!(result["errors"], serde_json::json!({}));
}

#[test]
fn conn_040_and_wire_089_three_hundred_calls_at_once_beside_six_hundred_idle_streams() {
    let data = Data::new(EXAMPLE_SEED);
    let server = data.serve(&[]);
    let result = go!(
        "streams",
        server.agent(),
        &["--idle", "600", "--burst", "300", "--hold", "1s"]
    )
    .result();
    assert_eq!(result["opened"], 600);
}

#[test]
fn wire_088_a_silent_stream_outlives_the_clients_open_timeout() {
    let data = Data::new(EXAMPLE_SEED);
    let server = data.serve(&[]);
    let flags = [
        "--idle",
        "1",
        "--burst",
        "1",
        "--hold",
        "4s",
        "--stream-open-timeout",
        "1s",
    ];
    let result = go!("streams", server.agent(), &flags).result();
    assert_eq!(result["session_ended"], false);
}

#[test]
fn conn_042_to_046_bad_input_costs_what_it_must_and_nothing_else() {
    let data = Data::new(EXAMPLE_SEED);
    let server = data.serve(&[]);
    let hostile = |kind: &str| go("hostile", server.agent(), &["--kind", kind]).map(support::Go::result);

    let Some(text) = hostile("text-frame") else { return };
    assert_eq!(text["close_code"], 1003, "conn_044: {text}");
    assert_eq!(
        text["close_reason"],
        "unexpected frame type read (expected MessageBinary): MessageText"
    );
    for kind in ["garbage", "bad-version"] {
        let result = hostile(kind).unwrap();
        assert_eq!(
            (&result["ended"], &result["close_code"]),
            (&true.into(), &1011.into()),
            "conn_045: {result}"
        );
    }
    let cut = hostile("fin-mid-frame").unwrap();
    assert_eq!(
        (&cut["ended"], &cut["next_call_error"]),
        (&false.into(), &"".into()),
        "conn_046: {cut}"
    );
    let large = hostile("message-5mib").unwrap();
    assert_ne!(large["call_error"], "", "conn_042: {large}");
    assert_eq!(
        (&large["ended"], &large["next_call_error"]),
        (&false.into(), &"".into()),
        "conn_042: {large}"
    );
    assert_eq!(data.value("SELECT count(*) FROM workspace_agent_logs"), "0");
    assert!(!data.log().contains("panic"), "{}", data.log());
}

#[test]
fn conn_051_a_cut_connection_is_dialed_again_and_nothing_starts_twice() {
    let data = Data::new(EXAMPLE_SEED);
    let server = data.serve(&[]);
    let flags = ["--cut-after", "500ms", "--cuts", "2", "--stop-after-ready", "8s"];
    let report = go!("agent", server.agent(), &flags).result();
    assert_eq!(report["connections"], 3, "{report:#}");
    assert_eq!(report["lifecycle"][0], "STARTING");
    assert_eq!(report["script_runs"]["echo starting"], 1);
    assert_eq!(report["lifecycle"].as_array().unwrap().len(), 4);
}

#[test]
fn conn_049_a_banner_error_costs_one_reconnect() {
    // A seed without banners leaves the setting alone, and a server that starts reads it.
    let lines = EXAMPLE_SEED.lines().filter(|line| !line.contains("banner"));
    let seed: Vec<_> = lines.filter(|line| !line.contains("Maintenance")).collect();
    let data = Data::new(&seed.join("\n"));
    assert_eq!(data.serve(&[]).stop(), Some(0));
    let setting = |value: &str| {
        data.execute(&format!(
            "INSERT INTO site_configs (key, value) VALUES ('announcement_banners', '{value}')
             ON CONFLICT (key) DO UPDATE SET value = excluded.value"
        ));
    };
    setting("no list");
    let server = data.serve(&[]);
    let mut agent = go!("agent", server.agent(), &["--stop-after-ready", "100ms"]);
    agent.await_error("init banners: ");
    setting("[]");
    let report = agent.result();
    // As often as the setting was bad, and no more.
    let connections = report["connections"].as_u64().unwrap();
    let errors = report["rpcs"]["GetAnnouncementBanners"]["failed"]
        .as_u64()
        .unwrap();
    assert_eq!(connections, errors + 1, "{report:#}");
    assert_eq!(report["script_runs"]["echo starting"], 1);
    assert_eq!(
        report["lifecycle"].to_string(),
        r#"["STARTING","READY","SHUTTING_DOWN","OFF"]"#
    );
}

#[test]
fn conn_052_after_ten_cuts_an_agent_comes_back_every_ten_seconds() {
    let data = Data::new(EXAMPLE_SEED);
    let server = data.serve(&[]);
    let flags = [
        "--cut-after",
        "100ms",
        "--cuts",
        "11",
        "--stop-after-ready",
        "55s",
    ];
    let report = go!("agent", server.agent(), &flags).result();
    assert_eq!(report["connections"], 12, "{report:#}");
    let pauses: Vec<_> = report["redials"]
        .as_array()
        .unwrap()
        .iter()
        .map(|redial| redial["pause_ms"].as_u64().unwrap())
        .collect();
    assert_eq!(pauses[9..], [10_000, 10_000]);
    assert!(pauses.is_sorted());
    assert_eq!(report["script_runs"]["echo starting"], 1);
    assert_eq!(report["lifecycle"].as_array().unwrap().len(), 4);
}

#[test]
fn conn_053_the_log_limit_ends_logs_without_a_reconnect() {
    let data = Data::new(EXAMPLE_SEED);
    let server = data.serve(&[]);
    let flags = [
        "--log-lines",
        "1200",
        "--log-bytes",
        "1000",
        "--stop-after-ready",
        "3s",
    ];
    let report = go!("agent", server.agent(), &flags).result();
    assert_eq!(report["log_limit_exceeded"], true, "{report:#}");
    assert_eq!(report["connections"], 1);
    assert_eq!(
        data.value("SELECT logs_overflowed, logs_length <= 1048576 FROM workspace_agents"),
        "1 1"
    );
}

#[test]
fn conn_056_the_stats_interval_is_the_servers() {
    let data = Data::new(EXAMPLE_SEED);
    let server = data.serve(&["--agent-stats-refresh-interval", "1s"]);
    let report = go!("agent", server.agent(), &["--stop-after-ready", "5s"]).result();
    assert_eq!(report["stats_interval_ms"], 1_000);
    assert!(report["stats_at_ms"].as_array().unwrap().len() >= 3, "{report:#}");
}

#[test]
fn conn_059_an_old_agent_without_version_role_and_header_is_served() {
    let data = Data::new(EXAMPLE_SEED);
    let server = data.serve(&[]);
    let flags = [
        "--version",
        "",
        "--role",
        "",
        "--cookie",
        "--stop-after-ready",
        "100ms",
    ];
    go!("agent", server.agent(), &flags).result();
    assert_eq!(data.value("SELECT api_version FROM workspace_agents"), "2.0");
}

#[test]
fn conn_016_a_helper_is_served_and_leaves_no_trace_of_a_connection() {
    let data = Data::new(EXAMPLE_SEED);
    let server = data.serve(&[]);
    let flags = ["--count", "10", "--method", "banners", "--role", "logstream-kube"];
    go!("calls", server.agent(), &flags).result();
    assert_eq!(server.stop(), Some(0));
    assert_eq!(
        data.value("SELECT first_connected_at IS NULL FROM workspace_agents"),
        "1"
    );
}

#[test]
fn conn_031_a_frozen_agent_is_closed_within_45_seconds() {
    let data = Data::new(EXAMPLE_SEED);
    let server = data.serve(&[]);
    let mut agent = go!(
        "agent",
        server.agent(),
        &["--duration", "60s", "--freeze-after", "500ms"]
    );
    agent.await_line("frozen");
    let frozen = Instant::now();
    while data.status() == "connected" {
        assert!(frozen.elapsed() < Duration::from_secs(50), "still connected");
        std::thread::sleep(Duration::from_millis(200));
    }
    assert!(data.value("SELECT disconnected_at IS NOT NULL FROM workspace_agents") == "1");
    assert!(
        data.log().contains("connection to agent timed out"),
        "{}",
        data.log()
    );
}

#[test]
fn conn_057_and_058_a_long_stop_script_reports_over_one_session() {
    let data = Data::new(EXAMPLE_SEED);
    let server = data.serve(&[]);
    let flags = ["--stop-after-ready", "200ms", "--stop-script", "20s"];
    let mut agent = go!("agent", server.agent(), &flags);
    agent.await_line("lifecycle READY");
    // The workspace is being stopped: a build that is running, whose agent may finish.
    stop_build(&data, None);
    let report = agent.result();
    assert_eq!(report["connections"], 1, "{report:#}");
    assert_eq!(data.value(LIFECYCLE), "off");
    assert_eq!(
        data.value("SELECT count(*) FROM workspace_agent_logs WHERE output LIKE 'running since%'"),
        "20"
    );
    assert_eq!(server.stop(), Some(0));
}

#[test]
fn conn_033_an_agent_of_an_old_build_is_closed_at_a_tick_and_refused_afterwards() {
    let data = Data::new(EXAMPLE_SEED);
    let server = data.serve(&["--agent-connection-update-frequency", "1s"]);
    let mut agent = go!("agent", server.agent(), &["--duration", "8s"]);
    agent.await_line("lifecycle READY");
    stop_build(&data, Some(Clock::system().now()));
    let (report, _) = agent.finish();
    let redials = report["redials"].as_array().unwrap();
    assert!(redials.len() >= 2, "{report:#}");
    let last = redials.last().unwrap()["error"].as_str().unwrap();
    assert!(
        last.contains("401") && last.contains("Workspace agent not authorized."),
        "{last}"
    );
    assert!(
        data.log().contains("disconnected possibly outdated agent"),
        "{}",
        data.log()
    );
}

/// Adds a stop build to the seeded workspace, whose job ended then.
fn stop_build(data: &Data, completed: Option<Timestamp>) {
    let id = data.id(Uuid::from_u128(2));
    let started = data.time(Timestamp::UNIX_EPOCH);
    let completed = completed.map_or("NULL".to_owned(), |time| data.time(time));
    data.execute(&format!(
        "INSERT INTO provisioner_jobs (id, organization_id, initiator_id, created_at, updated_at, started_at,
             completed_at, type)
         SELECT {id}, organization_id, initiator_id, {started}, {started}, {started}, {completed}, 'workspace_build'
             FROM provisioner_jobs LIMIT 1;
         INSERT INTO workspace_builds (id, created_at, updated_at, workspace_id, template_version_id, build_number,
             transition, initiator_id, job_id)
         SELECT {id}, {started}, {started}, workspace_id, template_version_id, 2, 'stop', initiator_id, {id}
             FROM workspace_builds"
    ));
}

#[test]
fn conn_035_and_sigterm_loses_nothing_that_was_accepted() {
    let data = Data::new(EXAMPLE_SEED);
    let server = data.serve(&["--agent-stats-refresh-interval", "100ms"]);
    let flags = ["--log-lines", "50", "--duration", "20s", "--kill"];
    let mut agent = go!("agent", server.agent(), &flags);
    agent.await_line("lifecycle READY");
    std::thread::sleep(Duration::from_millis(1_500));
    assert_eq!(server.stop(), Some(0));
    agent.terminate();
    let (report, _) = agent.finish();
    assert_eq!(data.status(), "disconnected");
    let accepted = report["log_lines"].to_string();
    assert_eq!(data.value("SELECT count(*) FROM workspace_agent_logs"), accepted);
    // All reports but the first carry statistics; one that was under way when the server left may be either.
    let reports = i64::try_from(report["stats_at_ms"].as_array().unwrap().len()).unwrap() - 1;
    let stored = data.number("SELECT count(*) FROM workspace_agent_stats");
    assert!(
        stored >= reports && stored <= reports + 1,
        "{stored} stored of {reports}"
    );
    assert_eq!(
        data.value("SELECT count(*) FROM workspace_agent_metadata WHERE value <> ''"),
        "2"
    );
}

#[test]
fn conn_037_and_kill_9_keeps_what_was_stored_before_its_reply() {
    let data = Data::new(EXAMPLE_SEED);
    let server = data.serve(&[]);
    let mut agent = go!(
        "agent",
        server.agent(),
        &["--log-lines", "50", "--duration", "20s", "--kill"]
    );
    agent.await_line("lifecycle READY");
    data.await_value("SELECT count(*) > 50 FROM workspace_agent_logs", "1");
    server.kill();
    agent.terminate();
    let (report, _) = agent.finish();
    let server = data.serve(&[]);
    assert_eq!(data.value(LIFECYCLE), "ready");
    let stored = data.number("SELECT count(*) FROM workspace_agent_logs");
    assert!(
        stored >= report["log_lines"].as_i64().unwrap(),
        "{stored}: {report:#}"
    );
    data.assert_intact();
    drop(server);
}
