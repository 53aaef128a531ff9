//! What an owner's workspaces and agents are, followed for the clients that show them.
//!
//! Owns when an owner's state is read: once for all who follow that owner, when somebody begins to, and after each event
//! that may have changed it. An owner whom nobody follows costs nothing. Must never hold up a publisher, and never lose
//! a change: what could not be read is read again. Which events count is the rule of coder/coder
//! `coderd/workspaceupdates.go` (`handleEvent`).

mod snapshot;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, Semaphore, watch};
use tokio_util::task::AbortOnDropHandle;

pub(super) use self::snapshot::Snapshot;
use crate::clock::Clock;
use crate::ids::UserId;
use crate::pubsub::{Pubsub, WorkspaceEvent, WorkspaceEventKind, WorkspaceEvents};
use crate::services::patience::SHORT_STORE_WAIT;
use crate::store::{Store, StoreError};

/// Owners that are followed at a time. Each costs a task and a copy of what it shows, some 100 bytes for each workspace
/// and agent.
pub(crate) const MAX_OWNERS: usize = 4_096;

/// Streams that follow one owner. A user has a handful of machines; each stream costs some hundred bytes, and up to a
/// copy of what is shown while it reads slowly.
pub(crate) const MAX_STREAMS_OF_OWNER: usize = 256;

/// Rows that are read of one owner: agents, and workspaces without any. More are left out, those of sub agents first, so
/// that a runaway agent bounds what it costs.
pub(crate) const MAX_ROWS: u32 = 10_000;

/// Least time between two reads for one owner. Events come in bursts, such as when all agents of an owner come back.
const MIN_INTERVAL: Duration = Duration::from_millis(200);

/// Pause before what could not be read is read again.
const RETRY_PAUSE: Duration = Duration::from_secs(5);

/// Owners that are read at the same time, so that agents' own reads find a free connection when all owners change.
const MAX_READS: usize = 2;

/// Why an owner cannot be followed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WatchError {
    /// The owner's workspaces could not be read.
    #[error("get workspaces and agents by owner ID: {0}")]
    Read(#[from] StoreError),
    /// As many as can be are followed already.
    #[error("too many streams of workspace updates")]
    TooMany,
}

/// The owners that are followed. Cheap to clone.
#[derive(Clone)]
pub struct WorkspaceUpdates(Arc<Shared>);

struct Shared {
    store: Arc<dyn Store>,
    pubsub: Pubsub,
    clock: Clock,
    reads: Semaphore,
    owners: Mutex<HashMap<UserId, Owner>>,
}

/// An owner whom somebody follows.
struct Owner {
    states: watch::Receiver<State>,
    /// Asks for a read that no event asked for.
    refresh: Arc<Notify>,
    streams: usize,
    _task: AbortOnDropHandle<()>,
}

/// What was read last; `None` before the first read has ended.
type State = Option<Result<Arc<Snapshot>, StoreError>>;

impl fmt::Debug for WorkspaceUpdates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let owners = self.0.owners().len();
        f.debug_struct("WorkspaceUpdates")
            .field("owners", &owners)
            .finish_non_exhaustive()
    }
}

impl Shared {
    fn owners(&self) -> MutexGuard<'_, HashMap<UserId, Owner>> {
        // Each step leaves the map whole, so a panic elsewhere does not matter.
        self.owners.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl WorkspaceUpdates {
    /// Follows owners in `store` by the events of `pubsub`.
    pub fn new(store: Arc<dyn Store>, pubsub: Pubsub, clock: Clock) -> Self {
        Self(Arc::new(Shared {
            store,
            pubsub,
            clock,
            reads: Semaphore::new(MAX_READS),
            owners: Mutex::default(),
        }))
    }

    /// Follows `owner`. Answers within the time that clients may wait for the store.
    pub(super) async fn watch(&self, owner: UserId) -> Result<Watch, WatchError> {
        let mut watch = self.join(owner)?;
        let failed = match watch.states.wait_for(Option::is_some).await {
            Ok(state) => state.as_ref().and_then(|state| state.as_ref().err().cloned()),
            // The task that reads has panicked.
            Err(_) => Some(StoreError::Unavailable("reading ended".to_owned())),
        };
        match failed {
            None => Ok(watch),
            Some(error) => Err(WatchError::Read(error)),
        }
    }

    /// Counts one more who follows `owner`.
    fn join(&self, owner: UserId) -> Result<Watch, WatchError> {
        let mut owners = self.0.owners();
        let full = owners.len() >= MAX_OWNERS;
        let states = match owners.entry(owner) {
            Entry::Occupied(entry) => {
                let entry = entry.into_mut();
                if entry.streams >= MAX_STREAMS_OF_OWNER {
                    return Err(WatchError::TooMany);
                }
                entry.streams += 1;
                // What no event told of is found out at least when somebody comes.
                entry.refresh.notify_one();
                entry.states.clone()
            }
            Entry::Vacant(_) if full => return Err(WatchError::TooMany),
            Entry::Vacant(entry) => {
                let (sender, states) = watch::channel(None);
                let refresh = Arc::new(Notify::new());
                let source = Source {
                    shared: Arc::clone(&self.0),
                    owner,
                    // From before the first read on, so that no change falls between.
                    events: self.0.pubsub.workspace_events(owner),
                    refresh: Arc::clone(&refresh),
                    states: sender,
                };
                let task = tokio::spawn(source.run());
                entry.insert(Owner {
                    states: states.clone(),
                    refresh,
                    streams: 1,
                    _task: AbortOnDropHandle::new(task),
                });
                states
            }
        };
        Ok(Watch {
            shared: Arc::clone(&self.0),
            owner,
            states,
        })
    }
}

/// One who follows an owner.
pub(super) struct Watch {
    shared: Arc<Shared>,
    owner: UserId,
    states: watch::Receiver<State>,
}

impl Watch {
    /// The state as it is now, which [`Watch::changed`] then counts as seen.
    pub(super) fn latest(&mut self) -> Arc<Snapshot> {
        match &*self.states.borrow_and_update() {
            Some(Ok(snapshot)) => Arc::clone(snapshot),
            // Not after a first read that succeeded.
            Some(Err(_)) | None => Arc::default(),
        }
    }

