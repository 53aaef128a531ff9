//! A store that is away for a while, and comes back.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt, chown};
use std::process::Command;
use std::time::{Duration, Instant};

use drpcd::proto::agent::DeleteSubAgentRequest;
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use crate::support::client;
use crate::support::http::{Answer, dial, get, send};
use crate::support::{Data, EXAMPLE_SEED, Server, drpcd, eventually, go, may_write};

/// How long an outage lasts in a plain run: longer than every timeout within the server, so that all that may wait waits.
const SHORT: Duration = Duration::from_secs(8);

/// What the specification asks for.
const LONG: Duration = Duration::from_mins(10);

/// What must fail within two seconds does so in this, on a machine that has other things to do.
const FAIL_FAST: Duration = Duration::from_secs(4);

/// Fast enough that every kind of write is due several times within [`SHORT`], and not so fast that an agent on a busy machine
/// looks silent.
const FLAGS: [&str; 4] = [
    "--agent-stats-refresh-interval",
    "1s",
    "--agent-connection-update-frequency",
    "2s",
];

/// A user without rights.
const NOBODY: u32 = 65_534;

/// Why some of this is not tested on Postgres.
const LOCKED: &str = "nobody locks all of it";
const DISK: &str = "its disk is its own";
const PERMISSIONS: &str = "its files are its own";

/// A way in which a store can be away.
struct Outage<'a> {
    begin: &'a dyn Fn(),
    end: &'a dyn Fn(),
    /// Puts a verb into the same straits.
    verb: &'a dyn Fn(Command) -> Command,
    /// What everybody is told.
    reason: &'a str,
}

fn rows(data: &Data, table: &str) -> u64 {
    let count = data.number(&format!("SELECT count(*) FROM {table}"));
    u64::try_from(count).unwrap()
}

/// Runs `ask`, which must not take long.
#[track_caller]
fn at_once<T>(what: &str, ask: impl FnOnce() -> T) -> T {
    let start = Instant::now();
    let answer = ask();
    let took = start.elapsed();
    assert!(took < FAIL_FAST, "{what} took {took:?}");
    answer
}

/// A handshake that leaves no trace in connection times.
fn handshake(server: &Server) -> Answer {
    dial(&server.url, "?version=2.8&role=probe", &server.agent().token).0
}

fn patch_logs(server: &Server) -> Answer {
    let body = json!({ "logs": [
        { "created_at": "2026-03-20T12:00:00Z", "output": "over REST", "level": "info" }
    ] });
    let target = "/api/v2/workspaceagents/me/logs";
    send(
        &server.url,
        "PATCH",
        target,
        &server.agent().token,
        &body.to_string(),
    )
}

/// What people and programs other than agents meet while the store is away.
fn fails_fast(data: &Data, server: &Server, client: &str, outage: &Outage<'_>) {
    assert_eq!(at_once("healthz", || server.get("/healthz")).status, 200);
    assert_eq!(at_once("readyz", || server.get("/readyz")).status, 503);
    let refused = [
        ("handshake", at_once("handshake", || handshake(server))),
        ("PATCH logs", at_once("PATCH logs", || patch_logs(server))),
    ];
    for (what, answer) in refused {
        assert_eq!(answer.status, 500, "{what}: {}", answer.body);
        assert!(answer.body.contains(outage.reason), "{what}: {}", answer.body);
    }
    // What may still be read lets a client in.
    let header = format!("Coder-Session-Token: {client}\r\n");
    let ask = || get(&server.url, "/api/v2/workspaceagents/connection", &header);
    let answer = at_once("a client", ask);
    assert!([200, 500].contains(&answer.status), "{}", answer.body);
    for verb in [seed_verb(data), token_verb(data)] {
        let output = at_once("a verb", || (outage.verb)(verb).output().unwrap());
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{stderr}");
        assert!(stderr.contains("drpcd.db"), "{stderr}");
    }
}

/// An agent starts, reports and is used while the store is away for `lasts`. Returns what it has to tell; `None` without
/// Go.
fn an_agent_survives(data: &Data, server: &Server, lasts: Duration, outage: &Outage<'_>) -> Option<Value> {
    let duration = format!("{}s", (lasts + Duration::from_secs(120)).as_secs());
    let flags = [
        "--use",
        "--start-script",
        "4s",
        "--stop-script",
        "1s",
        "--log-lines",
        "200",
        "--banner-interval",
        "1s",
        "--duration",
        &duration,
    ];
    let mut agent = go("agent", server.agent(), &flags)?;
    agent.await_line("lifecycle STARTING");
    data.await_connected();
    data.await_value("SELECT count(*) > 0 FROM workspace_agent_logs", "1");
    let client = data.client_token("ada");

    (outage.begin)();
    let began = Instant::now();
    eventually(|| server.get("/readyz").status == 503).unwrap();
    loop {
        fails_fast(data, server, &client, outage);
        if began.elapsed() > lasts {
            break;
        }
        std::thread::sleep(lasts / 12);
    }
    (outage.end)();
    eventually(|| server.get("/readyz").status == 200).unwrap();
    assert_eq!(handshake(server).status, 101);
    agent.await_line("lifecycle READY");
    agent.await_line("used");
    let seen = || data.number("SELECT max(last_connected_at) FROM workspace_agents");
    let then = seen();
    eventually(|| seen() > then).unwrap();
    agent.terminate();
    let report = agent.result();
    Some(report)
}

