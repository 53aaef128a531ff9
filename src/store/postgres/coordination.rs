//! The tables that coordinators share.
//!
//! Each replica writes rows of its own only, one statement at a time, so its statements never wait for each other or for
//! those of another. What every replica may remove, old rows, is removed under one lock and passes over rows in use.
//!
//! Times are the database's own: they are compared among replicas.

use std::time::Duration;

use async_trait::async_trait;
use uuid::Uuid;

use crate::clock::Timestamp;
use crate::ids::{PeerId, ReplicaId};
use crate::store::sql::database::Session;
use crate::store::sql::row::Row;
use crate::store::sql::statement::{Call, statements};
use crate::store::sql::value::ids;
use crate::store::{
    Coordination, DatabaseTime, Heartbeat, OwnPeer, PeerWrite, Schema, SharedSnapshot, SqlStore, Store as _,
    StoreError, StoredPeer, StoredTunnel, Tunnel,
};

/// Replicas that are read: more than live, so that the dead ones of a busy day do not hide one that does.
const MAX_REPLICAS: i64 = 1_024;

/// Held while old rows are removed. Any number that nobody else uses.
const CLEANUP_LOCK: i64 = 0x6472_7063_6463_7570;

statements! {
    /// A row that was not there has no deleter yet.
    BEAT = "coordinator_beat":
        "INSERT INTO tailnet_coordinators (id, heartbeat_at) VALUES ($1, now())
        ON CONFLICT (id) DO UPDATE SET heartbeat_at = excluded.heartbeat_at
        RETURNING xmax = 0 AS anew";
    HEARTBEATS = "coordinator_heartbeats":
        "SELECT id, heartbeat_at, (extract(epoch FROM now() - heartbeat_at) * 1000000)::bigint AS age
        FROM tailnet_coordinators ORDER BY heartbeat_at DESC LIMIT $1";
    /// Of all rows of a peer the one that is written last is to be the newest, even if the clock was set back meanwhile.
    PUT_PEERS = "put_peers":
        "INSERT INTO tailnet_peers (id, coordinator_id, updated_at, node, status)
        SELECT new.id, $1::uuid,
            greatest(now(), (
                SELECT max(other.updated_at) + interval '1 microsecond' FROM tailnet_peers AS other
                WHERE other.id = new.id AND other.coordinator_id <> $1::uuid
            )),
            new.node, CASE WHEN new.lost THEN 'lost' ELSE 'ok' END::tailnet_status
        FROM unnest($2::uuid[], $3::bytea[], $4::bool[]) AS new(id, node, lost)
        ORDER BY new.id
        ON CONFLICT (id, coordinator_id) DO UPDATE SET
            updated_at = excluded.updated_at, node = excluded.node, status = excluded.status
        RETURNING id, updated_at";
    /// From here on it counts how long the peer has been lost.
    LOSE_PEERS = "lose_peers":
        "UPDATE tailnet_peers SET status = 'lost', updated_at = now()
        WHERE coordinator_id = $1 AND id = ANY($2) AND status <> 'lost'
        RETURNING id";
    LOSE_ALL_PEERS = "lose_all_peers":
        "UPDATE tailnet_peers SET status = 'lost', updated_at = now()
        WHERE coordinator_id = $1 AND status <> 'lost'
        RETURNING id";
    DELETE_PEERS = "delete_peers":
        "DELETE FROM tailnet_peers WHERE coordinator_id = $1 AND id = ANY($2) RETURNING id";
    PUT_TUNNELS = "put_tunnels":
        "INSERT INTO tailnet_tunnels (coordinator_id, src_id, dst_id, updated_at)
        SELECT $1::uuid, new.src_id, new.dst_id, now()
        FROM unnest($2::uuid[], $3::uuid[]) AS new(src_id, dst_id)
        ORDER BY new.src_id, new.dst_id
        ON CONFLICT (coordinator_id, src_id, dst_id) DO UPDATE SET updated_at = excluded.updated_at";
    DELETE_TUNNELS = "delete_tunnels":
        "DELETE FROM tailnet_tunnels AS t
        USING unnest($2::uuid[], $3::uuid[]) AS old(src_id, dst_id)
        WHERE t.coordinator_id = $1 AND t.src_id = old.src_id AND t.dst_id = old.dst_id
        RETURNING t.src_id, t.dst_id";
    DELETE_TUNNELS_FROM = "delete_tunnels_from":
        "DELETE FROM tailnet_tunnels WHERE coordinator_id = $1 AND src_id = ANY($2) RETURNING src_id, dst_id";
    PEERS = "stored_peers":
        "SELECT id, coordinator_id, updated_at, status = 'lost' AS lost, node FROM tailnet_peers WHERE id = ANY($1)";
    TUNNELS_OF = "stored_tunnels_of":
        "SELECT t.coordinator_id, t.src_id, t.dst_id
        FROM unnest($1::uuid[]) AS asked(id) JOIN tailnet_tunnels AS t ON t.src_id = asked.id
        UNION ALL
        SELECT t.coordinator_id, t.src_id, t.dst_id
        FROM unnest($1::uuid[]) AS asked(id) JOIN tailnet_tunnels AS t ON t.dst_id = asked.id";
    TUNNELS = "stored_tunnels":
        "SELECT t.coordinator_id, t.src_id, t.dst_id
        FROM unnest($1::uuid[], $2::uuid[]) AS asked(src_id, dst_id)
        JOIN tailnet_tunnels AS t ON t.src_id = asked.src_id AND t.dst_id = asked.dst_id";
    OWN_PEERS = "own_peers":
        "SELECT id, updated_at, status = 'lost' AS lost FROM tailnet_peers WHERE coordinator_id = $1";
    OWN_TUNNELS = "own_tunnels":
        "SELECT src_id, dst_id FROM tailnet_tunnels WHERE coordinator_id = $1";
    LOCK_CLEANUP = "lock_tailnet_cleanup": "SELECT pg_try_advisory_xact_lock($1) AS locked";
    CLEAN_PEERS = "clean_tailnet_peers":
        "DELETE FROM tailnet_peers WHERE (id, coordinator_id) IN (
            SELECT p.id, p.coordinator_id
            FROM tailnet_peers AS p JOIN tailnet_coordinators AS c ON c.id = p.coordinator_id
            WHERE (p.status = 'lost' AND p.updated_at < now() - interval '24 hours')
                OR c.heartbeat_at < now() - interval '24 hours'
            ORDER BY p.id, p.coordinator_id LIMIT $1 FOR UPDATE OF p SKIP LOCKED
        )";
    CLEAN_TUNNELS = "clean_tailnet_tunnels":
        "DELETE FROM tailnet_tunnels WHERE (coordinator_id, src_id, dst_id) IN (
            SELECT t.coordinator_id, t.src_id, t.dst_id
            FROM tailnet_tunnels AS t JOIN tailnet_coordinators AS c ON c.id = t.coordinator_id
            WHERE c.heartbeat_at < now() - interval '24 hours' OR (
                t.updated_at < now() - interval '24 hours' AND NOT EXISTS (
                    SELECT FROM tailnet_peers AS p WHERE p.id = t.src_id AND p.coordinator_id = t.coordinator_id
                )
            )
            ORDER BY t.coordinator_id, t.src_id, t.dst_id LIMIT $1 FOR UPDATE OF t SKIP LOCKED
        )";
    /// Once nothing hangs on it, so that no statement removes more rows than it says.
    CLEAN_COORDINATORS = "clean_tailnet_coordinators":
        "DELETE FROM tailnet_coordinators WHERE id IN (
            SELECT c.id FROM tailnet_coordinators AS c
            WHERE c.heartbeat_at < now() - interval '24 hours'
                AND NOT EXISTS (SELECT FROM tailnet_peers AS p WHERE p.coordinator_id = c.id)
                AND NOT EXISTS (SELECT FROM tailnet_tunnels AS t WHERE t.coordinator_id = c.id)
            ORDER BY c.id LIMIT $1 FOR UPDATE SKIP LOCKED
        )";
    SHOWN_REPLICAS = "shown_coordinators":
        "SELECT id, (extract(epoch FROM now() - heartbeat_at) * 1000000)::bigint AS age
        FROM tailnet_coordinators ORDER BY heartbeat_at DESC LIMIT $1";
    SHOWN_PEERS = "shown_tailnet_peers":
        "SELECT id, coordinator_id, updated_at, status = 'lost' AS lost, node,
            (extract(epoch FROM now() - updated_at) * 1000000)::bigint AS age
        FROM tailnet_peers ORDER BY updated_at DESC LIMIT $1";
    SHOWN_TUNNELS = "shown_tailnet_tunnels":
        "SELECT coordinator_id, src_id, dst_id,
            (extract(epoch FROM now() - updated_at) * 1000000)::bigint AS age
        FROM tailnet_tunnels ORDER BY updated_at DESC LIMIT $1";
    /// Whether triggers publish all that changes in these tables. Where only some do, we do it for all: hearing of a change
    /// twice costs a look.
    TRIGGERS_NOTIFY = "tailnet_triggers_notify":
        "SELECT bool_and(EXISTS (
            SELECT FROM pg_trigger AS t JOIN pg_proc AS p ON p.oid = t.tgfoid
            WHERE t.tgrelid = to_regclass(told.relation) AND NOT t.tgisinternal AND t.tgenabled IN ('O', 'A')
                AND strpos(p.prosrc, told.channel) > 0
        )) AS notify
        FROM (VALUES
            ('tailnet_peers', 'tailnet_peer_update'),
            ('tailnet_tunnels', 'tailnet_tunnel_update'),
            ('tailnet_coordinators', 'tailnet_coordinator_heartbeat')
        ) AS told(relation, channel)";
    COUNTS = "tailnet_counts":
        "SELECT (SELECT count(*) FROM tailnet_peers) AS peers, (SELECT count(*) FROM tailnet_tunnels) AS tunnels";
}

