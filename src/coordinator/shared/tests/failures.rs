//! A database that goes away, forgets, refuses, or does not say what it did.

use std::task::{Context, Wake, Waker};

use super::super::replicas::HEARTBEAT;
use super::*;
use crate::proto::tailnet::{CoordinateRequest, coordinate_request};

fn new(number: u128, home: i32) -> Told {
    (id(number), Kind::Node, Some(home))
}

/// What is stored of a peer by a replica: whether it was lost, and its node.
fn row(replicas: &Replicas, number: u128, of: usize) -> Option<(bool, Vec<u8>)> {
    let rows = replicas.tables().rows();
    let row = rows.peers.get(&(id(number), replica(of)))?;
    Some((row.lost, row.node.clone()))
}

/// An agent of the second replica and a client of the first that know of each other.
async fn pair(replicas: &Replicas) -> (Peer<'_, Replicas>, Peer<'_, Replicas>) {
    replicas.all_started().await;
    let (mut agent, mut client) = (replicas.agent(1, 1), replicas.client(0, 2));
    agent.update(10);
    client.update(20);
    client.tunnel(id(1));
    assert_eq!(agent.told().await, [new(2, 20)]);
    assert_eq!(client.told().await, [new(1, 10)]);
    (agent, client)
}

#[tokio::test(start_paused = true)]
async fn while_the_database_is_away_for_all_nobody_is_lost_and_everything_is_written_within_five_seconds_of_its_return()
 {
    let replicas = Replicas::in_memory(2);
    let (mut agent, _client) = pair(&replicas).await;
    let mut other = replicas.agent(0, 3);
    let mut local = replicas.client(0, 4);
    local.tunnel(id(3));
    other.update(30);
    assert_eq!(local.told().await, [new(3, 30)]);
    let gone = replicas.agent(1, 5);
    gone.update(50);
    replicas.settle().await;

    for way in &replicas.ways {
        way.cut(true);
    }
    tokio::time::sleep(Duration::from_mins(3)).await;
    agent.update(11);
    other.update(31);
    drop(gone);
    for peer in [&mut agent, &mut other, &mut local] {
        let mut errors = peer.errors().await;
        errors.dedup();
        assert_eq!(errors, ["coordinator unhealthy"]);
        assert!(!peer.ended);
    }
    assert_eq!(agent.told().await, [], "nobody could know that somebody is lost");
    assert_eq!(local.told().await, [new(3, 31)]);

    for way in &replicas.ways {
        way.cut(false);
    }
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(row(&replicas, 1, 1), Some((false, encoded(11))));
    assert_eq!(row(&replicas, 3, 0), Some((false, encoded(31))));
    assert_eq!(row(&replicas, 5, 1), Some((true, encoded(50))));
    // Its connection was ended meanwhile.
    assert_eq!(row(&replicas, 2, 0), Some((true, encoded(20))));
}

#[tokio::test(start_paused = true)]
async fn a_short_interruption_costs_nobody_a_connection_and_is_told_to_nobody() {
    let replicas = Replicas::in_memory(2);
    let (mut agent, mut client) = pair(&replicas).await;
    for _ in 0..5 {
        for way in &replicas.ways {
            way.cut(true);
        }
        agent.update(11);
        tokio::time::sleep(Duration::from_millis(3_500)).await;
        for way in &replicas.ways {
            way.cut(false);
        }
        tokio::time::sleep(Duration::from_millis(2_500)).await;
        agent.update(10);
        tokio::time::sleep(Duration::from_millis(2_500)).await;
    }
    for peer in [&mut agent, &mut client] {
        assert_eq!(peer.errors().await, [""; 0]);
        assert!(!peer.ended);
    }
    assert_eq!(client.told().await, []);
    assert_eq!(agent.told().await, []);
}

