//! Settings that are a choice between names, or have one beside a number.

/// How sure a commit is to survive a power loss.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Synchronous {
    /// The database stays whole; the last commits may be lost.
    Normal,
    /// No commit is lost.
    Full,
}

/// How notifications are delivered beside the inbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum NotificationsMethod {
    /// By mail.
    Smtp,
    /// By HTTP requests to a receiver.
    Webhook,
}

/// A place for reports of connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum ConnectionLogKind {
    /// A row each.
    Database,
    /// A log line each.
    Log,
    /// Nowhere.
    None,
}

/// What the store is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum StoreKind {
    /// A SQLite file in the data directory.
    Sqlite,
    /// A Postgres database of our own.
    Postgres,
    /// The Postgres database of a coder deployment.
    Coder,
}

/// How many connections are kept open while nobody uses them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MaxIdle {
    /// A third of those that there may be at once, and one at least.
    Auto,
    /// So many.
    Count(u32),
}

impl MaxIdle {
    /// The number, where there may be `max_open` at once.
    pub fn of(self, max_open: u32) -> u32 {
        match self {
            Self::Auto => (max_open / 3).max(1),
            Self::Count(count) => count,
        }
    }
}
