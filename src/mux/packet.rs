//! From bytes to packets.
//!
//! Owns the bytes of a frame or packet that is not yet complete, and the order of packet ids. A packet that lies whole in
//! one chunk is a slice of it; only what spans chunks or frames is copied. Never allocates by an announced length, and
//! holds no memory between packets. Source of the rules: storj/drpc `drpcwire/reader.go:ReadPacketUsing`.

use bytes::{Buf, Bytes, BytesMut};

use super::error::ProtocolError;
use super::frame::{Header, Kind, MAX_HEADER, PacketId};

/// Most bytes of data in a packet, in either direction: storj/drpc's default `MaximumBufferSize`, which coder keeps.
pub const MAX_PACKET: usize = 4 * 1024 * 1024;

/// A complete packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Packet {
    pub(super) id: PacketId,
    pub(super) kind: Kind,
    /// Whether it may be ignored when its kind is unknown.
    pub(super) control: bool,
    pub(super) data: Bytes,
}

/// Assembles packets.
#[derive(Debug)]
pub(super) struct PacketReader {
    /// What has come and is not yet looked at.
    chunk: Bytes,
    /// The beginning of a header that spans chunks.
    header: HeaderPart,
    /// Lowest id that may still come.
    next: PacketId,
    packet: Option<Partial>,
    frame: Option<Frame>,
}

/// The packet in progress.
#[derive(Debug)]
struct Partial {
    id: PacketId,
    kind: Kind,
    control: bool,
    data: BytesMut,
}

/// The frame in progress, which belongs to the packet in progress.
#[derive(Clone, Copy, Debug)]
struct Frame {
    done: bool,
    remaining: usize,
}

impl PacketReader {
    pub(super) fn new() -> Self {
        Self {
            chunk: Bytes::new(),
            header: HeaderPart::default(),
            next: PacketId {
                stream: 1,
                message: 1,
            },
            packet: None,
            frame: None,
        }
    }

    /// Adds bytes behind those that are not yet read.
    ///
    /// Unread bytes move once into a buffer of their own, which then grows by doubling: a peer that sends many small
    /// chunks to a reader that waits costs no more than one that sends few.
    pub(super) fn push(&mut self, chunk: Bytes) {
        if self.chunk.is_empty() {
            self.chunk = chunk;
        } else if !chunk.is_empty() {
            let mut joined = match std::mem::take(&mut self.chunk).try_into_mut() {
                Ok(own) => own,
                Err(shared) => BytesMut::from(&shared[..]),
            };
            joined.extend_from_slice(&chunk);
            self.chunk = joined.freeze();
        }
    }

    /// Bytes that were pushed and not yet read.
    pub(super) fn buffered(&self) -> usize {
        self.chunk.len()
    }

    /// Bytes of the packet in progress.
    pub(super) fn assembling(&self) -> usize {
        self.packet.as_ref().map_or(0, |packet| packet.data.len())
    }

    /// Forgets what was not read.
    pub(super) fn clear(&mut self) {
        self.chunk = Bytes::new();
        self.packet = None;
    }

    /// The next complete packet; `None` when more bytes are needed. After an error the reader must not be used.
    pub(super) fn next(&mut self) -> Result<Option<Packet>, ProtocolError> {
        loop {
            let frame = match self.frame {
                Some(frame) => frame,
                None => match self.next_frame()? {
                    Some(frame) => frame,
                    None => return Ok(None),
                },
            };
            let here = frame.remaining.min(self.chunk.len());
            let piece = self.chunk.split_to(here);
            let remaining = frame.remaining - here;
            let whole = remaining == 0 && frame.done;
            self.frame = (remaining > 0).then_some(Frame { remaining, ..frame });

            let Some(packet) = &mut self.packet else {
                // A frame belongs to a packet, see `next_frame`.
                return Ok(None);
            };
            if whole {
                let Partial {
                    id,
                    kind,
                    control,
                    mut data,
                } = match self.packet.take() {
                    Some(packet) => packet,
                    None => return Ok(None),
                };
                let data = if data.is_empty() {
                    piece
                } else {
                    data.extend_from_slice(&piece);
                    data.freeze()
                };
                self.next = PacketId {
                    message: id.message.wrapping_add(1),
                    ..id
                };
                return Ok(Some(Packet {
                    id,
                    kind,
                    control,
                    data,
                }));
            }
            packet.data.extend_from_slice(&piece);
            if remaining > 0 {
                return Ok(None);
            }
        }
    }

