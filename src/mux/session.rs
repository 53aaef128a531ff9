//! yamux: many streams over one byte pipe. Sans-IO: bytes go in, events and bytes come out.
//!
//! Owns frame headers, stream numbers, credit in both directions and the rules whose breach a Go peer does not forgive
//! (one ACK, one FIN, no RST after a normal end, pings answered at once). Never looks at payload, never reads a clock,
//! and never decides when a stream is over; the shell above does.
//!
//! ```text
//!              fin()                      peer's FIN
//!   Open ───────────────▶ LocalFin ──────────────────────┐
//!    │                                                    ▼
//!    │ peer's FIN                fin()               forgotten ◀── reset(), peer's RST (from any state)
//!    └──────────▶ RemoteFin ─────────────────────────────┘
//! ```
//!
//! The counterpart is hashicorp/yamux v0.1.2 (`session.go`, `stream.go`), which is what peers run.

pub(super) mod header;
mod map;
mod output;
#[cfg(test)]
mod tests;

use bytes::{Buf, Bytes, BytesMut};

pub(super) use header::StreamId;
use header::{Flags, GoAwayCode, HEADER_LEN, Header, HeaderError, Kind};
pub(crate) use map::StreamMap;
use output::Output;

/// Credit of a stream in each direction when it opens, bytes. Fixed by the yamux specification; never tuned upward, so
/// that a stream costs at most this much memory while its reader waits.
pub(super) const WINDOW: u32 = 256 * 1024;

/// Most streams of one session, those included that wait for the peer's FIN. An honest agent holds a handful, so this
/// is generous; a peer above it has the new stream refused and keeps the others.
pub(crate) const MAX_STREAMS: usize = 4096;

/// Most streams that a client opens without an answer. Go servers refuse more (hashicorp/yamux `AcceptBacklog`).
const MAX_UNACKED: usize = 256;

/// Which end of the session this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// Opens streams; those that the peer opens are refused.
    Client,
    /// Accepts streams and opens none.
    Server,
}

/// What the peer did.
#[derive(Debug, PartialEq, Eq)]
#[non_exhaustive]
pub(super) enum Event {
    /// It opened a stream.
    Opened(StreamId),
    /// It sent bytes, which count against its credit until [`Session::consumed`].
    Data(StreamId, Bytes),
    /// It granted credit on a stream that had none.
    Writable(StreamId),
    /// It sends no more on this stream.
    Fin(StreamId),
    /// It ended this stream, which is forgotten.
    Reset(StreamId),
    /// It accepts no more streams; those that run go on.
    GoAway,
    /// It broke a rule, or said that we did. No further events follow; what is left to send should still be sent.
    Fatal(SessionError),
}

/// Why a session cannot go on. The texts are hashicorp/yamux's own (`const.go`, `session.go`), since they reach logs
/// that operators compare.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SessionError {
    /// The peer sent a header of another version.
    #[error("invalid protocol version")]
    Version,
    /// The peer sent a frame of an unknown type.
    #[error("invalid msg type")]
    FrameType,
    /// The peer opened a stream that is open.
    #[error("duplicate stream initiated")]
    DuplicateStream,
    /// The peer sent more than it was granted.
    #[error("recv window exceeded")]
    WindowExceeded,
    /// The peer ended a stream twice.
    #[error("unexpected flag")]
    UnexpectedFlag,
    /// The peer says that we broke the protocol.
    #[error("yamux protocol error")]
    PeerProtocolError,
    /// The peer says that it failed.
    #[error("remote yamux internal error")]
    PeerInternalError,
    /// The peer went away with a code that has no meaning.
    #[error("unexpected go away received")]
    PeerGoAway,
}

/// Why no stream could be opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub(super) enum OpenError {
    /// The peer accepts no more streams, or the session is over.
    #[error("remote end is not accepting connections")]
    GoAway,
    /// As many streams are open as may be; try again when one is done.
    #[error("too many open streams")]
    Full,
    /// All numbers are used up.
    #[error("streams exhausted")]
    Exhausted,
}

