//! The tracker in driven time, against a store that records.

use uuid::Uuid;

use super::*;
use crate::clock::Timestamp;
use crate::store::testing::RecordingStore;
use crate::telemetry::testing::Log;

struct Fixture {
    store: Arc<RecordingStore>,
    last_used: LastUsed,
    shutdown: CancellationToken,
    run: tokio::task::JoinHandle<Result<(), StoreError>>,
}

impl Fixture {
    fn new() -> Self {
        let store = Arc::new(RecordingStore::default());
        let dyn_store: Arc<dyn Store> = store.clone();
        let last_used = LastUsed::new(dyn_store, Clock::driven(Timestamp::UNIX_EPOCH));
        let shutdown = CancellationToken::new();
        let (running, until) = (last_used.clone(), shutdown.clone());
        Self {
            store,
            last_used,
            shutdown,
            run: tokio::spawn(async move { running.run(until).await }),
        }
    }

    fn mark(&self, workspaces: &[u128]) {
        for &workspace in workspaces {
            self.last_used.mark(WorkspaceId(Uuid::from_u128(workspace)));
        }
    }

    /// What was written: the workspaces of a statement and the time in seconds.
    fn written(&self) -> Vec<(Vec<u128>, i64)> {
        let touched = self.store.touched.lock().unwrap();
        let statement = |(workspaces, at): &(Vec<WorkspaceId>, Timestamp)| {
            let ids = workspaces.iter().map(|id| id.0.as_u128()).collect();
            (ids, at.as_micros() / 1_000_000)
        };
        touched.iter().map(statement).collect()
    }

    async fn stop(self) -> (Result<(), StoreError>, Arc<RecordingStore>) {
        self.shutdown.cancel();
        (self.run.await.unwrap(), self.store)
    }
}

async fn pass(seconds: u64) {
    tokio::time::sleep(Duration::from_secs(seconds)).await;
}

fn away() -> StoreError {
    StoreError::Unavailable("disk full".to_owned())
}

#[tokio::test(start_paused = true)]
async fn workspaces_are_written_once_a_minute_in_order_with_the_time_of_the_write() {
    let fixture = Fixture::new();
    pass(61).await;
    assert_eq!(fixture.store.attempts(), 0, "nobody was there");
    fixture.mark(&[9, 3, 9, 7]);
    pass(58).await;
    assert_eq!(fixture.written(), []);
    pass(2).await;
    assert_eq!(fixture.written(), [(vec![3, 7, 9], 120)]);
    pass(120).await;
    assert_eq!(fixture.store.attempts(), 1, "marks are used up");
}

#[tokio::test(start_paused = true)]
async fn a_failed_write_is_made_up_for_by_the_next() {
    let fixture = Fixture::new();
    fixture.store.set_fault(Some(away()));
    fixture.mark(&[1, 2]);
    pass(61).await;
    fixture.mark(&[2, 3]);
    fixture.store.set_fault(None);
    pass(60).await;
    assert_eq!(fixture.written(), [(vec![1, 2, 3], 120)]);
    assert_eq!(fixture.store.attempts(), 2);
}

#[tokio::test(start_paused = true)]
async fn shutdown_writes_who_was_marked_even_if_the_store_comes_back_late() {
    let fixture = Fixture::new();
    fixture.mark(&[1]);
    let (result, store) = fixture.stop().await;
    assert_eq!((result, store.touched.lock().unwrap().len()), (Ok(()), 1));

    let fixture = Fixture::new();
    fixture.mark(&[1]);
    fixture.store.set_fault(Some(away()));
    let store = Arc::clone(&fixture.store);
    tokio::spawn(async move {
        pass(5).await;
        store.set_fault(None);
    });
    let (result, store) = fixture.stop().await;
    assert_eq!((result, store.touched.lock().unwrap().len()), (Ok(()), 1));

    let fixture = Fixture::new();
    fixture.mark(&[1]);
    let refused = StoreError::Rejected("read-only".to_owned());
    fixture.store.set_fault(Some(refused.clone()));
    assert_eq!(fixture.stop().await.0, Err(refused));

    let (result, store) = Fixture::new().stop().await;
    assert_eq!((result, store.attempts()), (Ok(()), 0));
}

#[tokio::test(start_paused = true)]
async fn past_the_bound_further_workspaces_wait_for_their_next_report() {
    let fixture = Fixture::new();
    let many: Vec<u128> = (1..=MAX_MARKED as u128 + 5).collect();
    fixture.mark(&many);
    pass(61).await;
    let written = fixture.written();
    assert_eq!(written[0].0.len(), MAX_MARKED);
    fixture.mark(&many[MAX_MARKED..]);
    pass(60).await;
    assert_eq!(fixture.written()[1].0.len(), 5);
}

#[tokio::test(start_paused = true)]
async fn workspaces_are_marked_up_to_the_bound() {
    for (workspaces, kept) in [
        (MAX_MARKED - 1, MAX_MARKED - 1),
        (MAX_MARKED, MAX_MARKED),
        (MAX_MARKED + 1, MAX_MARKED),
    ] {
        let fixture = Fixture::new();
        fixture.mark(&(1..=workspaces as u128).collect::<Vec<_>>());
        pass(61).await;
        assert_eq!(fixture.written()[0].0.len(), kept);
    }
}

#[tokio::test(start_paused = true)]
async fn the_first_failure_is_a_warning_and_those_in_a_row_are_errors() {
    let log = Log::new();
    let fixture = Fixture::new();
    fixture.mark(&[1]);
    let mut levels = Vec::new();
    for fault in [Some(away()), Some(away()), Some(away()), None, None, Some(away())] {
        fixture.store.set_fault(fault.clone());
        pass(60).await;
        tokio::task::yield_now().await;
        let lines = log.take().into_iter();
        levels.push(
            lines
                .map(|line| line.split(" count").next().unwrap().to_owned())
                .collect::<Vec<_>>()
                .join(";"),
        );
        if fault.is_none() && levels.len() == 5 {
            fixture.mark(&[1]);
        }
    }
    assert_eq!(
        levels,
        [
            "WARN failed updating workspaces last_used_at",
            "ERROR multiple failures updating workspaces last_used_at",
            "ERROR multiple failures updating workspaces last_used_at",
            "INFO updated workspaces last_used_at",
            "DEBUG nothing to flush",
            "WARN failed updating workspaces last_used_at",
        ]
    );
}
