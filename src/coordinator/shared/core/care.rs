//! What happens by itself in the course of time: heartbeats, refreshes, and what a database that is away means to peers.

use std::time::Duration;

use super::super::health::Beat;
use super::{Core, End, Outbox, UNHEALTHY};
use crate::clock::Instant;
use crate::coordinator::{PeerId, Role};

/// How long a replica that has become unhealthy takes to send away clients that it cannot serve: not all shall come to
/// the others at once.
const SEND_AWAY_WITHIN: Duration = Duration::from_secs(5);

/// What is due at some time.
#[derive(Debug)]
pub(super) struct Care {
    /// When everything is read again, in case a notification was lost.
    refresh_at: Instant,
    /// When everything is read again, as notifications were missed.
    resync_at: Option<Instant>,
    unhealthy_since: Option<Instant>,
    /// This replica's rows may not be what was written.
    check_own_rows: bool,
}

impl Care {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            refresh_at: now,
            resync_at: None,
            unhealthy_since: None,
            check_own_rows: false,
        }
    }

    /// Whether everything will be read again, as notifications were missed.
    pub(super) fn is_resync_due(&self) -> bool {
        self.resync_at.is_some()
    }

    /// Nothing is due any more.
    pub(super) fn end(&mut self) {
        self.resync_at = None;
        self.unhealthy_since = None;
        self.check_own_rows = false;
    }

    pub(super) fn check_own_rows(&mut self) {
        self.check_own_rows = true;
    }
}

impl Core {
    /// Whether the database may be asked for anything.
    pub(in crate::coordinator::shared) fn is_open(&self) -> bool {
        self.health.is_open()
    }

    /// A heartbeat was written; `anew` if nothing of this replica was stored any more. True if some before it had failed.
    pub(in crate::coordinator::shared) fn beat_succeeded(&mut self, anew: bool) -> bool {
        let beat = self.health.succeeded();
        self.care.unhealthy_since = None;
        self.notify_heartbeat();
        if self.closed {
            return beat == Beat::Recovered;
        }
        if beat == Beat::Recovered {
            tracing::info!("the coordinator reaches the database again");
            self.replicas.forget_rows();
            self.read_everything();
        }
        // A row that was there before the first beat is that of a coordinator which this one follows, and may have left more.
        let unexpected = match beat {
            Beat::Recovered => true,
            Beat::Another => anew,
            Beat::First => !anew,
        };
        if unexpected || self.care.check_own_rows {
            self.care.check_own_rows = false;
            self.reads.own_rows.want();
        }
        beat == Beat::Recovered
    }

    /// Triggers of the database notify of what is written, or do not. What was written while nobody did, others read at
    /// their next refresh.
    pub(in crate::coordinator::shared) fn set_triggers_notify(&mut self, notify: bool) {
        if self.setting.triggers_notify != notify {
            self.setting.triggers_notify = notify;
            self.echoes.clear();
            tracing::info!(
                notify,
                "whether triggers of the database tell other replicas has changed"
            );
        }
    }

    /// A heartbeat could not be written.
    ///
    /// Once too many in a row could not, every peer is told. Streams of agents stay open: an agent whose stream ends drops
    /// its session, and comes back no sooner than it would be served here. Clients that have a tunnel to a peer of another
    /// replica are sent away bit by bit, as others may serve them. What is between peers of this replica goes on.
    pub(in crate::coordinator::shared) fn beat_failed(&mut self, now: Instant) {
        if !self.health.failed() {
            return;
        }
        tracing::error!("the coordinator does not reach the database");
        self.care.unhealthy_since = Some(now);
        let ids: Vec<PeerId> = self.peers.keys().copied().collect();
        for id in ids {
            let tell = |outbox: &mut Outbox| outbox.tell_error(|| UNHEALTHY.to_owned());
            self.tell_seat(id, tell);
        }
    }

    /// The row of this replica was not there when another row needed it.
    pub(in crate::coordinator::shared) fn own_row_is_missing(&mut self) {
        self.care.check_own_rows();
    }

    /// Notifications were missed: everything is read at `resync_at`, to which others that were missed until then are added.
    /// Who lives is read at once, as all else is judged by that.
    pub(in crate::coordinator::shared) fn missed(&mut self, resync_at: Instant) {
        if self.closed {
            return;
        }
        self.echoes.clear();
        self.care.resync_at.get_or_insert(resync_at);
        self.reads.heartbeats.want();
    }

    /// Does what is due. True if the next refresh has to be set by [`Core::refresh_at`].
    pub(in crate::coordinator::shared) fn tick(&mut self, now: Instant) -> bool {
        self.echoes.expire(now);
        if self.closed {
            return false;
        }
        if self.replicas.wants_look(now) {
            self.reads.heartbeats.want();
        }
        let resync = self.care.resync_at.take_if(|at| *at <= now).is_some();
        let refresh = self.care.refresh_at <= now;
        if resync || refresh {
            self.read_everything();
        }
        if let Some(since) = self.care.unhealthy_since {
            self.send_away(now.saturating_duration_since(since));
        }
        refresh
    }

    /// When everything is read next.
    pub(in crate::coordinator::shared) fn refresh_at(&mut self, at: Instant) {
        self.care.refresh_at = at;
    }

    /// Ends connections of clients that other replicas may serve better, each when its time has come.
    fn send_away(&mut self, unhealthy_for: Duration) {
        let clients = self.peers.iter().filter(|(id, peer)| {
            let is_client = peer.seat.as_ref().is_some_and(|seat| seat.role == Role::Client);
            is_client && unhealthy_for >= turn(**id)
        });
        let clients: Vec<PeerId> = clients.map(|(id, _)| *id).collect();
        // Who is left decides which tunnels have both ends here, so nobody leaves before all are looked at.
        let leaving: Vec<PeerId> = clients
            .into_iter()
            .filter(|id| !self.is_served_here(*id))
            .collect();
        for id in leaving {
            self.leave(id, End::SentAway);
        }
    }

    /// Whether a peer has tunnels, all of them to peers that are connected here.
    fn is_served_here(&self, id: PeerId) -> bool {
        let mut neighbours = self.edges.neighbours(id).peekable();
        neighbours.peek().is_some() && neighbours.all(|other| self.is_connected(other))
    }
}

/// When the turn of a peer comes: ids are random, and so are these times.
fn turn(id: PeerId) -> Duration {
    let [.., a, b] = *id.as_bytes();
    SEND_AWAY_WITHIN.mul_f64(f64::from(u16::from_be_bytes([a, b])) / f64::from(u16::MAX))
}
