//! Calls and their handlers: how a call begins, how its handler is polled, and how it ends.

use std::sync::atomic::Ordering;
use std::task::Poll;

use bytes::Bytes;

use super::Driver;
use crate::mux::error::Status;
use crate::mux::metadata::Metadata;
use crate::mux::pipe::Pipe;
use crate::mux::registry::{Method, Outcome};
use crate::mux::serve::DRAIN_LIMIT;
use crate::mux::serve::cell::Reader;
use crate::mux::serve::pace::CALL;
use crate::mux::serve::slot::{Panicked, Returned, Running, Stage, guard};
use crate::mux::serve::timer::Alarm;
use crate::mux::session::StreamId;

/// What a caller is told whose reply has no room beside what its session has not read yet.
const UNSENT: &str = "too much of this session waits to be sent";

impl<S, P> Driver<'_, S, P>
where
    S: Send + 'static,
    P: Pipe,
{
    pub(super) fn invoke(&mut self, id: StreamId, path: &[u8], metadata: Metadata) {
        let Some(slot) = self.slots.get_mut(id) else {
            return;
        };
        slot.lingered = 0;
        if slot.served {
            // The first call of a stream counts with the stream.
            self.work += CALL;
            self.shared.pace.charge(CALL, self.clock.monotonic());
        }
        match self.registry.lookup(path) {
            Err(status) => {
                slot.cell.lock().drop_messages();
                self.finish(id, Ok(Err(status)));
            }
            Ok(method) => {
                slot.stage = Stage::AwaitsRequest(method, metadata);
                if method.shape().takes_one_request() {
                    slot.cell.lock().reader = Reader::Session;
                } else {
                    self.start(id, None);
                }
            }
        }
    }

    pub(super) fn start(&mut self, id: StreamId, request: Option<Bytes>) {
        let Some(slot) = self.slots.get_mut(id) else {
            return;
        };
        let Stage::AwaitsRequest(method, metadata) = std::mem::replace(&mut slot.stage, Stage::Idle) else {
            return;
        };
        slot.cell.lock().drop_messages();
        let started = self.clock.monotonic();
        let request_len = request.as_ref().map_or(0, Bytes::len);
        let cell = &slot.cell;
        let handler = guard(|| {
            self.registry
                .start(method, &self.context, &metadata, request, || cell.begin_stream())
        });
        match handler {
            Ok(Ok(handler)) => {
                if method.shape().takes_one_request() {
                    slot.cell.lock().drop_messages();
                }
                slot.stage = Stage::Running(Running {
                    method,
                    handler,
                    started,
                    request: request_len,
                });
                self.poll_handler(id);
            }
            Ok(Err(status)) => self.finish(id, Ok(Err(status))),
            Err(panicked) => {
                report_panic(method);
                self.finish(id, Err(panicked));
            }
        }
    }

    pub(super) fn poll_handler(&mut self, id: StreamId) {
        let Some(slot) = self.slots.get_mut(id) else {
            return;
        };
        match slot.poll_handler() {
            Poll::Ready(returned) => self.finish(id, returned),
            Poll::Pending => self.flush(id),
        }
    }

    /// Ends a call with what its handler returned, or with an error in place of a handler.
    pub(super) fn finish(&mut self, id: StreamId, returned: Returned) {
        let Some(slot) = self.slots.get_mut(id) else {
            return;
        };
        // An error that the peer will not get: the call ended before its handler.
        let over = slot.cell.lock().transport.is_terminated();
        if let Some((method, started)) = slot.drop_handler() {
            let outcome = match &returned {
                Ok(Ok(_)) => Outcome::Done,
                Ok(Err(_)) if over => Outcome::Cancelled,
                Ok(Err(status)) => Outcome::Failed(status.clone()),
                Err(Panicked) => {
                    report_panic(method);
                    Outcome::Panicked
                }
            };
            self.registry
                .finished(method, &self.context, &outcome, self.clock.monotonic() - started);
        }
        slot.cell.end_call();
        slot.served = true;
        let mut result = returned.unwrap_or_else(|panicked| Err(panicked.into()));
        if self.shared.is_overfull() && matches!(result, Ok(Some(_))) {
            // The call began when less waited, with too many others.
            result = Err(Status::message(UNSENT));
        }
        let mut guard = slot.cell.lock();
        let state = &mut *guard;
        if state.out.is_empty() {
            std::mem::swap(&mut state.out, &mut self.scratch);
        }
        let before = state.out.len();
        state.transport.finish(result, &mut state.out);
        self.shared
            .queued
            .fetch_add(state.out.len() - before, Ordering::Relaxed);
        drop(guard);
        if !slot.peer_done {
            self.timer.arm(Alarm::Linger, &self.clock, DRAIN_LIMIT);
        }
        self.flush(id);
    }

    /// Ends a call whose peer wants no result: the handler sees why in one last poll, and is dropped.
    pub(super) fn cancel(&mut self, id: StreamId) {
        let Some(slot) = self.slots.get_mut(id) else {
            return;
        };
        let returned = slot.poll_handler();
        if let Some((method, started)) = slot.drop_handler() {
            let outcome = match returned {
                Poll::Ready(Ok(Ok(_))) => Outcome::Done,
                Poll::Ready(Err(Panicked)) => {
                    report_panic(method);
                    Outcome::Panicked
                }
                Poll::Ready(Ok(Err(_))) | Poll::Pending => Outcome::Cancelled,
            };
            self.registry
                .finished(method, &self.context, &outcome, self.clock.monotonic() - started);
        }
        slot.cell.end_call();
        slot.cell.lock().transport.handler_returned();
        slot.served = true;
        self.timer.arm(Alarm::Linger, &self.clock, DRAIN_LIMIT);
    }
}

fn report_panic<S>(method: &Method<S>) {
    tracing::error!(method = method.path(), "panic serving dRPC request");
}
