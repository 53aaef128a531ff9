//! Where peers learn of each other: nodes, tunnels, and who must hear of what.
//!
//! Owns the contract of a coordinator and the one in memory. Must never know of frames, SQL of agents, or who may do what:
//! the Tailnet service authorizes each request before it comes here.

mod core;
mod memory;
#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::Arc;
use std::task::{Context, Poll};

use uuid::Uuid;

pub use self::memory::MemoryCoordinator;
use crate::proto::tailnet::{CoordinateRequest, CoordinateResponse, Node};

/// A peer: an agent's own id, or the one that a client was given.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerId(pub Uuid);

impl fmt::Display for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.as_hyphenated().fmt(f)
    }
}

impl fmt::Debug for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// An id that is not sixteen bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid UUID (got {0} bytes)")]
pub struct InvalidId(usize);

impl TryFrom<&[u8]> for PeerId {
    type Error = InvalidId;

    fn try_from(bytes: &[u8]) -> Result<Self, InvalidId> {
        Uuid::from_slice(bytes)
            .map(Self)
            .map_err(|_| InvalidId(bytes.len()))
    }
}

/// Why a coordinator ended a peer's connection. The text is the last error that the peer is told.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CoordinateError {
    /// The peer named another one by something that is no id.
    #[error("unable to convert bytes to UUID: {0}")]
    InvalidId(#[from] InvalidId),
    /// The coordinator shuts down, or is being replaced.
    #[error("coordinator closed")]
    Closed,
}

/// Lets peers find each other.
pub trait Coordinator: fmt::Debug + Send + Sync + 'static {
    /// Connects a peer. A connection of the same peer that still lives is ended, and nobody else notices.
    fn connect(&self, id: PeerId, name: &str) -> Arc<dyn Connection>;

    /// The node that a connected peer told last.
    fn node(&self, id: PeerId) -> Option<Arc<Node>>;

    /// Ends all connections; those that come later are ended at once.
    fn close(&self);
}

/// One peer's connection. Dropping the last handle without a Disconnect before it means that the peer was lost.
pub trait Connection: Send + Sync {
    /// Takes a request of the peer, which was authorized. An error ends the connection.
    fn handle(&self, request: CoordinateRequest) -> Result<(), CoordinateError>;

    /// The next response for the peer; `None` when the coordinator has ended the connection.
    ///
    /// What is not yet asked for is kept as the latest state of each other peer, so a slow peer misses nothing that still
    /// matters and costs nobody else anything.
    fn poll_response(&self, cx: &mut Context<'_>) -> Poll<Option<CoordinateResponse>>;
}
