//! The byte pipe over a WebSocket: RFC 6455 frames on one side, a stream of bytes on the other.
//!
//! Owns framing, pongs and the closing handshake of the server's side. Never collects a message: payload is handed on as
//! it arrives, so a message of any size and any number of fragments costs nothing, and an idle connection holds no
//! buffer at all. Must never look into the bytes.
//!
//! The peer is coder/websocket behind its `NetConn` (`netconn.go`), which counts close 1000 and 1001 as the end, and
//! refuses text messages.

mod frame;
#[cfg(any(test, feature = "fuzzing"))]
pub(super) mod fuzzing;

use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::mux::pipe::{Close, CloseCode, MAX_MESSAGE, Pipe, PipeError};
use frame::{End, FrameReader, PING, PONG, push_close, push_control};

/// Most bytes taken from the socket at once. They pass through the stack, so an idle connection pays nothing for them;
/// almost every wake-up brings less, and large uploads cost one system call per so many bytes.
const READ_SIZE: usize = 16 * 1024;

/// A WebSocket, server's side, whose binary messages are one stream of bytes.
#[derive(Debug)]
pub struct WebSocketPipe<IO> {
    io: IO,
    reader: FrameReader,
    /// What HTTP had read behind the request.
    leftover: BytesMut,
    /// Frames, or the rest of one, that the socket did not take yet. At most one data frame ([`MAX_MESSAGE`]) and a few
    /// control frames: nothing is added while it holds a data frame's rest, except for one close frame.
    pending: BytesMut,
    /// Answer to the last ping; earlier ones need none (RFC 6455 §5.5.3).
    pong: Option<Bytes>,
    /// A ping is due.
    ping: bool,
    /// Our close frame is sent or pending, so nothing else may follow.
    closing: bool,
    /// The peer has closed or is gone; nothing is read any more.
    peer_gone: bool,
}

impl<IO: AsyncRead + AsyncWrite + Unpin> WebSocketPipe<IO> {
    /// A WebSocket on `io` after the HTTP upgrade. `leftover` is what was read behind the request.
    pub fn new(io: IO, leftover: BytesMut) -> Self {
        Self {
            io,
            reader: FrameReader::default(),
            leftover,
            pending: BytesMut::new(),
            pong: None,
            ping: false,
            closing: false,
            peer_gone: false,
        }
    }

    /// Writes what is pending, then the control frames that are due.
    fn poll_pending(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), PipeError>> {
        loop {
            while !self.pending.is_empty() {
                let written = ready!(Pin::new(&mut self.io).poll_write(cx, &self.pending))?;
                if written == 0 {
                    return Poll::Ready(Err(std::io::Error::from(std::io::ErrorKind::WriteZero).into()));
                }
                self.pending.advance(written);
            }
            if !self.closing {
                if let Some(payload) = self.pong.take() {
                    push_control(&mut self.pending, PONG, &payload);
                }
                if std::mem::take(&mut self.ping) {
                    push_control(&mut self.pending, PING, &[]);
                }
            }
            if self.pending.is_empty() {
                // Idle connections keep no buffer.
                self.pending = BytesMut::new();
                return Poll::Ready(Ok(()));
            }
        }
    }

    /// Decodes one chunk in place and gives its payload.
    fn decode(&mut self, input: &mut [u8]) -> Bytes {
        let length = self.reader.read(input);
        if let Some(payload) = self.reader.take_ping() {
            self.pong = Some(payload);
        }
        Bytes::copy_from_slice(&input[..length])
    }

    /// Reads from the socket once; an empty chunk is a control frame or a part of a header. `None` is its end.
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<std::io::Result<Option<Bytes>>> {
        if !self.leftover.is_empty() {
            let mut input = std::mem::take(&mut self.leftover);
            return Poll::Ready(Ok(Some(self.decode(&mut input))));
        }
        let mut space = [const { MaybeUninit::uninit() }; READ_SIZE];
        let mut input = ReadBuf::uninit(&mut space);
        ready!(Pin::new(&mut self.io).poll_read(cx, &mut input))?;
        let input = input.filled_mut();
        Poll::Ready(Ok(if input.is_empty() {
            None
        } else {
            Some(self.decode(input))
        }))
    }

    /// Sends our close frame unless that has happened.
    fn begin_close(&mut self, code: Option<u16>, reason: &str) {
        if !std::mem::replace(&mut self.closing, true) {
            push_close(&mut self.pending, code, reason);
        }
    }

