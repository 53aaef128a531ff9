//! The real binary and the real Go clients, as processes.

#![allow(dead_code, unreachable_pub, reason = "each test program uses its own part")]
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "as in the tests")]
#![allow(clippy::missing_panics_doc, reason = "as in the tests")]

pub mod client;
pub mod http;
pub mod peer;
pub mod proxy;
pub mod raw;
pub mod script;
pub mod script_answers;

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use drpcd::clock::{Clock, Timestamp};
use drpcd::store::ConnectionTimes;
use serde_json::Value;
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{Connection as _, Row as _, SqliteConnection};
use tempfile::TempDir;

/// How long a process may take for what it should do at once.
pub const PATIENCE: Duration = Duration::from_secs(30);

pub const EXAMPLE_SEED: &str = include_str!("../../examples/seed.yaml");

/// What `seed` prints of one agent.
#[derive(Clone, Debug)]
pub struct SeededAgent {
    pub name: String,
    pub url: String,
    pub token: String,
}

/// A running `drpcd server`.
pub struct Server {
    child: Child,
    pub url: String,
    pub agents: Vec<SeededAgent>,
    pub directory: PathBuf,
}

/// A data directory with a seed file in it.
pub struct Data {
    directory: TempDir,
}

/// See [`Data::lock`].
pub struct Lock {
    _connection: SqliteConnection,
    _runtime: tokio::runtime::Runtime,
}

