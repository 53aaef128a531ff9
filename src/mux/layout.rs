//! How much a message may hold, looked at before it is decoded.
//!
//! Owns the count of elements in an encoded message: entries of repeated fields and of maps, at any depth. Two bytes on the
//! wire can make an element of several hundred in memory, so a bound on bytes alone bounds nothing. Never decodes a value
//! and never allocates; what is malformed is left to the decoder, which refuses it at the same place.

use super::error::Status;
use super::packet::MAX_PACKET;

/// Nesting of groups that is followed, as deep as the decoder goes (prost `encoding.rs`, `RECURSION_LIMIT`).
const MAX_DEPTH: usize = 100;

/// The fields of a message type in which elements can be, by number. Generated from the `.proto` files.
#[derive(Debug)]
pub struct Layout(pub &'static [(u32, Field)]);

/// What a field holds.
#[derive(Debug)]
pub enum Field {
    /// A message that occurs once, or elements that the decoder bounds itself; elements may be in it.
    One(&'static Layout),
    /// Messages, or entries of a map; each is an element, and more may be in it.
    Each(&'static Layout),
    /// Texts or byte strings.
    Texts,
    /// Numbers of variable length, packed or not.
    Varints,
    /// Numbers of so many bytes, 4 or 8, packed or not.
    Fixed(usize),
}

/// How much one message of a method may hold.
#[derive(Clone, Copy, Debug)]
pub struct Bound {
    /// Most bytes of the encoded message.
    pub bytes: usize,
    /// Most elements.
    pub elements: usize,
    /// Where elements can be.
    pub layout: &'static Layout,
}

impl Bound {
    /// What holds for messages that nobody knows more of: any packet.
    pub const PACKET: Self = Self {
        bytes: MAX_PACKET,
        elements: usize::MAX,
        layout: &Layout(&[]),
    };

    /// Whether an encoded message may be decoded; if not, what its sender is told.
    pub fn check(&self, message: &[u8]) -> Result<(), Status> {
        if message.len() > self.bytes {
            let (len, most) = (message.len(), self.bytes);
            return Err(Status::message(format!("message of {len} bytes exceeds {most}")));
        }
        match self.layout.count(message, self.elements) {
            Err(Stop::Full) => {
                let most = self.elements;
                Err(Status::message(format!("message has more than {most} elements")))
            }
            Ok(_) | Err(Stop::Malformed) => Ok(()),
        }
    }
}

/// What the fuzz target of requests asks.
#[cfg(any(test, feature = "fuzzing"))]
impl Bound {
    /// Elements of a message; `None` where counting stops because the message is malformed.
    pub(crate) fn elements_of(&self, message: &[u8]) -> Option<usize> {
        self.layout.count(message, usize::MAX).ok()
    }
}

/// Why counting stopped before the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stop {
    /// There are more elements than allowed.
    Full,
    /// The decoder will refuse the message, at the latest here, or reads no more elements.
    Malformed,
}

impl Layout {
    /// Elements of an encoded message, if they are not more than `most`.
    pub(super) fn count(&self, message: &[u8], most: usize) -> Result<usize, Stop> {
        let mut room = most;
        self.walk(message, &mut room)?;
        Ok(most - room)
    }

    fn walk(&self, mut rest: &[u8], room: &mut usize) -> Result<(), Stop> {
        while !rest.is_empty() {
            let (number, wire) = tag(&mut rest)?;
            let found = self.0.iter().find(|(known, _)| *known == number);
            let Some((_, field)) = found else {
                skip(&mut rest, number, wire, MAX_DEPTH)?;
                continue;
            };
            match (field, wire) {
                (Field::One(layout), Wire::Length) => layout.walk(length(&mut rest)?, room)?,
                (Field::Each(layout), Wire::Length) => {
                    take(room, 1)?;
                    layout.walk(length(&mut rest)?, room)?;
                }
                (Field::Texts, Wire::Length) => {
                    take(room, 1)?;
                    length(&mut rest)?;
                }
                (Field::Varints, Wire::Length) => {
                    let ends = length(&mut rest)?.iter().filter(|byte| **byte < 0x80);
                    take(room, ends.count())?;
                }
                (Field::Varints, Wire::Varint) => {
                    take(room, 1)?;
                    varint(&mut rest)?;
                }
                (Field::Fixed(size), Wire::Length) => take(room, length(&mut rest)?.len() / size)?,
                (Field::Fixed(4), Wire::Fixed32) | (Field::Fixed(8), Wire::Fixed64) => {
                    take(room, 1)?;
                    skip(&mut rest, number, wire, MAX_DEPTH)?;
                }
                _ => return Err(Stop::Malformed),
            }
        }
        Ok(())
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wire {
    Varint,
    Fixed64,
    Length,
    GroupStart,
    GroupEnd,
    Fixed32,
}

fn take(room: &mut usize, elements: usize) -> Result<(), Stop> {
    *room = room.checked_sub(elements).ok_or(Stop::Full)?;
    Ok(())
}

fn advance<'b>(rest: &mut &'b [u8], len: usize) -> Result<&'b [u8], Stop> {
    let (front, back) = rest.split_at_checked(len).ok_or(Stop::Malformed)?;
    *rest = back;
    Ok(front)
}

fn varint(rest: &mut &[u8]) -> Result<u64, Stop> {
    prost::encoding::decode_varint(rest).map_err(|_| Stop::Malformed)
}

fn length<'b>(rest: &mut &'b [u8]) -> Result<&'b [u8], Stop> {
    let len = usize::try_from(varint(rest)?).map_err(|_| Stop::Malformed)?;
    advance(rest, len)
}

