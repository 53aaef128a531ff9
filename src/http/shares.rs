//! What each of many has of something that all share, so that none takes what is everybody's.
//!
//! Owns the count of each holder that has anything. Must never wait: whoever asks for too much is refused, and comes again.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The account of all holders. Cheap to clone; clones are one account.
#[derive(Debug)]
pub(super) struct Shares<K>(Arc<Inner<K>>);

#[derive(Debug)]
struct Inner<K> {
    /// What one holder may have.
    most: usize,
    held: Mutex<HashMap<K, usize>>,
}

impl<K> Clone for Shares<K> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<K: Copy + Eq + Hash> Shares<K> {
    /// Of which each holder may have `most`.
    pub(super) fn new(most: usize) -> Self {
        let held = Mutex::default();
        Self(Arc::new(Inner { most, held }))
    }

    /// `amount` of it for `holder`; `None` if that is more than it may have.
    pub(super) fn take(&self, holder: K, amount: usize) -> Option<Share<K>> {
        let mut share = Share {
            all: self.clone(),
            holder,
            amount: 0,
        };
        share.grow(amount).then_some(share)
    }

    fn held(&self) -> MutexGuard<'_, HashMap<K, usize>> {
        // Every holder of the lock leaves it whole.
        self.0.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many have anything.
    #[cfg(test)]
    pub(super) fn holders(&self) -> usize {
        self.held().len()
    }
}

/// What a holder has, until it is dropped.
#[derive(Debug)]
pub(super) struct Share<K: Copy + Eq + Hash> {
    all: Shares<K>,
    holder: K,
    amount: usize,
}

impl<K: Copy + Eq + Hash> Share<K> {
    /// Takes `more`; false, and nothing is taken, if that is more than its holder may have.
    #[must_use]
    pub(super) fn grow(&mut self, more: usize) -> bool {
        let mut held = self.all.held();
        let has = held.get(&self.holder).copied().unwrap_or(0);
        if more > self.all.0.most.saturating_sub(has) {
            return false;
        }
        if more > 0 {
            held.insert(self.holder, has + more);
            self.amount += more;
        }
        true
    }
}

impl<K: Copy + Eq + Hash> Drop for Share<K> {
    fn drop(&mut self) {
        let mut held = self.all.held();
        if let Entry::Occupied(mut entry) = held.entry(self.holder) {
            *entry.get_mut() -= self.amount;
            if *entry.get() == 0 {
                entry.remove();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_holder_may_have_so_much_and_no_more() {
        let shares = Shares::new(5);
        let mut first = shares.take(1, 3).unwrap();
        assert!(!first.grow(3));
        assert!(first.grow(1));
        assert!(shares.take(1, 2).is_none());
        let second = shares.take(1, 1).unwrap();
        assert!(shares.take(2, 6).is_none());
        drop(shares.take(2, 5).unwrap());
        drop(first);
        drop(shares.take(1, 4).unwrap());
        drop(second);
        assert_eq!(shares.holders(), 0, "nothing is kept of who left");
    }
}
