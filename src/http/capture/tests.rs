//! The recorder and the player, with a server of the test's own.

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::frames::{Frames, client_frame};
use super::{record, replay};
use crate::capture::{Capture, FrameKind, Side};
use crate::clock::Clock;

/// How long what must come may take to come.
const PATIENCE: Duration = Duration::from_secs(30);

const AGREED: &[u8] = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n";

/// The agent writes a frame in two messages, and the server's answer to another call comes between them.
const INTERLEAVED: &str = "\
drpcd capture 1
request /api/v2/workspaceagents/me/rpc?version=2.8
status 101

0.000001 > binary
  window syn stream 1 length 0
0.000002 > binary
  window syn stream 3 length 0
0.000003 > binary
  data stream 3 length 4
0.000004 < binary
  data ack stream 1 length 4
0.000005 < binary
  close-send 1/1 done -
0.000006 > binary
  close-send 1/1 done -
0.000007 > binary
  window fin stream 3 length 0
";

/// The far end of a connection, as a server.
struct Server {
    stream: TcpStream,
    frames: Frames,
}

impl Server {
    async fn accept(listener: &TcpListener) -> Self {
        Self {
            stream: listener.accept().await.unwrap().0,
            frames: Frames::default(),
        }
    }

    /// Reads a request's head and answers it.
    async fn answer(&mut self, answer: &[u8]) -> String {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(self.stream.read_u8().await.unwrap());
        }
        self.stream.write_all(answer).await.unwrap();
        String::from_utf8(head).unwrap()
    }

    /// The payload of the next frame; `None` when there is no more.
    async fn next(&mut self) -> Option<Vec<u8>> {
        loop {
            if let Some(frame) = self.frames.next().unwrap() {
                return Some(frame.data);
            }
            let mut chunk = Vec::with_capacity(4_096);
            if self.stream.read_buf(&mut chunk).await.unwrap() == 0 {
                return None;
            }
            self.frames.push(&chunk);
        }
    }

    async fn send(&mut self, data: &[u8]) {
        let header = [0x82, u8::try_from(data.len()).unwrap()];
        self.stream.write_all(&[&header, data].concat()).await.unwrap();
    }
}

async fn listen() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").await.unwrap()
}

fn mux(kind: u8, flags: u8, stream: u8, length: u8) -> [u8; 12] {
    [0, kind, 0, flags, 0, 0, 0, stream, 0, 0, 0, length]
}

#[tokio::test]
async fn nothing_of_the_players_own_comes_into_the_middle_of_a_frame() {
    let listener = listen().await;
    let address = listener.local_addr().unwrap();
    let server = tokio::spawn(async move {
        let mut server = Server::accept(&listener).await;
        server.answer(AGREED).await;
        let mut came = Vec::new();
        for _ in 0..2 {
            came.push(server.next().await.unwrap());
        }
        // Wants credit, while the player says its third message or after it.
        server
            .send(&[&mux(0, 2, 1, 4)[..], &[0x0d, 1, 1, 0]].concat())
            .await;
        while let Some(data) = server.next().await {
            came.push(data);
        }
        came
    });
    let capture = Capture::parse(INTERLEAVED).unwrap();
    replay(address, "token", &capture, &Clock::system())
        .await
        .unwrap();
    let came = server.await.unwrap();
    let header = came.iter().position(|data| data == &mux(0, 0, 3, 4)).unwrap();
    assert_eq!(came[header + 1], [0x0d, 1, 1, 0], "{came:02x?}");
    assert!(came.contains(&mux(1, 0, 1, 4).to_vec()), "credit: {came:02x?}");
}

#[tokio::test]
async fn a_call_that_ends_sooner_than_the_recorded_one_is_not_waited_for() {
    let text = "\
drpcd capture 1
request /
status 101

0.000001 > binary
  data syn stream 1 length 11
  invoke 1/1 done \"/t/Echo\"
0.000002 < binary
  data ack stream 1 length 8
  message 1/1 done -
  close-send 1/2 done -
0.000003 > binary
  window fin stream 1 length 0
0.000004 < binary
  window fin stream 1 length 0
";
    let listener = listen().await;
    let address = listener.local_addr().unwrap();
    let server = tokio::spawn(async move {
        let mut server = Server::accept(&listener).await;
        server.answer(AGREED).await;
        server.next().await.unwrap();
        let error = [&mux(0, 2, 1, 12)[..], &[7, 1, 1, 8, 0, 0, 0, 0, 0, 0, 0, 1]].concat();
        server.send(&error).await;
        // Credit, then the agent's end.
        server.next().await.unwrap();
        assert_eq!(server.next().await.unwrap(), mux(1, 4, 1, 0));
        server.send(&mux(1, 4, 1, 0)).await;
    });
    let capture = Capture::parse(text).unwrap();
    let clock = Clock::system();
    let began = clock.monotonic();
    replay(address, "token", &capture, &clock).await.unwrap();
    server.await.unwrap();
    // Half of the player's patience.
    assert!(clock.monotonic() - began < Duration::from_secs(5));
}