    /// Reads a header and applies the rules of ids, kinds and sizes to it.
    fn next_frame(&mut self) -> Result<Option<Frame>, ProtocolError> {
        let Some(header) = self.header.take(&mut self.chunk)? else {
            return Ok(None);
        };
        if header.id < self.next {
            return Err(ProtocolError::IdMonotonicity {
                frame: header.id,
                last: self.next,
            });
        }
        let packet = match &mut self.packet {
            Some(packet) if packet.id == header.id => {
                if packet.kind != header.kind {
                    return Err(ProtocolError::kind_change(header.kind, packet.kind));
                }
                packet.control |= header.control;
                packet
            }
            // An unfinished packet before a new id is dropped: that is how a sender interrupts itself.
            packet => {
                self.next = header.id;
                let Header {
                    id, kind, control, ..
                } = header;
                packet.insert(Partial {
                    id,
                    kind,
                    control,
                    data: BytesMut::new(),
                })
            }
        };
        let length = header
            .length
            .saturating_add(u64::try_from(packet.data.len()).unwrap_or(u64::MAX));
        let remaining = usize::try_from(header.length)
            .ok()
            .filter(|_| length <= MAX_PACKET as u64);
        match remaining {
            Some(remaining) => {
                let frame = Frame {
                    done: header.done,
                    remaining,
                };
                self.frame = Some(frame);
                Ok(Some(frame))
            }
            None => Err(ProtocolError::DataOverflow { length }),
        }
    }
}

/// The bytes of a header that came in an earlier chunk.
#[derive(Debug, Default)]
struct HeaderPart {
    bytes: [u8; MAX_HEADER],
    len: u8,
}

