//! What one peer was told and has yet to be told of others: at most one entry per other peer, the latest.
//!
//! So memory is bounded by tunnels, bursts coalesce, and nobody is evicted for reading slowly.
//!
//! ```text
//! told of X \ news   NODE                        end                             loss
//! nothing            tell                        take back what was to be told   as an end
//! a node             same: nothing; else tell    tell, forget                    tell with the node, remember
//! a loss             tell                        tell, forget                    nothing
//! ```
//!
//! A coordinator in memory knows ends only, LOST or DISCONNECTED. One that several replicas share knows losses, which it
//! may have to take back, and DISCONNECTED as an end.
//!
//! Of two ends in a row the first counts, since the other would find nothing to take back. A node after an end or a loss
//! that was not read yet is told even if it is the same: the peer behind it is another one.
//!
//! Source of the rules: coder/coder `tailnet/peer.go`, for losses `enterprise/tailnet/pgcoord.go` (mapper); the queue of
//! 512 responses, and the eviction of who does not read them, are not copied.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

use super::tunnels::shrink;
use super::{EncodedNode, PeerId, Response, Update};
use crate::proto::tailnet::coordinate_response::peer_update::Kind;

/// Updates in one response: the original's limit, well below the size that a message may have.
const MAX_UPDATES: usize = 1_024;

/// Encoded bytes of nodes after which a response is full: a quarter of the 4 MiB that a message may have, so that one
/// more node and the rest of a response never matter.
const MAX_RESPONSE_BYTES: usize = 1024 * 1024;

/// Error texts that wait for one peer. They answer its own requests; more tell it nothing new.
const MAX_ERRORS: usize = 16;

/// What waits for one connection.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    others: HashMap<PeerId, Other>,
    /// Whom there is something to tell of, oldest first.
    order: BTreeMap<u64, PeerId>,
    next_place: u64,
    errors: VecDeque<String>,
    ended: bool,
    last_error: Option<&'static str>,
}

/// Another peer, as the owner of the outbox sees it. An entry lives while any field says something.
#[derive(Debug, Default)]
struct Other {
    /// The node that the owner was told last.
    told: Option<Arc<EncodedNode>>,
    /// And then that the peer is lost.
    told_lost: bool,
    news: Option<News>,
    /// It is ready for a handshake.
    ready: bool,
    /// Its place in `order`.
    place: Option<u64>,
}

#[derive(Debug)]
enum News {
    Node {
        node: Arc<EncodedNode>,
        reason: &'static str,
        /// It follows an end that the owner has not read.
        after_end: bool,
    },
    End(Kind, &'static str),
    Lost(&'static str),
}

/// What the owner was told last of another peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Told {
    /// Nothing, or that it is gone.
    Nothing,
    Node,
    Lost,
}

/// What a connection says next.
#[derive(Debug, PartialEq)]
pub(super) enum Next {
    Response(Response),
    Nothing,
    /// The coordinator has ended the connection, and has said so if there was anything to say.
    Ended,
}

impl Outbox {
    /// Another peer has this node.
    pub(super) fn tell_node(&mut self, of: PeerId, node: &Arc<EncodedNode>, reason: &'static str) {
        if self.ended {
            return;
        }
        let other = self.others.entry(of).or_default();
        let after_end = match &other.news {
            Some(News::End(..) | News::Lost(_)) => true,
            Some(News::Node { after_end, .. }) => *after_end,
            None => other.told_lost,
        };
        if !after_end && other.told.as_ref().is_some_and(|told| told.same_as(node)) {
            other.news = None;
        } else {
            other.news = Some(News::Node {
                node: Arc::clone(node),
                reason,
                after_end,
            });
        }
        self.place(of);
    }

    /// What the owner knows of another peer.
    pub(super) fn told(&self, of: PeerId) -> Told {
        match self.others.get(&of) {
            Some(other) if other.told_lost => Told::Lost,
            Some(other) if other.told.is_some() => Told::Node,
            _ => Told::Nothing,
        }
    }

    /// Another peer is lost, which it may not be for good: that it was lost is remembered.
    pub(super) fn tell_lost(&mut self, of: PeerId, reason: &'static str) {
        let Some(other) = self.others.get_mut(&of) else {
            return;
        };
        if self.ended {
            return;
        }
        other.ready = false;
        other.news = (other.told.is_some() && !other.told_lost).then_some(News::Lost(reason));
        self.place(of);
    }

