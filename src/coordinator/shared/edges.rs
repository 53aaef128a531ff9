//! Who has a tunnel with whom, as far as a peer that is connected here is an end of it.
//!
//! Two peers hear of each other while there is a tunnel in either direction, whoever stored it: the replica that one end is
//! connected to, or another that it was connected to before. Owns which tunnels are known, and from where; which peers are
//! connected is told by the core, which takes edges away that no connected peer is an end of.

use std::collections::{BTreeMap, HashMap};

use crate::coordinator::PeerId;
use crate::coordinator::tunnels::shrink;
use crate::store::Tunnel;

#[derive(Debug, Default)]
pub(super) struct Edges {
    /// Each edge stands at both of its ends. Sorted, so that equal histories have equal outcomes.
    of: HashMap<PeerId, BTreeMap<PeerId, Edge>>,
}

/// What there is between a peer and another one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Edge {
    pub(super) out: Way,
    pub(super) back: Way,
}

/// A tunnel in one direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Way {
    /// The peer asked this replica for it, which knows by itself whether it is there.
    pub(super) own: bool,
    pub(super) stored: Stored,
}

/// Whether the database has it, rows apart that this replica knows by itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Stored {
    #[default]
    No,
    Yes,
    /// It was not there when it was last looked for, and nobody had said that it was removed. A database that falls back
    /// to a copy of itself loses rows which their replicas write again, so this is not believed at once.
    Doubted,
}

/// What a change of a tunnel did to its ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// They hear of each other as before, or as before do not.
    None,
    /// They hear of each other now.
    Joined,
    /// They do so no more.
    Parted,
}

impl Stored {
    /// After a look that found it or not; `certain` if somebody said that it has changed.
    pub(super) fn look(&mut self, found: bool, certain: bool) {
        *self = match (found, *self) {
            (true, _) => Self::Yes,
            (false, Self::Yes) if !certain => Self::Doubted,
            (false, _) => Self::No,
        };
    }
}

impl Way {
    fn exists(self) -> bool {
        self.own || self.stored != Stored::No
    }
}

impl Edge {
    fn exists(self) -> bool {
        self.out.exists() || self.back.exists()
    }

    fn reversed(self) -> Self {
        Self {
            out: self.back,
            back: self.out,
        }
    }
}

impl Edges {
    /// Changes what is known of a tunnel. One from a peer to itself joins nobody.
    pub(super) fn change(&mut self, tunnel: Tunnel, change: impl FnOnce(&mut Way)) -> Change {
        let Tunnel { from, to } = tunnel;
        if from == to {
            return Change::None;
        }
        let before = self.between(from, to);
        let mut after = before.unwrap_or_default();
        change(&mut after.out);
        self.put(from, to, after);
        self.put(to, from, after.reversed());
        match (before.is_some(), after.exists()) {
            (false, true) => Change::Joined,
            (true, false) => Change::Parted,
            _ => Change::None,
        }
    }

    /// Forgets what there is between two peers.
    pub(super) fn forget(&mut self, one: PeerId, other: PeerId) {
        self.put(one, other, Edge::default());
        self.put(other, one, Edge::default());
    }

    fn put(&mut self, one: PeerId, other: PeerId, edge: Edge) {
        if edge.exists() {
            self.of.entry(one).or_default().insert(other, edge);
        } else if let Some(edges) = self.of.get_mut(&one) {
            edges.remove(&other);
            if edges.is_empty() {
                self.of.remove(&one);
                shrink(&mut self.of);
            }
        }
    }

    fn between(&self, one: PeerId, other: PeerId) -> Option<Edge> {
        self.of.get(&one)?.get(&other).copied()
    }

    /// Whether two peers hear of each other.
    pub(super) fn connects(&self, one: PeerId, other: PeerId) -> bool {
        self.between(one, other).is_some()
    }

    /// Whom `id` hears of.
    pub(super) fn neighbours(&self, id: PeerId) -> impl Iterator<Item = PeerId> {
        self.of
            .get(&id)
            .into_iter()
            .flat_map(|edges| edges.keys().copied())
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.of.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    const A: PeerId = PeerId(Uuid::from_u128(1));
    const B: PeerId = PeerId(Uuid::from_u128(2));
    const AB: Tunnel = Tunnel { from: A, to: B };
    const BA: Tunnel = Tunnel { from: B, to: A };

    #[test]
    fn tunnels_in_either_direction_join_once_and_the_last_one_parts() {
        let mut edges = Edges::default();
        assert_eq!(edges.change(AB, |way| way.own = true), Change::Joined);
        assert_eq!(edges.change(AB, |way| way.stored = Stored::Yes), Change::None);
        assert_eq!(edges.change(BA, |way| way.stored = Stored::Yes), Change::None);
        assert!(edges.connects(A, B) && edges.connects(B, A));
        let edge = edges.between(A, B).unwrap();
        assert_eq!(edges.between(B, A), Some(edge.reversed()));
        assert_eq!(edges.change(AB, |way| *way = Way::default()), Change::None);
        assert_eq!(edges.change(BA, |way| way.stored = Stored::Doubted), Change::None);
        assert_eq!(edges.change(BA, |way| way.stored = Stored::No), Change::Parted);
        assert!(edges.is_empty());
    }

    #[test]
    fn a_peer_is_not_joined_with_itself() {
        let mut edges = Edges::default();
        let itself = Tunnel { from: A, to: A };
        assert_eq!(edges.change(itself, |way| way.own = true), Change::None);
        assert!(edges.is_empty());
    }

    #[test]
    fn what_vanishes_unsaid_is_believed_at_the_second_look() {
        let mut stored = Stored::Yes;
        stored.look(false, false);
        assert_eq!(stored, Stored::Doubted);
        stored.look(true, false);
        assert_eq!(stored, Stored::Yes, "it is back");
        stored.look(false, false);
        stored.look(false, false);
        assert_eq!(stored, Stored::No);
        let mut stored = Stored::Yes;
        stored.look(false, true);
        assert_eq!(stored, Stored::No, "somebody said so");
    }
}
