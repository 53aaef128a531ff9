//! Several servers on one Postgres database: one dies, all restart, the database goes away in between, and nothing that an
//! agent was answered for is missing.

use std::collections::HashMap;
use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use drpcd::clock::Clock;
use serde_json::Value;

use crate::crowd;
use crate::support::postgres::{self, Shutdown};
use crate::support::{Data, Go, SeededAgent, Server, go};

/// Within this all agents of a replica that died have to be back at another.
const BACK: Duration = Duration::from_secs(30);

/// Lines are stored again within five seconds of the database's return, and within this on a machine that has other things to
/// do.
const RECOVERY: Duration = Duration::from_secs(8);

/// How often agents tell their statistics, and how long those wait for company at the server, in seconds.
const STATS_INTERVAL: i64 = 5;
const STATS_FLUSH: i64 = 1;

/// By how many standard deviations the agents of a flush may be more than their mean: they came by chance.
const CHANCE: i64 = 3;

/// How many statistics may have been answered for and are not stored yet when a process with so many agents is killed: those
/// of one flush.
fn unflushed(agents: i64) -> i64 {
    let mean = (agents * STATS_FLUSH + STATS_INTERVAL - 1) / STATS_INTERVAL;
    mean + (CHANCE * CHANCE * mean).isqrt()
}

