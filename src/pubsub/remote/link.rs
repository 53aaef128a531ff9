//! The task that holds the two connections: it connects, sends, listens, receives, and finds out when it hears nothing.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::{RemoteStatus, count};
use crate::clock::Clock;
use crate::pubsub::listening::{Changed, Listening};
use crate::pubsub::outgoing::GAP_CHANNEL;
use crate::pubsub::{Pubsub, Uplink};
use crate::store::postgres::notify::{self, Listener, Notification, Notifications, NotifyError, Sender};

/// How long both connections may take to be made.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);

/// How long a statement may take. It writes no row, and waits for nobody but others that notify.
const STATEMENT_LIMIT: Duration = Duration::from_secs(10);

/// Time between two beats, which are notifications to ourselves. Each costs a statement, 12 a minute for a replica.
const BEAT_INTERVAL: Duration = Duration::from_secs(5);

/// Beats that may be missing. With one more, 10 to 15 s after the last, the listener is taken for dead.
const MAX_MISSED_BEATS: u32 = 2;

/// Pause before the first and, doubling, between the following attempts to connect, until a connection lasts for a beat.
const FIRST_PAUSE: Duration = Duration::from_millis(50);

/// Longest pause between two attempts: messages shall flow again a few seconds after the database is back.
const MAX_PAUSE: Duration = Duration::from_secs(1);

/// Channels in one statement. What is notified while it runs is kept without another bound, so it shall be short.
const CHANNELS_PER_STATEMENT: usize = 256;

/// Why two connections ended.
#[derive(Debug, thiserror::Error)]
enum LinkError {
    #[error(transparent)]
    Notify(#[from] NotifyError),
    #[error("the database does not answer")]
    Late,
    #[error("own notifications do not come back")]
    Silent,
}

/// What the task works with, from one pair of connections to the next.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) database: Notifications,
    pub(super) clock: Clock,
    pub(super) pubsub: Pubsub,
    pub(super) uplink: Arc<Uplink>,
    pub(super) status: RemoteStatus,
    pub(super) ending: CancellationToken,
    /// The channel of our beats, which is nobody else's.
    pub(super) beat: Arc<str>,
}

impl Link {
    /// Connects again and again, until all is sent at the end.
    pub(super) async fn run(&self) {
        // Of a run before, which has panicked.
        self.uplink.outgoing.put_back();
        self.status.0.connected.send_replace(false);
        let mut pause = FIRST_PAUSE;
        let mut outage = false;
        let mut first = true;
        loop {
            let start = self.clock.monotonic();
            let ended = self.session(&mut first, &mut outage).await;
            self.uplink.outgoing.put_back();
            let connected = self.status.0.connected.send_replace(false);
            if connected && start.elapsed() >= BEAT_INTERVAL {
                pause = FIRST_PAUSE;
            }
            let Err(error) = ended else { return };
            if std::mem::replace(&mut outage, true) {
                tracing::debug!(%error, "other processes are still not heard");
            } else {
                tracing::warn!(%error, "other processes are not heard");
            }
            let ending = self.ending.is_cancelled();
            if ending && self.uplink.outgoing.len() == 0 {
                return;
            }
            tokio::select! {
                // Replicas whose database comes back do not all come at once.
                () = self.clock.sleep(pause.mul_f64(rand::random_range(0.5..1.0))) => {}
                () = self.ending.cancelled(), if !ending => {}
            }
            pause = MAX_PAUSE.min(pause * 2);
        }
    }

    /// Sends and receives over one pair of connections, until one fails or all is sent at the end.
    async fn session(&self, first: &mut bool, outage: &mut bool) -> Result<(), LinkError> {
        let connecting = self.database.connect(CONNECT_LIMIT);
        let (sender, listener) = self.within(CONNECT_LIMIT, connecting).await?;
        let mut receiver = Receiver {
            link: self,
            listener,
            own: sender.process_id(),
            listening: Listening::default(),
            missed: 0,
            outage,
        };
        receiver.begin().await?;
        if !std::mem::take(first) {
            count(&self.status.0.counts.gaps, 1);
        }
        tokio::select! {
            ended = self.send(sender) => ended,
            Err(error) = receiver.run() => Err(error),
        }
    }

