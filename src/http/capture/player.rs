//! Says again what a recorded agent said, each part once the server has answered as much as it had then.

use std::collections::{BTreeSet, HashMap};
use std::net::SocketAddr;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::frames::{Frames, NoFrame, client_frame};
use crate::capture::{Capture, FrameKind, Packets, Record, Redactor, Side, without_redacted};
use crate::clock::{Clock, Instant};
use crate::mux::inspect::{MuxFrame, Piece};

/// How long the server may take for what the recorded one had answered; the replay then goes on without it.
const PATIENCE: Duration = Duration::from_secs(10);

/// Bytes of the answer's head.
const MAX_HEAD: usize = 64 * 1024;

/// Credit of a stream when it opens, in each direction.
const CREDIT: usize = 256 * 1024;

/// Why a capture cannot be replayed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReplayError {
    /// The connection failed.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// The server did not let the session in. The text is its answer's first line.
    #[error("the server answered {0:?}")]
    Refused(String),
    /// The server does not speak WebSocket.
    #[error("the server sent no WebSocket frame")]
    NoFrame,
}

impl From<NoFrame> for ReplayError {
    fn from(_: NoFrame) -> Self {
        Self::NoFrame
    }
}

/// How far the server's side of a capture had come.
#[derive(Clone, Default)]
struct Progress {
    /// What it had said in each call, by yamux stream and number of the call on it.
    answers: HashMap<(u32, u64), Answers>,
    /// Streams that the server had ended.
    ended: BTreeSet<u32>,
}

#[derive(Clone, Copy, Default)]
struct Answers {
    packets: usize,
    /// There will be no more.
    all: bool,
}

impl Progress {
    fn on_message(&mut self, packets: &mut Packets, data: &[u8]) -> Vec<Piece> {
        let (pieces, completed) = packets.push(data);
        for (stream, packet) in completed {
            let answers = self.answers.entry((stream, packet.stream)).or_default();
            answers.packets += 1;
            answers.all |= packet.is_last_word();
        }
        for piece in &pieces {
            if let Piece::Mux(frame) = piece
                && frame.flags & (MuxFrame::FIN | MuxFrame::RST) != 0
            {
                self.ended.insert(frame.stream);
            }
        }
        pieces
    }

    /// Whether it has come as far as `other`, or can come no further.
    fn reaches(&self, other: &Self) -> bool {
        let answered = |(call, theirs): (&(u32, u64), &Answers)| {
            let ours = self.answers.get(call).copied().unwrap_or_default();
            self.ended.contains(&call.0) || ours.all || ours.packets >= theirs.packets
        };
        other.answers.iter().all(answered) && other.ended.is_subset(&self.ended)
    }
}

/// Plays the agent's side of `capture` to the server at `address`, with this token, and records what comes of it.
pub async fn replay(
    address: SocketAddr,
    token: &str,
    capture: &Capture,
    clock: &Clock,
) -> Result<Capture, ReplayError> {
    let mut player = Player::dial(address, token, capture, clock).await?;
    let (mut sent, mut answered) = (Packets::default(), Packets::default());
    let mut progress = Progress::default();
    for record in &capture.records {
        match (record.from, record.kind.is_data()) {
            (Side::Server, true) => {
                progress.on_message(&mut answered, &record.data);
            }
            (Side::Agent, true) => {
                player.await_progress(&progress).await?;
                let pieces = sent.push(&record.data).0;
                player.send_pieces(record, &pieces).await?;
                player.mid_frame = sent.inspector().is_mid_frame() || !record.last;
                player.send_due().await?;
            }
            (Side::Agent, false) if record.kind != FrameKind::Pong => {
                player.await_progress(&progress).await?;
                player.send(record.kind, record.last, &record.data).await?;
            }
            _ => {}
        }
    }
    player.await_progress(&progress).await?;
    Ok(player.record)
}

struct Player<'c> {
    stream: TcpStream,
    frames: Frames,
    packets: Packets,
    progress: Progress,
    redactor: Redactor,
    /// Bytes that may be sent on each stream.
    credit: HashMap<u32, usize>,
    /// The rest of a yamux frame or of a WebSocket message is to be sent, and nothing of ours before it.
    mid_frame: bool,
    /// Our own credit and pongs, until they may be sent.
    due: Vec<u8>,
    clock: &'c Clock,
    since: Instant,
    record: Capture,
    ended: bool,
}

impl<'c> Player<'c> {
    async fn dial(
        address: SocketAddr,
        token: &str,
        capture: &Capture,
        clock: &'c Clock,
    ) -> Result<Self, ReplayError> {
        let mut stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let key = STANDARD.encode(rand::random::<[u8; 16]>());
        let request = format!(
            "GET {} HTTP/1.1\r\nHost: {address}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\nCoder-Session-Token: {token}\r\n\r\n",
            without_redacted(&capture.target)
        );
        stream.write_all(request.as_bytes()).await?;
        let mut head = Vec::new();
        let end = loop {
            if let Some(end) = head.windows(4).position(|four| four == b"\r\n\r\n") {
                break end;
            }
            if head.len() > MAX_HEAD || stream.read_buf(&mut head).await? == 0 {
                return Err(ReplayError::Refused(first_line(&head)));
            }
        };
        let line = first_line(&head);
        if line.split(' ').nth(1) != Some("101") {
            return Err(ReplayError::Refused(line));
        }
        let mut frames = Frames::default();
        frames.push(&head[end + 4..]);
        Ok(Self {
            stream,
            frames,
            packets: Packets::default(),
            progress: Progress::default(),
            redactor: Redactor::default(),
            credit: HashMap::new(),
            mid_frame: false,
            due: Vec::new(),
            clock,
            since: clock.monotonic(),
            record: Capture {
                target: capture.target.clone(),
                status: 101,
                headers: Vec::new(),
                records: Vec::new(),
            },
            ended: false,
        })
    }

