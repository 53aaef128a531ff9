//! The batcher in driven time, against a store that records.

use uuid::Uuid;

use super::*;
use crate::clock::Timestamp;
use crate::ids::{AgentId, TemplateId, UserId, WorkspaceId};
use crate::store::testing::RecordingStore;

struct Fixture {
    store: Arc<RecordingStore>,
    batcher: StatsBatcher,
    shutdown: CancellationToken,
    run: Option<tokio::task::JoinHandle<Result<(), StoreError>>>,
}

impl Fixture {
    fn new() -> Self {
        let mut fixture = Self::stalled();
        let (running, until) = (fixture.batcher.clone(), fixture.shutdown.clone());
        fixture.run = Some(tokio::spawn(async move { running.run(until).await }));
        fixture
    }

    /// Nobody writes.
    fn stalled() -> Self {
        let store = Arc::new(RecordingStore::default());
        let dyn_store: Arc<dyn Store> = store.clone();
        Self {
            store,
            batcher: StatsBatcher::new(dyn_store, Clock::driven(Timestamp::UNIX_EPOCH)),
            shutdown: CancellationToken::new(),
            run: None,
        }
    }

    fn add(&self, agents: std::ops::Range<u128>) {
        agents.for_each(|agent| self.batcher.add(stat(agent)));
    }

    /// The agents of what was written, by statement.
    fn written(&self) -> Vec<Vec<u128>> {
        let stats = self.store.stats.lock().unwrap();
        let agents = |batch: &Vec<AgentStat>| batch.iter().map(|stat| stat.agent_id.0.as_u128()).collect();
        stats.iter().map(agents).collect()
    }

    fn sizes(&self) -> Vec<usize> {
        self.store.stats.lock().unwrap().iter().map(Vec::len).collect()
    }

    async fn stop(&mut self) -> Result<(), StoreError> {
        self.shutdown.cancel();
        self.run.take().unwrap().await.unwrap()
    }
}

