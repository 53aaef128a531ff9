//! Responses of the coordinator as they travel: a `CoordinateResponse` around nodes that are encoded already.
//!
//! A node goes from where its peer's request was encoded straight into the buffer of each stream.

use bytes::{BufMut, BytesMut};
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint, key_len};

use crate::coordinator::{Response, Update};
use crate::mux::AnyMessage;

/// Field numbers of `CoordinateResponse` and its `PeerUpdate`.
mod field {
    pub(super) const PEER_UPDATES: u32 = 1;
    pub(super) const ERROR: u32 = 2;

    pub(super) const ID: u32 = 1;
    pub(super) const NODE: u32 = 2;
    pub(super) const KIND: u32 = 3;
    pub(super) const REASON: u32 = 4;
}

/// A response that encodes to a `CoordinateResponse`.
#[derive(Debug)]
pub(super) struct OnWire<'a>(pub(super) &'a Response);

impl AnyMessage for OnWire<'_> {
    fn encoded_len(&self) -> usize {
        let updates = self.0.updates.iter();
        let updates: usize = updates
            .map(|update| field_len(field::PEER_UPDATES, update_len(update)))
            .sum();
        updates + text_len(field::ERROR, &self.0.error)
    }

    fn encode_into(&self, out: &mut BytesMut) {
        out.reserve(self.encoded_len());
        for update in &self.0.updates {
            encode_key(field::PEER_UPDATES, WireType::LengthDelimited, out);
            encode_varint(update_len(update) as u64, out);
            encode_update(update, out);
        }
        encode_text(field::ERROR, &self.0.error, out);
    }
}

/// Bytes of a field with a length in front.
fn field_len(tag: u32, length: usize) -> usize {
    key_len(tag) + encoded_len_varint(length as u64) + length
}

/// As [`field_len`]; an empty text is left out.
fn text_len(tag: u32, text: &str) -> usize {
    if text.is_empty() {
        0
    } else {
        field_len(tag, text.len())
    }
}

fn update_len(update: &Update) -> usize {
    let node = update.node.as_ref();
    field_len(field::ID, update.of.0.as_bytes().len())
        + node.map_or(0, |node| field_len(field::NODE, node.as_bytes().len()))
        + key_len(field::KIND)
        + encoded_len_varint(kind(update))
        + text_len(field::REASON, update.reason)
}

fn encode_update(update: &Update, out: &mut BytesMut) {
    encode_bytes(field::ID, update.of.0.as_bytes(), out);
    if let Some(node) = &update.node {
        encode_bytes(field::NODE, node.as_bytes(), out);
    }
    encode_key(field::KIND, WireType::Varint, out);
    encode_varint(kind(update), out);
    encode_text(field::REASON, update.reason, out);
}

/// The number of a kind; none is negative.
fn kind(update: &Update) -> u64 {
    u64::from((update.kind as i32).unsigned_abs())
}

fn encode_bytes(tag: u32, bytes: &[u8], out: &mut BytesMut) {
    encode_key(tag, WireType::LengthDelimited, out);
    encode_varint(bytes.len() as u64, out);
    out.put_slice(bytes);
}

fn encode_text(tag: u32, text: &str, out: &mut BytesMut) {
    if !text.is_empty() {
        encode_bytes(tag, text.as_bytes(), out);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use prost::Message as _;
    use uuid::Uuid;

    use super::*;
    use crate::coordinator::{EncodedNode, PeerId};
    use crate::proto::tailnet::coordinate_response::PeerUpdate;
    use crate::proto::tailnet::coordinate_response::peer_update::Kind;
    use crate::proto::tailnet::{CoordinateResponse, Node};

    #[test]
    fn bytes_are_those_of_the_generated_message() {
        let node = Node {
            id: 7,
            disco: "x".repeat(300),
            ..Node::default()
        };
        let encoded = Arc::new(EncodedNode::new(node.clone()).unwrap());
        let ids = [Uuid::from_u128(1), Uuid::from_u128(2), Uuid::from_u128(3)];
        let updates = [
            (ids[0], Kind::Node, "node update", Some(encoded)),
            (ids[1], Kind::ReadyForHandshake, "", None),
            (ids[2], Kind::Lost, "lost", None),
        ];
        let response = Response {
            updates: updates
                .map(|(id, kind, reason, node)| Update {
                    of: PeerId(id),
                    kind,
                    reason,
                    node,
                })
                .into(),
            error: "coordinator closed".to_owned(),
        };
        let peer_update = |id: Uuid, node, kind: Kind, reason: &str| PeerUpdate {
            id: id.as_bytes().to_vec(),
            node,
            kind: kind.into(),
            reason: reason.to_owned(),
        };
        let expected = CoordinateResponse {
            peer_updates: vec![
                peer_update(ids[0], Some(node), Kind::Node, "node update"),
                peer_update(ids[1], None, Kind::ReadyForHandshake, ""),
                peer_update(ids[2], None, Kind::Lost, "lost"),
            ],
            error: "coordinator closed".to_owned(),
        };
        let mut out = BytesMut::new();
        OnWire(&response).encode_into(&mut out);
        assert_eq!(out, expected.encode_to_vec());
        assert_eq!(OnWire(&response).encoded_len(), out.len());

        let mut out = BytesMut::new();
        OnWire(&Response::default()).encode_into(&mut out);
        assert!(out.is_empty());
    }
}
