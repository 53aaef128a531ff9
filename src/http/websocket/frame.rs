//! WebSocket frames, without I/O: bytes of the peer in, payload and an end out; control frames and headers of ours.
//!
//! Headers are read by the `tungstenite` crate; what they may say to a server is checked here (RFC 6455 §5).

use std::io::Cursor;

use bytes::{BufMut as _, Bytes, BytesMut};
use tungstenite::protocol::frame::FrameHeader;
use tungstenite::protocol::frame::coding::{CloseCode, Control, Data, OpCode};

use crate::mux::pipe::MAX_MESSAGE;

/// First byte of an unfragmented ping frame.
pub(super) const PING: u8 = 0x89;
/// First byte of an unfragmented pong frame.
pub(super) const PONG: u8 = 0x8a;
const CLOSE: u8 = 0x88;
const BINARY: u8 = 0x82;

/// Longest header, that of a masked frame with a 64-bit length.
const MAX_HEADER: usize = 14;

/// Longest payload of a control frame (RFC 6455 §5.5).
const MAX_CONTROL: usize = 125;

/// Longest payload whose length stands in the header's second byte.
const MAX_SHORT: usize = 125;

/// A rule that the peer broke.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Violation {
    /// A text message, where only binary ones mean anything.
    Text,
    /// A frame without mask.
    Unmasked,
    /// A bit that an extension would give a meaning.
    ReservedBits,
    /// An opcode that does not exist.
    UnknownOpcode,
    /// A control frame in pieces.
    FragmentedControl,
    /// A control frame of more than 125 bytes.
    LongControl,
    /// A continuation of nothing.
    LoneContinuation,
    /// A message inside of another.
    UnfinishedMessage,
    /// A length with the highest bit set.
    ImpossibleLength,
    /// A close frame with half a code, or one that may not be sent.
    BadClose,
}

impl Violation {
    /// The code that the peer is told.
    pub(super) fn close_code(self) -> u16 {
        match self {
            Self::Text => 1003,
            _ => 1002,
        }
    }

    /// The reason that the peer is told, and that is logged.
    pub(super) fn text(self) -> &'static str {
        match self {
            // coder/websocket `netconn.go` (`read`), word for word.
            Self::Text => "unexpected frame type read (expected MessageBinary): MessageText",
            Self::Unmasked => "received unmasked frame from client",
            Self::ReservedBits => "received header with unexpected rsv bits set",
            Self::UnknownOpcode => "received unknown opcode",
            Self::FragmentedControl => "received fragmented control frame",
            Self::LongControl => "received control frame payload with invalid length",
            Self::LoneContinuation => "received continuation frame without text or binary frame",
            Self::UnfinishedMessage => "received new data message without finishing the previous message",
            Self::ImpossibleLength => "received negative payload length",
            Self::BadClose => "received invalid close payload",
        }
    }
}

/// Why the peer sends nothing more that counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// It sent a close frame.
    Closed {
        /// `None` when the frame was empty.
        code: Option<u16>,
        reason: String,
    },
    /// It broke a rule.
    Violation(Violation),
}

/// Where the reader is: in a header, or in a frame's payload.
#[derive(Debug, Default)]
pub(super) struct FrameReader {
    header: [u8; MAX_HEADER],
    /// Bytes of `header` that are there.
    header_length: usize,
    frame: Option<Frame>,
    /// A data message has begun and its last frame has not.
    in_message: bool,
    /// Payload of the control frame at hand.
    control: BytesMut,
    ping: Option<Bytes>,
    /// Headers that were read and not yet told.
    frames: u32,
    end: Option<End>,
}

#[derive(Debug)]
struct Frame {
    /// `None` for data.
    control: Option<Control>,
    /// Payload bytes to come.
    remaining: u64,
    /// Turned so that its first byte is for the next payload byte.
    mask: [u8; 4],
}

impl FrameReader {
    /// Reads `input` and leaves the payload of its data frames, without masks and joined, at its start. Returns how many
    /// bytes that is. Stops at an end.
    pub(super) fn read(&mut self, input: &mut [u8]) -> usize {
        let (mut at, mut out) = (0, 0);
        while at < input.len() && self.end.is_none() {
            let Some(frame) = &mut self.frame else {
                at += self.read_header(&input[at..]);
                continue;
            };
            let available = input.len() - at;
            let length =
                usize::try_from(frame.remaining).map_or(available, |remaining| remaining.min(available));
            let payload = &mut input[at..at + length];
            unmask(payload, &mut frame.mask);
            // A length of memory always fits.
            frame.remaining -= length as u64;
            let done = frame.remaining == 0;
            match frame.control {
                None => {
                    input.copy_within(at..at + length, out);
                    out += length;
                }
                Some(_) => self.control.extend_from_slice(payload),
            }
            at += length;
            if done {
                self.finish_frame();
            }
        }
        out
    }

    /// The peer's end, once everything before it was read.
    pub(super) fn end(&self) -> Option<End> {
        self.end.clone()
    }

    /// Payload of the last ping that is not answered yet.
    pub(super) fn take_ping(&mut self) -> Option<Bytes> {
        self.ping.take()
    }

    /// How many frames have begun since this was asked last.
    pub(super) fn take_frames(&mut self) -> u32 {
        std::mem::take(&mut self.frames)
    }

    /// Whether no frame is half read.
    pub(super) fn at_border(&self) -> bool {
        self.header_length == 0 && self.frame.is_none()
    }

