//! The tasks of a coordinator: one for each kind of statement, one that hears other replicas, one for the time.
//!
//! Each takes from the core what there is to do, runs it, and gives the result back. A short pause before a batch lets
//! others join it. What fails is tried again without end, after a pause that grows, and at once when a heartbeat shows
//! that the database answers again; while none does, nothing else is tried.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::Shared;
use super::core::{Core, Read, RowBatch, TunnelBatch, WrittenRows};
use super::notices::{self, Notice};
use super::replicas::HEARTBEAT;
use crate::pubsub::{Lagged, Subscription};
use crate::store::{PeerWrite, StoreError};
use crate::supervise::supervised;

/// How long writes wait for company. Others hear of a change later by as much.
const WRITE_DELAY: Duration = Duration::from_millis(20);

/// How long reads wait for company; see above.
const READ_DELAY: Duration = Duration::from_millis(10);

/// Rows of peers in one statement.
const MAX_ROWS: usize = 256;

/// Rows of tunnels in one statement.
const MAX_TUNNELS: usize = 1_024;

/// Pauses after a failure: the first, and the longest. A lock on one table, or a pool without a connection, does not keep
/// heartbeats from being written, so that their recovery ends no pause: what waited goes on within five seconds all the same,
/// two of which are for the statements themselves.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const MAX_PAUSE: Duration = Duration::from_secs(3);

/// How long a heartbeat may take; a later one says nothing.
const BEAT_LIMIT: Duration = HEARTBEAT;

/// Time between heartbeats while they fail too often: as soon as the database answers, everything goes on.
const BEAT_AGAIN: Duration = Duration::from_secs(1);

/// How often it is looked what is due.
const TICK: Duration = Duration::from_millis(500);

/// At most how long after it was lost a notification is made up for.
const REFRESH: Duration = Duration::from_secs(30);

/// Replicas that missed notifications at the same time do not all read at the same time.
const RESYNC_WITHIN: Duration = Duration::from_millis(500);

/// Notifications of one channel that may be unread: those of all peers of a replica that ends. Each holds at most 73
/// characters, so together they have some megabytes at most.
const MAX_UNREAD: usize = 32 * 1_024;

/// Notifications that are taken with the lock held once.
const NOTICES_AT_ONCE: usize = 256;

/// How often the tables are cleaned up, how many rows of each kind by one statement, and the pause between two.
const CLEANUP: Duration = Duration::from_hours(1);
const CLEANUP_ROWS: u32 = 1_000;
const CLEANUP_PAUSE: Duration = Duration::from_millis(200);

/// Statements of one cleanup: what a busy day leaves behind, and the rest an hour later.
const CLEANUP_BATCHES: u32 = 1_000;

/// Starts the tasks. Those that use the database wait for `before`.
pub(super) fn spawn(shared: &Arc<Shared>, before: &CancellationToken) -> JoinSet<()> {
    let mut tasks = JoinSet::new();
    // Heard from here on, before anything is read.
    let mut heard = Some(Heard::subscribe(shared));
    let this = Arc::clone(shared);
    tasks.spawn(async move {
        let run = || {
            let (this, heard) = (Arc::clone(&this), heard.take());
            async move {
                let heard = heard.unwrap_or_else(|| {
                    let anew = Heard::subscribe(&this);
                    this.change(|core| core.missed(this.clock.monotonic()));
                    anew
                });
                this.hear(heard).await;
            }
        };
        supervised(&this.clock, "coordinator: hearing others", run).await;
    });
    let mut spawn = |name: &'static str, run: Run, recover: fn(&mut Core)| {
        let (shared, before) = (Arc::clone(shared), before.clone());
        tasks.spawn(async move {
            before.cancelled().await;
            let mut again = false;
            let run = || {
                let (shared, again) = (Arc::clone(&shared), std::mem::replace(&mut again, true));
                async move {
                    if again {
                        shared.change(recover);
                    }
                    run(shared).await;
                }
            };
            supervised(&shared.clock, name, run).await;
        });
    };
    spawn(
        "coordinator: heartbeats",
        |shared| Box::pin(shared.beat()),
        |_| {},
    );
    spawn("coordinator: time", |shared| Box::pin(shared.tick()), |_| {});
    spawn(
        "coordinator: peers",
        |shared| Box::pin(shared.write_rows()),
        Core::row_writer_vanished,
    );
    spawn(
        "coordinator: tunnels",
        |shared| Box::pin(shared.write_tunnels()),
        Core::tunnel_writer_vanished,
    );
    spawn(
        "coordinator: reads",
        |shared| Box::pin(shared.read()),
        Core::reader_vanished,
    );
    spawn(
        "coordinator: cleanup",
        |shared| Box::pin(shared.clean_up()),
        |_| {},
    );
    tasks
}

