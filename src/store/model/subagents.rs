//! Sub agents, and the scripts' timings.

use crate::clock::Timestamp;
use crate::ids::{AgentId, AgentToken, AppId, ScriptId};

/// A sub agent as its parent creates it; what it does not name is taken from its parent.
#[derive(Clone, Debug)]
pub struct NewSubAgent {
    /// Its id.
    pub id: AgentId,
    /// Who creates it.
    pub parent_id: AgentId,
    /// What it dials with.
    pub auth_token: AgentToken,
    /// When it is created.
    pub created_at: Timestamp,
    /// Name, unique among the live agents of the build.
    pub name: String,
    /// Working directory before expansion.
    pub directory: String,
    /// Architecture, such as amd64.
    pub architecture: String,
    /// Operating system, such as linux.
    pub operating_system: String,
    /// Labels of the display apps, in order; duplicates stay.
    pub display_apps: Vec<&'static str>,
    /// Its apps.
    pub apps: Vec<NewApp>,
}

/// An app of a new sub agent.
#[derive(Clone, Debug)]
pub struct NewApp {
    /// Its place in the request, under which it is reported when the store refuses it.
    pub index: usize,
    /// Its id.
    pub id: AppId,
    /// The slug as stored.
    pub slug: String,
    /// Name for people.
    pub display_name: String,
    /// Path or URL of an icon.
    pub icon: String,
    /// Command that it runs.
    pub command: Option<String>,
    /// Where it listens.
    pub url: Option<String>,
    /// URL of the health check; empty without one.
    pub healthcheck_url: String,
    /// Seconds between checks.
    pub healthcheck_interval: i32,
    /// Failures before it counts as unhealthy.
    pub healthcheck_threshold: i32,
    /// Served on a subdomain.
    pub subdomain: bool,
    /// Sharing level label.
    pub sharing_level: &'static str,
    /// Opens outside.
    pub external: bool,
    /// Not shown.
    pub hidden: bool,
    /// Place among the apps.
    pub display_order: i32,
    /// Where it opens.
    pub open_in: &'static str,
    /// Group under which it is shown.
    pub display_group: Option<String>,
}

/// A sub agent as it is listed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubAgent {
    /// Its id.
    pub id: AgentId,
    /// Its name.
    pub name: String,
    /// What it dials with.
    pub auth_token: AgentToken,
}

/// How taking over an agent that was created beforehand went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SubAgentAdopted {
    /// Its display apps are replaced.
    Done(SubAgent),
    /// The agent that asks is absent or deleted.
    NoParent,
    /// The agent that is asked for is absent or deleted.
    NoAgent,
    /// It is another's child, or nobody's.
    NotAChild,
}

/// How a deletion went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SubAgentDeleted {
    /// It is deleted now, or was before, or is no sub agent.
    Done,
    /// It is in a workspace of another owner or organization; nothing was changed.
    Forbidden,
}

/// How a run of a script went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScriptTiming {
    /// Which script.
    pub script_id: ScriptId,
    /// When it began.
    pub started_at: Timestamp,
    /// When it ended.
    pub ended_at: Timestamp,
    /// Its exit code.
    pub exit_code: i32,
    /// Label of what it ran for; the store refuses an empty one.
    pub stage: &'static str,
    /// Label of how it ended; the store refuses an empty one.
    pub status: &'static str,
}