#[async_trait]
impl Coordination for SqlStore {
    async fn beat(&self, replica: ReplicaId) -> Result<bool, StoreError> {
        let mut session = self.database().write_apart().await?;
        session.one(BEAT.bind(replica.0)).await?.get("anew")
    }

    async fn triggers_notify(&self) -> Result<bool, StoreError> {
        if self.schema() == Schema::Own {
            return Ok(false);
        }
        let mut session = self.database().read_apart().await?;
        session.one(TRIGGERS_NOTIFY.call()).await?.get("notify")
    }

    async fn heartbeats(&self) -> Result<Vec<Heartbeat>, StoreError> {
        let rows = self.rows(HEARTBEATS.bind(MAX_REPLICAS)).await?;
        let read = |row: &Row| {
            Ok(Heartbeat {
                replica: row.id("id")?,
                at: time(row, "heartbeat_at")?,
                age: age(row)?,
            })
        };
        rows.iter().map(read).collect()
    }

    async fn put_peers(
        &self,
        replica: ReplicaId,
        peers: &[PeerWrite<'_>],
    ) -> Result<Vec<(PeerId, DatabaseTime)>, StoreError> {
        let nodes: Vec<&[u8]> = peers.iter().map(|peer| peer.node).collect();
        let lost: Vec<bool> = peers.iter().map(|peer| peer.lost).collect();
        let call = PUT_PEERS
            .bind(replica.0)
            .bind(ids(peers.iter().map(|peer| peer.id.0)))
            .bind(nodes)
            .bind(lost);
        let rows = self.rows(call).await?;
        let read = |row: &Row| Ok((row.id("id")?, time(row, "updated_at")?));
        rows.iter().map(read).collect()
    }

    async fn lose_peers(&self, replica: ReplicaId, peers: &[PeerId]) -> Result<Vec<PeerId>, StoreError> {
        self.peer_ids(LOSE_PEERS.bind(replica.0).bind(all(peers))).await
    }

    async fn lose_all_peers(&self, replica: ReplicaId) -> Result<Vec<PeerId>, StoreError> {
        self.peer_ids(LOSE_ALL_PEERS.bind(replica.0)).await
    }

    async fn delete_peers(&self, replica: ReplicaId, peers: &[PeerId]) -> Result<Vec<PeerId>, StoreError> {
        self.peer_ids(DELETE_PEERS.bind(replica.0).bind(all(peers))).await
    }

    async fn put_tunnels(&self, replica: ReplicaId, tunnels: &[Tunnel]) -> Result<(), StoreError> {
        self.rows(with_ends(PUT_TUNNELS.bind(replica.0), tunnels))
            .await
            .map(|_| ())
    }

    async fn delete_tunnels(
        &self,
        replica: ReplicaId,
        tunnels: &[Tunnel],
    ) -> Result<Vec<Tunnel>, StoreError> {
        let rows = self
            .rows(with_ends(DELETE_TUNNELS.bind(replica.0), tunnels))
            .await?;
        rows.iter().map(tunnel).collect()
    }

    async fn delete_tunnels_from(
        &self,
        replica: ReplicaId,
        peers: &[PeerId],
    ) -> Result<Vec<Tunnel>, StoreError> {
        let rows = self
            .rows(DELETE_TUNNELS_FROM.bind(replica.0).bind(all(peers)))
            .await?;
        rows.iter().map(tunnel).collect()
    }

    async fn peers(&self, ids: &[PeerId]) -> Result<Vec<StoredPeer>, StoreError> {
        let rows = self.rows(PEERS.bind(all(ids))).await?;
        rows.iter().map(stored_peer).collect()
    }

    async fn tunnels_of(&self, peers: &[PeerId]) -> Result<Vec<StoredTunnel>, StoreError> {
        let rows = self.rows(TUNNELS_OF.bind(all(peers))).await?;
        rows.iter().map(stored_tunnel).collect()
    }

    async fn tunnels(&self, tunnels: &[Tunnel]) -> Result<Vec<StoredTunnel>, StoreError> {
        let rows = self.rows(with_ends(TUNNELS.call(), tunnels)).await?;
        rows.iter().map(stored_tunnel).collect()
    }

    async fn own_peers(&self, replica: ReplicaId) -> Result<Vec<OwnPeer>, StoreError> {
        let rows = self.rows(OWN_PEERS.bind(replica.0)).await?;
        let read = |row: &Row| {
            Ok(OwnPeer {
                id: row.id("id")?,
                updated_at: time(row, "updated_at")?,
                lost: row.get("lost")?,
            })
        };
        rows.iter().map(read).collect()
    }

    async fn own_tunnels(&self, replica: ReplicaId) -> Result<Vec<Tunnel>, StoreError> {
        let rows = self.rows(OWN_TUNNELS.bind(replica.0)).await?;
        rows.iter().map(tunnel).collect()
    }

    async fn clean_up(&self, most: u32) -> Result<u64, StoreError> {
        // Rows of others are the deployment's own servers' to remove, and those do.
        if self.schema() == Schema::Coder {
            return Ok(0);
        }
        let mut session = self.database().transaction().await?;
        let removed = clean_up(&mut session, most).await;
        session.finish(removed).await
    }

    async fn shared_snapshot(&self, most: usize) -> Result<SharedSnapshot, StoreError> {
        let mut session = self.database().snapshot().await?;
        let snapshot = snapshot(&mut session, i64::try_from(most).unwrap_or(i64::MAX)).await;
        session.finish(snapshot).await
    }
}

impl SqlStore {
    /// Runs one statement for all its rows.
    async fn rows(&self, call: Call<'_>) -> Result<Vec<Row>, StoreError> {
        self.database().write().await?.all(call).await
    }

