//! The scripted peer, and the service that it calls.

use std::fmt::Write as _;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::task::JoinHandle;

use crate::clock::{Clock, Timestamp};
use crate::mux::pipe::memory::{MemoryPipe, pair};
use crate::mux::pipe::{Close, Pipe, PipeError};
use crate::mux::serve::{Buffers, Control, Pace, SessionEnd, serve};
use crate::mux::{Inbound, Interceptor, Metadata, Method, Outbound, Outcome, Registry, Status};
pub(super) use crate::telemetry::testing::Log;

/// A message with one text, as protobuf field 1.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(super) struct Text {
    #[prost(string, tag = "1")]
    pub(super) text: String,
}

impl Text {
    pub(super) fn new(text: impl Into<String>) -> Self {
        Self { text: text.into() }
    }
}

/// What the service has seen. Shared by the test and the handlers.
#[derive(Clone, Debug, Default)]
pub(super) struct Seen(Arc<SeenInner>);

#[derive(Debug, Default)]
struct SeenInner {
    log: Mutex<Vec<String>>,
    running: AtomicUsize,
}

/// Counts a handler while it exists.
#[derive(Debug)]
pub(super) struct Running(Seen);

impl Seen {
    pub(super) fn note(&self, text: impl Into<String>) {
        self.0.log.lock().unwrap().push(text.into());
    }

