//! The parts of a running server, and the tasks that drive them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use url::Url;

use super::clients::{Clients, end_revoked};
use super::retention;
use super::session::{ClientContext, SessionContext};
use super::store::notifications;
use super::tailnet::{Fetch, derp_config, readings};
use super::{ShutdownError, StartError};
use crate::batch::boundary_usage::BoundaryUsageTracker;
use crate::batch::connections::ConnectionTimes;
use crate::batch::last_used::LastUsed;
use crate::batch::metadata::MetadataBatcher;
use crate::batch::network_events::NetworkEvents;
use crate::batch::stats::StatsBatcher;
use crate::clock::Clock;
use crate::config::{Config, ConnectionLogKind, NotificationsMethod};
use crate::coordinator::{Coordinator, MemoryCoordinator, SharedCoordinator};
use crate::http::Outbound;
use crate::ids::ReplicaId;
use crate::limits;
use crate::mux::Registry;
use crate::proto;
use crate::pubsub::{Pubsub, Remote, bridge};
use crate::services::agent::{AgentConfig, AgentServices, AlertLimits, Collaborators, StoreAppearance};
use crate::services::connection_log::{Backends, DatabaseLogger, StructuredLogger};
use crate::services::external_auth::{ExternalAuth, Provider};
use crate::services::notifications::{Enqueuer, Methods};
use crate::services::patience::Patience;
use crate::services::tailnet::TailnetServices;
use crate::services::tailnet::derp::{DerpMaps, DerpSource};
use crate::sessions::{MonitorConfig, Sessions};
use crate::store::{Coordination, NotificationMethod, Schema, Store, StoreError};
use crate::supervise::supervised;
use crate::telemetry;
use crate::telemetry::agent_metrics::{self, AgentMetrics};
use crate::telemetry::metrics::Metrics;

/// The experiment with which sessions are counted by usage tracking instead of by agents' statistics.
const WORKSPACE_USAGE: &str = "workspace-usage";

/// How long the last messages to other servers may take; what they missed they find by themselves.
const LAST_MESSAGES_LIMIT: Duration = Duration::from_secs(2);

/// How long a start waits until other servers are heard. It begins without them too: what is missed is made up for.
const HEAR_LIMIT: Duration = Duration::from_secs(5);

/// Everything that sessions share.
#[derive(Debug)]
pub(super) struct Parts {
    pub(super) clock: Clock,
    /// This start of this process, as rows know it.
    pub(super) replica: ReplicaId,
    pub(super) store: Arc<dyn Store>,
    pub(super) sessions: Sessions,
    pub(super) agent: Arc<AgentServices>,
    pub(super) tailnet: Arc<TailnetServices>,
    pub(super) derp_maps: DerpMaps,
    pub(super) registry: Arc<Registry<SessionContext>>,
    pub(super) client_registry: Arc<Registry<ClientContext>>,
    pub(super) clients: Clients,
    pub(super) metrics: Metrics,
    pub(super) external_auth: ExternalAuth,
    /// Ends when nothing more is added to the batches.
    quiet: CancellationToken,
    /// The way to other servers on the store, which carries what the batches tell to the end.
    remote: Option<Remote>,
    /// What must be finished at the end, by name.
    writers: Tasks<Result<(), StoreError>>,
    /// What is cut off at the end. Held for its drop.
    _loops: Tasks<()>,
}

