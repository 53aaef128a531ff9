//! What this replica's rows are to say of one of its peers, and whether they say it yet.
//!
//! A change is made here first, and written when its turn comes; what is written is always the latest. Owns what has yet to
//! be written of a peer; must never decide who is told of it.

use std::sync::Arc;

use litemap::LiteMap;

use crate::coordinator::tunnels::MAX_TUNNELS;
use crate::coordinator::{EncodedNode, Epoch, PeerId};
use crate::store::DatabaseTime;

/// A point in the order of events, to tell what was written before a look at the rows from what was written since.
pub(super) type Mark = u64;

/// The peer's own row.
#[derive(Debug, Default)]
pub(super) struct OwnRow {
    said: Said,
    /// The connection that said it.
    by: Epoch,
    /// It has yet to be taken for writing.
    dirty: bool,
    /// A write had no answer, and may have been made.
    unanswered: bool,
    /// When it was written, by the database's clock and by ours; `None` until then.
    written: Option<(DatabaseTime, Mark)>,
}

/// What there is to say of a peer.
#[derive(Clone, Debug, Default)]
pub(super) enum Said {
    /// Nothing; its row, if it has one, is of an earlier life.
    #[default]
    Nothing,
    /// It is connected and has this node.
    Node(Arc<EncodedNode>),
    /// It was lost; with the node that it told last, or without if that stands in the row already.
    Lost(Option<Arc<EncodedNode>>),
    /// It said goodbye: there is no row.
    Gone,
}

impl OwnRow {
    pub(super) fn said(&self) -> &Said {
        &self.said
    }

    /// Whether this, rather than what the database says, tells what its row says.
    pub(super) fn has_said(&self) -> bool {
        !matches!(self.said, Said::Nothing)
    }

    /// When what was said was written.
    pub(super) fn written_at(&self) -> Option<DatabaseTime> {
        self.written.map(|(at, _)| at)
    }

    /// Whether nothing has yet to be written.
    pub(super) fn is_clean(&self) -> bool {
        !self.dirty
    }

    fn say(&mut self, said: Said) {
        self.said = said;
        self.dirty = true;
        self.written = None;
    }

    /// A connection of the peer has told a node. False if nothing is to be written for it: it is the same but for its
    /// time. Of a new connection even that is written, so that it becomes the newest of all rows of the peer.
    pub(super) fn announce(&mut self, node: &Arc<EncodedNode>, epoch: Epoch) -> bool {
        let is_known = matches!(&self.said, Said::Node(known) if known.same_as(node));
        if is_known && self.by == epoch {
            return false;
        }
        self.by = epoch;
        self.say(Said::Node(Arc::clone(node)));
        true
    }

    /// The peer was lost. False if nothing is to be written for it.
    pub(super) fn lose(&mut self) -> bool {
        let Said::Node(node) = &self.said else {
            return false;
        };
        let node = Some(Arc::clone(node));
        self.say(Said::Lost(node));
        true
    }

    /// There is a row of the peer that says more than is true: it is not connected.
    pub(super) fn lose_stored(&mut self) {
        self.say(Said::Lost(None));
    }

    /// The peer has said goodbye. False if nothing is to be written for it.
    pub(super) fn leave(&mut self) -> bool {
        if matches!(self.said, Said::Gone) {
            return false;
        }
        self.say(Said::Gone);
        true
    }

    /// Takes what is to be written.
    pub(super) fn take(&mut self) -> Option<Said> {
        std::mem::take(&mut self.dirty).then(|| self.said.clone())
    }

    /// What was taken is written, unless more was said since. True if an earlier write, of which others were not told, may
    /// have been made before.
    pub(super) fn settle(&mut self, at: Option<DatabaseTime>, mark: Mark) -> bool {
        if !self.dirty {
            self.written = at.map(|at| (at, mark));
        }
        std::mem::take(&mut self.unanswered)
    }

    /// What was taken is not written, or perhaps not.
    pub(super) fn fail(&mut self) {
        self.dirty = true;
        self.unanswered = true;
        self.written = None;
    }

