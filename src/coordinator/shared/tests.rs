use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex as AsyncMutex;
use uuid::Uuid;

use super::testing::{Tables, Way};
use super::*;
use crate::clock::Timestamp;
use crate::coordinator::suite::peer::{Peer, Told, id, node};
use crate::coordinator::suite::{Harness, coordinator_suite};
use crate::proto::tailnet::coordinate_response::peer_update::Kind;
use crate::pubsub::{Remote, Subscription};
use crate::store::postgres::notify::Notifications;
use crate::store::testing::{Place, Raw, coder, postgres};
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
    /// Of those that a test plays; in memory, everybody's.
    hub: Pubsub,
    ways: Vec<Arc<Way>>,
    coordinators: Vec<SharedCoordinator>,
    real: Option<Real>,
}

/// What replicas have on a real database.
struct Real {
    notifications: Notifications,
    /// Each hub, the test's first, with what comes of settling.
    hubs: Vec<(Pubsub, AsyncMutex<Subscription>)>,
    remotes: Vec<Remote>,
    /// Dropped last.
    database: postgres::Database,
}

/// On which replicas tell each other that everything said before has been heard.
const SETTLING: &str = "test_settling";

impl Real {
    async fn new(database: postgres::Database) -> Self {
        let mut real = Self {
            notifications: Notifications::new(&database.url().parse().unwrap()),
            hubs: Vec::new(),
            remotes: Vec::new(),
            database,
        };
        real.hub().await;
        real
    }

    /// One more.
    async fn hub(&mut self) -> Pubsub {
        let (hub, remote) = Remote::start(self.notifications.clone(), &Clock::system());
        let settling = hub.subscribe(SETTLING);
        remote.status().connected().await;
        self.remotes.push(remote);
        self.hubs.push((hub.clone(), AsyncMutex::new(settling)));
        hub
    }

    /// Waits until everybody has heard everything that was said before.
    async fn settle(&self) {
        let settling = async { while !self.all_heard().await {} };
        tokio::time::timeout(PATIENCE, settling)
            .await
            .expect("not everybody has heard");
    }

    /// The same, once; false if somebody missed something, of which each learns when it begins to listen too.
    async fn all_heard(&self) -> bool {
        let mark = Uuid::new_v4();
        for (number, (hub, _)) in self.hubs.iter().enumerate() {
            hub.publish(SETTLING, &format!("{mark} {number}"));
        }
        for (_, settling) in &self.hubs {
            let mut settling = settling.lock().await;
            let mut missing: HashSet<String> = (0..self.hubs.len())
                .map(|number| format!("{mark} {number}"))
                .collect();
            while !missing.is_empty() {
                let Ok(heard) = settling.next().await else {
                    return false;
                };
                missing.remove(&*heard);
            }
        }
        true
    }
}

fn replica(number: usize) -> ReplicaId {
    ReplicaId(Uuid::from_u128(0xffff_0000 + number as u128))
}

impl Replicas {
    /// With tables in memory, for paused time.
    fn in_memory(count: usize) -> Self {
        let hub = Pubsub::in_process();
        let tables = Tables::new(None);
        Self::new(count, &tables, &hub)
    }

    /// The same, with triggers that notify.
    fn with_triggers(count: usize) -> Self {
        let hub = Pubsub::in_process();
        let tables = Tables::new(Some(hub.clone()));
        Self::new(count, &tables, &hub)
    }

    fn new(count: usize, tables: &Arc<Tables>, hub: &Pubsub) -> Self {
        let mut replicas = Self {
            database: Arc::clone(tables) as _,
            tables: Some(Arc::clone(tables)),
            hub: hub.clone(),
            ways: Vec::new(),
            coordinators: Vec::new(),
            real: None,
        };
        for _ in 0..count {
            replicas.start(hub.clone());
        }
        replicas
    }

    /// With a real database; nothing without Postgres.
    async fn on_postgres(count: usize) -> Option<Self> {
        Self::at(Place::of_postgres()?, count).await
    }

    /// With the database of a coder deployment, whose triggers notify.
    async fn on_deployment(count: usize) -> Option<Self> {
        Self::at(Place::Postgres(coder::deployment()?), count).await
    }

    async fn at(place: Place, count: usize) -> Option<Self> {
        let store = place.open().await;
        let Place::Postgres(database) = place else {
            return None;
        };
        let real = Real::new(database).await;
        let mut replicas = Self {
            database: Arc::new(store),
            tables: None,
            hub: real.hubs[0].0.clone(),
            ways: Vec::new(),
            coordinators: Vec::new(),
            real: Some(real),
        };
        for _ in 0..count {
            replicas.add().await;
        }
        replicas.all_started().await;
        Some(replicas)
    }

