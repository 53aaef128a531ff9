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