    /// The row was looked at after `mark`. True if it is not what was written before, so that it is to be written again.
    pub(super) fn check(&mut self, found: Option<DatabaseTime>, mark: Mark) -> bool {
        let is_other = self
            .written
            .is_some_and(|(at, written)| written < mark && found != Some(at));
        if is_other {
            self.fail();
        }
        is_other
    }
}

/// The tunnels that the peer asked for.
#[derive(Debug, Default)]
pub(super) struct OwnTunnels {
    /// Tunnels, and those that were removed until that is written. Sorted, so that equal histories have equal outcomes, and
    /// in a vector: most peers have one, for which a tree would allocate eleven.
    tunnels: LiteMap<PeerId, OwnTunnel>,
    /// There are no other rows of them. Before it is known, rows of an earlier life may be there.
    complete: bool,
    withdrawal: Withdrawal,
    /// A write had no answer, and may have been made.
    unanswered: bool,
}

#[derive(Debug)]
struct OwnTunnel {
    wanted: bool,
    dirty: bool,
    /// When it was last written.
    mark: Mark,
}

/// Whether all rows from the peer are to be removed, before anything else is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Withdrawal {
    #[default]
    None,
    Due,
    /// Taken for writing.
    Running,
}

/// A peer has as many tunnels as it may have.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct TooMany;

/// What is to be written of a peer's tunnels, in this order.
#[derive(Debug, Default)]
pub(super) struct TunnelChanges {
    /// All rows from the peer go.
    pub(super) withdraw: bool,
    pub(super) remove: Vec<PeerId>,
    pub(super) add: Vec<PeerId>,
    /// Some of it may be written already, and others were not told.
    pub(super) again: bool,
}

impl OwnTunnels {
    /// Asks for a tunnel. False if nothing is to be written for it.
    pub(super) fn add(&mut self, to: PeerId) -> Result<bool, TooMany> {
        let is_full = self.is_full();
        match self.tunnels.get_mut(&to) {
            Some(tunnel) if tunnel.wanted => return Ok(false),
            Some(tunnel) => {
                tunnel.wanted = true;
                tunnel.dirty = true;
            }
            None if is_full => return Err(TooMany),
            None => _ = self.tunnels.insert(to, OwnTunnel::new(true)),
        }
        Ok(true)
    }

    /// Gives a tunnel up. False if nothing is to be written for it.
    pub(super) fn remove(&mut self, to: PeerId) -> bool {
        let is_unknown = !self.complete && !self.is_full();
        match self.tunnels.get_mut(&to) {
            Some(tunnel) => {
                tunnel.dirty |= tunnel.wanted;
                std::mem::replace(&mut tunnel.wanted, false)
            }
            // There may be a row of it.
            None if is_unknown => {
                self.tunnels.insert(to, OwnTunnel::new(false));
                true
            }
            None => false,
        }
    }

    /// Gives all tunnels up. False if nothing is to be written for it.
    pub(super) fn withdraw(&mut self) -> bool {
        let is_needed = !self.complete || !self.tunnels.is_empty() || self.withdrawal == Withdrawal::Running;
        self.tunnels = LiteMap::new();
        if is_needed {
            self.withdrawal = Withdrawal::Due;
        }
        is_needed
    }

    /// A row of an earlier life was found. True if it is the peer's tunnel now.
    pub(super) fn adopt(&mut self, to: PeerId, mark: Mark) -> bool {
        if self.covers(to) || self.is_full() {
            return false;
        }
        let tunnel = OwnTunnel {
            wanted: true,
            dirty: false,
            mark,
        };
        self.tunnels.insert(to, tunnel);
        true
    }

    /// All rows of earlier lives were found.
    pub(super) fn complete(&mut self) {
        self.complete = true;
        self.tunnels.retain(|_, tunnel| tunnel.wanted || tunnel.dirty);
    }

    pub(super) fn is_complete(&self) -> bool {
        self.complete
    }

