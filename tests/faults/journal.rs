//! What an agent, and whoever else asks, meets while a store is away, and what has to be in it afterwards.
//!
//! Owns the rules of an outage; those for sessions of clients are in `clients.rs`. Knows no way to make one.

use std::process::Command;
use std::time::{Duration, Instant};

use drpcd::clock::Clock;
use serde_json::{Value, json};

use crate::clients::Clients;
use crate::support::http::{Answer, dial, get, send};
use crate::support::{Data, EXAMPLE_SEED, Server, drpcd, eventually, go};

/// How long an outage lasts in a plain run: longer than the timeouts of calls that fail fast, so that all that may wait
/// waits.
pub(crate) const SHORT: Duration = Duration::from_secs(8);

/// What the specification asks for.
pub(crate) const LONG: Duration = Duration::from_mins(10);

/// What must fail within two seconds does so in this, on a machine that has other things to do.
pub(crate) const FAIL_FAST: Duration = Duration::from_secs(8);

/// What waited goes on within five seconds of the store's return, and within this on such a machine. Calls that wait look again
/// every three seconds only, so it is more than whoever just connects again has (`tests/pubsub/outages.rs`).
const RECOVERY: Duration = Duration::from_secs(12);

/// Said where the answer of the store itself, which comes at about the same time, was not there yet.
const LATE: &str = "context deadline exceeded";

/// What clients are told, and what comes before the reason.
const CLIENT_REFUSED: &str =
    "An internal error occurred. Please try again or contact the system administrator.";
const CLIENT_DETAIL: &str = "Internal error fetching the client token: ";

/// Fast enough that every kind of write is due several times within [`SHORT`], and not so fast that an agent on a busy machine
/// looks silent.
pub(crate) const FLAGS: [&str; 4] = [
    "--agent-stats-refresh-interval",
    "1s",
    "--agent-connection-update-frequency",
    "2s",
];

/// What an agent does that [`nothing_is_lost`] looks for.
pub(crate) const AGENT: [&str; 9] = [
    "--use",
    "--start-script",
    "4s",
    "--stop-script",
    "1s",
    "--log-lines",
    "200",
    "--banner-interval",
    "1s",
];

/// A way in which a store can be away.
pub(crate) struct Outage<'a> {
    pub begin: &'a dyn Fn(),
    pub end: &'a dyn Fn(),
    /// Puts a verb into the same straits.
    pub verb: &'a dyn Fn(Command) -> Command,
    /// What everybody is told: one of these, or [`LATE`].
    pub reasons: &'a [&'a str],
    /// What verbs are told: one of these.
    pub told_verbs: &'a [&'a str],
    /// What only reads gets through, or does not: writes alone are sure to wait.
    pub reads: bool,
    /// Nothing gets through at all, neither writes nor reads.
    pub away: bool,
}

impl Outage<'_> {
    /// Whether a text gives such a reason.
    pub(crate) fn is_told(&self, text: &str) -> bool {
        self.reasons
            .iter()
            .chain([&LATE])
            .any(|reason| text.contains(reason))
    }
}

/// Samples of agents' statistics.
const STATS: &str = "workspace_agent_stats";

fn rows(data: &Data, table: &str) -> u64 {
    let count = data.number(&format!("SELECT count(*) FROM {table}"));
    u64::try_from(count).unwrap()
}

/// Waits until every replica says this of its readiness.
#[track_caller]
fn everywhere(server: &Server, ready: u16) {
    for replica in 0..server.replicas() {
        let says = || get(server.replica_url(replica), "/readyz", "").status;
        eventually(|| says() == ready).unwrap();
    }
}

