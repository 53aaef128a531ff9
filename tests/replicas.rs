//! Several servers on one Postgres database: one dies, all restart, the database goes away in between, and nothing that an
//! agent was answered for is missing.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a failed test shows where"
)]
#![allow(clippy::disallowed_methods, reason = "real servers take real time")]

mod support;

use std::fmt::Write as _;
use std::fs;
use std::time::{Duration, Instant};

use serde_json::Value;
use support::postgres::{self, Shutdown};
use support::{Data, Go, SeededAgent, Server, go};
use uuid::Uuid;

/// Within this all agents of a replica that died have to be back at another.
const BACK: Duration = Duration::from_secs(30);

/// What agents may have been answered for and is not stored yet when a process is killed: statistics of one second, from
/// agents that report twice a minute, with what a crowd of them bunches up.
fn unflushed(agents: usize) -> i64 {
    i64::try_from(agents / 10).unwrap() + 5
}

/// Agents that work, on replicas that a test disturbs.
struct Kit {
    database: postgres::Server,
    data: Data,
    server: Server,
    agents: usize,
}

impl Kit {
    /// `None` without Postgres.
    fn new(replicas: usize, agents: usize, flags: &[&str]) -> Option<Self> {
        let database = postgres::Server::new()?;
        let (mut seed, mut tokens) = (String::new(), String::new());
        for number in 0..agents {
            let token = Uuid::new_v4();
            writeln!(tokens, "{token}").unwrap();
            write!(
                seed,
                "{}owner: {{ username: ada, email: ada@example.com }}\nworkspace: {{ name: w{number} }}\n\
                 agents:\n  - name: main\n    token: {token}\n    \
                 scripts: [{{ display_name: Start, script: 'true', run_on_start: true }}]\n    \
                 metadata: [{{ key: cpu, display_name: CPU, script: uptime, interval_seconds: 5 }}]\n",
                if number == 0 { "" } else { "---\n" },
            )
            .unwrap();
        }
        let data = Data::on(&database, &seed);
        fs::write(data.path().join("tokens"), tokens).unwrap();
        let mut all = vec!["--agent-stats-refresh-interval", "5s"];
        all.extend(flags);
        let server = data.serve_replicas(replicas, &all);
        Some(Self {
            database,
            data,
            server,
            agents,
        })
    }

    /// Lets all agents work for `seconds`, with a log line each second for most of it.
    fn work(&self, seconds: u64) -> Option<Go> {
        let tokens = self.data.path().join("tokens");
        let (duration, scripts) = (format!("{seconds}s"), format!("{}s", seconds * 3 / 4));
        let flags = [
            "--tokens",
            tokens.to_str().unwrap(),
            "--duration",
            &duration,
            "--calm",
            "--scripts",
            &scripts,
        ];
        go("soak", self.server.agent(), &flags)
    }

    /// A client of the owner with a tunnel to each of `ids`, at a replica.
    fn client(&self, replica: usize, ids: &[String], seconds: u64) -> Option<Go> {
        let user = SeededAgent {
            token: self.data.client_token("ada"),
            ..self.server.agent_at(replica)
        };
        let duration = format!("{seconds}s");
        let mut flags = vec!["--duration", duration.as_str()];
        for id in ids {
            flags.extend(["--tunnel", id.as_str()]);
        }
        go("client", &user, &flags)
    }

    fn connected(&self) -> i64 {
        self.data.number(
            "SELECT count(*) FROM workspace_agents
            WHERE parent_id IS NULL AND last_connected_at > coalesce(disconnected_at, '-infinity')",
        )
    }

    /// Waits until every agent has a session.
    #[track_caller]
    fn await_connected(&self) {
        let agents = i64::try_from(self.agents).unwrap();
        support::eventually(|| self.connected() == agents)
            .unwrap_or_else(|()| panic!("{} of {agents} are connected", self.connected()));
    }

    /// Replicas by how many agents were last written by each, and their ids.
    fn replicas(&self) -> Vec<(i64, String)> {
        let rows = self.data.query(
            "SELECT count(*), last_connected_replica_id FROM workspace_agents
            WHERE parent_id IS NULL AND last_connected_replica_id IS NOT NULL GROUP BY 2 ORDER BY 1 DESC",
        );
        let parse = |row: &String| {
            let (count, id) = row.split_once(' ').unwrap();
            (count.parse().unwrap(), id.to_owned())
        };
        rows.iter().map(parse).collect()
    }

    /// Checks what agents were answered for against what is stored.
    fn check(&self, result: &Value, killed: bool) {
        // The two long streams end with their session, and a call that is under way may; it is made again over the next.
        let failed = result["failed_by"].as_object().unwrap().iter();
        let calls = failed.filter(|(method, _)| !["Coordinate", "StreamDERPMaps"].contains(&method.as_str()));
        let calls: u64 = calls.map(|(_, count)| count.as_u64().unwrap()).sum();
        let sessions = result["connections"].as_u64().unwrap() - u64::try_from(self.agents).unwrap();
        assert!(calls <= sessions, "{result:#}");
        let answered = |method: &str| result["answered"][method].as_i64().unwrap_or(0);
        // Lines of the first and the last word are logged too, and one that was not answered may be stored.
        let lines = self.data.number("SELECT count(*) FROM workspace_agent_logs");
        let told = result["log_lines"].as_i64().unwrap();
        assert!(lines >= told, "{lines} of {told} log lines are stored");
        // The first report of each connection says nothing.
        let connections = result["connections"].as_i64().unwrap();
        let told = answered("UpdateStats") - connections;
        let lost = if killed { unflushed(self.agents) } else { 0 };
        let rows = || self.data.number("SELECT count(*) FROM workspace_agent_stats");
        // The last ones are on their way for a second.
        let stored = support::eventually(|| rows() + lost >= told);
        let rows = rows();
        assert!(stored.is_ok(), "{rows} of {told} statistics are stored");
        println!(
            "{lines} log lines for {}, {rows} statistics for {told}",
            result["log_lines"]
        );
    }
}