impl Parts {
    /// Builds and starts them.
    pub(super) async fn build(
        config: &Config,
        access_url: &Url,
        clock: &Clock,
        store: &Arc<dyn Store>,
        coordination: Option<Arc<dyn Coordination>>,
    ) -> Result<Self, StartError> {
        let (pubsub, remote) = match notifications(&config.common)? {
            Some(database) => {
                let (pubsub, remote) = Remote::start(database, clock);
                (pubsub, Some(remote))
            }
            None => (Pubsub::in_process(), None),
        };
        let fetch = Arc::new(Fetch(Outbound::default()));
        let derp = DerpSource::load(derp_config(config, access_url), fetch, clock.clone()).await?;
        let derp_maps = derp.maps();

        let replica = ReplicaId::random();
        let stats = StatsBatcher::new(Arc::clone(store), clock.clone());
        let last_used = LastUsed::new(Arc::clone(store), clock.clone());
        let metadata = MetadataBatcher::new(Arc::clone(store), pubsub.clone(), clock.clone());

        let boundary_usage = BoundaryUsageTracker::new(Arc::clone(store), clock.clone(), replica);

        let tick = config.agent_connection_update_frequency;
        let times = ConnectionTimes::new(Arc::clone(store), pubsub.clone(), clock.clone(), replica, tick);
        let monitor = MonitorConfig::new(tick, Some(config.agent_inactive_disconnect_timeout));
        let sessions = Sessions::new(clock.clone(), Arc::clone(store), times.clone(), monitor);

        let agent_metrics = agent_metrics(config, clock);
        let metrics = Metrics::new(Arc::clone(store), agent_metrics.as_ref());

        let patience = Patience::new(clock.clone(), config.store_wait);
        let appearance = StoreAppearance::new(Arc::clone(store), patience.clone());
        let notifications = Enqueuer::new(
            Arc::clone(store),
            clock.clone(),
            pubsub.clone(),
            patience.clone(),
            methods(config),
            access_url,
        );
        let external_auth = ExternalAuth::new(
            Arc::clone(store),
            clock.clone(),
            patience.clone(),
            Arc::new(Outbound::default()),
            access_url.clone(),
            providers(config, store.schema()),
        );
        let logger_patience = patience.clone();
        let collaborators = Collaborators {
            store: Arc::clone(store),
            clock: clock.clone(),
            pubsub: pubsub.clone(),
            patience,
            stats: stats.clone(),
            last_used: last_used.clone(),
            agent_metrics: agent_metrics.clone(),
            build_durations: config
                .prometheus_enable
                .then(|| metrics.build_durations().clone()),
            metadata: metadata.clone(),
            notifications,
            boundary_usage: Some(boundary_usage.clone()),
            derp_maps: derp_maps.clone(),
        };
        let agent = AgentServices::new(collaborators, agent_config(config, access_url), appearance);
        agent.swap_connection_logger(connection_logger(&config.connection_log, store, &logger_patience));
        let coordinator: Box<dyn Coordinator> = match coordination {
            None => Box::new(MemoryCoordinator::new(clock.clone())),
            Some(database) => {
                let (pubsub, clock) = (pubsub.clone(), clock.clone());
                Box::new(SharedCoordinator::start(database, pubsub, clock, replica))
            }
        };
        let network_events = NetworkEvents::new(metrics.network_sink(), clock.clone());
        let tailnet = TailnetServices::new(coordinator, derp_maps.clone());
        let tailnet = Arc::new(tailnet.with_network_events(network_events.clone()));
        if let Some(remote) = &remote {
            metrics.add_readings(telemetry::pubsub::readings(remote.status()));
        }
        metrics.add_readings(readings(
            derp.status(),
            network_events.clone(),
            Arc::clone(&tailnet),
        ));
        let counted = || config.prometheus_enable.then(|| metrics.clone());
        let (registry, client_registry) = (registry(counted()), client_registry(counted()));
        let clients = Clients::new(config, store, &pubsub, clock).await;
        let clients = clients.map_err(StartError::ResumeKey)?;

        let quiet = CancellationToken::new();
        let mut writers = Tasks::new(clock);
        writers.spawn_until(&quiet, "connection times", times, |times, quiet| async move {
            times.run(quiet).await;
            Ok(())
        });
        writers.spawn_until(&quiet, "statistics", stats, |stats, quiet| async move {
            stats.run(quiet).await
        });
        writers.spawn_until(&quiet, "metadata", metadata, |metadata, quiet| async move {
            metadata.run(quiet).await
        });
        writers.spawn_until(
            &quiet,
            "network events",
            network_events,
            |events, quiet| async move {
                events.run(quiet).await;
                Ok(())
            },
        );
        writers.spawn_until(
            &quiet,
            "boundary usage",
            boundary_usage,
            |usage, quiet| async move { usage.run(quiet).await },
        );
        writers.spawn_until(&quiet, "times of last use", last_used, |used, quiet| async move {
            used.run(quiet).await
        });

        let mut loops = Tasks::new(clock);
        let shared = (Arc::clone(store), clock.clone());
        let revocations = (sessions.clone(), pubsub.clone(), shared.clone());
        loops.spawn(
            "revoked tokens",
            revocations,
            |(sessions, pubsub, (store, clock))| end_revoked(sessions, store, clock, pubsub.invalidations()),
        );
        loops.spawn(
            "events of the store",
            (pubsub, shared.clone()),
            |(pubsub, (store, clock))| bridge::run(store, pubsub, clock),
        );
        loops.spawn("the DERP map", Arc::new(Mutex::new(derp)), |derp| async move {
            derp.lock().await.run().await;
        });
        if store.schema() == Schema::Own {
            let keep = config.retention;
            loops.spawn("old rows", shared, move |(store, clock)| {
                retention::run(store, clock, keep)
            });
        }
        loops.spawn("monitors of sessions", sessions.clone(), |sessions| async move {
            sessions.run().await;
        });
        loops.spawn("copies of rows", Arc::clone(&agent), |agent| async move {
            agent.run().await;
        });
        if let Some(agent_metrics) = agent_metrics {
            loops.spawn("metrics of agents", agent_metrics, |metrics| async move {
                metrics.run().await;
            });
        }

        Ok(Self {
            clock: clock.clone(),
            replica,
            store: Arc::clone(store),
            sessions,
            agent,
            tailnet,
            derp_maps,
            registry,
            client_registry,
            clients,
            metrics,
            external_auth,
            quiet,
            remote,
            writers,
            _loops: loops,
        })
    }

