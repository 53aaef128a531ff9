//! What is known of peers that a connected peer has a tunnel with, and which of it counts.
//!
//! A peer may be known from several replicas at a time: it moved, or one of them has not noticed that it is gone.
//!
//! - What a dead replica has stored counts as lost.
//! - A node beats a loss, however old it is; of several nodes the newest counts.
//! - What this replica knows by itself counts as the newest until it is written: it is being written now.
//! - A peer is gone when no row of it is left.
//!
//! Source: coder/coder `enterprise/tailnet/connio.go` (mapper). That a row which vanishes unsaid is doubted first is ours;
//! see [`super::edges::Stored::Doubted`].

use std::collections::HashMap;
use std::sync::Arc;

use super::own::{OwnRow, Said};
use super::replicas::Replicas;
use crate::coordinator::tunnels::shrink;
use crate::coordinator::{EncodedNode, PeerId};
use crate::ids::ReplicaId;
use crate::store::{DatabaseTime, StoredPeer};

/// Other peers, each of which a connected peer has a tunnel with.
#[derive(Debug, Default)]
pub(super) struct Others(HashMap<PeerId, Other>);

/// What the database says of a peer.
#[derive(Debug, Default)]
pub(super) struct Other {
    rows: Vec<Row>,
    /// It was read.
    known: bool,
    /// Somebody said that it has changed, and it was not asked for since.
    announced: bool,
    /// It is being read because of that.
    asked: bool,
    /// Its rows were not there when they were last looked for.
    doubted: bool,
}

#[derive(Debug)]
struct Row {
    replica: ReplicaId,
    updated_at: DatabaseTime,
    /// `None` if the peer was lost there.
    node: Option<Arc<EncodedNode>>,
}

/// What counts of a peer.
#[derive(Clone, Debug)]
pub(super) enum Best {
    /// It was not read yet, and this replica knows nothing by itself.
    Unknown,
    /// There is no row of it.
    Absent,
    Lost,
    Node(Arc<EncodedNode>),
}

impl Others {
    /// Takes an interest in a peer. True if it is new.
    pub(super) fn add(&mut self, id: PeerId) -> bool {
        let new = !self.0.contains_key(&id);
        self.0.entry(id).or_default();
        new
    }

    /// Loses interest in a peer.
    pub(super) fn remove(&mut self, id: PeerId) {
        self.0.remove(&id);
        shrink(&mut self.0);
    }

    pub(super) fn get(&self, id: PeerId) -> Option<&Other> {
        self.0.get(&id)
    }

    pub(super) fn get_mut(&mut self, id: PeerId) -> Option<&mut Other> {
        self.0.get_mut(&id)
    }

    pub(super) fn ids(&self) -> impl Iterator<Item = PeerId> {
        self.0.keys().copied()
    }

    /// Those that a replica has stored.
    pub(super) fn of_replica(&self, replica: ReplicaId) -> Vec<PeerId> {
        let stored = |other: &Other| other.rows.iter().any(|row| row.replica == replica);
        let ids = self.0.iter().filter(|(_, other)| stored(other));
        ids.map(|(id, _)| *id).collect()
    }

    /// Whether any of them is connected to a replica, by what it has stored.
    pub(super) fn are_connected_to(&self, replica: ReplicaId) -> bool {
        let mut rows = self.0.values().flat_map(|other| &other.rows);
        rows.any(|row| row.replica == replica && row.node.is_some())
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Other {
    /// Somebody says that it has changed.
    pub(super) fn announce(&mut self) {
        self.announced = true;
    }

    /// It is being read.
    pub(super) fn ask(&mut self) {
        self.asked = std::mem::take(&mut self.announced);
    }

    /// It could not be read.
    pub(super) fn fail(&mut self) {
        self.announced |= std::mem::take(&mut self.asked);
    }

    /// Takes what the database says, as of when it was asked.
    pub(super) fn learn(&mut self, id: PeerId, rows: &[StoredPeer]) {
        self.known = true;
        let certain = std::mem::take(&mut self.asked);
        if rows.is_empty() && !self.rows.is_empty() && !certain && !self.doubted {
            self.doubted = true;
            for row in &mut self.rows {
                row.node = None;
            }
            return;
        }
        self.doubted = false;
        let before = std::mem::take(&mut self.rows);
        self.rows = rows.iter().map(|row| Row::new(id, row, &before)).collect();
        // Of two that are equally new, the same counts everywhere.
        self.rows.sort_unstable_by_key(|row| row.replica);
    }

    /// The row of a replica is that of a peer that was lost, or is not there.
    pub(super) fn leave(&mut self, replica: ReplicaId, lost: bool) {
        self.rows.retain(|row| row.replica != replica);
        self.rows.extend(lost.then_some(Row {
            replica,
            // Of a loss the time does not matter.
            updated_at: DatabaseTime(i64::MIN),
            node: None,
        }));
    }

    /// Whether another replica has it connected, as far as is known.
    pub(super) fn is_elsewhere(&self, replicas: &Replicas) -> bool {
        let lives = |row: &Row| row.node.is_some() && replicas.is_alive(row.replica);
        self.rows.iter().any(lives)
    }
}

impl Row {
    fn new(id: PeerId, stored: &StoredPeer, before: &[Self]) -> Self {
        let StoredPeer {
            replica, updated_at, ..
        } = *stored;
        let is_same = |row: &&Self| row.replica == replica && row.updated_at == updated_at;
        let node = if stored.lost {
            None
        } else if let Some(same) = before.iter().find(is_same).filter(|row| row.node.is_some()) {
            same.node.clone()
        } else {
            match EncodedNode::from_stored(&stored.node) {
                Ok(node) => Some(Arc::new(node)),
                Err(error) => {
                    // Nobody can be told of it, as of one that is lost; it is there all the same.
                    tracing::warn!(peer = %id, %replica, %error, "a stored node cannot be read");
                    None
                }
            }
        };
        Self {
            replica,
            updated_at,
            node,
        }
    }
}

/// What counts of a peer, of what this replica knows by itself and of what the database says.
pub(super) fn best(own: Option<&OwnRow>, other: Option<&Other>, replicas: &Replicas) -> Best {
    let said = own.map_or(&Said::Nothing, OwnRow::said);
    let mut newest: Option<(Option<DatabaseTime>, &Arc<EncodedNode>)> = None;
    let mut lost = false;
    match said {
        // Not yet written, it has no time, and is newer than all that have one.
        Said::Node(node) => newest = Some((own.and_then(OwnRow::written_at), node)),
        Said::Lost(_) => lost = true,
        Said::Nothing | Said::Gone => {}
    }
    for row in other.map_or(&[][..], |other| &other.rows) {
        match row.node.as_ref().filter(|_| replicas.is_alive(row.replica)) {
            None => lost = true,
            Some(node) => {
                let is_newer = match newest {
                    None => true,
                    Some((at, _)) => at.is_some_and(|at| at < row.updated_at),
                };
                if is_newer {
                    newest = Some((Some(row.updated_at), node));
                }
            }
        }
    }
    match (newest, lost) {
        (Some((_, node)), _) => Best::Node(Arc::clone(node)),
        (None, true) => Best::Lost,
        (None, false) if other.is_some_and(|other| other.known) => Best::Absent,
        (None, false) => Best::Unknown,
    }
}
