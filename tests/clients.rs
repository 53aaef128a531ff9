//! Clients: people's programs that reach agents with a token of their own, through the real binary.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::io::Read as _;
use std::net::TcpStream;
use std::process::Output;

use serde_json::Value;
use support::http::{Answer, dial_at, get};
use support::{Data, EXAMPLE_SEED, Server, drpcd};

/// A second owner with a workspace, beside that of the example.
const BOB: &str = "owner: { username: bob }\nworkspace: { name: other }\nagents:\n  - { name: main, token: b7b4b0a6-6a53-4f5c-9d0e-4d8f5a1c2e3f }\n";

/// Data of two owners with an agent each, and a server on it.
struct Kit {
    data: Data,
    server: Server,
}

impl Kit {
    fn new() -> Self {
        let data = Data::new(&format!("{EXAMPLE_SEED}\n---\n{BOB}"));
        let server = data.serve(&["--log-filter", ".*"]);
        Self { data, server }
    }

    /// The id of an owner's agent.
    fn id(&self, owner: &str) -> String {
        self.data.agent_id(owner)
    }

    fn token(&self, verb: &str, flags: &[&str]) -> Output {
        let mut command = drpcd();
        command.args(["token", verb]).args(flags);
        command.args(self.data.store());
        command.output().unwrap()
    }

    /// A new token of `owner`.
    fn create(&self, owner: &str) -> String {
        self.data.client_token(owner)
    }

    fn get(&self, target: &str, token: &str) -> Answer {
        let header = format!("Coder-Session-Token: {token}\r\n");
        get(&self.server.url, target, &header)
    }

    fn dial(&self, target: &str, token: &str) -> (Answer, TcpStream) {
        dial_at(&self.server.url, target, token)
    }

    fn coordinate(&self, owner: &str, query: &str, token: &str) -> (Answer, TcpStream) {
        let target = format!("/api/v2/workspaceagents/{}/coordinate{query}", self.id(owner));
        self.dial(&target, token)
    }
}

#[track_caller]
fn assert_refused(answer: &Answer, status: u16, message: &str) {
    assert_eq!(answer.status, status, "{answer:?}");
    let body: Value = serde_json::from_str(&answer.body).unwrap();
    assert_eq!(body["message"], message, "{answer:?}");
}

const SIGNED_OUT: &str = "You are signed out or your session has expired. Please sign in again to continue.";
const NO_AGENT: &str = "Agent doesn't exist with that id, or you do not have access to it.";

#[test]
fn a_token_is_printed_once_listed_by_its_id_and_stored_as_a_hash() {
    let kit = Kit::new();
    let token = kit.create("Ada");
    let (id, secret) = token.split_once('-').unwrap();
    assert_eq!((id.len(), secret.len()), (10, 22));
    let listed = String::from_utf8(kit.token("list", &[]).stdout).unwrap();
    let fields: Vec<_> = listed.trim_end().split('\t').collect();
    assert_eq!((fields.len(), fields[0], fields[1]), (3, id, "ada"));
    let listed = kit.token("list", &["--output", "json"]).stdout;
    let listed: Value = serde_json::from_slice(&listed).unwrap();
    assert_eq!(
        (&listed[0]["id"], &listed[0]["owner"]),
        (&id.into(), &"ada".into())
    );
    let stored = kit.data.value("SELECT id, sha256 FROM drpcd_client_tokens");
    assert!(stored.starts_with(id) && !stored.contains(secret));
}

#[test]
fn a_token_for_nobody_and_the_end_of_no_token_are_errors() {
    let kit = Kit::new();
    let refused = |verb: &str, flags: &[&str], code: i32, text: &str| {
        let output = kit.token(verb, flags);
        let errors = String::from_utf8(output.stderr).unwrap();
        assert_eq!((output.status.code(), errors.as_str()), (Some(code), text));
        assert!(output.stdout.is_empty());
    };
    refused(
        "create",
        &["--owner", "eve"],
        1,
        "drpcd: there is no active user \"eve\"\n",
    );
    refused(
        "create",
        &["--owner", "prebuilds"],
        1,
        "drpcd: there is no active user \"prebuilds\"\n",
    );
    refused(
        "revoke",
        &["abcdefghij"],
        1,
        "drpcd: there is no token abcdefghij\n",
    );
    let whole = "drpcd: the id of a token is the ten letters and digits before its hyphen\n";
    refused("revoke", &["abcdefghij-0123456789012345678901"], 2, whole);
    assert_eq!(kit.data.value("SELECT count(*) FROM drpcd_client_tokens"), "0");
}

