use std::time::Duration;

use uuid::Uuid;

use super::super::echoes::Subject;
use super::*;
use crate::clock::{Clock, Timestamp};
use crate::proto::tailnet::Node;
use crate::proto::tailnet::coordinate_response::peer_update::Kind;
use crate::store::{DatabaseTime, Heartbeat, OwnPeer, StoredPeer, StoredTunnel};

const ME: ReplicaId = ReplicaId(Uuid::from_u128(0xa1));
const OTHER: ReplicaId = ReplicaId(Uuid::from_u128(0xa2));
const AGENT: PeerId = PeerId(Uuid::from_u128(1));
const CLIENT: PeerId = PeerId(Uuid::from_u128(2));
const TUNNEL: Tunnel = Tunnel {
    from: CLIENT,
    to: AGENT,
};

fn now() -> Instant {
    Clock::driven(Timestamp::UNIX_EPOCH).monotonic()
}

/// A core that reaches the database.
fn core() -> Core {
    let setting = Setting {
        replica: ME,
        triggers_notify: false,
    };
    let mut core = Core::new(setting, now());
    core.beat_succeeded(true);
    core.take_notices();
    core
}

fn node(home: i32) -> Arc<EncodedNode> {
    let node = Node {
        preferred_derp: home,
        ..Node::default()
    };
    Arc::new(EncodedNode::new(node).unwrap())
}

fn announce(home: i32) -> Request {
    Request {
        node: Some(node(home)),
        ..Request::default()
    }
}

fn add(to: PeerId) -> Request {
    Request {
        add_tunnel: Some(to),
        ..Request::default()
    }
}

fn remove(to: PeerId) -> Request {
    Request {
        remove_tunnel: Some(to),
        ..Request::default()
    }
}

fn goodbye() -> Request {
    Request {
        disconnect: true,
        ..Request::default()
    }
}

fn agent(core: &mut Core) -> Epoch {
    core.connect(AGENT, "agent", Role::Agent, now())
}

fn client(core: &mut Core) -> Epoch {
    core.connect(CLIENT, "client", Role::Client, now())
}

/// Kinds of all that a connection says next.
fn said(core: &mut Core, id: PeerId, epoch: Epoch) -> Vec<Kind> {
    let mut said = Vec::new();
    while let Next::Response(response) = core.next(id, epoch, now()) {
        said.extend(response.updates.iter().map(|update| update.kind));
    }
    said
}

fn stored(id: PeerId, replica: ReplicaId, at: i64) -> StoredPeer {
    StoredPeer {
        id,
        replica,
        updated_at: DatabaseTime(at),
        lost: false,
        node: node(7).as_bytes().to_vec(),
    }
}

fn stored_tunnel(replica: ReplicaId, tunnel: Tunnel) -> StoredTunnel {
    StoredTunnel { replica, tunnel }
}

/// Answers every read with nothing.
fn read_nothing(core: &mut Core) {
    while let Some(read) = core.next_read(now()) {
        match read {
            Read::Heartbeats { looked } => core.read_heartbeats(&[], looked),
            Read::OwnRows { mark } => core.read_own_rows(mark, &[], &[]),
            Read::Tunnels(tunnels) => core.read_tunnels(tunnels, &[]),
            Read::TunnelsOf(peers) => core.read_tunnels_of(peers, &[]),
            Read::Peers(ids) => core.read_peers(ids, Vec::new()),
        }
    }
}

/// Writes everything.
fn write(core: &mut Core, at: i64) {
    while core.has_rows() {
        let batch = core.take_rows(100, now());
        let written = WrittenRows {
            put: batch.put.iter().map(|(id, ..)| (*id, DatabaseTime(at))).collect(),
            lost: batch.lose.clone(),
            deleted: batch.delete.clone(),
        };
        core.rows_written(batch, &written, now());
    }
    while core.has_tunnels() {
        let batch = core.take_tunnels(100, now());
        let mut removed = batch.remove.clone();
        removed.extend((!batch.withdraw.is_empty()).then_some(TUNNEL));
        core.tunnels_written(batch, &removed, now());
    }
}

