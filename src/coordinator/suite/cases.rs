//! The numbered cases of the coordinator, and bounds that hostile peers meet.

use std::future::poll_fn;
use std::time::Duration;

use super::Harness;
use super::peer::{Peer, id, node, pair, ready, tunnel, update};
use crate::coordinator::CoordinateError;
use crate::proto::tailnet::coordinate_request::{Disconnect, ReadyForHandshake, Tunnel};
use crate::proto::tailnet::coordinate_response::peer_update::Kind;
use crate::proto::tailnet::{CoordinateRequest, Node};

/// More than the 512 responses that the original lets a slow reader fall behind.
const MANY: i32 = 600;

const NO_ERROR: [&str; 0] = [];

pub(crate) async fn tn_036_and_037_a_node_is_kept_without_any_tunnel<H: Harness>(h: &H) {
    let mut peer = Peer::connect(h, 1);
    for coordinator in h.coordinators() {
        assert_eq!(coordinator.node(peer.id).await, Ok(None));
    }
    peer.update(5);
    h.settle().await;
    for coordinator in h.coordinators() {
        assert_eq!(coordinator.node(peer.id).await, Ok(Some(node(5))));
    }
    assert_eq!(peer.told().await, []);
}

pub(crate) async fn tn_038_and_039_tunnel_peers_hear_of_each_other<H: Harness>(h: &H) {
    let (mut agent, mut client) = pair(h).await;
    client.update(21);
    assert_eq!(agent.told().await, [(client.id, Kind::Node, Some(21))]);
    agent.update(11);
    assert_eq!(client.told().await, [(agent.id, Kind::Node, Some(11))]);
}

pub(crate) async fn tn_040_a_returning_agent_gets_its_clients_at_once<H: Harness>(h: &H) {
    let (agent, mut client) = pair(h).await;
    drop(agent);
    assert_eq!(client.told().await, [(id(1), Kind::Lost, None)]);
    let mut agent = Peer::connect(h, 1);
    assert_eq!(agent.told().await, [(client.id, Kind::Node, Some(20))]);
    agent.update(12);
    assert_eq!(client.told().await, [(agent.id, Kind::Node, Some(12))]);
}

pub(crate) async fn tn_041_of_a_burst_the_last_update_counts<H: Harness>(h: &H) {
    let (agent, mut client) = pair(h).await;
    (100..123).for_each(|home| agent.update(home));
    let told = client.told().await;
    assert_eq!(told.last(), Some(&(agent.id, Kind::Node, Some(122))));
    assert!(told.is_sorted_by_key(|(.., home)| *home), "{told:?}");
}

pub(crate) async fn tn_042_and_043_a_second_connection_replaces_the_first_and_nobody_notices<H: Harness>(
    h: &H,
) {
    let (mut old, mut client) = pair(h).await;
    let mut new = Peer::connect(h, 1);
    assert_eq!(old.errors().await, ["peer ID overwritten by new connection"]);
    assert!(old.ended);
    old.update(66);
    old.disconnect();
    drop(old);
    assert_eq!(new.told().await, [(client.id, Kind::Node, Some(20))]);
    assert_eq!(
        client.told().await,
        [],
        "neither LOST nor DISCONNECTED, nor what the old one still says"
    );
    new.update(11);
    assert_eq!(client.told().await, [(new.id, Kind::Node, Some(11))]);
}

pub(crate) async fn tn_044_tunnels_in_both_directions_tell_once<H: Harness>(h: &H) {
    let (mut agent, mut client) = pair(h).await;
    agent.tunnel(client.id);
    assert_eq!((agent.told().await, client.told().await), (vec![], vec![]));
    agent.update(11);
    client.update(21);
    assert_eq!(agent.told().await, [(client.id, Kind::Node, Some(21))]);
    assert_eq!(client.told().await, [(agent.id, Kind::Node, Some(11))]);
}

pub(crate) async fn tn_045_goodbye_is_disconnected_and_ends_without_an_error<H: Harness>(h: &H) {
    let (mut agent, mut client) = pair(h).await;
    client.disconnect();
    assert_eq!(agent.told().await, [(client.id, Kind::Disconnected, None)]);
    assert_eq!(client.errors().await, NO_ERROR);
    assert!(client.ended);
    drop((agent, client));
    h.settle().await;
    h.assert_empty();
}

