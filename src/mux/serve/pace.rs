//! How fast a peer may make work: streams and calls begun, pings, frames.
//!
//! Owns one number per session: the time at which its work would be done, had each piece its share of a second. A peer that
//! is a second ahead is not read from until it is less; nothing of it is refused or lost. Never reads a clock.

use std::time::Duration;

use crate::clock::Instant;
use crate::mux::session::Load;

/// Streams that one session may open, and further calls that it may begin on open ones, in a second. Agents begin some
/// dozen a minute; the fastest client of a load test, with sixteen sessions, a few thousand.
pub const MAX_OPENS_PER_SECOND: u32 = 16_384;

/// yamux pings that one session may send in a second. Peers send one each 30 s.
pub const MAX_PINGS_PER_SECOND: u32 = 1_024;

/// Other frames that one session may send in a second, of whatever size, those of its transport included: sixteen for each
/// stream that it may open.
pub const MAX_FRAMES_PER_SECOND: u32 = 262_144;

/// Streams that one session may lose in a second because nobody reads their input: each costs a look at all the others.
pub const MAX_OVERFLOWS_PER_SECOND: u32 = 64;

/// How far a peer may be ahead: a second's worth at once. It has passed when the next chunk is read, so one chunk's work
/// comes on top.
pub const MAX_AHEAD: Duration = Duration::from_secs(1);

/// The work of one session.
#[derive(Debug, Default)]
pub(super) struct Pace {
    /// When the work would be done; `None` before there was any.
    done: Option<Instant>,
}

impl Pace {
    /// Takes note of work that has come.
    pub(super) fn charge(&mut self, load: Load, now: Instant) {
        let cost = share(load.opens, MAX_OPENS_PER_SECOND)
            + share(load.pings, MAX_PINGS_PER_SECOND)
            + share(load.frames, MAX_FRAMES_PER_SECOND);
        self.add(cost, now);
    }

    /// Takes note of a stream that was reset because nobody reads its input.
    pub(super) fn charge_overflow(&mut self, now: Instant) {
        self.add(share(1, MAX_OVERFLOWS_PER_SECOND), now);
    }

    fn add(&mut self, cost: Duration, now: Instant) {
        self.done = Some(self.done.map_or(now, |done| done.max(now)) + cost);
    }

    /// How long nothing more should be read; `None` while the peer is within its rate.
    pub(super) fn wait(&self, now: Instant) -> Option<Duration> {
        let ahead = self.done?.saturating_duration_since(now);
        ahead.checked_sub(MAX_AHEAD).filter(|wait| !wait.is_zero())
    }
}

/// The part of a second that `count` of `rate` may take.
fn share(count: u32, rate: u32) -> Duration {
    Duration::from_secs(count.into()) / rate
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;

    fn load(opens: u32, pings: u32, frames: u32) -> Load {
        Load { opens, pings, frames }
    }

    #[tokio::test(start_paused = true)]
    async fn a_second_of_each_passes_at_once_and_one_more_waits() {
        let now = Clock::system().monotonic();
        for (one, most) in [
            (load(1, 0, 0), MAX_OPENS_PER_SECOND),
            (load(0, 1, 0), MAX_PINGS_PER_SECOND),
            (load(0, 0, 1), MAX_FRAMES_PER_SECOND),
        ] {
            let times = |count| load(one.opens * count, one.pings * count, one.frames * count);
            for count in [most - 1, most] {
                let mut pace = Pace::default();
                pace.charge(times(count), now);
                assert_eq!(pace.wait(now), None, "{count}");
            }
            let mut pace = Pace::default();
            pace.charge(times(most + 1), now);
            assert_eq!(pace.wait(now), Some(Duration::from_secs(1) / most), "{most}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_second_of_streams_that_overflow_passes_and_one_more_waits() {
        let now = Clock::system().monotonic();
        let mut pace = Pace::default();
        for _ in 0..MAX_OVERFLOWS_PER_SECOND {
            assert_eq!(pace.wait(now), None);
            pace.charge_overflow(now);
        }
        assert_eq!(pace.wait(now), None);
        pace.charge_overflow(now);
        assert_eq!(
            pace.wait(now),
            Some(Duration::from_secs(1) / MAX_OVERFLOWS_PER_SECOND)
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_within_its_rate_never_waits_and_saves_nothing_up() {
        let clock = Clock::system();
        let mut pace = Pace::default();
        for _ in 0..100 {
            pace.charge(load(MAX_OPENS_PER_SECOND / 10, 0, 0), clock.monotonic());
            assert_eq!(pace.wait(clock.monotonic()), None);
            tokio::time::advance(Duration::from_millis(100)).await;
        }
        tokio::time::advance(Duration::from_hours(1)).await;
        pace.charge(load(MAX_OPENS_PER_SECOND * 3, 0, 0), clock.monotonic());
        assert_eq!(pace.wait(clock.monotonic()), Some(Duration::from_secs(2)));
        tokio::time::advance(Duration::from_secs(2)).await;
        assert_eq!(pace.wait(clock.monotonic()), None);
    }
}
