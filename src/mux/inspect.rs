//! What passes over a session, for people: its bytes, cut into the headers and frames that they are, and nothing lost.
//!
//! Owns the cutting. Judges nothing: what is no header or frame stays bytes. For tools; sessions never use it.

use std::collections::HashMap;

use bytes::BytesMut;

use super::frame::{Header as FrameHeader, Kind, PacketId};
use super::session::header::{HEADER_LEN, Header};

/// Most bytes of one unfinished frame that are kept to recognise it: a whole packet of the greatest size, and some.
const MAX_UNFINISHED: usize = 8 * 1024 * 1024;

/// Most streams that are followed at once.
const MAX_FOLLOWED: usize = 65_536;

/// A yamux header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MuxFrame {
    /// 0 data, 1 window, 2 ping, 3 go away.
    pub kind: u8,
    /// 1 SYN, 2 ACK, 4 FIN, 8 RST; others mean nothing.
    pub flags: u16,
    /// The stream, 0 for the session.
    pub stream: u32,
    /// Bytes that follow, credit, value of a ping, or code.
    pub length: u32,
}

impl MuxFrame {
    /// Kind of a frame with payload.
    pub const DATA: u8 = 0;
    /// Kind of a frame that gives credit.
    pub const WINDOW: u8 = 1;
    /// Kind of a ping and its answer.
    pub const PING: u8 = 2;
    /// Opens a stream, asks for an answer to a ping.
    pub const SYN: u16 = 1;
    /// Accepts a stream, answers a ping.
    pub const ACK: u16 = 2;
    /// Half-closes a stream.
    pub const FIN: u16 = 4;
    /// Ends a stream.
    pub const RST: u16 = 8;

    /// Its bytes.
    pub fn encode(&self) -> [u8; HEADER_LEN] {
        let [f0, f1] = self.flags.to_be_bytes();
        let [s0, s1, s2, s3] = self.stream.to_be_bytes();
        let [l0, l1, l2, l3] = self.length.to_be_bytes();
        [0, self.kind, f0, f1, s0, s1, s2, s3, l0, l1, l2, l3]
    }

    fn decode(bytes: [u8; HEADER_LEN]) -> Option<Self> {
        let header = Header::decode(bytes).ok()?;
        Some(Self {
            kind: bytes[1],
            flags: u16::from_be_bytes([bytes[2], bytes[3]]),
            stream: header.stream.0,
            length: header.length,
        })
    }

    fn ends(&self) -> bool {
        self.flags & (Self::FIN | Self::RST) != 0
    }
}

/// A DRPC frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CallFrame {
    /// 1 Invoke, 2 Message, 3 Error, 4 Cancel, 5 Close, 6 CloseSend, 7 InvokeMetadata; others have no meaning.
    pub kind: u8,
    /// May be ignored when its kind is unknown.
    pub control: bool,
    /// The last of its packet.
    pub done: bool,
    /// The call's number within its transport.
    pub stream: u64,
    /// The packet's number within the call and direction.
    pub message: u64,
    /// What it carries.
    pub data: Vec<u8>,
}

impl CallFrame {
    /// Kind of the packet that names the method.
    pub const INVOKE: u8 = 1;
    /// Kind of the packets that carry messages.
    pub const MESSAGE: u8 = 2;
    /// Kind of the packet that carries an error.
    pub const ERROR: u8 = 3;
    /// Kind of the packet that ends a call.
    pub const CLOSE: u8 = 5;
    /// Kind of the packet that ends one direction of a call.
    pub const CLOSE_SEND: u8 = 6;

    /// Whether it is the last that its sender says in a call: an error, Close or CloseSend.
    pub fn is_last_word(&self) -> bool {
        matches!(self.kind, Self::ERROR | Self::CLOSE | Self::CLOSE_SEND)
    }

    /// Names of kinds that have a meaning, by number.
    const NAMES: [&str; 8] = [
        "kind-0",
        "invoke",
        "message",
        "error",
        "cancel",
        "close",
        "close-send",
        "metadata",
    ];

