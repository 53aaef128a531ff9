//! A pipe over a plain byte stream, such as a TCP or Unix socket.
//!
//! Owns its read buffer; holds no outgoing bytes. Has no close codes and no pings.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::io::poll_read_buf;

use super::{Close, MAX_MESSAGE, Pipe, PipeError};

/// Room made for one read: enough for a handful of calls, and all that a quiet connection ever holds.
const READ_ROOM: usize = 4 * 1024;

/// A pipe over `T`.
#[derive(Debug)]
pub struct IoPipe<T> {
    io: T,
    read: BytesMut,
    ended: bool,
}

impl<T> IoPipe<T> {
    /// Wraps `io`.
    pub fn new(io: T) -> Self {
        Self {
            io,
            read: BytesMut::new(),
            ended: false,
        }
    }
}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Pipe for IoPipe<T> {
    fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, PipeError>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        self.read.reserve(READ_ROOM);
        let read = poll_read_buf(Pin::new(&mut self.io), cx, &mut self.read);
        if read.is_pending() {
            // The room is given back while nothing comes in.
            self.read = BytesMut::new();
        }
        match ready!(read) {
            Ok(0) => {
                self.ended = true;
                Poll::Ready(None)
            }
            Ok(_) => Poll::Ready(Some(Ok(self.read.split().freeze()))),
            Err(error) => {
                self.ended = true;
                Poll::Ready(Some(Err(error.into())))
            }
        }
    }

    fn poll_send(&mut self, cx: &mut Context<'_>, out: &mut BytesMut) -> Poll<Result<(), PipeError>> {
        if out.is_empty() {
            return Poll::Ready(Ok(()));
        }
        let len = out.len().min(MAX_MESSAGE);
        let taken = ready!(Pin::new(&mut self.io).poll_write(cx, &out[..len]))?;
        if taken == 0 {
            return Poll::Ready(Err(io::Error::from(io::ErrorKind::WriteZero).into()));
        }
        bytes::Buf::advance(out, taken);
        Poll::Ready(Ok(()))
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), PipeError>> {
        Pin::new(&mut self.io).poll_flush(cx).map_err(PipeError::from)
    }

    fn poll_close(&mut self, cx: &mut Context<'_>, _close: &Close) -> Poll<Result<(), PipeError>> {
        Pin::new(&mut self.io).poll_shutdown(cx).map_err(PipeError::from)
    }

    fn poll_ping(&mut self, _cx: &mut Context<'_>) -> Poll<Result<bool, PipeError>> {
        Poll::Ready(Ok(false))
    }
}
