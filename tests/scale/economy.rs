//! What agents cost the database, as it counts that itself (`pg_stat_statements`): statements without transaction control
//! and settings, by their texts.
//!
//! `cargo test --release --test scale economy:: -- --ignored --nocapture --test-threads=1` measures what docs/TESTING.md says.

use std::fmt::Write as _;
use std::fs;
use std::time::{Duration, Instant};

use crate::crowd;
use crate::support::{Data, SeededAgent, go, postgres};

/// What counts as a statement: neither transaction control nor settings, and not the counting itself.
const COUNTED: &str = "FROM pg_stat_statements
    WHERE dbid = (SELECT oid FROM pg_database WHERE datname = current_database())
    AND query !~* '^(begin|commit|rollback|savepoint|release|set|show|listen|unlisten|create extension)'
    AND query NOT LIKE '%pg_stat_statements%'";

/// What reads rows of agents: every statement that names their table as something to read, but for those that change rows of it
/// and look at these first, or at the parent of a sub agent.
const READS_AGENT_ROWS: &str = r"query ~* '\m(from|join)\s+workspace_agents\M'
    AND query !~* '\mupdate\s+workspace_agents\M'";

/// Of these, by a piece of each, those that ask for something else and look at the row on their way, once for a call of the
/// agent's: they are printed, and not counted as reads of the row.
const FOR_SOMETHING_ELSE: [&str; 4] = [
    // CreateSubAgent: what a child has of its parent.
    "INSERT INTO workspace_agents (",
    // ListSubAgents: the agents that one has made are the answer.
    "FROM workspace_agents AS parent",
    // UpdateAppStatus: an app, what it last said, its task, and whether its agent is ready.
    "IS NOT DISTINCT FROM app.id AS runs_in_app",
    // DeleteSubAgent: the workspace and its owner of now.
    "SELECT w.id AS workspace_id",
];

/// Statements since the counting began, by text, most frequent first.
fn statements(data: &Data) -> Vec<(u64, String)> {
    let rows = data.query(&format!(
        "SELECT calls, left(regexp_replace(query, '\\s+', ' ', 'g'), 100) {COUNTED} ORDER BY calls DESC"
    ));
    let parse = |row: &String| {
        let (calls, text) = row.split_once(' ').unwrap();
        (calls.parse().unwrap(), text.to_owned())
    };
    rows.iter().map(parse).collect()
}

fn begin_counting(data: &Data) {
    data.query("SELECT pg_stat_statements_reset()");
}

fn print(title: &str, statements: &[(u64, String)]) {
    println!("\n{title}\n\n| calls | statement |\n|---|---|");
    for (calls, text) in statements {
        println!("| {calls} | `{text}` |");
    }
}

/// Statements a minute.
#[derive(Clone, Copy, Debug)]
struct Minute {
    all: f64,
    /// Of these, those that flush statistics: one a second at most, in which agents have told any.
    flushes: f64,
}

/// From then on reports come evenly: each agent's first between 30 and 60 s after all are held, then one each 30 s
/// (`interop/cmd/drpc-interop/bench.go`, `reportIdle`).
const SETTLED: Duration = Duration::from_secs(35);

/// Holds idle agents with their reports for `seconds` and returns how many statements a minute all of them cost.
fn idle(agents: usize, seconds: u64) -> Option<Minute> {
    let server = postgres::Server::new()?;
    let (seed, tokens) = crowd(agents, "");
    let data = Data::on(&server, &seed);
    data.query("CREATE EXTENSION pg_stat_statements");
    let drpcd = data.serve_alone(&[]);
    let file = data.path().join("tokens");
    fs::write(&file, tokens).unwrap();
    // A little longer than is counted, so that nobody leaves meanwhile.
    let hold = format!("{}s", seconds + SETTLED.as_secs() + 15);
    let flags = ["--tokens", file.to_str().unwrap(), "--hold", &hold, "--report"];
    let mut held = go("idle", drpcd.agent(), &flags)?;
    held.await_line("held");
    // What came with the connecting is written, and reports come.
    std::thread::sleep(SETTLED);
    begin_counting(&data);
    let began = Instant::now();
    std::thread::sleep(Duration::from_secs(seconds));
    let minutes = began.elapsed().as_secs_f64() / 60.0;
    let counted = statements(&data);
    let result = held.result();
    assert_eq!(result["lost"], 0, "{result:#}");
    let a_minute = |of: &str| {
        let calls = counted.iter().filter(|(_, text)| text.starts_with(of));
        let calls: u64 = calls.map(|(calls, _)| calls).sum();
        #[expect(clippy::cast_precision_loss, reason = "some hundred statements")]
        let minute = calls as f64 / minutes;
        minute
    };
    let minute = Minute {
        all: a_minute(""),
        flushes: a_minute("INSERT INTO workspace_agent_stats"),
    };
    print(
        &format!("{agents} idle agents, {seconds} s: {minute:?} statements a minute"),
        &counted,
    );
    Some(minute)
}

