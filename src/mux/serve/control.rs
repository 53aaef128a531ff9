//! The handle by which the rest of the server watches and ends a session.

use std::borrow::Cow;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use super::buffers::{Bounds, Buffers};
use super::pace::Pace;
use crate::clock::{Clock, Instant};
use crate::mux::wakeup::Wakeup;

/// A session, seen from outside. Cheap to clone; outlives the session without harm.
#[derive(Clone, Debug)]
pub struct Control(Arc<Shared>);

/// Who wants a session to end, and so what its peer is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloseCause {
    /// This session is to end: close 1000, as the original's monitor does it.
    Requested,
    /// The server goes away: close 1001.
    Draining,
}

/// What a session's task, its calls and its observers share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) wakeup: Wakeup,
    /// Bytes that calls have written and the session has not yet taken.
    pub(super) queued: AtomicUsize,
    /// The account of all sessions.
    pub(super) buffers: Buffers,
    /// Of all sessions of its peer.
    pub(super) pace: Pace,
    close: OnceLock<(CloseCause, Cow<'static, str>)>,
    ping: AtomicBool,
    since: Instant,
    /// Milliseconds after `since`.
    last_received: AtomicU64,
    /// What `last_received` was when the peer was last asked for a sign of life; [`NEVER`] before.
    asked: AtomicU64,
}

/// A time that does not come.
const NEVER: u64 = u64::MAX;

impl Control {
    /// A handle for a session that is about to be served and whose bounds depend on no other.
    pub fn new(clock: &Clock) -> Self {
        Self::within(Buffers::new(usize::MAX), Pace::default(), clock)
    }

    /// A handle for a session that is about to be served, whose buffers count among those of others, and its work with that of
    /// its peer's others.
    pub fn within(buffers: Buffers, pace: Pace, clock: &Clock) -> Self {
        Self(Arc::new(Shared {
            wakeup: Wakeup::default(),
            queued: AtomicUsize::new(0),
            buffers,
            pace,
            close: OnceLock::new(),
            ping: AtomicBool::new(false),
            since: clock.monotonic(),
            last_received: AtomicU64::new(0),
            asked: AtomicU64::new(NEVER),
        }))
    }

    /// Ends the session. The first call wins; later ones change nothing.
    ///
    /// `reason` is for this side: peers are told no reason, as in the original.
    pub fn close(&self, cause: CloseCause, reason: impl Into<Cow<'static, str>>) {
        if self.0.close.set((cause, reason.into())).is_ok() {
            self.0.wakeup.poke();
        }
    }

    /// When the peer was last heard of, pongs included; when the handle was made, before that. To the millisecond.
    pub fn last_received(&self) -> Instant {
        self.0.since + Duration::from_millis(self.0.last_received.load(Ordering::Relaxed))
    }

    /// Asks the peer for a sign of life, which [`Control::last_received`] will show.
    pub fn ping(&self) {
        let last_received = self.0.last_received.load(Ordering::Relaxed);
        self.0.asked.store(last_received, Ordering::Relaxed);
        self.0.ping.store(true, Ordering::Relaxed);
        self.0.wakeup.poke();
    }

    /// Whether the peer was asked for a sign of life and has given none since.
    pub fn is_asked(&self) -> bool {
        self.0.asked.load(Ordering::Relaxed) == self.0.last_received.load(Ordering::Relaxed)
    }

    pub(super) fn shared(&self) -> &Arc<Shared> {
        &self.0
    }
}

impl Shared {
    pub(super) fn received(&self, now: Instant) {
        let millis = now.saturating_duration_since(self.since).as_millis();
        self.last_received
            .store(u64::try_from(millis).unwrap_or(NEVER - 1), Ordering::Relaxed);
    }

    /// What the session may buffer now.
    pub(super) fn bounds(&self) -> &'static Bounds {
        self.buffers.bounds(self.pace.is_shared())
    }

    /// Whether so much output is queued that nothing should be added.
    pub(super) fn is_full(&self) -> bool {
        self.queued.load(Ordering::Relaxed) >= self.bounds().begin
    }

    /// Whether so much output is queued that not even replies can be added.
    pub(super) fn is_overfull(&self) -> bool {
        self.queued.load(Ordering::Relaxed) >= self.bounds().send
    }

    pub(super) fn close_requested(&self) -> Option<&(CloseCause, Cow<'static, str>)> {
        self.close.get()
    }

    pub(super) fn ping_requested(&self) -> bool {
        self.ping.load(Ordering::Relaxed)
    }

    pub(super) fn pinged(&self) {
        self.ping.store(false, Ordering::Relaxed);
    }
}

/// What tests of the control's users do in a session's stead.
#[cfg(test)]
impl Control {
    pub(crate) fn hear(&self, clock: &Clock) {
        self.0.received(clock.monotonic());
    }

    pub(crate) fn wants_ping(&self) -> bool {
        self.0.ping_requested()
    }

    pub(crate) fn answered_ping(&self) {
        self.0.pinged();
    }

    pub(crate) fn requested_close(&self) -> Option<(CloseCause, String)> {
        self.0
            .close_requested()
            .map(|(cause, reason)| (*cause, reason.to_string()))
    }
}
