//! What coordination costs: the time in which a node reaches a thousand clients, and the memory of an idle peer.
//!
//! `cargo bench --bench coordinator`; `docs/TESTING.md` has the figures that are to be met.

#![allow(
    clippy::unwrap_used,
    clippy::cast_precision_loss,
    clippy::print_stdout,
    missing_docs,
    reason = "a benchmark prints, and fails by panicking"
)]

#[path = "coordinator/nowhere.rs"]
mod nowhere;

use std::alloc::System;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use cap::Cap;
use drpcd::clock::{Clock, Instant, Timestamp};
use drpcd::coordinator::{Connection, Coordinator, MemoryCoordinator, PeerId, Role, SharedCoordinator};
use drpcd::ids::ReplicaId;
use drpcd::mux::pipe::io::IoPipe;
use drpcd::mux::{Client, Control, Inbound, Outbound, Registry, serve};
use drpcd::proto::tailnet::coordinate_request::{Tunnel, UpdateSelf};
use drpcd::proto::tailnet::{
    CoordinateRequest, CoordinateResponse, DerpMap, Node, TailnetClient, register_tailnet,
};
use drpcd::pubsub::Pubsub;
use drpcd::services::tailnet::derp::DerpMaps;
use drpcd::services::tailnet::{Authority, Identity, TailnetApi, TailnetServices};
use nowhere::Nowhere;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Builder;
use tokio::sync::mpsc;
use uuid::Uuid;

/// Counts what is on the heap.
#[global_allocator]
static HEAP: Cap<System> = Cap::new(System, usize::MAX);

/// Clients with a tunnel to one agent.
const CLIENTS: u128 = 1_000;

/// Updates of the agent that are measured, after as many that are not.
const UPDATES: usize = 100;

/// Time in which an update is to have reached all, p99.
const GOAL: Duration = Duration::from_millis(250);

/// Idle peers, and the bytes that each may cost.
const IDLE_PEERS: u128 = 10_000;
const IDLE_GOAL: usize = 2 * 1024;

const AGENT: PeerId = PeerId(Uuid::from_u128(0x0123_cdef_4567_89ab_cdef_0123_4567_89ab));

/// A node as agents have it: a few hundred bytes.
fn node(home: i32) -> Node {
    let address = "fd7a:115c:a1e0:89ab:cdef:123:4567:89ab/128".to_owned();
    Node {
        id: 7,
        key: vec![7; 34],
        disco: format!("discokey:{}", "ab".repeat(32)),
        preferred_derp: home,
        derp_latency: (1..6).map(|region| (format!("{region}-v4"), 0.025)).collect(),
        addresses: vec![address.clone()],
        allowed_ips: vec![address],
        endpoints: (1..5).map(|host| format!("192.0.2.{host}:41641")).collect(),
        ..Node::default()
    }
}

fn update(home: i32) -> CoordinateRequest {
    CoordinateRequest {
        update_self: Some(UpdateSelf {
            node: Some(node(home)),
        }),
        ..Default::default()
    }
}

fn tunnel_to_agent() -> CoordinateRequest {
    CoordinateRequest {
        add_tunnel: Some(Tunnel {
            id: AGENT.0.as_bytes().to_vec(),
        }),
        ..Default::default()
    }
}

/// Serves Coordinate to peers that dial in, each as the identity that comes next.
struct Server {
    services: Arc<TailnetServices>,
    registry: Arc<Registry<Arc<TailnetApi>>>,
    listener: TcpListener,
}

type Call = (Client, Outbound<CoordinateRequest>, Inbound<CoordinateResponse>);

impl Server {
    async fn new() -> Self {
        let coordinator = MemoryCoordinator::new(Clock::system());
        let maps = DerpMaps::fixed(DerpMap::default());
        let mut registry = Registry::new();
        register_tailnet(&mut registry, |api: &Arc<TailnetApi>| Arc::clone(api));
        Self {
            services: Arc::new(TailnetServices::new(Box::new(coordinator), maps)),
            registry: Arc::new(registry),
            listener: TcpListener::bind("127.0.0.1:0").await.unwrap(),
        }
    }

    /// A Coordinate call over a socket.
    async fn call(&self, id: PeerId, authority: Authority) -> Call {
        let address = self.listener.local_addr().unwrap();
        let (dialled, accepted) = tokio::join!(TcpStream::connect(address), self.listener.accept());
        let (near, (far, _)) = (dialled.unwrap(), accepted.unwrap());
        near.set_nodelay(true).unwrap();
        far.set_nodelay(true).unwrap();
        let identity = Identity {
            id,
            name: "ada-dev-main".into(),
            authority,
        };
        let api = Arc::new(TailnetApi::new(Arc::clone(&self.services), Some(identity)));
        let (registry, clock) = (Arc::clone(&self.registry), Clock::system());
        tokio::spawn(async move {
            let control = Control::new(&clock);
            serve(IoPipe::new(far), registry, api, control, clock).await
        });
        let (client, driver) = Client::new(IoPipe::new(near));
        tokio::spawn(driver);
        let (requests, replies) = TailnetClient::new(client.clone()).coordinate().await.unwrap();
        (client, requests, replies)
    }
}