    /// Runs one statement for the ids of peers.
    async fn peer_ids(&self, call: Call<'_>) -> Result<Vec<PeerId>, StoreError> {
        let rows = self.rows(call).await?;
        rows.iter().map(|row| row.id("id")).collect()
    }
}

/// Ids in order, in which an index finds their rows. They are of this replica: but for a clean-up nobody else locks them.
fn all(peers: &[PeerId]) -> crate::store::sql::value::Value<'static> {
    let mut peers: Vec<Uuid> = peers.iter().map(|id| id.0).collect();
    peers.sort_unstable();
    ids(peers)
}

fn with_ends<'q>(call: Call<'q>, tunnels: &[Tunnel]) -> Call<'q> {
    call.bind(ids(tunnels.iter().map(|tunnel| tunnel.from.0)))
        .bind(ids(tunnels.iter().map(|tunnel| tunnel.to.0)))
}

async fn clean_up(session: &mut Session<'_>, most: u32) -> Result<u64, StoreError> {
    let locked: bool = session
        .one(LOCK_CLEANUP.bind(CLEANUP_LOCK))
        .await?
        .get("locked")?;
    if !locked {
        return Ok(0);
    }
    let mut removed = 0;
    for statement in [&CLEAN_PEERS, &CLEAN_TUNNELS, &CLEAN_COORDINATORS] {
        removed += session.execute(statement.bind(most)).await?.rows;
    }
    Ok(removed)
}

