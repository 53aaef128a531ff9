//! One clean line of text out of whatever an app wrote.
//!
//! Owns what may stand in a message that is shown to people. The rules are those of coder/coder
//! `coderd/util/strings/strings.go:UISanitize`: undo Go's escapes where the whole text can be read as a Go string, then
//! take out HTML, terminal escapes and what cannot be printed, and make every run of whitespace one space.

use html5gum::emitters::default::DefaultEmitter;
use html5gum::{Token, Tokenizer};

use crate::mux::is_print;

/// Elements whose content is no text for people, as the original's HTML policy has them.
const NOT_TEXT: [&[u8]; 11] = [
    b"frame",
    b"frameset",
    b"iframe",
    b"noembed",
    b"noframes",
    b"noscript",
    b"nostyle",
    b"object",
    b"script",
    b"style",
    b"title",
];

const ESCAPE: char = '\u{1b}';
const BELL: char = '\u{07}';
/// ESC `[` as one character.
const CSI: char = '\u{9b}';

/// `text` as one line without markup.
pub(in crate::services::agent) fn clean(text: &str) -> String {
    let text = match unescape(text) {
        Some(unescaped) => strip_html(&unescaped),
        None => strip_html(text),
    };
    let text = strip_terminal_escapes(&text);
    let mut line = String::with_capacity(text.len());
    for character in text.chars() {
        if character.is_whitespace() {
            if !line.is_empty() && !line.ends_with(' ') {
                line.push(' ');
            }
        } else if is_print(character) {
            line.push(character);
        }
    }
    line.truncate(line.trim_end().len());
    line
}

/// The text as if it stood between double quotes in Go; `None` when it could not.
fn unescape(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.chars();
    while let Some(character) = rest.next() {
        match character {
            '"' | '\n' => return None,
            '\\' => unescape_one(&mut rest, &mut bytes)?,
            _ => push(character, &mut bytes),
        }
    }
    // What is no UTF-8 is one replacement character per byte, as in Go.
    let mut unescaped = String::with_capacity(bytes.len());
    for part in bytes.utf8_chunks() {
        unescaped.push_str(part.valid());
        unescaped.extend(part.invalid().iter().map(|_| char::REPLACEMENT_CHARACTER));
    }
    Some(unescaped)
}

/// Undoes one escape, whose backslash has been taken.
fn unescape_one(rest: &mut std::str::Chars<'_>, bytes: &mut Vec<u8>) -> Option<()> {
    let byte = match rest.next()? {
        'a' => b'\x07',
        'b' => b'\x08',
        'f' => b'\x0c',
        'n' => b'\n',
        'r' => b'\r',
        't' => b'\t',
        'v' => b'\x0b',
        '\\' => b'\\',
        '"' => b'"',
        'x' => u8::try_from(number(rest, 2, 16, 0)?).ok()?,
        first @ '0'..='7' => u8::try_from(number(rest, 2, 8, first.to_digit(8)?)?).ok()?,
        character @ ('u' | 'U') => {
            let digits = if character == 'u' { 4 } else { 8 };
            push(char::from_u32(number(rest, digits, 16, 0)?)?, bytes);
            return Some(());
        }
        _ => return None,
    };
    bytes.push(byte);
    Some(())
}

fn push(character: char, bytes: &mut Vec<u8>) {
    bytes.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
}

/// The number of exactly `digits` more digits after `first`.
fn number(rest: &mut std::str::Chars<'_>, digits: usize, radix: u32, first: u32) -> Option<u32> {
    (0..digits).try_fold(first, |number, _| {
        let digit = rest.next()?.to_digit(radix)?;
        number.checked_mul(radix)?.checked_add(digit)
    })
}

/// The text of an HTML fragment; characters that mean something in HTML come out as entities.
fn strip_html(html: &str) -> String {
    let mut emitter = DefaultEmitter::default();
    emitter.naively_switch_states(true);
    let mut text = String::with_capacity(html.len());
    let mut within = 0_usize;
    for Ok(token) in Tokenizer::new_with_emitter(html, emitter) {
        match token {
            Token::StartTag(tag) if NOT_TEXT.contains(&tag.name.as_slice()) && !tag.self_closing => {
                within += 1;
            }
            Token::EndTag(tag) if NOT_TEXT.contains(&tag.name.as_slice()) => {
                within = within.saturating_sub(1);
            }
            Token::String(string) if within == 0 => escape(&String::from_utf8_lossy(&string), &mut text),
            _ => {}
        }
    }
    text
}

