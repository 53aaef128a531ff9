//! Metrics in Prometheus text form.
//!
//! Owns the names of our own metrics, and where those under the original's names join them. Labels are taken from fixed
//! sets (methods, outcomes, statements, status codes), so their number is bounded.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric as _, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

use super::agent_metrics::AgentMetrics;
use super::build_durations::BuildDurations;
use super::network::{NetworkLabels, NetworkSink};
use crate::mux::{Interceptor, Method, Outcome};
use crate::store::Store;

/// Upper bounds of latency buckets in seconds: from a call answered from memory to one that waited for the store.
const LATENCY_BUCKETS: [f64; 10] = [0.000_1, 0.000_5, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 10.0];

/// The metrics of one server. Cheap to clone.
#[derive(Clone)]
pub struct Metrics(Arc<Inner>);

struct Inner {
    registry: Registry,
    sessions: Gauge,
    started: Counter,
    refused: Family<StatusLabels, Counter>,
    calls: Family<CallLabels, Counter>,
    latency: Family<MethodLabels, Histogram, fn() -> Histogram>,
    build_durations: BuildDurations,
    network_events: Family<NetworkLabels, Counter>,
    readings: Readings,
}

/// A number that another part keeps, read when asked for.
pub struct Reading {
    name: &'static str,
    help: &'static str,
    is_counter: bool,
    read: Box<dyn Fn() -> f64 + Send + Sync>,
}

impl Reading {
    /// A number that goes up and down.
    pub fn gauge(
        name: &'static str,
        help: &'static str,
        read: impl Fn() -> f64 + Send + Sync + 'static,
    ) -> Self {
        Self {
            name,
            help,
            is_counter: false,
            read: Box::new(read),
        }
    }

    /// A number that only goes up.
    pub fn counter(
        name: &'static str,
        help: &'static str,
        read: impl Fn() -> f64 + Send + Sync + 'static,
    ) -> Self {
        Self {
            is_counter: true,
            ..Self::gauge(name, help, read)
        }
    }
}

impl fmt::Debug for Reading {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Reading").field(&self.name).finish()
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StatusLabels {
    status: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct MethodLabels {
    method: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CallLabels {
    method: &'static str,
    outcome: &'static str,
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

impl Metrics {
    /// Metrics of a server on `store`, with those that its agents send where they are collected.
    pub fn new(store: Arc<dyn Store>, agent_metrics: Option<&AgentMetrics>) -> Self {
        let mut root = Registry::default();
        let build_durations = BuildDurations::default();
        build_durations.register(&mut root);
        if let Some(agent_metrics) = agent_metrics {
            agent_metrics.register(&mut root);
        }
        let registry = root.sub_registry_with_prefix("drpcd");
        let sessions = Gauge::default();
        registry.register("sessions", "Sessions that live now", sessions.clone());
        let started = Counter::default();
        registry.register("sessions_started", "Sessions that began", started.clone());
        let refused = Family::default();
        registry.register(
            "handshakes_refused",
            "Handshakes refused, by HTTP status",
            refused.clone(),
        );
        let calls = Family::default();
        registry.register(
            "rpc_calls",
            "Calls that ended, by method and outcome",
            calls.clone(),
        );
        let buckets: fn() -> Histogram = || Histogram::new(LATENCY_BUCKETS);
        let latency = Family::new_with_constructor(buckets);
        registry.register_with_unit(
            "rpc_duration",
            "Time a handler took",
            Unit::Seconds,
            latency.clone(),
        );
        let network_events = Family::default();
        registry.register(
            "network_events",
            "Events that clients told of their connections, by kind of client and status",
            network_events.clone(),
        );
        registry.register_collector(Box::new(Statements(store)));
        let readings = Readings::default();
        registry.register_collector(Box::new(readings.clone()));
        Self(Arc::new(Inner {
            registry: root,
            sessions,
            started,
            refused,
            calls,
            latency,
            network_events,
            readings,
            build_durations,
        }))
    }

    /// How long builds took.
    pub fn build_durations(&self) -> &BuildDurations {
        &self.0.build_durations
    }

    /// Counts a session for as long as the guard lives.
    #[must_use = "the session counts until the guard is dropped"]
    pub fn session(&self) -> SessionCount {
        self.0.started.inc();
        self.0.sessions.inc();
        SessionCount(self.0.sessions.clone())
    }

    /// Counts a handshake that was answered with `status` instead of a session.
    pub fn handshake_refused(&self, status: u16) {
        self.0.refused.get_or_create(&StatusLabels { status }).inc();
    }

    /// Where events of clients' connections go.
    pub fn network_sink(&self) -> NetworkSink {
        NetworkSink::new(self.0.network_events.clone())
    }

    /// Adds numbers of other parts, some of which are built after the metrics.
    pub fn add_readings(&self, readings: Vec<Reading>) {
        self.0.readings.all().extend(readings);
    }

    /// All metrics in the OpenMetrics text form.
    pub fn text(&self) -> String {
        let mut out = String::new();
        // Writing into a String cannot fail, and neither do our collectors.
        let _ = text::encode(&mut out, &self.0.registry);
        out
    }
}

/// A session, as far as metrics are concerned.
#[derive(Debug)]
pub struct SessionCount(Gauge);

impl Drop for SessionCount {
    fn drop(&mut self) {
        self.0.dec();
    }
}

impl<S> Interceptor<S> for Metrics {
    fn finished(&self, _: &S, method: &Method<S>, outcome: &Outcome, elapsed: Duration) {
        let method = method.path();
        let outcome = match outcome {
            Outcome::Done => "done",
            Outcome::Failed(_) => "failed",
            Outcome::Cancelled => "cancelled",
            Outcome::Panicked => "panicked",
        };
        self.0.calls.get_or_create(&CallLabels { method, outcome }).inc();
        self.0
            .latency
            .get_or_create(&MethodLabels { method })
            .observe(elapsed.as_secs_f64());
    }
}

/// Statements that the store ran, read when asked for.
#[derive(Debug)]
struct Statements(Arc<dyn Store>);

impl Collector for Statements {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut family = encoder.encode_descriptor(
            "store_statements",
            "Statements that the store ran, by name",
            None,
            MetricType::Counter,
        )?;
        for (statement, count) in self.0.statements() {
            let labels = [("statement", statement)];
            ConstCounter::new(count).encode(family.encode_family(&labels)?)?;
        }
        Ok(())
    }
}

/// Numbers of other parts.
#[derive(Clone, Debug, Default)]
struct Readings(Arc<Mutex<Vec<Reading>>>);

impl Readings {
    fn all(&self) -> MutexGuard<'_, Vec<Reading>> {
        // A panic while one was read leaves the list as it was.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Collector for Readings {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        for reading in self.all().iter() {
            let value = (reading.read)();
            if reading.is_counter {
                let counter = ConstCounter::new(value);
                let kind = counter.metric_type();
                counter.encode(encoder.encode_descriptor(reading.name, reading.help, None, kind)?)?;
            } else {
                let gauge = ConstGauge::new(value);
                let kind = gauge.metric_type();
                gauge.encode(encoder.encode_descriptor(reading.name, reading.help, None, kind)?)?;
            }
        }
        Ok(())
    }
}
