//! Statistics of agents: many samples, one statement.
//!
//! Owns the samples that are not yet written: they go within [`FLUSH_INTERVAL`], or earlier when many have come. They
//! are kept while the store is away; when that is for long the oldest are given up. What the store refuses is given up
//! at once, as the metadata batch does it, so that it does not stand before all that comes later.
//!
//! The numbers are those of coder/coder `coderd/workspacestats/batcher.go`, whose buffer grows without bound.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::store::{AgentStat, Store, StoreError};

/// How long a sample waits for company.
const FLUSH_INTERVAL: Duration = Duration::from_secs(1);

/// Samples in one statement.
const MAX_BATCH: usize = 1_024;

/// Samples that are written without waiting: 80 % of a batch, so that none has to be split.
const EARLY_FLUSH: usize = MAX_BATCH * 8 / 10;

/// Samples kept while the store is away. 10,000 agents report every 30 s: three minutes' worth, about 16 MiB.
pub(crate) const MAX_BUFFERED: usize = 65_536;

/// Samples of one statement that are each found to be what the store refuses. What it refuses after that is given up
/// without a closer look, so that a store which takes none is not asked a thousand times.
const MAX_REFUSED: usize = 8;

/// How long the last write at shutdown may take.
const FINAL_FLUSH_LIMIT: Duration = Duration::from_secs(15);

/// Collects samples and writes them in batches. Cheap to clone.
#[derive(Clone, Debug)]
pub struct StatsBatcher(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    store: Arc<dyn Store>,
    clock: Clock,
    buffer: Mutex<VecDeque<AgentStat>>,
    /// Samples given up because the store was away or refused them.
    dropped: AtomicU64,
    /// Told of the first sample of a batch.
    started: Notify,
    /// Told when a batch is nearly full.
    nearly_full: Notify,
}

impl StatsBatcher {
    /// Writes to `store`; [`StatsBatcher::run`] must be driven for anything to happen.
    pub fn new(store: Arc<dyn Store>, clock: Clock) -> Self {
        Self(Arc::new(Inner {
            store,
            clock,
            buffer: Mutex::default(),
            dropped: AtomicU64::new(0),
            started: Notify::new(),
            nearly_full: Notify::new(),
        }))
    }

    /// Takes a sample. Never waits; past the bound the oldest sample goes.
    pub fn add(&self, stat: AgentStat) {
        let mut buffer = self.0.buffer();
        buffer.push_back(stat);
        self.0.give_up_oldest(&mut buffer);
        let len = buffer.len();
        drop(buffer);
        if len == 1 {
            self.0.started.notify_one();
        }
        if len >= EARLY_FLUSH {
            self.0.nearly_full.notify_one();
        }
    }

    /// Samples that were given up so far because the store was away or refused them.
    pub fn dropped(&self) -> u64 {
        self.0.dropped.load(Ordering::Relaxed)
    }

    /// Writes batches until `shutdown`, then what is left, trying for at most 15 s.
    ///
    /// Fails when samples could not be written at the end.
    pub async fn run(&self, shutdown: CancellationToken) -> Result<(), StoreError> {
        let mut failing = false;
        while !shutdown.is_cancelled() {
            // After a failure the buffer may never be empty, so nobody would tell of a first sample.
            while !self.0.buffer().is_empty() && !shutdown.is_cancelled() {
                let reason = tokio::select! {
                    () = shutdown.cancelled() => break,
                    () = self.0.clock.sleep(FLUSH_INTERVAL) => "scheduled",
                    // While the store is away there is nothing to hurry for.
                    () = self.0.nearly_full.notified(), if !failing => "reaching capacity",
                };
                match self.0.flush(reason).await {
                    Ok(()) => failing = false,
                    Err(error) => {
                        if !std::mem::replace(&mut failing, true) {
                            tracing::error!(%error, "error inserting workspace agent stats");
                        }
                    }
                }
            }
            tokio::select! {
                () = shutdown.cancelled() => {}
                () = self.0.started.notified() => {}
            }
        }
        self.0.flush_finally().await
    }
}

