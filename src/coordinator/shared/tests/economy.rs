//! What coordination costs the database.

use super::*;
use crate::coordinator::shared::notices;
use crate::coordinator::suite::peer::update;
use crate::proto::tailnet::Node;

const WRITES: [&str; 6] = [
    "put_peers",
    "lose_peers",
    "delete_peers",
    "put_tunnels",
    "delete_tunnels",
    "delete_tunnels_from",
];

const READS: [&str; 3] = ["peers", "tunnels_of", "tunnels"];

/// Waits until each replica has been refreshed lately, so that none is while something is counted: refreshes are 24 to 30 s
/// apart.
async fn after_a_refresh(replicas: &Replicas) {
    const LATELY: Duration = Duration::from_secs(15);
    replicas.all_started().await;
    loop {
        let mut first = None;
        for way in &replicas.ways {
            let before = way.calls(&["heartbeats"]);
            eventually(async || way.calls(&["heartbeats"]) > before).await;
            first.get_or_insert(tokio::time::Instant::now());
        }
        if first.is_none_or(|first| first.elapsed() < LATELY) {
            break;
        }
    }
    replicas.settle().await;
}

/// Statements of each replica, writes and reads.
fn statements(replicas: &Replicas) -> Vec<(usize, usize)> {
    let ways = replicas.ways.iter();
    ways.map(|way| (way.calls(&WRITES), way.calls(&READS))).collect()
}

/// What was added since.
fn since(replicas: &Replicas, before: &[(usize, usize)]) -> Vec<(usize, usize)> {
    let now = statements(replicas);
    now.iter()
        .zip(before)
        .map(|(now, before)| (now.0 - before.0, now.1 - before.1))
        .collect()
}

#[tokio::test(start_paused = true)]
async fn a_node_costs_one_write_here_and_one_read_where_somebody_is_interested() {
    let replicas = Replicas::in_memory(3);
    let (agent, mut client) = (replicas.agent(0, 1), replicas.client(1, 2));
    agent.update(10);
    client.tunnel(id(1));
    told_until(&mut client, (id(1), Kind::Node, Some(10))).await;
    after_a_refresh(&replicas).await;
    let before = statements(&replicas);
    let mut heard = replicas.hub.subscribe(notices::PEER_UPDATE);
    agent.update(11);
    told_until(&mut client, (id(1), Kind::Node, Some(11))).await;
    replicas.settle().await;
    assert_eq!(since(&replicas, &before), [(1, 0), (0, 1), (0, 0)]);
    assert!(
        heard.try_next().is_some() && heard.try_next().is_none(),
        "one notification"
    );
}

#[tokio::test(start_paused = true)]
async fn peers_of_one_replica_cost_no_reads() {
    for replicas in [Replicas::in_memory(2), Replicas::with_triggers(2)] {
        let (agent, mut client) = (replicas.agent(0, 1), replicas.client(0, 2));
        agent.update(10);
        client.update(20);
        client.tunnel(id(1));
        assert_eq!(client.told().await, [(id(1), Kind::Node, Some(10))]);
        after_a_refresh(&replicas).await;
        let before = statements(&replicas);
        for home in 11..14 {
            agent.update(home);
            replicas.settle().await;
        }
        assert_eq!(client.told().await, [(id(1), Kind::Node, Some(13))]);
        assert_eq!(since(&replicas, &before), [(3, 0), (0, 0)]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_node_that_changed_only_in_its_time_is_not_written() {
    let replicas = Replicas::in_memory(1);
    let agent = replicas.agent(0, 1);
    agent.update(10);
    after_a_refresh(&replicas).await;
    let before = statements(&replicas);
    for seconds in 1..10 {
        let as_of = Some(prost_types::Timestamp { seconds, nanos: 0 });
        agent.request(update(Node { as_of, ..node(10) }));
        replicas.settle().await;
    }
    assert_eq!(since(&replicas, &before), [(0, 0)]);
}

#[tokio::test(start_paused = true)]
async fn a_burst_is_written_once_and_many_peers_by_one_statement() {
    let replicas = Replicas::in_memory(1);
    after_a_refresh(&replicas).await;
    let before = statements(&replicas);
    let agents: Vec<_> = (1..=200).map(|number| replicas.agent(0, number)).collect();
    for home in 1..20 {
        for agent in &agents {
            agent.update(home);
        }
    }
    replicas.settle().await;
    let [(writes, reads)] = since(&replicas, &before)[..] else {
        panic!()
    };
    assert_eq!((writes, reads), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn what_is_between_others_costs_nothing() {
    let replicas = Replicas::in_memory(1);
    let mut agent = replicas.agent(0, 1);
    let foreign = replicas.foreign(1);
    after_a_refresh(&replicas).await;
    foreign.beat().await;
    let before = statements(&replicas);
    for number in 100..200 {
        foreign.put(number, 1).await;
        foreign.put_tunnel(number, number + 1_000).await;
    }
    foreign.while_beating(replicas.settle()).await;
    assert_eq!(since(&replicas, &before), [(0, 0)]);
    foreign.put_tunnel(100, 1).await;
    foreign
        .while_beating(told_until(&mut agent, (id(100), Kind::Node, Some(1))))
        .await;
    assert_eq!(
        since(&replicas, &before),
        [(0, 2)],
        "the tunnel, and its other end"
    );
}

#[tokio::test(start_paused = true)]
async fn an_unchanged_refresh_wakes_nobody() {
    let replicas = Replicas::in_memory(2);
    let (agent, mut client) = (replicas.agent(0, 1), replicas.client(1, 2));
    agent.update(10);
    client.tunnel(id(1));
    told_until(&mut client, (id(1), Kind::Node, Some(10))).await;
    let woken = || replicas.coordinators[1].shared.state().waiting.is_empty();
    assert!(!woken(), "the client waits");
    let before = replicas.ways[1].calls(&READS);
    tokio::time::sleep(Duration::from_secs(70)).await;
    assert!(
        replicas.ways[1].calls(&READS) >= before + 4,
        "everything was read twice"
    );
    assert!(!woken());
}

#[tokio::test(start_paused = true)]
async fn a_thousand_idle_agents_cost_a_few_statements_a_minute() {
    let replicas = Replicas::in_memory(1);
    let agents: Vec<_> = (1..=2_000).map(|number| replicas.agent(0, number)).collect();
    for agent in &agents {
        agent.update(1);
    }
    after_a_refresh(&replicas).await;
    let (before, reads) = (replicas.ways[0].all_calls(), replicas.ways[0].calls(&READS));
    tokio::time::sleep(Duration::from_mins(10)).await;
    let calls = replicas.ways[0].all_calls() - before;
    let reads = replicas.ways[0].calls(&READS) - reads;
    // 30 heartbeats a minute; every 24 to 30 s two reads for 2,000 agents, and one of heartbeats.
    assert!(reads <= 10 * 5, "{reads} reads");
    assert!(calls <= 10 * (31 + 5 + 3), "{calls} statements");
}

#[tokio::test(start_paused = true)]
async fn tn_078_old_rows_are_removed_at_the_start_and_every_hour() {
    let replicas = Replicas::in_memory(1);
    replicas.all_started().await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(replicas.ways[0].calls(&["clean_up"]), 1);
    tokio::time::sleep(Duration::from_mins(59)).await;
    assert_eq!(replicas.ways[0].calls(&["clean_up"]), 1);
    tokio::time::sleep(Duration::from_mins(62)).await;
    assert_eq!(replicas.ways[0].calls(&["clean_up"]), 3);
}
