//! How fast a peer may make work: streams and calls begun, pings, frames.
//!
//! Owns one number per peer, whatever sessions it has: the time at which its work would be done, had each piece its share of a
//! second. A peer that is a second ahead is not read from until it is less; nothing of it is refused or lost. Never reads a
//! clock.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use uuid::Uuid;

use crate::clock::Instant;
use crate::mux::session::Load;

/// Streams that one peer may open, and further calls that it may begin on open ones, in a second. Agents begin some
/// dozen a minute; the fastest client of a load test a few thousand.
pub const MAX_OPENS_PER_SECOND: u32 = 16_384;

/// yamux pings that one peer may send in a second. Peers send one each 30 s.
pub const MAX_PINGS_PER_SECOND: u32 = 1_024;

/// Other frames that one peer may send in a second, of whatever size, those of its transport included: sixteen for each
/// stream that it may open.
pub const MAX_FRAMES_PER_SECOND: u32 = 262_144;

/// Streams that one peer may lose in a second because nobody reads their input: each costs a look at all the others.
pub const MAX_OVERFLOWS_PER_SECOND: u32 = 64;

/// How far a peer may be ahead: a second's worth at once, in one session; in several, of which each may be worked for before it
/// is anybody else's turn, so many times less. It has passed when a session is next worked for, so one wake-up's work comes on top.
/// What has come already is worked off all the same.
pub const MAX_AHEAD: Duration = Duration::from_secs(1);

/// The work of all peers that have several sessions, or may. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Paces(Arc<Mutex<HashMap<Uuid, Weak<Work>>>>);

impl Paces {
    /// The work of one, by its id: the same for each of its sessions, and forgotten with the last of them.
    pub fn of(&self, peer: Uuid) -> Pace {
        let mut peers = self.peers();
        if let Some(work) = peers.get(&peer).and_then(Weak::upgrade) {
            return Pace(work);
        }
        let work = Arc::new(Work {
            done: Mutex::default(),
            among: Some((peer, self.clone())),
        });
        peers.insert(peer, Arc::downgrade(&work));
        Pace(work)
    }

    fn peers(&self) -> MutexGuard<'_, HashMap<Uuid, Weak<Work>>> {
        // Every holder of the lock leaves it whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The work of one peer. Cheap to clone; clones are one account.
#[derive(Clone, Debug, Default)]
pub struct Pace(Arc<Work>);

#[derive(Debug, Default)]
struct Work {
    /// When it would be done; `None` before there was any.
    done: Mutex<Option<Instant>>,
    /// Whose it is, and where that is known, if there are others.
    among: Option<(Uuid, Paces)>,
}

impl Work {
    fn done(&self) -> MutexGuard<'_, Option<Instant>> {
        // One number, whoever panicked.
        self.done.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        if let Some((peer, paces)) = &self.among
            && let Entry::Occupied(known) = paces.peers().entry(*peer)
            // Unless it has come again meanwhile.
            && known.get().strong_count() == 0
        {
            known.remove();
        }
    }
}

impl Pace {
    /// Takes note of work that has come: its share of a second.
    pub(super) fn charge(&self, work: Duration, now: Instant) {
        let mut done = self.0.done();
        *done = Some(done.map_or(now, |done| done.max(now)) + work);
    }

    /// How long nothing more should be read; `None` while the peer is within its rate.
    pub(super) fn wait(&self, now: Instant) -> Option<Duration> {
        let ahead = (*self.0.done())?.saturating_duration_since(now);
        let most = MAX_AHEAD / self.sessions();
        ahead.checked_sub(most).filter(|wait| !wait.is_zero())
    }

    /// Whether the peer has other sessions.
    pub(super) fn is_shared(&self) -> bool {
        self.sessions() > 1
    }

    /// Sessions of the peer, each of which holds this once.
    fn sessions(&self) -> u32 {
        u32::try_from(Arc::strong_count(&self.0)).unwrap_or(u32::MAX)
    }
}

/// The share of its peer's second that work takes.
pub(super) fn cost(load: Load) -> Duration {
    share(load.opens, MAX_OPENS_PER_SECOND)
        + share(load.pings, MAX_PINGS_PER_SECOND)
        + share(load.frames, MAX_FRAMES_PER_SECOND)
}

