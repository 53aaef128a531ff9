//! Who may connect, by what the database says, through the real binary.

mod support;

use std::io::Read as _;

use drpcd::clock::Timestamp;
use support::http::{RPC, dial, get, handshake};
use support::{Data, EXAMPLE_SEED, Server};
use uuid::Uuid;

const NOT_AUTHORIZED: &str = "{\"message\":\"Workspace agent not authorized.\",\"detail\":\"The agent cannot \
    authenticate until the workspace provision job has been completed. If the job is no longer running, this agent is \
    invalid.\"}\n";

/// How far a job is.
#[derive(Clone, Copy)]
enum Job {
    Pending,
    Running,
    Succeeded,
    Failed,
}

/// When what these tests add was made.
const MADE: Timestamp = Timestamp::from_micros(1);

/// A server with one agent of build 1, whose `start` job has succeeded.
fn seeded() -> (Data, Server) {
    let data = Data::new(EXAMPLE_SEED);
    let server = data.serve(&[]);
    assert_eq!(server.dial_status(), 101);
    (data, server)
}

/// Adds a build to the one workspace.
fn add_build(data: &Data, number: u8, transition: &str, job: Job) {
    let id = data.id(Uuid::from_u128(number.into()));
    let made = data.time(MADE);
    let (started, completed, error) = match job {
        Job::Pending => ("NULL", "NULL", "NULL"),
        Job::Running => (made.as_str(), "NULL", "NULL"),
        Job::Succeeded => (made.as_str(), made.as_str(), "NULL"),
        Job::Failed => (made.as_str(), made.as_str(), "'out of quota'"),
    };
    data.execute(&format!(
        "INSERT INTO provisioner_jobs (id, organization_id, initiator_id, type, created_at, updated_at, started_at,
             completed_at, error)
         SELECT {id}, organization_id, initiator_id, type, {made}, {made}, {started}, {completed}, {error}
         FROM provisioner_jobs WHERE type = 'workspace_build' LIMIT 1;
         INSERT INTO workspace_builds (id, workspace_id, template_version_id, initiator_id, job_id, created_at, updated_at,
             build_number, transition)
         SELECT {id}, workspace_id, template_version_id, initiator_id, {id}, {made}, {made}, {number}, '{transition}'
         FROM workspace_builds WHERE build_number = 1"
    ));
}

#[track_caller]
fn assert_refused(server: &Server) {
    let (answer, _) = server.dial(server.agent());
    assert_eq!((answer.status, answer.body.as_str()), (401, NOT_AUTHORIZED));
}

