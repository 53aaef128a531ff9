//! Version negotiation of the Agent and Tailnet APIs, which share one number.
//!
//! The rules and texts are those of coder/coder `apiversion/apiversion.go` (`Validate`). Nothing is compared later: all
//! methods can be called at every version.

/// The one major version that is served.
const MAJOR: i64 = 2;

/// What an absent or empty parameter means; agents of before v2.8 send none.
pub(super) const DEFAULT: &str = "2.0";

/// Checks a requested version against `MAJOR.max_minor`. The error is the text for the client.
pub(super) fn validate(requested: &str, max_minor: u32) -> Result<(), String> {
    let Some((major, minor)) = requested
        .split_once('.')
        .filter(|(_, minor)| !minor.contains('.'))
    else {
        return Err(format!("invalid version string: {requested}"));
    };
    // Go's `strconv.Atoi` and this take the same texts: an optional sign, digits, 64 bits.
    let major: i64 = major
        .parse()
        .map_err(|_| format!("invalid major version: {requested}"))?;
    let minor: i64 = minor
        .parse()
        .map_err(|_| format!("invalid minor version: {requested}"))?;
    if major > MAJOR {
        let what = format!("behind requested major version {requested}");
        return Err(format!("server is at version {MAJOR}.{max_minor}, {what}"));
    }
    if major < MAJOR {
        return Err(format!("version {requested} is no longer supported"));
    }
    if minor > i64::from(max_minor) {
        let what = format!("behind requested minor version {requested}");
        return Err(format!("server is at version {MAJOR}.{max_minor}, {what}"));
    }
    Ok(())
}

/// The newest version served, as build information gives it.
pub(super) fn newest(max_minor: u32) -> String {
    format!("{MAJOR}.{max_minor}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tn_002_every_minor_up_to_ours_is_accepted() {
        for minor in 0..=8 {
            assert_eq!(validate(&format!("2.{minor}"), 8), Ok(()));
        }
        assert_eq!(validate("02.00", 8), Ok(()));
        assert_eq!(validate("2.11", 11), Ok(()));
    }

    #[test]
    fn tn_003_a_newer_minor_is_refused() {
        let text = "server is at version 2.8, behind requested minor version 2.9";
        assert_eq!(validate("2.9", 8), Err(text.to_owned()));
    }

    #[test]
    fn tn_004_other_majors_are_refused() {
        let newer = "server is at version 2.8, behind requested major version 3.0";
        assert_eq!(validate("3.0", 8), Err(newer.to_owned()));
        assert_eq!(
            validate("1.0", 8),
            Err("version 1.0 is no longer supported".to_owned())
        );
        assert_eq!(
            validate("1.99", 8),
            Err("version 1.99 is no longer supported".to_owned())
        );
    }

    #[test]
    fn tn_005_what_is_no_version_is_refused() {
        for (requested, text) in [
            ("2", "invalid version string: 2"),
            ("x", "invalid version string: x"),
            ("2.0.1", "invalid version string: 2.0.1"),
            (".", "invalid major version: ."),
            ("a.0", "invalid major version: a.0"),
            ("2.x", "invalid minor version: 2.x"),
            ("2.", "invalid minor version: 2."),
            (
                "2.9223372036854775808",
                "invalid minor version: 2.9223372036854775808",
            ),
        ] {
            assert_eq!(validate(requested, 8), Err(text.to_owned()));
        }
    }
}
