//! Waiting for a store that is away, so that an agent's call need not fail.
//!
//! Most failed calls make an agent drop its connection and dial again, and some lose what they carried. A call
//! therefore waits until the store answers, for at most a set time, and while all waiting calls together hold a bounded
//! amount of memory. Owns when a call is tried again; must never turn an answer of the store, even an error, into
//! another one.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use uuid::Uuid;

use crate::clock::Clock;
use crate::ids::{UserId, WorkspaceId};
use crate::shares::Shares;
use crate::store::StoreError;

/// How long a call waits for the store by default (`--store-wait`).
pub const DEFAULT_STORE_WAIT: Duration = Duration::from_mins(15);

/// How long anybody else waits for the store: handshakes, REST, clients, health. They come again by themselves, and waiting
/// ones would pile up.
pub(crate) const SHORT_STORE_WAIT: Duration = Duration::from_secs(2);

/// Memory that waiting requests may hold together. A start storm of thousands of agents sends about 1 KiB each; what
/// goes beyond it fails as it would have without waiting.
pub(crate) const MAX_WAITING_BYTES: usize = 64 << 20;

/// Of these, what the calls of one workspace may hold, so that none takes the room of all others: two of the largest
/// requests, or thousands of small ones.
pub(crate) const MAX_WAITING_BYTES_EACH: usize = 8 << 20;

/// What a waiting call holds beside its payload: its stream, its task's state, its reply.
const CALL_OVERHEAD: usize = 1 << 10;

/// Memory is counted in pieces of this size.
const PIECE: usize = 1 << 10;

/// Waiting calls that may try the store at the same time. One would do to notice that it is back; a few more keep the
/// queue moving when it is.
const MAX_TRIES_AT_ONCE: usize = 16;

/// Pause before the first and, doubling, between the following tries.
const FIRST_PAUSE: Duration = Duration::from_millis(100);

/// Longest pause between two tries. A waiting call goes on within 5 s of the store's return: a try that just misses it
/// takes 1.5 s, the time for a lock or a connection; this follows; the rest is for the answer.
const MAX_PAUSE: Duration = Duration::from_secs(3);

/// Whose call waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Holder(Option<Uuid>);

impl Holder {
    /// Nobody in particular: what is read once for all.
    pub(crate) const ALL: Self = Self(None);
}

/// The agents of a workspace, with its sub agents, which it can make.
impl From<WorkspaceId> for Holder {
    fn from(workspace: WorkspaceId) -> Self {
        Self(Some(workspace.0))
    }
}

/// Whoever does something for a user.
impl From<UserId> for Holder {
    fn from(user: UserId) -> Self {
        Self(Some(user.0))
    }
}

/// Waits for the store on behalf of calls. Cheap to clone; clones share the memory bound.
#[derive(Clone, Debug)]
pub struct Patience {
    clock: Clock,
    wait: Duration,
    /// In pieces, as that of each holder.
    memory: Arc<Semaphore>,
    memory_each: Shares<Uuid>,
    tries: Arc<Semaphore>,
}

impl Patience {
    /// Waits up to `wait` per call; zero means not at all.
    pub fn new(clock: Clock, wait: Duration) -> Self {
        Self {
            clock,
            wait,
            memory: Arc::new(Semaphore::new(MAX_WAITING_BYTES / PIECE)),
            memory_each: Shares::new(MAX_WAITING_BYTES_EACH / PIECE),
            tries: Arc::new(Semaphore::new(MAX_TRIES_AT_ONCE)),
        }
    }

    /// Runs `attempt` until the store answers; `bytes` is the size of the payload that is held meanwhile.
    ///
    /// Fails as the store does when that is away ([`StoreError::is_unavailable`]) for longer than the set time, or when there is
    /// no room for one more waiting call, of its holder's or at all. An attempt whose outcome is unknown is made again:
    /// `attempt` must be a write that may happen twice. Ends with the call when the future is dropped.
    pub async fn call<T, F>(
        &self,
        holder: impl Into<Holder>,
        bytes: usize,
        mut attempt: impl FnMut() -> F,
    ) -> Result<T, StoreError>
    where
        F: Future<Output = Result<T, StoreError>>,
    {
        match attempt().await {
            Err(error) if error.is_unavailable() => self.wait(holder.into(), bytes, error, attempt).await,
            answer => answer,
        }
    }