    /// Waits until other servers are heard, if there can be any. Rows that agents begin with before that are read twice.
    pub(super) async fn hear_others(&self) {
        if let Some(remote) = &self.remote {
            heard(remote, &self.clock).await;
        }
    }

    /// Writes what the batches hold, for at most `grace`.
    pub(super) async fn finish(mut self, clock: &Clock, grace: Duration) -> Result<(), ShutdownError> {
        self.quiet.cancel();
        let tailnet = Arc::clone(&self.tailnet);
        let mut writers = self.writers.set;
        writers.spawn(async move { ("peers", tailnet.close().await) });
        let mut failed = BTreeMap::new();
        let mut left = vec![
            "connection times",
            "statistics",
            "metadata",
            "boundary usage",
            "times of last use",
            "network events",
            "peers",
        ];
        let end = clock.sleep(grace);
        let mut end = std::pin::pin!(end);
        let why = loop {
            let ended = tokio::select! {
                ended = writers.join_next() => ended,
                () = end.as_mut() => break "the time for it was over",
            };
            match ended {
                // Whoever is left has not ended by returning.
                None => break "its task has panicked",
                Some(Ok((name, result))) => {
                    left.retain(|other| *other != name);
                    if let Err(error) = result {
                        failed.insert(name, error.to_string());
                    }
                }
                Some(Err(error)) => tracing::error!(%error, "a batch has panicked"),
            }
        };
        failed.extend(left.into_iter().map(|name| (name, why.to_owned())));
        // What is still at work would keep the store from being closed.
        writers.shutdown().await;
        // What was written has been told of by now.
        if let Some(remote) = self.remote.take()
            && let Err(unsent) = remote.finish(LAST_MESSAGES_LIMIT).await
        {
            tracing::warn!(%unsent, "other servers were not told of everything");
        }
        match failed.values().next().cloned() {
            None => Ok(()),
            Some(reason) => {
                let what = failed.into_keys().collect::<Vec<_>>().join(", ");
                Err(ShutdownError::Unwritten { what, reason })
            }
        }
    }
}

/// Tasks that begin anew after a panic, each with its name.
#[derive(Debug)]
struct Tasks<T> {
    clock: Clock,
    set: JoinSet<(&'static str, T)>,
}

impl<T: Send + 'static> Tasks<T> {
    fn new(clock: &Clock) -> Self {
        Self {
            clock: clock.clone(),
            set: JoinSet::new(),
        }
    }

    /// Runs what `run` makes of the parts.
    fn spawn<P, F>(&mut self, name: &'static str, parts: P, run: impl Fn(P) -> F + Send + 'static)
    where
        P: Clone + Send + 'static,
        F: Future<Output = T> + Send + 'static,
    {
        let clock = self.clock.clone();
        let run = move || run(parts.clone());
        self.set
            .spawn(async move { (name, supervised(&clock, name, run).await) });
    }

    /// Runs what `run` makes of the parts, which is to return once `end` is cancelled.
    fn spawn_until<P, F>(
        &mut self,
        end: &CancellationToken,
        name: &'static str,
        parts: P,
        run: impl Fn(P, CancellationToken) -> F + Send + 'static,
    ) where
        P: Clone + Send + 'static,
        F: Future<Output = T> + Send + 'static,
    {
        self.spawn(name, (parts, end.clone()), move |(parts, end)| run(parts, end));
    }
}

/// Waits until other servers are heard, for at most [`HEAR_LIMIT`].
async fn heard(remote: &Remote, clock: &Clock) {
    tokio::select! {
        () = remote.status().connected() => {}
        () = clock.sleep(HEAR_LIMIT) => {
            tracing::warn!("starting although other servers are not heard yet: what is missed of them is read later");
        }
    }
}

