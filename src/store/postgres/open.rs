//! Opening a database: the address, migrations, and errors that name what was wrong without the password.

use std::fmt;
use std::str::FromStr as _;
use std::time::Duration;

use sqlx::migrate::{Migrate as _, MigrateError, Migration, MigrationType, Migrator};
use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{ConnectOptions as _, Connection as _, Executor as _, SqlSafeStr as _};
use url::Url;

use super::engine::Database;
use super::error::store_error;
use super::layout::{self, CoderSchema};
use super::pool::{Pool, Size, Waits};
use crate::clock::Clock;
use crate::secret::Secret;
use crate::store::schema::{self, Found, Readiness, Report, Schema, SchemaStep, Tables};

/// How long a caller waits for a connection. With the answer it stays within the 2 s in which REST calls and verbs must
/// fail when the store is away.
pub const CONNECTION_WAIT: Duration = Duration::from_millis(1_500);

/// What a server gives its database for each answer: the first, as it may be starting too, and any later one. The largest
/// batch takes some hundred milliseconds.
pub const SERVER_WAIT: Duration = Duration::from_secs(10);

/// As [`SERVER_WAIT`], for verbs, which must fail within 2 s when the store is away.
pub const VERB_WAIT: Duration = Duration::from_millis(1_500);

/// How long a verb waits for another process that migrates the database. One that hangs is for whoever runs the verb to end.
pub const VERB_LOCK_WAIT: Duration = Duration::from_secs(30);

/// After which it is told that another process is waited for: the few migrations there are take less.
const LOCK_IS_LATE: Duration = Duration::from_secs(3);

/// Prepared statements kept by one connection: more than the statements that any connection runs.
const STATEMENT_CACHE: usize = 256;

/// Parameters of a URL that the driver knows (sqlx-postgres, `PgConnectOptions::parse_from_url`), and `options[…]`.
const PARAMETERS: [&str; 17] = [
    "application_name",
    "dbname",
    "host",
    "hostaddr",
    "options",
    "password",
    "port",
    "ssl-ca",
    "ssl-cert",
    "ssl-key",
    "ssl-mode",
    "ssl-root-cert",
    "sslcert",
    "sslkey",
    "sslmode",
    "sslrootcert",
    "user",
];

/// How a database is opened.
#[derive(Clone, Debug)]
pub struct PostgresOptions {
    /// `postgres://user:password@host:port/database?sslmode=…`, as in libpq.
    pub url: Secret,
    /// Connections at most, at least 1. Each caller holds one for a statement or a short transaction.
    pub max_connections: u32,
    /// Connections that are kept open while nobody holds them, at most.
    pub max_idle: u32,
    /// How long a caller waits for a connection.
    pub connection_wait: Duration,
    /// How long each answer may take.
    pub wait: Duration,
    /// How long another process is waited for that migrates the database; `None` is as long as it takes.
    pub lock_wait: Option<Duration>,
    /// Whether our own schema is brought up to date; otherwise one that is not is an error.
    pub migrate: bool,
    /// Whose tables it must have; `None` takes ours (or none yet) and coder's.
    pub expected: Option<Tables>,
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
    /// The tables are not those that are wanted; they are left alone.
    #[error("database {place} has {found}, and wanted are {}", wanted(*expected))]
    Foreign {
        /// Where.
        place: Place,
        /// Whose they are.
        found: Found,
        /// Whose they should be.
        expected: Option<Tables>,
    },
    /// A coder deployment of a version that this program does not fit.
    #[error(
        "database {place} is that of a coder deployment, and lacks what is needed there:\n  {}",
        missing.join("\n  ")
    )]
    Incomplete {
        /// Where.
        place: Place,
        /// What is missing, one text each.
        missing: Vec<String>,
    },
    /// Our schema is older than this program, which may not bring it up to date.
    #[error(
        "the schema of database {place} is not up to date (`drpcd migrate up` changes that):\n  {}",
        missing.join("\n  ")
    )]
    NotMigrated {
        /// Where.
        place: Place,
        /// The migrations.
        missing: Vec<String>,
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

fn wanted(expected: Option<Tables>) -> &'static str {
    match expected {
        Some(tables) => tables.as_str(),
        None => "those of drpcd or of a coder deployment",
    }
}