    pub(super) fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.0.log.lock().unwrap())
    }

    pub(super) fn running(&self) -> usize {
        self.0.running.load(Ordering::Relaxed)
    }

    fn enter(&self) -> Running {
        self.0.running.fetch_add(1, Ordering::Relaxed);
        Running(self.clone())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.0.running.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Notes metadata, and how calls end.
struct Watch;

impl Interceptor<Seen> for Watch {
    fn admit(&self, seen: &Seen, method: &Method<Seen>, metadata: &Metadata) -> Result<(), Status> {
        if let Some(value) = metadata.value(b"k") {
            seen.note(format!("metadata k={}", String::from_utf8_lossy(value)));
        }
        if method.path() == "/t/Refused" {
            return Err(Status::new(7, "no"));
        }
        Ok(())
    }

    fn finished(&self, seen: &Seen, method: &Method<Seen>, outcome: &Outcome, _elapsed: Duration) {
        seen.note(match outcome {
            Outcome::Failed(status) => format!("{} failed: {status}", method.path()),
            other => format!("{} {other:?}", method.path()),
        });
    }
}

fn registry() -> Registry<Seen> {
    let mut registry = Registry::new();
    registry.intercept(Watch);
    registry.unary("/t/Echo", |_: &Seen, request: Text| async move {
        Ok(Text::new(format!("re:{}", request.text)))
    });
    registry.unary("/t/Refused", |_: &Seen, request: Text| async move { Ok(request) });
    registry.unary("/t/Fail", |_: &Seen, request: Text| async move {
        Err::<Text, _>(Status::new(42, request.text))
    });
    registry.unary("/t/Panic", |_: &Seen, request: Text| async move {
        assert!(request.text.is_empty(), "as asked");
        Ok(request)
    });
    registry.unary("/t/Huge", |_: &Seen, request: Text| async move {
        Ok(Text::new("x".repeat(request.text.parse::<usize>().unwrap())))
    });
    // Replies, after a second, with as many bytes as the request says.
    registry.unary("/t/HugeLate", |_: &Seen, request: Text| async move {
        tokio::time::sleep(Duration::from_secs(1)).await;
        Ok(Text::new("x".repeat(request.text.parse::<usize>().unwrap())))
    });
    // Replies after as many milliseconds as the request says.
    registry.unary("/t/Sleep", |seen: &Seen, request: Text| {
        let running = seen.enter();
        async move {
            tokio::time::sleep(Duration::from_millis(request.text.parse().unwrap())).await;
            drop(running);
            Ok(Text::new("slept"))
        }
    });
    // Sends as many messages of 10,000 bytes as the request says.
    registry.server_stream(
        "/t/Count",
        |seen: &Seen, request: Text, mut out: Outbound<Text>| {
            let running = seen.enter();
            async move {
                for i in 0..request.text.parse::<u32>().unwrap() {
                    out.send(&Text::new(format!("{i:0>10000}"))).await?;
                }
                drop(running);
                Ok(())
            }
        },
    );
    registry.server_stream("/t/Silent", |seen: &Seen, _: Text, out: Outbound<Text>| {
        let running = seen.enter();
        async move {
            std::future::pending::<()>().await;
            drop((running, out));
            Ok(())
        }
    });
    registry.client_stream("/t/Join", |_: &Seen, mut requests: Inbound<Text>| async move {
        let mut all = String::new();
        while let Some(request) = requests.next().await? {
            all += &request.text;
        }
        Ok(Text::new(all))
    });
    registry.bidi(
        "/t/Chat",
        |seen: &Seen, requests: Inbound<Text>, replies: Outbound<Text>| {
            chat(seen.clone(), seen.enter(), requests, replies)
        },
    );
    // The same, with its handles in another task.
    registry.bidi(
        "/t/FarChat",
        |seen: &Seen, requests: Inbound<Text>, replies: Outbound<Text>| {
            let task = tokio::spawn(chat(seen.clone(), seen.enter(), requests, replies));
            async move { task.await.unwrap() }
        },
    );
    // Never reads.
    registry.bidi(
        "/t/Deaf",
        |seen: &Seen, requests: Inbound<Text>, replies: Outbound<Text>| {
            let running = seen.enter();
            async move {
                std::future::pending::<()>().await;
                drop((running, requests, replies));
                Ok(())
            }
        },
    );
    // Says goodbye at once.
    registry.bidi(
        "/t/Leave",
        |_: &Seen, _: Inbound<Text>, _: Outbound<Text>| async { Ok(()) },
    );
    // The same, later and without having read.
    registry.bidi(
        "/t/LeaveLate",
        |seen: &Seen, requests: Inbound<Text>, replies: Outbound<Text>| {
            let running = seen.enter();
            async move {
                tokio::time::sleep(Duration::from_secs(1)).await;
                drop((running, requests, replies));
                Ok(())
            }
        },
    );
    registry.bidi(
        "/t/LeaveWithError",
        |_: &Seen, _: Inbound<Text>, _: Outbound<Text>| async { Err(Status::new(9, "enough")) },
    );
    registry
}

async fn chat(
    seen: Seen,
    running: Running,
    mut requests: Inbound<Text>,
    mut replies: Outbound<Text>,
) -> Result<(), Status> {
    loop {
        match requests.next().await {
            Ok(Some(request)) if request.text == "close" => replies.close(),
            Ok(Some(request)) if request.text == "half-close" => replies.close_send(),
            Ok(Some(request)) => {
                seen.note(format!("got {}", request.text));
                if let Err(status) = replies.send(&request).await {
                    seen.note(format!("send: {status}"));
                    return Err(status);
                }
            }
            Ok(None) => {
                seen.note("eof");
                drop(running);
                return Ok(());
            }
            Err(status) => {
                seen.note(format!("recv: {} {status}", status.code()));
                return Err(status);
            }
        }
    }
}

/// A server's end of a pipe that is not as others are.
pub(super) struct Odd {
    pipe: MemoryPipe,
    /// Frames of the transport that each message comes in, and those that came.
    of_a_message: u32,
    frames: u32,
    /// Whether it takes nothing that is to be sent.
    broken: bool,
}

impl Odd {
    pub(super) fn framed(pipe: MemoryPipe, of_a_message: u32) -> Self {
        Self {
            pipe,
            of_a_message,
            frames: 0,
            broken: false,
        }
    }

    pub(super) fn broken(pipe: MemoryPipe) -> Self {
        Self {
            broken: true,
            ..Self::framed(pipe, 0)
        }
    }
}

impl Pipe for Odd {
    fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, PipeError>>> {
        let received = self.pipe.poll_recv(cx);
        if matches!(received, Poll::Ready(Some(Ok(_)))) {
            self.frames += self.of_a_message;
        }
        received
    }

    fn poll_send(&mut self, cx: &mut Context<'_>, out: &mut BytesMut) -> Poll<Result<(), PipeError>> {
        if self.broken {
            return Poll::Ready(Err(std::io::Error::from(std::io::ErrorKind::BrokenPipe).into()));
        }
        self.pipe.poll_send(cx, out)
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), PipeError>> {
        self.pipe.poll_flush(cx)
    }

    fn poll_close(&mut self, cx: &mut Context<'_>, close: &Close) -> Poll<Result<(), PipeError>> {
        self.pipe.poll_close(cx, close)
    }

    fn poll_ping(&mut self, cx: &mut Context<'_>) -> Poll<Result<bool, PipeError>> {
        self.pipe.poll_ping(cx)
    }

    fn take_frames(&mut self) -> u32 {
        std::mem::take(&mut self.frames)
    }
}

/// The peer's end of a session under test.
pub(super) struct Peer {
    pub(super) pipe: MemoryPipe,
    pub(super) seen: Seen,
    pub(super) control: Control,
    pub(super) served: JoinHandle<SessionEnd>,
}

pub(super) fn bytes(hex: &str) -> Bytes {
    let digits: Vec<_> = hex.chars().filter_map(|digit| digit.to_digit(16)).collect();
    digits
        .chunks(2)
        .map(|pair| u8::try_from(pair[0] << 4 | pair[1]).unwrap())
        .collect()
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    })
}

