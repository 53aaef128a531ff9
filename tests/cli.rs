//! What scripts rely on: verbs, texts on stdout, exit codes, and bad input.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::fs::Permissions;
use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Command, Output};

use serde_json::Value;
use support::http::get;
use support::{Data, EXAMPLE_SEED, drpcd};

fn run(args: &[&str]) -> Output {
    drpcd().args(args).output().unwrap()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

/// Runs `drpcd` with arguments that it must refuse, and gives what it says.
#[track_caller]
fn refused(command: &mut Command, code: i32) -> String {
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(code), "{}", text(&output.stderr));
    assert_eq!(text(&output.stdout), "");
    text(&output.stderr).to_owned()
}

fn seed(data: &Data, more: &[&str]) -> Command {
    let mut command = drpcd();
    command
        .arg("seed")
        .arg(data.seed_file())
        .args(data.store())
        .args(more);
    command
}

/// A `server` with any port.
fn server(data: &Data) -> Command {
    let mut command = drpcd();
    command
        .args(["server", "--http-address", "127.0.0.1:0"])
        .args(data.store());
    command
}

#[test]
fn version_tells_the_program_and_the_api() {
    let output = run(&["version"]);
    let line = format!("drpcd v2.31.0+drpcd.{} (API 2.8)\n", env!("CARGO_PKG_VERSION"));
    assert_eq!(
        (text(&output.stdout), output.status.code()),
        (line.as_str(), Some(0))
    );
    assert_eq!(text(&run(&["--version"]).stdout), line);
}

#[test]
fn help_is_no_error_and_nonsense_is_a_usage_error() {
    let output = run(&["server", "--help"]);
    assert_eq!(output.status.code(), Some(0));
    assert!(text(&output.stdout).contains("CODER_HTTP_ADDRESS"));
    for args in [&[][..], &["nonsense"], &["server", "--nonsense"], &["seed"]] {
        assert_eq!(run(args).status.code(), Some(2), "{args:?}");
    }
}

#[test]
fn the_exit_code_is_told_also_where_nothing_can_be_written() {
    let mut missing = drpcd();
    missing.args(["seed", "/nowhere/seed.yaml"]);
    let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
    assert_eq!(missing.stderr(full).status().unwrap().code(), Some(1));
}

#[test]
fn conn_076_seeding_twice_gives_the_same_ids_and_tokens_with_and_without_a_server() {
    let data = Data::new(EXAMPLE_SEED);
    let first = seed(&data, &[]).output().unwrap();
    assert_eq!(first.status.code(), Some(0), "{}", text(&first.stderr));
    let lines: Vec<_> = text(&first.stdout).lines().collect();
    assert_eq!(
        lines[..2],
        ["# ada/dev/main", "CODER_AGENT_URL=http://127.0.0.1:3000"]
    );
    let token = lines[2].strip_prefix("CODER_AGENT_TOKEN=").unwrap();
    assert_eq!((lines.len(), token.len()), (3, 36));

    let server = data.serve(&[]);
    assert_eq!(server.agent().token, token);
    assert_eq!(server.agent().name, "ada/dev/main");
    let again = seed(&data, &["--access-url", &server.url, "--output", "json"])
        .output()
        .unwrap();
    let rows: Value = serde_json::from_slice(&again.stdout).unwrap();
    assert_eq!(rows[0]["agent_id"], data.value("SELECT id FROM workspace_agents"));
    assert_eq!(rows[0]["token"], token);
    assert_eq!(rows[0]["url"], server.url.as_str());
    assert_eq!(
        (&rows[0]["workspace"], &rows[0]["agent"]),
        (&"dev".into(), &"main".into())
    );
    assert_eq!(rows.as_array().unwrap().len(), 1);
    let keys: Vec<_> = rows[0].as_object().unwrap().keys().collect();
    assert_eq!(keys.len(), 5);
    assert_eq!(server.stop(), Some(0));
}

