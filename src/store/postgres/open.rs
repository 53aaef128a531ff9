//! Opening a database: the address, the pool, migrations, and errors that name what was wrong without the password.

use std::fmt;
use std::str::FromStr as _;
use std::time::Duration;

use sqlx::migrate::{MigrateError, Migration, MigrationType, Migrator};
use sqlx::postgres::{PgConnectOptions, PgConnection, PgPool, PgPoolOptions};
use sqlx::{ConnectOptions as _, Connection as _, Executor as _, SqlSafeStr as _};

use super::engine::Database;
use super::error::store_error;
use crate::clock::Clock;
use crate::secret::Secret;

/// How long a caller waits for a connection. With the answer it stays within the 2 s in which REST calls and verbs must
/// fail when the store is away.
const ACQUIRE_TIMEOUT: Duration = Duration::from_millis(1_500);

/// How long opening tries to reach the database, which may be starting too.
const OPEN_TIMEOUT: Duration = Duration::from_secs(10);

/// A connection that was idle for longer is asked whether it lives before it is used: a restart of the database costs no
/// call, and a busy connection no round trip.
const TRUSTED_IDLE: Duration = Duration::from_secs(1);

/// Idle connections are given back, and old ones renewed, so that a pooler or a failover behind the address is followed.
const IDLE_TIMEOUT: Duration = Duration::from_mins(10);
const MAX_LIFETIME: Duration = Duration::from_mins(30);

/// Prepared statements kept by one connection: more than the statements that any connection runs.
const STATEMENT_CACHE: usize = 256;

/// What the server itself ends when this process cannot: a statement that it gave up, a transaction that it left.
const SESSION_SETTINGS: &str =
    "SET statement_timeout = '30s'; SET idle_in_transaction_session_timeout = '30s'";

/// How a database is opened.
#[derive(Clone, Debug)]
pub struct PostgresOptions {
    /// `postgres://user:password@host:port/database?sslmode=…`, as in libpq.
    pub url: Secret,
    /// Connections at most, at least 1. Each caller holds one for a statement or a short transaction.
    pub max_connections: u32,
    /// Whether the schema is brought up to date; otherwise one that is not is an error.
    pub migrate: bool,
}

/// Where a database is, without how to get in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place(String);

impl Place {
    fn of(options: &PgConnectOptions) -> Self {
        let database = options.get_database().unwrap_or(options.get_username());
        Self(match options.get_socket() {
            Some(socket) => format!("{database} at {}", socket.display()),
            None => format!("{database} at {}:{}", options.get_host(), options.get_port()),
        })
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Why a database could not be opened. The text names the place and the reason, never the password.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PostgresError {
    /// The address is none. Not repeated: it may hold a password.
    #[error("the Postgres URL is not valid: it has the form postgres://USER:PASSWORD@HOST:PORT/DATABASE")]
    Url,
    /// Nobody answers there, or lets us in.
    #[error("cannot reach database {place}: {reason}")]
    Unreachable {
        /// Where.
        place: Place,
        /// What was answered.
        reason: String,
    },
    /// The schema is of a newer program.
    #[error(
        "cannot open database {place}: its schema has version {version}, which this program does not know; \
         it was written by a newer one"
    )]
    NewerSchema {
        /// Where.
        place: Place,
        /// The unknown version.
        version: i64,
    },
    /// The schema could not be brought up to date.
    #[error("cannot migrate database {place}: {reason}")]
    Migration {
        /// Where.
        place: Place,
        /// What was answered.
        reason: String,
    },
}

/// Reaches the database, migrates it if that is asked for, and makes the pool.
pub(super) async fn open(
    options: &PostgresOptions,
    clock: Clock,
) -> Result<(Database, Place), PostgresError> {
    let connect = connect_options(&options.url)?;
    let place = Place::of(&connect);
    let mut connection = reach(&connect, &place, &clock).await?;
    if options.migrate {
        migrate(&mut connection, &place).await?;
    }
    // A connection that ends badly leaves nothing behind.
    let _ = connection.close().await;
    let database = Database::new(pool(connect, options.max_connections), clock);
    Ok((database, place))
}

/// Reads the address; settings of the environment (`PGSSLMODE`, …) fill in what it leaves out.
pub(super) fn connect_options(url: &Secret) -> Result<PgConnectOptions, PostgresError> {
    let options = PgConnectOptions::from_str(url.reveal()).map_err(|_| PostgresError::Url)?;
    Ok(options
        .application_name("drpcd")
        .statement_cache_capacity(STATEMENT_CACHE)
        .disable_statement_logging())
}

async fn reach(
    options: &PgConnectOptions,
    place: &Place,
    clock: &Clock,
) -> Result<PgConnection, PostgresError> {
    let unreachable = |reason: String| PostgresError::Unreachable {
        place: place.clone(),
        reason,
    };
    tokio::select! {
        connection = options.connect() => connection.map_err(|error| unreachable(store_error(&error).to_string())),
        () = clock.sleep(OPEN_TIMEOUT) => Err(unreachable("no answer".to_owned())),
    }
}

fn pool(options: PgConnectOptions, max_connections: u32) -> PgPool {
    PgPoolOptions::new()
        .max_connections(max_connections)
        .acquire_timeout(ACQUIRE_TIMEOUT)
        .idle_timeout(IDLE_TIMEOUT)
        .max_lifetime(MAX_LIFETIME)
        .test_before_acquire(false)
        .before_acquire(|connection, meta| {
            Box::pin(async move {
                if meta.idle_for > TRUSTED_IDLE {
                    connection.ping().await?;
                }
                Ok(true)
            })
        })
        .after_connect(|connection, _| {
            Box::pin(async move { connection.execute(SESSION_SETTINGS).await.map(|_| ()) })
        })
        .connect_lazy_with(options)
}

/// Brings the schema up to date, under a lock that the other processes which do the same wait for.
async fn migrate(connection: &mut PgConnection, place: &Place) -> Result<(), PostgresError> {
    let migrated = async {
        // That the table of migrations exists already is no news.
        connection.execute("SET client_min_messages = warning").await?;
        migrator().run_direct(None, connection, false).await
    };
    let migrated: Result<(), MigrateError> = migrated.await;
    migrated.map_err(|error| match error {
        MigrateError::VersionMissing(version) => PostgresError::NewerSchema {
            place: place.clone(),
            version,
        },
        MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _) => PostgresError::Migration {
            place: place.clone(),
            reason: store_error(&error).to_string(),
        },
        other => PostgresError::Migration {
            place: place.clone(),
            reason: other.to_string(),
        },
    })
}

/// Our own schema. A database of coder is never migrated.
pub(in crate::store) fn migrator() -> Migrator {
    let migration = |version, description: &'static str, sql: &'static str| {
        Migration::new(
            version,
            description.into(),
            MigrationType::Simple,
            sql.into_sql_str(),
            false,
        )
    };
    let mut migrator = Migrator::with_migrations(vec![
        migration(1, "initial", include_str!("migrations/0001_initial.sql")),
        migration(
            2,
            "notification templates",
            include_str!("migrations/0002_notification_templates.sql"),
        ),
    ]);
    migrator.dangerous_set_table_name("drpcd_migrations");
    migrator
}
