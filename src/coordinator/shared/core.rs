//! The rules of coordination among replicas, without tasks, sockets, SQL or clocks.
//!
//! Requests, ends, notifications, results of statements and the time go in; responses, statements to run and notifications
//! to send come out. What concerns two peers of this replica reaches them at once, whatever the database does.
//!
//! Owns who is connected here and who must hear of whom. Source of the rules: coder/coder `enterprise/tailnet/pgcoord.go`,
//! `connio.go`, `handshaker.go`.

mod care;
mod reading;
mod telling;
#[cfg(test)]
mod tests;
mod view;
mod writing;

use std::collections::HashMap;
use std::sync::Arc;

pub(super) use self::reading::Read;
pub(super) use self::writing::{RowBatch, TunnelBatch, WrittenRows};
use super::echoes::Echoes;
use super::edges::Edges;
use super::health::Health;
use super::notices::Notice;
use super::others::Others;
use super::own::{Mark, OwnRow, OwnTunnels, Said, TooMany};
use super::queue::WorkQueue;
use super::replicas::Replicas;
use crate::clock::Instant;
use crate::coordinator::outbox::{Next, Outbox};
use crate::coordinator::request::Request;
use crate::coordinator::tunnels::{MAX_TUNNELS, shrink};
use crate::coordinator::{CLOSED, EncodedNode, Epoch, OVERWRITTEN, PeerId, Role};
use crate::ids::ReplicaId;
use crate::store::Tunnel;

/// What peers are told while this replica does not reach the database.
const UNHEALTHY: &str = "coordinator unhealthy";

/// Peers that have left and of whom something has yet to be written. As many agents and clients as leave one machine at
/// once; beyond that, what is stored of them is corrected once the database answers again.
const MAX_DEPARTED: usize = 65_536;

/// How this replica takes part.
#[derive(Clone, Copy, Debug)]
pub(super) struct Setting {
    pub(super) replica: ReplicaId,
    /// The database's triggers notify of what is written, so nobody else must.
    pub(super) triggers_notify: bool,
}

#[derive(Debug)]
pub(super) struct Core {
    setting: Setting,
    peers: HashMap<PeerId, Peer>,
    /// Peers that are connected.
    connected: usize,
    /// Connections that have ended and still have something to say, until they are forgotten. As many as there are
    /// handles on them.
    ended: HashMap<Epoch, Outbox>,
    next_epoch: Epoch,
    closed: bool,
    edges: Edges,
    others: Others,
    replicas: Replicas,
    health: Health,
    echoes: Echoes,
    /// Peers whose row is to be written; one key for each of `peers` at most.
    rows: WorkQueue<PeerId>,
    /// Rows are being written that say of somebody that he is connected.
    announcing: bool,
    /// Peers whose tunnels are to be written; as above.
    tunnels: WorkQueue<PeerId>,
    reads: reading::Reads,
    care: care::Care,
    mark: Mark,
    /// Connections that have something to say or have ended, for the shell to wake.
    woken: Vec<Epoch>,
    /// For the shell to publish. Taken after each call.
    notices: Vec<Notice>,
}

/// A peer that is connected here, or has left and has yet to be written.
#[derive(Debug, Default)]
struct Peer {
    seat: Option<Seat>,
    row: OwnRow,
    tunnels: OwnTunnels,
}

/// A connection.
#[derive(Debug)]
struct Seat {
    epoch: Epoch,
    name: Arc<str>,
    role: Role,
    connected_at: Instant,
    told_at: Option<Instant>,
    /// Connections that this one is the last of.
    overwrites: u32,
    outbox: Outbox,
    /// Stands in `woken`, or was woken and has not asked since.
    woken: bool,
}

/// How a connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Goodbye,
    Lost,
    /// Lost, but what it was to be told is still told.
    SentAway,
}

