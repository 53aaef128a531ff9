//! The batcher in driven time, against a store that records. The numbers are those of the case list.

use uuid::Uuid;

use super::*;
use crate::pubsub::Subscription;
use crate::store::testing::RecordingStore;

struct Fixture {
    clock: Clock,
    store: Arc<RecordingStore>,
    batcher: MetadataBatcher,
    messages: Subscription,
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
        let pubsub = Pubsub::in_process();
        let messages = pubsub.subscribe(CHANNEL);
        let clock = Clock::driven(Timestamp::UNIX_EPOCH);
        Self {
            store,
            batcher: MetadataBatcher::new(dyn_store, pubsub, clock.clone()),
            clock,
            messages,
            shutdown: CancellationToken::new(),
            run: None,
        }
    }

    fn add(&self, agent: u128, key: &str, value: &str, at: i64) {
        let item = Item {
            key: key.to_owned(),
            value: value.to_owned(),
            error: String::new(),
        };
        self.batcher.add(id(agent), [item], Timestamp::from_micros(at));
    }

    /// `agents` agents with one key each.
    fn add_agents(&self, agents: std::ops::Range<u128>) {
        agents.for_each(|agent| self.add(agent, "key", "value", 0));
    }

    /// `agent/key=value@time` of what was written, by statement.
    fn written(&self) -> Vec<Vec<String>> {
        let show = |value: &MetadataValue| {
            let (agent, at) = (value.agent_id.0.as_u128(), value.collected_at.as_micros());
            format!("{agent}/{}={}@{at}", value.key, value.value)
        };
        let metadata = self.store.metadata.lock().unwrap();
        metadata
            .iter()
            .map(|batch| batch.iter().map(show).collect())
            .collect()
    }

    fn sizes(&self) -> Vec<usize> {
        self.store.metadata.lock().unwrap().iter().map(Vec::len).collect()
    }

    /// How many ids each message had that came.
    fn published(&mut self) -> Vec<usize> {
        let mut lengths = Vec::new();
        while let Some(message) = self.messages.try_next() {
            lengths.push(message.unwrap().len() / 22);
        }
        lengths
    }

    fn batches(&self, reason: FlushReason) -> u64 {
        let label = [("reason", reason.as_str())];
        self.batcher.metrics().batches.get_or_create(&label).get()
    }

    async fn stop(&mut self) -> Result<(), StoreError> {
        self.shutdown.cancel();
        self.run.take().unwrap().await.unwrap()
    }
}

fn id(agent: u128) -> AgentId {
    AgentId(Uuid::from_u128(agent))
}

async fn pass(millis: u64) {
    tokio::time::sleep(Duration::from_millis(millis)).await;
}

fn away() -> StoreError {
    StoreError::Unavailable("disk full".to_owned())
}

#[tokio::test(start_paused = true)]
async fn s1_073_nothing_added_is_nothing_written() {
    let fixture = Fixture::new();
    pass(20_000).await;
    assert_eq!(fixture.store.attempts(), 0);
    assert_eq!(fixture.batches(FlushReason::Scheduled), 0);
}

// covers: s1_087, since a key, its value and its error travel as one item, so that there are no lists to differ
#[tokio::test(start_paused = true)]
async fn s1_074_two_keys_are_one_write_and_one_message_after_5_s() {
    let mut fixture = Fixture::new();
    fixture.add(1, "b", "2", 0);
    fixture.add(1, "a", "1", 0);
    pass(4_990).await;
    assert_eq!(fixture.store.attempts(), 0);
    pass(20).await;
    assert_eq!(fixture.written(), [["1/a=1@0", "1/b=2@0"]], "sorted");
    assert_eq!(fixture.published(), [1]);
    assert_eq!(fixture.batches(FlushReason::Scheduled), 1);
    assert_eq!(fixture.batcher.metrics().flushed.get(), 2);
}

#[tokio::test(start_paused = true)]
async fn s1_075_two_agents_with_five_keys_are_one_write() {
    let mut fixture = Fixture::new();
    for (agent, key) in [(2, "a"), (1, "c"), (2, "b"), (1, "a"), (1, "b")] {
        fixture.add(agent, key, "x", 0);
    }
    pass(5_010).await;
    let expected = ["1/a=x@0", "1/b=x@0", "1/c=x@0", "2/a=x@0", "2/b=x@0"];
    assert_eq!(fixture.written(), [expected]);
    assert_eq!(fixture.published(), [2]);
}

#[tokio::test(start_paused = true)]
async fn s1_076_five_hundred_entries_are_written_at_once_and_told_of_in_two_messages() {
    let mut fixture = Fixture::new();
    fixture.add_agents(0..500);
    pass(1).await;
    assert_eq!(fixture.sizes(), [500]);
    assert_eq!(fixture.published(), [363, 137]);
    assert_eq!(fixture.batches(FlushReason::Capacity), 1);
}