    /// Waits until the state differs from the one seen last; false when nothing follows the owner any more.
    pub(super) async fn changed(&mut self) -> bool {
        self.states.changed().await.is_ok()
    }
}

/// The last one who leaves ends the following.
impl Drop for Watch {
    fn drop(&mut self) {
        let mut owners = self.shared.owners();
        if let Entry::Occupied(mut entry) = owners.entry(self.owner) {
            entry.get_mut().streams -= 1;
            if entry.get().streams == 0 {
                entry.remove();
            }
        }
    }
}

/// Reads the state of one owner whenever it may have changed.
struct Source {
    shared: Arc<Shared>,
    owner: UserId,
    events: WorkspaceEvents,
    refresh: Arc<Notify>,
    states: watch::Sender<State>,
}

impl Source {
    async fn run(mut self) {
        match self.read().await {
            Ok(snapshot) => self.states.send_replace(Some(Ok(Arc::new(snapshot)))),
            Err(error) => {
                // Who waits is told and leaves, and with the last of them this owner.
                self.states.send_replace(Some(Err(error)));
                return;
            }
        };
        let clock = self.shared.clock.clone();
        let mut failing = false;
        loop {
            let rested = clock.sleep(MIN_INTERVAL);
            if failing {
                clock.sleep(RETRY_PAUSE).await;
            } else {
                self.disturbed().await;
            }
            rested.await;
            // Whatever they were about is read now.
            self.events.clear();
            match self.read().await {
                Ok(snapshot) => {
                    failing = false;
                    self.publish(snapshot);
                }
                Err(error) => {
                    if !std::mem::replace(&mut failing, true) {
                        tracing::warn!(owner = %self.owner, %error, "failed to get workspaces and agents by owner ID");
                    }
                }
            }
        }
    }

    /// Waits until the state may have changed.
    async fn disturbed(&mut self) {
        loop {
            let event = tokio::select! {
                event = self.events.next() => event,
                () = self.refresh.notified() => return,
            };
            match event {
                Ok(event) if !concerns(&event) => {}
                _ => return,
            }
        }
    }

    async fn read(&self) -> Result<Snapshot, StoreError> {
        let reading = async {
            // The semaphore is never closed.
            let _read = self.shared.reads.acquire().await;
            self.shared.store.owned_workspaces(self.owner, MAX_ROWS).await
        };
        let owned = tokio::select! {
            owned = reading => owned?,
            () = self.shared.clock.sleep(SHORT_STORE_WAIT) => {
                return Err(StoreError::Unavailable("context deadline exceeded".to_owned()));
            }
        };
        if owned.more {
            tracing::warn!(owner = %self.owner, most = MAX_ROWS, "too many workspaces and agents to show all");
        }
        Ok(Snapshot::new(owned.workspaces))
    }

    fn publish(&self, snapshot: Snapshot) {
        self.states.send_if_modified(|state| {
            let same = matches!(state, Some(Ok(last)) if **last == snapshot);
            if !same {
                *state = Some(Ok(Arc::new(snapshot)));
            }
            !same
        });
    }
}

/// Whether an event may have changed what is shown.
fn concerns(event: &WorkspaceEvent) -> bool {
    matches!(
        event.kind,
        WorkspaceEventKind::StateChange
            | WorkspaceEventKind::AgentConnectionUpdate
            | WorkspaceEventKind::AgentTimeout
            | WorkspaceEventKind::AgentLifecycleUpdate
    )
}
