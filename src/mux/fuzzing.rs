//! What must hold of the protocol cores for any input. A finding is a panic.
//!
//! Owns the bodies of the fuzz targets for frames, packets, metadata, calls and yamux; see [`crate::fuzzing`]. Never part
//! of the server.

use bytes::{BufMut as _, Bytes, BytesMut};

use super::call::{Event as CallEvent, Transport};
use super::error::{ProtocolError, Status, TransportError};
use super::frame::{Header, Kind, MAX_HEADER, PacketId, write_split, write_whole};
use super::metadata::{self, Metadata};
use super::packet::{MAX_PACKET, Packet, PacketReader};
use super::session::{Event, MAX_STREAMS, Role, Session, StreamId};
use super::stream::{AnyMessage, Reply};

/// A fuzzer's input, read from its front.
#[derive(Debug)]
pub(crate) struct Input<'d>(pub(crate) &'d [u8]);

impl<'d> Input<'d> {
    /// The next byte; 0 at the end.
    pub(crate) fn byte(&mut self) -> u8 {
        let (first, rest) = self.0.split_first().unwrap_or((&0, &[]));
        self.0 = rest;
        *first
    }

    /// The next bytes, as many as the byte before them says.
    pub(crate) fn short(&mut self) -> &'d [u8] {
        let len = usize::from(self.byte()).min(self.0.len());
        let (taken, rest) = self.0.split_at(len);
        self.0 = rest;
        taken
    }

    /// The rest, whole and chopped: the next byte says how many sizes follow, which the pieces have in turn.
    pub(crate) fn chopped(mut self) -> (Bytes, Vec<Bytes>) {
        let sizes = self.short();
        let whole = Bytes::copy_from_slice(self.0);
        let mut sizes = sizes.iter().map(|size| usize::from(*size) + 1).cycle();
        let mut rest = whole.clone();
        let mut pieces = Vec::new();
        while !rest.is_empty() {
            let size = sizes.next().unwrap_or(rest.len()).min(rest.len());
            pieces.push(rest.split_to(size));
        }
        (whole, pieces)
    }
}

/// Headers: what is read and written again is the same and no longer; no shorter piece is a header.
pub(crate) fn frames(data: &[u8]) {
    let mut rest = data;
    while let Ok(Some((header, len))) = Header::decode(rest) {
        assert!(len <= MAX_HEADER && len <= rest.len());
        for short in 0..len {
            assert_eq!(Header::decode(&rest[..short]), Ok(None), "a piece of a header");
        }
        let mut out = BytesMut::new();
        header.encode(&mut out);
        assert!(out.len() <= len);
        assert_eq!(Header::decode(&out), Ok(Some((header, out.len()))));
        let body = usize::try_from(header.length).unwrap_or(usize::MAX);
        rest = &rest[len + body.min(rest.len() - len)..];
    }
    write_and_read(data);
}

/// A packet of any size is read as it was written, whichever way.
fn write_and_read(data: &[u8]) {
    let mut input = Input(data);
    let id = PacketId {
        stream: u64::from(input.byte()) + 1,
        message: u64::from(input.byte()) + 1,
    };
    let body = input.0.repeat(usize::from(input.byte()) + 1);
    let body = &body[..body.len().min(MAX_PACKET)];
    let expected = Packet {
        id,
        kind: Kind::MESSAGE,
        control: false,
        data: Bytes::copy_from_slice(body),
    };
    let (mut split, mut whole) = (BytesMut::new(), BytesMut::new());
    write_split(Kind::MESSAGE, id, body.len(), &mut split, |out| {
        out.put_slice(body);
    });
    write_whole(Kind::MESSAGE, id, body.len(), &mut whole, |out| {
        out.put_slice(body);
    });
    for bytes in [split, whole] {
        let mut reader = PacketReader::new();
        reader.push(bytes.freeze());
        assert_eq!(reader.next().as_ref(), Ok(&Some(expected.clone())));
        assert_eq!(reader.next(), Ok(None));
        assert_eq!(reader.buffered() + reader.assembling(), 0);
    }
}

/// Packets: the same whole and chopped, in ascending order, and no more is held than came.
pub(crate) fn packets(data: &[u8]) {
    let (whole, pieces) = Input(data).chopped();
    let read = read_packets([whole]);
    assert_eq!(read, read_packets(pieces), "chopping changes packets");
    let (packets, _) = read;
    // The greatest message id is followed by 0, as in Go.
    let follows =
        |one: PacketId, next: PacketId| one < next || one.stream == next.stream && one.message == u64::MAX;
    assert!(
        packets.is_sorted_by(|one, next| follows(one.id, next.id)),
        "ids go up: {packets:?}"
    );
}

