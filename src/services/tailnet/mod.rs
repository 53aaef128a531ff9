//! The Tailnet service: DERP maps and coordination for the peers of one session.
//!
//! Owns who a session is and what it may ask of the coordinator. Must never know of frames; what nodes and tunnels mean is
//! the coordinator's. Source: coder/coder `tailnet/service.go`.

mod authorization;
pub mod derp;
pub mod derp_config;
pub mod derp_map;
mod response;
pub mod resume;
mod telemetry;
#[cfg(test)]
mod tests;
pub mod updates;
pub mod users;

/// What [`crate::limits`] tells operators of.
pub(crate) mod limits {
    pub(crate) use super::updates::{MAX_OWNERS, MAX_ROWS, MAX_STREAMS_OF_OWNER};
}

use std::future::poll_fn;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use arc_swap::ArcSwap;
use futures_util::future::{Either, FutureExt, select};

pub use self::authorization::{Authority, AuthorizationError, ParsePrefixError, TunnelAuthorizer};
use self::derp::DerpMaps;
use self::response::OnWire;
use self::resume::ResumeTokens;
use self::updates::{Snapshot as Shown, WorkspaceUpdates};
use crate::batch::network_events::NetworkEvents;
use crate::coordinator::{Connection, Coordinator, CoordinatorStatus, PeerId, Response, Snapshot};
use crate::ids::UserId;
use crate::mux::{Inbound, Outbound, Status};
use crate::proto::tailnet::{
    CoordinateRequest, CoordinateResponse, DerpMap, RefreshResumeTokenRequest, RefreshResumeTokenResponse,
    StreamDerpMapsRequest, Tailnet, TelemetryRequest, TelemetryResponse, WorkspaceUpdate,
    WorkspaceUpdatesRequest,
};
use crate::store::StoreError;

/// What a peer is told when handling its request has panicked. It must not leak any detail.
const INTERNAL_ERROR: &str = "internal error";

/// The parts of the service that all sessions share.
#[derive(Debug)]
pub struct TailnetServices {
    coordinator: ArcSwap<Box<dyn Coordinator>>,
    derp_maps: DerpMaps,
    /// Where events of connections go; `None` for nowhere.
    network_events: Option<NetworkEvents>,
}

impl TailnetServices {
    /// Coordinates with `coordinator`, sends maps from `derp_maps`.
    pub fn new(coordinator: Box<dyn Coordinator>, derp_maps: DerpMaps) -> Self {
        Self {
            coordinator: ArcSwap::from_pointee(coordinator),
            derp_maps,
            network_events: None,
        }
    }

    /// Hands events of connections to `events`; without, they are dropped.
    #[must_use]
    pub fn with_network_events(mut self, events: NetworkEvents) -> Self {
        self.network_events = Some(events);
        self
    }

    /// Exchanges the coordinator. The old one is closed; its peers are told, and call again.
    pub async fn swap_coordinator(&self, coordinator: Box<dyn Coordinator>) {
        let before = self.coordinator.swap(Arc::new(coordinator));
        if let Err(error) = before.close().await {
            tracing::warn!(%error, "the end of the coordinator before is not written");
        }
    }

    /// Exchanges the coordinator for one of its kind without peers.
    pub async fn renew_coordinator(&self) {
        let successor = self.coordinator.load().successor();
        self.swap_coordinator(successor).await;
    }

    /// How the coordinator is doing.
    pub fn status(&self) -> CoordinatorStatus {
        self.coordinator.load().status()
    }

    /// What the coordinator knows, with at most `most` of the peers and of the tunnels.
    pub async fn snapshot(&self, most: usize) -> Result<Snapshot, StoreError> {
        self.coordinator.load_full().snapshot(most).await
    }

    /// Ends every Coordinate call, and tells other replicas.
    pub async fn close(&self) -> Result<(), StoreError> {
        self.coordinator.load_full().close().await
    }
}

/// Who calls: the identity that a session was authenticated with.
#[derive(Clone, Debug)]
pub struct Identity {
    /// The peer's id; of an agent, its own.
    pub id: PeerId,
    /// For logs: `<owner>-<workspace>-<agent>`.
    pub name: Box<str>,
    /// What it may ask.
    pub authority: Authority,
}

