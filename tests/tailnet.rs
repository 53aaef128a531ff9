//! Agents and clients find each other: real Go agents and clients, through the real binary.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use serde_json::Value;
use support::{Data, EXAMPLE_SEED, Go, SeededAgent, Server, go};

/// Starts a Go program, or ends the test where there is no Go.
macro_rules! go {
    ($($argument:expr),* $(,)?) => {
        match go($($argument),*) {
            Some(go) => go,
            None => return,
        }
    };
}

/// A second owner with a workspace, beside that of the example.
const BOB: &str = "owner: { username: bob }\nworkspace: { name: other }\nagents:\n  \
    - { name: main, token: b7b4b0a6-6a53-4f5c-9d0e-4d8f5a1c2e3f }\n";

struct Kit {
    data: Data,
    server: Server,
    /// Id of ada's agent.
    ada: String,
    /// Id of bob's.
    bob: String,
    /// A client token of ada's, where the server is.
    client: SeededAgent,
}

impl Kit {
    fn new() -> Self {
        Self::at("127.0.0.1:0")
    }

    fn at(address: &str) -> Self {
        let data = Data::new(&format!("{EXAMPLE_SEED}\n---\n{BOB}"));
        let server = data.serve_at(address, &[], &[]);
        Self {
            ada: data.agent_id("ada"),
            bob: data.agent_id("bob"),
            client: SeededAgent {
                name: "client".to_owned(),
                url: server.url.clone(),
                token: data.client_token("ada"),
            },
            data,
            server,
        }
    }

    fn bobs_agent(&self) -> &SeededAgent {
        &self.server.agents[1]
    }
}

/// What must be done within a second is done in this, on a machine that has other things to do.
const AT_ONCE_MS: u64 = 4_000;

/// When the `nth` event of that name and id was, in milliseconds.
#[track_caller]
fn at(report: &Value, what: &str, id: &str, nth: usize) -> u64 {
    let events = report["events"].as_array().unwrap();
    let mut matching = events
        .iter()
        .filter(|event| event["what"] == what && event["id"].as_str().unwrap_or("") == id);
    matching
        .nth(nth)
        .unwrap_or_else(|| panic!("no {what} {id} in {report:#}"))["at_ms"]
        .as_u64()
        .unwrap()
}

fn count(report: &Value, what: &str) -> u64 {
    report["counts"][what].as_u64().unwrap_or(0)
}

/// Ends a program in order, for its report.
#[track_caller]
fn ended(go: Go) -> Value {
    go.terminate();
    go.result()
}

/// An agent was told once that its client, which was lost before, is gone for good. Of a client that one replica has lost and
/// that said goodbye to another, it may stay told of the loss, as in the original: no replica takes back what another wrote.
#[track_caller]
fn assert_told_of_goodbye(report: &Value, replicas: usize) {
    let told = report["peer_updates"]["DISCONNECTED"].as_u64().unwrap_or(0);
    assert!(told <= 1 && (told == 1 || replicas > 1), "{report:#}");
}

#[test]
fn tn_092_a_clients_tunnel_to_an_agent_is_ready_within_a_second() {
    let kit = Kit::new();
    let mut agent = go!("agent", kit.server.agent(), &["--duration", "1m"]);
    agent.await_line("lifecycle READY");
    for flags in [["--agent", &kit.ada], ["--tunnel", &kit.ada]] {
        let mut client = go!("client", &kit.client, &flags);
        client.await_line(&format!("NODE {}", kit.ada));
        client.await_line(&format!("READY_FOR_HANDSHAKE {}", kit.ada));
        let report = ended(client);
        let ready = at(&report, "READY_FOR_HANDSHAKE", &kit.ada, 0) - at(&report, "tunnels", "", 0);
        assert!(ready <= AT_ONCE_MS, "{ready} ms: {report:#}");
        assert_eq!(report["disconnect_ended"], true);
        assert_eq!(report["errors"], serde_json::json!([]));
        assert!(report["info"]["derp_map"]["Regions"]["999"].is_object());
    }
    let report = ended(agent);
    // Both clients came and went in order.
    assert_eq!(report["peer_updates"]["NODE"], 2, "{report:#}");
    assert_eq!(report["peer_updates"]["DISCONNECTED"], 2, "{report:#}");
    assert_eq!(report["coordinate_errors"], serde_json::json!([]));
}

