//! Calls: who is connected with what, how a call ends, and what one peer's trouble costs the others.

use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use async_trait::async_trait;
use tokio::task::JoinHandle;
use uuid::Uuid;

use super::{AGENT, CODER_ADDRESS, FOREIGN_ADDRESS, TAILSCALE_ADDRESS, add_tunnel, announce, coordinator};
use crate::clock::testing::settle;
use crate::coordinator::{
    Connection, CoordinateError, Coordinator, CoordinatorStatus, MemoryCoordinator, PeerId, Response, Role,
    Snapshot, Update,
};
use crate::mux::Registry;
use crate::mux::testing::{Caller, call};
use crate::proto::tailnet::coordinate_request::{Disconnect, Tunnel};
use crate::proto::tailnet::coordinate_response::peer_update::Kind;
use crate::proto::tailnet::{
    CoordinateRequest, CoordinateResponse, DerpMap, Node, RefreshResumeTokenRequest, StreamDerpMapsRequest,
    Tailnet, TelemetryEvent, TelemetryRequest, WorkspaceUpdate, WorkspaceUpdatesRequest, register_tailnet,
};
use crate::services::tailnet::derp::DerpMaps;
use crate::services::tailnet::{Authority, Identity, TailnetApi, TailnetServices, TunnelAuthorizer};
use crate::store::StoreError;

const CLIENT: PeerId = PeerId(Uuid::from_u128(2));

pub(super) struct Fixture {
    pub(super) coordinator: MemoryCoordinator,
    services: Arc<TailnetServices>,
}

/// A Coordinate call that runs until it ends or is dropped.
pub(super) struct Call {
    pub(super) caller: Caller<CoordinateRequest, CoordinateResponse>,
    task: JoinHandle<()>,
}

impl Call {
    pub(super) fn send(&self, request: &CoordinateRequest) {
        self.caller.send(request);
    }

    /// Kind and reason of every update that has come.
    pub(super) async fn told(&self) -> Vec<(Kind, String)> {
        let updates = self.replies().await;
        let updates = updates.into_iter().flat_map(|reply| reply.peer_updates);
        updates.map(|update| (update.kind(), update.reason)).collect()
    }

    /// Every reply that has come.
    pub(super) async fn replies(&self) -> Vec<CoordinateResponse> {
        settle().await;
        self.caller.replies()
    }

    /// Waits for the end of the call. Returns the errors that were told.
    pub(super) async fn errors(self) -> Vec<String> {
        self.task.await.unwrap();
        assert!(self.caller.is_closed());
        let errors = self.caller.replies().into_iter().map(|reply| reply.error);
        errors.filter(|error| !error.is_empty()).collect()
    }
}

pub(super) fn told(kind: Kind, reason: &str) -> Vec<(Kind, String)> {
    vec![(kind, reason.to_owned())]
}

impl Fixture {
    pub(super) fn new() -> Self {
        let coordinator = coordinator();
        let maps = DerpMaps::fixed(DerpMap::default());
        Self {
            services: Arc::new(TailnetServices::new(Box::new(coordinator.clone()), maps)),
            coordinator,
        }
    }

    fn api(&self, id: PeerId, authority: Authority) -> TailnetApi {
        let identity = Identity {
            id,
            name: "ada-dev-main".into(),
            authority,
        };
        TailnetApi::new(Arc::clone(&self.services), Some(identity))
    }

    pub(super) fn coordinate(&self, id: PeerId, authority: Authority) -> Call {
        let api = self.api(id, authority);
        let (requests, replies, caller) = call();
        let task = tokio::spawn(async move { api.coordinate(requests, replies).await.unwrap() });
        Call { caller, task }
    }

    fn agent(&self) -> Call {
        self.coordinate(AGENT, Authority::Agent(AGENT))
    }

    /// A client with a tunnel to the agent.
    fn client(&self) -> Call {
        let client = self.coordinate(CLIENT, Authority::SingleAgentClient(AGENT));
        client.send(&add_tunnel(AGENT.0.as_bytes()));
        client
    }

    /// An agent that a client knows of.
    pub(super) async fn pair(&self) -> (Call, Call) {
        let (client, agent) = (self.client(), self.agent());
        agent.send(&announce(&[TAILSCALE_ADDRESS]));
        assert_eq!(client.told().await.len(), 1);
        (agent, client)
    }
}

