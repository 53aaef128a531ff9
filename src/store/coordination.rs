//! What the coordinators of several replicas share through a database: which of them live, their peers and tunnels.
//!
//! Tables and columns are the original's (coder/coder `coderd/database/queries/tailnet.sql`), so that its own replicas
//! take part. A replica writes rows of its own only; all of them read all.

#[cfg(test)]
pub(crate) mod contract;

use std::fmt;
use std::time::Duration;

use async_trait::async_trait;

use super::StoreError;
use crate::ids::{PeerId, ReplicaId};

/// A point in the database's own time, in microseconds since 1970. Compared with others of it, never with a local clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct DatabaseTime(pub i64);

/// A replica's own row: when it last said that it lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heartbeat {
    /// Whose.
    pub replica: ReplicaId,
    /// When, which moves with each.
    pub at: DatabaseTime,
    /// How long ago, by the database's clock; zero of what that clock says is yet to come.
    pub age: Duration,
}

/// A tunnel: who asked for it, and to whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tunnel {
    /// Who asked for it.
    pub from: PeerId,
    /// To whom.
    pub to: PeerId,
}

/// A peer, as one replica has stored it.
#[derive(Clone, Debug, PartialEq)]
pub struct StoredPeer {
    /// Which.
    pub id: PeerId,
    /// Whose row this is.
    pub replica: ReplicaId,
    /// When it was written.
    pub updated_at: DatabaseTime,
    /// Whether the peer was lost.
    pub lost: bool,
    /// The node that it told last, encoded.
    pub node: Vec<u8>,
}

/// A tunnel, as one replica has stored it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoredTunnel {
    /// Whose row this is.
    pub replica: ReplicaId,
    /// Which.
    pub tunnel: Tunnel,
}

/// What is to be stored of a peer.
#[derive(Clone, Copy, Debug)]
pub struct PeerWrite<'a> {
    /// Which.
    pub id: PeerId,
    /// Whether it was lost.
    pub lost: bool,
    /// The node that it told last, encoded.
    pub node: &'a [u8],
}

/// What a replica's own row says of a peer, but for the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OwnPeer {
    /// Which.
    pub id: PeerId,
    /// When it was written.
    pub updated_at: DatabaseTime,
    /// Whether the peer was lost.
    pub lost: bool,
}

/// The shared tables, for people to look at. Ages are by the database's clock.
#[derive(Clone, Debug, Default)]
pub struct SharedSnapshot {
    /// Replicas, and how long ago each was heard of.
    pub replicas: Vec<(ReplicaId, Duration)>,
    /// Rows of peers, and how long ago each was written.
    pub peers: Vec<(StoredPeer, Duration)>,
    /// Rows of tunnels, and how long ago each was written.
    pub tunnels: Vec<(StoredTunnel, Duration)>,
    /// All rows of peers, shown or not.
    pub total_peers: usize,
    /// All rows of tunnels, shown or not.
    pub total_tunnels: usize,
}

/// What a coordinator asks of the database that it shares. Every method is one transaction; lists may be long, and hold
/// nothing twice.
#[async_trait]
pub trait Coordination: fmt::Debug + Send + Sync + 'static {
    /// Says that a replica lives. True when nothing of it was stored: neither itself nor any peer or tunnel of it.
    async fn beat(&self, replica: ReplicaId) -> Result<bool, StoreError>;

    /// Whether triggers of the database notify of what is written, so that no replica must. Never in our own schema; in
    /// that of a deployment until a later version of it does away with them.
    async fn triggers_notify(&self) -> Result<bool, StoreError>;

    /// When each replica last said that it lives.
    async fn heartbeats(&self) -> Result<Vec<Heartbeat>, StoreError>;

    /// Stores peers of a replica, whose own row must be there. Returns when each was written, which is later than every
    /// other row of the same peer, whatever the database's clock does.
    async fn put_peers(
        &self,
        replica: ReplicaId,
        peers: &[PeerWrite<'_>],
    ) -> Result<Vec<(PeerId, DatabaseTime)>, StoreError>;

    /// Marks peers of a replica as lost. Returns those that were not.
    async fn lose_peers(&self, replica: ReplicaId, peers: &[PeerId]) -> Result<Vec<PeerId>, StoreError>;

    /// Marks all peers of a replica as lost. Returns those that were not.
    async fn lose_all_peers(&self, replica: ReplicaId) -> Result<Vec<PeerId>, StoreError>;

    /// Removes peers of a replica. Returns those that were there.
    async fn delete_peers(&self, replica: ReplicaId, peers: &[PeerId]) -> Result<Vec<PeerId>, StoreError>;

    /// Stores tunnels of a replica, whose own row must be there.
    async fn put_tunnels(&self, replica: ReplicaId, tunnels: &[Tunnel]) -> Result<(), StoreError>;

    /// Removes tunnels of a replica. Returns those that were there.
    async fn delete_tunnels(&self, replica: ReplicaId, tunnels: &[Tunnel])
    -> Result<Vec<Tunnel>, StoreError>;

    /// Removes all tunnels of a replica that some peers asked for. Returns them.
    async fn delete_tunnels_from(
        &self,
        replica: ReplicaId,
        peers: &[PeerId],
    ) -> Result<Vec<Tunnel>, StoreError>;

    /// All replicas' rows of some peers.
    async fn peers(&self, ids: &[PeerId]) -> Result<Vec<StoredPeer>, StoreError>;

    /// All replicas' rows of tunnels that some peers are an end of. A tunnel between two of them may come twice.
    async fn tunnels_of(&self, peers: &[PeerId]) -> Result<Vec<StoredTunnel>, StoreError>;

    /// All replicas' rows of some tunnels.
    async fn tunnels(&self, tunnels: &[Tunnel]) -> Result<Vec<StoredTunnel>, StoreError>;

    /// What a replica has stored of its peers.
    async fn own_peers(&self, replica: ReplicaId) -> Result<Vec<OwnPeer>, StoreError>;

    /// The tunnels that a replica has stored.
    async fn own_tunnels(&self, replica: ReplicaId) -> Result<Vec<Tunnel>, StoreError>;

    /// Removes what nobody can be interested in any more, at most `most` rows of each kind, unless another replica is at
    /// it. Returns how many; none in a coder deployment, whose own servers see to it.
    ///
    /// That is, by the original's rule: replicas that were last heard of 24 h ago, with all their rows; peers lost for as
    /// long; tunnels as old whose asking peer has no row of the same replica.
    async fn clean_up(&self, most: u32) -> Result<u64, StoreError>;

    /// The tables, with at most `most` rows of peers and of tunnels, the newest.
    async fn shared_snapshot(&self, most: usize) -> Result<SharedSnapshot, StoreError>;
}
