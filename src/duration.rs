//! Durations as Go writes them, which is how the original's settings are written.

use std::time::Duration;

/// A text is not a duration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid duration {0:?}: write it like 30s, 1h30m or 500ms")]
pub struct InvalidDuration(String);

/// The longest duration of Go, in nanoseconds: about 292 years.
const MAX_NANOS: u64 = i64::MAX.unsigned_abs();

/// Nanoseconds of each unit, longer names first.
const UNITS: [(&str, u64); 8] = [
    ("ns", 1),
    ("us", 1_000),
    ("µs", 1_000),
    ("μs", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60_000_000_000),
    ("h", 3_600_000_000_000),
];

/// Reads a Go duration (`time.ParseDuration`), such as `1h30m`, `1.5s` or `0`. None of ours may be negative.
pub fn parse_go_duration(text: &str) -> Result<Duration, InvalidDuration> {
    let invalid = || InvalidDuration(text.to_owned());
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    if rest.is_empty() {
        return Err(invalid());
    }
    let mut nanos = 0_u64;
    while !rest.is_empty() {
        let end = rest
            .find(|character: char| !character.is_ascii_digit() && character != '.')
            .ok_or_else(invalid)?;
        let (number, tail) = rest.split_at(end);
        let (name, unit) = UNITS
            .iter()
            .filter(|(name, _)| tail.starts_with(name))
            .max_by_key(|(name, _)| name.len())
            .ok_or_else(invalid)?;
        nanos = part(number, *unit)
            .and_then(|part| nanos.checked_add(part))
            .filter(|nanos| *nanos <= MAX_NANOS)
            .ok_or_else(invalid)?;
        rest = &tail[name.len()..];
    }
    Ok(Duration::from_nanos(nanos))
}

/// `number` of `unit` nanoseconds, decimals cut below one nanosecond.
fn part(number: &str, unit: u64) -> Option<u64> {
    let (whole, decimals) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && decimals.is_empty() {
        return None;
    }
    let mut nanos = if whole.is_empty() {
        0
    } else {
        whole.parse::<u64>().ok()?.checked_mul(unit)?
    };
    let mut scale = unit;
    for digit in decimals.chars() {
        scale /= 10;
        nanos = nanos.checked_add(u64::from(digit.to_digit(10)?) * scale)?;
    }
    Some(nanos)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_go_reads_them() {
        let cases = [
            ("0", 0),
            ("30s", 30_000),
            ("1h30m", 5_400_000),
            ("1.5s", 1_500),
            (".5m", 30_000),
            ("500ms", 500),
            ("168h", 604_800_000),
            ("+2m3s", 123_000),
        ];
        for (text, millis) in cases {
            assert_eq!(
                parse_go_duration(text),
                Ok(Duration::from_millis(millis)),
                "{text}"
            );
        }
        assert_eq!(parse_go_duration("7µs"), Ok(Duration::from_micros(7)));
    }

    #[test]
    fn the_longest_duration_is_that_of_go() {
        let longest = parse_go_duration("2562047h47m16.854775807s");
        assert_eq!(longest, Ok(Duration::from_nanos(MAX_NANOS)));
        assert!(parse_go_duration("2562047h47m16.854775808s").is_err());
        assert!(parse_go_duration("1h15666666666s").is_err());
    }

    #[test]
    fn everything_else_is_refused_by_name() {
        for text in ["", "5", "-5s", "s", "1x", "1h 2m", ".s", "99999999999h", "1..5s"] {
            assert_eq!(
                parse_go_duration(text),
                Err(InvalidDuration(text.to_owned())),
                "{text}"
            );
        }
    }
}
