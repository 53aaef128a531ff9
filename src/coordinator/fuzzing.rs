//! What must hold of any request to the coordinator. A finding is a panic.
//!
//! Owns the part of the fuzz target for requests that is the coordinator's; see [`crate::fuzzing`]. Never part of the
//! server.

use prost::Message as _;

use super::request::Request;
use super::{EncodedNode, MAX_NODE};
use crate::proto::tailnet::CoordinateRequest;

/// A request is taken or refused; a node that is taken is the same when it is read again, and the same as itself.
pub(crate) fn coordinate_request(request: CoordinateRequest) {
    let node = request
        .update_self
        .as_ref()
        .and_then(|update| update.node.clone());
    let taken = Request::try_from(request);
    let Some(node) = node else { return };
    let Ok(encoded) = EncodedNode::new(node.clone()) else {
        assert!(node.encoded_len() > MAX_NODE && taken.is_err());
        return;
    };
    assert!(encoded.as_bytes().len() <= MAX_NODE);
    let again = encoded.decode();
    assert_eq!(again.encoded_len(), node.encoded_len());
    let moved = EncodedNode::new(crate::proto::tailnet::Node { as_of: None, ..again });
    assert!(moved.is_ok_and(|moved| moved.same_as(&encoded)));
}
