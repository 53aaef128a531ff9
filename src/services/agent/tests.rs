//! The service against a real store, some of whose methods fail.

mod activity;
mod app_health;
mod app_status;
mod builds;
mod connections;
mod economy;
mod hostile;
mod logs_and_copies;
mod manifest;
mod monitoring;
mod reports;
mod scripts;
mod subagents;

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::{
    AgentApi, AgentConfig, AgentServices, AlertLimits, Appearance, AppearanceError, Banner, Collaborators,
    StoreAppearance,
};
use crate::batch::boundary_usage::BoundaryUsageTracker;
use crate::batch::last_used::LastUsed;
use crate::batch::metadata::MetadataBatcher;
use crate::batch::stats::StatsBatcher;
use crate::clock::{Clock, Timestamp};
use crate::ids::{AgentToken, ReplicaId, UserId};
use crate::proto::agent as proto;
use crate::proto::agent::Agent as _;
use crate::proto::agent::lifecycle::State;
use crate::pubsub::{Pubsub, Subscription};
use crate::services::notifications::{Enqueuer, Methods};
use crate::services::patience::Patience;
use crate::services::tailnet::derp::DerpMaps;
use crate::services::tailnet::derp_map::default_map;
use crate::store::testing::{EXAMPLE, FaultyStore, NOW};
use crate::store::{Store, StoreError};
use crate::telemetry::agent_metrics::{AgentMetrics, CLEANUP_INTERVAL};
use crate::telemetry::metrics::Metrics;

struct Fixture {
    store: Arc<FaultyStore>,
    token: AgentToken,
    pubsub: Pubsub,
    services: Arc<AgentServices>,
    metrics: Metrics,
    stop: CancellationToken,
}

/// As the server does without settings.
const METHODS: Methods = Methods {
    delivery: None,
    inbox: true,
};

fn config() -> AgentConfig {
    AgentConfig {
        access_url: "https://drpcd.example.com".parse().unwrap(),
        app_hostname: "*--apps.example.com".into(),
        stats_interval: Duration::from_secs(30),
        disable_direct_connections: true,
        derp_force_websockets: true,
        git_auth_configs: 2,
        workspace_usage: false,
        alert_limits: AlertLimits::default(),
    }
}

impl Fixture {
    async fn new() -> Self {
        Self::with(EXAMPLE, config()).await
    }

    async fn with(seed: &str, config: AgentConfig) -> Self {
        Self::patient(seed, config, Duration::ZERO).await
    }

    /// Whose calls wait for the store for up to `wait`.
    async fn patient(seed: &str, config: AgentConfig, wait: Duration) -> Self {
        let (store, agent) = FaultyStore::seeded(seed).await;
        let clock = Clock::driven(NOW);
        let pubsub = Pubsub::in_process();
        let dyn_store: Arc<dyn Store> = store.clone();
        let agent_metrics = AgentMetrics::new(clock.clone(), CLEANUP_INTERVAL, &[]);
        let metrics = Metrics::new(Arc::clone(&dyn_store), Some(&agent_metrics));
        let patience = Patience::new(clock.clone(), wait);
        let parts = Collaborators {
            store: Arc::clone(&dyn_store),
            clock: clock.clone(),
            pubsub: pubsub.clone(),
            patience: patience.clone(),
            stats: StatsBatcher::new(Arc::clone(&dyn_store), clock.clone()),
            last_used: LastUsed::new(Arc::clone(&dyn_store), clock.clone()),
            agent_metrics: Some(agent_metrics),
            build_durations: Some(metrics.build_durations().clone()),
            metadata: MetadataBatcher::new(Arc::clone(&dyn_store), pubsub.clone(), clock.clone()),
            notifications: Enqueuer::new(
                Arc::clone(&dyn_store),
                clock.clone(),
                pubsub.clone(),
                patience.clone(),
                METHODS,
                &config.access_url,
            ),
            boundary_usage: Some(BoundaryUsageTracker::new(
                Arc::clone(&dyn_store),
                clock.clone(),
                ReplicaId::random(),
            )),
            derp_maps: DerpMaps::fixed(default_map(&config.access_url)),
        };
        let services = AgentServices::new(parts, config, StoreAppearance::new(dyn_store, patience));
        Self {
            store,
            token: agent.token,
            pubsub,
            services,
            metrics,
            stop: CancellationToken::new(),
        }
    }

    /// Puts the service together again with other collaborators, before anybody connects.
    fn change(&mut self, change: impl FnOnce(&mut Collaborators)) {
        let mut parts = self.services.parts.clone();
        change(&mut parts);
        let appearance = StoreAppearance::new(Arc::clone(&parts.store), parts.patience.clone());
        self.services = AgentServices::new(parts, self.services.config.clone(), appearance);
    }

    /// The lines of the exposition that begin with `name`.
    fn exposed(&self, name: &str) -> Vec<String> {
        let text = self.metrics.text();
        let lines = text.lines().filter(|line| line.starts_with(name));
        lines.map(str::to_owned).collect()
    }

    async fn connect(&self) -> Arc<AgentApi> {
        let authenticated = self.store.authenticate(&self.token).await.unwrap().unwrap();
        self.services
            .begin(authenticated, "2.8".into(), self.services.heard())
            .await
            .unwrap()
    }

    /// Writes what the batchers hold.
    async fn flush(&self) {
        self.stop.cancel();
        self.services.parts.stats.run(self.stop.clone()).await.unwrap();
        self.services.parts.metadata.run(self.stop.clone()).await.unwrap();
        self.services
            .parts
            .last_used
            .run(self.stop.clone())
            .await
            .unwrap();
    }

    async fn events(&self) -> Subscription {
        let owner = self.store.query("SELECT id FROM users").await.remove(0);
        let owner = UserId(owner.parse().unwrap());
        self.pubsub.subscribe(&format!("workspace_owner:{owner}"))
    }

    /// The owner wants no more notifications of a template, which is named by its digits.
    async fn opt_out(&self, template: &str) {
        let preference = format!(
            "INSERT INTO notification_preferences (user_id, notification_template_id, disabled, created_at, updated_at)
            SELECT id, x'{template}', 1, 1, 1 FROM users"
        );
        self.store.query(&preference).await;
    }

    async fn value(&self, sql: &str) -> String {
        self.store.query(sql).await.join(",")
    }
}

/// Kinds of the events that have come.
fn kinds(events: &mut Subscription) -> Vec<String> {
    let mut kinds = Vec::new();
    while let Some(payload) = events.try_next() {
        let event: serde_json::Value = serde_json::from_str(&payload.unwrap()).unwrap();
        kinds.push(event["kind"].as_str().unwrap().to_owned());
    }
    kinds
}

fn away() -> StoreError {
    StoreError::Unavailable("database is locked".into())
}

fn lifecycle(state: i32, changed_at: Option<prost_types::Timestamp>) -> proto::UpdateLifecycleRequest {
    proto::UpdateLifecycleRequest {
        lifecycle: Some(proto::Lifecycle { state, changed_at }),
    }
}

#[expect(clippy::unnecessary_wraps, reason = "fields of messages are optional")]
fn at(seconds: i64) -> Option<prost_types::Timestamp> {
    Some(prost_types::Timestamp { seconds, nanos: 0 })
}
