//! What the session's task and a call's handler share: the transport, the message read ahead, what waits to be sent.
//!
//! Owns the lock between the two sides; a handler may have moved its handles into another task. Never polls a handler and
//! never touches the session.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

use bytes::{Bytes, BytesMut};

use super::SEND_BUFFER;
use super::control::Shared;
use crate::mux::call::{Event, Transport};
use crate::mux::error::{Status, TransportError};
use crate::mux::session::StreamId;
use crate::mux::stream::{AnyMessage, CallStream};

/// One transport, and the waker of its handler.
#[derive(Debug)]
pub(super) struct Cell {
    id: StreamId,
    shared: Arc<Shared>,
    /// It is in the session's list.
    scheduled: AtomicBool,
    /// Its handler was woken.
    woken: AtomicBool,
    state: Mutex<State>,
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) transport: Transport,
    /// Read ahead by one, so that an end behind a message is noticed as soon as the message is taken.
    pub(super) next: Option<Event>,
    /// `next` is no slice of what came in together with others.
    detached: bool,
    /// Frames that wait for credit or for room.
    pub(super) out: BytesMut,
    pub(super) reader: Reader,
    /// The session's task is polling the handler and will look at everything afterwards.
    pub(super) attended: bool,
    /// Number of the call on this transport, so that handles of an earlier one cannot touch it.
    call: u32,
    receiver: Option<Waker>,
    sender: Option<Waker>,
}

/// Who gets the messages that come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reader {
    /// The session's task, which starts the handler with the first one.
    Session,
    /// The handler, when it asks.
    Handler,
    /// Nobody; they are dropped, so that what is behind them is seen.
    Nobody,
}

impl Cell {
    pub(super) fn new(id: StreamId, shared: &Arc<Shared>) -> Arc<Self> {
        Arc::new(Self {
            id,
            shared: Arc::clone(shared),
            scheduled: AtomicBool::new(false),
            woken: AtomicBool::new(false),
            state: Mutex::new(State {
                transport: Transport::new(),
                next: None,
                detached: false,
                out: BytesMut::new(),
                reader: Reader::Session,
                attended: false,
                call: 0,
                receiver: None,
                sender: None,
            }),
        })
    }

    /// The state is consistent between any two statements, so a panic elsewhere does not spoil it.
    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The handles of the call that begins now.
    pub(super) fn begin_stream(self: &Arc<Self>) -> Arc<dyn CallStream> {
        let mut state = self.lock();
        state.reader = Reader::Handler;
        Arc::new(Handle {
            cell: Arc::clone(self),
            call: state.call,
        })
    }

    /// Puts the call on the session's list.
    pub(super) fn schedule(&self) {
        if !self.scheduled.swap(true, Ordering::AcqRel) {
            self.shared.wakeup.push(self.id);
        }
    }

    /// Takes the call off the session's list; true when its handler was woken.
    pub(super) fn attend(&self) -> bool {
        self.scheduled.store(false, Ordering::Release);
        self.woken.swap(false, Ordering::AcqRel)
    }

    /// Ends the current call for all handles, wherever they are. What still comes for it is dropped.
    pub(super) fn end_call(&self) {
        let mut state = self.lock();
        state.call = state.call.wrapping_add(1);
        state.drop_messages();
        let wakers = [state.receiver.take(), state.sender.take()];
        drop(state);
        wakers.into_iter().flatten().for_each(Waker::wake);
    }

    /// Wakes a handler that waits for room.
    pub(super) fn wake_sender(&self) {
        let waker = self.lock().sender.take();
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Whether a handler waits for room, and nothing of it waits to be sent.
    pub(super) fn waits_for_others(&self) -> bool {
        let state = self.lock();
        state.sender.is_some() && state.out.is_empty()
    }

    /// Wakes a handler that waits for a message or an end, if there is one.
    pub(super) fn wake_receiver(&self) {
        let mut state = self.lock();
        let found = state.next.is_some()
            || state.transport.receive_closed()
            || state.transport.receive_error().is_some();
        if found && let Some(waker) = state.receiver.take() {
            drop(state);
            waker.wake();
        }
    }
}

impl Wake for Cell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.woken.store(true, Ordering::Release);
        self.schedule();
    }
}