/// The goal of 0.1 a minute and agent, for 2,000 of them, who share the fixed cost of a server.
const GOAL_A_MINUTE: f64 = 200.0;

/// What an agent may add to the fixed cost, which is some 150 a minute: what is left of the goal.
const GOAL_EACH: f64 = 0.03;

/// A flush a second, and one that was due when the counting began.
const MOST_FLUSHES: f64 = 62.0;

#[test]
fn idle_agents_cost_statements_by_the_batch_and_not_each() {
    const FEW: u16 = 100;
    const MANY: u16 = 600;
    let (few, many) = std::thread::scope(|scope| {
        let few = scope.spawn(|| idle(FEW.into(), 30));
        let many = idle(MANY.into(), 30);
        (few.join().unwrap(), many)
    });
    let (Some(few), Some(many)) = (few, many) else {
        return;
    };
    let each = (many.all - many.flushes - few.all + few.flushes) / f64::from(MANY - FEW);
    println!("\n{each:.3} statements a minute for each agent more");
    assert!(each <= GOAL_EACH, "{few:?} and {many:?}");
    assert!(many.flushes <= MOST_FLUSHES, "{many:?}");
    assert!(many.all <= GOAL_A_MINUTE, "{many:?}");
}

#[test]
#[ignore = "takes five minutes"]
fn two_thousand_idle_agents_cost_at_most_a_tenth_of_a_statement_a_minute() {
    let Some(Minute { all: minute, .. }) = idle(2_000, 240) else {
        return;
    };
    println!("\n{:.3} statements per agent-minute", minute / 2_000.0);
    assert!(minute <= GOAL_A_MINUTE, "{minute} statements a minute");
}

/// Lets agents start and work as real ones do, and returns how often a row of an agent was read for each.
fn rows_read(agents: usize, duration: &str) -> Option<f64> {
    let server = postgres::Server::new()?;
    let more = "    apps:\n      - { slug: code, url: 'http://localhost:1', healthcheck: { url: 'http://localhost:1', interval_seconds: 5, threshold: 6 } }\n    \
         scripts:\n      - { display_name: Start, script: 'true', run_on_start: true }\n    \
         metadata:\n      - { key: cpu, display_name: CPU, script: uptime, interval_seconds: 10 }\n    \
         resources_monitoring: { memory: { enabled: true, threshold: 80 } }\n";
    let (seed, tokens) = crowd(agents, more);
    let data = Data::on(&server, &seed);
    data.query("CREATE EXTENSION pg_stat_statements");
    let drpcd = data.serve_alone(&[]);
    let file = data.path().join("tokens");
    fs::write(&file, tokens).unwrap();
    begin_counting(&data);
    let postgres_cpu = cpu(&server.pids());
    let flags = [
        "--tokens",
        file.to_str().unwrap(),
        "--duration",
        duration,
        "--calm",
    ];
    let result = go("soak", drpcd.agent(), &flags)?.result();
    assert_eq!(result["connections"], agents, "{result:#}");
    let postgres_cpu = cpu(&server.pids()) - postgres_cpu;
    let counted = statements(&data);
    let mut reading = READS_AGENT_ROWS.to_owned();
    for text in FOR_SOMETHING_ELSE {
        write!(reading, " AND query NOT LIKE '%{text}%'").unwrap();
    }
    let reads = data.query(&format!("SELECT coalesce(sum(calls), 0) {COUNTED} AND {reading}"));
    let reads: f64 = reads[0].parse().unwrap();
    let texts = data.query(&format!(
        "SELECT calls || ' x ' || left(regexp_replace(query, '\\s+', ' ', 'g'), 60) {COUNTED} AND {READS_AGENT_ROWS}"
    ));
    // Sub agents, which some of the agents make, connect too.
    let connected = data.value("SELECT count(*) FROM workspace_agents WHERE first_connected_at IS NOT NULL");
    let each = reads / connected.parse::<f64>().unwrap();
    let calls = &result["calls"];
    print(
        &format!(
            "{connected} agents, {duration}, {calls} calls, {postgres_cpu:.1} CPU s of Postgres: {each:.2} reads of an agent's row each"
        ),
        &counted,
    );
    println!("\nNamed the table of agents as something to read, the row for its own sake or not: {texts:#?}");
    Some(each)
}

