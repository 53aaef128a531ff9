//! Connection times of agents: many agents, one statement.
//!
//! Owns which connects, heartbeats and disconnects are not yet written, and writes them: connects and disconnects
//! within [`WRITE_DELAY`], heartbeats when they are due. A write that fails stays queued, newest wins, and is tried
//! again, so a store that is away never ends a session. Must never decide who is connected: sessions tell it.
//!
//! The columns and their order are those of coder/coder `coderd/workspaceagentsrpc.go`
//! (`agentConnectionMonitor`), which writes them agent by agent.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::clock::{Clock, Timestamp};
use crate::ids::{AgentId, ReplicaId, UserId, WorkspaceId};
use crate::pubsub::{Pubsub, WorkspaceEvent, WorkspaceEventKind};
use crate::store::{ConnectionChange, Store, StoreError};

/// How long a connect or disconnect waits for company. Short enough that a status page is right at once, long enough
/// that a start storm of thousands of agents costs ten statements a second.
pub const WRITE_DELAY: Duration = Duration::from_millis(100);

/// Pause after a failed write. The store was just away, and readers tolerate 30 s.
const RETRY_DELAY: Duration = Duration::from_secs(1);

/// Whom a workspace event is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subject {
    /// The agent.
    pub agent_id: AgentId,
    /// Its workspace.
    pub workspace_id: WorkspaceId,
    /// The workspace's owner when the session began.
    pub owner_id: UserId,
}

/// Queues connection times and writes them in batches. Cheap to clone.
///
/// What is queued is bounded by the number of agents: there is one entry per agent and kind, of events too.
#[derive(Clone, Debug)]
pub struct ConnectionTimes(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    store: Arc<dyn Store>,
    pubsub: Pubsub,
    clock: Clock,
    replica: ReplicaId,
    /// Time between heartbeats of every replica.
    tick: Duration,
    queue: Mutex<Queue>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct Queue {
    connects: HashMap<AgentId, Timestamp>,
    disconnects: HashMap<AgentId, Timestamp>,
    heartbeats: Heartbeats,
    /// Published once the write that they tell of has happened.
    events: BTreeMap<AgentId, Events>,
}

/// What an event tells of. It says no more than that the times are to be read again, so the newest of a kind tells of all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Connect,
    Disconnect,
}

/// Events of an agent: the newest of each kind, in the order in which they happened.
#[derive(Clone, Copy, Debug)]
struct Events {
    /// Of the other kind than the last.
    before: Option<(Kind, Subject)>,
    last: (Kind, Subject),
}

impl Events {
    fn add(&mut self, kind: Kind, subject: Subject) {
        if self.last.0 != kind {
            self.before = Some(self.last);
        }
        self.last = (kind, subject);
    }

    fn iter(&self) -> impl Iterator<Item = (Kind, Subject)> + use<> {
        self.before.into_iter().chain([self.last])
    }
}

#[derive(Debug, Default)]
struct Heartbeats {
    at: Option<Timestamp>,
    agents: HashSet<AgentId>,
}

impl Queue {
    fn is_empty(&self) -> bool {
        self.connects.is_empty() && self.disconnects.is_empty() && self.heartbeats.at.is_none()
    }

    fn tell(&mut self, kind: Kind, subject: Subject) {
        let last = (kind, subject);
        self.events
            .entry(subject.agent_id)
            .and_modify(|events| events.add(kind, subject))
            .or_insert(Events { before: None, last });
    }
}

impl ConnectionTimes {
    /// Writes to `store` as `replica`, whose heartbeats are due each `tick`; [`ConnectionTimes::run`] must be driven for
    /// anything to happen.
    pub fn new(
        store: Arc<dyn Store>,
        pubsub: Pubsub,
        clock: Clock,
        replica: ReplicaId,
        tick: Duration,
    ) -> Self {
        let (queue, changed) = (Mutex::default(), Notify::new());
        Self(Arc::new(Inner {
            store,
            pubsub,
            clock,
            replica,
            tick,
            queue,
            changed,
        }))
    }

    /// A session of an agent began.
    pub fn connected(&self, subject: Subject) {
        let at = self.0.clock.now();
        let mut queue = self.0.queue();
        queue.connects.insert(subject.agent_id, at);
        // What an earlier session left to write would make the agent look gone, or seen last before it came.
        queue.disconnects.remove(&subject.agent_id);
        queue.heartbeats.agents.remove(&subject.agent_id);
        queue.tell(Kind::Connect, subject);
        drop(queue);
        self.0.changed.notify_one();
    }

    /// A session of an agent ended, and no newer one of it lives here when `last` is true.
    pub fn disconnected(&self, subject: Subject, last: bool) {
        let at = self.0.clock.now();
        let mut queue = self.0.queue();
        if last {
            queue.heartbeats.agents.remove(&subject.agent_id);
            queue.disconnects.insert(subject.agent_id, at);
        }
        queue.tell(Kind::Disconnect, subject);
        drop(queue);
        self.0.changed.notify_one();
    }

