//! The stream of claims, read as strictly as agents do.

use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::time::advance;

use super::kit::{Kit, SEED, away, driven, until};
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

/// The kit's agent in a prebuild; there is also a user who has a workspace.
async fn prebuilt() -> Kit {
    let owner = "owner: { username: ada, name: Ada Lovelace, email: ada@example.com }";
    assert!(SEED.contains(owner));
    let prebuild = SEED.replacen(owner, "owner: { username: prebuilds }", 1);
    Kit::with(&format!("{prebuild}\n---\n{SEED}"), Vec::new()).await
}

/// The prebuild.
async fn workspace(kit: &Kit) -> uuid::Uuid {
    let sql = "SELECT w.id FROM workspaces w JOIN users u ON u.id = w.owner_id WHERE username = 'prebuilds'";
    kit.value(sql).await.parse().unwrap()
}

/// How an agent hears of a claim.
fn claimed(workspace: uuid::Uuid) -> Event {
    Event::Data(format!(
        r#"{{"WorkspaceID":"{workspace}","reason":"prebuild_claimed"}}"#
    ))
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
    let but_one = kit.app.bounds().reinit_streams.hold(MAX_REINIT_STREAMS - 1);
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
    let kit = prebuilt().await;
    let workspace = workspace(&kit).await;
    let mut reader = Reader::new(kit.open("reinit").await).await;
    let other = uuid::Uuid::from_u128(1);
    kit.pubsub
        .publish(&format!("prebuild_claimed_{other}"), "prebuild_claimed");
    for payload in ["prebuild_claimed", "22222222-2222-4222-8222-222222222222"] {
        kit.pubsub
            .publish(&format!("prebuild_claimed_{workspace}"), payload);
        assert_eq!(reader.event().await, Some(claimed(workspace)));
    }
}

#[tokio::test]
async fn ordinary_workspaces_follow_no_claims() {
    let kit = Kit::new().await;
    let mut readers = Vec::new();
    for _ in 0..10 {
        readers.push(Reader::new(kit.open("reinit").await).await);
    }
    let followed = format!("{:?}", kit.pubsub);
    assert!(!followed.contains("prebuild_claimed"), "{followed}");
    kit.pubsub.lose_messages();
    assert_eq!(kit.store.calls("workspaces"), 0);

    let kit = prebuilt().await;
    let _reader = Reader::new(kit.open("reinit").await).await;
    let channel = format!("prebuild_claimed_{}", workspace(&kit).await);
    assert!(format!("{:?}", kit.pubsub).contains(&channel));
}

/// Lets the store answer, while time stands still.
async fn settle() {
    tokio::task::spawn_blocking(|| std::thread::sleep(Duration::from_millis(100)))
        .await
        .unwrap();
}

#[tokio::test]
async fn a_claim_that_may_have_been_missed_is_looked_up() {
    driven(async {
        let kit = prebuilt().await;
        let workspace = workspace(&kit).await;
        let mut reader = Reader::new(kit.open("reinit").await).await;
        // Nothing was missed: the next that comes is a ping.
        kit.pubsub.lose_messages();
        until(|| kit.store.calls("workspaces") == 1).await;
        settle().await;
        advance(Duration::from_millis(15_010)).await;
        assert_eq!(reader.event().await, Some(Event::Ping));

        let sql =
            "UPDATE workspaces SET owner_id = (SELECT id FROM users WHERE username = 'ada'), name = 'claimed'
             WHERE owner_id = (SELECT id FROM users WHERE username = 'prebuilds')";
        kit.value(sql).await;
        kit.store.fail("workspaces", away());
        kit.pubsub.lose_messages();
        until(|| kit.store.calls("workspaces") == 2).await;
        kit.store.mend("workspaces");
        settle().await;
        advance(Duration::from_millis(5_010)).await;
        assert_eq!(reader.event().await, Some(claimed(workspace)));
        // It is told of once.
        kit.pubsub.lose_messages();
        advance(Duration::from_millis(15_010)).await;
        assert_eq!(reader.event().await, Some(Event::Ping));
    })
    .await;
}

#[tokio::test]
async fn a_stream_ends_with_its_reader() {
    let kit = Kit::new().await;
    let room = kit.app.bounds().reinit_streams.left();
    let reader = Reader::new(kit.open("reinit").await).await;
    assert_eq!(kit.app.bounds().reinit_streams.left(), room - 1);
    drop(reader);
    until(|| kit.app.bounds().reinit_streams.left() == room).await;
}

#[tokio::test]
async fn a_stream_ends_cleanly_with_the_server() {
    let kit = Kit::new().await;
    let mut reader = Reader::new(kit.open("reinit").await).await;
    kit.app.close().await;
    assert_eq!(reader.event().await, None);
}
