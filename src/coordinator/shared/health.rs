//! Whether this replica reaches the database, as its own heartbeats tell.
//!
//! Source: coder/coder `enterprise/tailnet/pgcoord.go` (heartbeats): three failures in a row, one success.

/// Heartbeats that fail in a row before the replica counts as unhealthy: others have given it up by then.
const MAX_FAILURES: u32 = 3;

#[derive(Debug, Default)]
pub(super) struct Health {
    state: State,
    /// Heartbeats that failed since the last that did not.
    failures: u32,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    /// No heartbeat has succeeded yet: the replica's own row may not be there, which all its other rows need.
    #[default]
    Starting,
    Healthy,
    Unhealthy,
}

/// What a heartbeat that succeeded means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Beat {
    /// It is one of many.
    Another,
    /// It is the first.
    First,
    /// Some before it had failed.
    Recovered,
}

impl Health {
    /// Whether the database may be asked for anything.
    pub(super) fn is_open(&self) -> bool {
        self.state == State::Healthy
    }

    /// Whether peers are told that something is wrong.
    pub(super) fn is_unhealthy(&self) -> bool {
        self.state == State::Unhealthy
    }

    pub(super) fn succeeded(&mut self) -> Beat {
        let failures = std::mem::take(&mut self.failures);
        match std::mem::replace(&mut self.state, State::Healthy) {
            State::Starting if failures == 0 => Beat::First,
            State::Healthy if failures == 0 => Beat::Another,
            _ => Beat::Recovered,
        }
    }

    /// True when the replica has become unhealthy.
    pub(super) fn failed(&mut self) -> bool {
        self.failures = self.failures.saturating_add(1);
        if self.failures < MAX_FAILURES {
            return false;
        }
        std::mem::replace(&mut self.state, State::Unhealthy) != State::Unhealthy
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tn_073_three_failures_in_a_row_are_unhealthy_and_one_success_heals() {
        let mut health = Health::default();
        assert!(!health.is_open(), "nothing is written before the first heartbeat");
        assert_eq!(health.succeeded(), Beat::First);
        assert_eq!(health.succeeded(), Beat::Another);
        for _ in 0..5 {
            assert!(!health.failed() && !health.failed());
            assert!(health.is_open() && !health.is_unhealthy());
            assert_eq!(health.succeeded(), Beat::Recovered);
        }
        assert_eq!(
            [(); 5].map(|()| health.failed()),
            [false, false, true, false, false]
        );
        assert!(health.is_unhealthy() && !health.is_open());
        assert_eq!(health.succeeded(), Beat::Recovered);
        assert!(health.is_open() && !health.is_unhealthy());
    }

    #[test]
    fn a_replica_that_never_reached_the_database_becomes_unhealthy_too() {
        let mut health = Health::default();
        assert_eq!([(); 3].map(|()| health.failed()), [false, false, true]);
        assert_eq!(health.succeeded(), Beat::Recovered);
        assert!(health.is_open());
    }
}
