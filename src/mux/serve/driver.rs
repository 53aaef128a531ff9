//! The session's task: moves bytes between the pipe, the session and its calls, and polls the handlers.

mod calls;
mod input;

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, BytesMut};

use super::buffers::Part;
use super::control::{Control, Shared};
use super::pace::CALL;
use super::slot::Slot;
use super::timer::{Alarm, Timer};
use super::{
    ACK_BACKLOG, ACK_DELAY, DRAIN_LIMIT, SEND_BUFFER, SEND_TURN, SessionEnd, TURNS, WORK_PER_WAKE_UP,
};
use crate::clock::Clock;
use crate::mux::call::Event as CallEvent;
use crate::mux::error::{Status, TransportError};
use crate::mux::pipe::{Pipe, PipeError};
use crate::mux::registry::Registry;
use crate::mux::session::{Role, Session, StreamId, StreamMap};

pub(super) struct Driver<'r, S, P> {
    pipe: P,
    session: Session,
    slots: StreamMap<Slot<'r, S>>,
    registry: &'r Registry<S>,
    context: S,
    shared: Arc<Shared>,
    clock: Clock,
    timer: Timer,
    /// Streams were reset because nobody reads their input, which is said once.
    overflowed: bool,
    /// What the peer has made in this wake-up. From [`WORK_PER_WAKE_UP`] on nothing more is begun.
    work: Duration,
    /// Events of the last chunk wait for the next turn.
    unfinished: bool,
    /// Calls that are being looked at in this turn.
    ready: Vec<StreamId>,
    /// Streams that wait for room in the session's output, in the order of their turns.
    waiting_for_room: VecDeque<StreamId>,
    /// Streams whose next call, or whose handler with something to send, waits until less output is queued.
    waiting_for_others: VecDeque<StreamId>,
    /// What this session holds, in the account of all.
    part: Part,
    /// Where a call's last frames are put together before they go out.
    scratch: BytesMut,
    /// Bytes of input that all streams held when last looked at.
    held: usize,
    /// Bytes were given to the pipe since it was last flushed.
    unflushed: bool,
    /// How the input ended, to be told once all that came before it is dealt with.
    end: Option<SessionEnd>,
}

