//! The suite that every coordinator passes: who hears of what, and when.

use std::collections::HashMap;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use uuid::Uuid;

use super::{Connection, CoordinateError, Coordinator, MemoryCoordinator, PeerId};
use crate::proto::tailnet::coordinate_request::{Disconnect, ReadyForHandshake, Tunnel, UpdateSelf};
use crate::proto::tailnet::coordinate_response::peer_update::Kind;
use crate::proto::tailnet::{CoordinateRequest, CoordinateResponse, Node};

/// A connected peer, and all that it was told so far.
struct Peer {
    id: PeerId,
    connection: Arc<dyn Connection>,
    responses: Vec<CoordinateResponse>,
    ended: bool,
}

/// What a peer was told: of whom, what, and the home region of the node.
type Told = (PeerId, Kind, Option<i32>);

impl Peer {
    fn connect(coordinator: &dyn Coordinator, number: u128) -> Self {
        let id = PeerId(Uuid::from_u128(number));
        let connection = coordinator.connect(id, "test");
        Self {
            id,
            connection,
            responses: Vec::new(),
            ended: false,
        }
    }

    fn request(&self, request: CoordinateRequest) {
        self.connection.handle(request).unwrap();
    }

    /// Announces a node that is told from others by its home region.
    fn update(&self, home: i32) {
        self.request(update(home));
    }

    fn tunnel(&self, to: PeerId) {
        self.request(CoordinateRequest {
            add_tunnel: Some(tunnel(to)),
            ..Default::default()
        });
    }

    fn ready(&self, for_whom: &[PeerId]) {
        let ready = for_whom.iter().map(|id| ReadyForHandshake {
            id: id.0.as_bytes().to_vec(),
        });
        self.request(CoordinateRequest {
            ready_for_handshake: ready.collect(),
            ..Default::default()
        });
    }

    fn disconnect(&self) {
        self.request(CoordinateRequest {
            disconnect: Some(Disconnect {}),
            ..Default::default()
        });
    }

    /// Reads all that there is.
    fn read(&mut self) {
        let mut cx = Context::from_waker(Waker::noop());
        while !self.ended {
            match self.connection.poll_response(&mut cx) {
                Poll::Ready(Some(response)) => self.responses.push(response),
                Poll::Ready(None) => self.ended = true,
                Poll::Pending => break,
            }
        }
    }

    /// What it was told since it was asked last.
    fn told(&mut self) -> Vec<Told> {
        self.read();
        let updates = self
            .responses
            .drain(..)
            .flat_map(|response| response.peer_updates);
        updates
            .map(|update| {
                let id = PeerId::try_from(&update.id[..]).unwrap();
                (id, update.kind(), update.node.map(|node| node.preferred_derp))
            })
            .collect()
    }

    fn errors(&mut self) -> Vec<String> {
        self.read();
        self.responses
            .drain(..)
            .map(|response| response.error)
            .filter(|error| !error.is_empty())
            .collect()
    }
}

fn node(home: i32) -> Node {
    Node {
        preferred_derp: home,
        ..Node::default()
    }
}

fn update(home: i32) -> CoordinateRequest {
    let update_self = Some(UpdateSelf {
        node: Some(node(home)),
    });
    CoordinateRequest {
        update_self,
        ..Default::default()
    }
}

fn tunnel(to: PeerId) -> Tunnel {
    Tunnel {
        id: to.0.as_bytes().to_vec(),
    }
}

/// An agent and a client with a tunnel between them, both with a node, both up to date.
fn pair(coordinator: &dyn Coordinator) -> (Peer, Peer) {
    let (mut agent, mut client) = (Peer::connect(coordinator, 1), Peer::connect(coordinator, 2));
    agent.update(10);
    client.update(20);
    client.tunnel(agent.id);
    assert_eq!(agent.told(), [(client.id, Kind::Node, Some(20))]);
    assert_eq!(client.told(), [(agent.id, Kind::Node, Some(10))]);
    (agent, client)
}

#[test]
fn tn_036_and_037_a_node_is_kept_without_any_tunnel() {
    let coordinator = MemoryCoordinator::new();
    let mut peer = Peer::connect(&coordinator, 1);
    assert!(coordinator.node(peer.id).is_none());
    peer.update(5);
    assert_eq!(coordinator.node(peer.id).unwrap().preferred_derp, 5);
    assert_eq!(peer.told(), []);
}

