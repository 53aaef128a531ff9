//! The rules of coordination, without tasks, sockets or clocks: requests and ends go in, responses come out.
//!
//! Each peer keeps `sent`, what it was told of others, and `pending`, what it has yet to be told: at most one entry per
//! other peer, the latest. So memory is bounded by tunnels, bursts coalesce, and nobody is evicted for reading slowly.
//!
//! ```text
//! sent \ news     NODE                          LOST, DISCONNECTED
//! nothing         remember, tell                nothing
//! a node          equal: nothing; else tell     forget, tell
//! ```
//!
//! Source of the rules: coder/coder `tailnet/coordinator.go`, `tailnet/peer.go`.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::Arc;

use super::{CoordinateError, PeerId};
use crate::proto::tailnet::coordinate_response::PeerUpdate;
use crate::proto::tailnet::coordinate_response::peer_update::Kind;
use crate::proto::tailnet::{CoordinateRequest, CoordinateResponse, Node};

/// Updates in one response. The original's limit, well below the size that a message may have.
const MAX_UPDATES: usize = 1_024;

/// Encoded bytes of the nodes in one response: a quarter of the 4 MiB that a message may have, so that the rest of a
/// response never matters.
const MAX_RESPONSE_BYTES: usize = 1024 * 1024;

/// Error texts that wait for one peer. They answer its own requests; more tell it nothing new.
const MAX_ERRORS: usize = 16;

/// Tunnels from one peer. A client holds one per workspace that it uses.
const MAX_TUNNELS: usize = 16 * 1_024;

/// Number of a connection; a peer that connects again has a higher one.
pub(super) type Epoch = u64;

#[derive(Debug, Default)]
pub(super) struct Core {
    peers: HashMap<PeerId, Peer>,
    /// From the one who asked for a tunnel to its other end, and back.
    tunnels: HashMap<PeerId, HashSet<PeerId>>,
    reverse: HashMap<PeerId, HashSet<PeerId>>,
    next_epoch: Epoch,
    closed: bool,
    /// Connections that have something to say or have ended, for the shell to wake.
    woken: Vec<Epoch>,
}

#[derive(Debug)]
struct Peer {
    epoch: Epoch,
    node: Option<Arc<Node>>,
    sent: HashMap<PeerId, Arc<Node>>,
    pending: HashMap<PeerId, News>,
    /// Whom `pending` tells of, oldest first.
    order: VecDeque<PeerId>,
    /// Peers that are ready for a handshake with this one.
    ready: BTreeSet<PeerId>,
    errors: VecDeque<String>,
}