#[test]
fn tn_093_a_session_survives_a_restart_of_the_server() {
    // Picked and freed: both servers must have one address.
    let address = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr();
    let address = address.unwrap().to_string();
    let kit = Kit::at(&address);
    let mut agent = go!("agent", kit.server.agent(), &["--duration", "2m"]);
    agent.await_line("lifecycle READY");
    let flags = ["--tunnel", &kit.ada, "--resume", "--duration", "2m"];
    let mut client = go!("client", &kit.client, &flags);
    client.await_line(&format!("READY_FOR_HANDSHAKE {}", kit.ada));
    assert_eq!(kit.server.stop(), Some(0));
    let server = kit.data.serve_at(&address, &[], &[]);
    // An agent at one replica may be ready before the client at another hears of its node.
    client.await_all(&[
        &format!("NODE {}", kit.ada),
        &format!("READY_FOR_HANDSHAKE {}", kit.ada),
    ]);
    let report = ended(client);
    assert_eq!(count(&report, "DISCONNECTED"), 0, "{report:#}");
    assert_eq!(report["connections"], 2);
    let report = ended(agent);
    assert_eq!(report["connections"], 2, "{report:#}");
    // The client's goodbye at the end, and nothing else: the restart told nobody that anybody had left.
    assert_told_of_goodbye(&report, server.replicas());
    assert_eq!(server.stop(), Some(0));
}

#[test]
fn tn_094_an_agents_end_ends_its_coordination() {
    let kit = Kit::new();
    let mut agent = go!("agent", kit.server.agent(), &["--duration", "1m"]);
    agent.await_line("lifecycle READY");
    let mut client = go!("client", &kit.client, &["--agent", &kit.ada]);
    client.await_line(&format!("READY_FOR_HANDSHAKE {}", kit.ada));
    let report = ended(agent);
    assert_eq!(report["disconnect_ended"], true);
    let steps = &report["steps_ms"];
    let (said, over) = (&steps["disconnect"], &steps["coordinate_ended"]);
    let took = over.as_u64().unwrap() - said.as_u64().unwrap();
    assert!(took <= AT_ONCE_MS, "{took} ms: {report:#}");
    client.await_line(&format!("DISCONNECTED {}", kit.ada));
    let report = ended(client);
    assert_eq!(count(&report, "LOST"), 0, "{report:#}");
}

#[test]
fn an_agent_that_is_cut_is_lost_and_found() {
    let kit = Kit::new();
    let flags = ["--duration", "1m", "--cut-after", "4s"];
    let agent = go!("agent", kit.server.agent(), &flags);
    let mut client = go!("client", &kit.client, &["--agent", &kit.ada]);
    client.await_line(&format!("NODE {}", kit.ada));
    client.await_line(&format!("LOST {}", kit.ada));
    client.await_line(&format!("NODE {}", kit.ada));
    let report = ended(client);
    assert_eq!(count(&report, "DISCONNECTED"), 0, "{report:#}");
    ended(agent);
}

#[test]
fn a_resume_token_keeps_the_peer_id_and_a_bad_one_is_dropped() {
    let kit = Kit::new();
    let mut agent = go!("agent", kit.server.agent(), &["--duration", "1m"]);
    agent.await_line("lifecycle READY");
    let flags = [
        "--tunnel",
        &kit.ada,
        "--resume",
        "--resume-token",
        "bad",
        "--cut-after",
        "3s",
    ];
    let mut client = go!("client", &kit.client, &flags);
    // An agent that has not heard of the loss before it hears of the client at another replica has no news, and is not ready
    // once more.
    let last = match kit.server.replicas() {
        1 => format!("READY_FOR_HANDSHAKE {}", kit.ada),
        _ => format!("NODE {}", kit.ada),
    };
    for _ in 0..2 {
        client.await_line("connected");
        client.await_all(&["resume_token", &last]);
    }
    let report = ended(client);
    assert_eq!(report["connections"], 2, "{report:#}");
    assert_eq!(count(&report, "resume_token"), 2);
    let refused = &report["events"][0];
    assert!(
        refused["id"].as_str().unwrap().contains("Invalid resume token"),
        "{report:#}"
    );
    let report = ended(agent);
    // The same peer again: found anew, never gone for good before its goodbye.
    assert_eq!(report["peer_ids"].as_array().map(Vec::len), Some(1), "{report:#}");
    assert_told_of_goodbye(&report, kit.server.replicas());
}