#[test]
fn an_access_url_is_printed_and_kept() {
    let data = Data::new(EXAMPLE_SEED);
    let server = data.serve(&["--access-url", "https://coder.example.com/base/"]);
    assert_eq!(server.agent().url, "https://coder.example.com/base/");
}

#[test]
fn an_unknown_seed_key_changes_nothing() {
    let data = Data::new(EXAMPLE_SEED);
    assert_eq!(seed(&data, &[]).status().unwrap().code(), Some(0));
    let before = data.query("SELECT name, auth_token, directory FROM workspace_agents");

    let bad = EXAMPLE_SEED.replace("directory: ~/src", "directori: ~/other");
    std::fs::write(data.seed_file(), &bad).unwrap();
    for mut command in [seed(&data, &[]), {
        let mut command = server(&data);
        command.arg("--seed").arg(data.seed_file());
        command
    }] {
        let error = refused(&mut command, 1);
        assert!(
            error.contains("seed.yaml") && error.contains("directori"),
            "{error}"
        );
    }
    assert_eq!(
        data.query("SELECT name, auth_token, directory FROM workspace_agents"),
        before
    );
}

#[test]
fn a_seed_file_that_is_not_there_is_named() {
    let data = Data::new(EXAMPLE_SEED);
    std::fs::remove_file(data.seed_file()).unwrap();
    let error = refused(&mut seed(&data, &[]), 1);
    assert!(error.contains("seed.yaml"), "{error}");
    assert!(!data.database().exists(), "nothing was made");
}

#[test]
fn a_configuration_file_that_cannot_be_read_is_named() {
    let data = Data::new(EXAMPLE_SEED);
    let missing = data.path().join("missing.yaml");
    let error = refused(server(&data).arg("--config").arg(&missing), 1);
    assert_eq!(
        error,
        format!(
            "drpcd: cannot read configuration file {}: No such file or directory (os error 2)\n",
            missing.display()
        )
    );
    let error = refused(server(&data).env("CODER_CONFIG_PATH", data.path()), 1);
    assert!(error.contains("Is a directory"), "{error}");
}

#[test]
fn a_configuration_file_with_an_unknown_key_is_refused() {
    let data = Data::new(EXAMPLE_SEED);
    let file = data.path().join("drpcd.yaml");
    std::fs::write(&file, "networking: {http: {adress: 1}}\n").unwrap();
    let error = refused(server(&data).arg("-c").arg(&file), 2);
    assert_eq!(
        error,
        format!(
            "drpcd: configuration file {}: unknown key networking.http.adress\n",
            file.display()
        )
    );
}

#[test]
fn flag_wins_over_environment_and_environment_over_file() {
    let data = Data::new(EXAMPLE_SEED);
    let file = data.path().join("drpcd.yaml");
    std::fs::write(&file, "networking: {derp: {configPath: /file}}\n").unwrap();
    let mut command = server(&data);
    command.arg("--config").arg(&file);
    assert!(refused(&mut command, 1).contains("/file"));
    command.env("CODER_DERP_CONFIG_PATH", "");
    assert!(
        refused(&mut command, 1).contains("/file"),
        "an empty variable counts as not set"
    );
    command.env("CODER_DERP_CONFIG_PATH", "/env");
    assert!(refused(&mut command, 1).contains("/env"));
    command.args(["--derp-config-path", "/flag"]);
    assert!(refused(&mut command, 1).contains("/flag"));
}

#[test]
fn a_bad_value_is_refused_with_flag_variable_and_value() {
    let data = Data::new(EXAMPLE_SEED);
    let error = refused(server(&data).env("DRPCD_DRAIN_TIME", "soon"), 2);
    assert_eq!(
        error,
        "drpcd: invalid value \"soon\" for --drain-time (env DRPCD_DRAIN_TIME): invalid duration \"soon\": write it like \
         30s, 1h30m or 500ms\n"
    );
    let error = refused(drpcd().arg("server"), 2);
    assert_eq!(
        error,
        "drpcd: missing --data-dir (env DRPCD_DATA_DIR), or --postgres-url (env CODER_PG_CONNECTION_URL)\n"
    );
}

