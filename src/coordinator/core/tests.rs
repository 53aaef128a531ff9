use uuid::Uuid;

use super::*;
use crate::clock::{Clock, Timestamp};
use crate::proto::tailnet::Node;

const AGENT: PeerId = PeerId(Uuid::from_u128(1));
const CLIENT: PeerId = PeerId(Uuid::from_u128(2));

fn now() -> Instant {
    Clock::driven(Timestamp::UNIX_EPOCH).monotonic()
}

fn announce(home: i32) -> Request {
    let node = Node {
        preferred_derp: home,
        ..Node::default()
    };
    Request {
        node: Some(Arc::new(EncodedNode::new(node).unwrap())),
        ..Request::default()
    }
}

/// An agent with a node, and a client that was told of it. Nobody is to be woken.
fn pair() -> (Core, Epoch, Epoch) {
    let mut core = Core::default();
    let (agent, client) = (
        core.connect(AGENT, "agent", now()),
        core.connect(CLIENT, "client", now()),
    );
    core.handle(AGENT, agent, &announce(1));
    let tunnel = Request {
        add_tunnel: Some(AGENT),
        ..Request::default()
    };
    core.handle(CLIENT, client, &tunnel);
    assert!(matches!(core.next(CLIENT, client, now()), Next::Response(_)));
    core.take_woken();
    (core, agent, client)
}

#[test]
fn an_unchanged_node_wakes_nobody() {
    let (mut core, agent, client) = pair();
    core.handle(AGENT, agent, &announce(1));
    assert!(core.take_woken().is_empty());
    core.handle(AGENT, agent, &announce(2));
    assert_eq!(core.take_woken(), [client]);
}

#[test]
fn a_connection_stands_once_among_the_woken_until_it_asks() {
    let (mut core, agent, client) = pair();
    for home in 2..100 {
        core.handle(AGENT, agent, &announce(home));
    }
    core.ready_for_handshake(AGENT, agent, &[CLIENT; 1_000]);
    assert_eq!(core.take_woken(), [client]);
    assert!(matches!(core.next(CLIENT, client, now()), Next::Response(_)));
    core.handle(AGENT, agent, &announce(100));
    assert_eq!(core.take_woken(), [client]);
}
