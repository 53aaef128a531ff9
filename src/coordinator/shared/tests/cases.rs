//! The numbered cases of replicas, in memory with paused time and on a real database.

use super::*;
use crate::coordinator::shared::notices::{self, Notice};
use crate::coordinator::shared::replicas::HEARTBEAT;

/// Runs every case in both settings, with two replicas and with three, those beyond what it needs having nobody and hearing
/// everything; in memory also with just what it needs. One that needs three runs with three.
macro_rules! cases {
    ($($case:ident on $replicas:tt;)*) => {
        mod in_memory {
            use crate::coordinator::shared::tests::Replicas;
            $(
                #[tokio::test(start_paused = true)]
                async fn $case() {
                    super::$case(Replicas::in_memory($replicas)).await;
                }
            )*
        }

        mod in_memory_of_two {
            use crate::coordinator::shared::tests::Replicas;
            $(cases! { @more 2, $case on $replicas })*
        }

        mod in_memory_of_three {
            use crate::coordinator::shared::tests::Replicas;
            $(cases! { @more 3, $case on $replicas })*
        }

        mod on_postgres_of_two {
            use crate::coordinator::shared::tests::Replicas;
            $(cases! { @real 2, $case on $replicas })*
        }

        mod on_postgres_of_three {
            use crate::coordinator::shared::tests::Replicas;
            $(cases! { @real 3, $case on $replicas })*
        }
    };
    (@more 2, $case:ident on 2) => {};
    (@more $count:literal, $case:ident on 3) => {};
    (@more $count:literal, $case:ident on $replicas:tt) => {
        #[tokio::test(start_paused = true)]
        async fn $case() {
            super::$case(Replicas::in_memory($count)).await;
        }
    };
    (@real 2, $case:ident on 3) => {};
    (@real $count:literal, $case:ident on $replicas:tt) => {
        #[tokio::test]
        async fn $case() {
            let Some(replicas) = Replicas::on_postgres($count).await else { return };
            super::$case(replicas).await;
        }
    };
}

mod repairs;

cases! {
    tn_064_a_node_is_stored_until_goodbye_and_marked_as_lost_by_a_cut on 1;
    tn_065_two_replicas_exchange_the_nodes_of_all_pairs_and_close_in_turn on 2;
    tn_066_of_one_agent_on_two_replicas_the_newest_node_counts on 3;
    tn_067_heartbeats_are_published_every_two_seconds on 1;
    tn_068_the_peers_of_a_replica_that_falls_silent_are_lost on 1;
    tn_069_what_a_late_replica_says_gives_way_and_returns on 1;
    tn_070_two_replicas_that_fall_silent_together_are_both_given_up on 1;
    tn_071_what_is_stored_before_a_replica_is_heard_is_told_when_it_is on 1;
    tn_072_what_an_unknown_replica_has_stored_is_kept_as_lost on 1;
    tn_073_without_heartbeats_peers_are_told_clients_sent_away_and_agents_kept on 1;
    tn_074_a_client_of_a_replica_without_its_database_moves_to_another on 2;
    tn_075_a_client_of_a_replica_that_closes_moves_to_another on 2;
    tn_076_closing_keeps_what_is_stored on 1;
    tn_077_a_lookup_costs_one_statement on 1;
    tn_086_handshakes_reach_other_replicas_and_are_dropped_when_nobody_is_there on 2;
    tn_087_a_late_end_of_an_old_connection_changes_nothing on 1;
    tn_088_a_peer_that_is_lost_before_it_has_a_node_is_not_written on 1;
}

const NO_ERROR: [&str; 0] = [];
const UNHEALTHY: [&str; 1] = ["coordinator unhealthy"];
const CLOSED: [&str; 1] = ["coordinator closed"];

fn new(number: u128, home: i32) -> Told {
    (id(number), Kind::Node, Some(home))
}

fn lost(number: u128) -> Told {
    (id(number), Kind::Lost, None)
}

/// What is stored of a peer: whose row, whether it was lost, and its home.
async fn stored(replicas: &Replicas, number: u128) -> Vec<(ReplicaId, bool, i32)> {
    let mut rows = replicas.database.peers(&[id(number)]).await.unwrap();
    rows.sort_by_key(|row| row.replica);
    let home = |bytes: &[u8]| EncodedNode::from_stored(bytes).unwrap().decode().preferred_derp;
    rows.iter()
        .map(|row| (row.replica, row.lost, home(&row.node)))
        .collect()
}