#[test]
fn tn_038_and_039_tunnel_peers_hear_of_each_other() {
    let coordinator = MemoryCoordinator::new();
    let (mut agent, mut client) = pair(&coordinator);
    client.update(21);
    assert_eq!(agent.told(), [(client.id, Kind::Node, Some(21))]);
    agent.update(11);
    assert_eq!(client.told(), [(agent.id, Kind::Node, Some(11))]);
}

#[test]
fn tn_040_a_returning_agent_gets_its_clients_at_once() {
    let coordinator = MemoryCoordinator::new();
    let (agent, mut client) = pair(&coordinator);
    drop(agent);
    assert_eq!(client.told(), [(PeerId(Uuid::from_u128(1)), Kind::Lost, None)]);
    let mut agent = Peer::connect(&coordinator, 1);
    assert_eq!(agent.told(), [(client.id, Kind::Node, Some(20))]);
    agent.update(12);
    assert_eq!(client.told(), [(agent.id, Kind::Node, Some(12))]);
}

#[test]
fn tn_041_of_a_burst_the_last_update_counts() {
    let coordinator = MemoryCoordinator::new();
    let (agent, mut client) = pair(&coordinator);
    (100..123).for_each(|home| agent.update(home));
    assert_eq!(client.told().last(), Some(&(agent.id, Kind::Node, Some(122))));
}

#[test]
fn tn_042_and_043_a_second_connection_replaces_the_first_and_nobody_notices() {
    let coordinator = MemoryCoordinator::new();
    let (mut old, mut client) = pair(&coordinator);
    let mut new = Peer::connect(&coordinator, 1);
    assert_eq!(old.errors(), ["peer ID overwritten by new connection"]);
    assert!(old.ended);
    drop(old);
    assert_eq!(new.told(), [(client.id, Kind::Node, Some(20))]);
    assert_eq!(client.told(), [], "neither LOST nor DISCONNECTED");
    new.update(11);
    assert_eq!(client.told(), [(new.id, Kind::Node, Some(11))]);
}

#[test]
fn tn_044_tunnels_in_both_directions_tell_once() {
    let coordinator = MemoryCoordinator::new();
    let (mut agent, mut client) = pair(&coordinator);
    agent.tunnel(client.id);
    assert_eq!((agent.told(), client.told()), (vec![], vec![]));
}

#[test]
fn tn_045_goodbye_is_disconnected_and_ends_without_an_error() {
    let coordinator = MemoryCoordinator::new();
    let (mut agent, mut client) = pair(&coordinator);
    client.disconnect();
    assert_eq!(agent.told(), [(client.id, Kind::Disconnected, None)]);
    assert_eq!(client.errors(), [""; 0]);
    assert!(client.ended);
    drop((agent, client));
    assert!(coordinator.is_empty());
}

#[test]
fn tn_046_and_047_a_cut_is_lost_for_those_who_knew_the_peer() {
    let coordinator = MemoryCoordinator::new();
    let (mut agent, client) = pair(&coordinator);
    let nodeless = Peer::connect(&coordinator, 3);
    nodeless.tunnel(agent.id);
    let id = client.id;
    drop((client, nodeless));
    assert_eq!(agent.told(), [(id, Kind::Lost, None)]);
}

#[test]
fn tn_048_an_unchanged_node_is_no_news() {
    let coordinator = MemoryCoordinator::new();
    let (agent, mut client) = pair(&coordinator);
    agent.update(10);
    let as_of = Some(prost_types::Timestamp { seconds: 7, nanos: 0 });
    let update_self = Some(UpdateSelf {
        node: Some(Node { as_of, ..node(10) }),
    });
    agent.request(CoordinateRequest {
        update_self,
        ..Default::default()
    });
    assert_eq!(client.told(), []);
}

#[test]
fn tn_049_removing_a_tunnel_parts_both_ends() {
    let coordinator = MemoryCoordinator::new();
    let (mut agent, mut client) = pair(&coordinator);
    client.request(CoordinateRequest {
        remove_tunnel: Some(tunnel(agent.id)),
        ..Default::default()
    });
    assert_eq!(agent.told(), [(client.id, Kind::Disconnected, None)]);
    assert_eq!(client.told(), [(agent.id, Kind::Disconnected, None)]);
    agent.update(11);
    client.update(21);
    assert_eq!((agent.told(), client.told()), (vec![], vec![]));
}