    /// Sessions of `agents` live now. Replaces what an earlier tick could not write.
    pub fn heartbeat(&self, agents: HashSet<AgentId>) {
        let at = self.0.clock.now();
        self.0.queue().heartbeats = Heartbeats {
            at: (!agents.is_empty()).then_some(at),
            agents,
        };
        self.0.changed.notify_one();
    }

    /// Writes what is queued until `shutdown`, then what is left, trying for as long as it is polled.
    pub async fn run(&self, shutdown: CancellationToken) {
        let mut outage = Outage::default();
        while !shutdown.is_cancelled() {
            tokio::select! {
                () = self.0.changed.notified() => {}
                () = shutdown.cancelled() => {}
            }
            // At the end nobody is waited for.
            tokio::select! {
                () = self.0.clock.sleep(WRITE_DELAY) => {}
                () = shutdown.cancelled() => {}
            }
            while let Err(error) = self.0.write().await {
                outage.failed(&error);
                self.0.clock.sleep(RETRY_DELAY).await;
            }
            outage.over();
        }
    }
}

#[cfg(test)]
impl ConnectionTimes {
    /// Writes what is queued now.
    pub(crate) async fn flush(&self) -> Result<(), StoreError> {
        self.0.write().await
    }

    /// Entries that are queued: times, and events.
    pub(crate) fn queued(&self) -> (usize, usize) {
        let queue = self.0.queue();
        let times = queue.connects.len() + queue.disconnects.len() + queue.heartbeats.agents.len();
        (times, queue.events.values().flat_map(Events::iter).count())
    }
}

impl Inner {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        // A panic while it was held left at worst one entry out.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn write(&self) -> Result<(), StoreError> {
        let mut taken = std::mem::take(&mut *self.queue());
        let result = self.write_all(&mut taken).await;
        if result.is_err() {
            self.put_back(taken);
            return result;
        }
        for (_, subject) in taken.events.values().flat_map(Events::iter) {
            let event = WorkspaceEvent {
                kind: WorkspaceEventKind::AgentConnectionUpdate,
                workspace_id: subject.workspace_id,
                agent_id: Some(subject.agent_id),
            };
            self.pubsub.publish_workspace_event(subject.owner_id, &event);
        }
        Ok(())
    }

    /// In this order: a session that began and ended within one delay must be left as ended.
    async fn write_all(&self, taken: &mut Queue) -> Result<(), StoreError> {
        if !taken.connects.is_empty() {
            self.store
                .record_connects(self.replica, &changes(&taken.connects), self.clock.now())
                .await?;
            taken.connects.clear();
        }
        if let Some(at) = taken.heartbeats.at {
            let mut agents: Vec<_> = taken.heartbeats.agents.iter().copied().collect();
            agents.sort_unstable();
            self.store
                .record_heartbeats(self.replica, &agents, at, self.tick)
                .await?;
            taken.heartbeats = Heartbeats::default();
        }
        if !taken.disconnects.is_empty() {
            self.store
                .record_disconnects(self.replica, &changes(&taken.disconnects))
                .await?;
            taken.disconnects.clear();
        }
        Ok(())
    }

    /// Returns what was not written to the queue, behind whatever has come since.
    fn put_back(&self, mut taken: Queue) {
        let mut queue = self.queue();
        for (kind, subject) in queue.events.values().flat_map(Events::iter) {
            taken.tell(kind, subject);
        }
        queue.events = taken.events;
        for (agent, at) in taken.disconnects {
            // A newer session has begun meanwhile, or a newer end is queued.
            if !queue.connects.contains_key(&agent) {
                queue.disconnects.entry(agent).or_insert(at);
            }
        }
        for (agent, at) in taken.connects {
            queue.connects.entry(agent).or_insert(at);
        }
        if queue.heartbeats.at.is_none() && taken.heartbeats.at.is_some() {
            let mut heartbeats = taken.heartbeats;
            heartbeats
                .agents
                .retain(|agent| !queue.disconnects.contains_key(agent));
            if !heartbeats.agents.is_empty() {
                queue.heartbeats = heartbeats;
            }
        }
        if !queue.is_empty() {
            self.changed.notify_one();
        }
    }
}

/// Sorted by agent, so that replicas lock rows in one order.
fn changes(map: &HashMap<AgentId, Timestamp>) -> Vec<ConnectionChange> {
    let mut changes: Vec<_> = map
        .iter()
        .map(|(&agent_id, &at)| ConnectionChange { agent_id, at })
        .collect();
    changes.sort_unstable_by_key(|change| change.agent_id);
    changes
}

/// Says once that writing fails, and once that it works again.
#[derive(Debug, Default)]
struct Outage {
    lasting: bool,
}

impl Outage {
    fn failed(&mut self, error: &StoreError) {
        if !std::mem::replace(&mut self.lasting, true) {
            tracing::error!(%error, "failed to update agent connection times");
        }
    }

    fn over(&mut self) {
        if std::mem::take(&mut self.lasting) {
            tracing::info!("agent connection times are written again");
        }
    }
}
