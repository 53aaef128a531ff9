//! Events of clients' connections to agents: what `PostTelemetry` brings, batched for whoever looks at it.
//!
//! Owns the events that nobody has looked at yet. Nothing that a client does ever waits for the [`Sink`].
//!
//! The rules are those of coder/coder `tailnet/service.go` (its batcher), whose batches under way are not bounded.

use std::collections::VecDeque;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::clock::{Clock, Timestamp};

/// How long an event waits for company.
const FLUSH_INTERVAL: Duration = Duration::from_mins(1);

/// Events in one batch; as many are handed over without waiting.
const MAX_BATCH: usize = 1_000;

/// Events kept while the sink is busy: ten batches, about 3 MiB.
pub(crate) const MAX_BUFFERED: usize = 10 * MAX_BATCH;

/// An event of a connection, as far as this server has a use for it.
#[derive(Clone, Debug, PartialEq)]
pub struct NetworkEvent {
    /// Its id.
    pub id: Uuid,
    /// When it happened; `None` when the client did not say.
    pub time: Option<Timestamp>,
    /// What the connection was for, such as `ssh`.
    pub application: Box<str>,
    /// `connected`, `disconnected`, or `unknown` for what a later version may say.
    pub status: &'static str,
    /// `cli`, `agent`, `coderd`, `wsproxy` or `unknown`.
    pub client_type: &'static str,
    /// The client's version.
    pub client_version: Box<str>,
    /// Node id of the client.
    pub node_id_self: u64,
    /// Node id of its peer.
    pub node_id_remote: u64,
    /// Whether there is a direct connection.
    pub is_direct: bool,
    /// Region of the relay that is the client's home.
    pub home_derp: i32,
    /// How long the connection has been there.
    pub connection_age: Option<Duration>,
    /// How long it took to set it up.
    pub connection_setup: Option<Duration>,
    /// How long it took until it was direct.
    pub p2p_setup: Option<Duration>,
    /// Round trip over the relay.
    pub derp_latency: Option<Duration>,
    /// Round trip of the direct connection.
    pub p2p_latency: Option<Duration>,
    /// Measured throughput.
    pub throughput_mbits: Option<f32>,
}

/// Looks at events.
pub trait Sink: fmt::Debug + Send + Sync + 'static {
    /// Takes a batch, which is never empty.
    fn report(&self, batch: &[NetworkEvent]);
}

/// Collects events. Cheap to clone.
#[derive(Clone, Debug)]
pub struct NetworkEvents(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    sink: Box<dyn Sink>,
    clock: Clock,
    max_batch: usize,
    buffer: Mutex<Buffer>,
    dropped: AtomicU64,
    /// Told when a batch is full.
    full: Notify,
}

#[derive(Debug, Default)]
struct Buffer {
    events: VecDeque<NetworkEvent>,
    /// Events of the next batch that could not be read.
    malformed: usize,
    closed: bool,
}

impl NetworkEvents {
    /// Hands events to `sink`; [`NetworkEvents::run`] must be driven for anything to happen.
    pub fn new(sink: impl Sink, clock: Clock) -> Self {
        Self::with_batches_of(MAX_BATCH, sink, clock)
    }

    fn with_batches_of(max_batch: usize, sink: impl Sink, clock: Clock) -> Self {
        Self(Arc::new(Inner {
            sink: Box::new(sink),
            clock,
            max_batch,
            buffer: Mutex::default(),
            dropped: AtomicU64::new(0),
            full: Notify::new(),
        }))
    }

    /// Takes events, and how many came with them that could not be read. Never waits; past the bound the oldest go. After the
    /// end of [`NetworkEvents::run`] nothing is taken.
    pub fn add(&self, events: impl IntoIterator<Item = NetworkEvent>, malformed: usize) {
        let mut buffer = self.0.buffer();
        if buffer.closed {
            return;
        }
        buffer.malformed += malformed;
        buffer.events.extend(events);
        let surplus = buffer.events.len().saturating_sub(MAX_BUFFERED);
        buffer.events.drain(..surplus);
        let is_full = buffer.events.len() >= self.0.max_batch;
        drop(buffer);
        self.0
            .dropped
            .fetch_add((surplus + malformed) as u64, Ordering::Relaxed);
        if is_full {
            self.0.full.notify_one();
        }
    }

    /// Events that were given up so far: malformed, or too many at once.
    pub fn dropped(&self) -> u64 {
        self.0.dropped.load(Ordering::Relaxed)
    }

    /// Hands batches over until `shutdown`, then what is left.
    pub async fn run(&self, shutdown: CancellationToken) {
        loop {
            let at_least = tokio::select! {
                () = shutdown.cancelled() => break,
                () = self.0.clock.sleep(FLUSH_INTERVAL) => 1,
                () = self.0.full.notified() => self.0.max_batch,
            };
            self.0.flush(at_least);
        }
        self.0.buffer().closed = true;
        self.0.flush(1);
    }
}

impl Inner {
    fn buffer(&self) -> MutexGuard<'_, Buffer> {
        // Every holder leaves the buffer whole.
        self.buffer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hands over batches for as long as there are `at_least` events.
    fn flush(&self, at_least: usize) {
        loop {
            let mut buffer = self.buffer();
            let malformed = std::mem::take(&mut buffer.malformed);
            let batch: Vec<_> = if buffer.events.len() >= at_least {
                let count = buffer.events.len().min(self.max_batch);
                buffer.events.drain(..count).collect()
            } else {
                Vec::new()
            };
            if buffer.events.is_empty() {
                // What a flood has left behind is not kept.
                buffer.events = VecDeque::new();
            }
            drop(buffer);
            if malformed > 0 {
                tracing::warn!(malformed, "dropped network events that could not be read");
            }
            if batch.is_empty() {
                return;
            }
            self.sink.report(&batch);
        }
    }
}

#[cfg(test)]
mod tests;