impl State {
    /// Looks one event ahead. True when what is there concerns the session's task and not the handler.
    pub(super) fn read_ahead(&mut self) -> bool {
        while self.next.is_none() {
            match self.transport.poll_event() {
                None => return false,
                Some(Event::Message(_)) if self.reader == Reader::Nobody => {}
                // A handler finds it in the transport once all messages are read.
                Some(Event::HalfClosed) if self.reader != Reader::Session => {}
                Some(event) => {
                    self.next = Some(event);
                    self.detached = false;
                }
            }
        }
        !(self.reader == Reader::Handler && matches!(self.next, Some(Event::Message(_))))
    }

    /// Copies what has to wait out of the chunks that it came in, of which each may be larger by far and is counted nowhere.
    pub(super) fn detach(&mut self) {
        if !std::mem::replace(&mut self.detached, true)
            && let Some(Event::Invoke { path: data, .. } | Event::Message(data)) = &mut self.next
        {
            *data = Bytes::copy_from_slice(data);
        }
        self.transport.detach();
    }

    /// From now on messages are dropped, one that was read ahead included.
    pub(super) fn drop_messages(&mut self) {
        self.reader = Reader::Nobody;
        if matches!(self.next, Some(Event::Message(_))) {
            self.next = None;
        }
    }

    /// The next event that concerns the session's task.
    pub(super) fn next_event(&mut self) -> Option<Event> {
        if self.read_ahead() { self.next.take() } else { None }
    }

    /// Ends the transport at once, whatever is still to be read; the reason that counts.
    pub(super) fn abort(&mut self, why: TransportError) -> TransportError {
        self.next = None;
        self.reader = Reader::Nobody;
        self.transport.on_end(why.clone());
        while let Some(event) = self.transport.poll_event() {
            if let Event::Ended(why) = event {
                return why;
            }
        }
        why
    }

    /// Bytes of input that came and that nobody has dealt with.
    pub(super) fn unread(&self) -> usize {
        self.transport.buffered() + self.next_len()
    }

    /// Bytes of input that are in memory; those of a call that waits to begin too.
    pub(super) fn held(&self) -> usize {
        let waiting = match &self.next {
            Some(Event::Invoke { path, metadata }) => path.len() + metadata.size(),
            _ => self.next_len(),
        };
        self.transport.held() + waiting
    }

    fn next_len(&self) -> usize {
        match &self.next {
            Some(Event::Message(data)) => data.len(),
            _ => 0,
        }
    }
}

/// One call's handle on its transport.
#[derive(Debug)]
struct Handle {
    cell: Arc<Cell>,
    call: u32,
}

impl Handle {
    /// The state, if the handle's call is still the one that runs.
    fn current(&self) -> Option<MutexGuard<'_, State>> {
        let state = self.cell.lock();
        (state.call == self.call).then_some(state)
    }

    /// Changes what is to be sent, and tells the session's task unless it will look anyway.
    fn write<T>(&self, mut state: MutexGuard<'_, State>, change: impl FnOnce(&mut State) -> T) -> T {
        let before = state.out.len();
        let result = change(&mut state);
        let written = state.out.len() - before;
        // Counted before the session's task can see it, which takes it from the count once it is sent.
        self.cell.shared.queued.fetch_add(written, Ordering::Relaxed);
        let attended = state.attended;
        drop(state);
        if written > 0 && !attended {
            self.cell.schedule();
        }
        result
    }
}