#[test]
fn tn_050_a_tunnel_may_come_before_its_other_end() {
    let coordinator = MemoryCoordinator::new();
    let mut client = Peer::connect(&coordinator, 2);
    client.update(20);
    client.tunnel(PeerId(Uuid::from_u128(1)));
    let mut agent = Peer::connect(&coordinator, 1);
    agent.update(10);
    assert_eq!(agent.told(), [(client.id, Kind::Node, Some(20))]);
    assert_eq!(client.told(), [(agent.id, Kind::Node, Some(10))]);
}

#[test]
fn tn_051_to_053_readiness_reaches_tunnel_peers_only() {
    let coordinator = MemoryCoordinator::new();
    let (mut agent, mut client) = pair(&coordinator);
    let stranger = PeerId(Uuid::from_u128(9));
    agent.ready(&[stranger, client.id]);
    assert_eq!(client.told(), [(agent.id, Kind::ReadyForHandshake, None)]);
    let expected = format!("ready for handshake error: you do not share a tunnel with \"{stranger}\"");
    assert_eq!(agent.errors(), [expected]);
    assert!(!agent.ended, "the stream stays open");
}

#[test]
fn tn_054_goodbye_and_readiness_in_one_request() {
    let coordinator = MemoryCoordinator::new();
    let (mut agent, mut client) = pair(&coordinator);
    let ready = vec![ReadyForHandshake {
        id: agent.id.0.as_bytes().to_vec(),
    }];
    let disconnect = Some(Disconnect {});
    client.request(CoordinateRequest {
        disconnect,
        ready_for_handshake: ready,
        ..Default::default()
    });
    assert_eq!(agent.told(), [(client.id, Kind::Disconnected, None)]);
    assert_eq!(client.errors(), [""; 0]);
    assert!(client.ended);
}

#[test]
fn tn_035_and_055_a_request_with_a_bad_id_changes_nothing() {
    let coordinator = MemoryCoordinator::new();
    let (agent, mut client) = pair(&coordinator);
    let bad = Tunnel { id: vec![0; 15] };
    let requests = [
        CoordinateRequest {
            remove_tunnel: Some(bad),
            ..update(99)
        },
        CoordinateRequest {
            ready_for_handshake: vec![ReadyForHandshake { id: vec![0; 15] }],
            ..update(99)
        },
    ];
    for request in requests {
        let error = agent.connection.handle(request).unwrap_err();
        assert_eq!(
            error.to_string(),
            "unable to convert bytes to UUID: invalid UUID (got 15 bytes)"
        );
    }
    assert_eq!(client.told(), []);
}

#[test]
fn tn_057_a_reader_that_stalls_finds_the_latest_state() {
    let coordinator = MemoryCoordinator::new();
    let (agent, mut client) = pair(&coordinator);
    let mut other = Peer::connect(&coordinator, 3);
    other.tunnel(agent.id);
    for home in 1_000..2_000 {
        agent.update(home);
        assert_eq!(other.told(), [(agent.id, Kind::Node, Some(home))]);
    }
    assert_eq!(client.told(), [(agent.id, Kind::Node, Some(1_999))]);
}

#[test]
fn tn_059_readiness_for_a_stalled_client_costs_the_agent_nothing() {
    let coordinator = MemoryCoordinator::new();
    let (mut agent, client) = pair(&coordinator);
    (0..10_000).for_each(|_| agent.ready(&[client.id]));
    agent.update(11);
    assert_eq!(agent.errors(), [""; 0]);
    assert!(!agent.ended);
}

#[test]
fn tn_060_closing_ends_every_stream_and_those_that_come_later() {
    let coordinator = MemoryCoordinator::new();
    let (mut agent, mut client) = pair(&coordinator);
    coordinator.close();
    coordinator.close();
    let mut late = Peer::connect(&coordinator, 3);
    for peer in [&mut agent, &mut client, &mut late] {
        assert_eq!(peer.errors(), ["coordinator closed"]);
        assert!(peer.ended);
    }
    assert_eq!(late.connection.handle(update(1)), Err(CoordinateError::Closed));
    drop((agent, client, late));
    assert!(coordinator.is_empty());
}

