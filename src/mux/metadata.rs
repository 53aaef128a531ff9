//! Invoke metadata: pairs of texts that a caller sends before its call, such as a trace's context.
//!
//! The body is the protobuf encoding of `map<string, string>` as field 1, read as strictly as storj/drpc
//! `drpcmetadata/serialize.go` reads it: key before value, both present, nothing else. Keys and values need not be UTF-8.

use std::collections::HashMap;

use bytes::Bytes;

use super::varint::{self, Decoded};

const ENTRY: u8 = 0x0a;
const KEY: u8 = 0x0a;
const VALUE: u8 = 0x12;

/// The pairs that came with a call.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Metadata(Option<Box<HashMap<Bytes, Bytes>>>);

/// The body is not a map of strings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct InvalidMetadata;

impl Metadata {
    /// The value of `key`.
    pub fn value(&self, key: &[u8]) -> Option<&Bytes> {
        self.0.as_ref()?.get(key)
    }

    /// How many pairs there are.
    pub fn len(&self) -> usize {
        self.0.as_ref().map_or(0, |pairs| pairs.len())
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Reads a packet's body. Of two pairs with one key the last counts.
    pub(super) fn decode(mut body: Bytes) -> Result<Self, InvalidMetadata> {
        let mut pairs = HashMap::new();
        while !body.is_empty() {
            let mut entry = field(&mut body, ENTRY)?;
            let key = field(&mut entry, KEY)?;
            let value = field(&mut entry, VALUE)?;
            if !entry.is_empty() {
                return Err(InvalidMetadata);
            }
            pairs.insert(key, value);
        }
        Ok(Self((!pairs.is_empty()).then(|| Box::new(pairs))))
    }
}

/// Takes a length-delimited field with this tag from the front of `bytes`.
fn field(bytes: &mut Bytes, tag: u8) -> Result<Bytes, InvalidMetadata> {
    if bytes.first() != Some(&tag) {
        return Err(InvalidMetadata);
    }
    let Decoded::Done(len, taken) = varint::decode(&bytes[1..]) else {
        return Err(InvalidMetadata);
    };
    let start = 1 + taken;
    let end = usize::try_from(len)
        .ok()
        .and_then(|len| start.checked_add(len))
        .ok_or(InvalidMetadata)?;
    if end > bytes.len() {
        return Err(InvalidMetadata);
    }
    Ok(bytes.split_to(end).split_off(start))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode(body: &'static [u8]) -> Result<Metadata, InvalidMetadata> {
        Metadata::decode(Bytes::from_static(body))
    }

    #[test]
    fn wire_065_a_pair_is_read() {
        let metadata = decode(b"\x0a\x06\x0a\x01k\x12\x01v").unwrap();
        assert_eq!(metadata.value(b"k").unwrap(), "v");
        assert_eq!(
            decode(b"\x0a\x04\x0a\x00\x12\x00").unwrap().value(b"").unwrap(),
            ""
        );
    }

    #[test]
    fn wire_066_an_empty_body_is_no_metadata() {
        assert!(decode(b"").unwrap().is_empty());
    }

    #[test]
    fn wire_069_what_is_not_exactly_a_map_is_refused() {
        let cases: [&[u8]; 6] = [
            b"garbage",
            b"\x0a\x06\x12\x01v\x0a\x01k",
            b"\x0a\x08\x0a\x01k\x12\x01v\x18\x00",
            b"\x0a\x05\x0a\x01k\x12\x01v",
            b"\x0a\x03\x0a\x01k",
            b"\x0a\x06\x0a\x01k\x12\x01",
        ];
        for body in cases {
            assert_eq!(decode(body), Err(InvalidMetadata), "{body:?}");
        }
    }

    #[test]
    fn wire_070_of_two_pairs_with_one_key_the_last_counts() {
        let metadata = decode(b"\x0a\x06\x0a\x01k\x12\x01a\x0a\x06\x0a\x01k\x12\x01b").unwrap();
        assert_eq!(
            (metadata.len(), metadata.value(b"k").unwrap()),
            (1, &Bytes::from("b"))
        );
    }

    #[test]
    fn wire_071_a_recorded_trace_context_is_read() {
        let mut body = b"\x0a\x46\x0a\x0btraceparent\x12\x37".to_vec();
        body.extend_from_slice(b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01");
        let metadata = Metadata::decode(body.into()).unwrap();
        assert_eq!(metadata.len(), 1);
        assert!(
            metadata
                .value(b"traceparent")
                .unwrap()
                .starts_with(b"00-4bf92f35")
        );
    }
}
