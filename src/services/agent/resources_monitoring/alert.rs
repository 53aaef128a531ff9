//! When a resource is scarce: from samples to a state, and from two states to an alert.
//!
//! Arithmetic alone: no rows, no clock. The rules, and the order of operations, which rounding makes visible, are those
//! of coder/coder `coderd/agentapi/resourcesmonitor/resources_monitor.go`.

use std::time::Duration;

use crate::clock::Timestamp;
use crate::store::MonitorState;

/// How long a user is left alone after an alert.
const DEBOUNCE: Duration = Duration::from_mins(30);

/// How many samples of a report must be high for an alert, in percent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AlertLimits {
    /// Of all in one run.
    pub consecutive: u8,
    /// Of all.
    pub minimum: u8,
}

impl Default for AlertLimits {
    fn default() -> Self {
        Self {
            consecutive: 50,
            minimum: 20,
        }
    }
}

/// What one sample says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Level {
    Low,
    High,
    /// The sample does not have this resource.
    Unknown,
}

impl Level {
    /// The level of `used` of `total`, if they were measured, against a threshold in percent.
    pub(super) fn of(sample: Option<(i64, i64)>, threshold: i32) -> Self {
        match sample {
            None => Self::Unknown,
            Some((used, total)) if percent(used, total) < threshold => Self::Low,
            Some(_) => Self::High,
        }
    }
}

/// Truncated, after dividing first. What does not fit is the least number, as on amd64; so nothing of nothing is low.
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    reason = "the original's conversions, whose losses are part of the rule; the range is checked"
)]
fn percent(used: i64, total: i64) -> i32 {
    let percent = used as f64 / total as f64 * 100.0;
    if percent > f64::from(i32::MIN) - 1.0 && percent < f64::from(i32::MAX) + 1.0 {
        percent as i32
    } else {
        i32::MIN
    }
}

/// The samples of one report, counted.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Tally {
    all: u64,
    low: u64,
    high: u64,
    run: u64,
    longest_run: u64,
}

impl Tally {
    pub(super) fn count(&mut self, level: Level) {
        self.all += 1;
        match level {
            Level::High => {
                self.high += 1;
                self.run += 1;
                self.longest_run = self.longest_run.max(self.run);
            }
            Level::Low => {
                self.low += 1;
                self.run = 0;
            }
            Level::Unknown => self.run = 0,
        }
    }

    /// The state that the samples lead to; `None` leaves what it was. No samples at all are low.
    pub(super) fn state(&self, limits: AlertLimits) -> Option<MonitorState> {
        if self.reaches(self.longest_run, limits.consecutive) || self.reaches(self.high, limits.minimum) {
            Some(MonitorState::Nok)
        } else {
            (self.low == self.all).then_some(MonitorState::Ok)
        }
    }

    /// Whether `part` of all, rounded half away from zero to a percent, is at least `limit`.
    #[expect(clippy::cast_precision_loss, reason = "a request holds far fewer samples")]
    fn reaches(&self, part: u64, limit: u8) -> bool {
        // Without samples this is not a number, which reaches nothing.
        ((part * 100) as f64 / self.all as f64).round() >= f64::from(limit)
    }
}

/// Where a monitor is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Alert {
    pub(super) state: MonitorState,
    /// No alert until then.
    pub(super) debounced_until: Timestamp,
}

impl Alert {
    /// Where it is after a report, and whether its user is to be told.
    pub(super) fn after(self, reported: Option<MonitorState>, now: Timestamp) -> (Self, bool) {
        let state = reported.unwrap_or(self.state);
        let rises = (self.state, state) == (MonitorState::Ok, MonitorState::Nok);
        let tell = rises && now > self.debounced_until;
        let debounced_until = if tell {
            now.saturating_add(DEBOUNCE)
        } else {
            self.debounced_until
        };
        let after = Self {
            state,
            debounced_until,
        };
        (after, tell)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn s2_021_percent_is_truncated_after_dividing_first() {
        for (used, total, expected) in [
            (29, 100, 28),
            (57, 100, 56),
            (58, 100, 57),
            (70, 100, 70),
            (7_999, 10_000, 79),
            (8, 10, 80),
            (-1, 200, 0),
        ] {
            assert_eq!(percent(used, total), expected, "{used} of {total}");
        }
        assert_eq!(Level::of(Some((8, 10)), 80), Level::High, "equal counts");
        assert_eq!(Level::of(Some((7_999, 10_000)), 80), Level::Low);
        assert_eq!(Level::of(Some((29, 100)), 29), Level::Low);
    }

    #[test]
    fn s2_022_what_cannot_be_a_percentage_is_low() {
        for (used, total) in [(0, 0), (5, 0), (-5, 0), (i64::MAX, 1), (i64::MIN, 1)] {
            assert_eq!(percent(used, total), i32::MIN, "{used} of {total}");
        }
    }

    fn tally(high: usize, unknown: usize, all: usize) -> Tally {
        let mut tally = Tally::default();
        for index in 0..all {
            tally.count(match index {
                index if index < high => Level::High,
                index if index < high + unknown => Level::Unknown,
                _ => Level::Low,
            });
        }
        tally
    }

    #[test]
    fn s2_020_a_fifth_of_the_samples_is_an_alert() {
        let limits = AlertLimits::default();
        for (high, all, expected) in [
            (3, 20, None),
            (4, 20, Some(MonitorState::Nok)),
            (3, 17, None),
            (4, 17, Some(MonitorState::Nok)),
        ] {
            assert_eq!(tally(high, 0, all).state(limits), expected, "{high} of {all}");
        }
    }

    #[test]
    fn shares_are_rounded_half_away_from_zero() {
        let limits = AlertLimits {
            consecutive: 100,
            minimum: 13,
        };
        // 12.5 and 12.4 percent.
        assert_eq!(tally(1, 0, 8).state(limits), Some(MonitorState::Nok));
        assert_eq!(tally(31, 0, 250).state(limits), None);
    }

    #[test]
    fn an_unknown_sample_breaks_a_run() {
        let limits = AlertLimits {
            consecutive: 50,
            minimum: 100,
        };
        let mut broken = tally(2, 1, 3);
        broken.count(Level::High);
        broken.count(Level::Low);
        assert_eq!(broken.state(limits), None, "runs of two and one of five");
        assert_eq!(tally(3, 0, 5).state(limits), Some(MonitorState::Nok));
    }

    #[test]
    fn s2_023_an_alert_comes_strictly_after_the_debounce() {
        let now = Timestamp::from_micros(1_000_000);
        let alert = |debounced_until| Alert {
            state: MonitorState::Ok,
            debounced_until,
        };
        let (after, tell) = alert(now).after(Some(MonitorState::Nok), now);
        assert!(!tell && after.state == MonitorState::Nok && after.debounced_until == now);
        let (after, tell) = alert(Timestamp::from_micros(999_999)).after(Some(MonitorState::Nok), now);
        assert!(tell && after.debounced_until == now.saturating_add(DEBOUNCE));
    }
}
