//! One session: from a pipe and an authenticated agent to its end.

use std::borrow::Cow;
use std::future::poll_fn;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use tokio::net::TcpStream;

use super::clients::Clients;
use super::parts::Parts;
use crate::batch::connections::Subject;
use crate::client_token::ClientToken;
use crate::clock::Clock;
use crate::coordinator::PeerId;
use crate::http::{ApiError, ConnectionInfo, NewClientSession, NewSession, SessionHost, WebSocketPipe};
use crate::ids::{AgentId, AgentToken, UserId};
use crate::mux::pipe::{Close, CloseCode, Pipe as _};
use crate::mux::{Buffers, Control, Paces, Registry, SessionEnd, serve};
use crate::services::agent::{AgentApi, AgentServices, BeginError, Heard};
use crate::services::external_auth::ExternalAuth;
use crate::services::tailnet::derp::DerpMaps;
use crate::services::tailnet::users::OwnerAuthorizer;
use crate::services::tailnet::{Authority, ClientParts, Identity, TailnetApi, TailnetServices, UserParts};
use crate::sessions::{Role, SessionInfo, Sessions};
use crate::store::{Authenticated, Client, GitSshKey, Store, StoreError};
use crate::telemetry::metrics::Metrics;

/// How long a session waits for the rows that it begins with. The agent gives up and redials not much later.
const BEGIN_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a pipe may take to say goodbye to a session that could not begin.
const GOODBYE_TIMEOUT: Duration = Duration::from_secs(5);

/// What a handler gets to know of the session that calls it.
#[derive(Clone, Debug)]
pub(super) struct SessionContext {
    pub(super) agent: Arc<AgentApi>,
    pub(super) tailnet: Arc<TailnetApi>,
}

/// What the handlers of a client's session get to know of it.
pub(super) type ClientContext = Arc<TailnetApi>;

/// Lets sessions in and serves them.
#[derive(Clone, Debug)]
pub(super) struct Host(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    clock: Clock,
    buffers: Buffers,
    /// The work of each agent, and of each user's clients.
    of_agents: Paces,
    of_users: Paces,
    store: Arc<dyn Store>,
    sessions: Sessions,
    agent: Arc<AgentServices>,
    tailnet: Arc<TailnetServices>,
    registry: Arc<Registry<SessionContext>>,
    client_registry: Arc<Registry<ClientContext>>,
    metrics: Metrics,
    external_auth: ExternalAuth,
    clients: Clients,
    derp_maps: DerpMaps,
}

impl Host {
    /// Whose sessions' buffers count in `buffers`.
    pub(super) fn new(parts: &Parts, buffers: Buffers) -> Self {
        Self(Arc::new(Shared {
            buffers,
            of_agents: Paces::default(),
            of_users: Paces::default(),
            clock: parts.clock.clone(),
            store: Arc::clone(&parts.store),
            sessions: parts.sessions.clone(),
            agent: Arc::clone(&parts.agent),
            tailnet: Arc::clone(&parts.tailnet),
            registry: Arc::clone(&parts.registry),
            client_registry: Arc::clone(&parts.client_registry),
            metrics: parts.metrics.clone(),
            external_auth: parts.external_auth.clone(),
            clients: parts.clients.clone(),
            derp_maps: parts.derp_maps.clone(),
        }))
    }
}

impl SessionHost for Host {
    fn heard(&self) -> Heard {
        self.0.agent.heard()
    }

    async fn authenticate(&self, token: &AgentToken) -> Result<Option<Authenticated>, StoreError> {
        self.0.store.authenticate(token).await
    }

    async fn ping(&self) -> Result<(), StoreError> {
        self.0.store.ping().await
    }

    fn begin(&self, session: NewSession, pipe: WebSocketPipe<TcpStream>) {
        let info = info(&session);
        if info.role == Role::Helper {
            tracing::debug!(role = session.role, "skipping agent connection monitoring");
        }
        let pace = self.0.of_agents.of(info.subject.agent_id.0);
        let control = Control::within(self.0.buffers.clone(), pace, &self.0.clock);
        let live = self.0.sessions.add(info, control.clone());
        let count = self.0.metrics.session();
        // A task for the beginning, which needs more room than what follows.
        tokio::spawn(begin(Arc::clone(&self.0), session, pipe, control, (live, count)));
    }

    fn serves_clients(&self) -> bool {
        self.0.clients.served
    }

    async fn authenticate_client(&self, token: &ClientToken) -> Result<Option<Client>, StoreError> {
        self.0.store.authenticate_client(token).await
    }

    async fn owns_agent(&self, owner: UserId, agent: AgentId) -> Result<bool, StoreError> {
        self.0.store.owns_agent(owner, agent).await
    }

    fn connection_info(&self) -> ConnectionInfo {
        let clients = &self.0.clients;
        ConnectionInfo {
            derp_map: self.0.derp_maps.current(),
            derp_force_websockets: clients.derp_force_websockets,
            disable_direct_connections: clients.disable_direct_connections,
            hostname_suffix: clients.hostname_suffix.clone(),
        }
    }

    fn resumed_peer(&self, token: &str) -> Option<PeerId> {
        self.0.clients.resume.verify(token)
    }

    fn begin_client(&self, session: NewClientSession, pipe: WebSocketPipe<TcpStream>) {
        let NewClientSession {
            client,
            peer,
            agent,
            place,
        } = session;
        let token = client.token_id;
        tracing::debug!(%token, owner = client.owner_username, %peer, ?agent, "accepting client connection");
        let pace = self.0.of_users.of(client.owner_id.0);
        let control = Control::within(self.0.buffers.clone(), pace, &self.0.clock);
        let live = self.0.sessions.add_client(token, control.clone());
        let count = self.0.metrics.session();
        let served = serve(
            pipe,
            Arc::clone(&self.0.client_registry),
            self.0.client_context(&client, peer, agent),
            control,
            self.0.clock.clone(),
        );
        tokio::spawn(served.map(move |end| {
            match end {
                SessionEnd::PeerLeft => {}
                SessionEnd::Closed { reason, .. } => {
                    tracing::debug!(%token, %reason, "client connection is closed");
                }
                SessionEnd::Failed(error) => tracing::info!(%token, %error, "client connection failed"),
            }
            drop((place, live, count));
        }));
    }

