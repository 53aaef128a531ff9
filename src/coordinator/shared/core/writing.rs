//! What is to be written to the database, and what follows from it.
//!
//! Keys are peers: what is written of one is its latest, one statement at a time, so that nothing is ever overwritten by
//! something older.

use std::collections::HashSet;
use std::sync::Arc;

use super::super::echoes::Subject;
use super::super::notices::Notice;
use super::super::own::{Said, TunnelChanges};
use super::{Core, Tunnel};
use crate::clock::Instant;
use crate::coordinator::{EncodedNode, PeerId};
use crate::store::DatabaseTime;

/// Bytes of nodes in one statement, after which it takes no more.
const MAX_NODE_BYTES: usize = 1024 * 1024;

/// Rows of peers to write, in this order.
#[derive(Debug, Default)]
pub(in crate::coordinator::shared) struct RowBatch {
    keys: Vec<PeerId>,
    /// With the node; true if it was lost.
    pub(in crate::coordinator::shared) put: Vec<(PeerId, Arc<EncodedNode>, bool)>,
    /// To be marked as lost, whatever node stands there.
    pub(in crate::coordinator::shared) lose: Vec<PeerId>,
    pub(in crate::coordinator::shared) delete: Vec<PeerId>,
}

/// What became of a [`RowBatch`].
#[derive(Debug, Default)]
pub(in crate::coordinator::shared) struct WrittenRows {
    pub(in crate::coordinator::shared) put: Vec<(PeerId, DatabaseTime)>,
    /// Those that were not lost before.
    pub(in crate::coordinator::shared) lost: Vec<PeerId>,
    /// Those that were there.
    pub(in crate::coordinator::shared) deleted: Vec<PeerId>,
}

/// Rows of tunnels to write, in this order.
#[derive(Debug, Default)]
pub(in crate::coordinator::shared) struct TunnelBatch {
    changes: Vec<(PeerId, TunnelChanges)>,
    /// Peers all of whose tunnels go.
    pub(in crate::coordinator::shared) withdraw: Vec<PeerId>,
    pub(in crate::coordinator::shared) remove: Vec<Tunnel>,
    pub(in crate::coordinator::shared) add: Vec<Tunnel>,
}

impl Core {
    /// Whether there are rows of peers to write.
    pub(in crate::coordinator::shared) fn has_rows(&self) -> bool {
        self.rows.has_work()
    }

    /// Takes rows of at most `most` peers, for [`Core::rows_written`] or [`Core::rows_failed`].
    pub(in crate::coordinator::shared) fn take_rows(&mut self, most: usize, now: Instant) -> RowBatch {
        let mut batch = RowBatch::default();
        let mut bytes = 0;
        while batch.keys.len() < most && bytes < MAX_NODE_BYTES {
            let Some(&id) = self.rows.take(1).first() else {
                break;
            };
            batch.keys.push(id);
            let Some(said) = self.peers.get_mut(&id).and_then(|peer| peer.row.take()) else {
                continue;
            };
            match said {
                Said::Nothing => continue,
                Said::Gone => batch.delete.push(id),
                Said::Lost(None) => batch.lose.push(id),
                Said::Node(node) => {
                    bytes += node.as_bytes().len();
                    batch.put.push((id, node, false));
                }
                Said::Lost(Some(node)) => {
                    bytes += node.as_bytes().len();
                    batch.put.push((id, node, true));
                }
            }
            if self.setting.triggers_notify {
                self.echoes.expect(Subject::Peer(id), now);
            }
        }
        self.announcing = batch.put.iter().any(|(_, _, lost)| !lost);
        batch
    }

