//! The metrics that agents send along with their statistics, as series of our own exposition.
//!
//! Owns the series, how long each stays without news, and by which labels they are summed up. What agents send is
//! checked here: a name that Prometheus would not read, or that is one of the server's own, must never reach the
//! exposition, and one agent must never hold more than a bounded number of series. Must never read the store.
//!
//! Labels, texts and times are those of coder/coder `coderd/prometheusmetrics/aggregator.go`. There one task owns all
//! series and takes updates from a queue; here an update changes its agent's series at once.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};
use tokio::time::Instant;

use crate::clock::Clock;
use crate::proto::agent::stats::Metric;
use crate::proto::agent::stats::metric::{Label, Type};

/// How long a series stays without news, and how often those without are removed.
pub const CLEANUP_INTERVAL: Duration = Duration::from_mins(2);

/// Series of one agent; it sends about a hundred. Further ones are left out until others have expired.
pub(crate) const MAX_SERIES: usize = 2_048;

/// Bytes of the name and labels of one series, so that an agent holds at most 2 MiB of them.
pub(crate) const MAX_SERIES_BYTES: usize = 1 << 10;

/// What names of the server's own metrics begin with. One family must not be written twice.
const OWN_PREFIXES: [&str; 4] = [
    "drpcd_",
    "coderd_agentapi_",
    "coderd_prometheusmetrics_",
    "coderd_template_workspace_build_duration_seconds",
];

const HELP: &str = "Metrics are forwarded from workspace agents connected to this instance of coderd.";

/// Upper bounds in seconds of how long updates and cleanups take.
const DURATION_BUCKETS: [f64; 11] = [0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 30.0];

/// A label that says whose metric it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum AgentLabel {
    /// `username`: the workspace's owner.
    Username,
    /// `workspace_name`.
    WorkspaceName,
    /// `agent_name`.
    AgentName,
    /// `template_name`.
    TemplateName,
}

impl AgentLabel {
    /// All of them, in the order in which they are written.
    pub const ALL: [Self; 4] = [
        Self::Username,
        Self::WorkspaceName,
        Self::AgentName,
        Self::TemplateName,
    ];

    /// The label's name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Username => "username",
            Self::WorkspaceName => "workspace_name",
            Self::AgentName => "agent_name",
            Self::TemplateName => "template_name",
        }
    }

    /// The label of a name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|label| label.as_str() == name)
    }
}

/// Whose metrics an update brings.
#[derive(Clone, Copy, Debug)]
pub struct AgentLabels<'l> {
    /// The workspace's owner.
    pub username: &'l str,
    /// The workspace.
    pub workspace_name: &'l str,
    /// The agent.
    pub agent_name: &'l str,
    /// The workspace's template.
    pub template_name: &'l str,
}

/// The values of [`AgentLabel::ALL`], in that order.
type Owner = [Box<str>; 4];

/// The series of one agent, by name and labels; in order, so that every exposition is.
type SeriesMap = BTreeMap<Box<str>, Series>;

/// The metrics of all agents. Cheap to clone.
#[derive(Clone, Debug)]
pub struct AgentMetrics(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    clock: Clock,
    cleanup_interval: Duration,
    /// By which labels values are summed up; `None` keeps all series apart.
    grouping: Option<Box<[AgentLabel]>>,
    /// Bounded by the agents that were connected within two intervals. An agent's series have a lock of their own, so
    /// that writing all of them out holds up one agent at a time.
    agents: Mutex<BTreeMap<Arc<Owner>, Arc<Mutex<SeriesMap>>>>,
    size: Gauge,
    update_seconds: Histogram,
    cleanup_seconds: Histogram,
}

#[derive(Debug)]
struct Series {
    name: Arc<str>,
    kind: Kind,
    /// Beside those that say whose it is, as the agent sent them first.
    labels: Arc<[(Box<str>, Box<str>)]>,
    value: f64,
    expires: Instant,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Counter,
    Gauge,
}

impl AgentMetrics {
    /// Sums series up by `labels`; none and all of them keep every series.
    ///
    /// [`AgentMetrics::run`] must be driven for series to expire, after `cleanup_interval` without news.
    pub fn new(clock: Clock, cleanup_interval: Duration, labels: &[AgentLabel]) -> Self {
        let mut labels = labels.to_vec();
        labels.sort_unstable();
        labels.dedup();
        let sums_up = !labels.is_empty() && labels.len() < AgentLabel::ALL.len();
        Self(Arc::new(Inner {
            clock,
            cleanup_interval,
            grouping: sums_up.then(|| labels.into()),
            agents: Mutex::default(),
            size: Gauge::default(),
            update_seconds: Histogram::new(DURATION_BUCKETS),
            cleanup_seconds: Histogram::new(DURATION_BUCKETS),
        }))
    }

