//! One session: from a pipe and an authenticated agent to its end.

use std::borrow::Cow;
use std::future::{Future, poll_fn};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpStream;

use super::parts::Parts;
use crate::batch::connections::Subject;
use crate::clock::Clock;
use crate::coordinator::PeerId;
use crate::http::{ApiError, NewSession, SessionHost, WebSocketPipe};
use crate::ids::AgentToken;
use crate::mux::pipe::{Close, CloseCode, Pipe as _};
use crate::mux::{Control, Registry, SessionEnd, serve};
use crate::services::agent::{AgentApi, AgentServices};
use crate::services::tailnet::{Authority, Identity, TailnetApi, TailnetServices};
use crate::sessions::{Role, SessionInfo, Sessions};
use crate::store::{Authenticated, Store, StoreError};
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

/// Lets sessions in and serves them.
#[derive(Clone, Debug)]
pub(super) struct Host(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    clock: Clock,
    store: Arc<dyn Store>,
    sessions: Sessions,
    agent: Arc<AgentServices>,
    tailnet: Arc<TailnetServices>,
    registry: Arc<Registry<SessionContext>>,
    metrics: Metrics,
}

impl Host {
    pub(super) fn new(parts: &Parts) -> Self {
        Self(Arc::new(Shared {
            clock: parts.clock.clone(),
            store: Arc::clone(&parts.store),
            sessions: parts.sessions.clone(),
            agent: Arc::clone(&parts.agent),
            tailnet: Arc::clone(&parts.tailnet),
            registry: Arc::clone(&parts.registry),
            metrics: parts.metrics.clone(),
        }))
    }
}

impl SessionHost for Host {
    async fn authenticate(&self, token: &AgentToken) -> Result<Option<Authenticated>, StoreError> {
        self.0.store.authenticate(token).await
    }

    async fn ping(&self) -> Result<(), StoreError> {
        self.0.store.ping().await
    }

    fn serve(
        &self,
        session: NewSession,
        pipe: WebSocketPipe<TcpStream>,
    ) -> impl Future<Output = ()> + Send + 'static {
        let shared = Arc::clone(&self.0);
        let info = info(&session);
        if info.role == Role::Helper {
            tracing::debug!(role = session.role, "skipping agent connection monitoring");
        }
        let control = Control::new(&shared.clock);
        let guard = shared.sessions.add(info, control.clone());
        let count = shared.metrics.session();
        async move {
            run(&shared, session, pipe, control).await;
            drop((guard, count));
        }
    }

    fn refused(&self, error: &ApiError) {
        self.0.metrics.handshake_refused(error.status().as_u16());
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

async fn run(shared: &Shared, session: NewSession, mut pipe: WebSocketPipe<TcpStream>, control: Control) {
    // Boxed, so that a session does not keep the room that its beginning needed.
    let context = match Box::pin(begin(shared, session)).await {
        Ok(context) => context,
        Err(error) => {
            tracing::warn!(%error, "workspace agent RPC listen error");
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
    let agent_id = context.agent.agent_id();
    match serve(
        pipe,
        Arc::clone(&shared.registry),
        context,
        control,
        shared.clock.clone(),
    )
    .await
    {
        SessionEnd::PeerLeft => {}
        SessionEnd::Closed { reason, .. } => {
            tracing::debug!(%agent_id, %reason, "agent connection monitor is closing connection");
        }
        SessionEnd::Failed(error) => {
            tracing::warn!(%agent_id, %error, "workspace agent RPC listen error");
        }
    }
}

/// Puts the services of a session together.
async fn begin(shared: &Shared, session: NewSession) -> Result<SessionContext, StoreError> {
    let NewSession {
        authenticated,
        api_version,
        ..
    } = session;
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
        agent = shared.agent.begin(authenticated, api_version) => agent?,
        () = shared.clock.sleep(BEGIN_TIMEOUT) => {
            return Err(StoreError::Unavailable("context deadline exceeded".to_owned()));
        }
    };
    let tailnet = Arc::new(TailnetApi::new(Arc::clone(&shared.tailnet), Some(identity)));
    Ok(SessionContext { agent, tailnet })
}