async fn tn_064_a_node_is_stored_until_goodbye_and_marked_as_lost_by_a_cut(replicas: Replicas) {
    let peer = replicas.client(0, 1);
    peer.update(5);
    peer.tunnel(id(9));
    replicas.settle().await;
    assert_eq!(stored(&replicas, 1).await, [(replica(0), false, 5)]);
    drop(peer);
    replicas.settle().await;
    assert_eq!(stored(&replicas, 1).await, [(replica(0), true, 5)]);
    let tunnels = async || replicas.database.tunnels_of(&[id(1)]).await.unwrap();
    assert_eq!(tunnels().await.len(), 1, "the tunnel of a lost peer stays");
    let peer = replicas.client(0, 1);
    peer.update(6);
    replicas.settle().await;
    assert_eq!(stored(&replicas, 1).await, [(replica(0), false, 6)]);
    peer.disconnect();
    replicas.settle().await;
    assert_eq!(stored(&replicas, 1).await, []);
    assert_eq!(
        tunnels().await,
        [],
        "although it was asked for in an earlier life"
    );
    drop(peer);
    replicas.settle().await;
    replicas.assert_empty();
}

async fn tn_065_two_replicas_exchange_the_nodes_of_all_pairs_and_close_in_turn(replicas: Replicas) {
    let mut agents = [replicas.agent(0, 1), replicas.agent(1, 2)];
    let mut clients = [replicas.client(0, 11), replicas.client(1, 12)];
    for peer in agents.iter().chain(&clients) {
        peer.update(i32::try_from(peer.id.0.as_u128()).unwrap());
    }
    for client in &clients {
        client.tunnel(id(1));
        client.tunnel(id(2));
    }
    for agent in &mut agents {
        let told = told_until(agent, new(12, 12)).await;
        let mut both = [told, agent.told().await].concat();
        both.sort();
        assert_eq!(both, [new(11, 11), new(12, 12)]);
    }
    for client in &mut clients {
        let told = told_until(client, new(2, 2)).await;
        let mut both = [told, client.told().await].concat();
        both.sort();
        assert_eq!(both, [new(1, 1), new(2, 2)]);
    }
    let ([one, two], [one_client, two_client]) = (&mut agents, &mut clients);

    replicas.coordinators[1].close().await.unwrap();
    assert_eq!(ended(two).await, CLOSED);
    assert_eq!(ended(two_client).await, CLOSED);
    for number in [2, 12] {
        let home = i32::try_from(number).unwrap();
        assert_eq!(stored(&replicas, number).await, [(replica(1), true, home)]);
    }
    told_until(one, lost(12)).await;
    told_until(one_client, lost(2)).await;
    assert!(!one.ended && !one_client.ended);
    assert_eq!(
        one_client.told().await,
        [],
        "what is between peers of one replica stays"
    );

    replicas.coordinators[0].close().await.unwrap();
    assert_eq!(ended(one).await, CLOSED);
    assert_eq!(ended(one_client).await, CLOSED);
    assert_eq!(stored(&replicas, 1).await, [(replica(0), true, 1)]);
}

async fn tn_066_of_one_agent_on_two_replicas_the_newest_node_counts(replicas: Replicas) {
    let mut client = replicas.client(2, 9);
    client.update(90);
    client.tunnel(id(1));
    let (first, second) = (replicas.agent(0, 1), replicas.agent(1, 1));
    first.update(10);
    assert_eq!(told_until(&mut client, new(1, 10)).await, [new(1, 10)]);
    second.update(11);
    told_until(&mut client, new(1, 11)).await;
    first.update(12);
    told_until(&mut client, new(1, 12)).await;
    drop(first);
    assert_eq!(
        told_until(&mut client, new(1, 11)).await,
        [new(1, 11)],
        "not lost"
    );
    drop(second);
    assert_eq!(told_until(&mut client, lost(1)).await, [lost(1)]);
}

async fn tn_067_heartbeats_are_published_every_two_seconds(replicas: Replicas) {
    let mut beats = replicas.hub.subscribe(notices::HEARTBEAT);
    let mut next = async || {
        loop {
            let beat = tokio::time::timeout(PATIENCE, beats.next()).await.unwrap();
            // A new subscription may have missed something.
            let Ok(beat) = beat else { continue };
            // Others beat too.
            if *beat == *replica(0).to_string() {
                break tokio::time::Instant::now();
            }
        }
    };
    // Where time is driven, only the database takes some; elsewhere a beat that is written late is soon followed by the next.
    let (least, most) = match replicas.tables {
        Some(_) => (HEARTBEAT.mul_f64(0.99), HEARTBEAT.mul_f64(1.01)),
        None => (Duration::ZERO, HEARTBEAT * 5),
    };
    let mut last = next().await;
    for _ in 0..3 {
        let at = next().await;
        assert!(at - last >= least && at - last <= most, "{:?}", at - last);
        last = at;
    }
}