    /// Name of its kind.
    pub fn name(&self) -> String {
        let known = Self::NAMES.get(usize::from(self.kind));
        known.map_or_else(|| format!("kind-{}", self.kind), |name| (*name).to_owned())
    }

    /// The kind of a name.
    pub fn kind_of(name: &str) -> Option<u8> {
        let known = (0..).zip(Self::NAMES).find(|(_, known)| *known == name);
        let unknown = || name.strip_prefix("kind-")?.parse().ok().filter(|kind| *kind < 64);
        known.map(|(kind, _)| kind).or_else(unknown)
    }

    /// Its bytes, with numbers as short as they can be.
    pub fn encode(&self) -> Vec<u8> {
        let header = FrameHeader {
            kind: Kind::numbered(self.kind),
            control: self.control,
            done: self.done,
            id: PacketId {
                stream: self.stream,
                message: self.message,
            },
            // A length of memory always fits.
            length: self.data.len() as u64,
        };
        let mut out = BytesMut::new();
        header.encode(&mut out);
        out.extend_from_slice(&self.data);
        out.into()
    }

    /// The frame at the front of `bytes` and how many bytes it has, if all of it is there.
    fn decode(bytes: &[u8]) -> Option<(Self, usize)> {
        let (header, used) = FrameHeader::decode(bytes).ok()??;
        let end = used.checked_add(usize::try_from(header.length).ok()?)?;
        let frame = Self {
            kind: header.kind.number(),
            control: header.control,
            done: header.done,
            stream: header.id.stream,
            message: header.id.message,
            data: bytes.get(used..end)?.to_vec(),
        };
        Some((frame, end))
    }
}

/// A part of what passed. All parts after each other are what passed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    /// A yamux header.
    Mux(MuxFrame),
    /// A DRPC frame on a yamux stream.
    Call(u32, CallFrame),
    /// Anything else: a part of a header or frame, on a stream if it is its payload.
    Bytes(Option<u32>, Vec<u8>),
}

impl Piece {
    /// Its bytes.
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Self::Mux(frame) => frame.encode().to_vec(),
            Self::Call(_, frame) => frame.encode(),
            Self::Bytes(_, bytes) => bytes.clone(),
        }
    }
}

/// One direction of a session.
#[derive(Debug, Default)]
pub struct Inspector {
    /// Bytes of a header whose rest is to come.
    header: Vec<u8>,
    /// The stream whose payload comes, and how much of it.
    payload: Option<(u32, usize)>,
    /// The unfinished frame of each stream.
    unfinished: HashMap<u32, Vec<u8>>,
    /// What came was no yamux, or too much.
    lost: bool,
}

impl Inspector {
    /// Whether the rest of a yamux frame is to come, so that no other frame may come before it.
    pub fn is_mid_frame(&self) -> bool {
        !self.header.is_empty() || self.payload.is_some()
    }

    /// Whether what came is not understood any more.
    pub fn is_lost(&self) -> bool {
        self.lost
    }

    /// Takes what passed in one message. The second list has each frame that is complete now, also those that came in
    /// several parts.
    pub fn push(&mut self, mut bytes: &[u8]) -> (Vec<Piece>, Vec<(u32, CallFrame)>) {
        let (mut pieces, mut frames) = (Vec::new(), Vec::new());
        while !bytes.is_empty() {
            if self.lost {
                pieces.push(Piece::Bytes(None, bytes.to_vec()));
                break;
            }
            if let Some((stream, left)) = self.payload {
                let (now, rest) = bytes.split_at(left.min(bytes.len()));
                self.payload = (now.len() < left).then(|| (stream, left - now.len()));
                self.on_payload(stream, now, &mut pieces, &mut frames);
                bytes = rest;
                continue;
            }
            let (now, rest) = bytes.split_at((HEADER_LEN - self.header.len()).min(bytes.len()));
            bytes = rest;
            let whole = now.len() == HEADER_LEN;
            self.header.extend_from_slice(now);
            let decoded = self.header[..].try_into().ok().map(MuxFrame::decode);
            match decoded {
                None => pieces.push(Piece::Bytes(None, now.to_vec())),
                Some(frame) => {
                    self.header.clear();
                    self.lost = frame.is_none();
                    pieces.push(match frame {
                        Some(frame) if whole => Piece::Mux(frame),
                        _ => Piece::Bytes(None, now.to_vec()),
                    });
                    self.on_header(frame);
                }
            }
        }
        (pieces, frames)
    }

