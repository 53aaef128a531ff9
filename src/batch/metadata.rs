//! Metadata values of agents: many agents and keys, one statement.
//!
//! Owns the values that are accepted and not yet written, at most one per agent and key: the newest. They are written
//! when [`MAX_BATCH`] have come or [`FLUSH_INTERVAL`] has passed, sorted by agent and key so that replicas lock rows
//! in one order, and then the agents' ids are published. Adding never waits: when the bound is reached, new keys are
//! dropped and counted.
//!
//! The numbers are those of coder/coder `coderd/agentapi/metadatabatcher`. Different here: a batch that the store was
//! away for is kept (newer values win), where the original loses it; one that the store refused is lost in both. Values
//! that wait are replaced in place instead of queueing up, and shutdown writes all of them.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::clock::{Clock, Instant, Timestamp};
use crate::ids::AgentId;
use crate::pubsub::{MAX_PAYLOAD, Pubsub};
use crate::store::{MetadataValue, Store, StoreError};

pub use self::metrics::{FlushReason, MetadataMetrics};

mod metrics;

/// Values in one statement.
const MAX_BATCH: usize = 500;

/// Full batches that may wait for the store, as many as the original's queue holds. With values of at most 2 KiB of
/// value and as much of error, everything that waits stays below 13 MB.
const MAX_FULL_BATCHES: usize = 5;

/// Values that may wait in all: the batch that fills, and those that are full.
pub(crate) const MAX_WAITING: usize = MAX_BATCH * (MAX_FULL_BATCHES + 1);

/// How long a value waits for company.
const FLUSH_INTERVAL: Duration = Duration::from_secs(5);

/// Pause after a write that the store was away for.
const RETRY_DELAY: Duration = Duration::from_secs(1);

/// How long the last writes at shutdown may take.
const FINAL_FLUSH_LIMIT: Duration = Duration::from_secs(15);

/// At most one warning of dropped keys in this time; the others are debug lines.
const DROP_WARNING_INTERVAL: Duration = Duration::from_secs(10);

/// Where the ids of agents with new values are published.
pub const CHANNEL: &str = "workspace_agent_metadata_batch";

/// Characters of one id in a message.
const ID_LENGTH: usize = 22;

/// Ids in one message.
const IDS_PER_MESSAGE: usize = MAX_PAYLOAD / ID_LENGTH;

/// Collects values and writes them in batches. Cheap to clone.
#[derive(Clone, Debug)]
pub struct MetadataBatcher(Arc<Inner>);

/// How far ahead of the clock a value's time is believed: more than calls under way differ by, and as long as nobody
/// misses new values for.
const MAX_AHEAD: Duration = Duration::from_secs(10);

/// One collected value, as an agent reported it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// Which item; unknown keys are ignored by the store.
    pub key: String,
    /// Its value.
    pub value: String,
    /// Why there is none.
    pub error: String,
}

#[derive(Debug)]
struct Inner {
    store: Arc<dyn Store>,
    pubsub: Pubsub,
    clock: Clock,
    metrics: MetadataMetrics,
    pending: Mutex<Pending>,
    /// Told when a batch is full.
    full: Notify,
}

/// Values by agent and key.
type Batch = HashMap<(AgentId, Box<str>), Value>;

#[derive(Debug)]
struct Value {
    text: Box<str>,
    error: Box<str>,
    collected_at: Timestamp,
}

/// What waits to be written. An agent's key is in at most one batch.
#[derive(Debug, Default)]
struct Pending {
    /// Full, oldest first.
    full: VecDeque<Batch>,
    /// Filling up.
    current: Batch,
    /// When a warning of dropped keys may be written again.
    next_drop_warning: Option<Instant>,
}

impl MetadataBatcher {
    /// Writes to `store` and publishes to `pubsub`; [`MetadataBatcher::run`] must be driven for anything to happen.
    pub fn new(store: Arc<dyn Store>, pubsub: Pubsub, clock: Clock) -> Self {
        Self(Arc::new(Inner {
            store,
            pubsub,
            clock,
            metrics: MetadataMetrics::default(),
            pending: Mutex::default(),
            full: Notify::new(),
        }))
    }

    /// What has been counted so far.
    pub fn metrics(&self) -> &MetadataMetrics {
        &self.0.metrics
    }

