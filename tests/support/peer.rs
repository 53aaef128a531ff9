//! A scripted peer: sends what it is told, byte for byte, and says what it expects. When a test fails, what was sent and what
//! came are printed in their order.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, VecDeque};
use std::fmt::Write as _;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use super::raw::{DATA, FIN, PING, RST, SYN, WINDOW, connect, drpc, frame, handshake, message, status};
use super::{PATIENCE, uninterrupted};

pub const ACK: u16 = 2;
pub const GOAWAY: u8 = 3;

/// The credit that each stream begins with, in both directions.
pub const CREDIT: usize = 256 * 1024;

/// How long nothing has to come for nothing to have come. A slow machine makes the check weaker, never wrong.
pub const QUIET: Duration = Duration::from_millis(60);

/// Lines of a transcript that are kept: the last ones.
const MAX_TRANSCRIPT: usize = 500;

/// What has come on one stream.
#[derive(Default)]
pub struct Incoming {
    /// Bytes that were not expected yet.
    pub bytes: Vec<u8>,
    /// Bytes that have come in all.
    pub total: usize,
    /// Frames of the stream, and flags in them.
    pub frames: u32,
    pub acks: u32,
    pub fins: u32,
    pub resets: u32,
    /// Bytes that may still be sent.
    credit: usize,
}

/// A frame of the session itself, or the WebSocket's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Control {
    Pong(u32),
    GoAway(u32),
    WebSocketPong(Vec<u8>),
    Close(u16, String),
}

pub struct Peer {
    url: String,
    tcp: TcpStream,
    input: Vec<u8>,
    payload: Vec<u8>,
    streams: BTreeMap<u32, Incoming>,
    /// The stream that is spoken of.
    pub current: u32,
    next: u32,
    pub control: Vec<Control>,
    /// yamux frames that have come.
    pub frames: u32,
    /// First byte, mask bit and payload length of each WebSocket frame with data.
    pub messages: Vec<(u8, bool, usize)>,
    /// Whether what comes is credited at once.
    pub credits: bool,
    pub ended: bool,
    notes: Vec<String>,
    /// What went over the wire: `>` was sent, `<` came.
    transcript: VecDeque<String>,
}

impl Drop for Peer {
    fn drop(&mut self) {
        if std::thread::panicking() {
            // One write, so that tests that fail at a time do not mix.
            let lines: Vec<_> = self.transcript.iter().map(String::as_str).collect();
            eprintln!("the last of the session with {}:\n{}", self.url, lines.join("\n"));
        }
    }
}

impl Peer {
    pub fn url(&self) -> &str {
        &self.url
    }

    /// A session with the server at `url`.
    pub fn dial(url: &str) -> Self {
        let mut tcp = connect(url);
        tcp.write_all(handshake("token", "", "").as_bytes()).unwrap();
        assert_eq!(status(&mut tcp), "101");
        Self {
            url: url.to_owned(),
            tcp,
            input: Vec::new(),
            payload: Vec::new(),
            streams: BTreeMap::new(),
            current: 0,
            next: 1,
            control: Vec::new(),
            frames: 0,
            messages: Vec::new(),
            credits: true,
            ended: false,
            notes: Vec::new(),
            transcript: VecDeque::new(),
        }
    }

    /// Another session with the same server.
    pub fn another(&self) -> Self {
        Self::dial(&self.url)
    }

    /// A name that no other session of the server has.
    pub fn unique(&self, name: &str) -> String {
        format!("{name} {}", self.tcp.local_addr().unwrap())
    }

    fn wrote(&mut self, line: &str) {
        if self.transcript.len() == MAX_TRANSCRIPT {
            self.transcript.pop_front();
        }
        self.transcript.push_back(line.to_owned());
    }

    /// Sends one WebSocket message with these bytes of the session.
    pub fn raw(&mut self, payload: &[u8]) {
        self.websocket(&message(0x82, payload));
    }

    /// Sends this, and waits for the answer without reading it.
    pub fn leave_unread(&mut self, payload: &[u8]) {
        self.raw(payload);
        self.tcp.set_read_timeout(Some(PATIENCE)).unwrap();
        assert_eq!(uninterrupted(|| self.tcp.peek(&mut [0])).unwrap(), 1);
    }

    /// Sends bytes below the session. What the server has closed is not an error here.
    pub fn websocket(&mut self, bytes: &[u8]) {
        self.wrote(&format!("> {}", shown(bytes)));
        if self.tcp.write_all(bytes).is_err() {
            self.ended = true;
        }
    }

    /// Makes a new stream the current one; its first frame will open it.
    pub fn stream(&mut self) -> u32 {
        self.current = self.next;
        self.next += 2;
        self.current
    }

