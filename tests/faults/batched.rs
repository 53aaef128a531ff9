//! A server that is killed at a random point while kinds are written that are stored in batches: it costs the last of them.
//!
//! `DRPCD_CRASH_SEED=N` kills at the point of an earlier run, which prints it.

use std::ops::Range;
use std::time::{Duration, Instant};

use drpcd::clock::{Clock, Timestamp};
use drpcd::mux::Status;
use drpcd::proto::agent as proto;
use drpcd::proto::agent::AgentClient;
use drpcd::proto::agent::boundary_log::{HttpRequest, Resource};
use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};
use tokio::runtime::Runtime;

use crate::crash::check_invariants;
use crate::support::{Data, EXAMPLE_SEED, SeededAgent, client};

/// When the server is killed, ms after its load began: at any point of the 5 s between two writes of metadata.
const KILL_MS: Range<u64> = 15_000..20_000;

/// As above, of the [`MINUTE`] between two writes of what is written less often, and once the first of them is due.
const KILL_AFTER_A_MINUTE_MS: Range<u64> = 70_000..130_000;

/// How often times of use and boundary counts are written.
const MINUTE: Duration = Duration::from_mins(1);

/// What the write itself, and a machine that stands still for a moment before the kill, may add to an interval. Some machines do
/// that for up to three seconds, in which nothing is written and numbers still become older.
const SLACK: Duration = Duration::from_secs(4);

/// What boundaries were used for, and by how many workspaces and owners: a row for each replica that has counted.
const USAGE: &str = "SELECT max(unique_workspaces_count), max(unique_users_count), sum(allowed_requests),
    sum(denied_requests) FROM boundary_usage_stats";

/// A server that was killed, and what it had been told.
struct Killed {
    at: Instant,
    /// The same, as it would be stored.
    wall: Timestamp,
    /// When each number was acknowledged.
    acknowledged: Vec<Instant>,
}

impl Killed {
    /// Numbers that were acknowledged so long before that they must be stored.
    fn due(&self, interval: Duration) -> u64 {
        let count = self
            .acknowledged
            .iter()
            .filter(|at| self.at.duration_since(**at) > interval + SLACK)
            .count();
        assert!(count > 10, "{count} numbers");
        count as u64
    }

    /// Numbers that were sent: the last may have arrived without an answer.
    fn sent(&self) -> u64 {
        self.acknowledged.len() as u64 + 1
    }
}

/// Begins a load on a new server, which is killed at one of these points, ms.
fn load_and_kill(runtime: &Runtime, data: &Data, points: Range<u64>) -> Killed {
    let seed: u64 =
        std::env::var("DRPCD_CRASH_SEED").map_or_else(|_| rand::random(), |seed| seed.parse().unwrap());
    eprintln!("DRPCD_CRASH_SEED={seed}");
    let after = SmallRng::seed_from_u64(seed).random_range(points);
    let server = data.serve(&["--agent-connection-update-frequency", "1s"]);
    let load = runtime.spawn(count_up(server.agent().clone()));
    std::thread::sleep(Duration::from_millis(after));
    let (at, wall) = (Instant::now(), Clock::system().now());
    server.kill();
    Killed {
        at,
        wall,
        acknowledged: runtime.block_on(load).unwrap(),
    }
}