#[test]
fn nothing_may_be_asked_of_the_database_before_the_first_heartbeat() {
    let setting = Setting {
        replica: ME,
        triggers_notify: false,
    };
    let mut core = Core::new(setting, now());
    let epoch = agent(&mut core);
    core.handle(AGENT, epoch, &announce(1));
    assert!(core.has_rows() && !core.is_open());
    core.beat_succeeded(true);
    assert!(core.is_open());
}

#[test]
fn what_was_read_for_an_earlier_connection_does_not_count_for_the_next() {
    let mut core = core();
    let epoch = client(&mut core);
    let Some(Read::TunnelsOf(asked)) = core.next_read(now()) else {
        panic!("its tunnels are to be read")
    };
    // While that is being read, the peer gets a tunnel, is lost, and comes back.
    core.handle(CLIENT, epoch, &add(AGENT));
    write(&mut core, 1);
    core.forget(CLIENT, epoch);
    let epoch = client(&mut core);
    core.read_tunnels_of(asked, &[]);
    core.handle(CLIENT, epoch, &remove(AGENT));
    assert!(core.has_tunnels(), "there may be a row of it");
    let mut again = false;
    while let Some(read) = core.next_read(now()) {
        match read {
            Read::Tunnels(tunnels) => core.read_tunnels(tunnels, &[stored_tunnel(ME, TUNNEL)]),
            Read::TunnelsOf(asked) => {
                core.read_tunnels_of(asked, &[stored_tunnel(ME, TUNNEL)]);
                again = true;
            }
            Read::Peers(ids) => core.read_peers(ids, Vec::new()),
            _ => panic!("nobody asked for this"),
        }
    }
    assert!(again, "its tunnels are read anew");
    assert_eq!(core.snapshot(9, now()).tunnels, [], "it has removed it");
}

#[test]
fn a_tunnel_of_an_earlier_life_is_the_peers_again() {
    let mut core = core();
    let agent = agent(&mut core);
    core.handle(AGENT, agent, &announce(1));
    let client = client(&mut core);
    let Some(Read::TunnelsOf(asked)) = core.next_read(now()) else {
        panic!("their tunnels are to be read")
    };
    core.read_tunnels_of(asked, &[stored_tunnel(ME, TUNNEL), stored_tunnel(ME, TUNNEL)]);
    assert_eq!(core.snapshot(9, now()).tunnels, [(CLIENT, AGENT)]);
    assert_eq!(said(&mut core, CLIENT, client), [Kind::Node]);
    core.handle(CLIENT, client, &remove(AGENT));
    assert_eq!(said(&mut core, CLIENT, client), [Kind::Disconnected]);
    assert_eq!(core.take_tunnels(9, now()).remove, [TUNNEL]);
}

#[test]
fn a_tunnel_that_was_written_while_it_was_read_is_read_again() {
    let mut core = core();
    let agent = agent(&mut core);
    let client = client(&mut core);
    read_nothing(&mut core);
    core.handle(CLIENT, client, &add(AGENT));
    write(&mut core, 1);
    read_nothing(&mut core);

    core.read_everything();
    core.handle(CLIENT, client, &goodbye());
    let Some(Read::Heartbeats { looked }) = core.next_read(now()) else {
        panic!("heartbeats are to be read")
    };
    core.read_heartbeats(&[], looked);
    let Some(Read::TunnelsOf(asked)) = core.next_read(now()) else {
        panic!("tunnels are to be read")
    };
    write(&mut core, 2);
    // It was read before it was removed.
    core.read_tunnels_of(asked, &[stored_tunnel(ME, TUNNEL)]);
    read_nothing(&mut core);
    assert!(
        !core.edges.connects(AGENT, CLIENT),
        "a single look at it is enough"
    );
    let _ = agent;
}

