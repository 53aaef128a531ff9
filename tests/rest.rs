//! The REST routes that agents and their tools use, on the real binary.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(clippy::disallowed_methods, reason = "real peers keep real time")]

mod support;

use std::io::Read as _;
use std::process::Stdio;
use std::time::{Duration, Instant};

use drpcd::clock::Timestamp;
use serde_json::{Value, json};
use support::http::{Answer, events, get, send};
use support::{Data, EXAMPLE_SEED, PATIENCE, Server, drpcd, uninterrupted, wait};

const ME: &str = "/api/v2/workspaceagents/me";

/// Two providers whose patterns both match GitHub.
const PROVIDERS: [(&str, &str); 6] = [
    ("CODER_EXTERNAL_AUTH_0_ID", "first"),
    ("CODER_EXTERNAL_AUTH_0_TYPE", "github"),
    ("CODER_EXTERNAL_AUTH_0_REGEX", "github"),
    ("CODER_EXTERNAL_AUTH_1_ID", "second"),
    ("CODER_EXTERNAL_AUTH_1_TYPE", "gitlab"),
    ("CODER_EXTERNAL_AUTH_1_REGEX", r"github\.com"),
];

/// Links the owner to `provider`.
fn link(data: &Data, provider: &str, key_id: &str) {
    let (epoch, never) = (data.time(Timestamp::UNIX_EPOCH), data.time(Timestamp::ZERO));
    data.execute(&format!(
        "INSERT INTO external_auth_links (provider_id, user_id, created_at, updated_at, oauth_access_token,
             oauth_refresh_token, oauth_expiry, oauth_access_token_key_id)
         SELECT '{provider}', owner_id, {epoch}, {epoch}, 'sesame', '', {never}, {key_id} FROM workspaces"
    ));
}

fn ask(server: &Server, target: &str) -> Answer {
    let header = format!("Coder-Session-Token: {}\r\n", server.agent().token);
    get(&server.url, &format!("{ME}{target}"), &header)
}

fn tell(server: &Server, method: &str, target: &str, body: &Value) -> Answer {
    let token = &server.agent().token;
    send(
        &server.url,
        method,
        &format!("{ME}{target}"),
        token,
        &body.to_string(),
    )
}

fn object(answer: &Answer) -> Value {
    serde_json::from_str(&answer.body).unwrap_or_else(|error| panic!("{error}: {answer:?}"))
}

fn message(answer: &Answer) -> String {
    object(answer)["message"].as_str().unwrap().to_owned()
}

#[test]
fn conn_060_and_062_reinit_pings_and_tells_of_a_claim_in_the_form_that_agents_read() {
    let owner = "owner: { username: ada, name: Ada Lovelace, email: ada@example.com }";
    assert!(EXAMPLE_SEED.contains(owner));
    let data = Data::new(&EXAMPLE_SEED.replacen(owner, "owner: { username: prebuilds }", 1));
    let server = data.serve(&[]);
    let (head, mut stream) = events(&server.url, &format!("{ME}/reinit"), &server.agent().token);
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
    assert!(head.contains("content-type: text/event-stream\r\n"), "{head}");
    let mut text = String::new();
    let mut read_until = |end: &str| {
        let mut buffer = [0; 1024];
        while !text.contains(end) {
            let length = uninterrupted(|| stream.read(&mut buffer)).unwrap();
            assert!(length > 0, "the stream ended: {text:?}");
            text.push_str(std::str::from_utf8(&buffer[..length]).unwrap());
            assert!(text.matches("ping").count() < 4, "no {end:?}: {text:?}");
        }
        std::mem::take(&mut text)
    };
    assert!(read_until("ping").contains("event: ping"));
    let workspace = data.value("SELECT id FROM workspaces");
    data.publish(&format!("prebuild_claimed_{workspace}"), "any");
    let claim = read_until("prebuild_claimed");
    let lines: Vec<_> = claim
        .lines()
        .filter(|line| line.starts_with("event: data") || line.starts_with("data: "))
        .collect();
    assert_eq!(lines[0], "event: data", "{claim:?}");
    let event: Value = serde_json::from_str(lines[1].strip_prefix("data: ").unwrap()).unwrap();
    assert_eq!(event["reason"], "prebuild_claimed");
    assert_eq!(event["WorkspaceID"], workspace);
    assert_eq!(server.stop(), Some(0), "an open stream does not hold up the end");
}

