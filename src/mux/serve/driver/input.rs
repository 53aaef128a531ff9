//! What comes from the peer: how much of it is read and dealt with at a time, and what becomes of each frame.

use std::task::{Context, Poll};

use bytes::Bytes;

use super::Driver;
use crate::clock::Instant;
use crate::mux::error::TransportError;
use crate::mux::pipe::{Pipe, PipeError};
use crate::mux::serve::pace::{OVERFLOW, cost};
use crate::mux::serve::slot::Slot;
use crate::mux::serve::timer::Alarm;
use crate::mux::serve::{DRAIN_LIMIT, READS_PER_TURN, SHORTEST_PAUSE, SessionEnd, WORK_PER_WAKE_UP};
use crate::mux::session::{Event, Load, StreamId};

impl<S, P> Driver<'_, S, P>
where
    S: Send + 'static,
    P: Pipe,
{
    /// Reads what there is, up to a turn's worth. False when there may be more.
    pub(super) fn poll_read(&mut self, cx: &mut Context<'_>) -> bool {
        for _ in 0..READS_PER_TURN {
            if self.end.is_some() || self.session.is_flooded() || self.timer.is_set(Alarm::Pace) {
                return true;
            }
            // What has come is begun before more is read, so that the peer's pace knows of it.
            if self.work >= WORK_PER_WAKE_UP || self.may_go_on() {
                return false;
            }
            // Another session of the peer may have been read from instead.
            if self.shared.pace.is_shared() && self.is_ahead(self.clock.monotonic()) {
                return true;
            }
            let (load, now) = if self.unfinished {
                (Load::default(), self.clock.monotonic())
            } else {
                match self.pipe.poll_recv(cx) {
                    Poll::Pending => return true,
                    Poll::Ready(Some(Ok(chunk))) => self.take_chunk(chunk),
                    Poll::Ready(ended) => {
                        self.end = Some(match ended {
                            Some(Err(error)) => SessionEnd::Failed(error.into()),
                            _ if self.session.is_mid_frame() => {
                                SessionEnd::Failed(PipeError::UnexpectedEof.into())
                            }
                            _ => SessionEnd::PeerLeft,
                        });
                        return true;
                    }
                }
            };
            if self.take_events(load, now) {
                return true;
            }
        }
        false
    }

    /// Hands the session what came; what it took to read, and when that was.
    fn take_chunk(&mut self, chunk: Bytes) -> (Load, Instant) {
        let now = self.clock.monotonic();
        self.shared.received(now);
        self.session.on_bytes(chunk);
        let load = Load {
            frames: self.pipe.take_frames(),
            ..Load::default()
        };
        (load, now)
    }

    /// Whether the peer is ahead of its pace; then it is not read from for a while.
    fn is_ahead(&mut self, now: Instant) -> bool {
        let wait = self.shared.pace.wait(now);
        if let Some(wait) = wait {
            self.timer.arm(Alarm::Pace, &self.clock, wait.max(SHORTEST_PAUSE));
        }
        wait.is_some()
    }

    /// Works off what has come, which took `load` to read: up to a wake-up's worth, and what of it makes no event on top. Whether
    /// the peer is ahead of its pace then.
    fn take_events(&mut self, load: Load, now: Instant) -> bool {
        let mut work = cost(load);
        self.unfinished = true;
        while self.work + work < WORK_PER_WAKE_UP {
            let event = self.session.poll_event();
            work += cost(self.session.take_load());
            match event {
                Some(event) => self.on_event(event),
                None => {
                    self.unfinished = false;
                    break;
                }
            }
        }
        self.work += work;
        self.shared.pace.charge(work, now);
        self.is_ahead(now)
    }

    fn on_event(&mut self, event: Event) {
        match event {
            Event::Opened(id) => self.slots.insert(id, Slot::new(id, &self.shared)),
            Event::Data(id, data) => self.on_data(id, data),
            Event::Writable(id) => self.flush(id),
            Event::Fin(id) => self.on_fin(id),
            Event::Reset(id) => self.abort(id, TransportError::Reset),
            // Ours is the side that opens no streams.
            Event::GoAway => {}
            Event::Fatal(error) => self.end = Some(SessionEnd::Failed(error.into())),
        }
    }

    fn on_data(&mut self, id: StreamId, data: Bytes) {
        let Some(slot) = self.slots.get_mut(id) else {
            return;
        };
        if slot.ended {
            self.session.consumed(id, data.len());
            return;
        }
        slot.uncredited += data.len();
        slot.cell.lock().transport.on_bytes(data);
        self.advance(id);
        let most = self.shared.bounds().receive;
        if self.held > most && self.recount_held() > most {
            if !std::mem::replace(&mut self.overflowed, true) {
                tracing::warn!(%id, "too much unread input in one session; its streams are reset");
            }
            self.work += OVERFLOW;
            self.shared.pace.charge(OVERFLOW, self.clock.monotonic());
            self.session.reset(id);
            self.abort(id, TransportError::Reset);
        }
    }

    fn on_fin(&mut self, id: StreamId) {
        let Some(slot) = self.slots.get_mut(id) else {
            return;
        };
        slot.peer_done = true;
        if !slot.ended {
            slot.cell.lock().transport.on_end(TransportError::Eof);
            // Nobody will read what it wants to send.
            slot.cell.wake_sender();
            self.timer.arm(Alarm::Linger, &self.clock, DRAIN_LIMIT);
            self.advance(id);
        }
        self.forget_if_closed(id);
    }
}
