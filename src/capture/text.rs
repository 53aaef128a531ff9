//! The text form of a capture, which loses nothing but masks.
//!
//! ```text
//! drpcd capture 1
//! request /api/v2/workspaceagents/me/rpc?version=2.8
//! status 101
//! > Sec-WebSocket-Version: 13
//! > Coder-Session-Token: REDACTED
//! < Upgrade: websocket
//!
//! 0.000120 > binary
//!   window syn stream 1 length 0
//! 0.000151 > binary
//!   data stream 1 length 23
//! 0.000163 > binary
//!   invoke 1/1 done "/t/Echo"
//!   message 1/2 done 0a02.6869
//!   close-send 1/3 done -
//! ```
//!
//! The handshake comes first, with the header lines of the request (`>`) and of its answer (`<`), which may be missing. Then one
//! unindented line for each WebSocket frame: seconds, direction (`>` the agent's), kind, `+` when the message goes on. Below it
//! its payload: a line for each yamux header and each DRPC frame, `bytes` for what is neither. Data is hexadecimal, text in
//! quotes where it is readable, `78*65536` for a run of one byte; parts are joined by dots, and `-` is nothing.

use std::fmt::Write as _;
use std::time::Duration;

use super::{Capture, FrameKind, Header, Record, Side};
use crate::mux::inspect::{CallFrame, Inspector, MuxFrame, Piece};

/// The first line.
const FORM: &str = "drpcd capture 1";

/// Equal bytes that are written as a run.
const RUN: usize = 16;

/// Printable bytes that are written as text.
const READABLE: usize = 4;

/// Names of yamux kinds, by number.
const MUX_KINDS: [&str; 4] = ["data", "window", "ping", "goaway"];

/// Names of yamux flags, by bit.
const FLAGS: [&str; 4] = ["syn", "ack", "fin", "rst"];

/// A line that cannot be read.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("line {line}: {what}")]
pub struct ParseError {
    line: usize,
    what: String,
}

impl Capture {
    /// The text form.
    pub fn to_text(&self) -> String {
        let mut out = format!("{FORM}\nrequest {}\nstatus {}\n", self.target, self.status);
        for Header { from, name, value } in &self.headers {
            // Writing into a String cannot fail.
            let _ = writeln!(out, "{} {name}: {value}", from.arrow());
        }
        out.push('\n');
        let mut inspectors = [Inspector::default(), Inspector::default()];
        for record in &self.records {
            let arrow = record.from.arrow();
            let inspector = match record.from {
                Side::Agent => 0,
                Side::Server => 1,
            };
            let kind = FrameKind::ALL.iter().find(|(kind, ..)| *kind == record.kind);
            let kind = kind.map_or("", |(.., name)| name);
            let goes_on = if record.last { "" } else { " +" };
            let at = record.at.as_secs_f64();
            let _ = writeln!(out, "{at:.6} {arrow} {kind}{goes_on}");
            let pieces = if record.kind.is_data() {
                inspectors[inspector].push(&record.data).0
            } else if record.data.is_empty() {
                Vec::new()
            } else {
                vec![Piece::Bytes(None, record.data.clone())]
            };
            for piece in pieces {
                let _ = writeln!(out, "  {}", line(&piece));
            }
        }
        out
    }

