//! Who asked for a tunnel to whom. Two peers hear of each other while there is one in either direction.
//!
//! Ends need not be connected. Source: coder/coder `tailnet/tunnel.go:tunnelStore`.

use std::collections::{BTreeSet, HashMap};
use std::hash::Hash;

use super::PeerId;

/// Tunnels from one peer. A client holds one per workspace that it uses; the bound is far above that.
pub(crate) const MAX_TUNNELS: usize = 16 * 1_024;

/// Directed tunnels, found from both ends. Sets are sorted so that equal histories have equal outcomes.
#[derive(Debug, Default)]
pub(super) struct Tunnels {
    from: HashMap<PeerId, BTreeSet<PeerId>>,
    to: HashMap<PeerId, BTreeSet<PeerId>>,
}

impl Tunnels {
    /// Adds a tunnel if it is not there; false when `from` has too many.
    pub(super) fn add(&mut self, from: PeerId, to: PeerId) -> bool {
        let targets = self.from.entry(from).or_default();
        if targets.len() >= MAX_TUNNELS && !targets.contains(&to) {
            return false;
        }
        targets.insert(to);
        self.to.entry(to).or_default().insert(from);
        true
    }

    pub(super) fn remove(&mut self, from: PeerId, to: PeerId) {
        remove(&mut self.from, from, to);
        remove(&mut self.to, to, from);
    }

    /// Removes all tunnels that `from` asked for.
    pub(super) fn remove_from(&mut self, from: PeerId) {
        for to in self.from.remove(&from).unwrap_or_default() {
            remove(&mut self.to, to, from);
        }
        shrink(&mut self.from);
    }

    /// Whether there is a tunnel between two peers, in either direction.
    pub(super) fn connects(&self, one: PeerId, other: PeerId) -> bool {
        let has =
            |map: &HashMap<PeerId, BTreeSet<PeerId>>| map.get(&one).is_some_and(|set| set.contains(&other));
        has(&self.from) || has(&self.to)
    }

    /// Everybody at the other end of a tunnel of `id`, each once.
    pub(super) fn peers(&self, id: PeerId) -> impl Iterator<Item = PeerId> {
        let targets = self.from.get(&id);
        let sources = self.to.get(&id).into_iter().flatten();
        let only_sources =
            sources.filter(move |source| !targets.is_some_and(|targets| targets.contains(source)));
        let all = targets.into_iter().flatten().chain(only_sources);
        all.copied().filter(move |other| *other != id)
    }

    /// Every tunnel, in no order.
    pub(super) fn iter(&self) -> impl Iterator<Item = (PeerId, PeerId)> {
        let from = self.from.iter();
        from.flat_map(|(&from, targets)| targets.iter().map(move |&to| (from, to)))
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.from.values().map(BTreeSet::len).sum()
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.from.is_empty() && self.to.is_empty()
    }
}

fn remove(map: &mut HashMap<PeerId, BTreeSet<PeerId>>, key: PeerId, value: PeerId) {
    if let Some(set) = map.get_mut(&key) {
        set.remove(&value);
        if set.is_empty() {
            map.remove(&key);
            shrink(map);
        }
    }
}

/// Entries for which a map is not worth shrinking.
const SMALL: usize = 64;

/// Gives memory back once a map holds a small part of what it once held, so that a crowd costs nothing once it has left.
pub(super) fn shrink<K: Eq + Hash, V>(map: &mut HashMap<K, V>) {
    if map.capacity() > SMALL && map.len() < map.capacity() / 8 {
        map.shrink_to(map.len() * 2);
    }
}