    /// The end of what the peer sends, as the session gets it.
    fn end(&mut self, cx: &mut Context<'_>, end: End) -> Option<Result<Bytes, PipeError>> {
        let result = match end {
            End::Closed { code, reason } => {
                self.peer_gone = true;
                self.begin_close(code, &reason);
                match code.map(CloseCode) {
                    Some(CloseCode::NORMAL | CloseCode::GOING_AWAY) => None,
                    _ => Some(Err(PipeError::Closed {
                        code: code.unwrap_or(NO_STATUS),
                        reason,
                    })),
                }
            }
            End::Violation(violation) => {
                let text = violation.text();
                self.begin_close(Some(violation.close_code()), text);
                Some(Err(PipeError::Violation(text.into())))
            }
        };
        // What it cannot write now, closing the pipe will.
        let _ = self.poll_pending(cx);
        result
    }
}

/// Stands for a close frame without a code (RFC 6455 §7.1.5).
const NO_STATUS: u16 = 1005;

impl<IO: AsyncRead + AsyncWrite + Send + Unpin> Pipe for WebSocketPipe<IO> {
    fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, PipeError>>> {
        if !self.pending.is_empty() {
            // An error shows when something is read or sent.
            let _ = self.poll_pending(cx);
        }
        if let Some(end) = self.reader.end() {
            return Poll::Ready(self.end(cx, end));
        }
        match ready!(self.poll_read(cx)) {
            Ok(Some(chunk)) => {
                if chunk.is_empty()
                    && let Some(end) = self.reader.end()
                {
                    return Poll::Ready(self.end(cx, end));
                }
                // As above.
                let _ = self.poll_pending(cx);
                Poll::Ready(Some(Ok(chunk)))
            }
            Ok(None) => {
                self.peer_gone = true;
                Poll::Ready((!self.reader.at_border()).then_some(Err(PipeError::UnexpectedEof)))
            }
            Err(error) => {
                self.peer_gone = true;
                Poll::Ready(Some(Err(error.into())))
            }
        }
    }

    fn poll_send(&mut self, cx: &mut Context<'_>, out: &mut BytesMut) -> Poll<Result<(), PipeError>> {
        if self.closing {
            return Poll::Ready(Err(std::io::Error::from(std::io::ErrorKind::BrokenPipe).into()));
        }
        ready!(self.poll_pending(cx))?;
        if out.is_empty() {
            return Poll::Ready(Ok(()));
        }
        let length = out.len().min(MAX_MESSAGE);
        let header = frame::BinaryHeader::new(length);
        let header = header.as_bytes();
        let written = if self.io.is_write_vectored() {
            let slices = [IoSlice::new(header), IoSlice::new(&out[..length])];
            ready!(Pin::new(&mut self.io).poll_write_vectored(cx, &slices))?
        } else {
            0
        };
        // The frame has begun, so what the socket did not take must be kept.
        self.pending
            .extend_from_slice(header.get(written..).unwrap_or_default());
        self.pending
            .extend_from_slice(&out[written.saturating_sub(header.len())..length]);
        out.advance(length);
        if !self.pending.is_empty() {
            // What stays pending is written by the next call of any kind; this one has taken its bytes.
            let _ = self.poll_pending(cx)?;
        }
        Poll::Ready(Ok(()))
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), PipeError>> {
        ready!(self.poll_pending(cx))?;
        Pin::new(&mut self.io).poll_flush(cx).map_err(PipeError::from)
    }

    /// Sends a close frame and waits for the peer's, or for its end.
    fn poll_close(&mut self, cx: &mut Context<'_>, close: &Close) -> Poll<Result<(), PipeError>> {
        self.begin_close(Some(close.code.0), &close.reason);
        ready!(self.poll_flush(cx))?;
        if matches!(self.reader.end(), Some(End::Violation(_))) {
            // Its frames are not read any more, so only the end of the connection can tell that it knows.
            ready!(Pin::new(&mut self.io).poll_shutdown(cx))?;
        }
        // A socket that is dropped with unread data resets the connection, which can cost the peer our last frames.
        while !self.peer_gone {
            match ready!(self.poll_read(cx)) {
                Ok(Some(_)) => self.peer_gone = matches!(self.reader.end(), Some(End::Closed { .. })),
                Ok(None) | Err(_) => self.peer_gone = true,
            }
        }
        Pin::new(&mut self.io).poll_shutdown(cx).map_err(PipeError::from)
    }

    fn poll_ping(&mut self, cx: &mut Context<'_>) -> Poll<Result<bool, PipeError>> {
        self.ping = true;
        match self.poll_pending(cx) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            // It goes out with what is pending.
            Poll::Ready(Ok(())) | Poll::Pending => Poll::Ready(Ok(true)),
        }
    }

    fn take_frames(&mut self) -> u32 {
        self.reader.take_frames()
    }
}

#[cfg(test)]
mod tests;