    /// A batch is written.
    pub(in crate::coordinator::shared) fn rows_written(
        &mut self,
        batch: RowBatch,
        written: &WrittenRows,
        now: Instant,
    ) {
        self.announcing = false;
        let WrittenRows { put, lost, deleted } = written;
        let times = put.iter().map(|(id, at)| (*id, Some(*at)));
        let others = batch.lose.iter().chain(&batch.delete).map(|id| (*id, None));
        let mut again = HashSet::new();
        for (id, at) in times.chain(others) {
            if let Some(peer) = self.peers.get_mut(&id)
                && peer.row.settle(at, self.mark)
            {
                again.insert(id);
            }
        }
        for &id in put.iter().map(|(id, _)| id).chain(lost).chain(deleted) {
            self.notify(Notice::Peer(id), Subject::Peer(id), now);
        }
        let changed: HashSet<_> = lost.iter().chain(deleted).collect();
        let unchanged = batch.lose.iter().chain(&batch.delete);
        for &id in unchanged.filter(|id| !changed.contains(id)) {
            self.is_not_notified([Subject::Peer(id)]);
            if again.contains(&id) {
                self.notify(Notice::Peer(id), Subject::Peer(id), now);
            }
        }
        self.rows.done(batch.keys.iter().copied());
        for id in batch.keys {
            // Its time is known now, which another replica's may be newer than.
            if self
                .others
                .get(id)
                .is_some_and(|other| other.is_elsewhere(&self.replicas))
            {
                self.announce(id);
            }
            self.settle(id, false);
        }
    }

    /// A batch is not written, or perhaps not.
    pub(in crate::coordinator::shared) fn rows_failed(&mut self, batch: RowBatch) {
        self.announcing = false;
        let put = batch.put.iter().map(|(id, ..)| id);
        let tried = put.chain(&batch.lose).chain(&batch.delete);
        self.is_not_notified(tried.map(|id| Subject::Peer(*id)));
        for id in &batch.keys {
            if let Some(peer) = self.peers.get_mut(id)
                && peer.row.has_said()
            {
                peer.row.fail();
            }
        }
        self.rows.put_back(batch.keys);
        if self.closed {
            self.abandon_losses();
        }
    }

    /// Whoever wrote rows has vanished.
    pub(in crate::coordinator::shared) fn row_writer_vanished(&mut self) {
        self.announcing = false;
        for (id, peer) in &mut self.peers {
            if self.rows.is_worked_on(*id) {
                peer.row.fail();
            }
        }
        self.rows.put_all_back();
        if self.closed {
            self.abandon_losses();
        }
    }

    /// Whether rows are being written that say of somebody that he is connected. After [`Core::close`], none begin.
    pub(in crate::coordinator::shared) fn is_announcing(&self) -> bool {
        self.announcing
    }

    /// Whether there are rows of tunnels to write.
    pub(in crate::coordinator::shared) fn has_tunnels(&self) -> bool {
        self.tunnels.has_work()
    }

    /// Takes at most `most` tunnels, for [`Core::tunnels_written`] or [`Core::tunnels_failed`].
    pub(in crate::coordinator::shared) fn take_tunnels(&mut self, most: usize, now: Instant) -> TunnelBatch {
        let mut batch = TunnelBatch::default();
        let mut room = most;
        while room > 0 {
            let Some(&id) = self.tunnels.take(1).first() else {
                break;
            };
            let Some(peer) = self.peers.get_mut(&id) else {
                self.tunnels.done([id]);
                continue;
            };
            let changes = peer.tunnels.take(room);
            room = room.saturating_sub(1 + changes.remove.len() + changes.add.len());
            let tunnel = |to: &PeerId| Tunnel { from: id, to: *to };
            batch.withdraw.extend(changes.withdraw.then_some(id));
            batch.remove.extend(changes.remove.iter().map(tunnel));
            batch.add.extend(changes.add.iter().map(tunnel));
            batch.changes.push((id, changes));
        }
        if self.setting.triggers_notify {
            for tunnel in batch.remove.iter().chain(&batch.add) {
                self.echoes.expect(Subject::Tunnel(*tunnel), now);
            }
        }
        batch
    }

