//! A proxy that passes every byte on and keeps what sessions say. Tokens stay out of what is kept.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::frames::Frames;
use crate::capture::{Capture, Record, Redactor, Side, redact};
use crate::clock::{Clock, Instant};

/// Connections at once; more wait.
const MAX_CONNECTIONS: usize = 1_024;

/// Bytes of a handshake's head; what is longer is passed on and not recorded.
const MAX_HEAD: usize = 64 * 1024;

/// Bytes of payload that are kept of one session; what comes later is passed on and not recorded.
const MAX_RECORDED: usize = 256 * 1024 * 1024;

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
        let Ok((agent, _)) = accepted else { continue };
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
    let mut server = TcpStream::connect(upstream).await?;
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
    /// Since the handshake.
    since: Option<Instant>,
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
    /// Bytes of the head while it comes.
    head: Vec<u8>,
    has_head: bool,
    frames: Frames,
}

impl Tap {
    fn new(clock: Clock) -> Self {
        Self {
            clock,
            since: None,
            agent: Direction::default(),
            server: Direction::default(),
            capture: Capture {
                target: String::new(),
                status: 0,
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
        let direction = self.direction(side);
        if direction.has_head {
            direction.frames.push(bytes);
        } else {
            direction.head.extend_from_slice(bytes);
            let end = direction.head.windows(4).position(|four| four == b"\r\n\r\n");
            let Some(end) = end else {
                self.over = direction.head.len() > MAX_HEAD;
                return;
            };
            let head = std::mem::take(&mut direction.head);
            direction.has_head = true;
            direction.frames.push(&head[end + 4..]);
            self.on_head(side, &String::from_utf8_lossy(&head[..end]));
        }
        self.take_frames(side);
    }

    fn on_head(&mut self, side: Side, head: &str) {
        let word = head.split(' ').nth(1).unwrap_or_default();
        match side {
            Side::Agent => self.capture.target = redact(word),
            Side::Server => {
                self.capture.status = word.parse().unwrap_or_default();
                if self.capture.status == 101 {
                    self.since = Some(self.clock.monotonic());
                } else {
                    self.over = true;
                }
            }
        }
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
            self.recorded += frame.data.len();
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
                .map_or_else(Default::default, |since| now.saturating_duration_since(since));
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
