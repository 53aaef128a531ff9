//! What is to be read from the database, and what follows from it.
//!
//! What is read may be older than what is known from elsewhere by then: a key that is touched while it is being read is
//! read again, and rows that this replica knows by itself are passed over.

use std::collections::{HashMap, HashSet};

use super::super::echoes::Subject;
use super::super::notices::Notice;
use super::super::own::Mark;
use super::super::queue::WorkQueue;
use super::{Core, Tunnel};
use crate::clock::Instant;
use crate::coordinator::PeerId;
use crate::ids::ReplicaId;
use crate::store::{Heartbeat, OwnPeer, StoredPeer, StoredTunnel};

/// Peers whose tunnels are read by one statement. A tunnel has three ids, so an answer has some hundred kilobytes.
const TUNNELS_OF_AT_ONCE: usize = 1_000;

/// Tunnels that are read by one statement.
const TUNNELS_AT_ONCE: usize = 1_000;

/// Peers that are read by one statement. Each has a node, so an answer has some hundred kilobytes; with the largest nodes
/// that there can be, 16 MiB for each replica that has stored them.
const PEERS_AT_ONCE: usize = 256;

/// Single tunnels that wait to be read. Of more, all tunnels of their connected ends are read instead.
const MAX_TUNNELS_WAITING: usize = 16_384;

/// What has yet to be read. Keys are connected peers, their tunnels, and whom they have a tunnel with.
#[derive(Debug, Default)]
pub(super) struct Reads {
    /// Connected peers whose tunnels are to be read.
    pub(super) tunnels_of: WorkQueue<PeerId>,
    /// Single tunnels, of which it was said that they have changed.
    pub(super) tunnels: WorkQueue<Tunnel>,
    /// Peers of interest.
    pub(super) peers: WorkQueue<PeerId>,
    pub(super) heartbeats: Want,
    pub(super) own_rows: Want,
}

/// Something that is read as a whole.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Want {
    #[default]
    Nothing,
    Due,
    Reading,
}

/// A statement to run, or two.
#[derive(Debug)]
pub(in crate::coordinator::shared) enum Read {
    Heartbeats { looked: Instant },
    OwnRows { mark: Mark },
    Tunnels(Vec<Tunnel>),
    TunnelsOf(Vec<PeerId>),
    Peers(Vec<PeerId>),
}

impl Reads {
    pub(super) fn is_idle(&self) -> bool {
        self.tunnels_of.is_idle()
            && self.tunnels.is_idle()
            && self.peers.is_idle()
            && self.heartbeats == Want::Nothing
            && self.own_rows == Want::Nothing
    }

    /// Whoever was reading has vanished.
    fn put_all_back(&mut self) {
        self.tunnels_of.put_all_back();
        self.tunnels.put_all_back();
        self.peers.put_all_back();
        for want in [&mut self.heartbeats, &mut self.own_rows] {
            if *want == Want::Reading {
                *want = Want::Due;
            }
        }
    }

    /// A tunnel was written: what is being read of it may be older.
    pub(super) fn outdate(&mut self, tunnel: Tunnel) {
        let of_ends = [tunnel.from, tunnel.to].map(|end| self.tunnels_of.is_worked_on(end));
        if of_ends != [false, false] || self.tunnels.is_worked_on(tunnel) {
            self.tunnels.add(tunnel);
        }
    }
}

impl Want {
    /// It is to be read.
    pub(super) fn want(&mut self) {
        if *self == Self::Nothing {
            *self = Self::Due;
        }
    }

    fn take(&mut self) -> bool {
        let due = *self == Self::Due;
        if due {
            *self = Self::Reading;
        }
        due
    }
}

impl Core {
    /// Whether there is something to read.
    pub(in crate::coordinator::shared) fn has_reads(&self) -> bool {
        let reads = &self.reads;
        reads.heartbeats == Want::Due
            || reads.own_rows == Want::Due
            || reads.tunnels.has_work()
            || reads.tunnels_of.has_work()
            || reads.peers.has_work()
    }

    /// What is to be read next: what somebody waits for, before rounds. For [`Core::read_failed`], or what takes the answer.
    pub(in crate::coordinator::shared) fn next_read(&mut self, now: Instant) -> Option<Read> {
        let reads = &mut self.reads;
        if reads.heartbeats.take() {
            return Some(Read::Heartbeats { looked: now });
        }
        if reads.own_rows.take() {
            self.mark += 1;
            return Some(Read::OwnRows { mark: self.mark });
        }
        if reads.tunnels.has_work() {
            return Some(Read::Tunnels(reads.tunnels.take(TUNNELS_AT_ONCE)));
        }
        let of_peers_first = reads.tunnels_of.is_waiting() || !reads.peers.is_waiting();
        if of_peers_first && reads.tunnels_of.has_work() {
            return Some(Read::TunnelsOf(reads.tunnels_of.take(TUNNELS_OF_AT_ONCE)));
        }
        if reads.peers.has_work() {
            let ids = reads.peers.take(PEERS_AT_ONCE);
            for id in &ids {
                if let Some(other) = self.others.get_mut(*id) {
                    other.ask();
                }
            }
            return Some(Read::Peers(ids));
        }
        None
    }