/// Work that the peer has made. Each frame counts once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Load {
    /// Streams that it opened, or tried to.
    pub(super) opens: u32,
    /// Pings that want an answer.
    pub(super) pings: u32,
    /// Other frames.
    pub(super) frames: u32,
}

/// One stream's credit and what has been said about it.
#[derive(Debug)]
struct Flow {
    /// What we may still send.
    send_window: u32,
    /// What the peer may still send.
    recv_window: u32,
    /// What was consumed and not yet granted again.
    reclaimed: u32,
    /// Flags that our next frame carries: SYN or ACK, once.
    due: Flags,
    /// As a client: our SYN has not been answered.
    unanswered: bool,
    local_fin: bool,
    remote_fin: bool,
}

impl Flow {
    fn new(due: Flags) -> Self {
        Self {
            send_window: WINDOW,
            recv_window: WINDOW,
            reclaimed: 0,
            due,
            unanswered: due == Flags::SYN,
            local_fin: false,
            remote_fin: false,
        }
    }
}

/// A frame whose header has been read.
#[derive(Debug)]
struct Frame {
    stream: StreamId,
    /// Payload that is still to come.
    remaining: u32,
    /// Whether the payload is for the user, or to be skipped.
    deliver: bool,
    /// What follows the payload: RST before FIN, as the peer's own order is.
    flags: Flags,
}

/// One end of a yamux session.
#[derive(Debug)]
pub(super) struct Session {
    role: Role,
    streams: StreamMap<Flow>,
    input: Bytes,
    header: [u8; HEADER_LEN],
    header_len: usize,
    frame: Option<Frame>,
    output: Output,
    /// Streams that wait for our ACK (server) or for the peer's (client).
    unacked: usize,
    next_id: u32,
    next_ping: u32,
    peer_gone: bool,
    dead: bool,
    load: Load,
}

impl Session {
    /// A fresh session.
    pub(super) fn new(role: Role) -> Self {
        Self {
            role,
            streams: StreamMap::new(),
            input: Bytes::new(),
            header: [0; HEADER_LEN],
            header_len: 0,
            frame: None,
            output: Output::new(),
            unacked: 0,
            next_id: 1,
            next_ping: 0,
            peer_gone: false,
            dead: false,
            load: Load::default(),
        }
    }

    /// Takes bytes from the peer. [`Session::poll_event`] must have returned `None` since the last call.
    pub(super) fn on_bytes(&mut self, chunk: Bytes) {
        debug_assert!(self.input.is_empty(), "events of the last chunk were not taken");
        if !self.dead {
            self.input = chunk;
        }
    }

    /// The next thing that the peer did; `None` when more bytes are needed.
    pub(super) fn poll_event(&mut self) -> Option<Event> {
        while !self.dead {
            let event = match self.frame.take() {
                Some(frame) => self.on_frame(frame),
                None => match self.read_header()? {
                    Ok(header) => self.on_header(header),
                    Err(HeaderError::Version) => Err(SessionError::Version),
                    Err(HeaderError::Kind) => Err(SessionError::FrameType),
                },
            };
            match event {
                Ok(Step::Again) => {}
                Ok(Step::Starved) => return None,
                Ok(Step::Event(event)) => return Some(event),
                Err(error) => return Some(self.die(error)),
            }
        }
        None
    }

    /// Whether the input so far ends inside a frame, so that an end of the pipe now is not a clean one.
    pub(super) fn is_mid_frame(&self) -> bool {
        self.header_len > 0 || self.frame.is_some()
    }

    /// What the peer has made us do since the last time.
    pub(super) fn take_load(&mut self) -> Load {
        std::mem::take(&mut self.load)
    }

    /// What is to be sent. The caller takes from its front.
    pub(super) fn output(&mut self) -> &mut BytesMut {
        self.output.bytes()
    }

    /// Whether so many control frames wait that no more input should be read: only a peer that floods us and does not
    /// read gets here.
    pub(super) fn is_flooded(&self) -> bool {
        self.output.is_flooded()
    }