/// A recorder before `upstream`: its address, and what it keeps.
async fn recorder(upstream: &TcpListener) -> (std::net::SocketAddr, mpsc::Receiver<Capture>) {
    let listener = listen().await;
    let address = listener.local_addr().unwrap();
    let (kept, captures) = mpsc::channel(1);
    let upstream = upstream.local_addr().unwrap();
    let keep = move |capture| kept.try_send(capture).unwrap();
    tokio::spawn(record(
        listener,
        upstream,
        Clock::system(),
        CancellationToken::new(),
        keep,
    ));
    (address, captures)
}

/// The header lines of an answer.
fn answer_lines(answer: &[u8]) -> String {
    let text = String::from_utf8_lossy(answer);
    text.trim_end().split_once("\r\n").unwrap().1.to_owned()
}

#[tokio::test]
async fn a_session_is_recorded_on_a_connection_that_has_carried_other_requests() {
    let upstream = listen().await;
    let (address, mut captures) = recorder(&upstream).await;
    let mut agent = TcpStream::connect(address).await.unwrap();
    let mut server = Server::accept(&upstream).await;
    for (method, body) in [("GET", ""), ("POST", "0123456789")] {
        let request = format!(
            "{method} /other HTTP/1.1\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        agent
            .write_all(&[request.as_bytes(), body.as_bytes()].concat())
            .await
            .unwrap();
        server
            .answer(b"HTTP/1.1 404 Not Found\r\ncontent-length: 7\r\n\r\nnothing")
            .await;
        let mut body = vec![0; body.len()];
        server.stream.read_exact(&mut body).await.unwrap();
        let mut answer = [0; 52];
        agent.read_exact(&mut answer).await.unwrap();
        assert!(answer.ends_with(b"nothing"), "{answer:?}");
    }
    // The first frame is sent before the answer has come.
    let request = "GET /rpc?version=2.8&coder_session_token=secret HTTP/1.1\r\nCoder-Session-Token: secret\r\nUser-Agent: go: 1\r\n\r\n";
    let ping = client_frame(FrameKind::Ping, true, b"early");
    agent
        .write_all(&[request.as_bytes(), &ping].concat())
        .await
        .unwrap();
    server.answer(AGREED).await;
    let mut answer = [0; AGREED.len()];
    agent.read_exact(&mut answer).await.unwrap();
    agent
        .write_all(&client_frame(FrameKind::Close, true, &[0x03, 0xe8]))
        .await
        .unwrap();
    assert_eq!(server.next().await.unwrap(), b"early");
    assert_eq!(server.next().await.unwrap(), [0x03, 0xe8]);
    drop((agent, server));

    let kept = tokio::time::timeout(PATIENCE, captures.recv()).await;
    let capture = kept.expect("the session is recorded").unwrap();
    assert_eq!(capture.target, "/rpc?version=2.8&coder_session_token=REDACTED");
    let (headers, answered): (Vec<_>, Vec<_>) = capture
        .headers
        .iter()
        .map(|header| (header.from, format!("{}: {}", header.name, header.value)))
        .partition(|(from, _)| *from == Side::Agent);
    let texts = |headers: Vec<(Side, String)>| headers.into_iter().map(|(_, text)| text).collect::<Vec<_>>();
    assert_eq!(
        texts(headers),
        ["Coder-Session-Token: REDACTED", "User-Agent: go: 1"]
    );
    assert_eq!(texts(answered).join("\r\n"), answer_lines(AGREED));
    let kinds: Vec<_> = capture.records.iter().map(|record| record.kind).collect();
    assert_eq!(kinds, [FrameKind::Ping, FrameKind::Close]);
    assert!(!capture.to_text().contains("secret"));
}