fn read_packets(pieces: impl IntoIterator<Item = Bytes>) -> (Vec<Packet>, Option<ProtocolError>) {
    let mut reader = PacketReader::new();
    let (mut packets, mut came) = (Vec::new(), 0);
    for piece in pieces {
        came += piece.len();
        reader.push(piece);
        loop {
            match reader.next() {
                Ok(Some(packet)) => {
                    assert!(packet.data.len() <= MAX_PACKET);
                    packets.push(packet);
                }
                Ok(None) => break,
                Err(error) => return (packets, Some(error)),
            }
        }
        assert_eq!(reader.buffered(), 0, "all was looked at");
        assert!(reader.assembling() <= came.min(MAX_PACKET));
    }
    (packets, None)
}

/// Metadata: pairs that are written are read again, and a table of them takes no more than the packet.
pub(crate) fn invoke_metadata(data: &[u8]) {
    let Ok(read) = Metadata::decode(data) else { return };
    assert_eq!(read.size(), data.len());
    let pairs: Vec<_> = read.pairs().collect();
    let mut out = BytesMut::new();
    metadata::encode(&pairs, &mut out);
    assert!(out.len() <= data.len());
    let again = Metadata::decode(&out);
    assert!(again.is_ok_and(|again| again.pairs().eq(read.pairs())));
    for (key, _) in &pairs {
        let last = pairs.iter().rev().find(|(other, _)| other == key);
        assert_eq!(read.value(key), last.map(|(_, value)| *value));
    }
    assert_eq!(read.is_empty(), pairs.is_empty());
}

/// A message that is its own encoding.
#[derive(Debug)]
struct Raw(Vec<u8>);

impl AnyMessage for Raw {
    fn encoded_len(&self) -> usize {
        self.0.len()
    }

    fn encode_into(&self, out: &mut BytesMut) {
        out.put_slice(&self.0);
    }
}

/// A transport, what its handler does to it, and what it has promised to the shell.
struct Call {
    transport: Transport,
    out: BytesMut,
    sent: PacketReader,
    /// The last packet that was sent.
    last: Option<(u64, Kind)>,
    running: bool,
    over: bool,
    came: usize,
}

/// Operations on a call, the peer's and the handler's in any order: calls never overlap, what is sent is well-formed and in
/// order, nothing follows an end, and no more is held than came.
pub(crate) fn calls(data: &[u8]) {
    let mut call = Call {
        transport: Transport::new(),
        out: BytesMut::new(),
        sent: PacketReader::new(),
        last: None,
        running: false,
        over: false,
        came: 0,
    };
    let mut input = Input(data);
    while !input.0.is_empty() {
        call.step(&mut input);
        call.check();
    }
}

impl Call {
    fn step(&mut self, input: &mut Input<'_>) {
        let transport = &mut self.transport;
        match input.byte() % 16 {
            // A frame whose parts the fuzzer chooses, and which is well-formed.
            0..=3 => {
                let (first, stream, message) = (input.byte(), input.byte() % 4, input.byte() % 16);
                let data = input.short();
                let len = u8::try_from(data.len() % 128).unwrap_or_default();
                let frame = [&[first, stream, message, len], &data[..usize::from(len)]].concat();
                self.came += frame.len();
                transport.on_bytes(frame.into());
            }
            4 => {
                let bytes = Bytes::copy_from_slice(input.short());
                self.came += bytes.len();
                transport.on_bytes(bytes);
            }
            5 => transport.on_end(match input.byte() % 3 {
                0 => TransportError::Eof,
                1 => TransportError::Reset,
                _ => TransportError::Canceled,
            }),
            6..=10 => {
                let event = transport.poll_event();
                assert!(event.is_none() || !self.over, "an event after the end");
                match event {
                    None => {}
                    Some(CallEvent::Invoke { .. }) => {
                        assert!(!self.running, "a second call while one runs");
                        self.running = true;
                    }
                    Some(CallEvent::Ended(_)) => self.over = true,
                    Some(CallEvent::Message(_) | CallEvent::HalfClosed | CallEvent::Cancelled) => {
                        assert!(self.running, "an event for nobody");
                    }
                }
            }
            _ if !self.running => {}
            11 => {
                let expected = transport.send_error();
                let message = Raw(input.short().to_vec());
                assert_eq!(transport.send(&message, &mut self.out).err(), expected);
            }
            12 => transport.close_send(&mut self.out),
            13 => transport.close(&mut self.out),
            14 => {
                transport.handler_returned();
                self.running = false;
            }
            _ => {
                let result = match input.byte() % 3 {
                    0 => Ok(None),
                    1 => Ok(Some(Reply::erased(Box::new(Raw(input.short().to_vec()))))),
                    _ => Err(Status::message("failed")),
                };
                transport.finish(result, &mut self.out);
                self.running = false;
            }
        }
    }

