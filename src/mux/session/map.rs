//! A map from stream number to a small value, made for streams that come in rising order and are few.
//!
//! Owns nothing but the order. Sixteen idle bytes per entry beat a hash table's for the two streams that most sessions
//! hold, a hostile choice of numbers cannot degrade it, and removing the oldest or the newest is cheap.

use std::collections::VecDeque;

use super::header::StreamId;

/// A map ordered by stream number.
#[derive(Debug)]
pub(crate) struct StreamMap<T> {
    entries: VecDeque<(StreamId, T)>,
}

/// Capacity that an emptied or shrunken map may keep.
const KEPT_CAPACITY: usize = 8;

impl<T> StreamMap<T> {
    pub(crate) const fn new() -> Self {
        Self {
            entries: VecDeque::new(),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    fn find(&self, id: StreamId) -> Result<usize, usize> {
        match self.entries.back() {
            None => Err(0),
            Some((last, _)) if *last < id => Err(self.entries.len()),
            Some((last, _)) if *last == id => Ok(self.entries.len() - 1),
            Some(_) => self.entries.binary_search_by_key(&id, |(id, _)| *id),
        }
    }

    pub(crate) fn contains(&self, id: StreamId) -> bool {
        self.find(id).is_ok()
    }

    pub(crate) fn get(&self, id: StreamId) -> Option<&T> {
        let index = self.find(id).ok()?;
        self.entries.get(index).map(|(_, value)| value)
    }

    pub(crate) fn get_mut(&mut self, id: StreamId) -> Option<&mut T> {
        let index = self.find(id).ok()?;
        self.entries.get_mut(index).map(|(_, value)| value)
    }

    /// Adds a value, or replaces the one that is there.
    pub(crate) fn insert(&mut self, id: StreamId, value: T) {
        match self.find(id) {
            Ok(index) => self.entries[index].1 = value,
            Err(index) => self.entries.insert(index, (id, value)),
        }
    }

    pub(crate) fn remove(&mut self, id: StreamId) -> Option<T> {
        let index = self.find(id).ok()?;
        let (_, value) = self.entries.remove(index)?;
        if self.entries.capacity() > KEPT_CAPACITY && self.entries.len() < self.entries.capacity() / 4 {
            self.entries.shrink_to(self.entries.len() * 2);
        }
        Some(value)
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = (StreamId, &mut T)> {
        self.entries.iter_mut().map(|(id, value)| (*id, value))
    }

    /// The number at `index` in rising order, for loops that change the map on their way.
    pub(crate) fn id_at(&self, index: usize) -> Option<StreamId> {
        self.entries.get(index).map(|(id, _)| *id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn behaves_like_a_map_whatever_the_order_of_numbers() {
        let mut map = StreamMap::new();
        for id in [5, 1, 9, 3, 7, 3] {
            map.insert(StreamId(id), id * 10);
        }
        assert_eq!(map.len(), 5);
        assert_eq!(
            (0..6)
                .map_while(|i| map.id_at(i))
                .map(|id| id.0)
                .collect::<Vec<_>>(),
            [1, 3, 5, 7, 9]
        );
        assert_eq!(map.remove(StreamId(3)), Some(30));
        assert_eq!(map.remove(StreamId(3)), None);
        assert_eq!(map.get(StreamId(7)), Some(&70));
        assert!(!map.contains(StreamId(11)) && !map.contains(StreamId(4)));
    }

    #[test]
    fn gives_memory_back_after_a_burst() {
        let mut map = StreamMap::new();
        for id in 0..4096 {
            map.insert(StreamId(id), 0_u64);
        }
        for id in 0..4096 {
            map.remove(StreamId(id));
        }
        assert!(map.is_empty());
        assert!(map.entries.capacity() <= KEPT_CAPACITY);
    }
}