impl Inner {
    fn buffer(&self) -> MutexGuard<'_, VecDeque<AgentStat>> {
        // Every holder leaves the buffer whole.
        self.buffer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn give_up_oldest(&self, buffer: &mut VecDeque<AgentStat>) {
        let surplus = buffer.len().saturating_sub(MAX_BUFFERED);
        if surplus > 0 {
            buffer.drain(..surplus);
            self.dropped.fetch_add(surplus as u64, Ordering::Relaxed);
        }
    }

    /// Writes all that is buffered now. On failure what was not written is kept.
    async fn flush(&self, reason: &str) -> Result<(), StoreError> {
        let start = self.clock.monotonic();
        let mut taken = std::mem::take(&mut *self.buffer());
        let count = taken.len();
        let result = self.write(taken.make_contiguous()).await;
        let written = match &result {
            Ok(()) => count,
            Err((_, written)) => *written,
        };
        if written < count {
            taken.drain(..written);
            let mut buffer = self.buffer();
            taken.append(&mut buffer);
            *buffer = taken;
            self.give_up_oldest(&mut buffer);
        }
        if count > 0 && result.is_ok() {
            tracing::debug!(count, elapsed = ?start.elapsed(), forced = reason != "scheduled", reason, "flush complete");
        }
        result.map_err(|(error, _)| error)
    }

    /// Fails when the store is away, with the error and how many were written, or given up, before it.
    async fn write(&self, stats: &[AgentStat]) -> Result<(), (StoreError, usize)> {
        let mut settled = 0;
        for batch in stats.chunks(MAX_BATCH) {
            let (done, result) = self.write_batch(batch).await;
            settled += done;
            result.map_err(|error| (error, settled))?;
        }
        Ok(())
    }

    /// Writes what one statement does, or halves of it when the store refuses the whole, down to the samples that it
    /// refuses, which are given up. Tells how many from the front are settled.
    async fn write_batch(&self, batch: &[AgentStat]) -> (usize, Result<(), StoreError>) {
        let (mut settled, mut refused, mut given_up) = (0, 0, 0);
        let mut result = Ok(());
        let mut refusal = None;
        // From the last to the next.
        let mut parts = vec![batch];
        while let Some(part) = parts.pop() {
            match self.store.insert_stats(part).await {
                Ok(()) => settled += part.len(),
                Err(error) if error.is_unavailable() => {
                    result = Err(error);
                    break;
                }
                Err(error) if part.len() == 1 || refused >= MAX_REFUSED => {
                    refused += 1;
                    settled += part.len();
                    given_up += part.len();
                    refusal = Some(error);
                }
                Err(_) => {
                    let (first, second) = part.split_at(part.len() / 2);
                    parts.extend([second, first]);
                }
            }
        }
        if let Some(error) = refusal {
            self.dropped.fetch_add(given_up as u64, Ordering::Relaxed);
            tracing::error!(%error, count = given_up, "error inserting workspace agent stats, dropped them");
        }
        (settled, result)
    }

    async fn flush_finally(&self) -> Result<(), StoreError> {
        tracing::debug!("context done, flushing before exit");
        let result = tokio::select! {
            result = self.flush_until_answered() => result,
            () = self.clock.sleep(FINAL_FLUSH_LIMIT) => Err(super::late()),
        };
        if let Err(error) = &result {
            tracing::error!(%error, "error inserting workspace agent stats");
        }
        result
    }

    async fn flush_until_answered(&self) -> Result<(), StoreError> {
        loop {
            match self.flush("exit").await {
                Err(error) if error.is_unavailable() => self.clock.sleep(FLUSH_INTERVAL).await,
                result => return result,
            }
        }
    }
}

#[cfg(test)]
mod tests;
