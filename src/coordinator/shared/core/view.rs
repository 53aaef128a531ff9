//! How things are, for people and metrics to look at.

use std::sync::Arc;

use super::super::own::Said;
use super::Core;
use crate::clock::Instant;
use crate::coordinator::{CoordinatorStatus, PeerSnapshot, Snapshot};

impl Core {
    /// How this replica is doing.
    pub(in crate::coordinator::shared) fn status(&self) -> CoordinatorStatus {
        let connected = self.peers.values().filter(|peer| peer.seat.is_some());
        CoordinatorStatus {
            peers: self.connected,
            tunnels: connected.map(|peer| peer.tunnels.wanted().count()).sum(),
            healthy: self.health.is_open(),
        }
    }

    /// The connected peers and their tunnels; see [`crate::coordinator::Coordinator::snapshot`].
    pub(in crate::coordinator::shared) fn snapshot(&self, most: usize, now: Instant) -> Snapshot {
        let since = |then: Instant| now.saturating_duration_since(then);
        let connected = || {
            let peers = self.peers.iter();
            peers.filter_map(|(&id, peer)| Some((id, peer, peer.seat.as_ref()?)))
        };
        let peers = connected().take(most).map(|(id, peer, seat)| PeerSnapshot {
            id,
            name: Arc::clone(&seat.name),
            age: since(seat.connected_at),
            last_write: seat.told_at.map(since),
            overwrites: seat.overwrites,
            node: match peer.row.said() {
                Said::Node(node) => Some(Arc::clone(node)),
                _ => None,
            },
        });
        let mut peers: Vec<_> = peers.collect();
        peers.sort_by_key(|peer| peer.id);
        let tunnels =
            || connected().flat_map(|(from, peer, _)| peer.tunnels.wanted().map(move |to| (from, to)));
        let mut shown: Vec<_> = tunnels().take(most).collect();
        shown.sort();
        Snapshot {
            peers,
            tunnels: shown,
            total_peers: self.connected,
            total_tunnels: tunnels().count(),
            shared: None,
        }
    }

    /// Whether nothing is to be done, or being done, with the database, but for what comes by itself.
    pub(in crate::coordinator::shared) fn is_idle(&self) -> bool {
        self.rows.is_idle() && self.tunnels.is_idle() && self.reads.is_idle() && !self.care.is_resync_due()
    }

    /// How many other replicas live.
    #[cfg(test)]
    pub(in crate::coordinator::shared) fn living(&self) -> usize {
        self.replicas.living()
    }

    /// What is to be done, or being done.
    #[cfg(test)]
    pub(in crate::coordinator::shared) fn work(&self) -> String {
        format!(
            "rows {:?}, tunnels {:?}, reads {:?}, care {:?}",
            self.rows, self.tunnels, self.reads, self.care
        )
    }

    /// Whether nothing is left: no peer, no tunnel, no connection, nothing to do.
    #[cfg(test)]
    pub(in crate::coordinator::shared) fn is_empty(&self) -> bool {
        self.peers.is_empty()
            && self.ended.is_empty()
            && self.edges.is_empty()
            && self.others.is_empty()
            && self.is_idle()
    }
}