    /// Reads the text form.
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        let mut lines = (1..).zip(text.lines());
        let mut head = |prefix: &str| {
            let (line, text) = lines.next().unwrap_or_default();
            text.strip_prefix(prefix)
                .map(str::to_owned)
                .ok_or_else(|| ParseError {
                    line,
                    what: format!("{prefix:?} expected"),
                })
        };
        head(FORM)?;
        let target = head("request ")?;
        let status = head("status ")?;
        let mut capture = Self {
            target,
            status: status.parse().map_err(|_| ParseError {
                line: 3,
                what: format!("{status:?} is no status"),
            })?,
            headers: Vec::new(),
            records: Vec::new(),
        };
        for (number, text) in lines {
            capture
                .parse_line(text)
                .map_err(|what| ParseError { line: number, what })?;
        }
        Ok(capture)
    }

    fn parse_line(&mut self, text: &str) -> Result<(), String> {
        if text.is_empty() {
            return Ok(());
        }
        let side = Side::of_arrow(text.get(..1).unwrap_or_default());
        if let Some(from) = side.filter(|_| self.records.is_empty()) {
            let header = text[1..].split_once(':').ok_or("no header line")?;
            let [name, value] = <[&str; 2]>::from(header).map(|part| part.trim().to_owned());
            self.headers.push(Header { from, name, value });
            return Ok(());
        }
        if let Some(text) = text.strip_prefix("  ") {
            let record = self.records.last_mut().ok_or("no frame that this belongs to")?;
            record.data.extend(bytes(text)?);
            return Ok(());
        }
        let words: Vec<_> = text.split(' ').collect();
        let (at, arrow, kind, last) = match words[..] {
            [at, arrow, kind] => (at, arrow, kind, true),
            [at, arrow, kind, "+"] => (at, arrow, kind, false),
            _ => return Err("time, direction and kind expected".to_owned()),
        };
        let at = at
            .parse()
            .ok()
            .and_then(|at| Duration::try_from_secs_f64(at).ok());
        let kind = FrameKind::ALL.iter().find(|(.., name)| *name == kind);
        self.records.push(Record {
            at: at.ok_or("no time")?,
            from: Side::of_arrow(arrow).ok_or("direction is neither > nor <")?,
            kind: kind.ok_or("no kind of frame")?.0,
            last,
            data: Vec::new(),
        });
        Ok(())
    }
}

/// A piece as it is shown.
fn line(piece: &Piece) -> String {
    match piece {
        Piece::Mux(frame) => {
            let kind = MUX_KINDS
                .get(usize::from(frame.kind))
                .copied()
                .unwrap_or_default();
            let known = (0..).zip(FLAGS).filter(|(bit, _)| frame.flags & 1 << bit != 0);
            let mut flags: Vec<_> = known.map(|(_, name)| name.to_owned()).collect();
            if frame.flags >> FLAGS.len() != 0 {
                flags = vec![format!("{:#x}", frame.flags)];
            }
            let flags = if flags.is_empty() {
                String::new()
            } else {
                format!("{} ", flags.join("+"))
            };
            format!("{kind} {flags}stream {} length {}", frame.stream, frame.length)
        }
        Piece::Call(_, frame) => {
            let kind = frame.name();
            let control = if frame.control { " control" } else { "" };
            let done = if frame.done { "done" } else { "part" };
            let data = data_text(&frame.data);
            format!("{kind}{control} {}/{} {done} {data}", frame.stream, frame.message)
        }
        Piece::Bytes(_, bytes) => format!("bytes {}", data_text(bytes)),
    }
}

/// The bytes of a line.
fn bytes(text: &str) -> Result<Vec<u8>, String> {
    let (kind, rest) = text.split_once(' ').ok_or("no data")?;
    if kind == "bytes" {
        return data(rest);
    }
    if let Some(kind) = (0..).zip(MUX_KINDS).find(|(_, name)| *name == kind) {
        return Ok(mux_frame(kind.0, rest)?.encode().to_vec());
    }
    let kind = CallFrame::kind_of(kind).ok_or_else(|| format!("unknown kind {kind:?}"))?;
    let (control, rest) = match rest.strip_prefix("control ") {
        Some(rest) => (true, rest),
        None => (false, rest),
    };
    let mut words = rest.splitn(3, ' ');
    let ids = words.next().and_then(|ids| ids.split_once('/')).ok_or("no ids")?;
    let number = |text: &str| text.parse().map_err(|_| format!("{text:?} is no number"));
    let frame = CallFrame {
        kind,
        control,
        stream: number(ids.0)?,
        message: number(ids.1)?,
        done: match words.next() {
            Some("done") => true,
            Some("part") => false,
            _ => return Err("neither done nor part".to_owned()),
        },
        data: data(words.next().ok_or("no data")?)?,
    };
    Ok(frame.encode())
}

