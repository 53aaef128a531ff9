//! What must hold of texts that agents and operators write. A finding is a panic.
//!
//! Owns the body of the fuzz target; see [`crate::fuzzing`]. Never part of the server.

use super::apps::clean;
use super::autostart;
use super::logs::{NO_TEXT, clean_log_line};
use crate::clock::Timestamp;
use crate::duration::parse_go_duration;
use crate::mux::{is_print, quote};
use crate::store::LogLevel;

/// Texts: what is cleaned is clean, what is parsed is within its bounds.
pub(crate) fn texts(data: &[u8]) {
    let quoted = quote(data);
    assert!(quoted.len() >= 2 && quoted.chars().all(is_print), "{quoted}");

    let text = String::from_utf8_lossy(data);
    let line = clean(&text);
    assert!(line.chars().all(is_print) && line.trim() == line, "{line:?}");
    let stored = clean_log_line(text.clone().into_owned(), LogLevel::Info).output;
    assert!(!stored.contains('\0') && stored.len() <= text.len() * NO_TEXT.len());
    if let Ok(duration) = parse_go_duration(&text) {
        assert!(duration.as_nanos() <= u128::from(u64::MAX / 2), "{duration:?}");
    }
    for now in [
        Timestamp::UNIX_EPOCH,
        Timestamp::from_micros(1_700_000_000_000_000),
    ] {
        if let Some(next) = autostart::next(&text, now) {
            assert!(next.at > now, "{next:?}");
        }
    }
}
