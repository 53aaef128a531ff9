//! Messages on their way to other processes.
//!
//! Owns what was published and is not known to be sent, in order, each message at most once, and how much that may be.
//! Must never make a publisher wait, and never lose a message silently: when there is too much, the oldest go, they are
//! counted, and what is left tells the other processes that there were some.

#[cfg(test)]
mod tests;

use std::collections::{HashSet, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard};

use tokio::sync::Notify;

use super::lock;

/// What may wait in all, for a database that is away: some 45,000 different events about agents, which is more than a
/// replica's agents cause when all of them come or go.
pub(crate) const MAX_BYTES: usize = 16 << 20;

/// What a waiting message takes beside its texts: its places in the queue and in the set, and two allocations.
const OVERHEAD: usize = 160;

/// Messages in one statement. Postgres takes that many in a few milliseconds, for which it holds the lock that everybody
/// needs who notifies.
const MAX_BATCH: usize = 1_000;

/// Bytes of one statement, as counted in [`MAX_BYTES`].
const MAX_BATCH_BYTES: usize = 1 << 20;

/// Where processes tell each other that messages were lost on their way, so that whatever is followed has to be read again.
pub(super) const GAP_CHANNEL: &str = "drpcd_gap";

/// A message, equal to another one that says the same.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Message {
    pub(super) channel: Arc<str>,
    pub(super) payload: Arc<str>,
}

impl Message {
    pub(super) fn new(channel: &str, payload: &str) -> Self {
        Self {
            channel: channel.into(),
            payload: payload.into(),
        }
    }

    fn size(&self) -> usize {
        self.channel.len() + self.payload.len() + OVERHEAD
    }
}

/// The queue of all messages that leave this process.
#[derive(Default)]
pub(super) struct Outgoing {
    state: Mutex<State>,
    added: Notify,
}

/// How many they are, as they may be tens of thousands.
impl fmt::Debug for Outgoing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Outgoing")
            .field("len", &self.len())
            .finish_non_exhaustive()
    }
}

#[derive(Default)]
struct State {
    waiting: VecDeque<Message>,
    /// What is in `waiting`. A message that is published again says nothing new until it has left: whoever receives it
    /// reads what it is about afterwards.
    known: HashSet<Message>,
    /// Sizes of what is in `waiting`.
    bytes: usize,
    /// The batch under way.
    leaving: Vec<Message>,
    /// Messages for which there was no room, ever.
    dropped: u64,
    /// There was a warning since a batch was last sent.
    warned: bool,
}

impl Outgoing {
    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// Adds a message behind all others.
    pub(super) fn push(&self, message: Message) {
        let mut state = self.state();
        let warn = state.add(message) && !std::mem::replace(&mut state.warned, true);
        drop(state);
        self.added.notify_one();
        if warn {
            tracing::warn!(
                most = MAX_BYTES,
                "too many messages wait for the database, the oldest are dropped"
            );
        }
    }

    /// Waits until there may be messages. Cancel safe.
    pub(super) async fn added(&self) {
        self.added.notified().await;
    }

    /// The oldest messages, for one statement. They are under way until [`Outgoing::sent`] or [`Outgoing::put_back`].
    pub(super) fn take(&self) -> Vec<Message> {
        let mut state = self.state();
        let mut bytes = 0;
        while state.leaving.len() < MAX_BATCH
            && let Some(message) = state.waiting.front()
            && (state.leaving.is_empty() || bytes + message.size() <= MAX_BATCH_BYTES)
        {
            bytes += message.size();
            let message = state.remove_oldest();
            state.leaving.extend(message);
        }
        state.leaving.clone()
    }

    /// The batch under way has been sent. How many messages it had.
    pub(super) fn sent(&self) -> usize {
        let mut state = self.state();
        state.warned = false;
        std::mem::take(&mut state.leaving).len()
    }

    /// The batch under way, if there is one, may not have been sent: it goes again, before all others, but for what was
    /// published again meanwhile.
    pub(super) fn put_back(&self) {
        let mut state = self.state();
        for message in std::mem::take(&mut state.leaving).into_iter().rev() {
            if state.known.insert(message.clone()) {
                state.bytes += message.size();
                state.waiting.push_front(message);
            }
        }
        state.make_room();
    }

    /// How many messages are not known to be sent.
    pub(super) fn len(&self) -> usize {
        let state = self.state();
        state.waiting.len() + state.leaving.len()
    }

    /// How many messages there was no room for, since the start.
    pub(super) fn dropped(&self) -> u64 {
        self.state().dropped
    }
}

impl State {
    /// Whether others had to go for it.
    fn add(&mut self, message: Message) -> bool {
        if !self.known.insert(message.clone()) {
            return false;
        }
        self.bytes += message.size();
        self.waiting.push_back(message);
        self.make_room()
    }

    /// Drops the oldest that are too many, and leaves word of it. Whether there were any.
    fn make_room(&mut self) -> bool {
        let mut any = false;
        while self.bytes > MAX_BYTES {
            let Some(oldest) = self.remove_oldest() else { break };
            // That there was a gap is all that this one said, and it is said again.
            self.dropped += u64::from(&*oldest.channel != GAP_CHANNEL);
            any = true;
        }
        if any {
            self.add(Message::new(GAP_CHANNEL, ""));
        }
        any
    }

    fn remove_oldest(&mut self) -> Option<Message> {
        let message = self.waiting.pop_front()?;
        self.known.remove(&message);
        self.bytes -= message.size();
        Some(message)
    }
}