fn goodbye() -> CoordinateRequest {
    CoordinateRequest {
        disconnect: Some(Disconnect {}),
        ..Default::default()
    }
}

#[tokio::test]
async fn tn_007_calls_of_one_session_do_not_touch_each_other() {
    let fixture = Fixture::new();
    let api = Arc::new(fixture.api(AGENT, Authority::Agent(AGENT)));
    let (_, replies, maps) = call::<StreamDerpMapsRequest, DerpMap>();
    let streaming = Arc::clone(&api);
    let stream = tokio::spawn(async move {
        streaming
            .stream_derp_maps(StreamDerpMapsRequest {}, replies)
            .await
    });
    let agent = fixture.agent();
    agent.send(&announce(&[TAILSCALE_ADDRESS]));
    settle().await;
    assert_eq!(maps.replies().len(), 1);
    stream.abort();
    let events = vec![TelemetryEvent::default()];
    let request = TelemetryRequest { events, unread: 0 };
    api.post_telemetry(request).await.unwrap();
    assert!(fixture.coordinator.node(AGENT).await.unwrap().is_some());
    agent.send(&goodbye());
    assert_eq!(agent.errors().await, [""; 0]);
}

/// What the fake coordinator was asked.
#[derive(Debug, Default)]
struct Seen {
    connected: Vec<(PeerId, String, Role)>,
    requests: Vec<CoordinateRequest>,
}

/// Answers each request with one update of the peer itself; refuses none.
#[derive(Clone, Debug, Default)]
struct Fake(Arc<Mutex<Seen>>);

struct FakeConnection(Fake, PeerId, Mutex<usize>);

#[async_trait]
impl Coordinator for Fake {
    fn connect(&self, id: PeerId, name: &str, role: Role) -> Box<dyn Connection> {
        let mut seen = self.0.lock().unwrap();
        seen.connected.push((id, name.to_owned(), role));
        drop(seen);
        Box::new(FakeConnection(self.clone(), id, Mutex::default()))
    }

    async fn node(&self, _id: PeerId) -> Result<Option<Node>, StoreError> {
        Ok(None)
    }

    fn status(&self) -> CoordinatorStatus {
        CoordinatorStatus {
            peers: 0,
            tunnels: 0,
            healthy: true,
        }
    }

    async fn snapshot(&self, _most: usize) -> Result<Snapshot, StoreError> {
        Ok(Snapshot::default())
    }

    fn successor(&self) -> Box<dyn Coordinator> {
        Box::new(self.clone())
    }

    async fn close(&self) -> Result<(), StoreError> {
        Ok(())
    }
}

impl Connection for FakeConnection {
    fn handle(&self, request: CoordinateRequest) -> Result<(), CoordinateError> {
        self.0.0.lock().unwrap().requests.push(request);
        Ok(())
    }