    /// Sends what waits: the first message at once, and what comes while a batch is under way with the next.
    async fn send(&self, mut sender: Sender) -> Result<(), LinkError> {
        let Uplink { outgoing, .. } = &*self.uplink;
        let mut next_beat = self.clock.monotonic();
        loop {
            let batch = outgoing.take();
            let mut messages: Vec<(&str, &str)> = Vec::with_capacity(batch.len() + 1);
            messages.extend(batch.iter().map(|message| (&*message.channel, &*message.payload)));
            let now = self.clock.monotonic();
            if now >= next_beat {
                messages.push((&self.beat, ""));
                next_beat = now + BEAT_INTERVAL;
            }
            if messages.is_empty() {
                if self.ending.is_cancelled() {
                    sender.close().await;
                    return Ok(());
                }
                tokio::select! {
                    () = outgoing.added() => {}
                    () = self.clock.sleep(next_beat - now) => {}
                    () = self.ending.cancelled() => {}
                }
                continue;
            }
            self.within(STATEMENT_LIMIT, sender.notify(&messages)).await?;
            count(&self.status.0.counts.statements, 1);
            count(&self.status.0.counts.sent, outgoing.sent());
        }
    }

    async fn within<T>(
        &self,
        limit: Duration,
        work: impl Future<Output = Result<T, NotifyError>>,
    ) -> Result<T, LinkError> {
        tokio::select! {
            done = work => Ok(done?),
            () = self.clock.sleep(limit) => Err(LinkError::Late),
        }
    }
}

/// The receiving one of two connections.
#[derive(Debug)]
struct Receiver<'a> {
    link: &'a Link,
    listener: Listener,
    /// The process that sends what is ours.
    own: u32,
    listening: Listening,
    /// Beats that are due and have not come back.
    missed: u32,
    outage: &'a mut bool,
}

impl Receiver<'_> {
    /// Listens to all channels of which there are subscriptions.
    async fn begin(&mut self) -> Result<(), LinkError> {
        let own = [Arc::clone(&self.link.beat), GAP_CHANNEL.into()];
        self.link
            .within(STATEMENT_LIMIT, self.listener.listen(&own))
            .await?;
        // They are among all.
        self.link.uplink.changes.take();
        self.follow(Changed::All).await
    }

    /// Receives for as long as messages may come.
    async fn run(&mut self) -> Result<Infallible, LinkError> {
        let mut beats = self.link.clock.interval(BEAT_INTERVAL);
        let changes = &self.link.uplink.changes;
        loop {
            // In this order, as messages may come without end.
            tokio::select! {
                biased;
                () = changes.any() => self.follow(changes.take()).await?,
                _ = beats.tick() => self.tick().await?,
                notification = self.listener.receive() => {
                    let notification = notification?;
                    self.take(&notification);
                }
            }
        }
    }

    /// Listens to channels that have got subscriptions.
    async fn follow(&mut self, changed: Changed) -> Result<(), LinkError> {
        let hub = &self.link.pubsub.0;
        let missing =
            self.listening
                .missing(changed, |channel| self.link.is_wanted(channel), || hub.wanted());
        for channels in missing.chunks(CHANNELS_PER_STATEMENT) {
            self.link
                .within(STATEMENT_LIMIT, self.listener.listen(channels))
                .await?;
            self.listening.begun(channels);
            for channel in channels {
                hub.lag(channel);
            }
            self.take_kept();
        }
        Ok(())
    }

    /// Looks whether beats come back, and leaves channels that nobody follows any more.
    async fn tick(&mut self) -> Result<(), LinkError> {
        self.missed += 1;
        if self.missed > MAX_MISSED_BEATS {
            return Err(LinkError::Silent);
        }
        let idle = self.listening.end_idle(|channel| self.link.is_wanted(channel));
        for channels in idle.chunks(CHANNELS_PER_STATEMENT) {
            self.link
                .within(STATEMENT_LIMIT, self.listener.unlisten(channels))
                .await?;
            self.take_kept();
        }
        Ok(())
    }

    fn take_kept(&mut self) {
        while let Some(notification) = self.listener.kept() {
            self.take(&notification);
        }
    }

    fn take(&mut self, notification: &Notification) {
        let Link {
            pubsub, status, beat, ..
        } = self.link;
        let own = notification.process_id() == self.own;
        match notification.channel() {
            channel if own && *channel == **beat => {
                self.missed = 0;
                status
                    .0
                    .connected
                    .send_if_modified(|connected| !std::mem::replace(connected, true));
                if std::mem::take(self.outage) {
                    tracing::info!("other processes are heard again");
                }
            }
            _ if own => {}
            GAP_CHANNEL => {
                tracing::warn!("another process has lost messages");
                count(&status.0.counts.gaps, 1);
                pubsub.0.lag_all();
            }
            channel => {
                count(&status.0.counts.received, 1);
                pubsub.deliver(channel, notification.payload());
            }
        }
    }
}

impl Link {
    fn is_wanted(&self, channel: &str) -> bool {
        // Another one is followed within this process only.
        notify::is_channel(channel) && self.pubsub.0.is_wanted(channel)
    }
}