/// A DRPC frame of stream 1.
pub(super) fn drpc(kind: u8, message: u8, data: &[u8]) -> String {
    let len = data.len();
    let len = if len < 128 {
        format!("{len:02x}")
    } else {
        format!("{:02x}{:02x}", len & 0x7f | 0x80, len >> 7)
    };
    format!("{:02x}01{message:02x}{len}{}", kind << 1 | 1, hex(data))
}

pub(super) fn invoke(path: &str) -> String {
    drpc(1, 1, path.as_bytes())
}

pub(super) fn message(id: u8, text: &str) -> String {
    drpc(2, id, &prost::Message::encode_to_vec(&Text::new(text)))
}

/// An Error packet.
pub(super) fn error(id: u8, code: u64, text: &str) -> String {
    drpc(3, id, &[&code.to_be_bytes(), text.as_bytes()].concat())
}

pub(super) const CLOSE_SEND_1: &str = "0d010100";
pub(super) const CLOSE_SEND_2: &str = "0d010200";
pub(super) const CLOSE_SEND_3: &str = "0d010300";
pub(super) const CANCEL_3: &str = "89010300";

/// A yamux DATA frame.
pub(super) fn data(flags: u16, stream: u32, payload: &str) -> String {
    format!("0000{flags:04x}{stream:08x}{:08x}{payload}", bytes(payload).len())
}

/// A yamux WINDOW frame.
pub(super) fn window(flags: u16, stream: u32, credit: u32) -> String {
    format!("0001{flags:04x}{stream:08x}{credit:08x}")
}

pub(super) const SYN: u16 = 1;
pub(super) const ACK: u16 = 2;
pub(super) const FIN: u16 = 4;
pub(super) const RST: u16 = 8;

/// A whole small call in one frame that opens its stream, with a request.
pub(super) fn call(stream: u32, path: &str, request: &str) -> String {
    data(
        SYN,
        stream,
        &[invoke(path), message(2, request), CLOSE_SEND_3.into()].concat(),
    )
}

/// A call in one frame that opens its stream, without any message.
pub(super) fn open(stream: u32, path: &str) -> String {
    data(SYN, stream, &invoke(path))
}

impl Peer {
    /// Time must be paused.
    pub(super) fn new() -> Self {
        Self::with_capacity(1 << 20)
    }

    /// A peer whose pipe holds up the server once `capacity` bytes wait in it.
    pub(super) fn with_capacity(capacity: usize) -> Self {
        Self::with_session(capacity, |session| tokio::spawn(session))
    }

    /// A peer whose session is one of several with a common account.
    pub(super) fn within(buffers: Buffers) -> Self {
        Self::beside(buffers, Pace::default(), 1 << 20)
    }

    /// As above, whose work counts with that of others.
    pub(super) fn beside(buffers: Buffers, pace: Pace, capacity: usize) -> Self {
        let control = Control::within(buffers, pace, &Clock::driven(Timestamp::UNIX_EPOCH));
        Self::controlled_by(control, capacity, |session| tokio::spawn(session))
    }

    /// A peer whose session runs as `run` lets it.
    pub(super) fn with_session(
        capacity: usize,
        run: impl FnOnce(Pin<Box<dyn Future<Output = SessionEnd> + Send>>) -> JoinHandle<SessionEnd>,
    ) -> Self {
        let clock = Clock::driven(Timestamp::UNIX_EPOCH);
        Self::controlled_by(Control::new(&clock), capacity, run)
    }

