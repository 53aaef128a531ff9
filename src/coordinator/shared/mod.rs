//! The coordinator that several replicas share by way of a database: the core under one lock, a waker per connection, and
//! the tasks that carry work between the core and the database.
//!
//! Owns when statements run and what happens when they fail; what they are about is the core's, their text the store's.
//! Must never await with the lock held, nor let a peer wait for the database.

mod core;
mod echoes;
mod edges;
mod health;
mod notices;
mod others;
mod own;
mod queue;
mod replicas;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod workers;

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::{Notify, OnceCell};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use self::core::{Core, Setting};
use super::outbox::Next;
use super::request::Request;
use super::wakers::{Wakers, wake};
use super::{
    Connection, CoordinateError, Coordinator, CoordinatorStatus, EncodedNode, Epoch, PeerId, Response, Role,
    Snapshot,
};
use crate::clock::Clock;
use crate::ids::ReplicaId;
use crate::proto::tailnet::{CoordinateRequest, Node};
use crate::pubsub::Pubsub;
use crate::store::{Coordination, StoreError};

/// Handshakes that are taken with the lock held once. An honest list answers one response, so it has no more.
const HANDSHAKES_AT_ONCE: usize = 1_024;

/// How long closing may take to write that the peers are lost. Without, other replicas find out by themselves.
const CLOSE_LIMIT: Duration = Duration::from_secs(15);

/// How long closing waits for what is owed to the database before it marks all peers as lost: others shall not wait for
/// that behind a goodbye which cannot be written.
const CLOSE_WORK_LIMIT: Duration = Duration::from_secs(2);

/// How often closing looks whether everything is written, and tries again what failed.
const CLOSE_LOOKS: Duration = Duration::from_millis(20);
const CLOSE_TRIES: Duration = Duration::from_millis(500);

/// A coordinator that replicas share. Cheap to clone; its tasks end with the last clone or when it is closed.
#[derive(Clone)]
pub struct SharedCoordinator {
    shared: Arc<Shared>,
    /// Held for its drop, apart from what the tasks themselves hold.
    tasks: Arc<Mutex<JoinSet<()>>>,
}

/// What connections and tasks hold in common.
struct Shared {
    database: Arc<dyn Coordination>,
    pubsub: Pubsub,
    clock: Clock,
    state: Mutex<State>,
    rows_due: Notify,
    tunnels_due: Notify,
    reads_due: Notify,
    /// The database answers again after it did not.
    recovered: Notify,
    /// A heartbeat is needed now.
    beat_due: Notify,
    closing: OnceCell<Result<(), StoreError>>,
    closed: CancellationToken,
}

struct State {
    core: Core,
    waiting: Wakers,
}

impl SharedCoordinator {
    /// Begins to take part as `replica`, which is this process. Peers may connect at once; what they do is written once the
    /// replica's own row is.
    ///
    /// Runs tasks on the current runtime.
    pub fn start(database: Arc<dyn Coordination>, pubsub: Pubsub, clock: Clock, replica: ReplicaId) -> Self {
        let now = CancellationToken::new();
        now.cancel();
        Self::start_after(&now, database, pubsub, clock, replica)
    }

    /// Begins when `before` is cancelled; peers may connect before.
    fn start_after(
        before: &CancellationToken,
        database: Arc<dyn Coordination>,
        pubsub: Pubsub,
        clock: Clock,
        replica: ReplicaId,
    ) -> Self {
        // Who notifies is known with the first heartbeat, before which nothing is written.
        let setting = Setting {
            replica,
            triggers_notify: false,
        };
        let state = State {
            core: Core::new(setting, clock.monotonic()),
            waiting: Wakers::default(),
        };
        let shared = Arc::new(Shared {
            database,
            pubsub,
            clock,
            state: Mutex::new(state),
            rows_due: Notify::new(),
            tunnels_due: Notify::new(),
            reads_due: Notify::new(),
            recovered: Notify::new(),
            beat_due: Notify::new(),
            closing: OnceCell::new(),
            closed: CancellationToken::new(),
        });
        let tasks = workers::spawn(&shared, before);
        Self {
            shared,
            tasks: Arc::new(Mutex::new(tasks)),
        }
    }

    /// Whether nothing is left in memory: no peer, no tunnel, no connection, nothing to do.
    #[cfg(test)]
    fn is_empty(&self) -> bool {
        let state = self.shared.state();
        state.core.is_empty() && state.waiting.is_empty()
    }
}