    /// Takes header bytes from `input` and returns how many.
    fn read_header(&mut self, input: &[u8]) -> usize {
        let had = self.header_length;
        let taken = input.len().min(MAX_HEADER - had);
        self.header[had..had + taken].copy_from_slice(&input[..taken]);
        let mut cursor = Cursor::new(&self.header[..had + taken]);
        match FrameHeader::parse(&mut cursor) {
            // Incomplete; the longest header never is, so this was all of the input.
            Ok(None) => {
                self.header_length += taken;
                taken
            }
            Ok(Some((header, length))) => {
                // At least one more byte than there was, which was no whole header.
                let used = usize::try_from(cursor.position()).unwrap_or(had) - had;
                self.header_length = 0;
                self.frames = self.frames.saturating_add(1);
                match self.check(&header, length) {
                    Ok(frame) => {
                        self.frame = Some(frame);
                        if length == 0 {
                            self.finish_frame();
                        }
                    }
                    Err(violation) => self.end = Some(End::Violation(violation)),
                }
                used
            }
            // The only thing that the crate refuses.
            Err(_) => {
                self.end = Some(End::Violation(Violation::UnknownOpcode));
                taken
            }
        }
    }

    /// What a server may receive, in the order of coder/websocket `read.go` (`readLoop`).
    fn check(&mut self, header: &FrameHeader, length: u64) -> Result<Frame, Violation> {
        if header.rsv1 || header.rsv2 || header.rsv3 {
            return Err(Violation::ReservedBits);
        }
        let mask = header.mask.ok_or(Violation::Unmasked)?;
        if i64::try_from(length).is_err() {
            return Err(Violation::ImpossibleLength);
        }
        let control = match header.opcode {
            OpCode::Control(_) if length > MAX_CONTROL as u64 => return Err(Violation::LongControl),
            OpCode::Control(_) if !header.is_final => return Err(Violation::FragmentedControl),
            OpCode::Control(control) => Some(control),
            OpCode::Data(Data::Text) => return Err(Violation::Text),
            OpCode::Data(Data::Binary) if self.in_message => return Err(Violation::UnfinishedMessage),
            OpCode::Data(Data::Continue) if !self.in_message => return Err(Violation::LoneContinuation),
            OpCode::Data(Data::Reserved(_)) => return Err(Violation::UnknownOpcode),
            OpCode::Data(Data::Binary | Data::Continue) => {
                self.in_message = !header.is_final;
                None
            }
        };
        Ok(Frame {
            control,
            remaining: length,
            mask,
        })
    }

    fn finish_frame(&mut self) {
        let Some(control) = self.frame.take().and_then(|frame| frame.control) else {
            return;
        };
        let payload = std::mem::take(&mut self.control).freeze();
        match control {
            Control::Ping => self.ping = Some(payload),
            // A sign of life, like everything that arrives.
            Control::Pong | Control::Reserved(_) => {}
            Control::Close => self.end = Some(closed(&payload)),
        }
    }
}

fn closed(payload: &[u8]) -> End {
    match *payload {
        [] => End::Closed {
            code: None,
            reason: String::new(),
        },
        [high, low, ref reason @ ..] => {
            let code = u16::from_be_bytes([high, low]);
            if CloseCode::from(code).is_allowed() {
                End::Closed {
                    code: Some(code),
                    reason: String::from_utf8_lossy(reason).into_owned(),
                }
            } else {
                End::Violation(Violation::BadClose)
            }
        }
        [_] => End::Violation(Violation::BadClose),
    }
}

/// Takes the mask off `data` and turns it for what follows.
fn unmask(data: &mut [u8], mask: &mut [u8; 4]) {
    let [a, b, c, d] = *mask;
    let wide = u64::from_ne_bytes([a, b, c, d, a, b, c, d]);
    let (words, rest) = data.as_chunks_mut::<8>();
    for word in words {
        *word = (u64::from_ne_bytes(*word) ^ wide).to_ne_bytes();
    }
    for (byte, key) in rest.iter_mut().zip(mask.iter().cycle()) {
        *byte ^= key;
    }
    mask.rotate_left(data.len() % 4);
}

/// The header of an unfragmented, unmasked binary frame of at most [`MAX_MESSAGE`] bytes.
pub(super) struct BinaryHeader {
    bytes: [u8; 4],
    length: usize,
}

// What `BinaryHeader` writes has room for 16 bits of length.
const _: () = assert!(MAX_MESSAGE <= u16::MAX as usize);

impl BinaryHeader {
    pub(super) fn new(payload: usize) -> Self {
        let [high, low] = u16::try_from(payload).unwrap_or(u16::MAX).to_be_bytes();
        if payload <= MAX_SHORT {
            Self {
                bytes: [BINARY, low, 0, 0],
                length: 2,
            }
        } else {
            Self {
                bytes: [BINARY, 126, high, low],
                length: 4,
            }
        }
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

/// Appends a control frame. `payload` is one that a control frame can hold, or it is cut.
pub(super) fn push_control(out: &mut BytesMut, first: u8, payload: &[u8]) {
    let payload = &payload[..payload.len().min(MAX_CONTROL)];
    out.put_u8(first);
    // At most 125.
    out.put_u8(u8::try_from(payload.len()).unwrap_or_default());
    out.put_slice(payload);
}

/// Appends a close frame; without a code it has no reason either. A long reason is cut between characters.
pub(super) fn push_close(out: &mut BytesMut, code: Option<u16>, reason: &str) {
    let mut payload = Vec::new();
    if let Some(code) = code {
        payload.extend(code.to_be_bytes());
        let end = reason.floor_char_boundary(MAX_CONTROL - payload.len());
        payload.extend(reason[..end].bytes());
    }
    push_control(out, CLOSE, &payload);
}

#[cfg(test)]
mod tests;
