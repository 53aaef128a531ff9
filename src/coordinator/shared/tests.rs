use std::sync::Arc;
use std::time::Duration;

use uuid::Uuid;

use super::testing::{Tables, Way};
use super::*;
use crate::clock::Timestamp;
use crate::coordinator::suite::peer::{Peer, Told, id, node};
use crate::coordinator::suite::{Harness, coordinator_suite};
use crate::proto::tailnet::coordinate_response::peer_update::Kind;
use crate::store::testing::{Engine, Place};
use crate::store::{PeerWrite, Tunnel};

mod cases;
mod economy;
mod failures;
mod history;

/// How long a test waits for what must come, where time is real.
const PATIENCE: Duration = Duration::from_secs(60);

/// Replicas on one database.
struct Replicas {
    database: Arc<dyn Coordination>,
    /// The database, if it is one in memory.
    tables: Option<Arc<Tables>>,
    /// Where it lives, if it is a real one. Held for its drop, after everything that uses it.
    hub: Pubsub,
    ways: Vec<Arc<Way>>,
    coordinators: Vec<SharedCoordinator>,
    _place: Option<Place>,
}

fn replica(number: usize) -> ReplicaId {
    ReplicaId(Uuid::from_u128(0xffff_0000 + number as u128))
}

impl Replicas {
    /// With tables in memory, for paused time.
    fn in_memory(count: usize) -> Self {
        let hub = Pubsub::in_process();
        let tables = Tables::new(None);
        Self::new(count, Arc::clone(&tables) as _, hub, false).with(Some(tables), None)
    }

    /// The same, with triggers that notify.
    fn with_triggers(count: usize) -> Self {
        let hub = Pubsub::in_process();
        let tables = Tables::new(Some(hub.clone()));
        Self::new(count, Arc::clone(&tables) as _, hub, true).with(Some(tables), None)
    }

    /// With a real database; nothing without Postgres.
    async fn on_postgres(count: usize) -> Option<Self> {
        let place = match Place::new(Engine::Postgres) {
            Place::Sqlite(_) => return None,
            place @ Place::Postgres(_) => place,
        };
        let database = Arc::new(place.open().await);
        Some(Self::new(count, database, Pubsub::in_process(), false).with(None, Some(place)))
    }

    fn new(count: usize, database: Arc<dyn Coordination>, hub: Pubsub, triggers_notify: bool) -> Self {
        let mut replicas = Self {
            database,
            tables: None,
            hub,
            ways: Vec::new(),
            coordinators: Vec::new(),
            _place: None,
        };
        for _ in 0..count {
            replicas.add(triggers_notify);
        }
        replicas
    }

    fn with(self, tables: Option<Arc<Tables>>, place: Option<Place>) -> Self {
        Self {
            tables,
            _place: place,
            ..self
        }
    }

    /// One more.
    fn add(&mut self, triggers_notify: bool) {
        let options = SharedOptions {
            replica: replica(self.ways.len()),
            triggers_notify,
        };
        let way = Way::to(Arc::clone(&self.database));
        let clock = Clock::driven(Timestamp::UNIX_EPOCH);
        let database = Arc::clone(&way) as Arc<dyn Coordination>;
        self.coordinators.push(SharedCoordinator::start(
            database,
            self.hub.clone(),
            clock,
            options,
        ));
        self.ways.push(way);
    }

    fn tables(&self) -> &Tables {
        self.tables.as_ref().unwrap()
    }

    /// Whether there is nothing to do that can be done.
    fn is_idle(&self) -> bool {
        let idle = |coordinator: &SharedCoordinator| {
            let state = coordinator.shared.state();
            state.core.is_idle() || !state.core.is_open()
        };
        self.coordinators.iter().all(idle)
    }

    /// Connects a peer to one of the replicas.
    fn agent(&self, replica: usize, number: u128) -> Peer<'_, Self> {
        Peer::connect_to(self, &self.coordinators[replica], number, Role::Agent)
    }

    fn client(&self, replica: usize, number: u128) -> Peer<'_, Self> {
        Peer::connect_to(self, &self.coordinators[replica], number, Role::Client)
    }

    /// A replica that a test plays itself.
    fn foreign(&self, number: u128) -> Foreign<'_> {
        Foreign {
            replicas: self,
            id: ReplicaId(Uuid::from_u128(0xf000_0000 + number)),
        }
    }

    /// Waits until every replica has begun.
    async fn all_started(&self) {
        eventually(async || {
            let open = |coordinator: &SharedCoordinator| coordinator.status().healthy;
            self.coordinators.iter().all(open)
        })
        .await;
        self.settle().await;
    }
}

