//! What the store holds, as the services see it: plain values, no SQL, no wire types.

mod client_tokens;
mod connection_logs;
mod owner_secrets;
mod retention;
mod subagents;

use uuid::Uuid;

use crate::clock::Timestamp;
use crate::ids::{
    AgentId, AgentToken, AppId, BuildId, DevcontainerId, LogSourceId, OrganizationId, ResourceId, ScriptId,
    TemplateId, TemplateVersionId, UserId, WorkspaceId,
};

pub use self::client_tokens::*;
pub use self::connection_logs::*;
pub use self::owner_secrets::*;
pub use self::retention::*;
pub use self::subagents::*;

/// Declares an enum whose labels are those of the database.
macro_rules! labels {
    ($($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $label:literal),* $(,)? })*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $name { $($(#[$variant_doc])* #[doc = concat!("`", $label, "`")] $variant),* }

        impl $name {
            /// The database's label.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $label),* }
            }

            /// The value with this database label.
            pub fn from_label(label: &str) -> Option<Self> {
                match label { $($label => Some(Self::$variant),)* _ => None }
            }
        }
    )*};
}

// After the macro that they use.
mod apps;
mod notifications;
mod owned_workspaces;

pub use self::apps::*;
pub use self::notifications::*;
pub use self::owned_workspaces::*;

labels! {
    /// Where an agent is in its life, as it reported.
    LifecycleState {
        Created = "created", Starting = "starting", StartTimeout = "start_timeout", StartError = "start_error",
        Ready = "ready", ShuttingDown = "shutting_down", ShutdownTimeout = "shutdown_timeout",
        ShutdownError = "shutdown_error", Off = "off",
    }
    /// What an agent runs under or with. In alphabetical order, which is how they are stored.
    Subsystem { Envbox = "envbox", Envbuilder = "envbuilder", Exectrace = "exectrace" }
    /// Severity of a log line.
    LogLevel { Trace = "trace", Debug = "debug", Info = "info", Warn = "warn", Error = "error" }
    /// State of a resource monitor.
    MonitorState { Ok = "OK", Nok = "NOK" }
    /// What an agent's token gives access to.
    ApiKeyScope { All = "all", NoUserData = "no_user_data" }
}

/// All that the handshake and the session need, read by one statement.
#[derive(Clone, Debug)]
pub struct Authenticated {
    /// The agent's row.
    pub agent: Agent,
    /// Its workspace.
    pub workspace: Workspace,
    /// The build that the agent belongs to.
    pub build_id: BuildId,
    /// The template version of that build.
    pub template_version_id: TemplateVersionId,
}

/// The parts of an agent's row that anything here reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Agent {
    /// Its id.
    pub id: AgentId,
    /// Set on sub agents.
    pub parent_id: Option<AgentId>,
    /// Name, unique within a build.
    pub name: String,
    /// The resource it hangs on.
    pub resource_id: ResourceId,
    /// When the row was made.
    pub created_at: Timestamp,
    /// When the row was last written.
    pub updated_at: Timestamp,
    /// The JSON text of its environment, as stored.
    pub environment_variables: Option<String>,
    /// Working directory before expansion.
    pub directory: String,
    /// Path of the message of the day.
    pub motd_file: String,
    /// Version that the agent last reported.
    pub version: String,
    /// API version that it last dialed with.
    pub api_version: String,
    /// Seconds after which an agent that never connected counts as timed out; 0 is never.
    pub connection_timeout_seconds: i32,
    /// Its connection history.
    pub connection: ConnectionTimes,
    /// Bytes of log text accepted so far.
    pub logs_length: i64,
    /// Whether the log limit was reached.
    pub logs_overflowed: bool,
    /// What its token may do.
    pub api_key_scope: ApiKeyScope,
}

/// Columns from which an agent's status is derived.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConnectionTimes {
    /// First connection ever.
    pub first_connected_at: Option<Timestamp>,
    /// Last time it was seen connected.
    pub last_connected_at: Option<Timestamp>,
    /// Last time a session ended; never reset.
    pub disconnected_at: Option<Timestamp>,
}

