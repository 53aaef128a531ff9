//! In what two outcomes may differ, by the numbers of `docs/DEVIATIONS.md`.

use std::collections::BTreeMap;

use super::program::{Program, Step};
use super::{Outcome, Verdict};

/// A stream that a packet before its Invoke blocks.
const WITHOUT_INVOKE: &str = "wire_025";

/// A stream that a message blocks which nobody reads.
const UNREAD: &str = "wire_029";

/// An end that is seen before the message in front of it is read.
const EARLY_END: &str = "wire_075";

/// Our codec refuses what Go's passes over.
const WRONG_TYPE: &str = "known protobuf field with the wrong wire type";

/// Each codec has its own words.
const CODEC_TEXT: &str = "text of the error for a request that cannot be decoded";

/// All rows that are used here.
pub(super) const ROWS: [&str; 5] = [WITHOUT_INVOKE, UNREAD, EARLY_END, WRONG_TYPE, CODEC_TEXT];

/// Why `ours` is fine beside `go`: a row of the list, or `"same"`.
pub(super) fn allows(program: &Program, ours: &Outcome, go: &Outcome) -> Option<&'static str> {
    let steps = match program {
        Program::Session(_) => return (ours == go).then_some("same"),
        Program::Transport { steps, .. } => steps,
    };
    let (of_ours, of_go) = (Answer::new(&ours.answer), Answer::new(&go.answer));
    if ours.verdict == go.verdict && of_ours == of_go {
        return Some("same");
    }
    // Packets that come together race in Go with the handler that the first of them starts: an end among them may or may
    // not come before the answers.
    let races = matches!(program, Program::Transport { paced: false, .. });
    if ours.verdict == Verdict::Ended && go.verdict == Verdict::Hangs {
        let sent = steps
            .iter()
            .flat_map(|Step(bytes)| bytes.clone())
            .collect::<Vec<_>>();
        return leak(&packets(&sent)).filter(|_| of_go.begins(&of_ours) || (races && of_go.cut(&of_ours)));
    }
    if ours.verdict != go.verdict {
        return None;
    }
    if races && of_go.cut(&of_ours) {
        return Some(EARLY_END);
    }
    (of_ours.wrong_type && of_ours.begins(&of_go)).then_some(WRONG_TYPE)
}

/// What Go's reader blocks on for good.
fn leak(packets: &[Packet<'_>]) -> Option<&'static str> {
    let (mut invoked, mut messages, mut leaves) = (0, 0, false);
    for packet in packets.iter().filter(|packet| packet.done) {
        match packet.kind {
            1 => (invoked, messages, leaves) = (packet.stream, 0, packet.data == b"/t/Leave"),
            7 if packet.stream > invoked => {}
            _ if packet.stream > invoked => return Some(WITHOUT_INVOKE),
            2 => messages += 1,
            _ => {}
        }
        // One is what every other handler reads; a stream's may have ended before it reads the next.
        if messages > 1 || (messages == 1 && leaves) {
            return Some(UNREAD);
        }
    }
    None
}

/// The texts by which our codec refuses a message.
const OUR_CODEC: &str = "failed to decode Protobuf message: ";

/// Those of Go's.
const GO_CODEC: [&str; 2] = ["proto:", "string field contains invalid UTF-8"];

/// What came back for each call of a transport, with errors of the codecs made alike: each has its own texts.
#[derive(PartialEq, Eq)]
struct Answer {
    calls: BTreeMap<u64, Vec<u8>>,
    /// Our codec found a field of the wrong type, which Go's passes over; what would follow is left out.
    wrong_type: bool,
}

impl Answer {
    fn new(bytes: &[u8]) -> Self {
        let mut answer = Self {
            calls: BTreeMap::new(),
            wrong_type: false,
        };
        let mut at = 0;
        while let Some((packet, used)) = packet(&bytes[at..]) {
            let call = answer.calls.entry(packet.stream).or_default();
            let text = packet
                .data
                .get(8..)
                .map(String::from_utf8_lossy)
                .unwrap_or_default();
            let refused = text.starts_with(OUR_CODEC) || GO_CODEC.iter().any(|go| text.starts_with(go));
            if packet.kind != 3 || !refused {
                call.extend(&bytes[at..at + used]);
            } else if text.contains("invalid wire type") && text.starts_with(OUR_CODEC) {
                answer.wrong_type = true;
            } else {
                call.extend(CODEC_TEXT.as_bytes());
            }
            at += used;
        }
        if at < bytes.len() {
            answer.calls.entry(u64::MAX).or_default().extend(&bytes[at..]);
        }
        answer
    }

    /// Whether every call's answer is the beginning of `other`'s.
    fn begins(&self, other: &Self) -> bool {
        let empty = Vec::new();
        self.calls
            .iter()
            .all(|(call, answer)| other.calls.get(call).unwrap_or(&empty).starts_with(answer))
    }

    /// Whether of each call, one answer is the beginning of the other.
    fn cut(&self, other: &Self) -> bool {
        self.calls.iter().all(|(call, answer)| {
            other
                .calls
                .get(call)
                .is_none_or(|other| other.starts_with(answer) || answer.starts_with(other))
        })
    }
}

struct Packet<'b> {
    kind: u8,
    done: bool,
    stream: u64,
    data: &'b [u8],
}

/// The first frame, and how many bytes it has; `None` when it is not whole.
fn packet(bytes: &[u8]) -> Option<(Packet<'_>, usize)> {
    let mut at = 1;
    let mut numbers = [0_u64; 3];
    for number in &mut numbers {
        for shift in (0..64).step_by(7) {
            let byte = *bytes.get(at)?;
            at += 1;
            *number |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                break;
            }
        }
    }
    let end = at.checked_add(usize::try_from(numbers[2]).ok()?)?;
    let packet = Packet {
        kind: bytes[0] >> 1 & 0x3f,
        done: bytes[0] & 1 == 1,
        stream: numbers[0],
        data: bytes.get(at..end)?,
    };
    Some((packet, end))
}

/// The frames that can be read.
fn packets(mut bytes: &[u8]) -> Vec<Packet<'_>> {
    let mut packets = Vec::new();
    while let Some((packet, used)) = packet(bytes) {
        packets.push(packet);
        bytes = &bytes[used..];
    }
    packets
}
