//! In what two outcomes may differ, by the numbers of `docs/DEVIATIONS.md`.

use std::collections::{BTreeMap, BTreeSet};

use super::model::{Block, ERROR, Front, Reading, front};
use super::program::{Program, Step};
use super::support::peer::Control;
use super::support::raw::{DATA, SYN, WINDOW};
use super::{Life, Outcome, Told, Verdict};

/// A stream that a packet before its Invoke blocks, and one that may be ignored there.
const WITHOUT_INVOKE: &str = "wire_025";

/// A stream that a message blocks which nobody reads.
const UNREAD: &str = "wire_029";

/// An end that is seen before the message in front of it is read.
const EARLY_END: &str = "wire_075";

/// A frame that can never fit.
const TOO_LONG: &str = "wire_083";

/// Go's goodbye may be lost to its end.
const GOODBYE: &str = "wire_097";

/// Our codec refuses what Go's passes over.
const WRONG_TYPE: &str = "known protobuf field with the wrong wire type";

/// Each codec has its own words.
const CODEC_TEXT: &str = "text of the error for a request that cannot be decoded";

/// No deviation: Go's reader races with a handler that ends its call, and ours never runs ahead of one.
const RACE: &str = "race";

/// Why a session ends to which a frame of a stream was wrong, as yamux numbers it.
const PROTOCOL_ERROR: u32 = 1;

/// All rows that are used here.
pub(super) const ROWS: [&str; 7] = [
    WITHOUT_INVOKE,
    UNREAD,
    EARLY_END,
    TOO_LONG,
    GOODBYE,
    WRONG_TYPE,
    CODEC_TEXT,
];

/// Why `ours` is fine beside `go`: a row of the list, or `"same"`.
pub(super) fn allows(program: &Program, ours: &Outcome, go: &Outcome) -> Option<&'static str> {
    match (program, ours, go) {
        (
            Program::Transport(steps),
            Outcome::Transport {
                answer: our_answer,
                verdict: our_verdict,
            },
            Outcome::Transport {
                answer: go_answer,
                verdict: go_verdict,
            },
        ) => {
            let reading = Reading::new(steps);
            let answers = [our_answer, go_answer].map(|bytes| Answer::new(bytes));
            transport(&reading, [*our_verdict, *go_verdict], &answers)
        }
        (
            Program::Session(steps),
            Outcome::Session {
                life: our_life,
                control: our_control,
                streams: our_streams,
            },
            Outcome::Session {
                life: go_life,
                control: go_control,
                streams: go_streams,
            },
        ) => {
            let row = goodbyes(steps, *our_life, our_control, go_control)?;
            let same = our_life == go_life && streams_agree(steps, our_streams, go_streams);
            same.then_some(row)
        }
        _ => None,
    }
}

/// Ours first, as everywhere below.
fn transport(reading: &Reading, verdicts: [Verdict; 2], answers: &[Answer; 2]) -> Option<&'static str> {
    let [ours, go] = answers;
    let blocked_at = reading.block.filter(|_| verdicts[1] == Verdict::Hangs);
    let broken_at = reading
        .broken_or_over
        .filter(|_| verdicts == [Verdict::Ended, Verdict::Closed]);
    let mut row = match (verdicts, blocked_at) {
        // Whatever Go does.
        ([Verdict::Hangs, _], _) => return None,
        ([one, other], _) if one == other => "same",
        _ if broken_at.is_some() => RACE,
        // Ours closes what it must not ignore.
        ([Verdict::Closed, _], Some((_, Block::WithoutInvoke { control: false }))) => WITHOUT_INVOKE,
        (_, Some((_, Block::WithoutInvoke { control: false }))) => return None,
        ([Verdict::Closed | Verdict::Ended, _], Some((_, Block::WithoutInvoke { .. }))) => WITHOUT_INVOKE,
        ([Verdict::Closed | Verdict::Ended, _], Some((_, Block::Unread))) => UNREAD,
        ([Verdict::Closed, Verdict::Ended], _) if reading.too_long => TOO_LONG,
        _ => return None,
    };
    // From this call on Go says nothing any more, and ours may.
    let silent_from = match blocked_at {
        Some((_, Block::WithoutInvoke { control: false })) => None,
        Some((at, _)) => Some(at),
        None => broken_at,
    };
    let calls: BTreeSet<_> = ours.calls.keys().chain(go.calls.keys()).collect();
    for call in calls {
        let [of_ours, of_go] = answers
            .each_ref()
            .map(|answer| answer.calls.get(call).map_or(&[][..], Vec::as_slice));
        if of_ours == of_go {
            continue;
        }
        let (more, less) = (of_ours.starts_with(of_go), of_go.starts_with(of_ours));
        let early = reading.ends_early.contains(call);
        row = match silent_from {
            Some(at) if *call >= at && more => row,
            _ if early && (more || less) => EARLY_END,
            _ if ours.wrong_type.contains(call) && less => WRONG_TYPE,
            _ => return None,
        };
    }
    Some(row)
}

