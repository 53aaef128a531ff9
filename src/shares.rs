//! What each of many has of something that all share, so that none takes what is everybody's.
//!
//! Owns the count of each holder that has anything. Must never wait: whoever asks for too much is refused, and comes again.
//! Room for all is a semaphore of whoever has the thing.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The account of all holders. Cheap to clone; clones are one account.
#[derive(Debug)]
pub(crate) struct Shares<K>(Arc<Inner<K>>);

#[derive(Debug)]
struct Inner<K> {
    /// What one holder may have.
    most: usize,
    held: Mutex<HashMap<K, Held>>,
}

#[derive(Debug, Default)]
struct Held {
    amount: usize,
    /// It asked for more than it may have.
    refused: bool,
}

/// More was asked for than a holder may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Refused {
    /// It was refused nothing yet of late: since it last had nothing. Whoever tells of it tells once.
    pub(crate) first: bool,
}

impl<K> Clone for Shares<K> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<K: Copy + Eq + Hash> Shares<K> {
    /// Of which each holder may have `most`.
    pub(crate) fn new(most: usize) -> Self {
        let held = Mutex::default();
        Self(Arc::new(Inner { most, held }))
    }

    /// `amount` of it for `holder`, if it may have that.
    pub(crate) fn take(&self, holder: K, amount: usize) -> Result<Share<K>, Refused> {
        let mut share = Share {
            all: self.clone(),
            holder,
            amount: 0,
        };
        share.grow(amount)?;
        Ok(share)
    }

    fn held(&self) -> MutexGuard<'_, HashMap<K, Held>> {
        // Every holder of the lock leaves it whole.
        self.0.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many have anything.
    #[cfg(test)]
    pub(crate) fn holders(&self) -> usize {
        self.held().len()
    }
}

/// What a holder has, until it is dropped.
#[derive(Debug)]
pub(crate) struct Share<K: Copy + Eq + Hash> {
    all: Shares<K>,
    holder: K,
    amount: usize,
}

impl<K: Copy + Eq + Hash> Share<K> {
    /// Takes `more`, if its holder may have that; otherwise nothing.
    pub(crate) fn grow(&mut self, more: usize) -> Result<(), Refused> {
        let mut all = self.all.held();
        let has = all.get(&self.holder).map_or(0, |held| held.amount);
        if more > self.all.0.most.saturating_sub(has) {
            // Who has nothing asks for too much by itself: nothing will be given back, and nothing is kept of it.
            let held = all.get_mut(&self.holder);
            let told = held.is_some_and(|held| std::mem::replace(&mut held.refused, true));
            return Err(Refused { first: !told });
        }
        if more > 0 {
            all.entry(self.holder).or_default().amount += more;
            self.amount += more;
        }
        Ok(())
    }
}

impl<K: Copy + Eq + Hash> Drop for Share<K> {
    fn drop(&mut self) {
        let mut held = self.all.held();
        if let Entry::Occupied(mut entry) = held.entry(self.holder) {
            entry.get_mut().amount -= self.amount;
            if entry.get().amount == 0 {
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
        assert!(first.grow(3).is_err());
        first.grow(1).unwrap();
        assert!(shares.take(1, 2).is_err());
        let second = shares.take(1, 1).unwrap();
        assert!(shares.take(2, 6).is_err());
        drop(shares.take(2, 5).unwrap());
        drop(first);
        drop(shares.take(1, 4).unwrap());
        drop(second);
        assert_eq!(shares.holders(), 0, "nothing is kept of who left");
    }

    #[test]
    fn the_first_refusal_is_told_apart_until_the_holder_has_nothing() {
        let shares = Shares::new(5);
        for _ in 0..2 {
            let share = shares.take(1, 5).unwrap();
            let firsts = [1, 1, 2].map(|holder| shares.take(holder, 6).unwrap_err().first);
            assert_eq!(firsts, [true, false, true]);
            drop(share);
        }
        assert_eq!(shares.holders(), 0);
    }
}
