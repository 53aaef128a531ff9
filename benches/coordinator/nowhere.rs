//! A database that keeps nothing and answers at once, for what a coordinator that replicas share holds itself. Of its own
//! rows such a coordinator asks nobody, so it misses none.

use async_trait::async_trait;
use drpcd::coordinator::PeerId;
use drpcd::ids::ReplicaId;
use drpcd::store::{
    Coordination, DatabaseTime, Heartbeat, OwnPeer, PeerWrite, SharedSnapshot, StoreError, StoredPeer,
    StoredTunnel, Tunnel,
};

#[derive(Debug)]
pub(crate) struct Nowhere;

#[async_trait]
impl Coordination for Nowhere {
    async fn beat(&self, _: ReplicaId) -> Result<bool, StoreError> {
        Ok(false)
    }

    async fn triggers_notify(&self) -> Result<bool, StoreError> {
        Ok(false)
    }

    async fn heartbeats(&self) -> Result<Vec<Heartbeat>, StoreError> {
        Ok(Vec::new())
    }

    async fn put_peers(
        &self,
        _: ReplicaId,
        peers: &[PeerWrite<'_>],
    ) -> Result<Vec<(PeerId, DatabaseTime)>, StoreError> {
        Ok(peers.iter().map(|peer| (peer.id, DatabaseTime(1))).collect())
    }

    async fn lose_peers(&self, _: ReplicaId, _: &[PeerId]) -> Result<Vec<PeerId>, StoreError> {
        Ok(Vec::new())
    }

    async fn lose_all_peers(&self, _: ReplicaId) -> Result<Vec<PeerId>, StoreError> {
        Ok(Vec::new())
    }

    async fn delete_peers(&self, _: ReplicaId, _: &[PeerId]) -> Result<Vec<PeerId>, StoreError> {
        Ok(Vec::new())
    }

    async fn put_tunnels(&self, _: ReplicaId, _: &[Tunnel]) -> Result<(), StoreError> {
        Ok(())
    }

    async fn delete_tunnels(&self, _: ReplicaId, _: &[Tunnel]) -> Result<Vec<Tunnel>, StoreError> {
        Ok(Vec::new())
    }

    async fn delete_tunnels_from(&self, _: ReplicaId, _: &[PeerId]) -> Result<Vec<Tunnel>, StoreError> {
        Ok(Vec::new())
    }

    async fn peers(&self, _: &[PeerId]) -> Result<Vec<StoredPeer>, StoreError> {
        Ok(Vec::new())
    }

    async fn tunnels_of(&self, _: &[PeerId]) -> Result<Vec<StoredTunnel>, StoreError> {
        Ok(Vec::new())
    }

    async fn tunnels(&self, _: &[Tunnel]) -> Result<Vec<StoredTunnel>, StoreError> {
        Ok(Vec::new())
    }

    async fn own_peers(&self, _: ReplicaId) -> Result<Vec<OwnPeer>, StoreError> {
        Ok(Vec::new())
    }

    async fn own_tunnels(&self, _: ReplicaId) -> Result<Vec<Tunnel>, StoreError> {
        Ok(Vec::new())
    }

    async fn clean_up(&self, _: u32) -> Result<u64, StoreError> {
        Ok(0)
    }

    async fn shared_snapshot(&self, _: usize) -> Result<SharedSnapshot, StoreError> {
        Ok(SharedSnapshot::default())
    }
}
