//! What does not stay for ever.

/// A kind of rows that are removed when they are old.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expired {
    /// Statistics, by when they arrived.
    Stats,
    /// Notifications, by when they were enqueued.
    Notifications,
    /// Log lines of agents that are not in their workspace's latest build, by when those were last connected.
    Logs,
}

impl Expired {
    /// Every kind.
    pub const ALL: [Self; 3] = [Self::Stats, Self::Notifications, Self::Logs];
}
