use super::*;
use crate::clock::testing::settle;

#[derive(Clone, Debug, Default)]
struct Seen(Arc<Mutex<Vec<Vec<u128>>>>);

impl Seen {
    fn take(&self) -> Vec<Vec<u128>> {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}

impl Sink for Seen {
    fn report(&self, batch: &[NetworkEvent]) {
        let ids = batch.iter().map(|event| event.id.as_u128());
        self.0.lock().unwrap().push(ids.collect());
    }
}

fn events(numbers: impl IntoIterator<Item = u128>) -> impl Iterator<Item = NetworkEvent> {
    numbers.into_iter().map(|number| NetworkEvent {
        id: Uuid::from_u128(number),
        time: None,
        application: "ssh".into(),
        status: "connected",
        client_type: "cli",
        client_version: "".into(),
        node_id_self: 0,
        node_id_remote: 0,
        is_direct: false,
        home_derp: 0,
        connection_age: None,
        connection_setup: None,
        p2p_setup: None,
        derp_latency: None,
        p2p_latency: None,
        throughput_mbits: None,
    })
}

struct Running {
    events: NetworkEvents,
    seen: Seen,
    shutdown: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

fn start(max_batch: usize) -> Running {
    let (seen, shutdown) = (Seen::default(), CancellationToken::new());
    let clock = Clock::driven(Timestamp::UNIX_EPOCH);
    let events = NetworkEvents::with_batches_of(max_batch, seen.clone(), clock);
    let (running, until) = (events.clone(), shutdown.clone());
    Running {
        events,
        seen,
        shutdown,
        task: tokio::spawn(async move { running.run(until).await }),
    }
}

#[tokio::test(start_paused = true)]
async fn tn_089_full_batches_go_at_once_the_rest_at_the_timer_and_at_the_end() {
    let running = start(3);
    settle().await;
    tokio::time::sleep(FLUSH_INTERVAL / 2).await;
    running.events.add(events([1, 2]), 0);
    settle().await;
    assert_eq!(running.seen.take(), Vec::<Vec<u128>>::new());
    running.events.add(events([3, 4]), 0);
    settle().await;
    assert_eq!(running.seen.take(), [[1, 2, 3]]);
    let just_before = FLUSH_INTERVAL.saturating_sub(Duration::from_millis(1));
    tokio::time::sleep(just_before).await;
    assert_eq!(
        running.seen.take(),
        Vec::<Vec<u128>>::new(),
        "a full batch starts the timer anew"
    );
    tokio::time::sleep(Duration::from_millis(2)).await;
    assert_eq!(running.seen.take(), [[4]]);
    running.events.add(events([5, 6]), 0);
    running.shutdown.cancel();
    running.task.await.unwrap();
    assert_eq!(running.seen.take(), [[5, 6]]);
}

#[tokio::test(start_paused = true)]
async fn tn_090_after_the_end_events_are_ignored() {
    let running = start(3);
    running.shutdown.cancel();
    running.task.await.unwrap();
    running.events.add(events(1..10), 0);
    assert!(running.events.0.buffer().events.is_empty());
    assert_eq!(
        running.seen.take(),
        Vec::<Vec<u128>>::new(),
        "nor are empty batches handed over"
    );
}

#[tokio::test(start_paused = true)]
async fn a_batch_never_has_more_than_its_limit() {
    let running = start(3);
    settle().await;
    running.events.add(events(0..8), 0);
    settle().await;
    assert_eq!(running.seen.take(), [[0, 1, 2], [3, 4, 5]]);
    running.shutdown.cancel();
    running.task.await.unwrap();
    assert_eq!(running.seen.take(), [[6, 7]]);
}

#[tokio::test(start_paused = true)]
async fn past_the_bound_the_oldest_go_and_are_counted() {
    let running = start(MAX_BATCH);
    let bound = u128::try_from(MAX_BUFFERED).unwrap();
    running.events.add(events(0..bound + 7), 2);
    assert_eq!(running.events.dropped(), 9);
    settle().await;
    let seen: Vec<_> = running.seen.take().concat();
    assert_eq!(seen, (7..bound + 7).collect::<Vec<_>>());
    assert_eq!(
        running.events.0.buffer().events.capacity(),
        0,
        "nothing is kept of a flood"
    );
}

#[tokio::test(start_paused = true)]
async fn events_are_kept_up_to_the_bound() {
    let bound = u128::try_from(MAX_BUFFERED).unwrap();
    for (number, dropped) in [(bound - 1, 0), (bound, 0), (bound + 1, 1)] {
        let running = start(MAX_BATCH);
        running.events.add(events(0..number), 0);
        assert_eq!(running.events.dropped(), dropped, "{number}");
    }
}
