//! Time: the only source of wall time and of monotonic timers.
//!
//! Wall time is for what is stored and shown; monotonic time is for intervals and deadlines. Components take a
//! [`Clock`] and never ask the operating system themselves. Monotonic time is tokio's, so tests drive both with
//! tokio's paused clock: a driven clock's wall time follows it.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use jiff::{SignedDuration, civil};

pub use tokio::time::Instant;

/// A point in wall time: microseconds since 1970-01-01T00:00:00Z, the resolution at which everything is stored.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(i64);

const EPOCH: civil::DateTime = civil::date(1970, 1, 1).at(0, 0, 0, 0);
const MICROS_PER_SECOND: i64 = 1_000_000;
const NANOS_PER_MICRO: i64 = 1_000;

impl Timestamp {
    /// 0001-01-01T00:00:00Z, which stands for "never" in columns that cannot be NULL.
    pub const ZERO: Self = Self(-62_135_596_800 * MICROS_PER_SECOND);

    /// 1970-01-01T00:00:00Z, which is what an absent protobuf timestamp means.
    pub const UNIX_EPOCH: Self = Self(0);

    /// The end of year 9999, the last point that protobuf and RFC 3339 can carry.
    pub const MAX: Self = Self(253_402_300_799 * MICROS_PER_SECOND + 999_999);

    /// The point `micros` microseconds after 1970.
    pub const fn from_micros(micros: i64) -> Self {
        Self(micros)
    }

    /// Microseconds since 1970; negative before it.
    pub const fn as_micros(self) -> i64 {
        self.0
    }

    /// Converts a protobuf timestamp, rounding half up to microseconds.
    ///
    /// `None` when it lies outside protobuf's range (years 1 to 9999) or its nanoseconds are not 0..=999 999 999.
    pub fn from_proto(proto: &prost_types::Timestamp) -> Option<Self> {
        let in_range = (-62_135_596_800..=253_402_300_799).contains(&proto.seconds);
        if !in_range || !(0..1_000_000_000).contains(&proto.nanos) {
            return None;
        }
        let rounded = (i64::from(proto.nanos) + NANOS_PER_MICRO / 2) / NANOS_PER_MICRO;
        // Rounded up, the last half microsecond would be out of range.
        Some(Self(proto.seconds * MICROS_PER_SECOND + rounded).min(Self::MAX))
    }

    /// The point `duration` later, at most [`Timestamp::MAX`].
    #[must_use]
    pub fn saturating_add(self, duration: Duration) -> Self {
        let micros = i64::try_from(duration.as_micros()).unwrap_or(i64::MAX);
        Self(self.0.saturating_add(micros)).min(Self::MAX)
    }

    /// The point `duration` earlier, at least [`Timestamp::ZERO`].
    #[must_use]
    pub fn saturating_sub(self, duration: Duration) -> Self {
        let micros = i64::try_from(duration.as_micros()).unwrap_or(i64::MAX);
        Self(self.0.saturating_sub(micros)).max(Self::ZERO)
    }

    /// How long `earlier` was before this point; zero when it was not.
    pub fn saturating_since(self, earlier: Self) -> Duration {
        Duration::from_micros(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }
}

impl From<Timestamp> for prost_types::Timestamp {
    fn from(value: Timestamp) -> Self {
        let nanos = value.0.rem_euclid(MICROS_PER_SECOND) * NANOS_PER_MICRO;
        Self {
            seconds: value.0.div_euclid(MICROS_PER_SECOND),
            // Below one second's worth of nanoseconds, so it always fits.
            nanos: i32::try_from(nanos).unwrap_or_default(),
        }
    }
}

/// RFC 3339 in UTC with `Z`, at most six fractional digits.
impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // As a date, for jiff's timestamps end a day before the year 9999 does.
        match EPOCH.checked_add(SignedDuration::from_micros(self.0)) {
            Ok(date) => write!(f, "{date}Z"),
            Err(_) => write!(f, "{} µs", self.0),
        }
    }
}

impl fmt::Debug for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Wall and monotonic time. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Clock(Source);

#[derive(Clone, Debug)]
enum Source {
    /// Wall time of the operating system.
    System,
    Driven(Arc<Driven>),
}

/// Wall time that moves as tokio's clock does, and jumps when it is told to.
#[derive(Debug)]
struct Driven {
    wall: Timestamp,
    at: Instant,
    /// Microseconds of all jumps so far.
    jumped: AtomicI64,
}

impl Clock {
    /// The operating system's time.
    pub fn system() -> Self {
        Self(Source::System)
    }

    /// A clock whose wall time is `wall` now and advances only with tokio's clock, for tests that pause it.
    pub fn driven(wall: Timestamp) -> Self {
        Self(Source::Driven(Arc::new(Driven {
            wall,
            at: Instant::now(),
            jumped: AtomicI64::new(0),
        })))
    }

    /// Sets the wall time of a driven clock and of its clones forward by `micros`, or back, as an operator or NTP does;
    /// monotonic time goes on. The operating system's time is left alone.
    pub fn jump(&self, micros: i64) {
        if let Source::Driven(driven) = &self.0 {
            driven.jumped.fetch_add(micros, Ordering::Relaxed);
        }
    }