/// What clients have beyond agents.
#[derive(Clone, Debug)]
pub struct ClientParts {
    /// For coming back under the same peer id.
    pub resume: Arc<ResumeTokens>,
    /// Of a session that is a user's; `None` of one that is about a single agent.
    pub user: Option<UserParts>,
}

/// What clients of a user have beyond those of a single agent.
#[derive(Clone, Debug)]
pub struct UserParts {
    /// Whose workspaces they may see.
    pub owner: UserId,
    /// Where they see them.
    pub updates: WorkspaceUpdates,
}

/// The service for one session.
#[derive(Debug)]
pub struct TailnetApi {
    services: Arc<TailnetServices>,
    identity: Option<Identity>,
    /// `None` of agents, whose sessions stay small.
    client: Option<Box<ClientParts>>,
}

impl TailnetApi {
    /// Serves the session of `identity`, an agent; without one, Coordinate is refused.
    pub fn new(services: Arc<TailnetServices>, identity: Option<Identity>) -> Self {
        Self {
            services,
            identity,
            client: None,
        }
    }

    /// Serves the session of `identity`, a client.
    pub fn for_client(services: Arc<TailnetServices>, identity: Identity, client: ClientParts) -> Self {
        Self {
            services,
            identity: Some(identity),
            client: Some(Box::new(client)),
        }
    }

    fn identity(&self) -> Result<&Identity, Status> {
        self.identity
            .as_ref()
            .ok_or_else(|| Status::message("no Stream ID"))
    }
}

impl Tailnet for TailnetApi {
    /// Always succeeds, and never waits for whoever looks at the events.
    async fn post_telemetry(&self, request: TelemetryRequest) -> Result<TelemetryResponse, Status> {
        if let Some(events) = &self.services.network_events {
            telemetry::post(&request, events);
        }
        Ok(TelemetryResponse {})
    }

    /// Sends the map now and whenever it changes, until the peer leaves.
    async fn stream_derp_maps(
        &self,
        _request: StreamDerpMapsRequest,
        mut replies: Outbound<DerpMap>,
    ) -> Result<(), Status> {
        let mut maps = self.services.derp_maps.clone();
        let mut sent: Option<Arc<DerpMap>> = None;
        loop {
            let map = maps.latest();
            if !sent.as_ref().is_some_and(|sent| derp_map::same_map(sent, &map)) {
                let result = replies.send(&map).await;
                result.map_err(|error| Status::message(format!("send derp map: {error}")))?;
                sent = Some(map);
            }
            // The call never ends from this side: an agent whose map stream ends drops its whole connection.
            maps.changed().await;
        }
    }

    /// Tokens are for clients that come back; an agent's id is fixed by its own token.
    async fn refresh_resume_token(
        &self,
        _request: RefreshResumeTokenRequest,
    ) -> Result<RefreshResumeTokenResponse, Status> {
        let identity = self.identity()?;
        let client = self.client.as_ref().ok_or_else(Status::unimplemented)?;
        Ok(client.resume.issue(identity.id))
    }

    /// Sends what the user has now, and what changes of it, until the peer leaves. Whoever asks about somebody else sees
    /// nothing, as in the original, where each may ask and is shown what that user may read.
    async fn workspace_updates(
        &self,
        request: WorkspaceUpdatesRequest,
        mut replies: Outbound<WorkspaceUpdate>,
    ) -> Result<(), Status> {
        let user = self.client.as_ref().and_then(|client| client.user.as_ref());
        let user = user.ok_or_else(Status::unimplemented)?;
        let owner = PeerId::try_from(&*request.workspace_owner_id)
            .map_err(|error| Status::message(format!("parse workspace owner ID: {error}")))?;
        if UserId(owner.0) != user.owner {
            send_update(&mut replies, &WorkspaceUpdate::default()).await?;
            return std::future::pending().await;
        }
        let watch = user.updates.watch(user.owner).await;
        let mut watch =
            watch.map_err(|error| Status::message(format!("subscribe to workspace updates: {error}")))?;
        let mut sent: Option<Arc<Shown>> = None;
        loop {
            let latest = watch.latest();
            let messages = match &sent {
                Some(sent) => sent.changes_to(&latest),
                None => Shown::default().changes_to(&latest),
            };
            if sent.is_none() && messages.is_empty() {
                send_update(&mut replies, &WorkspaceUpdate::default()).await?;
            }
            for message in &messages {
                send_update(&mut replies, message).await?;
            }
            drop(messages);
            sent = Some(latest);
            if !watch.changed().await {
                replies.close();
                return Ok(());
            }
        }
    }