/// Compares the store with what an agent was told, once all that is batched was written.
fn nothing_is_lost(data: &Data, server: Server, report: &Value) {
    assert_eq!(server.stop(), Some(0), "{}", data.log());
    assert_eq!(report["redials"], json!([]), "{}", data.log());
    assert_eq!(report["connections"], 1, "{report:#}");
    assert_eq!(report["log_lines_dropped"], 0);
    for (method, rpc) in report["rpcs"].as_object().unwrap() {
        assert_eq!(rpc["failed"], 0, "{method}: {rpc:#}");
    }
    assert_eq!(
        report["lifecycle"].to_string(),
        r#"["STARTING","READY","SHUTTING_DOWN","OFF"]"#
    );
    let main = "(SELECT id FROM workspace_agents WHERE parent_id IS NULL)";
    assert_eq!(
        data.value(&format!(
            "SELECT lifecycle_state FROM workspace_agents WHERE id = {main}"
        )),
        "off"
    );
    assert_eq!(
        rows(data, "workspace_agent_logs"),
        report["log_lines"].as_u64().unwrap()
    );
    assert_eq!(rows(data, "workspace_agent_script_timings"), 2);
    assert_eq!(rows(data, "workspace_app_statuses"), 2);
    assert_eq!(rows(data, "connection_logs"), 2);
    assert_eq!(rows(data, "boundary_usage_stats"), 1);
    let sub_agents =
        data.query("SELECT name, deleted FROM workspace_agents WHERE parent_id IS NOT NULL ORDER BY deleted");
    assert_eq!(sub_agents, ["main-web 0", "main-gone 1"]);
    // All reports but the first carry statistics.
    let reports = report["stats_at_ms"].as_array().unwrap().len() as u64 - 1;
    assert_eq!(rows(data, "workspace_agent_stats"), reports);
    let values = data.query("SELECT value FROM workspace_agent_metadata WHERE value <> ''");
    assert_eq!(values.len(), 2, "{values:?}");
    data.assert_intact();
    assert!(!data.log().contains("panic"), "{}", data.log());
}

/// Seeds another workspace, for which something has to be written.
fn seed_verb(data: &Data) -> Command {
    let file = data.path().join("other.yaml");
    std::fs::write(&file, EXAMPLE_SEED.replace("name: dev", "name: other")).unwrap();
    let mut command = drpcd();
    command.arg("seed").arg(file).args(data.store());
    command
}

/// Makes a client's token.
fn token_verb(data: &Data) -> Command {
    let mut command = drpcd();
    command.args(["token", "create", "--owner", "ada", "--data-dir"]);
    command.arg(data.path());
    command
}

fn locked(lasts: Duration) {
    let Some(data) = Data::in_a_file(EXAMPLE_SEED, LOCKED) else {
        return;
    };
    let server = data.serve(&FLAGS);
    let lock = std::cell::Cell::new(None);
    let outage = Outage {
        begin: &|| lock.set(Some(data.lock())),
        end: &|| drop(lock.take()),
        verb: &|verb| verb,
        reason: "database is locked",
    };
    if let Some(report) = an_agent_survives(&data, &server, lasts, &outage) {
        nothing_is_lost(&data, server, &report);
    }
}

#[test]
fn an_agent_survives_a_store_that_somebody_else_has_locked() {
    locked(SHORT);
}

#[test]
#[ignore = "ten minutes"]
fn an_agent_survives_a_store_that_is_locked_for_ten_minutes() {
    locked(LONG);
}

#[test]
fn an_agent_survives_a_full_disk() {
    let Some(data) = Data::in_a_file(EXAMPLE_SEED, DISK) else {
        return;
    };
    let server = data.serve(&FLAGS);
    let pid = server.pids()[0];
    let outage = Outage {
        begin: &|| may_write(pid, false),
        end: &|| may_write(pid, true),
        verb: &|verb| {
            let mut limited = Command::new("prlimit");
            limited
                .arg("--fsize=0")
                .arg(verb.get_program())
                .args(verb.get_args());
            limited
        },
        reason: "disk I/O error",
    };
    if let Some(report) = an_agent_survives(&data, &server, SHORT, &outage) {
        nothing_is_lost(&data, server, &report);
    }
}

/// The binary as a user whom permissions bind. A copy, for where the binary is may be out of that user's reach.
fn as_nobody(data: &Data) -> Command {
    let binary = data.path().join("drpcd");
    if !binary.exists() {
        std::fs::copy(drpcd().get_program(), &binary).unwrap();
    }
    let mut command = Command::new("setpriv");
    command
        .env_clear()
        .args([format!("--reuid={NOBODY}"), format!("--regid={NOBODY}")])
        .arg("--clear-groups")
        .arg(binary);
    command
}