#[test]
fn an_occupied_port_is_named_and_loses_nothing() {
    let data = Data::new(EXAMPLE_SEED);
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let mut command = drpcd();
    command
        .args(["server", "--http-address", &address])
        .args(data.store());
    let error = refused(command.arg("--seed").arg(data.seed_file()), 1);
    assert_eq!(
        error,
        format!("drpcd: cannot listen on {address}: Address already in use (os error 98)\n")
    );
    assert!(!data.database().exists());

    let flags = ["--prometheus-enable", "--prometheus-address", &address];
    let error = refused(server(&data).args(flags), 1);
    assert!(error.contains(&format!("cannot listen on {address}")), "{error}");
}

#[test]
fn a_data_directory_without_write_permission_is_named() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::set_permissions(directory.path(), Permissions::from_mode(0o755)).unwrap();
    let locked = directory.path().join("locked");
    std::fs::create_dir(&locked).unwrap();
    std::fs::set_permissions(&locked, Permissions::from_mode(0o555)).unwrap();
    // Root may write anywhere; the path to the usual binary may be closed to another user.
    let binary = directory.path().join("drpcd");
    std::fs::copy(env!("CARGO_BIN_EXE_drpcd"), &binary).unwrap();
    let other_user = || {
        if rustix::process::getuid().is_root() {
            let mut command = Command::new("setpriv");
            command
                .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
                .arg(&binary);
            command
        } else {
            Command::new(&binary)
        }
    };
    for data_dir in [locked.clone(), locked.join("below")] {
        let mut command = other_user();
        command.args(["server", "--http-address", "127.0.0.1:0", "--data-dir"]);
        let error = refused(command.arg(&data_dir), 1);
        assert!(error.contains(data_dir.to_str().unwrap()), "{error}");
        assert!(error.contains("Permission denied"), "{error}");
    }
}

#[test]
fn logs_can_be_json_in_a_file() {
    let data = Data::new(EXAMPLE_SEED);
    let log = data.path().join("log.json");
    let server = data.serve(&["--log-human", "", "--log-json", log.to_str().unwrap()]);
    assert_eq!(server.stop(), Some(0));
    assert_eq!(data.log(), "");
    let lines = std::fs::read_to_string(log).unwrap();
    let first: Value = serde_json::from_str(lines.lines().next().unwrap()).unwrap();
    assert_eq!(first["fields"]["message"], "drpcd is starting");
}

/// Serves one answer to whoever asks, for as long as the test runs.
fn site(body: &'static str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                stream.read_exact(&mut byte).unwrap();
                head.push(byte[0]);
            }
            let length = body.len();
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n");
            stream.write_all((head + body).as_bytes()).unwrap();
        }
    });
    format!("http://{address}/map")
}

#[test]
fn a_derp_map_can_come_from_a_url() {
    let map = r#"{"Regions": {"7": {"RegionID": 7, "Nodes": [{"Name": "7a", "RegionID": 7, "HostName": "derp.example.com"}]}}}"#;
    let data = Data::new(EXAMPLE_SEED);
    let stun = "--derp-server-stun-addresses=stun.example.com:3478";
    let server = data.serve(&["--derp-config-url", &site(map), stun]);
    assert_eq!(server.stop(), Some(0));
    assert!(data.log().contains("derp_regions=2"), "{}", data.log());
    assert!(!data.log().contains("no DERP map is configured"));
}