/// A client that hears of a peer of another replica.
async fn hearing<'r>(replicas: &'r Replicas, from: Foreign<'_>, number: u128) -> Peer<'r, Replicas> {
    from.beat().await;
    let mut client = replicas.client(0, 9);
    client.tunnel(id(number));
    from.put(number, 10).await;
    from.while_beating(told_until(&mut client, new(number, 10))).await;
    client
}

async fn tn_068_the_peers_of_a_replica_that_falls_silent_are_lost(replicas: Replicas) {
    replicas.all_started().await;
    let foreign = replicas.foreign(1);
    let mut client = hearing(&replicas, foreign, 1).await;
    let silent = tokio::time::Instant::now();
    assert_eq!(told_until(&mut client, lost(1)).await, [lost(1)]);
    // On a real database the last beat was written some time before.
    let (least, most) = match replicas.tables {
        Some(_) => (Duration::from_millis(4_900), Duration::from_secs(7)),
        None => (Duration::from_secs(2), PATIENCE),
    };
    let waited = silent.elapsed();
    assert!(waited >= least && waited <= most, "{waited:?}");
    assert_eq!(client.told().await, []);
}

async fn tn_069_what_a_late_replica_says_gives_way_and_returns(replicas: Replicas) {
    replicas.all_started().await;
    let (one, two) = (replicas.foreign(1), replicas.foreign(2));
    let agent = replicas.agent(0, 1);
    agent.update(10);
    replicas.settle().await;
    let mut client = replicas.client(0, 9);
    client.tunnel(id(1));
    told_until(&mut client, new(1, 10)).await;
    let both_beat = async {
        one.beat().await;
        one.put(1, 11).await;
        told_until(&mut client, new(1, 11)).await;
        two.beat().await;
        two.put(1, 12).await;
        told_until(&mut client, new(1, 12)).await;
    };
    one.while_beating(two.while_beating(both_beat)).await;
    // The second is late.
    one.while_beating(told_until(&mut client, new(1, 11))).await;
    // Now both are.
    assert_eq!(told_until(&mut client, new(1, 10)).await, [new(1, 10)], "its own");
    two.beat().await;
    assert_eq!(told_until(&mut client, new(1, 12)).await, [new(1, 12)]);
}

async fn tn_070_two_replicas_that_fall_silent_together_are_both_given_up(replicas: Replicas) {
    replicas.all_started().await;
    let (one, two) = (replicas.foreign(1), replicas.foreign(2));
    let mut client = replicas.client(0, 9);
    let both = async {
        client.tunnel(id(1));
        client.tunnel(id(2));
        one.beat().await;
        two.beat().await;
        one.put(1, 10).await;
        two.put(2, 20).await;
        let told = told_until(&mut client, new(1, 10)).await;
        if !told.contains(&new(2, 20)) {
            told_until(&mut client, new(2, 20)).await;
        }
    };
    one.while_beating(two.while_beating(both)).await;
    one.beat().await;
    tokio::time::sleep(Duration::from_millis(1)).await;
    two.beat().await;
    let mut told = told_until(&mut client, lost(2)).await;
    if !told.contains(&lost(1)) {
        told.extend(told_until(&mut client, lost(1)).await);
    }
    told.sort();
    assert_eq!(told, [lost(1), lost(2)]);
}

async fn tn_071_what_is_stored_before_a_replica_is_heard_is_told_when_it_is(replicas: Replicas) {
    replicas.all_started().await;
    let foreign = replicas.foreign(1);
    let mut client = replicas.client(0, 9);
    client.tunnel(id(1));
    foreign.beat_unheard().await;
    foreign.put(1, 10).await;
    assert_eq!(client.told().await, []);
    foreign.publish(Notice::Heartbeat(foreign.id));
    assert_eq!(told_until(&mut client, new(1, 10)).await, [new(1, 10)]);
}

async fn tn_072_what_an_unknown_replica_has_stored_is_kept_as_lost(replicas: Replicas) {
    replicas.all_started().await;
    let foreign = replicas.foreign(1);
    foreign.beat_unheard().await;
    foreign.put(1, 10).await;
    let mut client = replicas.client(0, 9);
    client.tunnel(id(1));
    client.ready(&[id(1)]);
    assert_eq!(client.told().await, [], "one that was never there is not lost");
    assert_eq!(client.errors().await, NO_ERROR, "it has a tunnel with it");
    assert_eq!(replicas.coordinators[0].node(id(1)).await, Ok(Some(node(10))));
}

