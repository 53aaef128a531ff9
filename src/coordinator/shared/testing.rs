//! A database in memory that answers a little late, for tests whose time is driven.
//!
//! The contract of `src/store/coordination/contract.rs` holds it to what the real one does.

mod way;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use async_trait::async_trait;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use tokio::time::Instant;

pub(crate) use self::way::Way;
use super::notices::Notice;
use crate::coordinator::PeerId;
use crate::ids::ReplicaId;
use crate::pubsub::Pubsub;
use crate::store::{
    Coordination, DatabaseTime, Heartbeat, OwnPeer, PeerWrite, SharedSnapshot, StoreError, StoredPeer,
    StoredTunnel, Tunnel,
};

/// The tables, shared by all replicas.
#[derive(Debug)]
pub(crate) struct Tables {
    rows: Mutex<Rows>,
    started: Instant,
    random: Mutex<SmallRng>,
    /// What a database with triggers notifies by itself.
    triggers: Mutex<Option<Pubsub>>,
}

#[derive(Debug, Default)]
pub(crate) struct Rows {
    /// The database's clock: microseconds, which no two statements share.
    pub(crate) now: i64,
    pub(crate) replicas: BTreeMap<ReplicaId, i64>,
    pub(crate) peers: BTreeMap<(PeerId, ReplicaId), PeerRow>,
    pub(crate) tunnels: BTreeMap<(ReplicaId, Tunnel), i64>,
}

impl Rows {
    /// How long ago something was written.
    fn age(&self, at: i64) -> Duration {
        Duration::from_micros(u64::try_from(self.now - at).unwrap_or(0))
    }
}

#[derive(Clone, Debug)]
pub(crate) struct PeerRow {
    pub(crate) at: i64,
    pub(crate) lost: bool,
    pub(crate) node: Vec<u8>,
}

impl Tables {
    /// Empty ones. With `triggers`, they notify by themselves.
    pub(crate) fn new(triggers: Option<Pubsub>) -> Arc<Self> {
        Arc::new(Self {
            rows: Mutex::default(),
            started: Instant::now(),
            random: Mutex::new(SmallRng::seed_from_u64(7)),
            triggers: Mutex::new(triggers),
        })
    }

    /// The rows, to look at or to change behind everybody's back.
    pub(crate) fn rows(&self) -> MutexGuard<'_, Rows> {
        self.rows.lock().unwrap()
    }

    /// From here on they notify no more, as after an upgrade.
    pub(crate) fn drop_triggers(&self) {
        *self.triggers.lock().unwrap() = None;
    }

    fn notify(&self, notices: impl IntoIterator<Item = Notice>) {
        if let Some(pubsub) = &*self.triggers.lock().unwrap() {
            // A transaction sends each once.
            let notices: BTreeSet<(&str, String)> = notices
                .into_iter()
                .map(|notice| (notice.channel(), notice.to_string()))
                .collect();
            for (channel, payload) in notices {
                pubsub.publish(channel, &payload);
            }
        }
    }
}

impl Tables {
    /// Runs a statement: some time passes before and after it.
    async fn run<T>(
        &self,
        statement: impl FnOnce(&Self, &mut Rows) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        self.pass().await;
        let result = {
            let mut rows = self.rows();
            let elapsed = i64::try_from(self.started.elapsed().as_micros()).unwrap();
            rows.now = elapsed.max(rows.now + 1);
            statement(self, &mut rows)
        };
        self.pass().await;
        result
    }

    async fn pass(&self) {
        let micros = self.random.lock().unwrap().random_range(100..3_000);
        tokio::time::sleep(Duration::from_micros(micros)).await;
    }
}

/// Rows of tunnels need their replica's.
fn check_replica(rows: &Rows, replica: ReplicaId) -> Result<(), StoreError> {
    if rows.replicas.contains_key(&replica) {
        return Ok(());
    }
    Err(StoreError::Violation {
        violation: crate::store::Violation::Other,
        text: "violates foreign key constraint".to_owned(),
    })
}

#[async_trait]
impl Coordination for Tables {
    async fn beat(&self, replica: ReplicaId) -> Result<bool, StoreError> {
        self.run(|tables, rows| {
            let now = rows.now;
            let anew = rows.replicas.insert(replica, now).is_none();
            tables.notify([Notice::Heartbeat(replica)]);
            Ok(anew)
        })
        .await
    }

    async fn triggers_notify(&self) -> Result<bool, StoreError> {
        Ok(self.triggers.lock().unwrap().is_some())
    }

