//! What clients meet while a store is away whose sessions were there before: what needs no store goes on, all else fails soon
//! and says why, and no session ends.
//!
//! Owns what they ask and what they are to be told. `journal.rs` takes them through an outage.

use std::time::Duration;

use drpcd::mux::{Inbound, Outbound, Status};
use drpcd::proto::tailnet::coordinate_request::{Tunnel, UpdateSelf};
use drpcd::proto::tailnet::coordinate_response::peer_update::Kind;
use drpcd::proto::tailnet::{
    CoordinateRequest, CoordinateResponse, Node, RefreshResumeTokenRequest, StreamDerpMapsRequest,
    TailnetClient, WorkspaceUpdatesRequest,
};
use tokio::runtime::Runtime;
use tokio::time::timeout;
use uuid::Uuid;

use crate::journal::{FAIL_FAST, Outage};
use crate::support::{Data, PATIENCE, Server, client, eventually};

/// Why there is no tunnel: nobody can tell whose agent it leads to, or the server knows by then that its database is away.
const NO_TUNNEL: [&str; 2] = [
    "authorization: workspace agent not found or you do not have permission",
    "coordinator unhealthy",
];

/// What comes before the reason why workspaces cannot be followed.
const NOT_FOLLOWED: &str = "subscribe to workspace updates: get workspaces and agents by owner ID: ";

/// Two clients of ada's, in sessions at the replica of her agent.
pub(crate) struct Clients {
    sessions: Sessions,
    runtime: Runtime,
}

struct Sessions {
    agent: Uuid,
    owner: Uuid,
    /// The call of a client that has a tunnel to the agent.
    tunnel: Coordination,
    /// The home of the node that this client has announced last.
    home: i32,
    /// The session of another, which asks for all the rest. It is another peer: a second call of one peer ends the first.
    asking: TailnetClient,
}

/// A Coordinate call.
struct Coordination {
    requests: Outbound<CoordinateRequest>,
    responses: Inbound<CoordinateResponse>,
}

/// Runs what must not take long.
#[track_caller]
fn within<T>(limit: Duration, runtime: &Runtime, asked: impl Future<Output = T>) -> T {
    let answered = runtime.block_on(async { timeout(limit, asked).await });
    answered.unwrap_or_else(|_| panic!("what a client asks takes more than {limit:?}"))
}

impl Clients {
    /// Opens the sessions, with a client's token. The agent may come later.
    pub(crate) fn dial(data: &Data, server: &Server, token: &str) -> Self {
        let id = |text: String| text.parse::<Uuid>().unwrap();
        let agent = id(data.agent_id("ada"));
        let owner = id(data.value("SELECT id FROM users WHERE username = 'ada'"));
        let runtime = Runtime::new().unwrap();
        let sessions = within(PATIENCE, &runtime, async {
            let url = server.replica_url(0);
            let near = client::of_user(url, token).await.unwrap();
            let mut tunnel = Coordination::begin(&near).await;
            tunnel.add(agent).await;
            tunnel.announce(1).await;
            Sessions {
                agent,
                owner,
                tunnel,
                home: 1,
                asking: client::of_user(url, token).await.unwrap(),
            }
        });
        Self { sessions, runtime }
    }

    /// Waits until the agent, which has come, knows the client that has a tunnel to it.
    pub(crate) fn meet(&mut self) {
        let Self { sessions, runtime } = self;
        let met = sessions.tunnel.hear(sessions.agent, Kind::ReadyForHandshake);
        within(PATIENCE, runtime, met).unwrap();
    }

    /// Asks while the store is away. What may still be read is answered.
    pub(crate) fn ask(&mut self, outage: &Outage<'_>) {
        let Self { sessions, runtime } = self;
        within(FAIL_FAST, runtime, sessions.go_on());
        let (tunnel, followed) = within(FAIL_FAST, runtime, sessions.ask());
        if outage.away || tunnel.is_err() {
            let told = tunnel.unwrap_err();
            let is_told = |text: &String| NO_TUNNEL.contains(&text.as_str());
            assert!(!told.is_empty() && told.iter().all(is_told), "{told:?}");
        }
        if outage.away || followed.is_err() {
            let told = followed.unwrap_err().to_string();
            let reason = told.strip_prefix(NOT_FOLLOWED);
            assert!(reason.is_some_and(|reason| outage.is_told(reason)), "{told}");
        }
    }

