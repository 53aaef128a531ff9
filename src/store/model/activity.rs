//! What the store is told, and tells, of workspaces in use and builds in progress.

use crate::clock::Timestamp;

/// When a workspace starts by itself next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Autostart {
    /// The time, in whole minutes.
    pub at: Timestamp,
    /// The day of the week in the schedule's time zone, 0 (Monday) to 6: templates forbid days.
    pub weekday: u8,
}

labels! {
    /// How the slowest part of a build's start ended; the worst of its agents counts.
    BuildStatus { Success = "success", Timeout = "timeout", Error = "error" }
}

/// A build, and how far its agents are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BuildReadiness {
    /// When the build was made.
    pub created_at: Timestamp,
    /// `start`, `stop` or `delete`.
    pub transition: String,
    /// Name of the workspace's template.
    pub template_name: String,
    /// Name of its organization.
    pub organization_name: String,
    /// Whether the workspace is a prebuild that nobody has claimed.
    pub is_prebuild: bool,
    /// Whether no agent is without a time at which it was ready.
    pub all_agents_ready: bool,
    /// The latest of these times; year 1 when there is none.
    pub last_agent_ready_at: Timestamp,
    /// The worst state of an agent.
    pub status: BuildStatus,
}