#[tokio::test(start_paused = true)]
async fn what_was_written_unheard_is_written_again() {
    let replicas = Replicas::in_memory(2);
    let (agent, mut client) = pair(&replicas).await;
    replicas.ways[1].lose_answers(true);
    agent.update(11);
    tokio::time::sleep(Duration::from_millis(500)).await;
    agent.update(12);
    tokio::time::sleep(Duration::from_secs(1)).await;
    replicas.ways[1].lose_answers(false);
    assert_eq!(
        told_until(&mut client, new(1, 12)).await.last(),
        Some(&new(1, 12))
    );
    assert_eq!(row(&replicas, 1, 1), Some((false, encoded(12))));
}

/// Waits for a refresh of a replica, so that none comes soon.
async fn refreshed(replicas: &Replicas, of: usize) {
    let way = &replicas.ways[of];
    let before = way.calls(&["heartbeats"]);
    eventually(async || way.calls(&["heartbeats"]) > before).await;
    replicas.settle().await;
}

/// Does something with a database whose answers are lost, and waits until `whom` is told that `of` is gone: before any
/// refresh, which would tell of it in the end.
async fn told_of_end(
    replicas: &Replicas,
    at: usize,
    act: impl FnOnce(),
    whom: &mut Peer<'_, Replicas>,
    of: u128,
) {
    refreshed(replicas, 1 - at).await;
    let way = &replicas.ways[at];
    way.lose_answers(true);
    act();
    tokio::time::sleep(Duration::from_secs(1)).await;
    way.lose_answers(false);
    let (began, gone) = (tokio::time::Instant::now(), (id(of), Kind::Disconnected, None));
    assert_eq!(told_until(whom, gone).await.last(), Some(&gone));
    assert!(began.elapsed() < Duration::from_secs(15), "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_goodbye_that_was_written_unheard_is_told_of() {
    let replicas = Replicas::in_memory(2);
    let (agent, mut client) = pair(&replicas).await;
    told_of_end(&replicas, 1, || agent.disconnect(), &mut client, 1).await;
}

#[tokio::test(start_paused = true)]
async fn a_tunnels_end_that_was_written_unheard_is_told_of() {
    let replicas = Replicas::in_memory(2);
    let (mut agent, client) = pair(&replicas).await;
    told_of_end(&replicas, 0, || client.remove_tunnel(id(1)), &mut agent, 2).await;
}

#[tokio::test(start_paused = true)]
async fn what_is_refused_is_tried_again_and_keeps_nothing_else_from_being_written() {
    let replicas = Replicas::in_memory(1);
    replicas.all_started().await;
    let way = &replicas.ways[0];
    way.refuse(Some("delete_peers"));
    let (gone, stays) = (replicas.client(0, 1), replicas.client(0, 2));
    gone.update(1);
    replicas.settle().await;
    gone.disconnect();
    stays.update(1);
    tokio::time::sleep(Duration::from_secs(1)).await;
    for home in 2..10 {
        stays.update(home);
        tokio::time::sleep(Duration::from_secs(20)).await;
        assert_eq!(row(&replicas, 2, 0), Some((false, encoded(home))));
    }
    assert_eq!(row(&replicas, 1, 0), Some((false, encoded(1))));
    assert!(way.calls(&["delete_peers"]) < 100, "with pauses in between");
    way.refuse(None);
    replicas.settle().await;
    assert_eq!(row(&replicas, 1, 0), None);
}

/// A waker that panics.
struct Panics;

impl Wake for Panics {
    fn wake(self: Arc<Self>) {
        panic!("a waker panics, as the test wants");
    }
}

#[tokio::test(start_paused = true)]
async fn tn_061_a_panic_while_a_peer_is_cleaned_up_leaves_the_coordinator_usable() {
    let replicas = Replicas::in_memory(2);
    let (agent, mut client) = pair(&replicas).await;
    let coordinator = &replicas.coordinators[0];
    let watcher = coordinator.connect(id(9), "watcher", Role::Client);
    watcher
        .handle(CoordinateRequest {
            add_tunnel: Some(coordinate_request::Tunnel {
                id: id(1).0.as_bytes().to_vec(),
            }),
            ..CoordinateRequest::default()
        })
        .unwrap();
    replicas.settle().await;
    let panics = Waker::from(Arc::new(Panics));
    while watcher
        .poll_response(&mut Context::from_waker(&panics))
        .is_ready()
    {}
    drop(agent);
    let lost = (id(1), Kind::Lost, None);
    assert_eq!(told_until(&mut client, lost).await, [lost]);
    let again = replicas.agent(1, 1);
    again.update(11);
    assert_eq!(told_until(&mut client, new(1, 11)).await, [new(1, 11)]);
    coordinator.close().await.unwrap();
    assert_eq!(ended(&mut client).await, ["coordinator closed"]);
}

#[tokio::test(start_paused = true)]
async fn what_is_refused_while_heartbeats_are_written_goes_on_within_five_seconds() {
    for what in ["put_peers", "put_tunnels", "peers"] {
        let replicas = Replicas::in_memory(2);
        let (agent, mut client) = pair(&replicas).await;
        let more = replicas.agent(1, 3);
        more.update(30);
        replicas.settle().await;
        for way in &replicas.ways {
            way.refuse(Some(what));
        }
        agent.update(11);
        client.tunnel(id(3));
        // Until the pauses are as long as they become, and one has just begun.
        tokio::time::sleep(Duration::from_mins(3)).await;
        let tried = || replicas.ways.iter().map(|way| way.calls(&[what])).sum::<usize>();
        let before = tried();
        eventually(async || tried() > before).await;
        for way in &replicas.ways {
            way.refuse(None);
        }
        tokio::time::sleep(Duration::from_secs(5)).await;
        assert_eq!(row(&replicas, 1, 1), Some((false, encoded(11))), "{what}");
        assert_eq!(replicas.tables().rows().tunnels.len(), 2, "{what}");
        let mut told = client.told().await;
        told.sort();
        assert_eq!(told, [new(1, 11), new(3, 30)], "{what}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_database_that_falls_back_to_a_copy_gets_back_what_it_has_forgotten_and_nobody_is_gone() {
    let replicas = Replicas::in_memory(2);
    let (mut agent, mut client) = pair(&replicas).await;
    let orphan = replicas.agent(1, 3);
    orphan.update(30);
    replicas.settle().await;
    drop(orphan);
    replicas.settle().await;
    assert_eq!(row(&replicas, 3, 1), Some((true, encoded(30))));

    for way in &replicas.ways {
        way.cut(true);
    }
    tokio::time::sleep(Duration::from_secs(3)).await;
    {
        let mut rows = replicas.tables().rows();
        rows.peers.retain(|(peer, _), _| *peer == id(3));
        rows.peers.values_mut().for_each(|row| row.lost = false);
        rows.tunnels.clear();
    }
    for way in &replicas.ways {
        way.cut(false);
    }
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(row(&replicas, 1, 1), Some((false, encoded(10))));
    assert_eq!(row(&replicas, 2, 0), Some((false, encoded(20))));
    assert_eq!(
        row(&replicas, 3, 1),
        Some((true, encoded(30))),
        "it is not connected"
    );
    assert_eq!(replicas.tables().rows().tunnels.len(), 1);
    tokio::time::sleep(Duration::from_mins(2)).await;
    for peer in [&mut agent, &mut client] {
        let told = peer.told().await;
        let gone = told.iter().any(|(_, kind, _)| *kind == Kind::Disconnected);
        assert!(!gone && !peer.ended, "{told:?}");
    }
    agent.update(11);
    client.update(21);
    assert_eq!(client.told().await.last(), Some(&new(1, 11)));
    assert_eq!(agent.told().await.last(), Some(&new(2, 21)));
}

#[tokio::test(start_paused = true)]
async fn a_replica_whose_row_vanished_with_all_that_hung_on_it_comes_back() {
    let replicas = Replicas::in_memory(2);
    let (agent, mut client) = pair(&replicas).await;
    {
        let mut rows = replicas.tables().rows();
        rows.replicas.remove(&replica(1));
        rows.peers.retain(|(_, of), _| *of != replica(1));
    }
    agent.update(11);
    assert_eq!(
        told_until(&mut client, new(1, 11)).await.last(),
        Some(&new(1, 11))
    );
    assert_eq!(row(&replicas, 1, 1), Some((false, encoded(11))));
}

#[tokio::test(start_paused = true)]
async fn what_vanishes_unsaid_is_believed_at_the_second_look() {
    let replicas = Replicas::in_memory(1);
    replicas.all_started().await;
    let foreign = replicas.foreign(1);
    foreign.beat().await;
    let mut client = replicas.client(0, 9);
    client.tunnel(id(1));
    let watch = async {
        foreign.put(1, 10).await;
        told_until(&mut client, new(1, 10)).await;
        replicas.tables().rows().peers.remove(&(id(1), foreign.id));
        let lost = (id(1), Kind::Lost, None);
        assert_eq!(told_until(&mut client, lost).await, [lost]);
        let gone = (id(1), Kind::Disconnected, None);
        let began = tokio::time::Instant::now();
        assert_eq!(told_until(&mut client, gone).await, [gone]);
        assert!(began.elapsed() > Duration::from_secs(20));
    };
    foreign.while_beating(watch).await;
}

#[tokio::test(start_paused = true)]
async fn goodbyes_that_could_not_be_written_are_written_later() {
    let replicas = Replicas::in_memory(2);
    let (mut agent, client) = pair(&replicas).await;
    replicas.ways[0].cut(true);
    client.disconnect();
    drop(client);
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert_eq!(row(&replicas, 2, 0), Some((false, encoded(20))));
    replicas.ways[0].cut(false);
    let gone = (id(2), Kind::Disconnected, None);
    assert_eq!(told_until(&mut agent, gone).await.last(), Some(&gone));
    assert_eq!(row(&replicas, 2, 0), None);
    assert!(replicas.tables().rows().tunnels.is_empty());
    replicas.settle().await;
    drop(agent);
    replicas.settle().await;
    replicas.assert_empty();
}

#[tokio::test(start_paused = true)]
async fn a_successor_begins_when_the_one_before_has_written_its_end() {
    let replicas = Replicas::in_memory(1);
    replicas.all_started().await;
    let agent = replicas.agent(0, 1);
    agent.update(1);
    replicas.settle().await;
    let old = &replicas.coordinators[0];
    let successor = old.successor();
    let mut early = Peer::connect_to(&replicas, &*successor, 1, Role::Agent);
    early.update(2);
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(
        row(&replicas, 1, 0),
        Some((false, encoded(1))),
        "the old one still writes"
    );
    old.close().await.unwrap();
    assert_eq!(row(&replicas, 1, 0), Some((true, encoded(1))));
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(row(&replicas, 1, 0), Some((false, encoded(2))));
    assert_eq!(early.errors().await, [""; 0]);
    drop((agent, early));
}

#[tokio::test(start_paused = true)]
async fn closing_ends_in_time_without_the_database() {
    let replicas = Replicas::in_memory(1);
    replicas.all_started().await;
    let mut agent = replicas.agent(0, 1);
    agent.update(1);
    replicas.ways[0].cut(true);
    let began = tokio::time::Instant::now();
    let close = async {
        let coordinator = &replicas.coordinators[0];
        let (first, second) = tokio::join!(coordinator.close(), coordinator.close());
        assert!(first.is_err_and(|error| error.is_unavailable()));
        assert!(second.is_err(), "both are told");
    };
    let read = async {
        tokio::time::sleep(Duration::from_millis(10)).await;
        assert_eq!(
            ended(&mut agent).await,
            ["coordinator closed"],
            "peers do not wait for it"
        );
        assert!(began.elapsed() < Duration::from_secs(1));
    };
    tokio::join!(close, read);
    assert!(
        began.elapsed() <= Duration::from_secs(16),
        "{:?}",
        began.elapsed()
    );
}

#[tokio::test(start_paused = true)]
async fn after_a_closing_that_was_given_up_nothing_goes_on() {
    let replicas = Replicas::in_memory(1);
    replicas.all_started().await;
    let agent = replicas.agent(0, 1);
    agent.update(1);
    replicas.ways[0].cut(true);
    let closing = replicas.coordinators[0].close();
    let closed = tokio::time::timeout(Duration::from_secs(1), closing).await;
    assert!(closed.is_err(), "the database is away");
    tokio::time::sleep(Duration::from_millis(1)).await;
    let before = replicas.ways[0].calls(&["beat", "lose_all_peers"]);
    tokio::time::sleep(Duration::from_mins(1)).await;
    assert_eq!(replicas.ways[0].calls(&["beat", "lose_all_peers"]), before);
    drop(agent);
}

#[tokio::test(start_paused = true)]
async fn closing_writes_goodbyes_and_marks_everybody_else_by_one_statement() {
    let replicas = Replicas::in_memory(1);
    replicas.all_started().await;
    let agents: Vec<_> = (1..=500).map(|number| replicas.agent(0, number)).collect();
    for agent in &agents {
        agent.update(1);
    }
    replicas.settle().await;
    let way = &replicas.ways[0];
    let before = way.calls(&["put_peers"]);
    agents[0].disconnect();
    replicas.coordinators[0].close().await.unwrap();
    assert_eq!(row(&replicas, 1, 0), None);
    assert_eq!(row(&replicas, 2, 0), Some((true, encoded(1))));
    assert_eq!(
        (way.calls(&["put_peers"]) - before, way.calls(&["lose_all_peers"])),
        (0, 1)
    );
    drop(agents);
    replicas.assert_empty();
}

#[tokio::test(start_paused = true)]
async fn closing_right_after_a_start_waits_for_nothing() {
    let replicas = Replicas::in_memory(1);
    replicas.all_started().await;
    let agent = replicas.agent(0, 1);
    agent.update(1);
    // As whoever begins to listen is told.
    replicas.hub.lose_messages();
    tokio::time::sleep(Duration::from_millis(1)).await;
    let began = tokio::time::Instant::now();
    replicas.coordinators[0].close().await.unwrap();
    assert!(began.elapsed() < CLOSE_WORK_LIMIT, "{:?}", began.elapsed());
    drop(agent);
    replicas.assert_empty();
}

#[tokio::test(start_paused = true)]
async fn a_row_that_lands_after_all_were_marked_as_lost_is_marked_too() {
    let replicas = Replicas::in_memory(1);
    replicas.all_started().await;
    let agent = replicas.agent(0, 1);
    let way = &replicas.ways[0];
    way.hold(Some("put_peers"));
    agent.update(1);
    eventually(async || way.calls(&["put_peers"]) == 1).await;
    let land = async {
        eventually(async || way.calls(&["lose_all_peers"]) == 1).await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(row(&replicas, 1, 0), None);
        way.hold(None);
    };
    let (closed, ()) = tokio::join!(replicas.coordinators[0].close(), land);
    assert_eq!(closed, Ok(()));
    assert_eq!(row(&replicas, 1, 0), Some((true, encoded(1))));
    drop(agent);
    replicas.assert_empty();
}

#[tokio::test(start_paused = true)]
async fn what_triggers_told_that_are_dropped_under_way_is_told_from_the_next_heartbeat_on() {
    let replicas = Replicas::with_triggers(2);
    let (agent, mut client) = pair(&replicas).await;
    replicas.tables().drop_triggers();
    tokio::time::sleep(HEARTBEAT * 2).await;
    // More than one, as a refresh may hit the first.
    for home in 11..14 {
        let began = tokio::time::Instant::now();
        agent.update(home);
        told_until(&mut client, new(1, home)).await;
        assert!(began.elapsed() < HEARTBEAT, "{:?}", began.elapsed());
    }
}
