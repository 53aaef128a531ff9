//! What every database that coordinators share does, whether it is real or one of a test.

use uuid::Uuid;

use super::{Coordination, DatabaseTime, OwnPeer, PeerWrite, StoredPeer, Tunnel};
use crate::ids::{PeerId, ReplicaId};

/// Runs every case against what an expression makes: a database and what it lives in, or nothing if there is none.
macro_rules! coordination_contract {
    (#[$test:meta] $database:block) => {
        $crate::store::coordination_contract! { @cases #[$test] $database;
            a_beat_says_whether_anything_of_the_replica_was_there
            heartbeats_move
            a_peer_is_stored_for_each_replica_and_its_last_write_is_the_newest
            losing_keeps_the_node_and_tells_of_whom_it_was_news
            deleting_tells_of_what_was_there
            tunnels_are_found_from_both_ends_and_by_themselves
            tunnels_are_removed_one_by_one_or_all_of_a_peer
            a_replica_finds_its_own_rows
            rows_need_the_row_of_their_replica
            the_tables_are_shown_with_their_counts
        }
    };
    (@cases #[$test:meta] $database:block; $($case:ident)*) => {$(
        #[$test]
        async fn $case() {
            let made: Option<(_, _)> = $database;
            let Some((database, _place)) = made else { return };
            $crate::store::coordination_cases::$case(&*database).await;
        }
    )*};
}
pub(crate) use coordination_contract;

const ONE: ReplicaId = ReplicaId(Uuid::from_u128(0xa1));
const OTHER: ReplicaId = ReplicaId(Uuid::from_u128(0xa2));
const X: PeerId = PeerId(Uuid::from_u128(1));
const Y: PeerId = PeerId(Uuid::from_u128(2));
const Z: PeerId = PeerId(Uuid::from_u128(3));

fn tunnel(from: PeerId, to: PeerId) -> Tunnel {
    Tunnel { from, to }
}

/// Stores a peer, and tells when.
async fn put(
    database: &dyn Coordination,
    replica: ReplicaId,
    id: PeerId,
    node: &[u8],
    lost: bool,
) -> DatabaseTime {
    let write = PeerWrite { id, lost, node };
    let written = database.put_peers(replica, &[write]).await.unwrap();
    assert_eq!(written.len(), 1);
    assert_eq!(written[0].0, id);
    written[0].1
}

async fn peers(database: &dyn Coordination, ids: &[PeerId]) -> Vec<StoredPeer> {
    let mut peers = database.peers(ids).await.unwrap();
    peers.sort_by_key(|peer| (peer.id, peer.replica));
    peers
}

async fn both_live(database: &dyn Coordination) {
    for replica in [ONE, OTHER] {
        database.beat(replica).await.unwrap();
    }
}

pub(crate) async fn a_beat_says_whether_anything_of_the_replica_was_there(database: &dyn Coordination) {
    assert_eq!(database.beat(ONE).await, Ok(true));
    assert_eq!(database.beat(ONE).await, Ok(false));
    assert_eq!(database.beat(OTHER).await, Ok(true));
}

pub(crate) async fn heartbeats_move(database: &dyn Coordination) {
    both_live(database).await;
    let beats = async || {
        let mut beats = database.heartbeats().await.unwrap();
        beats.sort_by_key(|beat| beat.replica);
        beats
    };
    let before = beats().await;
    database.beat(OTHER).await.unwrap();
    let after = beats().await;
    assert_eq!(before.len(), 2);
    assert_eq!(before[0].at, after[0].at, "who does not beat does not move");
    assert!(before[1].at < after[1].at);
    assert!(before[0].age < after[0].age && after[1].age < after[0].age);
}

pub(crate) async fn a_peer_is_stored_for_each_replica_and_its_last_write_is_the_newest(
    database: &dyn Coordination,
) {
    both_live(database).await;
    let first = put(database, ONE, X, b"first", false).await;
    let second = put(database, OTHER, X, b"second", false).await;
    let third = put(database, ONE, X, b"third", false).await;
    assert!(first < second && second < third);
    put(database, ONE, Y, b"other", true).await;

    let found = peers(database, &[X, Z]).await;
    let expected = [(ONE, third, &b"third"[..]), (OTHER, second, b"second")];
    let expected = expected.map(|(replica, updated_at, node)| StoredPeer {
        id: X,
        replica,
        updated_at,
        lost: false,
        node: node.to_vec(),
    });
    assert_eq!(found, expected);
    assert!(peers(database, &[Y]).await[0].lost);
}

pub(crate) async fn losing_keeps_the_node_and_tells_of_whom_it_was_news(database: &dyn Coordination) {
    both_live(database).await;
    put(database, ONE, X, b"x", false).await;
    put(database, ONE, Y, b"y", true).await;
    put(database, ONE, Z, b"z", false).await;
    put(database, OTHER, X, b"elsewhere", false).await;
    assert_eq!(database.lose_peers(ONE, &[X, Y]).await, Ok(vec![X]));
    assert_eq!(database.lose_all_peers(ONE).await, Ok(vec![Z]));
    assert_eq!(database.lose_all_peers(ONE).await, Ok(vec![]));
    let found = peers(database, &[X, Y, Z]).await;
    let found: Vec<_> = found
        .iter()
        .map(|peer| (peer.id, peer.replica, peer.lost, &*peer.node))
        .collect();
    let expected: [(_, _, _, &[u8]); 4] = [
        (X, ONE, true, b"x"),
        (X, OTHER, false, b"elsewhere"),
        (Y, ONE, true, b"y"),
        (Z, ONE, true, b"z"),
    ];
    assert_eq!(found, expected);
}

