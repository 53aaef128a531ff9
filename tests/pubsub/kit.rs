//! Processes that share a database.

use std::sync::Arc;
use std::time::Duration;

use drpcd::clock::Clock;
use drpcd::pubsub::{Lagged, Pubsub, Remote, RemoteStatus, Subscription};
use drpcd::store::postgres::notify::Notifications;
use sqlx::PgPool;
use sqlx::postgres::PgConnectOptions;

use crate::support::PATIENCE;
use crate::support::postgres::Database;

/// What a process has for its messages.
pub(crate) struct Process {
    pub(crate) pubsub: Pubsub,
    pub(crate) remote: Remote,
}

impl Process {
    pub(crate) async fn new(database: &Database) -> Self {
        Self::at(database.url().parse().unwrap()).await
    }

    pub(crate) async fn at(options: PgConnectOptions) -> Self {
        let process = Self::start(&options);
        process.connected().await;
        process
    }

    /// One that need not be connected.
    pub(crate) fn start(options: &PgConnectOptions) -> Self {
        let (pubsub, remote) = Remote::start(Notifications::new(options), &Clock::system());
        Self { pubsub, remote }
    }

    pub(crate) fn status(&self) -> &RemoteStatus {
        self.remote.status()
    }

    pub(crate) async fn connected(&self) {
        let connected = tokio::time::timeout(PATIENCE, self.status().connected());
        connected.await.unwrap();
    }
}

/// Waits for the next message.
#[track_caller]
pub(crate) fn next(subscription: &mut Subscription) -> impl Future<Output = Result<Arc<str>, Lagged>> {
    let caller = std::panic::Location::caller();
    async move {
        let next = tokio::time::timeout(PATIENCE, subscription.next());
        next.await.unwrap_or_else(|_| panic!("no message for {caller}"))
    }
}

/// A subscription that misses nothing from here on.
pub(crate) async fn follow(process: &Process, channel: &str) -> Subscription {
    let mut subscription = process.pubsub.subscribe(channel);
    assert_eq!(next(&mut subscription).await, Err(Lagged));
    subscription
}

/// Nothing comes for a moment.
pub(crate) async fn quiet(subscription: &mut Subscription) {
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(subscription.try_next(), None);
}

/// Waits until `holds`.
#[track_caller]
pub(crate) fn until(mut holds: impl FnMut() -> bool) -> impl Future<Output = ()> {
    let caller = std::panic::Location::caller();
    async move {
        let waiting = async {
            while !holds() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        let waited = tokio::time::timeout(PATIENCE, waiting).await;
        waited.unwrap_or_else(|_| panic!("waited in vain at {caller}"));
    }
}

/// Connections of another program.
pub(crate) async fn pool(database: &Database) -> PgPool {
    PgPool::connect(database.url()).await.unwrap()
}