/// Runs `ask`, which must not take long.
#[track_caller]
pub(crate) fn at_once<T>(what: &str, ask: impl FnOnce() -> T) -> T {
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
    let ready = at_once("readyz", || server.get("/readyz")).status;
    assert!(ready == 503 || outage.reads, "{ready}");
    let refused = [
        ("handshake", 101, at_once("handshake", || handshake(server))),
        ("PATCH logs", 500, at_once("PATCH logs", || patch_logs(server))),
    ];
    for (what, by_reading, answer) in refused {
        if !(outage.reads && answer.status == by_reading) {
            assert_eq!(answer.status, 500, "{what}: {}", answer.body);
            assert!(outage.is_told(&answer.body), "{what}: {}", answer.body);
        }
    }
    // What may still be read lets a client in.
    let header = format!("Coder-Session-Token: {client}\r\n");
    let ask = || get(&server.url, "/api/v2/workspaceagents/connection", &header);
    let answer = at_once("a client", ask);
    if outage.away || answer.status != 200 {
        assert_eq!(answer.status, 500, "{}", answer.body);
        let body: Value = serde_json::from_str(&answer.body).unwrap();
        assert_eq!(body["message"], CLIENT_REFUSED, "{}", answer.body);
        let detail = body["detail"].as_str().unwrap();
        assert!(detail.starts_with(CLIENT_DETAIL), "{detail}");
        assert!(outage.is_told(detail), "{detail}");
    }
    for verb in [seed_verb(data), token_verb(data)] {
        let output = at_once("a verb", || (outage.verb)(verb).output().unwrap());
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{stderr}");
        let is_told = outage.told_verbs.iter().any(|reason| stderr.contains(reason));
        assert!(is_told, "{stderr}");
    }
}

/// An agent starts, reports and is used while the store is away for `lasts`, and clients of the same replica ask. Returns what it
/// has to tell; `None` without Go.
pub(crate) fn an_agent_survives(
    data: &Data,
    server: &Server,
    lasts: Duration,
    outage: &Outage<'_>,
) -> Option<Value> {
    let duration = format!("{}s", (lasts + Duration::from_secs(120)).as_secs());
    let flags = [&AGENT[..], &["--duration", &duration]].concat();
    let client = data.client_token("ada");
    let mut clients = Clients::dial(data, server, &client);
    let mut agent = go("agent", &server.agent_at(0), &flags)?;
    agent.await_line("lifecycle STARTING");
    data.await_connected();
    data.await_value("SELECT count(*) > 0 FROM workspace_agent_logs", "1");
    clients.meet();

    (outage.begin)();
    let began = Instant::now();
    if !outage.reads {
        everywhere(server, 503);
    }
    loop {
        fails_fast(data, server, &client, outage);
        clients.ask(outage);
        if began.elapsed() > lasts {
            break;
        }
        std::thread::sleep(lasts / 12);
    }
    (outage.end)();
    let (back, back_at) = (Instant::now(), Clock::system().now());
    // What is reported from now on is stored again, and what waited is answered.
    let reported = format!(
        "SELECT count(*) > 0 FROM {STATS} WHERE created_at > {}",
        data.time(back_at)
    );
    data.await_value(&reported, "1");
    agent.await_line("lifecycle READY");
    let recovery = back.elapsed();
    eprintln!("what waited went on {recovery:?} after the store's return");
    assert!(recovery < RECOVERY, "{recovery:?}");
    everywhere(server, 200);
    assert_eq!(handshake(server).status, 101);
    clients.are_served();
    agent.await_line("used");
    let seen = || data.number("SELECT max(last_connected_at) FROM workspace_agents");
    let then = seen();
    eventually(|| seen() > then).unwrap();
    agent.terminate();
    let report = agent.result();
    Some(report)
}

/// Compares the store with what an agent was told, once all that is batched was written.
pub(crate) fn nothing_is_lost(data: &Data, server: Server, report: &Value) {
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
    // All reports but the first carry statistics, and one may have been stored whose answer the agent did not wait for.
    let reports = report["stats_at_ms"].as_array().unwrap().len() as u64 - 1;
    let unanswered = report["rpcs"]["UpdateStats"]["aborted"].as_u64().unwrap();
    let stored = rows(data, STATS);
    assert!(
        (reports..=reports + unanswered).contains(&stored),
        "{stored} of {reports} and {unanswered}"
    );
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
    command
        .args(["token", "create", "--owner", "ada"])
        .args(data.store());
    command
}