impl fmt::Debug for SharedCoordinator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedCoordinator").finish_non_exhaustive()
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        // A panic in the core concerns one request; what it left is still a coordinator.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the core, then tells whom that concerns: other replicas, tasks, peers.
    fn change<T>(&self, change: impl FnOnce(&mut Core) -> T) -> T {
        let mut state = self.state();
        let result = change(&mut state.core);
        let notices = state.core.take_notices();
        let woken = state.core.take_woken();
        let woken = state.waiting.take(&woken);
        let core = &state.core;
        if core.is_open() {
            for (due, wanted) in [
                (&self.rows_due, core.has_rows()),
                (&self.tunnels_due, core.has_tunnels()),
                (&self.reads_due, core.has_reads()),
            ] {
                if wanted {
                    due.notify_one();
                }
            }
        }
        drop(state);
        for notice in notices {
            self.pubsub.publish(notice.channel(), &notice.to_string());
        }
        wake(woken);
        result
    }

    /// Ends the connections, then writes what has yet to be written, and that all peers are lost.
    async fn close(&self) -> Result<(), StoreError> {
        self.change(Core::close);
        let written = async {
            tokio::select! {
                () = self.reaches(Core::is_idle) => {}
                () = self.clock.sleep(CLOSE_WORK_LIMIT) => {}
            }
            // A row that is being written may land after all were marked as lost, and would say that its peer is connected
            // for as long as others believe in this replica. So what was under way then is waited for, and marked too.
            loop {
                let late = self.state().core.is_announcing();
                self.lose_all_peers().await;
                if !late {
                    break;
                }
                self.reaches(|core| !core.is_announcing()).await;
            }
        };
        tokio::select! {
            () = written => Ok(()),
            () = self.clock.sleep(CLOSE_LIMIT) => Err(StoreError::Unavailable(
                "other replicas could not be told of the end in time".to_owned(),
            )),
        }
    }

    /// Waits until something holds of the core.
    async fn reaches(&self, condition: impl Fn(&Core) -> bool) {
        while !condition(&self.state().core) {
            self.clock.sleep(CLOSE_LOOKS).await;
        }
    }

    /// Writes that all peers are lost, and tries until that is done.
    async fn lose_all_peers(&self) {
        let replica = self.state().core.setting().replica;
        loop {
            match self.database.lose_all_peers(replica).await {
                Ok(lost) => return self.change(|core| core.all_lost(&lost)),
                Err(error) => tracing::debug!(%error, "cannot write that all peers are lost"),
            }
            self.clock.sleep(CLOSE_TRIES).await;
        }
    }
}

#[async_trait]
impl Coordinator for SharedCoordinator {
    fn connect(&self, id: PeerId, name: &str, role: Role) -> Box<dyn Connection> {
        let now = self.shared.clock.monotonic();
        let epoch = self.shared.change(|core| core.connect(id, name, role, now));
        tracing::debug!(peer = %id, name, "coordinating");
        Box::new(SharedConnection {
            shared: Arc::clone(&self.shared),
            id,
            epoch,
        })
    }

    /// Of any peer that a replica has stored, lost ones included.
    async fn node(&self, id: PeerId) -> Result<Option<Node>, StoreError> {
        let here = self.shared.state().core.node(id);
        if let Some(node) = here {
            return Ok(Some(node.decode()));
        }
        let mut rows = self.shared.database.peers(&[id]).await?;
        rows.sort_by_key(|row| std::cmp::Reverse(row.updated_at));
        let nodes = rows.iter().map(|row| EncodedNode::from_stored(&row.node));
        Ok(nodes.flatten().next().map(|node| node.decode()))
    }

    fn status(&self) -> CoordinatorStatus {
        self.shared.state().core.status()
    }

    async fn snapshot(&self, most: usize) -> Result<Snapshot, StoreError> {
        let stored = self.shared.database.shared_snapshot(most).await?;
        let now = self.shared.clock.monotonic();
        let here = self.shared.state().core.snapshot(most, now);
        Ok(Snapshot {
            shared: Some(stored),
            ..here
        })
    }

    /// It begins to write when this one is closed: both write rows of the same replica.
    fn successor(&self) -> Box<dyn Coordinator> {
        let Shared {
            database,
            pubsub,
            clock,
            closed,
            ..
        } = &*self.shared;
        let replica = self.shared.state().core.setting().replica;
        Box::new(Self::start_after(
            closed,
            Arc::clone(database),
            pubsub.clone(),
            clock.clone(),
            replica,
        ))
    }

    async fn close(&self) -> Result<(), StoreError> {
        let close = async || {
            let _end = End(self);
            self.shared.close().await
        };
        self.shared.closing.get_or_init(close).await.clone()
    }
}

/// Ends the tasks once everything is written, or nobody waits for that any more.
struct End<'c>(&'c SharedCoordinator);

impl Drop for End<'_> {
    fn drop(&mut self) {
        let SharedCoordinator { shared, tasks } = self.0;
        // They end, whoever panicked.
        tasks.lock().unwrap_or_else(PoisonError::into_inner).abort_all();
        shared.closed.cancel();
    }
}

struct SharedConnection {
    shared: Arc<Shared>,
    id: PeerId,
    epoch: Epoch,
}

impl Connection for SharedConnection {
    fn handle(&self, request: CoordinateRequest) -> Result<(), CoordinateError> {
        let request = Request::try_from(request)?;
        self.shared
            .change(|core| core.handle(self.id, self.epoch, &request));
        for list in request.ready.chunks(HANDSHAKES_AT_ONCE) {
            self.shared
                .change(|core| core.ready_for_handshake(self.id, self.epoch, list));
        }
        Ok(())
    }

    fn poll_response(&self, cx: &mut Context<'_>) -> Poll<Option<Response>> {
        let now = self.shared.clock.monotonic();
        let mut state = self.shared.state();
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

impl Drop for SharedConnection {
    fn drop(&mut self) {
        let forget = || {
            self.shared.change(|core| core.forget(self.id, self.epoch));
            let waker = self.shared.state().waiting.forget(self.epoch);
            drop(waker);
        };
        // A connection is also dropped while a panic of its peer's request unwinds; a second one would end the process.
        if catch_unwind(AssertUnwindSafe(forget)).is_err() {
            tracing::error!(peer = %self.id, "panic while removing a peer");
        }
    }
}
