//! The yamux frame header: twelve bytes, big-endian.
//!
//! ```text
//! version(1)=0  type(1)  flags(2)  stream(4)  length(4)
//! ```
//!
//! Owns the layout and the numbers. Does not know which combinations make sense (hashicorp/yamux `const.go`).

use std::fmt;

/// Bytes of a header.
pub(crate) const HEADER_LEN: usize = 12;

/// The only version there is.
const VERSION: u8 = 0;

/// Number of a yamux stream. Clients open odd ones; 0 names the session itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamId(pub(crate) u32);

impl fmt::Display for StreamId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "stream {}", self.0)
    }
}

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// `length` bytes of payload follow.
    Data,
    /// `length` is a credit to send that many more bytes.
    Window,
    /// `length` is an opaque value that the answer repeats.
    Ping,
    /// `length` is a [`GoAwayCode`].
    GoAway,
}

/// A set of flags. Bits that no rule names may be set and mean nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Flags(u16);

impl Flags {
    pub(crate) const NONE: Self = Self(0);
    /// Opens a stream, or asks for an answer to a ping.
    pub(crate) const SYN: Self = Self(1);
    /// Accepts a stream, or answers a ping.
    pub(crate) const ACK: Self = Self(2);
    /// Half-closes a stream.
    pub(crate) const FIN: Self = Self(4);
    /// Ends a stream at once, in both directions.
    pub(crate) const RST: Self = Self(8);

    /// Whether all of `other` is set.
    pub(crate) fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Both sets together.
    pub(crate) fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// Why a peer wants no more streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct GoAwayCode(pub(crate) u32);

impl GoAwayCode {
    pub(crate) const NORMAL: Self = Self(0);
    pub(crate) const PROTOCOL_ERROR: Self = Self(1);
    pub(crate) const INTERNAL_ERROR: Self = Self(2);
}

/// A frame's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) kind: Kind,
    pub(crate) flags: Flags,
    pub(crate) stream: StreamId,
    pub(crate) length: u32,
}

/// What is wrong with twelve bytes that should be a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HeaderError {
    Version,
    Kind,
}

impl Header {
    /// Reads a header.
    pub(crate) fn decode(bytes: [u8; HEADER_LEN]) -> Result<Self, HeaderError> {
        let [version, kind, f0, f1, s0, s1, s2, s3, l0, l1, l2, l3] = bytes;
        if version != VERSION {
            return Err(HeaderError::Version);
        }
        let kind = match kind {
            0 => Kind::Data,
            1 => Kind::Window,
            2 => Kind::Ping,
            3 => Kind::GoAway,
            _ => return Err(HeaderError::Kind),
        };
        Ok(Self {
            kind,
            flags: Flags(u16::from_be_bytes([f0, f1])),
            stream: StreamId(u32::from_be_bytes([s0, s1, s2, s3])),
            length: u32::from_be_bytes([l0, l1, l2, l3]),
        })
    }

    /// The header as it goes over the wire.
    pub(crate) fn encode(self) -> [u8; HEADER_LEN] {
        let kind = match self.kind {
            Kind::Data => 0,
            Kind::Window => 1,
            Kind::Ping => 2,
            Kind::GoAway => 3,
        };
        let [f0, f1] = self.flags.0.to_be_bytes();
        let [s0, s1, s2, s3] = self.stream.0.to_be_bytes();
        let [l0, l1, l2, l3] = self.length.to_be_bytes();
        [VERSION, kind, f0, f1, s0, s1, s2, s3, l0, l1, l2, l3]
    }
}