    /// Wall time now, rounded half up to microseconds.
    pub fn now(&self) -> Timestamp {
        match &self.0 {
            Source::System => system_now(),
            Source::Driven(driven) => {
                let steady = driven.wall.saturating_add(driven.at.elapsed());
                Timestamp(steady.0.saturating_add(driven.jumped.load(Ordering::Relaxed)))
            }
        }
    }

    /// Monotonic time now.
    pub fn monotonic(&self) -> Instant {
        Instant::now()
    }

    /// Completes `duration` from now.
    pub fn sleep(&self, duration: Duration) -> tokio::time::Sleep {
        tokio::time::sleep(duration)
    }

    /// Ticks every `period`, first after one `period`; late ticks are not made up for.
    ///
    /// # Panics
    /// When `period` is zero.
    pub fn interval(&self, period: Duration) -> tokio::time::Interval {
        let mut interval = tokio::time::interval_at(Instant::now() + period, period);
        interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        interval
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "the one place that reads the system's wall clock"
)]
fn system_now() -> Timestamp {
    let nanos = |duration: Duration| i128::try_from(duration.as_nanos()).unwrap_or(i128::MAX);
    let since_epoch = match std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH) {
        Ok(after) => nanos(after),
        Err(before) => -nanos(before.duration()),
    };
    let micros = (since_epoch + 500).div_euclid(1_000);
    Timestamp(i64::try_from(micros).unwrap_or(Timestamp::MAX.0))
}

/// What tests of others need whose time stands still.
#[cfg(test)]
pub(crate) mod testing {
    use std::sync::mpsc;
    use std::time::Duration;

    /// Longer than anything takes; only a failing test waits that long.
    const PATIENCE: Duration = Duration::from_secs(60);

    /// Lets every task run until it waits for time or for what this one does next.
    pub(crate) async fn settle() {
        for _ in 0..1_000 {
            tokio::task::yield_now().await;
        }
    }

    /// Runs a test whose time stands still unless it is moved, whatever real work takes.
    pub(crate) async fn driven<T>(test: impl Future<Output = T>) -> T {
        tokio::time::pause();
        let (_running, ended) = mpsc::channel::<()>();
        // Time does not move by itself while a blocking task runs; this one also ends a test that hangs.
        let watchdog = tokio::task::spawn_blocking(move || ended.recv_timeout(PATIENCE));
        tokio::select! {
            result = test => result,
            _ = watchdog => panic!("the test hangs"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn protobuf_time_is_rounded_half_up_to_microseconds() {
        for (nanos, micros) in [
            (0, 0),
            (499, 0),
            (500, 1),
            (999, 1),
            (1_499, 1),
            (1_500, 2),
            (999_999_500, 1_000_000),
        ] {
            let proto = prost_types::Timestamp { seconds: 0, nanos };
            assert_eq!(
                Timestamp::from_proto(&proto),
                Some(Timestamp::from_micros(micros)),
                "{nanos} ns"
            );
        }
    }

    #[test]
    fn protobuf_time_out_of_range_is_refused() {
        for (seconds, nanos) in [
            (-62_135_596_801, 0),
            (253_402_300_800, 0),
            (0, -1),
            (0, 1_000_000_000),
        ] {
            assert_eq!(
                Timestamp::from_proto(&prost_types::Timestamp { seconds, nanos }),
                None
            );
        }
        let first = prost_types::Timestamp {
            seconds: -62_135_596_800,
            nanos: 0,
        };
        assert_eq!(Timestamp::from_proto(&first), Some(Timestamp::ZERO));
        // It is rounded up to no more than the end.
        let last = prost_types::Timestamp {
            seconds: 253_402_300_799,
            nanos: 999_999_999,
        };
        assert_eq!(Timestamp::from_proto(&last), Some(Timestamp::MAX));
    }

    #[test]
    fn time_before_1970_survives_the_way_to_protobuf_and_back() {
        let before = Timestamp::from_micros(-1);
        let proto = prost_types::Timestamp::from(before);
        assert_eq!((proto.seconds, proto.nanos), (-1, 999_999_000));
        assert_eq!(Timestamp::from_proto(&proto), Some(before));
    }

    #[test]
    fn text_form_is_rfc_3339_in_utc() {
        assert_eq!(Timestamp::ZERO.to_string(), "0001-01-01T00:00:00Z");
        assert_eq!(
            Timestamp::from_micros(1_500_000).to_string(),
            "1970-01-01T00:00:01.5Z"
        );
        assert_eq!(
            Timestamp::from_micros(-1).to_string(),
            "1969-12-31T23:59:59.999999Z"
        );
        assert_eq!(Timestamp::MAX.to_string(), "9999-12-31T23:59:59.999999Z");
    }

    #[tokio::test(start_paused = true)]
    async fn a_driven_clock_follows_tokio() {
        let clock = Clock::driven(Timestamp::UNIX_EPOCH);
        tokio::time::advance(Duration::from_secs(15)).await;
        assert_eq!(clock.now(), Timestamp::from_micros(15_000_000));
        let before = clock.monotonic();
        clock.clone().jump(-20_000_000);
        assert_eq!(clock.now(), Timestamp::from_micros(-5_000_000));
        assert_eq!(clock.monotonic(), before);
    }
}
