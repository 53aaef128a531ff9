//! DRPC frames: the header, the kinds, and splitting a packet into frames.
//!
//! ```text
//! +---+--------+---+-----------+------------+--------+--------------+
//! | C | kind:6 | D | stream id | message id | length | length bytes |
//! +---+--------+---+-----------+------------+--------+--------------+
//!  bit 7  6..1   0    varint       varint     varint
//! ```
//!
//! `D` marks the last frame of a packet, `C` a packet that may be ignored when its kind is unknown. Knows one frame at a
//! time; what a sequence of frames means is the packet reader's. Source: storj/drpc `drpcwire/packet.go`, `split.go`.

use std::fmt;

use bytes::{BufMut, BytesMut};

use super::error::ProtocolError;
use super::varint::{self, Decoded};

/// Bytes of data in one frame of a split packet. The size at which storj/drpc splits (`drpcwire/split.go:SplitN`).
pub(super) const SPLIT_SIZE: usize = 64 * 1024;

/// Bytes of the longest header: the control byte and three varints.
pub(super) const MAX_HEADER: usize = 1 + 3 * varint::MAX_LEN;

/// What a packet is: six bits, of which seven values have a meaning.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Kind(u8);

impl Kind {
    pub(super) const INVOKE: Self = Self(1);
    pub(super) const MESSAGE: Self = Self(2);
    pub(super) const ERROR: Self = Self(3);
    pub(super) const CANCEL: Self = Self(4);
    pub(super) const CLOSE: Self = Self(5);
    pub(super) const CLOSE_SEND: Self = Self(6);
    pub(super) const INVOKE_METADATA: Self = Self(7);

    /// The kind of this number, which has six bits.
    pub(super) const fn numbered(number: u8) -> Self {
        Self(number & 0x3f)
    }

    /// Its number.
    pub(super) const fn number(self) -> u8 {
        self.0
    }
}

/// As Go prints it in error texts.
impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::INVOKE => f.write_str("Invoke"),
            Self::MESSAGE => f.write_str("Message"),
            Self::ERROR => f.write_str("Error"),
            Self::CANCEL => f.write_str("Cancel"),
            Self::CLOSE => f.write_str("Close"),
            Self::CLOSE_SEND => f.write_str("CloseSend"),
            Self::INVOKE_METADATA => f.write_str("InvokeMetadata"),
            Self(number) => write!(f, "Kind({number})"),
        }
    }
}

impl fmt::Debug for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Which message of which stream of a transport. Ordered by stream, then message.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct PacketId {
    /// The stream; each call of a transport has one.
    pub stream: u64,
    /// The message within the stream and direction.
    pub message: u64,
}

/// As Go prints it in error texts.
impl fmt::Display for PacketId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "<id s:{} m:{}>", self.stream, self.message)
    }
}

impl fmt::Debug for PacketId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A frame without its data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) kind: Kind,
    pub(super) control: bool,
    pub(super) done: bool,
    pub(super) id: PacketId,
    pub(super) length: u64,
}

impl Header {
    /// Reads the header at the front of `buf`, and how many bytes it took; `None` when more are needed.
    pub(super) fn decode(buf: &[u8]) -> Result<Option<(Self, usize)>, ProtocolError> {
        let Some(&first) = buf.first() else {
            return Ok(None);
        };
        let mut at = 1;
        let mut numbers = [0_u64; 3];
        for number in &mut numbers {
            match varint::decode(&buf[at..]) {
                Decoded::Done(value, len) => {
                    *number = value;
                    at += len;
                }
                Decoded::NeedMore => return Ok(None),
                Decoded::TooLong => return Err(ProtocolError::VarintTooLong),
            }
        }
        let [stream, message, length] = numbers;
        let header = Self {
            kind: Kind((first >> 1) & 0x3f),
            control: first & 0x80 != 0,
            done: first & 0x01 != 0,
            id: PacketId { stream, message },
            length,
        };
        Ok(Some((header, at)))
    }

    /// Appends the header.
    pub(super) fn encode(&self, out: &mut impl BufMut) {
        out.put_u8(u8::from(self.control) << 7 | self.kind.0 << 1 | u8::from(self.done));
        varint::encode(self.id.stream, out);
        varint::encode(self.id.message, out);
        varint::encode(self.length, out);
    }
}

/// Appends a packet whose `len` bytes of data `write` appends, split into frames of [`SPLIT_SIZE`].
///
/// A packet that fits one frame, nearly every one, is written where it stays. A larger one is written behind the room that
/// its headers take together; then each part moves once, towards the front and behind its own header.
pub(super) fn write_split(
    kind: Kind,
    id: PacketId,
    len: usize,
    out: &mut BytesMut,
    write: impl FnOnce(&mut BytesMut),
) {
    if len <= SPLIT_SIZE {
        return write_whole(kind, id, len, out, write);
    }
    let frames = len.div_ceil(SPLIT_SIZE);
    out.reserve(len + frames * MAX_HEADER);
    let header = |done, data: usize| {
        let mut bytes = Vec::with_capacity(MAX_HEADER);
        Header {
            kind,
            control: false,
            done,
            id,
            length: length(data),
        }
        .encode(&mut bytes);
        bytes
    };
    let full = header(false, SPLIT_SIZE);
    let last = header(true, len - (frames - 1) * SPLIT_SIZE);
    let mut to = out.len();
    let mut from = to + (frames - 1) * full.len() + last.len();
    out.resize(from, 0);
    write(out);
    debug_assert_eq!(out.len() - from, len, "the announced length is the written one");
    for index in 1..=frames {
        let header = if index == frames { &last } else { &full };
        out[to..to + header.len()].copy_from_slice(header);
        to += header.len();
        let part = SPLIT_SIZE.min(out.len() - from);
        out.copy_within(from..from + part, to);
        to += part;
        from += part;
    }
}