#[test]
fn a_read_that_began_before_a_notification_does_not_answer_it() {
    let mut core = core();
    let client = client(&mut core);
    core.notified(Notice::Heartbeat(OTHER), now());
    core.handle(CLIENT, client, &add(AGENT));
    let reading = |core: &mut Core| loop {
        match core.next_read(now()) {
            Some(Read::Peers(ids)) => break ids,
            Some(Read::TunnelsOf(peers)) => core.read_tunnels_of(peers, &[]),
            _ => panic!("peers are to be read"),
        }
    };
    let ids = reading(&mut core);
    core.read_peers(ids, vec![stored(AGENT, OTHER, 1)]);
    assert_eq!(said(&mut core, CLIENT, client), [Kind::Node]);

    core.read_everything();
    let Some(Read::Heartbeats { looked }) = core.next_read(now()) else {
        panic!("heartbeats are to be read")
    };
    let row = Heartbeat {
        replica: OTHER,
        at: DatabaseTime(1),
        age: Duration::ZERO,
    };
    core.read_heartbeats(&[row], looked);
    let ids = reading(&mut core);
    core.notified(Notice::Peer(AGENT), now());
    core.read_peers(ids, vec![stored(AGENT, OTHER, 1)]);
    let ids = reading(&mut core);
    core.read_peers(ids, Vec::new());
    assert_eq!(
        said(&mut core, CLIENT, client),
        [Kind::Disconnected],
        "it was said, so it is believed at once"
    );
}

#[test]
fn handshakes_are_published_for_whoever_may_be_elsewhere() {
    let mut core = core();
    let agent = agent(&mut core);
    let client = client(&mut core);
    core.handle(CLIENT, client, &add(AGENT));
    read_nothing(&mut core);
    core.take_notices();
    core.ready_for_handshake(AGENT, agent, &[CLIENT]);
    assert_eq!(core.take_notices(), []);
    assert_eq!(said(&mut core, CLIENT, client), [Kind::ReadyForHandshake]);

    // The client is connected to another replica too.
    core.notified(Notice::Heartbeat(OTHER), now());
    core.notified(Notice::Peer(CLIENT), now());
    let Some(Read::Peers(ids)) = core.next_read(now()) else {
        panic!("the client is to be read")
    };
    core.read_peers(ids, vec![stored(CLIENT, OTHER, 1)]);
    core.ready_for_handshake(AGENT, agent, &[CLIENT]);
    let ready = Notice::Ready {
        to: CLIENT,
        from: AGENT,
    };
    assert_eq!(core.take_notices(), [ready]);
    core.forget(CLIENT, client);
    core.ready_for_handshake(AGENT, agent, &[CLIENT]);
    assert_eq!(core.take_notices(), [ready]);
}

#[test]
fn what_somebody_waits_for_is_read_before_rounds() {
    let mut core = core();
    let agent = agent(&mut core);
    read_nothing(&mut core);
    core.read_everything();
    let client = client(&mut core);
    core.notified(Notice::Tunnel(TUNNEL), now());
    core.handle(CLIENT, client, &add(AGENT));
    let mut order = Vec::new();
    while let Some(read) = core.next_read(now()) {
        match read {
            Read::Heartbeats { looked } => core.read_heartbeats(&[], looked),
            Read::OwnRows { .. } => panic!("nobody asked for these"),
            Read::Tunnels(tunnels) => {
                order.push("tunnel");
                core.read_tunnels(tunnels, &[]);
            }
            Read::TunnelsOf(peers) => {
                order.push(if peers.contains(&CLIENT) {
                    "who came"
                } else {
                    "round"
                });
                core.read_tunnels_of(peers, &[]);
            }
            Read::Peers(ids) => {
                order.push("peers");
                core.read_peers(ids, Vec::new());
            }
        }
    }
    assert_eq!(order[..3], ["tunnel", "who came", "peers"]);
    let _ = agent;
}

