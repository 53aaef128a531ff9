//! Publish and subscribe by channel name, and what travels on the channels that are known.
//!
//! Owns the subscribers of this process. Publishing never waits and never fails: a subscriber that missed something, as it
//! reads too slowly or because the way from another process was cut, is told so, and then re-reads what it follows. Must
//! never look into the store: events of other processes come in through [`bridge`] or [`Remote`], which deliver them here.
//!
//! Channels and payloads are the original's (coder/coder `coderd/wspubsub`, `coderd/agentapi/logs.go`), so that it and
//! any number of our processes can share a database.

pub mod bridge;
mod claims;
mod invalidation;
mod listening;
mod logs;
mod outgoing;
mod remote;
#[cfg(test)]
mod tests;
mod workspace;

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use tokio::sync::Notify;

pub use claims::PrebuildClaims;
pub use invalidation::Invalidations;
pub use logs::LogNotification;
pub use remote::{Remote, RemoteStatus, Unsent};
pub use workspace::WorkspaceEvents;

use self::listening::Changes;
use self::outgoing::{Message, Outgoing};
pub use crate::store::{InvalidEvent, WorkspaceEvent, WorkspaceEventKind};

/// What [`crate::limits`] tells operators of.
pub(crate) mod limits {
    pub(crate) use super::outgoing::MAX_BYTES as MAX_OUTGOING;
}

/// Longest payload in bytes: Postgres refuses one of 8,000.
pub const MAX_PAYLOAD: usize = 7_999;

/// Messages that a subscriber may have unread. With payloads of at most [`MAX_PAYLOAD`], a stalled subscriber holds at most
/// 2 MB; one that follows a workspace or a log sees a few messages a second.
const MAX_UNREAD: usize = 256;

/// Publishes to and subscribes at channels. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Pubsub(Arc<Hub>);

/// The subscribers of this process, by channel. There is one entry per live subscription, and none otherwise.
#[derive(Debug, Default)]
struct Hub {
    channels: Mutex<HashMap<Arc<str>, Vec<Weak<Queue>>>>,
    /// The way to and from other processes, if there is one.
    uplink: Option<Arc<Uplink>>,
}

/// What goes to other processes, and what is wanted of them.
#[derive(Debug, Default)]
struct Uplink {
    outgoing: Outgoing,
    changes: Changes,
}

/// What one subscriber has not read yet.
#[derive(Debug)]
struct Queue {
    /// Messages that may be unread.
    most: usize,
    unread: Mutex<Unread>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct Unread {
    payloads: VecDeque<Arc<str>>,
    lagged: bool,
}

/// A subscriber missed messages, or may have: what it follows has to be read again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("messages were missed")]
pub struct Lagged;

impl Pubsub {
    /// A pubsub within this process, without subscribers.
    pub fn in_process() -> Self {
        Self::default()
    }

    /// One that shares its messages with other processes, by way of `uplink`.
    fn shared(uplink: Arc<Uplink>) -> Self {
        Self(Arc::new(Hub {
            uplink: Some(uplink),
            ..Hub::default()
        }))
    }

    /// Tells everyone who follows `channel`, in this process at once, and in those that share its store's notifications as
    /// soon as they can be reached.
    ///
    /// What cannot be told to other processes, as a payload above [`MAX_PAYLOAD`], nobody is told, with a warning.
    pub fn publish(&self, channel: &str, payload: &str) {
        let Some(uplink) = &self.0.uplink else {
            return self.deliver(channel, payload);
        };
        if !remote::carries(channel, payload) {
            tracing::warn!(
                channel,
                length = payload.len(),
                "a message that cannot be sent is dropped"
            );
            return;
        }
        self.deliver(channel, payload);
        uplink.outgoing.push(Message::new(channel, payload));
    }

    /// Tells the subscribers of this process only, for messages that come from elsewhere.
    pub fn deliver(&self, channel: &str, payload: &str) {
        let channels = lock(&self.0.channels);
        let Some(queues) = channels.get(channel) else {
            return;
        };
        let payload: Arc<str> = payload.into();
        for queue in queues.iter().filter_map(Weak::upgrade) {
            queue.push(Arc::clone(&payload));
        }
    }

