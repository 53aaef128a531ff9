//! How much boundaries are used: sets of workspaces and owners, and counts of requests, written once a minute.
//!
//! Owns what was counted since the last write. Source: coder/coder `coderd/boundaryusage/tracker.go`.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::ids::{ReplicaId, UserId, WorkspaceId};
use crate::store::{BoundaryUsage, Store, StoreError, Unique};

/// How often what was counted is written.
const FLUSH_INTERVAL: Duration = Duration::from_mins(1);

/// How long the last write at shutdown may be tried.
const FINAL_FLUSH_LIMIT: Duration = Duration::from_secs(15);

/// Counts the use of boundaries. Cheap to clone. Its sets are bounded by the workspaces and owners there are.
#[derive(Clone, Debug)]
pub struct BoundaryUsageTracker(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    store: Arc<dyn Store>,
    clock: Clock,
    replica: ReplicaId,
    counted: Mutex<Counted>,
}

#[derive(Debug, Default)]
struct Counted {
    /// Since this replica's row was made.
    period: Sets,
    /// Since the last write.
    new: Sets,
    allowed: i64,
    denied: i64,
}

#[derive(Debug, Default)]
struct Sets {
    workspaces: HashSet<WorkspaceId>,
    users: HashSet<UserId>,
}

impl Sets {
    fn insert(&mut self, workspace: WorkspaceId, user: UserId) {
        self.workspaces.insert(workspace);
        self.users.insert(user);
    }
}

fn unique<T>(new: &HashSet<T>, all: &HashSet<T>) -> Unique {
    let count = |set: &HashSet<T>| i64::try_from(set.len()).unwrap_or(i64::MAX);
    Unique {
        new: count(new),
        all: count(all),
    }
}

impl BoundaryUsageTracker {
    /// Writes to the row of `replica`; [`BoundaryUsageTracker::run`] must be driven for anything to happen.
    pub fn new(store: Arc<dyn Store>, clock: Clock, replica: ReplicaId) -> Self {
        Self(Arc::new(Inner {
            store,
            clock,
            replica,
            counted: Mutex::default(),
        }))
    }

    /// Counts requests of a workspace of `owner`.
    pub fn track(&self, workspace: WorkspaceId, owner: UserId, allowed: i64, denied: i64) {
        let mut counted = self.0.counted();
        counted.period.insert(workspace, owner);
        counted.new.insert(workspace, owner);
        counted.allowed = counted.allowed.saturating_add(allowed);
        counted.denied = counted.denied.saturating_add(denied);
    }

    /// Writes once a minute until `shutdown`, then what is left, trying for at most 15 s.
    ///
    /// Fails when something could not be written at the end.
    pub async fn run(&self, shutdown: CancellationToken) -> Result<(), StoreError> {
        let mut ticks = self.0.clock.interval(FLUSH_INTERVAL);
        loop {
            tokio::select! {
                () = shutdown.cancelled() => break,
                _ = ticks.tick() => {
                    if let Err(error) = self.0.flush().await {
                        tracing::warn!(%error, "failed to flush boundary usage stats");
                    }
                }
            }
        }
        let last = async {
            loop {
                match self.0.flush().await {
                    Err(error) if error.is_unavailable() => self.0.clock.sleep(Duration::from_secs(1)).await,
                    result => return result,
                }
            }
        };
        tokio::select! {
            result = last => result,
            () = self.0.clock.sleep(FINAL_FLUSH_LIMIT) => Err(super::late()),
        }
    }
}

impl Inner {
    fn counted(&self) -> MutexGuard<'_, Counted> {
        // Counts are valid whoever panicked between two of them.
        self.counted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes what was counted since the last write. What a store that is away did not take is counted again.
    async fn flush(&self) -> Result<(), StoreError> {
        let (taken, usage) = {
            let mut counted = self.counted();
            if counted.new.workspaces.is_empty() {
                return Ok(());
            }
            let usage = BoundaryUsage {
                workspaces: unique(&counted.new.workspaces, &counted.period.workspaces),
                users: unique(&counted.new.users, &counted.period.users),
                allowed: std::mem::take(&mut counted.allowed),
                denied: std::mem::take(&mut counted.denied),
            };
            (std::mem::take(&mut counted.new), usage)
        };
        let written = self
            .store
            .upsert_boundary_usage(self.replica, &usage, self.clock.now())
            .await;
        let mut counted = self.counted();
        match &written {
            // Somebody has taken the row away, and the period began anew with what was new.
            Ok(true) => {
                counted.period = Sets {
                    workspaces: taken.workspaces.union(&counted.new.workspaces).copied().collect(),
                    users: taken.users.union(&counted.new.users).copied().collect(),
                };
            }
            Ok(false) => {}
            Err(error) => {
                if error.is_unavailable() {
                    counted.new.workspaces.extend(taken.workspaces);
                    counted.new.users.extend(taken.users);
                    counted.allowed = counted.allowed.saturating_add(usage.allowed);
                    counted.denied = counted.denied.saturating_add(usage.denied);
                }
            }
        }
        written.map(|_| ())
    }
}

#[cfg(test)]
mod tests;
