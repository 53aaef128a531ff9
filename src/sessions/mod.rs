//! The sessions that live in this process, and what is due to them: liveness, heartbeats, the build check, closing.
//!
//! Owns the list of sessions and one tick for all of them; nothing per session runs on a timer. Must never touch
//! frames or rows itself: closing goes through a session's control, times through
//! [`ConnectionTimes`](crate::batch::connections::ConnectionTimes).
//!
//! The rules are those of coder/coder `coderd/workspaceagentsrpc.go` (`agentConnectionMonitor`), batched over agents;
//! where they differ, `docs/DEVIATIONS.md` says so.

mod monitor;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

use crate::batch::connections::{ConnectionTimes, Subject};
use crate::client_token::ClientTokenId;
use crate::clock::Clock;
use crate::ids::{AgentId, BuildId};
use crate::mux::{CloseCause, Control};
use crate::store::Store;

/// How often sessions are looked at, and after how much silence they are closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MonitorConfig {
    /// Time between ticks, and the silence after which a session is pinged. The original's 15 s by default.
    pub update_frequency: Duration,
    /// Silence after which a session is closed at a tick; twice the frequency by default, never below 2 s.
    pub inactive_timeout: Duration,
}

/// The original never goes below it, whatever the frequency.
const MIN_INACTIVE_TIMEOUT: Duration = Duration::from_secs(2);

impl MonitorConfig {
    /// Ticks every `update_frequency`; `None` or zero for the timeout is twice that.
    pub fn new(update_frequency: Duration, inactive_timeout: Option<Duration>) -> Self {
        let timeout = inactive_timeout
            .filter(|timeout| !timeout.is_zero())
            .unwrap_or(update_frequency * 2);
        Self {
            update_frequency,
            inactive_timeout: timeout.max(MIN_INACTIVE_TIMEOUT),
        }
    }
}

impl Default for MonitorConfig {
    fn default() -> Self {
        Self::new(Duration::from_secs(15), None)
    }
}

/// What a session is to the monitor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionInfo {
    /// Whose session, and whom its events are about.
    pub subject: Subject,
    /// The build that it was authenticated with.
    pub build_id: BuildId,
    /// Whether it is the agent itself. A helper's session is only watched for liveness.
    pub role: Role,
}

/// Who dialed with an agent's token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The workspace agent.
    Agent,
    /// Something else that uses its token, such as a log streamer.
    Helper,
}

impl Role {
    /// Reads the query parameter `role`: absent, empty and `agent` are the agent, anything else is not.
    pub fn from_query(role: Option<&str>) -> Self {
        match role {
            None | Some("" | "agent") => Self::Agent,
            Some(_) => Self::Helper,
        }
    }
}

/// Revocations that are remembered for sessions that were about to begin; a handshake takes seconds, and operators
/// revoke by hand.
const MAX_REVOKED: usize = 1_024;

/// Why the session of a client ends whose token was revoked.
const TOKEN_REVOKED: &str = "token revoked";

/// Whose a session is.
#[derive(Clone, Copy, Debug)]
enum Holder {
    /// An agent's token.
    Agent(SessionInfo),
    /// A client's, which is only watched for liveness and revocation.
    Client(ClientTokenId),
}

/// The sessions of this process. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Sessions(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    clock: Clock,
    store: Arc<dyn Store>,
    times: ConnectionTimes,
    config: MonitorConfig,
    live: Mutex<Live>,
    /// Told whenever a session ends.
    ended: Notify,
}

#[derive(Debug, Default)]
struct Live {
    /// Ascending; a higher number is a newer session.
    next: u64,
    sessions: HashMap<u64, Session>,
    /// The newest session of each agent proper.
    newest: HashMap<AgentId, u64>,
    /// The newest revocations.
    revoked: VecDeque<ClientTokenId>,
}

#[derive(Clone, Debug)]
struct Session {
    holder: Holder,
    control: Control,
}

impl Session {
    /// What the session of an agent proper is about.
    fn agent(&self) -> Option<&SessionInfo> {
        match &self.holder {
            Holder::Agent(info) if info.role == Role::Agent => Some(info),
            Holder::Agent(_) | Holder::Client(_) => None,
        }
    }
}

impl Sessions {
    /// No sessions yet. [`Sessions::run`] must be driven for ticks to happen.
    pub fn new(clock: Clock, store: Arc<dyn Store>, times: ConnectionTimes, config: MonitorConfig) -> Self {
        Self(Arc::new(Inner {
            clock,
            store,
            times,
            config,
            live: Mutex::default(),
            ended: Notify::new(),
        }))
    }

