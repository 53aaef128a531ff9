//! What a capture says of its calls, and how two captures of the same calls differ.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::fmt;

use super::{Capture, Side};
use crate::mux::inspect::{CallFrame, Inspector, MuxFrame, Piece};

/// The calls of one yamux stream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Call {
    /// Path of the first call.
    pub path: String,
    /// Packets that the agent sent.
    pub sent: Vec<CallFrame>,
    /// Packets that the server sent.
    pub answers: Vec<CallFrame>,
    /// Answers that had come when the agent gave the stream up, if it did.
    pub given_up_at: Option<usize>,
    /// How the server ended the stream: by its half, or by a reset.
    pub ended: Option<Ended>,
}

/// How a stream ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// In good order.
    Fin,
    /// At once.
    Reset,
}

impl Call {
    /// Whether the server has said its last word.
    fn is_answered(&self) -> bool {
        self.answers.last().is_some_and(CallFrame::is_last_word)
    }

    /// Whether `other` has as many answers as this call must have. Who plays an agent waits for what had come when it gave the
    /// call up, as the agent did.
    fn has_as_many_answers(&self, other: &Self) -> bool {
        match self.given_up_at {
            Some(at) => other.answers.len() >= at,
            None => other.answers.len() == self.answers.len(),
        }
    }
}

/// Assembles packets of their frames.
#[derive(Debug, Default)]
pub(crate) struct Packets {
    inspector: Inspector,
    unfinished: BTreeMap<u32, CallFrame>,
}

impl Packets {
    /// The direction, cut into what it is made of.
    pub(crate) fn inspector(&self) -> &Inspector {
        &self.inspector
    }

    /// What one message brings: its pieces, and the packets that are whole now.
    pub(crate) fn push(&mut self, data: &[u8]) -> (Vec<Piece>, Vec<(u32, CallFrame)>) {
        let (pieces, frames) = self.inspector.push(data);
        let mut packets = Vec::new();
        for (stream, frame) in frames {
            let mut packet = match self.unfinished.remove(&stream) {
                Some(mut begun) if (begun.stream, begun.message) == (frame.stream, frame.message) => {
                    begun.data.extend(frame.data);
                    begun.done = frame.done;
                    begun
                }
                _ => frame,
            };
            if std::mem::replace(&mut packet.done, true) {
                packets.push((stream, packet));
            } else {
                self.unfinished.insert(stream, packet);
            }
        }
        (pieces, packets)
    }
}

impl Capture {
    /// The calls by their yamux streams.
    pub fn calls(&self) -> BTreeMap<u32, Call> {
        let mut calls: BTreeMap<u32, Call> = BTreeMap::new();
        let (mut sent, mut answered) = (Packets::default(), Packets::default());
        for record in self.records.iter().filter(|record| record.kind.is_data()) {
            let by_agent = record.from == Side::Agent;
            let (pieces, packets) = if by_agent { &mut sent } else { &mut answered }.push(&record.data);
            for (stream, packet) in packets {
                let call = calls.entry(stream).or_default();
                if by_agent && packet.kind == CallFrame::INVOKE && call.path.is_empty() {
                    call.path = String::from_utf8_lossy(&packet.data).into_owned();
                }
                let packets = if by_agent {
                    &mut call.sent
                } else {
                    &mut call.answers
                };
                packets.push(packet);
            }
            for piece in pieces {
                let Piece::Mux(frame) = piece else { continue };
                if frame.stream == 0 {
                    continue;
                }
                let call = calls.entry(frame.stream).or_default();
                let ended = match frame.flags {
                    flags if flags & MuxFrame::RST != 0 => Some(Ended::Reset),
                    flags if flags & MuxFrame::FIN != 0 => Some(Ended::Fin),
                    _ => None,
                };
                if !by_agent {
                    call.ended = call.ended.or(ended);
                } else if ended.is_some() && call.given_up_at.is_none() && !call.is_answered() {
                    call.given_up_at = Some(call.answers.len());
                }
            }
        }
        calls
    }
}

/// In what a second capture of the same calls differs from the first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// The yamux stream in the first capture, or in the second if the call is only there.
    pub stream: u32,
    /// Path of its first call.
    pub path: String,
    /// What differs.
    pub what: String,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "stream {} {}: {}", self.stream, self.path, self.what)
    }
}

/// Characters of a packet that a difference shows.
const MAX_SHOWN: usize = 80;

