//! A request of a peer, read whole before any of it takes effect.
//!
//! Owns the shape of ids and the size of nodes; what a peer may ask was decided before.

use std::sync::Arc;

use super::{CoordinateError, EncodedNode, PeerId};
use crate::proto::tailnet::CoordinateRequest;

/// What a peer asks, in the order in which it takes effect.
#[derive(Debug, Default)]
pub(super) struct Request {
    pub(super) node: Option<Arc<EncodedNode>>,
    pub(super) add_tunnel: Option<PeerId>,
    pub(super) remove_tunnel: Option<PeerId>,
    pub(super) disconnect: bool,
    pub(super) ready: Vec<PeerId>,
}

impl TryFrom<CoordinateRequest> for Request {
    type Error = CoordinateError;

    fn try_from(request: CoordinateRequest) -> Result<Self, CoordinateError> {
        let id = |bytes: &[u8]| PeerId::try_from(bytes).map_err(CoordinateError::from);
        let node = request.update_self.and_then(|update| update.node);
        Ok(Self {
            add_tunnel: request.add_tunnel.map(|tunnel| id(&tunnel.id)).transpose()?,
            remove_tunnel: request.remove_tunnel.map(|tunnel| id(&tunnel.id)).transpose()?,
            ready: request
                .ready_for_handshake
                .iter()
                .map(|ready| id(&ready.id))
                .collect::<Result<_, _>>()?,
            disconnect: request.disconnect.is_some(),
            node: node
                .map(|node| EncodedNode::new(node).map(Arc::new))
                .transpose()?,
        })
    }
}