fn tag(rest: &mut &[u8]) -> Result<(u32, Wire), Stop> {
    let key = u32::try_from(varint(rest)?).map_err(|_| Stop::Malformed)?;
    let wire = match key & 7 {
        0 => Wire::Varint,
        1 => Wire::Fixed64,
        2 => Wire::Length,
        3 => Wire::GroupStart,
        4 => Wire::GroupEnd,
        5 => Wire::Fixed32,
        _ => return Err(Stop::Malformed),
    };
    match key >> 3 {
        0 => Err(Stop::Malformed),
        number => Ok((number, wire)),
    }
}

/// Skips the value of a field that means nothing here.
fn skip(rest: &mut &[u8], number: u32, wire: Wire, depth: usize) -> Result<(), Stop> {
    match wire {
        Wire::Varint => varint(rest).map(|_| ()),
        Wire::Fixed64 => advance(rest, 8).map(|_| ()),
        Wire::Fixed32 => advance(rest, 4).map(|_| ()),
        Wire::Length => length(rest).map(|_| ()),
        Wire::GroupEnd => Err(Stop::Malformed),
        Wire::GroupStart => {
            let depth = depth.checked_sub(1).ok_or(Stop::Malformed)?;
            loop {
                match tag(rest)? {
                    (end, Wire::GroupEnd) if end == number => return Ok(()),
                    (inner, wire) => skip(rest, inner, wire, depth)?,
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    static LEAF: Layout = Layout(&[(3, Field::Texts)]);
    static TOP: Layout = Layout(&[
        (1, Field::One(&LEAF)),
        (2, Field::Each(&LEAF)),
        (4, Field::Varints),
        (5, Field::Fixed(4)),
        (6, Field::Fixed(8)),
    ]);

    fn count(bytes: &[u8]) -> Result<usize, Stop> {
        TOP.count(bytes, usize::MAX)
    }

    #[test]
    fn elements_are_counted_wherever_they_are() {
        let cases: [(&[u8], usize); 9] = [
            (&[], 0),
            (&[0x0a, 0, 0x0a, 0], 0),
            (&[0x0a, 4, 0x1a, 0, 0x1a, 0], 2),
            (&[0x12, 0, 0x12, 2, 0x1a, 0], 3),
            (&[0x20, 1, 0x22, 3, 1, 0x80, 1], 3),
            (&[0x2d, 1, 2, 3, 4, 0x2a, 8, 0, 0, 0, 0, 0, 0, 0, 0], 3),
            (&[0x31, 1, 2, 3, 4, 5, 6, 7, 8, 0x32, 0], 1),
            // Unknown fields of every kind, and a group that holds what would be elements.
            (
                &[
                    0x38, 1, 0x39, 0, 0, 0, 0, 0, 0, 0, 0, 0x3a, 1, 9, 0x3d, 0, 0, 0, 0,
                ],
                0,
            ),
            (&[0x3b, 0x12, 0, 0x3b, 0x12, 0, 0x3c, 0x3c, 0x12, 0], 1),
        ];
        for (bytes, elements) in cases {
            assert_eq!(count(bytes), Ok(elements), "{bytes:02x?}");
        }
    }

    #[test]
    fn what_the_decoder_refuses_is_left_to_it() {
        let cases: [&[u8]; 9] = [
            &[0x12],
            &[0x12, 5, 0],
            &[0x10, 1],
            &[0x00, 0],
            &[0x0e],
            &[0x3c],
            &[0x3b, 0x44],
            &[0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x02],
            &[0x39, 0],
        ];
        for bytes in cases {
            assert_eq!(count(bytes), Err(Stop::Malformed), "{bytes:02x?}");
            let bound = Bound {
                bytes: 100,
                elements: 0,
                layout: &TOP,
            };
            assert_eq!(bound.check(&[0x3a, 0].repeat(2)), Ok(()));
        }
        assert_eq!(count(&[0x3b].repeat(1_000_000)), Err(Stop::Malformed));
    }

    #[test]
    fn as_many_elements_as_allowed_pass_and_one_more_does_not() {
        let bound = Bound {
            bytes: 1_000,
            elements: 10,
            layout: &TOP,
        };
        for elements in [9, 10] {
            assert_eq!(bound.check(&[0x12, 0].repeat(elements)), Ok(()));
        }
        let refused = bound.check(&[0x12, 0].repeat(11)).unwrap_err();
        assert_eq!(
            (refused.code(), refused.text()),
            (0, "message has more than 10 elements")
        );
    }

    #[test]
    fn as_many_bytes_as_allowed_pass_and_one_more_does_not() {
        let bound = Bound {
            bytes: 100,
            elements: 0,
            layout: &TOP,
        };
        for padding in [97, 98] {
            let message = [&[0x3a, padding][..], &vec![0; usize::from(padding)]].concat();
            assert_eq!(bound.check(&message), Ok(()));
        }
        let message = [&[0x3a, 99][..], &[0; 99]].concat();
        let refused = bound.check(&message).unwrap_err();
        assert_eq!(
            (refused.code(), refused.text()),
            (0, "message of 101 bytes exceeds 100")
        );
    }
}
