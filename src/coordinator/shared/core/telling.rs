//! Who hears of whom, and how.

use std::collections::HashMap;

use super::super::edges::{Change, Way};
use super::super::others::{Best, best};
use super::{Core, Peer};
use crate::coordinator::outbox::{Outbox, Told};
use crate::coordinator::{Epoch, PeerId};
use crate::proto::tailnet::coordinate_response::peer_update::Kind;
use crate::store::Tunnel;

impl Core {
    /// Changes what is known of a tunnel, one end of which is connected, and tells whom that concerns.
    pub(super) fn change_edge(&mut self, tunnel: Tunnel, change: impl FnOnce(&mut Way)) {
        let ends = [(tunnel.from, tunnel.to), (tunnel.to, tunnel.from)];
        match self.edges.change(tunnel, change) {
            Change::None => {}
            Change::Joined => {
                for (one, other) in ends {
                    if self.is_connected(one) {
                        self.take_interest(other);
                        self.tell(one, other);
                    }
                }
            }
            Change::Parted => {
                for (one, other) in ends {
                    self.tell_seat(one, |outbox| pass_on(outbox, other, &Best::Absent));
                    self.lose_interest(other);
                }
            }
        }
    }

    /// A connected peer has a tunnel with `id`.
    pub(super) fn take_interest(&mut self, id: PeerId) {
        if self.others.add(id) {
            self.reads.peers.add(id);
        }
    }

    /// A connected peer has no tunnel with `id` any more; perhaps no other has.
    pub(super) fn lose_interest(&mut self, id: PeerId) {
        if !self.edges.neighbours(id).any(|other| self.is_connected(other)) {
            self.others.remove(id);
        }
    }

    fn best(&self, id: PeerId) -> Best {
        let own = self.peers.get(&id).map(|peer| &peer.row);
        best(own, self.others.get(id), &self.replicas)
    }

    /// Tells a connected peer what is known of another.
    pub(super) fn tell(&mut self, whom: PeerId, of: PeerId) {
        let best = self.best(of);
        tell_seat(&mut self.peers, &mut self.woken, whom, |outbox| {
            pass_on(outbox, of, &best);
        });
    }

    /// Tells everybody who has a tunnel with a peer what is known of it.
    pub(super) fn announce(&mut self, id: PeerId) {
        let best = self.best(id);
        for whom in self.edges.neighbours(id) {
            tell_seat(&mut self.peers, &mut self.woken, whom, |outbox| {
                pass_on(outbox, id, &best);
            });
        }
    }

    /// Tells a connected peer something that is about no other.
    pub(super) fn tell_seat(&mut self, whom: PeerId, tell: impl FnOnce(&mut Outbox)) {
        tell_seat(&mut self.peers, &mut self.woken, whom, tell);
    }
}

/// Tells a peer something, if it is connected. If that was news, it is woken, once until it asks again.
fn tell_seat(
    peers: &mut HashMap<PeerId, Peer>,
    woken: &mut Vec<Epoch>,
    whom: PeerId,
    tell: impl FnOnce(&mut Outbox),
) {
    if let Some(seat) = peers.get_mut(&whom).and_then(|peer| peer.seat.as_mut()) {
        tell(&mut seat.outbox);
        if seat.outbox.has_something() && !std::mem::replace(&mut seat.woken, true) {
            woken.push(seat.epoch);
        }
    }
}

fn pass_on(outbox: &mut Outbox, of: PeerId, best: &Best) {
    match best {
        Best::Unknown => {}
        Best::Absent => outbox.tell_end(of, Kind::Disconnected, "disconnected"),
        Best::Lost => outbox.tell_lost(of, "lost"),
        Best::Node(node) => {
            let reason = match outbox.told(of) {
                Told::Nothing => "new",
                Told::Node => "update",
                Told::Lost => "found",
            };
            outbox.tell_node(of, node, reason);
        }
    }
}
