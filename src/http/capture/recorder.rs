//! A proxy that passes every byte on and keeps what sessions say. Tokens stay out of what is kept.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::frames::Frames;
use crate::capture::{Capture, Record, Redactor, Side, headers, redact};
use crate::clock::{Clock, Instant};

/// Connections at once; more wait.
const MAX_CONNECTIONS: usize = 1_024;

/// Bytes of a request or an answer that are looked at. The session of a longer handshake is passed on and not recorded.
const MAX_BEGUN: usize = 64 * 1024;

/// What is between the head of a request or an answer and what follows it.
const END_OF_HEAD: &[u8] = b"\r\n\r\n";

/// Bytes that are kept of one session; what comes later is passed on and not recorded.
const MAX_RECORDED: usize = 256 * 1024 * 1024;

/// Pause after a failed accept, which happens when the process is out of files: some will be closed meanwhile.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Bytes passed on at once.
const CHUNK: usize = 16 * 1024;

/// Passes connections on to `upstream` until `stop`, and gives `keep` each session when it is over.
pub async fn record(
    listener: TcpListener,
    upstream: SocketAddr,
    clock: Clock,
    stop: CancellationToken,
    keep: impl Fn(Capture) + Send + Sync + 'static,
) {
    let keep = Arc::new(keep);
    let room = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let sessions = TaskTracker::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.cancelled() => break,
        };
        let agent = match accepted {
            Ok((agent, _)) => agent,
            Err(error) => {
                tracing::error!(%error, "cannot accept a connection");
                clock.sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let (Ok(place), keep) = (Arc::clone(&room).acquire_owned().await, Arc::clone(&keep)) else {
            break;
        };
        let (clock, stop) = (clock.clone(), stop.clone());
        sessions.spawn(async move {
            let tap = Mutex::new(Tap::new(clock));
            tokio::select! {
                passed = pass(agent, upstream, &tap) => if let Err(error) = passed {
                    tracing::debug!(%error, "connection ended");
                },
                () = stop.cancelled() => {}
            }
            // What was recorded before a panic is worth keeping.
            if let Some(capture) = tap.into_inner().unwrap_or_else(PoisonError::into_inner).finish() {
                keep(capture);
            }
            drop(place);
        });
    }
    sessions.close();
    sessions.wait().await;
}

async fn pass(mut agent: TcpStream, upstream: SocketAddr, tap: &Mutex<Tap>) -> io::Result<()> {
    let mut server = match TcpStream::connect(upstream).await {
        Ok(server) => server,
        Err(error) => {
            tracing::warn!(%error, server = %upstream, "the server cannot be reached");
            return Err(error);
        }
    };
    agent.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let (agent_reads, agent_writes) = agent.split();
    let (server_reads, server_writes) = server.split();
    tokio::try_join!(
        copy(agent_reads, server_writes, Side::Agent, tap),
        copy(server_reads, agent_writes, Side::Server, tap),
    )?;
    Ok(())
}

async fn copy(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    side: Side,
    tap: &Mutex<Tap>,
) -> io::Result<()> {
    let mut chunk = vec![0; CHUNK];
    loop {
        let length = from.read(&mut chunk).await?;
        if length == 0 {
            return to.shutdown().await;
        }
        // Before the other side can answer it.
        tap.lock()
            .unwrap_or_else(PoisonError::into_inner)
            .feed(side, &chunk[..length]);
        to.write_all(&chunk[..length]).await?;
    }
}

/// What is kept of a connection.
struct Tap {
    clock: Clock,
    /// Since the handshake; before it the two speak HTTP.
    since: Option<Instant>,
    /// Who spoke last. In HTTP, whoever speaks after the other begins a request or an answer.
    speaker: Option<Side>,
    agent: Direction,
    server: Direction,
    capture: Capture,
    redactor: Redactor,
    recorded: usize,
    /// Nothing more is recorded: this is no session, or too much.
    over: bool,
}

