//! A server that is killed at a random point while kinds are written that are stored in batches: it costs the last of them.
//!
//! `DRPCD_CRASH_SEED=N` kills at the point of an earlier run, which prints it.

use std::ops::Range;
use std::time::{Duration, Instant};

use drpcd::clock::{Clock, Timestamp};
use drpcd::proto::agent as proto;
use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};
use tokio::runtime::Runtime;

use crate::crash::check_invariants;
use crate::support::{Data, EXAMPLE_SEED, SeededAgent, client};

/// How long the load of the batched kinds lasts at least: metadata are written every 5 s.
const BATCHED_LOAD: Duration = Duration::from_secs(15);

/// How much longer it may last, ms: it ends at any point of an interval of metadata.
const BATCHED_KILL_MS: Range<u64> = 0..5_000;

/// What the write itself, and a machine that stands still for a moment before the kill, may add to an interval. Some machines do
/// that for up to three seconds, in which nothing is written and numbers still become older.
const SLACK: Duration = Duration::from_secs(4);

/// Reports metadata and statistics that count up until the server is gone; returns when each number was acknowledged.
async fn count_up(agent: SeededAgent) -> Vec<Instant> {
    let client = client::agent(&agent).await.unwrap();
    let mut acknowledged = Vec::new();
    for number in 0.. {
        let stats = proto::Stats {
            rx_bytes: number,
            ..Default::default()
        };
        let stats = client
            .update_stats(&proto::UpdateStatsRequest { stats: Some(stats) })
            .await;
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
        let metadata = client.batch_update_metadata(&request).await;
        if stats.is_err() || metadata.is_err() {
            break;
        }
        acknowledged.push(Instant::now());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    acknowledged
}

#[test]
fn conn_037_a_kill_costs_the_batched_kinds_no_more_than_their_last_interval() {
    let seed: u64 =
        std::env::var("DRPCD_CRASH_SEED").map_or_else(|_| rand::random(), |seed| seed.parse().unwrap());
    eprintln!("DRPCD_CRASH_SEED={seed}");
    let after = SmallRng::seed_from_u64(seed).random_range(BATCHED_KILL_MS);
    let runtime = Runtime::new().unwrap();
    let data = Data::new(EXAMPLE_SEED);
    let server = data.serve(&["--agent-connection-update-frequency", "1s"]);
    let load = runtime.spawn(count_up(server.agent().clone()));
    std::thread::sleep(BATCHED_LOAD + Duration::from_millis(after));
    let (killed, killed_at) = (Instant::now(), Clock::system().now());
    server.kill();
    let acknowledged = runtime.block_on(load).unwrap();
    let before = |interval: Duration| {
        let count = acknowledged
            .iter()
            .filter(|at| killed.duration_since(**at) > interval + SLACK)
            .count();
        assert!(count > 10, "{count} numbers");
        count as u64
    };
    let stats = data.query("SELECT rx_bytes FROM workspace_agent_stats ORDER BY rx_bytes");
    let stats: Vec<u64> = stats.iter().map(|number| number.parse().unwrap()).collect();
    assert!(
        stats.iter().copied().eq(0..stats.len() as u64),
        "a gap or a double: {stats:?}"
    );
    assert!(stats.len() as u64 >= before(Duration::from_secs(1)));
    let value = data.value("SELECT value FROM workspace_agent_metadata WHERE key = 'cpu'");
    assert!(
        value.parse::<u64>().unwrap() + 1 >= before(Duration::from_secs(5)),
        "{value}"
    );
    let seen = Timestamp::from_micros(data.number("SELECT last_connected_at FROM workspace_agents"));
    assert!(
        killed_at.saturating_since(seen) < Duration::from_secs(1) + SLACK,
        "{seen}"
    );
    check_invariants(&data);
}