impl<'r, S, P> Driver<'r, S, P>
where
    S: Send + 'static,
    P: Pipe,
{
    pub(super) fn new(
        pipe: P,
        registry: &'r Registry<S>,
        context: S,
        control: &Control,
        clock: Clock,
    ) -> Self {
        Self {
            pipe,
            session: Session::new(Role::Server),
            slots: StreamMap::new(),
            registry,
            context,
            shared: Arc::clone(control.shared()),
            clock,
            timer: Timer::default(),
            overflowed: false,
            work: Duration::ZERO,
            unfinished: false,
            ready: Vec::new(),
            waiting_for_room: VecDeque::new(),
            waiting_for_others: VecDeque::new(),
            part: Part::of(&control.shared().buffers),
            scratch: BytesMut::new(),
            held: 0,
            unflushed: false,
            end: None,
        }
    }

    pub(super) fn pipe(&mut self) -> &mut P {
        &mut self.pipe
    }

    /// One wake-up: reads, works, writes, until nothing moves any more.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<SessionEnd> {
        self.shared.wakeup.begin(cx.waker());
        let polled = self.poll_turns(cx);
        self.part
            .set(self.held + self.shared.queued.load(Ordering::Relaxed));
        polled
    }

    fn poll_turns(&mut self, cx: &mut Context<'_>) -> Poll<SessionEnd> {
        self.work = Duration::ZERO;
        for _ in 0..TURNS {
            if let Some((cause, reason)) = self.shared.close_requested() {
                return Poll::Ready(SessionEnd::Closed {
                    cause: *cause,
                    reason: reason.clone(),
                });
            }
            let all_read = self.poll_read(cx);
            let stopped = self.session.is_flooded();
            self.run_ready();
            if let Some(end) = self.end.take() {
                return Poll::Ready(end);
            }
            self.acknowledge();
            self.poll_timer(cx);
            self.poll_ping(cx);
            if let Poll::Ready(Err(error)) = self.poll_write(cx) {
                return Poll::Ready(self.write_failed(cx, error));
            }
            // Nobody waits for input where reading has stopped for a flood, which may have gone out by now.
            let goes_on = stopped && !self.session.is_flooded();
            if all_read && !goes_on && !self.may_go_on() && self.shared.wakeup.sleep() {
                self.release_buffers();
                return Poll::Pending;
            }
            if self.work >= WORK_PER_WAKE_UP {
                break;
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Deals with everything that has come on a stream, as far as the handler lets it.
    fn advance(&mut self, id: StreamId) {
        while let Some(slot) = self.slots.get_mut(id) {
            let Some(event) = slot.cell.lock().next_event() else {
                slot.cell.wake_receiver();
                break;
            };
            match event {
                event if slot.begins(&event) && (self.shared.is_full() || self.work >= WORK_PER_WAKE_UP) => {
                    slot.cell.lock().next = Some(event);
                    self.wait_for_others(id);
                    break;
                }
                CallEvent::Invoke { path, metadata } => self.invoke(id, &path, metadata),
                CallEvent::Message(request) => self.start(id, Some(request)),
                CallEvent::HalfClosed => self.finish(id, Ok(Err(Status::eof()))),
                CallEvent::Cancelled => self.cancel(id),
                CallEvent::Ended(why) => {
                    self.cancel(id);
                    self.transport_ended(id, &why);
                    self.session.fin(id);
                    break;
                }
            }
        }
        self.credit(id);
    }

    /// Nothing more is read from or written to a stream; what runs on it was cancelled.
    fn transport_ended(&mut self, id: StreamId, why: &TransportError) {
        let Some(slot) = self.slots.get_mut(id) else {
            return;
        };
        slot.ended = true;
        self.drop_output(id);
        if why.is_logged() {
            tracing::debug!(error = %why, "drpc server error");
        }
    }

    fn drop_output(&mut self, id: StreamId) {
        if let Some(slot) = self.slots.get_mut(id) {
            let out = std::mem::take(&mut slot.cell.lock().out);
            self.shared.queued.fetch_sub(out.len(), Ordering::Relaxed);
        }
    }

    /// Ends a stream at once. What it had not read is lost.
    fn abort(&mut self, id: StreamId, why: TransportError) {
        if let Some(slot) = self.slots.get_mut(id)
            && !slot.ended
        {
            let why = slot.cell.lock().abort(why);
            self.cancel(id);
            self.transport_ended(id, &why);
        }
        self.forget_if_closed(id);
    }

    fn forget_if_closed(&mut self, id: StreamId) {
        if !self.session.contains(id)
            && let Some(slot) = self.slots.remove(id)
        {
            self.held -= slot.held;
        }
    }

    /// Ends all calls, because the session is over.
    pub(super) fn end_calls(&mut self, end: &SessionEnd) {
        let closed = matches!(end, SessionEnd::Closed { .. });
        for id in self.ids() {
            // A session that failed is one event, which its caller logs; not one for each of its calls.
            self.abort(
                id,
                if closed {
                    TransportError::Canceled
                } else {
                    TransportError::Eof
                },
            );
            if closed {
                self.session.fin(id);
            }
        }
    }

    fn ids(&self) -> Vec<StreamId> {
        (0..self.slots.len())
            .map_while(|index| self.slots.id_at(index))
            .collect()
    }

    /// Grants the credit of input that was dealt with since the last time.
    fn credit(&mut self, id: StreamId) {
        let Some(slot) = self.slots.get_mut(id) else {
            return;
        };
        let mut state = slot.cell.lock();
        state.detach();
        let unread = state.unread();
        drop(state);
        let held = slot.held_now();
        self.held = self.held + held - slot.held;
        slot.held = held;
        if unread < slot.uncredited {
            self.session.consumed(id, slot.uncredited - unread);
            slot.uncredited = unread;
        }
    }

    /// Handlers may have read since their streams were last looked at.
    fn recount_held(&mut self) -> usize {
        for id in self.ids() {
            self.credit(id);
        }
        self.held
    }

    /// A stream waits until less output is queued.
    fn wait_for_others(&mut self, id: StreamId) {
        if let Some(slot) = self.slots.get_mut(id)
            && !std::mem::replace(&mut slot.waits_for_others, true)
        {
            self.waiting_for_others.push_back(id);
        }
    }

    /// Whether streams that waited for others' output to go can go on now.
    fn may_go_on(&self) -> bool {
        !self.waiting_for_others.is_empty() && !self.shared.is_full()
    }

    /// Each once: those that wait again do so until the next time.
    fn go_on(&mut self) {
        for _ in 0..self.waiting_for_others.len() {
            if self.work >= WORK_PER_WAKE_UP {
                return;
            }
            let Some(id) = self.waiting_for_others.pop_front() else {
                return;
            };
            if let Some(slot) = self.slots.get_mut(id) {
                slot.waits_for_others = false;
                slot.cell.wake_sender();
                // Its pace was charged when it came.
                self.work += CALL;
                self.advance(id);
            }
        }
    }

    /// Looks at the calls that have something to do, and at those that come up while it does.
    fn run_ready(&mut self) {
        for _ in 0..TURNS {
            if self.may_go_on() {
                self.go_on();
            }
            let mut ready = std::mem::take(&mut self.ready);
            self.shared.wakeup.take(&mut ready);
            if ready.is_empty() {
                return;
            }
            for id in ready.drain(..) {
                self.visit(id);
            }
            self.ready = ready;
        }
    }

    fn visit(&mut self, id: StreamId) {
        let Some(slot) = self.slots.get_mut(id) else {
            return;
        };
        let woken = slot.cell.attend();
        if slot.ended {
            return;
        }
        if woken {
            self.poll_handler(id);
        } else {
            self.flush(id);
        }
        self.advance(id);
        if self
            .slots
            .get_mut(id)
            .is_some_and(|slot| slot.cell.waits_for_others())
        {
            self.wait_for_others(id);
        }
        self.forget_if_closed(id);
    }

    /// Moves a turn's worth of a call's frames into the session's output, as far as credit and room allow.
    fn flush(&mut self, id: StreamId) {
        let Some(slot) = self.slots.get_mut(id) else {
            return;
        };
        let mut state = slot.cell.lock();
        if state.out.is_empty() {
            return;
        }
        let len = self.session.sendable(id).min(state.out.len()).min(SEND_TURN);
        if len > 0 {
            self.session
                .write_data(id, len, |output| output.extend_from_slice(&state.out[..len]));
            self.shared.queued.fetch_sub(len, Ordering::Relaxed);
        }
        if len == state.out.len() {
            let mut emptied = std::mem::take(&mut state.out);
            emptied.clear();
            if emptied.capacity() <= SEND_BUFFER {
                self.scratch = emptied;
            }
        } else {
            state.out.advance(len);
            if self.session.has_credit(id) && !std::mem::replace(&mut slot.waits_for_room, true) {
                self.waiting_for_room.push_back(id);
            }
        }
        let has_room = state.out.len() < SEND_BUFFER;
        drop(state);
        if has_room {
            slot.cell.wake_sender();
        }
    }

    /// Gives each stream that waits for room its turn.
    fn flush_waiting(&mut self) {
        for _ in 0..self.waiting_for_room.len() {
            let Some(id) = self.waiting_for_room.pop_front() else {
                return;
            };
            if let Some(slot) = self.slots.get_mut(id) {
                slot.waits_for_room = false;
                self.flush(id);
            }
        }
    }

    /// Sends what is to be sent. Ready when all of it is with the operating system.
    pub(super) fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), PipeError>> {
        loop {
            while !self.session.output().is_empty() {
                match self.pipe.poll_send(cx, self.session.output()) {
                    Poll::Ready(Ok(())) => self.unflushed = true,
                    other => return other,
                }
            }
            self.flush_waiting();
            if self.session.output().is_empty() {
                break;
            }
        }
        if self.unflushed {
            match self.pipe.poll_flush(cx) {
                Poll::Ready(Ok(())) => self.unflushed = false,
                other => return other,
            }
        }
        Poll::Ready(Ok(()))
    }

    /// A peer that left in good order is no failure, even if a write notices it first.
    fn write_failed(&mut self, cx: &mut Context<'_>, error: PipeError) -> SessionEnd {
        // What it has sent may be more than a wake-up's worth.
        for _ in 0..TURNS {
            self.work = Duration::ZERO;
            let all_read = self.poll_read(cx);
            self.run_ready();
            if all_read || self.end.is_some() {
                break;
            }
        }
        match self.end.take() {
            Some(SessionEnd::PeerLeft) => SessionEnd::PeerLeft,
            _ => SessionEnd::Failed(error.into()),
        }
    }

    /// Sees to it that streams are acknowledged soon. Most are, by the time this is asked, by their reply.
    fn acknowledge(&mut self) {
        match self.session.unacked() {
            0 => {}
            ACK_BACKLOG.. => self.session.ack_all(),
            _ => self.timer.arm(Alarm::Ack, &self.clock, ACK_DELAY),
        }
    }

    fn poll_timer(&mut self, cx: &mut Context<'_>) {
        while let Poll::Ready(alarm) = self.timer.poll(cx, &self.clock) {
            match alarm {
                Alarm::Ack => self.session.ack_all(),
                Alarm::Linger => self.give_up_lingering(),
                // What the peer sent meanwhile has woken nobody.
                Alarm::Pace => cx.waker().wake_by_ref(),
            }
        }
    }

    /// Closes, and at last resets, streams in which only one side still has an interest.
    fn give_up_lingering(&mut self) {
        let mut any = false;
        for id in self.ids() {
            let Some(slot) = self.slots.get_mut(id) else {
                continue;
            };
            if !slot.is_lingering() {
                slot.lingered = 0;
                continue;
            }
            any = true;
            slot.lingered = slot.lingered.saturating_add(1);
            match slot.lingered {
                0 | 1 => {}
                2 => {
                    self.session.fin(id);
                    self.abort(id, TransportError::Eof);
                }
                _ => {
                    self.session.reset(id);
                    self.abort(id, TransportError::Eof);
                }
            }
        }
        if any {
            self.timer.arm(Alarm::Linger, &self.clock, DRAIN_LIMIT);
        }
    }

    fn poll_ping(&mut self, cx: &mut Context<'_>) {
        if !self.shared.ping_requested() {
            return;
        }
        match self.pipe.poll_ping(cx) {
            Poll::Pending => return,
            Poll::Ready(Ok(true)) => self.unflushed = true,
            Poll::Ready(Ok(false)) => self.session.ping(),
            // A broken pipe shows when it is read.
            Poll::Ready(Err(error)) => tracing::trace!(%error, "ping failed"),
        }
        self.shared.pinged();
    }

    /// An idle session holds no buffers.
    fn release_buffers(&mut self) {
        self.session.release_output();
        self.ready = Vec::new();
        self.scratch = BytesMut::new();
        if self.waiting_for_room.is_empty() {
            self.waiting_for_room = VecDeque::new();
        }
        if self.waiting_for_others.is_empty() {
            self.waiting_for_others = VecDeque::new();
        }
    }
}
