//! The rules of coordination, without tasks, sockets or clocks: requests and ends go in, responses come out.
//!
//! Owns who is connected and who must hear of whom. What a peer has yet to be told lies in its [`Outbox`].
//! Source of the rules: coder/coder `tailnet/coordinator.go`.

use std::collections::HashMap;
use std::sync::Arc;

use super::outbox::{Next, Outbox};
use super::request::Request;
use super::tunnels::{MAX_TUNNELS, Tunnels, shrink};
use super::{CLOSED, CoordinatorStatus, EncodedNode, Epoch, OVERWRITTEN, PeerId, PeerSnapshot, Snapshot};
use crate::clock::Instant;
use crate::proto::tailnet::coordinate_response::peer_update::Kind;

#[derive(Debug, Default)]
pub(super) struct Core {
    peers: HashMap<PeerId, Peer>,
    tunnels: Tunnels,
    /// Connections that have ended and still have something to say, until they are forgotten. As many as there are
    /// handles on them.
    ended: HashMap<Epoch, Outbox>,
    next_epoch: Epoch,
    closed: bool,
    /// Connections that have something to say or have ended, for the shell to wake.
    woken: Vec<Epoch>,
}

#[derive(Debug)]
struct Peer {
    epoch: Epoch,
    name: Arc<str>,
    connected_at: Instant,
    told_at: Option<Instant>,
    /// Connections that this one is the last of.
    overwrites: u32,
    node: Option<Arc<EncodedNode>>,
    outbox: Outbox,
    /// Stands in `woken`, or was woken and has not asked since.
    woken: bool,
}

impl Core {
    /// Connections to wake since the last call.
    pub(super) fn take_woken(&mut self) -> Vec<Epoch> {
        std::mem::take(&mut self.woken)
    }

    pub(super) fn node(&self, id: PeerId) -> Option<Arc<EncodedNode>> {
        self.peers.get(&id)?.node.clone()
    }

    /// Connects a peer and tells it of all tunnel peers that have a node. The others hear of it once it has one.
    pub(super) fn connect(&mut self, id: PeerId, name: &str, now: Instant) -> Epoch {
        let epoch = self.next_epoch;
        self.next_epoch += 1;
        let mut outbox = Outbox::default();
        if self.closed {
            outbox.end(Some(CLOSED));
            self.ended.insert(epoch, outbox);
            return epoch;
        }
        for other in self.tunnels.peers(id) {
            if let Some(node) = self.peers.get(&other).and_then(|peer| peer.node.as_ref()) {
                outbox.tell_node(other, node, "init");
            }
        }
        let overwrites = self
            .peers
            .get(&id)
            .map_or(0, |peer| peer.overwrites.saturating_add(1));
        let peer = Peer {
            epoch,
            name: name.into(),
            connected_at: now,
            told_at: None,
            overwrites,
            node: None,
            outbox,
            woken: false,
        };
        if let Some(mut replaced) = self.peers.insert(id, peer) {
            // What it was to be told, the new connection is told.
            replaced.outbox.end_now(Some(OVERWRITTEN));
            self.keep_ended(replaced);
        }
        epoch
    }

    fn keep_ended(&mut self, peer: Peer) {
        self.ended.insert(peer.epoch, peer.outbox);
        self.woken.push(peer.epoch);
    }

    /// Takes a request but for its handshakes, in the original's order: node, tunnels, end.
    pub(super) fn handle(&mut self, id: PeerId, epoch: Epoch, request: &Request) {
        if !self.is_current(id, epoch) {
            return;
        }
        if let Some(node) = &request.node {
            self.update_self(id, node);
        }
        if let Some(to) = request.add_tunnel {
            self.add_tunnel(id, to);
        }
        if let Some(to) = request.remove_tunnel {
            self.remove_tunnel(id, to);
        }
        if request.disconnect {
            self.remove(id, Kind::Disconnected, "graceful disconnect");
        }
    }

    fn is_current(&self, id: PeerId, epoch: Epoch) -> bool {
        self.peers.get(&id).is_some_and(|peer| peer.epoch == epoch)
    }

    fn update_self(&mut self, id: PeerId, node: &Arc<EncodedNode>) {
        let Some(peer) = self.peers.get_mut(&id) else {
            return;
        };
        let replaced = peer.node.replace(Arc::clone(node));
        if replaced.is_some_and(|replaced| replaced.same_as(node)) {
            return;
        }
        for other in self.tunnels.peers(id) {
            let tell = |outbox: &mut Outbox| outbox.tell_node(id, node, "node update");
            tell_peer(&mut self.peers, &mut self.woken, other, tell);
        }
    }

    fn add_tunnel(&mut self, from: PeerId, to: PeerId) {
        if !self.tunnels.add(from, to) {
            self.tell(from, |outbox| {
                outbox.tell_error(|| format!("more than {MAX_TUNNELS} tunnels"));
            });
            return;
        }
        for (one, other) in [(from, to), (to, from)] {
            if let Some(node) = self.node(other) {
                self.tell(one, |outbox| outbox.tell_node(other, &node, "add tunnel"));
            }
        }
    }