    fn keep(&mut self, from: Side, kind: FrameKind, last: bool, data: &[u8]) {
        let data = if kind.is_data() {
            self.redactor.redact(from, data)
        } else {
            data.to_vec()
        };
        self.record.records.push(Record {
            at: self.clock.monotonic().saturating_duration_since(self.since),
            from,
            kind,
            last,
            data,
        });
    }

    async fn send(&mut self, kind: FrameKind, last: bool, data: &[u8]) -> Result<(), ReplayError> {
        self.keep(Side::Agent, kind, last, data);
        if self
            .stream
            .write_all(&client_frame(kind, last, data))
            .await
            .is_err()
        {
            // What the server closed is seen by what it sent before.
            self.ended = true;
        }
        Ok(())
    }

    /// Sends a message without the credit and the answers to pings that were for another server.
    async fn send_pieces(&mut self, record: &Record, pieces: &[Piece]) -> Result<(), ReplayError> {
        let mut data = Vec::new();
        for piece in pieces {
            if let Piece::Mux(frame) = piece {
                let credit = frame.kind == MuxFrame::WINDOW && frame.flags == 0;
                let pong = frame.kind == MuxFrame::PING && frame.flags & MuxFrame::ACK != 0;
                if credit || pong {
                    continue;
                }
                self.await_credit(frame).await?;
            }
            data.extend(piece.encode());
        }
        if data.is_empty() && !record.data.is_empty() {
            return Ok(());
        }
        self.send(record.kind, record.last, &data).await
    }

    async fn await_credit(&mut self, frame: &MuxFrame) -> Result<(), ReplayError> {
        if frame.flags & MuxFrame::SYN != 0 {
            self.credit.insert(frame.stream, CREDIT);
        }
        if frame.kind != MuxFrame::DATA {
            return Ok(());
        }
        let length = usize::try_from(frame.length).unwrap_or(usize::MAX);
        let until = self.clock.monotonic() + PATIENCE;
        while self
            .credit
            .get(&frame.stream)
            .is_none_or(|credit| *credit < length)
        {
            if !self.pump(until).await? {
                break;
            }
        }
        if let Some(credit) = self.credit.get_mut(&frame.stream) {
            *credit = credit.saturating_sub(length);
        }
        Ok(())
    }

    /// Waits until the server has come as far, unless it is in the middle of what it is being told: clients write frames in
    /// parts, whatever comes meanwhile.
    async fn await_progress(&mut self, progress: &Progress) -> Result<(), ReplayError> {
        if self.mid_frame {
            return Ok(());
        }
        let until = self.clock.monotonic() + PATIENCE;
        while !self.progress.reaches(progress) && self.pump(until).await? {}
        Ok(())
    }

    /// Takes what the server sends; false when it sends no more, or nothing until then.
    async fn pump(&mut self, until: Instant) -> Result<bool, ReplayError> {
        if let Some(frame) = self.frames.next()? {
            self.keep(Side::Server, frame.kind, frame.last, &frame.data);
            match frame.kind {
                FrameKind::Binary | FrameKind::Continuation => self.on_data(&frame.data).await?,
                FrameKind::Ping => self.send(FrameKind::Pong, true, &frame.data).await?,
                FrameKind::Close => self.ended = true,
                FrameKind::Text | FrameKind::Pong => {}
            }
            return Ok(true);
        }
        let wait = until.saturating_duration_since(self.clock.monotonic());
        if self.ended || wait.is_zero() {
            return Ok(false);
        }
        let mut chunk = Vec::with_capacity(MAX_HEAD);
        let read = tokio::select! {
            read = self.stream.read_buf(&mut chunk) => read,
            () = self.clock.sleep(wait) => return Ok(false),
        };
        self.frames.push(&chunk);
        // The end of a connection, in whatever order, is the end of its answers.
        self.ended |= !matches!(read, Ok(1..));
        Ok(true)
    }

    async fn on_data(&mut self, data: &[u8]) -> Result<(), ReplayError> {
        for piece in self.progress.on_message(&mut self.packets, data) {
            let Piece::Mux(frame) = piece else { continue };
            match frame.kind {
                MuxFrame::DATA if frame.length > 0 => {
                    let credit = MuxFrame {
                        kind: MuxFrame::WINDOW,
                        flags: 0,
                        ..frame
                    };
                    self.due.extend(credit.encode());
                }
                MuxFrame::WINDOW => {
                    let more = usize::try_from(frame.length).unwrap_or(usize::MAX);
                    if let Some(credit) = self.credit.get_mut(&frame.stream) {
                        *credit = credit.saturating_add(more);
                    }
                }
                MuxFrame::PING if frame.flags & MuxFrame::SYN != 0 => {
                    let pong = MuxFrame {
                        flags: MuxFrame::ACK,
                        ..frame
                    };
                    self.due.extend(pong.encode());
                }
                _ => {}
            }
        }
        self.send_due().await
    }

    /// Sends our own credit and pongs, if they may come now.
    async fn send_due(&mut self) -> Result<(), ReplayError> {
        if self.mid_frame || self.due.is_empty() {
            return Ok(());
        }
        let due = std::mem::take(&mut self.due);
        self.send(FrameKind::Binary, true, &due).await
    }
}

fn first_line(head: &[u8]) -> String {
    let head = String::from_utf8_lossy(head);
    head.lines().next().unwrap_or_default().to_owned()
}