impl Data {
    pub fn new(seed: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("seed.yaml"), seed).unwrap();
        Self { directory }
    }

    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    pub fn seed_file(&self) -> PathBuf {
        self.path().join("seed.yaml")
    }

    /// Starts a server on a free port and waits until it is ready.
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
    pub fn serve_by(&self, mut command: Command, address: &str, flags: &[&str]) -> Server {
        command
            .args(["server", "--http-address", address, "--data-dir"])
            .arg(self.path());
        command.arg("--seed").arg(self.seed_file()).args(flags);
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(self.path().join("log"))
            .unwrap();
        let mut child = command.stdout(Stdio::piped()).stderr(log).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut next = || lines.next().map(Result::unwrap);
        let first = next().unwrap_or_else(|| panic!("the server did not start:\n{}", self.log()));
        let url = first
            .strip_prefix("listening on ")
            .unwrap_or_else(|| panic!("unexpected {first:?}"))
            .to_owned();
        let count = std::fs::read_to_string(self.seed_file())
            .unwrap()
            .matches("token:")
            .count();
        let mut agents = Vec::new();
        while agents.len() < count {
            let name = next().unwrap();
            let mut value = |key: &str| next().unwrap().strip_prefix(key).unwrap().to_owned();
            let name = name.strip_prefix("# ").unwrap().to_owned();
            agents.push(SeededAgent {
                name,
                url: value("CODER_AGENT_URL="),
                token: value("CODER_AGENT_TOKEN="),
            });
        }
        Server {
            child,
            url,
            agents,
            directory: self.path().to_owned(),
        }
    }

    pub fn database(&self) -> PathBuf {
        self.path().join("drpcd.db")
    }

    /// Puts another seed file into the store, by the verb.
    pub fn seed(&self, yaml: &str) {
        let file = self.path().join("more.yaml");
        std::fs::write(&file, yaml).unwrap();
        let mut command = drpcd();
        command.arg("seed").arg(file).arg("--data-dir").arg(self.path());
        let output = command.output().unwrap();
        assert!(output.status.success(), "{output:?}");
    }

    /// A new client token of `owner`.
    pub fn client_token(&self, owner: &str) -> String {
        let mut command = drpcd();
        command.args(["token", "create", "--owner", owner]);
        let output = command.arg("--data-dir").arg(self.path()).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        let printed = String::from_utf8(output.stdout).unwrap();
        printed.strip_suffix('\n').unwrap().to_owned()
    }

    /// The id of an owner's agent, of which there is one.
    pub fn agent_id(&self, owner: &str) -> String {
        let digits = self.value(&format!(
            "SELECT lower(hex(a.id)) FROM workspace_agents AS a
            JOIN workspace_resources AS r ON r.id = a.resource_id
            JOIN workspace_builds AS b ON b.job_id = r.job_id
            JOIN workspaces AS w ON w.id = b.workspace_id
            JOIN users AS u ON u.id = w.owner_id WHERE u.username = '{owner}'"
        ));
        uuid::Uuid::parse_str(&digits).unwrap().to_string()
    }

    /// What servers on this directory have logged.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.path().join("log")).unwrap_or_default()
    }

    /// Does something over a connection of its own to the database, as another program would.
    fn with_database<T>(&self, work: impl AsyncFnOnce(&mut SqliteConnection) -> sqlx::Result<T>) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let options = SqliteConnectOptions::new().filename(self.database());
            let mut connection = SqliteConnection::connect_with(&options).await.unwrap();
            let result = work(&mut connection).await.unwrap();
            connection.close().await.unwrap();
            result
        })
    }

    /// The first column of the rows of a query, as text.
    pub fn query(&self, sql: &str) -> Vec<String> {
        let sql =
            format!("SELECT CAST(column0 AS TEXT) FROM (SELECT NULL AS column0 WHERE 0 UNION ALL {sql})");
        self.with_database(async |connection| {
            let rows = sqlx::query(sqlx::AssertSqlSafe(sql))
                .fetch_all(connection)
                .await?;
            rows.iter()
                .map(|row| Ok(row.try_get::<Option<String>, _>(0)?.unwrap_or_default()))
                .collect()
        })
    }

    fn run(&self, sql: String) {
        self.with_database(async |connection| {
            sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).execute(connection).await
        });
    }

    /// Runs statements as another program would, in one transaction.
    pub fn execute(&self, sql: &str) {
        self.run(format!("BEGIN IMMEDIATE; {sql}; COMMIT"));
    }

    /// Brings all that was written into the database file itself.
    pub fn checkpoint(&self) {
        self.run("PRAGMA wal_checkpoint(TRUNCATE)".to_owned());
    }

    /// Keeps everybody else from writing until it is dropped.
    pub fn lock(&self) -> Lock {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let options = SqliteConnectOptions::new().filename(self.database());
        let connection = runtime.block_on(async {
            let mut connection = SqliteConnection::connect_with(&options).await.unwrap();
            sqlx::raw_sql("BEGIN IMMEDIATE")
                .execute(&mut connection)
                .await
                .unwrap();
            connection
        });
        Lock {
            _connection: connection,
            _runtime: runtime,
        }
    }

    /// The one value of a query.
    pub fn value(&self, sql: &str) -> String {
        let values = self.query(sql);
        assert_eq!(values.len(), 1, "{sql}");
        values.into_iter().next().unwrap()
    }

    /// The status of the one agent, with the default timeout.
    pub fn status(&self) -> &'static str {
        let times = self.value(
            "SELECT created_at || ',' || coalesce(first_connected_at, '') || ',' ||
                 coalesce(last_connected_at, '') || ',' || coalesce(disconnected_at, '') FROM workspace_agents",
        );
        let mut times = times
            .split(',')
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

