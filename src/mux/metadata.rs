//! Invoke metadata: pairs of texts that a caller sends before its call, such as a trace's context.
//!
//! The body is the protobuf encoding of `map<string, string>` as field 1, read as strictly as storj/drpc
//! `drpcmetadata/serialize.go` reads it: key before value, both present, nothing else. Keys and values need not be UTF-8.
//! What was read is kept as it came, since a table of the pairs could be many times larger than the packet.

use std::fmt;

use bytes::{BufMut, Bytes, BytesMut};

use super::varint::{self, Decoded};

const ENTRY: u8 = 0x0a;
const KEY: u8 = 0x0a;
const VALUE: u8 = 0x12;

/// The pairs that came with a call, in the order sent. At most [`MAX_PACKET`](super::MAX_PACKET) bytes.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Metadata(Bytes);

/// The body is not a map of strings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct InvalidMetadata;

impl Metadata {
    /// The value of `key`; of pairs with one key the last counts.
    pub fn value(&self, key: &[u8]) -> Option<&[u8]> {
        let pairs = self.pairs().filter(|(found, _)| *found == key);
        pairs.last().map(|(_, value)| value)
    }

    /// All keys and values as sent, those too that a later pair replaces.
    pub fn pairs(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        let mut rest = &self.0[..];
        std::iter::from_fn(move || pair(&mut rest).ok())
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Bytes that it takes in memory.
    pub(super) fn size(&self) -> usize {
        self.0.len()
    }

    /// Reads a packet's body.
    pub(super) fn decode(body: &[u8]) -> Result<Self, InvalidMetadata> {
        let mut rest = body;
        while !rest.is_empty() {
            pair(&mut rest)?;
        }
        // Copied: it may wait long for its call, and must not keep alive the larger chunk it came in.
        Ok(Self(Bytes::copy_from_slice(body)))
    }
}

/// Shows how many pairs there are: their values are the peer's and may be secret.
impl fmt::Debug for Metadata {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Metadata({} pairs)", self.pairs().count())
    }
}

/// Appends the body that says `pairs`.
pub(super) fn encode(pairs: &[(&[u8], &[u8])], out: &mut BytesMut) {
    let mut entry = BytesMut::new();
    for (key, value) in pairs {
        put_field(KEY, key, &mut entry);
        put_field(VALUE, value, &mut entry);
        put_field(ENTRY, &entry, out);
        entry.clear();
    }
}

fn put_field(tag: u8, data: &[u8], out: &mut BytesMut) {
    out.put_u8(tag);
    varint::encode(data.len() as u64, out);
    out.put_slice(data);
}

/// Takes a key and a value from the front of `bytes`.
fn pair<'a>(bytes: &mut &'a [u8]) -> Result<(&'a [u8], &'a [u8]), InvalidMetadata> {
    let mut entry = field(bytes, ENTRY)?;
    let key = field(&mut entry, KEY)?;
    let value = field(&mut entry, VALUE)?;
    if entry.is_empty() {
        Ok((key, value))
    } else {
        Err(InvalidMetadata)
    }
}

/// Takes a length-delimited field with this tag from the front of `bytes`.
fn field<'a>(bytes: &mut &'a [u8], tag: u8) -> Result<&'a [u8], InvalidMetadata> {
    let rest = bytes.strip_prefix(&[tag]).ok_or(InvalidMetadata)?;
    let Decoded::Done(len, taken) = varint::decode(rest) else {
        return Err(InvalidMetadata);
    };
    let len = usize::try_from(len).map_err(|_| InvalidMetadata)?;
    let (data, rest) = rest[taken..].split_at_checked(len).ok_or(InvalidMetadata)?;
    *bytes = rest;
    Ok(data)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn wire_065_a_pair_is_read() {
        let metadata = Metadata::decode(b"\x0a\x06\x0a\x01k\x12\x01v").unwrap();
        assert_eq!(metadata.value(b"k").unwrap(), b"v");
        assert_eq!(metadata.value(b"v"), None);
        let empty = Metadata::decode(b"\x0a\x04\x0a\x00\x12\x00").unwrap();
        assert_eq!(empty.value(b"").unwrap(), b"");
    }

    #[test]
    fn wire_066_an_empty_body_is_no_metadata() {
        assert!(Metadata::decode(b"").unwrap().is_empty());
    }

    #[test]
    fn wire_069_what_is_not_exactly_a_map_is_refused() {
        let cases: [(&str, &[u8]); 10] = [
            ("text", b"garbage"),
            ("value first", b"\x0a\x06\x12\x01v\x0a\x01k"),
            ("a third field", b"\x0a\x08\x0a\x01k\x12\x01v\x18\x00"),
            ("entry shorter than its fields", b"\x0a\x05\x0a\x01k\x12\x01v"),
            ("no value", b"\x0a\x03\x0a\x01k"),
            ("value shorter than its length", b"\x0a\x06\x0a\x01k\x12\x02v"),
            ("entry cut off", b"\x0a\x06\x0a\x01k\x12\x01"),
            ("no entry", b"\x0a"),
            ("an empty entry", b"\x0a\x00"),
            ("good, then bad", b"\x0a\x04\x0a\x00\x12\x00\x12"),
        ];
        for (name, body) in cases {
            assert_eq!(Metadata::decode(body), Err(InvalidMetadata), "{name}");
        }
        let mut endless = vec![ENTRY];
        endless.extend([0xff; 11]);
        assert_eq!(Metadata::decode(&endless), Err(InvalidMetadata));
    }

    #[test]
    fn wire_070_of_two_pairs_with_one_key_the_last_counts() {
        let metadata = Metadata::decode(b"\x0a\x06\x0a\x01k\x12\x01a\x0a\x06\x0a\x01k\x12\x01b").unwrap();
        assert_eq!(metadata.value(b"k").unwrap(), b"b");
    }

    #[test]
    fn wire_071_a_recorded_trace_context_is_read() {
        let mut body = b"\x0a\x46\x0a\x0btraceparent\x12\x37".to_vec();
        let value = b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        body.extend_from_slice(value);
        let metadata = Metadata::decode(&body).unwrap();
        assert_eq!(
            metadata.pairs().collect::<Vec<_>>(),
            [(&b"traceparent"[..], &value[..])]
        );
    }

    #[test]
    fn keys_and_values_need_not_be_utf_8() {
        let metadata = Metadata::decode(b"\x0a\x06\x0a\x01\xff\x12\x01\xfe").unwrap();
        assert_eq!(metadata.value(b"\xff").unwrap(), b"\xfe");
    }

    #[test]
    fn values_do_not_reach_a_log() {
        let metadata = Metadata::decode(b"\x0a\x06\x0a\x01k\x12\x01v").unwrap();
        assert_eq!(format!("{metadata:?}"), "Metadata(1 pairs)");
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_decoded(pairs: Vec<(Vec<u8>, Vec<u8>)>) {
            let pairs: Vec<_> = pairs.iter().map(|(key, value)| (&key[..], &value[..])).collect();
            let mut body = BytesMut::new();
            encode(&pairs, &mut body);
            let metadata = Metadata::decode(&body).unwrap();
            prop_assert_eq!(metadata.pairs().collect::<Vec<_>>(), pairs);
        }
    }
}