    /// One more.
    async fn add(&mut self) {
        let hub = match &mut self.real {
            Some(real) => real.hub().await,
            None => self.hub.clone(),
        };
        self.start(hub);
    }

    fn start(&mut self, hub: Pubsub) {
        let replica = replica(self.ways.len());
        let way = Way::to(Arc::clone(&self.database));
        let clock = Clock::driven(Timestamp::UNIX_EPOCH);
        let database = Arc::clone(&way) as Arc<dyn Coordination>;
        self.coordinators
            .push(SharedCoordinator::start(database, hub, clock, replica));
        self.ways.push(way);
    }

    /// Nobody hears what is said now, and everybody knows that something was missed.
    fn miss_everything(&self, during: impl FnOnce()) {
        match &self.real {
            None => {
                during();
                self.hub.lose_messages();
            }
            Some(real) => {
                real.database.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                    WHERE datname = current_database() AND application_name = 'drpcd listen'",
                );
                during();
            }
        }
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

    /// Waits until every replica has begun and has heard of the others.
    async fn all_started(&self) {
        eventually(async || {
            let others = self.coordinators.len() - 1;
            self.coordinators.iter().all(|coordinator| {
                let state = coordinator.shared.state();
                state.core.is_open() && state.core.living() == others
            })
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
            match &self.real {
                Some(real) => {
                    real.settle().await;
                    // What was heard has been taken in.
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                None => tokio::time::sleep(Duration::from_millis(60)).await,
            }
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
        if let Some(tables) = &self.tables {
            let mut rows = tables.rows();
            rows.peers.clear();
            rows.tunnels.clear();
        }
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

/// What says nothing of a database is left to paused time: 600 looks at a node that changes (tn_057, most of a minute here),
/// bounds, and wakers (tn_061). A handler that panics (tn_056) is the service's; to a coordinator it is a connection that is
/// dropped, as in tn_046.
macro_rules! suite_on_postgres {
    ($replicas:literal) => {
        coordinator_suite! {
            #[tokio::test] match Replicas::on_postgres($replicas).await {
                Some(replicas) => replicas,
                None => return,
            };
            tn_036_and_037_a_node_is_kept_without_any_tunnel
            tn_038_and_039_tunnel_peers_hear_of_each_other
            tn_040_a_returning_agent_gets_its_clients_at_once
            tn_041_of_a_burst_the_last_update_counts
            tn_042_and_043_a_second_connection_replaces_the_first_and_nobody_notices
            tn_044_tunnels_in_both_directions_tell_once
            tn_045_goodbye_is_disconnected_and_ends_without_an_error
            tn_046_a_cut_is_lost
            tn_047_who_was_never_told_of_a_peer_is_not_told_of_its_loss
            tn_048_an_unchanged_node_is_no_news
            tn_049_removing_a_tunnel_parts_both_ends
            tn_050_a_tunnel_may_come_before_its_other_end
            tn_051_readiness_carries_the_senders_id
            tn_052_without_a_tunnel_readiness_is_an_error_and_the_stream_stays_open
            tn_053_a_stranger_in_the_list_costs_the_others_nothing
            tn_054_goodbye_and_readiness_in_one_request
            tn_035_and_055_a_request_with_a_bad_id_changes_nothing
            tn_058_two_stalled_peers_that_go_are_cleaned_up_once
            tn_059_readiness_for_a_stalled_client_costs_the_agent_nothing
            tn_060_closing_tells_of_losses_then_ends_every_stream_and_those_that_come_later
            tn_062_many_peers_come_in_several_responses
            who_comes_and_goes_unread_leaves_nothing_to_read
            a_random_history_ends_in_the_state_that_the_tunnels_say
        }
    };
}

mod two_on_postgres {
    use super::*;
    suite_on_postgres!(2);
}

mod three_on_postgres {
    use super::*;
    suite_on_postgres!(3);
}

/// What others are told of, by the triggers of a real deployment.
mod two_on_a_deployment {
    use super::*;

    coordinator_suite! {
        #[tokio::test] match Replicas::on_deployment(2).await {
            Some(replicas) => replicas,
            None => return,
        };
        tn_038_and_039_tunnel_peers_hear_of_each_other
        tn_040_a_returning_agent_gets_its_clients_at_once
        tn_041_of_a_burst_the_last_update_counts
        tn_045_goodbye_is_disconnected_and_ends_without_an_error
        tn_046_a_cut_is_lost
        tn_049_removing_a_tunnel_parts_both_ends
        tn_051_readiness_carries_the_senders_id
        tn_060_closing_tells_of_losses_then_ends_every_stream_and_those_that_come_later
        a_random_history_ends_in_the_state_that_the_tunnels_say
    }
}
