//! The routes over real sockets.

mod connections;
mod fixture;
mod health;

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::*;
use crate::telemetry::testing::Log;
use fixture::{ALICE, BOB, Begun, Fixture, Host, PATIENCE, RPC, handshake, with_token};

#[tokio::test]
async fn conn_001_a_valid_token_is_upgraded_without_subprotocol_and_extensions() {
    let mut fixture = Fixture::new().await;
    let offers = "Sec-WebSocket-Extensions: permessage-deflate\r\nSec-WebSocket-Protocol: derp\r\n";
    let answer = fixture
        .dial("?version=2.8&role=agent", &(with_token(ALICE) + offers))
        .await;
    assert_eq!(answer.status, 101);
    assert_eq!(
        answer.header("sec-websocket-accept"),
        Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo=")
    );
    assert_eq!(answer.header("upgrade"), Some("websocket"));
    assert_eq!(answer.header("sec-websocket-protocol"), None);
    assert_eq!(answer.header("sec-websocket-extensions"), None);
    let expected = Begun {
        agent: "alice".to_owned(),
        api_version: "2.8".to_owned(),
        role: Some("agent".to_owned()),
    };
    assert_eq!(fixture.next_session().await, expected);
}

#[tokio::test]
async fn conn_002_a_token_in_a_cookie_is_accepted() {
    let fixture = Fixture::new().await;
    assert_eq!(
        fixture
            .dial("", &format!("Cookie: coder_session_token={ALICE}\r\n"))
            .await
            .status,
        101
    );
}

#[tokio::test]
async fn conn_003_a_token_in_the_query_is_accepted() {
    let fixture = Fixture::new().await;
    assert_eq!(
        fixture
            .dial(&format!("?coder_session_token={ALICE}"), "")
            .await
            .status,
        101
    );
}

#[tokio::test]
async fn conn_004_a_bearer_token_is_accepted() {
    let fixture = Fixture::new().await;
    assert_eq!(
        fixture
            .dial("", &format!("Authorization: bearer {ALICE}\r\n"))
            .await
            .status,
        101
    );
}

#[tokio::test]
async fn conn_005_the_cookie_wins_over_the_header() {
    let mut fixture = Fixture::new().await;
    let headers = format!("Coder-Session-Token: {BOB}\r\nCookie: coder_session_token={ALICE}\r\n");
    assert_eq!(fixture.dial("", &headers).await.status, 101);
    assert_eq!(fixture.next_session().await.agent, "alice");
}

#[tokio::test]
async fn conn_006_no_token_is_401_without_detail() {
    let fixture = Fixture::new().await;
    let body = r#"{"message":"Cookie \"coder_session_token\" must be provided."}"#;
    fixture
        .dial("", "Connection: close\r\n")
        .await
        .assert_json(401, body);
}

#[tokio::test]
async fn conn_007_a_token_that_is_no_uuid_is_401_with_its_length() {
    let fixture = Fixture::new().await;
    let headers = with_token("abc") + "Connection: close\r\n";
    fixture.dial("", &headers).await.assert_json(
        401,
        r#"{"message":"Workspace agent token invalid.","detail":"An agent token must be a valid UUIDv4. (len 3)"}"#,
    );
}

#[tokio::test]
async fn conn_008_a_token_in_braces_or_without_hyphens_is_accepted() {
    let fixture = Fixture::new().await;
    for token in [
        format!("{{{ALICE}}}"),
        ALICE.replace('-', ""),
        ALICE.to_uppercase(),
    ] {
        assert_eq!(fixture.dial("", &with_token(&token)).await.status, 101, "{token}");
    }
}

const NOT_AUTHORIZED: &str = "{\"message\":\"Workspace agent not authorized.\",\"detail\":\"The agent cannot \
    authenticate until the workspace provision job has been completed. If the job is no longer running, this agent is \
    invalid.\"}";

#[tokio::test]
async fn conn_009_an_unknown_token_is_401_with_the_reason() {
    let mut fixture = Fixture::new().await;
    let headers = with_token("33333333-3333-4333-8333-333333333333") + "Connection: close\r\n";
    fixture.dial("", &headers).await.assert_json(401, NOT_AUTHORIZED);
    assert_eq!(fixture.refused.recv().await, Some(401));
}

