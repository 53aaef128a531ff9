use std::sync::Arc;
use std::time::Duration;

use uuid::Uuid;

use super::testing::{Tables, Way};
use super::*;
use crate::clock::Timestamp;
use crate::coordinator::suite::{Harness, coordinator_suite};

mod cases;

/// Replicas with tables in memory.
struct Replicas {
    tables: Arc<Tables>,
    pubsub: Pubsub,
    ways: Vec<Arc<Way>>,
    coordinators: Vec<SharedCoordinator>,
}

fn replica(number: usize) -> ReplicaId {
    ReplicaId(Uuid::from_u128(0xffff_0000 + number as u128))
}

impl Replicas {
    fn new(count: usize) -> Self {
        Self::with(count, false)
    }

    fn with(count: usize, triggers_notify: bool) -> Self {
        let pubsub = Pubsub::in_process();
        let tables = Tables::new(triggers_notify.then(|| pubsub.clone()));
        let ways: Vec<_> = (0..count).map(|_| Way::to(&tables)).collect();
        let clock = Clock::driven(Timestamp::UNIX_EPOCH);
        let start = |(number, way): (usize, &Arc<Way>)| {
            let options = SharedOptions {
                replica: replica(number),
                triggers_notify,
            };
            let database = Arc::clone(way) as Arc<dyn Coordination>;
            SharedCoordinator::start(database, pubsub.clone(), clock.clone(), options)
        };
        Self {
            coordinators: ways.iter().enumerate().map(start).collect(),
            tables,
            pubsub,
            ways,
        }
    }

    fn is_idle(&self) -> bool {
        let idle = |coordinator: &SharedCoordinator| coordinator.shared.state().core.is_idle();
        self.coordinators.iter().all(idle)
    }
}

impl Harness for Replicas {
    const REMEMBERS_LOSSES: bool = true;

    fn coordinators(&self) -> Vec<&dyn Coordinator> {
        let each = self.coordinators.iter();
        each.map(|coordinator| coordinator as &dyn Coordinator).collect()
    }

    /// Time goes on by itself once everybody waits.
    async fn settle(&self) {
        let mut idle = 0;
        for _ in 0..100 {
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
        let mut rows = self.tables.rows();
        rows.peers.clear();
        rows.tunnels.clear();
    }
}

mod alone {
    use super::*;
    coordinator_suite!(
        #[tokio::test(start_paused = true)]
        Replicas::new(1)
    );
}

mod two {
    use super::*;
    coordinator_suite!(
        #[tokio::test(start_paused = true)]
        Replicas::new(2)
    );
}

mod three_with_triggers {
    use super::*;
    coordinator_suite!(
        #[tokio::test(start_paused = true)]
        Replicas::with(3, true)
    );
}