#[test]
fn a_client_is_told_what_it_needs_before_it_dials() {
    let kit = Kit::new();
    let token = kit.create("ada");
    let id = kit.id("ada");
    for target in ["connection", &format!("{id}/connection")] {
        let answer = kit.get(&format!("/api/v2/workspaceagents/{target}"), &token);
        assert_eq!(answer.status, 200, "{answer:?}");
        let body: Value = serde_json::from_str(&answer.body).unwrap();
        assert_eq!(body["derp_map"]["Regions"]["999"]["RegionCode"], "drpcd");
        assert_eq!(body["derp_force_websockets"], false);
        assert_eq!(body["disable_direct_connections"], false);
        assert_eq!(body["hostname_suffix"], "coder");
    }
}

#[test]
fn only_a_good_token_gets_a_client_in() {
    let kit = Kit::new();
    let token = kit.create("ada");
    let other = format!("{}-0123456789012345678901", &token[..10]);
    let agents_token = kit.server.agent().token.clone();
    for target in [
        "/api/v2/tailnet?version=2.8".to_owned(),
        "/api/v2/workspaceagents/connection".to_owned(),
        format!("/api/v2/workspaceagents/{}/connection", kit.id("ada")),
        format!("/api/v2/workspaceagents/{}/coordinate", kit.id("ada")),
    ] {
        assert_refused(&get(&kit.server.url, &target, ""), 401, SIGNED_OUT);
        for bad in [other.as_str(), agents_token.as_str(), "x", &"x".repeat(5_000)] {
            let answer = kit.get(&target, bad);
            assert_refused(&answer, 401, SIGNED_OUT);
            assert!(!answer.body.contains(bad) || bad == "x");
        }
    }
    assert_eq!(kit.server.dial_status(), 101, "agents are not concerned");
    let (answer, _) = support::http::dial(&kit.server.url, "", &token);
    assert_eq!(answer.status, 401, "a client is no agent");
    assert!(!kit.data.log().contains(&token[11..]));
}

#[test]
fn a_client_reaches_its_owners_agents_and_no_others() {
    let kit = Kit::new();
    let token = kit.create("ada");
    assert_eq!(kit.coordinate("ada", "?version=2.8", &token).0.status, 101);
    assert_eq!(kit.dial("/api/v2/tailnet?version=2.8", &token).0.status, 101);
    assert_refused(&kit.coordinate("bob", "?version=2.8", &token).0, 404, NO_AGENT);
    let foreign = format!("/api/v2/workspaceagents/{}/connection", kit.id("bob"));
    assert_refused(&kit.get(&foreign, &token), 404, NO_AGENT);
    let unknown = "/api/v2/workspaceagents/00000000-0000-4000-8000-000000000009/connection";
    assert_refused(&kit.get(unknown, &token), 404, NO_AGENT);
    let bad = kit.get("/api/v2/workspaceagents/x%22y/connection", &token);
    assert_refused(&bad, 400, "Invalid UUID \"x\\\"y\".");
    kit.data.execute("UPDATE workspaces SET deleted = TRUE");
    assert_refused(&kit.coordinate("ada", "", &token).0, 404, NO_AGENT);
    kit.data.execute("UPDATE users SET status = 'suspended'");
    assert_refused(&kit.coordinate("ada", "", &token).0, 401, SIGNED_OUT);
}

#[test]
fn tn_006_a_client_of_an_old_major_gets_no_session() {
    let kit = Kit::new();
    let token = kit.create("ada");
    for target in ["/api/v2/tailnet?version=1.0".to_owned(), {
        let id = kit.id("ada");
        format!("/api/v2/workspaceagents/{id}/coordinate?version=1.0")
    }] {
        let (answer, _) = kit.dial(&target, &token);
        assert_refused(&answer, 400, "Unknown or unsupported API version");
        let body: Value = serde_json::from_str(&answer.body).unwrap();
        assert_eq!(body["validations"][0]["field"], "version");
        assert_eq!(
            body["validations"][0]["detail"],
            "version 1.0 is no longer supported"
        );
    }
    assert_eq!(
        kit.dial("/api/v2/tailnet", &token).0.status,
        101,
        "2.0 when it says nothing"
    );
}