#[test]
fn an_agents_row_is_read_once_for_a_session() {
    let Some(each) = rows_read(20, "30s") else { return };
    assert!(each <= 1.0, "{each} reads for each agent");
}

#[test]
#[ignore = "takes ten minutes"]
fn ten_minutes_of_work_read_an_agents_row_once() {
    let Some(each) = rows_read(300, "10m") else { return };
    assert!(each <= 1.0, "{each} reads for each agent");
}

/// CPU seconds of processes so far, those of ended children of the first included.
fn cpu(pids: &[u32]) -> f64 {
    let ticks = |pid: &u32| -> u64 {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let Some((_, fields)) = stat.rsplit_once(") ") else {
            return 0;
        };
        let fields: Vec<u64> = fields
            .split(' ')
            .map(|field| field.parse().unwrap_or(0))
            .collect();
        // utime and stime, and those of children that were waited for.
        fields[11..15].iter().sum()
    };
    let ticks: u64 = pids.iter().map(ticks).sum();
    let a_second = rustix::param::clock_ticks_per_second();
    #[expect(clippy::cast_precision_loss, reason = "far below 2^53")]
    let seconds = ticks as f64 / a_second as f64;
    seconds
}

/// Resident KiB of processes.
fn resident(pids: &[u32]) -> u64 {
    let kib = |pid: &u32| -> u64 {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    };
    pids.iter().map(kib).sum()
}

/// What so many idle agents with their reports cost a minute, and the same with tunnels to some of them.
fn slope(replicas: usize, agents: usize, tunnels: usize) -> Option<()> {
    const MINUTES: u64 = 2;
    let server = postgres::Server::new()?;
    let (seed, tokens) = crowd(agents, "");
    let data = Data::on(&server, &seed);
    data.query("CREATE EXTENSION pg_stat_statements");
    let drpcd = data.serve_replicas(replicas, &[]);
    let before = resident(&drpcd.pids());
    let file = data.path().join("tokens");
    fs::write(&file, tokens).unwrap();
    let hold = format!("{}s", MINUTES * 60 + SETTLED.as_secs() + 30);
    let flags = ["--tokens", file.to_str().unwrap(), "--hold", &hold, "--report"];
    let mut held = go("idle", drpcd.agent(), &flags)?;
    held.await_line("held");
    let client = if tunnels == 0 {
        None
    } else {
        let ids = data.query(&format!("SELECT id FROM workspace_agents LIMIT {tunnels}"));
        let mut flags = vec!["--duration".to_owned(), hold.clone()];
        for id in ids {
            flags.extend(["--tunnel".to_owned(), id]);
        }
        let user = SeededAgent {
            token: data.client_token("ada"),
            ..drpcd.agent().clone()
        };
        let flags: Vec<_> = flags.iter().map(String::as_str).collect();
        Some(go("client", &user, &flags)?)
    };
    std::thread::sleep(SETTLED);
    begin_counting(&data);
    let wal = || data.number("SELECT (pg_current_wal_lsn() - '0/0')::bigint");
    let (drpcd_cpu, postgres_cpu, written) = (cpu(&drpcd.pids()), cpu(&server.pids()), wal());
    std::thread::sleep(Duration::from_secs(MINUTES * 60));
    #[expect(clippy::cast_precision_loss, reason = "a count of minutes")]
    let a_minute = |figure: f64| figure / MINUTES as f64;
    let drpcd_cpu = a_minute(cpu(&drpcd.pids()) - drpcd_cpu);
    let postgres_cpu = a_minute(cpu(&server.pids()) - postgres_cpu);
    #[expect(clippy::cast_precision_loss, reason = "far below 2^53")]
    let written = a_minute((wal() - written) as f64 / 1024.0);
    let counted = statements(&data);
    let all: u64 = counted.iter().map(|(calls, _)| calls).sum();
    #[expect(clippy::cast_precision_loss, reason = "some hundred statements")]
    let all = a_minute(all as f64);
    #[expect(clippy::cast_precision_loss, reason = "far below 2^53")]
    let memory = (resident(&drpcd.pids()) - before) as f64 / 1024.0;
    println!(
        "| {replicas} | {agents} | {tunnels} | {all:.0} | {drpcd_cpu:.2} | {memory:.1} | {postgres_cpu:.2} | {written:.0} |"
    );
    assert_eq!(held.result()["lost"], 0);
    drop(client);
    Some(())
}