/// Waits until `holds`, for at most [`PATIENCE`].
pub fn eventually(mut holds: impl FnMut() -> bool) -> Result<(), ()> {
    let end = Instant::now() + PATIENCE;
    while !holds() {
        if Instant::now() > end {
            return Err(());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

pub fn drpcd() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_drpcd"));
    command.env_clear().stdin(Stdio::null());
    command
}

/// Waits for the end of a process, which must come.
pub fn wait(child: &mut Child, patience: Duration) -> ExitStatus {
    let end = Instant::now() + patience;
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status;
        }
        assert!(Instant::now() < end, "process {} does not end", child.id());
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn signal(child: &Child, name: &str) {
    let status = Command::new("kill")
        .args([format!("-{name}"), child.id().to_string()])
        .status()
        .unwrap();
    assert!(status.success());
}

/// Keeps a process from writing to any file, as a full disk does, or lets it again.
pub fn may_write(pid: u32, may: bool) {
    let limit = if may { "unlimited" } else { "0:unlimited" };
    let status = Command::new("prlimit")
        .args(["--pid", &pid.to_string(), &format!("--fsize={limit}")])
        .status()
        .unwrap();
    assert!(status.success());
}

impl Server {
    pub fn agent(&self) -> &SeededAgent {
        &self.agents[0]
    }

    /// SIGTERM, and the exit code.
    pub fn stop(mut self) -> Option<i32> {
        signal(&self.child, "TERM");
        wait(&mut self.child, PATIENCE).code()
    }

    /// SIGTERM, without waiting.
    pub fn terminate(&self) {
        signal(&self.child, "TERM");
    }

    /// SIGUSR1.
    pub fn swap_coordinator(&self) {
        signal(&self.child, "USR1");
    }

    /// The exit code of a server that was told to stop.
    pub fn wait(mut self) -> Option<i32> {
        wait(&mut self.child, PATIENCE).code()
    }

    /// SIGKILL.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The Go programs, built once; `None` when there is no Go, which is a failure where `CI` says so.
fn go_program() -> Option<&'static Path> {
    static PROGRAM: OnceLock<Option<PathBuf>> = OnceLock::new();
    PROGRAM
        .get_or_init(|| {
            let module = Path::new(env!("CARGO_MANIFEST_DIR")).join("interop");
            let program = Path::new(env!("CARGO_TARGET_TMPDIR")).join("drpc-interop");
            let mut build = Command::new("go");
            build
                .current_dir(&module)
                .arg("build")
                .arg("-o")
                .arg(&program)
                .arg("./cmd/drpc-interop");
            match build.status() {
                Ok(status) => {
                    assert!(status.success(), "the Go programs do not build");
                    Some(program)
                }
                Err(error) => {
                    let message = format!("no Go ({error}): interoperability is not tested");
                    assert!(std::env::var_os("CI").is_none_or(|ci| ci != "true"), "{message}");
                    eprintln!("{message}");
                    None
                }
            }
        })
        .as_deref()
}

/// A running Go program.
pub struct Go {
    child: Child,
    errors: BufReader<std::process::ChildStderr>,
}

/// Starts a verb of the Go programs against `agent`; `None` when there is no Go.
pub fn go(verb: &str, agent: &SeededAgent, flags: &[&str]) -> Option<Go> {
    let mut command = Command::new(go_program()?);
    command
        .arg(verb)
        .args(["--url", &agent.url, "--token", &agent.token])
        .args(flags);
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let errors = BufReader::new(child.stderr.take().unwrap());
    Some(Go { child, errors })
}

impl Go {
    /// Waits for a line of progress.
    #[track_caller]
    pub fn await_line(&mut self, wanted: &str) {
        self.await_progress(wanted, |line| line == wanted);
    }

    /// Waits for a line of progress that begins so.
    #[track_caller]
    pub fn await_start(&mut self, wanted: &str) {
        self.await_progress(wanted, |line| line.starts_with(wanted));
    }

    /// Waits for a session that ended by an error with `wanted` in it.
    #[track_caller]
    pub fn await_error(&mut self, wanted: &str) {
        self.await_progress(wanted, |line| {
            line.starts_with("session ended: ") && line.contains(wanted)
        });
    }

    #[track_caller]
    fn await_progress(&mut self, wanted: &str, is_it: impl Fn(&str) -> bool) {
        let mut seen = String::new();
        loop {
            let start = seen.len();
            let read = self.errors.read_line(&mut seen).unwrap();
            assert!(read > 0, "no {wanted:?} in:\n{seen}");
            if is_it(seen[start..].trim_end()) {
                return;
            }
        }
    }

    pub fn terminate(&self) {
        signal(&self.child, "TERM");
    }

    /// The result, and whether what was asked for held.
    pub fn finish(mut self) -> (Value, bool) {
        let mut output = String::new();
        let mut errors = String::new();
        let mut stdout = self.child.stdout.take().unwrap();
        // Both at once: a program whose progress nobody reads stands still.
        std::thread::scope(|scope| {
            scope.spawn(|| self.errors.read_to_string(&mut errors).unwrap());
            stdout.read_to_string(&mut output).unwrap();
        });
        let status = self.child.wait().unwrap();
        let value =
            serde_json::from_str(&output).unwrap_or_else(|error| panic!("{error}: {output:?}\n{errors}"));
        (value, status.success())
    }

    /// The result of a run that must have held.
    #[track_caller]
    pub fn result(self) -> Value {
        let (value, ok) = self.finish();
        assert!(ok, "{value:#}");
        value
    }
}

impl Drop for Go {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
