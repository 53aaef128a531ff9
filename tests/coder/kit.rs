//! A deployment with every write recorded, servers and verbs on it, and who listens to its events.

use std::path::Path;
use std::process::{Command, Output};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use sqlx::postgres::PgListener;
use tempfile::TempDir;

use super::support::postgres::Database;
use super::support::server::{Launch, Server};
use super::support::{SeededAgent, coder, drpcd, eventually};

const GRANTS: &str = include_str!("../../docs/coder-grants.sql");

/// Whether commands that change the schema are recorded.
const UNWATCHED: &str = "ALTER EVENT TRIGGER audit_commands DISABLE";
const WATCHED: &str = "ALTER EVENT TRIGGER audit_commands ENABLE";

/// A deployment, and a directory for what servers log.
pub(crate) struct Deployment {
    pub(crate) database: Database,
    directory: TempDir,
}

impl Deployment {
    /// `None` without Postgres.
    pub(crate) fn new() -> Option<Self> {
        Some(Self {
            database: coder::audited()?,
            directory: tempfile::tempdir().unwrap(),
        })
    }

    /// A verb of the binary.
    pub(crate) fn verb(&self, arguments: &[&str]) -> Command {
        verb(arguments, self.database.url())
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Output {
        self.verb(arguments).output().unwrap()
    }

    /// A server that agents find by their tokens.
    pub(crate) fn serve(&self, flags: &[&str], variables: &[(&str, &str)]) -> Server {
        let mut command = self.verb(&["server", "--http-address", "127.0.0.1:0"]);
        command.args(flags).envs(variables.iter().copied());
        Server::unseeded(Launch::new(&command, self.log_file()))
    }

    /// As [`Deployment::serve`], as a database user with the rights that the documentation says.
    pub(crate) fn serve_by_grants(&self, flags: &[&str]) -> (Server, Role<'_>) {
        let role = self.role();
        // Named, rather than found out.
        let mut command = role.verb(&["server", "--http-address", "127.0.0.1:0", "--store", "coder"]);
        command.args(flags);
        (Server::unseeded(Launch::new(&command, self.log_file())), role)
    }

    /// A user with the rights that the documentation says.
    pub(crate) fn role(&self) -> Role<'_> {
        Role::new(&self.database)
    }

    fn log_file(&self) -> std::path::PathBuf {
        self.directory.path().join("log")
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.log_file()).unwrap_or_default()
    }

    pub(crate) fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Changes the schema, as an upgrade of the deployment does.
    pub(crate) fn upgrade(&self, sql: &str) {
        self.database.execute(&format!("{UNWATCHED}; {sql}; {WATCHED}"));
    }

    pub(crate) fn query(&self, sql: &str) -> Vec<String> {
        coder::query(&self.database, sql)
    }

    pub(crate) fn value(&self, sql: &str) -> String {
        let rows = self.query(sql);
        assert_eq!(rows.len(), 1, "{sql}");
        rows.into_iter().next().unwrap()
    }

    /// Nothing at all was written.
    #[track_caller]
    pub(crate) fn assert_untouched(&self) {
        let writes = "SELECT operation || ' ' || table_name FROM audit.writes";
        assert_eq!(self.query(writes), [""; 0]);
    }

    /// Nothing was written that is left to the deployment's own servers.
    #[track_caller]
    pub(crate) fn assert_lawful(&self) {
        assert_eq!(coder::violations(&self.database), [""; 0]);
    }

    /// Hears what is published on `channels` from now on.
    pub(crate) fn listen(&self, channels: &[&str]) -> Listener<'_> {
        let (url, channels) = (self.database.url().to_owned(), channels.join(","));
        let (ready, listening) = std::sync::mpsc::sync_channel(1);
        let heard = Heard::default();
        let hearing = Arc::clone(&heard);
        let hear = async move {
            let mut listener = PgListener::connect(&url).await.unwrap();
            listener
                .listen_all(channels.split(',').chain([END]))
                .await
                .unwrap();
            ready.send(()).unwrap();
            loop {
                let event = listener.recv().await.unwrap();
                if event.channel() == END {
                    return;
                }
                let event = (event.channel().to_owned(), event.payload().to_owned());
                hearing.lock().unwrap().push(event);
            }
        };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let thread = std::thread::spawn(move || runtime.block_on(hear));
        listening.recv().unwrap();
        Listener {
            database: &self.database,
            thread,
            heard,
        }
    }
}

