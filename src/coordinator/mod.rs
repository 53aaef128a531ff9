//! Where peers learn of each other: nodes, tunnels, and who must hear of what.
//!
//! Owns the contract of a coordinator and the one in memory. Must never know of frames, SQL of agents, or who may do what:
//! the Tailnet service authorizes each request before it comes here.

mod core;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod memory;
mod node;
mod outbox;
mod request;
mod shared;
#[cfg(test)]
pub(crate) mod suite;
mod tunnels;
mod wakers;

use std::fmt;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use async_trait::async_trait;
use uuid::Uuid;

pub use self::memory::MemoryCoordinator;
pub use self::node::{EncodedNode, InvalidNode, MAX_NODE};
pub use self::shared::SharedCoordinator;
pub(crate) use self::tunnels::MAX_TUNNELS;
pub use crate::ids::PeerId;
use crate::proto::tailnet::coordinate_response::peer_update::Kind;
use crate::proto::tailnet::{CoordinateRequest, Node};
use crate::store::{SharedSnapshot, StoreError};

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

/// Number of a connection; a peer that connects again has a higher one.
type Epoch = u64;

/// What a peer is told whose id has connected again.
const OVERWRITTEN: &str = "peer ID overwritten by new connection";

/// What every peer is told when the coordinator shuts down or is replaced.
const CLOSED: &str = "coordinator closed";

/// What a peer does when the coordinator ends its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// It drops its whole session and dials again, as agents do.
    Agent,
    /// It connects again by itself and asks for its tunnels anew.
    Client,
}

/// Why a coordinator refuses a request. The text is the last error that the peer is told.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CoordinateError {
    /// The peer named another one by something that is no id.
    #[error("unable to convert bytes to UUID: {0}")]
    InvalidId(#[from] InvalidId),
    /// The peer's node is larger than any honest one.
    #[error("node has {0} bytes, at most {MAX_NODE} are allowed")]
    NodeTooLarge(usize),
}

/// What a peer is told in one message: updates or an error. Nodes are shared with everybody else who is told of them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Response {
    /// News of other peers.
    pub updates: Vec<Update>,
    /// What is wrong; empty for nothing.
    pub error: String,
}

/// News of one peer.
#[derive(Clone, Debug, PartialEq)]
pub struct Update {
    /// Which.
    pub of: PeerId,
    /// What happened.
    pub kind: Kind,
    /// Why, for logs; may be empty.
    pub reason: &'static str,
    /// Always there with [`Kind::Node`].
    pub node: Option<Arc<EncodedNode>>,
}

/// How a coordinator is doing.
#[derive(Clone, Copy, Debug)]
pub struct CoordinatorStatus {
    /// Peers that are connected.
    pub peers: usize,
    /// Tunnels that they asked for.
    pub tunnels: usize,
    /// Whether it reaches what it depends on.
    pub healthy: bool,
}

/// What a coordinator knows, for people to look at.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// Peers that are connected, by id.
    pub peers: Vec<PeerSnapshot>,
    /// Tunnels: who asked for it, to whom.
    pub tunnels: Vec<(PeerId, PeerId)>,
    /// All peers, shown or not.
    pub total_peers: usize,
    /// All tunnels, shown or not.
    pub total_tunnels: usize,
    /// What is stored where all replicas see it; `None` of a coordinator that shares nothing.
    pub shared: Option<SharedSnapshot>,
}

/// A connected peer.
#[derive(Clone, Debug)]
pub struct PeerSnapshot {
    /// Its id.
    pub id: PeerId,
    /// What it was called when it connected.
    pub name: Arc<str>,
    /// How long it has been connected.
    pub age: Duration,
    /// How long ago it was told something; `None` if it never was.
    pub last_write: Option<Duration>,
    /// Connections with its id that were replaced, one by the next.
    pub overwrites: u32,
    /// The node that it told last.
    pub node: Option<Arc<EncodedNode>>,
}

/// Lets peers find each other.
#[async_trait]
pub trait Coordinator: fmt::Debug + Send + Sync + 'static {
    /// Connects a peer. A connection of the same peer that still lives is ended, and nobody else notices.
    ///
    /// On a closed coordinator the connection says so and ends.
    fn connect(&self, id: PeerId, name: &str, role: Role) -> Box<dyn Connection>;

    /// The node that a peer told last.
    async fn node(&self, id: PeerId) -> Result<Option<Node>, StoreError>;

    /// How it is doing; costs next to nothing.
    fn status(&self) -> CoordinatorStatus;

    /// How things are, with at most `most` of the peers and of the tunnels, whichever they are.
    async fn snapshot(&self, most: usize) -> Result<Snapshot, StoreError>;

    /// One that can take the place of this one, with nobody connected. It may wait for this one to be closed.
    fn successor(&self) -> Box<dyn Coordinator>;

    /// Ends all connections at once: each is told that the others are lost, and that the coordinator is closed. Then waits
    /// until everybody elsewhere can know; when that is given up, which is an error, they find out by themselves, and
    /// nothing goes on here.
    async fn close(&self) -> Result<(), StoreError>;
}

/// One peer's connection. Dropping it without a Disconnect before means that the peer was lost.
pub trait Connection: Send + Sync {
    /// Takes a request of the peer, which was authorized. A refused one has no effect at all; the caller then ends the
    /// connection. Requests on a connection that has ended do nothing.
    fn handle(&self, request: CoordinateRequest) -> Result<(), CoordinateError>;

    /// The next response for the peer; `None` when the coordinator has ended the connection.
    ///
    /// What is not yet asked for is kept as the latest state of each other peer, so a slow peer misses nothing that still
    /// matters and costs nobody else anything.
    fn poll_response(&self, cx: &mut Context<'_>) -> Poll<Option<Response>>;
}