/// In all their forms the answers are tested where they are made (`src/http/tests.rs`); here it is a store, of either engine, that
/// says who is there.
#[test]
fn conn_001_to_008_011_to_015_017_and_019_handshakes_of_all_kinds_on_a_real_store() {
    let (_data, server) = seeded();
    let token = &server.agent().token;
    let shout = token.to_uppercase();
    let unknown = "33333333-3333-4333-8333-333333333333";
    let header = |token: &str| format!("Coder-Session-Token: {token}\r\n");
    let cookie = format!("Cookie: coder_session_token={token}\r\n");
    let offers = "Sec-WebSocket-Extensions: permessage-deflate\r\nSec-WebSocket-Protocol: derp\r\n";
    let in_query = format!("?coder_session_token={token}");
    for (query, headers, status, said) in [
        ("?version=2.8&role=agent", header(token) + offers, 101, ""),
        ("", cookie.clone(), 101, ""),
        (&in_query, String::new(), 101, ""),
        ("", format!("Authorization: bearer {token}\r\n"), 101, ""),
        ("", header(unknown) + &cookie, 101, ""),
        (
            "",
            String::new(),
            401,
            "Cookie \\\"coder_session_token\\\" must be provided.",
        ),
        (
            "",
            header("abc"),
            401,
            "An agent token must be a valid UUIDv4. (len 3)",
        ),
        ("", header(&format!("{{{token}}}")), 101, ""),
        ("", header(&token.replace('-', "")), 101, ""),
        ("", header(&shout), 101, ""),
        (
            "?version=9.9",
            header("abc"),
            401,
            "Workspace agent token invalid.",
        ),
        (
            "?version=9.9",
            header(unknown),
            401,
            "Workspace agent not authorized.",
        ),
        ("?version=", header(token), 101, ""),
        (
            "?version=2.9",
            header(token),
            400,
            "server is at version 2.8, behind requested minor version 2.9",
        ),
        (
            "?version=1.0",
            header(token),
            400,
            "version 1.0 is no longer supported",
        ),
        ("?version=x", header(token), 400, "invalid version string: x"),
        (
            "",
            header(token) + &format!("X-Operator: {}\r\n", "a".repeat(1024)),
            101,
            "",
        ),
    ] {
        let (answer, _) = handshake(&server.url, &format!("{RPC}{query}"), &headers);
        assert_eq!(answer.status, status, "{query} {}", answer.body);
        assert!(answer.body.contains(said), "{query}: {}", answer.body);
        let head = answer.head.to_ascii_lowercase();
        assert!(
            !head.contains("sec-websocket-protocol") && !head.contains("sec-websocket-extensions"),
            "{head}"
        );
    }
    let answer = get(&server.url, RPC, &header(token));
    assert_eq!(answer.status, 426);
    assert!(
        answer.body.starts_with("WebSocket protocol violation: "),
        "{}",
        answer.body
    );
}

#[test]
fn conn_009_a_wrong_token_is_refused() {
    let (_data, server) = seeded();
    let (answer, _) = dial(&server.url, "", "33333333-3333-4333-8333-333333333333");
    assert_eq!((answer.status, answer.body.as_str()), (401, NOT_AUTHORIZED));
}

#[test]
fn conn_020_an_agent_of_a_deleted_workspace_is_refused() {
    let (data, server) = seeded();
    data.execute("UPDATE workspaces SET deleted = TRUE");
    assert_refused(&server);
}

#[test]
fn conn_021_an_agent_of_an_older_build_is_refused() {
    let (data, server) = seeded();
    add_build(&data, 2, "start", Job::Succeeded);
    assert_refused(&server);
}

#[test]
fn conn_022_an_agent_may_report_while_its_workspace_stops() {
    for job in [Job::Running, Job::Pending] {
        let (data, server) = seeded();
        add_build(&data, 2, "stop", job);
        assert_eq!(server.dial_status(), 101);
    }
}

#[test]
fn conn_023_an_agent_of_a_stopped_workspace_is_refused() {
    for job in [Job::Succeeded, Job::Failed] {
        let (data, server) = seeded();
        add_build(&data, 2, "stop", job);
        assert_refused(&server);
    }
}

#[test]
fn conn_024_an_agent_whose_own_build_failed_is_refused_while_its_workspace_stops() {
    let (data, server) = seeded();
    data.execute("UPDATE provisioner_jobs SET error = 'failed' WHERE type = 'workspace_build'");
    assert_eq!(
        server.dial_status(),
        101,
        "the latest build's job is not looked at"
    );
    add_build(&data, 2, "stop", Job::Running);
    assert_refused(&server);
}

#[test]
fn conn_025_only_the_build_right_after_counts_as_the_stop_of_an_agent() {
    let (data, server) = seeded();
    add_build(&data, 2, "stop", Job::Succeeded);
    add_build(&data, 3, "stop", Job::Running);
    assert_refused(&server);
}

