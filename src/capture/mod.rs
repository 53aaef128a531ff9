//! Recorded sessions: what an agent and a server said to each other, as a text that people read and programs replay.
//!
//! Owns the model, the text form and the comparison of answers. Knows yamux and DRPC frames; WebSocket and sockets are
//! `http`'s, which records and replays.

mod calls;
mod redactor;
mod text;

use std::time::Duration;

pub(crate) use calls::Packets;
pub use calls::{Call, Difference, Ended, compare};
pub(crate) use redactor::{Redactor, headers, redact, without_redacted};
pub use text::ParseError;

/// A recorded session. Tokens are not in it: those of the handshake are left out, those in replies are zeros.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Capture {
    /// Target of the handshake's request, with secrets left out.
    pub target: String,
    /// Status of its answer.
    pub status: u16,
    /// Header lines of both, in order, with secrets left out. They are for people: whoever plays the agent dials as itself.
    pub headers: Vec<Header>,
    /// What passed, in order.
    pub records: Vec<Record>,
}

/// A header line of the handshake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// Who sent it.
    pub from: Side,
    /// Its name, as it was sent.
    pub name: String,
    /// Its value.
    pub value: String,
}

/// One WebSocket frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Time after the handshake, to the microsecond.
    pub at: Duration,
    /// Who sent it.
    pub from: Side,
    /// What kind of frame.
    pub kind: FrameKind,
    /// The last frame of its message.
    pub last: bool,
    /// Its payload, without mask.
    pub data: Vec<u8>,
}

/// An end of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Who dialed.
    Agent,
    /// Who was dialed.
    Server,
}

impl Side {
    /// How texts show who sent something.
    pub(crate) fn arrow(self) -> char {
        match self {
            Self::Agent => '>',
            Self::Server => '<',
        }
    }

    /// Whom an arrow stands for.
    pub(crate) fn of_arrow(text: &str) -> Option<Self> {
        match text {
            ">" => Some(Self::Agent),
            "<" => Some(Self::Server),
            _ => None,
        }
    }
}

/// What a WebSocket frame is (RFC 6455 §5.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameKind {
    /// More of a message.
    Continuation,
    /// A message that is text, which no session has.
    Text,
    /// A message with bytes of the session.
    Binary,
    /// The goodbye.
    Close,
    /// A question for a sign of life.
    Ping,
    /// Its answer.
    Pong,
}

impl FrameKind {
    /// Every kind, with its opcode and its name in texts.
    pub(crate) const ALL: [(Self, u8, &'static str); 6] = [
        (Self::Continuation, 0, "continuation"),
        (Self::Text, 1, "text"),
        (Self::Binary, 2, "binary"),
        (Self::Close, 8, "close"),
        (Self::Ping, 9, "ping"),
        (Self::Pong, 10, "pong"),
    ];

    /// Whether it carries bytes of the session.
    pub fn is_data(self) -> bool {
        matches!(self, Self::Continuation | Self::Binary)
    }
}

#[cfg(test)]
mod tests;
