//! Connections that wait for something to say.
//!
//! A waker is a peer's: it is never run with a lock held, nor in a way that another peer pays for.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::task::{Context, Waker};

use super::Epoch;
use super::tunnels::shrink;

/// As many as there are connections.
#[derive(Debug, Default)]
pub(super) struct Wakers(HashMap<Epoch, Waker>);

impl Wakers {
    /// A connection waits.
    pub(super) fn wait(&mut self, epoch: Epoch, cx: &Context<'_>) {
        self.0.insert(epoch, cx.waker().clone());
    }

    /// Takes those of some connections, for [`wake`] once no lock is held.
    pub(super) fn take(&mut self, epochs: &[Epoch]) -> Vec<Waker> {
        epochs.iter().filter_map(|epoch| self.0.remove(epoch)).collect()
    }

    /// Takes the one of a connection that is no longer there, to be dropped once no lock is held.
    pub(super) fn forget(&mut self, epoch: Epoch) -> Option<Waker> {
        let waker = self.0.remove(&epoch);
        shrink(&mut self.0);
        waker
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Connections that there is room for.
    #[cfg(test)]
    pub(super) fn capacity(&self) -> usize {
        self.0.capacity()
    }
}

/// Wakes each, whatever another does.
pub(super) fn wake(wakers: Vec<Waker>) {
    for waker in wakers {
        if catch_unwind(AssertUnwindSafe(|| waker.wake())).is_err() {
            tracing::error!("panic while waking a peer");
        }
    }
}