    fn on_header(&mut self, frame: Option<MuxFrame>) {
        let Some(frame) = frame else { return };
        if frame.kind == MuxFrame::DATA && frame.length > 0 {
            self.payload = usize::try_from(frame.length)
                .ok()
                .map(|length| (frame.stream, length));
        } else if frame.ends() {
            self.unfinished.remove(&frame.stream);
        }
    }

    fn on_payload(
        &mut self,
        stream: u32,
        mut payload: &[u8],
        pieces: &mut Vec<Piece>,
        frames: &mut Vec<(u32, CallFrame)>,
    ) {
        if self.unfinished.len() >= MAX_FOLLOWED {
            self.lost = true;
        }
        let unfinished = self.unfinished.entry(stream).or_default();
        while !payload.is_empty() {
            let had = unfinished.len();
            unfinished.extend_from_slice(payload);
            let Some((frame, used)) = CallFrame::decode(unfinished) else {
                pieces.push(Piece::Bytes(Some(stream), payload.to_vec()));
                self.lost |= unfinished.len() > MAX_UNFINISHED;
                return;
            };
            let (now, rest) = payload.split_at(used - had);
            pieces.push(if had == 0 && frame.encode() == now {
                Piece::Call(stream, frame.clone())
            } else {
                Piece::Bytes(Some(stream), now.to_vec())
            });
            frames.push((stream, frame));
            unfinished.clear();
            payload = rest;
        }
        self.unfinished.remove(&stream);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn call(stream: u64) -> Vec<u8> {
        let frame = |kind, message, data: &[u8]| CallFrame {
            kind,
            control: false,
            done: true,
            stream,
            message,
            data: data.to_vec(),
        };
        [
            frame(1, 1, b"/t/Echo"),
            frame(2, 2, b"\x0a\x02hi"),
            frame(6, 3, b""),
        ]
        .iter()
        .flat_map(CallFrame::encode)
        .collect()
    }

    fn session() -> Vec<u8> {
        let payload = call(1);
        let length = u32::try_from(payload.len()).unwrap();
        let open = MuxFrame {
            kind: MuxFrame::DATA,
            flags: MuxFrame::SYN,
            stream: 1,
            length,
        };
        let fin = MuxFrame {
            kind: MuxFrame::WINDOW,
            flags: MuxFrame::FIN,
            stream: 1,
            length: 0,
        };
        [&open.encode()[..], &payload, &fin.encode()].concat()
    }

    #[test]
    fn whole_frames_are_told_apart() {
        let (pieces, frames) = Inspector::default().push(&session());
        assert_eq!(frames.len(), 3);
        assert!(
            matches!(
                pieces[..],
                [
                    Piece::Mux(_),
                    Piece::Call(1, _),
                    Piece::Call(1, _),
                    Piece::Call(1, _),
                    Piece::Mux(_)
                ]
            ),
            "{pieces:?}"
        );
    }

    proptest! {
        #[test]
        fn nothing_is_lost_however_it_is_cut(
            mut bytes in prop::collection::vec(any::<u8>(), 0..200),
            good in any::<bool>(),
            cuts in prop::collection::vec(1_usize..40, 0..40),
        ) {
            if good {
                bytes = [session(), session()].concat();
            }
            let mut inspector = Inspector::default();
            let (mut rest, mut seen, mut frames) = (&bytes[..], Vec::new(), 0);
            let mut cuts = cuts.into_iter();
            while !rest.is_empty() {
                let (now, later) = rest.split_at(cuts.next().unwrap_or(usize::MAX).min(rest.len()));
                let (pieces, completed) = inspector.push(now);
                seen.extend(pieces.iter().flat_map(Piece::encode));
                frames += completed.len();
                rest = later;
            }
            prop_assert_eq!(&seen, &bytes);
            if good {
                prop_assert_eq!(frames, 6);
            }
        }
    }
}