    /// Releases the output's memory if nothing is waiting in it.
    pub(super) fn release_output(&mut self) {
        self.output.release();
    }

    /// Opens a stream. The peer learns of it with the first frame.
    pub(super) fn open(&mut self) -> Result<StreamId, OpenError> {
        if self.dead || self.peer_gone || self.role == Role::Server {
            return Err(OpenError::GoAway);
        }
        if self.unacked >= MAX_UNACKED || self.streams.len() >= MAX_STREAMS {
            return Err(OpenError::Full);
        }
        let id = StreamId(self.next_id);
        self.next_id = self.next_id.checked_add(2).ok_or(OpenError::Exhausted)?;
        self.streams.insert(id, Flow::new(Flags::SYN));
        self.unacked += 1;
        Ok(id)
    }

    /// Sends from the front of `data` what credit and the output's limit allow; the rest stays. Returns how much went.
    pub(super) fn send(&mut self, id: StreamId, data: &mut BytesMut) -> usize {
        let room = self.sendable(id).min(data.len());
        if room == 0 {
            return 0;
        }
        self.write_data(id, room, |out| out.extend_from_slice(&data[..room]));
        data.advance(room);
        room
    }

    /// How many bytes of payload can be sent on a stream right now.
    pub(super) fn sendable(&self, id: StreamId) -> usize {
        match self.streams.get(id) {
            Some(flow) if !flow.local_fin && !self.dead => self
                .output
                .room()
                .min(usize::try_from(flow.send_window).unwrap_or(usize::MAX)),
            _ => 0,
        }
    }

    /// Whether the peer would take more on a stream, wherever else there may be no room.
    pub(super) fn has_credit(&self, id: StreamId) -> bool {
        self.streams
            .get(id)
            .is_some_and(|flow| !flow.local_fin && flow.send_window > 0)
    }

    /// Sends one frame of `len` bytes, at most [`Session::sendable`], that `write` appends to the output itself.
    pub(super) fn write_data(&mut self, id: StreamId, len: usize, write: impl FnOnce(&mut BytesMut)) {
        let Some(flow) = self.streams.get_mut(id) else {
            return;
        };
        let length = u32::try_from(len).unwrap_or(u32::MAX);
        debug_assert!(length <= flow.send_window, "more than the credit");
        flow.send_window = flow.send_window.saturating_sub(length);
        let flags = take_due(flow, &mut self.unacked);
        self.output.frame(Kind::Data, flags, id, length);
        let before = self.output.bytes().len();
        write(self.output.bytes());
        debug_assert_eq!(
            self.output.bytes().len() - before,
            len,
            "announced and written length differ"
        );
    }

    /// Half-closes a stream; once, however often it is called.
    pub(super) fn fin(&mut self, id: StreamId) {
        let Some(flow) = self.streams.get_mut(id) else {
            return;
        };
        if flow.local_fin {
            return;
        }
        flow.local_fin = true;
        let over = flow.remote_fin;
        let flags = take_due(flow, &mut self.unacked).with(Flags::FIN);
        self.output.frame(Kind::Window, flags, id, 0);
        if over {
            self.forget(id);
        }
    }

    /// Ends a stream at once, in both directions, and forgets it. The peer may lose what it has already received.
    pub(super) fn reset(&mut self, id: StreamId) {
        let announced = self.streams.get(id).is_some_and(|flow| flow.due != Flags::SYN);
        self.forget(id);
        if announced {
            self.output.frame(Kind::Window, Flags::RST, id, 0);
        }
    }

