//! When a workspace starts by itself next, from the text of its schedule.
//!
//! Owns the form of schedules: `[CRON_TZ=zone] minute hour * * weekday`, in UTC without a zone. Must never know what a
//! template allows; the store does. The form and its rules are those of coder/coder `coderd/schedule/cron/cron.go`
//! (`Weekly`) and the parser behind it (robfig/cron v3 `parser.go`, `spec.go`): weekdays are 0 (Sunday) to 6, an hour
//! that the clocks skip is left out, one that they repeat counts twice.

use std::ops::RangeInclusive;

use jiff::civil::DateTime;
use jiff::tz::TimeZone;

use crate::clock::Timestamp;
use crate::store::Autostart;

const MICROS_PER_MINUTE: i64 = 60_000_000;

/// How far ahead a schedule is followed. A weekly one comes within 7 days, or 14 when the clocks skip its hour.
const HORIZON_MINUTES: i64 = 15 * 24 * 60;

const ZONE_PREFIX: &str = "CRON_TZ=";

const WEEKDAYS: [&str; 7] = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"];

/// The first time after `now` that `schedule` names. `None` for a text that is no weekly schedule, and for one that
/// never comes.
pub(super) fn next(schedule: &str, now: Timestamp) -> Option<Autostart> {
    Weekly::parse(schedule)?.next(now)
}

/// A schedule that repeats every week. Bit n stands for minute, hour or weekday n.
#[derive(Debug)]
struct Weekly {
    minutes: u64,
    hours: u64,
    weekdays: u64,
    zone: TimeZone,
}

impl Weekly {
    fn parse(text: &str) -> Option<Self> {
        let (zone, fields) = match text.strip_prefix(ZONE_PREFIX) {
            Some(rest) => rest.split_once(' ')?,
            None => ("UTC", text),
        };
        let zone = match zone {
            "" => TimeZone::UTC,
            name => TimeZone::get(name).ok()?,
        };
        let mut fields = fields.split_whitespace();
        let (minutes, hours) = (fields.next()?, fields.next()?);
        let (day, month, weekdays) = (fields.next()?, fields.next()?, fields.next()?);
        if fields.next().is_some() || day != "*" || month != "*" {
            return None;
        }
        Some(Self {
            minutes: bits(minutes, 0..=59, &[])?,
            hours: bits(hours, 0..=23, &[])?,
            weekdays: bits(weekdays, 0..=6, &WEEKDAYS)?,
            zone,
        })
    }

    fn next(&self, now: Timestamp) -> Option<Autostart> {
        let mut minute = now.as_micros().div_euclid(MICROS_PER_MINUTE) + 1;
        let end = minute + HORIZON_MINUTES;
        while minute < end {
            let at = Timestamp::from_micros(minute * MICROS_PER_MINUTE);
            let local = self.local(at)?;
            if !has(self.weekdays, local.weekday().to_sunday_zero_offset()) || !has(self.hours, local.hour())
            {
                minute += 60 - i64::from(local.minute());
            } else if has(self.minutes, local.minute()) {
                let weekday = local.weekday().to_monday_zero_offset().unsigned_abs();
                return Some(Autostart { at, weekday });
            } else {
                minute += 1;
            }
        }
        None
    }

    fn local(&self, at: Timestamp) -> Option<DateTime> {
        let at = jiff::Timestamp::from_microsecond(at.as_micros()).ok()?;
        Some(self.zone.to_datetime(at))
    }
}

fn has(bits: u64, number: i8) -> bool {
    bits >> number & 1 == 1
}

/// The numbers that a field lists, as bits: `*`, `5`, `1-5`, `mon-fri`, each with or without `/step`, joined by commas.
fn bits(field: &str, allowed: RangeInclusive<u32>, names: &[&str]) -> Option<u64> {
    let mut bits = 0;
    for part in field.split(',').filter(|part| !part.is_empty()) {
        for number in numbers(part, &allowed, names)? {
            bits |= 1 << number;
        }
    }
    Some(bits)
}