    /// Puts the series and the aggregator's own metrics into a registry whose names have no prefix.
    pub(super) fn register(&self, registry: &mut Registry) {
        let own = registry.sub_registry_with_prefix("coderd_prometheusmetrics_metrics_aggregator");
        own.register(
            "store_size",
            "The number of metrics stored in the aggregator",
            self.0.size.clone(),
        );
        own.register_with_unit(
            "execution_update",
            "Histogram for duration of metrics aggregator update in seconds",
            Unit::Seconds,
            self.0.update_seconds.clone(),
        );
        own.register_with_unit(
            "execution_cleanup",
            "Histogram for duration of metrics aggregator cleanup in seconds",
            Unit::Seconds,
            self.0.cleanup_seconds.clone(),
        );
        registry.register_collector(Box::new(self.clone()));
    }

    /// Takes in what an agent sent. Never waits; what cannot be shown is left out.
    pub fn update(&self, owner: AgentLabels<'_>, metrics: &[Metric]) {
        if metrics.is_empty() {
            return;
        }
        let start = self.0.clock.monotonic();
        let expires = start + self.0.cleanup_interval;
        let series = self.0.series_of(owner);
        let mut series = lock(&series);
        let mut key = String::new();
        let mut sorted = Vec::new();
        let mut left_out = LeftOut::default();
        for metric in metrics {
            if !write_key(metric, &mut sorted, &mut key) {
                left_out.unreadable += 1;
                continue;
            }
            if let Some(series) = series.get_mut(key.as_str()) {
                series.value = metric.value;
                series.expires = expires;
                continue;
            }
            let Some(kind) = kind(metric) else {
                left_out.of_unknown_type += 1;
                continue;
            };
            if series.len() >= MAX_SERIES {
                left_out.too_many += 1;
                continue;
            }
            let labels = metric.labels.iter();
            let new = Series {
                name: metric.name.as_str().into(),
                kind,
                labels: labels
                    .map(|label| (label.name.as_str().into(), label.value.as_str().into()))
                    .collect(),
                value: metric.value,
                expires,
            };
            series.insert(key.as_str().into(), new);
            self.0.size.inc();
        }
        drop(series);
        left_out.log(owner);
        let elapsed = self.0.clock.monotonic() - start;
        self.0.update_seconds.observe(elapsed.as_secs_f64());
    }

    /// Removes series that had no news for long, for as long as it is polled; never returns.
    pub async fn run(&self) {
        let mut interval = self.0.clock.interval(self.0.cleanup_interval);
        loop {
            interval.tick().await;
            self.0.clean_up();
        }
    }
}

impl Inner {
    fn series_of(&self, owner: AgentLabels<'_>) -> Arc<Mutex<SeriesMap>> {
        let owner: Owner = [
            owner.username.into(),
            owner.workspace_name.into(),
            owner.agent_name.into(),
            owner.template_name.into(),
        ];
        let mut agents = lock(&self.agents);
        if let Some(series) = agents.get(&owner) {
            return Arc::clone(series);
        }
        let series = Arc::default();
        agents.insert(Arc::new(owner), Arc::clone(&series));
        series
    }

    fn agents(&self) -> Vec<(Arc<Owner>, Arc<Mutex<SeriesMap>>)> {
        let agents = lock(&self.agents);
        let agents = agents
            .iter()
            .map(|(owner, series)| (Arc::clone(owner), Arc::clone(series)));
        agents.collect()
    }

    fn clean_up(&self) {
        let start = self.clock.monotonic();
        for (_, series) in self.agents() {
            let mut series = lock(&series);
            let before = series.len();
            series.retain(|_, series| series.expires >= start);
            let removed = before - series.len();
            // Far fewer than an i64 holds.
            self.size.dec_by(i64::try_from(removed).unwrap_or(i64::MAX));
        }
        // Whoever is about to write holds a second pointer, got under this lock.
        lock(&self.agents).retain(|_, series| Arc::strong_count(series) > 1 || !lock(series).is_empty());
        let elapsed = self.clock.monotonic() - start;
        self.cleanup_seconds.observe(elapsed.as_secs_f64());
    }

    /// All series by name, and by owner within a name.
    fn families(&self) -> BTreeMap<Arc<str>, Family> {
        let mut families = BTreeMap::new();
        for (owner, series) in self.agents() {
            for series in lock(&series).values() {
                let family = families.entry(Arc::clone(&series.name));
                let family: &mut Family = family.or_insert_with(|| Family::new(series.kind));
                // A family has one type. Agents of different versions could disagree; the first one counts.
                if family.kind == series.kind {
                    family.add(self.grouping.as_deref(), &owner, series);
                }
            }
        }
        families
    }
}

/// The series of one name.
#[derive(Debug)]
struct Family {
    kind: Kind,
    rows: Vec<Row>,
    /// Which row has the sum of a group.
    groups: HashMap<Vec<Box<str>>, usize>,
}

#[derive(Debug)]
struct Row {
    owner: Arc<Owner>,
    labels: Arc<[(Box<str>, Box<str>)]>,
    value: f64,
}

impl Family {
    fn new(kind: Kind) -> Self {
        Self {
            kind,
            rows: Vec::new(),
            groups: HashMap::new(),
        }
    }