/// Whether this is root, who alone can become somebody else; says so if not, which is a failure where `CI` says so.
fn is_root(data: &Data) -> bool {
    let root = data.path().metadata().unwrap().uid() == 0;
    if !root {
        let message = "not root: lost permissions are not tested";
        assert!(std::env::var_os("CI").is_none_or(|ci| ci != "true"), "{message}");
        eprintln!("{message}");
    }
    root
}

/// Whether the server's user may write the files, or only read them.
fn permit(data: &Data, write: bool) {
    let (owner, directory, file) = if write {
        (NOBODY, 0o755, 0o600)
    } else {
        (0, 0o555, 0o444)
    };
    for name in ["", "drpcd.db", "drpcd.db-wal", "drpcd.db-shm"] {
        let path = data.path().join(name);
        if path.exists() {
            let mode = if name.is_empty() { directory } else { file };
            chown(&path, Some(owner), Some(owner)).unwrap();
            std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
        }
    }
}

/// Makes the server give up the connection that it has open, by calls that are cancelled while they wait for a lock.
fn lose_connection(data: &Data, server: &Server, runtime: &Runtime) {
    let callers: Vec<_> = (0..4)
        .map(|_| runtime.block_on(client::dial(server.agent(), "probe")).unwrap())
        .collect();
    let lock = data.lock();
    for caller in callers {
        let call = runtime.spawn(async move {
            // Of nobody: nothing comes of it, should it get through.
            let id = vec![7; 16];
            let _ = caller.delete_sub_agent(&DeleteSubAgentRequest { id }).await;
        });
        std::thread::sleep(Duration::from_millis(700));
        call.abort();
    }
    std::thread::sleep(Duration::from_millis(300));
    drop(lock);
}

#[test]
fn an_agent_survives_the_loss_of_permissions() {
    let Some(data) = Data::in_a_file(EXAMPLE_SEED, PERMISSIONS) else {
        return;
    };
    if !is_root(&data) {
        return;
    }
    permit(&data, true);
    let server = data.serve_by(as_nobody(&data), "127.0.0.1:0", &FLAGS);
    let runtime = Runtime::new().unwrap();
    let begin = || {
        permit(&data, false);
        // What is open stays open.
        assert_eq!(server.get("/readyz").status, 200);
        let lost = || {
            lose_connection(&data, &server, &runtime);
            server.get("/readyz").status == 503
        };
        eventually(lost).unwrap();
    };
    let outage = Outage {
        begin: &begin,
        end: &|| permit(&data, true),
        verb: &|verb| {
            let mut command = as_nobody(&data);
            command.args(verb.get_args());
            command
        },
        reason: "attempt to write a readonly database",
    };
    if let Some(report) = an_agent_survives(&data, &server, SHORT, &outage) {
        nothing_is_lost(&data, server, &report);
    }
}

#[test]
fn a_start_without_permissions_is_refused_and_names_the_file() {
    let Some(data) = Data::in_a_file(EXAMPLE_SEED, PERMISSIONS) else {
        return;
    };
    if !is_root(&data) {
        return;
    }
    permit(&data, true);
    assert_eq!(
        data.serve_by(as_nobody(&data), "127.0.0.1:0", &[]).stop(),
        Some(0)
    );
    permit(&data, false);
    let mut start = as_nobody(&data);
    start.args(["server", "--http-address", "127.0.0.1:0", "--data-dir"]);
    let output = at_once("start", || start.arg(data.path()).output().unwrap());
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    let file = data.database().display().to_string();
    assert!(
        stderr.contains(&file) && stderr.contains("Permission denied"),
        "{stderr}"
    );
    permit(&data, true);
    assert_eq!(
        data.serve_by(as_nobody(&data), "127.0.0.1:0", &[]).stop(),
        Some(0)
    );
}

#[test]
fn an_agent_survives_a_store_that_takes_five_seconds_for_each_answer() {
    let Some(data) = Data::in_a_file(EXAMPLE_SEED, LOCKED) else {
        return;
    };
    let server = data.serve(&FLAGS);
    let flags = ["--use", "--start-script", "2s", "--duration", "3m"];
    let Some(mut agent) = go("agent", server.agent(), &flags) else {
        return;
    };
    agent.await_line("lifecycle STARTING");
    for _ in 0..3 {
        let lock = data.lock();
        std::thread::sleep(Duration::from_secs(5));
        assert_eq!(at_once("healthz", || server.get("/healthz")).status, 200);
        drop(lock);
        // Longer than SQLite waits between two looks at a lock.
        std::thread::sleep(Duration::from_millis(300));
    }
    agent.await_line("used");
    eventually(|| server.get("/readyz").status == 200).unwrap();
    agent.terminate();
    let report = agent.result();
    nothing_is_lost(&data, server, &report);
}