#[tokio::test]
async fn conn_010_a_store_that_is_down_is_500() {
    let fixture = Fixture::new().await;
    fixture.store_answers(Err(StoreError::Unavailable("disk I/O error".to_owned())));
    fixture.dial("", &(with_token(ALICE) + "Connection: close\r\n")).await.assert_json(
        500,
        r#"{"message":"Internal error checking workspace agent authorization.","detail":"disk I/O error"}"#,
    );
}

#[tokio::test]
async fn conn_010_a_store_that_does_not_answer_is_500_after_its_timeout() {
    let fixture = Fixture::new().await;
    fixture.store_answers(Err(StoreError::Unavailable("hangs".to_owned())));
    fixture.dial("", &(with_token(ALICE) + "Connection: close\r\n")).await.assert_json(
        500,
        r#"{"message":"Internal error checking workspace agent authorization.","detail":"context deadline exceeded"}"#,
    );
}

#[tokio::test]
async fn clients_are_not_kept_waiting_for_a_store_that_does_not_answer() {
    let fixture = Fixture::new().await;
    let token = with_token(ClientToken::random().reveal()) + "Connection: close\r\n";
    for target in ["workspaceagents/connection", "tailnet"] {
        let request = handshake("", &token).replace("workspaceagents/me/rpc", target);
        for (state, detail) in [
            ("hangs", "context deadline exceeded"),
            ("disk I/O error", "disk I/O error"),
        ] {
            fixture.store_answers(Err(StoreError::Unavailable(state.to_owned())));
            let began = fixture.app.clock.monotonic();
            let answer = fixture.exchange(&request).await;
            // Two seconds, on a machine that has other things to do.
            assert!(fixture.app.clock.monotonic() - began < Duration::from_secs(8));
            answer.assert_json(
                500,
                &format!(
                    r#"{{"message":"An internal error occurred. Please try again or contact the system administrator.","detail":"Internal error fetching the client token: {detail}"}}"#
                ),
            );
        }
    }
}

#[tokio::test]
async fn conn_011_a_bad_token_comes_before_a_bad_version() {
    let fixture = Fixture::new().await;
    let answer = fixture
        .dial("?version=9.9", &(with_token("abc") + "Connection: close\r\n"))
        .await;
    assert_eq!(answer.status, 401);
}

#[tokio::test]
async fn conn_012_no_version_is_2_0() {
    let mut fixture = Fixture::new().await;
    for query in ["", "?version="] {
        assert_eq!(fixture.dial(query, &with_token(ALICE)).await.status, 101);
        assert_eq!(
            fixture.next_session().await,
            Begun {
                agent: "alice".to_owned(),
                api_version: "2.0".to_owned(),
                role: None
            }
        );
    }
}

