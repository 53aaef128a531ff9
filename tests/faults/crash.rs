//! A server that is killed at random points of a write load: what it acknowledged is there, whole, once and in order.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Stdio;
use std::time::Duration;

use drpcd::clock::Clock;
use drpcd::mux::Status;
use drpcd::proto::agent as proto;
use drpcd::proto::agent::AgentClient;
use drpcd::proto::agent::push_resources_monitoring_usage_request::Datapoint;
use drpcd::proto::agent::push_resources_monitoring_usage_request::datapoint::MemoryUsage;
use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};
use tokio::runtime::Runtime;
use tokio::task::JoinSet;
use uuid::Uuid;

use crate::support::{Data, EXAMPLE_SEED, SeededAgent, Server, client, drpcd};

/// Seeds of a plain run; `DRPCD_CRASH_SEEDS` replaces the number.
const SEEDS: u64 = 10;

/// Agents that write at the same time.
const AGENTS: usize = 6;

/// Longest write load before the kill.
const MAX_LOAD_MS: u64 = 300;

/// Longest life of a server that is killed while it starts.
const MAX_START_MS: u64 = 120;

/// What is asked of a server, and what became of it.
#[derive(Debug)]
enum Outcome {
    Acknowledged,
    /// The server was killed before it answered: it may have been done or not.
    Unknown,
}

/// A write and how it ended.
#[derive(Debug)]
struct Entry {
    write: Write,
    outcome: Outcome,
}