#[test]
fn conn_061_a_route_that_does_not_exist_is_a_404_that_agents_can_read() {
    let data = Data::new(EXAMPLE_SEED);
    let server = data.serve(&[]);
    let answer = ask(&server, "/no-such-route");
    assert_eq!(
        (answer.status, message(&answer).as_str()),
        (404, "Route not found.")
    );
    assert_eq!(server.dial_status(), 101, "agents connect all the same");
}

#[test]
fn conn_063_without_user_data_there_is_no_git_key_and_no_token() {
    let data = Data::new(EXAMPLE_SEED);
    let server = data.serve_with(&[], &PROVIDERS);
    let answer = ask(&server, "/gitsshkey");
    let key = object(&answer);
    assert_eq!(answer.status, 200);
    assert!(key["public_key"].as_str().unwrap().starts_with("ssh-ed25519 "));
    assert!(key["private_key"].as_str().unwrap().contains("PRIVATE KEY"));
    assert_eq!(server.stop(), Some(0));
    assert!(!data.log().contains("PRIVATE KEY"));

    let scoped = EXAMPLE_SEED.replace(
        "    architecture: amd64\n",
        "    architecture: amd64\n    api_key_scope: no_user_data\n",
    );
    let data = Data::new(&scoped);
    let server = data.serve_with(&[], &PROVIDERS);
    for target in ["/gitsshkey", "/external-auth?id=first"] {
        let answer = ask(&server, target);
        assert!((400..500).contains(&answer.status), "{target}: {answer:?}");
        assert!(!answer.body.contains("KEY"), "{answer:?}");
    }
}

#[test]
fn conn_064_and_065_a_provider_is_named_by_one_of_id_and_match_and_the_last_match_wins() {
    let data = Data::new(EXAMPLE_SEED);
    let server = data.serve_with(&[], &PROVIDERS);
    for (target, text) in [
        ("/external-auth", "'url' or 'id' must be provided!"),
        (
            "/external-auth?id=first&match=x",
            "'url' and 'id' cannot be provided together!",
        ),
        (
            "/external-auth?id=first&url=x",
            "'url' and 'id' cannot be provided together!",
        ),
    ] {
        let answer = ask(&server, target);
        assert_eq!(
            (answer.status, message(&answer).as_str()),
            (400, text),
            "{target}"
        );
    }
    let answer = ask(&server, "/external-auth?match=https://example.org/");
    assert_eq!(answer.status, 404);
    assert_eq!(
        message(&answer),
        "No matching external auth provider found in Coder for the url \"https://example.org/\"."
    );
    // No link yet: where to make one.
    let answer = object(&ask(&server, "/external-auth?match=https://github.com/x"));
    assert_eq!(answer["url"], format!("{}/external-auth/second", server.url));
    link(&data, "second", "NULL");
    let answer = object(&ask(&server, "/external-auth?match=https://github.com/x"));
    for (field, value) in [
        ("access_token", "sesame"),
        ("type", "gitlab"),
        ("username", "oauth2"),
        ("password", "sesame"),
    ] {
        assert_eq!(answer[field], value, "{field}: {answer}");
    }
    assert_eq!(server.stop(), Some(0));
    assert!(!data.log().contains("sesame"));
}

#[test]
fn conn_066_listening_answers_soon_after_the_link_is_made() {
    let data = Data::new(EXAMPLE_SEED);
    let server = data.serve_with(&[], &PROVIDERS);
    let started = Instant::now();
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| ask(&server, "/external-auth?id=first&listen=true"));
        std::thread::sleep(Duration::from_secs(2));
        assert!(!waiting.is_finished());
        link(&data, "first", "NULL");
        let answer = waiting.join().unwrap();
        assert_eq!(
            (answer.status, &object(&answer)["access_token"]),
            (200, &json!("sesame"))
        );
    });
    assert!(started.elapsed() >= Duration::from_secs(2));
}

