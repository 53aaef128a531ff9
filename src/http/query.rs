//! Query strings as Go's `net/url` reads them (`url.ParseQuery`): a pair with a semicolon or a broken escape is as if
//! it were not there.

use std::borrow::Cow;

use url::form_urlencoded;

/// The first value of `name`, decoded; `None` when it is absent.
pub(super) fn first<'q>(query: Option<&'q str>, name: &str) -> Option<Cow<'q, str>> {
    query?
        .split('&')
        .filter(|pair| !pair.contains(';') && escapes_are_whole(pair))
        .flat_map(|pair| form_urlencoded::parse(pair.as_bytes()))
        .find_map(|(key, value)| (key == name).then_some(value))
}

/// As [`first`], with an empty value counting as absent.
pub(super) fn first_non_empty<'q>(query: Option<&'q str>, name: &str) -> Option<Cow<'q, str>> {
    first(query, name).filter(|value| !value.is_empty())
}

fn escapes_are_whole(pair: &str) -> bool {
    pair.split('%').skip(1).all(|rest| {
        let digits = rest.as_bytes();
        digits.len() >= 2 && digits[..2].iter().all(u8::is_ascii_hexdigit)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_value_counts_and_is_decoded() {
        let query = Some("a=1&b=x%20y+z&a=2&c&=&d=");
        for (name, value) in [
            ("a", Some("1")),
            ("b", Some("x y z")),
            ("c", Some("")),
            ("d", Some("")),
            ("e", None),
        ] {
            assert_eq!(first(query, name).as_deref(), value, "{name}");
        }
        assert_eq!(first_non_empty(query, "d"), None);
        assert_eq!(first(None, "a"), None);
    }

    #[test]
    fn pairs_that_go_refuses_are_skipped() {
        let query = Some("a=1;b=2&a=%zz&a=%2&a=%41");
        assert_eq!(first(query, "a").as_deref(), Some("A"));
    }
}