#[test]
fn a_client_of_an_owner_sees_agents_come_and_go() {
    let kit = Kit::new();
    let owner = kit.data.value("SELECT id FROM users WHERE username = 'ada'");
    let mut client = go!("client", &kit.client, &["--follow", &owner]);
    client.await_line("workspace_update");
    let second = "owner: { username: ada }\nworkspace: { name: dev }\nagents: [{ name: second }]\n";
    kit.data.seed(second);
    client.await_line("workspace_update");
    let report = ended(client);
    let updates = report["updates"].as_array().unwrap();
    assert_eq!(updates[0]["upserted_workspaces"][0]["name"], "dev", "{report:#}");
    assert_eq!(updates[0]["upserted_agents"][0]["name"], "main");
    assert_eq!(updates[1]["upserted_agents"][0]["name"], "second");
}

#[test]
fn what_no_client_may_ends_its_stream_and_troubles_nobody_else() {
    let kit = Kit::new();
    let mut agent = go!("agent", kit.server.agent(), &["--duration", "2m"]);
    agent.await_line("lifecycle READY");
    let mut good = go!("client", &kit.client, &["--agent", &kit.ada, "--duration", "2m"]);
    good.await_line(&format!("READY_FOR_HANDSHAKE {}", kit.ada));
    for (kind, text) in [
        (
            "foreign-tunnel",
            "authorization: workspace agent not found or you do not have permission",
        ),
        ("ready", "authorization: clients may not send ready_for_handshake"),
        (
            "address",
            "authorization: invalid address bits, expected 128, got 8",
        ),
        (
            "allowed-ips",
            "authorization: invalid address bits, expected 128, got 0",
        ),
        ("big-node", "node"),
        (
            "tunnels",
            "authorization: workspace agent not found or you do not have permission",
        ),
    ] {
        let mut bad = go!(
            "client",
            &kit.client,
            &["--tunnel", &kit.ada, "--misbehave", kind]
        );
        bad.await_start("error ");
        let report = ended(bad);
        let told = report["errors"][0].as_str().unwrap();
        assert!(told.contains(text), "{kind}: {told}");
    }
    let flood = go!(
        "client",
        &kit.client,
        &["--agent", &kit.ada, "--misbehave", "flood", "--duration", "5s"]
    );
    let (report, ok) = flood.finish();
    assert!(
        ok && count(&report, "ended") == 0,
        "bounded, not refused: {report:#}"
    );
    let report = ended(good);
    assert_eq!(
        (count(&report, "ended"), count(&report, "LOST")),
        (0, 0),
        "{report:#}"
    );
    let report = ended(agent);
    assert_eq!(report["connections"], 1, "{report:#}");
}

#[test]
fn a_client_reaches_no_other_owners_agent() {
    let kit = Kit::new();
    let mut bobs = go!("agent", kit.bobs_agent(), &["--duration", "1m"]);
    bobs.await_line("lifecycle READY");
    let (report, ok) = go!("client", &kit.client, &["--agent", &kit.bob]).finish();
    assert!(!ok && report["connections"] == 0, "{report:#}");
    assert!(report["final"].as_str().unwrap().contains("404"), "{report:#}");
    let mut client = go!("client", &kit.client, &["--tunnel", &kit.bob]);
    client.await_start("error authorization: workspace agent not found");
    client.terminate();
    client.finish();
    let report = ended(bobs);
    assert_eq!(report["peer_updates"], serde_json::json!({}), "{report:#}");
}
