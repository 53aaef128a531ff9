//! The coordinator of one process: the core under one lock, and a waker per connection.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use super::core::{Core, Epoch, Next};
use super::{Connection, CoordinateError, Coordinator, PeerId};
use crate::proto::tailnet::{CoordinateRequest, CoordinateResponse, Node};

/// What a peer is told whose id has connected again.
const OVERWRITTEN: &str = "peer ID overwritten by new connection";

/// A coordinator in memory. Cheap to clone.
#[derive(Clone, Default)]
pub struct MemoryCoordinator(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    core: Core,
    /// Connections that wait for something to say.
    waiting: HashMap<Epoch, Waker>,
}

impl State {
    /// Wakers of the connections that have something to say, to be woken after the lock is released.
    fn woken(&mut self) -> Vec<Waker> {
        self.core
            .take_woken()
            .iter()
            .filter_map(|epoch| self.waiting.remove(epoch))
            .collect()
    }
}

impl MemoryCoordinator {
    /// A coordinator without peers.
    pub fn new() -> Self {
        Self::default()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A panic in the core concerns one request; what it left is still a coordinator, see the tests.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the core, then wakes whom that concerns.
    fn change<T>(&self, change: impl FnOnce(&mut Core) -> T) -> T {
        let mut state = self.state();
        let result = change(&mut state.core);
        let woken = state.woken();
        drop(state);
        woken.into_iter().for_each(Waker::wake);
        result
    }

    /// Whether nothing is left: no peer and no tunnel.
    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        let state = self.state();
        state.core.is_empty() && state.waiting.is_empty()
    }
}

impl fmt::Debug for MemoryCoordinator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryCoordinator").finish_non_exhaustive()
    }
}

impl Coordinator for MemoryCoordinator {
    fn connect(&self, id: PeerId, name: &str) -> Arc<dyn Connection> {
        let coordinator = self.clone();
        let epoch = self.change(|core| {
            if core.is_closed() {
                None
            } else {
                Some(core.connect(id).0)
            }
        });
        tracing::debug!(peer = %id, name, "coordinating");
        Arc::new(MemoryConnection {
            coordinator,
            id,
            epoch,
            told_last: AtomicBool::new(false),
        })
    }

    fn node(&self, id: PeerId) -> Option<Arc<Node>> {
        self.state().core.node(id)
    }

    fn close(&self) {
        self.change(Core::close);
    }
}

struct MemoryConnection {
    coordinator: MemoryCoordinator,
    id: PeerId,
    /// `None` when the coordinator was closed before.
    epoch: Option<Epoch>,
    /// The error that ends the connection was given out.
    told_last: AtomicBool,
}

impl MemoryConnection {
    /// An error before the end, once.
    fn last_words(&self, error: &str) -> Poll<Option<CoordinateResponse>> {
        if self.told_last.swap(true, Ordering::Relaxed) {
            return Poll::Ready(None);
        }
        Poll::Ready(Some(CoordinateResponse {
            peer_updates: Vec::new(),
            error: error.to_owned(),
        }))
    }
}

impl Connection for MemoryConnection {
    fn handle(&self, request: CoordinateRequest) -> Result<(), CoordinateError> {
        let Some(epoch) = self.epoch else {
            return Err(CoordinateError::Closed);
        };
        self.coordinator
            .change(|core| core.handle(self.id, epoch, request))
    }

    fn poll_response(&self, cx: &mut Context<'_>) -> Poll<Option<CoordinateResponse>> {
        let closed = CoordinateError::Closed.to_string();
        let Some(epoch) = self.epoch else {
            return self.last_words(&closed);
        };
        let mut state = self.coordinator.state();
        match state.core.next(self.id, epoch) {
            Next::Response(response) => Poll::Ready(Some(response)),
            Next::Nothing => {
                state.waiting.insert(epoch, cx.waker().clone());
                Poll::Pending
            }
            Next::Replaced => self.last_words(OVERWRITTEN),
            Next::Closed => self.last_words(&closed),
            Next::Ended => Poll::Ready(None),
        }
    }
}

impl Drop for MemoryConnection {
    fn drop(&mut self) {
        let Some(epoch) = self.epoch else { return };
        self.coordinator.change(|core| core.lost(self.id, epoch));
        self.coordinator.state().waiting.remove(&epoch);
    }
}