/// A database that can be worked on.
pub(super) struct Opened {
    pub(super) database: Database,
    pub(super) place: Place,
    pub(super) schema: Schema,
}

/// Reaches the database, sees whose it is, migrates it if it is ours and that is asked for, and makes the pool.
pub(super) async fn open(options: &PostgresOptions, clock: Clock) -> Result<Opened, PostgresError> {
    let connect = connect_options(&options.url)?;
    let mut reached = Reached::new(&connect, options.wait, &clock).await?;
    let schema = match (reached.found().await?, options.expected) {
        (Found::None | Found::Own, None | Some(Tables::Own)) if options.migrate => {
            reached.migrate(options.lock_wait).await?;
            Schema::Own
        }
        (Found::None | Found::Own, None | Some(Tables::Own)) => {
            reached.expect_migrated().await?;
            Schema::Own
        }
        (Found::Coder, None | Some(Tables::Coder)) => reached.expect_complete().await?,
        (found, expected) => return Err(reached.foreign(found, expected)),
    };
    let place = reached.place.clone();
    reached.close().await;
    let waits = Waits {
        connection: options.connection_wait,
        answer: options.wait,
    };
    let apart = Pool::new(connect.clone(), Size { open: 1, idle: 1 }, waits, &clock);
    let size = Size {
        open: options.max_connections,
        idle: options.max_idle,
    };
    let pool = Pool::new(connect, size, waits, &clock);
    let database = Database::new(pool, apart, clock, options.wait);
    Ok(Opened {
        database,
        place,
        schema,
    })
}

/// A connection that looks at a database or changes its schema.
pub(in crate::store) struct Reached {
    pub(in crate::store) connection: PgConnection,
    place: Place,
    /// How long each look may take.
    wait: Duration,
    clock: Clock,
}

impl Reached {
    /// On behalf of a verb.
    pub(in crate::store) async fn at(url: &Secret, clock: &Clock) -> Result<Self, PostgresError> {
        Self::new(&connect_options(url)?, VERB_WAIT, clock).await
    }

    async fn new(options: &PgConnectOptions, wait: Duration, clock: &Clock) -> Result<Self, PostgresError> {
        let place = Place::of(options);
        let connection = in_time(options.connect(), &place, wait, clock).await?;
        Ok(Self {
            connection,
            place,
            wait,
            clock: clock.clone(),
        })
    }

    /// Asks something that takes no lock.
    async fn look<T>(
        &mut self,
        look: impl AsyncFnOnce(&mut PgConnection) -> Result<T, sqlx::Error>,
    ) -> Result<T, PostgresError> {
        in_time(look(&mut self.connection), &self.place, self.wait, &self.clock).await
    }

    fn foreign(&self, found: Found, expected: Option<Tables>) -> PostgresError {
        PostgresError::Foreign {
            place: self.place.clone(),
            found,
            expected,
        }
    }

    /// Whose tables there are.
    async fn found(&mut self) -> Result<Found, PostgresError> {
        self.look(layout::layout).await
    }

    /// What there is of what is needed.
    async fn examine(&mut self) -> Result<CoderSchema, PostgresError> {
        self.look(layout::examine).await
    }

    async fn expect_complete(&mut self) -> Result<Schema, PostgresError> {
        let found = self.examine().await?;
        tracing::info!(
            database = %self.place,
            version = found.version,
            "the database is that of a coder deployment"
        );
        if !found.missing.is_empty() {
            return Err(PostgresError::Incomplete {
                place: self.place.clone(),
                missing: found.missing,
            });
        }
        Ok(Schema::Coder)
    }

