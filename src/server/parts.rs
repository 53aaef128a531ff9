//! The parts of a running server, and the tasks that drive them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use url::Url;

use super::session::SessionContext;
use super::{ShutdownError, StartError};
use crate::batch::connections::ConnectionTimes;
use crate::batch::metadata::MetadataBatcher;
use crate::batch::network_events::NetworkEvents;
use crate::batch::stats::StatsBatcher;
use crate::clock::Clock;
use crate::config::Config;
use crate::coordinator::MemoryCoordinator;
use crate::http::Outbound;
use crate::ids::ReplicaId;
use crate::mux::Registry;
use crate::proto;
use crate::pubsub::{Pubsub, bridge};
use crate::services::agent::{AgentConfig, AgentServices, Collaborators, StoreAppearance};
use crate::services::patience::Patience;
use crate::services::tailnet::TailnetServices;
use crate::services::tailnet::derp::{DerpConfig, DerpMaps, DerpSource, DerpStatus, FetchMap};
use crate::services::tailnet::derp_map::DefaultRegion;
use crate::sessions::{MonitorConfig, Sessions};
use crate::store::{Store, StoreError};
use crate::telemetry::metrics::{Metrics, Reading};

/// The experiment with which sessions are counted by usage tracking instead of by agents' statistics.
const WORKSPACE_USAGE: &str = "workspace-usage";

/// Everything that sessions share.
#[derive(Debug)]
pub(super) struct Parts {
    pub(super) clock: Clock,
    pub(super) store: Arc<dyn Store>,
    pub(super) sessions: Sessions,
    pub(super) agent: Arc<AgentServices>,
    pub(super) tailnet: Arc<TailnetServices>,
    pub(super) derp_maps: DerpMaps,
    pub(super) registry: Arc<Registry<SessionContext>>,
    pub(super) metrics: Metrics,
    /// Ends when nothing more is added to the batches.
    quiet: CancellationToken,
    /// What must be finished at the end, by name.
    writers: JoinSet<(&'static str, Result<(), StoreError>)>,
    /// What is cut off at the end. Held for its drop.
    _loops: JoinSet<()>,
}

impl Parts {
    /// Builds and starts them.
    pub(super) async fn build(
        config: &Config,
        access_url: &Url,
        clock: &Clock,
        store: &Arc<dyn Store>,
    ) -> Result<Self, StartError> {
        let fetch = Arc::new(Fetch(Outbound::default()));
        let derp = DerpSource::load(derp_config(config, access_url), fetch, clock.clone()).await?;
        let derp_maps = derp.maps();

        let pubsub = Pubsub::in_process();
        let times = ConnectionTimes::new(
            Arc::clone(store),
            pubsub.clone(),
            clock.clone(),
            ReplicaId::random(),
        );
        let stats = StatsBatcher::new(Arc::clone(store), clock.clone());
        let metadata = MetadataBatcher::new(Arc::clone(store), pubsub.clone(), clock.clone());

        let inactive = config.agent_inactive_disconnect_timeout;
        let monitor = MonitorConfig::new(config.agent_connection_update_frequency, Some(inactive));
        let sessions = Sessions::new(clock.clone(), Arc::clone(store), times.clone(), monitor);

        let patience = Patience::new(clock.clone(), config.store_wait);
        let appearance = StoreAppearance::new(Arc::clone(store), patience.clone());
        let collaborators = Collaborators {
            store: Arc::clone(store),
            clock: clock.clone(),
            pubsub: pubsub.clone(),
            patience,
            stats: stats.clone(),
            metadata: metadata.clone(),
            derp_maps: derp_maps.clone(),
        };
        let agent = AgentServices::new(collaborators, agent_config(config, access_url), appearance);
        let metrics = Metrics::new(Arc::clone(store));
        let network_events = NetworkEvents::new(metrics.network_sink(), clock.clone());
        let tailnet = TailnetServices::new(MemoryCoordinator::new(clock.clone()), derp_maps.clone());
        let tailnet = Arc::new(tailnet.with_network_events(network_events.clone()));
        metrics.add_readings(readings(
            derp.status(),
            network_events.clone(),
            Arc::clone(&tailnet),
        ));
        let registry = registry(config.prometheus_enable.then(|| metrics.clone()));

        let quiet = CancellationToken::new();
        let mut writers = JoinSet::new();
        let until = quiet.clone();
        writers.spawn(async move {
            times.run(until).await;
            ("connection times", Ok(()))
        });
        let until = quiet.clone();
        writers.spawn(async move { ("statistics", stats.run(until).await) });
        let until = quiet.clone();
        writers.spawn(async move { ("metadata", metadata.run(until).await) });
        let until = quiet.clone();
        writers.spawn(async move {
            network_events.run(until).await;
            ("network events", Ok(()))
        });

        let mut loops = JoinSet::new();
        loops.spawn(bridge::run(Arc::clone(store), pubsub, clock.clone()));
        loops.spawn(derp.run());
        let ticking = sessions.clone();
        loops.spawn(async move { ticking.run().await });
        let refreshing = Arc::clone(&agent);
        loops.spawn(async move { refreshing.run().await });

        Ok(Self {
            clock: clock.clone(),
            store: Arc::clone(store),
            sessions,
            agent,
            tailnet,
            derp_maps,
            registry,
            metrics,
            quiet,
            writers,
            _loops: loops,
        })
    }

