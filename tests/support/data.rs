//! What a server stores, and where: a SQLite file, or with `DRPCD_TEST_STORE=postgres` a Postgres database.

use std::any::Any;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use drpcd::clock::{Clock, Timestamp};
use drpcd::store::ConnectionTimes;
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{AssertSqlSafe, Connection as _, PgConnection, SqliteConnection};
use tempfile::TempDir;
use tokio::runtime::Runtime;
use uuid::Uuid;

use super::balancer::Balancer;
use super::postgres::{self, Database, apart};
use super::proxy::Proxy;
use super::server::{Launch, Server};
use super::{drpcd, eventually, rows};

/// Processes of a server on Postgres.
const REPLICAS: usize = 2;

/// A directory with a seed file in it, and a store.
pub struct Data {
    directory: TempDir,
    /// The store, unless it is a file in the directory.
    postgres: Option<Database>,
}

/// See [`Data::lock`].
pub struct Lock {
    _connection: Box<dyn Any>,
    _runtime: Runtime,
}

/// Whether tests run on Postgres.
fn on_postgres() -> bool {
    match std::env::var("DRPCD_TEST_STORE").as_deref() {
        Ok("postgres") => true,
        Ok("sqlite") | Err(_) => false,
        Ok(other) => panic!("DRPCD_TEST_STORE is {other:?}, neither sqlite nor postgres"),
    }
}

impl Data {
    /// On the engine that the environment names.
    pub fn new(seed: &str) -> Self {
        let database = on_postgres()
            .then(|| Database::new().unwrap_or_else(|| panic!("DRPCD_TEST_STORE asks for Postgres")));
        Self::with(seed, database)
    }

    /// On SQLite; `None`, with the reason on stderr, where tests run on Postgres, for what only a file has.
    pub fn in_a_file(seed: &str, reason: &str) -> Option<Self> {
        if on_postgres() {
            eprintln!("not tested on Postgres: {reason}");
            return None;
        }
        Some(Self::with(seed, None))
    }

    /// On a Postgres server that the test stops, starts or pauses.
    pub fn on(server: &postgres::Server, seed: &str) -> Self {
        Self::with(seed, Some(server.database()))
    }

    /// As [`Data::on`], by way of a proxy whoever asks.
    pub fn through(proxy: &Proxy, server: &postgres::Server, seed: &str) -> Self {
        let database = server.database().at_port(proxy.address().port());
        Self::with(seed, Some(database))
    }

    /// The same seed file, with what it seeded in a database.
    pub fn moved_to(self, database: Database) -> Self {
        Self {
            postgres: Some(database),
            ..self
        }
    }