impl Core {
    pub(super) fn new(setting: Setting, now: Instant) -> Self {
        Self {
            setting,
            peers: HashMap::new(),
            connected: 0,
            ended: HashMap::new(),
            next_epoch: 0,
            closed: false,
            edges: Edges::default(),
            others: Others::default(),
            replicas: Replicas::new(setting.replica),
            health: Health::default(),
            echoes: Echoes::default(),
            rows: WorkQueue::default(),
            announcing: false,
            tunnels: WorkQueue::default(),
            reads: reading::Reads::default(),
            care: care::Care::new(now),
            mark: 1,
            woken: Vec::new(),
            notices: Vec::new(),
        }
    }

    pub(super) fn setting(&self) -> Setting {
        self.setting
    }

    /// Connections to wake since the last call.
    pub(super) fn take_woken(&mut self) -> Vec<Epoch> {
        std::mem::take(&mut self.woken)
    }

    /// Notifications to send since the last call.
    pub(super) fn take_notices(&mut self) -> Vec<Notice> {
        std::mem::take(&mut self.notices)
    }

    /// The node of a peer that is connected here.
    pub(super) fn node(&self, id: PeerId) -> Option<Arc<EncodedNode>> {
        match self.peers.get(&id)?.row.said() {
            Said::Node(node) => Some(Arc::clone(node)),
            _ => None,
        }
    }

    /// Connects a peer and tells it of all tunnel peers that are known already.
    ///
    /// While this replica does not reach the database, a client is sent away: another replica serves it better. An agent
    /// is told and stays, as without its stream it drops its session; its row is written when the database answers again.
    pub(super) fn connect(&mut self, id: PeerId, name: &str, role: Role, now: Instant) -> Epoch {
        let epoch = self.next_epoch;
        self.next_epoch += 1;
        let mut outbox = Outbox::default();
        let unhealthy = self.health.is_unhealthy();
        if self.closed || (unhealthy && role == Role::Client) {
            outbox.end(Some(if self.closed { CLOSED } else { UNHEALTHY }));
            self.ended.insert(epoch, outbox);
            return epoch;
        }
        if unhealthy {
            outbox.tell_error(|| UNHEALTHY.to_owned());
        }
        let peer = self.peers.entry(id).or_default();
        let seat = Seat {
            epoch,
            name: name.into(),
            role,
            connected_at: now,
            told_at: None,
            overwrites: peer
                .seat
                .as_ref()
                .map_or(0, |seat| seat.overwrites.saturating_add(1)),
            outbox,
            woken: false,
        };
        if let Some(mut replaced) = peer.seat.replace(seat) {
            // What it was to be told, the new connection is told.
            replaced.outbox.end_now(Some(OVERWRITTEN));
            self.keep_ended(replaced);
        } else {
            self.connected += 1;
            self.sit_down(id);
        }
        let neighbours: Vec<_> = self.edges.neighbours(id).collect();
        for other in neighbours {
            self.take_interest(other);
            self.tell(id, other);
        }
        epoch
    }

    /// A peer that was not connected is now.
    fn sit_down(&mut self, id: PeerId) {
        let tunnels = self.peers.get(&id).map(|peer| &peer.tunnels);
        let wanted: Vec<_> = tunnels.into_iter().flat_map(OwnTunnels::wanted).collect();
        for to in wanted {
            self.change_edge(Tunnel { from: id, to }, |way| way.own = true);
        }
        self.reads.tunnels_of.add(id);
    }

    fn keep_ended(&mut self, seat: Seat) {
        self.ended.insert(seat.epoch, seat.outbox);
        self.woken.push(seat.epoch);
    }

    fn is_current(&self, id: PeerId, epoch: Epoch) -> bool {
        self.seat(id).is_some_and(|seat| seat.epoch == epoch)
    }

    fn seat(&self, id: PeerId) -> Option<&Seat> {
        self.peers.get(&id)?.seat.as_ref()
    }