    /// Another peer is lost or has disconnected, for good.
    pub(super) fn tell_end(&mut self, of: PeerId, kind: Kind, reason: &'static str) {
        let Some(other) = self.others.get_mut(&of) else {
            return;
        };
        if self.ended {
            return;
        }
        // A handshake with who is gone leads nowhere.
        other.ready = false;
        match other.news {
            Some(News::End(..)) => {}
            _ if other.told.is_some() => other.news = Some(News::End(kind, reason)),
            _ => other.news = None,
        }
        self.place(of);
    }

    /// Another peer is ready for a handshake.
    pub(super) fn tell_ready(&mut self, of: PeerId) {
        if !self.ended {
            self.others.entry(of).or_default().ready = true;
            self.place(of);
        }
    }

    /// A request of the owner failed, which does not end its connection.
    pub(super) fn tell_error(&mut self, error: impl FnOnce() -> String) {
        if !self.ended && self.errors.len() < MAX_ERRORS {
            self.errors.push_back(error());
        }
    }

    /// Ends the connection after what it has yet to be told, then `error`.
    pub(super) fn end(&mut self, error: Option<&'static str>) {
        if !self.ended {
            self.ended = true;
            self.last_error = error;
        }
    }

    /// Ends the connection, with nothing said but `error`.
    pub(super) fn end_now(&mut self, error: Option<&'static str>) {
        self.others = HashMap::new();
        self.order = BTreeMap::new();
        self.errors = VecDeque::new();
        self.end(error);
    }

    /// Gives an entry a place in the order, or takes it away, or drops an entry that says nothing.
    fn place(&mut self, of: PeerId) {
        let Some(other) = self.others.get_mut(&of) else {
            return;
        };
        let waits = other.news.is_some() || other.ready;
        match other.place {
            None if waits => {
                other.place = Some(self.next_place);
                self.order.insert(self.next_place, of);
                self.next_place += 1;
            }
            Some(place) if !waits => {
                other.place = None;
                self.order.remove(&place);
            }
            _ => {}
        }
        if !waits && other.told.is_none() {
            self.others.remove(&of);
            shrink(&mut self.others);
        }
    }

    /// Whether there is something to say, or the connection has ended.
    pub(super) fn has_something(&self) -> bool {
        !self.order.is_empty() || !self.errors.is_empty() || self.ended
    }

    /// Takes what is to be said next.
    pub(super) fn next(&mut self) -> Next {
        let mut updates = Vec::new();
        let mut bytes = 0;
        // One peer can have two updates.
        while updates.len() + 2 <= MAX_UPDATES && bytes < MAX_RESPONSE_BYTES {
            let Some((_, of)) = self.order.pop_first() else {
                break;
            };
            if let Some(other) = self.others.get_mut(&of) {
                bytes += other.take(of, &mut updates);
            }
            self.place(of);
        }
        if self.order.is_empty() {
            // An empty tree keeps a node of it, which most peers would hold for nothing.
            self.order = BTreeMap::new();
        }
        if !updates.is_empty() {
            return Next::Response(Response {
                updates,
                error: String::new(),
            });
        }
        let error = self.errors.pop_front();
        match error.or_else(|| self.last_error.take().map(str::to_owned)) {
            Some(error) => Next::Response(Response {
                updates: Vec::new(),
                error,
            }),
            None if self.ended => Next::Ended,
            None => Next::Nothing,
        }
    }
}

impl Other {
    /// Moves what is to be said of this peer into `updates`. Returns the bytes of its node.
    fn take(&mut self, of: PeerId, updates: &mut Vec<Update>) -> usize {
        self.place = None;
        let mut bytes = 0;
        let mut push = |kind, reason, node| {
            updates.push(Update {
                of,
                kind,
                reason,
                node,
            });
        };
        match self.news.take() {
            Some(News::Node { node, reason, .. }) => {
                bytes = node.as_bytes().len();
                self.told = Some(Arc::clone(&node));
                self.told_lost = false;
                push(Kind::Node, reason, Some(node));
            }
            // As in the original, which sends the node of a peer that is lost.
            Some(News::Lost(reason)) => {
                self.told_lost = true;
                push(Kind::Lost, reason, self.told.clone());
            }
            Some(News::End(kind, reason)) => {
                self.told = None;
                self.told_lost = false;
                push(kind, reason, None);
            }
            None => {}
        }
        if std::mem::take(&mut self.ready) {
            push(Kind::ReadyForHandshake, "", None);
        }
        bytes
    }
}

#[cfg(test)]
mod tests;
