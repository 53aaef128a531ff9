//! Postgres for tests: one private server a test process, a database of its own for each test, and servers that a
//! test may stop, start, pause and replace by a standby.
//!
//! ```ignore
//! let Some(database) = Database::new() else { return };     // said and skipped without Postgres; fails where CI=true
//! PgConnection::connect(database.url()).await
//! ```
//!
//! Everything here blocks the calling thread and works on a thread of its own, so that plain tests and tests in any
//! tokio runtime may call it; a runtime whose time is paused stands still meanwhile.
//!
//! The binaries (15 or newer) are those on PATH, or Debian's below `/usr/lib/postgresql`. Where
//! `DRPCD_TEST_POSTGRES_URL` names a server, as a superuser, databases are made there instead. A private server and its
//! files vanish with the test process, however that ends; databases on a named server are dropped by their owners, and
//! those of a run that was killed by the next run.
//!
//! Part of the library's unit tests too (`crate::store::testing::postgres`), so it names nothing of the crate.

#![allow(
    dead_code,
    unreachable_pub,
    unused_imports,
    reason = "each test program uses its own part"
)]
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "as in the tests")]
#![allow(clippy::missing_panics_doc, reason = "as in the tests")]

#[path = "postgres/server.rs"]
mod server;

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use sqlx::postgres::PgConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection as _, PgConnection};
use url::Url;

pub use server::{Server, Shutdown};

/// Stands in the URLs of private servers, which ask for none: must not be found in any log.
pub const PASSWORD: &str = "postgres-password-of-a-test";

/// How long a statement of this file may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// How long a database that is dropped waits for a server that may be paused.
const PATIENCE_TO_DROP: Duration = Duration::from_secs(5);

/// A database of a test's own, dropped with it.
#[derive(Debug)]
pub struct Database {
    server: Url,
    name: String,
    url: String,
}

impl Database {
    /// An empty one; `None` without Postgres.
    pub fn new() -> Option<Self> {
        Some(Self::copy(shared()?, "template0"))
    }

    fn copy(server: &Url, template: &str) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("{}_{}", run(), COUNT.fetch_add(1, Ordering::Relaxed));
        execute(server, &format!("CREATE DATABASE {name} TEMPLATE {template}"));
        let mut url = server.clone();
        url.set_path(&name);
        Self {
            server: server.clone(),
            name,
            url: url.into(),
        }
    }

    /// The same, at another port that leads to it.
    pub fn at_port(mut self, port: u16) -> Self {
        self.url = at_port(&self.url, port);
        self
    }

    /// `postgres://USER:PASSWORD@HOST:PORT/NAME`.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Runs statements as another program would.
    pub fn execute(&self, sql: &str) {
        execute(&self.url.parse().unwrap(), sql);
    }
}

/// The URL of a database at another port that leads to it.
pub fn at_port(url: &str, port: u16) -> String {
    let mut url: Url = url.parse().unwrap();
    url.set_port(Some(port)).unwrap();
    url.into()
}

impl Drop for Database {
    fn drop(&mut self) {
        let sql = format!("DROP DATABASE {} WITH (FORCE)", self.name);
        // A server that is down or paused takes its databases with it.
        let _ = try_execute(&self.server, &sql, PATIENCE_TO_DROP);
    }
}

/// A database that is filled once and copied for each test.
///
/// ```ignore
/// static MIGRATED: OnceLock<Option<Template>> = OnceLock::new();
/// let template = MIGRATED.get_or_init(|| Template::new(async |url| migrate(&url).await));
/// let Some(database) = template.as_ref().map(Template::database) else { return };
/// ```
#[derive(Debug)]
pub struct Template(Database);

impl Template {
    /// What `fill` makes of an empty database, whose URL it is given; it leaves no connection open. `None` without
    /// Postgres.
    pub fn new(fill: impl AsyncFnOnce(String) + Send) -> Option<Self> {
        let database = Database::new()?;
        let url = database.url.clone();
        apart(async || fill(url).await);
        Some(Self(database))
    }

    /// A copy.
    pub fn database(&self) -> Database {
        Database::copy(&self.0.server, &self.0.name)
    }
}

/// Runs `work` to its end on a thread with a runtime of its own, from blocking and asynchronous tests alike.
pub fn apart<T: Send>(work: impl AsyncFnOnce() -> T + Send) -> T {
    let runtime = || {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        builder.enable_all().build().unwrap()
    };
    let done = std::thread::scope(|scope| scope.spawn(|| runtime().block_on(work())).join());
    done.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

fn execute(url: &Url, sql: &str) {
    try_execute(url, sql, PATIENCE).unwrap_or_else(|error| panic!("{sql}: {error}"));
}

fn try_execute(url: &Url, sql: &str, patience: Duration) -> Result<(), sqlx::Error> {
    let work = async || {
        let mut connection = PgConnection::connect(url.as_str()).await?;
        sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut connection).await?;
        connection.close().await
    };
    apart(async || {
        let done = tokio::time::timeout(patience, work()).await;
        done.unwrap_or_else(|_| Err(std::io::Error::from(std::io::ErrorKind::TimedOut).into()))
    })
}

/// Names this process among all that use a server; the databases of a run begin with it.
fn run() -> &'static str {
    static RUN: OnceLock<String> = OnceLock::new();
    RUN.get_or_init(|| format!("drpcd_test_{:016x}", rand::random::<u64>()))
}

/// The server of this process, as a superuser; `None` without Postgres.
fn shared() -> Option<&'static Url> {
    static SHARED: OnceLock<Option<(Url, Option<Server>)>> = OnceLock::new();
    let shared = SHARED.get_or_init(|| match std::env::var("DRPCD_TEST_POSTGRES_URL") {
        Ok(url) => {
            let url: Url = url.parse().unwrap();
            clear(&url);
            Some((url, None))
        }
        Err(_) => Server::new().map(|server| (server.url.clone(), Some(server))),
    });
    shared.as_ref().map(|(url, _)| url)
}

/// Drops from a named server what runs have left that ended before they could, and shows it that this one lives.
fn clear(server: &Url) {
    let options: PgConnectOptions = server.as_str().parse().unwrap();
    let options = options.application_name(run());
    let (ready, cleared) = std::sync::mpsc::sync_channel(1);
    std::thread::spawn(move || {
        apart(async || {
            let mut connection = options.connect().await.unwrap();
            // `drpcd_test_` and 16 digits are a run's name.
            let left: Vec<String> = sqlx::query_scalar(
                "SELECT datname::text FROM pg_database
                WHERE datname ~ '^drpcd_test_[0-9a-f]{16}_[0-9]+$' AND NOT EXISTS (
                    SELECT FROM pg_stat_activity WHERE application_name = left(datname, 27))",
            )
            .fetch_all(&mut connection)
            .await
            .unwrap();
            for name in left {
                let sql = format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)");
                // Another run may be at it.
                let _ = sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut connection).await;
            }
            ready.send(()).unwrap();
            // The connection is the sign of life.
            std::future::pending::<()>().await;
        });
    });
    cleared
        .recv()
        .unwrap_or_else(|_| panic!("DRPCD_TEST_POSTGRES_URL cannot be used"));
}
