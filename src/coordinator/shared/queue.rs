//! Work that is known by its key: what there is to do is looked up when the key's turn comes.
//!
//! So a burst of changes is done once and in its last form, and nothing is worked on twice at a time. Owns which keys wait
//! and which are worked on; holds each key once, so it is bounded by what the keys stand for.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::hash::Hash;

use crate::coordinator::tunnels::shrink;

#[derive(Debug)]
pub(super) struct WorkQueue<K> {
    states: HashMap<K, State>,
    /// The keys that wait, oldest first.
    waiting: VecDeque<K>,
    /// Keys whose turn comes when none waits.
    round: VecDeque<K>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Waiting,
    /// Taken; `again` if there is more to do since.
    Working {
        again: bool,
    },
}

impl<K> Default for WorkQueue<K> {
    fn default() -> Self {
        Self {
            states: HashMap::new(),
            waiting: VecDeque::new(),
            round: VecDeque::new(),
        }
    }
}

impl<K: Copy + Eq + Hash> WorkQueue<K> {
    /// There is something to do for `key`.
    pub(super) fn add(&mut self, key: K) {
        match self.states.get_mut(&key) {
            None => {
                self.states.insert(key, State::Waiting);
                self.waiting.push_back(key);
            }
            Some(State::Working { again }) => *again = true,
            Some(State::Waiting) => {}
        }
    }

    /// Whether something is being done for `key`.
    pub(super) fn is_worked_on(&self, key: K) -> bool {
        matches!(self.states.get(&key), Some(State::Working { .. }))
    }

    /// Whether what is being done for `key` will be done again.
    pub(super) fn is_outdated(&self, key: K) -> bool {
        matches!(self.states.get(&key), Some(State::Working { again: true }))
    }

    /// Does something for all of `keys` when there is nothing better to do. Replaces what is left of an earlier round.
    pub(super) fn begin_round(&mut self, keys: impl Iterator<Item = K>) {
        self.round = keys.collect();
    }

    /// Takes at most `most` keys, for [`WorkQueue::done`] or [`WorkQueue::put_back`].
    pub(super) fn take(&mut self, most: usize) -> Vec<K> {
        let mut taken = Vec::new();
        while taken.len() < most
            && let Some(key) = self.waiting.pop_front()
        {
            self.states.insert(key, State::Working { again: false });
            taken.push(key);
        }
        while taken.len() < most
            && let Some(key) = self.round.pop_front()
        {
            match self.states.entry(key) {
                Entry::Vacant(entry) => {
                    entry.insert(State::Working { again: false });
                    taken.push(key);
                }
                // Taken a moment ago, perhaps before what the round is about.
                Entry::Occupied(_) => self.add(key),
            }
        }
        if self.waiting.is_empty() {
            self.waiting.shrink_to(SMALL);
        }
        if self.round.is_empty() {
            self.round = VecDeque::new();
        }
        taken
    }

    /// What there was to do for these keys is done.
    pub(super) fn done(&mut self, keys: impl IntoIterator<Item = K>) {
        for key in keys {
            if self.states.remove(&key) == Some(State::Working { again: true }) {
                self.add(key);
            }
        }
        shrink(&mut self.states);
    }

    /// It could not be done; their turn comes again after all that wait.
    pub(super) fn put_back(&mut self, keys: impl IntoIterator<Item = K>) {
        for key in keys {
            self.states.remove(&key);
            self.add(key);
        }
    }

    /// Whoever took keys has vanished.
    pub(super) fn put_all_back(&mut self) {
        let working = self.states.iter().filter(|(_, state)| **state != State::Waiting);
        let keys: Vec<K> = working.map(|(key, _)| *key).collect();
        self.put_back(keys);
    }

    /// Keys that wait and are not `wanted` any more do so no longer.
    pub(super) fn retain(&mut self, wanted: impl Fn(K) -> bool) {
        let states = &mut self.states;
        self.waiting.retain(|key| {
            let is_wanted = wanted(*key);
            if !is_wanted {
                states.remove(key);
            }
            is_wanted
        });
    }

    /// Whether a key waits, the round apart.
    pub(super) fn is_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Whether there is anything to take.
    pub(super) fn has_work(&self) -> bool {
        self.is_waiting() || !self.round.is_empty()
    }

    /// Whether there is nothing to do and nothing being done.
    pub(super) fn is_idle(&self) -> bool {
        self.states.is_empty() && self.round.is_empty()
    }

    /// Whether something is to be done or being done for `key`, the round apart.
    pub(super) fn contains(&self, key: K) -> bool {
        self.states.contains_key(&key)
    }

    /// Keys that wait or are worked on, the round apart.
    pub(super) fn len(&self) -> usize {
        self.states.len()
    }
}

/// Places that an empty queue keeps.
const SMALL: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tn_079_a_batch_has_a_limit_and_a_key_waits_and_is_worked_on_once() {
        let mut queue = WorkQueue::default();
        for key in [1, 2, 3, 2, 1, 4] {
            queue.add(key);
        }
        assert_eq!(queue.take(3), [1, 2, 3], "a key that was added twice is one");
        queue.add(2);
        queue.add(2);
        assert_eq!(queue.take(9), [4], "what is worked on is not handed out again");
        assert!(!queue.has_work());
        queue.done([1, 2]);
        assert_eq!(queue.take(9), [2], "it is once the work is done");
        queue.done([2, 3, 4]);
        assert!(queue.is_idle() && !queue.has_work());
    }

    #[test]
    fn what_could_not_be_done_comes_again_after_the_rest() {
        let mut queue = WorkQueue::default();
        (1..=3).for_each(|key| queue.add(key));
        let taken = queue.take(1);
        queue.put_back(taken);
        assert_eq!(queue.take(9), [2, 3, 1]);
        queue.add(3);
        queue.put_all_back();
        let mut taken = queue.take(9);
        taken.sort_unstable();
        assert_eq!(taken, [1, 2, 3]);
        queue.done(taken);
        assert!(queue.is_idle());
    }

    #[test]
    fn it_is_known_what_is_under_way_and_what_of_that_is_to_be_done_again() {
        let mut queue = WorkQueue::default();
        queue.add(1);
        assert!(!queue.is_worked_on(1) && !queue.is_outdated(1));
        queue.take(1);
        assert!(queue.is_worked_on(1) && !queue.is_outdated(1));
        queue.add(1);
        assert!(queue.is_worked_on(1) && queue.is_outdated(1));
        queue.done([1]);
        assert!(!queue.is_worked_on(1) && !queue.is_outdated(1));
    }

    #[test]
    fn what_is_no_longer_wanted_waits_no_longer() {
        let mut queue = WorkQueue::default();
        (1..=4).for_each(|key| queue.add(key));
        queue.take(1);
        queue.retain(|key| key == 3);
        assert_eq!(queue.take(9), [3], "and what is being done is left alone");
        queue.done([1, 3]);
        assert!(queue.is_idle());
    }

    #[test]
    fn a_round_comes_after_everything_else_and_is_one_at_a_time() {
        let mut queue = WorkQueue::default();
        queue.begin_round(1..=4);
        queue.add(9);
        queue.add(3);
        assert_eq!(queue.take(3), [9, 3, 1]);
        queue.begin_round(1..=3);
        assert_eq!(queue.take(9), [2], "1 and 3 are being worked on");
        queue.done([9, 3, 1, 2]);
        let mut taken = queue.take(9);
        taken.sort_unstable();
        assert_eq!(
            taken,
            [1, 3],
            "and come again, as they were taken before the round began"
        );
        queue.done([1, 3]);
        assert!(queue.is_idle());
    }
}
