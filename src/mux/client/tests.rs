//! The client against the serving shell, over a pipe in memory.

use std::sync::Arc;

use super::Client;
use crate::clock::{Clock, Timestamp};
use crate::mux::pipe::memory;
use crate::mux::{Control, Inbound, Outbound, Registry, Status, serve};

/// Texts stand for every message.
type Text = String;

fn registry() -> Registry<()> {
    let mut registry = Registry::new();
    registry.unary("/t.S/Echo", |_, text: Text| async move { Ok(text) });
    registry.unary("/t.S/Fail", |_, _: Text| async {
        Err::<Text, _>(Status::new(7, "no"))
    });
    registry.unary("/t.S/Hang", |_, _: Text| {
        std::future::pending::<Result<Text, Status>>()
    });
    registry.server_stream(
        "/t.S/Count",
        |_, upto: Text, mut replies: Outbound<Text>| async move {
            for number in 0..upto.parse::<u32>().unwrap() {
                replies.send(&number.to_string()).await?;
            }
            Ok(())
        },
    );
    registry.client_stream("/t.S/Join", |_, mut requests: Inbound<Text>| async move {
        let mut joined = Text::new();
        while let Some(text) = requests.next().await? {
            joined += &text;
        }
        Ok(joined)
    });
    registry.bidi(
        "/t.S/Chat",
        |_, mut requests: Inbound<Text>, mut replies: Outbound<Text>| async move {
            while let Some(text) = requests.next().await? {
                replies.send(&text).await?;
            }
            Ok(())
        },
    );
    registry
}

/// A client of a server that runs beside it.
fn client() -> Client {
    let (ours, theirs) = memory::pair(64 * 1024);
    let clock = Clock::driven(Timestamp::UNIX_EPOCH);
    let control = Control::new(&clock);
    tokio::spawn(async move { serve(theirs, Arc::new(registry()), (), control, clock).await });
    let (client, driver) = Client::new(ours);
    tokio::spawn(driver);
    client
}

fn text(text: &str) -> Text {
    text.to_owned()
}

#[tokio::test]
async fn every_shape_of_call_gets_its_replies() {
    let client = client();
    for _ in 0..300 {
        assert_eq!(
            client
                .unary::<Text, Text>("/t.S/Echo", &text("hi"))
                .await
                .unwrap(),
            "hi"
        );
    }
    let long = "x".repeat(3_000_000);
    assert_eq!(
        client.unary::<Text, Text>("/t.S/Echo", &long).await.unwrap(),
        long
    );

    let mut numbers = client
        .server_stream::<Text, Text>("/t.S/Count", &text("2000"))
        .await
        .unwrap();
    for number in 0..2_000 {
        assert_eq!(numbers.next().await.unwrap().unwrap(), number.to_string());
    }
    assert_eq!(numbers.next().await.unwrap(), None);

    let mut join = client.client_stream::<Text, Text>("/t.S/Join").await.unwrap();
    for part in ["a", "b", "c"] {
        join.send(&text(part)).await.unwrap();
    }
    assert_eq!(join.finish().await.unwrap(), "abc");

    let (mut requests, mut replies) = client.bidi::<Text, Text>("/t.S/Chat").await.unwrap();
    for part in ["a", "b"] {
        requests.send(&text(part)).await.unwrap();
        assert_eq!(replies.next().await.unwrap().unwrap(), part);
    }
    requests.close_send();
    assert_eq!(replies.next().await.unwrap(), None);
}

#[tokio::test]
async fn wire_056_and_057_errors_keep_code_and_text() {
    let client = client();
    let status = client
        .unary::<Text, Text>("/t.S/Fail", &text(""))
        .await
        .unwrap_err();
    assert_eq!((status.code(), status.text()), (7, "no"));
    for (path, expected) in [
        ("/no.Such/Rpc", "protocol error: unknown rpc: \"/no.Such/Rpc\""),
        ("t.S/Echo", "protocol error: unknown rpc: \"t.S/Echo\""),
        ("", "protocol error: unknown rpc: \"\""),
    ] {
        let status = client.unary::<Text, Text>(path, &text("")).await.unwrap_err();
        assert_eq!((status.code(), status.text()), (0, expected));
    }
}

#[tokio::test]
async fn a_dropped_call_is_cancelled_and_the_session_goes_on() {
    let client = client();
    for _ in 0..1_000 {
        let request = text("x");
        let hang = client.unary::<Text, Text>("/t.S/Hang", &request);
        assert!(
            tokio::time::timeout(std::time::Duration::from_millis(1), hang)
                .await
                .is_err()
        );
    }
    assert_eq!(
        client
            .unary::<Text, Text>("/t.S/Echo", &text("hi"))
            .await
            .unwrap(),
        "hi"
    );
    while format!("{client:?}") != "Client { calls: 0 }" {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_closed_session_ends_its_calls() {
    let client = client();
    let (_requests, mut replies) = client.bidi::<Text, Text>("/t.S/Chat").await.unwrap();
    client.close();
    assert_eq!(replies.next().await.unwrap_err(), Status::canceled());
    assert!(
        client
            .unary::<Text, Text>("/t.S/Echo", &text("hi"))
            .await
            .is_err()
    );
}