    /// Says that `len` received bytes are dealt with, so that the peer may send as many more.
    ///
    /// Credit is granted in halves of the window, which costs one small frame per 128 KiB.
    pub(super) fn consumed(&mut self, id: StreamId, len: usize) {
        let Some(flow) = self.streams.get_mut(id) else {
            return;
        };
        if flow.remote_fin {
            return;
        }
        let len = u32::try_from(len).unwrap_or(u32::MAX);
        flow.reclaimed = flow
            .reclaimed
            .saturating_add(len)
            .min(WINDOW.saturating_sub(flow.recv_window));
        if flow.reclaimed >= WINDOW / 2 {
            flow.recv_window += flow.reclaimed;
            let credit = std::mem::take(&mut flow.reclaimed);
            let flags = take_due(flow, &mut self.unacked);
            self.output.frame(Kind::Window, flags, id, credit);
        }
    }

    /// Streams of the peer that no frame of ours has acknowledged yet.
    pub(super) fn unacked(&self) -> usize {
        self.unacked
    }

    /// Acknowledges every stream of the peer that no other frame has acknowledged.
    pub(super) fn ack_all(&mut self) {
        if self.role == Role::Client || self.unacked == 0 {
            return;
        }
        for (id, flow) in self.streams.iter_mut() {
            let flags = take_due(flow, &mut self.unacked);
            if flags != Flags::NONE {
                self.output.frame(Kind::Window, flags, id, 0);
            }
        }
    }

    /// Asks the peer for a sign of life. Its answer may come at any time and needs no bookkeeping.
    pub(super) fn ping(&mut self) {
        self.output
            .frame(Kind::Ping, Flags::SYN, StreamId(0), self.next_ping);
        self.next_ping = self.next_ping.wrapping_add(1);
    }

    /// Whether a stream is open in either direction.
    pub(super) fn contains(&self, id: StreamId) -> bool {
        self.streams.contains(id)
    }

    /// Streams that are open in either direction.
    #[cfg(any(test, feature = "fuzzing"))]
    pub(super) fn stream_count(&self) -> usize {
        self.streams.len()
    }

    /// Collects a header across chunks; `None` when bytes are missing.
    fn read_header(&mut self) -> Option<Result<Header, HeaderError>> {
        if self.input.is_empty() {
            return None;
        }
        let take = (HEADER_LEN - self.header_len).min(self.input.len());
        self.header[self.header_len..self.header_len + take].copy_from_slice(&self.input[..take]);
        self.input.advance(take);
        self.header_len += take;
        if self.header_len < HEADER_LEN {
            return None;
        }
        self.header_len = 0;
        Some(Header::decode(self.header))
    }

    fn on_header(&mut self, header: Header) -> Result<Step, SessionError> {
        let syn = header.flags.contains(Flags::SYN);
        let Load { pings, opens, frames } = &mut self.load;
        let count = match header.kind {
            Kind::Ping if syn => pings,
            Kind::Data | Kind::Window if syn => opens,
            _ => frames,
        };
        // A client does not look at it, and so never begins anew.
        *count = count.saturating_add(1);
        match header.kind {
            Kind::Ping => {
                if syn {
                    self.output
                        .frame(Kind::Ping, Flags::ACK, StreamId(0), header.length);
                }
                Ok(Step::Again)
            }
            Kind::GoAway => match GoAwayCode(header.length) {
                GoAwayCode::NORMAL => {
                    self.peer_gone = true;
                    Ok(Step::Event(Event::GoAway))
                }
                GoAwayCode::PROTOCOL_ERROR => Err(SessionError::PeerProtocolError),
                GoAwayCode::INTERNAL_ERROR => Err(SessionError::PeerInternalError),
                _ => Err(SessionError::PeerGoAway),
            },
            Kind::Data | Kind::Window => self.on_stream_header(header),
        }
    }