#[test]
fn too_many_tunnels_to_read_are_those_of_their_connected_ends() {
    let mut core = core();
    agent(&mut core);
    read_nothing(&mut core);
    for number in 0..40_000 {
        let from = PeerId(Uuid::from_u128(1_000 + number));
        core.notified(Notice::Tunnel(Tunnel { from, to: AGENT }), now());
    }
    assert!(core.reads.tunnels.len() <= 16_384);
    assert!(core.reads.tunnels_of.contains(AGENT));
}

#[test]
fn whoever_vanished_while_reading_or_writing_leaves_nothing_undone() {
    let mut core = core();
    let client = client(&mut core);
    core.handle(
        CLIENT,
        client,
        &Request {
            node: Some(node(1)),
            ..add(AGENT)
        },
    );
    let _ = core.take_rows(9, now());
    let _ = core.take_tunnels(9, now());
    let _ = core.next_read(now());
    let _ = core.next_read(now());
    assert!(!core.has_rows() && !core.has_tunnels() && !core.has_reads());
    core.row_writer_vanished();
    core.tunnel_writer_vanished();
    core.reader_vanished();
    assert_eq!(core.take_rows(9, now()).put.len(), 1);
    assert_eq!(core.take_tunnels(9, now()).add, [TUNNEL]);
    assert!(matches!(core.next_read(now()), Some(Read::TunnelsOf(_))));
}

#[test]
fn clients_are_sent_away_bit_by_bit_and_agents_never() {
    let mut core = core();
    let start = now();
    for number in 0..1_000_u128 {
        // Ids as random as they are.
        let id = PeerId(Uuid::from_u128(
            number.wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835),
        ));
        let role = if number % 2 == 0 {
            Role::Agent
        } else {
            Role::Client
        };
        core.connect(id, "peer", role, start);
    }
    for _ in 0..3 {
        core.beat_failed(start);
    }
    let mut left = Vec::new();
    for second in 0..=5 {
        core.tick(start + Duration::from_secs(second));
        left.push(core.status().peers);
    }
    assert!(left.is_sorted_by(|a, b| a >= b), "{left:?}");
    assert!(left[0] > 950 && (600..900).contains(&left[2]), "{left:?}");
    assert_eq!(left[5], 500, "all clients, and no agent");
}

#[test]
fn who_leaves_when_too_many_have_is_corrected_later() {
    let mut core = core();
    for number in 0..=MAX_DEPARTED as u128 {
        let id = PeerId(Uuid::from_u128(1_000 + number));
        let epoch = core.connect(id, "peer", Role::Client, now());
        core.handle(id, epoch, &announce(1));
        core.forget(id, epoch);
    }
    assert_eq!(core.peers.len(), MAX_DEPARTED);
    let forgotten = PeerId(Uuid::from_u128(1_000 + MAX_DEPARTED as u128));
    core.beat_succeeded(false);
    read_until_own_rows(&mut core, &[own(forgotten), own(PeerId(Uuid::from_u128(1_000)))]);
    let mut lost = Vec::new();
    while core.has_rows() {
        let batch = core.take_rows(1_000, now());
        lost.extend(batch.lose.clone());
        core.rows_written(batch, &WrittenRows::default(), now());
    }
    assert_eq!(lost, [forgotten]);
    assert!(core.peers.is_empty());
}

fn own(id: PeerId) -> OwnPeer {
    OwnPeer {
        id,
        updated_at: DatabaseTime(1),
        lost: false,
    }
}

fn read_until_own_rows(core: &mut Core, peers: &[OwnPeer]) {
    loop {
        match core.next_read(now()) {
            Some(Read::OwnRows { mark }) => break core.read_own_rows(mark, peers, &[]),
            Some(Read::Heartbeats { looked }) => core.read_heartbeats(&[], looked),
            _ => panic!("own rows are to be read"),
        }
    }
}