/// Waits until a condition holds.
async fn eventually(mut condition: impl AsyncFnMut() -> bool) {
    let waiting = async {
        while !condition().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, waiting)
        .await
        .expect("what must come has not come");
}

/// Waits until a peer is told something in particular; returns all that it was told until then.
async fn told_until(peer: &mut Peer<'_, Replicas>, last: Told) -> Vec<Told> {
    let mut told = Vec::new();
    eventually(async || {
        told.extend(peer.told().await);
        told.contains(&last)
    })
    .await;
    told
}

/// Waits until a connection is ended; returns the errors that it was told.
async fn ended(peer: &mut Peer<'_, Replicas>) -> Vec<String> {
    let mut errors = Vec::new();
    eventually(async || {
        errors.extend(peer.errors().await);
        peer.ended
    })
    .await;
    errors
}

/// See [`Replicas::foreign`].
#[derive(Clone, Copy)]
struct Foreign<'r> {
    replicas: &'r Replicas,
    id: ReplicaId,
}

impl Foreign<'_> {
    fn publish(&self, notice: super::notices::Notice) {
        self.replicas.hub.publish(notice.channel(), &notice.to_string());
    }

    /// A heartbeat, of which everybody hears.
    async fn beat(&self) {
        self.beat_unheard().await;
        self.publish(super::notices::Notice::Heartbeat(self.id));
    }

    async fn beat_unheard(&self) {
        self.replicas.database.beat(self.id).await.unwrap();
    }

    /// Stores a peer, of which everybody hears.
    async fn put(&self, number: u128, home: i32) {
        self.put_unheard(number, &encoded(home)).await;
        self.publish(super::notices::Notice::Peer(id(number)));
    }

    async fn put_unheard(&self, number: u128, node: &[u8]) {
        let write = PeerWrite {
            id: id(number),
            lost: false,
            node,
        };
        self.replicas.database.put_peers(self.id, &[write]).await.unwrap();
    }

    /// Stores a tunnel, of which everybody hears.
    async fn put_tunnel(&self, from: u128, to: u128) {
        let tunnel = Tunnel {
            from: id(from),
            to: id(to),
        };
        self.replicas
            .database
            .put_tunnels(self.id, &[tunnel])
            .await
            .unwrap();
        self.publish(super::notices::Notice::Tunnel(tunnel));
    }

    /// Beats again and again while something else goes on.
    async fn while_beating<T>(&self, other: impl Future<Output = T>) -> T {
        let beating = async {
            loop {
                self.beat().await;
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        };
        tokio::select! {
            () = beating => unreachable!(),
            result = other => result,
        }
    }
}

fn encoded(home: i32) -> Vec<u8> {
    EncodedNode::new(node(home)).unwrap().as_bytes().to_vec()
}

impl Harness for Replicas {
    const REMEMBERS_LOSSES: bool = true;

    fn coordinators(&self) -> Vec<&dyn Coordinator> {
        let each = self.coordinators.iter();
        each.map(|coordinator| coordinator as &dyn Coordinator).collect()
    }

    /// Paused time goes on by itself once everybody waits.
    async fn settle(&self) {
        let mut idle = 0;
        for _ in 0..1_000 {
            tokio::time::sleep(Duration::from_millis(60)).await;
            idle = if self.is_idle() { idle + 1 } else { 0 };
            // What was written last has been heard of.
            if idle == 2 {
                return;
            }
        }
        panic!("{}", self.coordinators[0].shared.state().core.work());
    }

    fn assert_empty(&self) {
        for coordinator in &self.coordinators {
            assert!(coordinator.is_empty(), "{:#?}", coordinator.shared.state().core);
        }
    }

    async fn reset(&self) {
        let mut rows = self.tables().rows();
        rows.peers.clear();
        rows.tunnels.clear();
    }
}

mod alone {
    use super::*;
    coordinator_suite!(
        #[tokio::test(start_paused = true)]
        Replicas::in_memory(1)
    );
}

mod two {
    use super::*;
    coordinator_suite!(
        #[tokio::test(start_paused = true)]
        Replicas::in_memory(2)
    );
}

mod three_with_triggers {
    use super::*;
    coordinator_suite!(
        #[tokio::test(start_paused = true)]
        Replicas::with_triggers(3)
    );
}
