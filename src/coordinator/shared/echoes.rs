//! Notifications of this replica's own writes, which come back to it and tell it nothing.
//!
//! Each write is notified once, by this process or by the database's triggers. As many notifications are passed over as
//! there were writes, whichever they are: if another replica's comes between, ours follows it and is taken for it.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use crate::clock::Instant;
use crate::coordinator::PeerId;
use crate::coordinator::tunnels::shrink;
use crate::store::Tunnel;

/// How long an echo is waited for. One that has not come is lost, and must not hide another's notification.
const PATIENCE: Duration = Duration::from_secs(5);

/// Echoes that are waited for; those of a start storm within [`PATIENCE`]. More are read like any other notification.
const MAX_ECHOES: usize = 65_536;

/// What a notification is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Subject {
    Peer(PeerId),
    Tunnel(Tunnel),
}

#[derive(Debug, Default)]
pub(super) struct Echoes {
    expected: HashMap<Subject, u32>,
    /// Until when each is waited for, in order; entries of those that have come stay until then.
    until: VecDeque<(Instant, Subject)>,
}

impl Echoes {
    /// A write was, or is about to be, notified.
    pub(super) fn expect(&mut self, subject: Subject, now: Instant) {
        if self.until.len() < MAX_ECHOES {
            *self.expected.entry(subject).or_default() += 1;
            self.until.push_back((now + PATIENCE, subject));
        }
    }

    /// A write that was about to be notified was not made, or changed nothing.
    pub(super) fn take_back(&mut self, subject: Subject) {
        self.take(subject);
    }

    /// Whether a notification can be passed over.
    pub(super) fn is_echo(&mut self, subject: Subject) -> bool {
        self.take(subject)
    }

    /// Gives up those that should have come by now. One that came is given up in place of a later one of the same subject,
    /// which costs a read.
    pub(super) fn expire(&mut self, now: Instant) {
        while let Some((_, subject)) = self.until.pop_front_if(|(until, _)| *until <= now) {
            self.take(subject);
        }
        if self.until.is_empty() {
            self.expected = HashMap::new();
            self.until = VecDeque::new();
        }
        shrink(&mut self.expected);
    }

    /// Notifications were missed, perhaps these.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    fn take(&mut self, subject: Subject) -> bool {
        let Some(count) = self.expected.get_mut(&subject) else {
            return false;
        };
        *count -= 1;
        if *count == 0 {
            self.expected.remove(&subject);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::clock::{Clock, Timestamp};

    const X: Subject = Subject::Peer(PeerId(Uuid::from_u128(1)));

    fn now() -> Instant {
        Clock::driven(Timestamp::UNIX_EPOCH).monotonic()
    }

    #[test]
    fn as_many_are_passed_over_as_were_written() {
        let (mut echoes, now) = (Echoes::default(), now());
        echoes.expect(X, now);
        echoes.expect(X, now);
        let tunnel = Tunnel {
            from: PeerId(Uuid::from_u128(1)),
            to: PeerId(Uuid::from_u128(2)),
        };
        assert!(!echoes.is_echo(Subject::Tunnel(tunnel)));
        assert_eq!([(); 3].map(|()| echoes.is_echo(X)), [true, true, false]);
        echoes.expire(now + PATIENCE);
        assert!(echoes.expected.is_empty() && echoes.until.is_empty());
    }

    #[test]
    fn one_that_was_lost_hides_nothing_for_long() {
        let (mut echoes, now) = (Echoes::default(), now());
        echoes.expect(X, now);
        echoes.expire(now + PATIENCE - Duration::from_millis(1));
        echoes.expire(now + PATIENCE);
        assert!(!echoes.is_echo(X));
        echoes.expect(X, now);
        echoes.clear();
        assert!(!echoes.is_echo(X));
    }

    #[test]
    fn they_are_bounded() {
        let (mut echoes, now) = (Echoes::default(), now());
        for _ in 0..2 * MAX_ECHOES {
            echoes.expect(X, now);
        }
        assert_eq!(echoes.until.len(), MAX_ECHOES);
    }
}
