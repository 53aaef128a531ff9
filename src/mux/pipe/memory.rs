//! A pair of connected pipes in memory, for tests and for tools that talk to a session in their own process.
//!
//! Owns a bounded buffer in each direction; keeps message borders, so that a test can count messages.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use bytes::{Bytes, BytesMut};

use super::{Close, CloseCode, MAX_MESSAGE, Pipe, PipeError};

/// One end of the pair. Dropping it without a close is a clean end for the other.
pub struct MemoryPipe {
    incoming: Arc<Mutex<Lane>>,
    outgoing: Arc<Mutex<Lane>>,
}

/// One direction.
struct Lane {
    messages: VecDeque<Bytes>,
    /// Bytes in `messages`.
    len: usize,
    /// A message is taken while fewer than this many bytes wait.
    capacity: usize,
    closed: Option<Close>,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

/// A connected pair; each direction takes messages while fewer than `capacity` bytes wait in it.
pub fn pair(capacity: usize) -> (MemoryPipe, MemoryPipe) {
    let lane = || {
        Arc::new(Mutex::new(Lane {
            messages: VecDeque::new(),
            len: 0,
            capacity,
            closed: None,
            reader: None,
            writer: None,
        }))
    };
    let (one, other) = (lane(), lane());
    (
        MemoryPipe {
            incoming: Arc::clone(&one),
            outgoing: Arc::clone(&other),
        },
        MemoryPipe {
            incoming: other,
            outgoing: one,
        },
    )
}

/// A lane's state is consistent between any two statements, so a panic elsewhere does not spoil it.
fn lock(lane: &Mutex<Lane>) -> MutexGuard<'_, Lane> {
    lane.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Lane {
    fn close(&mut self, close: Close) {
        self.closed.get_or_insert(close);
        for waker in [self.reader.take(), self.writer.take()].into_iter().flatten() {
            waker.wake();
        }
    }
}

impl MemoryPipe {
    /// How this end was told to go, once the other end has closed.
    pub fn closed_by_peer(&self) -> Option<Close> {
        lock(&self.incoming).closed.clone()
    }
}

impl Pipe for MemoryPipe {
    fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, PipeError>>> {
        let mut lane = lock(&self.incoming);
        if let Some(message) = lane.messages.pop_front() {
            lane.len -= message.len();
            if let Some(writer) = lane.writer.take() {
                writer.wake();
            }
            return Poll::Ready(Some(Ok(message)));
        }
        match &lane.closed {
            None => {
                lane.reader = Some(cx.waker().clone());
                Poll::Pending
            }
            Some(close) if matches!(close.code, CloseCode::NORMAL | CloseCode::GOING_AWAY) => {
                Poll::Ready(None)
            }
            Some(close) => Poll::Ready(Some(Err(PipeError::Closed {
                code: close.code.0,
                reason: close.reason.clone().into_owned(),
            }))),
        }
    }

    fn poll_send(&mut self, cx: &mut Context<'_>, out: &mut BytesMut) -> Poll<Result<(), PipeError>> {
        if out.is_empty() {
            return Poll::Ready(Ok(()));
        }
        let mut lane = lock(&self.outgoing);
        if lane.closed.is_some() {
            return Poll::Ready(Err(std::io::Error::from(std::io::ErrorKind::BrokenPipe).into()));
        }
        if lane.len >= lane.capacity {
            lane.writer = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let message = out.split_to(out.len().min(MAX_MESSAGE)).freeze();
        lane.len += message.len();
        lane.messages.push_back(message);
        if let Some(reader) = lane.reader.take() {
            reader.wake();
        }
        Poll::Ready(Ok(()))
    }

    fn poll_flush(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), PipeError>> {
        Poll::Ready(Ok(()))
    }

    fn poll_close(&mut self, _cx: &mut Context<'_>, close: &Close) -> Poll<Result<(), PipeError>> {
        lock(&self.outgoing).close(close.clone());
        Poll::Ready(Ok(()))
    }

    fn poll_ping(&mut self, _cx: &mut Context<'_>) -> Poll<Result<bool, PipeError>> {
        Poll::Ready(Ok(false))
    }
}

impl Drop for MemoryPipe {
    fn drop(&mut self) {
        let gone = || Close {
            code: CloseCode::NORMAL,
            reason: "".into(),
        };
        lock(&self.incoming).close(gone());
        lock(&self.outgoing).close(gone());
    }
}

impl fmt::Debug for MemoryPipe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryPipe")
            .field("waiting", &lock(&self.incoming).len)
            .finish_non_exhaustive()
    }
}