/// The external providers. Tokens in a coder database are renewed by its own servers, of which each would spoil what
/// another one has just got.
fn providers(config: &Config, schema: Schema) -> Vec<Provider> {
    let mut providers = config.external_auth.clone();
    if schema == Schema::Coder {
        for provider in &mut providers {
            provider.no_refresh = true;
        }
    }
    providers
}

/// Where reports of connections go.
fn connection_logger(kinds: &[ConnectionLogKind], store: &Arc<dyn Store>, patience: &Patience) -> Backends {
    let mut backends = Backends::default();
    for kind in kinds {
        match kind {
            ConnectionLogKind::Database => {
                backends.add(DatabaseLogger::new(Arc::clone(store), patience.clone()));
            }
            ConnectionLogKind::Log => backends.add(StructuredLogger),
            ConnectionLogKind::None => {}
        }
    }
    backends
}

fn agent_config(config: &Config, access_url: &Url) -> AgentConfig {
    let providers = config.external_auth.iter();
    let git_auth_configs = providers.filter(|provider| provider.is_git()).count();
    AgentConfig {
        access_url: access_url.clone(),
        app_hostname: config.wildcard_access_url.clone().unwrap_or_default(),
        stats_interval: config.agent_stats_refresh_interval,
        disable_direct_connections: config.block_direct_connections,
        derp_force_websockets: config.derp_force_websockets,
        git_auth_configs: u32::try_from(git_auth_configs).unwrap_or(u32::MAX),
        alert_limits: AlertLimits::default(),
        workspace_usage: config.experiments.iter().any(|name| name == WORKSPACE_USAGE),
    }
}

fn methods(config: &Config) -> Methods {
    let delivery = config.notifications_method.map(|method| match method {
        NotificationsMethod::Smtp => NotificationMethod::Smtp,
        NotificationsMethod::Webhook => NotificationMethod::Webhook,
    });
    Methods {
        delivery,
        inbox: config.notifications_inbox_enabled,
    }
}

/// The metrics that agents send, where somebody asked for them and can read them.
fn agent_metrics(config: &Config, clock: &Clock) -> Option<AgentMetrics> {
    let collected = config.prometheus_enable && config.prometheus_collect_agent_stats;
    let labels = &config.prometheus_aggregate_agent_stats_by;
    collected.then(|| AgentMetrics::new(clock.clone(), agent_metrics::CLEANUP_INTERVAL, labels))
}

/// The table of what clients may call. Metrics are only counted where somebody can read them.
fn client_registry(metrics: Option<Metrics>) -> Arc<Registry<ClientContext>> {
    let mut registry = Registry::with_bounds(limits::message);
    if let Some(metrics) = metrics {
        registry.intercept(metrics);
    }
    proto::tailnet::register_tailnet(&mut registry, |client: &ClientContext| Arc::clone(client));
    Arc::new(registry)
}

/// The table of all methods. Metrics are only counted where somebody can read them.
fn registry(metrics: Option<Metrics>) -> Arc<Registry<SessionContext>> {
    let mut registry = Registry::with_bounds(limits::message);
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

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;
    use crate::clock::Timestamp;
    use crate::secret::Secret;
    use crate::store::postgres;

    #[tokio::test(start_paused = true)]
    async fn a_task_that_panics_begins_anew_with_its_parts() {
        let clock = Clock::driven(Timestamp::UNIX_EPOCH);
        let mut tasks = Tasks::new(&clock);
        let runs = Arc::new(AtomicU32::new(0));
        tasks.spawn("counting", runs, |runs| async move {
            let before = runs.fetch_add(1, Ordering::Relaxed);
            assert!(before > 0, "as it should");
            before
        });
        assert_eq!(tasks.set.join_next().await.unwrap().unwrap(), ("counting", 1));
    }

    #[tokio::test(start_paused = true)]
    async fn a_start_does_not_wait_for_ever_until_others_are_heard() {
        let nobody = Secret::new("postgres://nobody@127.0.0.1:1/nothing");
        let clock = Clock::driven(Timestamp::UNIX_EPOCH);
        let (_pubsub, remote) = Remote::start(postgres::notifications(&nobody).unwrap(), &clock);
        let began = clock.monotonic();
        heard(&remote, &clock).await;
        assert!(!remote.status().is_connected());
        assert_eq!(began.elapsed(), HEAR_LIMIT);
    }
}
