//! The tracker in driven time, against a real store. The numbers are those of the case list.

use uuid::Uuid;

use super::*;
use crate::store::testing::{EXAMPLE, FaultyStore, NOW};

struct Fixture {
    store: Arc<FaultyStore>,
    tracker: BoundaryUsageTracker,
}

const ROWS: &str = "SELECT unique_workspaces_count, unique_users_count, allowed_requests, denied_requests FROM boundary_usage_stats";

impl Fixture {
    async fn new() -> Self {
        let (store, _) = FaultyStore::seeded(EXAMPLE).await;
        let dyn_store: Arc<dyn Store> = store.clone();
        let tracker = BoundaryUsageTracker::new(dyn_store, Clock::driven(NOW), ReplicaId::random());
        Self { store, tracker }
    }

    fn track(&self, workspace: u128, user: u128, allowed: i64, denied: i64) {
        let workspace = WorkspaceId(Uuid::from_u128(workspace));
        self.tracker
            .track(workspace, UserId(Uuid::from_u128(user)), allowed, denied);
    }

    async fn flush(&self) -> Vec<String> {
        self.tracker.0.flush().await.unwrap();
        self.store.query(ROWS).await
    }
}

#[tokio::test]
async fn s2_105_pairs_count_once_and_requests_add_up() {
    let fixture = Fixture::new().await;
    fixture.track(1, 1, 3, 1);
    fixture.track(1, 1, 4, 2);
    fixture.track(1, 1, 2, 0);
    assert_eq!(fixture.flush().await, ["1 1 9 3"]);

    let fixture = Fixture::new().await;
    for (workspace, user) in [(1, 1), (2, 1), (3, 2), (1, 1)] {
        fixture.track(workspace, user, 1, 0);
    }
    assert_eq!(fixture.flush().await, ["3 2 4 0"]);

    let fixture = Fixture::new().await;
    std::thread::scope(|scope| {
        for task in 0..100 {
            let fixture = &fixture;
            scope.spawn(move || (0..10).for_each(|_| fixture.track(task % 10, task % 5, 1, 2)));
        }
    });
    assert_eq!(fixture.flush().await, ["10 5 1000 2000"]);
}

#[tokio::test]
async fn s2_106_flushes_of_one_workspace_count_it_once() {
    let fixture = Fixture::new().await;
    for expected in ["1 1 1 2", "1 1 2 4", "1 1 3 6"] {
        fixture.track(1, 1, 1, 2);
        assert_eq!(fixture.flush().await, [expected]);
    }
}

#[tokio::test]
async fn s2_107_a_row_that_was_taken_away_is_made_anew_with_what_is_new() {
    let fixture = Fixture::new().await;
    fixture.track(1, 1, 1, 0);
    fixture.track(2, 2, 1, 0);
    assert_eq!(fixture.flush().await, ["2 2 2 0"]);
    fixture
        .store
        .query("DELETE FROM boundary_usage_stats RETURNING 1")
        .await;
    fixture.track(1, 1, 5, 0);
    assert_eq!(fixture.flush().await, ["1 1 5 0"]);
    // The period begins with the row.
    fixture.track(3, 3, 1, 0);
    assert_eq!(fixture.flush().await, ["2 2 6 0"]);
}

#[tokio::test]
async fn s2_108_nothing_tracked_is_no_row() {
    let fixture = Fixture::new().await;
    assert_eq!(fixture.flush().await, [""; 0]);
    assert_eq!(fixture.store.calls("upsert_boundary_usage"), 0);
    fixture.track(1, 1, 1, 0);
    fixture.flush().await;
    fixture.flush().await;
    assert_eq!(fixture.store.calls("upsert_boundary_usage"), 1);
}

#[tokio::test]
async fn s2_109_an_insert_takes_what_is_new_and_an_update_the_whole_period() {
    // Reading taken where the spec is unsure (agent-services-2.md E8): the period is that of the row, so that an update
    // does not count fewer than there were.
    let fixture = Fixture::new().await;
    fixture.track(1, 1, 1, 0);
    assert_eq!(fixture.flush().await, ["1 1 1 0"]);
    fixture.track(2, 1, 1, 0);
    assert_eq!(fixture.flush().await, ["2 1 2 0"]);
    fixture.track(3, 2, 1, 0);
    assert_eq!(fixture.flush().await, ["3 2 3 0"]);
}

#[tokio::test]
async fn what_a_store_that_is_away_did_not_take_is_written_later() {
    let fixture = Fixture::new().await;
    fixture.track(1, 1, 1, 1);
    let away = StoreError::Unavailable("disk full".to_owned());
    fixture.store.fail("upsert_boundary_usage", away);
    assert!(fixture.tracker.0.flush().await.is_err());
    fixture.track(2, 1, 1, 1);
    fixture.store.mend("upsert_boundary_usage");
    assert_eq!(fixture.flush().await, ["2 1 2 2"]);
}

#[tokio::test]
async fn shutdown_writes_what_is_left() {
    let fixture = Fixture::new().await;
    fixture.track(1, 1, 1, 0);
    let shutdown = CancellationToken::new();
    shutdown.cancel();
    fixture.tracker.run(shutdown).await.unwrap();
    assert_eq!(fixture.store.query(ROWS).await, ["1 1 1 0"]);
}
