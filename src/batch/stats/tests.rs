//! The batcher in driven time, against a store that records.

use super::*;
use crate::clock::Timestamp;
use crate::ids::{AgentId, TemplateId, UserId, WorkspaceId};
use crate::store::testing::RecordingStore;

struct Fixture {
    store: Arc<RecordingStore>,
    batcher: StatsBatcher,
    shutdown: CancellationToken,
    run: tokio::task::JoinHandle<Result<(), StoreError>>,
}

impl Fixture {
    fn new() -> Self {
        let store = Arc::new(RecordingStore::default());
        let dyn_store: Arc<dyn Store> = store.clone();
        let batcher = StatsBatcher::new(dyn_store, Clock::driven(Timestamp::UNIX_EPOCH));
        let shutdown = CancellationToken::new();
        let (running, until) = (batcher.clone(), shutdown.clone());
        let run = tokio::spawn(async move { running.run(until).await });
        Self {
            store,
            batcher,
            shutdown,
            run,
        }
    }

    /// Adds samples whose received packets are their numbers.
    fn add(&self, numbers: std::ops::Range<usize>) {
        numbers.for_each(|number| self.batcher.add(sample(number)));
    }

    /// The numbers of the samples that were written, by statement.
    fn written(&self) -> Vec<Vec<i64>> {
        let stats = self.store.stats.lock().unwrap();
        let numbers = |batch: &Vec<AgentStat>| batch.iter().map(|stat| stat.rx_packets).collect();
        stats.iter().map(numbers).collect()
    }

    async fn stop(self) -> Result<(), StoreError> {
        self.shutdown.cancel();
        self.run.await.unwrap()
    }
}

fn sample(number: usize) -> AgentStat {
    AgentStat {
        created_at: Timestamp::UNIX_EPOCH,
        user_id: UserId::PREBUILDS,
        agent_id: AgentId(uuid::Uuid::nil()),
        workspace_id: WorkspaceId(uuid::Uuid::nil()),
        template_id: TemplateId(uuid::Uuid::nil()),
        connections_by_proto: "{}".to_owned(),
        connection_count: 0,
        rx_packets: i64::try_from(number).unwrap(),
        rx_bytes: 0,
        tx_packets: 0,
        tx_bytes: 0,
        connection_median_latency_ms: -1.0,
        session_count_vscode: 0,
        session_count_jetbrains: 0,
        session_count_reconnecting_pty: 0,
        session_count_ssh: 0,
        usage: false,
    }
}

async fn pass(millis: u64) {
    tokio::time::sleep(Duration::from_millis(millis)).await;
}

fn away() -> Option<StoreError> {
    Some(StoreError::Unavailable("disk full".to_owned()))
}

#[tokio::test(start_paused = true)]
async fn samples_of_a_second_are_one_statement() {
    let fixture = Fixture::new();
    fixture.add(0..2);
    pass(990).await;
    fixture.add(2..3);
    assert_eq!(fixture.written(), [[0; 0]; 0]);
    pass(20).await;
    assert_eq!(fixture.written(), [[0, 1, 2]]);
    // Nothing came, so nothing is asked of the store.
    pass(10_000).await;
    assert_eq!(fixture.store.attempts(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_nearly_full_batch_does_not_wait() {
    let fixture = Fixture::new();
    fixture.add(0..818);
    pass(10).await;
    assert_eq!(fixture.written().len(), 0);
    fixture.add(818..819);
    pass(1).await;
    assert_eq!(fixture.written()[0].len(), 819);
}

#[tokio::test(start_paused = true)]
async fn a_failed_write_keeps_its_samples_for_the_next_tick_whatever_the_failure() {
    for fault in [away().unwrap(), StoreError::Rejected("bad".to_owned())] {
        let fixture = Fixture::new();
        fixture.store.set_fault(Some(fault));
        fixture.add(0..2);
        pass(3_500).await;
        assert_eq!(fixture.store.attempts(), 3, "one attempt a second");
        fixture.store.set_fault(None);
        fixture.add(2..3);
        pass(1_000).await;
        assert_eq!(fixture.written(), [[0, 1, 2]]);
    }
}

#[tokio::test(start_paused = true)]
async fn while_the_store_is_away_the_oldest_samples_go_and_are_counted() {
    let fixture = Fixture::new();
    fixture.store.set_fault(away());
    fixture.add(0..MAX_BUFFERED);
    pass(1_500).await;
    assert_eq!(fixture.batcher.dropped(), 0);
    fixture.add(MAX_BUFFERED..MAX_BUFFERED + 3);
    assert_eq!(fixture.batcher.dropped(), 3);
    fixture.store.set_fault(None);
    pass(1_000).await;
    let written = fixture.written();
    assert_eq!(written[0][0], 3);
    assert!(written.iter().all(|batch| batch.len() <= MAX_BATCH));
    assert_eq!(written.iter().map(Vec::len).sum::<usize>(), MAX_BUFFERED);
}

#[tokio::test(start_paused = true)]
async fn shutdown_writes_what_is_left_at_once() {
    let fixture = Fixture::new();
    pass(10).await;
    fixture.add(0..2);
    let store = Arc::clone(&fixture.store);
    let start = tokio::time::Instant::now();
    assert_eq!(fixture.stop().await, Ok(()));
    assert_eq!(start.elapsed(), Duration::ZERO);
    assert_eq!(store.stats.lock().unwrap()[0].len(), 2);
}

#[tokio::test(start_paused = true)]
async fn shutdown_waits_for_the_store_but_not_for_ever() {
    let fixture = Fixture::new();
    fixture.store.set_fault(away());
    fixture.add(0..1);
    let start = tokio::time::Instant::now();
    assert!(fixture.stop().await.is_err());
    assert_eq!(start.elapsed(), FINAL_FLUSH_LIMIT);

    let fixture = Fixture::new();
    fixture.store.set_fault(away());
    fixture.add(0..1);
    let store = Arc::clone(&fixture.store);
    tokio::spawn(async move {
        pass(4_000).await;
        store.set_fault(None);
    });
    assert_eq!(fixture.stop().await, Ok(()));
}

#[tokio::test(start_paused = true)]
async fn shutdown_tells_of_samples_that_the_store_refuses() {
    let fixture = Fixture::new();
    fixture
        .store
        .set_fault(Some(StoreError::Rejected("bad".to_owned())));
    fixture.add(0..1);
    assert_eq!(fixture.stop().await, Err(StoreError::Rejected("bad".to_owned())));
}