/// Reports all batched kinds, with numbers that count up, until the server is gone; returns when each was acknowledged.
async fn count_up(agent: SeededAgent) -> Vec<Instant> {
    let client = client::agent(&agent).await.unwrap();
    let mut acknowledged = Vec::new();
    for number in 0.. {
        if report(&client, number).await.is_err() {
            break;
        }
        acknowledged.push(Instant::now());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    acknowledged
}

async fn report(client: &AgentClient, number: i64) -> Result<(), Status> {
    let stats = proto::Stats {
        rx_bytes: number,
        // Somebody uses the workspace.
        connection_count: 1,
        ..Default::default()
    };
    let request = proto::UpdateStatsRequest { stats: Some(stats) };
    client.update_stats(&request).await?;
    let value = proto::workspace_agent_metadata::Result {
        value: number.to_string(),
        ..Default::default()
    };
    let metadata = proto::Metadata {
        key: "cpu".to_owned(),
        result: Some(value),
    };
    let request = proto::BatchUpdateMetadataRequest {
        metadata: vec![metadata],
    };
    client.batch_update_metadata(&request).await?;
    report_boundary(client).await
}

/// Reports one request that a boundary has let through, and two that it has not.
async fn report_boundary(client: &AgentClient) -> Result<(), Status> {
    let log = |allowed| proto::BoundaryLog {
        allowed,
        resource: Some(Resource::HttpRequest(HttpRequest::default())),
        ..Default::default()
    };
    let logs = Vec::from([true, false, false].map(log));
    let request = proto::ReportBoundaryLogsRequest { logs };
    client.report_boundary_logs(&request).await?;
    Ok(())
}

/// What is to be read of [`USAGE`] after so many reports.
fn usage(reports: u64) -> String {
    format!("1 1 {reports} {}", 2 * reports)
}

/// Statistics, metadata and connection times are there but for their last interval.
fn check_seconds(data: &Data, killed: &Killed) {
    let stats = data.query("SELECT rx_bytes FROM workspace_agent_stats ORDER BY rx_bytes");
    let stats: Vec<u64> = stats.iter().map(|number| number.parse().unwrap()).collect();
    assert!(
        stats.iter().copied().eq(0..stats.len() as u64),
        "a gap or a double: {stats:?}"
    );
    assert!(stats.len() as u64 >= killed.due(Duration::from_secs(1)));
    let value = data.value("SELECT value FROM workspace_agent_metadata WHERE key = 'cpu'");
    assert!(
        value.parse::<u64>().unwrap() + 1 >= killed.due(Duration::from_secs(5)),
        "{value}"
    );
    let seen = Timestamp::from_micros(data.number("SELECT last_connected_at FROM workspace_agents"));
    assert!(
        killed.wall.saturating_since(seen) < Duration::from_secs(1) + SLACK,
        "{seen}"
    );
    check_invariants(data);
}

#[test]
fn conn_037_a_kill_costs_the_batched_kinds_no_more_than_their_last_interval() {
    let runtime = Runtime::new().unwrap();
    let data = Data::new(EXAMPLE_SEED);
    let killed = load_and_kill(&runtime, &data, KILL_MS);
    check_seconds(&data, &killed);
}

#[test]
#[ignore = "two minutes"]
fn conn_037_a_kill_costs_times_of_use_and_boundary_counts_no_more_than_their_last_minute() {
    let runtime = Runtime::new().unwrap();
    let data = Data::new(EXAMPLE_SEED);
    let killed = load_and_kill(&runtime, &data, KILL_AFTER_A_MINUTE_MS);
    check_seconds(&data, &killed);
    // It was in use to the last.
    let used = Timestamp::from_micros(data.number("SELECT last_used_at FROM workspaces"));
    assert!(killed.wall.saturating_since(used) < MINUTE + SLACK, "{used}");
    let stored = data.number("SELECT sum(allowed_requests) FROM boundary_usage_stats");
    let stored = u64::try_from(stored).unwrap();
    assert!(
        (killed.due(MINUTE)..=killed.sent()).contains(&stored),
        "{stored} of {}",
        killed.sent()
    );
    assert_eq!(data.value(USAGE), usage(stored));
    // Whoever comes after it counts in a row of its own, and nothing once more.
    let server = data.serve(&[]);
    runtime.block_on(async {
        let client = client::agent(server.agent()).await.unwrap();
        report_boundary(&client).await.unwrap();
    });
    assert_eq!(server.stop(), Some(0));
    assert_eq!(data.value(USAGE), usage(stored + 1));
}