    /// Writes what the batches hold, for at most `grace`.
    pub(super) async fn finish(mut self, clock: &Clock, grace: Duration) -> Result<(), ShutdownError> {
        self.quiet.cancel();
        let mut failed = BTreeMap::new();
        let mut left: Vec<_> = vec!["connection times", "statistics", "metadata", "network events"];
        let end = clock.sleep(grace);
        let mut end = std::pin::pin!(end);
        while !left.is_empty() {
            let ended = tokio::select! {
                ended = self.writers.join_next() => ended,
                () = end.as_mut() => None,
            };
            match ended {
                None => break,
                Some(Ok((name, result))) => {
                    left.retain(|other| *other != name);
                    if let Err(error) = result {
                        failed.insert(name, error.to_string());
                    }
                }
                Some(Err(error)) => tracing::error!(%error, "a batch has panicked"),
            }
        }
        failed.extend(
            left.into_iter()
                .map(|name| (name, "the time for it was over".to_owned())),
        );
        match failed.values().next().cloned() {
            None => Ok(()),
            Some(reason) => {
                let what = failed.into_keys().collect::<Vec<_>>().join(", ");
                Err(ShutdownError::Unwritten { what, reason })
            }
        }
    }
}

/// Fetches DERP maps with the server's one client.
#[derive(Debug)]
struct Fetch(Outbound);

#[async_trait]
impl FetchMap for Fetch {
    async fn fetch(&self, url: &Url, most: usize) -> Result<Bytes, String> {
        self.0.get(url, most).await.map_err(|error| error.to_string())
    }
}

fn derp_config(config: &Config, access_url: &Url) -> DerpConfig {
    DerpConfig {
        path: config.derp_config_path.clone(),
        url: config.derp_config_url.clone(),
        access_url: access_url.clone(),
        region: DefaultRegion {
            id: config.derp_server_region_id,
            code: config.derp_server_region_code.clone(),
            name: config.derp_server_region_name.clone(),
        },
        stun_addresses: config.derp_server_stun_addresses.clone(),
        // As in the original: without direct connections nobody needs to know how it is seen from outside.
        without_stun: config.block_direct_connections,
        frequency: config.derp_map_update_frequency,
    }
}

fn agent_config(config: &Config, access_url: &Url) -> AgentConfig {
    AgentConfig {
        access_url: access_url.clone(),
        app_hostname: config.wildcard_access_url.clone().unwrap_or_default(),
        stats_interval: config.agent_stats_refresh_interval,
        disable_direct_connections: config.block_direct_connections,
        derp_force_websockets: config.derp_force_websockets,
        git_auth_configs: 0,
        workspace_usage: config.experiments.iter().any(|name| name == WORKSPACE_USAGE),
    }
}

/// Numbers that parts keep themselves.
#[expect(clippy::cast_precision_loss, reason = "metrics are floating-point numbers")]
fn readings(derp: DerpStatus, events: NetworkEvents, tailnet: Arc<TailnetServices>) -> Vec<Reading> {
    let age = derp.clone();
    let tunnels = Arc::clone(&tailnet);
    vec![
        Reading::gauge(
            "derp_map_version",
            "DERP maps served since the start, the current one included",
            move || derp.version() as f64,
        ),
        Reading::gauge(
            "derp_map_age_seconds",
            "Time since the DERP map's file or URL was last found good",
            move || age.age().as_secs_f64(),
        ),
        Reading::counter(
            "network_events_dropped",
            "Events of connections that were malformed or too many",
            move || events.dropped() as f64,
        ),
        Reading::gauge("tailnet_peers", "Peers that are connected", move || {
            tailnet.snapshot(0).total_peers as f64
        }),
        Reading::gauge("tailnet_tunnels", "Tunnels between peers", move || {
            tunnels.snapshot(0).total_tunnels as f64
        }),
    ]
}

/// The table of all methods. Metrics are only counted where somebody can read them.
fn registry(metrics: Option<Metrics>) -> Arc<Registry<SessionContext>> {
    let mut registry = Registry::new();
    if let Some(metrics) = metrics {
        registry.intercept(metrics);
    }
    proto::agent::register_agent(&mut registry, |session: &SessionContext| {
        Arc::clone(&session.agent)
    });
    proto::tailnet::register_tailnet(&mut registry, |session: &SessionContext| {
        Arc::clone(&session.tailnet)
    });
    Arc::new(registry)
}