    /// Takes an agent's values, collected at `collected_at`. Never waits; keys for which there is no room are dropped.
    pub fn add(&self, agent: AgentId, items: impl IntoIterator<Item = Item>, collected_at: Timestamp) {
        let mut dropped = 0;
        let mut filled = false;
        let now = self.0.clock.now();
        let mut pending = self.0.pending();
        for item in items {
            let value = Value {
                text: item.value.into_boxed_str(),
                error: item.error.into_boxed_str(),
                collected_at,
            };
            if !pending.put((agent, item.key.into_boxed_str()), value, now) {
                dropped += 1;
            }
            filled |= pending.turn_over();
        }
        let waiting = pending.len();
        let warn = dropped > 0 && pending.may_warn(self.0.clock.monotonic());
        drop(pending);
        if filled {
            self.0.full.notify_one();
        }
        if dropped > 0 {
            self.0.metrics.dropped_keys.inc_by(dropped);
            let message = "metadata channel at capacity, dropped updates";
            if warn {
                tracing::warn!(agent_id = %agent, channel_size = waiting, dropped_count = dropped, "{message}");
            } else {
                tracing::debug!(agent_id = %agent, channel_size = waiting, dropped_count = dropped, "{message}");
            }
        }
    }

    /// Writes batches until `shutdown`, then everything that is left, trying for at most 15 s.
    ///
    /// Fails when values could not be written at the end.
    pub async fn run(&self, shutdown: CancellationToken) -> Result<(), StoreError> {
        let mut outage = false;
        loop {
            let reason = tokio::select! {
                biased;
                () = shutdown.cancelled() => break,
                () = self.0.full.notified() => FlushReason::Capacity,
                () = self.0.clock.sleep(FLUSH_INTERVAL) => FlushReason::Scheduled,
            };
            // Full batches first; the one that is filling up goes only when its time has come.
            while let Some(batch) = self.0.take(reason) {
                match self.0.flush(batch, reason).await {
                    Ok(()) => outage = false,
                    Err(error) => {
                        if !std::mem::replace(&mut outage, true) {
                            tracing::error!(%error, "error updating workspace agent metadata");
                        }
                        tokio::select! {
                            () = shutdown.cancelled() => break,
                            () = self.0.clock.sleep(RETRY_DELAY) => {}
                        }
                    }
                }
            }
        }
        self.0.flush_finally().await
    }
}

impl Pending {
    /// Keeps a value unless a newer one waits. False when there is no room.
    fn put(&mut self, key: (AgentId, Box<str>), value: Value, now: Timestamp) -> bool {
        for batch in &mut self.full {
            if let Some(held) = batch.get_mut(&key) {
                held.replace(value, now);
                return true;
            }
        }
        let room = self.current.len() < MAX_BATCH;
        match self.current.entry(key) {
            Entry::Occupied(mut held) => held.get_mut().replace(value, now),
            Entry::Vacant(vacant) if room => {
                vacant.insert(value);
            }
            Entry::Vacant(_) => return false,
        }
        true
    }

    /// Starts a new batch if the current one is full and there is room for another. True when it did.
    fn turn_over(&mut self) -> bool {
        let full = self.current.len() >= MAX_BATCH && self.full.len() < MAX_FULL_BATCHES;
        if full {
            self.full.push_back(std::mem::take(&mut self.current));
        }
        full
    }

    /// Takes back a batch that could not be written, but for the values that have been replaced meanwhile.
    fn put_back(&mut self, mut batch: Batch, now: Timestamp) {
        let newer = self.full.iter_mut().chain(std::iter::once(&mut self.current));
        for later in newer {
            batch.retain(|key, value| match later.get_mut(key) {
                Some(held) => {
                    if value.beats(held, now) {
                        std::mem::swap(held, value);
                    }
                    false
                }
                None => true,
            });
        }
        if !batch.is_empty() {
            self.full.push_front(batch);
        }
    }

    fn len(&self) -> usize {
        self.full.iter().map(Batch::len).sum::<usize>() + self.current.len()
    }

    fn may_warn(&mut self, now: Instant) -> bool {
        if self.next_drop_warning.is_some_and(|at| now < at) {
            return false;
        }
        self.next_drop_warning = Some(now + DROP_WARNING_INTERVAL);
        true
    }
}

impl Value {
    /// Takes a value that was not collected before this one.
    fn replace(&mut self, other: Self, now: Timestamp) {
        if !self.beats(&other, now) {
            *self = other;
        }
    }