#[test]
fn conn_067_a_log_source_is_created_as_often_as_one_likes_and_takes_lines() {
    let data = Data::new(EXAMPLE_SEED);
    let server = data.serve(&[]);
    let id = "3b579bf4-0000-4b99-87a8-e9a1e3410499";
    let source = json!({ "id": id, "display_name": "Tool", "icon": "/icon/tool.svg" });
    for _ in 0..2 {
        let answer = tell(&server, "POST", "/log-source", &source);
        let created = object(&answer);
        assert_eq!(
            (answer.status, &created["id"], &created["display_name"]),
            (201, &json!(id), &json!("Tool"))
        );
    }
    let sources = "SELECT count(*) FROM workspace_agent_log_sources WHERE display_name = 'Tool'";
    assert_eq!(data.value(sources), "1");
    let lines = json!({ "log_source_id": id, "logs": [
        { "created_at": "2026-03-20T12:00:00Z", "output": "hello", "level": "warn" },
    ] });
    assert_eq!(tell(&server, "PATCH", "/logs", &lines).status, 200);
    assert_eq!(
        data.query("SELECT level, output FROM workspace_agent_logs"),
        ["warn hello"]
    );
    let status = json!({ "app_slug": "code", "state": "working", "message": "at it", "uri": "" });
    let answer = tell(&server, "PATCH", "/app-status", &status);
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(
        data.query("SELECT state, message FROM workspace_app_statuses"),
        ["working at it"]
    );
    let bad = tell(
        &server,
        "PATCH",
        "/app-status",
        &json!({ "app_slug": "none", "state": "idle", "message": "" }),
    );
    assert_eq!(
        (bad.status, message(&bad).as_str()),
        (400, "Failed to get workspace app.")
    );
}

#[test]
fn conn_068_the_builds_version_is_one_with_which_log_streamers_dial_2_8() {
    let data = Data::new(EXAMPLE_SEED);
    let server = data.serve(&[]);
    let info = object(&server.get("/api/v2/buildinfo"));
    let version = info["version"].as_str().unwrap();
    let numbers: Vec<u32> = version
        .trim_start_matches('v')
        .split(['.', '+', '-'])
        .take(3)
        .map(|number| number.parse().unwrap())
        .collect();
    assert!(numbers >= vec![2, 31, 0], "{version}");
    assert_eq!(info["agent_api_version"], "2.8");
}

#[test]
fn conn_073_an_encrypted_link_is_an_error_and_its_text_stays_here() {
    let data = Data::new(EXAMPLE_SEED);
    let server = data.serve_with(&[], &PROVIDERS);
    link(&data, "first", "'key'");
    let answer = ask(&server, "/external-auth?id=first");
    assert_eq!(answer.status, 500);
    assert!(!format!("{answer:?}").contains("sesame"), "{answer:?}");
}

#[test]
fn every_route_asks_who_one_is() {
    let data = Data::new(EXAMPLE_SEED);
    let server = data.serve(&[]);
    let stranger = "99999999-9999-4999-8999-999999999999";
    for (method, target) in [
        ("GET", "/gitsshkey"),
        ("GET", "/external-auth?id=x"),
        ("GET", "/reinit"),
        ("POST", "/log-source"),
        ("PATCH", "/logs"),
        ("PATCH", "/app-status"),
    ] {
        let answer = send(&server.url, method, &format!("{ME}{target}"), stranger, "{}");
        assert_eq!(
            (answer.status, message(&answer).as_str()),
            (401, "Workspace agent not authorized."),
            "{target}"
        );
    }
    assert_eq!(tell(&server, "PATCH", "/logs", &json!("no object")).status, 400);
}

#[test]
fn a_provider_that_cannot_be_used_is_named_at_the_start_without_its_value() {
    let data = Data::new(EXAMPLE_SEED);
    let mut command = drpcd();
    command
        .args(["server", "--http-address", "127.0.0.1:0"])
        .args(data.store())
        .env("CODER_EXTERNAL_AUTH_0_ID", "git")
        .env("CODER_EXTERNAL_AUTH_0_TOKEN_URL", "secret-but-no-url")
        .stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    assert_eq!(wait(&mut child, PATIENCE).code(), Some(2));
    let mut error = String::new();
    child.stderr.take().unwrap().read_to_string(&mut error).unwrap();
    let expected = "drpcd: invalid value of CODER_EXTERNAL_AUTH_0_TOKEN_URL: relative URL without a base\n";
    assert_eq!(error, expected);
}