    fn add(&mut self, grouping: Option<&[AgentLabel]>, owner: &Arc<Owner>, series: &Series) {
        if let Some(grouping) = grouping {
            let group = grouping.iter().map(|label| value(owner, *label).into());
            let row = *self.groups.entry(group.collect()).or_insert(self.rows.len());
            if let Some(row) = self.rows.get_mut(row) {
                row.value += series.value;
                return;
            }
        }
        self.rows.push(Row {
            owner: Arc::clone(owner),
            labels: Arc::clone(&series.labels),
            value: series.value,
        });
    }
}

fn value(owner: &Owner, label: AgentLabel) -> &str {
    let [username, workspace_name, agent_name, template_name] = owner;
    match label {
        AgentLabel::Username => username,
        AgentLabel::WorkspaceName => workspace_name,
        AgentLabel::AgentName => agent_name,
        AgentLabel::TemplateName => template_name,
    }
}

impl Collector for AgentMetrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let shown = self.0.grouping.as_deref().unwrap_or(&AgentLabel::ALL);
        for (name, family) in self.0.families() {
            // The text form wants counters to end with `_total` and adds it; one that does not is of unknown type, as
            // the original's library writes it.
            let (name, kind) = match (family.kind, name.strip_suffix("_total")) {
                (Kind::Counter, Some(stem)) => (stem, MetricType::Counter),
                (Kind::Counter, None) => (&*name, MetricType::Unknown),
                (Kind::Gauge, _) => (&*name, MetricType::Gauge),
            };
            let mut encoder = encoder.encode_descriptor(name, HELP, None, kind)?;
            for row in &family.rows {
                let owner = shown
                    .iter()
                    .map(|label| (label.as_str(), value(&row.owner, *label)));
                let labels: Vec<_> = owner
                    .chain(row.labels.iter().map(|(n, v)| (&**n, &**v)))
                    .collect();
                let row_encoder = encoder.encode_family(&labels)?;
                match kind {
                    MetricType::Counter => ConstCounter::new(row.value).encode(row_encoder)?,
                    _ => ConstGauge::new(row.value).encode(row_encoder)?,
                }
            }
        }
        Ok(())
    }
}

/// How many metrics of an update were not taken in, and why.
#[derive(Debug, Default)]
struct LeftOut {
    unreadable: usize,
    of_unknown_type: usize,
    too_many: usize,
}

impl LeftOut {
    fn log(&self, owner: AgentLabels<'_>) {
        if self.of_unknown_type > 0 {
            tracing::error!(
                ?owner,
                count = self.of_unknown_type,
                "can't convert Prometheus value type"
            );
        }
        if self.unreadable + self.too_many > 0 {
            let Self {
                unreadable, too_many, ..
            } = self;
            tracing::warn!(?owner, unreadable, too_many, "agent metrics are left out");
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Maps are whole between any two calls on them.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn kind(metric: &Metric) -> Option<Kind> {
    match metric.r#type() {
        Type::Counter => Some(Kind::Counter),
        Type::Gauge => Some(Kind::Gauge),
        Type::Unspecified => None,
    }
}

/// Writes into `key` what tells a series of an agent from its others: the name, and the labels that have a value, by
/// name. False when Prometheus could not read the series.
fn write_key<'m>(metric: &'m Metric, sorted: &mut Vec<&'m Label>, key: &mut String) -> bool {
    let label_bytes = metric
        .labels
        .iter()
        .map(|label| label.name.len() + label.value.len());
    if metric.name.len() + label_bytes.sum::<usize>() > MAX_SERIES_BYTES || !is_name(&metric.name, true) {
        return false;
    }
    if OWN_PREFIXES.iter().any(|prefix| metric.name.starts_with(prefix)) {
        return false;
    }
    sorted.clear();
    sorted.extend(&metric.labels);
    sorted.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    let twice = sorted
        .windows(2)
        .any(|pair| matches!(pair, [a, b] if a.name == b.name));
    let allowed =
        |label: &&Label| is_name(&label.name, false) && AgentLabel::from_name(&label.name).is_none();
    if twice || !sorted.iter().all(allowed) {
        return false;
    }
    key.clear();
    key.push_str(&metric.name);
    for label in sorted.iter().filter(|label| !label.value.is_empty()) {
        // Names hold neither separator, so only the value's end must be unmistakable.
        key.push(',');
        key.push_str(&label.name);
        key.push('=');
        for character in label.value.chars() {
            if matches!(character, ',' | '\\') {
                key.push('\\');
            }
            key.push(character);
        }
    }
    true
}

/// Whether Prometheus takes `name` as the name of a metric (`colon`) or of a label, which `__` keeps to itself.
fn is_name(name: &str, colon: bool) -> bool {
    let part = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || (colon && byte == b':');
    let first_fits = name.bytes().next().is_some_and(|byte| !byte.is_ascii_digit());
    first_fits && name.bytes().all(part) && (colon || !name.starts_with("__"))
}

#[cfg(test)]
mod tests;