#[derive(Default)]
struct Direction {
    /// What came since the request or answer began, up to [`MAX_BEGUN`].
    begun: Vec<u8>,
    frames: Frames,
}

impl Direction {
    /// Bytes of the head of what began, if all of it came.
    fn head(&self) -> Option<usize> {
        self.begun.windows(4).position(|four| four == END_OF_HEAD)
    }

    /// The second word of a head: the target of a request, the status of an answer.
    fn second_word(&self, head: usize) -> String {
        let head = String::from_utf8_lossy(&self.begun[..head]);
        head.split(' ').nth(1).unwrap_or_default().to_owned()
    }

    /// What is behind the head is frames.
    fn upgrade(&mut self, head: usize) {
        let begun = std::mem::take(&mut self.begun);
        self.frames.push(&begun[head + END_OF_HEAD.len()..]);
    }
}

impl Tap {
    fn new(clock: Clock) -> Self {
        Self {
            clock,
            since: None,
            speaker: None,
            agent: Direction::default(),
            server: Direction::default(),
            capture: Capture {
                target: String::new(),
                status: 0,
                headers: Vec::new(),
                records: Vec::new(),
            },
            redactor: Redactor::default(),
            recorded: 0,
            over: false,
        }
    }

    fn finish(self) -> Option<Capture> {
        self.since.map(|_| self.capture)
    }

    fn direction(&mut self, side: Side) -> &mut Direction {
        match side {
            Side::Agent => &mut self.agent,
            Side::Server => &mut self.server,
        }
    }

    fn feed(&mut self, side: Side, bytes: &[u8]) {
        if self.over {
            return;
        }
        if self.since.is_some() {
            self.direction(side).frames.push(bytes);
            self.take_frames(side);
            return;
        }
        let begins = self.speaker.replace(side) != Some(side);
        let direction = self.direction(side);
        if begins {
            direction.begun.clear();
        }
        let room = MAX_BEGUN - direction.begun.len();
        direction.begun.extend_from_slice(&bytes[..room.min(bytes.len())]);
        if side == Side::Server {
            self.on_answer();
        }
    }

    /// Begins to record once the server agrees to a session; other requests may come before on the same connection.
    fn on_answer(&mut self) {
        let agreed = |head: &usize| self.server.second_word(*head) == "101";
        let Some(answer) = self.server.head().filter(agreed) else {
            return;
        };
        let request = self.agent.head();
        let Some(request) = request.filter(|_| self.agent.begun.len() < MAX_BEGUN) else {
            tracing::warn!("a handshake is too long: its session is not recorded");
            self.over = true;
            return;
        };
        self.since = Some(self.clock.monotonic());
        self.capture.target = redact(&self.agent.second_word(request));
        self.capture.status = 101;
        let mut said = headers(Side::Agent, &self.agent.begun[..request]);
        said.extend(headers(Side::Server, &self.server.begun[..answer]));
        self.capture.headers = said;
        self.agent.upgrade(request);
        self.server.upgrade(answer);
        self.take_frames(Side::Agent);
        self.take_frames(Side::Server);
    }

    fn take_frames(&mut self, side: Side) {
        while !self.over {
            let frame = match self.direction(side).frames.next() {
                Ok(Some(frame)) => frame,
                Ok(None) => return,
                Err(error) => {
                    tracing::warn!(%error, "the rest of a session is not recorded");
                    self.over = true;
                    return;
                }
            };
            self.recorded += size_of::<Record>() + frame.data.len();
            if self.recorded > MAX_RECORDED {
                tracing::warn!("a session is too long: its rest is not recorded");
                self.over = true;
                return;
            }
            let data = if frame.kind.is_data() {
                self.redactor.redact(side, &frame.data)
            } else {
                frame.data
            };
            let now = self.clock.monotonic();
            let at = self
                .since
                .map_or(Duration::ZERO, |since| now.saturating_duration_since(since));
            self.capture.records.push(Record {
                at,
                from: side,
                kind: frame.kind,
                last: frame.last,
                data,
            });
        }
    }
}
