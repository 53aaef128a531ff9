//! From bytes to packets.
//!
//! Owns the bytes of a frame or packet that is not yet complete, and the order of packet ids. A packet that lies whole in
//! one chunk is a slice of it; only what spans chunks or frames is copied. Never allocates by an announced length, and
//! holds no memory between packets. Source of the rules: storj/drpc `drpcwire/reader.go:ReadPacketUsing`.
//!
//! A frame that breaks a rule is refused once all of it has come, as there: until then the peer may still leave, which is
//! an ordinary end. Only a frame that can never fit is refused by its header.

use bytes::{Bytes, BytesMut};

use super::error::ProtocolError;
use super::frame::{Header, Kind, MAX_HEADER, PacketId};

#[cfg(test)]
mod tests;

/// Most bytes of data in a packet, in either direction: storj/drpc's default `MaximumBufferSize`, which coder keeps.
pub const MAX_PACKET: usize = 4 * 1024 * 1024;

/// Unread bytes may be in a buffer of so many times their size. Copies of ever less cost no more than was read meanwhile.
const MAX_WASTE: usize = 4;

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
    /// Bytes of the buffer that is `chunk`'s alone; 0 when it is a slice of what came in together with others.
    own: usize,
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

/// The frame in progress.
#[derive(Clone, Copy, Debug)]
struct Frame {
    done: bool,
    /// Bytes that are still to come.
    remaining: usize,
    /// The rule that it breaks; if none, it belongs to the packet in progress.
    broken: Option<ProtocolError>,
}

impl PacketReader {
    pub(super) fn new() -> Self {
        Self {
            chunk: Bytes::new(),
            own: 0,
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
            self.own = 0;
        } else if !chunk.is_empty() {
            let mut joined = match std::mem::take(&mut self.chunk).try_into_mut() {
                Ok(own) => own,
                Err(shared) => BytesMut::from(&shared[..]),
            };
            joined.extend_from_slice(&chunk);
            self.own = joined.capacity();
            self.chunk = joined.freeze();
        }
    }

    /// Copies what stays unread out of a buffer of which it is but a part: it must not keep in memory what nobody counts.
    pub(super) fn detach(&mut self) {
        let len = self.chunk.len();
        if len > 0 && (self.own == 0 || self.own > MAX_WASTE * len) {
            self.chunk = Bytes::copy_from_slice(&self.chunk);
            self.own = len;
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
            let piece = take(&mut self.chunk, frame.remaining);
            let remaining = frame.remaining - piece.len();
            self.frame = (remaining > 0).then_some(Frame { remaining, ..frame });

            match (frame.broken, &mut self.packet) {
                (Some(error), _) if remaining == 0 => return Err(error),
                (None, Some(packet)) if remaining == 0 && frame.done => {
                    let Partial {
                        id, kind, control, ..
                    } = *packet;
                    self.next.message = id.message.wrapping_add(1);
                    let mut data = std::mem::take(&mut packet.data);
                    self.packet = None;
                    let data = if data.is_empty() {
                        piece
                    } else {
                        data.extend_from_slice(&piece);
                        data.freeze()
                    };
                    return Ok(Some(Packet {
                        id,
                        kind,
                        control,
                        data,
                    }));
                }
                (None, Some(packet)) => packet.data.extend_from_slice(&piece),
                // What belongs to no packet is not kept.
                _ => {}
            }
            if remaining > 0 {
                return Ok(None);
            }
        }
    }

    /// Reads a header and applies the rules of sizes, ids and kinds to it.
    fn next_frame(&mut self) -> Result<Option<Frame>, ProtocolError> {
        let Some(header) = self.header.take(&mut self.chunk)? else {
            return Ok(None);
        };
        let overflow = ProtocolError::DataOverflow {
            length: header.length,
        };
        let length = usize::try_from(header.length).map_err(|_| overflow)?;
        if length > MAX_PACKET {
            return Err(overflow);
        }
        Ok(Some(Frame {
            done: header.done,
            remaining: length,
            broken: self.begin(&header, length).err(),
        }))
    }

    /// Finds or makes the packet that a frame belongs to.
    fn begin(&mut self, header: &Header, length: usize) -> Result<(), ProtocolError> {
        if header.id < self.next {
            return Err(ProtocolError::IdMonotonicity {
                frame: header.id,
                last: self.next,
            });
        }
        let Some(packet) = self.packet.as_mut().filter(|packet| packet.id == header.id) else {
            // An unfinished packet before a new id is dropped: that is how a sender interrupts itself.
            self.next = header.id;
            self.packet = Some(Partial {
                id: header.id,
                kind: header.kind,
                control: header.control,
                data: BytesMut::new(),
            });
            return Ok(());
        };
        if packet.kind != header.kind {
            return Err(ProtocolError::KindChange {
                frame: header.kind,
                packet: packet.kind,
            });
        }
        packet.control |= header.control;
        let whole = packet.data.len() + length;
        if whole > MAX_PACKET {
            return Err(ProtocolError::DataOverflow { length: whole as u64 });
        }
        Ok(())
    }
}

/// Takes up to `most` bytes from the front of `chunk`, and lets go of the chunk when none are left in it.
fn take(chunk: &mut Bytes, most: usize) -> Bytes {
    chunk.split_to(most.min(chunk.len()))
}

/// The bytes of a header that came in an earlier chunk.
#[derive(Debug, Default)]
struct HeaderPart {
    bytes: [u8; MAX_HEADER],
    len: usize,
}

impl HeaderPart {
    /// Takes a header from what is held and the front of `chunk`; `None` after taking a part of one.
    fn take(&mut self, chunk: &mut Bytes) -> Result<Option<Header>, ProtocolError> {
        if self.len == 0
            && let Some((header, len)) = Header::decode(chunk)?
        {
            take(chunk, len);
            return Ok(Some(header));
        }
        let held = self.len;
        let more = chunk.len().min(MAX_HEADER - held);
        self.bytes[held..held + more].copy_from_slice(&chunk[..more]);
        if let Some((header, len)) = Header::decode(&self.bytes[..held + more])? {
            take(chunk, len - held);
            self.len = 0;
            return Ok(Some(header));
        }
        // A header is never longer than MAX_HEADER, so all of the chunk belongs to it.
        take(chunk, more);
        self.len = held + more;
        Ok(None)
    }
}
