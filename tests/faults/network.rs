//! A network that fails between an agent and its server.

use std::time::{Duration, Instant};

use crate::go;
use crate::support::proxy::{Lane, Proxy};
use crate::support::{Data, EXAMPLE_SEED, Server, client, eventually};

const TIMED_OUT: &str = "connection to agent timed out";

/// A server that looks at its sessions every two seconds and closes them after four of silence: an agent on a busy machine is
/// not silent for so long.
fn quick(data: &Data) -> Server {
    data.serve(&["--agent-connection-update-frequency", "2s"])
}

#[test]
fn conn_031_a_partition_ends_the_session_and_the_agent_comes_again() {
    let directions = [
        (Lane::SILENT, Lane::SILENT),
        (Lane::SILENT, Lane::GOOD),
        (Lane::GOOD, Lane::SILENT),
    ];
    std::thread::scope(|scope| {
        for (to_server, to_agent) in directions {
            scope.spawn(move || partition(to_server, to_agent));
        }
    });
}

/// What arrives where while it lasts.
fn partition(to_server: Lane, to_agent: Lane) {
    let data = Data::new(EXAMPLE_SEED);
    let server = quick(&data);
    let proxy = Proxy::new(&server);
    let mut agent = go!("agent", &proxy.agent(&server), &["--duration", "2m"]);
    agent.await_line("lifecycle READY");
    data.await_status("connected");
    proxy.set(to_server, to_agent);
    eventually(|| data.log().contains(TIMED_OUT)).unwrap();
    data.await_status("disconnected");
    proxy.set(Lane::GOOD, Lane::GOOD);
    data.await_status("connected");
    agent.terminate();
    let report = agent.result();
    assert_eq!(report["connections"], 2, "{to_server:?} {to_agent:?}: {report:#}");
    assert_eq!(
        report["lifecycle"].to_string(),
        r#"["STARTING","READY","SHUTTING_DOWN","OFF"]"#
    );
    data.await_status("disconnected");
    assert_eq!(server.stop(), Some(0));
}

#[test]
#[ignore = "a minute"]
fn conn_031_a_partition_of_forty_seconds_ends_the_session_with_the_default_settings() {
    let data = Data::new(EXAMPLE_SEED);
    let server = data.serve(&[]);
    let proxy = Proxy::new(&server);
    let mut agent = go!("agent", &proxy.agent(&server), &["--duration", "3m"]);
    agent.await_line("lifecycle READY");
    proxy.set(Lane::SILENT, Lane::SILENT);
    let began = Instant::now();
    eventually(|| data.log().contains(TIMED_OUT))
        .or_else(|()| eventually(|| data.log().contains(TIMED_OUT)))
        .unwrap();
    // At the first tick after more than 30 s.
    assert!(began.elapsed() > Duration::from_secs(29) && began.elapsed() < Duration::from_secs(50));
    std::thread::sleep(Duration::from_secs(40).saturating_sub(began.elapsed()));
    proxy.set(Lane::GOOD, Lane::GOOD);
    data.await_status("connected");
    agent.terminate();
    assert_eq!(agent.result()["connections"], 2);
}

#[test]
fn a_silence_below_the_limit_costs_nothing() {
    let data = Data::new(EXAMPLE_SEED);
    // The limit is twenty seconds.
    let server = data.serve(&["--agent-connection-update-frequency", "10s"]);
    let proxy = Proxy::new(&server);
    let flags = ["--start-script", "6s", "--log-lines", "100", "--duration", "2m"];
    let mut agent = go!("agent", &proxy.agent(&server), &flags);
    agent.await_line("lifecycle STARTING");
    for (to_server, to_agent) in [
        (Lane::SILENT, Lane::SILENT),
        (Lane::SILENT, Lane::GOOD),
        (Lane::GOOD, Lane::SILENT),
    ] {
        proxy.set(to_server, to_agent);
        std::thread::sleep(Duration::from_secs(2));
        proxy.set(Lane::GOOD, Lane::GOOD);
        std::thread::sleep(Duration::from_millis(200));
    }
    agent.await_line("lifecycle READY");
    agent.terminate();
    let report = agent.result();
    assert_eq!(report["connections"], 1, "{report:#}");
    let lines = report["log_lines"].to_string();
    assert_eq!(data.value("SELECT count(*) FROM workspace_agent_logs"), lines);
    assert!(!data.log().contains(TIMED_OUT));
}