    /// Opens a new stream without a word.
    pub fn open(&mut self) -> u32 {
        let id = self.stream();
        self.raw(&frame(WINDOW, SYN, id, 0, &[]));
        self.streams.insert(
            id,
            Incoming {
                credit: CREDIT,
                ..Incoming::default()
            },
        );
        id
    }

    /// Sends data on the current stream, as the credit allows, and opens it if need be.
    #[track_caller]
    pub fn send(&mut self, data: &[u8]) {
        let id = self.current;
        let mut flags = 0;
        if let Entry::Vacant(vacant) = self.streams.entry(id) {
            flags = SYN;
            vacant.insert(Incoming {
                credit: CREDIT,
                ..Incoming::default()
            });
        }
        let mut rest = data;
        let end = Instant::now() + PATIENCE;
        loop {
            let credit = self.streams[&id].credit.min(rest.len()).min(64 * 1024);
            if credit > 0 || data.is_empty() {
                let (now, later) = rest.split_at(credit);
                self.incoming(id).credit -= credit;
                self.raw(&frame(DATA, flags, id, 0, now));
                (flags, rest) = (0, later);
            } else if Instant::now() > end || self.ended || self.streams[&id].resets > 0 {
                panic!("the server gives no credit");
            } else {
                self.pump(PATIENCE);
            }
            if rest.is_empty() {
                return;
            }
        }
    }

    /// Sends packets in one chunk.
    #[track_caller]
    pub fn packets(&mut self, packets: &[Vec<u8>]) {
        self.send(&packets.concat());
    }

    /// Half-closes the current stream.
    pub fn fin(&mut self) {
        self.raw(&frame(WINDOW, FIN, self.current, 0, &[]));
    }

    pub fn reset(&mut self) {
        self.raw(&frame(WINDOW, RST, self.current, 0, &[]));
    }

    pub fn incoming(&mut self, id: u32) -> &mut Incoming {
        self.streams.entry(id).or_default()
    }

