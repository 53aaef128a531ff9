//! Brings events that other processes left in the store to the subscribers of this one.
//!
//! An engine that notifies by itself has no such events; asking it is cheap.

use std::sync::Arc;
use std::time::Duration;

use super::Pubsub;
use crate::clock::Clock;
use crate::store::Store;

/// How often the store is asked. A change by `seed` is seen within it; asking costs a PRAGMA when nothing happened.
const POLL_INTERVAL: Duration = Duration::from_secs(1);

/// How often old events are removed.
const PRUNE_INTERVAL: Duration = Duration::from_mins(1);

/// Age from which an event is removed: every server on the store has read it long before.
const EVENT_LIFETIME: Duration = Duration::from_mins(10);

/// Delivers for as long as it is polled; never returns.
pub async fn run(store: Arc<dyn Store>, pubsub: Pubsub, clock: Clock) {
    let mut polls = clock.interval(POLL_INTERVAL);
    let mut prune_at = clock.monotonic() + PRUNE_INTERVAL;
    let mut failing = false;
    loop {
        polls.tick().await;
        match store.take_events().await {
            Ok(events) => {
                failing = false;
                for event in events {
                    pubsub.deliver(&event.channel, &event.payload);
                }
            }
            Err(error) => {
                if !std::mem::replace(&mut failing, true) {
                    tracing::warn!(%error, "failed to read events of other processes");
                }
                continue;
            }
        }
        if clock.monotonic() >= prune_at {
            prune_at = clock.monotonic() + PRUNE_INTERVAL;
            if let Err(error) = store
                .prune_events(clock.now().saturating_sub(EVENT_LIFETIME))
                .await
            {
                tracing::warn!(%error, "failed to prune events");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Timestamp;
    use crate::store::testing::RecordingStore;
    use crate::store::{StoreError, StoredEvent};

    #[tokio::test(start_paused = true)]
    async fn events_of_other_processes_are_delivered_within_a_second_also_after_an_outage() {
        let store = Arc::new(RecordingStore::default());
        let pubsub = Pubsub::in_process();
        let mut subscription = pubsub.subscribe("channel");
        let dyn_store: Arc<dyn Store> = store.clone();
        let bridge = run(dyn_store, pubsub, Clock::driven(Timestamp::UNIX_EPOCH));
        let bridge = tokio::spawn(bridge);
        for fault in [None, Some(StoreError::Unavailable("disk full".to_owned()))] {
            store.set_fault(fault);
            tokio::time::sleep(Duration::from_secs(3)).await;
            store.set_fault(None);
            store.events.lock().unwrap().extend((0..2).map(|id| StoredEvent {
                id,
                channel: "channel".to_owned(),
                payload: id.to_string(),
            }));
            tokio::time::sleep(Duration::from_millis(1_010)).await;
            assert_eq!(subscription.try_next().unwrap().as_deref(), Ok("0"));
            assert_eq!(subscription.try_next().unwrap().as_deref(), Ok("1"));
        }
        bridge.abort();
    }

    #[tokio::test(start_paused = true)]
    async fn events_older_than_ten_minutes_are_removed_once_a_minute() {
        let store = Arc::new(RecordingStore::default());
        let dyn_store: Arc<dyn Store> = store.clone();
        let start = Timestamp::from_micros(1_774_008_000_000_000);
        let bridge = run(dyn_store, Pubsub::in_process(), Clock::driven(start));
        let bridge = tokio::spawn(bridge);
        tokio::time::sleep(Duration::from_millis(120_010)).await;
        let expected = [60, 120].map(|seconds| {
            start
                .saturating_add(Duration::from_secs(seconds))
                .saturating_sub(EVENT_LIFETIME)
        });
        let pruned = store.pruned.lock().unwrap().clone();
        assert_eq!(pruned.len(), expected.len());
        for (pruned, expected) in pruned.into_iter().zip(expected) {
            assert!(pruned.saturating_since(expected) < Duration::from_secs(1));
        }
        bridge.abort();
    }
}