    /// Whether this value was collected after `other`. One that lies far ahead of `now` is of a clock that has gone back
    /// since, and would win for as long as that was.
    fn beats(&self, other: &Self, now: Timestamp) -> bool {
        self.collected_at > other.collected_at && self.collected_at <= now.saturating_add(MAX_AHEAD)
    }
}

impl Inner {
    fn pending(&self) -> MutexGuard<'_, Pending> {
        // Every holder leaves it whole at each step.
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next batch to write: a full one, or for any reason but capacity the one that is filling up.
    fn take(&self, reason: FlushReason) -> Option<Batch> {
        let mut pending = self.pending();
        // A batch that could not be turned over because the others were waiting is as full as they are.
        let due = reason != FlushReason::Capacity || pending.current.len() >= MAX_BATCH;
        pending.full.pop_front().or_else(|| {
            let current = due && !pending.current.is_empty();
            current.then(|| std::mem::take(&mut pending.current))
        })
    }

    /// Writes a batch and publishes its agents. Fails, and keeps the batch, only when the store is away.
    async fn flush(&self, batch: Batch, reason: FlushReason) -> Result<(), StoreError> {
        let start = self.clock.monotonic();
        let values = sorted(batch);
        let per_agent = count_per_agent(&values);
        for &keys in per_agent.values() {
            self.metrics.utilization.observe(f64::from(keys));
        }
        match self.store.update_metadata(&values).await {
            Ok(()) => {}
            Err(error) if error.is_unavailable() => {
                let now = self.clock.now();
                self.pending().put_back(into_batch(values), now);
                return Err(error);
            }
            Err(error) => {
                tracing::error!(%error, count = values.len(), "error updating workspace agent metadata");
                return Ok(());
            }
        }
        let agents: Vec<AgentId> = per_agent.into_keys().collect();
        for message in messages(&agents) {
            self.pubsub.publish(CHANNEL, &message);
        }
        self.metrics.flushed(values.len(), reason, start.elapsed());
        tracing::debug!(
            count = values.len(),
            reason = reason.as_str(),
            "flushed workspace agent metadata"
        );
        Ok(())
    }

    async fn flush_finally(&self) -> Result<(), StoreError> {
        let result = tokio::select! {
            result = self.flush_all() => result,
            () = self.clock.sleep(FINAL_FLUSH_LIMIT) => Err(super::late()),
        };
        if let Err(error) = &result {
            tracing::error!(%error, "error updating workspace agent metadata");
        }
        result
    }

    async fn flush_all(&self) -> Result<(), StoreError> {
        while let Some(batch) = self.take(FlushReason::Shutdown) {
            if self.flush(batch, FlushReason::Shutdown).await.is_err() {
                self.clock.sleep(RETRY_DELAY).await;
            }
        }
        Ok(())
    }
}

/// The values as the store takes them, by agent and key.
fn sorted(batch: Batch) -> Vec<MetadataValue> {
    let mut values: Vec<_> = batch
        .into_iter()
        .map(|((agent_id, key), value)| MetadataValue {
            agent_id,
            key: key.into(),
            value: value.text.into(),
            error: value.error.into(),
            collected_at: value.collected_at,
        })
        .collect();
    values.sort_unstable_by(|a, b| (a.agent_id, &a.key).cmp(&(b.agent_id, &b.key)));
    values
}

fn into_batch(values: Vec<MetadataValue>) -> Batch {
    let entry = |value: MetadataValue| {
        let key = (value.agent_id, value.key.into_boxed_str());
        let value = Value {
            text: value.value.into_boxed_str(),
            error: value.error.into_boxed_str(),
            collected_at: value.collected_at,
        };
        (key, value)
    };
    values.into_iter().map(entry).collect()
}

fn count_per_agent(values: &[MetadataValue]) -> BTreeMap<AgentId, u16> {
    let mut counts = BTreeMap::new();
    for value in values {
        // At most `MAX_BATCH`.
        *counts.entry(value.agent_id).or_insert(0) += 1;
    }
    counts
}

/// The ids in unpadded standard base64, without separators, in messages of a bounded length.
fn messages(agents: &[AgentId]) -> impl Iterator<Item = String> {
    agents.chunks(IDS_PER_MESSAGE).map(|chunk| {
        let mut message = String::with_capacity(chunk.len() * ID_LENGTH);
        for agent in chunk {
            STANDARD_NO_PAD.encode_string(agent.as_bytes(), &mut message);
        }
        message
    })
}

#[cfg(test)]
mod tests;