/// The share of a call that begins on a stream which is open already, or which waited.
pub(super) const CALL: Duration = share(1, MAX_OPENS_PER_SECOND);

/// The share of a stream that is reset because nobody reads its input.
pub(super) const OVERFLOW: Duration = share(1, MAX_OVERFLOWS_PER_SECOND);

/// The part of a second that `count` of `rate` may take.
const fn share(count: u32, rate: u32) -> Duration {
    // Most work is of one kind, and this is asked for each frame.
    if count == 0 {
        return Duration::ZERO;
    }
    match Duration::from_secs(count as u64).checked_div(rate) {
        Some(share) => share,
        // No rate is 0.
        None => Duration::MAX,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;

    fn load(opens: u32, pings: u32, frames: u32) -> Load {
        Load { opens, pings, frames }
    }

    #[tokio::test(start_paused = true)]
    async fn a_second_of_each_passes_at_once_and_one_more_waits() {
        let now = Clock::system().monotonic();
        for (one, most) in [
            (load(1, 0, 0), MAX_OPENS_PER_SECOND),
            (load(0, 1, 0), MAX_PINGS_PER_SECOND),
            (load(0, 0, 1), MAX_FRAMES_PER_SECOND),
        ] {
            let times = |count| load(one.opens * count, one.pings * count, one.frames * count);
            for count in [most - 1, most] {
                let pace = Pace::default();
                pace.charge(cost(times(count)), now);
                assert_eq!(pace.wait(now), None, "{count}");
            }
            let pace = Pace::default();
            pace.charge(cost(times(most + 1)), now);
            assert_eq!(pace.wait(now), Some(Duration::from_secs(1) / most), "{most}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_second_of_streams_that_overflow_passes_and_one_more_waits() {
        let now = Clock::system().monotonic();
        let pace = Pace::default();
        for _ in 0..MAX_OVERFLOWS_PER_SECOND {
            assert_eq!(pace.wait(now), None);
            pace.charge(OVERFLOW, now);
        }
        assert_eq!(pace.wait(now), None);
        pace.charge(OVERFLOW, now);
        assert_eq!(
            pace.wait(now),
            Some(Duration::from_secs(1) / MAX_OVERFLOWS_PER_SECOND)
        );
    }

    #[tokio::test(start_paused = true)]
    async fn sessions_of_a_peer_share_its_rate_and_those_of_others_have_their_own() {
        let now = Clock::system().monotonic();
        let paces = Paces::default();
        let (one, other) = (Uuid::from_u128(1), Uuid::from_u128(2));
        let (first, second, others) = (paces.of(one), paces.of(one), paces.of(other));
        assert!(first.is_shared() && second.is_shared() && !others.is_shared());
        // Half a second's worth for two.
        first.charge(cost(load(0, MAX_PINGS_PER_SECOND / 2, 0)), now);
        assert_eq!((first.wait(now), second.wait(now)), (None, None));
        second.charge(cost(load(0, 1, 0)), now);
        let wait = Some(Duration::from_secs(1) / MAX_PINGS_PER_SECOND);
        assert_eq!((first.wait(now), second.wait(now)), (wait, wait));
        assert_eq!(others.wait(now), None);
        // It lasts as long as any of them.
        drop(first);
        assert_eq!(second.wait(now), None, "one alone");
        let third = paces.of(one);
        assert_eq!(third.wait(now), wait);
        drop((second, third, others));
        assert_eq!(paces.peers().len(), 0);
        assert_eq!(paces.of(one).wait(now), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_within_its_rate_never_waits_and_saves_nothing_up() {
        let clock = Clock::system();
        let pace = Pace::default();
        for _ in 0..100 {
            pace.charge(cost(load(MAX_OPENS_PER_SECOND / 10, 0, 0)), clock.monotonic());
            assert_eq!(pace.wait(clock.monotonic()), None);
            tokio::time::advance(Duration::from_millis(100)).await;
        }
        tokio::time::advance(Duration::from_hours(1)).await;
        pace.charge(cost(load(MAX_OPENS_PER_SECOND * 3, 0, 0)), clock.monotonic());
        assert_eq!(pace.wait(clock.monotonic()), Some(Duration::from_secs(2)));
        tokio::time::advance(Duration::from_secs(2)).await;
        assert_eq!(pace.wait(clock.monotonic()), None);
    }
}
