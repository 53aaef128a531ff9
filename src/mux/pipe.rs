//! The ordered byte pipe under a session: what the muxer asks of a transport, and nothing of what the transport is.
//!
//! Owns the contract between a session and its transport, and how a pipe can end. Knows nothing of yamux, DRPC, HTTP
//! or WebSocket; the WebSocket adapter lives under `http`, an adapter for plain byte streams in [`io`], and an
//! in-memory pair for tests and tools in [`memory`].

pub mod io;
pub mod memory;

use std::borrow::Cow;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};

/// Most bytes that one message to the peer may carry.
///
/// 32 KiB is the default read limit of the Go WebSocket library that peers use (coder/websocket `conn.go:SetReadLimit`).
pub const MAX_MESSAGE: usize = 32 * 1024;

/// An ordered byte pipe to one peer. Message borders mean nothing.
///
/// One task polls all of it. Every method may be called again after it returned an error or the end, and then returns
/// an error or the end again.
pub trait Pipe: Send + Unpin {
    /// Waits for bytes from the peer.
    ///
    /// `None` is a clean end: close 1000 or 1001, or the transport's own end at a frame border. Any other end is an
    /// error. An empty chunk is a sign of life that carries no data, such as the answer to a ping.
    fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, PipeError>>>;

    /// Takes bytes from the front of `out` and sends them as one message of at most [`MAX_MESSAGE`] bytes.
    ///
    /// Ready once at least one byte was taken, or `out` was empty; the rest stays for the next call. Taken bytes may be
    /// held back until [`Pipe::poll_flush`].
    fn poll_send(&mut self, cx: &mut Context<'_>, out: &mut BytesMut) -> Poll<Result<(), PipeError>>;

    /// Ready once all bytes taken so far are with the operating system.
    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), PipeError>>;

    /// Says goodbye, with `close` where the transport can carry it, and ends the sending half.
    ///
    /// Called until ready, with the same `close`. The caller bounds the wait and then drops the pipe.
    fn poll_close(&mut self, cx: &mut Context<'_>, close: &Close) -> Poll<Result<(), PipeError>>;

    /// Asks the peer for a sign of life below the session, as a WebSocket ping does.
    ///
    /// Ready with whether the transport has such a thing; if it has none, the session asks in its own way.
    fn poll_ping(&mut self, cx: &mut Context<'_>) -> Poll<Result<bool, PipeError>>;

    /// Frames of the transport itself that came since this was asked last: they cost time, however little they carry. 0
    /// where a transport has none.
    fn take_frames(&mut self) -> u32 {
        0
    }
}

/// How a pipe is closed from this side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Close {
    /// What the peer is told in a number.
    pub code: CloseCode,
    /// What the peer is told in words; a transport may cut it (WebSocket: 123 bytes).
    pub reason: Cow<'static, str>,
}

/// A WebSocket close code (RFC 6455 §7.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CloseCode(pub u16);

impl CloseCode {
    /// The session is over, with nothing wrong.
    pub const NORMAL: Self = Self(1000);
    /// The server goes away.
    pub const GOING_AWAY: Self = Self(1001);
    /// The session ended with an error.
    pub const INTERNAL: Self = Self(1011);
}

/// Why a pipe failed, as opposed to ended.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PipeError {
    /// The transport ended in the middle of a frame.
    #[error("unexpected EOF")]
    UnexpectedEof,
    /// The peer closed with a code other than 1000 and 1001.
    #[error("closed by peer: {code} {reason}")]
    Closed {
        /// The peer's code; 1005 stands for none.
        code: u16,
        /// The peer's words.
        reason: String,
    },
    /// The peer broke a rule of the transport; the transport has told it so. The text says which.
    #[error("{0}")]
    Violation(Cow<'static, str>),
    /// The operating system reported an error, a reset by the peer included.
    #[error(transparent)]
    Io(#[from] std::io::Error),
}
