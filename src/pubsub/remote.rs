//! The way to other processes on one Postgres database: LISTEN and NOTIFY.
//!
//! Owns the task that holds the two connections: when it connects, what it sends and listens to, and how it finds out that
//! it hears nothing any more. Must never hold up who publishes or subscribes: it takes what they left in the [`Uplink`].
//!
//! **Nothing is missed unsaid.** A subscription begins at once, and LISTEN takes hold later: a message that is committed
//! between the two passes by, and the read that its subscriber began with may have come before that commit. So when a LISTEN
//! has returned, every subscription that its channel has by then is told [`Lagged`](super::Lagged) once; what the subscriber
//! reads afterwards is newer than all that passed by, and what is committed afterwards is received. A subscription that
//! begins while its channel is listened to needs nothing. A new connection listens to all channels anew, so the same rule
//! covers whatever was missed while there was none. That there is none any more is known by its error, or by our own beats
//! that do not come back. A process that had to drop messages says so to all others.
//!
//! **Own messages** are delivered at once, by [`Pubsub::publish`]. Their notifications are known by the process that serves
//! the sending connection and are passed over. Both connections begin and end together, so that this process number is
//! never one that belongs to somebody else by now. A batch whose outcome is unknown is sent again: others may hear it twice.

mod link;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use uuid::Uuid;

use self::link::Link;
use super::{MAX_PAYLOAD, Pubsub, Uplink};
use crate::clock::Clock;
use crate::store::postgres::notify::{self, Notifications};
use crate::supervise::supervised;

/// Whether a message can travel. One that cannot would fail its whole batch, again and again.
pub(super) fn carries(channel: &str, payload: &str) -> bool {
    notify::is_channel(channel) && payload.len() <= MAX_PAYLOAD && !payload.contains('\0')
}

/// Messages that were not sent before the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0} messages to other processes were not sent")]
pub struct Unsent(pub usize);

/// The running way to other processes. Dropping it cuts it off; what is published then is told to this process only.
#[derive(Debug)]
pub struct Remote {
    status: RemoteStatus,
    clock: Clock,
    ending: CancellationToken,
    task: AbortOnDropHandle<()>,
}

impl Remote {
    /// Begins to connect, and returns the pubsub that uses the connection once it is there.
    ///
    /// It works from the start: what is published waits, and what was missed is made up for.
    pub fn start(database: Notifications, clock: &Clock) -> (Pubsub, Self) {
        let uplink = Arc::new(Uplink::default());
        let pubsub = Pubsub::shared(Arc::clone(&uplink));
        let status = RemoteStatus(Arc::new(Status {
            uplink: Arc::clone(&uplink),
            connected: watch::Sender::new(false),
            counts: Counts::default(),
        }));
        let ending = CancellationToken::new();
        let link = Arc::new(Link {
            database,
            clock: clock.clone(),
            pubsub: pubsub.clone(),
            uplink,
            status: status.clone(),
            ending: ending.clone(),
            beat: format!("drpcd_beat:{}", Uuid::new_v4()).into(),
        });
        let running = clock.clone();
        let run = async move {
            let run = || {
                let link = Arc::clone(&link);
                async move { link.run().await }
            };
            supervised(&running, "messages of other servers", run).await;
        };
        let remote = Self {
            status,
            clock: clock.clone(),
            ending,
            task: AbortOnDropHandle::new(tokio::spawn(run)),
        };
        (pubsub, remote)
    }

    /// How it is doing.
    pub fn status(&self) -> &RemoteStatus {
        &self.status
    }

    /// Sends what is left, for at most `limit`, and disconnects. Whoever publishes has ended before.
    pub async fn finish(self, limit: Duration) -> Result<(), Unsent> {
        self.ending.cancel();
        tokio::select! {
            _ = self.task => {}
            () = self.clock.sleep(limit) => {}
        }
        match self.status.waiting() {
            0 => Ok(()),
            left => Err(Unsent(left)),
        }
    }
}

/// How the way to other processes is doing. Cheap to clone.
#[derive(Clone, Debug)]
pub struct RemoteStatus(Arc<Status>);

#[derive(Debug)]
struct Status {
    uplink: Arc<Uplink>,
    connected: watch::Sender<bool>,
    counts: Counts,
}

#[derive(Debug, Default)]
struct Counts {
    sent: AtomicU64,
    statements: AtomicU64,
    received: AtomicU64,
    gaps: AtomicU64,
}

impl RemoteStatus {
    /// Whether messages of other processes are heard, as far as the last beat tells.
    pub fn is_connected(&self) -> bool {
        *self.0.connected.borrow()
    }

    /// Waits until messages of other processes are heard.
    pub async fn connected(&self) {
        // The sender lives as long as `self`.
        let _ = self
            .0
            .connected
            .subscribe()
            .wait_for(|connected| *connected)
            .await;
    }

    /// Messages that are not known to be sent.
    pub fn waiting(&self) -> usize {
        self.0.uplink.outgoing.len()
    }

    /// Messages sent.
    pub fn sent(&self) -> u64 {
        self.0.counts.sent.load(Ordering::Relaxed)
    }

    /// Statements that sent messages and beats.
    pub fn statements(&self) -> u64 {
        self.0.counts.statements.load(Ordering::Relaxed)
    }

    /// Messages that there was no room for while the database was away.
    pub fn dropped(&self) -> u64 {
        self.0.uplink.outgoing.dropped()
    }

    /// Messages of other processes received.
    pub fn received(&self) -> u64 {
        self.0.counts.received.load(Ordering::Relaxed)
    }

    /// How often messages may have been missed, so that everything that is followed was read again.
    pub fn gaps(&self) -> u64 {
        self.0.counts.gaps.load(Ordering::Relaxed)
    }
}

fn count(counter: &AtomicU64, by: usize) {
    counter.fetch_add(by as u64, Ordering::Relaxed);
}