    async fn heartbeats(&self) -> Result<Vec<Heartbeat>, StoreError> {
        self.run(|_, rows| {
            let beat = |(&replica, &at): (&ReplicaId, &i64)| Heartbeat {
                replica,
                at: DatabaseTime(at),
                age: rows.age(at),
            };
            Ok(rows.replicas.iter().map(beat).collect())
        })
        .await
    }

    async fn put_peers(
        &self,
        replica: ReplicaId,
        peers: &[PeerWrite<'_>],
    ) -> Result<Vec<(PeerId, DatabaseTime)>, StoreError> {
        self.run(|tables, rows| {
            check_replica(rows, replica)?;
            let mut written = Vec::new();
            for peer in peers {
                let others = rows
                    .peers
                    .range((peer.id, ReplicaId(uuid::Uuid::nil()))..=(peer.id, ReplicaId(uuid::Uuid::max())));
                let newest = others
                    .filter(|((_, other), _)| *other != replica)
                    .map(|(_, row)| row.at);
                let at = newest.max().map_or(rows.now, |newest| rows.now.max(newest + 1));
                let row = PeerRow {
                    at,
                    lost: peer.lost,
                    node: peer.node.to_vec(),
                };
                rows.peers.insert((peer.id, replica), row);
                written.push((peer.id, DatabaseTime(at)));
            }
            tables.notify(peers.iter().map(|peer| Notice::Peer(peer.id)));
            Ok(written)
        })
        .await
    }

    async fn lose_peers(&self, replica: ReplicaId, peers: &[PeerId]) -> Result<Vec<PeerId>, StoreError> {
        self.run(|tables, rows| {
            let lost = lose(rows, replica, |id| peers.contains(&id));
            tables.notify(lost.iter().map(|id| Notice::Peer(*id)));
            Ok(lost)
        })
        .await
    }

    async fn lose_all_peers(&self, replica: ReplicaId) -> Result<Vec<PeerId>, StoreError> {
        self.run(|tables, rows| {
            let lost = lose(rows, replica, |_| true);
            tables.notify(lost.iter().map(|id| Notice::Peer(*id)));
            Ok(lost)
        })
        .await
    }

    async fn delete_peers(&self, replica: ReplicaId, peers: &[PeerId]) -> Result<Vec<PeerId>, StoreError> {
        self.run(|tables, rows| {
            let mut deleted = peers.to_vec();
            deleted.retain(|id| rows.peers.remove(&(*id, replica)).is_some());
            tables.notify(deleted.iter().map(|id| Notice::Peer(*id)));
            Ok(deleted)
        })
        .await
    }

    async fn put_tunnels(&self, replica: ReplicaId, tunnels: &[Tunnel]) -> Result<(), StoreError> {
        self.run(|tables, rows| {
            check_replica(rows, replica)?;
            let now = rows.now;
            rows.tunnels
                .extend(tunnels.iter().map(|tunnel| ((replica, *tunnel), now)));
            tables.notify(tunnels.iter().map(|tunnel| Notice::Tunnel(*tunnel)));
            Ok(())
        })
        .await
    }

    async fn delete_tunnels(
        &self,
        replica: ReplicaId,
        tunnels: &[Tunnel],
    ) -> Result<Vec<Tunnel>, StoreError> {
        self.run(|tables, rows| {
            let deleted = delete_tunnels(rows, replica, |tunnel| tunnels.contains(&tunnel));
            tables.notify(deleted.iter().map(|tunnel| Notice::Tunnel(*tunnel)));
            Ok(deleted)
        })
        .await
    }

    async fn delete_tunnels_from(
        &self,
        replica: ReplicaId,
        peers: &[PeerId],
    ) -> Result<Vec<Tunnel>, StoreError> {
        self.run(|tables, rows| {
            let deleted = delete_tunnels(rows, replica, |tunnel| peers.contains(&tunnel.from));
            tables.notify(deleted.iter().map(|tunnel| Notice::Tunnel(*tunnel)));
            Ok(deleted)
        })
        .await
    }

    async fn peers(&self, ids: &[PeerId]) -> Result<Vec<StoredPeer>, StoreError> {
        let ids: BTreeSet<_> = ids.iter().copied().collect();
        self.run(|_, rows| Ok(stored_peers(rows, |id| ids.contains(&id))))
            .await
    }

    async fn tunnels_of(&self, peers: &[PeerId]) -> Result<Vec<StoredTunnel>, StoreError> {
        let peers: BTreeSet<_> = peers.iter().copied().collect();
        self.run(|_, rows| {
            let is_of = |tunnel: Tunnel| peers.contains(&tunnel.from) || peers.contains(&tunnel.to);
            Ok(stored_tunnels(rows, is_of))
        })
        .await
    }

    async fn tunnels(&self, tunnels: &[Tunnel]) -> Result<Vec<StoredTunnel>, StoreError> {
        let tunnels: BTreeSet<_> = tunnels.iter().copied().collect();
        self.run(|_, rows| Ok(stored_tunnels(rows, |tunnel| tunnels.contains(&tunnel))))
            .await
    }

    async fn own_peers(&self, replica: ReplicaId) -> Result<Vec<OwnPeer>, StoreError> {
        self.run(|_, rows| {
            let own = rows.peers.iter().filter(|((_, of), _)| *of == replica);
            Ok(own
                .map(|((id, _), row)| OwnPeer {
                    id: *id,
                    updated_at: DatabaseTime(row.at),
                    lost: row.lost,
                })
                .collect())
        })
        .await
    }

    async fn own_tunnels(&self, replica: ReplicaId) -> Result<Vec<Tunnel>, StoreError> {
        self.run(|_, rows| {
            let own = rows.tunnels.keys().filter(|(of, _)| *of == replica);
            Ok(own.map(|(_, tunnel)| *tunnel).collect())
        })
        .await
    }

    /// Nothing becomes old here.
    async fn clean_up(&self, _most: u32) -> Result<u64, StoreError> {
        self.run(|_, _| Ok(0)).await
    }

    async fn shared_snapshot(&self, most: usize) -> Result<SharedSnapshot, StoreError> {
        self.run(|_, rows| {
            let age = |at| rows.age(at);
            let peers = stored_peers(rows, |_| true);
            let tunnels = rows.tunnels.iter();
            Ok(SharedSnapshot {
                replicas: rows.replicas.iter().map(|(id, at)| (*id, age(*at))).collect(),
                total_peers: peers.len(),
                total_tunnels: rows.tunnels.len(),
                peers: peers
                    .into_iter()
                    .take(most)
                    .map(|peer| (peer.clone(), age(peer.updated_at.0)))
                    .collect(),
                tunnels: tunnels
                    .take(most)
                    .map(|((replica, tunnel), at)| {
                        let stored = StoredTunnel {
                            replica: *replica,
                            tunnel: *tunnel,
                        };
                        (stored, age(*at))
                    })
                    .collect(),
            })
        })
        .await
    }
}

fn lose(rows: &mut Rows, replica: ReplicaId, is_meant: impl Fn(PeerId) -> bool) -> Vec<PeerId> {
    let mut lost = Vec::new();
    for ((id, of), row) in &mut rows.peers {
        if *of == replica && is_meant(*id) && !std::mem::replace(&mut row.lost, true) {
            lost.push(*id);
        }
    }
    lost
}

fn delete_tunnels(rows: &mut Rows, replica: ReplicaId, is_meant: impl Fn(Tunnel) -> bool) -> Vec<Tunnel> {
    let meant = rows
        .tunnels
        .keys()
        .filter(|(of, tunnel)| *of == replica && is_meant(*tunnel));
    let meant: Vec<Tunnel> = meant.map(|(_, tunnel)| *tunnel).collect();
    for tunnel in &meant {
        rows.tunnels.remove(&(replica, *tunnel));
    }
    meant
}

fn stored_peers(rows: &Rows, is_meant: impl Fn(PeerId) -> bool) -> Vec<StoredPeer> {
    let meant = rows.peers.iter().filter(|((id, _), _)| is_meant(*id));
    meant
        .map(|((id, replica), row)| StoredPeer {
            id: *id,
            replica: *replica,
            updated_at: DatabaseTime(row.at),
            lost: row.lost,
            node: row.node.clone(),
        })
        .collect()
}

fn stored_tunnels(rows: &Rows, is_meant: impl Fn(Tunnel) -> bool) -> Vec<StoredTunnel> {
    let meant = rows.tunnels.keys().filter(|(_, tunnel)| is_meant(*tunnel));
    meant
        .map(|(replica, tunnel)| StoredTunnel {
            replica: *replica,
            tunnel: *tunnel,
        })
        .collect()
}

/// It does what the real one does.
mod tests {
    use super::Tables;
    use crate::store::coordination_contract;

    coordination_contract!(
        #[tokio::test(start_paused = true)]
        {
            let tables = Tables::new(None);
            Some((tables, ()))
        }
    );
}