/// A workspace with the names that the services use, or the parts of it that are cached per session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Workspace {
    /// Its id.
    pub id: WorkspaceId,
    /// Its name.
    pub name: String,
    /// Its owner.
    pub owner_id: UserId,
    /// The owner's user name.
    pub owner_username: String,
    /// Its organization.
    pub organization_id: OrganizationId,
    /// Its template.
    pub template_id: TemplateId,
    /// The template's name.
    pub template_name: String,
    /// Cron text of the autostart schedule.
    pub autostart_schedule: Option<String>,
}

impl Workspace {
    /// Whether it is a prebuild that nobody has claimed yet.
    pub fn is_prebuild(&self) -> bool {
        self.owner_id == UserId::PREBUILDS
    }
}

/// An app of an agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct App {
    /// Its id.
    pub id: AppId,
    /// Name in URLs, unique per agent.
    pub slug: String,
    /// Name for people.
    pub display_name: String,
    /// Icon path or URL.
    pub icon: String,
    /// Command, for terminal apps.
    pub command: Option<String>,
    /// URL, for web apps.
    pub url: Option<String>,
    /// URL of the health check; empty without one.
    pub healthcheck_url: String,
    /// Seconds between checks.
    pub healthcheck_interval: i32,
    /// Failures before it counts as unhealthy.
    pub healthcheck_threshold: i32,
    /// Health label as stored; see [`crate::services`] for the ones that exist.
    pub health: String,
    /// Served on a subdomain.
    pub subdomain: bool,
    /// Sharing level label as stored.
    pub sharing_level: String,
    /// Opens outside.
    pub external: bool,
    /// Not shown.
    pub hidden: bool,
}

/// A script of an agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Script {
    /// Its id.
    pub id: ScriptId,
    /// Source of its log lines.
    pub log_source_id: LogSourceId,
    /// Where the agent logs it.
    pub log_path: String,
    /// Text of the script.
    pub script: String,
    /// When to run it; empty for never on a schedule.
    pub cron: String,
    /// Runs when the agent starts.
    pub run_on_start: bool,
    /// Runs when the agent stops.
    pub run_on_stop: bool,
    /// Nobody may log in before it ended.
    pub start_blocks_login: bool,
    /// Seconds it may run; 0 is unlimited.
    pub timeout_seconds: i32,
}

/// A metadata item that an agent shall collect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MetadataDescription {
    /// Its key, unique per agent.
    pub key: String,
    /// Name for people.
    pub display_name: String,
    /// Script that prints the value.
    pub script: String,
    /// The column's number, which agents read as seconds.
    pub interval: i64,
    /// The column's number, which agents read as seconds.
    pub timeout: i64,
}

/// A dev container of an agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Devcontainer {
    /// Its id.
    pub id: DevcontainerId,
    /// Folder on the host.
    pub workspace_folder: String,
    /// Path of its configuration.
    pub config_path: String,
    /// Its name.
    pub name: String,
    /// The sub agent that runs in it.
    pub subagent_id: Option<AgentId>,
}

/// Everything of a manifest that is not in the agent's or workspace's row.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ManifestParts {
    /// By slug.
    pub apps: Vec<App>,
    /// By creation time, then id.
    pub scripts: Vec<Script>,
    /// By display order, then key.
    pub metadata: Vec<MetadataDescription>,
    /// By creation time, then id.
    pub devcontainers: Vec<Devcontainer>,
}

/// A memory or volume monitor of an agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Monitor {
    /// Whether it may alert.
    pub enabled: bool,
    /// Percent from which on usage is too high.
    pub threshold: i32,
    /// Its last state.
    pub state: MonitorState,
    /// No alert until then.
    pub debounced_until: Timestamp,
}

/// The monitors of one agent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Monitors {
    /// The memory monitor, if it has one.
    pub memory: Option<Monitor>,
    /// Path and monitor of each volume, by path.
    pub volumes: Vec<(String, Monitor)>,
}

/// What UpdateStartup writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StartupUpdate {
    /// Reported version.
    pub version: String,
    /// Directory after expansion.
    pub expanded_directory: String,
    /// Sorted, without duplicates.
    pub subsystems: Vec<Subsystem>,
    /// API version of the connection, as dialed.
    pub api_version: String,
}

