use std::sync::Arc;

use sqlx::{Connection as _, Executor as _, PgConnection, SqlSafeStr as _};

use super::*;
use crate::store::coordination_contract;
use crate::store::testing::{Place, coder};

/// A store on Postgres, and the place in which it lives; nothing without Postgres.
async fn store() -> Option<(Arc<SqlStore>, Place)> {
    let place = Place::of_postgres()?;
    Some((Arc::new(place.open().await), place))
}

coordination_contract!(
    #[tokio::test]
    {
        store().await
    }
);

#[tokio::test]
async fn every_statement_prepares_under_a_name_of_its_own() {
    let Some((_, Place::Postgres(database))) = store().await else {
        return;
    };
    let mut connection = PgConnection::connect(database.url()).await.unwrap();
    let mut names: Vec<_> = crate::store::sql::all_statements()
        .map(|statement| statement.name)
        .collect();
    for statement in STATEMENTS {
        if let Err(error) = connection.prepare(statement.postgres.into_sql_str()).await {
            panic!("{}: {error}", statement.name);
        }
        assert!(
            !names.contains(&statement.name),
            "{} stands for two statements",
            statement.name
        );
        names.push(statement.name);
    }
}

#[tokio::test]
async fn triggers_notify_where_all_three_tables_have_them_and_as_long_as_they_do() {
    let Some((own, _)) = store().await else { return };
    assert_eq!(own.triggers_notify().await, Ok(false));

    let place = Place::Postgres(coder::deployment().unwrap());
    let (store, mut raw) = (place.open().await, place.connect().await);
    for table in ["tailnet_peers", "tailnet_tunnels", "tailnet_coordinators"] {
        assert_eq!(store.triggers_notify().await, Ok(true), "{table}");
        for (change, notify) in [("DISABLE", false), ("ENABLE", true)] {
            let sql = format!("ALTER TABLE {table} {change} TRIGGER USER");
            raw.run("", &sql).await;
            assert_eq!(store.triggers_notify().await, Ok(notify), "{sql}");
        }
    }
    // As a later version of the deployment leaves it.
    raw.run("", "DROP FUNCTION tailnet_notify_peer_change CASCADE")
        .await;
    assert_eq!(store.triggers_notify().await, Ok(false));
}

#[tokio::test]
async fn a_look_at_the_triggers_says_nothing_of_whether_writes_are_taken() {
    let Some(database) = coder::deployment() else {
        return;
    };
    let place = Place::Postgres(database);
    let (store, mut raw) = (place.open().await, place.connect().await);
    let full = |table: &str| {
        format!(
            "CREATE FUNCTION full_{table}() RETURNS trigger LANGUAGE plpgsql AS
                $$ BEGIN RAISE EXCEPTION 'no space left on device' USING ERRCODE = '53100'; END $$;
            CREATE TRIGGER full_{table} BEFORE INSERT OR UPDATE ON {table}
                FOR EACH ROW EXECUTE FUNCTION full_{table}()"
        )
    };
    raw.run("", &full("tailnet_coordinators")).await;
    for _ in 0..3 {
        assert_eq!(store.triggers_notify().await, Ok(true));
        assert!(store.beat(ONE).await.is_err());
        assert_eq!(store.triggers_notify().await, Ok(true));
        assert!(store.database().write_error().is_some());
        assert!(store.ping().await.is_err());
    }
    raw.run("", "DROP FUNCTION full_tailnet_coordinators CASCADE")
        .await;
    store.beat(ONE).await.unwrap();
    assert_eq!(store.database().write_error(), None);
    assert_eq!(store.ping().await, Ok(()));
}

const ONE: ReplicaId = ReplicaId(Uuid::from_u128(0xa1));
const OTHER: ReplicaId = ReplicaId(Uuid::from_u128(0xa2));

fn id(number: u128) -> PeerId {
    PeerId(Uuid::from_u128(number))
}

fn to(from: u128, to: u128) -> Tunnel {
    Tunnel {
        from: id(from),
        to: id(to),
    }
}

async fn put(store: &SqlStore, replica: ReplicaId, number: u128, lost: bool) -> DatabaseTime {
    let write = PeerWrite {
        id: id(number),
        lost,
        node: b"node",
    };
    store.put_peers(replica, &[write]).await.unwrap()[0].1
}

