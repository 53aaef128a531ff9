//! How long builds took until their last agent was ready.
//!
//! Owns name, labels and buckets, which are those of coder/coder `coderd/agentapi/metrics.go`. Its native histogram is
//! left out: the text form that we serve has no place for one.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

use crate::clock::Timestamp;
use crate::store::BuildReadiness;

/// Upper bounds in seconds.
const BUCKETS: [f64; 8] = [1.0, 10.0, 30.0, 60.0, 300.0, 600.0, 1_800.0, 3_600.0];

/// The histogram. Cheap to clone.
#[derive(Clone, Debug)]
pub struct BuildDurations(Family<Labels, Histogram, fn() -> Histogram>);

/// As many as there are templates, times a dozen.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    template_name: String,
    organization_name: String,
    transition: String,
    status: &'static str,
    is_prebuild: bool,
}

impl Default for BuildDurations {
    fn default() -> Self {
        Self(Family::new_with_constructor(|| Histogram::new(BUCKETS)))
    }
}

impl BuildDurations {
    /// Puts the histogram into a registry whose names have no prefix.
    pub(super) fn register(&self, registry: &mut Registry) {
        registry.register_with_unit(
            "coderd_template_workspace_build_duration",
            "Duration from workspace build creation to agent ready, by template",
            Unit::Seconds,
            self.0.clone(),
        );
    }

    /// Records a build whose last agent is ready.
    pub fn observe(&self, build: &BuildReadiness) {
        let labels = Labels {
            template_name: build.template_name.clone(),
            organization_name: build.organization_name.clone(),
            transition: build.transition.clone(),
            status: build.status.as_str(),
            is_prebuild: build.is_prebuild,
        };
        let seconds = seconds_between(build.created_at, build.last_agent_ready_at);
        self.0.get_or_create(&labels).observe(seconds);
    }
}

/// Negative when `end` came first: agents say when they were ready.
fn seconds_between(start: Timestamp, end: Timestamp) -> f64 {
    if end < start {
        -start.saturating_since(end).as_secs_f64()
    } else {
        end.saturating_since(start).as_secs_f64()
    }
}
