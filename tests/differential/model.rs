//! What a program says, read by the rules of Go's libraries (`drpcwire/reader.go`, `drpcmanager/manager.go`,
//! `drpcstream/stream.go`), and what of it has no single outcome there. Shares no code with drpcd's reader: what that one
//! refuses is judged by this one.

use std::collections::BTreeSet;

use super::program::{METHODS, Step};

/// Most data of a packet.
const MAX_PACKET: u64 = 4 * 1024 * 1024;

/// Bytes of the longest varint.
const MAX_VARINT: usize = 10;

pub(super) const INVOKE: u8 = 1;
pub(super) const MESSAGE: u8 = 2;
pub(super) const ERROR: u8 = 3;
const CANCEL: u8 = 4;
const CLOSE: u8 = 5;
const CLOSE_SEND: u8 = 6;
const INVOKE_METADATA: u8 = 7;

/// A frame as it is on the wire.
pub(super) struct Frame<'b> {
    pub(super) kind: u8,
    done: bool,
    control: bool,
    pub(super) stream: u64,
    pub(super) message: u64,
    pub(super) data: &'b [u8],
}

/// What is at the front of some bytes.
pub(super) enum Front<'b> {
    /// A frame, and how many bytes it has.
    Whole(Frame<'b>, usize),
    /// Part of one. Its stream and its announced length, as far as they have come, and the bytes of its header.
    Part(Option<u64>, Option<u64>, usize),
    /// No number ends in so many bytes.
    Broken(usize),
}

/// Reads the frame at the front of `bytes`.
pub(super) fn front(bytes: &[u8]) -> Front<'_> {
    let mut at = 1;
    let mut numbers = [None; 3];
    for index in 0..3 {
        let mut number = 0_u64;
        let begin = at;
        loop {
            let Some(byte) = bytes.get(at) else {
                return Front::Part(numbers[0], None, at);
            };
            number |= u64::from(byte & 0x7f) << (7 * (at - begin));
            at += 1;
            if byte & 0x80 == 0 {
                break;
            }
            if at - begin == MAX_VARINT {
                return Front::Broken(at);
            }
        }
        numbers[index] = Some(number);
    }
    let [Some(stream), Some(message), Some(length)] = numbers else {
        return Front::Part(None, None, at);
    };
    let data = usize::try_from(length)
        .ok()
        .and_then(|length| at.checked_add(length))
        .and_then(|end| bytes.get(at..end));
    let Some(data) = data else {
        return Front::Part(Some(stream), Some(length), at);
    };
    let frame = Frame {
        kind: bytes[0] >> 1 & 0x3f,
        done: bytes[0] & 1 == 1,
        control: bytes[0] & 0x80 != 0,
        stream,
        message,
        data,
    };
    Front::Whole(frame, at + data.len())
}

/// A packet, and the step in which the last of it came.
struct Packet {
    kind: u8,
    control: bool,
    stream: u64,
    data: Vec<u8>,
    step: usize,
}

/// How what can be read ends.
#[derive(PartialEq, Eq)]
enum End {
    /// Perhaps inside a frame or a packet.
    Open,
    /// A rule was broken, in this step.
    Broken(usize),
    /// A frame announces more than a packet may have, in this step.
    TooLong(usize),
}

/// The packets of a program.
fn packets(steps: &[Step]) -> (Vec<Packet>, End) {
    let mut bytes = Vec::new();
    // Where each step ends.
    let mut ends = Vec::new();
    for Step(of_step) in steps {
        bytes.extend(of_step);
        ends.push(bytes.len());
    }
    let step_of = |last: usize| ends.partition_point(|end| *end < last);
    let (mut packets, mut at) = (Vec::new(), 0);
    let mut next = (1, 1);
    let mut unfinished: Option<((u64, u64), Packet)> = None;
    loop {
        let (frame, used) = match front(&bytes[at..]) {
            Front::Whole(frame, used) => (frame, used),
            Front::Part(_, Some(length), header) if length > MAX_PACKET => {
                return (packets, End::TooLong(step_of(at + header)));
            }
            Front::Part(..) => return (packets, End::Open),
            Front::Broken(used) => return (packets, End::Broken(step_of(at + used))),
        };
        at += used;
        let (id, step) = ((frame.stream, frame.message), step_of(at));
        if id < next {
            return (packets, End::Broken(step));
        }
        let packet = match unfinished.take() {
            Some((of, packet)) if of == id && packet.kind != frame.kind => {
                return (packets, End::Broken(step));
            }
            Some((of, packet)) if of == id => packet,
            _ => Packet {
                kind: frame.kind,
                control: false,
                stream: frame.stream,
                data: Vec::new(),
                step,
            },
        };
        next = id;
        let mut packet = Packet {
            control: packet.control || frame.control,
            step,
            ..packet
        };
        packet.data.extend(frame.data);
        if frame.done {
            next.1 = id.1.wrapping_add(1);
            packets.push(packet);
        } else {
            unfinished = Some((id, packet));
        }
    }
}