    /// The steps of our schema in a database that has our tables, or none.
    pub(super) async fn migrations(&mut self) -> Result<Vec<SchemaStep>, PostgresError> {
        let applied = match self.found().await? {
            Found::None => Vec::new(),
            Found::Own => {
                let versions = sqlx::query_scalar("SELECT version FROM drpcd_migrations WHERE success");
                self.look(async |connection: &mut PgConnection| versions.fetch_all(connection).await)
                    .await?
            }
            found => return Err(self.foreign(found, Some(Tables::Own))),
        };
        Ok(schema::migrations(&migrator(), &applied))
    }

    /// What there is, and what is wrong with it.
    pub(super) async fn report(&mut self) -> Result<Report, PostgresError> {
        let tables = self.found().await?;
        let (version, missing) = match tables {
            Found::None => (None, schema::unmigrated(&self.migrations().await?).collect()),
            Found::Own => {
                let migrations = self.migrations().await?;
                let mut missing: Vec<_> = schema::unmigrated(&migrations).collect();
                missing.extend(self.examine().await?.missing);
                (schema::last_applied(&migrations), missing)
            }
            Found::Coder => {
                let found = self.examine().await?;
                (found.version, found.missing)
            }
            Found::Foreign(_) => (
                None,
                vec![format!("tables: {tables} instead of {}", wanted(None))],
            ),
        };
        Ok(Report {
            place: self.place.to_string(),
            tables,
            version,
            missing,
        })
    }

    /// Succeeds when all steps of our schema are made.
    pub(in crate::store) async fn expect_migrated(&mut self) -> Result<(), PostgresError> {
        let migrations = self.migrations().await?;
        let place = self.place.clone();
        match schema::readiness(&migrations) {
            Readiness::Ready => Ok(()),
            Readiness::Newer(version) => Err(PostgresError::NewerSchema { place, version }),
            Readiness::Unmigrated(missing) => Err(PostgresError::NotMigrated { place, missing }),
        }
    }

    /// Brings our schema up to date, under a lock that the other processes which do the same wait for.
    async fn migrate(&mut self, lock_wait: Option<Duration>) -> Result<(), PostgresError> {
        self.lock_migrations(lock_wait).await?;
        let connection = &mut self.connection;
        let migrated: Result<(), MigrateError> = async {
            // That the table of migrations exists already is no news.
            connection.execute("SET client_min_messages = warning").await?;
            let mut migrator = migrator();
            // It is held already.
            migrator.set_locking(false);
            migrator.run_direct(None, connection, false).await?;
            connection.unlock().await
        }
        .await;
        migrated.map_err(|error| self.not_migrated(error))
    }

    /// Takes the lock, for which it waits as long as it may. If that fails, its connection must end, and with it the wait.
    async fn lock_migrations(&mut self, wait: Option<Duration>) -> Result<(), PostgresError> {
        let (clock, place) = (self.clock.clone(), self.place.clone());
        let limit = async {
            clock.sleep(LOCK_IS_LATE).await;
            tracing::warn!(database = %place, "the lock for migrations is waited for: another process migrates the database, or nothing answers");
            match wait {
                Some(wait) => clock.sleep(wait.saturating_sub(LOCK_IS_LATE)).await,
                None => std::future::pending().await,
            }
        };
        let locked = tokio::select! {
            locked = self.connection.lock() => locked,
            () = limit => {
                let reason = "the lock for it was not to be had in time: another process does it, and may hang".to_owned();
                return Err(PostgresError::Migration { place, reason });
            }
        };
        locked.map_err(|error| self.not_migrated(error))
    }

    fn not_migrated(&self, error: MigrateError) -> PostgresError {
        let place = self.place.clone();
        let reason = match error {
            MigrateError::VersionMissing(version) => return PostgresError::NewerSchema { place, version },
            MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _) => {
                store_error(&error).to_string()
            }
            other => other.to_string(),
        };
        PostgresError::Migration { place, reason }
    }

    pub(in crate::store) async fn close(self) {
        // A connection that ends badly leaves nothing behind.
        let _ = self.connection.close().await;
    }
}