/// An agent whose stream ends drops its session and dials again, which fails while the database is away. So it is told like
/// everybody else, and its stream stays open: what a client loses with its stream is a few seconds.
async fn tn_073_without_heartbeats_peers_are_told_clients_sent_away_and_agents_kept(replicas: Replicas) {
    replicas.all_started().await;
    let way = &replicas.ways[0];
    let (mut agent, mut client) = (replicas.agent(0, 1), replicas.client(0, 2));
    let (mut remote, mut idle) = (replicas.client(0, 3), replicas.client(0, 4));
    agent.update(10);
    client.tunnel(id(1));
    remote.tunnel(id(99));
    for (peer, told) in [
        (&mut agent, vec![]),
        (&mut client, vec![new(1, 10)]),
        (&mut remote, vec![]),
    ] {
        assert_eq!(peer.told().await, told);
    }
    let written = [
        "put_peers",
        "lose_peers",
        "delete_peers",
        "delete_tunnels",
        "delete_tunnels_from",
    ];
    let before = way.calls(&written);

    way.cut(true);
    eventually(async || !replicas.coordinators[0].status().healthy).await;
    let mut late = replicas.client(0, 5);
    let mut late_agent = replicas.agent(0, 6);
    assert_eq!(late.errors().await, UNHEALTHY);
    assert!(late.ended, "a new client is refused at once");
    for peer in [&mut remote, &mut idle] {
        assert_eq!(ended(peer).await, UNHEALTHY, "others may serve it");
    }
    for peer in [&mut agent, &mut client, &mut late_agent] {
        assert_eq!(peer.errors().await, UNHEALTHY);
        assert!(!peer.ended, "{} stays", peer.id);
    }
    agent.update(11);
    assert_eq!(client.told().await, [new(1, 11)], "both ends are here");
    assert_eq!(way.calls(&written), before, "only heartbeats are tried");

    way.cut(false);
    let back = tokio::time::Instant::now();
    eventually(async || stored(&replicas, 1).await == [(replica(0), false, 11)]).await;
    if replicas.tables.is_some() {
        assert!(back.elapsed() < Duration::from_secs(5), "{:?}", back.elapsed());
    }
    let mut late = replicas.client(0, 5);
    assert_eq!(late.errors().await, NO_ERROR);
    assert!(!late.ended);
    assert_eq!(way.calls(&["delete_peers"]), 0);
}

async fn tn_074_a_client_of_a_replica_without_its_database_moves_to_another(replicas: Replicas) {
    let leave = async |client: &mut Peer<'_, Replicas>| {
        replicas.ways[0].cut(true);
        assert_eq!(ended(client).await, UNHEALTHY);
    };
    moves(&replicas, leave).await;
    replicas.ways[0].cut(false);
    eventually(async || stored(&replicas, 2).await == [(replica(0), true, 20), (replica(1), true, 22)]).await;
}

async fn tn_075_a_client_of_a_replica_that_closes_moves_to_another(replicas: Replicas) {
    let leave = async |client: &mut Peer<'_, Replicas>| {
        replicas.coordinators[0].close().await.unwrap();
        assert_eq!(ended(client).await, CLOSED);
    };
    moves(&replicas, leave).await;
}

