//! Removes what is old, hourly and in small steps.

use std::sync::Arc;
use std::time::Duration;

use crate::clock::Clock;
use crate::store::{Expired, Store};

/// How often rows are looked at.
const INTERVAL: Duration = Duration::from_hours(1);

/// Pause between two steps, in which others write.
const PAUSE: Duration = Duration::from_millis(100);

/// Removes for as long as it is polled; never returns. `keep` of zero keeps everything.
pub(super) async fn run(store: Arc<dyn Store>, clock: Clock, keep: Duration) {
    if keep.is_zero() {
        return std::future::pending().await;
    }
    let mut ticks = clock.interval(INTERVAL);
    loop {
        ticks.tick().await;
        let before = clock.now().saturating_sub(keep);
        for what in Expired::ALL {
            loop {
                match store.purge(what, before).await {
                    Ok(true) => clock.sleep(PAUSE).await,
                    Ok(false) => break,
                    Err(error) => {
                        tracing::warn!(%error, ?what, "failed to remove old rows");
                        break;
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::testing::{NOW, RecordingStore};

    #[tokio::test(start_paused = true)]
    async fn rows_are_looked_at_hourly_and_never_when_they_stay_for_ever() {
        let store = Arc::new(RecordingStore::default());
        for (keep, expected) in [(Duration::ZERO, 0), (Duration::from_hours(168), 6)] {
            let dyn_store: Arc<dyn Store> = store.clone();
            let task = tokio::spawn(run(dyn_store, Clock::driven(NOW), keep));
            tokio::time::sleep(Duration::from_mins(121)).await;
            assert_eq!(store.attempts(), expected);
            task.abort();
        }
    }
}