#[test]
#[ignore = "takes half an hour"]
fn what_grows_with_agents_replicas_and_tunnels() {
    println!(
        "\n| replicas | idle agents | tunnels | statements a minute | drpcd CPU s a minute | drpcd MiB for them | \
         Postgres CPU s a minute | WAL KiB a minute |\n|---|---|---|---|---|---|---|---|"
    );
    for (replicas, agents, tunnels) in [
        (1, 500, 0),
        (1, 1_000, 0),
        (1, 2_000, 0),
        (2, 1_000, 0),
        (3, 1_000, 0),
        (2, 1_000, 200),
        (2, 1_000, 400),
    ] {
        if slope(replicas, agents, tunnels).is_none() {
            return;
        }
    }
}

/// Holds idle agents on two replicas and looks every second at when each was last written.
fn heartbeats(agents: usize, seconds: usize) -> Option<()> {
    const TICK: i64 = 15_000_000;
    let server = postgres::Server::new()?;
    let (seed, tokens) = crowd(agents, "");
    let data = Data::on(&server, &seed);
    data.query("CREATE EXTENSION pg_stat_statements");
    let drpcd = data.serve_replicas(2, &[]);
    let tokens: Vec<_> = tokens.lines().collect();
    let mut held = Vec::new();
    for (replica, tokens) in tokens.chunks(agents / 2).enumerate() {
        let file = data.path().join(format!("tokens.{replica}"));
        fs::write(&file, tokens.join("\n")).unwrap();
        let hold = format!("{}s", seconds + 40);
        let flags = ["--tokens", file.to_str().unwrap(), "--hold", &hold, "--report"];
        held.push(go("idle", &drpcd.agent_at(replica), &flags)?);
    }
    for held in &mut held {
        held.await_line("held");
    }
    // The first tick after the last of them connected.
    std::thread::sleep(Duration::from_secs(20));
    begin_counting(&data);
    let mut delays = Vec::with_capacity(seconds);
    for _ in 0..seconds {
        let row = data.query(
            "SELECT percentile_disc(0.99) WITHIN GROUP (ORDER BY since), max(since), count(*) FROM (
                SELECT (extract(epoch FROM now() - last_connected_at) * 1000000)::bigint AS since
                FROM workspace_agents WHERE disconnected_at IS NULL OR disconnected_at < last_connected_at
            ) AS connected",
        );
        let figures: Vec<i64> = row[0].split(' ').map(|figure| figure.parse().unwrap()).collect();
        assert_eq!(figures[2], i64::try_from(agents).unwrap(), "all stay connected");
        // Whom nobody has seen for 30 s looks gone.
        assert!(figures[1] < 2 * TICK, "one was not written for {} us", figures[1]);
        delays.push((figures[0] - TICK).max(0));
        std::thread::sleep(Duration::from_secs(1));
    }
    let counted = statements(&data);
    let ticks: u64 = counted
        .iter()
        .filter(|(_, text)| text.starts_with("UPDATE workspace_agents SET last_connected_at"))
        .map(|(calls, _)| calls)
        .sum();
    let most = delays.iter().max().unwrap();
    println!(
        "{agents} agents: p99 of a tick's delay at most {most} us, {ticks} statements of heartbeats in {seconds} s"
    );
    assert!(*most < 5_000_000, "a tick's p99 was {most} us late");
    // Two replicas, a tick each 15 s and one more, up to 5,000 agents in a statement.
    let most = 2 * (seconds / 15 + 2) * agents.div_ceil(10_000);
    assert!(
        ticks <= u64::try_from(most).unwrap(),
        "{ticks} statements of heartbeats"
    );
    for held in held {
        assert_eq!(held.result()["lost"], 0);
    }
    Some(())
}

#[test]
fn conn_078_heartbeats_of_idle_agents_are_written_by_the_batch_and_in_time() {
    heartbeats(300, 20);
}

#[test]
#[ignore = "takes 10,000 sessions"]
fn conn_078_ten_thousand_idle_agents_all_stay_connected() {
    heartbeats(10_000, 60);
}