    /// As in the original, a tunnel in the other direction stays and is not looked at: both ends drop each other.
    fn remove_tunnel(&mut self, from: PeerId, to: PeerId) {
        self.tunnels.remove(from, to);
        for (one, other) in [(from, to), (to, from)] {
            self.tell(one, |outbox| {
                outbox.tell_end(other, Kind::Disconnected, "remove tunnel");
            });
        }
    }

    /// Takes the handshakes of a request, one by one: a stranger in the list does not keep the others from hearing.
    pub(super) fn ready_for_handshake(&mut self, from: PeerId, epoch: Epoch, list: &[PeerId]) {
        if !self.is_current(from, epoch) {
            return;
        }
        for &to in list {
            if self.tunnels.connects(from, to) {
                self.tell(to, |outbox| outbox.tell_ready(from));
            } else {
                self.tell(from, |outbox| {
                    outbox.tell_error(|| {
                        format!("ready for handshake error: you do not share a tunnel with \"{to}\"")
                    });
                });
            }
        }
    }

    /// A connection is no longer there; if it was not ended before, its peer is lost.
    pub(super) fn forget(&mut self, id: PeerId, epoch: Epoch) {
        if self.is_current(id, epoch) {
            self.remove(id, Kind::Lost, "lost");
        }
        self.ended.remove(&epoch);
        shrink(&mut self.ended);
    }

    /// Tunnels towards the peer stay, so that it finds its clients when it returns; its own end with it, as nobody else
    /// could end them.
    fn remove(&mut self, id: PeerId, kind: Kind, reason: &'static str) {
        if let Some(mut peer) = self.peers.remove(&id) {
            peer.outbox.end_now(None);
            self.keep_ended(peer);
        }
        for other in self.tunnels.peers(id) {
            let tell = |outbox: &mut Outbox| outbox.tell_end(id, kind, reason);
            tell_peer(&mut self.peers, &mut self.woken, other, tell);
        }
        self.tunnels.remove_from(id);
        shrink(&mut self.peers);
    }

    fn tell(&mut self, whom: PeerId, tell: impl FnOnce(&mut Outbox)) {
        tell_peer(&mut self.peers, &mut self.woken, whom, tell);
    }

    /// What a connection says next.
    pub(super) fn next(&mut self, id: PeerId, epoch: Epoch, now: Instant) -> Next {
        match self.peers.get_mut(&id) {
            Some(peer) if peer.epoch == epoch => {
                peer.woken = false;
                let next = peer.outbox.next();
                if matches!(next, Next::Response(_)) {
                    peer.told_at = Some(now);
                }
                next
            }
            _ => self.ended.get_mut(&epoch).map_or(Next::Ended, Outbox::next),
        }
    }

    /// Ends all connections. Those that are still read learn that the others are lost, then why they end.
    pub(super) fn close(&mut self) {
        self.closed = true;
        let ids: Vec<_> = self.peers.keys().copied().collect();
        for &id in &ids {
            for other in self.tunnels.peers(id) {
                let tell = |outbox: &mut Outbox| outbox.tell_end(id, Kind::Lost, "coordinator close");
                tell_peer(&mut self.peers, &mut self.woken, other, tell);
            }
        }
        for (_, mut peer) in std::mem::take(&mut self.peers) {
            peer.outbox.end(Some(CLOSED));
            self.keep_ended(peer);
        }
        self.tunnels = Tunnels::default();
    }

    /// See [`super::Coordinator::status`].
    pub(super) fn status(&self) -> CoordinatorStatus {
        CoordinatorStatus {
            peers: self.peers.len(),
            tunnels: self.tunnels.len(),
            healthy: true,
        }
    }

    /// See [`super::Coordinator::snapshot`].
    pub(super) fn snapshot(&self, most: usize, now: Instant) -> Snapshot {
        let since = |then: Instant| now.saturating_duration_since(then);
        let peers = self.peers.iter().take(most).map(|(&id, peer)| PeerSnapshot {
            id,
            name: Arc::clone(&peer.name),
            age: since(peer.connected_at),
            last_write: peer.told_at.map(since),
            overwrites: peer.overwrites,
            node: peer.node.clone(),
        });
        let mut peers: Vec<_> = peers.collect();
        peers.sort_by_key(|peer| peer.id);
        let mut tunnels: Vec<_> = self.tunnels.iter().take(most).collect();
        tunnels.sort();
        Snapshot {
            peers,
            tunnels,
            total_peers: self.peers.len(),
            total_tunnels: self.tunnels.len(),
            shared: None,
        }
    }

    /// Peers and ended connections that there is room for.
    #[cfg(test)]
    pub(super) fn capacity(&self) -> usize {
        self.peers.capacity().max(self.ended.capacity())
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.peers.is_empty() && self.tunnels.is_empty() && self.ended.is_empty()
    }
}

/// Tells a peer something, if it is connected. It is woken once until it asks again, however much it is told.
fn tell_peer(
    peers: &mut HashMap<PeerId, Peer>,
    woken: &mut Vec<Epoch>,
    whom: PeerId,
    tell: impl FnOnce(&mut Outbox),
) {
    if let Some(peer) = peers.get_mut(&whom) {
        tell(&mut peer.outbox);
        if !std::mem::replace(&mut peer.woken, true) {
            woken.push(peer.epoch);
        }
    }
}

#[cfg(test)]
mod tests;
