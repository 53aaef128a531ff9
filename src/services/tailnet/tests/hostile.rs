//! Peers that mean harm: refused or bounded, and nobody else notices.

use uuid::Uuid;

use super::coordinate::{Call, Fixture, told};
use super::{AGENT, CODER_ADDRESS, FOREIGN_ADDRESS, TAILSCALE_ADDRESS, add_tunnel, announce};
use crate::coordinator::{Coordinator as _, PeerId};
use crate::proto::tailnet::coordinate_request::{ReadyForHandshake, Tunnel};
use crate::proto::tailnet::coordinate_response::peer_update::Kind;
use crate::proto::tailnet::{CoordinateRequest, Node};
use crate::services::tailnet::Authority;

const VILLAIN: PeerId = PeerId(Uuid::from_u128(0xbad));

/// An honest agent with a client, and a villain with authority over itself.
async fn scene() -> (Fixture, Call, Call, Call) {
    let fixture = Fixture::new();
    let (agent, client) = fixture.pair().await;
    let villain = fixture.coordinate(VILLAIN, Authority::Agent(VILLAIN));
    (fixture, agent, client, villain)
}

/// What the honest two say reaches each other, and nothing else does.
async fn unharmed(agent: &Call, client: &Call) {
    agent.send(&announce(&[CODER_ADDRESS]));
    assert_eq!(client.told().await, told(Kind::Node, "node update"));
    client.send(&announce(&[FOREIGN_ADDRESS]));
    assert_eq!(agent.told().await, told(Kind::Node, "node update"));
}

fn ready(ids: impl Iterator<Item = u128>) -> CoordinateRequest {
    let ready = ids.map(|id| ReadyForHandshake {
        id: id.to_be_bytes().to_vec(),
    });
    CoordinateRequest {
        ready_for_handshake: ready.collect(),
        ..Default::default()
    }
}

#[tokio::test]
async fn an_agent_cannot_take_the_addresses_of_another() {
    for claim in [
        |node: &mut Node| node.addresses.push(TAILSCALE_ADDRESS.to_owned()),
        |node: &mut Node| node.allowed_ips.push(TAILSCALE_ADDRESS.to_owned()),
    ] {
        let (fixture, agent, client, villain) = scene().await;
        let mut request = announce(&[]);
        claim(request.update_self.as_mut().unwrap().node.as_mut().unwrap());
        villain.send(&request);
        let text = "authorization: invalid node address, got fd7a:115c:a1e0:89ab:cdef:123:4567:89ab";
        assert_eq!(villain.errors().await, [text]);
        assert!(fixture.coordinator.node(VILLAIN).await.unwrap().is_none());
        unharmed(&agent, &client).await;
    }
}

#[tokio::test]
async fn a_node_of_a_mebibyte_ends_the_stream_of_who_sends_it() {
    let (fixture, agent, client, villain) = scene().await;
    let mut request = announce(&[]);
    let node = request.update_self.as_mut().unwrap().node.as_mut().unwrap();
    node.endpoints = vec!["x".repeat(1024 * 1024)];
    villain.send(&request);
    let text = "node has 1048580 bytes, at most 65536 are allowed";
    assert_eq!(villain.errors().await, [text]);
    assert!(fixture.coordinator.node(VILLAIN).await.unwrap().is_none());
    unharmed(&agent, &client).await;
}

#[tokio::test]
async fn a_hundred_thousand_tunnels_are_as_many_as_one_may_have() {
    let (fixture, agent, client, _) = scene().await;
    let greedy = fixture.coordinate(PeerId(Uuid::from_u128(0xface)), Authority::Unrestricted);
    for number in 0..100_000_u128 {
        greedy.send(&add_tunnel(&number.to_be_bytes()));
    }
    while greedy.caller.has_requests() {
        tokio::task::yield_now().await;
    }
    assert_eq!(
        fixture.coordinator.status().tunnels,
        16_384 + 1,
        "the client has one too"
    );
    let replies = greedy.replies().await;
    assert!(
        replies
            .iter()
            .all(|reply| reply.error == "more than 16384 tunnels")
    );
    unharmed(&agent, &client).await;
}

#[tokio::test]
async fn tunnels_are_added_up_to_the_limit() {
    for (wanted, refused) in [(16_383, 0), (16_384, 0), (16_385, 1)] {
        let (fixture, ..) = scene().await;
        let greedy = fixture.coordinate(PeerId(Uuid::from_u128(0xface)), Authority::Unrestricted);
        for number in 0..wanted {
            greedy.send(&add_tunnel(&u128::to_be_bytes(number)));
        }
        while greedy.caller.has_requests() {
            tokio::task::yield_now().await;
        }
        let errors = greedy
            .replies()
            .await
            .iter()
            .filter(|reply| !reply.error.is_empty())
            .count();
        assert_eq!(errors, refused, "{wanted}");
    }
}

#[tokio::test]
async fn readiness_for_strangers_reaches_nobody() {
    let (_fixture, agent, client, villain) = scene().await;
    let strangers = [AGENT.0.as_u128(), 2].into_iter().chain(1_000..11_000);
    villain.send(&ready(strangers));
    assert_eq!((agent.told().await, client.told().await), (vec![], vec![]));
    let errors: Vec<_> = villain
        .replies()
        .await
        .into_iter()
        .map(|reply| reply.error)
        .collect();
    assert!((1..=16).contains(&errors.len()), "{}", errors.len());
    assert!(
        errors
            .iter()
            .all(|error| error.starts_with("ready for handshake error: you do not share"))
    );
    unharmed(&agent, &client).await;
}

#[tokio::test]
async fn nobody_parts_two_others() {
    let (_fixture, agent, client, villain) = scene().await;
    for other in [AGENT.0, Uuid::from_u128(2)] {
        villain.send(&CoordinateRequest {
            remove_tunnel: Some(Tunnel {
                id: other.as_bytes().to_vec(),
            }),
            ..Default::default()
        });
    }
    assert_eq!((agent.told().await, client.told().await), (vec![], vec![]));
    unharmed(&agent, &client).await;
}

#[tokio::test]
async fn a_flood_of_updates_costs_a_reader_one() {
    let (_fixture, agent, client, _) = scene().await;
    client.caller.stall(true);
    for home in 0..10_000 {
        let mut request = announce(&[TAILSCALE_ADDRESS]);
        request
            .update_self
            .as_mut()
            .unwrap()
            .node
            .as_mut()
            .unwrap()
            .preferred_derp = home;
        agent.send(&request);
    }
    assert_eq!(agent.told().await, []);
    while agent.caller.has_requests() {
        tokio::task::yield_now().await;
    }
    client.caller.stall(false);
    let replies = client.replies().await;
    let updates = replies.into_iter().flat_map(|reply| reply.peer_updates);
    let homes: Vec<_> = updates
        .map(|update| update.node.unwrap().preferred_derp)
        .collect();
    assert!(
        homes.len() <= 2,
        "the one that was on its way, and the last: {homes:?}"
    );
    assert_eq!(homes.last(), Some(&9_999));
    unharmed(&agent, &client).await;
}
