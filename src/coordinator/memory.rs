//! The coordinator of one process: the core under one lock, and a waker per connection.
//!
//! Must never run anything of a peer's with the lock held.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use async_trait::async_trait;

use super::core::Core;
use super::outbox::Next;
use super::request::Request;
use super::wakers::{Wakers, wake};
use super::{
    Connection, CoordinateError, Coordinator, CoordinatorStatus, Epoch, PeerId, Response, Role, Snapshot,
};
use crate::clock::Clock;
use crate::proto::tailnet::{CoordinateRequest, Node};
use crate::store::StoreError;

/// Handshakes that are taken with the lock held once. An honest list answers one response, so it has no more.
const HANDSHAKES_AT_ONCE: usize = 1_024;

/// A coordinator in memory. Cheap to clone.
#[derive(Clone)]
pub struct MemoryCoordinator {
    state: Arc<Mutex<State>>,
    clock: Clock,
}

#[derive(Default)]
struct State {
    core: Core,
    waiting: Wakers,
}

impl MemoryCoordinator {
    /// A coordinator without peers.
    pub fn new(clock: Clock) -> Self {
        Self {
            state: Arc::default(),
            clock,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A panic in the core concerns one request; what it left is still a coordinator.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the core, then wakes whom that concerns.
    fn change<T>(&self, change: impl FnOnce(&mut Core) -> T) -> T {
        let mut state = self.state();
        let result = change(&mut state.core);
        let woken = state.core.take_woken();
        let woken = state.waiting.take(&woken);
        drop(state);
        wake(woken);
        result
    }

    /// Whether nothing is left: no peer, no tunnel, no connection.
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

#[async_trait]
impl Coordinator for MemoryCoordinator {
    fn connect(&self, id: PeerId, name: &str, _: Role) -> Box<dyn Connection> {
        let now = self.clock.monotonic();
        let epoch = self.change(|core| core.connect(id, name, now));
        tracing::debug!(peer = %id, name, "coordinating");
        Box::new(MemoryConnection {
            coordinator: self.clone(),
            id,
            epoch,
        })
    }

    /// Of a peer that is connected.
    async fn node(&self, id: PeerId) -> Result<Option<Node>, StoreError> {
        let node = self.state().core.node(id);
        Ok(node.map(|node| node.decode()))
    }

    fn status(&self) -> CoordinatorStatus {
        self.state().core.status()
    }

    async fn snapshot(&self, most: usize) -> Result<Snapshot, StoreError> {
        let now = self.clock.monotonic();
        Ok(self.state().core.snapshot(most, now))
    }

    fn successor(&self) -> Box<dyn Coordinator> {
        Box::new(Self::new(self.clock.clone()))
    }

    async fn close(&self) -> Result<(), StoreError> {
        self.change(Core::close);
        Ok(())
    }
}

struct MemoryConnection {
    coordinator: MemoryCoordinator,
    id: PeerId,
    epoch: Epoch,
}

impl Connection for MemoryConnection {
    fn handle(&self, request: CoordinateRequest) -> Result<(), CoordinateError> {
        let request = Request::try_from(request)?;
        self.coordinator
            .change(|core| core.handle(self.id, self.epoch, &request));
        for list in request.ready.chunks(HANDSHAKES_AT_ONCE) {
            self.coordinator
                .change(|core| core.ready_for_handshake(self.id, self.epoch, list));
        }
        Ok(())
    }

    fn poll_response(&self, cx: &mut Context<'_>) -> Poll<Option<Response>> {
        let now = self.coordinator.clock.monotonic();
        let mut state = self.coordinator.state();
        match state.core.next(self.id, self.epoch, now) {
            Next::Response(response) => Poll::Ready(Some(response)),
            Next::Nothing => {
                state.waiting.wait(self.epoch, cx);
                Poll::Pending
            }
            Next::Ended => Poll::Ready(None),
        }
    }
}

impl Drop for MemoryConnection {
    fn drop(&mut self) {
        let forget = || {
            self.coordinator.change(|core| core.forget(self.id, self.epoch));
            let waker = self.coordinator.state().waiting.forget(self.epoch);
            drop(waker);
        };
        // A connection is also dropped while a panic of its peer's request unwinds; a second one would end the process.
        if catch_unwind(AssertUnwindSafe(forget)).is_err() {
            tracing::error!(peer = %self.id, "panic while removing a peer");
        }
    }
}

#[cfg(test)]
mod tests;
