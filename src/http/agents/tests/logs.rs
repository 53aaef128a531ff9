//! Log sources and log lines of tools.

use serde_json::{Value, json};

use super::kit::{self, Kit};
use crate::http::agents::body::{PIECE, READ_TIMEOUT};
use crate::http::agents::{MAX_BODY, MAX_BODY_MEMORY};
use crate::services::agent::limits::MAX_LOG_LINES;

const SOURCE: &str = "11111111-1111-4111-8111-111111111111";

const LINES: &str = "SELECT output, level, log_source_id FROM workspace_agent_logs ORDER BY id";

async fn owner_events(kit: &Kit) -> crate::pubsub::Subscription {
    let owner = kit.value("SELECT id FROM users").await;
    let owner: uuid::Uuid = owner.parse().unwrap();
    kit.pubsub.subscribe(&format!("workspace_owner:{owner}"))
}

fn kinds(events: &mut crate::pubsub::Subscription) -> Vec<String> {
    let mut kinds = Vec::new();
    while let Some(payload) = events.try_next() {
        let event: Value = serde_json::from_str(&payload.unwrap()).unwrap();
        kinds.push(event["kind"].as_str().unwrap().to_owned());
    }
    kinds
}

#[tokio::test]
async fn conn_067_a_log_source_is_made_once_and_answered_twice() {
    let kit = Kit::new().await;
    let body = json!({ "id": SOURCE, "display_name": "Startup <1>", "icon": "/i.svg", "later": 1 });
    for display_name in ["Startup <1>", "Another"] {
        let mut body = body.clone();
        body["display_name"] = display_name.into();
        let answer = kit.send("POST", "log-source", &body.to_string()).await;
        assert_eq!(answer.status, 201);
        let mut source = answer.json();
        let created_at = source.as_object_mut().unwrap().remove("created_at").unwrap();
        assert!(
            created_at.as_str().unwrap().starts_with("2026-03-20T12:00:0"),
            "{created_at}"
        );
        let expected = json!({
            "workspace_agent_id": kit.agent().await, "id": SOURCE, "display_name": display_name, "icon": "/i.svg",
        });
        assert_eq!(source, expected);
    }
    let stored = format!(
        "SELECT display_name, icon FROM workspace_agent_log_sources WHERE id = x'{}'",
        SOURCE.replace('-', "")
    );
    assert_eq!(kit.value(&stored).await, "Startup <1> /i.svg");
}

#[tokio::test]
async fn a_log_source_that_the_store_refuses_is_an_error() {
    let kit = Kit::new().await;
    let body = json!({ "id": SOURCE, "display_name": "x".repeat(128) });
    let answer = kit.send("POST", "log-source", &body.to_string()).await;
    assert_eq!(
        (answer.status, answer.message().as_str()),
        (500, "An internal server error occurred.")
    );
    for field in ["display_name", "icon"] {
        let body = json!({ "id": SOURCE, field: "a\0" });
        let expected = format!(
            r#"{{"message":"Validation failed.","validations":[{{"field":"{field}","detail":"must not contain NUL"}}]}}"#
        );
        kit.send("POST", "log-source", &body.to_string())
            .await
            .assert_json(400, &expected);
    }
}