async fn assert_version_refused(version: &str, detail: &str) {
    let mut fixture = Fixture::new().await;
    let answer = fixture
        .dial(
            &format!("?version={version}"),
            &(with_token(ALICE) + "Connection: close\r\n"),
        )
        .await;
    let validations = format!(r#""validations":[{{"field":"version","detail":"{detail}"}}]"#);
    answer.assert_json(
        400,
        &format!(r#"{{"message":"Unknown or unsupported API version",{validations}}}"#),
    );
    fixture.assert_no_session();
}

#[tokio::test]
async fn conn_013_a_newer_minor_is_400() {
    assert_version_refused(
        "2.9",
        "server is at version 2.8, behind requested minor version 2.9",
    )
    .await;
}

#[tokio::test]
async fn refused_versions_are_logged_with_the_version_and_not_for_each_dial() {
    let log = Log::new();
    let fixture = Fixture::new().await;
    for version in ["2.9", "2.10"] {
        let headers = with_token(ALICE) + "Connection: close\r\n";
        let answer = fixture.dial(&format!("?version={version}"), &headers).await;
        assert_eq!(answer.status, 400);
    }
    let warnings: Vec<_> = log
        .take()
        .into_iter()
        .filter(|line| line.starts_with("WARN"))
        .collect();
    let [warning] = &warnings[..] else {
        panic!("{warnings:?}");
    };
    assert!(
        warning.contains("requested=\"2.9\" newest=\"2.8\"") && warning.contains("--api-max-minor"),
        "{warning}"
    );
}

#[tokio::test]
async fn conn_014_an_old_major_is_400() {
    assert_version_refused("1.0", "version 1.0 is no longer supported").await;
}

#[tokio::test]
async fn conn_015_what_is_no_version_is_400() {
    assert_version_refused("x", "invalid version string: x").await;
    assert_version_refused("%3Cb%3E", "invalid version string: \\u003cb\\u003e").await;
}

#[tokio::test]
async fn conn_016_any_role_is_accepted() {
    let mut fixture = Fixture::new().await;
    assert_eq!(
        fixture.dial("?role=whatever", &with_token(ALICE)).await.status,
        101
    );
    assert_eq!(fixture.next_session().await.role.as_deref(), Some("whatever"));
}

#[tokio::test]
async fn conn_017_a_request_without_upgrade_is_426() {
    let mut fixture = Fixture::new().await;
    let request = |more: &str| format!("GET {RPC} HTTP/1.1\r\nHost: x\r\n{}{more}\r\n", with_token(ALICE));
    fixture
        .exchange(&request("Connection: close\r\n"))
        .await
        .assert_plain(
            426,
            "WebSocket protocol violation: Connection header \"close\" does not contain Upgrade",
        );
    let answer = fixture
        .exchange(&request("Connection: close, upgrade\r\nUpgrade: h2c\r\n"))
        .await;
    answer.assert_plain(
        426,
        "WebSocket protocol violation: Upgrade header \"h2c\" does not contain websocket",
    );
    assert_eq!(answer.header("upgrade"), Some("websocket"));
    let old = request("").replace("HTTP/1.1", "HTTP/1.0");
    fixture.exchange(&old).await.assert_plain(
        426,
        "WebSocket protocol violation: handshake request must be at least HTTP/1.1: \"HTTP/1.0\"",
    );
    fixture.assert_no_session();
}

#[tokio::test]
async fn a_handshake_is_checked_as_the_go_library_checks_it() {
    let mut fixture = Fixture::new().await;
    let good = handshake("", &(with_token(ALICE) + "Connection: close\r\n"));
    for (from, to, status, text) in [
        (
            "GET ",
            "POST ",
            405,
            "WebSocket protocol violation: handshake request method is not GET but \"POST\"",
        ),
        (
            "Version: 13",
            "Version: 8",
            400,
            "unsupported WebSocket protocol version (only 13 is supported): \"8\"",
        ),
        (
            "Sec-WebSocket-Key",
            "X-Key",
            400,
            "WebSocket protocol violation: missing Sec-WebSocket-Key",
        ),
        (
            "Upgrade: websocket\r\n",
            "Upgrade: websocket\r\nSec-WebSocket-Key: x\r\n",
            400,
            "WebSocket protocol violation: multiple Sec-WebSocket-Key headers",
        ),
        (
            "dGhlIHNhbXBsZSBub25jZQ==",
            "dGhl",
            400,
            "WebSocket protocol violation: invalid Sec-WebSocket-Key \"dGhl\", must be a 16 byte base64 encoded string",
        ),
    ] {
        fixture
            .exchange(&good.replacen(from, to, 1))
            .await
            .assert_plain(status, text);
    }
    fixture.assert_no_session();
}

#[tokio::test]
async fn a_foreign_origin_is_403() {
    let fixture = Fixture::new().await;
    for (origin, text) in [
        (
            "https://evil.test",
            "request Origin \"evil.test\" is not authorized for Host \"example.com\"",
        ),
        (
            "https://example.com:8443",
            "request Origin \"example.com:8443\" is not authorized for Host \"example.com\"",
        ),
        ("null", "request Origin \"null\" is not a valid URL with a host"),
    ] {
        let headers = format!("{}Connection: close\r\nOrigin: {origin}\r\n", with_token(ALICE));
        fixture.dial("", &headers).await.assert_plain(403, text);
    }
    let own = with_token(ALICE) + "Origin: https://EXAMPLE.com\r\n";
    assert_eq!(fixture.dial("", &own).await.status, 101);
}

#[tokio::test]
async fn conn_019_unknown_headers_do_not_matter() {
    let fixture = Fixture::new().await;
    let headers = with_token(ALICE) + &format!("X-Operator: {}\r\n", "a".repeat(1024));
    assert_eq!(fixture.dial("", &headers).await.status, 101);
}

#[tokio::test]
async fn a_head_that_is_too_large_is_refused() {
    let mut fixture = Fixture::new().await;
    let request = handshake(
        "",
        &(with_token(ALICE) + &format!("X-Operator: {}\r\n", "a".repeat(256 * 1024))),
    );
    let mut stream = TcpStream::connect(fixture.address).await.unwrap();
    // The server answers 431 and closes without reading on, so the answer may get lost.
    let _ = stream.write_all(request.as_bytes()).await;
    let mut answer = Vec::new();
    let _ = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer))
        .await
        .unwrap();
    assert!(
        answer.is_empty() || answer.starts_with(b"HTTP/1.1 431"),
        "{:?}",
        String::from_utf8_lossy(&answer)
    );
    fixture.assert_no_session();
}