    fn is_connected(&self, id: PeerId) -> bool {
        self.seat(id).is_some()
    }

    /// Takes a request but for its handshakes, in the original's order: node, tunnels, end.
    pub(super) fn handle(&mut self, id: PeerId, epoch: Epoch, request: &Request) {
        if !self.is_current(id, epoch) {
            return;
        }
        if let Some(node) = &request.node {
            self.update_self(id, epoch, node);
        }
        if let Some(to) = request.add_tunnel {
            self.add_tunnel(id, to);
        }
        if let Some(to) = request.remove_tunnel {
            self.remove_tunnel(id, to);
        }
        if request.disconnect {
            self.leave(id, End::Goodbye);
        }
    }

    fn update_self(&mut self, id: PeerId, epoch: Epoch, node: &Arc<EncodedNode>) {
        let Some(peer) = self.peers.get_mut(&id) else {
            return;
        };
        if peer.row.announce(node, epoch) {
            self.rows.add(id);
            self.announce(id);
        }
    }

    fn add_tunnel(&mut self, from: PeerId, to: PeerId) {
        let Some(peer) = self.peers.get_mut(&from) else {
            return;
        };
        match peer.tunnels.add(to) {
            Ok(true) => self.tunnels.add(from),
            Ok(false) => {}
            Err(TooMany) => {
                let error = || format!("more than {MAX_TUNNELS} tunnels");
                self.tell_seat(from, |outbox| outbox.tell_error(error));
                return;
            }
        }
        self.change_edge(Tunnel { from, to }, |way| way.own = true);
    }

    /// Only the peer's own tunnel goes: one in the other direction, or one that another replica has stored, stays.
    fn remove_tunnel(&mut self, from: PeerId, to: PeerId) {
        let Some(peer) = self.peers.get_mut(&from) else {
            return;
        };
        if peer.tunnels.remove(to) {
            self.tunnels.add(from);
        }
        self.change_edge(Tunnel { from, to }, |way| way.own = false);
    }

    /// Takes the handshakes of a request, one by one: a stranger in the list does not keep the others from hearing. Those
    /// whose peer may be connected elsewhere are to be published.
    pub(super) fn ready_for_handshake(&mut self, from: PeerId, epoch: Epoch, list: &[PeerId]) {
        if !self.is_current(from, epoch) {
            return;
        }
        for &to in list {
            if !self.edges.connects(from, to) {
                let error = || format!("ready for handshake error: you do not share a tunnel with \"{to}\"");
                self.tell_seat(from, |outbox| outbox.tell_error(error));
                continue;
            }
            let is_here = self.is_connected(to);
            let other = self.others.get(to);
            let is_elsewhere = other.is_some_and(|other| other.is_elsewhere(&self.replicas));
            self.ready(to, from);
            if is_elsewhere || !is_here {
                self.notices.push(Notice::Ready { to, from });
            }
        }
    }

    /// A peer is ready for a handshake with another, which hears of it if it is connected here.
    pub(super) fn ready(&mut self, to: PeerId, from: PeerId) {
        self.tell_seat(to, |outbox| outbox.tell_ready(from));
    }

    /// A connection is no longer there; if it was not ended before, its peer is lost.
    pub(super) fn forget(&mut self, id: PeerId, epoch: Epoch) {
        if self.is_current(id, epoch) {
            self.leave(id, End::Lost);
        }
        self.ended.remove(&epoch);
        shrink(&mut self.ended);
    }