type Run = fn(Arc<Shared>) -> std::pin::Pin<Box<dyn Future<Output = ()> + Send>>;

/// How fast failing work is tried again, and how much of it at a time.
struct Pace {
    pause: Duration,
    limit: usize,
    most: usize,
}

impl Pace {
    fn new(most: usize) -> Self {
        Self {
            pause: FIRST_PAUSE,
            limit: most,
            most,
        }
    }

    fn succeeded(&mut self) {
        self.pause = FIRST_PAUSE;
        self.limit = (self.limit * 2).min(self.most);
    }

    /// What the database refuses may be the fault of one of many: they are tried in smaller batches.
    fn failed(&mut self, error: &StoreError) {
        if !error.is_unavailable() {
            self.limit = (self.limit / 2).max(1);
        }
    }

    /// Waits until it is time to try again.
    async fn pause(&mut self, shared: &Shared) {
        let recovered = shared.recovered.notified();
        tokio::select! {
            () = recovered => self.pause = FIRST_PAUSE,
            () = shared.clock.sleep(self.pause) => self.pause = (self.pause * 2).min(MAX_PAUSE),
        }
    }
}

impl Shared {
    /// Writes heartbeats, each after a look who notifies of it: without, others give this replica up.
    async fn beat(self: Arc<Self>) {
        let replica = self.state().core.setting().replica;
        let write = async || {
            let triggers_notify = self.database.triggers_notify().await?;
            self.change(|core| core.set_triggers_notify(triggers_notify));
            self.database.beat(replica).await
        };
        loop {
            let began = self.clock.monotonic();
            let written = tokio::select! {
                written = write() => written,
                () = self.clock.sleep(BEAT_LIMIT) => {
                    Err(StoreError::Unavailable("no answer in time".to_owned()))
                }
            };
            let now = self.clock.monotonic();
            let healthy = match written {
                Ok(anew) => {
                    if self.change(|core| core.beat_succeeded(anew)) {
                        self.recovered.notify_waiters();
                    }
                    true
                }
                Err(error) => {
                    tracing::warn!(%error, "a heartbeat could not be written");
                    self.change(|core| core.beat_failed(now));
                    self.state().core.is_open()
                }
            };
            let period = if healthy { HEARTBEAT } else { BEAT_AGAIN };
            let next = period.saturating_sub(now.saturating_duration_since(began));
            tokio::select! {
                () = self.clock.sleep(next) => {}
                () = self.beat_due.notified() => {}
            }
        }
    }

    /// Does what is due at some time.
    async fn tick(self: Arc<Self>) {
        let mut ticks = self.clock.interval(TICK);
        loop {
            ticks.tick().await;
            let now = self.clock.monotonic();
            if self.change(|core| core.tick(now)) {
                // Earlier by chance, so that replicas which started together drift apart.
                let next = now + REFRESH.mul_f64(rand::random_range(0.8..1.0));
                self.change(|core| core.refresh_at(next));
            }
        }
    }

    /// Writes rows of peers.
    async fn write_rows(self: Arc<Self>) {
        let mut pace = Pace::new(MAX_ROWS);
        loop {
            self.rows_due.notified().await;
            self.clock.sleep(WRITE_DELAY).await;
            let now = self.clock.monotonic();
            let Some(batch) = self.change(|core| core.is_open().then(|| core.take_rows(pace.limit, now)))
            else {
                continue;
            };
            match self.write_row_batch(&batch).await {
                Ok(written) => {
                    pace.succeeded();
                    self.change(|core| core.rows_written(batch, &written, self.clock.monotonic()));
                }
                Err(error) => {
                    self.failed("peers", &error, &mut pace);
                    self.change(|core| core.rows_failed(batch));
                    pace.pause(&self).await;
                }
            }
        }
    }

