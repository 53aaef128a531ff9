//! Values of a seed file that check themselves while they are read.

use std::ops::Deref;

use serde::de::{Error as _, Unexpected};
use serde::{Deserialize, Deserializer};

/// Text of at most `MAX` characters without NUL, which SQLite would end the text at.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Text<const MAX: usize>(String);

impl<const MAX: usize> Text<MAX> {
    /// Text of the program's own, known to fit.
    pub(super) fn fixed(text: &'static str) -> Self {
        Self(text.to_owned())
    }
}

impl<const MAX: usize> Deref for Text<MAX> {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl<'de, const MAX: usize> Deserialize<'de> for Text<MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        if text.contains('\0') {
            return Err(D::Error::custom("text must not contain NUL"));
        }
        let length = text.chars().count();
        if length > MAX {
            let start: String = text.chars().take(32).collect();
            return Err(D::Error::custom(format_args!(
                "{start:?}… has {length} characters, at most {MAX} are allowed"
            )));
        }
        Ok(Self(text))
    }
}

/// A name that appears in host names and URLs: letters, digits and single hyphens between them, 1 to 64 characters.
/// coder/coder `codersdk/name.go` (`NameValid`) without its bound of 32, which no column has.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Name(String);

impl Name {
    /// A name of the program's own, known to be one.
    pub(super) fn fixed(name: &'static str) -> Self {
        Self(name.to_owned())
    }
}

impl Deref for Name {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = String::deserialize(deserializer)?;
        if is_label(&name, |c| c.is_ascii_alphanumeric()) && name.len() <= 64 {
            return Ok(Self(name));
        }
        Err(D::Error::invalid_value(
            Unexpected::Str(&name),
            &"1 to 64 letters, digits and single hyphens between them",
        ))
    }
}

/// An app's name in URLs: like [`Name`], in lower case.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Slug(String);

impl Deref for Slug {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl<'de> Deserialize<'de> for Slug {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let slug = String::deserialize(deserializer)?;
        if is_label(&slug, |c| c.is_ascii_lowercase() || c.is_ascii_digit()) && slug.len() <= 64 {
            return Ok(Self(slug));
        }
        Err(D::Error::invalid_value(
            Unexpected::Str(&slug),
            &"1 to 64 lower-case letters, digits and single hyphens between them",
        ))
    }
}

fn is_label(text: &str, allowed: fn(char) -> bool) -> bool {
    text.split('-')
        .all(|part| !part.is_empty() && part.chars().all(allowed))
}

/// A whole number of seconds, 0 to 2,147,483,647.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seconds(pub i32);

impl<'de> Deserialize<'de> for Seconds {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let seconds = i64::deserialize(deserializer)?;
        match i32::try_from(seconds) {
            Ok(seconds) if seconds >= 0 => Ok(Self(seconds)),
            _ => Err(D::Error::invalid_value(
                Unexpected::Signed(seconds),
                &"0 to 2147483647 seconds",
            )),
        }
    }
}

/// How long a workspace runs, in nanoseconds, written as Go writes durations: `8h`, `1h30m`, `1.5h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ttl(pub i64);

impl<'de> Deserialize<'de> for Ttl {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        nanoseconds(&text).map(Self).ok_or_else(|| {
            D::Error::invalid_value(Unexpected::Str(&text), &"a duration such as 8h, 1h30m or 90s")
        })
    }
}

/// A positive duration in Go's text form (`time.ParseDuration`), in nanoseconds; parts of one are cut off.
fn nanoseconds(text: &str) -> Option<i64> {
    let mut rest = text;
    let mut total: i128 = 0;
    while !rest.is_empty() {
        let number_end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, after) = rest.split_at(number_end);
        let unit_end = after
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .unwrap_or(after.len());
        let (unit, next) = after.split_at(unit_end);
        let scale: i128 = match unit {
            "ns" => 1,
            "us" | "µs" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            _ => return None,
        };
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        // 19 digits are as many as an i64 of nanoseconds has, and keep the products exact.
        if number.len() > 19 || (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
            return None;
        }
        let digits: i128 = format!("{whole}{fraction}").parse().ok()?;
        total = total.checked_add(digits * scale / 10_i128.pow(u32::try_from(fraction.len()).ok()?))?;
        rest = next;
    }
    i64::try_from(total).ok().filter(|nanoseconds| *nanoseconds > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_those_of_go() {
        for (text, expected) in [
            ("8h", Some(28_800_000_000_000)),
            ("1h30m", Some(5_400_000_000_000)),
            ("1.5h", Some(5_400_000_000_000)),
            (".5s", Some(500_000_000)),
            ("100ms", Some(100_000_000)),
            ("2us", Some(2_000)),
            ("2µs", Some(2_000)),
            ("1ns", Some(1)),
            ("9223372036854775807ns", Some(i64::MAX)),
            ("9223372036854775808ns", None),
            ("2562048h", None),
            // Too many digits.
            ("00000000000000000001h", None),
            ("0s", None),
            ("-1h", None),
            ("", None),
            ("8", None),
            ("h", None),
            (".h", None),
            ("1..5h", None),
            ("8 h", None),
            ("1d", None),
        ] {
            let expected = if text.is_empty() { None } else { expected };
            assert_eq!(nanoseconds(text), expected, "{text:?}");
        }
    }

    #[test]
    fn names_are_letters_digits_and_single_hyphens() {
        for good in ["a", "Ada", "my-dev-2", "0"] {
            assert!(is_label(good, |c| c.is_ascii_alphanumeric()), "{good:?}");
        }
        for bad in ["", "-a", "a-", "a--b", "a b", "a_b", "é", "a.b", "a/b"] {
            assert!(!is_label(bad, |c| c.is_ascii_alphanumeric()), "{bad:?}");
        }
    }
}