pub(crate) async fn tn_046_a_cut_is_lost<H: Harness>(h: &H) {
    let (mut agent, client) = pair(h).await;
    let id = client.id;
    drop(client);
    assert_eq!(agent.told().await, [(id, Kind::Lost, None)]);
}

pub(crate) async fn tn_047_who_was_never_told_of_a_peer_is_not_told_of_its_loss<H: Harness>(h: &H) {
    let mut agent = Peer::connect(h, 1);
    let nodeless = Peer::connect(h, 3);
    nodeless.tunnel(agent.id);
    drop(nodeless);
    assert_eq!(agent.told().await, []);
}

pub(crate) async fn tn_048_an_unchanged_node_is_no_news<H: Harness>(h: &H) {
    let (agent, mut client) = pair(h).await;
    agent.update(10);
    let as_of = Some(prost_types::Timestamp { seconds: 7, nanos: 0 });
    agent.request(update(Node { as_of, ..node(10) }));
    assert_eq!(client.told().await, []);
}

pub(crate) async fn tn_049_removing_a_tunnel_parts_both_ends<H: Harness>(h: &H) {
    let (mut agent, mut client) = pair(h).await;
    client.remove_tunnel(agent.id);
    assert_eq!(agent.told().await, [(client.id, Kind::Disconnected, None)]);
    assert_eq!(client.told().await, [(agent.id, Kind::Disconnected, None)]);
    agent.update(11);
    client.update(21);
    assert_eq!((agent.told().await, client.told().await), (vec![], vec![]));
}

pub(crate) async fn tn_050_a_tunnel_may_come_before_its_other_end<H: Harness>(h: &H) {
    let mut client = Peer::connect(h, 2);
    client.update(20);
    client.tunnel(id(1));
    let mut agent = Peer::connect(h, 1);
    agent.update(10);
    assert_eq!(agent.told().await, [(client.id, Kind::Node, Some(20))]);
    assert_eq!(client.told().await, [(agent.id, Kind::Node, Some(10))]);
}

pub(crate) async fn tn_051_readiness_carries_the_senders_id<H: Harness>(h: &H) {
    let (mut agent, mut client) = pair(h).await;
    agent.ready(&[client.id]);
    assert_eq!(client.told().await, [(agent.id, Kind::ReadyForHandshake, None)]);
    assert_eq!((agent.told().await, agent.errors().await), (vec![], vec![]));
}

pub(crate) async fn tn_052_without_a_tunnel_readiness_is_an_error_and_the_stream_stays_open<H: Harness>(
    h: &H,
) {
    let (mut agent, mut client) = pair(h).await;
    let mut stranger = Peer::connect(h, 9);
    agent.ready(&[stranger.id]);
    let expected =
        "ready for handshake error: you do not share a tunnel with \"00000000-0000-0000-0000-000000000009\"";
    assert_eq!(agent.errors().await, [expected]);
    assert_eq!(stranger.told().await, []);
    assert!(!agent.ended);
    agent.update(11);
    assert_eq!(client.told().await, [(agent.id, Kind::Node, Some(11))]);
}

pub(crate) async fn tn_053_a_stranger_in_the_list_costs_the_others_nothing<H: Harness>(h: &H) {
    let (mut agent, mut client) = pair(h).await;
    agent.ready(&[id(9), client.id]);
    assert_eq!(client.told().await, [(agent.id, Kind::ReadyForHandshake, None)]);
    assert_eq!(agent.errors().await.len(), 1);
}

pub(crate) async fn tn_054_goodbye_and_readiness_in_one_request<H: Harness>(h: &H) {
    let (mut agent, mut client) = pair(h).await;
    client.request(CoordinateRequest {
        disconnect: Some(Disconnect {}),
        ready_for_handshake: ready(&[agent.id, id(9)]),
        ..Default::default()
    });
    assert_eq!(agent.told().await, [(client.id, Kind::Disconnected, None)]);
    assert_eq!(client.errors().await, NO_ERROR);
    assert!(client.ended);
}

