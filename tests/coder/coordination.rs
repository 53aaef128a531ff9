//! Agents of drpcd and clients of the deployment's own servers find each other through the tables of coordination.
//!
//! A server of the deployment is played by the test: it writes its rows, and tells of them where triggers do not. Clients
//! of drpcd's own are not served on such a database.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use drpcd::proto::tailnet::Node;
use prost::Message as _;

use super::kit::{Deployment, Listener, agent};
use super::support::postgres::Database;
use super::support::{eventually, go};

const COORDINATOR: &str = "00000010-0000-4000-8000-000000000009";
const CLIENT: &str = "00000011-0000-4000-8000-000000000009";
const MAIN: &str = "00000009-0000-4000-8000-000000000001";
const SECOND: &str = "00000009-0000-4000-8000-000000000002";

const PEER: &str = "tailnet_peer_update";
const TUNNEL: &str = "tailnet_tunnel_update";
const HEARTBEAT: &str = "tailnet_coordinator_heartbeat";
const READY: &str = "tailnet_ready_for_handshake";

/// How often the played server says that it lives. Without that for six seconds it is given up.
const BEAT: Duration = Duration::from_secs(1);

/// As long as agents would stay by themselves, which none of these tests takes.
const STAY: [&str; 2] = ["--duration", "3m"];

/// A server of the deployment with one client.
struct Played<'d> {
    database: &'d Database,
    /// Whether it tells of its rows itself, as later versions do.
    notifies: bool,
}

impl Played<'_> {
    fn write(&self, sql: &str, notices: &[(&str, &str)]) {
        let told = notices.iter().filter(|_| self.notifies);
        let told = told.map(|(channel, payload)| format!("; SELECT pg_notify('{channel}', '{payload}')"));
        self.database
            .execute(&format!("{sql}{}", told.collect::<String>()));
    }

    fn beat(&self) {
        let sql = format!(
            "INSERT INTO tailnet_coordinators (id, heartbeat_at) VALUES ('{COORDINATOR}', now())
            ON CONFLICT (id) DO UPDATE SET heartbeat_at = excluded.heartbeat_at"
        );
        self.write(&sql, &[(HEARTBEAT, COORDINATOR)]);
    }

    /// Beats for as long as something else goes on, and has done so before.
    fn while_beating<T>(&self, other: impl FnOnce() -> T) -> T {
        struct Stop<'s>(&'s AtomicBool);
        impl Drop for Stop<'_> {
            fn drop(&mut self) {
                self.0.store(true, Ordering::Relaxed);
            }
        }
        self.beat();
        let stopped = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !stopped.load(Ordering::Relaxed) {
                    std::thread::sleep(BEAT);
                    self.beat();
                }
            });
            let _stop = Stop(&stopped);
            other()
        })
    }

    /// The client has told of itself and asks for both agents.
    fn connect(&self) {
        let sql = format!(
            "INSERT INTO tailnet_peers (id, coordinator_id, updated_at, node, status)
            VALUES ('{CLIENT}', '{COORDINATOR}', now(), '\\x{}', 'ok')",
            node()
        );
        self.write(&sql, &[(PEER, CLIENT)]);
        for agent in [MAIN, SECOND] {
            let sql = format!(
                "INSERT INTO tailnet_tunnels (coordinator_id, src_id, dst_id, updated_at)
                VALUES ('{COORDINATOR}', '{CLIENT}', '{agent}', now())"
            );
            self.write(&sql, &[(TUNNEL, &format!("{CLIENT},{agent}"))]);
        }
    }

    /// The client says goodbye.
    fn leave(&self) {
        let of = format!("WHERE coordinator_id = '{COORDINATOR}'");
        self.write(&format!("DELETE FROM tailnet_peers {of}"), &[(PEER, CLIENT)]);
        let tunnels = [MAIN, SECOND].map(|agent| format!("{CLIENT},{agent}"));
        let notices = tunnels.each_ref().map(|tunnel| (TUNNEL, tunnel.as_str()));
        self.write(&format!("DELETE FROM tailnet_tunnels {of}"), &notices);
    }
}

/// What the client tells of itself, in hexadecimal digits.
fn node() -> String {
    let node = Node {
        id: 9,
        key: [b"np".as_slice(), &[9; 32]].concat(),
        disco: format!("discokey:{}", "09".repeat(32)),
        preferred_derp: 999,
        ..Node::default()
    };
    let mut digits = String::new();
    for byte in node.encode_to_vec() {
        write!(digits, "{byte:02x}").unwrap();
    }
    digits
}

/// The statuses of the rows that servers of ours have of a peer, in order.
fn statuses(deployment: &Deployment, peer: &str) -> String {
    deployment
        .query(&format!(
            "SELECT status FROM tailnet_peers WHERE id = '{peer}' AND audit.own(coordinator_id::text) ORDER BY status"
        ))
        .join(" ")
}