    /// A frame of a stream: opening and credit take effect with the header, everything else after the payload.
    fn on_stream_header(&mut self, header: Header) -> Result<Step, SessionError> {
        let id = header.stream;
        let opened = header.flags.contains(Flags::SYN) && self.accept(id)?;
        let mut frame = Frame {
            stream: id,
            remaining: if header.kind == Kind::Data {
                header.length
            } else {
                0
            },
            deliver: false,
            flags: header.flags,
        };
        let mut writable = false;
        // Frames for streams that are unknown, refused or forgotten are skipped.
        if let Some(flow) = self.streams.get_mut(id) {
            if header.flags.contains(Flags::ACK) && flow.unanswered {
                flow.unanswered = false;
                self.unacked -= 1;
            }
            if header.kind == Kind::Window {
                writable = flow.send_window == 0 && header.length > 0;
                flow.send_window = flow.send_window.saturating_add(header.length);
            }
            flow.recv_window = flow
                .recv_window
                .checked_sub(frame.remaining)
                .ok_or(SessionError::WindowExceeded)?;
            // Go is known to send data after its own FIN, rarely; nobody waits for it.
            frame.deliver = !flow.remote_fin && !header.flags.contains(Flags::RST);
        }
        self.frame = Some(frame);
        Ok(match (opened, writable) {
            (true, _) => Step::Event(Event::Opened(id)),
            (false, true) => Step::Event(Event::Writable(id)),
            (false, false) => Step::Again,
        })
    }

    /// Lets the peer open a stream, or refuses it; false when refused.
    fn accept(&mut self, id: StreamId) -> Result<bool, SessionError> {
        if self.streams.contains(id) {
            return Err(SessionError::DuplicateStream);
        }
        if self.role == Role::Client || self.streams.len() >= MAX_STREAMS {
            self.output.frame(Kind::Window, Flags::RST, id, 0);
            return Ok(false);
        }
        self.streams.insert(id, Flow::new(Flags::ACK));
        self.unacked += 1;
        Ok(true)
    }

    fn on_frame(&mut self, mut frame: Frame) -> Result<Step, SessionError> {
        let id = frame.stream;
        if frame.remaining > 0 {
            let len = usize::try_from(frame.remaining)
                .unwrap_or(usize::MAX)
                .min(self.input.len());
            if len == 0 {
                self.frame = Some(frame);
                return Ok(Step::Starved);
            }
            let payload = self.input.split_to(len);
            frame.remaining -= u32::try_from(len).unwrap_or(frame.remaining);
            // The stream may have been reset from this side since the header.
            let deliver = frame.deliver && self.streams.contains(id);
            self.frame = Some(frame);
            return Ok(if deliver {
                Step::Event(Event::Data(id, payload))
            } else {
                Step::Again
            });
        }
        let Some(flow) = self.streams.get_mut(id) else {
            return Ok(Step::Again);
        };
        if frame.flags.contains(Flags::RST) {
            self.forget(id);
            return Ok(Step::Event(Event::Reset(id)));
        }
        if frame.flags.contains(Flags::FIN) {
            if flow.remote_fin {
                return Err(SessionError::UnexpectedFlag);
            }
            flow.remote_fin = true;
            if flow.local_fin {
                self.forget(id);
            }
            return Ok(Step::Event(Event::Fin(id)));
        }
        Ok(Step::Again)
    }

    fn forget(&mut self, id: StreamId) {
        if let Some(mut flow) = self.streams.remove(id) {
            take_due(&mut flow, &mut self.unacked);
            if flow.unanswered {
                self.unacked -= 1;
            }
        }
    }

    /// Ends the session, telling the peer when it is the one to blame and understands yamux at all.
    fn die(&mut self, error: SessionError) -> Event {
        self.dead = true;
        self.input = Bytes::new();
        if matches!(
            error,
            SessionError::DuplicateStream | SessionError::WindowExceeded | SessionError::UnexpectedFlag
        ) {
            self.output.frame(
                Kind::GoAway,
                Flags::NONE,
                StreamId(0),
                GoAwayCode::PROTOCOL_ERROR.0,
            );
        }
        Event::Fatal(error)
    }
}

/// What reading one more piece of input led to.
enum Step {
    Event(Event),
    Again,
    Starved,
}

/// The flags that the next frame of a stream must carry; nothing the second time.
fn take_due(flow: &mut Flow, unacked: &mut usize) -> Flags {
    let due = std::mem::replace(&mut flow.due, Flags::NONE);
    if due == Flags::ACK {
        *unacked -= 1;
    }
    due
}
