//! What the metadata batcher counts, under the original's names (prefix `coderd_agentapi_`).

use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;

/// Why a batch was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FlushReason {
    /// It was full.
    Capacity,
    /// Its time had come.
    Scheduled,
    /// The server stops.
    Shutdown,
}

impl FlushReason {
    /// The value of the label `reason`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Capacity => "capacity",
            Self::Scheduled => "scheduled",
            Self::Shutdown => "shutdown",
        }
    }
}

/// The label `reason`.
type Reason = [(&'static str, &'static str); 1];

/// Counters and histograms, to be registered under the names given at each.
///
/// All but `utilization` and `dropped_keys` move only after a successful write.
#[derive(Clone, Debug)]
pub struct MetadataMetrics {
    /// `metadata_batch_utilization`: keys per agent and batch.
    pub utilization: Histogram,
    /// `metadata_batch_size`: values per batch.
    pub batch_size: Histogram,
    /// `metadata_flush_duration_seconds`, by `reason`.
    pub flush_duration: Family<Reason, Histogram, fn() -> Histogram>,
    /// `metadata_batches_total`, by `reason`.
    pub batches: Family<Reason, Counter>,
    /// `metadata_dropped_keys_total`: values for which there was no room.
    pub dropped_keys: Counter,
    /// `metadata_flushed_total`: values written.
    pub flushed: Counter,
}

impl Default for MetadataMetrics {
    fn default() -> Self {
        Self {
            utilization: Histogram::new(
                (1..=10)
                    .chain([15, 20, 40, 80, 160])
                    .map(f64::from)
                    .collect::<Vec<_>>(),
            ),
            batch_size: Histogram::new(
                [10.0, 25.0]
                    .into_iter()
                    .chain((1..=10).map(|fifties| f64::from(fifties) * 50.0)),
            ),
            flush_duration: Family::new_with_constructor(|| {
                Histogram::new([0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0])
            }),
            batches: Family::default(),
            dropped_keys: Counter::default(),
            flushed: Counter::default(),
        }
    }
}

impl MetadataMetrics {
    /// A batch was written.
    pub(super) fn flushed(&self, values: usize, reason: FlushReason, elapsed: Duration) {
        let label = [("reason", reason.as_str())];
        // At most a few thousand, so nothing is lost.
        self.batch_size
            .observe(u32::try_from(values).unwrap_or(u32::MAX).into());
        self.flushed.inc_by(values as u64);
        self.batches.get_or_create(&label).inc();
        self.flush_duration
            .get_or_create(&label)
            .observe(elapsed.as_secs_f64());
    }
}
