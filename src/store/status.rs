//! Whether an agent is connected, as everybody derives it from its row.

use std::fmt;
use std::time::Duration;

use super::model::{Agent, ConnectionTimes};
use crate::clock::Timestamp;

/// An agent's connection as its row tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AgentStatus {
    /// It has not connected yet.
    Connecting,
    /// It has not connected in the time that its template allows.
    Timeout,
    /// It has a session.
    Connected,
    /// Its last session ended then, or was last seen then when nobody wrote its end.
    Disconnected {
        /// When that was.
        at: Timestamp,
    },
}

impl AgentStatus {
    /// The original's word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Connecting => "connecting",
            Self::Timeout => "timeout",
            Self::Connected => "connected",
            Self::Disconnected { .. } => "disconnected",
        }
    }
}

impl fmt::Display for AgentStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Agent {
    /// The status at `now`, when a session that was not seen for longer than `inactive` counts as gone.
    pub fn status(&self, now: Timestamp, inactive: Duration) -> AgentStatus {
        let patience = u64::try_from(self.connection_timeout_seconds).unwrap_or(0);
        self.connection
            .status(self.created_at, Duration::from_secs(patience), now, inactive)
    }
}

impl ConnectionTimes {
    /// The status at `now` of an agent that was made at `created` and should connect within `patience` (zero is any
    /// time). `disconnected_at` is never reset, so that the newer of two times decides.
    ///
    /// Source: coder/coder `coderd/database/modelmethods.go`, `WorkspaceAgent.Status`.
    pub fn status(
        &self,
        created: Timestamp,
        patience: Duration,
        now: Timestamp,
        inactive: Duration,
    ) -> AgentStatus {
        let Some(first) = self.first_connected_at else {
            let late = !patience.is_zero() && now.saturating_since(created) > patience;
            return if late {
                AgentStatus::Timeout
            } else {
                AgentStatus::Connecting
            };
        };
        match (self.last_connected_at, self.disconnected_at) {
            (None, at) => AgentStatus::Disconnected {
                at: at.unwrap_or(first),
            },
            (Some(last), Some(at)) if at >= last => AgentStatus::Disconnected { at },
            (Some(last), _) if now.saturating_since(last) > inactive => {
                AgentStatus::Disconnected { at: last }
            }
            (Some(_), _) => AgentStatus::Connected,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INACTIVE: Duration = Duration::from_secs(30);

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_micros(seconds * 1_000_000)
    }

    fn times(first: Option<i64>, last: Option<i64>, disconnected: Option<i64>) -> ConnectionTimes {
        ConnectionTimes {
            first_connected_at: first.map(at),
            last_connected_at: last.map(at),
            disconnected_at: disconnected.map(at),
        }
    }

    fn status(times: &ConnectionTimes, patience: u64, now: i64) -> AgentStatus {
        times.status(at(0), Duration::from_secs(patience), at(now), INACTIVE)
    }

    #[test]
    fn conn_038_an_agent_that_never_connected_times_out_only_when_it_has_a_timeout() {
        let never = times(None, None, None);
        assert_eq!(status(&never, 120, 121), AgentStatus::Timeout);
        assert_eq!(status(&never, 120, 120), AgentStatus::Connecting);
        assert_eq!(status(&never, 0, 1_000_000), AgentStatus::Connecting);
        assert_eq!(
            status(&times(Some(1), Some(1), None), 1, 20),
            AgentStatus::Connected
        );
    }

    #[test]
    fn conn_037_without_a_disconnect_an_agent_is_gone_since_it_was_last_seen() {
        let seen = times(Some(1), Some(100), None);
        assert_eq!(status(&seen, 0, 130), AgentStatus::Connected);
        assert_eq!(status(&seen, 0, 131), AgentStatus::Disconnected { at: at(100) });
        let back = times(Some(1), Some(100), Some(50));
        assert_eq!(status(&back, 0, 131), AgentStatus::Disconnected { at: at(100) });
    }

    #[test]
    fn conn_039_an_end_at_the_time_of_the_last_sight_is_an_end() {
        let ended = times(Some(1), Some(100), Some(100));
        assert_eq!(status(&ended, 0, 100), AgentStatus::Disconnected { at: at(100) });
    }

    #[test]
    fn conn_029_an_earlier_end_does_not_count_after_a_reconnect() {
        let back = times(Some(1), Some(100), Some(99));
        assert_eq!(status(&back, 0, 110), AgentStatus::Connected);
    }

    #[test]
    fn the_words_are_the_originals() {
        let words = [
            AgentStatus::Connecting,
            AgentStatus::Timeout,
            AgentStatus::Connected,
            AgentStatus::Disconnected { at: at(0) },
        ]
        .map(|status| status.to_string());
        assert_eq!(words, ["connecting", "timeout", "connected", "disconnected"]);
    }
}
