//! Programs: what a peer sends, made from a seed.

use std::fmt;

use proptest::prelude::Rng as _;
use proptest::test_runner::{RngAlgorithm, TestRng};

use super::support::peer::{
    cancel, close, close_send, control, error, invoke, metadata, part, shown, text, value,
};
use super::support::raw::{DATA, FIN, RST, call, drpc, frame};

/// Bytes that are sent at once.
#[derive(Clone, Debug)]
pub(super) struct Step(pub(super) Vec<u8>);

#[derive(Clone, Debug)]
pub(super) enum Program {
    /// On one stream.
    Transport(Vec<Step>),
    /// Frames of a session of their own.
    Session(Vec<Step>),
}

impl fmt::Display for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (kind, steps) = match self {
            Self::Transport(steps) => ("transport", steps),
            Self::Session(steps) => ("session", steps),
        };
        let steps: Vec<_> = steps.iter().map(|Step(bytes)| shown(bytes)).collect();
        write!(f, "{kind}\n  {}", steps.join("\n  "))
    }
}

struct Random(TestRng);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        usize::try_from(self.0.next_u64() % n as u64).unwrap()
    }

    fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())]
    }

    fn bytes(&mut self, most: usize) -> Vec<u8> {
        (0..self.below(most + 1))
            .map(|_| u8::try_from(self.below(256)).unwrap())
            .collect()
    }
}

/// Methods, and what is sent to them.
pub(super) const METHODS: [(&str, &[&str]); 14] = [
    ("/t/Echo", &["hi", ""]),
    ("/t/Fail", &["0 boom", "7 no", "12 "]),
    ("/t/FailLong", &["5000"]),
    ("/t/Nothing", &["x"]),
    ("/t/Unimplemented", &["x"]),
    ("/t/Repeat", &["10", "70000"]),
    ("/t/Metadata", &["x"]),
    ("/t/Count", &["3", "0", "30 5000"]),
    ("/t/CountFail", &["2 9 enough"]),
    ("/t/CountClose", &["2"]),
    ("/t/Join", &["a", "b"]),
    (
        "/t/Chat",
        &["a", "b", "close", "half-close", "fail 3 no", "leave", "count 3"],
    ),
    ("/t/Leave", &["x"]),
    ("/no/Such", &["x"]),
];

impl Program {
    pub(super) fn new(seed: u64) -> Self {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&seed.to_le_bytes());
        let mut random = Random(TestRng::from_seed(RngAlgorithm::ChaCha, &bytes));
        match random.below(8) {
            0 => Self::Session(session(&mut random)),
            1..=2 => Self::Transport(mutated(&mut random)),
            _ => Self::Transport(operations(&mut random).into_iter().map(Step).collect()),
        }
    }
}

/// Packets that mean something, each a step of its own so that none can overtake the handler that it finds, in an order that
/// may not.
fn operations(random: &mut Random) -> Vec<Vec<u8>> {
    let (mut sid, mut mid) = (1, 1);
    let mut steps = Vec::new();
    let mut method = random.pick(&METHODS);
    if !random.one_in(12) {
        if random.one_in(6) {
            steps.push(metadata(
                sid,
                mid,
                random.pick(&[&b"\x0a\x06\x0a\x01k\x12\x01v"[..], b"", b"garbage"]),
            ));
            mid += 1;
        }
        steps.push(invoke(sid, mid, method.0));
        mid += 1;
    }
    for _ in 0..=random.below(6) {
        match random.below(24) {
            0..=9 => steps.push(text(sid, mid, random.pick(method.1))),
            10 => {
                let message = value(random.pick(method.1));
                let (first, last) = message.split_at(random.below(message.len() + 1));
                steps.push([part(2, sid, mid, first), drpc(2, true, sid, mid, last)].concat());
            }
            11..=14 => steps.push(close_send(sid, mid)),
            15 => steps.push(close(sid, mid)),
            16 => steps.push(error(sid, mid, random.below(20) as u64, "no")),
            17 => steps.push(drpc(3, true, sid, mid, &random.bytes(7))),
            18 => steps.push(cancel(sid, mid)),
            19 => steps.push(control(cancel(sid, mid))),
            20 => {
                let kind = random.pick(&[0, 7, 8, 40, 63]);
                let packet = drpc(kind, true, sid, mid, b"");
                steps.push(if random.one_in(3) { packet } else { control(packet) });
            }
            21 => steps.push(part(2, sid, mid, b"unfinished")),
            22 => {
                // The next call of the transport.
                sid += 1;
                mid = 1;
                method = random.pick(&METHODS);
                steps.push(invoke(sid, mid, method.0));
            }
            _ => {
                // Ids that leave gaps, or go down.
                mid = if random.one_in(4) {
                    mid.saturating_sub(2)
                } else {
                    mid + 3
                };
                steps.push(text(sid, mid, random.pick(method.1)));
            }
        }
        mid += 1;
    }
    for step in &mut steps {
        if random.one_in(16) {
            lengthen(random, step);
        }
        if random.one_in(24) {
            // The control bit means nothing to kinds that are known.
            step[0] |= 0x80;
        }
    }
    steps
}

