//! The stream of claims, read as strictly as agents do.

use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::time::advance;

use super::kit::{Kit, driven, until};
use crate::http::agents::MAX_REINIT_STREAMS;

/// An event as an agent's reader takes it, or its error.
#[derive(Debug, PartialEq, Eq)]
enum Event {
    Ping,
    Data(String),
}

/// A stream in chunks, and what is not read of them yet.
struct Reader {
    stream: BufReader<TcpStream>,
    text: String,
}

impl Reader {
    /// Reads the head of the answer.
    async fn new(stream: TcpStream) -> Self {
        let mut stream = BufReader::new(stream);
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            assert!(stream.read_line(&mut head).await.unwrap() > 0, "{head}");
        }
        assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
        let head = head.to_lowercase();
        for line in [
            "content-type: text/event-stream\r\n",
            "transfer-encoding: chunked\r\n",
        ] {
            assert!(head.contains(line), "{head}");
        }
        Self {
            stream,
            text: String::new(),
        }
    }

    /// The next line; `None` at the end.
    async fn line(&mut self) -> Option<String> {
        loop {
            if let Some(end) = self.text.find('\n') {
                let rest = self.text.split_off(end + 1);
                let mut line = std::mem::replace(&mut self.text, rest);
                line.pop();
                return Some(line);
            }
            let mut size = String::new();
            self.stream.read_line(&mut size).await.unwrap();
            let size = usize::from_str_radix(size.trim(), 16)
                .ok()
                .filter(|&size| size > 0)?;
            let mut chunk = vec![0; size + 2];
            self.stream.read_exact(&mut chunk).await.unwrap();
            self.text.push_str(std::str::from_utf8(&chunk[..size]).unwrap());
        }
    }

    /// The next event. Panics at whatever an agent calls an error.
    async fn event(&mut self) -> Option<Event> {
        loop {
            let line = self.line().await?;
            if line.is_empty() {
                continue;
            }
            return Some(match line.strip_prefix("event: ") {
                Some("ping") => Event::Ping,
                Some("data") => {
                    let data = self.line().await.unwrap();
                    Event::Data(data.strip_prefix("data: ").unwrap().to_owned())
                }
                _ => panic!("{line:?}"),
            });
        }
    }
}

async fn workspace(kit: &Kit) -> uuid::Uuid {
    let workspace = kit.value("SELECT lower(hex(id)) FROM workspaces").await;
    workspace.parse().unwrap()
}

#[tokio::test]
async fn conn_060_a_stream_stays_open_with_a_ping_every_fifteen_seconds() {
    driven(async {
        let kit = Kit::new().await;
        let mut reader = Reader::new(kit.open("reinit?wait=true").await).await;
        for _ in 0..20 {
            advance(Duration::from_millis(14_990)).await;
            for _ in 0..100 {
                tokio::task::yield_now().await;
            }
            advance(Duration::from_millis(12)).await;
            assert_eq!(reader.event().await, Some(Event::Ping));
        }
        assert!(
            reader.text.trim().is_empty(),
            "one ping each time: {:?}",
            reader.text
        );
        assert_eq!(kit.store.calls("authenticate"), 1);
    })
    .await;
}

#[tokio::test]
async fn conn_061_a_stream_that_is_refused_concerns_nothing_else() {
    let kit = Kit::new().await;
    let but_one = kit.app.hold_reinit_streams(MAX_REINIT_STREAMS - 1);
    let last = Reader::new(kit.open("reinit").await).await;
    kit.get("reinit")
        .await
        .assert_json(503, r#"{"message":"Too many agents wait for claims."}"#);
    assert_eq!(kit.get("gitsshkey").await.status, 200);
    drop(but_one);
    Reader::new(kit.open("reinit").await).await;
    drop(last);
}

#[tokio::test]
async fn conn_062_a_claim_is_told_in_the_words_that_agents_read() {
    let kit = Kit::new().await;
    let workspace = workspace(&kit).await;
    let mut reader = Reader::new(kit.open("reinit").await).await;
    let other = uuid::Uuid::from_u128(1);
    kit.pubsub
        .publish(&format!("prebuild_claimed_{other}"), "prebuild_claimed");
    for payload in ["prebuild_claimed", "22222222-2222-4222-8222-222222222222"] {
        kit.pubsub
            .publish(&format!("prebuild_claimed_{workspace}"), payload);
        let expected = format!(r#"{{"WorkspaceID":"{workspace}","reason":"prebuild_claimed"}}"#);
        assert_eq!(reader.event().await, Some(Event::Data(expected)));
    }
}

#[tokio::test]
async fn a_stream_ends_with_its_reader() {
    let kit = Kit::new().await;
    let room = kit.app.reinit_room();
    let reader = Reader::new(kit.open("reinit").await).await;
    assert_eq!(kit.app.reinit_room(), room - 1);
    drop(reader);
    until(|| kit.app.reinit_room() == room).await;
}

#[tokio::test]
async fn a_stream_ends_cleanly_with_the_server() {
    let kit = Kit::new().await;
    let mut reader = Reader::new(kit.open("reinit").await).await;
    kit.app.close().await;
    assert_eq!(reader.event().await, None);
}
