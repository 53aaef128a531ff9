//! What can go wrong in a store, in terms that services can decide on.

/// Why a store could not do what was asked.
///
/// The text is what the original's peers see as the database's own: it never holds a value or an address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The row that was asked for does not exist.
    #[error("sql: no rows in result set")]
    NoRows,
    /// A constraint refused the write; nothing was written.
    #[error("{text}")]
    Violation {
        /// Which constraint.
        violation: Violation,
        /// The engine's text.
        text: String,
    },
    /// The store is away (connection lost, lock or pool timeout, disk full, I/O error); trying again may help.
    #[error("{0}")]
    Unavailable(String),
    /// Another transaction went first (deadlock, serialization failure); nothing was written, and trying again at once helps.
    #[error("{0}")]
    Conflict(String),
    /// The engine's answer is an error that trying again will not change.
    #[error("{0}")]
    Rejected(String),
}

impl StoreError {
    /// Whether the store is away, or busy with others, rather than having answered.
    pub fn is_unavailable(&self) -> bool {
        matches!(self, Self::Unavailable(_) | Self::Conflict(_))
    }

    /// Whether `violation` is what refused the write.
    pub fn is_violation(&self, expected: Violation) -> bool {
        matches!(self, Self::Violation { violation, .. } if *violation == expected)
    }
}

/// The constraints that somebody reacts to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Violation {
    /// `max_logs_length` of `workspace_agents`: more than 1,048,576 bytes of log text.
    MaxLogsLength,
    /// `workspace_agent_log_sources_pkey`: the agent has a source of that id.
    LogSourceExists,
    /// `workspace_agent_script_timings_script_id_started_at_key`: that run of the script is stored.
    ScriptTimingExists,
    /// Two live agents of one build with the same name.
    AgentNameTaken,
    /// The user has opted out of a notification, or not in where that is asked for.
    NotificationDisabled,
    /// `notification_messages_dedupe_hash_idx`: the same notification on the same UTC day.
    NotificationExists,
    /// Any other constraint.
    Other,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_waits_for_a_store_that_is_away_waits_for_one_that_is_busy_too() {
        for (error, waits) in [
            (StoreError::Unavailable("away".to_owned()), true),
            (StoreError::Conflict("deadlock detected".to_owned()), true),
            (StoreError::Rejected("no such table".to_owned()), false),
            (StoreError::NoRows, false),
        ] {
            assert_eq!(error.is_unavailable(), waits, "{error:?}");
        }
    }
}
