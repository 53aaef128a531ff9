//! One replica's way to a database, which a test can cut.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use tokio::sync::watch;

use crate::coordinator::PeerId;
use crate::ids::ReplicaId;
use crate::store::{
    Coordination, DatabaseTime, Heartbeat, OwnPeer, PeerWrite, SharedSnapshot, StoreError, StoredPeer,
    StoredTunnel, Tunnel,
};

/// Passes statements on, counts them, and fails when it is told to.
#[derive(Debug)]
pub(crate) struct Way {
    database: Arc<dyn Coordination>,
    cut: AtomicBool,
    answers_lost: AtomicBool,
    refused: Mutex<Option<&'static str>>,
    held: watch::Sender<Option<&'static str>>,
    calls: Mutex<HashMap<&'static str, usize>>,
}

impl Way {
    pub(crate) fn to(database: Arc<dyn Coordination>) -> Arc<Self> {
        Arc::new(Self {
            database,
            cut: AtomicBool::new(false),
            answers_lost: AtomicBool::new(false),
            refused: Mutex::default(),
            held: watch::Sender::new(None),
            calls: Mutex::default(),
        })
    }

    /// From here on nothing gets through, or everything does.
    pub(crate) fn cut(&self, cut: bool) {
        self.cut.store(cut, Ordering::Relaxed);
    }

    /// From here on statements do their work and nobody hears of it, or somebody does.
    pub(crate) fn lose_answers(&self, lost: bool) {
        self.answers_lost.store(lost, Ordering::Relaxed);
    }

    /// From here on one kind of statement is refused, or none is.
    pub(crate) fn refuse(&self, method: Option<&'static str>) {
        *self.refused.lock().unwrap() = method;
    }

    /// From here on one kind of statement is under way and does nothing, or none is held any more.
    pub(crate) fn hold(&self, method: Option<&'static str>) {
        self.held.send_replace(method);
    }

    /// How often some kinds of statements were tried.
    pub(crate) fn calls(&self, methods: &[&str]) -> usize {
        let calls = self.calls.lock().unwrap();
        methods
            .iter()
            .map(|method| calls.get(method).copied().unwrap_or(0))
            .sum()
    }

    /// How often any statement was tried.
    pub(crate) fn all_calls(&self) -> usize {
        self.calls.lock().unwrap().values().sum()
    }

    async fn pass<T>(
        &self,
        method: &'static str,
        statement: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        *self.calls.lock().unwrap().entry(method).or_default() += 1;
        // The sender lives as long as `self`.
        let _ = self.held.subscribe().wait_for(|held| *held != Some(method)).await;
        if self.cut.load(Ordering::Relaxed) {
            return Err(StoreError::Unavailable("the way is cut".to_owned()));
        }
        if *self.refused.lock().unwrap() == Some(method) {
            return Err(StoreError::Rejected("refused, as the test wants".to_owned()));
        }
        let answer = statement.await;
        if self.cut.load(Ordering::Relaxed) || self.answers_lost.load(Ordering::Relaxed) {
            return Err(StoreError::Unavailable("the answer is lost".to_owned()));
        }
        answer
    }
}

#[async_trait]
impl Coordination for Way {
    async fn beat(&self, replica: ReplicaId) -> Result<bool, StoreError> {
        self.pass("beat", self.database.beat(replica)).await
    }

    async fn triggers_notify(&self) -> Result<bool, StoreError> {
        self.database.triggers_notify().await
    }

    async fn heartbeats(&self) -> Result<Vec<Heartbeat>, StoreError> {
        self.pass("heartbeats", self.database.heartbeats()).await
    }

    async fn put_peers(
        &self,
        replica: ReplicaId,
        peers: &[PeerWrite<'_>],
    ) -> Result<Vec<(PeerId, DatabaseTime)>, StoreError> {
        self.pass("put_peers", self.database.put_peers(replica, peers))
            .await
    }

    async fn lose_peers(&self, replica: ReplicaId, peers: &[PeerId]) -> Result<Vec<PeerId>, StoreError> {
        self.pass("lose_peers", self.database.lose_peers(replica, peers))
            .await
    }

    async fn lose_all_peers(&self, replica: ReplicaId) -> Result<Vec<PeerId>, StoreError> {
        self.pass("lose_all_peers", self.database.lose_all_peers(replica))
            .await
    }

    async fn delete_peers(&self, replica: ReplicaId, peers: &[PeerId]) -> Result<Vec<PeerId>, StoreError> {
        self.pass("delete_peers", self.database.delete_peers(replica, peers))
            .await
    }

    async fn put_tunnels(&self, replica: ReplicaId, tunnels: &[Tunnel]) -> Result<(), StoreError> {
        self.pass("put_tunnels", self.database.put_tunnels(replica, tunnels))
            .await
    }

    async fn delete_tunnels(
        &self,
        replica: ReplicaId,
        tunnels: &[Tunnel],
    ) -> Result<Vec<Tunnel>, StoreError> {
        let statement = self.database.delete_tunnels(replica, tunnels);
        self.pass("delete_tunnels", statement).await
    }

    async fn delete_tunnels_from(
        &self,
        replica: ReplicaId,
        peers: &[PeerId],
    ) -> Result<Vec<Tunnel>, StoreError> {
        let statement = self.database.delete_tunnels_from(replica, peers);
        self.pass("delete_tunnels_from", statement).await
    }

    async fn peers(&self, ids: &[PeerId]) -> Result<Vec<StoredPeer>, StoreError> {
        self.pass("peers", self.database.peers(ids)).await
    }

    async fn tunnels_of(&self, peers: &[PeerId]) -> Result<Vec<StoredTunnel>, StoreError> {
        self.pass("tunnels_of", self.database.tunnels_of(peers)).await
    }

    async fn tunnels(&self, tunnels: &[Tunnel]) -> Result<Vec<StoredTunnel>, StoreError> {
        self.pass("tunnels", self.database.tunnels(tunnels)).await
    }

    async fn own_peers(&self, replica: ReplicaId) -> Result<Vec<OwnPeer>, StoreError> {
        self.pass("own_peers", self.database.own_peers(replica)).await
    }

    async fn own_tunnels(&self, replica: ReplicaId) -> Result<Vec<Tunnel>, StoreError> {
        self.pass("own_tunnels", self.database.own_tunnels(replica)).await
    }

    async fn clean_up(&self, most: u32) -> Result<u64, StoreError> {
        self.pass("clean_up", self.database.clean_up(most)).await
    }

    async fn shared_snapshot(&self, most: usize) -> Result<SharedSnapshot, StoreError> {
        self.pass("shared_snapshot", self.database.shared_snapshot(most))
            .await
    }
}