/// How often each line is there.
fn counted(lines: impl Iterator<Item = String>) -> HashMap<String, u64> {
    let mut counts = HashMap::new();
    for line in lines {
        *counts.entry(line).or_default() += 1;
    }
    counts
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
        let more = "    scripts: [{ display_name: Start, script: 'true', run_on_start: true }]\n    \
             metadata: [{ key: cpu, display_name: CPU, script: uptime, interval_seconds: 5 }]\n";
        let (seed, tokens) = crowd(agents, more);
        let data = Data::on(&database, &seed);
        fs::write(data.path().join("tokens"), tokens).unwrap();
        let interval = format!("{STATS_INTERVAL}s");
        let mut all = vec!["--agent-stats-refresh-interval", &interval];
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
        let (tokens, taken) = (self.data.path().join("tokens"), self.taken());
        let (duration, scripts) = (format!("{seconds}s"), format!("{}s", seconds * 3 / 4));
        let flags = [
            "--tokens",
            tokens.to_str().unwrap(),
            "--duration",
            &duration,
            "--calm",
            "--scripts",
            &scripts,
            "--taken",
            taken.to_str().unwrap(),
        ];
        go("soak", self.server.agent(), &flags)
    }

    /// Where the log lines are noted that agents were told are stored.
    fn taken(&self) -> PathBuf {
        self.data.path().join("taken")
    }

    /// A client of the owner with a tunnel to each of `ids`, where `place` says.
    fn client(&self, place: SeededAgent, ids: &[String], seconds: u64) -> Option<Go> {
        let user = SeededAgent {
            token: self.data.client_token("ada"),
            ..place
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
        crate::support::eventually(|| self.connected() == agents)
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

    /// Checks what agents were answered for against what is stored; so many of them were at a replica that was killed.
    fn check(&self, result: &Value, killed: i64) {
        // The two long streams end with their session, and a call that is under way may; it is made again over the next.
        let failed = result["failed_by"].as_object().unwrap().iter();
        let calls = failed.filter(|(method, _)| !["Coordinate", "StreamDERPMaps"].contains(&method.as_str()));
        let calls: u64 = calls.map(|(_, count)| count.as_u64().unwrap()).sum();
        let sessions = result["connections"].as_u64().unwrap() - u64::try_from(self.agents).unwrap();
        assert!(calls <= sessions, "{result:#}");
        let answered = |method: &str| result["answered"][method].as_i64().unwrap_or(0);
        // One that was not answered may be stored, and be stored again.
        let lines = self
            .data
            .query("SELECT agent_id, output FROM workspace_agent_logs");
        let (lines, stored) = (lines.len(), counted(lines.into_iter()));
        let taken = fs::read_to_string(self.taken()).unwrap();
        assert_eq!(
            taken.lines().count(),
            usize::try_from(result["log_lines"].as_u64().unwrap()).unwrap()
        );
        for (line, times) in counted(taken.lines().map(ToOwned::to_owned)) {
            let found = stored.get(&line).copied().unwrap_or(0);
            assert!(
                found >= times,
                "{line:?} was told {times} times and is stored {found} times"
            );
        }
        // The first report of each connection says nothing.
        let connections = result["connections"].as_i64().unwrap();
        let told = answered("UpdateStats") - connections;
        let lost = unflushed(killed);
        let rows = || self.data.number("SELECT count(*) FROM workspace_agent_stats");
        // The last ones are on their way for a second.
        let stored = crate::support::eventually(|| rows() + lost >= told);
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
    let (its, dying) = kit.replicas().swap_remove(0);
    let index = index_of(&kit, &dying);
    let ids = kit.data.query(&format!(
        "SELECT id FROM workspace_agents WHERE parent_id IS NULL AND last_connected_replica_id = '{dying}'
        ORDER BY id LIMIT 5"
    ));
    let survivor = kit.server.agent_at((index + 1) % 3);
    let mut client = kit.client(survivor, &ids, seconds).unwrap();
    for _ in &ids {
        client.await_start("NODE");
    }

    let killed = Instant::now();
    kit.server.turn_away();
    kit.server.kill_replica(index);
    // Its peers count as lost once it was silent for long enough, and are back after that.
    let told = |what: &str| -> Vec<String> { ids.iter().map(|id| format!("{what} {id}")).collect() };
    client.await_all(&told("LOST"));
    kit.server.let_in();
    let gone = format!(
        "SELECT count(*) FROM workspace_agents WHERE parent_id IS NULL AND last_connected_replica_id = '{dying}'"
    );
    crate::support::eventually(|| kit.data.number(&gone) == 0)
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
    crate::support::eventually(|| kit.data.number("SELECT count(*) FROM workspace_agent_logs") > before)
        .expect("lines are stored again");
    println!(
        "lines were stored again {:?} after the database's return",
        returned.elapsed()
    );
    assert!(returned.elapsed() < RECOVERY);

    client.await_all(&told("NODE"));
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
    let connections = i64::try_from(agents).unwrap() + its;
    assert_eq!(result["connections"], connections, "{result:#}");
    kit.check(&result, its);
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

/// Within a fifth of the time that a server has for ending its sessions at most half of them may end: one in a row would
/// be a fifth of them, and a machine that stands still for a moment ends what was due meanwhile at once.
fn assert_even(ended: &[u64], drain: Duration) {
    let fifth = u64::try_from(drain.as_millis()).unwrap() / 5;
    for (index, first) in ended.iter().enumerate() {
        let within = ended[index..].iter().filter(|at| **at < first + fifth).count();
        assert!(
            within <= ended.len().div_ceil(2),
            "{within} sessions ended within {fifth} ms: {ended:?}"
        );
    }
}

#[test]
fn a_rolling_restart_ends_sessions_evenly_and_loses_nothing() {
    const AGENTS: usize = 30;
    const DRAIN: Duration = Duration::from_secs(12);
    let Some(kit) = Kit::new(2, AGENTS, &["--drain-time", "12s"]) else {
        return;
    };
    let Some(work) = kit.work(85) else { return };
    kit.await_connected();
    let mut kit = kit;
    let ids = kit
        .data
        .query("SELECT id FROM workspace_agents WHERE parent_id IS NULL ORDER BY id LIMIT 1");
    let mut client = kit.client(kit.server.agent().clone(), &ids, 120).unwrap();
    client.await_start("NODE");
    let now = || u64::try_from(Clock::system().now().as_micros() / 1_000).unwrap();
    let mut drained = Vec::new();
    for replica in 0..2 {
        let began = now();
        assert_eq!(
            kit.server.stop_replica(replica),
            Some(0),
            "{}",
            kit.data.log_of(replica)
        );
        drained.push(began..now());
        kit.server.start_replica(replica);
        kit.await_connected();
    }
    let coordinate =
        "SELECT count(DISTINCT id) FROM tailnet_peers JOIN workspace_agents USING (id) WHERE status = 'ok'";
    crate::support::eventually(|| kit.data.number(coordinate) == i64::try_from(AGENTS).unwrap())
        .unwrap_or_else(|()| panic!("{} agents coordinate", kit.data.number(coordinate)));
    // As if it were a day later and everybody had heard, so that the agents' end of their own accord is no loss but a
    // goodbye, which is the last that the client hears.
    kit.data.query(
        "WITH gone AS (DELETE FROM tailnet_peers WHERE status = 'lost' RETURNING id)
        SELECT count(pg_notify('tailnet_peer_update', id::text)) FROM gone",
    );
    client.await_line(&format!("DISCONNECTED {}", ids[0]));
    let coordinates = format!(
        "SELECT count(*) FROM tailnet_peers WHERE id = '{}' AND status = 'ok'",
        ids[0]
    );
    crate::support::eventually(|| kit.data.number(&coordinates) == 0)
        .expect("nobody else is told to have gone");
    client.terminate();
    let (report, _) = client.finish();
    let events = report["events"].as_array().unwrap();
    let last = |what: &str| events.iter().rposition(|event| event["what"] == *what);
    let first = |what: &str| events.iter().position(|event| event["what"] == *what);
    assert!(report["connections"].as_u64().unwrap() > 1, "{report:#}");
    assert!(last("NODE") > last("connected").max(last("LOST")), "{report:#}");
    assert!(first("DISCONNECTED") > last("NODE"), "{report:#}");

    let (result, _) = work.finish();
    let ended = result["ended_at_ms"].as_array().unwrap().iter();
    let mut ended: Vec<_> = ended.map(|at| at.as_u64().unwrap()).collect();
    ended.sort_unstable();
    for during in drained {
        let (mut its, (start, end)) = (ended.clone(), (during.start, during.end));
        its.retain(|at| during.contains(at));
        // Each of two replicas has about half of the agents, or all of them.
        assert!(its.len() >= AGENTS / 3, "{start} to {end}: {ended:?}");
        assert_even(&its, DRAIN);
    }
    kit.check(&result, 0);
}