/// By what the texts of codecs begin: each has its own (see `docs/DEVIATIONS.md`).
const CODEC_ERRORS: [&str; 3] = [
    "failed to decode Protobuf message: ",
    "proto:",
    "string field contains invalid UTF-8",
];

/// Compares the answers of two captures in which the agent said the same: kinds, ids, codes, texts and payloads, in their order
/// within each stream. Times, chunks, credit and the order between streams are nothing. A call that the agent gave up has
/// at least the answers that had come by then; how many more is open.
pub fn compare(first: &Capture, second: &Capture) -> Vec<Difference> {
    let (first, second) = (first.calls(), second.calls());
    let mut differences = Vec::new();
    let pairs = pairs(&first, &second);
    for (stream, call) in &first {
        let other = pairs
            .get(stream)
            // One of its own streams.
            .map(|other| second[other].clone())
            .unwrap_or_default();
        let mut differs = |what: String| {
            differences.push(Difference {
                stream: *stream,
                path: call.path.clone(),
                what,
            });
        };
        let both = call.answers.iter().zip(&other.answers);
        if let Some((at, (one, two))) = (1..).zip(both).find(|(_, (one, two))| normal(one) != normal(two)) {
            differs(format!(
                "answer {at} is {} in the first, {} in the second",
                shown(one),
                shown(two)
            ));
        } else if !call.has_as_many_answers(&other) {
            let (one, two) = (call.answers.len(), other.answers.len());
            differs(match call.given_up_at {
                Some(at) => format!("given up after {at} answers in the first, {two} in the second"),
                None => format!("{one} answers in the first, {two} in the second"),
            });
        } else if call.ended.is_some() && call.ended != other.ended {
            let [one, two] = [call.ended, other.ended].map(|ended| match ended {
                Some(Ended::Fin) => "ended in good order",
                Some(Ended::Reset) => "reset",
                None => "not ended",
            });
            differs(format!("{one} by the server in the first, {two} in the second"));
        }
    }
    let paired: BTreeSet<_> = pairs.into_values().collect();
    for (stream, call) in second.iter().filter(|(stream, _)| !paired.contains(stream)) {
        differences.push(Difference {
            stream: *stream,
            path: call.path.clone(),
            what: "only in the second".to_owned(),
        });
    }
    differences
}

/// Which stream of the second capture is which of the first: the next in which the agent said the same, else the next of the
/// same method. Calls at the same time open their streams in any order.
fn pairs(first: &BTreeMap<u32, Call>, second: &BTreeMap<u32, Call>) -> BTreeMap<u32, u32> {
    let mut pairs = BTreeMap::new();
    let mut free: BTreeSet<u32> = second.keys().copied().collect();
    for with_words in [true, false] {
        let key = |call: &Call| {
            let sent = call.sent.iter().filter(|_| with_words);
            let words: Vec<_> = sent.map(|packet| (packet.kind, packet.data.clone())).collect();
            (call.path.clone(), words)
        };
        let mut like: HashMap<_, VecDeque<u32>> = HashMap::new();
        for stream in &free {
            like.entry(key(&second[stream])).or_default().push_back(*stream);
        }
        for (stream, call) in first {
            if !pairs.contains_key(stream)
                && let Some(other) = like.get_mut(&key(call)).and_then(VecDeque::pop_front)
            {
                free.remove(&other);
                pairs.insert(*stream, other);
            }
        }
    }
    pairs
}

/// A packet with what may differ made alike.
fn normal(packet: &CallFrame) -> CallFrame {
    let mut packet = packet.clone();
    if packet.kind == CallFrame::ERROR {
        let text = String::from_utf8_lossy(packet.data.get(8..).unwrap_or_default()).into_owned();
        if CODEC_ERRORS.iter().any(|begin| text.starts_with(begin)) {
            packet.data.truncate(8);
        }
    }
    packet
}

fn shown(packet: &CallFrame) -> String {
    let (name, ids) = (packet.name(), format!("{}/{}", packet.stream, packet.message));
    let (code, text) = match (packet.kind, packet.data.split_first_chunk::<8>()) {
        (CallFrame::ERROR, Some((code, text))) => (format!(", code {}", u64::from_be_bytes(*code)), text),
        _ => (String::new(), &packet.data[..]),
    };
    let text: String = String::from_utf8_lossy(text).chars().take(MAX_SHOWN).collect();
    format!("{name} {ids} of {} bytes{code} {text:?}", packet.data.len())
}