async fn snapshot(session: &mut Session<'_>, most: i64) -> Result<SharedSnapshot, StoreError> {
    let replicas = session.all(SHOWN_REPLICAS.bind(most.min(MAX_REPLICAS))).await?;
    let peers = session.all(SHOWN_PEERS.bind(most)).await?;
    let tunnels = session.all(SHOWN_TUNNELS.bind(most)).await?;
    let counts = session.one(COUNTS.call()).await?;
    let count = |column| -> Result<usize, StoreError> {
        Ok(usize::try_from(counts.get::<i64>(column)?).unwrap_or_default())
    };
    Ok(SharedSnapshot {
        replicas: replicas
            .iter()
            .map(|row| Ok((row.id("id")?, age(row)?)))
            .collect::<Result<_, StoreError>>()?,
        peers: peers
            .iter()
            .map(|row| Ok((stored_peer(row)?, age(row)?)))
            .collect::<Result<_, StoreError>>()?,
        tunnels: tunnels
            .iter()
            .map(|row| Ok((stored_tunnel(row)?, age(row)?)))
            .collect::<Result<_, StoreError>>()?,
        total_peers: count("peers")?,
        total_tunnels: count("tunnels")?,
    })
}

fn time(row: &Row, column: &str) -> Result<DatabaseTime, StoreError> {
    Ok(DatabaseTime(row.get::<Timestamp>(column)?.as_micros()))
}

/// An age; zero of what the database's clock says is yet to come.
fn age(row: &Row) -> Result<Duration, StoreError> {
    let micros = row.get::<i64>("age")?;
    Ok(Duration::from_micros(u64::try_from(micros).unwrap_or_default()))
}

fn tunnel(row: &Row) -> Result<Tunnel, StoreError> {
    Ok(Tunnel {
        from: row.id("src_id")?,
        to: row.id("dst_id")?,
    })
}

fn stored_tunnel(row: &Row) -> Result<StoredTunnel, StoreError> {
    Ok(StoredTunnel {
        replica: row.id("coordinator_id")?,
        tunnel: tunnel(row)?,
    })
}

fn stored_peer(row: &Row) -> Result<StoredPeer, StoreError> {
    Ok(StoredPeer {
        id: row.id("id")?,
        replica: row.id("coordinator_id")?,
        updated_at: time(row, "updated_at")?,
        lost: row.get("lost")?,
        node: row.get("node")?,
    })
}

#[cfg(test)]
mod tests;