fn numbers(
    part: &str,
    allowed: &RangeInclusive<u32>,
    names: &[&str],
) -> Option<impl Iterator<Item = u32> + use<>> {
    let (range, step) = match part.split_once('/') {
        Some((range, step)) => (range, Some(step.parse::<usize>().ok().filter(|&step| step > 0)?)),
        None => (part, None),
    };
    let number = |text: &str| match names.iter().position(|name| name.eq_ignore_ascii_case(text)) {
        Some(position) => u32::try_from(position).ok(),
        None => text.parse().ok(),
    };
    let (low, high) = match range.split_once('-') {
        Some(("*" | "?", _)) => (*allowed.start(), *allowed.end()),
        Some((low, high)) => (number(low)?, number(high)?),
        None if matches!(range, "*" | "?") => (*allowed.start(), *allowed.end()),
        None => {
            let low = number(range)?;
            // `5/10` is from 5 on.
            (low, if step.is_some() { *allowed.end() } else { low })
        }
    };
    if low > high || !allowed.contains(&low) || !allowed.contains(&high) {
        return None;
    }
    Some((low..=high).step_by(step.unwrap_or(1)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn time(text: &str) -> Timestamp {
        Timestamp::from_micros(text.parse::<jiff::Timestamp>().unwrap().as_microsecond())
    }

    /// The times that `schedule` names after `now`, in turn.
    fn following(schedule: &str, now: &str, count: usize) -> Vec<String> {
        let mut now = time(now);
        let mut times = Vec::new();
        while times.len() < count {
            now = next(schedule, now).unwrap().at;
            times.push(now.to_string());
        }
        times
    }

    fn first(schedule: &str, now: &str) -> String {
        following(schedule, now, 1).remove(0)
    }

    #[test]
    fn a_schedule_without_a_zone_is_in_utc() {
        // A Friday.
        let now = "2026-03-20T12:00:00Z";
        assert_eq!(first("30 9 * * 1-5", now), "2026-03-23T09:30:00Z");
        assert_eq!(first("30 13 * * *", now), "2026-03-20T13:30:00Z");
        assert_eq!(first("CRON_TZ= 30 13 * * *", now), "2026-03-20T13:30:00Z");
    }

    #[test]
    fn s1_021_eight_in_sydney_is_half_an_hour_after_half_past_seven_there() {
        let now = "2026-03-19T20:30:00Z";
        let next = first("CRON_TZ=Australia/Sydney 0 8 * * *", now);
        assert_eq!(next, "2026-03-19T21:00:00Z");
    }

    #[test]
    fn the_next_time_is_later_than_now() {
        let schedule = "0 12 * * *";
        assert_eq!(
            first(schedule, "2026-03-20T11:59:59.999999Z"),
            "2026-03-20T12:00:00Z"
        );
        assert_eq!(first(schedule, "2026-03-20T12:00:00Z"), "2026-03-21T12:00:00Z");
        assert_eq!(
            first(schedule, "2026-03-20T12:00:00.000001Z"),
            "2026-03-21T12:00:00Z"
        );
    }

    #[test]
    fn the_day_of_the_week_is_that_of_the_zone() {
        // Saturday 08:00 in Sydney is Friday in UTC.
        let next = next(
            "CRON_TZ=Australia/Sydney 0 8 * * sat",
            time("2026-03-20T12:00:00Z"),
        )
        .unwrap();
        assert_eq!((next.at, next.weekday), (time("2026-03-20T21:00:00Z"), 5));
        for (day, weekday) in [("mon", 0), ("0", 6), ("SUN", 6)] {
            let next = super::next(&format!("0 8 * * {day}"), time("2026-03-20T12:00:00Z")).unwrap();
            assert_eq!(next.weekday, weekday, "{day}");
        }
    }

    #[test]
    fn an_hour_that_the_clocks_skip_is_left_out_and_one_that_they_repeat_counts_twice() {
        // Berlin skips 02:00 to 03:00 on 2026-03-29 and repeats it on 2026-10-25.
        let skipped = following("CRON_TZ=Europe/Berlin 30 2 * * *", "2026-03-27T12:00:00Z", 2);
        assert_eq!(skipped, ["2026-03-28T01:30:00Z", "2026-03-30T00:30:00Z"]);
        let weekly = first("CRON_TZ=Europe/Berlin 30 2 * * 0", "2026-03-22T12:00:00Z");
        assert_eq!(weekly, "2026-04-05T00:30:00Z");
        let repeated = following("CRON_TZ=Europe/Berlin 30 2 * * *", "2026-10-24T12:00:00Z", 2);
        assert_eq!(repeated, ["2026-10-25T00:30:00Z", "2026-10-25T01:30:00Z"]);
    }

    #[test]
    fn zones_off_the_hour_are_followed() {
        let next = first("CRON_TZ=Asia/Kathmandu 0 8 * * *", "2026-03-20T12:00:00Z");
        assert_eq!(next, "2026-03-21T02:15:00Z");
    }

    #[test]
    fn fields_are_lists_of_ranges_with_steps() {
        let listed = |field, allowed, names: &[&str]| {
            let bits: Option<u64> = bits(field, allowed, names);
            bits.map(|bits| (0..64).filter(|bit| bits >> bit & 1 == 1).collect::<Vec<_>>())
        };
        for (field, numbers) in [
            ("*", vec![0, 1, 2, 3, 4, 5, 6]),
            ("?", vec![0, 1, 2, 3, 4, 5, 6]),
            ("*/3", vec![0, 3, 6]),
            ("2/2", vec![2, 4, 6]),
            ("1-5/2", vec![1, 3, 5]),
            ("Mon-fri,0", vec![0, 1, 2, 3, 4, 5]),
            (",2,", vec![2]),
        ] {
            assert_eq!(listed(field, 0..=6, &WEEKDAYS), Some(numbers), "{field}");
        }
        for field in [
            "7", "0-7", "5-1", "1-2-3", "*/0", "1/2/3", "-1", "x", "1-", "/2", "monday",
        ] {
            assert_eq!(listed(field, 0..=6, &WEEKDAYS), None, "{field}");
        }
        assert_eq!(listed("mon", 0..=23, &[]), None);
    }

    #[test]
    fn other_texts_have_no_next_time() {
        for text in [
            "",
            "0 8 * *",
            "0 8 * * * *",
            "0 8 1 * *",
            "0 8 * 1 *",
            "60 8 * * *",
            "0 24 * * *",
            "@daily",
            "TZ=Europe/Berlin 0 8 * * *",
            "CRON_TZ=Nowhere/Else 0 8 * * *",
            "CRON_TZ=Europe/Berlin",
            // Lists nothing, so it never comes.
            ", 8 * * *",
        ] {
            assert_eq!(next(text, time("2026-03-20T12:00:00Z")), None, "{text:?}");
        }
    }

    #[test]
    fn the_ends_of_time_are_no_trouble() {
        assert_eq!(next("0 8 * * *", Timestamp::MAX), None);
        assert_eq!(first("0 8 * * *", "0001-01-01T00:00:00Z"), "0001-01-01T08:00:00Z");
    }
}