pub(crate) async fn tn_035_and_055_a_request_with_a_bad_id_changes_nothing<H: Harness>(h: &H) {
    let (agent, mut client) = pair(h).await;
    let bad = || Tunnel { id: vec![0; 15] };
    let requests = [
        CoordinateRequest {
            add_tunnel: Some(bad()),
            ..update(node(99))
        },
        CoordinateRequest {
            remove_tunnel: Some(bad()),
            ..update(node(99))
        },
        CoordinateRequest {
            ready_for_handshake: vec![ReadyForHandshake { id: vec![0; 15] }],
            ..update(node(99))
        },
    ];
    for request in requests {
        assert_eq!(
            agent.refused(request).to_string(),
            "unable to convert bytes to UUID: invalid UUID (got 15 bytes)"
        );
    }
    assert_eq!(client.told().await, []);
}

pub(crate) async fn tn_057_a_reader_that_stalls_finds_the_latest_state<H: Harness>(h: &H) {
    let (agent, mut client) = pair(h).await;
    let mut other = Peer::connect(h, 3);
    other.tunnel(agent.id);
    assert_eq!(other.told().await, [(agent.id, Kind::Node, Some(10))]);
    for home in 1_000..1_000 + MANY {
        agent.update(home);
        assert_eq!(other.told().await, [(agent.id, Kind::Node, Some(home))]);
    }
    assert_eq!(
        client.told().await.last(),
        Some(&(agent.id, Kind::Node, Some(999 + MANY)))
    );
    assert!(!client.ended, "nobody is evicted");
}

pub(crate) async fn tn_058_two_stalled_peers_that_go_are_cleaned_up_once<H: Harness>(h: &H) {
    let (one, other) = pair(h).await;
    let mut watcher = Peer::connect(h, 3);
    watcher.tunnel(one.id);
    watcher.tunnel(other.id);
    for home in 100..100 + MANY {
        one.update(home);
        other.update(home);
    }
    let last = Some(99 + MANY);
    assert_eq!(
        watcher.told().await,
        [(one.id, Kind::Node, last), (other.id, Kind::Node, last)]
    );
    drop(one);
    assert_eq!(watcher.told().await, [(id(1), Kind::Lost, None)]);
    drop(other);
    assert_eq!(watcher.told().await, [(id(2), Kind::Lost, None)]);
    drop(watcher);
    h.settle().await;
    h.assert_empty();
}

pub(crate) async fn tn_059_readiness_for_a_stalled_client_costs_the_agent_nothing<H: Harness>(h: &H) {
    let (mut agent, mut client) = pair(h).await;
    (0..MANY).for_each(|_| agent.ready(&[client.id]));
    client.update(21);
    assert_eq!(agent.told().await, [(client.id, Kind::Node, Some(21))]);
    assert_eq!(agent.errors().await, NO_ERROR);
    assert!(!agent.ended);
    assert_eq!(
        client.told().await,
        [(agent.id, Kind::ReadyForHandshake, None)],
        "said once is enough"
    );
}

pub(crate) async fn tn_060_closing_tells_of_losses_then_ends_every_stream_and_those_that_come_later<
    H: Harness,
>(
    h: &H,
) {
    let (mut agent, mut client) = pair(h).await;
    for _ in 0..2 {
        for coordinator in h.coordinators() {
            coordinator.close().await.unwrap();
        }
    }
    let mut late = Peer::connect(h, 3);
    if h.coordinators().len() == 1 {
        assert_eq!(agent.told().await, [(client.id, Kind::Lost, None)]);
        assert_eq!(client.told().await, [(agent.id, Kind::Lost, None)]);
    }
    for peer in [&mut agent, &mut client, &mut late] {
        assert_eq!(peer.errors().await, ["coordinator closed"]);
        assert!(peer.ended);
        peer.update(1);
    }
    assert_eq!(h.coordinator_of(3).node(late.id).await, Ok(None));
    drop((agent, client, late));
    h.settle().await;
    h.assert_empty();
}