    /// A batch is written; `removed` are those that were there. Of tunnels that an earlier try may have removed, others are
    /// told all the same; not of those that went with their peer, of whom they are told by its row.
    pub(in crate::coordinator::shared) fn tunnels_written(
        &mut self,
        batch: TunnelBatch,
        removed: &[Tunnel],
        now: Instant,
    ) {
        let there: HashSet<_> = removed.iter().collect();
        let again = batch.changes.iter().filter(|(_, changes)| changes.again);
        let again: HashSet<_> = again.map(|(id, _)| *id).collect();
        for &tunnel in batch.remove.iter().filter(|tunnel| !there.contains(tunnel)) {
            self.is_not_notified([Subject::Tunnel(tunnel)]);
            if again.contains(&tunnel.from) {
                self.notify(Notice::Tunnel(tunnel), Subject::Tunnel(tunnel), now);
            }
        }
        for &tunnel in removed.iter().chain(&batch.add) {
            self.notify(Notice::Tunnel(tunnel), Subject::Tunnel(tunnel), now);
            self.reads.outdate(tunnel);
        }
        for (id, changes) in batch.changes {
            let more = match self.peers.get_mut(&id) {
                Some(peer) => peer.tunnels.settle(&changes, self.mark),
                None => false,
            };
            self.tunnels.done([id]);
            if more {
                self.tunnels.add(id);
            }
            self.settle(id, false);
        }
    }

    /// A batch is not written, or perhaps not.
    pub(in crate::coordinator::shared) fn tunnels_failed(&mut self, batch: TunnelBatch) {
        let tried = batch.remove.iter().chain(&batch.add);
        self.is_not_notified(tried.map(|tunnel| Subject::Tunnel(*tunnel)));
        for (id, changes) in batch.changes {
            if let Some(peer) = self.peers.get_mut(&id) {
                peer.tunnels.fail(&changes);
            }
            self.tunnels.put_back([id]);
        }
    }

    /// Whoever wrote tunnels has vanished.
    pub(in crate::coordinator::shared) fn tunnel_writer_vanished(&mut self) {
        for (id, peer) in &mut self.peers {
            if self.tunnels.is_worked_on(*id) {
                peer.tunnels.fail_all();
            }
        }
        self.tunnels.put_all_back();
    }

    /// Tells other replicas of a write, unless the database does.
    fn notify(&mut self, notice: Notice, subject: Subject, now: Instant) {
        if !self.setting.triggers_notify {
            self.echoes.expect(subject, now);
            self.notices.push(notice);
        }
    }

    /// Writes that triggers were expected to notify of were not made, or changed nothing.
    fn is_not_notified(&mut self, subjects: impl IntoIterator<Item = Subject>) {
        if self.setting.triggers_notify {
            for subject in subjects {
                self.echoes.take_back(subject);
            }
        }
    }

    /// A heartbeat was written.
    pub(super) fn notify_heartbeat(&mut self) {
        if !self.setting.triggers_notify {
            self.notices.push(Notice::Heartbeat(self.setting.replica));
        }
    }

    /// What was lost is written for all peers at once, and no more for each.
    pub(super) fn abandon_losses(&mut self) {
        let Self {
            peers, rows, tunnels, ..
        } = self;
        for peer in peers.values_mut() {
            if matches!(peer.row.said(), Said::Lost(_)) {
                peer.row.take();
            }
        }
        rows.retain(|id| peers.get(&id).is_some_and(|peer| !peer.row.is_clean()));
        peers.retain(|id, peer| {
            let pending = !peer.row.is_clean() || !peer.tunnels.is_clean();
            pending || rows.contains(*id) || tunnels.contains(*id)
        });
    }

    /// All peers of this replica are marked as lost; these were not before.
    pub(in crate::coordinator::shared) fn all_lost(&mut self, ids: &[PeerId]) {
        if !self.setting.triggers_notify {
            self.notices.extend(ids.iter().map(|id| Notice::Peer(*id)));
        }
    }
}