#[test]
fn a_closed_coordinator_hears_nothing_more() {
    let mut core = core();
    let epoch = agent(&mut core);
    core.handle(AGENT, epoch, &announce(1));
    core.close();
    core.notified(Notice::Tunnel(TUNNEL), now());
    core.notified(Notice::Peer(AGENT), now());
    assert!(!core.has_rows() && !core.has_reads());
    assert!(core.is_idle());
    core.all_lost(&[AGENT]);
    assert_eq!(core.take_notices(), [Notice::Peer(AGENT)]);
}

#[test]
fn a_closed_coordinator_has_nothing_to_do_but_what_it_owes_the_database() {
    let mut core = core();
    let agent = agent(&mut core);
    core.handle(AGENT, agent, &announce(1));
    let row = core.take_rows(9, now());
    let client = client(&mut core);
    core.handle(CLIENT, client, &announce(2));
    core.handle(CLIENT, client, &goodbye());
    core.handle(CLIENT, client, &add(AGENT));
    let read = core.next_read(now()).expect("their tunnels are to be read");
    core.missed(now());
    core.own_row_is_missing();

    core.close();
    core.missed(now());
    core.read_failed(read);
    for _ in 0..3 {
        core.beat_failed(now());
    }
    assert!(core.beat_succeeded(true));
    core.tick(now() + Duration::from_hours(1));
    assert!(!core.has_reads(), "{}", core.work());
    assert!(core.is_announcing() && !core.is_idle());
    core.rows_failed(row);
    assert!(!core.is_announcing());
    let goodbye = core.take_rows(9, now());
    assert_eq!((&goodbye.put[..], &goodbye.delete[..]), (&[][..], &[CLIENT][..]));
    core.rows_failed(goodbye);
    write(&mut core, 1);
    assert!(core.is_idle(), "{}", core.work());
    assert!(core.peers.is_empty());
}

/// A core whose database notifies by triggers.
fn core_with_triggers() -> Core {
    let setting = Setting {
        replica: ME,
        triggers_notify: true,
    };
    let mut core = Core::new(setting, now());
    core.beat_succeeded(true);
    core
}

#[test]
fn triggers_notify_in_place_of_the_replica() {
    let mut core = core_with_triggers();
    let agent = agent(&mut core);
    let client = client(&mut core);
    core.handle(AGENT, agent, &announce(1));
    core.handle(CLIENT, client, &add(AGENT));
    write(&mut core, 1);
    core.ready_for_handshake(AGENT, agent, &[CLIENT]);
    core.forget(CLIENT, client);
    assert_eq!(core.take_notices(), []);
    core.ready_for_handshake(AGENT, agent, &[CLIENT]);
    let ready = Notice::Ready {
        to: CLIENT,
        from: AGENT,
    };
    assert_eq!(core.take_notices(), [ready], "handshakes have no table");
}

#[test]
fn what_was_not_written_is_not_waited_for_as_an_echo() {
    let mut core = core_with_triggers();
    let epoch = agent(&mut core);
    core.handle(AGENT, epoch, &announce(1));
    let batch = core.take_rows(10, now());
    core.rows_failed(batch);
    assert!(!core.echoes.is_echo(Subject::Peer(AGENT)));
    let batch = core.take_rows(10, now());
    assert_eq!(batch.put.len(), 1);
    let written = WrittenRows {
        put: vec![(AGENT, DatabaseTime(1))],
        ..WrittenRows::default()
    };
    core.rows_written(batch, &written, now());
    assert!(
        core.echoes.is_echo(Subject::Peer(AGENT)),
        "the one that was written"
    );
    assert!(!core.echoes.is_echo(Subject::Peer(AGENT)));
}

#[test]
fn who_follows_another_under_its_id_looks_what_that_has_left() {
    let looks = |anew| {
        let mut core = Core::new(core().setting(), now());
        core.beat_succeeded(anew);
        matches!(core.next_read(now()), Some(Read::OwnRows { .. }))
    };
    assert!(looks(false));
    assert!(!looks(true), "nobody was there before");
}