fn mux_frame(kind: u8, text: &str) -> Result<MuxFrame, String> {
    let words: Vec<_> = text.split(' ').collect();
    let (flags, stream, length) = match words[..] {
        ["stream", stream, "length", length] => ("", stream, length),
        [flags, "stream", stream, "length", length] => (flags, stream, length),
        _ => return Err("stream and length expected".to_owned()),
    };
    let number = |text: &str| text.parse().map_err(|_| format!("{text:?} is no number"));
    let mut bits = 0;
    for flag in flags.split('+').filter(|flag| !flag.is_empty()) {
        let known = (0..)
            .zip(FLAGS)
            .find(|(_, name)| *name == flag)
            .map(|(bit, _)| 1 << bit);
        let unknown = || u16::from_str_radix(flag.strip_prefix("0x")?, 16).ok();
        bits |= known
            .or_else(unknown)
            .ok_or_else(|| format!("unknown flag {flag:?}"))?;
    }
    Ok(MuxFrame {
        kind,
        flags: bits,
        stream: number(stream)?,
        length: number(length)?,
    })
}

/// Data as it is shown.
fn data_text(data: &[u8]) -> String {
    let readable = |byte: &u8| (b' '..=b'~').contains(byte) && !matches!(byte, b'"' | b'\\');
    let mut parts: Vec<String> = Vec::new();
    let mut hex = String::new();
    let mut rest = data;
    while let Some(first) = rest.first() {
        let run = rest.iter().take_while(|byte| *byte == first).count();
        let text = rest.iter().take_while(|byte| readable(byte)).count();
        let (part, used) = if run >= RUN {
            (format!("{first:02x}*{run}"), run)
        } else if text >= READABLE {
            // Up to a run, which is shorter as one.
            let used = rest[..text]
                .windows(RUN)
                .position(|window| window.iter().all(|byte| byte == &window[0]));
            let used = used.filter(|used| *used > 0).unwrap_or(text);
            (format!("\"{}\"", String::from_utf8_lossy(&rest[..used])), used)
        } else {
            let _ = write!(hex, "{first:02x}");
            rest = &rest[1..];
            continue;
        };
        if !hex.is_empty() {
            parts.push(std::mem::take(&mut hex));
        }
        parts.push(part);
        rest = &rest[used..];
    }
    if !hex.is_empty() {
        parts.push(hex);
    }
    if parts.is_empty() {
        "-".to_owned()
    } else {
        parts.join(".")
    }
}

fn data(text: &str) -> Result<Vec<u8>, String> {
    let mut out = Vec::new();
    let mut rest = if text == "-" { "" } else { text };
    while !rest.is_empty() {
        if let Some(quoted) = rest.strip_prefix('"') {
            let (part, after) = quoted.split_once('"').ok_or("a quote without end")?;
            out.extend_from_slice(part.as_bytes());
            rest = after.strip_prefix('.').unwrap_or(after);
            continue;
        }
        let (part, after) = rest.split_once('.').unwrap_or((rest, ""));
        rest = after;
        let (digits, times) = part.split_once('*').unwrap_or((part, "1"));
        let times: usize = times.parse().map_err(|_| format!("{times:?} is no number"))?;
        let wrong = || format!("{digits:?} is not hexadecimal");
        if !digits.len().is_multiple_of(2) || !digits.is_ascii() {
            return Err(wrong());
        }
        let bytes = (0..digits.len())
            .step_by(2)
            .map(|at| u8::from_str_radix(&digits[at..at + 2], 16))
            .collect::<Result<Vec<_>, _>>()
            .map_err(|_| wrong())?;
        if bytes.len().saturating_mul(times) > MAX_LINE {
            return Err(format!("more than {MAX_LINE} bytes"));
        }
        out.extend(bytes.repeat(times));
    }
    Ok(out)
}

/// Most bytes that a part of a line may stand for: more than a packet or a WebSocket frame of a peer has.
const MAX_LINE: usize = 64 * 1024 * 1024;