    /// The database did not answer.
    pub(in crate::coordinator::shared) fn read_failed(&mut self, read: Read) {
        if self.closed {
            return;
        }
        let reads = &mut self.reads;
        match read {
            Read::Heartbeats { .. } => reads.heartbeats = Want::Due,
            Read::OwnRows { .. } => reads.own_rows = Want::Due,
            Read::Tunnels(keys) => reads.tunnels.put_back(keys),
            Read::TunnelsOf(keys) => reads.tunnels_of.put_back(keys),
            Read::Peers(keys) => {
                for id in &keys {
                    if let Some(other) = self.others.get_mut(*id) {
                        other.fail();
                    }
                }
                reads.peers.put_back(keys);
            }
        }
    }

    /// Whoever was reading has vanished.
    pub(in crate::coordinator::shared) fn reader_vanished(&mut self) {
        self.reads.put_all_back();
    }

    /// A notification has come.
    pub(in crate::coordinator::shared) fn notified(&mut self, notice: Notice, now: Instant) {
        if self.closed {
            return;
        }
        match notice {
            Notice::Peer(id) => {
                if !self.echoes.is_echo(Subject::Peer(id)) {
                    self.peer_changed(id);
                }
            }
            Notice::Tunnel(tunnel) => {
                if !self.echoes.is_echo(Subject::Tunnel(tunnel)) {
                    self.tunnel_changed(tunnel);
                }
            }
            Notice::Heartbeat(replica) => {
                if self.replicas.heard(replica, now) {
                    tracing::info!(%replica, "another replica coordinates too");
                    self.announce_stored_by(&[replica]);
                }
            }
            Notice::Ready { to, from } => self.ready(to, from),
        }
    }

    /// Rows of a peer have changed. Most are of peers that nobody here has a tunnel with.
    pub(super) fn peer_changed(&mut self, id: PeerId) {
        if let Some(other) = self.others.get_mut(id) {
            other.announce();
            self.reads.peers.add(id);
        }
    }

    fn tunnel_changed(&mut self, tunnel: Tunnel) {
        let ends = [tunnel.from, tunnel.to].map(|id| self.is_connected(id).then_some(id));
        if ends == [None, None] {
            return;
        }
        if self.reads.tunnels.len() < MAX_TUNNELS_WAITING {
            self.reads.tunnels.add(tunnel);
        } else {
            ends.into_iter()
                .flatten()
                .for_each(|id| self.reads.tunnels_of.add(id));
        }
    }

    /// Reads everything that concerns a connected peer, when there is nothing better to do.
    pub(super) fn read_everything(&mut self) {
        let connected = self.peers.iter().filter(|(_, peer)| peer.seat.is_some());
        self.reads.tunnels_of.begin_round(connected.map(|(id, _)| *id));
        self.reads.peers.begin_round(self.others.ids());
        self.reads.heartbeats.want();
    }

    /// What counts of the peers that some replicas have stored may be another.
    fn announce_stored_by(&mut self, replicas: &[ReplicaId]) {
        for replica in replicas {
            for id in self.others.of_replica(*replica) {
                self.announce(id);
            }
        }
    }

    /// Takes when each replica was last heard of.
    pub(in crate::coordinator::shared) fn read_heartbeats(&mut self, rows: &[Heartbeat], looked: Instant) {
        self.reads.heartbeats = Want::Nothing;
        let changes = self.replicas.looked(rows, looked);
        for replica in &changes.went {
            // One that ended in order has left nobody connected.
            if self.others.are_connected_to(*replica) {
                tracing::warn!(%replica, "another replica was not heard of for too long: its peers count as lost");
            } else {
                tracing::info!(%replica, "another replica coordinates no more");
            }
        }
        for replica in &changes.came {
            tracing::info!(%replica, "another replica coordinates too, by its row");
        }
        self.announce_stored_by(&changes.went);
        self.announce_stored_by(&changes.came);
    }

    /// Takes the rows of peers.
    pub(in crate::coordinator::shared) fn read_peers(&mut self, ids: Vec<PeerId>, rows: Vec<StoredPeer>) {
        let mut by_peer: HashMap<PeerId, Vec<StoredPeer>> = HashMap::with_capacity(ids.len());
        for row in rows {
            by_peer.entry(row.id).or_default().push(row);
        }
        let me = self.setting.replica;
        for &id in &ids {
            let mut rows = by_peer.remove(&id).unwrap_or_default();
            // Of what it has said itself, this replica knows more.
            if self.peers.get(&id).is_some_and(|peer| peer.row.has_said()) {
                rows.retain(|row| row.replica != me);
            }
            if let Some(other) = self.others.get_mut(id) {
                other.learn(id, &rows);
                self.announce(id);
            }
        }
        self.reads.peers.done(ids);
    }