    /// One update, then the end.
    fn poll_response(&self, cx: &mut Context<'_>) -> Poll<Option<Response>> {
        if self.0.0.lock().unwrap().requests.len() < 2 {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let mut told = self.2.lock().unwrap();
        *told += 1;
        Poll::Ready((*told == 1).then(|| Response {
            updates: vec![Update {
                of: self.1,
                kind: Kind::ReadyForHandshake,
                reason: "as the fake says",
                node: None,
            }],
            error: "so it is".to_owned(),
        }))
    }
}

#[tokio::test]
async fn tn_008_the_coordinator_sees_identity_and_requests_and_is_heard_unchanged() {
    let fixture = Fixture::new();
    let fake = Fake::default();
    fixture.services.swap_coordinator(Box::new(fake.clone())).await;
    let agent = fixture.agent();
    let requests = [announce(&[TAILSCALE_ADDRESS]), goodbye()];
    for request in &requests {
        agent.send(request);
    }
    agent.task.await.unwrap();
    let seen = fake.0.lock().unwrap();
    assert_eq!(seen.connected, [(AGENT, "ada-dev-main".to_owned(), Role::Agent)]);
    assert_eq!(seen.requests, requests);
    let [reply] = &agent.caller.replies()[..] else {
        panic!("one reply was given");
    };
    assert_eq!(
        (reply.error.as_str(), &reply.peer_updates[0].id[..]),
        ("so it is", &AGENT.0.as_bytes()[..])
    );
}

#[tokio::test]
async fn tn_008_the_authority_of_the_identity_is_the_one_that_counts() {
    let fixture = Fixture::new();
    let fake = Fake::default();
    fixture.services.swap_coordinator(Box::new(fake.clone())).await;
    let agent = fixture.agent();
    agent.send(&add_tunnel(AGENT.0.as_bytes()));
    assert_eq!(
        agent.errors().await,
        ["authorization: agents cannot open tunnels"]
    );
    assert_eq!(
        fake.0.lock().unwrap().requests,
        [],
        "what is refused reaches no coordinator"
    );
}

#[tokio::test]
async fn tn_009_without_an_identity_there_is_no_coordination() {
    let api = TailnetApi::new(Fixture::new().services, None);
    let (requests, replies, _caller) = call();
    let status = api.coordinate(requests, replies).await.unwrap_err();
    assert_eq!(status.text(), "no Stream ID");
    let status = api
        .refresh_resume_token(RefreshResumeTokenRequest {})
        .await
        .unwrap_err();
    assert_eq!(status.text(), "no Stream ID");
}

#[tokio::test]
async fn tn_010_what_agents_do_not_use_is_unimplemented() {
    let api = Fixture::new().api(AGENT, Authority::Agent(AGENT));
    let status = api
        .refresh_resume_token(RefreshResumeTokenRequest {})
        .await
        .unwrap_err();
    assert_eq!((status.code(), status.text()), (12, "Unimplemented"));
    let (_, replies, _caller) = call::<WorkspaceUpdatesRequest, WorkspaceUpdate>();
    let updates = api.workspace_updates(WorkspaceUpdatesRequest::default(), replies);
    let status = updates.await.unwrap_err();
    assert_eq!((status.code(), status.text()), (12, "Unimplemented"));
}

#[test]
fn tn_011_what_the_service_has_not_is_an_unknown_rpc() {
    let mut registry = Registry::new();
    register_tailnet(&mut registry, |api: &Arc<TailnetApi>| Arc::clone(api));
    for method in [
        "PostTelemetry",
        "StreamDERPMaps",
        "RefreshResumeToken",
        "Coordinate",
        "WorkspaceUpdates",
    ] {
        let path = format!("/coder.tailnet.v2.Tailnet/{method}");
        assert!(registry.lookup(path.as_bytes()).is_ok(), "{method}");
    }
    let status = registry
        .lookup(b"/coder.tailnet.v2.Tailnet/CoordinateTailnet")
        .unwrap_err();
    assert!(status.text().contains("unknown rpc"), "{status}");
}

#[tokio::test]
async fn tn_012_a_swapped_coordinator_ends_its_streams_and_new_calls_reach_the_new_one() {
    let fixture = Fixture::new();
    let old = fixture.agent();
    settle().await;
    let next = coordinator();
    fixture.services.swap_coordinator(Box::new(next.clone())).await;
    assert_eq!(old.errors().await, ["coordinator closed"]);
    let new = fixture.agent();
    new.send(&announce(&[CODER_ADDRESS]));
    settle().await;
    assert!(next.node(AGENT).await.unwrap().is_some());
}

#[tokio::test]
async fn tn_024_a_refused_agent_learns_why_and_is_lost() {
    let fixture = Fixture::new();
    let (agent, client) = fixture.pair().await;
    agent.send(&announce(&[FOREIGN_ADDRESS]));
    let text = "authorization: invalid node address, got fd7a:115c:a1e0::1";
    assert_eq!(agent.errors().await, [text]);
    assert!(fixture.coordinator.node(AGENT).await.unwrap().is_none());
    assert_eq!(client.told().await, told(Kind::Lost, "lost"));
}

#[tokio::test]
async fn tn_027_a_tunnel_that_an_agent_asks_for_is_not_there() {
    let fixture = Fixture::new();
    let other = fixture.coordinate(CLIENT, Authority::Unrestricted);
    other.send(&announce(&[]));
    let agent = fixture.agent();
    agent.send(&CoordinateRequest {
        add_tunnel: Some(Tunnel {
            id: CLIENT.0.as_bytes().to_vec(),
        }),
        ..announce(&[TAILSCALE_ADDRESS])
    });
    assert_eq!(
        agent.errors().await,
        ["authorization: agents cannot open tunnels"]
    );
    assert_eq!(other.told().await, []);
}

#[tokio::test]
async fn tn_035_a_valid_node_beside_a_malformed_part_is_never_seen() {
    let fixture = Fixture::new();
    let (agent, client) = fixture.pair().await;
    agent.send(&CoordinateRequest {
        remove_tunnel: Some(Tunnel { id: vec![0; 15] }),
        ..announce(&[CODER_ADDRESS])
    });
    let text = "unable to convert bytes to UUID: invalid UUID (got 15 bytes)";
    assert_eq!(agent.errors().await, [text]);
    assert_eq!(client.told().await, told(Kind::Lost, "lost"));
}

#[tokio::test]
async fn tn_045_after_goodbye_the_stream_ends_without_an_error() {
    let fixture = Fixture::new();
    let (agent, client) = fixture.pair().await;
    agent.send(&goodbye());
    assert_eq!(agent.errors().await, [""; 0]);
    assert_eq!(
        client.told().await,
        told(Kind::Disconnected, "graceful disconnect")
    );
}

#[tokio::test]
async fn tn_046_neither_half_closing_nor_a_cut_is_goodbye() {
    let fixture = Fixture::new();
    let (agent, client) = fixture.pair().await;
    agent.caller.half_close();
    agent.task.await.unwrap();
    assert_eq!(client.told().await, told(Kind::Lost, "lost"));

    let agent = fixture.agent();
    agent.send(&announce(&[TAILSCALE_ADDRESS]));
    assert_eq!(client.told().await, told(Kind::Node, "node update"));
    agent.task.abort();
    assert_eq!(client.told().await, told(Kind::Lost, "lost"));
}

/// A user whose authorizer has a fault.
#[derive(Debug)]
struct Faulty;

#[async_trait]
impl TunnelAuthorizer for Faulty {
    async fn may_reach(&self, _agent: PeerId) -> bool {
        panic!("secret detail, as the test wants");
    }
}

#[tokio::test]
async fn tn_056_a_panic_costs_its_own_stream_alone_and_tells_nothing() {
    let fixture = Fixture::new();
    let (agent, client) = fixture.pair().await;
    let user = fixture.coordinate(
        PeerId(Uuid::from_u128(3)),
        Authority::UserClient(Arc::new(Faulty)),
    );
    let watcher = fixture.coordinate(PeerId(Uuid::from_u128(4)), Authority::Unrestricted);
    watcher.send(&add_tunnel(&3_u128.to_be_bytes()));
    user.send(&announce(&[FOREIGN_ADDRESS]));
    assert_eq!(watcher.told().await.len(), 1);
    user.send(&add_tunnel(AGENT.0.as_bytes()));
    assert_eq!(user.errors().await, ["internal error"]);
    assert_eq!(watcher.told().await, told(Kind::Lost, "lost"));
    agent.send(&announce(&[CODER_ADDRESS]));
    assert_eq!(client.told().await, told(Kind::Node, "node update"));
}

#[tokio::test]
async fn tn_060_a_call_on_a_closed_coordinator_says_so_and_ends() {
    let fixture = Fixture::new();
    let agent = fixture.agent();
    settle().await;
    fixture.services.close().await.unwrap();
    assert_eq!(agent.errors().await, ["coordinator closed"]);
    assert_eq!(fixture.agent().errors().await, ["coordinator closed"]);
}

#[tokio::test]
async fn a_stalled_peer_can_still_send() {
    let fixture = Fixture::new();
    let (agent, client) = fixture.pair().await;
    agent.caller.stall(true);
    client.send(&announce(&[]));
    settle().await;
    agent.send(&announce(&[CODER_ADDRESS]));
    assert_eq!(client.told().await, told(Kind::Node, "node update"));
    assert_eq!(agent.told().await, []);
    agent.caller.stall(false);
    assert_eq!(agent.told().await.len(), 1);
}
