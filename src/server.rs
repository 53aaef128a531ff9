//! The composition root: builds the parts, joins them, and ends them in order.
//!
//! Owns who gets which part and what happens when; every rule about calls, rows or bytes is elsewhere.

mod clients;
mod limits;
mod memory;
mod parts;
mod retention;
mod session;
mod store;
mod tailnet;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use url::Url;

use crate::clock::Clock;
use crate::config::{Config, StorePlace};
use crate::http::{self, App, BUILD_VERSION, Listener};
use crate::seed::Seed;
use crate::services::tailnet::derp::DerpError;
use crate::store::{Schema, SeededAgent, Store, StoreError};
use memory::MemoryBudget;
use parts::Parts;
use session::Host;
pub use store::{OpenStoreError, examine_store, migrate_store, open_store, store_migrations};

/// Time beyond drain time and grace that the ending of handshakes and connections may take; each has its own, shorter
/// bound.
const END_TIMEOUT: Duration = Duration::from_secs(10);

/// Why a server could not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The address is taken, or is none of this machine.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// As configured.
        address: String,
        /// What the operating system says.
        source: std::io::Error,
    },
    /// The store cannot be opened.
    #[error(transparent)]
    Store(#[from] OpenStoreError),
    /// The store does not give what clients' sessions need.
    #[error("cannot read the key of resume tokens: {0}")]
    ResumeKey(StoreError),
    /// The DERP map cannot be served.
    #[error(transparent)]
    Derp(#[from] DerpError),
    /// The seed file does not fit what is in the store.
    #[error("cannot seed: {0}")]
    Seed(StoreError),
}

/// Why a shutdown was not a clean one.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ShutdownError {
    /// Something was accepted and is not in the store.
    #[error("could not write {what}: {reason}")]
    Unwritten {
        /// Names of the batches.
        what: String,
        /// Why the first of them failed.
        reason: String,
    },
    /// Sessions or handshakes did not end in time.
    #[error("{0} sessions did not end in time")]
    SessionsLeft(usize),
}

/// A server that is about to start.
#[derive(Debug)]
pub struct Server;

impl Server {
    /// Listens, opens the store, applies `seed` to it, and lets agents in.
    ///
    /// The address answers `/healthz` from the start and `/readyz` once agents are let in. Dropping the future or the
    /// running server ends everything at once, without writing what is queued.
    pub async fn start(
        config: Config,
        clock: Clock,
        seed: Option<&Seed>,
    ) -> Result<RunningServer, StartError> {
        limits::raise_open_files();
        let listener = bind(&config.http_address).await?;
        let address = listener.address();
        let metrics_listener = if config.prometheus_enable {
            Some(bind(&config.prometheus_address).await?)
        } else {
            None
        };
        let access_url = config.access_url_for(address);

        let memory = MemoryBudget::new(clock.clone(), config.memory_budget);
        let buffers = memory.buffers();
        let app = App::new(clock.clone(), config.api_max_minor, config.max_agent_connections)
            .with_memory_check(move || memory.has_room());
        let app = Arc::new(app);
        let listeners = Listeners::default();
        listeners.spawn(listener, http::router(Arc::clone(&app)), &clock);

        let store = Arc::new(store::open_to_serve(&config.common, &clock).await?);
        let coordination = store.coordination();
        let store: Arc<dyn Store> = store;
        let seeded = match seed {
            Some(seed) => store.seed(seed, clock.now()).await.map_err(StartError::Seed)?,
            None => Vec::new(),
        };
        let parts = Parts::build(&config, &access_url, &clock, &store, coordination).await?;
        if let Some(listener) = metrics_listener {
            let metrics = parts.metrics.clone();
            let tailnet = Arc::clone(&parts.tailnet);
            let snapshot = move |most| {
                let tailnet = Arc::clone(&tailnet);
                async move { tailnet.snapshot(most).await }
            };
            let router = http::introspection_router(move || metrics.text(), snapshot);
            listeners.spawn(listener, router, &clock);
        }
        announce(&config, &access_url, address, &parts);
        parts.hear_others().await;
        parts.metrics.add_readings(memory::readings(buffers.clone()));
        app.open(Host::new(&parts, buffers));
        Ok(RunningServer {
            config,
            clock,
            address,
            access_url,
            app,
            parts,
            store,
            seeded,
            listeners,
        })
    }
}