    fn refused(&self, error: &ApiError) {
        self.0.metrics.handshake_refused(error.status().as_u16());
    }

    async fn git_ssh_key(&self, user: UserId) -> Result<GitSshKey, StoreError> {
        self.0.store.git_ssh_key(user).await
    }

    fn agents(&self) -> &AgentServices {
        &self.0.agent
    }

    fn external_auth(&self) -> &ExternalAuth {
        &self.0.external_auth
    }
}

impl Shared {
    /// What a client may ask: about its one agent, or about all of its owner's.
    fn client_context(&self, client: &Client, peer: PeerId, agent: Option<AgentId>) -> ClientContext {
        let owner = client.owner_id;
        let (authority, user) = match agent {
            Some(agent) => (Authority::SingleAgentClient(PeerId(agent.0)), None),
            None => {
                let authorizer = OwnerAuthorizer::new(Arc::clone(&self.store), self.clock.clone(), owner);
                let updates = self.clients.updates.clone();
                (
                    Authority::UserClient(Arc::new(authorizer)),
                    Some(UserParts { owner, updates }),
                )
            }
        };
        let identity = Identity {
            id: peer,
            name: "client".into(),
            authority,
        };
        let parts = ClientParts {
            resume: Arc::clone(&self.clients.resume),
            user,
        };
        Arc::new(TailnetApi::for_client(Arc::clone(&self.tailnet), identity, parts))
    }
}

fn info(session: &NewSession) -> SessionInfo {
    let Authenticated {
        agent,
        workspace,
        build_id,
        ..
    } = &session.authenticated;
    SessionInfo {
        subject: Subject {
            agent_id: agent.id,
            workspace_id: workspace.id,
            owner_id: workspace.owner_id,
        },
        build_id: *build_id,
        role: Role::from_query(session.role.as_deref()),
    }
}

/// Puts the services of a session together and starts the task that serves it. `kept` is dropped when it ends.
async fn begin<K: Send + 'static>(
    shared: Arc<Shared>,
    session: NewSession,
    mut pipe: WebSocketPipe<TcpStream>,
    control: Control,
    kept: K,
) {
    let NewSession {
        authenticated,
        heard,
        api_version,
        place,
        ..
    } = session;
    let agent_id = authenticated.agent.id;
    let context = match context(&shared, authenticated, api_version, heard).await {
        Ok(context) => context,
        Err(error) => {
            tracing::warn!(%agent_id, %error, "workspace agent RPC listen error");
            let close = Close {
                code: CloseCode::INTERNAL,
                reason: Cow::Owned(error.to_string()),
            };
            tokio::select! {
                _ = poll_fn(|cx| pipe.poll_close(cx, &close)) => {}
                () = shared.clock.sleep(GOODBYE_TIMEOUT) => {}
            }
            return;
        }
    };
    let served = serve(
        pipe,
        Arc::clone(&shared.registry),
        context,
        control,
        shared.clock.clone(),
    );
    // `map` keeps the future in place, where an async block would hold room for it twice.
    tokio::spawn(served.map(move |end| {
        log_end(agent_id, &end);
        drop((place, kept));
    }));
}

fn log_end(agent_id: AgentId, end: &SessionEnd) {
    match end {
        SessionEnd::PeerLeft => {}
        SessionEnd::Closed { reason, .. } => {
            tracing::debug!(%agent_id, %reason, "agent connection monitor is closing connection");
        }
        SessionEnd::Failed(error) => {
            tracing::warn!(%agent_id, %error, "workspace agent RPC listen error");
        }
    }
}

/// What the handlers of a session get to know of it.
async fn context(
    shared: &Shared,
    authenticated: Authenticated,
    api_version: String,
    heard: Heard,
) -> Result<SessionContext, BeginError> {
    let (agent, workspace) = (&authenticated.agent, &authenticated.workspace);
    tracing::debug!(
        owner = workspace.owner_username,
        workspace_name = workspace.name,
        agent_name = agent.name,
        agent_id = %agent.id,
        agent_created_at = %agent.created_at,
        agent_updated_at = %agent.updated_at,
        agent_first_connected_at = ?agent.connection.first_connected_at,
        agent_last_connected_at = ?agent.connection.last_connected_at,
        agent_disconnected_at = ?agent.connection.disconnected_at,
        agent_version = agent.version,
        agent_api_version = agent.api_version,
        agent_connection_timeout_seconds = agent.connection_timeout_seconds,
        agent_resource_id = %agent.resource_id,
        "accepting agent RPC connection"
    );
    let id = PeerId(agent.id.0);
    let name = format!("{}-{}-{}", workspace.owner_username, workspace.name, agent.name);
    let identity = Identity {
        id,
        name: name.into(),
        authority: Authority::Agent(id),
    };
    let agent = tokio::select! {
        agent = shared.agent.begin(authenticated, api_version, heard) => agent?,
        () = shared.clock.sleep(BEGIN_TIMEOUT) => {
            let late = StoreError::Unavailable("context deadline exceeded".to_owned());
            return Err(BeginError::Monitors(late));
        }
    };
    let tailnet = Arc::new(TailnetApi::new(Arc::clone(&shared.tailnet), Some(identity)));
    Ok(SessionContext { agent, tailnet })
}