impl HeaderPart {
    /// Takes a header from what is held and the front of `chunk`; `None` after taking a part of one.
    fn take(&mut self, chunk: &mut Bytes) -> Result<Option<Header>, ProtocolError> {
        let held = usize::from(self.len);
        if held == 0 {
            if let Some((header, len)) = Header::decode(chunk)? {
                chunk.advance(len);
                return Ok(Some(header));
            }
        }
        let more = chunk.len().min(MAX_HEADER - held);
        self.bytes[held..held + more].copy_from_slice(&chunk[..more]);
        match Header::decode(&self.bytes[..held + more])? {
            Some((header, len)) => {
                chunk.advance(len - held);
                self.len = 0;
                Ok(Some(header))
            }
            None => {
                // A header is never longer than MAX_HEADER, so all of the chunk was taken.
                chunk.advance(more);
                self.len = u8::try_from(held + more).unwrap_or(0);
                Ok(None)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    type Verdict = (Vec<(u64, u64, Kind, bool, Vec<u8>)>, Option<String>);

    /// Reads all of `bytes`, cut into chunks after each of `cuts`.
    fn read(bytes: &[u8], cuts: &[usize]) -> Verdict {
        let mut reader = PacketReader::new();
        let mut packets = Vec::new();
        let mut start = 0;
        for &end in cuts.iter().chain([&bytes.len()]) {
            reader.push(Bytes::copy_from_slice(&bytes[start..end]));
            start = end;
            loop {
                match reader.next() {
                    Ok(Some(Packet {
                        id,
                        kind,
                        control,
                        data,
                    })) => {
                        packets.push((id.stream, id.message, kind, control, data.to_vec()));
                    }
                    Ok(None) => break,
                    Err(error) => return (packets, Some(error.to_string())),
                }
            }
        }
        (packets, None)
    }

    fn frame(kind: Kind, (stream, message): (u64, u64), done: bool, data: &[u8]) -> Vec<u8> {
        let id = PacketId { stream, message };
        let mut out = Vec::new();
        Header {
            kind,
            control: false,
            done,
            id,
            length: data.len() as u64,
        }
        .encode(&mut out);
        out.extend_from_slice(data);
        out
    }

    fn message(id: (u64, u64), done: bool, data: &[u8]) -> Vec<u8> {
        frame(Kind::MESSAGE, id, done, data)
    }

    #[test]
    fn wire_003_two_frames_are_one_message() {
        let bytes = [0x04, 1, 2, 2, b'h', b'e', 0x05, 1, 2, 3, b'l', b'l', b'o'];
        assert_eq!(
            read(&bytes, &[]).0,
            [(1, 2, Kind::MESSAGE, false, b"hello".to_vec())]
        );
    }

    #[test]
    fn wire_005_empty_frames_are_concatenated() {
        let id = (1, 2);
        let bytes = [
            message(id, false, b""),
            message(id, false, b"x"),
            message(id, true, b""),
        ]
        .concat();
        assert_eq!(read(&bytes, &[]).0, [(1, 2, Kind::MESSAGE, false, b"x".to_vec())]);
    }

    #[test]
    fn wire_006_a_new_id_drops_the_unfinished_packet() {
        let bytes = [message((1, 2), false, b"old"), message((1, 3), true, b"new")].concat();
        assert_eq!(
            read(&bytes, &[]).0,
            [(1, 3, Kind::MESSAGE, false, b"new".to_vec())]
        );
    }

    #[test]
    fn wire_008_one_packet_has_one_kind() {
        let bytes = [
            message((1, 2), false, b"x"),
            frame(Kind::CLOSE_SEND, (1, 2), true, b""),
        ]
        .concat();
        let expected = "protocol error: packet kind change (fr:CloseSend pkt:Message)";
        assert_eq!(read(&bytes, &[]).1.unwrap(), expected);
    }

    #[test]
    fn wire_009_to_013_ids_never_go_down() {
        let violation = |frame, last| {
            Some(format!(
                "protocol error: id monotonicity violation (fr:{frame} r:{last})"
            ))
        };
        let cases = [
            (
                "repeated",
                [message((1, 1), true, b""), message((1, 1), true, b"")].concat(),
                "<id s:1 m:1>",
                "<id s:1 m:2>",
            ),
            (
                "lower message",
                [message((1, 6), true, b""), message((1, 4), true, b"")].concat(),
                "<id s:1 m:4>",
                "<id s:1 m:7>",
            ),
            (
                "dropped packet",
                [
                    message((1, 2), false, b""),
                    message((1, 3), false, b""),
                    message((1, 2), true, b""),
                ]
                .concat(),
                "<id s:1 m:2>",
                "<id s:1 m:3>",
            ),
            (
                "stream 0",
                message((0, 1), true, b""),
                "<id s:0 m:1>",
                "<id s:1 m:1>",
            ),
            (
                "message 0 of stream 1",
                message((1, 0), true, b""),
                "<id s:1 m:0>",
                "<id s:1 m:1>",
            ),
            (
                "lower stream",
                [message((3, 1), true, b""), message((2, 9), true, b"")].concat(),
                "<id s:2 m:9>",
                "<id s:3 m:2>",
            ),
        ];
        for (name, bytes, frame, last) in cases {
            assert_eq!(read(&bytes, &[]).1, violation(frame, last), "{name}");
        }
    }

    #[test]
    fn wire_014_and_015_ids_may_start_anywhere_above() {
        assert_eq!(read(&message((2, 0), true, b"x"), &[]).0.len(), 1);
        let bytes = [
            message((7, 3), true, b""),
            message((7, 9), true, b""),
            message((7, 100), true, b""),
        ]
        .concat();
        assert_eq!(read(&bytes, &[]), (read(&bytes, &[]).0, None));
        assert_eq!(read(&bytes, &[]).0.len(), 3);
    }

    #[test]
    fn wire_017_a_number_without_end_is_refused() {
        let bytes = [&[0x05][..], &[0x80; 10]].concat();
        assert_eq!(read(&bytes, &[]).1.unwrap(), "protocol error: varint too long");
        assert_eq!(
            read(&bytes, &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10]).1.unwrap(),
            "protocol error: varint too long"
        );
    }

    #[test]
    fn wire_021_a_packet_is_control_when_any_of_its_frames_is() {
        let bytes = [0x90, 1, 2, 0, 0x11, 1, 2, 0];
        assert_eq!(read(&bytes, &[]).0, [(1, 2, Kind::unknown(8), true, Vec::new())]);
    }

    #[test]
    fn wire_081_and_082_four_mib_is_the_limit() {
        let data = vec![7; MAX_PACKET];
        let whole = message((1, 1), true, &data);
        let more_behind = [whole.clone(), message((1, 2), true, &[1; 1000])].concat();
        let split = [
            message((1, 1), false, &data[..1]),
            message((1, 1), true, &data[1..]),
        ]
        .concat();
        assert_eq!(read(&whole, &[]).0.len(), 1);
        assert_eq!(read(&more_behind, &[]).0.len(), 2);
        assert_eq!(read(&split, &[1000, 70_000]).0[0].4.len(), MAX_PACKET);

        let overflow = Some("protocol error: data overflow (len:4194305)".to_owned());
        let one_more = vec![7; MAX_PACKET + 1];
        let split = [message((1, 1), false, &data), message((1, 1), true, b"x")].concat();
        assert_eq!(read(&message((1, 1), true, &one_more), &[]).1, overflow);
        assert_eq!(read(&split, &[]).1, overflow);
    }

    #[test]
    fn wire_083_a_declared_length_is_refused_before_its_data_comes() {
        let header = [0x05, 1, 1, 0xff, 0xff, 0xff, 0xff, 0x0f];
        assert_eq!(
            read(&header, &[]).1.unwrap(),
            "protocol error: data overflow (len:4294967295)"
        );
    }

    #[test]
    fn a_whole_packet_is_a_slice_of_its_chunk() {
        let chunk = Bytes::from(message((1, 1), true, b"data"));
        let mut reader = PacketReader::new();
        reader.push(chunk.clone());
        let packet = reader.next().unwrap().unwrap();
        assert_eq!(packet.data.as_ptr(), chunk[4..].as_ptr());
    }

    #[test]
    fn message_ids_wrap_as_they_do_in_go() {
        let bytes = [message((1, u64::MAX), true, b""), message((1, 1), true, b"")].concat();
        assert_eq!(read(&bytes, &[]).0.len(), 2);
    }

    proptest! {
        #[test]
        fn wire_002_chopping_changes_nothing(
            frames in proptest::collection::vec((1_u8..9, 1_u64..3, 1_u64..4, any::<bool>(), proptest::collection::vec(any::<u8>(), 0..40)), 0..12),
            cuts in proptest::collection::vec(0_usize..600, 0..20),
            tail in proptest::collection::vec(any::<u8>(), 0..12),
        ) {
            let mut bytes: Vec<u8> = frames
                .iter()
                .flat_map(|(kind, stream, id, done, data)| frame(Kind::unknown(*kind), (*stream, *id), *done, data))
                .collect();
            bytes.extend(tail);
            let mut cuts: Vec<_> = cuts.into_iter().filter(|&cut| cut < bytes.len()).collect();
            cuts.sort_unstable();
            let every: Vec<_> = (1..bytes.len()).collect();
            let whole = read(&bytes, &[]);
            prop_assert_eq!(&read(&bytes, &cuts), &whole);
            prop_assert_eq!(&read(&bytes, &every), &whole);
        }
    }
}