#[test]
fn conn_029_the_late_end_of_an_old_session_leaves_a_newer_one_connected() {
    let data = Data::new(EXAMPLE_SEED);
    // It takes two ticks to find the old session gone: enough to dial a new one, whatever else the machine does. And the
    // newer session's server may write half a tick late.
    let server = data.serve(&["--agent-connection-update-frequency", "6s"]);
    let newer = server.agent_at(server.replicas() - 1);
    let proxy = Proxy::to(
        server
            .replica_url(0)
            .strip_prefix("http://")
            .unwrap()
            .parse()
            .unwrap(),
    );
    let mut old = go!("agent", &proxy.agent(&server), &["--duration", "2m", "--kill"]);
    old.await_line("lifecycle READY");
    data.await_status("connected");
    let replica = || data.value("SELECT last_connected_replica_id FROM workspace_agents");
    let of_old = replica();
    // The agent's machine is gone; it comes again by another way, to another replica where there is one, while its old
    // session still waits for it.
    proxy.set(Lane::SILENT, Lane::SILENT);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let new = runtime.block_on(client::agent(&newer)).unwrap();
    if server.replicas() > 1 {
        eventually(|| replica() != of_old).unwrap();
    }
    let of_new = replica();
    let stays = || {
        assert_eq!((data.status(), replica()), ("connected", of_new.clone()));
        let ended = data.value("SELECT disconnected_at IS NOT NULL FROM workspace_agents");
        assert_eq!(ended, "0");
    };
    assert!(
        !data.log().contains(TIMED_OUT),
        "the old session has not ended yet"
    );
    eventually(|| {
        stays();
        data.log().contains(TIMED_OUT)
    })
    .unwrap();
    for _ in 0..20 {
        stays();
        std::thread::sleep(Duration::from_millis(100));
    }
    drop(new);
    drop(runtime);
    data.await_status("disconnected");
}

#[test]
fn an_agent_whose_end_never_arrives_is_found_gone() {
    let data = Data::new(EXAMPLE_SEED);
    let server = quick(&data);
    let proxy = Proxy::new(&server);
    let mut agent = go!("agent", &proxy.agent(&server), &["--duration", "2m", "--kill"]);
    agent.await_line("lifecycle READY");
    data.await_status("connected");
    let half_open = Lane {
        keeps_ends: true,
        ..Lane::GOOD
    };
    proxy.set(half_open, half_open);
    drop(agent);
    eventually(|| data.log().contains(TIMED_OUT)).unwrap();
    data.await_value("SELECT disconnected_at IS NOT NULL FROM workspace_agents", "1");
}

#[test]
fn resets_lose_no_log_line_and_no_report() {
    let data = Data::new(EXAMPLE_SEED);
    let server = data.serve(&[]);
    let proxy = Proxy::new(&server);
    let flags = ["--start-script", "3s", "--log-lines", "2000", "--duration", "2m"];
    let mut agent = go!("agent", &proxy.agent(&server), &flags);
    agent.await_line("lifecycle STARTING");
    for _ in 0..4 {
        std::thread::sleep(Duration::from_millis(700));
        proxy.reset();
        agent.await_error("");
        agent.await_line("dialed");
    }
    agent.await_once("lifecycle READY");
    proxy.reset();
    // Whoever is cut off in its goodbye cannot tell how the server took it.
    agent.await_error("");
    agent.terminate();
    let report = agent.result();
    assert!(report["connections"].as_u64().unwrap() >= 6, "{report:#}");
    assert_eq!(data.value("SELECT lifecycle_state FROM workspace_agents"), "off");
    // A batch whose answer was lost comes twice; none is missing.
    let lines = report["log_lines"].as_i64().unwrap();
    let stored = data.number("SELECT count(*) FROM workspace_agent_logs");
    assert!(stored >= lines && lines >= 2_000, "{stored} of {lines}");
    for second in 1..=3 {
        let line =
            format!("SELECT count(*) > 0 FROM workspace_agent_logs WHERE output = 'running since {second}s'");
        assert_eq!(data.value(&line), "1");
    }
    assert_eq!(server.stop(), Some(0));
}

#[test]
fn a_network_that_is_slow_and_trickles_changes_nothing() {
    let trickle = Lane {
        piece: 1,
        ..Lane::GOOD
    };
    let slow = Lane {
        delay: Duration::from_millis(30),
        piece: 1_024,
        ..Lane::GOOD
    };
    for (to_server, to_agent) in [(trickle, trickle), (slow, slow)] {
        let data = Data::new(EXAMPLE_SEED);
        let server = data.serve(&[]);
        let proxy = Proxy::new(&server);
        proxy.set(to_server, to_agent);
        let flags = ["--use", "--log-lines", "100", "--duration", "2m"];
        let mut agent = go!("agent", &proxy.agent(&server), &flags);
        agent.await_line("used");
        agent.terminate();
        let report = agent.result();
        assert_eq!(report["connections"], 1, "{report:#}");
        for (method, rpc) in report["rpcs"].as_object().unwrap() {
            assert_eq!(rpc["failed"], 0, "{method}: {rpc:#}");
        }
        assert_eq!(server.stop(), Some(0));
    }
}