/// Whether the streams of a session have come to the same. Where Go's reader blocks, or waits for what it will refuse, ours
/// may have gone on.
fn streams_agree(steps: &[Step], ours: &BTreeMap<u32, Told>, go: &BTreeMap<u32, Told>) -> bool {
    let none = Told::default();
    let ids: BTreeSet<_> = ours.keys().chain(go.keys()).collect();
    ids.into_iter().all(|id| {
        let (ours, go) = (ours.get(id).unwrap_or(&none), go.get(id).unwrap_or(&none));
        ours == go
            || (waits(steps, *id)
                && ours.answer.starts_with(&go.answer)
                && ours.fins >= go.fins
                && ours.resets == go.resets)
    })
}

/// Whether a stream of this number is sent something that Go's reader blocks on, or a frame that can never fit.
fn waits(steps: &[Step], id: u32) -> bool {
    let mut sent: Vec<Step> = Vec::new();
    let mut waits = false;
    for frame in steps.iter().filter_map(|Step(bytes)| YamuxHeader::new(bytes)) {
        if frame.stream != id {
            continue;
        }
        if frame.flags & SYN != 0 {
            sent.clear();
        }
        sent.push(Step(frame.data.to_vec()));
        let reading = Reading::new(&sent);
        waits |= reading.block.is_some() || reading.too_long;
    }
    waits
}

/// The parts of a step of a session.
struct YamuxHeader<'b> {
    kind: u8,
    flags: u16,
    stream: u32,
    data: &'b [u8],
}

impl<'b> YamuxHeader<'b> {
    fn new(step: &'b [u8]) -> Option<Self> {
        let (&[0, kind, f0, f1, s0, s1, s2, s3, ..], data) = step.split_first_chunk::<12>()? else {
            return None;
        };
        Some(Self {
            kind,
            flags: u16::from_be_bytes([f0, f1]),
            stream: u32::from_be_bytes([s0, s1, s2, s3]),
            data,
        })
    }
}

/// Pongs and goodbyes. Ours says goodbye whenever a frame of a stream has ended the session, and at no other time; Go's may
/// be lost.
fn goodbyes(steps: &[Step], life: Life, of_ours: &[Control], of_go: &[Control]) -> Option<&'static str> {
    let due = match life {
        Life::LostAt(step) => {
            YamuxHeader::new(&steps[step].0).is_some_and(|frame| matches!(frame.kind, DATA | WINDOW))
        }
        _ => false,
    };
    let before = if due {
        of_ours.strip_suffix(&[Control::GoAway(PROTOCOL_ERROR)])?
    } else {
        of_ours
    };
    match of_go {
        _ if of_go == of_ours => Some("same"),
        _ if of_go == before => Some(GOODBYE),
        _ => None,
    }
}

/// The texts by which our codec refuses a message.
const OUR_CODEC: &str = "failed to decode Protobuf message: ";

/// Those of Go's.
const GO_CODEC: [&str; 2] = ["proto:", "string field contains invalid UTF-8"];

/// What came back for each call of a transport, with errors of the codecs made alike: each has its own texts.
struct Answer {
    calls: BTreeMap<u64, Vec<u8>>,
    /// Calls in which our codec found a field of the wrong type, which Go's passes over; that error is left out.
    wrong_type: BTreeSet<u64>,
}

impl Answer {
    fn new(bytes: &[u8]) -> Self {
        let mut answer = Self {
            calls: BTreeMap::new(),
            wrong_type: BTreeSet::new(),
        };
        let (mut at, mut last) = (0, 0);
        while at < bytes.len() {
            let (frame, used) = match front(&bytes[at..]) {
                Front::Whole(frame, used) => (frame, used),
                Front::Part(stream, ..) => {
                    let call = answer.calls.entry(stream.unwrap_or(last)).or_default();
                    call.extend(&bytes[at..]);
                    break;
                }
                // No call has this number, so it is not forgiven.
                Front::Broken(_) => {
                    answer.calls.insert(u64::MAX, bytes[at..].to_vec());
                    break;
                }
            };
            last = frame.stream;
            let call = answer.calls.entry(frame.stream).or_default();
            let (code, text) = frame.data.split_at(frame.data.len().min(8));
            let text = String::from_utf8_lossy(text);
            let refused = text.starts_with(OUR_CODEC) || GO_CODEC.iter().any(|go| text.starts_with(go));
            if frame.kind != ERROR || !refused {
                call.extend(&bytes[at..at + used]);
            } else if text.contains("invalid wire type") && text.starts_with(OUR_CODEC) {
                answer.wrong_type.insert(frame.stream);
            } else {
                // The same frame, but for its text.
                call.push(bytes[at]);
                call.extend([frame.stream, frame.message].map(u64::to_be_bytes).concat());
                call.extend(code);
                call.extend(CODEC_TEXT.as_bytes());
            }
            at += used;
        }
        answer
    }
}