    /// Follows `channel` from now on, until the subscription is dropped.
    ///
    /// Messages of other processes may still pass by for a moment, or for as long as those cannot be reached. When that is
    /// over, [`Lagged`] says so: whoever subscribes, reads, and reads again when told to, misses nothing.
    pub fn subscribe(&self, channel: &str) -> Subscription {
        self.subscribe_up_to(MAX_UNREAD, channel)
    }

    /// The same, for who reads quickly but has to expect many messages at once: `most` may be unread.
    pub fn subscribe_up_to(&self, most: usize, channel: &str) -> Subscription {
        let queue = Arc::new(Queue {
            most,
            unread: Mutex::default(),
            changed: Notify::new(),
        });
        let mut channels = lock(&self.0.channels);
        let key = match channels.get_key_value(channel) {
            Some((key, _)) => Arc::clone(key),
            None => channel.into(),
        };
        let queues = channels.entry(Arc::clone(&key)).or_default();
        queues.push(Arc::downgrade(&queue));
        let first = queues.len() == 1;
        drop(channels);
        if first {
            self.0.changed(&key);
        }
        Subscription {
            hub: Arc::clone(&self.0),
            channel: key,
            queue,
        }
    }
}

#[cfg(test)]
impl Pubsub {
    /// Lets all subscribers of this process know that they may have missed something.
    pub(crate) fn lose_messages(&self) {
        self.0.lag_all();
    }
}

impl Hub {
    /// A channel has got its first subscription, or has lost its last.
    fn changed(&self, channel: &Arc<str>) {
        if let Some(uplink) = &self.uplink {
            uplink.changes.note(Arc::clone(channel));
        }
    }

    /// Whether there is a subscription of `channel`.
    fn is_wanted(&self, channel: &str) -> bool {
        lock(&self.channels).contains_key(channel)
    }

    /// The channels of which there are subscriptions.
    fn wanted(&self) -> Vec<Arc<str>> {
        lock(&self.channels).keys().cloned().collect()
    }

    /// Tells the subscriptions of `channel` that they may have missed something.
    fn lag(&self, channel: &str) {
        let channels = lock(&self.channels);
        for queue in channels.get(channel).into_iter().flatten() {
            queue.upgrade().inspect(|queue| queue.lag());
        }
    }

    /// Tells all subscriptions that they may have missed something.
    fn lag_all(&self) {
        let channels = lock(&self.channels);
        for queue in channels.values().flatten() {
            queue.upgrade().inspect(|queue| queue.lag());
        }
    }
}

impl Queue {
    fn push(&self, payload: Arc<str>) {
        let mut unread = lock(&self.unread);
        if unread.payloads.len() == self.most {
            unread.lag();
        }
        unread.payloads.push_back(payload);
        drop(unread);
        self.changed.notify_one();
    }

    fn lag(&self) {
        lock(&self.unread).lag();
        self.changed.notify_one();
    }

    fn pop(&self) -> Option<Result<Arc<str>, Lagged>> {
        let mut unread = lock(&self.unread);
        if std::mem::take(&mut unread.lagged) {
            return Some(Err(Lagged));
        }
        unread.payloads.pop_front().map(Ok)
    }
}

impl Unread {
    /// What is unread is part of what has to be read again.
    fn lag(&mut self) {
        self.payloads = VecDeque::new();
        self.lagged = true;
    }
}

/// A follower of one channel.
#[derive(Debug)]
pub struct Subscription {
    hub: Arc<Hub>,
    channel: Arc<str>,
    queue: Arc<Queue>,
}

impl Subscription {
    /// Waits for the next message. [`Lagged`] comes once in place of those that were missed.
    ///
    /// Cancel safe: no message is lost when the future is dropped.
    pub async fn next(&mut self) -> Result<Arc<str>, Lagged> {
        loop {
            if let Some(message) = self.queue.pop() {
                return message;
            }
            self.queue.changed.notified().await;
        }
    }

    /// The next message if there is one already.
    pub fn try_next(&mut self) -> Option<Result<Arc<str>, Lagged>> {
        self.queue.pop()
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        let mut channels = lock(&self.hub.channels);
        if let Some(queues) = channels.get_mut(&self.channel) {
            queues.retain(|queue| !std::ptr::eq(queue.as_ptr(), Arc::as_ptr(&self.queue)));
            if queues.is_empty() {
                channels.remove(&self.channel);
                drop(channels);
                self.hub.changed(&self.channel);
            }
        }
    }
}

/// Locks; every holder leaves the data whole at each step, so a panic elsewhere does not matter.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