/// Writes a number of the first header in more bytes than it needs.
fn lengthen(random: &mut Random, packet: &mut Vec<u8>) {
    let last =
        |packet: &[u8], from: usize| from + packet[from..].iter().position(|byte| byte & 0x80 == 0).unwrap();
    let mut begin = 1;
    for _ in 0..random.below(3) {
        begin = last(packet, begin) + 1;
    }
    let end = last(packet, begin);
    // Ten bytes is the most that a number may have.
    let more = 1 + random.below(9 - (end - begin));
    packet[end] |= 0x80;
    let rest = packet.split_off(end + 1);
    packet.extend(std::iter::repeat_n(0x80, more - 1).chain([0]));
    packet.extend(rest);
}

/// The same with wrong bytes, in chunks that have nothing to do with packets.
fn mutated(random: &mut Random) -> Vec<Step> {
    let mut bytes = operations(random).concat();
    bytes.truncate(20_000);
    for _ in 0..=random.below(3) {
        let at = random.below(bytes.len().clamp(1, 64));
        match random.below(4) {
            0 if !bytes.is_empty() => bytes[at] ^= 1 << random.below(8),
            1 => bytes.insert(at, u8::try_from(random.below(256)).unwrap()),
            2 if !bytes.is_empty() => {
                bytes.remove(at);
            }
            _ => bytes.truncate(bytes.len() - random.below(bytes.len().min(8) + 1)),
        }
    }
    let mut steps = Vec::new();
    while !bytes.is_empty() {
        let length = 1 + random.below(bytes.len());
        steps.push(Step(bytes.drain(..length).collect()));
    }
    steps
}

/// Streams that frames of a session name. Session frames are of the first.
pub(super) const STREAMS: [u32; 6] = [0, 1, 2, 3, 5, 7];

/// yamux frames, each a step of its own.
fn session(random: &mut Random) -> Vec<Step> {
    (0..=random.below(8))
        .map(|_| {
            let kind = random.pick(&[0, 0, 0, 1, 1, 1, 1, 2, 3, 4]);
            let flags = random.pick(&[0, 0, 1, 1, 1, 2, 4, 4, 8, 3, 5, 6, 0x10, 0x8001]);
            let id = random.pick(&[1, 1, 1, 3, 3, 5, 7, 0, 2]);
            let mut bytes = match kind {
                // A call whose answer nothing cuts off, or anything.
                DATA if flags & (FIN | RST) == 0 && random.one_in(3) => {
                    frame(DATA, flags, id, 0, &call(1, "/t/Echo", &value("hi")))
                }
                DATA => frame(DATA, flags, id, 0, &random.bytes(20)),
                // Pings and goodbyes are of the session.
                2 | 3 => frame(kind, flags, 0, u32::try_from(random.below(4)).unwrap(), &[]),
                _ => frame(kind, flags, id, u32::try_from(random.below(1_000)).unwrap(), &[]),
            };
            if random.one_in(40) {
                bytes[0] = 1;
            }
            Step(bytes)
        })
        .collect()
}
