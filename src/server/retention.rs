//! Removes what is old, hourly and in small steps.
//!
//! Owns how old a row is. Must never remove one early because the wall clock has jumped.

use std::sync::Arc;
use std::time::Duration;

use crate::clock::{Clock, Instant, Timestamp};
use crate::store::{Expired, Store};

/// How often rows are looked at.
const INTERVAL: Duration = Duration::from_hours(1);

/// Pause between two steps, in which others write.
const PAUSE: Duration = Duration::from_millis(100);

/// How far the wall clock may get ahead of monotonic time between two ticks without having jumped. NTP slews by at most
/// two seconds an hour.
const MAX_DRIFT: Duration = Duration::from_secs(10);

/// Wall time that does not follow a jump forward until everything is old that was dated before the jump.
#[derive(Debug)]
struct Cautious {
    /// What is taken as the time: this wall time, and monotonic time since.
    base: Point,
    /// What the clocks were at the last look.
    seen: Point,
    /// When the last jump forward was seen, while one is not followed.
    jumped: Option<Instant>,
}

#[derive(Clone, Copy, Debug)]
struct Point {
    wall: Timestamp,
    at: Instant,
}

impl Point {
    fn now(clock: &Clock) -> Self {
        Self {
            wall: clock.now(),
            at: clock.monotonic(),
        }
    }

    /// The wall time of a later look, had the clock not jumped.
    fn at(self, later: Instant) -> Timestamp {
        self.wall.saturating_add(later.saturating_duration_since(self.at))
    }

    /// Whether the wall clock is further ahead of what it was at `earlier` than it may have got by drifting.
    fn is_ahead_of(self, earlier: Self) -> bool {
        self.wall > earlier.at(self.at).saturating_add(MAX_DRIFT)
    }
}

impl Cautious {
    fn new(clock: &Clock) -> Self {
        let now = Point::now(clock);
        Self {
            base: now,
            seen: now,
            jumped: None,
        }
    }

    /// The time now, for rows that are kept for `keep`.
    fn now(&mut self, clock: &Clock, keep: Duration) -> Timestamp {
        let now = Point::now(clock);
        if now.is_ahead_of(self.seen) {
            tracing::warn!(wall = %now.wall, expected = %self.seen.at(now.at), "the clock has jumped forward: old rows are kept for longer");
            self.jumped = Some(now.at);
        }
        self.seen = now;
        let recent = |jumped: Instant| now.at.saturating_duration_since(jumped) < keep;
        if now.is_ahead_of(self.base) && self.jumped.is_some_and(recent) {
            return self.base.at(now.at);
        }
        self.base = now;
        self.jumped = None;
        now.wall
    }
}

/// Removes for as long as it is polled; never returns. `keep` of zero keeps everything.
pub(super) async fn run(store: Arc<dyn Store>, clock: Clock, keep: Duration) {
    if keep.is_zero() {
        return std::future::pending().await;
    }
    let mut time = Cautious::new(&clock);
    let mut ticks = clock.interval(INTERVAL);
    loop {
        ticks.tick().await;
        let before = time.now(&clock, keep).saturating_sub(keep);
        for what in Expired::ALL {
            loop {
                match store.purge(what, before).await {
                    Ok(true) => clock.sleep(PAUSE).await,
                    Ok(false) => break,
                    Err(error) => {
                        tracing::warn!(%error, ?what, "failed to remove old rows");
                        break;
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::testing::{NOW, RecordingStore};

    #[tokio::test(start_paused = true)]
    async fn rows_are_looked_at_hourly_and_never_when_they_stay_for_ever() {
        let store = Arc::new(RecordingStore::default());
        for (keep, expected) in [(Duration::ZERO, 0), (Duration::from_hours(168), 6)] {
            let dyn_store: Arc<dyn Store> = store.clone();
            let task = tokio::spawn(run(dyn_store, Clock::driven(NOW), keep));
            tokio::time::sleep(Duration::from_mins(121)).await;
            assert_eq!(store.attempts(), expected);
            task.abort();
        }
    }

    /// What is taken as the time, in hours since the start, hour by hour while the wall clock jumps.
    async fn hours(jumps: &[i64], keep: Duration) -> Vec<i64> {
        const HOUR: i64 = 3_600_000_000;
        let clock = Clock::driven(NOW);
        let mut time = Cautious::new(&clock);
        let mut hours = Vec::new();
        for jump in jumps {
            clock.jump(jump * HOUR);
            tokio::time::advance(INTERVAL).await;
            let micros = time.now(&clock, keep).as_micros() - NOW.as_micros();
            hours.push((micros + HOUR / 2).div_euclid(HOUR));
        }
        hours
    }

    #[tokio::test(start_paused = true)]
    async fn a_clock_that_jumps_forward_is_believed_when_all_rows_from_before_are_old() {
        let keep = Duration::from_hours(3);
        let day = [0, 24, 0, 0, 0, 0];
        assert_eq!(hours(&day, keep).await, [1, 2, 3, 4, 29, 30]);
        let hour_and_back = [0, 1, 0, -1, 0];
        assert_eq!(hours(&hour_and_back, keep).await, [1, 2, 3, 4, 5]);
        let forward_twice = [1, 0, 24, 0, 0, 0];
        assert_eq!(hours(&forward_twice, keep).await, [1, 2, 3, 4, 5, 31]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_clock_that_goes_back_keeps_rows_for_longer() {
        let keep = Duration::from_hours(3);
        let back = [0, -24, 0, 24, 0, 0, 0];
        assert_eq!(hours(&back, keep).await, [1, -22, -21, -20, -19, -18, 7]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_clock_that_drifts_is_followed() {
        let clock = Clock::driven(NOW);
        let mut time = Cautious::new(&clock);
        for _ in 0..100 {
            clock.jump(2_000_000);
            tokio::time::advance(INTERVAL).await;
            assert_eq!(time.now(&clock, Duration::from_hours(1)), clock.now());
        }
    }
}
