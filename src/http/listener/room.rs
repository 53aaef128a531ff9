//! Room for connections that are not sessions.
//!
//! Owns who has a place, and which of them wait for a request. When there is no room, whoever has waited longest is cut, so
//! that peers that send nothing hurt only their like. Must never cut a connection with a request at work.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, oneshot};

/// Most connections that are not sessions. Each can hold [`MAX_HEAD`](super::MAX_HEAD). Agents send their request at once, so
/// that as many others would have to come within a round trip for one of them to be cut.
pub(crate) const MAX_CONNECTIONS: usize = 4096;

/// Comes when the connection is to be cut.
pub(super) type Cut = oneshot::Receiver<()>;

/// Room for connections. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Room(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    state: Mutex<State>,
    /// A place is free, or a connection waits that may be cut. Only who accepts connections waits for it.
    changed: Notify,
}

#[derive(Debug)]
struct State {
    /// Places that nobody has.
    free: usize,
    /// Connections that wait for a request, by turn: the first has waited longest. Never more than there are places.
    waiting: BTreeMap<u64, oneshot::Sender<()>>,
    next_turn: u64,
}

impl Room {
    /// With so many places.
    pub(super) fn new(places: usize) -> Self {
        Self(Arc::new(Inner {
            state: Mutex::new(State {
                free: places,
                waiting: BTreeMap::new(),
                next_turn: 0,
            }),
            changed: Notify::new(),
        }))
    }

    /// A place for a connection, which waits for its first request from here on. When there is none, the connection that has
    /// waited longest is cut; while none waits, this one does.
    pub(super) async fn enter(&self) -> (ConnectionPlace, Cut) {
        let mut has_cut = false;
        loop {
            if let Some(entered) = self.try_enter() {
                return entered;
            }
            // Who is cut leaves its place as soon as its task runs.
            has_cut = has_cut || self.0.cut_longest_waiting();
            self.0.changed.notified().await;
        }
    }

    fn try_enter(&self) -> Option<(ConnectionPlace, Cut)> {
        let mut state = self.0.state();
        state.free = state.free.checked_sub(1)?;
        let (cut, is_cut) = oneshot::channel();
        let place = ConnectionPlace(Arc::new(Held {
            standing: Mutex::new(Standing::Waits(state.wait(cut))),
            room: Arc::clone(&self.0),
        }));
        Some((place, is_cut))
    }
}

impl Inner {
    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing that runs under the lock leaves it half-changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn cut_longest_waiting(&self) -> bool {
        let longest = self.state().waiting.pop_first();
        // One that cannot be told is ending already.
        longest.is_some_and(|(_, cut)| {
            let _ = cut.send(());
            true
        })
    }

    fn free(&self) {
        self.state().free += 1;
        self.changed.notify_one();
    }
}

impl State {
    fn wait(&mut self, cut: oneshot::Sender<()>) -> u64 {
        let turn = self.next_turn;
        self.next_turn += 1;
        self.waiting.insert(turn, cut);
        turn
    }
}

/// A connection's place, as its requests see it.
#[derive(Clone, Debug)]
pub(in crate::http) struct ConnectionPlace(Arc<Held>);

#[derive(Debug)]
struct Held {
    standing: Mutex<Standing>,
    room: Arc<Inner>,
}

#[derive(Debug)]
enum Standing {
    /// Waits for a request, since this turn. It is cut if the turn is nobody's any more.
    Waits(u64),
    /// A request is at work; with this the connection could be cut.
    AtWork(oneshot::Sender<()>),
    /// The place is another's.
    GaveBack,
}

impl ConnectionPlace {
    /// Makes room for another connection, because this one lasts and is counted elsewhere from here on. It must end
    /// with the answer to the request.
    pub(in crate::http) fn give_back(&self) {
        let mut standing = self.0.standing();
        if let Standing::AtWork(_) = *standing {
            *standing = Standing::GaveBack;
            self.0.room.free();
        }
    }

    /// A request has come, which is at work until what this gives is dropped. `None` if it comes too late: the connection is
    /// being cut.
    pub(super) fn begin(&self) -> Option<AtWork> {
        let mut standing = self.0.standing();
        let Standing::Waits(turn) = *standing else {
            return None;
        };
        let cut = self.0.room.state().waiting.remove(&turn)?;
        *standing = Standing::AtWork(cut);
        drop(standing);
        Some(AtWork(self.clone()))
    }
}

impl Held {
    fn standing(&self) -> MutexGuard<'_, Standing> {
        // As above.
        self.standing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        match *self.standing() {
            Standing::Waits(turn) => {
                self.room.state().waiting.remove(&turn);
            }
            Standing::AtWork(_) => {}
            Standing::GaveBack => return,
        }
        self.room.free();
    }
}

/// A request at work.
#[derive(Debug)]
pub(super) struct AtWork(ConnectionPlace);

impl Drop for AtWork {
    fn drop(&mut self) {
        let held = &*self.0.0;
        let mut standing = held.standing();
        if let Standing::AtWork(cut) = std::mem::replace(&mut *standing, Standing::GaveBack) {
            *standing = Standing::Waits(held.room.state().wait(cut));
            held.room.changed.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[test]
    fn turns_are_kept_of_who_waits_and_of_nobody_else() {
        let room = Room::new(2);
        let waiting = || room.0.state().waiting.len();
        let (first, _cut) = room.enter().now_or_never().unwrap();
        let (second, _cut) = room.enter().now_or_never().unwrap();
        assert_eq!(waiting(), 2);
        for _ in 0..3 {
            let work = first.begin().unwrap();
            assert_eq!(waiting(), 1);
            drop(work);
            assert_eq!(waiting(), 2);
        }
        let work = second.begin().unwrap();
        second.give_back();
        drop((work, first));
        assert_eq!((waiting(), room.0.state().free), (0, 2));
        drop(second);
        assert_eq!((waiting(), room.0.state().free), (0, 2), "once");
    }

    #[test]
    fn whoever_is_cut_begins_nothing_and_one_goes_for_one_that_comes() {
        let room = Room::new(2);
        let (first, mut cut_first) = room.enter().now_or_never().unwrap();
        let (second, mut cut_second) = room.enter().now_or_never().unwrap();
        // The first has waited less long than the second now.
        drop(first.begin().unwrap());
        let mut enter = Box::pin(room.enter());
        for _ in 0..3 {
            assert!(enter.as_mut().now_or_never().is_none());
            room.0.changed.notify_one();
        }
        assert_eq!(cut_second.try_recv(), Ok(()));
        assert!(cut_first.try_recv().is_err());
        assert!(second.begin().is_none());
        drop(second);
        assert!(enter.now_or_never().is_some());
        assert!(first.begin().is_some());
    }
}