pub(crate) async fn deleting_tells_of_what_was_there(database: &dyn Coordination) {
    both_live(database).await;
    put(database, ONE, X, b"x", false).await;
    put(database, OTHER, X, b"x", false).await;
    assert_eq!(database.delete_peers(ONE, &[X, Y]).await, Ok(vec![X]));
    assert_eq!(database.delete_peers(ONE, &[X]).await, Ok(vec![]));
    assert_eq!(peers(database, &[X]).await.len(), 1, "rows of others stay");
}

/// Tunnels as found, each once.
fn found(rows: Vec<super::StoredTunnel>) -> Vec<(ReplicaId, Tunnel)> {
    let mut found: Vec<_> = rows.into_iter().map(|row| (row.replica, row.tunnel)).collect();
    found.sort();
    found.dedup();
    found
}

pub(crate) async fn tunnels_are_found_from_both_ends_and_by_themselves(database: &dyn Coordination) {
    both_live(database).await;
    database
        .put_tunnels(ONE, &[tunnel(X, Y), tunnel(Y, Z)])
        .await
        .unwrap();
    database.put_tunnels(ONE, &[tunnel(X, Y)]).await.unwrap();
    database
        .put_tunnels(OTHER, &[tunnel(X, Y), tunnel(X, Z)])
        .await
        .unwrap();
    let of = async |ids: &[PeerId]| found(database.tunnels_of(ids).await.unwrap());
    assert_eq!(
        of(&[Y]).await,
        [(ONE, tunnel(X, Y)), (ONE, tunnel(Y, Z)), (OTHER, tunnel(X, Y))]
    );
    assert_eq!(of(&[Z]).await, [(ONE, tunnel(Y, Z)), (OTHER, tunnel(X, Z))]);
    assert_eq!(of(&[X, Y, Z]).await.len(), 4);
    let asked = [tunnel(X, Y), tunnel(Z, X)];
    assert_eq!(
        found(database.tunnels(&asked).await.unwrap()),
        [(ONE, tunnel(X, Y)), (OTHER, tunnel(X, Y))]
    );
}

pub(crate) async fn tunnels_are_removed_one_by_one_or_all_of_a_peer(database: &dyn Coordination) {
    both_live(database).await;
    let tunnels = [tunnel(X, Y), tunnel(X, Z), tunnel(Y, X)];
    database.put_tunnels(ONE, &tunnels).await.unwrap();
    database.put_tunnels(OTHER, &tunnels).await.unwrap();
    let removed = database.delete_tunnels(ONE, &[tunnel(X, Y), tunnel(Z, Y)]).await;
    assert_eq!(removed, Ok(vec![tunnel(X, Y)]));
    assert_eq!(
        database.delete_tunnels_from(ONE, &[X, Z]).await,
        Ok(vec![tunnel(X, Z)])
    );
    let left = database.tunnels_of(&[X, Y, Z]).await.unwrap();
    let left: Vec<_> = found(left).into_iter().map(|(replica, _)| replica).collect();
    assert_eq!(left, [ONE, OTHER, OTHER, OTHER]);
}

pub(crate) async fn a_replica_finds_its_own_rows(database: &dyn Coordination) {
    both_live(database).await;
    let updated_at = put(database, ONE, X, b"x", false).await;
    put(database, OTHER, Y, b"y", false).await;
    database.put_tunnels(ONE, &[tunnel(X, Y)]).await.unwrap();
    database.put_tunnels(OTHER, &[tunnel(Y, X)]).await.unwrap();
    let own = OwnPeer {
        id: X,
        updated_at,
        lost: false,
    };
    assert_eq!(database.own_peers(ONE).await, Ok(vec![own]));
    assert_eq!(database.own_tunnels(ONE).await, Ok(vec![tunnel(X, Y)]));
}

pub(crate) async fn rows_need_the_row_of_their_replica(database: &dyn Coordination) {
    let write = PeerWrite {
        id: X,
        lost: false,
        node: b"x",
    };
    let refused = [
        database.put_peers(ONE, &[write]).await.map(|_| ()),
        database.put_tunnels(ONE, &[tunnel(X, Y)]).await,
    ];
    for refused in refused {
        assert!(
            matches!(refused, Err(crate::store::StoreError::Violation { .. })),
            "{refused:?}"
        );
    }
}

pub(crate) async fn the_tables_are_shown_with_their_counts(database: &dyn Coordination) {
    both_live(database).await;
    put(database, ONE, X, b"x", true).await;
    put(database, ONE, Y, b"y", false).await;
    database
        .put_tunnels(OTHER, &[tunnel(X, Y), tunnel(Y, Z), tunnel(X, Z)])
        .await
        .unwrap();
    let shown = database.shared_snapshot(1).await.unwrap();
    assert_eq!((shown.peers.len(), shown.total_peers), (1, 2));
    assert_eq!((shown.tunnels.len(), shown.total_tunnels), (1, 3));
    let shown = database.shared_snapshot(9).await.unwrap();
    assert_eq!(
        (shown.replicas.len(), shown.peers.len(), shown.tunnels.len()),
        (2, 2, 3)
    );
}