#[derive(Debug)]
enum News {
    Node(Arc<Node>, &'static str),
    Gone(Kind, &'static str),
}

impl Peer {
    fn new(epoch: Epoch) -> Self {
        Self {
            epoch,
            node: None,
            sent: HashMap::new(),
            pending: HashMap::new(),
            order: VecDeque::new(),
            ready: BTreeSet::new(),
            errors: VecDeque::new(),
        }
    }

    fn tell(&mut self, of: PeerId, news: News) {
        if self.pending.insert(of, news).is_none() {
            self.order.push_back(of);
        }
    }

    fn tell_error(&mut self, error: String) {
        if self.errors.len() < MAX_ERRORS {
            self.errors.push_back(error);
        }
    }

    /// The next response, if there is anything to say.
    fn next_response(&mut self) -> Option<CoordinateResponse> {
        if let Some(error) = self.errors.pop_front() {
            return Some(CoordinateResponse {
                peer_updates: Vec::new(),
                error,
            });
        }
        let mut response = CoordinateResponse::default();
        let mut bytes = 0;
        while response.peer_updates.len() < MAX_UPDATES && bytes < MAX_RESPONSE_BYTES {
            let update = if let Some(of) = self.order.pop_front() {
                let Some(news) = self.pending.remove(&of) else {
                    continue;
                };
                let Some(update) = self.update(of, news) else {
                    continue;
                };
                update
            } else if let Some(of) = self.ready.pop_first() {
                peer_update(of, Kind::ReadyForHandshake, "", None)
            } else {
                break;
            };
            bytes += update.node.as_ref().map_or(0, prost::Message::encoded_len);
            response.peer_updates.push(update);
        }
        if self.order.is_empty() {
            self.order = VecDeque::new();
            self.pending = HashMap::new();
        }
        (!response.peer_updates.is_empty()).then_some(response)
    }

    /// What the table in the module's header makes of a piece of news.
    fn update(&mut self, of: PeerId, news: News) -> Option<PeerUpdate> {
        match news {
            News::Node(node, reason) => {
                if self.sent.get(&of).is_some_and(|sent| same_node(sent, &node)) {
                    return None;
                }
                self.sent.insert(of, Arc::clone(&node));
                Some(peer_update(of, Kind::Node, reason, Some(Node::clone(&node))))
            }
            News::Gone(kind, reason) => {
                self.sent.remove(&of)?;
                Some(peer_update(of, kind, reason, None))
            }
        }
    }
}

fn peer_update(of: PeerId, kind: Kind, reason: &str, node: Option<Node>) -> PeerUpdate {
    PeerUpdate {
        id: of.0.as_bytes().to_vec(),
        node,
        kind: kind.into(),
        reason: reason.to_owned(),
    }
}

/// Whether two nodes differ in nothing but the time at which they were built.
pub(super) fn same_node(one: &Node, other: &Node) -> bool {
    let Node {
        id,
        as_of: _,
        key,
        disco,
        preferred_derp,
        derp_latency,
        derp_forced_websocket,
        addresses,
        allowed_ips,
        endpoints,
    } = one;
    *id == other.id
        && *key == other.key
        && *disco == other.disco
        && *preferred_derp == other.preferred_derp
        && *derp_latency == other.derp_latency
        && *derp_forced_websocket == other.derp_forced_websocket
        && *addresses == other.addresses
        && *allowed_ips == other.allowed_ips
        && *endpoints == other.endpoints
}

impl Core {
    /// Connections to wake since the last call.
    pub(super) fn take_woken(&mut self) -> Vec<Epoch> {
        std::mem::take(&mut self.woken)
    }

    pub(super) fn is_closed(&self) -> bool {
        self.closed
    }

    pub(super) fn node(&self, id: PeerId) -> Option<Arc<Node>> {
        self.peers.get(&id)?.node.clone()
    }

    /// Connects a peer. Returns its connection, and the one of the same peer that it replaces.
    pub(super) fn connect(&mut self, id: PeerId) -> (Epoch, Option<Epoch>) {
        let epoch = self.next_epoch;
        self.next_epoch += 1;
        let replaced = self.peers.insert(id, Peer::new(epoch)).map(|old| old.epoch);
        self.woken.extend(replaced);
        let others = self.tunnel_peers(id);
        let nodes: Vec<_> = others
            .iter()
            .filter_map(|&other| Some((other, self.node(other)?)))
            .collect();
        if let Some(peer) = self.peers.get_mut(&id) {
            for (other, node) in nodes {
                peer.tell(other, News::Node(node, "init"));
            }
        }
        (epoch, replaced)
    }

    /// Takes a request, its parts in the original's order: node, tunnels, end, handshakes.
    ///
    /// Ids are read before anything happens, so that a request with a bad one changes nothing.
    pub(super) fn handle(
        &mut self,
        id: PeerId,
        epoch: Epoch,
        request: CoordinateRequest,
    ) -> Result<(), CoordinateError> {
        let add = request
            .add_tunnel
            .map(|tunnel| PeerId::try_from(&tunnel.id[..]))
            .transpose()?;
        let remove = request
            .remove_tunnel
            .map(|tunnel| PeerId::try_from(&tunnel.id[..]))
            .transpose()?;
        let ready: Vec<_> = request
            .ready_for_handshake
            .iter()
            .map(|ready| PeerId::try_from(&ready.id[..]))
            .collect::<Result<_, _>>()?;
        if !self.is_current(id, epoch) {
            return Ok(());
        }
        if let Some(node) = request.update_self.and_then(|update| update.node) {
            self.update_self(id, &Arc::new(node));
        }
        if let Some(to) = add {
            self.add_tunnel(id, to);
        }
        if let Some(to) = remove {
            self.remove_tunnel(id, to);
        }
        if request.disconnect.is_some() {
            self.remove(id, Kind::Disconnected, "graceful disconnect");
            return Ok(());
        }
        for to in ready {
            self.ready_for_handshake(id, to);
        }
        Ok(())
    }

    fn is_current(&self, id: PeerId, epoch: Epoch) -> bool {
        self.peers.get(&id).is_some_and(|peer| peer.epoch == epoch)
    }

    fn update_self(&mut self, id: PeerId, node: &Arc<Node>) {
        let Some(peer) = self.peers.get_mut(&id) else {
            return;
        };
        let changed = !peer.node.as_ref().is_some_and(|old| same_node(old, node));
        peer.node = Some(Arc::clone(node));
        if changed {
            for other in self.tunnel_peers(id) {
                self.tell(other, id, News::Node(Arc::clone(node), "node update"));
            }
        }
    }

    fn add_tunnel(&mut self, from: PeerId, to: PeerId) {
        let tunnels = self.tunnels.entry(from).or_default();
        if tunnels.len() >= MAX_TUNNELS && !tunnels.contains(&to) {
            if let Some(peer) = self.peers.get_mut(&from) {
                peer.tell_error(format!("more than {MAX_TUNNELS} tunnels"));
                self.woken.push(peer.epoch);
            }
            return;
        }
        tunnels.insert(to);
        self.reverse.entry(to).or_default().insert(from);
        if !self.peers.contains_key(&to) {
            return;
        }
        for (one, other) in [(from, to), (to, from)] {
            if let Some(node) = self.node(other) {
                self.tell(one, other, News::Node(node, "add tunnel"));
            }
        }
    }

    fn remove_tunnel(&mut self, from: PeerId, to: PeerId) {
        self.forget_tunnel(from, to);
        for (one, other) in [(from, to), (to, from)] {
            self.tell(one, other, News::Gone(Kind::Disconnected, "remove tunnel"));
        }
    }

    fn forget_tunnel(&mut self, from: PeerId, to: PeerId) {
        for (map, key, value) in [(&mut self.tunnels, from, to), (&mut self.reverse, to, from)] {
            if let Some(set) = map.get_mut(&key) {
                set.remove(&value);
                if set.is_empty() {
                    map.remove(&key);
                }
            }
        }
    }

    /// A connection ended without goodbye.
    pub(super) fn lost(&mut self, id: PeerId, epoch: Epoch) {
        if self.is_current(id, epoch) {
            self.remove(id, Kind::Lost, "lost");
        }
    }

    /// Tunnels towards the peer stay, so that it finds its clients when it returns; its own end with it, as nobody else
    /// could end them.
    fn remove(&mut self, id: PeerId, kind: Kind, reason: &'static str) {
        let others = self.tunnel_peers(id);
        let own: Vec<_> = self.tunnels.get(&id).into_iter().flatten().copied().collect();
        for to in own {
            self.forget_tunnel(id, to);
        }
        if let Some(peer) = self.peers.remove(&id) {
            self.woken.push(peer.epoch);
        }
        for other in others {
            self.tell(other, id, News::Gone(kind, reason));
        }
    }

    fn ready_for_handshake(&mut self, from: PeerId, to: PeerId) {
        let has =
            |map: &HashMap<PeerId, HashSet<PeerId>>| map.get(&from).is_some_and(|set| set.contains(&to));
        if !has(&self.tunnels) && !has(&self.reverse) {
            if let Some(peer) = self.peers.get_mut(&from) {
                let error = format!("ready for handshake error: you do not share a tunnel with \"{to}\"");
                peer.tell_error(error);
                self.woken.push(peer.epoch);
            }
        } else if let Some(peer) = self.peers.get_mut(&to) {
            peer.ready.insert(from);
            self.woken.push(peer.epoch);
        }
    }

    fn tell(&mut self, whom: PeerId, of: PeerId, news: News) {
        if let Some(peer) = self.peers.get_mut(&whom) {
            peer.tell(of, news);
            self.woken.push(peer.epoch);
        }
    }

    /// Everybody at the other end of a tunnel of `id`, in either direction.
    fn tunnel_peers(&self, id: PeerId) -> Vec<PeerId> {
        let ends = [self.tunnels.get(&id), self.reverse.get(&id)];
        let mut peers: Vec<_> = ends
            .into_iter()
            .flatten()
            .flatten()
            .copied()
            .filter(|&other| other != id)
            .collect();
        peers.sort_unstable();
        peers.dedup();
        peers
    }

    /// What a connection says next: a response, nothing yet, or the end.
    pub(super) fn next(&mut self, id: PeerId, epoch: Epoch) -> Next {
        match self.peers.get_mut(&id) {
            Some(peer) if peer.epoch == epoch => peer.next_response().map_or(Next::Nothing, Next::Response),
            Some(_) => Next::Replaced,
            None if self.closed => Next::Closed,
            None => Next::Ended,
        }
    }

    /// Ends all connections.
    pub(super) fn close(&mut self) {
        self.closed = true;
        self.woken.extend(self.peers.drain().map(|(_, peer)| peer.epoch));
        self.tunnels.clear();
        self.reverse.clear();
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.peers.is_empty() && self.tunnels.is_empty() && self.reverse.is_empty()
    }
}

/// See [`Core::next`].
#[derive(Debug)]
pub(super) enum Next {
    Response(CoordinateResponse),
    Nothing,
    /// Another connection of the same peer has taken over.
    Replaced,
    /// The coordinator is closed.
    Closed,
    /// The peer said goodbye.
    Ended,
}