/// Reads until the call ends; tells of every home of the agent that arrives.
async fn read(mut call: Call, arrived: mpsc::Sender<(i32, Instant)>) {
    while let Ok(Some(response)) = call.2.next().await {
        for update in response.peer_updates {
            if let Some(node) = update.node {
                let _ = arrived.send((node.preferred_derp, Instant::now())).await;
            }
        }
    }
}

async fn fan_out() {
    let server = Server::new().await;
    let mut agent = server.call(AGENT, Authority::Agent(AGENT)).await;
    agent.1.send(&update(1)).await.unwrap();
    let (sender, mut arrivals) = mpsc::channel(CLIENTS as usize);
    for number in 0..CLIENTS {
        let id = PeerId(Uuid::from_u128(number));
        let mut client = server.call(id, Authority::SingleAgentClient(AGENT)).await;
        client.1.send(&tunnel_to_agent()).await.unwrap();
        tokio::spawn(read(client, sender.clone()));
        assert_eq!(arrivals.recv().await.unwrap().0, 1);
    }

    let mut each = Vec::new();
    let mut last = Vec::new();
    for round in 0..2 * UPDATES {
        let home = 2 + i32::try_from(round).unwrap();
        let start = Instant::now();
        agent.1.send(&update(home)).await.unwrap();
        let mut latest = Duration::ZERO;
        for _ in 0..CLIENTS {
            let (arrived, at) = arrivals.recv().await.unwrap();
            assert_eq!(arrived, home);
            latest = latest.max(at - start);
            if round >= UPDATES {
                each.push(at - start);
            }
        }
        if round >= UPDATES {
            last.push(latest);
        }
    }
    each.sort();
    last.sort();
    let percentile = |sorted: &[Duration], percent: usize| sorted[(sorted.len() - 1) * percent / 100];
    println!("one node to {CLIENTS} clients over loopback sockets, {UPDATES} updates:");
    println!(
        "  reaches a client: p50 {:?}, p99 {:?}",
        percentile(&each, 50),
        percentile(&each, 99)
    );
    let p99 = percentile(&last, 99);
    println!("  reaches all:      p50 {:?}, p99 {p99:?}", percentile(&last, 50));
    println!(
        "  p99 of all is {:.2} of the goal of {GOAL:?}",
        p99.as_secs_f64() / GOAL.as_secs_f64()
    );
}

/// Connects idle peers, which have read what there is and wait; `with` says what each asked before. What they asked has
/// come of it when `settle` returns.
fn idle(what: &str, coordinator: &dyn Coordinator, settle: impl Fn(), with: impl Fn(&dyn Connection)) {
    let agent = coordinator.connect(AGENT, "ada-dev-main", Role::Agent);
    agent.handle(update(1)).unwrap();
    settle();
    let mut peers = Vec::with_capacity(IDLE_PEERS as usize);
    let before = HEAP.allocated();
    for number in 0..IDLE_PEERS {
        let peer = coordinator.connect(PeerId(Uuid::from_u128(number)), "ada-dev-main", Role::Client);
        with(&*peer);
        peers.push(peer);
    }
    settle();
    let mut cx = Context::from_waker(Waker::noop());
    for peer in peers.iter().chain([&agent]) {
        while matches!(peer.poll_response(&mut cx), Poll::Ready(Some(_))) {}
    }
    settle();
    let each = (HEAP.allocated() - before) / peers.len();
    println!(
        "{IDLE_PEERS} idle peers {what}: {each} bytes each, {:.2} of the goal of {IDLE_GOAL}",
        each as f64 / IDLE_GOAL as f64
    );
}

/// Idle peers of the coordinator in memory.
fn idle_alone(what: &str, with: impl Fn(&dyn Connection)) {
    let coordinator = MemoryCoordinator::new(Clock::driven(Timestamp::UNIX_EPOCH));
    idle(what, &coordinator, || {}, with);
}

/// Longer than the coordinator that replicas share takes to write, to read, and to forget what it was about.
const SETTLED: Duration = Duration::from_mins(2);

/// Idle peers of the coordinator that replicas share, all of them at one of these.
fn idle_shared(what: &str, with: impl Fn(&dyn Connection)) {
    let mut runtime = Builder::new_current_thread();
    let runtime = runtime.enable_time().start_paused(true).build().unwrap();
    let _entered = runtime.enter();
    let (replica, clock) = (ReplicaId::random(), Clock::driven(Timestamp::UNIX_EPOCH));
    let coordinator = SharedCoordinator::start(Arc::new(Nowhere), Pubsub::in_process(), clock, replica);
    let settle = || runtime.block_on(tokio::time::sleep(SETTLED));
    idle(&format!("shared, {what}"), &coordinator, settle, with);
}

fn main() {
    let node = |peer: &dyn Connection| peer.handle(update(2)).unwrap();
    let node_and_tunnel = |peer: &dyn Connection| {
        node(peer);
        peer.handle(tunnel_to_agent()).unwrap();
    };
    idle_alone("without a node", |_| {});
    idle_alone("with a node", node);
    idle_alone("with a node and a tunnel to one agent", node_and_tunnel);
    idle_shared("without a node", |_| {});
    idle_shared("with a node", node);
    idle_shared("with a node and a tunnel to one agent", node_and_tunnel);
    let runtime = Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(fan_out());
}
