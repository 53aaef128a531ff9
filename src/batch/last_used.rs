//! Which workspaces are in use: many workspaces, one statement.
//!
//! Owns who was marked since the last write, and writes the time of that write for all of them. A failed write keeps
//! them for the next one. Must never decide what counts as use.
//!
//! Interval, limit and log lines are those of coder/coder `coderd/workspacestats/tracker.go`, which forgets whom a
//! failed write was about.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::ids::WorkspaceId;
use crate::store::{Store, StoreError};

/// How often marked workspaces are written.
const FLUSH_INTERVAL: Duration = Duration::from_secs(60);

/// How long one write may take.
const FLUSH_LIMIT: Duration = Duration::from_secs(10);

/// Pause between tries of the write at shutdown.
const RETRY_DELAY: Duration = Duration::from_secs(1);

/// Workspaces that are marked at a time: 4 MiB of ids. One that finds no room is marked by its next report again.
pub(crate) const MAX_MARKED: usize = 1 << 18;

/// Marks workspaces as used. Cheap to clone.
#[derive(Clone, Debug)]
pub struct LastUsed(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    store: Arc<dyn Store>,
    clock: Clock,
    /// In the order in which rows are locked, so that replicas do not wait for each other crosswise.
    marked: Mutex<BTreeSet<WorkspaceId>>,
}

impl LastUsed {
    /// Writes to `store`; [`LastUsed::run`] must be driven for anything to happen.
    pub fn new(store: Arc<dyn Store>, clock: Clock) -> Self {
        Self(Arc::new(Inner {
            store,
            clock,
            marked: Mutex::default(),
        }))
    }

    /// Somebody uses a workspace now. Never waits.
    pub fn mark(&self, workspace: WorkspaceId) {
        let mut marked = self.0.marked();
        if marked.len() < MAX_MARKED {
            marked.insert(workspace);
        }
    }

    /// Writes once a minute until `shutdown`, then what is left, trying for as long as it is polled while the store is
    /// away.
    ///
    /// Fails when that is refused.
    pub async fn run(&self, shutdown: CancellationToken) -> Result<(), StoreError> {
        let mut failing = false;
        let mut interval = self.0.clock.interval(FLUSH_INTERVAL);
        loop {
            tokio::select! {
                () = shutdown.cancelled() => break,
                _ = interval.tick() => {}
            }
            // A write that has begun is let end: its outcome decides what is left.
            let _ = self.0.flush(&mut failing).await;
        }
        loop {
            match self.0.flush(&mut failing).await {
                Err(error) if error.is_unavailable() => self.0.clock.sleep(RETRY_DELAY).await,
                result => return result,
            }
        }
    }
}

impl Inner {
    fn marked(&self) -> MutexGuard<'_, BTreeSet<WorkspaceId>> {
        // Every holder leaves the set whole.
        self.marked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn flush(&self, failing: &mut bool) -> Result<(), StoreError> {
        let taken = std::mem::take(&mut *self.marked());
        let count = taken.len();
        if count == 0 {
            tracing::debug!("nothing to flush");
            return Ok(());
        }
        let at = self.clock.now();
        let workspaces: Vec<_> = taken.iter().copied().collect();
        let written = tokio::select! {
            written = self.store.touch_workspaces(&workspaces, at) => written,
            () = self.clock.sleep(FLUSH_LIMIT) => Err(super::late()),
        };
        match &written {
            Ok(()) => {
                *failing = false;
                tracing::info!(count, %at, "updated workspaces last_used_at");
            }
            Err(error) => {
                self.put_back(taken);
                if std::mem::replace(failing, true) {
                    tracing::error!(count, %error, "multiple failures updating workspaces last_used_at");
                } else {
                    tracing::warn!(count, %error, "failed updating workspaces last_used_at");
                }
            }
        }
        written
    }

    fn put_back(&self, mut taken: BTreeSet<WorkspaceId>) {
        let mut marked = self.marked();
        taken.append(&mut marked);
        while taken.len() > MAX_MARKED {
            taken.pop_last();
        }
        *marked = taken;
    }
}

#[cfg(test)]
mod tests;