    /// Reads once; false when nothing came in `wait`, or the connection is over.
    pub fn pump(&mut self, wait: Duration) -> bool {
        if self.ended {
            return false;
        }
        self.tcp
            .set_read_timeout(Some(wait.max(Duration::from_millis(1))))
            .unwrap();
        let mut buffer = [0; 16 * 1024];
        match uninterrupted(|| self.tcp.read(&mut buffer)) {
            Ok(0) => self.ended = true,
            Ok(n) => {
                self.input.extend_from_slice(&buffer[..n]);
                while self.websocket_frame() {}
                return true;
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Err(_) => self.ended = true,
        }
        false
    }

    fn websocket_frame(&mut self) -> bool {
        let [first, second, ..] = self.input[..] else {
            return false;
        };
        let long = self
            .input
            .get(2..4)
            .map(|bytes| usize::from(bytes[0]) << 8 | usize::from(bytes[1]));
        let (header, length) = match (second & 0x7f, long) {
            (126, Some(length)) => (4, length),
            (126 | 127, _) => match self.input.get(2..10) {
                Some(bytes) if second & 0x7f == 127 => (
                    10,
                    usize::try_from(u64::from_be_bytes(bytes.try_into().unwrap())).unwrap(),
                ),
                _ => return false,
            },
            (length, _) => (2, usize::from(length)),
        };
        if self.input.len() < header + length {
            return false;
        }
        let payload = self.input[header..header + length].to_vec();
        self.input.drain(..header + length);
        match first & 0x0f {
            0 | 2 => {
                self.messages.push((first, second & 0x80 != 0, length));
                self.payload.extend(payload);
                while self.frame() {}
            }
            9 => self.websocket(&message(0x8a, &payload)),
            10 => self.control.push(Control::WebSocketPong(payload)),
            8 => {
                let code = payload
                    .first_chunk()
                    .map_or(1005, |code| u16::from_be_bytes(*code));
                let reason = String::from_utf8_lossy(payload.get(2..).unwrap_or_default()).into_owned();
                self.wrote(&format!("< close {code} {reason}"));
                self.control.push(Control::Close(code, reason));
                self.websocket(&message(0x88, &payload));
            }
            other => panic!("opcode {other}"),
        }
        true
    }

    fn frame(&mut self) -> bool {
        let Some(header) = self.payload.first_chunk::<12>().copied() else {
            return false;
        };
        let [_, kind, f0, f1, s0, s1, s2, s3, l0, l1, l2, l3] = header;
        let (flags, id) = (u16::from_be_bytes([f0, f1]), u32::from_be_bytes([s0, s1, s2, s3]));
        let length = u32::from_be_bytes([l0, l1, l2, l3]);
        let body = if kind == DATA { length as usize } else { 0 };
        if self.payload.len() < 12 + body {
            return false;
        }
        let data = self.payload[12..12 + body].to_vec();
        self.payload.drain(..12 + body);
        self.frames += 1;
        self.wrote(&format!(
            "< type {kind} flags {flags} stream {id} length {length} {}",
            shown(&data)
        ));
        match kind {
            DATA | WINDOW => {
                let stream = self.incoming(id);
                stream.frames += 1;
                stream.acks += u32::from(flags & ACK != 0);
                stream.fins += u32::from(flags & FIN != 0);
                stream.resets += u32::from(flags & RST != 0);
                if kind == WINDOW {
                    stream.credit += length as usize;
                } else {
                    stream.total += data.len();
                    stream.bytes.extend(&data);
                    if self.credits && !data.is_empty() && flags & (FIN | RST) == 0 {
                        self.raw(&frame(WINDOW, 0, id, length, &[]));
                    }
                }
            }
            PING if flags & SYN != 0 => self.raw(&frame(PING, ACK, 0, length, &[])),
            PING => self.control.push(Control::Pong(length)),
            _ => self.control.push(Control::GoAway(length)),
        }
        true
    }

    /// Whether a ping with this value was answered.
    pub fn has_pong(&self, value: u32) -> bool {
        self.control.contains(&Control::Pong(value))
    }

    /// Reads until something holds, and fails when it never does.
    #[track_caller]
    pub fn until(&mut self, what: &str, holds: impl Fn(&mut Self) -> bool) {
        let end = Instant::now() + PATIENCE;
        while !holds(self) {
            let left = end.saturating_duration_since(Instant::now());
            if !self.pump(left) && (left.is_zero() || self.ended) && !holds(self) {
                let over = if self.ended {
                    ": the connection is over"
                } else {
                    ""
                };
                panic!("no {what}{over}");
            }
        }
    }

    /// Expects these bytes on the current stream, behind those that were expected before.
    #[track_caller]
    pub fn expect(&mut self, packets: &[Vec<u8>]) {
        let (wanted, id) = (packets.concat(), self.current);
        let what = format!("{} on stream {id}", shown(&wanted));
        self.until(&what, |peer| {
            let stream = &peer.incoming(id).bytes;
            let shared = stream.len().min(wanted.len());
            if stream[..shared] != wanted[..shared] {
                let came = shown(stream);
                panic!("wanted {what}, not {came}");
            }
            stream.len() >= wanted.len()
        });
        self.incoming(id).bytes.drain(..wanted.len());
    }

    /// Expects that nothing more comes on the current stream for now.
    #[track_caller]
    pub fn expect_nothing(&mut self) {
        let end = Instant::now() + QUIET;
        while let Some(left) = end.checked_duration_since(Instant::now()) {
            self.pump(left);
        }
        let id = self.current;
        let came = shown(&self.incoming(id).bytes);
        let nothing = came.is_empty() && self.incoming(id).fins + self.incoming(id).resets == 0;
        assert!(nothing, "unexpected on stream {id}: {came}, or its end");
    }

    /// Expects the server's end of the current stream, with nothing before it.
    #[track_caller]
    pub fn expect_fin(&mut self) {
        let id = self.current;
        self.until(&format!("end of stream {id}"), |peer| {
            let stream = peer.incoming(id);
            stream.fins + stream.resets > 0
        });
        let stream = self.incoming(id);
        let (bytes, fins, resets) = (shown(&stream.bytes), stream.fins, stream.resets);
        assert!(
            bytes.is_empty() && (fins, resets) == (1, 0),
            "stream {id}: {fins} FIN, {resets} RST, and before it {bytes}"
        );
    }

    /// Ends the current stream from this side, then expects the server's end.
    #[track_caller]
    pub fn finish(&mut self) {
        self.fin();
        self.expect_fin();
    }

    /// A call on a stream of its own; its reply.
    #[track_caller]
    pub fn ask(&mut self, path: &str, request: &str) -> String {
        let before = self.current;
        let id = self.stream();
        self.packets(&[invoke(1, 1, path), text(1, 2, request), close_send(1, 3)]);
        self.until("reply", |peer| {
            let bytes = &peer.incoming(id).bytes;
            bytes.ends_with(&close_send(1, 2)) || bytes.first() == Some(&0x07)
        });
        let reply = std::mem::take(&mut self.incoming(id).bytes);
        self.finish();
        self.current = before;
        // One frame for each 64 KiB; replies of this service are one message.
        decode(&reply)
    }

    /// What the handlers of this session have gone through so far.
    #[track_caller]
    pub fn notes(&mut self) -> &[String] {
        let notes = self.ask("/t/Notes", "");
        self.notes.extend(notes.lines().map(str::to_owned));
        &self.notes
    }

    /// Waits until a handler notes this.
    #[track_caller]
    pub fn await_note(&mut self, wanted: &str) {
        self.await_notes(wanted, 1);
    }

    #[track_caller]
    pub fn await_notes(&mut self, wanted: &str, times: usize) {
        self.await_matching(wanted, times, |note| note == wanted);
    }

    /// Waits until a handler notes something that begins so.
    #[track_caller]
    pub fn await_note_like(&mut self, wanted: &str) {
        self.await_matching(wanted, 1, |note| note.starts_with(wanted));
    }

    #[track_caller]
    fn await_matching(&mut self, wanted: &str, times: usize, matches: impl Fn(&str) -> bool) {
        let end = Instant::now() + PATIENCE;
        while self.notes().iter().filter(|note| matches(note)).count() < times {
            assert!(
                Instant::now() < end,
                "not noted {times} times: {wanted:?}, but: {:?}",
                self.notes
            );
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Waits until a session of that name, which may be over, notes this.
    #[track_caller]
    pub fn await_note_of(&mut self, name: &str, wanted: &str) {
        let end = Instant::now() + PATIENCE;
        while !self.ask("/t/NotesOf", name).lines().any(|note| note == wanted) {
            assert!(Instant::now() < end, "{name} does not note {wanted:?}");
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Forgets what was noted so far.
    pub fn forget(&mut self) {
        self.notes.clear();
    }

    /// The lines that the server has logged of this session.
    #[track_caller]
    pub fn logged(&mut self) -> Vec<String> {
        self.notes()
            .iter()
            .filter_map(|note| note.strip_prefix("log: ").map(str::to_owned))
            .collect()
    }
}

/// Bytes as hexadecimal digits, long runs shortened.
pub fn shown(bytes: &[u8]) -> String {
    let mut text = String::new();
    for byte in bytes.iter().take(200) {
        write!(text, "{byte:02x}").unwrap();
    }
    if bytes.len() > 200 {
        write!(text, "… {} bytes", bytes.len()).unwrap();
    }
    text
}

/// The text of an encoded message.
pub fn value(text: &str) -> Vec<u8> {
    prost::Message::encode_to_vec(&text.to_owned())
}

/// The text of the first packet, or the text of an error.
fn decode(mut frames: &[u8]) -> String {
    let mut body = Vec::new();
    loop {
        let kind = frames[0] >> 1 & 0x3f;
        let done = frames[0] & 1 == 1;
        let mut at = 1;
        let mut numbers = [0_u64; 3];
        for number in &mut numbers {
            let mut shift = 0;
            loop {
                let byte = frames[at];
                at += 1;
                *number |= u64::from(byte & 0x7f) << shift;
                shift += 7;
                if byte & 0x80 == 0 {
                    break;
                }
            }
        }
        let length = usize::try_from(numbers[2]).unwrap();
        body.extend(&frames[at..at + length]);
        frames = &frames[at + length..];
        if done {
            return match kind {
                2 => prost::Message::decode(&body[..]).unwrap(),
                _ => String::from_utf8_lossy(&body).into_owned(),
            };
        }
    }
}

pub fn invoke(stream: u64, id: u64, path: &str) -> Vec<u8> {
    drpc(1, true, stream, id, path.as_bytes())
}

pub fn text(stream: u64, id: u64, of: &str) -> Vec<u8> {
    drpc(2, true, stream, id, &value(of))
}

pub fn bytes(stream: u64, id: u64, data: &[u8]) -> Vec<u8> {
    drpc(2, true, stream, id, data)
}

/// A frame that does not end its packet.
pub fn part(kind: u8, stream: u64, id: u64, data: &[u8]) -> Vec<u8> {
    drpc(kind, false, stream, id, data)
}

pub fn error(stream: u64, id: u64, code: u64, text: &str) -> Vec<u8> {
    drpc(
        3,
        true,
        stream,
        id,
        &[&code.to_be_bytes(), text.as_bytes()].concat(),
    )
}

pub fn cancel(stream: u64, id: u64) -> Vec<u8> {
    drpc(4, true, stream, id, &[])
}

pub fn close(stream: u64, id: u64) -> Vec<u8> {
    drpc(5, true, stream, id, &[])
}

pub fn close_send(stream: u64, id: u64) -> Vec<u8> {
    drpc(6, true, stream, id, &[])
}

pub fn metadata(stream: u64, id: u64, data: &[u8]) -> Vec<u8> {
    drpc(7, true, stream, id, data)
}

/// A packet with the control bit.
pub fn control(mut packet: Vec<u8>) -> Vec<u8> {
    packet[0] |= 0x80;
    packet
}