    /// Adds a session that is about to be served. It counts until the guard is dropped.
    #[must_use = "the session ends when the guard is dropped"]
    pub fn add(&self, info: SessionInfo, control: Control) -> SessionGuard {
        let mut live = self.0.live();
        let number = live.add(Holder::Agent(info), control);
        if info.role == Role::Agent {
            live.newest.insert(info.subject.agent_id, number);
        }
        drop(live);
        if info.role == Role::Agent {
            self.0.times.connected(info.subject);
        }
        self.guard(number)
    }

    /// Adds the session of a client, as [`Sessions::add`]. One whose token was revoked meanwhile is closed at once.
    #[must_use = "the session ends when the guard is dropped"]
    pub fn add_client(&self, token: ClientTokenId, control: Control) -> SessionGuard {
        let mut live = self.0.live();
        if live.revoked.contains(&token) {
            control.close(CloseCause::Requested, TOKEN_REVOKED);
        }
        let number = live.add(Holder::Client(token), control);
        drop(live);
        self.guard(number)
    }

    /// Closes the sessions of a client's token, which is good no more.
    pub fn revoke(&self, token: ClientTokenId) {
        let mut live = self.0.live();
        if live.revoked.len() == MAX_REVOKED {
            live.revoked.pop_front();
        }
        live.revoked.push_back(token);
        drop(live);
        for session in self.0.snapshot() {
            if matches!(session.holder, Holder::Client(other) if other == token) {
                tracing::info!(%token, reason = TOKEN_REVOKED, "disconnecting client");
                session.control.close(CloseCause::Requested, TOKEN_REVOKED);
            }
        }
    }

    /// The tokens of the clients whose sessions live, each once.
    pub fn client_tokens(&self) -> HashSet<ClientTokenId> {
        let live = self.0.live();
        let token = |session: &Session| match session.holder {
            Holder::Client(token) => Some(token),
            Holder::Agent(_) => None,
        };
        live.sessions.values().filter_map(token).collect()
    }

    fn guard(&self, number: u64) -> SessionGuard {
        SessionGuard {
            sessions: Arc::clone(&self.0),
            number,
        }
    }

    /// How many sessions live.
    pub fn len(&self) -> usize {
        self.0.live().sessions.len()
    }

    /// Whether no session lives.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Closes all sessions, spread evenly over `over`, and waits until they have ended.
    ///
    /// The caller stops accepting first.
    pub async fn drain(&self, over: Duration) {
        let sessions = self.0.snapshot();
        let pause = over
            .checked_div(u32::try_from(sessions.len()).unwrap_or(u32::MAX))
            .unwrap_or_default();
        let start = self.0.clock.monotonic();
        for (index, session) in sessions.into_iter().enumerate() {
            session.control.close(CloseCause::Draining, "server shutdown");
            let due = start + pause.saturating_mul(u32::try_from(index + 1).unwrap_or(u32::MAX));
            if due > self.0.clock.monotonic() {
                tokio::time::sleep_until(due).await;
            }
        }
        loop {
            let ended = self.0.ended.notified();
            if self.is_empty() {
                return;
            }
            ended.await;
        }
    }

    /// Ticks for as long as it is polled; never returns.
    pub async fn run(&self) {
        monitor::run(&self.0).await;
    }
}

impl Live {
    fn add(&mut self, holder: Holder, control: Control) -> u64 {
        let number = self.next;
        self.next += 1;
        self.sessions.insert(number, Session { holder, control });
        number
    }
}

impl Inner {
    fn live(&self) -> MutexGuard<'_, Live> {
        // Nothing that runs under the lock leaves it half-changed.
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn snapshot(&self) -> Vec<Session> {
        self.live().sessions.values().cloned().collect()
    }
}

/// Keeps a session on the list.
#[derive(Debug)]
pub struct SessionGuard {
    sessions: Arc<Inner>,
    number: u64,
}

impl Drop for SessionGuard {
    fn drop(&mut self) {
        let mut live = self.sessions.live();
        let Some(session) = live.sessions.remove(&self.number) else {
            return;
        };
        let ended = session.agent().map(|info| {
            let agent_id = info.subject.agent_id;
            let newest = live.newest.get(&agent_id) == Some(&self.number);
            if newest {
                live.newest.remove(&agent_id);
            }
            (info.subject, newest)
        });
        drop(live);
        if let Some((subject, newest)) = ended {
            self.sessions.times.disconnected(subject, newest);
        }
        self.sessions.ended.notify_waiters();
    }
}