    async fn wait<T, F>(
        &self,
        holder: Holder,
        bytes: usize,
        mut error: StoreError,
        mut attempt: impl FnMut() -> F,
    ) -> Result<T, StoreError>
    where
        F: Future<Output = Result<T, StoreError>>,
    {
        let pieces = (bytes + CALL_OVERHEAD).div_ceil(PIECE);
        let _share = match holder.0 {
            None => None,
            Some(id) => match self.memory_each.take(id, pieces) {
                Ok(share) => Some(share),
                Err(refused) => {
                    if refused.first {
                        tracing::warn!(%id, "store is away and no more calls of this workspace or user can wait for it");
                    }
                    return Err(error);
                }
            },
        };
        let Ok(_memory) = self
            .memory
            .try_acquire_many(u32::try_from(pieces).unwrap_or(u32::MAX))
        else {
            tracing::warn!("store is away and no more calls can wait for it");
            return Err(error);
        };
        let deadline = self.clock.monotonic() + self.wait;
        let mut pause = FIRST_PAUSE;
        loop {
            // Spread, so that calls which failed together do not come back together.
            let spread = pause.mul_f64(rand::random_range(0.5..1.0));
            if self.clock.monotonic() + spread > deadline {
                return Err(error);
            }
            self.clock.sleep(spread).await;
            pause = (pause * 2).min(MAX_PAUSE);
            let tried = async {
                // The semaphore is never closed.
                let _try = self.tries.acquire().await;
                attempt().await
            };
            tokio::select! {
                biased;
                answer = tried => match answer {
                    Err(next) if next.is_unavailable() => error = next,
                    answer => return answer,
                },
                // Many wait for their turn, or the store is silent.
                () = self.clock.sleep(deadline.saturating_duration_since(self.clock.monotonic())) => return Err(error),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;
    use crate::clock::Timestamp;

    fn patience(wait: Duration) -> Patience {
        Patience::new(Clock::driven(Timestamp::UNIX_EPOCH), wait)
    }

    fn away() -> StoreError {
        StoreError::Unavailable("disk full".to_owned())
    }

    /// A call with so many bytes, to a store that is away.
    fn call(
        patience: &Patience,
        holder: impl Into<Holder>,
        bytes: usize,
    ) -> impl Future<Output = Result<(), StoreError>> + Unpin {
        Box::pin(patience.call(holder, bytes, async || Err(away())))
    }

    /// Whether it waits for the store, or has its answer at once.
    async fn waits(call: &mut (impl Future + Unpin)) -> bool {
        futures_util::poll!(call).is_pending()
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_succeeds_once_the_store_is_back() {
        let patience = patience(DEFAULT_STORE_WAIT);
        let start = patience.clock.monotonic();
        let back_at = start + Duration::from_mins(10);
        let answer = patience
            .call(Holder::ALL, 0, async || {
                if patience.clock.monotonic() < back_at {
                    Err(away())
                } else {
                    Ok(7)
                }
            })
            .await;
        assert_eq!(answer, Ok(7));
        assert!(start.elapsed() <= Duration::from_mins(10) + MAX_PAUSE);
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_goes_on_within_five_seconds_of_the_stores_return() {
        const TRY: Duration = Duration::from_millis(1_500);
        const RECOVERY: Duration = Duration::from_secs(5);
        for outage in (20_000..40_000).step_by(100).map(Duration::from_millis) {
            let patience = patience(DEFAULT_STORE_WAIT);
            let start = patience.clock.monotonic();
            let attempt = async || {
                if start.elapsed() >= outage {
                    return Ok(());
                }
                patience.clock.sleep(TRY).await;
                Err(away())
            };
            assert_eq!(patience.call(Holder::ALL, 0, attempt).await, Ok(()));
            let late = start.elapsed().saturating_sub(outage);
            assert!(late < RECOVERY, "{late:?} after {outage:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_is_not_asked_for_again() {
        let tries = Cell::new(0);
        let answer = patience(DEFAULT_STORE_WAIT)
            .call(Holder::ALL, 0, async || {
                tries.set(tries.get() + 1);
                Err::<(), _>(StoreError::NoRows)
            })
            .await;
        assert_eq!((answer, tries.get()), (Err(StoreError::NoRows), 1));
    }

    #[tokio::test(start_paused = true)]
    async fn waiting_ends_after_the_set_time() {
        let patience = patience(DEFAULT_STORE_WAIT);
        let start = patience.clock.monotonic();
        let answer = patience.call(Holder::ALL, 0, async || Err::<(), _>(away())).await;
        assert_eq!(answer, Err(away()));
        let waited = start.elapsed();
        assert!(
            waited <= DEFAULT_STORE_WAIT && waited + MAX_PAUSE >= DEFAULT_STORE_WAIT,
            "{waited:?}"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn waiting_ends_then_even_if_many_wait_for_their_turn_or_the_store_is_silent() {
        const MANY: usize = 4 * MAX_TRIES_AT_ONCE;
        let patience = patience(DEFAULT_STORE_WAIT);
        let start = patience.clock.monotonic();
        let silent = |tries: Cell<u32>| {
            let patience = &patience;
            async move {
                let attempt = async || {
                    if tries.replace(1) > 0 {
                        std::future::pending::<()>().await;
                    }
                    Err::<(), _>(away())
                };
                patience.call(Holder::ALL, 0, attempt).await
            }
        };
        let calls = (0..MANY).map(|_| silent(Cell::new(0)));
        let answers = futures_util::future::join_all(calls).await;
        assert_eq!(answers, vec![Err(away()); MANY]);
        assert_eq!(start.elapsed(), DEFAULT_STORE_WAIT);
    }

    #[tokio::test(start_paused = true)]
    async fn waiting_calls_hold_a_bounded_amount_of_memory() {
        let patience = patience(DEFAULT_STORE_WAIT);
        let start = patience.clock.monotonic();
        let mut big = call(&patience, Holder::ALL, MAX_WAITING_BYTES - 2 * CALL_OVERHEAD);
        assert!(waits(&mut big).await);
        // Room for one small call is left, and for no second one.
        let mut small = call(&patience, Holder::ALL, 0);
        assert!(waits(&mut small).await);
        assert_eq!(call(&patience, Holder::ALL, 0).await, Err(away()));
        assert_eq!(start.elapsed(), Duration::ZERO);
        // A cancelled call makes room.
        drop(big);
        assert!(waits(&mut call(&patience, Holder::ALL, 0)).await);
    }

    #[tokio::test(start_paused = true)]
    async fn all_waiting_calls_together_hold_up_to_the_limit() {
        let patience = patience(DEFAULT_STORE_WAIT);
        for (bytes, waited) in [
            (MAX_WAITING_BYTES - CALL_OVERHEAD - 1, true),
            (MAX_WAITING_BYTES - CALL_OVERHEAD, true),
            (MAX_WAITING_BYTES - CALL_OVERHEAD + 1, false),
        ] {
            let mut first = call(&patience, Holder::ALL, bytes);
            assert_eq!(waits(&mut first).await, waited, "{bytes} bytes");
            let mut second = call(&patience, Holder::ALL, 0);
            assert_eq!(waits(&mut second).await, !waited, "{bytes} bytes");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn no_workspace_takes_the_room_of_others() {
        let patience = patience(DEFAULT_STORE_WAIT);
        let (one, other) = (WorkspaceId::random(), WorkspaceId::random());
        for (bytes, waited) in [
            (MAX_WAITING_BYTES_EACH - CALL_OVERHEAD - 1, true),
            (MAX_WAITING_BYTES_EACH - CALL_OVERHEAD, true),
            (MAX_WAITING_BYTES_EACH - CALL_OVERHEAD + 1, false),
        ] {
            let mut first = call(&patience, one, bytes);
            assert_eq!(waits(&mut first).await, waited, "{bytes} bytes");
            let mut second = call(&patience, one, 0);
            assert_eq!(waits(&mut second).await, !waited, "{bytes} bytes");
            let mut others = call(&patience, other, 0);
            assert!(waits(&mut others).await, "another workspace's");
            drop((first, second, others));
            assert_eq!(patience.memory_each.holders(), 0);
        }
        let mut too_large = call(&patience, one, MAX_WAITING_BYTES_EACH);
        assert!(!waits(&mut too_large).await, "even alone");
        assert_eq!(patience.memory_each.holders(), 0);
    }
}