#[test]
fn a_bad_resume_token_is_401_and_names_itself() {
    let kit = Kit::new();
    let token = kit.create("ada");
    for target in ["/api/v2/tailnet?resume_token=x".to_owned(), {
        let id = kit.id("ada");
        format!(
            "/api/v2/workspaceagents/{id}/coordinate?resume_token={}",
            "A".repeat(76)
        )
    }] {
        let (answer, _) = kit.dial(&target, &token);
        assert_refused(&answer, 401, "Invalid resume token");
        let body: Value = serde_json::from_str(&answer.body).unwrap();
        assert_eq!(body["validations"][0]["field"], "resume_token");
        assert_eq!(body["validations"][0]["detail"], "Invalid resume token");
    }
    assert_eq!(kit.dial("/api/v2/tailnet?resume_token=", &token).0.status, 101);
}

#[test]
fn a_revoked_token_closes_its_connections_and_no_others() {
    let kit = Kit::new();
    let (token, kept) = (kit.create("ada"), kit.create("ada"));
    let mut ended = [
        kit.dial("/api/v2/tailnet", &token).1,
        kit.coordinate("ada", "", &token).1,
    ];
    let (_, mut lasting) = kit.dial("/api/v2/tailnet", &kept);
    let (_, mut agent) = kit.server.dial(kit.server.agent());
    support::eventually(|| kit.data.log().matches("accepting client connection").count() == 3).unwrap();
    let output = kit.token("revoke", &[&token[..10]]);
    assert!(output.status.success(), "{output:?}");
    for stream in &mut ended {
        let mut all = Vec::new();
        stream.read_to_end(&mut all).unwrap();
        // The status of a WebSocket that ends in order, 1000.
        assert!(all.windows(2).any(|code| code == [0x03, 0xe8]), "{all:?}");
    }
    for stream in [&mut lasting, &mut agent] {
        stream.set_nonblocking(true).unwrap();
        let error = stream.read(&mut [0]).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock, "still open");
    }
    assert_refused(&kit.dial("/api/v2/tailnet", &token).0, 401, SIGNED_OUT);
    assert!(!kit.data.log().contains(&token[11..]));
}

#[test]
fn clients_take_their_places_before_they_are_asked_who_they_are() {
    let data = Data::new(EXAMPLE_SEED);
    let server = data.serve_alone(&["--max-agent-connections", "1"]);
    let (answer, _agent) = server.dial(server.agent());
    assert_eq!(answer.status, 101);
    let (answer, _) = dial_at(&server.url, "/api/v2/tailnet", "nobody's");
    assert_eq!(answer.status, 503);
}

#[test]
fn one_users_clients_have_room_for_so_many_sessions_and_others_have_theirs() {
    const MOST: usize = 256;
    let data = Data::new(&format!("{EXAMPLE_SEED}\n---\n{BOB}"));
    let server = data.serve_alone(&[]);
    let tokens = ["ada", "ada", "bob"].map(|owner| data.client_token(owner));
    let dial = |token: &str| dial_at(&server.url, "/api/v2/tailnet", token);
    let mut held = Vec::new();
    for number in 0..MOST {
        let (answer, session) = dial(&tokens[number % 2]);
        assert_eq!(answer.status, 101, "{number}");
        held.push(session);
    }
    for token in &tokens[..2] {
        assert_refused(
            &dial(token).0,
            503,
            "The user's clients have too many connections.",
        );
    }
    assert_eq!(dial(&tokens[2]).0.status, 101);
    held.pop();
    support::eventually(|| dial(&tokens[0]).0.status == 101).unwrap();
}

#[test]
fn what_the_store_refuses_is_an_internal_error() {
    let kit = Kit::new();
    let token = kit.create("ada");
    kit.data.execute("DROP TABLE drpcd_client_tokens");
    let answer = kit.get("/api/v2/workspaceagents/connection", &token);
    let message = "An internal error occurred. Please try again or contact the system administrator.";
    assert_refused(&answer, 500, message);
}

#[test]
fn a_shutdown_closes_clients_as_it_closes_agents() {
    let kit = Kit::new();
    let token = kit.create("ada");
    let (_, mut stream) = kit.dial("/api/v2/tailnet", &token);
    support::eventually(|| kit.data.log().contains("accepting client connection")).unwrap();
    assert_eq!(kit.server.stop(), Some(0));
    let mut all = Vec::new();
    stream.read_to_end(&mut all).unwrap();
    // The status of a WebSocket that is going away, 1001.
    assert!(all.windows(2).any(|code| code == [0x03, 0xe9]), "{all:?}");
}
