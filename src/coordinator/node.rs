//! A node as the coordinator keeps it: encoded once, shared by everybody who is told of it.
//!
//! Must never depend on what is in a node, except for the time at which it was built.

use prost::Message;

use super::CoordinateError;
use crate::proto::tailnet::Node;

/// Encoded bytes of a node. An honest one has a few hundred; it is kept for as long as its peer is connected, and by
/// each peer that was told of it.
pub const MAX_NODE: usize = 64 * 1024;

/// An encoded node.
///
/// Fields of a protobuf message may come in any order, so `as_of` stands last: what is before it are the parts that
/// matter. The same parts encode to the same bytes, because the maps of a node are sorted ones.
#[derive(PartialEq, Eq)]
pub struct EncodedNode {
    bytes: Box<[u8]>,
    /// Bytes before `as_of`.
    lasting: usize,
}

/// Bytes that are no node, or one larger than any honest one.
#[derive(Debug, thiserror::Error)]
pub enum InvalidNode {
    /// They are not the encoding of a node.
    #[error(transparent)]
    Encoding(#[from] prost::DecodeError),
    /// It is too large.
    #[error(transparent)]
    Size(#[from] CoordinateError),
}

impl EncodedNode {
    /// Encodes a node, unless it is larger than any honest one.
    pub fn new(mut node: Node) -> Result<Self, CoordinateError> {
        let length = node.encoded_len();
        if length > MAX_NODE {
            return Err(CoordinateError::NodeTooLarge(length));
        }
        let as_of = node.as_of.take();
        let mut bytes = Vec::with_capacity(length);
        // Encoding into a Vec cannot fail for want of room.
        let _ = node.encode(&mut bytes);
        let lasting = bytes.len();
        let built = Node {
            as_of,
            ..Node::default()
        };
        let _ = built.encode(&mut bytes);
        Ok(Self {
            bytes: bytes.into_boxed_slice(),
            lasting,
        })
    }

    /// A node that somebody has stored, whoever encoded it.
    pub fn from_stored(bytes: &[u8]) -> Result<Self, InvalidNode> {
        Ok(Self::new(Node::decode(bytes)?)?)
    }

    /// The encoded node.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The node itself.
    pub fn decode(&self) -> Node {
        // The bytes come from an encoder, so they decode.
        Node::decode(&*self.bytes).unwrap_or_default()
    }

    /// Whether two nodes differ in nothing but the time at which they were built.
    ///
    /// Unlike the original, which compares nodes with that time (coder/coder `tailnet/peer.go`), so that each build is
    /// an update.
    pub fn same_as(&self, other: &Self) -> bool {
        self.bytes[..self.lasting] == other.bytes[..other.lasting]
    }
}

impl std::fmt::Debug for EncodedNode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "EncodedNode({} bytes)", self.bytes.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(latencies: &[(&str, f64)]) -> Node {
        Node {
            id: 7,
            as_of: Some(prost_types::Timestamp { seconds: 9, nanos: 1 }),
            key: b"np".to_vec(),
            preferred_derp: 999,
            derp_latency: latencies
                .iter()
                .map(|(region, latency)| ((*region).to_owned(), *latency))
                .collect(),
            addresses: vec!["fd7a::1/128".to_owned()],
            ..Node::default()
        }
    }

    #[test]
    fn encoding_loses_nothing() {
        let node = node(&[("999-v4", 0.25)]);
        assert_eq!(EncodedNode::new(node.clone()).unwrap().decode(), node);
        assert_eq!(
            EncodedNode::new(Node::default()).unwrap().decode(),
            Node::default()
        );
    }

    #[test]
    fn tn_080_nodes_are_the_same_without_their_time_and_with_latencies_in_any_order() {
        let one = EncodedNode::new(node(&[("1-v4", 0.5), ("2-v4", 0.25)])).unwrap();
        let later = EncodedNode::new(Node {
            as_of: Some(prost_types::Timestamp {
                seconds: 10,
                nanos: 0,
            }),
            ..node(&[("2-v4", 0.25), ("1-v4", 0.5)])
        })
        .unwrap();
        assert!(one.same_as(&later) && one != later);
        let timeless = Node {
            as_of: None,
            ..one.decode()
        };
        assert!(one.same_as(&EncodedNode::new(timeless).unwrap()));
        let slower = EncodedNode::new(node(&[("1-v4", 0.5), ("2-v4", 0.5)])).unwrap();
        assert!(!one.same_as(&slower));
    }

    #[test]
    fn a_node_is_bounded() {
        let with = |bytes: usize| Node {
            disco: "x".repeat(bytes),
            ..Node::default()
        };
        // A text of that length has four bytes of tag and length.
        for bytes in [MAX_NODE - 5, MAX_NODE - 4] {
            assert!(EncodedNode::new(with(bytes)).is_ok(), "{bytes}");
        }
        assert_eq!(
            EncodedNode::new(with(MAX_NODE - 3)).unwrap_err().to_string(),
            "node has 65537 bytes, at most 65536 are allowed"
        );
    }
}