    async fn write_row_batch(&self, batch: &RowBatch) -> Result<WrittenRows, StoreError> {
        let replica = self.state().core.setting().replica;
        let mut written = WrittenRows::default();
        if !batch.put.is_empty() {
            let put = batch.put.iter().map(|(id, node, lost)| PeerWrite {
                id: *id,
                lost: *lost,
                node: node.as_bytes(),
            });
            let put: Vec<_> = put.collect();
            written.put = self.database.put_peers(replica, &put).await?;
        }
        if !batch.lose.is_empty() {
            written.lost = self.database.lose_peers(replica, &batch.lose).await?;
        }
        if !batch.delete.is_empty() {
            written.deleted = self.database.delete_peers(replica, &batch.delete).await?;
        }
        Ok(written)
    }

    /// Writes rows of tunnels.
    async fn write_tunnels(self: Arc<Self>) {
        let mut pace = Pace::new(MAX_TUNNELS);
        loop {
            self.tunnels_due.notified().await;
            self.clock.sleep(WRITE_DELAY).await;
            let now = self.clock.monotonic();
            let Some(batch) = self.change(|core| core.is_open().then(|| core.take_tunnels(pace.limit, now)))
            else {
                continue;
            };
            match self.write_tunnel_batch(&batch).await {
                Ok(removed) => {
                    pace.succeeded();
                    self.change(|core| core.tunnels_written(batch, &removed, self.clock.monotonic()));
                }
                Err(error) => {
                    self.failed("tunnels", &error, &mut pace);
                    self.change(|core| core.tunnels_failed(batch));
                    pace.pause(&self).await;
                }
            }
        }
    }

    async fn write_tunnel_batch(&self, batch: &TunnelBatch) -> Result<Vec<crate::store::Tunnel>, StoreError> {
        let replica = self.state().core.setting().replica;
        let mut removed = Vec::new();
        if !batch.withdraw.is_empty() {
            removed.extend(
                self.database
                    .delete_tunnels_from(replica, &batch.withdraw)
                    .await?,
            );
        }
        if !batch.remove.is_empty() {
            removed.extend(self.database.delete_tunnels(replica, &batch.remove).await?);
        }
        if !batch.add.is_empty() {
            self.database.put_tunnels(replica, &batch.add).await?;
        }
        Ok(removed)
    }

    fn failed(&self, what: &'static str, error: &StoreError, pace: &mut Pace) {
        tracing::warn!(%error, "cannot write {what} for other replicas");
        pace.failed(error);
        if matches!(error, StoreError::Violation { .. }) {
            // All rows need the replica's own.
            self.change(Core::own_row_is_missing);
            self.beat_due.notify_one();
        }
    }

    /// Reads what others have written.
    async fn read(self: Arc<Self>) {
        // Reads of a refused statement do not become smaller.
        let mut pace = Pace::new(1);
        loop {
            self.reads_due.notified().await;
            self.clock.sleep(READ_DELAY).await;
            loop {
                let now = self.clock.monotonic();
                let next = self.change(|core| if core.is_open() { core.next_read(now) } else { None });
                let Some(read) = next else { break };
                match self.run_read(read).await {
                    Ok(()) => pace.succeeded(),
                    Err((read, error)) => {
                        tracing::warn!(%error, "cannot read what other replicas have written");
                        self.change(|core| core.read_failed(read));
                        pace.pause(&self).await;
                    }
                }
            }
        }
    }

    async fn run_read(&self, read: Read) -> Result<(), (Read, StoreError)> {
        let database = &self.database;
        let failed = |read| |error| (read, error);
        match read {
            Read::Heartbeats { looked } => {
                let rows = database.heartbeats().await;
                let rows = rows.map_err(failed(Read::Heartbeats { looked }))?;
                self.change(|core| core.read_heartbeats(&rows, looked));
            }
            Read::OwnRows { mark } => {
                let replica = self.state().core.setting().replica;
                let peers = database.own_peers(replica).await;
                let peers = peers.map_err(failed(Read::OwnRows { mark }))?;
                let tunnels = database.own_tunnels(replica).await;
                let tunnels = tunnels.map_err(failed(Read::OwnRows { mark }))?;
                self.change(|core| core.read_own_rows(mark, &peers, &tunnels));
            }
            Read::Tunnels(tunnels) => match database.tunnels(&tunnels).await {
                Ok(rows) => self.change(|core| core.read_tunnels(tunnels, &rows)),
                Err(error) => return Err((Read::Tunnels(tunnels), error)),
            },
            Read::TunnelsOf(peers) => match database.tunnels_of(&peers).await {
                Ok(rows) => self.change(|core| core.read_tunnels_of(peers, &rows)),
                Err(error) => return Err((Read::TunnelsOf(peers), error)),
            },
            Read::Peers(ids) => match database.peers(&ids).await {
                Ok(rows) => self.change(|core| core.read_peers(ids, rows)),
                Err(error) => return Err((Read::Peers(ids), error)),
            },
        }
        Ok(())
    }

