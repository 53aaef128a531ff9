//! Publish and subscribe by channel name, and what travels on the channels that are known.
//!
//! Owns the subscribers of this process. Publishing never waits and never fails: a subscriber that reads too slowly
//! loses what it has queued and is told so, and then re-reads what it follows. Must never look into the store: events
//! of other processes come in through [`bridge`], which delivers them here.
//!
//! Channels and payloads are the original's (coder/coder `coderd/wspubsub`, `coderd/agentapi/logs.go`), so that an
//! engine with LISTEN/NOTIFY can stand between [`Pubsub::publish`] and [`Pubsub::deliver`] without anyone noticing.

pub mod bridge;
mod claims;
mod invalidation;
mod logs;
mod workspace;

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use tokio::sync::Notify;

pub use claims::PrebuildClaims;
pub use invalidation::Invalidations;
pub use logs::LogNotification;
pub use workspace::WorkspaceEvents;

pub use crate::store::{InvalidEvent, WorkspaceEvent, WorkspaceEventKind};

/// Messages that a subscriber may have unread. Payloads stay below 8,000 bytes, so a stalled subscriber holds at most
/// 2 MB; one that follows a workspace or a log sees a few messages a second.
const MAX_UNREAD: usize = 256;

/// Publishes to and subscribes at channels. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Pubsub(Arc<Hub>);

/// The subscribers of this process, by channel. There is one entry per live subscription, and none otherwise.
#[derive(Debug, Default)]
struct Hub {
    channels: Mutex<HashMap<Arc<str>, Vec<Weak<Queue>>>>,
}

/// What one subscriber has not read yet.
#[derive(Debug, Default)]
struct Queue {
    unread: Mutex<Unread>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct Unread {
    payloads: VecDeque<Arc<str>>,
    lagged: bool,
}

/// A subscriber read too slowly and missed messages: what it follows has to be read again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("messages were missed")]
pub struct Lagged;

impl Pubsub {
    /// A pubsub within this process, without subscribers.
    pub fn in_process() -> Self {
        Self::default()
    }

    /// Tells everyone who follows `channel`, in this process and in those that share its store's notifications.
    pub fn publish(&self, channel: &str, payload: &str) {
        self.deliver(channel, payload);
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
    pub fn subscribe(&self, channel: &str) -> Subscription {
        let queue = Arc::new(Queue::default());
        let mut channels = lock(&self.0.channels);
        let key = match channels.get_key_value(channel) {
            Some((key, _)) => Arc::clone(key),
            None => channel.into(),
        };
        let queues = channels.entry(Arc::clone(&key)).or_default();
        queues.push(Arc::downgrade(&queue));
        drop(channels);
        Subscription {
            hub: Arc::clone(&self.0),
            channel: key,
            queue,
        }
    }
}

impl Queue {
    fn push(&self, payload: Arc<str>) {
        let mut unread = lock(&self.unread);
        if unread.payloads.len() == MAX_UNREAD {
            unread.payloads.clear();
            unread.lagged = true;
        }
        unread.payloads.push_back(payload);
        drop(unread);
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
            }
        }
    }
}

/// Locks; every holder leaves the data whole at each step, so a panic elsewhere does not matter.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn subscribers_of_a_channel_get_its_messages_in_order_and_no_others() {
        let pubsub = Pubsub::in_process();
        let (mut one, mut two) = (pubsub.subscribe("a"), pubsub.subscribe("a"));
        let mut other = pubsub.subscribe("b");
        pubsub.publish("a", "1");
        pubsub.publish("a", "2");
        for subscription in [&mut one, &mut two] {
            assert_eq!(subscription.next().await.as_deref(), Ok("1"));
            assert_eq!(subscription.next().await.as_deref(), Ok("2"));
        }
        assert_eq!(other.try_next(), None);
    }

    #[tokio::test]
    async fn a_slow_subscriber_is_told_that_it_missed_messages_and_goes_on() {
        let pubsub = Pubsub::in_process();
        let mut slow = pubsub.subscribe("a");
        for number in 0..=MAX_UNREAD {
            pubsub.publish("a", &number.to_string());
        }
        assert_eq!(slow.next().await, Err(Lagged));
        assert_eq!(slow.next().await.as_deref(), Ok(&*MAX_UNREAD.to_string()));
        assert_eq!(slow.try_next(), None);
    }

    #[test]
    fn a_dropped_subscription_leaves_nothing_behind() {
        let pubsub = Pubsub::in_process();
        let (one, two) = (pubsub.subscribe("a"), pubsub.subscribe("a"));
        drop(one);
        assert_eq!(lock(&pubsub.0.channels)["a"].len(), 1);
        drop(two);
        assert!(lock(&pubsub.0.channels).is_empty());
        pubsub.publish("a", "nobody");
    }

    #[tokio::test]
    async fn a_waiting_subscriber_wakes_up() {
        let pubsub = Pubsub::in_process();
        let mut waiting = pubsub.subscribe("a");
        let message = tokio::spawn(async move { waiting.next().await });
        tokio::task::yield_now().await;
        pubsub.publish("a", "now");
        assert_eq!(message.await.unwrap().as_deref(), Ok("now"));
    }
}
