//! Work that goes on beside the sessions for as long as the server runs: a panic ends none of it for good.
//!
//! Owns what happens after a panic. Knows nothing of the work.

use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures_util::FutureExt as _;

use crate::clock::Clock;

/// Pause after a panic, which would come again at once if it came from what there is to do.
const PANIC_PAUSE: Duration = Duration::from_secs(1);

/// Runs `work`, which the log knows as `name`, until it returns, and begins it anew after each panic.
///
/// What it shares must be valid whoever panicked, and what it has missed in between is its own to make up for.
pub(crate) async fn supervised<F: Future>(
    clock: &Clock,
    name: &'static str,
    mut work: impl FnMut() -> F,
) -> F::Output {
    loop {
        if let Ok(done) = AssertUnwindSafe(work()).catch_unwind().await {
            return done;
        }
        tracing::error!(task = name, "has panicked, and begins anew");
        clock.sleep(PANIC_PAUSE).await;
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;
    use crate::clock::Timestamp;
    use crate::telemetry::testing::Log;

    #[tokio::test(start_paused = true)]
    async fn what_panics_begins_anew_after_a_pause_until_it_returns() {
        let log = Log::new();
        let clock = Clock::driven(Timestamp::UNIX_EPOCH);
        let began = clock.monotonic();
        let runs = Cell::new(0);
        let work = || async {
            runs.set(runs.get() + 1);
            tokio::task::yield_now().await;
            assert!(runs.get() > 2, "as it should");
            runs.get()
        };
        assert_eq!(supervised(&clock, "counting", work).await, 3);
        assert_eq!(began.elapsed(), 2 * PANIC_PAUSE);
        assert_eq!(log.take().len(), 2);
    }
}