/// What Go's reader blocks on for good.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Block {
    /// A packet whose stream has no Invoke; whether it may be ignored.
    WithoutInvoke { control: bool },
    /// A message that nobody reads.
    Unread,
}

/// A call as far as it has come.
struct Call {
    stream: u64,
    method: String,
    /// The step of the last packet that makes its handler say something. What ends the call in a later step finds that said.
    said: Option<usize>,
    messages: usize,
    /// The handler of a chat was told to half-close.
    half_closes: bool,
    /// That of a chat was told to return.
    leaves: bool,
    /// The peer sends no more messages.
    received: bool,
    /// The peer has ended the call.
    over: bool,
}

impl Call {
    fn new(packet: &Packet) -> Self {
        let method = String::from_utf8_lossy(&packet.data).into_owned();
        // Others wait for a message.
        let speaks = method == "/t/Leave" || !is_method(&method);
        Self {
            stream: packet.stream,
            method,
            said: speaks.then_some(packet.step),
            messages: 0,
            half_closes: false,
            leaves: false,
            received: false,
            over: false,
        }
    }

    /// Takes a message; true when its handler may have returned before.
    fn message(&mut self, packet: &Packet) -> bool {
        let has = |word: &[u8]| packet.data.windows(word.len()).any(|part| part == word);
        let unread = match self.method.as_str() {
            "/t/Leave" => true,
            "/t/Join" => false,
            "/t/Chat" => self.leaves,
            method => is_method(method) && self.messages > 0,
        };
        self.messages += 1;
        self.said = Some(packet.step);
        self.half_closes |= has(b"half-close");
        self.leaves |= has(b"leave");
        unread
    }
}

/// Whether the script has it. Others are refused at once.
fn is_method(path: &str) -> bool {
    path.starts_with("/t/") && METHODS.iter().any(|(method, _)| *method == path)
}

/// What has no single outcome, or none in Go.
#[derive(Default)]
pub(super) struct Reading {
    /// Calls that something ends which came together with what their handlers answer: Go's reader races with them, and ours
    /// need not wait for them. How much of their answers comes is open.
    pub(super) ends_early: BTreeSet<u64>,
    /// At which stream Go's reader blocks, if the handlers do what the program tells them.
    pub(super) block: Option<(u64, Block)>,
    /// The call whose handler may have ended it before a packet that breaks a rule unless the call is over. Both came together, so
    /// that Go's reader, which mostly sees the packet first, may do either.
    pub(super) broken_or_over: Option<u64>,
    /// A frame announces more than a packet may have.
    pub(super) too_long: bool,
}

impl Reading {
    pub(super) fn new(steps: &[Step]) -> Self {
        let (packets, end) = packets(steps);
        let mut reading = Self {
            too_long: matches!(end, End::TooLong(_)),
            ..Self::default()
        };
        let mut call: Option<Call> = None;
        for packet in &packets {
            match &mut call {
                Some(call) if packet.stream < call.stream => {}
                Some(call) if packet.stream == call.stream => reading.own(call, packet),
                _ => {
                    reading.ends(call.as_ref(), packet.step);
                    match packet.kind {
                        INVOKE => call = Some(Call::new(packet)),
                        INVOKE_METADATA => {
                            if let Some(call) = &mut call {
                                call.over = true;
                            }
                        }
                        _ => {
                            let control = packet.control;
                            let block = (packet.stream, Block::WithoutInvoke { control });
                            reading.block.get_or_insert(block);
                            // Nothing that Go reads follows, and ours only what may be ignored.
                            if !control {
                                return reading;
                            }
                        }
                    }
                }
            }
        }
        if let End::Broken(step) | End::TooLong(step) = end {
            reading.ends(call.as_ref(), step);
        }
        reading
    }

    /// A packet of the call that is under way, or was last.
    fn own(&mut self, call: &mut Call, packet: &Packet) {
        if call.over {
            return;
        }
        match packet.kind {
            MESSAGE | CLOSE_SEND if call.received => {}
            MESSAGE => {
                if call.message(packet) {
                    self.block.get_or_insert((call.stream, Block::Unread));
                }
            }
            CLOSE_SEND => {
                // Ends a call whose handler has half-closed, and only that.
                if call.half_closes {
                    self.ends(Some(call), packet.step);
                }
                call.received = true;
                call.said = Some(packet.step);
            }
            ERROR | CANCEL | CLOSE => {
                self.ends(Some(call), packet.step);
                call.over = true;
            }
            kind if packet.control && kind != INVOKE => {}
            _ => {
                self.ends(Some(call), packet.step);
                if call.said == Some(packet.step) {
                    self.broken_or_over.get_or_insert(call.stream);
                }
            }
        }
    }

    /// Something in this step ends the call.
    fn ends(&mut self, call: Option<&Call>, step: usize) {
        if let Some(call) = call.filter(|call| call.said == Some(step)) {
            self.ends_early.insert(call.stream);
        }
    }
}