/// Reads the address; settings of the environment (`PGSSLMODE`, …) fill in what it leaves out.
pub(super) fn connect_options(url: &Secret) -> Result<PgConnectOptions, PostgresError> {
    let url = without_unknown_parameters(url)?;
    let options = PgConnectOptions::from_str(url.reveal()).map_err(|_| PostgresError::Url)?;
    Ok(options
        .application_name("drpcd")
        .statement_cache_capacity(STATEMENT_CACHE)
        .disable_statement_logging())
}

/// Takes out what the driver does not know, which it would log with its value, that may be a secret.
fn without_unknown_parameters(url: &Secret) -> Result<Secret, PostgresError> {
    let mut url = Url::parse(url.reveal()).map_err(|_| PostgresError::Url)?;
    let is_known = |key: &str| PARAMETERS.contains(&key) || key.starts_with("options[");
    let (known, unknown): (Vec<_>, Vec<_>) =
        url.query_pairs().into_owned().partition(|(key, _)| is_known(key));
    if !unknown.is_empty() {
        for (parameter, _) in unknown {
            tracing::warn!(
                parameter,
                "a parameter of the Postgres URL is not known here and has no effect"
            );
        }
        url.query_pairs_mut().clear().extend_pairs(known);
    }
    Ok(Secret::new(String::from(url)))
}

/// What a database answers, if it does within `wait`.
async fn in_time<T>(
    asked: impl Future<Output = Result<T, sqlx::Error>>,
    place: &Place,
    wait: Duration,
    clock: &Clock,
) -> Result<T, PostgresError> {
    let answer = tokio::select! {
        answer = asked => answer.map_err(|error| store_error(&error).to_string()),
        () = clock.sleep(wait) => Err("no answer".to_owned()),
    };
    answer.map_err(|reason| PostgresError::Unreachable {
        place: place.clone(),
        reason,
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::testing::postgres::Server;
    use crate::telemetry::testing::Log;

    #[test]
    fn parameters_that_the_driver_does_not_know_are_taken_out_and_the_others_left() {
        let url = "postgres://u:p%40@h:1/db?sslmode=disable&sslpassword=secret&options[a]=b&pasword=secret";
        let kept = without_unknown_parameters(&Secret::new(url)).unwrap();
        let expected = "postgres://u:p%40@h:1/db?sslmode=disable&options%5Ba%5D=b";
        assert_eq!(kept.reveal(), expected);
        let known = "postgres://u@h/db?host=%2Frun&user=x";
        assert_eq!(
            without_unknown_parameters(&Secret::new(known)).unwrap().reveal(),
            known
        );
        let none = without_unknown_parameters(&Secret::new("secret"));
        assert!(matches!(none, Err(PostgresError::Url)));
    }

    #[tokio::test]
    async fn another_process_that_migrates_is_told_of_and_waited_for_as_long_as_was_said() {
        let Some(server) = Server::new() else { return };
        let place = server.database();
        let mut other = PgConnection::connect(place.url()).await.unwrap();
        other.lock().await.unwrap();
        let log = Log::new();
        let lock_wait = LOCK_IS_LATE + Duration::from_secs(1);
        let mut options = PostgresOptions {
            url: Secret::new(place.url()),
            max_connections: 1,
            max_idle: 1,
            connection_wait: CONNECTION_WAIT,
            wait: SERVER_WAIT,
            lock_wait: Some(lock_wait),
            migrate: true,
            expected: None,
        };
        let clock = Clock::system();
        let began = clock.monotonic();
        let Err(error) = open(&options, clock.clone()).await else {
            panic!("it is migrated by two");
        };
        assert!(clock.monotonic() - began >= lock_wait);
        assert!(
            error.to_string().contains("lock for it was not to be had"),
            "{error}"
        );
        let told = log.take();
        let told = told
            .iter()
            .filter(|line| line.contains("another process migrates the database"));
        assert_eq!(told.count(), 1, "once");

        // However long it takes, where nothing else was said.
        options.lock_wait = None;
        let end = async {
            clock.sleep(lock_wait * 2).await;
            other.unlock().await.unwrap();
        };
        let (opened, ()) = tokio::join!(open(&options, clock.clone()), end);
        opened.unwrap().database.close().await;
    }
}