#[tokio::test(start_paused = true)]
async fn s1_077_of_600_agents_100_wait_for_their_time() {
    let mut fixture = Fixture::new();
    fixture.add_agents(0..600);
    pass(4_990).await;
    assert_eq!(fixture.sizes(), [500]);
    pass(20).await;
    assert_eq!(fixture.sizes(), [500, 100]);
    assert_eq!(fixture.published(), [363, 137, 100]);
    assert_eq!(fixture.batches(FlushReason::Scheduled), 1);
}

#[tokio::test(start_paused = true)]
async fn s1_078_to_080_the_newest_value_of_a_key_is_written() {
    let fixture = Fixture::new();
    fixture.add(1, "later", "old", 1);
    fixture.add(1, "later", "new", 2);
    fixture.add(1, "older", "new", 2);
    fixture.add(1, "older", "old", 1);
    fixture.add(1, "equal", "first", 1);
    fixture.add(1, "equal", "second", 1);
    pass(5_010).await;
    let expected = ["1/equal=second@1", "1/later=new@2", "1/older=new@2"];
    assert_eq!(fixture.written(), [expected]);

    let fixture = Fixture::new();
    let time = |at| Timestamp::from_micros(at);
    let item = |key: &str| Item {
        key: key.to_owned(),
        value: String::new(),
        error: String::new(),
    };
    fixture.batcher.add(id(1), ["key1", "key2"].map(item), time(1));
    fixture.batcher.add(id(1), ["key1", "key3"].map(item), time(2));
    pass(5_010).await;
    assert_eq!(fixture.written(), [["1/key1=@2", "1/key2=@1", "1/key3=@2"]]);
}

#[tokio::test(flavor = "multi_thread")]
async fn s1_081_of_concurrent_writers_the_newest_time_wins_on_each_key() {
    let fixture = Fixture::stalled();
    std::thread::scope(|scope| {
        for writer in 0..20 {
            let fixture = &fixture;
            scope.spawn(move || {
                for key in ["a", "b", "c"] {
                    fixture.add(1, key, "x", writer);
                }
            });
        }
    });
    fixture.shutdown.cancel();
    fixture.batcher.run(fixture.shutdown.clone()).await.unwrap();
    assert_eq!(fixture.written(), [["1/a=x@19", "1/b=x@19", "1/c=x@19"]]);
}

#[tokio::test(start_paused = true)]
async fn s1_082_a_batch_short_of_one_is_not_full_and_a_repeated_key_does_not_fill_it() {
    let fixture = Fixture::new();
    fixture.add_agents(0..499);
    fixture.add_agents(0..499);
    pass(10).await;
    assert_eq!(fixture.store.attempts(), 0);
    fixture.add_agents(499..500);
    pass(1).await;
    assert_eq!(fixture.sizes(), [500]);
}

#[tokio::test(start_paused = true)]
async fn values_wait_up_to_the_bound() {
    for (values, dropped) in [(MAX_WAITING - 1, 0), (MAX_WAITING, 0), (MAX_WAITING + 1, 1)] {
        let fixture = Fixture::stalled();
        fixture.add_agents(0..values as u128);
        assert_eq!(fixture.batcher.metrics().dropped_keys.get(), dropped, "{values}");
    }
}

#[tokio::test(start_paused = true)]
async fn s1_083_beyond_the_bound_new_keys_are_dropped_and_counted_while_known_ones_are_replaced() {
    let fixture = Fixture::stalled();
    fixture.add_agents(0..3_010);
    assert_eq!(fixture.batcher.metrics().dropped_keys.get(), 10);
    fixture.add(0, "key", "newer", 1);
    fixture.add(2_999, "key", "newer", 1);
    assert_eq!(fixture.batcher.metrics().dropped_keys.get(), 10);
    fixture.shutdown.cancel();
    fixture.batcher.run(fixture.shutdown.clone()).await.unwrap();
    assert_eq!(fixture.sizes(), [500; 6]);
    let written = fixture.written().concat();
    assert_eq!(
        written.iter().filter(|value| value.contains("=newer@1")).count(),
        2
    );
}

#[tokio::test(start_paused = true)]
async fn s1_084_a_batch_that_the_store_refuses_is_gone_and_the_next_one_is_written() {
    let mut fixture = Fixture::new();
    fixture
        .store
        .set_fault(Some(StoreError::Rejected("bad".to_owned())));
    fixture.add(1, "lost", "x", 0);
    pass(5_010).await;
    assert_eq!(fixture.store.attempts(), 1);
    assert_eq!(fixture.published(), [0; 0]);
    assert_eq!(fixture.batcher.metrics().flushed.get(), 0);
    fixture.store.set_fault(None);
    fixture.add(1, "kept", "x", 0);
    pass(5_010).await;
    assert_eq!(fixture.written(), [["1/kept=x@0"]]);
    assert_eq!(fixture.published(), [1]);
}