#[tokio::test]
async fn a_head_may_have_so_many_bytes_and_no_more() {
    let fixture = Fixture::new().await;
    let bare = handshake("", &(with_token(ALICE) + "X-Operator: \r\n")).len();
    let head = |size: usize| {
        let padding = format!("X-Operator: {}\r\n", "a".repeat(size - bare));
        handshake("", &(with_token(ALICE) + &padding))
    };
    for size in [limits::MAX_HEAD - 1, limits::MAX_HEAD] {
        assert_eq!(fixture.exchange(&head(size)).await.status, 101, "{size}");
    }
    // The last byte is not waited for.
    let more = head(limits::MAX_HEAD + 1);
    let answer = fixture.exchange(&more[..limits::MAX_HEAD]).await;
    assert_eq!(answer.status, 431);
}

#[tokio::test]
async fn no_room_is_503_before_authentication_and_room_comes_back() {
    let mut fixture = Fixture::with_room(1).await;
    let (answer, session) = fixture.exchange_open(&handshake("", &with_token(ALICE))).await;
    assert_eq!(answer.status, 101);
    fixture.next_session().await;
    let body = r#"{"message":"The server has no room for another agent connection."}"#;
    fixture
        .dial("", "Connection: close\r\n")
        .await
        .assert_json(503, body);
    drop(session);
    tokio::time::timeout(PATIENCE, async {
        while fixture
            .dial("", &(with_token(ALICE) + "Connection: close\r\n"))
            .await
            .status
            != 101
        {
            tokio::task::yield_now().await;
        }
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn without_memory_there_is_no_room() {
    let app = App::<Host>::new(Clock::system(), 8, 0).with_memory_check(|| false);
    let refused = app.place().unwrap_err();
    assert_eq!(refused.status(), 503);
    let body = axum::body::to_bytes(
        axum::response::IntoResponse::into_response(refused).into_body(),
        1_000,
    )
    .await;
    let text = r#"{"message":"The server has no room for another agent connection."}"#;
    assert_eq!(String::from_utf8_lossy(&body.unwrap()).trim_end(), text);
}

#[tokio::test]
async fn one_agent_has_room_for_so_many_sessions_and_others_have_theirs() {
    let mut fixture = Fixture::new().await;
    let mut held = Vec::new();
    for _ in 0..limits::MAX_AGENT_SESSIONS {
        let (answer, session) = fixture.exchange_open(&handshake("", &with_token(ALICE))).await;
        assert_eq!(answer.status, 101);
        fixture.next_session().await;
        held.push(session);
    }
    let closing = |token| with_token(token) + "Connection: close\r\n";
    let body = r#"{"message":"The agent has too many connections."}"#;
    fixture.dial("", &closing(ALICE)).await.assert_json(503, body);
    assert_eq!(fixture.dial("", &closing(BOB)).await.status, 101);
}

#[tokio::test]
async fn a_refused_handshake_gives_its_room_back() {
    let fixture = Fixture::with_room(1).await;
    for _ in 0..3 {
        assert_eq!(fixture.dial("", "Connection: close\r\n").await.status, 401);
    }
    assert_eq!(fixture.dial("", &with_token(ALICE)).await.status, 101);
}

#[tokio::test]
async fn what_changes_while_an_agent_is_looked_up_is_heard_by_its_session() {
    let mut fixture = Fixture::new().await;
    assert_eq!(fixture.dial("", &with_token(ALICE)).await.status, 101);
    fixture.next_session().await;
    let host = fixture.app.host().unwrap();
    assert_eq!(*host.asked.lock().unwrap(), ["heard", "authenticate"]);
}

#[tokio::test]
async fn conn_068_the_version_lets_log_streamers_dial_as_new_ones_and_old_ones_may_too() {
    let mut fixture = Fixture::new().await;
    fixture.get("/api/v2/buildinfo").await.assert_json(
        200,
        &format!(
            r#"{{"external_url":"{}","version":"{BUILD_VERSION}","agent_api_version":"2.8"}}"#,
            env!("CARGO_PKG_REPOSITORY")
        ),
    );
    assert!(
        semver::Version::parse(BUILD_VERSION.strip_prefix('v').unwrap()).unwrap()
            >= semver::Version::new(2, 31, 0)
    );
    let streamer = Some("logstream-kube".to_owned());
    for (query, version, role) in [
        ("?version=2.8&role=logstream-kube", "2.8", streamer),
        ("?version=2.0", "2.0", None),
    ] {
        assert_eq!(fixture.dial(query, &with_token(ALICE)).await.status, 101);
        let begun = fixture.next_session().await;
        assert_eq!((begun.api_version.as_str(), begun.role), (version, role));
    }
}

#[tokio::test]
async fn an_unknown_route_is_404() {
    let fixture = Fixture::new().await;
    for target in ["/api/v2/nothing", "/api/v2/", "/"] {
        fixture
            .get(target)
            .await
            .assert_json(404, r#"{"message":"Route not found."}"#);
    }
}

#[tokio::test]
async fn conn_044_after_a_text_message_the_session_is_closed_with_1003() {
    let mut fixture = Fixture::new().await;
    let (answer, mut stream) = fixture.exchange_open(&handshake("", &with_token(ALICE))).await;
    assert_eq!(answer.status, 101);
    fixture.next_session().await;
    stream
        .write_all(&[0x81, 0x82, 0, 0, 0, 0, b'h', b'i'])
        .await
        .unwrap();
    let mut answer = Vec::new();
    tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer))
        .await
        .unwrap()
        .unwrap();
    let reason = b"unexpected frame type read (expected MessageBinary): MessageText";
    assert_eq!(answer[..4], [0x88, 66, 0x03, 0xeb]);
    assert_eq!(answer[4..], reason[..]);
}

#[tokio::test]
async fn bytes_sent_right_behind_the_handshake_reach_the_session() {
    let mut fixture = Fixture::new().await;
    // A close frame in the same segment as the request: the session ends at once and cleanly.
    let request = handshake("", &with_token(ALICE)) + "\u{0}";
    let mut stream = TcpStream::connect(fixture.address).await.unwrap();
    let bytes = [
        &request.as_bytes()[..request.len() - 1],
        &[0x88, 0x82, 0, 0, 0, 0, 0x03, 0xe8],
    ]
    .concat();
    stream.write_all(&bytes).await.unwrap();
    fixture.next_session().await;
    let mut answer = Vec::new();
    tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer))
        .await
        .unwrap()
        .unwrap();
    assert!(
        answer.ends_with(&[0x88, 0x02, 0x03, 0xe8]),
        "{:?}",
        String::from_utf8_lossy(&answer)
    );
}