    /// Takes the rows of single tunnels.
    pub(in crate::coordinator::shared) fn read_tunnels(
        &mut self,
        tunnels: Vec<Tunnel>,
        rows: &[StoredTunnel],
    ) {
        let found: HashSet<Tunnel> = rows
            .iter()
            .filter(|row| !self.knows_itself(row))
            .map(|row| row.tunnel)
            .collect();
        for &tunnel in &tunnels {
            if self.is_connected(tunnel.from) || self.is_connected(tunnel.to) {
                let found = found.contains(&tunnel);
                self.change_edge(tunnel, |way| way.stored.look(found, true));
            }
        }
        self.reads.tunnels.done(tunnels);
    }

    /// Takes the rows of all tunnels that some peers are an end of.
    pub(in crate::coordinator::shared) fn read_tunnels_of(
        &mut self,
        peers: Vec<PeerId>,
        rows: &[StoredTunnel],
    ) {
        // Who has connected since, or again, is read anew: its tunnels may be others now.
        let is_asked = |id: &PeerId| self.is_connected(*id) && !self.reads.tunnels_of.is_outdated(*id);
        let asked: HashSet<PeerId> = peers.iter().copied().filter(is_asked).collect();
        let me = self.setting.replica;
        let mut found: HashMap<PeerId, HashSet<Tunnel>> = HashMap::new();
        for row in rows {
            let Tunnel { from, to } = row.tunnel;
            if row.replica == me && asked.contains(&from) {
                self.adopt(row.tunnel);
            }
            if self.knows_itself(row) {
                continue;
            }
            for end in [from, to] {
                if asked.contains(&end) {
                    found.entry(end).or_default().insert(row.tunnel);
                }
            }
        }
        for &id in &asked {
            let found = found.remove(&id).unwrap_or_default();
            let first = self
                .peers
                .get(&id)
                .is_some_and(|peer| !peer.tunnels.is_complete());
            let known = self.edges.neighbours(id);
            let known =
                known.flat_map(|other| [Tunnel { from: id, to: other }, Tunnel { from: other, to: id }]);
            let all: HashSet<Tunnel> = known.chain(found.iter().copied()).collect();
            for tunnel in all {
                // At the first look, rows that another end knew of may have become the peer's own tunnels.
                let certain = first && tunnel.from == id;
                let is_found = found.contains(&tunnel);
                self.change_edge(tunnel, |way| way.stored.look(is_found, certain));
            }
            if let Some(peer) = self.peers.get_mut(&id) {
                peer.tunnels.complete();
            }
        }
        self.reads.tunnels_of.done(peers);
    }

    /// A tunnel that a connected peer has asked this replica for in an earlier life is its own again.
    fn adopt(&mut self, tunnel: Tunnel) {
        let mark = self.mark;
        let peer = self.peers.get_mut(&tunnel.from);
        if peer.is_some_and(|peer| peer.tunnels.adopt(tunnel.to, mark)) {
            self.change_edge(tunnel, |way| way.own = true);
        }
    }

    /// Whether this replica knows by itself whether there is such a row.
    fn knows_itself(&self, row: &StoredTunnel) -> bool {
        let peer = self.peers.get(&row.tunnel.from);
        row.replica == self.setting.replica && peer.is_some_and(|peer| peer.tunnels.covers(row.tunnel.to))
    }

    /// Takes all rows of this replica, as they were after `mark`, and writes what is not as it should be: after a failover
    /// the database may have forgotten the last writes.
    pub(in crate::coordinator::shared) fn read_own_rows(
        &mut self,
        mark: Mark,
        peers: &[OwnPeer],
        tunnels: &[Tunnel],
    ) {
        self.reads.own_rows = Want::Nothing;
        if self.closed {
            return;
        }
        let peers: HashMap<PeerId, &OwnPeer> = peers.iter().map(|row| (row.id, row)).collect();
        let tunnels: HashSet<Tunnel> = tunnels.iter().copied().collect();
        let (mut rewritten, mut orphaned) = (0_usize, 0_usize);
        for (&id, peer) in &mut self.peers {
            let found = peers.get(&id).map(|row| row.updated_at);
            if peer.row.check(found, mark) {
                self.rows.add(id);
                rewritten += 1;
            }
            let wanted: Vec<_> = peer.tunnels.wanted().collect();
            for to in wanted {
                if peer
                    .tunnels
                    .check(to, tunnels.contains(&Tunnel { from: id, to }), mark)
                {
                    self.tunnels.add(id);
                    rewritten += 1;
                }
            }
        }
        for row in peers.values().filter(|row| !row.lost) {
            let peer = self.peers.entry(row.id).or_default();
            if !peer.row.has_said() {
                peer.row.lose_stored();
                self.rows.add(row.id);
                orphaned += 1;
            }
        }
        for &tunnel in &tunnels {
            let peer = self.peers.get_mut(&tunnel.from);
            if peer.is_some_and(|peer| peer.tunnels.check(tunnel.to, true, mark)) {
                self.tunnels.add(tunnel.from);
                rewritten += 1;
            }
        }
        tracing::info!(rewritten, orphaned, "own rows are checked");
    }
}