    fn with(seed: &str, postgres: Option<Database>) -> Self {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("seed.yaml"), seed).unwrap();
        Self { directory, postgres }
    }

    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    pub fn seed_file(&self) -> PathBuf {
        self.path().join("seed.yaml")
    }

    /// Of the database, where there is one.
    pub fn url(&self) -> &str {
        self.postgres.as_ref().unwrap().url()
    }

    /// The flag that names the store to `server` and every verb.
    pub fn store(&self) -> [OsString; 2] {
        match &self.postgres {
            Some(database) => ["--postgres-url".into(), database.url().into()],
            None => ["--data-dir".into(), self.path().into()],
        }
    }

    /// Starts a server on a free port and waits until it is ready: on Postgres [`REPLICAS`], behind a balancer.
    pub fn serve(&self, flags: &[&str]) -> Server {
        self.serve_with(flags, &[])
    }

    /// As [`Data::serve`], with environment variables.
    pub fn serve_with(&self, flags: &[&str], variables: &[(&str, &str)]) -> Server {
        self.serve_at("127.0.0.1:0", flags, variables)
    }

    /// As [`Data::serve_with`], at an address.
    pub fn serve_at(&self, address: &str, flags: &[&str], variables: &[(&str, &str)]) -> Server {
        let mut command = drpcd();
        command.envs(variables.iter().copied());
        self.serve_by(command, address, flags)
    }

    /// As [`Data::serve_at`], with a command that runs the binary.
    pub fn serve_by(&self, command: Command, address: &str, flags: &[&str]) -> Server {
        if self.postgres.is_none() {
            return self.serve_alone_by(command, address, flags);
        }
        self.serve_replicas_by(&command, REPLICAS, address, flags)
    }

    /// As [`Data::serve`], as one process on either engine: for what each replica tells of itself.
    pub fn serve_alone(&self, flags: &[&str]) -> Server {
        self.serve_alone_by(drpcd(), "127.0.0.1:0", flags)
    }

    /// So many replicas behind a balancer, on Postgres.
    pub fn serve_replicas(&self, replicas: usize, flags: &[&str]) -> Server {
        self.serve_replicas_by(&drpcd(), replicas, "127.0.0.1:0", flags)
    }

    fn serve_alone_by(&self, mut command: Command, address: &str, flags: &[&str]) -> Server {
        command.args(["server", "--http-address", address]);
        command.args(self.store()).args(flags);
        Server::alone(Launch::new(&command, self.log_file(0)), &self.seed_file())
    }

    fn serve_replicas_by(&self, command: &Command, replicas: usize, address: &str, flags: &[&str]) -> Server {
        let balancer = Balancer::new(address);
        let launch = |replica| {
            let mut command = Launch::new(command, self.log_file(replica));
            command.add(["server", "--http-address", "127.0.0.1:0"]);
            command.add(self.store());
            if !flags.contains(&"--access-url") {
                command.add(["--access-url", &balancer.url()]);
            }
            command.add(flags);
            command
        };
        Server::balanced((0..replicas).map(launch).collect(), &self.seed_file(), balancer)
    }

    /// The file of a store that is one.
    pub fn database(&self) -> PathBuf {
        self.path().join("drpcd.db")
    }

    /// Puts another seed file into the store, by the verb.
    pub fn seed(&self, yaml: &str) {
        let file = self.path().join("more.yaml");
        std::fs::write(&file, yaml).unwrap();
        let mut command = drpcd();
        command.arg("seed").arg(file).args(self.store());
        verb(&mut command);
    }

    /// A new client token of `owner`.
    pub fn client_token(&self, owner: &str) -> String {
        let mut command = drpcd();
        command.args(["token", "create", "--owner", owner]);
        let printed = String::from_utf8(verb(command.args(self.store())).stdout).unwrap();
        printed.strip_suffix('\n').unwrap().to_owned()
    }

    fn log_file(&self, replica: usize) -> PathBuf {
        self.path().join(format!("log.{replica}"))
    }

    /// What servers on this store have logged, of several replicas one's after the other's.
    pub fn log(&self) -> String {
        let logs = (0..).map(|replica| std::fs::read_to_string(self.log_file(replica)));
        logs.map_while(Result::ok).collect()
    }

    /// What one replica has logged.
    pub fn log_of(&self, replica: usize) -> String {
        std::fs::read_to_string(self.log_file(replica)).unwrap_or_default()
    }

    /// The rows of a query; see [`rows`] for their form.
    pub fn query(&self, sql: &str) -> Vec<String> {
        apart(async || match &self.postgres {
            Some(database) => rows::of_postgres(&mut connect(database).await, sql).await,
            None => rows::of_sqlite(&mut self.open().await, sql).await,
        })
    }

    /// The one row of a query.
    pub fn value(&self, sql: &str) -> String {
        let values = self.query(sql);
        assert_eq!(values.len(), 1, "{sql}");
        values.into_iter().next().unwrap()
    }

    /// The one number of a query.
    pub fn number(&self, sql: &str) -> i64 {
        self.value(sql)
            .parse()
            .unwrap_or_else(|error| panic!("{sql}: {error}"))
    }

    /// Runs statements as another program would, in one transaction.
    pub fn execute(&self, sql: &str) {
        apart(async || {
            let done = match &self.postgres {
                Some(database) => {
                    let sql = format!("BEGIN; {sql}; COMMIT");
                    let mut connection = connect(database).await;
                    sqlx::raw_sql(AssertSqlSafe(sql))
                        .execute(&mut connection)
                        .await
                        .map(drop)
                }
                None => {
                    let sql = format!("BEGIN IMMEDIATE; {sql}; COMMIT");
                    let mut connection = self.open().await;
                    sqlx::raw_sql(AssertSqlSafe(sql))
                        .execute(&mut connection)
                        .await
                        .map(drop)
                }
            };
            done.unwrap_or_else(|error| panic!("{sql}: {error}"));
        });
    }

    /// An id in SQL.
    pub fn id(&self, id: Uuid) -> String {
        match self.postgres {
            Some(_) => format!("'{id}'"),
            None => format!("x'{}'", id.simple()),
        }
    }

    /// A time in SQL.
    pub fn time(&self, time: Timestamp) -> String {
        match self.postgres {
            Some(_) => format!("'{time}'"),
            None => time.as_micros().to_string(),
        }
    }

    /// A time in SQL, so much after that of a column.
    pub fn later(&self, column: &str, by: Duration) -> String {
        let micros = by.as_micros();
        match self.postgres {
            Some(_) => format!("{column} + interval '{micros} microseconds'"),
            None => format!("{column} + {micros}"),
        }
    }

    /// Tells every server on the store, as another program would.
    pub fn publish(&self, channel: &str, payload: &str) {
        self.execute(&match self.postgres {
            Some(_) => format!("SELECT pg_notify('{channel}', '{payload}')"),
            None => format!(
                "INSERT INTO drpcd_events (channel, payload, created_at) VALUES ('{channel}', '{payload}', 0)"
            ),
        });
    }

    /// The file and what SQLite notes in it hold together; Postgres sees to its own.
    pub fn assert_intact(&self) {
        if self.postgres.is_some() {
            return;
        }
        assert_eq!(self.query("PRAGMA integrity_check"), ["ok"]);
        assert_eq!(self.query("PRAGMA foreign_key_check"), [""; 0]);
        for table in ["drpcd_events", "workspace_agent_logs"] {
            let used = format!("SELECT seq FROM sqlite_sequence WHERE name = '{table}'");
            let beyond = format!("SELECT id FROM {table} WHERE id > ({used})");
            assert_eq!(self.query(&beyond), [""; 0], "{table}");
        }
    }

    /// Brings all that was written into the database file itself.
    pub fn checkpoint(&self) {
        apart(async || {
            let mut connection = self.open().await;
            let checkpoint = sqlx::raw_sql("PRAGMA wal_checkpoint(TRUNCATE)");
            checkpoint.execute(&mut connection).await.unwrap();
            connection.close().await.unwrap();
        });
    }

    /// Keeps everybody else from writing until it is dropped.
    pub fn lock(&self) -> Lock {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let connection = runtime.block_on(async {
            let connection: Box<dyn Any> = match &self.postgres {
                Some(database) => {
                    let mut connection = connect(database).await;
                    sqlx::raw_sql(LOCK_ALL).execute(&mut connection).await.unwrap();
                    Box::new(connection)
                }
                None => {
                    let mut connection = self.open().await;
                    sqlx::raw_sql("BEGIN IMMEDIATE")
                        .execute(&mut connection)
                        .await
                        .unwrap();
                    Box::new(connection)
                }
            };
            connection
        });
        Lock {
            _connection: connection,
            _runtime: runtime,
        }
    }

    async fn open(&self) -> SqliteConnection {
        let options = SqliteConnectOptions::new().filename(self.database());
        SqliteConnection::connect_with(&options).await.unwrap()
    }

    /// The id of an owner's agent, of which there is one.
    pub fn agent_id(&self, owner: &str) -> String {
        self.value(&format!(
            "SELECT a.id FROM workspace_agents AS a
            JOIN workspace_resources AS r ON r.id = a.resource_id
            JOIN workspace_builds AS b ON b.job_id = r.job_id
            JOIN workspaces AS w ON w.id = b.workspace_id
            JOIN users AS u ON u.id = w.owner_id WHERE u.username = '{owner}'"
        ))
    }

    /// The status of the one agent, with the default timeout.
    pub fn status(&self) -> &'static str {
        let times = self.value(
            "SELECT created_at, first_connected_at, last_connected_at, disconnected_at FROM workspace_agents",
        );
        let mut times = times
            .split(' ')
            .map(|time| time.parse().ok().map(Timestamp::from_micros));
        let created = times.next().flatten().unwrap();
        let mut next = || times.next().unwrap();
        let connection = ConnectionTimes {
            first_connected_at: next(),
            last_connected_at: next(),
            disconnected_at: next(),
        };
        let status = connection.status(
            created,
            Duration::ZERO,
            Clock::system().now(),
            Duration::from_secs(30),
        );
        status.as_str()
    }

    /// Waits until the one agent has this status.
    #[track_caller]
    pub fn await_status(&self, expected: &str) {
        eventually(|| self.status() == expected)
            .unwrap_or_else(|()| panic!("{}, expected {expected}", self.status()));
    }

    /// Waits until the session of the one agent is in the store, which is up to 100 ms after its handshake.
    #[track_caller]
    pub fn await_connected(&self) {
        self.await_value("SELECT first_connected_at IS NOT NULL FROM workspace_agents", "1");
    }

    /// Waits until a query gives `expected`.
    #[track_caller]
    pub fn await_value(&self, sql: &str, expected: &str) {
        let mut last = String::new();
        eventually(|| {
            last = self.query(sql).join(",");
            last == expected
        })
        .unwrap_or_else(|()| panic!("{sql}\n  is {last:?}, expected {expected:?}"));
    }
}

/// As SQLite's one writer: readers go on.
const LOCK_ALL: &str = "BEGIN; DO $$ DECLARE name text; BEGIN
    FOR name IN SELECT quote_ident(tablename) FROM pg_tables WHERE schemaname = 'public' ORDER BY 1
    LOOP EXECUTE 'LOCK TABLE ' || name || ' IN EXCLUSIVE MODE'; END LOOP; END $$";

async fn connect(database: &Database) -> PgConnection {
    PgConnection::connect(database.url()).await.unwrap()
}

/// Runs a verb that must do. It gives up soon when a store does not answer, and so it may on a machine that stands still for a
/// moment; then it is run again.
#[track_caller]
fn verb(command: &mut Command) -> Output {
    for _ in 0..4 {
        let output = command.output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        let late = ["cannot reach", "timeout", "timed out"];
        if !late.iter().any(|reason| stderr.contains(reason)) {
            assert!(output.status.success(), "{stderr}");
            return output;
        }
    }
    panic!("the store does not answer: {command:?}");
}