fn escape(text: &str, escaped: &mut String) {
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '\'' => escaped.push_str("&#39;"),
            '"' => escaped.push_str("&#34;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            other => escaped.push(other),
        }
    }
}

/// Takes out control sequences (ECMA-48 5.4), the strings that set titles and links (5.6), and shorter escapes.
fn strip_terminal_escapes(text: &str) -> String {
    let mut stripped = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find([ESCAPE, CSI]) {
        stripped.push_str(&rest[..start]);
        let mut after = rest[start..].chars();
        let introducer = after.next();
        rest = match introducer {
            Some(CSI) => after_control_sequence(after.as_str()),
            _ => after_escape(after.as_str()),
        };
    }
    stripped.push_str(rest);
    stripped
}

/// What follows an escape whose ESC has been taken.
fn after_escape(text: &str) -> &str {
    if let Some(sequence) = text.strip_prefix('[') {
        return after_control_sequence(sequence);
    }
    if let Some(string) = text.strip_prefix([']', 'P', 'X', '^', '_']) {
        return after_control_string(string);
    }
    let rest = text.trim_start_matches(|character| matches!(character, ' '..='/'));
    rest.strip_prefix(|character| matches!(character, '0'..='~'))
        .unwrap_or(rest)
}

/// Parameters, intermediates, and the final character that ends the sequence. One that is broken off ends where it is.
fn after_control_sequence(text: &str) -> &str {
    let rest = text
        .trim_start_matches(|character| matches!(character, '0'..='?'))
        .trim_start_matches(|character| matches!(character, ' '..='/'));
    rest.strip_prefix(|character| matches!(character, '@'..='~'))
        .unwrap_or(rest)
}

/// Up to BEL or ESC `\`. Without an end only its introducer goes, lest the whole message does.
fn after_control_string(text: &str) -> &str {
    let bell = text.find(BELL).map(|end| (end, 1));
    let terminator = text.find("\u{1b}\\").map(|end| (end, 2));
    match bell.into_iter().chain(terminator).min() {
        Some((end, length)) => &text[end + length..],
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn s1_063_messages_become_one_clean_line() {
        for (message, expected) in [
            ("plain", "plain"),
            ("", ""),
            ("  two\t\n words\r\n ", "two words"),
            ("a<b>bold</b> word", "abold word"),
            ("<script>alert(1)</script>x<style>p{}</style>y", "xy"),
            ("<title>t</title>x<object>o</object>", "x"),
            ("<!-- c -->x<!DOCTYPE html>", "x"),
            ("broken <a href='x", "broken"),
            ("1 < 2 & 3 > 2", "1 &lt; 2 &amp; 3 &gt; 2"),
            ("\"quoted\" it's", "&#34;quoted&#34; it&#39;s"),
            ("&lt;b&gt; &amp;", "&lt;b&gt; &amp;"),
            ("\u{1b}[1;31mred\u{1b}[0m", "red"),
            ("\u{1b}]0;title\u{7}text", "text"),
            ("\u{1b}]8;;http://x\u{1b}\\link\u{1b}]8;;\u{1b}\\", "link"),
            ("\u{9b}31mred", "red"),
            ("\u{1b}(Btext\u{1b}", "text"),
            ("\u{1b}]no end", "no end"),
            ("a\u{0}b\u{200b}c", "abc"),
            ("a \u{1} b", "a b"),
            ("a\u{a0}\u{2003}b", "a b"),
            ("日本 ✓", "日本 ✓"),
        ] {
            assert_eq!(clean(message), expected, "{message:?}");
        }
    }

    #[test]
    fn s1_063_escapes_of_go_are_undone_where_the_whole_text_can_be_read_so() {
        for (message, expected) in [
            (r"a\nb\tc", "a b c"),
            (r"\u65e5\U0001F600\x41\101\\", "日😀AA\\"),
            (r"\xe6\x97\xa5 \xff", "日 \u{fffd}"),
            (r"\u001b[31mred\u001b[0m", "red"),
            (r"\u003cb\u003ebold", "bold"),
            (r#"say \"hi\""#, "say &#34;hi&#34;"),
            // These cannot, so every backslash stays.
            (r"a\nb \q", r"a\nb \q"),
            (r"a\nb \'", r"a\nb \&#39;"),
            (r#"a\nb ""#, r"a\nb &#34;"),
            (r"a\nb \ud800", r"a\nb \ud800"),
            (r"a\nb \400", r"a\nb \400"),
            (r"a\nb \x4", r"a\nb \x4"),
            ("a\\nb \n", r"a\nb"),
            ("a\\", r"a\"),
        ] {
            assert_eq!(clean(message), expected, "{message:?}");
        }
    }
}