#[test]
fn tn_062_many_peers_come_in_several_responses() {
    let coordinator = MemoryCoordinator::new();
    let mut client = Peer::connect(&coordinator, 1);
    let agents: Vec<_> = (10..3_010)
        .map(|number| Peer::connect(&coordinator, number))
        .collect();
    for agent in &agents {
        agent.update(1);
        client.tunnel(agent.id);
    }
    client.read();
    assert!(client.responses.len() >= 3);
    assert!(
        client
            .responses
            .iter()
            .all(|response| response.peer_updates.len() <= 1_024)
    );

    let large = Node {
        endpoints: vec!["x".repeat(60_000)],
        ..node(2)
    };
    for agent in &agents[..100] {
        let update_self = Some(UpdateSelf {
            node: Some(large.clone()),
        });
        agent.request(CoordinateRequest {
            update_self,
            ..Default::default()
        });
    }
    client.responses.clear();
    client.read();
    let sizes = client.responses.iter().map(prost::Message::encoded_len);
    assert!(sizes.max().unwrap() < 4 * 1024 * 1024);
    assert_eq!(client.told().len(), 100);
}

#[test]
fn a_peer_has_a_bounded_number_of_tunnels() {
    let coordinator = MemoryCoordinator::new();
    let mut client = Peer::connect(&coordinator, 1);
    for number in 0..16 * 1_024 + 3 {
        client.tunnel(PeerId(Uuid::from_u128(1_000 + number)));
    }
    assert_eq!(client.errors(), ["more than 16384 tunnels"; 3]);
}

#[tokio::test]
async fn a_waiting_peer_is_woken() {
    let coordinator = MemoryCoordinator::new();
    let (agent, client) = pair(&coordinator);
    let connection = Arc::clone(&client.connection);
    let waiting = tokio::spawn(async move { poll_fn(|cx| connection.poll_response(cx)).await });
    tokio::task::yield_now().await;
    agent.update(77);
    let response = waiting.await.unwrap().unwrap();
    assert_eq!(response.peer_updates[0].node.as_ref().unwrap().preferred_derp, 77);
}

/// Thousands of random joins, updates, tunnels and ends; afterwards everybody's view is what the tunnels say.
#[test]
fn random_histories_end_in_the_state_that_the_tunnels_say() {
    for seed in 0..40 {
        let mut random = SmallRng::seed_from_u64(seed);
        let coordinator = MemoryCoordinator::new();
        let mut peers: HashMap<u128, Peer> = HashMap::new();
        let mut views: HashMap<u128, HashMap<PeerId, i32>> = HashMap::new();
        let mut homes: HashMap<u128, i32> = HashMap::new();
        let mut tunnels: Vec<(u128, u128)> = Vec::new();
        for step in 1..1_000 {
            let (one, other) = (random.random_range(1..9_u128), random.random_range(1..9_u128));
            match random.random_range(0..10) {
                0 => {
                    // Announces itself at once, as agents do: until then the others keep what they knew.
                    let peer = Peer::connect(&coordinator, one);
                    peer.update(step);
                    homes.insert(one, step);
                    peers.insert(one, peer);
                    views.insert(one, HashMap::new());
                }
                1 | 2 if one != other => {
                    if let Some(peer) = peers.get(&one) {
                        peer.tunnel(PeerId(Uuid::from_u128(other)));
                        tunnels.push((one, other));
                    }
                }
                3 => {
                    if let Some(peer) = peers.remove(&one) {
                        if random.random() {
                            peer.disconnect();
                        }
                        homes.remove(&one);
                        tunnels.retain(|(from, _)| *from != one);
                    }
                }
                4 => {
                    // Reads in the middle, some of the time.
                    if let Some(peer) = peers.get_mut(&one) {
                        let told = peer.told();
                        look(views.get_mut(&one).unwrap(), told);
                    }
                }
                _ => {
                    if let Some(peer) = peers.get(&one) {
                        peer.update(step);
                        homes.insert(one, step);
                    }
                }
            }
        }
        for (&one, peer) in &mut peers {
            let view = views.get_mut(&one).unwrap();
            let told = peer.told();
            look(view, told);
            let others = homes
                .iter()
                .filter(|(other, _)| tunnels.contains(&(one, **other)) || tunnels.contains(&(**other, one)));
            let expected: HashMap<_, _> = others
                .map(|(&other, &home)| (PeerId(Uuid::from_u128(other)), home))
                .collect();
            assert_eq!(*view, expected, "seed {seed}, peer {one}");
        }
        peers.clear();
        assert!(coordinator.is_empty(), "seed {seed}");
    }
}

fn look(view: &mut HashMap<PeerId, i32>, told: Vec<Told>) {
    for (id, kind, home) in told {
        match kind {
            Kind::Node => _ = view.insert(id, home.unwrap()),
            _ => _ = view.remove(&id).expect("only what was told is taken back"),
        }
    }
}