/// A client leaves the first replica for the second, where its agent is. Nobody is ever told that somebody is gone for good.
async fn moves(replicas: &Replicas, leave: impl AsyncFn(&mut Peer<'_, Replicas>)) {
    replicas.all_started().await;
    let (mut agent, mut client) = (replicas.agent(1, 1), replicas.client(0, 2));
    agent.update(10);
    client.update(20);
    client.tunnel(id(1));
    told_until(&mut agent, new(2, 20)).await;
    told_until(&mut client, new(1, 10)).await;

    leave(&mut client).await;
    drop(client);
    assert_eq!(told_until(&mut agent, lost(2)).await, [lost(2)]);
    assert_eq!(
        stored(replicas, 1).await,
        [(replica(1), false, 10)],
        "its own status stays"
    );

    let mut client = replicas.client(1, 2);
    client.update(21);
    client.tunnel(id(1));
    assert_eq!(told_until(&mut client, new(1, 10)).await, [new(1, 10)]);
    assert_eq!(told_until(&mut agent, new(2, 21)).await, [new(2, 21)]);
    client.update(22);
    agent.update(11);
    assert_eq!(told_until(&mut agent, new(2, 22)).await, [new(2, 22)]);
    assert_eq!(told_until(&mut client, new(1, 11)).await, [new(1, 11)]);
    eventually(async || stored(replicas, 2).await.contains(&(replica(1), false, 22))).await;
}

async fn tn_076_closing_keeps_what_is_stored(mut replicas: Replicas) {
    let (one, other) = (replicas.agent(0, 1), replicas.client(0, 2));
    one.update(10);
    other.update(20);
    replicas.settle().await;
    drop((one, other));
    replicas.coordinators[0].close().await.unwrap();
    replicas.add().await;
    let added = replicas.coordinators.last().unwrap();
    for (number, home) in [(1, 10), (2, 20)] {
        assert_eq!(stored(&replicas, number).await, [(replica(0), true, home)]);
        assert_eq!(added.node(id(number)).await, Ok(Some(node(home))));
    }
}

async fn tn_077_a_lookup_costs_one_statement(replicas: Replicas) {
    replicas.all_started().await;
    let way = &replicas.ways[0];
    let before = way.calls(&["peers"]);
    assert_eq!(replicas.coordinators[0].node(id(77)).await, Ok(None));
    assert_eq!(way.calls(&["peers"]), before + 1);
    way.cut(true);
    let away = replicas.coordinators[0].node(id(77)).await;
    assert!(away.is_err_and(|error| error.is_unavailable()));
}

async fn tn_086_handshakes_reach_other_replicas_and_are_dropped_when_nobody_is_there(replicas: Replicas) {
    let (mut agent, mut client) = (replicas.agent(0, 1), replicas.client(1, 2));
    client.update(20);
    client.tunnel(id(1));
    told_until(&mut agent, new(2, 20)).await;
    agent.ready(&[id(2)]);
    let ready = (id(1), Kind::ReadyForHandshake, None);
    assert_eq!(told_until(&mut client, ready).await, [ready]);
    drop(client);
    told_until(&mut agent, lost(2)).await;
    agent.ready(&[id(2)]);
    assert_eq!(agent.errors().await, NO_ERROR);
    agent.ready(&[id(3)]);
    let expected =
        "ready for handshake error: you do not share a tunnel with \"00000000-0000-0000-0000-000000000003\"";
    assert_eq!(agent.errors().await, [expected]);
    assert!(!agent.ended);
}

async fn tn_087_a_late_end_of_an_old_connection_changes_nothing(replicas: Replicas) {
    let old = replicas.agent(0, 1);
    old.update(5);
    replicas.settle().await;
    let new = replicas.agent(0, 1);
    drop(old);
    replicas.settle().await;
    assert_eq!(
        stored(&replicas, 1).await,
        [(replica(0), false, 5)],
        "although it has not told its node yet"
    );
    new.update(6);
    let newer = replicas.agent(0, 1);
    newer.update(7);
    new.update(8);
    new.disconnect();
    drop(new);
    replicas.settle().await;
    assert_eq!(stored(&replicas, 1).await, [(replica(0), false, 7)]);
    drop(newer);
    replicas.settle().await;
    assert_eq!(stored(&replicas, 1).await, [(replica(0), true, 7)]);
}

async fn tn_088_a_peer_that_is_lost_before_it_has_a_node_is_not_written(replicas: Replicas) {
    replicas.all_started().await;
    for number in 1..100 {
        drop(replicas.agent(0, number));
    }
    replicas.settle().await;
    let writes = [
        "put_peers",
        "lose_peers",
        "delete_peers",
        "put_tunnels",
        "delete_tunnels",
        "delete_tunnels_from",
    ];
    assert_eq!(replicas.ways[0].calls(&writes), 0);
    replicas.assert_empty();
}

/// Hours later it does so again: `economy.rs`.
#[tokio::test]
async fn tn_078_what_is_old_goes_when_a_replica_starts() {
    for count in [2, 3] {
        let Some(mut replicas) = Replicas::on_postgres(count).await else {
            return;
        };
        let agents = [replicas.agent(0, 1), replicas.agent(1, 2)];
        for agent in &agents {
            agent.update(10);
        }
        replicas.settle().await;
        drop(agents);
        replicas.settle().await;
        let fresh = [(replica(1), true, 10)];
        assert_eq!(stored(&replicas, 1).await, [(replica(0), true, 10)]);
        assert_eq!(stored(&replicas, 2).await, fresh);
        let mut raw = Raw::of(&replicas.real.as_ref().unwrap().database).await;
        raw.age("tailnet_peers", &format!("id = '{}'", id(1))).await;
        replicas.add().await;
        eventually(async || stored(&replicas, 1).await.is_empty()).await;
        assert_eq!(stored(&replicas, 2).await, fresh);
    }
}