    /// Ends the connection of a peer. Of one that said goodbye nothing stays; the tunnels of one that was lost do, as
    /// without them those at the other ends would take it for gone.
    fn leave(&mut self, id: PeerId, end: End) {
        let Some(peer) = self.peers.get_mut(&id) else {
            return;
        };
        let Some(mut seat) = peer.seat.take() else {
            return;
        };
        self.connected -= 1;
        let (write_row, write_tunnels) = match end {
            End::Goodbye => (peer.row.leave(), peer.tunnels.withdraw()),
            End::Lost | End::SentAway => (peer.row.lose(), false),
        };
        match end {
            End::SentAway => seat.outbox.end(None),
            End::Goodbye | End::Lost => seat.outbox.end_now(None),
        }
        self.keep_ended(seat);
        if write_row {
            self.rows.add(id);
        }
        if write_tunnels {
            self.tunnels.add(id);
        }
        let neighbours: Vec<_> = self.edges.neighbours(id).collect();
        if end == End::Goodbye {
            for &to in &neighbours {
                self.change_edge(Tunnel { from: id, to }, |way| way.own = false);
            }
        }
        self.announce(id);
        for other in neighbours {
            if !self.is_connected(other) {
                self.edges.forget(id, other);
            }
            self.lose_interest(other);
        }
        if self.peers.len() - self.connected > MAX_DEPARTED {
            self.care.check_own_rows();
            self.settle(id, true);
        } else {
            self.settle(id, false);
        }
    }

    /// Forgets a peer that has left once nothing of it has yet to be written, or at once.
    fn settle(&mut self, id: PeerId, at_once: bool) {
        let Some(peer) = self.peers.get(&id) else { return };
        let pending = self.rows.contains(id)
            || self.tunnels.contains(id)
            || !peer.row.is_clean()
            || !peer.tunnels.is_clean();
        if peer.seat.is_some() || (pending && !at_once) {
            return;
        }
        let Some(peer) = self.peers.remove(&id) else {
            return;
        };
        shrink(&mut self.peers);
        if let Some(other) = self.others.get_mut(id) {
            match peer.row.said() {
                Said::Nothing => {}
                Said::Gone => other.leave(self.setting.replica, false),
                Said::Node(_) | Said::Lost(_) => other.leave(self.setting.replica, true),
            }
        }
        // From here on the database tells of its rows.
        for to in peer.tunnels.wanted() {
            let tunnel = Tunnel { from: id, to };
            if self.edges.connects(id, to) {
                self.change_edge(tunnel, |way| {
                    way.own = false;
                    way.stored.look(true, true);
                });
            }
        }
        // What is being read of it may be older.
        if self.reads.peers.is_worked_on(id) {
            self.peer_changed(id);
        }
        self.announce(id);
    }

    /// What a connection says next.
    pub(super) fn next(&mut self, id: PeerId, epoch: Epoch, now: Instant) -> Next {
        match self.peers.get_mut(&id).and_then(|peer| peer.seat.as_mut()) {
            Some(seat) if seat.epoch == epoch => {
                seat.woken = false;
                let next = seat.outbox.next();
                if matches!(next, Next::Response(_)) {
                    seat.told_at = Some(now);
                }
                next
            }
            _ => self.ended.get_mut(&epoch).map_or(Next::Ended, Outbox::next),
        }
    }

    /// Ends all connections. Those that are still read learn that the others of this replica are lost, then why they end.
    /// That they are lost has to be written for all at once; what said goodbye has still to be written. From here on nothing
    /// else becomes due: nobody is left whom it would concern.
    pub(super) fn close(&mut self) {
        if std::mem::replace(&mut self.closed, true) {
            return;
        }
        let connected = self.peers.iter_mut().filter(|(_, peer)| peer.seat.is_some());
        let ids: Vec<_> = connected
            .map(|(&id, peer)| {
                peer.row.lose();
                id
            })
            .collect();
        for &id in &ids {
            self.announce(id);
        }
        for id in ids {
            if let Some(mut seat) = self.peers.get_mut(&id).and_then(|peer| peer.seat.take()) {
                seat.outbox.end(Some(CLOSED));
                self.keep_ended(seat);
            }
        }
        self.connected = 0;
        self.edges = Edges::default();
        self.others = Others::default();
        self.reads = reading::Reads::default();
        self.care.end();
        self.abandon_losses();
    }
}
