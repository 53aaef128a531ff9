//! Peers of the suite, and the requests that they make.

use std::task::{Context, Poll, Waker};

use uuid::Uuid;

use super::Harness;
use crate::coordinator::{Connection, CoordinateError, Coordinator, PeerId, Response, Role};
use crate::proto::tailnet::coordinate_request::{Disconnect, ReadyForHandshake, Tunnel, UpdateSelf};
use crate::proto::tailnet::coordinate_response::peer_update::Kind;
use crate::proto::tailnet::{CoordinateRequest, Node};

/// A connected peer, and all that it was told and has not looked at.
pub(crate) struct Peer<'h, H> {
    pub(crate) id: PeerId,
    pub(crate) connection: Box<dyn Connection>,
    pub(crate) responses: Vec<Response>,
    pub(crate) ended: bool,
    harness: &'h H,
}

/// What a peer was told: of whom, what, and the home region of the node.
pub(crate) type Told = (PeerId, Kind, Option<i32>);

pub(crate) fn id(number: u128) -> PeerId {
    PeerId(Uuid::from_u128(number))
}

impl<'h, H: Harness> Peer<'h, H> {
    pub(crate) fn connect(harness: &'h H, number: u128) -> Self {
        Self::connect_to(harness, harness.coordinator_of(number), number, Role::Client)
    }

    pub(crate) fn connect_to(
        harness: &'h H,
        coordinator: &dyn Coordinator,
        number: u128,
        role: Role,
    ) -> Self {
        Self {
            id: id(number),
            connection: coordinator.connect(id(number), "test", role),
            responses: Vec::new(),
            ended: false,
            harness,
        }
    }

    pub(crate) fn request(&self, request: CoordinateRequest) {
        self.connection.handle(request).unwrap();
    }

    pub(crate) fn refused(&self, request: CoordinateRequest) -> CoordinateError {
        self.connection.handle(request).unwrap_err()
    }

    /// Announces a node that is told from others by its home region.
    pub(crate) fn update(&self, home: i32) {
        self.request(update(node(home)));
    }

    pub(crate) fn tunnel(&self, to: PeerId) {
        self.request(CoordinateRequest {
            add_tunnel: Some(tunnel(to)),
            ..Default::default()
        });
    }

    pub(crate) fn remove_tunnel(&self, to: PeerId) {
        self.request(CoordinateRequest {
            remove_tunnel: Some(tunnel(to)),
            ..Default::default()
        });
    }

    pub(crate) fn ready(&self, for_whom: &[PeerId]) {
        self.request(CoordinateRequest {
            ready_for_handshake: ready(for_whom),
            ..Default::default()
        });
    }

    pub(crate) fn disconnect(&self) {
        self.request(CoordinateRequest {
            disconnect: Some(Disconnect {}),
            ..Default::default()
        });
    }

    /// Reads all that there is.
    pub(crate) async fn read(&mut self) {
        self.harness.settle().await;
        let mut cx = Context::from_waker(Waker::noop());
        while !self.ended {
            match self.connection.poll_response(&mut cx) {
                Poll::Ready(Some(response)) => self.responses.push(response),
                Poll::Ready(None) => self.ended = true,
                Poll::Pending => break,
            }
        }
    }

    /// What it was told since it was asked last, by number of the peer.
    pub(crate) async fn told(&mut self) -> Vec<Told> {
        self.read().await;
        let updates = self
            .responses
            .iter_mut()
            .flat_map(|response| response.updates.drain(..));
        let mut told: Vec<_> = updates
            .map(|update| {
                // That of a loss says nothing new, and is not there everywhere.
                let node = update.node.filter(|_| update.kind == Kind::Node);
                let home = node.map(|node| node.decode().preferred_derp);
                (update.of, update.kind, home)
            })
            .collect();
        told.sort_by_key(|(of, ..)| *of);
        told
    }

    /// The errors that it was told since it was asked last.
    pub(crate) async fn errors(&mut self) -> Vec<String> {
        self.read().await;
        let errors = self
            .responses
            .iter_mut()
            .map(|response| std::mem::take(&mut response.error));
        errors.filter(|error| !error.is_empty()).collect()
    }
}

pub(crate) fn node(home: i32) -> Node {
    Node {
        preferred_derp: home,
        ..Node::default()
    }
}

pub(crate) fn update(node: Node) -> CoordinateRequest {
    CoordinateRequest {
        update_self: Some(UpdateSelf { node: Some(node) }),
        ..Default::default()
    }
}

pub(crate) fn tunnel(to: PeerId) -> Tunnel {
    Tunnel {
        id: to.0.as_bytes().to_vec(),
    }
}

pub(crate) fn ready(for_whom: &[PeerId]) -> Vec<ReadyForHandshake> {
    let ready = for_whom.iter().map(|id| ReadyForHandshake {
        id: id.0.as_bytes().to_vec(),
    });
    ready.collect()
}

/// An agent and a client with a tunnel between them, both with a node, both up to date.
pub(crate) async fn pair<H: Harness>(harness: &H) -> (Peer<'_, H>, Peer<'_, H>) {
    let (mut agent, mut client) = (Peer::connect(harness, 1), Peer::connect(harness, 2));
    agent.update(10);
    client.update(20);
    client.tunnel(agent.id);
    assert_eq!(agent.told().await, [(client.id, Kind::Node, Some(20))]);
    assert_eq!(client.told().await, [(agent.id, Kind::Node, Some(10))]);
    (agent, client)
}