    fn check(&mut self) {
        assert!(self.transport.held() <= self.came, "more is held than came");
        let out = self.out.split().freeze();
        assert!(out.is_empty() || !self.over, "frames after the end");
        self.sent.push(out);
        while let Some(packet) = self.sent.next().unwrap_or_else(|error| panic!("sent {error}")) {
            if let Some((stream, kind)) = self.last
                && stream == packet.id.stream
            {
                let ended = matches!(kind, Kind::ERROR | Kind::CLOSE);
                assert!(!ended, "a packet after the last one");
                let closed = kind == Kind::CLOSE_SEND && packet.kind == Kind::MESSAGE;
                assert!(!closed, "a message after CloseSend");
            }
            self.last = Some((packet.id.stream, packet.kind));
        }
        assert_eq!(self.sent.assembling() + self.sent.buffered(), 0, "half a frame");
    }
}

/// A yamux session over chopped input: the events are those of the whole. Then once more with things done to it meanwhile:
/// its bounds hold.
pub(crate) fn yamux(data: &[u8]) {
    let (whole, pieces) = Input(data).chopped();
    assert_eq!(
        observe([whole]),
        observe(pieces.clone()),
        "chopping changes events"
    );
    disturb(data, pieces);
}

/// What a session does by itself, neighbouring data joined, and what it answers.
fn observe(pieces: impl IntoIterator<Item = Bytes>) -> (Vec<String>, Vec<u8>, Bytes, bool) {
    let mut session = Session::new(Role::Server);
    let (mut events, mut data) = (Vec::new(), Vec::new());
    let mut last = None;
    for piece in pieces {
        session.on_bytes(piece);
        while let Some(event) = session.poll_event() {
            match event {
                Event::Data(id, bytes) => {
                    data.extend_from_slice(&bytes);
                    if last.replace(id) != Some(id) {
                        events.push(format!("{id} data from {}", data.len() - bytes.len()));
                    }
                }
                other => {
                    events.push(format!("{other:?}"));
                    last = None;
                }
            }
        }
    }
    let mid_frame = session.is_mid_frame();
    (events, data, session.output().split().freeze(), mid_frame)
}

/// Takes pieces in, and does to its streams what `data` says.
fn disturb(data: &[u8], pieces: Vec<Bytes>) {
    let mut session = Session::new(Role::Server);
    let mut doings = data.iter().cycle();
    let mut doing = || doings.next().copied().unwrap_or_default();
    let mut open: Vec<StreamId> = Vec::new();
    let mut came = 0;
    for piece in pieces {
        came += piece.len();
        session.on_bytes(piece);
        let mut dead = false;
        while let Some(event) = session.poll_event() {
            assert!(!dead, "an event after the last");
            match event {
                Event::Opened(id) => open.push(id),
                Event::Data(id, bytes) if doing() % 4 > 0 => session.consumed(id, bytes.len()),
                Event::Fatal(_) => dead = true,
                _ => {}
            }
        }
        if let Some(&id) = open.get(usize::from(doing()) % open.len().max(1)) {
            match doing() % 8 {
                0 => session.fin(id),
                1 => session.reset(id),
                2 => session.ack_all(),
                3 => session.ping(),
                4 => {
                    let len = session.sendable(id).min(usize::from(doing()) * 300);
                    if len > 0 {
                        session.write_data(id, len, |out| out.put_bytes(7, len));
                    }
                }
                5 => session.output().clear(),
                6 => session.consumed(id, usize::from(doing()) * 300),
                _ => session.release_output(),
            }
        }
        assert!(session.stream_count() <= MAX_STREAMS);
        assert!(session.unacked() <= session.stream_count());
        let load = session.take_load();
        let frames = load.opens + load.pings + load.frames;
        assert!(usize::try_from(frames).is_ok_and(|frames| frames <= came / 12));
    }
    // Every answer is to a frame of twelve bytes, every doing a frame of at most 12 + 255 × 300 bytes.
    let most = came + 64 * 1024 + 12 * (data.len() + MAX_STREAMS);
    assert!(session.output().len() <= most);
}