    fn controlled_by(
        control: Control,
        capacity: usize,
        run: impl FnOnce(Pin<Box<dyn Future<Output = SessionEnd> + Send>>) -> JoinHandle<SessionEnd>,
    ) -> Self {
        Self::over(pair(capacity), control, run)
    }

    /// A peer whose server has an odd end of the pipe.
    pub(super) fn through(capacity: usize, odd: impl FnOnce(MemoryPipe) -> Odd) -> Self {
        let (ours, theirs) = pair(capacity);
        let control = Control::new(&Clock::driven(Timestamp::UNIX_EPOCH));
        Self::over((ours, odd(theirs)), control, |session| tokio::spawn(session))
    }

    fn over<P: Pipe + 'static>(
        (ours, theirs): (MemoryPipe, P),
        control: Control,
        run: impl FnOnce(Pin<Box<dyn Future<Output = SessionEnd> + Send>>) -> JoinHandle<SessionEnd>,
    ) -> Self {
        let clock = Clock::driven(Timestamp::UNIX_EPOCH);
        let seen = Seen::default();
        let session = serve(theirs, Arc::new(registry()), seen.clone(), control.clone(), clock);
        Self {
            pipe: ours,
            seen,
            control,
            served: run(Box::pin(session)),
        }
    }

    /// Sends one message with all of `parts`, and lets the server work.
    pub(super) async fn send(&mut self, parts: &[String]) {
        self.push(&bytes(&parts.concat()));
        settle().await;
    }

    /// Sends without letting the server work.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        let mut out = BytesMut::from(bytes);
        let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
        while !out.is_empty() {
            assert!(
                self.pipe.poll_send(&mut cx, &mut out).is_ready(),
                "the server does not read"
            );
        }
    }

    /// The messages that the server has sent since the last look.
    pub(super) fn received(&mut self) -> Vec<Bytes> {
        let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
        let mut messages = Vec::new();
        while let std::task::Poll::Ready(Some(Ok(message))) = self.pipe.poll_recv(&mut cx) {
            messages.push(message);
        }
        messages
    }

    /// Asserts what the server has sent since the last look: these frames, in one message.
    #[track_caller]
    pub(super) fn expect(&mut self, frames: &[String]) {
        let messages: Vec<_> = self.received().iter().map(|message| hex(message)).collect();
        assert_eq!(messages, [frames.concat()]);
    }

    #[track_caller]
    pub(super) fn expect_nothing(&mut self) {
        let messages: Vec<_> = self.received().iter().map(|message| hex(message)).collect();
        assert!(messages.is_empty(), "unexpected {messages:?}");
    }

    #[track_caller]
    pub(super) fn expect_seen(&self, notes: &[&str]) {
        assert_eq!(self.seen.take(), notes);
    }

    pub(super) fn close(&mut self, code: u16) {
        let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
        let close = Close {
            code: crate::mux::pipe::CloseCode(code),
            reason: "".into(),
        };
        assert!(self.pipe.poll_close(&mut cx, &close).is_ready());
    }

    /// How the session ended.
    pub(super) async fn end(self) -> SessionEnd {
        tokio::time::timeout(Duration::from_mins(1), self.served)
            .await
            .unwrap()
            .unwrap()
    }
}

/// Lets all other tasks work until none can.
pub(super) async fn settle() {
    // Paused time moves only when every task waits.
    tokio::time::sleep(Duration::from_millis(1)).await;
}

/// The server's frames as they are, whatever messages they came in: (type, flags, stream, length, payload).
pub(super) fn frames(messages: &[Bytes]) -> Vec<(u8, u16, u32, u32, Bytes)> {
    let mut input: Bytes = messages.concat().into();
    let mut frames = Vec::new();
    while !input.is_empty() {
        let header = input.split_to(12);
        let length = u32::from_be_bytes(header[8..].try_into().unwrap());
        let payload = if header[1] == 0 {
            input.split_to(length as usize)
        } else {
            Bytes::new()
        };
        let flags = u16::from_be_bytes([header[2], header[3]]);
        frames.push((
            header[1],
            flags,
            u32::from_be_bytes(header[4..8].try_into().unwrap()),
            length,
            payload,
        ));
    }
    frames
}