/// Appends a packet as one frame, whatever its size.
pub(super) fn write_whole(
    kind: Kind,
    id: PacketId,
    len: usize,
    out: &mut BytesMut,
    write: impl FnOnce(&mut BytesMut),
) {
    out.reserve(len + MAX_HEADER);
    Header {
        kind,
        control: false,
        done: true,
        id,
        length: length(len),
    }
    .encode(out);
    let before = out.len();
    write(out);
    debug_assert_eq!(out.len() - before, len, "the announced length is the written one");
}

fn length(len: usize) -> u64 {
    // A usize has at most 64 bits on every platform that Rust supports.
    u64::try_from(len).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn id(stream: u64, message: u64) -> PacketId {
        PacketId { stream, message }
    }

    /// A header as text: control bit, done bit, kind, id, length.
    fn show(header: &Header) -> String {
        let Header {
            kind,
            control,
            done,
            id,
            length,
        } = header;
        format!("{} {} {kind} {id} {length}", u8::from(*control), u8::from(*done))
    }

    #[test]
    fn golden_headers() {
        let cases: [(&[u8], &str); 13] = [
            (&[0x01, 0x01, 0x01, 0x00], "0 1 Kind(0) <id s:1 m:1> 0"),
            (&[0x03, 0x01, 0x01, 0x00], "0 1 Invoke <id s:1 m:1> 0"),
            (&[0x05, 0x01, 0x01, 0x00], "0 1 Message <id s:1 m:1> 0"),
            (&[0x07, 0x01, 0x01, 0x00], "0 1 Error <id s:1 m:1> 0"),
            (&[0x89, 0x01, 0x04, 0x00], "1 1 Cancel <id s:1 m:4> 0"),
            (&[0x0b, 0x01, 0x01, 0x00], "0 1 Close <id s:1 m:1> 0"),
            (&[0x0d, 0x01, 0x01, 0x00], "0 1 CloseSend <id s:1 m:1> 0"),
            (&[0x0f, 0x01, 0x01, 0x00], "0 1 InvokeMetadata <id s:1 m:1> 0"),
            (&[0x91, 0x01, 0x04, 0x00], "1 1 Kind(8) <id s:1 m:4> 0"),
            (&[0x7f, 0x01, 0x01, 0x00], "0 1 Kind(63) <id s:1 m:1> 0"),
            (&[0x03, 0x01, 0x01, 0x0a], "0 1 Invoke <id s:1 m:1> 10"),
            (&[0x04, 0x01, 0x02, 0x02], "0 0 Message <id s:1 m:2> 2"),
            (
                &[0x05, 0xac, 0x02, 0x02, 0xac, 0x02],
                "0 1 Message <id s:300 m:2> 300",
            ),
        ];
        for (bytes, shown) in cases {
            let (header, len) = Header::decode(bytes).unwrap().unwrap();
            assert_eq!((show(&header).as_str(), len), (shown, bytes.len()));
            assert_eq!(Header::decode(&bytes[..bytes.len() - 1]).unwrap(), None);
            let mut out = Vec::new();
            header.encode(&mut out);
            assert_eq!(out, bytes);
        }
    }

    /// Lengths and done bits of the frames in `bytes`, all of which have `of`, and their data.
    fn frames(of: PacketId, mut bytes: &[u8]) -> (Vec<(usize, bool)>, Vec<u8>) {
        let (mut frames, mut data) = (Vec::new(), Vec::new());
        while let Some((header, len)) = Header::decode(bytes).unwrap() {
            assert_eq!(header.id, of);
            let length = usize::try_from(header.length).unwrap();
            data.extend_from_slice(&bytes[len..len + length]);
            frames.push((length, header.done));
            bytes = &bytes[len + length..];
        }
        (frames, data)
    }

    #[test]
    fn wire_027_a_reply_of_200_000_bytes_is_split_at_64_kib() {
        let data: Vec<u8> = (0..200_000_u32).map(|index| index.to_le_bytes()[1]).collect();
        let mut out = BytesMut::from("before");
        write_split(Kind::MESSAGE, id(1, 1), data.len(), &mut out, |out| {
            out.put_slice(&data);
        });
        assert_eq!(&out[..6], b"before");
        let expected = vec![(65_536, false), (65_536, false), (65_536, false), (3_392, true)];
        assert_eq!(frames(id(1, 1), &out[6..]), (expected, data));
    }

    #[test]
    fn a_packet_is_split_only_above_64_kib() {
        let cases = [
            (SPLIT_SIZE - 1, vec![(SPLIT_SIZE - 1, true)]),
            (SPLIT_SIZE, vec![(SPLIT_SIZE, true)]),
            (SPLIT_SIZE + 1, vec![(SPLIT_SIZE, false), (1, true)]),
            (2 * SPLIT_SIZE, vec![(SPLIT_SIZE, false), (SPLIT_SIZE, true)]),
        ];
        for (len, expected) in cases {
            let mut out = BytesMut::new();
            write_split(Kind::INVOKE, id(300, 200), len, &mut out, |out| {
                out.put_bytes(7, len);
            });
            assert_eq!(frames(id(300, 200), &out), (expected, vec![7; len]));
        }
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_decoded(
            kind in 0_u8..64, control: bool, done: bool, stream: u64, message: u64, length: u64,
        ) {
            let header = Header { kind: Kind(kind), control, done, id: id(stream, message), length };
            let mut out = Vec::new();
            header.encode(&mut out);
            prop_assert!(out.len() <= MAX_HEADER);
            prop_assert_eq!(Header::decode(&out).unwrap(), Some((header, out.len())));
        }
    }
}
