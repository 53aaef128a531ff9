//! A pool of connections: how many are kept, how long one waits for them, how long they live, and which are good no more.

use std::borrow::Borrow;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions};
use sqlx::{AssertSqlSafe, Connection as _, Postgres};

use crate::clock::{Clock, Instant};

/// How long a connection that is given back may take to say that it lives. One that is dead and does not know it would
/// keep its place in the pool for as long as the system sends anew what nobody acknowledges, a quarter of an hour.
const RETURN_LIMIT: Duration = Duration::from_secs(2);

/// A connection that was idle for longer is asked whether it lives before it is used: a restart of the database costs no
/// call, and a busy connection no round trip.
const TRUSTED_IDLE: Duration = Duration::from_secs(1);

/// Idle connections are given back, and old ones renewed, so that a pooler or a failover behind the address is followed.
const IDLE_TIMEOUT: Duration = Duration::from_mins(10);
const MAX_LIFETIME: Duration = Duration::from_mins(30);

/// What the database itself ends: a statement, before it is given up here, or one that waited for a lock might write what
/// was written since by another try; a commit that waits for the lock of notifications, which is no statement any more;
/// and a transaction that this process left.
fn session_settings(wait: Duration) -> String {
    let (statement, lock) = ((wait * 9 / 10).as_millis(), wait.as_millis());
    format!(
        "SET statement_timeout = '{statement}ms'; SET lock_timeout = '{lock}ms';
        SET idle_in_transaction_session_timeout = '30s'"
    )
}

/// How long callers wait.
#[derive(Clone, Copy, Debug)]
pub(super) struct Waits {
    /// For a connection.
    pub(super) connection: Duration,
    /// For an answer.
    pub(super) answer: Duration,
}

/// How many connections there may be.
#[derive(Clone, Copy, Debug)]
pub(super) struct Size {
    /// At once.
    pub(super) open: u32,
    /// Of those, while nobody holds them.
    pub(super) idle: u32,
}

/// Connections to one database, up to a number.
#[derive(Debug)]
pub(super) struct Pool {
    connections: PgPool,
    max_idle: usize,
    /// Callers that want a connection and have none yet.
    wanted: AtomicUsize,
    /// Connections that are on their way back.
    returning: Arc<AtomicUsize>,
    renewed: Arc<Renewed>,
    clock: Clock,
}

/// One of those that are counted, until it is dropped.
struct Counted<C: Borrow<AtomicUsize>> {
    counter: C,
    /// How many there were before.
    others: usize,
}

impl<C: Borrow<AtomicUsize>> Counted<C> {
    fn new(counter: C) -> Self {
        let others = counter.borrow().fetch_add(1, Ordering::Relaxed);
        Self { counter, others }
    }
}

impl<C: Borrow<AtomicUsize>> Drop for Counted<C> {
    fn drop(&mut self) {
        self.counter.borrow().fetch_sub(1, Ordering::Relaxed);
    }
}

/// Since when connections have to be opened anew. What a connection has prepared, and knows of types, is not that of a schema
/// that has changed since: each of its statements would fail, once a call, for as long as the connection lives.
#[derive(Debug, Default)]
struct Renewed(Mutex<Option<Instant>>);

impl Renewed {
    /// Whether a connection is too old.
    fn is_before(&self, age: Duration, now: Instant) -> bool {
        self.lock()
            .is_some_and(|since| now.checked_sub(age).is_none_or(|opened| opened <= since))
    }

    fn lock(&self) -> MutexGuard<'_, Option<Instant>> {
        // A point in time or none is valid whoever panicked.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pool {
    /// Connects when the first connection is wanted.
    pub(super) fn new(options: PgConnectOptions, size: Size, waits: Waits, clock: &Clock) -> Self {
        let settings = Arc::new(session_settings(waits.answer));
        let renewed = Arc::new(Renewed::default());
        let (since, time) = (Arc::clone(&renewed), clock.clone());
        let connections = PgPoolOptions::new()
            .max_connections(size.open)
            .acquire_timeout(waits.connection)
            .idle_timeout(IDLE_TIMEOUT)
            .max_lifetime(MAX_LIFETIME)
            .test_before_acquire(false)
            .before_acquire(move |connection, meta| {
                let is_good = !since.is_before(meta.age, time.monotonic());
                Box::pin(async move {
                    if is_good && meta.idle_for > TRUSTED_IDLE {
                        connection.ping().await?;
                    }
                    Ok(is_good)
                })
            })
            .after_connect(move |connection, _| {
                let settings = AssertSqlSafe(Arc::clone(&settings));
                Box::pin(async move { sqlx::raw_sql(settings).execute(connection).await.map(|_| ()) })
            })
            .connect_lazy_with(options);
        Self {
            connections,
            // A number of connections fits.
            max_idle: usize::try_from(size.idle).unwrap_or(usize::MAX),
            wanted: AtomicUsize::new(0),
            returning: Arc::default(),
            renewed,
            clock: clock.clone(),
        }
    }

    pub(super) async fn acquire(&self) -> Result<PoolConnection<Postgres>, sqlx::Error> {
        let _one_more = Counted::new(&self.wanted);
        self.connections.acquire().await
    }

    /// Takes a connection back, as it comes back when it is dropped, but with a limit: given up, it makes room for another. It
    /// is closed where so many are idle already and nobody waits for one.
    pub(super) fn give_back(&self, mut connection: PoolConnection<Postgres>) {
        let returning = Counted::new(Arc::clone(&self.returning));
        let idle = self.connections.num_idle() + returning.others;
        let clock = self.clock.clone();
        if idle < self.max_idle + self.wanted.load(Ordering::Relaxed) {
            let returned = connection.return_to_pool();
            tokio::spawn(async move {
                let _returning = returning;
                tokio::select! {
                    _ = returned => {}
                    () = clock.sleep(RETURN_LIMIT) => {}
                }
            });
        } else {
            drop(returning);
            tokio::spawn(async move {
                tokio::select! {
                    // One that ends badly leaves nothing behind.
                    _ = connection.close() => {}
                    () = clock.sleep(RETURN_LIMIT) => {}
                }
            });
        }
    }

    /// From here on only connections are used that are opened from here on.
    pub(super) fn renew(&self) {
        tracing::info!("the schema of the database has changed: connections are renewed");
        *self.renewed.lock() = Some(self.clock.monotonic());
    }

    /// Waits for connections in use, then closes all.
    pub(super) async fn close(&self) {
        self.connections.close().await;
    }

    /// How many connections there are.
    #[cfg(test)]
    pub(super) fn size(&self) -> u32 {
        self.connections.size()
    }
}