#[test]
fn conn_026_a_sub_agent_connects_by_its_own_token_until_it_is_deleted() {
    let (data, server) = seeded();
    let token = "5c1e3a70-9d0b-4c7e-8f43-2d6b7a9e1f08";
    let (id, made) = (data.id(Uuid::from_u128(2)), data.time(MADE));
    data.execute(&format!(
        "INSERT INTO workspace_agents (id, parent_id, created_at, updated_at, name, resource_id, auth_token,
             architecture, operating_system)
         SELECT {id}, id, {made}, {made}, 'child', resource_id, {}, 'amd64', 'linux' FROM workspace_agents",
        data.id(token.parse().unwrap())
    ));
    let status = || dial(&server.url, "?version=2.8", token).0.status;
    assert_eq!(status(), 101);
    data.await_value(
        "SELECT first_connected_at IS NOT NULL FROM workspace_agents WHERE name = 'child'",
        "1",
    );
    data.execute("UPDATE workspace_agents SET deleted = TRUE WHERE name = 'child'");
    assert_eq!(status(), 401);
    assert_eq!(server.dial_status(), 101, "its parent is not concerned");
}

#[test]
fn conn_027_the_job_of_the_latest_build_may_still_run() {
    let (data, server) = seeded();
    let made = data.time(MADE);
    data.execute(&format!(
        "UPDATE provisioner_jobs SET completed_at = NULL, started_at = {made} WHERE type = 'workspace_build'"
    ));
    assert_eq!(server.dial_status(), 101);
}

#[test]
fn conn_077_a_server_that_drains_is_healthy_and_not_ready() {
    let data = Data::new(EXAMPLE_SEED);
    // One, on either engine: of several, those without a session end at once, while somebody may ask them.
    let server = data.serve_alone(&["--drain-time", "10s"]);
    assert_eq!(
        (server.get("/healthz").status, server.get("/readyz").status),
        (200, 200)
    );
    let (answer, mut session) = server.dial(server.agent());
    assert_eq!(answer.status, 101);
    data.await_connected();

    server.terminate();
    let mut close = [0; 4];
    session.read_exact(&mut close).unwrap();
    // Close 1001.
    assert_eq!(close, [0x88, 0x02, 0x03, 0xe9]);
    drop(session);
    assert_eq!(
        (server.get("/healthz").status, server.get("/readyz").status),
        (200, 503)
    );
    assert_eq!(server.dial_status(), 503);
    assert_eq!(server.wait(), Some(0));
    assert_eq!(
        data.value("SELECT disconnected_at >= last_connected_at FROM workspace_agents"),
        "1"
    );
}

#[test]
fn no_room_is_told_before_the_token_is_looked_at() {
    let data = Data::new(EXAMPLE_SEED);
    let server = data.serve_alone(&["--max-agent-connections", "1"]);
    let (answer, _session) = server.dial(server.agent());
    assert_eq!(answer.status, 101);
    let (answer, _) = dial(&server.url, "", "abc");
    assert_eq!(answer.status, 503);
    assert_eq!(
        answer.body,
        "{\"message\":\"The server has no room for another agent connection.\"}\n"
    );
}

#[test]
fn a_raised_minor_is_accepted_and_announced() {
    let data = Data::new(EXAMPLE_SEED);
    let server = data.serve(&["--api-max-minor", "11"]);
    assert_eq!(
        dial(&server.url, "?version=2.11", &server.agent().token).0.status,
        101
    );
    assert!(
        server
            .get("/api/v2/buildinfo")
            .body
            .contains(r#""agent_api_version":"2.11""#)
    );
}

#[test]
fn no_log_holds_a_token() {
    let data = Data::new(EXAMPLE_SEED);
    let server = data.serve(&["--log-filter", ".*"]);
    let token = server.agent().token.clone();
    assert_eq!(server.dial_status(), 101);
    assert_eq!(dial(&server.url, "?version=9.9", &token).0.status, 400);
    let wrong = token.replace('-', "x");
    assert_eq!(
        dial(&server.url, &format!("?coder_session_token={wrong}"), "")
            .0
            .status,
        401
    );
    assert_eq!(server.stop(), Some(0));
    let log = data.log();
    assert!(
        log.contains("accepting agent RPC connection"),
        "debug lines are on:\n{log}"
    );
    for secret in [token.as_str(), &token.replace('-', ""), &wrong] {
        assert!(!log.contains(secret), "{log}");
    }
}