    /// Whether this, rather than what the database says, tells whether there is a row of a tunnel.
    pub(super) fn covers(&self, to: PeerId) -> bool {
        self.complete || self.withdrawal != Withdrawal::None || self.tunnels.contains_key(&to)
    }

    fn is_full(&self) -> bool {
        self.tunnels.len() >= MAX_TUNNELS
    }

    /// Those that are there.
    pub(super) fn wanted(&self) -> impl Iterator<Item = PeerId> {
        let wanted = self.tunnels.iter().filter(|(_, tunnel)| tunnel.wanted);
        wanted.map(|(&to, _)| to)
    }

    /// Whether nothing has yet to be written.
    pub(super) fn is_clean(&self) -> bool {
        self.withdrawal == Withdrawal::None && self.tunnels.values().all(|tunnel| !tunnel.dirty)
    }

    /// Takes what is to be written, at most `most` tunnels of it.
    pub(super) fn take(&mut self, most: usize) -> TunnelChanges {
        let mut changes = TunnelChanges {
            again: self.unanswered,
            ..TunnelChanges::default()
        };
        if self.withdrawal == Withdrawal::Due {
            self.withdrawal = Withdrawal::Running;
            changes.withdraw = true;
        }
        let dirty = self.tunnels.iter_mut().filter(|(_, tunnel)| tunnel.dirty);
        for (&to, tunnel) in dirty.take(most) {
            tunnel.dirty = false;
            let list = if tunnel.wanted {
                &mut changes.add
            } else {
                &mut changes.remove
            };
            list.push(to);
        }
        changes
    }

    /// What was taken is written. True if there is more.
    pub(super) fn settle(&mut self, changes: &TunnelChanges, mark: Mark) -> bool {
        if changes.withdraw && self.withdrawal == Withdrawal::Running {
            self.withdrawal = Withdrawal::None;
            self.complete = true;
        }
        for to in changes.remove.iter().chain(&changes.add) {
            if let Some(tunnel) = self.tunnels.get_mut(to) {
                tunnel.mark = mark;
                // Before all rows are known, one that was removed must not be taken for one of an earlier life.
                if self.complete && !tunnel.wanted && !tunnel.dirty {
                    self.tunnels.remove(to);
                }
            }
        }
        let more = !self.is_clean();
        self.unanswered &= more;
        more
    }

    /// What was taken is not written, or perhaps not.
    pub(super) fn fail(&mut self, changes: &TunnelChanges) {
        self.unanswered = true;
        if changes.withdraw && self.withdrawal == Withdrawal::Running {
            self.withdrawal = Withdrawal::Due;
        }
        for to in &changes.add {
            if let Some(tunnel) = self.tunnels.get_mut(to) {
                tunnel.dirty = true;
            }
        }
        for &to in &changes.remove {
            // It may have been forgotten meanwhile.
            self.tunnels.entry(to).or_insert(OwnTunnel::new(false)).dirty = true;
        }
    }

    /// What was taken, whatever it was, is perhaps not written.
    pub(super) fn fail_all(&mut self) {
        self.unanswered = true;
        if self.withdrawal == Withdrawal::Running {
            self.withdrawal = Withdrawal::Due;
        }
        for (_, tunnel) in self.tunnels.iter_mut() {
            tunnel.dirty = true;
        }
    }

    /// The rows were looked at after `mark`, and the one of `to` was found or not. True if something is to be written.
    pub(super) fn check(&mut self, to: PeerId, found: bool, mark: Mark) -> bool {
        match self.tunnels.get_mut(&to) {
            Some(tunnel) if !tunnel.dirty && tunnel.mark < mark && tunnel.wanted != found => {
                tunnel.dirty = true;
                true
            }
            None if found && self.complete && self.withdrawal == Withdrawal::None => {
                self.tunnels.insert(to, OwnTunnel::new(false));
                true
            }
            _ => false,
        }
    }
}

impl OwnTunnel {
    fn new(wanted: bool) -> Self {
        Self {
            wanted,
            dirty: true,
            mark: 0,
        }
    }
}

#[cfg(test)]
mod tests;