#[test]
fn a_derp_map_that_cannot_be_served_keeps_the_server_from_starting() {
    let both = [
        "--derp-config-url",
        "http://127.0.0.1:1/",
        "--derp-config-path",
        "/nowhere",
    ];
    for (flags, text) in [
        (
            &both[..],
            "a remote URL or local path must be specified, not both",
        ),
        (&both[..2], "get derpmap: "),
        (&both[2..], "read derpmap from \"/nowhere\": "),
    ] {
        let output = server(&Data::new(EXAMPLE_SEED)).args(flags).output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{stderr}");
        assert!(stderr.contains(text), "{stderr}");
    }
}

#[test]
fn metrics_are_served_where_they_are_asked_for() {
    let data = Data::new(EXAMPLE_SEED);
    // Picked and freed: the server prints the address of its main listener only.
    let address = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .to_string();
    let server = data.serve_alone(&["--prometheus-enable", "--prometheus-address", &address]);
    assert_eq!(server.get("/metrics").status, 404);
    let (answer, _session) = server.dial(server.agent());
    assert_eq!(answer.status, 101);
    let read = || get(&format!("http://{address}"), "/metrics", "");
    // The session begins right after the answer.
    let counted = |line: &str| read().body.lines().any(|other| other == line);
    support::eventually(|| counted("drpcd_sessions 1")).unwrap();
    assert!(counted("drpcd_sessions_started_total 1"));
    for line in [
        "drpcd_derp_map_version 1.0",
        "drpcd_derp_map_age_seconds 0.0",
        "drpcd_network_events_dropped_total 0.0",
        "drpcd_session_buffer_bytes 0.0",
        "drpcd_tailnet_peers 0.0",
        "drpcd_tailnet_tunnels 0.0",
    ] {
        assert!(counted(line), "{line}\n{}", read().body);
    }
    let page = get(&format!("http://{address}"), "/debug/coordinator", "");
    assert!(page.head.contains("content-type: text/html; charset=utf-8\r\n"));
    assert!(page.body.contains("<h2>peers: 0</h2>"), "{}", page.body);
    assert_eq!(
        server.get("/debug/coordinator").status,
        404,
        "not where agents come"
    );
    let metrics = read();
    assert!(
        metrics
            .head
            .contains("content-type: application/openmetrics-text")
    );
    assert!(
        metrics.body.contains("drpcd_store_statements_total{statement=\""),
        "{}",
        metrics.body
    );
    assert!(!metrics.body.contains(&server.agent().token));
    assert_eq!(server.stop(), Some(0));
}

#[test]
fn sigterm_without_agents_ends_at_once_with_0() {
    let data = Data::new(EXAMPLE_SEED);
    let server = data.serve(&[]);
    assert_eq!(server.stop(), Some(0));
    assert!(data.log().contains("shutting down"));
}

#[test]
fn a_second_signal_exits_at_once() {
    let data = Data::new(EXAMPLE_SEED);
    let server = data.serve(&["--drain-time", "1h"]);
    let (answer, _session) = server.dial(server.agent());
    assert_eq!(answer.status, 101);
    data.await_connected();
    server.terminate();
    support::eventually(|| data.log().contains("a second signal exits at once")).unwrap();
    server.terminate();
    assert_eq!(server.wait(), Some(1));
}

#[test]
fn a_shutdown_that_cannot_write_exits_with_1_and_names_what_is_lost() {
    let data = Data::new(EXAMPLE_SEED);
    let server = data.serve(&["--shutdown-grace", "1s"]);
    let (answer, session) = server.dial(server.agent());
    assert_eq!(answer.status, 101);
    data.await_connected();
    let lock = data.lock();
    drop(session);
    server.terminate();
    assert_eq!(server.wait(), Some(1));
    drop(lock);
    let log = data.log();
    // Replicas have their peers to write too.
    let told = log
        .lines()
        .find(|line| line.starts_with("drpcd: could not write connection times"));
    assert!(
        told.is_some_and(|line| line.ends_with(": the time for it was over")),
        "{log}"
    );
}