fn stat(agent: u128) -> AgentStat {
    AgentStat {
        id: Uuid::new_v4(),
        created_at: Timestamp::UNIX_EPOCH,
        user_id: UserId(Uuid::from_u128(1)),
        agent_id: AgentId(Uuid::from_u128(agent)),
        workspace_id: WorkspaceId(Uuid::from_u128(2)),
        template_id: TemplateId(Uuid::from_u128(3)),
        connections_by_proto: "{}".to_owned(),
        connection_count: 0,
        rx_packets: 0,
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

fn away() -> StoreError {
    StoreError::Unavailable("disk full".to_owned())
}

#[tokio::test(start_paused = true)]
async fn samples_are_one_write_within_a_second_and_an_idle_server_writes_nothing() {
    let fixture = Fixture::new();
    pass(10_000).await;
    assert_eq!(fixture.store.attempts(), 0);
    fixture.add(0..3);
    pass(990).await;
    assert_eq!(fixture.store.attempts(), 0);
    pass(20).await;
    assert_eq!(fixture.written(), [[0, 1, 2]]);
    pass(10_000).await;
    assert_eq!(fixture.store.attempts(), 1);
}

#[tokio::test(start_paused = true)]
async fn samples_of_one_agent_are_all_written() {
    let fixture = Fixture::new();
    fixture.add(7..8);
    fixture.add(7..8);
    pass(1_010).await;
    assert_eq!(fixture.written(), [[7, 7]]);
}

#[tokio::test(start_paused = true)]
async fn four_fifths_of_a_batch_are_written_at_once() {
    let fixture = Fixture::new();
    fixture.add(0..818);
    pass(10).await;
    assert_eq!(fixture.store.attempts(), 0);
    fixture.add(818..819);
    pass(1).await;
    assert_eq!(fixture.sizes(), [819]);
}

#[tokio::test(start_paused = true)]
async fn statements_are_bounded() {
    let fixture = Fixture::new();
    fixture.add(0..2_500);
    pass(1).await;
    assert_eq!(fixture.sizes(), [1_024, 1_024, 452]);
}

#[tokio::test(start_paused = true)]
async fn a_store_that_is_away_loses_nothing_and_is_asked_once_a_second() {
    let fixture = Fixture::new();
    fixture.store.set_fault(Some(away()));
    fixture.add(0..900);
    pass(5_010).await;
    // At once, since the batch was nearly full; then once a second.
    assert_eq!(fixture.store.attempts(), 6);
    fixture.add(900..1_900);
    fixture.store.set_fault(None);
    pass(1_010).await;
    assert_eq!(fixture.written().concat(), (0..1_900).collect::<Vec<_>>());
    assert_eq!(fixture.batcher.dropped(), 0);
}

#[tokio::test(start_paused = true)]
async fn what_the_store_refuses_is_given_up_alone_and_nothing_later_waits_for_it() {
    let fixture = Fixture::new();
    for bad in [3, 500, 1_200] {
        fixture.store.refuse_stats_of(AgentId(Uuid::from_u128(bad)));
    }
    fixture.add(0..1_500);
    pass(1_010).await;
    let good: Vec<_> = (0..1_500)
        .filter(|agent| ![3, 500, 1_200].contains(agent))
        .collect();
    assert_eq!(fixture.written().concat(), good);
    assert_eq!(fixture.batcher.dropped(), 3);
    fixture.add(2_000..2_001);
    pass(1_010).await;
    assert_eq!(fixture.written().last(), Some(&vec![2_000]));
    assert_eq!(fixture.batcher.dropped(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_store_that_refuses_everything_is_not_asked_for_each_sample() {
    let mut fixture = Fixture::new();
    fixture
        .store
        .set_fault(Some(StoreError::Rejected("permission denied".to_owned())));
    fixture.add(0..MAX_BATCH as u128);
    pass(1_010).await;
    assert_eq!(fixture.batcher.dropped(), MAX_BATCH as u64);
    let attempts = fixture.store.attempts();
    assert!(attempts <= 64, "{attempts}");
    fixture.add(0..1);
    assert_eq!(fixture.stop().await, Ok(()));
    assert_eq!(fixture.batcher.dropped(), MAX_BATCH as u64 + 1);
}

#[tokio::test(start_paused = true)]
async fn a_store_that_goes_away_after_a_refusal_gets_the_rest_later() {
    let fixture = Fixture::new();
    fixture.store.refuse_stats_of(AgentId(Uuid::from_u128(0)));
    // After the whole, a half, a quarter, and the sample itself.
    fixture.store.go_away_at(5);
    fixture.add(0..8);
    pass(1_010).await;
    assert_eq!((fixture.store.attempts(), fixture.batcher.dropped()), (5, 1));
    pass(1_010).await;
    assert_eq!(fixture.written(), [(1..8).collect::<Vec<_>>()]);
    assert_eq!(fixture.batcher.dropped(), 1);
}

#[tokio::test(start_paused = true)]
async fn past_the_bound_the_oldest_samples_are_given_up_and_counted() {
    let mut fixture = Fixture::stalled();
    let surplus = 10;
    fixture.add(0..MAX_BUFFERED as u128 + surplus);
    assert_eq!(fixture.batcher.dropped(), 10);
    let (running, until) = (fixture.batcher.clone(), fixture.shutdown.clone());
    fixture.run = Some(tokio::spawn(async move { running.run(until).await }));
    assert_eq!(fixture.stop().await, Ok(()));
    let written = fixture.written().concat();
    assert_eq!((written.len(), written[0]), (MAX_BUFFERED, surplus));
}

#[tokio::test(start_paused = true)]
async fn samples_are_kept_up_to_the_bound() {
    for (samples, dropped) in [(MAX_BUFFERED - 1, 0), (MAX_BUFFERED, 0), (MAX_BUFFERED + 1, 1)] {
        let fixture = Fixture::stalled();
        fixture.add(0..samples as u128);
        assert_eq!(fixture.batcher.dropped(), dropped, "{samples}");
    }
}

#[tokio::test(start_paused = true)]
async fn shutdown_writes_all_that_was_accepted() {
    let mut fixture = Fixture::new();
    fixture.add(0..2);
    assert_eq!(fixture.stop().await, Ok(()));
    assert_eq!(fixture.written(), [[0, 1]]);

    let mut idle = Fixture::new();
    assert_eq!(idle.stop().await, Ok(()));
    assert_eq!(idle.store.attempts(), 0);
}

#[tokio::test(start_paused = true)]
async fn shutdown_waits_for_the_store_but_not_for_ever() {
    let mut fixture = Fixture::new();
    fixture.store.set_fault(Some(away()));
    fixture.add(0..1);
    let start = tokio::time::Instant::now();
    assert!(fixture.stop().await.is_err());
    assert_eq!(start.elapsed(), FINAL_FLUSH_LIMIT);

    let mut fixture = Fixture::new();
    fixture.store.set_fault(Some(away()));
    fixture.add(0..1);
    let store = Arc::clone(&fixture.store);
    tokio::spawn(async move {
        pass(3_500).await;
        store.set_fault(None);
    });
    assert_eq!(fixture.stop().await, Ok(()));
    assert_eq!(fixture.written(), [[0]]);
}