pub(crate) async fn tn_062_many_peers_come_in_several_responses<H: Harness>(h: &H) {
    let agents: Vec<_> = (10..3_010).map(|number| Peer::connect(h, number)).collect();
    let client = Peer::connect(h, 1);
    for agent in &agents {
        agent.update(1);
        client.tunnel(agent.id);
    }
    // The same client, from anew.
    let mut client = Peer::connect(h, 1);
    client.read().await;
    assert!(client.responses.len() >= 3);
    let counts = client.responses.iter().map(|response| response.updates.len());
    assert!(counts.max().unwrap() <= 1_024);
    assert_eq!(client.told().await.len(), 3_000);

    for agent in &agents[..100] {
        agent.request(update(Node {
            endpoints: vec!["x".repeat(60_000)],
            ..node(2)
        }));
    }
    client.responses.clear();
    client.read().await;
    let bytes = client.responses.iter().map(|response| {
        let nodes = response.updates.iter().filter_map(|update| update.node.as_ref());
        nodes.map(|node| node.as_bytes().len()).sum::<usize>()
    });
    assert!(bytes.max().unwrap() < 2 * 1024 * 1024);
    assert_eq!(client.told().await.len(), 100);
}

pub(crate) async fn a_peer_that_returns_unchanged_is_told_to_who_has_not_read_of_its_end<H: Harness>(h: &H) {
    let (mut agent, mut client) = pair(h).await;
    client.remove_tunnel(agent.id);
    client.tunnel(agent.id);
    for (peer, of) in [(&mut agent, id(2)), (&mut client, id(1))] {
        let told = peer.told().await;
        if told.is_empty() && h.coordinators().len() > 1 {
            // What comes and goes at once does not reach other replicas.
            continue;
        }
        assert!(
            matches!(told.last(), Some((last, Kind::Node, Some(_))) if *last == of),
            "{told:?}"
        );
    }
    // Still known as told: its end is news.
    drop(client);
    assert_eq!(agent.told().await, [(id(2), Kind::Lost, None)]);
}

pub(crate) async fn who_comes_and_goes_unread_leaves_nothing_to_read<H: Harness>(h: &H) {
    let mut agent = Peer::connect(h, 1);
    agent.update(10);
    for number in 100..200 {
        let client = Peer::connect(h, number);
        client.update(1);
        client.tunnel(agent.id);
    }
    agent.read().await;
    let told = agent.told().await;
    let ends = told.iter().filter(|(_, kind, _)| *kind == Kind::Lost).count();
    let nodes = told.iter().filter(|(_, kind, _)| *kind == Kind::Node).count();
    assert_eq!(ends, nodes, "whoever was told of is taken back, nobody else");
    drop(agent);
    h.settle().await;
    h.assert_empty();
}

pub(crate) async fn a_node_over_the_limit_is_refused<H: Harness>(h: &H) {
    let (agent, mut client) = pair(h).await;
    let large = Node {
        disco: "x".repeat(1024 * 1024),
        ..Node::default()
    };
    assert!(matches!(
        agent.refused(update(large)),
        CoordinateError::NodeTooLarge(_)
    ));
    assert_eq!(client.told().await, []);
}

pub(crate) async fn a_peer_has_a_bounded_number_of_tunnels<H: Harness>(h: &H) {
    let mut client = Peer::connect(h, 1);
    for number in 0..16 * 1_024 + 3 {
        client.tunnel(id(1_000 + number));
    }
    assert_eq!(client.errors().await, ["more than 16384 tunnels"; 3]);
    client.tunnel(id(1_000));
    assert_eq!(
        client.errors().await,
        NO_ERROR,
        "one that is there is no further one"
    );
}

pub(crate) async fn errors_to_a_stalled_peer_are_bounded<H: Harness>(h: &H) {
    let mut agent = Peer::connect(h, 1);
    let strangers: Vec<_> = (100..10_100).map(id).collect();
    agent.ready(&strangers);
    let errors = agent.errors().await.len();
    assert!((1..=16).contains(&errors), "{errors}");
    assert!(!agent.ended);
}

pub(crate) async fn a_waiting_peer_is_woken<H: Harness>(h: &H) {
    let (agent, client) = pair(h).await;
    let waiting = poll_fn(|cx| client.connection.poll_response(cx));
    let update = async {
        tokio::task::yield_now().await;
        agent.request(CoordinateRequest {
            add_tunnel: Some(tunnel(client.id)),
            ..update(node(77))
        });
    };
    let both = async { tokio::join!(waiting, update).0 };
    let response = tokio::time::timeout(Duration::from_secs(30), both)
        .await
        .unwrap()
        .unwrap();
    let node = response.updates[0].node.as_ref().unwrap();
    assert_eq!(node.decode().preferred_derp, 77);
}