impl CallStream for Handle {
    fn poll_recv(&self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, Status>> {
        let Some(mut state) = self.current() else {
            return Poll::Ready(Err(Status::canceled()));
        };
        let mut session_has_work = state.read_ahead();
        let result = match state.next.take() {
            Some(Event::Message(message)) => {
                session_has_work = state.read_ahead();
                // Credit is granted in large steps, so small ones need not be reported at once.
                session_has_work |= message.len() >= super::REPORTED_READ;
                Poll::Ready(Ok(Some(message)))
            }
            next => {
                state.next = next;
                if let Some(error) = state.transport.receive_error() {
                    Poll::Ready(Err(error))
                } else if state.transport.receive_closed() {
                    Poll::Ready(Ok(None))
                } else {
                    state.receiver = Some(cx.waker().clone());
                    Poll::Pending
                }
            }
        };
        let attended = state.attended;
        drop(state);
        if session_has_work && !attended {
            self.cell.schedule();
        }
        result
    }

    fn poll_send(&self, cx: &mut Context<'_>, message: &dyn AnyMessage) -> Poll<Result<(), Status>> {
        let Some(mut state) = self.current() else {
            return Poll::Ready(Err(Status::eof()));
        };
        if state.transport.send_error().is_none() {
            // A peer that has closed its side reads no more.
            if state.transport.input_closed() {
                return Poll::Ready(Err(Status::eof()));
            }
            if state.out.len() >= SEND_BUFFER || self.cell.shared.is_full() {
                state.sender = Some(cx.waker().clone());
                let has_turn = !state.out.is_empty();
                drop(state);
                if !has_turn {
                    // No output of its own will be sent and wake it: the session's task has to know.
                    self.cell.schedule();
                }
                return Poll::Pending;
            }
        }
        Poll::Ready(self.write(state, |state| state.transport.send(message, &mut state.out)))
    }

    fn stop_receiving(&self) {
        if let Some(mut state) = self.current() {
            state.drop_messages();
            let attended = state.attended;
            drop(state);
            if !attended {
                self.cell.schedule();
            }
        }
    }

    fn close_send(&self) {
        if let Some(state) = self.current() {
            self.write(state, |state| state.transport.close_send(&mut state.out));
        }
    }

    fn close(&self) {
        if let Some(state) = self.current() {
            self.write(state, |state| state.transport.close(&mut state.out));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Control, SESSION_SEND_BUFFER};
    use super::*;
    use crate::clock::Clock;

    /// Whether a handler may send while so many bytes of its call wait, and so many of the session's.
    fn sends(of_call: usize, of_session: usize) -> bool {
        let control = Control::new(&Clock::system());
        let cell = Cell::new(StreamId(1), control.shared());
        let mut state = cell.lock();
        state
            .transport
            .on_bytes(Bytes::from_static(b"\x03\x01\x01\x02/t"));
        assert!(matches!(state.next_event(), Some(Event::Invoke { .. })));
        state.out.resize(of_call, 0);
        drop(state);
        control.shared().queued.store(of_session, Ordering::Relaxed);
        let handle = cell.begin_stream();
        let mut cx = Context::from_waker(Waker::noop());
        match handle.poll_send(&mut cx, &"reply".to_owned()) {
            Poll::Ready(sent) => {
                assert_eq!(sent, Ok(()));
                true
            }
            Poll::Pending => false,
        }
    }

    #[test]
    fn a_handler_sends_until_as_much_waits_as_its_call_may_have() {
        for (waits, passes) in [
            (SEND_BUFFER - 1, true),
            (SEND_BUFFER, false),
            (SEND_BUFFER + 1, false),
        ] {
            assert_eq!(sends(waits, waits), passes, "{waits}");
        }
    }

    #[test]
    fn a_handler_sends_until_as_much_waits_as_the_session_may_have() {
        for (waits, passes) in [
            (SESSION_SEND_BUFFER - 1, true),
            (SESSION_SEND_BUFFER, false),
            (SESSION_SEND_BUFFER + 1, false),
        ] {
            assert_eq!(sends(1, waits), passes, "{waits}");
            assert_eq!(sends(0, waits), passes, "{waits}");
        }
    }
}
