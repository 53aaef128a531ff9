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
    /// The peer has been kept waiting for long enough.
    Pace,
}

#[derive(Debug, Default)]
pub(super) struct Timer {
    ack: Option<Instant>,
    linger: Option<Instant>,
    pace: Option<Instant>,
    sleep: Option<Pin<Box<Sleep>>>,
}

impl Timer {
    /// Sets an alarm, unless it is set.
    pub(super) fn arm(&mut self, alarm: Alarm, clock: &Clock, after: Duration) {
        let due = self.due(alarm);
        if due.is_none() {
            *due = Some(clock.monotonic() + after);
        }
    }

    /// Whether an alarm is set.
    pub(super) fn is_set(&self, alarm: Alarm) -> bool {
        match alarm {
            Alarm::Ack => self.ack,
            Alarm::Linger => self.linger,
            Alarm::Pace => self.pace,
        }
        .is_some()
    }

    /// Waits for the next alarm, which is then no longer set.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>, clock: &Clock) -> Poll<Alarm> {
        let alarms = [
            (self.ack, Alarm::Ack),
            (self.linger, Alarm::Linger),
            (self.pace, Alarm::Pace),
        ];
        let set = alarms.into_iter().filter_map(|(due, alarm)| Some((due?, alarm)));
        let Some((due, alarm)) = set.min_by_key(|(due, _)| *due) else {
            self.sleep = None;
            return Poll::Pending;
        };
        let sleep = self
            .sleep
            .get_or_insert_with(|| Box::pin(clock.sleep(Duration::ZERO)));
        if sleep.deadline() != due {
            sleep.as_mut().reset(due);
        }
        sleep.as_mut().poll(cx).map(|()| {
            *self.due(alarm) = None;
            alarm
        })
    }

    fn due(&mut self, alarm: Alarm) -> &mut Option<Instant> {
        match alarm {
            Alarm::Ack => &mut self.ack,
            Alarm::Linger => &mut self.linger,
            Alarm::Pace => &mut self.pace,
        }
    }
}
