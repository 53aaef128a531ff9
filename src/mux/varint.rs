//! Unsigned varints: little-endian base 128, at most ten bytes.
//!
//! The rules are those of storj/drpc `drpcwire/varint.go`: longer forms of small numbers are accepted, and in a ten-byte
//! varint the bits above 64 are shifted out.

use bytes::BufMut;

/// Bytes of the longest varint.
pub(super) const MAX_LEN: usize = 10;

/// What the front of a buffer holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Decoded {
    /// A number, and how many bytes it took.
    Done(u64, usize),
    /// The beginning of a number.
    NeedMore,
    /// More continuation bytes than a number has.
    TooLong,
}

/// Reads the number at the front of `buf`.
pub(super) fn decode(buf: &[u8]) -> Decoded {
    let mut value = 0_u64;
    for (index, &byte) in buf.iter().enumerate().take(MAX_LEN) {
        value |= u64::from(byte & 0x7f) << (7 * index);
        if byte < 0x80 {
            return Decoded::Done(value, index + 1);
        }
    }
    if buf.len() < MAX_LEN {
        Decoded::NeedMore
    } else {
        Decoded::TooLong
    }
}

/// Appends the shortest form of `value`.
pub(super) fn encode(mut value: u64, out: &mut impl BufMut) {
    while value >= 0x80 {
        out.put_u8(value.to_le_bytes()[0] | 0x80);
        value >>= 7;
    }
    out.put_u8(value.to_le_bytes()[0]);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn golden_vectors() {
        let cases: [(u64, &[u8]); 6] = [
            (127, &[0x7f]),
            (128, &[0x80, 0x01]),
            (300, &[0xac, 0x02]),
            (16_384, &[0x80, 0x80, 0x01]),
            (65_536, &[0x80, 0x80, 0x04]),
            (
                u64::MAX,
                &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01],
            ),
        ];
        for (value, bytes) in cases {
            let mut out = Vec::new();
            encode(value, &mut out);
            assert_eq!(out, bytes);
            assert_eq!(decode(bytes), Decoded::Done(value, bytes.len()));
        }
    }

    #[test]
    fn wire_017_ten_continuation_bytes_are_too_long() {
        assert_eq!(decode(&[0x80; 9]), Decoded::NeedMore);
        assert_eq!(decode(&[0x80; 10]), Decoded::TooLong);
        assert_eq!(decode(&[0xff; 11]), Decoded::TooLong);
    }

    #[test]
    fn wire_018_longer_forms_are_accepted() {
        assert_eq!(decode(&[0x80, 0x00]), Decoded::Done(0, 2));
        let mut overflowing = [0x80; 10];
        overflowing[9] = 0x02;
        assert_eq!(
            decode(&overflowing),
            Decoded::Done(0, 10),
            "bits above 64 are shifted out"
        );
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_decoded(value: u64) {
            let mut out = Vec::new();
            encode(value, &mut out);
            prop_assert_eq!(decode(&out), Decoded::Done(value, out.len()));
            prop_assert_eq!(decode(&out[..out.len() - 1]), Decoded::NeedMore);
        }
    }
}
