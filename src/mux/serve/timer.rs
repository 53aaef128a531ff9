//! The one timer of a session. It is coarse: each of its alarms covers all streams that have something to wait for.
//!
//! Armed only while there is something to wait for, so that an idle session has none.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::Sleep;

use crate::clock::{Clock, Instant};

/// What a session waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Alarm {
    /// Streams are to be acknowledged.
    Ack,
    /// Streams are looked through for those that linger.
    Linger,
}

#[derive(Debug, Default)]
pub(super) struct Timer {
    ack: Option<Instant>,
    linger: Option<Instant>,
    sleep: Option<Pin<Box<Sleep>>>,
}

impl Timer {
    /// Sets an alarm, unless it is set.
    pub(super) fn arm(&mut self, alarm: Alarm, clock: &Clock, after: Duration) {
        let due = match alarm {
            Alarm::Ack => &mut self.ack,
            Alarm::Linger => &mut self.linger,
        };
        if due.is_none() {
            *due = Some(clock.monotonic() + after);
        }
    }

    /// Waits for the next alarm, which is then no longer set.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>, clock: &Clock) -> Poll<Alarm> {
        let (alarm, due) = match (self.ack, self.linger) {
            (None, None) => {
                self.sleep = None;
                return Poll::Pending;
            }
            (Some(ack), linger) if linger.is_none_or(|linger| ack <= linger) => (Alarm::Ack, ack),
            (_, Some(linger)) => (Alarm::Linger, linger),
            (Some(ack), None) => (Alarm::Ack, ack),
        };
        let sleep = self
            .sleep
            .get_or_insert_with(|| Box::pin(clock.sleep(Duration::ZERO)));
        if sleep.deadline() != due {
            sleep.as_mut().reset(due);
        }
        sleep.as_mut().poll(cx).map(|()| {
            match alarm {
                Alarm::Ack => self.ack = None,
                Alarm::Linger => self.linger = None,
            }
            alarm
        })
    }
}