#[tokio::test]
async fn a_body_that_is_no_json_is_refused_in_the_words_of_go() {
    let kit = Kit::new().await;
    for (body, detail) in [
        ("", "EOF"),
        (" \n", "EOF"),
        ("{", "unexpected EOF"),
        (r#"{"logs":["#, "unexpected EOF"),
        ("nonsense", "expected ident at line 1 column 2"),
        (
            r#"{"id":5,"logs":{}}"#,
            r"invalid type: map, expected a sequence at line 1 column 15",
        ),
    ] {
        let detail = json!(detail);
        kit.send("PATCH", "logs", body).await.assert_json(
            400,
            &format!(r#"{{"message":"Request body must be valid JSON.","detail":{detail}}}"#),
        );
    }
    let behind = format!(r#"{{"id":"{SOURCE}"}} and more"#);
    assert_eq!(
        kit.send("POST", "log-source", &behind).await.status,
        201,
        "Go looks no further"
    );
}

#[tokio::test]
async fn bodies_are_read_up_to_the_limit() {
    let kit = Kit::new().await;
    for (size, status) in [(MAX_BODY - 1, 400), (MAX_BODY, 400), (MAX_BODY + 1, 413)] {
        // Blanks mean nothing to JSON; what was read is refused for its want of lines.
        let body = json!({ "logs": [] }).to_string();
        let blanks = " ".repeat(size - body.len());
        assert_eq!(
            kit.send("PATCH", "logs", &(body + &blanks)).await.status,
            status,
            "{size}"
        );
    }
}

#[tokio::test]
async fn a_body_that_is_too_large_is_refused() {
    let kit = Kit::new().await;
    let line = "x".repeat(4 << 20);
    let body = json!({ "logs": [{ "output": line }] }).to_string();
    let answer = kit.send("PATCH", "logs", &body).await;
    answer.assert_json(
        413,
        r#"{"message":"Request body is too large.","detail":"A request body may have 4194304 bytes."}"#,
    );
    assert_eq!(kit.value(LINES).await, "");
}

#[tokio::test]
async fn bodies_share_a_bounded_memory_and_give_it_back() {
    let kit = Kit::new().await;
    let body = json!({ "logs": [{ "output": "x".repeat(100_000) }] }).to_string();
    // Room for as much as the body needs, for more, and for a piece less.
    let pieces = body.len().div_ceil(PIECE);
    for (room, status) in [(pieces + 1, 200), (pieces, 200), (pieces - 1, 503)] {
        let others = kit.app.bounds().body_memory.hold(MAX_BODY_MEMORY / PIECE - room);
        let answer = kit.send("PATCH", "logs", &body).await;
        assert_eq!(answer.status, status, "{room}");
        if status == 503 {
            answer.assert_json(503, r#"{"message":"Too many large requests are at work."}"#);
        }
        drop(others);
    }
    let room = kit.app.bounds().body_memory.left();
    assert_eq!(kit.send("PATCH", "logs", &body).await.status, 200);
    assert_eq!(kit.app.bounds().body_memory.left(), room);
}

#[tokio::test]
async fn a_body_that_does_not_come_is_not_waited_for() {
    kit::driven(async {
        let kit = Kit::new().await;
        let room = kit.app.bounds().body_memory.left();
        let mut stream = kit.open_body("PATCH", "logs", 100).await;
        // Memory is taken once the request is authenticated and its body's timer runs.
        tokio::io::AsyncWriteExt::write_all(&mut stream, b"{")
            .await
            .unwrap();
        kit::until(|| kit.app.bounds().body_memory.left() < room).await;
        let mut answer = String::new();
        let reading = tokio::io::AsyncReadExt::read_to_string(&mut stream, &mut answer);
        let moving = async {
            loop {
                kit::settle().await;
                tokio::time::advance(std::time::Duration::from_millis(500)).await;
            }
        };
        tokio::select! {
            read = reading => { read.unwrap(); }
            () = moving => {}
        }
        assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
        assert!(
            answer.ends_with("{\"message\":\"Request body did not come in time.\"}\n"),
            "{answer}"
        );
    })
    .await;
}

#[tokio::test]
async fn a_body_has_so_much_time() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    // Timers are as fine as this.
    const TICK: std::time::Duration = std::time::Duration::from_millis(1);
    const BODY: &[u8] = br#"{"logs":[]}"#;
    const IN_TIME: &str = "HTTP/1.1 400 ";
    const LATE: &str = "HTTP/1.1 408 ";
    kit::driven(async {
        for (time, status) in [(READ_TIMEOUT - TICK, IN_TIME), (READ_TIMEOUT + TICK, LATE)] {
            let kit = Kit::new().await;
            let room = kit.app.bounds().body_memory.left();
            let mut stream = kit.open_body("PATCH", "logs", BODY.len()).await;
            // Memory is taken once the body's timer runs.
            stream.write_all(&BODY[..1]).await.unwrap();
            kit::until(|| kit.app.bounds().body_memory.left() < room).await;
            tokio::time::advance(time).await;
            // The server notices what time it is before it can see the rest.
            kit::settle().await;
            // A body that is refused is not read, and the end of its connection may take the answer along.
            if status == IN_TIME {
                stream.write_all(&BODY[1..]).await.unwrap();
            }
            let mut answer = vec![0; 4_096];
            let length = stream.read(&mut answer).await.unwrap();
            assert!(answer[..length].starts_with(status.as_bytes()), "{time:?}");
        }
    })
    .await;
}

#[tokio::test]
async fn lines_are_stored_in_order_and_told_of() {
    let kit = Kit::new().await;
    let mut events = owner_events(&kit).await;
    let mut log = kit.pubsub.subscribe(&format!("agent-logs:{}", kit.agent().await));
    let levels = ["", "trace", "debug", "info", "warn", "error"];
    let lines: Vec<_> = levels
        .iter()
        .map(|level| json!({ "created_at": "2020-01-01T00:00:00Z", "output": format!("o{level}"), "level": level }))
        .collect();
    let body = json!({ "log_source_id": SOURCE, "logs": lines });
    let before = kit.statements();
    kit.send("PATCH", "logs", &body.to_string())
        .await
        .assert_json(200, "null");
    // Authentication, the length, the lines.
    assert_eq!(kit.statements() - before, 3);
    let source = SOURCE.replace('-', "");
    let expected: Vec<_> = levels
        .iter()
        .map(|level| {
            format!(
                "o{level} {} {source}",
                if level.is_empty() { "info" } else { level }
            )
        })
        .collect();
    assert_eq!(kit.value(LINES).await, expected.join(","));
    assert_eq!(&*log.try_next().unwrap().unwrap(), r#"{"created_after":0}"#);
    assert_eq!(kinds(&mut events), ["agt_first_logs"]);
}

#[tokio::test]
async fn lines_without_a_source_are_external_ones() {
    let kit = Kit::new().await;
    for _ in 0..2 {
        let answer = kit.send("PATCH", "logs", r#"{"logs":[{"output":"x"}]}"#).await;
        assert_eq!(answer.status, 200);
    }
    let line = "x info 3b579bf41ed84b9987a8e9a1e3410410";
    assert_eq!(kit.value(LINES).await, [line, line].join(","));
    let source = "SELECT display_name, icon FROM workspace_agent_log_sources WHERE display_name = 'External'";
    assert_eq!(kit.value(source).await, "External /emojis/1f310.png");
}

#[tokio::test]
async fn what_no_store_keeps_is_replaced_before_lengths_count() {
    let kit = Kit::new().await;
    let mut body = br#"{"logs":[{"output":"a\u0000b"#.to_vec();
    body.extend_from_slice(b"\xff\xfec\"}]}");
    assert_eq!(kit.send_bytes("PATCH", "logs", &body).await.status, 200);
    assert_eq!(
        kit.value("SELECT output FROM workspace_agent_logs").await,
        "a❌b❌c"
    );
    assert_eq!(kit.value("SELECT logs_length FROM workspace_agents").await, "9");
}

#[tokio::test]
async fn a_request_has_so_many_lines_and_no_more() {
    let kit = Kit::new().await;
    // What may be looked at is refused for its level; storing so much takes a while.
    let looked_at = r#"{"message":"Invalid log level provided.","detail":"invalid log level: \"x\""}"#;
    for lines in [MAX_LOG_LINES - 1, MAX_LOG_LINES, MAX_LOG_LINES + 1, 1_000_000] {
        let body = format!(r#"{{"logs":[{}{{"level":"x"}}]}}"#, "{},".repeat(lines - 1));
        let answer = kit.send("PATCH", "logs", &body).await;
        if lines <= MAX_LOG_LINES {
            answer.assert_json(400, looked_at);
        } else {
            let detail = format!("{lines} log lines in one request exceed 65536");
            let body = format!(r#"{{"message":"Too many logs provided.","detail":"{detail}"}}"#);
            answer.assert_json(400, &body);
        }
    }
}

#[tokio::test]
async fn no_lines_and_unknown_levels_are_refused_and_write_nothing() {
    let kit = Kit::new().await;
    for body in ["{}", r#"{"logs":[]}"#, r#"{"logs":null}"#] {
        kit.send("PATCH", "logs", body)
            .await
            .assert_json(400, r#"{"message":"No logs provided."}"#);
    }
    kit.send(
        "PATCH",
        "logs",
        r#"{"logs":[{"output":"x"},{"output":"y","level":"fatal"}]}"#,
    )
    .await
    .assert_json(
        400,
        r#"{"message":"Invalid log level provided.","detail":"invalid log level: \"fatal\""}"#,
    );
    assert_eq!(
        kit.store.calls("insert_logs") + kit.store.calls("insert_log_source"),
        0
    );
}

#[tokio::test]
async fn a_full_log_is_413_and_told_of_once() {
    let kit = Kit::new().await;
    kit.value("UPDATE workspace_agents SET logs_length = 1048576")
        .await;
    let mut events = owner_events(&kit).await;
    for _ in 0..2 {
        kit.send("PATCH", "logs", r#"{"logs":[{"output":"x"}]}"#)
            .await
            .assert_json(413, r#"{"message":"Logs limit exceeded"}"#);
    }
    assert_eq!(kinds(&mut events), ["agt_logs_overflow"]);
    assert_eq!(
        kit.value("SELECT logs_overflowed FROM workspace_agents").await,
        "1"
    );
}

#[tokio::test]
async fn a_store_that_is_away_is_told_within_two_seconds() {
    kit::driven(async {
        let kit = Kit::new().await;
        kit.store.fail("insert_logs", kit::away());
        let body = format!(r#"{{"log_source_id":"{SOURCE}","logs":[{{"output":"x"}}]}}"#);
        let asking = kit.send("PATCH", "logs", &body);
        let start = tokio::time::Instant::now();
        let moving = async {
            kit::until(|| kit.store.calls("insert_logs") > 0).await;
            loop {
                tokio::time::advance(std::time::Duration::from_millis(50)).await;
                for _ in 0..20 {
                    tokio::task::yield_now().await;
                }
            }
        };
        let answer = tokio::select! {
            answer = asking => answer,
            () = moving => unreachable!("it does not end"),
        };
        answer.assert_json(
            500,
            r#"{"message":"Failed to upload logs","detail":"context deadline exceeded"}"#,
        );
        assert!(kit.store.calls("insert_logs") > 1);
        // The answer takes a moment to arrive, while time is being moved.
        let took = start.elapsed().as_millis();
        assert!((2_000..2_500).contains(&took), "{took} ms");
    })
    .await;
}