    /// Hears other replicas.
    async fn hear(self: Arc<Self>, mut heard: Heard) {
        loop {
            let mut batch = vec![heard.next().await];
            while batch.len() < NOTICES_AT_ONCE
                && let Some(more) = heard.try_next()
            {
                batch.push(more);
            }
            let now = self.clock.monotonic();
            self.change(|core| {
                for message in batch {
                    match message {
                        Message::Notice(notice) => core.notified(notice, now),
                        Message::Missed => {
                            core.missed(now + RESYNC_WITHIN.mul_f64(rand::random()));
                        }
                        Message::Nothing => {}
                    }
                }
            });
        }
    }

    /// Removes from the tables what is of no use to anybody any more.
    async fn clean_up(self: Arc<Self>) {
        loop {
            while !self.state().core.is_open() {
                self.clock.sleep(TICK).await;
            }
            for _ in 0..CLEANUP_BATCHES {
                match self.database.clean_up(CLEANUP_ROWS).await {
                    Ok(0) => break,
                    Ok(removed) => tracing::debug!(removed, "old rows of peers and tunnels are removed"),
                    Err(error) => {
                        tracing::warn!(%error, "cannot remove old rows of peers and tunnels");
                        break;
                    }
                }
                self.clock.sleep(CLEANUP_PAUSE).await;
            }
            self.clock.sleep(CLEANUP).await;
        }
    }
}

/// What was heard.
enum Message {
    Notice(Notice),
    /// Notifications were missed.
    Missed,
    /// Somebody's mistake, or nothing that has to be made up for.
    Nothing,
}

/// The channels of other replicas.
struct Heard {
    peers: Subscription,
    tunnels: Subscription,
    heartbeats: Subscription,
    ready: Subscription,
}

impl Heard {
    fn subscribe(shared: &Shared) -> Self {
        let subscribe = |channel| shared.pubsub.subscribe_up_to(MAX_UNREAD, channel);
        Self {
            peers: subscribe(notices::PEER_UPDATE),
            tunnels: subscribe(notices::TUNNEL_UPDATE),
            heartbeats: subscribe(notices::HEARTBEAT),
            ready: subscribe(notices::READY_FOR_HANDSHAKE),
        }
    }

    /// Waits for the next message. Cancel safe.
    async fn next(&mut self) -> Message {
        let (channel, message) = tokio::select! {
            message = self.tunnels.next() => (notices::TUNNEL_UPDATE, message),
            message = self.peers.next() => (notices::PEER_UPDATE, message),
            message = self.heartbeats.next() => (notices::HEARTBEAT, message),
            message = self.ready.next() => (notices::READY_FOR_HANDSHAKE, message),
        };
        Message::of(channel, message)
    }

    fn try_next(&mut self) -> Option<Message> {
        let Self {
            peers,
            tunnels,
            heartbeats,
            ready,
        } = self;
        let channels = [
            (notices::TUNNEL_UPDATE, tunnels),
            (notices::PEER_UPDATE, peers),
            (notices::HEARTBEAT, heartbeats),
            (notices::READY_FOR_HANDSHAKE, ready),
        ];
        let mut messages = channels
            .into_iter()
            .filter_map(|(channel, subscription)| Some((channel, subscription.try_next()?)));
        messages
            .next()
            .map(|(channel, message)| Message::of(channel, message))
    }
}

impl Message {
    fn of(channel: &str, message: Result<Arc<str>, Lagged>) -> Self {
        match message {
            Ok(payload) => Notice::parse(channel, &payload).map_or_else(
                |error| {
                    tracing::debug!(channel, %error, "a notification is ignored");
                    Self::Nothing
                },
                Self::Notice,
            ),
            // A handshake that nobody asks for any more is not asked for again.
            Err(Lagged) if channel == notices::READY_FOR_HANDSHAKE => Self::Nothing,
            Err(Lagged) => Self::Missed,
        }
    }
}