/// Which replica, by index, is the one that wrote under `id`: its log says so when it starts.
fn index_of(kit: &Kit, id: &str) -> usize {
    let starts = |line: &str| line.contains("drpcd is starting") && line.contains(id);
    (0..kit.server.replicas())
        .find(|&replica| kit.data.log_of(replica).lines().any(starts))
        .unwrap_or_else(|| panic!("no replica is {id}"))
}

/// Kills one of three replicas under load, restarts the database after it, and looks what becomes of all.
fn one_of_three_dies(agents: usize, seconds: u64) {
    let Some(kit) = Kit::new(3, agents, &[]) else {
        return;
    };
    let Some(work) = kit.work(seconds) else { return };
    kit.await_connected();
    let mut kit = kit;
    let (_, dying) = kit.replicas().swap_remove(0);
    let index = index_of(&kit, &dying);
    let ids = kit.data.query(&format!(
        "SELECT id FROM workspace_agents WHERE parent_id IS NULL AND last_connected_replica_id = '{dying}'
        ORDER BY id LIMIT 5"
    ));
    let survivor = (index + 1) % 3;
    let mut client = kit.client(survivor, &ids, seconds).unwrap();
    for _ in &ids {
        client.await_start("NODE");
    }

    let killed = Instant::now();
    kit.server.turn_away();
    kit.server.kill_replica(index);
    // Longer than a replica may be silent, so that its peers count as lost before they are back.
    std::thread::sleep(Duration::from_secs(8));
    kit.server.let_in();
    let gone = format!(
        "SELECT count(*) FROM workspace_agents WHERE parent_id IS NULL AND last_connected_replica_id = '{dying}'"
    );
    support::eventually(|| kit.data.number(&gone) == 0)
        .unwrap_or_else(|()| panic!("{} agents did not come back", kit.data.number(&gone)));
    let back = killed.elapsed();
    println!("{agents} agents: all were back {back:?} after the kill");
    assert!(back < BACK, "{back:?}");

    // The database restarts in the middle: sessions stay, what is told meanwhile is stored.
    let before = kit.data.number("SELECT count(*) FROM workspace_agent_logs");
    kit.database.stop(Shutdown::Fast);
    std::thread::sleep(Duration::from_secs(3));
    kit.database.start();
    let returned = Instant::now();
    support::eventually(|| kit.data.number("SELECT count(*) FROM workspace_agent_logs") > before)
        .expect("lines are stored again");
    println!(
        "lines were stored again {:?} after the database's return",
        returned.elapsed()
    );
    assert!(returned.elapsed() < Duration::from_secs(5));

    client.terminate();
    let (report, _) = client.finish();
    for id in &ids {
        let events = report["events"].as_array().unwrap().iter();
        let mut told: Vec<&str> = events
            .filter(|event| event["id"] == **id)
            .map(|event| event["what"].as_str().unwrap())
            .filter(|what| *what != "READY_FOR_HANDSHAKE")
            .collect();
        // An agent that connects tells two nodes, one after the other, of which the first may be passed over.
        told.dedup_by(|next, last| *next == "NODE" && next == last);
        assert_eq!(told, ["NODE", "LOST", "NODE"], "{id}");
    }

    let (result, _) = work.finish();
    // Those of the dead replica connected twice, nobody else did.
    let connections = usize::try_from(result["connections"].as_u64().unwrap()).unwrap();
    assert!(connections < 2 * agents, "{result:#}");
    kit.check(&result, true);
}

#[test]
fn a_replica_that_dies_costs_its_agents_a_redial_and_nothing_else() {
    one_of_three_dies(30, 75);
}

#[test]
#[ignore = "takes 300 agents"]
fn one_of_three_replicas_dies_under_300_agents() {
    one_of_three_dies(300, 150);
}

#[test]
fn a_rolling_restart_ends_sessions_evenly_and_loses_nothing() {
    const AGENTS: usize = 30;
    let Some(kit) = Kit::new(2, AGENTS, &["--drain-time", "4s"]) else {
        return;
    };
    let Some(work) = kit.work(60) else { return };
    kit.await_connected();
    let mut kit = kit;
    for replica in 0..2 {
        let drained = Instant::now();
        assert_eq!(
            kit.server.stop_replica(replica),
            Some(0),
            "{}",
            kit.data.log_of(replica)
        );
        // The last of them ended after most of the time for it.
        assert!(
            drained.elapsed() > Duration::from_secs(2),
            "{:?}",
            drained.elapsed()
        );
        kit.server.start_replica(replica);
        kit.await_connected();
    }
    let (result, _) = work.finish();
    let connections = usize::try_from(result["connections"].as_u64().unwrap()).unwrap();
    assert!(connections > AGENTS, "{result:#}");
    kit.check(&result, false);
}