async fn bind(address: &str) -> Result<Listener, StartError> {
    let failed = |source| StartError::Listen {
        address: address.to_owned(),
        source,
    };
    Listener::bind(address).await.map_err(failed)
}

fn announce(config: &Config, access_url: &Url, address: SocketAddr, parts: &Parts) {
    let store = match (config.common.store_place(), parts.store.schema()) {
        (Ok(StorePlace::Directory(directory)), _) => format!("SQLite in {}", directory.display()),
        (Ok(StorePlace::Postgres { .. }), Schema::Own) => "Postgres".to_owned(),
        (Ok(StorePlace::Postgres { .. }), Schema::Coder) => "Postgres of a coder deployment".to_owned(),
        (Err(_), _) => String::new(),
    };
    tracing::info!(
        version = BUILD_VERSION,
        %access_url,
        %address,
        store,
        replica = %parts.replica,
        derp_regions = parts.derp_maps.current().regions.len(),
        "drpcd is starting"
    );
    let loopback = match access_url.host() {
        Some(url::Host::Domain(name)) => name == "localhost",
        Some(url::Host::Ipv4(ip)) => ip.is_loopback(),
        Some(url::Host::Ipv6(ip)) => ip.is_loopback(),
        None => false,
    };
    if loopback {
        tracing::warn!(%access_url, "the access URL is a loopback address: only agents on this machine can use it");
    }
    if config.derp_config_path.is_none() && config.derp_config_url.is_none() {
        tracing::warn!("no DERP map is configured: direct connections only");
    }
}

/// A server that lets agents in.
#[derive(Debug)]
pub struct RunningServer {
    config: Config,
    clock: Clock,
    address: SocketAddr,
    access_url: Url,
    app: Arc<App<Host>>,
    parts: Parts,
    store: Arc<dyn Store>,
    seeded: Vec<SeededAgent>,
    listeners: Listeners,
}

impl RunningServer {
    /// The address that is listened on.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where agents reach it.
    pub fn access_url(&self) -> &Url {
        &self.access_url
    }

    /// The agents of the seed that it was started with.
    pub fn seeded(&self) -> &[SeededAgent] {
        &self.seeded
    }

    /// The store that it works on.
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    /// Starts over with an empty coordinator, as a way out when the present one is beyond help.
    ///
    /// The present one's peers are told, and come again. Tunnels in use outlast that, since peers forget each other only
    /// after a while of silence.
    pub async fn renew_coordinator(&self) {
        tracing::warn!("starting over with a new coordinator");
        self.parts.tailnet.renew_coordinator().await;
    }

    /// Lets nobody in any more, ends all sessions, writes what is queued, and closes the store, in this order.
    ///
    /// Health routes answer to the end.
    pub async fn shutdown(self) -> Result<(), ShutdownError> {
        let Self {
            config,
            clock,
            app,
            parts,
            store,
            listeners,
            ..
        } = self;
        let sessions = parts.sessions.clone();
        let ending = async {
            app.close().await;
            sessions.drain(config.drain_time).await;
        };
        let in_time = tokio::select! {
            () = ending => true,
            () = clock.sleep(config.drain_time + END_TIMEOUT) => false,
        };
        let written = parts.finish(&clock, config.shutdown_grace).await;
        store.close().await;
        listeners.stop(&clock).await;
        written?;
        if in_time {
            Ok(())
        } else {
            Err(ShutdownError::SessionsLeft(sessions.len()))
        }
    }
}

/// The tasks that accept connections. Dropping it stops them.
#[derive(Debug, Default)]
struct Listeners {
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl Listeners {
    fn spawn(&self, listener: Listener, router: http::Router, clock: &Clock) {
        self.tasks
            .spawn(listener.run(router, clock.clone(), self.stop.clone()));
    }

    async fn stop(self, clock: &Clock) {
        self.stop.cancel();
        self.tasks.close();
        tokio::select! {
            () = self.tasks.wait() => {}
            () = clock.sleep(END_TIMEOUT) => tracing::warn!("HTTP connections did not end in time"),
        }
    }
}

impl Drop for Listeners {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}