#[tokio::test(start_paused = true)]
async fn a_batch_that_the_store_was_away_for_is_kept_and_newer_values_win() {
    let mut fixture = Fixture::new();
    fixture.store.set_fault(Some(away()));
    fixture.add(1, "kept", "x", 0);
    fixture.add(1, "replaced", "old", 0);
    pass(5_010).await;
    fixture.add(1, "replaced", "new", 1);
    pass(60_000).await;
    assert_eq!(fixture.published(), [0; 0]);
    fixture.store.set_fault(None);
    pass(1_000).await;
    assert_eq!(fixture.written().concat(), ["1/kept=x@0", "1/replaced=new@1"]);
    assert_eq!(fixture.batcher.metrics().dropped_keys.get(), 0);
}

#[tokio::test]
async fn a_batch_put_back_leaves_each_key_once_and_the_newest() {
    let value = |text: &str, at| Value {
        text: text.into(),
        error: "".into(),
        collected_at: Timestamp::from_micros(at),
    };
    let key = |key: &str| (id(1), Box::from(key));
    let now = Timestamp::from_micros(2);
    let mut pending = Pending::default();
    assert!(pending.put(key("newer"), value("new", 2), now));
    assert!(pending.put(key("older"), value("old", 1), now));
    let batch = [("newer", 1), ("older", 2), ("only", 1)];
    pending.put_back(batch.map(|(name, at)| (key(name), value("back", at))).into(), now);
    let text = |batch: &Batch, name: &str| batch.get(&key(name)).map(|value| value.text.to_string());
    assert_eq!(text(&pending.current, "newer").as_deref(), Some("new"));
    assert_eq!(text(&pending.current, "older").as_deref(), Some("back"));
    assert_eq!(text(&pending.full[0], "only").as_deref(), Some("back"));
    assert_eq!(pending.len(), 3);
}

#[tokio::test(start_paused = true)]
async fn s1_085_a_message_that_reaches_nobody_keeps_neither_the_others_nor_the_batch() {
    // Publishing cannot fail within a process; what can happen is that nobody is there, or is too slow.
    let mut fixture = Fixture::new();
    let slow = std::mem::replace(&mut fixture.messages, Pubsub::in_process().subscribe(CHANNEL));
    for round in 0..3 {
        fixture.add(1, "key", "x", round);
        pass(5_010).await;
    }
    drop(slow);
    fixture.add(1, "key", "x", 3);
    pass(5_010).await;
    assert_eq!(fixture.sizes(), [1; 4]);
    assert_eq!(fixture.batcher.metrics().flushed.get(), 4);
}

#[tokio::test(start_paused = true)]
async fn s1_086_shutdown_writes_all_that_was_accepted() {
    let mut fixture = Fixture::new();
    fixture.add_agents(0..510);
    assert_eq!(fixture.stop().await, Ok(()));
    assert_eq!(fixture.sizes().iter().sum::<usize>(), 510);
    assert_eq!(fixture.batches(FlushReason::Shutdown), 2);

    let mut idle = Fixture::new();
    assert_eq!(idle.stop().await, Ok(()));
    assert_eq!(idle.store.attempts(), 0);
}

#[tokio::test(start_paused = true)]
async fn shutdown_waits_for_the_store_but_not_for_ever() {
    let mut fixture = Fixture::new();
    fixture.store.set_fault(Some(away()));
    fixture.add(1, "key", "x", 0);
    let start = tokio::time::Instant::now();
    assert!(fixture.stop().await.is_err());
    assert_eq!(start.elapsed(), FINAL_FLUSH_LIMIT);
}

#[test]
fn s1_088_ids_are_22_characters_of_base64_363_to_a_message() {
    let agents: Vec<_> = (0..726).map(|_| AgentId::random()).collect();
    for (count, messages_expected) in [(0, 0), (1, 1), (363, 1), (364, 2), (726, 2)] {
        assert_eq!(messages(&agents[..count]).count(), messages_expected, "{count}");
    }
    let whole: String = messages(&agents).collect();
    assert!(messages(&agents).all(|message| message.len() <= 7_986));
    let decoded = whole.as_bytes().chunks(22).map(|id| {
        let bytes = STANDARD_NO_PAD.decode(id).unwrap();
        AgentId(Uuid::from_slice(&bytes).unwrap())
    });
    assert_eq!(decoded.collect::<Vec<_>>(), agents);
    assert_eq!(
        messages(&[AgentId(Uuid::from_u128(u128::MAX))]).next().as_deref(),
        Some("/////////////////////w")
    );
}

#[tokio::test(start_paused = true)]
async fn values_are_written_also_after_the_clock_went_back() {
    const HOUR: i64 = 3_600_000_000;
    let mut fixture = Fixture::new();
    fixture.store.set_fault(Some(away()));
    fixture.clock.jump(HOUR);
    fixture.add(1, "back", "before", HOUR);
    fixture.add(1, "waiting", "before", HOUR);
    pass(5_010).await;
    fixture.add(1, "waiting", "still before", HOUR + 1);
    fixture.clock.jump(-HOUR);
    fixture.add(1, "back", "after", 6_000_000);
    fixture.add(1, "waiting", "after", 6_000_000);
    fixture.store.set_fault(None);
    pass(6_000).await;
    assert_eq!(
        fixture.written().concat(),
        ["1/back=after@6000000", "1/waiting=after@6000000"]
    );
    assert!(!fixture.published().is_empty());
}
