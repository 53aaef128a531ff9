//! What can go wrong with a call or a transport, split by who learns of it.
//!
//! A [`Status`] is what the peer is told when a call fails. A [`ProtocolError`] names the rule that the peer broke, and a
//! [`TransportError`] why a transport ended; both stay here and reach at most a log line, with the texts that storj/drpc
//! uses.

use std::borrow::Cow;

use bytes::{BufMut, BytesMut};

use super::frame::{Kind, PacketId};

/// Bytes of the code in front of an error's text.
const CODE_LEN: usize = 8;

/// Code of a method that a service does not implement; the number is gRPC's.
const CODE_UNIMPLEMENTED: u64 = 12;

/// A failed call, as its peer sees it: a code and a text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Status {
    code: u64,
    message: Cow<'static, str>,
}

impl Status {
    /// A status with a code; codes follow gRPC's numbers by convention.
    pub fn new(code: u64, message: impl Into<Cow<'static, str>>) -> Self {
        Self {
            code,
            message: message.into(),
        }
    }

    /// A status without a code, which is what most errors are.
    pub fn message(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(0, message)
    }

    /// What a method answers that a service does not implement.
    pub fn unimplemented() -> Self {
        Self::new(CODE_UNIMPLEMENTED, "Unimplemented")
    }

    /// What a receiver sees when its call was cancelled.
    pub fn canceled() -> Self {
        Self::message("context canceled")
    }

    /// A message was awaited where none came.
    pub fn eof() -> Self {
        Self::message("EOF")
    }

    /// The code; 0 is none.
    pub fn code(&self) -> u64 {
        self.code
    }

    /// The text.
    pub fn text(&self) -> &str {
        &self.message
    }

    /// Bytes that [`Status::encode`] appends.
    pub(super) fn encoded_len(&self) -> usize {
        CODE_LEN + self.message.len()
    }

    /// Appends the body of an Error packet (storj/drpc `drpcwire/error.go:MarshalError`).
    pub(super) fn encode(&self, out: &mut BytesMut) {
        out.put_u64(self.code);
        out.put_slice(self.message.as_bytes());
    }

    /// Reads the body of an Error packet; one that is too short is shown as Go shows it.
    pub(super) fn decode(body: &[u8]) -> Self {
        let Some((code, text)) = body.split_first_chunk::<CODE_LEN>() else {
            let text = String::from_utf8_lossy(body);
            return Self::message(format!("{text} (drpcwire note: invalid error data)"));
        };
        Self::new(
            u64::from_be_bytes(*code),
            String::from_utf8_lossy(text).into_owned(),
        )
    }
}

/// A rule of DRPC that a peer broke. It ends the transport without a word to the peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ProtocolError {
    /// A number of more than ten bytes.
    #[error("protocol error: drpc: varint too long")]
    VarintTooLong,
    /// A packet id that is lower than one before it.
    #[error("protocol error: id monotonicity violation (fr:{frame} r:{last})")]
    IdMonotonicity {
        /// The frame's id.
        frame: PacketId,
        /// The lowest id that was still allowed.
        last: PacketId,
    },
    /// Frames of one packet with different kinds.
    #[error("protocol error: packet kind change (fr:{frame} pkt:{packet})")]
    KindChange {
        /// Kind of the later frame.
        frame: Kind,
        /// Kind of the packet so far.
        packet: Kind,
    },
    /// A packet of more bytes than a packet may have.
    #[error("protocol error: data overflow (len:{length})")]
    DataOverflow {
        /// Bytes of the packet, as far as announced.
        length: u64,
    },
    /// A second Invoke for a call.
    #[error("protocol error: invoke on existing stream")]
    InvokeOnExistingStream,
    /// A packet that means nothing where it came.
    #[error("internal error: unknown packet kind: {0}")]
    UnexpectedKind(Kind),
}

/// Why a transport ended.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TransportError {
    /// The peer closed its side, at a frame border or not.
    #[error("manager closed: EOF")]
    Eof,
    /// The peer broke a rule.
    #[error("manager closed: {0}")]
    Protocol(#[from] ProtocolError),
    /// The peer sent metadata that is not a map of strings.
    #[error("invalid data")]
    InvalidMetadata,
    /// The peer reset the stream.
    #[error("manager closed: connection reset")]
    Reset,
    /// The session ended under the transport.
    #[error("context canceled")]
    Canceled,
}

impl TransportError {
    /// Whether it is worth a line: everything but the ordinary end, which every call has.
    ///
    /// The rule of coder/coder `coderd/agentapi/api.go:Serve`: an error whose chain contains EOF is dropped.
    pub fn is_logged(&self) -> bool {
        !matches!(self, Self::Eof)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded(status: &Status) -> BytesMut {
        let mut out = BytesMut::new();
        status.encode(&mut out);
        assert_eq!(out.len(), status.encoded_len());
        out
    }

    #[test]
    fn wire_053_an_error_without_code_has_eight_zero_bytes() {
        assert_eq!(&encoded(&Status::message("boom"))[..], b"\0\0\0\0\0\0\0\0boom");
    }

    #[test]
    fn wire_054_a_code_is_big_endian() {
        assert_eq!(
            &encoded(&Status::new(42, "coded"))[..],
            b"\0\0\0\0\0\0\0\x2acoded"
        );
    }

    #[test]
    fn wire_055_unimplemented_is_code_12() {
        assert_eq!(
            &encoded(&Status::unimplemented())[..],
            b"\0\0\0\0\0\0\0\x0cUnimplemented"
        );
    }

    #[test]
    fn wire_062_a_short_body_is_shown_as_go_shows_it() {
        assert_eq!(
            Status::decode(b"abc"),
            Status::message("abc (drpcwire note: invalid error data)")
        );
        assert_eq!(Status::decode(b"\0\0\0\0\0\0\0\x07"), Status::new(7, ""));
    }

    #[test]
    fn wire_109_only_an_end_of_input_is_not_logged() {
        assert!(!TransportError::Eof.is_logged());
        let overflow = ProtocolError::DataOverflow { length: 4_194_305 };
        let logged = [
            (
                overflow.into(),
                "manager closed: protocol error: data overflow (len:4194305)",
            ),
            (
                ProtocolError::UnexpectedKind(Kind::numbered(8)).into(),
                "manager closed: internal error: unknown packet kind: Kind(8)",
            ),
            (TransportError::InvalidMetadata, "invalid data"),
            (TransportError::Reset, "manager closed: connection reset"),
            (TransportError::Canceled, "context canceled"),
        ];
        for (error, text) in logged {
            assert!(error.is_logged(), "{text}");
            assert_eq!(error.to_string(), text);
        }
    }
}