    /// Exchanges nodes until the peer says goodbye or leaves. Problems are told in the stream before it ends.
    async fn coordinate(
        &self,
        requests: Inbound<CoordinateRequest>,
        mut replies: Outbound<CoordinateResponse>,
    ) -> Result<(), Status> {
        let identity = self.identity()?;
        // Dropped with this future when the peer leaves, which is what makes it lost.
        let role = identity.authority.role();
        let connection = self
            .services
            .coordinator
            .load()
            .connect(identity.id, &identity.name, role);
        let ended = {
            let receiving = std::pin::pin!(receive(identity, &*connection, requests));
            let sending = std::pin::pin!(send(&*connection, &mut replies));
            match select(receiving, sending).await {
                // The peer sends no more. If it said goodbye before, the coordinator has ended the connection.
                Either::Left((Ok(()), sending)) => match sending.now_or_never() {
                    Some(result) => Ended::ByCoordinator(result),
                    None => return Ok(()),
                },
                Either::Left((Err(refusal), _)) => Ended::Refused(refusal),
                Either::Right((result, _)) => Ended::ByCoordinator(result),
            }
        };
        let refusal = match ended {
            Ended::ByCoordinator(result) => {
                replies.close();
                return result;
            }
            Ended::Refused(refusal) => refusal,
        };
        // The others learn of the loss before the peer learns why.
        drop(connection);
        let last = Response {
            updates: Vec::new(),
            error: refusal,
        };
        replies.send_as(&OnWire(&last)).await?;
        replies.close();
        Ok(())
    }
}

async fn send_update(
    replies: &mut Outbound<WorkspaceUpdate>,
    update: &WorkspaceUpdate,
) -> Result<(), Status> {
    let sent = replies.send(update).await;
    sent.map_err(|error| Status::message(format!("send workspace update: {error}")))
}

/// Why a Coordinate call ends from this side.
enum Ended {
    /// The coordinator has ended the connection, or the peer could not be told something.
    ByCoordinator(Result<(), Status>),
    /// A request was refused.
    Refused(String),
}

/// Passes requests on until the peer sends no more; an error is why the peer is refused.
async fn receive(
    identity: &Identity,
    connection: &dyn Connection,
    mut requests: Inbound<CoordinateRequest>,
) -> Result<(), String> {
    while let Ok(Some(request)) = requests.next().await {
        // In a box of its own: a peer that says nothing keeps no room for what it might say.
        let handling = Box::pin(handle(identity, connection, request));
        let handled = AssertUnwindSafe(handling).catch_unwind();
        handled.await.unwrap_or_else(|_| {
            tracing::error!(peer = %identity.id, "panic while coordinating");
            Err(INTERNAL_ERROR.to_owned())
        })?;
    }
    Ok(())
}

async fn handle(
    identity: &Identity,
    connection: &dyn Connection,
    request: CoordinateRequest,
) -> Result<(), String> {
    let authorized = identity.authority.authorize(&request).await;
    authorized.map_err(|error| error.to_string())?;
    connection.handle(request).map_err(|error| error.to_string())
}

/// Passes responses on until the coordinator ends the connection.
async fn send(connection: &dyn Connection, replies: &mut Outbound<CoordinateResponse>) -> Result<(), Status> {
    while let Some(response) = poll_fn(|cx| connection.poll_response(cx)).await {
        replies.send_as(&OnWire(&response)).await?;
    }
    Ok(())
}
