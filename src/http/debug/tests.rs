use std::sync::Arc;
use std::time::Duration;

use uuid::Uuid;

use super::*;
use crate::clock::{Clock, Timestamp};
use crate::coordinator::{Coordinator as _, MemoryCoordinator, PeerId, Role};
use crate::ids::ReplicaId;
use crate::proto::tailnet::coordinate_request::{Tunnel, UpdateSelf};
use crate::proto::tailnet::{CoordinateRequest, Node};
use crate::store::{DatabaseTime, StoredPeer, StoredTunnel};

fn page(snapshot: &Snapshot) -> String {
    let mut page = String::new();
    write(&mut page, snapshot).unwrap();
    page
}

fn announce(node: Node) -> CoordinateRequest {
    CoordinateRequest {
        update_self: Some(UpdateSelf { node: Some(node) }),
        ..Default::default()
    }
}

#[tokio::test(start_paused = true)]
async fn tn_063_the_page_shows_peers_tunnels_and_counts_and_nothing_of_a_peer_is_markup() {
    let coordinator = MemoryCoordinator::new(Clock::driven(Timestamp::UNIX_EPOCH));
    let (agent, client) = (PeerId(Uuid::from_u128(1)), PeerId(Uuid::from_u128(2)));
    let replaced = coordinator.connect(agent, "first", Role::Agent);
    let connection = coordinator.connect(agent, "<b>ada</b>-'dev'-\"main\"&", Role::Agent);
    let other = coordinator.connect(client, "client", Role::Client);
    let node = Node {
        disco: "<script>alert(1)</script>".to_owned(),
        ..Node::default()
    };
    connection.handle(announce(node)).unwrap();
    let tunnel = Tunnel {
        id: agent.0.as_bytes().to_vec(),
    };
    let request = CoordinateRequest {
        add_tunnel: Some(tunnel),
        ..Default::default()
    };
    other.handle(request).unwrap();
    tokio::time::sleep(std::time::Duration::from_millis(1_500)).await;

    let page = page(&coordinator.snapshot(MAX_ROWS).await.unwrap());
    for part in [
        "<h2>peers: 2</h2>",
        "<h2>tunnels: 1</h2>",
        "<td>00000000-0000-0000-0000-000000000001</td><td>&lt;b&gt;ada&lt;/b&gt;-&#39;dev&#39;-&#34;main&#34;&amp;</td>\
         <td>1.5s</td><td>never</td><td>1</td>",
        "&lt;script&gt;alert(1)&lt;/script&gt;",
        "<tr><td>00000000-0000-0000-0000-000000000002</td><td>00000000-0000-0000-0000-000000000001</td></tr>",
    ] {
        assert!(page.contains(part), "{part} is not in {page}");
    }
    assert!(!page.contains("<script>") && !page.contains("<b>"));
    drop(replaced);
}

#[test]
fn a_page_is_bounded() {
    let node = Node {
        disco: "ä".repeat(30_000),
        ..Node::default()
    };
    let peer = crate::coordinator::PeerSnapshot {
        id: PeerId(Uuid::from_u128(1)),
        name: "ada".into(),
        age: std::time::Duration::ZERO,
        last_write: None,
        overwrites: 0,
        node: Some(Arc::new(EncodedNode::new(node).unwrap())),
    };
    let snapshot = Snapshot {
        peers: vec![peer],
        total_peers: 5_000,
        ..Snapshot::default()
    };
    let page = page(&snapshot);
    assert!(page.contains("<h2>peers: 5000</h2>\n<p>1 of them are shown.</p>"));
    assert!(page.len() < 10_000, "{}", page.len());
}

#[test]
fn tn_063_the_page_shows_what_all_replicas_have_stored() {
    let (agent, client) = (PeerId(Uuid::from_u128(1)), PeerId(Uuid::from_u128(2)));
    let replica = ReplicaId(Uuid::from_u128(3));
    let age = Duration::from_millis(1_500);
    let stored = |id, node: &[u8]| StoredPeer {
        id,
        replica,
        updated_at: DatabaseTime(0),
        lost: id == client,
        node: node.to_vec(),
    };
    let node = Node {
        disco: "<script>".to_owned(),
        ..Node::default()
    };
    let node = EncodedNode::new(node).unwrap();
    let tunnel = StoredTunnel {
        replica,
        tunnel: crate::store::Tunnel {
            from: client,
            to: agent,
        },
    };
    let shared = SharedSnapshot {
        replicas: vec![(replica, age)],
        peers: vec![
            (stored(agent, node.as_bytes()), age),
            (stored(client, b"\xff"), age),
        ],
        tunnels: vec![(tunnel, age)],
        total_peers: 7,
        total_tunnels: 1,
    };
    let page = page(&Snapshot {
        shared: Some(shared),
        ..Snapshot::default()
    });
    let id = |last| format!("<td>00000000-0000-0000-0000-00000000000{last}</td>");
    for part in [
        "<h2>coordinators: 1</h2>".to_owned(),
        format!("{}<td>1.5s</td>", id(3)),
        "<h2>stored peers: 7</h2>\n<p>2 of them are shown.</p>".to_owned(),
        format!("{}{}<td>ok</td><td>1.5s</td><td>Node {{", id(1), id(3)),
        "&lt;script&gt;".to_owned(),
        format!("{}{}<td>lost</td><td>1.5s</td><td>failed to decode", id(2), id(3)),
        format!("{}{}{}<td>1.5s</td>", id(2), id(1), id(3)),
    ] {
        assert!(page.contains(&part), "{part} is not in {page}");
    }
    assert!(!page.contains("<script>"));
}

#[test]
fn a_coordinator_that_cannot_tell_is_an_error_with_the_reason() {
    let away = StoreError::Unavailable("no connection".to_owned());
    assert_eq!(coordinator(Err(away)).status(), StatusCode::INTERNAL_SERVER_ERROR);
}
