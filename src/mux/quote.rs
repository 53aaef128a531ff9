//! Go's `%q`: how the original shows names and bytes in error texts.

use std::fmt::Write as _;

/// Quotes `bytes` as Go's `strconv.Quote` does: printable Unicode as it is, the usual one-letter escapes, `\xNN` for
/// other control characters and for bytes that are not UTF-8, `\uNNNN` and `\UNNNNNNNN` for the rest.
pub fn quote(bytes: impl AsRef<[u8]>) -> String {
    let bytes = bytes.as_ref();
    let mut out = String::with_capacity(bytes.len() + 2);
    out.push('"');
    for part in bytes.utf8_chunks() {
        for character in part.valid().chars() {
            push_escaped(character, &mut out);
        }
        for byte in part.invalid() {
            // Writing into a String cannot fail.
            let _ = write!(out, "\\x{byte:02x}");
        }
    }
    out.push('"');
    out
}

fn push_escaped(character: char, out: &mut String) {
    let short = match character {
        '"' => "\\\"",
        '\\' => "\\\\",
        '\u{07}' => "\\a",
        '\u{08}' => "\\b",
        '\u{0c}' => "\\f",
        '\n' => "\\n",
        '\r' => "\\r",
        '\t' => "\\t",
        '\u{0b}' => "\\v",
        _ => "",
    };
    let number = u32::from(character);
    if !short.is_empty() {
        out.push_str(short);
    } else if is_print(character) {
        out.push(character);
    } else {
        // Writing into a String cannot fail.
        let _ = match number {
            0..0x20 | 0x7f => write!(out, "\\x{number:02x}"),
            0x80..0x1_0000 => write!(out, "\\u{number:04x}"),
            _ => write!(out, "\\U{number:08x}"),
        };
    }
}

/// Letters, marks, numbers, punctuation, symbols and the ASCII space, as Go's `unicode.IsPrint` has it.
///
/// The standard library has the same rule inside a debug-escaped text, where it escapes all other characters. At the
/// front of a text it escapes combining marks too; hence the letter. Compared with Go for every character: they differ
/// only where the standard library knows a newer Unicode than Go's 15.
pub fn is_print(character: char) -> bool {
    if character.is_ascii() {
        return matches!(character, ' '..='~');
    }
    let mut text = [b'a', 0, 0, 0, 0];
    let len = character.encode_utf8(&mut text[1..]).len();
    str::from_utf8(&text[..=len]).is_ok_and(|text| !text.escape_debug().any(|escaped| escaped == '\\'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wire_058_the_recorded_vector() {
        let name = b"/a\"b\\\x00\xff\n\xc3\xa9\xe2\x80\xa8";
        assert_eq!(
            quote(name),
            r#""/a\"b\\\x00\xff\n\u00e9\u2028""#.replace("\\u00e9", "é")
        );
    }

    #[test]
    fn every_kind_of_escape() {
        assert_eq!(quote(b"\x07\x08\x0c\n\r\t\x0b"), r#""\a\b\f\n\r\t\v""#);
        assert_eq!(quote(b"\x01\x1f\x7f"), r#""\x01\x1f\x7f""#);
        assert_eq!(quote("\u{80}\u{a0}\u{feff}"), r#""\u0080\u00a0\ufeff""#);
        assert_eq!(quote("\u{e0001}"), r#""\U000e0001""#);
        assert_eq!(quote("日本 ✓ e\u{301}"), "\"日本 ✓ e\u{301}\"");
        assert_eq!(quote("\u{93c}\u{fe0f}\u{fffd}"), "\"\u{93c}\u{fe0f}\u{fffd}\"");
        assert_eq!(
            quote("\u{200c}\u{ad}\u{3000}\u{e000}"),
            r#""\u200c\u00ad\u3000\ue000""#
        );
        assert_eq!(quote(b"\xe2\x82A\xed\xa0\x80"), r#""\xe2\x82A\xed\xa0\x80""#);
        assert_eq!(quote("'"), "\"'\"");
        assert_eq!(quote(b""), "\"\"");
    }
}
