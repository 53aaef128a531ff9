//! Settings that are a choice between names.

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
