//! HTTP and WebSocket: everything between an accepted connection and a byte pipe to a known agent.
//!
//! Owns routes, authentication of requests, the upgrade, and the forms of answers. Must never run a call or touch a
//! row: the store is asked through a [`SessionHost`], which also takes over each pipe. No other module knows HTTP or
//! WebSocket.

mod agents;
mod auth;
pub mod capture;
mod clients;
mod debug;
mod error;
mod health;
mod listener;
mod outbound;
mod places;
mod query;
mod rpc;
mod upgrade;
mod version;
mod websocket;

use std::fmt;
use std::future::Future;
use std::sync::{Arc, Mutex, OnceLock};

use axum::http::{HeaderName, HeaderValue, header};
use axum::middleware::map_response;
use axum::response::Response;
use axum::routing::{any, get};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Bodies of fuzz targets.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing {
    pub(crate) use super::websocket::fuzzing::websocket;
}

/// What [`crate::limits`] tells operators of.
pub(crate) mod limits {
    pub(crate) use super::agents::{
        EACH, MAX_BODY, MAX_BODY_MEMORY, MAX_LISTENERS, MAX_REINIT_STREAMS, READ_TIMEOUT,
    };
    pub(crate) use super::listener::{HEAD_TIMEOUT, MAX_CONNECTIONS, MAX_HEAD};
    pub(crate) use super::places::{MAX_AGENT_SESSIONS, MAX_CLIENT_SESSIONS};
    pub(crate) use super::rpc::UPGRADE_TIMEOUT;
}

pub use axum::Router;
pub use error::ApiError;
pub use health::BUILD_VERSION;
pub use listener::Listener;
pub use outbound::{Outbound, OutboundError};
pub use places::Place;
use places::{Places, Unclaimed};
pub use websocket::WebSocketPipe;

use crate::client_token::ClientToken;
use crate::clock::{Clock, Instant};
use crate::coordinator::{PeerId, Snapshot};
use crate::ids::{AgentId, AgentToken, UserId};
use crate::proto::tailnet::DerpMap;
use crate::services::agent::{AgentServices, Heard};
use crate::services::external_auth::ExternalAuth;
use crate::store::{Authenticated, Client, GitSshKey, StoreError};

/// Sent with every answer, as the original does.
const BUILD_VERSION_HEADER: HeaderName = HeaderName::from_static("x-coder-build-version");

const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The rest of the server, as the routes see it.
pub trait SessionHost: Send + Sync + 'static {
    /// How far events have been heard that concern agents.
    fn heard(&self) -> Heard;

    /// Finds the agent of a token, if it may connect now.
    fn authenticate(
        &self,
        token: &AgentToken,
    ) -> impl Future<Output = Result<Option<Authenticated>, StoreError>> + Send;

    /// Whether the store answers.
    fn ping(&self) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// Takes over a session, which counts as live from here on, and serves it in a task of its own.
    fn begin(&self, session: NewSession, pipe: WebSocketPipe<TcpStream>);

    /// Whether there are clients to serve at all.
    fn serves_clients(&self) -> bool {
        true
    }

    /// Whose a client's token is.
    fn authenticate_client(
        &self,
        token: &ClientToken,
    ) -> impl Future<Output = Result<Option<Client>, StoreError>> + Send;

    /// Whether an agent is of a workspace of `owner`.
    fn owns_agent(
        &self,
        owner: UserId,
        agent: AgentId,
    ) -> impl Future<Output = Result<bool, StoreError>> + Send;

    /// What clients need to know before they dial.
    fn connection_info(&self) -> ConnectionInfo;

    /// The peer that a client was before, by the token that it was given then.
    fn resumed_peer(&self, token: &str) -> Option<PeerId>;

    /// Takes over a client's session, as [`SessionHost::begin`].
    fn begin_client(&self, session: NewClientSession, pipe: WebSocketPipe<TcpStream>);

    /// A handshake was answered with `error`.
    fn refused(&self, error: &ApiError);

    /// The git key of a user.
    fn git_ssh_key(&self, user: UserId) -> impl Future<Output = Result<GitSshKey, StoreError>> + Send;

    /// The service behind the agents' routes.
    fn agents(&self) -> &AgentServices;

    /// The service behind the route of external providers.
    fn external_auth(&self) -> &ExternalAuth;
}

/// A session whose handshake is done.
#[derive(Debug)]
pub struct NewSession {
    /// Who it is.
    pub authenticated: Authenticated,
    /// How far events had been heard before that was looked up.
    pub heard: Heard,
    /// The version that it asked for, as it wrote it; `2.0` when it did not.
    pub api_version: String,
    /// The query parameter `role`.
    pub role: Option<String>,
    /// Its place among the sessions that there is room for, held until it ends.
    pub place: Place,
}

/// A client's session whose handshake is done.
#[derive(Debug)]
pub struct NewClientSession {
    /// Who it is.
    pub client: Client,
    /// Its peer id: a new one, or what it had before.
    pub peer: PeerId,
    /// The one agent that it is about; `None` for all of its owner's.
    pub agent: Option<AgentId>,
    /// Its place among the sessions that there is room for, held until it ends.
    pub place: Place,
}