/// A database user with the rights of `docs/coder-grants.sql`; gone with this.
pub(crate) struct Role<'d> {
    database: &'d Database,
    name: String,
    url: String,
}

impl<'d> Role<'d> {
    fn new(database: &'d Database) -> Self {
        let name = format!("drpcd_{}", uuid::Uuid::new_v4().simple());
        database.execute(&format!("CREATE ROLE {name} LOGIN PASSWORD 'a-password'"));
        let grants = GRANTS.replace(" TO drpcd", &format!(" TO {name}"));
        // What is granted here is not the server's doing.
        database.execute(&format!("{UNWATCHED}; {grants}; {WATCHED}"));
        let mut url: url::Url = database.url().parse().unwrap();
        url.set_username(&name).unwrap();
        url.set_password(Some("a-password")).unwrap();
        let url = url.into();
        Self { database, name, url }
    }

    /// A verb of the binary, as this user.
    pub(crate) fn verb(&self, arguments: &[&str]) -> Command {
        verb(arguments, &self.url)
    }

    /// Takes a right away.
    pub(crate) fn revoke(&self, right: &str) {
        let name = &self.name;
        self.database
            .execute(&format!("{UNWATCHED}; REVOKE {right} FROM {name}; {WATCHED}"));
    }
}

fn verb(arguments: &[&str], url: &str) -> Command {
    let mut command = drpcd();
    command.args(arguments).args(["--postgres-url", url]);
    command
}

impl Drop for Role<'_> {
    fn drop(&mut self) {
        let name = &self.name;
        self.database.execute(&format!(
            "{UNWATCHED}; DROP OWNED BY {name}; DROP ROLE {name}; {WATCHED}"
        ));
    }
}

/// Channels and payloads, in their order.
type Heard = Arc<Mutex<Vec<(String, String)>>>;

/// Whoever follows a deployment's events, as its dashboard does.
pub(crate) struct Listener<'d> {
    database: &'d Database,
    thread: JoinHandle<()>,
    heard: Heard,
}

/// Where the test says that it wants to hear no more.
const END: &str = "test_end";

impl Listener<'_> {
    /// Waits until something is published.
    #[track_caller]
    pub(crate) fn await_heard(&self, channel: &str, payload: &str) {
        let is_it = |(on, what): &(String, String)| on == channel && what == payload;
        eventually(|| self.heard.lock().unwrap().iter().any(is_it))
            .unwrap_or_else(|()| panic!("no {payload} on {channel}: {:?}", self.heard.lock().unwrap()));
    }

    /// Forgets what was heard so far.
    pub(crate) fn forget(&self) {
        self.heard.lock().unwrap().clear();
    }

    /// All that was published until now.
    pub(crate) fn heard(self) -> Vec<(String, String)> {
        // Everybody hears in the order in which it was committed.
        self.database.execute(&format!("NOTIFY {END}"));
        self.thread.join().unwrap();
        std::mem::take(&mut self.heard.lock().unwrap())
    }
}

/// An agent by the last group of its ids; see `tests/fixtures/coder/5_deployment.sql`.
pub(crate) fn agent(server: &Server, last: &str) -> SeededAgent {
    SeededAgent {
        name: last.to_owned(),
        url: server.url.clone(),
        token: format!("0000000d-0000-4000-8000-00000000000{last}"),
    }
}