    /// Asks the same in the same sessions, until all of it is answered again.
    pub(crate) fn are_served(&mut self) {
        let Self { sessions, runtime } = self;
        within(FAIL_FAST, runtime, sessions.go_on());
        let answered = || matches!(within(FAIL_FAST, runtime, sessions.ask()), (Ok(()), Ok(())));
        eventually(answered).unwrap();
    }
}

impl Sessions {
    /// What needs no store: nodes of peers that share a tunnel and a replica, tokens, maps.
    async fn go_on(&mut self) {
        self.home += 1;
        self.tunnel.announce(self.home).await;
        // So the agent answers each node that it hears of.
        let heard = self.tunnel.hear(self.agent, Kind::ReadyForHandshake).await;
        heard.unwrap();
        let refresh = RefreshResumeTokenRequest {};
        let token = self.asking.refresh_resume_token(&refresh).await.unwrap();
        assert!(!token.token.is_empty());
        let maps = self.asking.stream_derp_maps(&StreamDerpMapsRequest {}).await;
        assert!(maps.unwrap().next().await.unwrap().is_some());
    }

    /// What the store is asked for: whether a tunnel may be had, and the workspaces of an owner.
    async fn ask(&self) -> (Result<(), Vec<String>>, Result<(), Status>) {
        tokio::join!(self.reach(), self.follow())
    }

    async fn reach(&self) -> Result<(), Vec<String>> {
        let mut call = Coordination::begin(&self.asking).await;
        call.add(self.agent).await;
        call.hear(self.agent, Kind::Node).await
    }

    async fn follow(&self) -> Result<(), Status> {
        let request = WorkspaceUpdatesRequest {
            workspace_owner_id: self.owner.as_bytes().to_vec(),
        };
        let mut updates = self.asking.workspace_updates(&request).await?;
        let shown = updates.next().await?.unwrap().upserted_agents;
        assert!(shown.iter().any(|agent| agent.id == self.agent.as_bytes()));
        Ok(())
    }
}

impl Coordination {
    async fn begin(client: &TailnetClient) -> Self {
        let (requests, responses) = client.coordinate().await.unwrap();
        Self { requests, responses }
    }

    /// Asks for a tunnel.
    async fn add(&mut self, agent: Uuid) {
        let id = agent.as_bytes().to_vec();
        self.send(&CoordinateRequest {
            add_tunnel: Some(Tunnel { id }),
            ..Default::default()
        })
        .await;
    }

    /// Announces a node with this home.
    async fn announce(&mut self, home: i32) {
        let node = Node {
            preferred_derp: home,
            ..Default::default()
        };
        self.send(&CoordinateRequest {
            update_self: Some(UpdateSelf { node: Some(node) }),
            ..Default::default()
        })
        .await;
    }

    async fn send(&mut self, request: &CoordinateRequest) {
        // Whoever reads is told why a call has ended.
        let _ = self.requests.send(request).await;
    }

    /// Reads until there is `news` of the agent, which nobody may give up. A call that ends before fails with all that was
    /// wrong.
    async fn hear(&mut self, agent: Uuid, news: Kind) -> Result<(), Vec<String>> {
        let mut wrong = Vec::new();
        loop {
            let response = match self.responses.next().await {
                Ok(Some(response)) => response,
                Ok(None) => return Err(wrong),
                Err(status) => {
                    wrong.push(status.to_string());
                    return Err(wrong);
                }
            };
            if !response.error.is_empty() {
                wrong.push(response.error);
            }
            let mut heard = false;
            for update in &response.peer_updates {
                let kind = update.kind();
                assert!(matches!(kind, Kind::Node | Kind::ReadyForHandshake), "{update:?}");
                heard |= kind == news && update.id == agent.as_bytes();
            }
            if heard {
                return Ok(());
            }
        }
    }
}
