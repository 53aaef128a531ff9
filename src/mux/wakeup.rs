//! Which calls of a session have something to do, told to the one task that serves the session.
//!
//! Owns the list and the task's waker. Calls may be woken from any task; while the session's task is at work, a wake only
//! adds to the list, because the task looks at it before it sleeps.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::Waker;

use super::session::StreamId;

/// The list. Each call is in it at most once, which the call sees to, so it is bounded by the session's streams.
#[derive(Debug, Default)]
pub(super) struct Wakeup(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    ready: Vec<StreamId>,
    /// The session itself has something to do.
    poked: bool,
    /// The session's task is at work, or was told to be.
    awake: bool,
    waker: Option<Waker>,
}

impl Wakeup {
    /// A call has something to do.
    pub(super) fn push(&self, id: StreamId) {
        self.wake(|state| state.ready.push(id));
    }

    /// The session has something to do.
    pub(super) fn poke(&self) {
        self.wake(|state| state.poked = true);
    }

    /// The task is at work, and is to be woken by `waker` once it sleeps.
    pub(super) fn begin(&self, waker: &Waker) {
        let mut state = self.lock();
        state.awake = true;
        if !state.waker.as_ref().is_some_and(|known| known.will_wake(waker)) {
            state.waker = Some(waker.clone());
        }
    }

    /// Moves what is ready into `into`, which must be empty.
    pub(super) fn take(&self, into: &mut Vec<StreamId>) {
        std::mem::swap(&mut self.lock().ready, into);
    }

    /// The task wants to sleep; false when something came up.
    pub(super) fn sleep(&self) -> bool {
        let mut state = self.lock();
        if !state.ready.is_empty() || std::mem::take(&mut state.poked) {
            return false;
        }
        state.ready = Vec::new();
        state.awake = false;
        true
    }

    fn wake(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.lock();
        change(&mut state);
        if !std::mem::replace(&mut state.awake, true) {
            let waker = state.waker.clone();
            drop(state);
            if let Some(waker) = waker {
                waker.wake();
            }
        }
    }

    /// The state is consistent between any two statements, so a panic elsewhere does not spoil it.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;

    use super::*;

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn a_sleeping_task_is_woken_once_and_a_working_one_not_at_all() {
        let count = Arc::new(Count::default());
        let wakeup = Wakeup::default();
        wakeup.begin(&Waker::from(Arc::clone(&count)));
        wakeup.push(StreamId(1));
        assert!(!wakeup.sleep(), "a call is ready");
        let mut ready = Vec::new();
        wakeup.take(&mut ready);
        assert_eq!(ready, [StreamId(1)]);
        assert!(wakeup.sleep());
        assert_eq!(count.0.load(Ordering::Relaxed), 0);
        wakeup.push(StreamId(3));
        wakeup.poke();
        assert_eq!(count.0.load(Ordering::Relaxed), 1);
    }
}