/// What UpdateLifecycle writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LifecycleUpdate {
    /// The new state.
    pub state: LifecycleState,
    /// When the agent says it came to be.
    pub changed_at: Timestamp,
}

/// One line of an agent's log, cleaned of NUL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogLine {
    /// Text; the store keeps its first 1,024 characters.
    pub output: String,
    /// Severity.
    pub level: LogLevel,
}

/// A batch of lines that is stored whole or not at all.
#[derive(Clone, Debug)]
pub struct LogBatch {
    /// Whose lines.
    pub agent_id: AgentId,
    /// Where they come from.
    pub source_id: LogSourceId,
    /// Stamped on every line.
    pub created_at: Timestamp,
    /// Bytes of all lines before any is cut.
    pub output_length: i64,
    /// The lines, at least one.
    pub lines: Vec<LogLine>,
}

/// How a log batch was stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogsInserted {
    /// It is in the store.
    Stored {
        /// Id of its first line; the others follow it.
        first_id: i64,
        /// The agent's `logs_length` before it.
        previous_length: i64,
    },
    /// The agent had overflowed before; nothing was written.
    AlreadyOverflowed,
}

/// A source of log lines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogSource {
    /// Whose.
    pub agent_id: AgentId,
    /// Its id, unique per agent.
    pub id: LogSourceId,
    /// When it was made.
    pub created_at: Timestamp,
    /// Name for people, at most 127 characters.
    pub display_name: String,
    /// Icon path or URL.
    pub icon: String,
}

/// One sample of an agent's statistics.
#[derive(Clone, Debug, PartialEq)]
pub struct AgentStat {
    /// Names the sample, so that one whose write had no answer is not stored twice.
    pub id: Uuid,
    /// When it arrived.
    pub created_at: Timestamp,
    /// Owner of the workspace.
    pub user_id: UserId,
    /// Whose sample.
    pub agent_id: AgentId,
    /// Its workspace.
    pub workspace_id: WorkspaceId,
    /// The workspace's template.
    pub template_id: TemplateId,
    /// A JSON object of counts by protocol.
    pub connections_by_proto: String,
    /// Open connections.
    pub connection_count: i64,
    /// Packets received.
    pub rx_packets: i64,
    /// Bytes received.
    pub rx_bytes: i64,
    /// Packets sent.
    pub tx_packets: i64,
    /// Bytes sent.
    pub tx_bytes: i64,
    /// −1 (or −0.001) when nothing was measured.
    pub connection_median_latency_ms: f64,
    /// VS Code sessions.
    pub session_count_vscode: i64,
    /// JetBrains sessions.
    pub session_count_jetbrains: i64,
    /// Web terminal sessions.
    pub session_count_reconnecting_pty: i64,
    /// SSH sessions.
    pub session_count_ssh: i64,
    /// Whether the sample comes from usage tracking instead of an agent.
    pub usage: bool,
}

/// A collected metadata value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MetadataValue {
    /// Whose.
    pub agent_id: AgentId,
    /// Which item.
    pub key: String,
    /// Its value, free of NUL.
    pub value: String,
    /// Why there is none.
    pub error: String,
    /// When it arrived.
    pub collected_at: Timestamp,
}

/// A change of one agent's connection, to be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectionChange {
    /// Whose.
    pub agent_id: AgentId,
    /// When it happened.
    pub at: Timestamp,
}

/// An event that another process left in the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredEvent {
    /// Ascending.
    pub id: i64,
    /// Pubsub channel.
    pub channel: String,
    /// Pubsub payload.
    pub payload: String,
}

/// An agent as `seed` reports it.
#[derive(Clone, Debug)]
pub struct SeededAgent {
    /// Owner's name, as in the file.
    pub owner: String,
    /// Workspace's name, as in the file.
    pub workspace: String,
    /// Agent's name, as in the file.
    pub agent: String,
    /// Its id.
    pub agent_id: AgentId,
    /// Its token.
    pub token: AgentToken,
}

mod activity;

pub use activity::{Autostart, BuildReadiness, BuildStatus};