#[tokio::test]
async fn tn_078_old_rows_of_peers_that_are_lost_and_of_tunnels_without_a_peer_are_removed() {
    let Some((store, place)) = store().await else {
        return;
    };
    let mut raw = place.connect().await;
    store.beat(ONE).await.unwrap();
    for number in [1, 2, 3, 4] {
        put(&store, ONE, number, number > 2).await;
    }
    let tunnels = [to(1, 9), to(2, 9), to(3, 9), to(4, 9), to(5, 9)];
    store.put_tunnels(ONE, &tunnels).await.unwrap();
    // 1: peer and tunnel fresh. 2: tunnel old, peer fresh. 3: both old, but the peer is not lost. 4: both old and lost.
    // 5: a tunnel whose peer never had a row, old.
    let lost = |number: u128| format!("id = '{}'", id(number));
    raw.query(&format!(
        "UPDATE tailnet_peers SET status = 'ok' WHERE {}",
        lost(3)
    ))
    .await;
    for number in [3, 4] {
        raw.age("tailnet_peers", &lost(number)).await;
    }
    raw.age("tailnet_tunnels", &format!("src_id <> '{}'", id(1)))
        .await;

    let mut removed = 0;
    loop {
        match store.clean_up(1).await.unwrap() {
            0 => break,
            some => removed += some,
        }
    }
    assert_eq!(removed, 3);
    let mut peers: Vec<_> = store
        .own_peers(ONE)
        .await
        .unwrap()
        .iter()
        .map(|peer| peer.id)
        .collect();
    peers.sort();
    assert_eq!(peers, [id(1), id(2), id(3)]);
    let mut left = store.own_tunnels(ONE).await.unwrap();
    left.sort();
    assert_eq!(left, [to(1, 9), to(2, 9), to(3, 9)]);
}

#[tokio::test]
async fn a_replica_that_is_dead_for_a_day_is_removed_with_all_its_rows_and_no_other() {
    let Some((store, place)) = store().await else {
        return;
    };
    let mut raw = place.connect().await;
    for replica in [ONE, OTHER] {
        store.beat(replica).await.unwrap();
        for number in 0..25 {
            put(&store, replica, number, false).await;
        }
        store.put_tunnels(replica, &[to(1, 2), to(100, 2)]).await.unwrap();
    }
    raw.age("tailnet_coordinators", &format!("id = '{ONE}'")).await;
    let mut statements = 0;
    while store.clean_up(10).await.unwrap() > 0 {
        statements += 1;
    }
    assert!(statements >= 3, "rows go bit by bit");
    let replicas: Vec<_> = store
        .heartbeats()
        .await
        .unwrap()
        .iter()
        .map(|heartbeat| heartbeat.replica)
        .collect();
    assert_eq!(replicas, [OTHER]);
    assert_eq!(store.own_peers(ONE).await.unwrap(), []);
    assert_eq!(store.own_peers(OTHER).await.unwrap().len(), 25);
    assert_eq!(store.own_tunnels(OTHER).await.unwrap().len(), 2);
}

#[tokio::test]
async fn only_one_cleans_up_at_a_time() {
    let Some((store, place)) = store().await else {
        return;
    };
    let mut raw = place.connect().await;
    store.beat(ONE).await.unwrap();
    put(&store, ONE, 1, true).await;
    raw.age("tailnet_peers", "true").await;
    raw.query(&format!("SELECT pg_advisory_lock({CLEANUP_LOCK}) IS NULL"))
        .await;
    assert_eq!(store.clean_up(10).await, Ok(0));
    raw.query(&format!("SELECT pg_advisory_unlock({CLEANUP_LOCK})"))
        .await;
    assert_eq!(store.clean_up(10).await, Ok(1));
}

#[tokio::test]
async fn the_last_write_is_the_newest_even_if_the_clock_was_set_back() {
    let Some((store, place)) = store().await else {
        return;
    };
    let mut raw = place.connect().await;
    for replica in [ONE, OTHER] {
        store.beat(replica).await.unwrap();
    }
    put(&store, ONE, 1, false).await;
    raw.query("UPDATE tailnet_peers SET updated_at = updated_at + interval '1 hour'")
        .await;
    let ahead = store.own_peers(ONE).await.unwrap()[0].updated_at;
    let moved = put(&store, OTHER, 1, false).await;
    assert_eq!(moved, DatabaseTime(ahead.0 + 1));
    let back = put(&store, ONE, 1, false).await;
    assert_eq!(back, DatabaseTime(moved.0 + 1));
}

#[tokio::test]
async fn who_is_lost_is_lost_from_then_on() {
    let Some((store, place)) = store().await else {
        return;
    };
    let mut raw = place.connect().await;
    store.beat(ONE).await.unwrap();
    put(&store, ONE, 1, false).await;
    put(&store, ONE, 2, false).await;
    raw.age("tailnet_peers", "true").await;
    store.lose_peers(ONE, &[id(1)]).await.unwrap();
    store.lose_all_peers(ONE).await.unwrap();
    assert_eq!(
        store.clean_up(10).await,
        Ok(0),
        "a day begins with the loss, not with the last write"
    );
}