#[derive(Debug)]
enum Write {
    /// One batch of lines.
    Logs(Vec<String>),
    Lifecycle(&'static str),
    Startup(String),
    AppHealth(&'static str),
    AppStatus(String),
    /// The state of the monitor of memory.
    Monitor(&'static str),
    Timing {
        started_at: i64,
    },
    Connected(Uuid),
    Disconnected(Uuid),
    SubAgent(String),
    DeletedSubAgent(String),
}

/// What one agent knows of itself.
struct Identity {
    script: Vec<u8>,
    source: Vec<u8>,
    app: Vec<u8>,
}

/// An agent's load, and its journal.
struct Load {
    client: AgentClient,
    random: SmallRng,
    /// Makes texts unique over all agents and seeds.
    prefix: String,
    count: u64,
    identity: Identity,
    open: Vec<Uuid>,
    sub_agents: Vec<(String, Vec<u8>)>,
    journal: Vec<Entry>,
}

fn now() -> prost_types::Timestamp {
    Clock::system().now().into()
}

impl Load {
    async fn begin(agent: SeededAgent, seed: u64, number: usize) -> Option<Self> {
        let client = client::agent(&agent).await.ok()?;
        let manifest = client.get_manifest(&proto::GetManifestRequest {}).await.ok()?;
        let script = manifest.scripts.into_iter().next().unwrap();
        let app = manifest.apps.into_iter().find(|app| app.slug == "code").unwrap();
        Some(Self {
            client,
            random: SmallRng::seed_from_u64(seed << 8 | number as u64),
            prefix: format!("{seed}.{number}"),
            count: 0,
            identity: Identity {
                script: script.id,
                source: script.log_source_id,
                app: app.id,
            },
            open: Vec::new(),
            sub_agents: Vec::new(),
            journal: Vec::new(),
        })
    }

    fn text(&mut self) -> String {
        self.count += 1;
        format!("{}.{}", self.prefix, self.count)
    }

    fn note<T>(&mut self, write: Write, result: &Result<T, Status>) -> bool {
        let outcome = match result {
            Ok(_) => Outcome::Acknowledged,
            Err(_) => Outcome::Unknown,
        };
        self.journal.push(Entry { write, outcome });
        result.is_ok()
    }

    /// Writes until the server is gone.
    async fn run(mut self) -> Vec<Entry> {
        while match self.random.random_range(0..11) {
            0..4 => self.logs().await,
            4 => self.lifecycle().await,
            5 => self.startup().await,
            6 => self.app().await,
            7 => self.timing().await,
            8 => self.connection().await,
            9 => self.monitor().await,
            _ => self.sub_agent().await,
        } {}
        self.journal
    }

    async fn logs(&mut self) -> bool {
        let lines: Vec<_> = (0..self.random.random_range(1..20))
            .map(|_| self.text())
            .collect();
        let log = |line: &String| proto::Log {
            created_at: Some(now()),
            output: line.clone(),
            level: proto::log::Level::Info.into(),
        };
        let request = proto::BatchCreateLogsRequest {
            log_source_id: self.identity.source.clone(),
            logs: lines.iter().map(log).collect(),
        };
        let result = self.client.batch_create_logs(&request).await;
        if let Ok(response) = &result {
            assert!(!response.log_limit_exceeded, "too many lines for one agent");
        }
        self.note(Write::Logs(lines), &result)
    }

    async fn lifecycle(&mut self) -> bool {
        let (state, name) = match self.random.random_range(0..3) {
            0 => (proto::lifecycle::State::Starting, "starting"),
            1 => (proto::lifecycle::State::Ready, "ready"),
            _ => (proto::lifecycle::State::ShuttingDown, "shutting_down"),
        };
        let lifecycle = proto::Lifecycle {
            state: state.into(),
            changed_at: Some(now()),
        };
        let request = proto::UpdateLifecycleRequest {
            lifecycle: Some(lifecycle),
        };
        let result = self.client.update_lifecycle(&request).await;
        self.note(Write::Lifecycle(name), &result)
    }

    async fn startup(&mut self) -> bool {
        let directory = self.text();
        let startup = proto::Startup {
            version: "v2.31.0".to_owned(),
            expanded_directory: directory.clone(),
            subsystems: Vec::new(),
        };
        let request = proto::UpdateStartupRequest {
            startup: Some(startup),
        };
        let result = self.client.update_startup(&request).await;
        self.note(Write::Startup(directory), &result)
    }

    async fn app(&mut self) -> bool {
        if self.random.random() {
            let message = self.text();
            let request = proto::UpdateAppStatusRequest {
                slug: "code".to_owned(),
                state: proto::update_app_status_request::AppStatusState::Working.into(),
                message: message.clone(),
                uri: String::new(),
            };
            let result = self.client.update_app_status(&request).await;
            return self.note(Write::AppStatus(message), &result);
        }
        let (health, name) = if self.random.random() {
            (proto::AppHealth::Healthy, "healthy")
        } else {
            (proto::AppHealth::Unhealthy, "unhealthy")
        };
        let update = proto::batch_update_app_health_request::HealthUpdate {
            id: self.identity.app.clone(),
            health: health.into(),
        };
        let request = proto::BatchUpdateAppHealthRequest {
            updates: vec![update],
        };
        let result = self.client.batch_update_app_healths(&request).await;
        self.note(Write::AppHealth(name), &result)
    }

    async fn monitor(&mut self) -> bool {
        // Far below the seed's threshold, or at least at it.
        let (used, state) = if self.random.random() {
            (1, "OK")
        } else {
            (10, "NOK")
        };
        let datapoint = Datapoint {
            memory: Some(MemoryUsage { used, total: 10 }),
            ..Default::default()
        };
        let request = proto::PushResourcesMonitoringUsageRequest {
            datapoints: vec![datapoint],
        };
        let result = self.client.push_resources_monitoring_usage(&request).await;
        self.note(Write::Monitor(state), &result)
    }

    async fn timing(&mut self) -> bool {
        let start = Clock::system().now();
        let timing = proto::Timing {
            script_id: self.identity.script.clone(),
            start: Some(start.into()),
            end: Some(start.saturating_add(Duration::from_secs(1)).into()),
            ..Default::default()
        };
        let request = proto::WorkspaceAgentScriptCompletedRequest { timing: Some(timing) };
        let result = self.client.script_completed(&request).await;
        let started_at = start.as_micros();
        self.note(Write::Timing { started_at }, &result)
    }

    async fn connection(&mut self) -> bool {
        let (id, action, write) = match self.open.pop() {
            Some(id) if self.random.random() => {
                (id, proto::connection::Action::Disconnect, Write::Disconnected(id))
            }
            _ => {
                let id = Uuid::from_u128(self.random.random());
                (id, proto::connection::Action::Connect, Write::Connected(id))
            }
        };
        let connection = proto::Connection {
            id: id.as_bytes().to_vec(),
            action: action.into(),
            r#type: proto::connection::Type::Ssh.into(),
            timestamp: Some(now()),
            ip: "192.0.2.7".to_owned(),
            ..Default::default()
        };
        let request = proto::ReportConnectionRequest {
            connection: Some(connection),
        };
        let result = self.client.report_connection(&request).await;
        if matches!(write, Write::Connected(_)) {
            self.open.push(id);
        }
        self.note(write, &result)
    }

    async fn sub_agent(&mut self) -> bool {
        if let Some((name, id)) = self.sub_agents.pop() {
            let request = proto::DeleteSubAgentRequest { id };
            let result = self.client.delete_sub_agent(&request).await;
            return self.note(Write::DeletedSubAgent(name), &result);
        }
        let name = format!("sub-{}", self.text().replace('.', "-"));
        let request = proto::CreateSubAgentRequest {
            name: name.clone(),
            directory: "/".to_owned(),
            architecture: "amd64".to_owned(),
            operating_system: "linux".to_owned(),
            ..Default::default()
        };
        let result = self.client.create_sub_agent(&request).await;
        if let Ok(response) = &result {
            let agent = response.agent.as_ref().unwrap();
            self.sub_agents.push((name.clone(), agent.id.clone()));
        }
        self.note(Write::SubAgent(name), &result)
    }
}

/// Serves, loads for a random time, kills, and returns each agent's journal.
fn load_and_kill(runtime: &Runtime, server: Server, seed: u64, load: Duration) -> Vec<Vec<Entry>> {
    let mut tasks = JoinSet::new();
    for (number, agent) in server.agents.iter().cloned().enumerate() {
        let work = async move {
            let journal = match Load::begin(agent, seed, number).await {
                Some(load) => load.run().await,
                None => Vec::new(),
            };
            (number, journal)
        };
        tasks.spawn_on(work, runtime.handle());
    }
    std::thread::sleep(load);
    server.kill();
    let mut journals = runtime.block_on(tasks.join_all());
    journals.sort_by_key(|(number, _)| *number);
    journals.into_iter().map(|(_, journal)| journal).collect()
}

fn set(data: &Data, sql: &str) -> BTreeSet<String> {
    let rows = data.query(sql);
    let set: BTreeSet<_> = rows.iter().cloned().collect();
    assert_eq!(set.len(), rows.len(), "something is there twice: {sql}");
    set
}

/// Compares one agent's journal with its rows.
fn check_agent(data: &Data, name: &str, prefix: &str, journal: &[Entry]) {
    let agent = format!("(SELECT id FROM workspace_agents WHERE name = '{name}' AND parent_id IS NULL)");
    let of_agent = |column: &str| {
        data.value(&format!(
            "SELECT {column} FROM workspace_agents WHERE id = {agent}"
        ))
    };
    let lines = data.query(&format!(
        "SELECT output FROM workspace_agent_logs
         WHERE agent_id = {agent} AND output LIKE '{prefix}.%' ORDER BY id"
    ));
    let mut lines = lines.iter();
    let statuses = set(
        data,
        &format!("SELECT message FROM workspace_app_statuses WHERE agent_id = {agent}"),
    );
    let timings = set(
        data,
        &format!(
            "SELECT started_at FROM workspace_agent_script_timings WHERE script_id IN
             (SELECT id FROM workspace_agent_scripts WHERE workspace_agent_id = {agent})"
        ),
    );
    // What there is of a kind, and whether it has ended.
    let ended = |sql: String| -> BTreeMap<String, bool> {
        let row = |row: String| {
            let (key, ended) = row.split_once(' ').unwrap();
            (key.to_owned(), ended == "1")
        };
        set(data, &sql).into_iter().map(row).collect()
    };
    let connections = ended(format!(
        "SELECT connection_id, disconnect_time IS NOT NULL FROM connection_logs WHERE agent_name = '{name}'"
    ));
    let sub_agents = ended(format!(
        "SELECT name, deleted FROM workspace_agents WHERE parent_id = {agent}"
    ));
    // What a column may hold: the last acknowledged value, or one that came after it without an answer.
    let mut columns: BTreeMap<&str, Vec<&str>> = BTreeMap::new();

    for Entry { write, outcome } in journal {
        let known = matches!(outcome, Outcome::Acknowledged);
        let mut column = |name, value| {
            let values = columns.entry(name).or_default();
            if known {
                values.clear();
            }
            values.push(value);
        };
        match write {
            Write::Logs(sent) => {
                // Whole and in order; without an answer whole or not at all.
                let mut ahead = lines.clone();
                let stored: Vec<_> = ahead.by_ref().take(sent.len()).collect();
                if known || !stored.is_empty() {
                    assert!(stored.iter().copied().eq(sent), "{name}: {stored:?} of {sent:?}");
                    lines = ahead;
                }
            }
            Write::Lifecycle(state) => column("lifecycle_state", state),
            Write::Startup(directory) => column("expanded_directory", directory),
            Write::AppHealth(health) => column("health", health),
            Write::Monitor(state) => column("monitor", state),
            Write::AppStatus(message) => {
                assert!(!known || statuses.contains(message), "{name}: status {message}");
            }
            Write::Timing { started_at } => {
                assert!(
                    !known || timings.contains(&started_at.to_string()),
                    "{name}: timing {started_at}"
                );
            }
            Write::Connected(id) => {
                let id = id.to_string();
                assert!(!known || connections.contains_key(&id), "{name}: connection {id}");
            }
            Write::Disconnected(id) => {
                let id = id.to_string();
                assert!(!known || connections[&id], "{name}: end of connection {id}");
            }
            Write::SubAgent(sub) => {
                assert!(!known || sub_agents.contains_key(sub), "{name}: sub agent {sub}");
            }
            Write::DeletedSubAgent(sub) => {
                assert!(!known || sub_agents[sub], "{name}: deletion of {sub}");
            }
        }
    }
    assert_eq!(lines.next(), None, "{name}: a line that was not sent, or twice");
    for (column, values) in columns {
        let stored = match column {
            "health" => data.value(&format!(
                "SELECT health FROM workspace_apps WHERE slug = 'code' AND agent_id = {agent}"
            )),
            "monitor" => data.value(&format!(
                "SELECT state FROM workspace_agent_memory_resource_monitors WHERE agent_id = {agent}"
            )),
            column => of_agent(column),
        };
        // A value without an answer after the last known one leaves either.
        assert!(
            values.contains(&stored.as_str()) || unknown_only(journal, column),
            "{name}: {column} is {stored:?}, sent {values:?}"
        );
    }
}

/// Whether nothing that goes into a column was acknowledged, so that it may hold what was there before.
fn unknown_only(journal: &[Entry], column: &str) -> bool {
    !journal.iter().any(|Entry { write, outcome }| {
        let same = match write {
            Write::Lifecycle(_) => column == "lifecycle_state",
            Write::Startup(_) => column == "expanded_directory",
            Write::AppHealth(_) => column == "health",
            Write::Monitor(_) => column == "monitor",
            _ => false,
        };
        same && matches!(outcome, Outcome::Acknowledged)
    })
}

/// What holds of every database, whatever was written.
pub(crate) fn check_invariants(data: &Data) {
    data.assert_intact();
    let within_a_second = data.later("later.created_at", Duration::from_secs(1));
    let backwards = format!(
        "SELECT later.id FROM workspace_agent_logs AS later JOIN workspace_agent_logs AS earlier
            ON earlier.id = (SELECT max(id) FROM workspace_agent_logs AS sooner
                WHERE sooner.id < later.id AND sooner.agent_id = later.agent_id) WHERE {within_a_second} < earlier.created_at"
    );
    let empty = [
        "SELECT name FROM workspace_agents WHERE logs_length <> coalesce((SELECT sum(octet_length(output))
            FROM workspace_agent_logs WHERE agent_id = workspace_agents.id), 0)",
        "SELECT name FROM workspace_agents WHERE last_connected_at < first_connected_at
            OR (last_connected_at IS NULL) <> (first_connected_at IS NULL)",
        "SELECT name FROM workspace_agents WHERE ready_at < started_at AND lifecycle_state = 'ready'",
        "SELECT id FROM connection_logs WHERE disconnect_time < connect_time",
        &backwards,
    ];
    for sql in empty {
        assert_eq!(data.query(sql), [""; 0], "{sql}");
    }
}

fn many_agents() -> String {
    let (head, agent) = EXAMPLE_SEED.split_once("  - name: main\n").unwrap();
    let agents = (0..AGENTS).map(|number| format!("  - name: agent{number}\n{agent}"));
    format!("{head}{}", agents.collect::<String>())
}

/// Kills a server that starts, at a random point.
fn kill_at_start(data: &Data, after: Duration) {
    let mut server = drpcd()
        .args(["server", "--http-address", "127.0.0.1:0"])
        .args(data.store())
        .arg("--seed")
        .arg(data.seed_file())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    std::thread::sleep(after);
    server.kill().unwrap();
    server.wait().unwrap();
}

/// Seeds that share one database, each of which goes on where the one before was killed.
const SEEDS_PER_DATABASE: u64 = 20;

#[test]
fn conn_037_what_was_acknowledged_survives_a_kill_at_any_point() {
    let seeds = std::env::var("DRPCD_CRASH_SEEDS").map_or(SEEDS, |seeds| seeds.parse().unwrap());
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let mut data = Data::new(&many_agents());
    let mut acknowledged = 0;
    for seed in 0..seeds {
        if seed > 0 && seed % SEEDS_PER_DATABASE == 0 {
            data = Data::new(&many_agents());
        }
        let mut random = SmallRng::seed_from_u64(seed);
        if seed % 5 == 0 {
            kill_at_start(&data, Duration::from_millis(random.random_range(0..MAX_START_MS)));
        }
        let server = data.serve(&[]);
        let load = Duration::from_millis(random.random_range(1..MAX_LOAD_MS));
        let journals = load_and_kill(&runtime, server, seed, load);
        eprintln!(
            "seed {seed}: {:?} writes",
            journals.iter().map(Vec::len).collect::<Vec<_>>()
        );
        check_invariants(&data);
        for (number, journal) in journals.iter().enumerate() {
            check_agent(
                &data,
                &format!("agent{number}"),
                &format!("{seed}.{number}"),
                journal,
            );
            let known = |entry: &&Entry| matches!(entry.outcome, Outcome::Acknowledged);
            acknowledged += journal.iter().filter(known).count();
        }
    }
    assert!(acknowledged > 0, "no load at all");
}