#[track_caller]
fn await_statuses(deployment: &Deployment, peer: &str, wanted: &str) {
    eventually(|| statuses(deployment, peer) == wanted)
        .unwrap_or_else(|()| panic!("{peer} is {}, not {wanted}", statuses(deployment, peer)));
}

/// Both agents have said that they are ready for the client.
#[track_caller]
fn await_ready(listener: &Listener) {
    for agent in [MAIN, SECOND] {
        listener.await_heard(READY, &format!("{CLIENT},{agent}"));
    }
}

#[test]
fn agents_at_two_servers_and_a_client_of_the_deployment_hear_of_each_other() {
    let Some(deployment) = Deployment::new() else {
        return;
    };
    let listener = deployment.listen(&[PEER, READY]);
    let (one, other) = (deployment.serve(&[], &[]), deployment.serve(&[], &[]));
    let Some(mut main) = go("agent", &agent(&one, "1"), &STAY) else {
        return;
    };
    let mut second = go("agent", &agent(&other, "2"), &STAY).unwrap();
    for id in [MAIN, SECOND] {
        await_statuses(&deployment, id, "ok");
        // By the triggers.
        listener.await_heard(PEER, id);
    }

    let client = Played {
        database: &deployment.database,
        notifies: false,
    };
    let [there, lost, gone] = ["NODE", "LOST", "DISCONNECTED"].map(|kind| format!("peer {kind} {CLIENT}"));
    client.while_beating(|| {
        client.connect();
        main.await_line(&there);
        second.await_line(&there);
        await_ready(&listener);
    });
    // The server of the client is silent.
    main.await_line(&lost);
    second.await_line(&lost);
    client.while_beating(|| {
        main.await_line(&there);
        second.await_line(&there);
        // A cut is told, and whoever comes back by way of the other server has its client at once.
        listener.forget();
        drop(main);
        await_statuses(&deployment, MAIN, "lost");
        listener.await_heard(PEER, MAIN);
        let mut main = go("agent", &agent(&other, "1"), &STAY).unwrap();
        main.await_line(&there);
        listener.await_heard(READY, &format!("{CLIENT},{MAIN}"));
        await_statuses(&deployment, MAIN, "ok lost");

        let foreign = format!(
            "SELECT concat_ws(' ', status, encode(node, 'hex'), (SELECT count(*) FROM tailnet_tunnels
                WHERE coordinator_id = '{COORDINATOR}')) FROM tailnet_peers WHERE coordinator_id = '{COORDINATOR}'"
        );
        assert_eq!(deployment.value(&foreign), format!("ok {} 2", node()), "its rows are its own");
        client.leave();
        main.await_line(&gone);
        second.await_line(&gone);
    });
    assert_eq!(one.stop(), Some(0), "{}", deployment.log());
    assert_eq!(other.stop(), Some(0), "{}", deployment.log());
    // What the test wrote is not a server's doing.
    deployment.database.execute(&format!(
        "DELETE FROM audit.writes WHERE '{COORDINATOR}' IN (
            coalesce(after, before) ->> 'coordinator_id', coalesce(after, before) ->> 'id'
        )"
    ));
    deployment.assert_lawful();
}

#[test]
fn once_an_upgrade_has_dropped_the_triggers_servers_that_run_tell_by_themselves() {
    let Some(deployment) = Deployment::new() else {
        return;
    };
    let server = deployment.serve(&[], &[]);
    let Some(mut main) = go("agent", &agent(&server, "1"), &STAY) else {
        return;
    };
    await_statuses(&deployment, MAIN, "ok");
    deployment.upgrade(
        "DROP FUNCTION tailnet_notify_peer_change, tailnet_notify_tunnel_change, tailnet_notify_coordinator_heartbeat
        CASCADE",
    );
    let listener = deployment.listen(&[PEER, HEARTBEAT, READY]);
    let own = deployment.value(&format!(
        "SELECT coordinator_id FROM tailnet_peers WHERE id = '{MAIN}'"
    ));
    listener.await_heard(HEARTBEAT, &own);
    let mut second = go("agent", &agent(&server, "2"), &STAY).unwrap();
    listener.await_heard(PEER, SECOND);

    let client = Played {
        database: &deployment.database,
        notifies: true,
    };
    client.while_beating(|| {
        client.connect();
        main.await_line(&format!("peer NODE {CLIENT}"));
        second.await_line(&format!("peer NODE {CLIENT}"));
        await_ready(&listener);
        drop(main);
        await_statuses(&deployment, MAIN, "lost");
        listener.await_heard(PEER, MAIN);
    });
    assert_eq!(server.stop(), Some(0), "{}", deployment.log());
}