/// What clients need to know before they dial.
#[derive(Clone, Debug)]
pub struct ConnectionInfo {
    /// The relays.
    pub derp_map: Arc<DerpMap>,
    /// Whether to reach relays over WebSocket.
    pub derp_force_websockets: bool,
    /// Whether to use relays only.
    pub disable_direct_connections: bool,
    /// What names of workspaces end with on clients' machines.
    pub hostname_suffix: String,
}

/// What the routes share.
pub struct App<H> {
    /// Empty until the store is open.
    host: OnceLock<H>,
    clock: Clock,
    /// Newest minor that agents may ask for.
    api_max_minor: u32,
    /// When it may be logged again that a version was refused.
    next_version_warning: Mutex<Option<Instant>>,
    /// Room for sessions; a handshake takes its place before anything else.
    places: Places,
    has_memory: Box<dyn Fn() -> bool + Send + Sync>,
    /// No new sessions from here on.
    stopping: CancellationToken,
    /// Handshakes at work.
    handshakes: TaskTracker,
    /// Room for requests of agents that last or are large.
    bounds: agents::Bounds,
}

impl<H> fmt::Debug for App<H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("App")
            .field("open", &self.host.get().is_some())
            .finish_non_exhaustive()
    }
}

impl<H: SessionHost> App<H> {
    /// Routes that are alive but not ready. `max_sessions` of 0 is unlimited.
    pub fn new(clock: Clock, api_max_minor: u32, max_sessions: usize) -> Self {
        Self {
            host: OnceLock::new(),
            clock,
            api_max_minor,
            next_version_warning: Mutex::default(),
            places: Places::new(max_sessions),
            has_memory: Box::new(|| true),
            stopping: CancellationToken::new(),
            handshakes: TaskTracker::new(),
            bounds: agents::Bounds::default(),
        }
    }

    /// Refuses sessions while `has_memory` says that there is none for another.
    #[must_use]
    pub fn with_memory_check(self, has_memory: impl Fn() -> bool + Send + Sync + 'static) -> Self {
        let has_memory = Box::new(has_memory);
        Self { has_memory, ..self }
    }

    /// Lets agents in. Only the first call has an effect.
    pub fn open(&self, host: H) {
        let _ = self.host.set(host);
    }

    /// Lets no more agents in, and waits for handshakes at work: afterwards no session begins.
    pub async fn close(&self) {
        self.stopping.cancel();
        self.handshakes.close();
        self.handshakes.wait().await;
    }

    /// Room for a session of which nobody knows yet whose it is.
    fn place(&self) -> Result<Unclaimed<'_>, ApiError> {
        self.expect_memory()?;
        self.places.take()
    }

    /// Refuses what lasts while there is no memory for it.
    fn expect_memory(&self) -> Result<(), ApiError> {
        if (self.has_memory)() {
            Ok(())
        } else {
            Err(places::full())
        }
    }

    /// The host, while agents may come.
    fn host(&self) -> Option<&H> {
        self.host.get().filter(|_| !self.stopping.is_cancelled())
    }
}

/// All routes.
pub fn router<H: SessionHost>(app: Arc<App<H>>) -> Router {
    Router::new()
        .route("/healthz", get(health::healthz))
        .route("/readyz", get(health::readyz::<H>))
        .route("/api/v2/buildinfo", get(health::buildinfo::<H>))
        // Every method: authentication comes before the check of the method.
        .route("/api/v2/workspaceagents/me/rpc", any(rpc::handshake::<H>))
        .nest("/api/v2/workspaceagents/me", agents::routes::<H>())
        .merge(clients::routes::<H>())
        .fallback(error::route_not_found)
        .method_not_allowed_fallback(error::method_not_allowed)
        .layer(map_response(stamp))
        .with_state(app)
}

/// The routes of the metrics address. `snapshot` gets how many peers and tunnels are shown at most.
pub fn introspection_router<F>(
    text: impl Fn() -> String + Clone + Send + Sync + 'static,
    snapshot: impl Fn(usize) -> F + Clone + Send + Sync + 'static,
) -> Router
where
    F: Future<Output = Result<Snapshot, StoreError>> + Send,
{
    let metrics = move || {
        let body = text();
        async move { ([(header::CONTENT_TYPE, OPEN_METRICS)], body) }
    };
    let coordinator = move || {
        let snapshot = snapshot(debug::MAX_ROWS);
        async move { debug::coordinator(snapshot.await) }
    };
    Router::new()
        .route("/metrics", get(metrics))
        .route("/debug/coordinator", get(coordinator))
}

async fn stamp(mut response: Response) -> Response {
    response
        .headers_mut()
        .insert(BUILD_VERSION_HEADER, HeaderValue::from_static(BUILD_VERSION));
    response
}

#[cfg(test)]
mod tests;
