//! One stream, as the session's task sees it: its transport, how far its call is, and the handler at work.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use super::cell::Cell;
use super::control::Shared;
use crate::clock::Instant;
use crate::mux::call::Event;
use crate::mux::error::Status;
use crate::mux::metadata::Metadata;
use crate::mux::registry::{HandlerFuture, Method};
use crate::mux::session::StreamId;
use crate::mux::stream::Reply;

/// What a caller is told whose handler panicked. The text is coder/coder's (`codersdk/drpcsdk/server.go`).
const PANIC: &str = "internal error: panic serving dRPC request";

pub(super) struct Slot<'r, S> {
    pub(super) cell: Arc<Cell>,
    pub(super) stage: Stage<'r, S>,
    /// A call of this stream has ended.
    pub(super) served: bool,
    /// The peer has half-closed the stream.
    pub(super) peer_done: bool,
    /// The transport is over; what still comes is dropped.
    pub(super) ended: bool,
    /// It is in the session's list of streams that wait for room.
    pub(super) waits_for_room: bool,
    /// It is in the session's list of streams that wait until less output is queued.
    pub(super) waits_for_others: bool,
    /// How often the session found it lingering, without anything happening in between.
    pub(super) lingered: u8,
    /// Bytes that the peer was not yet given credit for.
    pub(super) uncredited: usize,
    /// Bytes of input in memory when last looked at.
    pub(super) held: usize,
}

/// How far the call of a stream is.
pub(super) enum Stage<'r, S> {
    /// No call has begun, or the last one is over.
    Idle,
    /// The handler starts with the first message.
    AwaitsRequest(&'r Method<S>, Metadata),
    Running(Running<'r, S>),
}

pub(super) struct Running<'r, S> {
    pub(super) method: &'r Method<S>,
    pub(super) handler: HandlerFuture,
    pub(super) started: Instant,
    /// Bytes of the request that it has, which it may keep for as long as it runs.
    pub(super) request: usize,
}

/// A handler's result, or that it panicked.
pub(super) type Returned = Result<Result<Option<Reply>, Status>, Panicked>;

#[derive(Debug)]
pub(super) struct Panicked;

impl<'r, S> Slot<'r, S> {
    pub(super) fn new(id: StreamId, shared: &Arc<Shared>) -> Self {
        Self {
            cell: Cell::new(id, shared),
            stage: Stage::Idle,
            served: false,
            peer_done: false,
            ended: false,
            waits_for_room: false,
            waits_for_others: false,
            lingered: 0,
            uncredited: 0,
            held: 0,
        }
    }

    /// Whether only one side still has an interest in the stream, so that it must not stay for ever: our side is done, or
    /// the peer's is and a handler does not notice.
    pub(super) fn is_lingering(&self) -> bool {
        self.peer_done || self.ended || (self.served && matches!(self.stage, Stage::Idle))
    }

    /// Whether a handler or its method's lookup begins with this event.
    pub(super) fn begins(&self, event: &Event) -> bool {
        match event {
            Event::Invoke { .. } => true,
            Event::Message(_) => matches!(self.stage, Stage::AwaitsRequest(..)),
            _ => false,
        }
    }

    /// Bytes of input that are in memory, wherever they are.
    pub(super) fn held_now(&self) -> usize {
        let of_call = match &self.stage {
            Stage::Idle => 0,
            Stage::AwaitsRequest(_, metadata) => metadata.size(),
            Stage::Running(running) => running.request,
        };
        self.cell.lock().held() + of_call
    }

    /// Polls the handler, which must be running.
    pub(super) fn poll_handler(&mut self) -> Poll<Returned> {
        let Stage::Running(running) = &mut self.stage else {
            return Poll::Pending;
        };
        self.cell.lock().attended = true;
        let waker = Waker::from(Arc::clone(&self.cell));
        let handler = &mut running.handler;
        let mut cx = Context::from_waker(&waker);
        let polled = guard(|| handler.as_mut().poll(&mut cx));
        self.cell.lock().attended = false;
        match polled {
            Ok(Poll::Pending) => Poll::Pending,
            Ok(Poll::Ready(result)) => Poll::Ready(Ok(result)),
            Err(panicked) => Poll::Ready(Err(panicked)),
        }
    }

    /// Takes the handler out and drops it, whatever its destructors do.
    pub(super) fn drop_handler(&mut self) -> Option<(&'r Method<S>, Instant)> {
        match std::mem::replace(&mut self.stage, Stage::Idle) {
            Stage::Running(Running {
                method,
                handler,
                started,
                ..
            }) => {
                // A panic here has nobody to be reported to.
                let _ = guard(|| drop(handler));
                Some((method, started))
            }
            Stage::Idle | Stage::AwaitsRequest(..) => None,
        }
    }
}

impl From<Panicked> for Status {
    fn from(_: Panicked) -> Self {
        Self::message(PANIC)
    }
}

/// Runs foreign code, keeping a panic from going further.
///
/// The code's own state is dropped after a panic, and what it shares with others is behind locks whose state stays
/// consistent; so nothing broken is seen again.
pub(super) fn guard<T>(code: impl FnOnce() -> T) -> Result<T, Panicked> {
    catch_unwind(AssertUnwindSafe(code)).map_err(|_| Panicked)
}
