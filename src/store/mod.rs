//! The store: every row that outlives a process, behind one trait that each engine implements.
//!
//! Owns all SQL. Must never know of wire messages, HTTP or tasks, and never reads the clock: times are arguments.
//! Services hold an `Arc<dyn Store>`, so an engine is a choice at start-up.

mod coordination;
pub mod copy;
mod error;
mod events;
mod model;
pub mod postgres;
mod schema;
mod sql;
pub mod sqlite;
mod status;
#[cfg(test)]
pub(crate) mod testing;
mod workspace_events;

use std::fmt;
use std::time::Duration;

use async_trait::async_trait;

#[cfg(test)]
pub(crate) use coordination::contract::{self as coordination_cases, coordination_contract};
pub use coordination::{
    Coordination, DatabaseTime, Heartbeat, OwnPeer, PeerWrite, SharedSnapshot, StoredPeer, StoredTunnel,
    Tunnel,
};
pub use error::{StoreError, Violation};
pub use events::Invalidation;
pub use model::*;
pub use schema::{Found, Report, Schema, SchemaStep, StepState, Tables};
pub use sql::SqlStore;
pub use status::AgentStatus;
pub use workspace_events::{InvalidEvent, WorkspaceEvent, WorkspaceEventKind};

use crate::client_token::{ClientToken, ClientTokenId};
use crate::clock::Timestamp;
use crate::ids::{
    AgentId, AgentToken, AppId, BuildId, NotificationTemplateId, ReplicaId, UserId, WorkspaceId,
};
use crate::secret::Secret;

/// What the services ask of a storage engine.
///
/// Every method is one transaction: it happens whole or not at all. Slices may hold many rows and cost one statement.
#[async_trait]
pub trait Store: fmt::Debug + Send + Sync + 'static {
    /// The agent that `token` belongs to, if it may connect now; with its build and workspace, by one statement.
    ///
    /// The rule of eligibility is that of coder/coder `coderd/database/queries/workspaceagents.sql`
    /// (`GetAuthenticatedWorkspaceAgentAndBuildByAuthToken`): the build is its workspace's latest, or it is a
    /// succeeded `start` build directly before a `stop` build whose job is pending or running; workspace and agent
    /// are not deleted.
    ///
    /// Fails while it is known that nothing can be written: an agent that is let in then could store nothing.
    async fn authenticate(&self, token: &AgentToken) -> Result<Option<Authenticated>, StoreError>;

    /// Of `builds`, those whose agents may no longer be connected, by the same rule as [`Store::authenticate`].
    /// A build that does not exist is among them.
    async fn outdated_builds(&self, builds: &[BuildId]) -> Result<Vec<BuildId>, StoreError>;

    /// The row of an agent that is not deleted, read again after its copy was dropped.
    async fn agent(&self, agent: AgentId) -> Result<Agent, StoreError>;

    /// The workspace of an agent.
    async fn workspace_by_agent(&self, agent: AgentId) -> Result<Workspace, StoreError>;

    /// Those of `ids` that exist and are not deleted, in any order.
    async fn workspaces(&self, ids: &[WorkspaceId]) -> Result<Vec<Workspace>, StoreError>;

    /// Apps, scripts, metadata descriptions and dev containers of an agent.
    async fn manifest_parts(&self, agent: AgentId) -> Result<ManifestParts, StoreError>;

    /// The resource monitors of an agent.
    async fn monitors(&self, agent: AgentId) -> Result<Monitors, StoreError>;

    /// The text of a site-wide setting.
    async fn site_config(&self, key: &str) -> Result<Option<String>, StoreError>;

    /// Writes what an agent reported of itself. [`StoreError::NoRows`] when it is absent or deleted.
    async fn update_startup(&self, agent: AgentId, update: &StartupUpdate) -> Result<(), StoreError>;

    /// Writes an agent's state. `Starting` sets `started_at` and clears `ready_at`; `Ready`, `StartTimeout` and
    /// `StartError` set `ready_at`, and `started_at` if it is NULL; the others leave both.
    /// [`StoreError::NoRows`] when it is absent or deleted.
    async fn update_lifecycle(&self, agent: AgentId, update: &LifecycleUpdate) -> Result<(), StoreError>;

    /// Adds a log source; [`Violation::LogSourceExists`] when the agent has one of that id.
    async fn insert_log_source(&self, source: &LogSource) -> Result<(), StoreError>;

    /// Stores a batch of log lines and adds to the agent's `logs_length`.
    ///
    /// [`Violation::MaxLogsLength`] when the total would pass 1,048,576 bytes, then nothing is stored;
    /// [`StoreError::NoRows`] when the agent is absent or deleted.
    async fn insert_logs(&self, batch: &LogBatch) -> Result<LogsInserted, StoreError>;

    /// Marks an agent's log as full.
    async fn set_logs_overflowed(&self, agent: AgentId) -> Result<(), StoreError>;

    /// Creates a sub agent with its apps, and returns the apps that a constraint refused, each with its index. The same
    /// agent again, by its id, changes nothing.
    ///
    /// [`StoreError::NoRows`] when the parent is absent or deleted; [`Violation::AgentNameTaken`] when another live
    /// agent of the build has the name.
    async fn create_sub_agent(&self, agent: &NewSubAgent) -> Result<Vec<(usize, StoreError)>, StoreError>;

    /// Replaces the display apps of a child of `parent`; whatever else it says, nothing was written.
    async fn update_display_apps(
        &self,
        agent: AgentId,
        parent: AgentId,
        display_apps: &[&'static str],
        now: Timestamp,
    ) -> Result<SubAgentAdopted, StoreError>;

    /// The live children of an agent, oldest first. [`StoreError::NoRows`] when it is absent or deleted itself.
    async fn sub_agents(&self, parent: AgentId) -> Result<Vec<SubAgent>, StoreError>;

    /// Marks a sub agent as deleted, if it and `caller` are in workspaces of one owner and organization.
    /// [`StoreError::NoRows`] when it never existed.
    async fn delete_sub_agent(
        &self,
        agent: AgentId,
        caller: AgentId,
        now: Timestamp,
    ) -> Result<SubAgentDeleted, StoreError>;

    /// Stores a run of a script; [`Violation::ScriptTimingExists`] when one of it began at that time.
    async fn insert_script_timing(&self, timing: &ScriptTiming) -> Result<(), StoreError>;

    /// A notification's template with the user whom it is for; [`StoreError::NoRows`] when either is absent.
    async fn notification_recipient(
        &self,
        user: UserId,
        template: NotificationTemplateId,
    ) -> Result<NotificationRecipient, StoreError>;

    /// Queues a notification for delivery. [`Violation::NotificationDisabled`] when the user does not want it,
    /// [`Violation::NotificationExists`] when there is the same one of the same UTC day.
    async fn insert_notification(&self, message: &NewNotification) -> Result<(), StoreError>;

    /// Writes the state of one resource monitor; succeeds when it is gone.
    async fn update_monitor(&self, agent: AgentId, update: &MonitorUpdate) -> Result<(), StoreError>;

    /// The apps of an agent with their health, in any order.
    async fn app_healths(&self, agent: AgentId) -> Result<Vec<AppWithHealth>, StoreError>;

    /// Sets the health of apps, each named once.
    async fn update_app_healths(&self, changes: &[(AppId, AppHealth)]) -> Result<(), StoreError>;

    /// What a new status of the agent's app `slug` is weighed against; [`StoreError::NoRows`] without such an app.
    async fn app_before_status(
        &self,
        agent: AgentId,
        workspace: WorkspaceId,
        slug: &str,
    ) -> Result<AppBeforeStatus, StoreError>;

    /// Adds a status of an app; the same one twice is one.
    async fn insert_app_status(&self, status: &NewAppStatus) -> Result<(), StoreError>;

    /// Records a report of a connection: the first makes its row, a later one fills in its end where that is open.
    async fn upsert_connection_log(&self, log: &ConnectionLog) -> Result<(), StoreError>;

    /// Adds what was counted of boundaries to this replica's row, and says whether that row is new. A new row gets
    /// `new`; of one that exists the unique counts become those of `all`.
    async fn upsert_boundary_usage(
        &self,
        replica: ReplicaId,
        usage: &BoundaryUsage,
        now: Timestamp,
    ) -> Result<bool, StoreError>;

    /// What `owner` has: live workspaces with their latest build and its live agents, of `most` rows at most, by one
    /// statement. There are as many rows as agents, and one for a workspace without; those of sub agents come last.
    async fn owned_workspaces(&self, owner: UserId, most: u32) -> Result<OwnedWorkspaces, StoreError>;

    /// Whether `agent` belongs to the latest build of a live workspace of `owner`.
    async fn owns_agent(&self, owner: UserId, agent: AgentId) -> Result<bool, StoreError>;

    /// The key that resume tokens are signed with, as text. Where there is none yet, it is `candidate` from now on, for
    /// every process on this store.
    async fn resume_key(&self, candidate: &Secret) -> Result<Secret, StoreError>;

    /// Keeps a new token of the user `owner`, by name. [`StoreError::NoRows`] without such an active user.
    async fn create_client_token(
        &self,
        owner: &str,
        token: &ClientToken,
        now: Timestamp,
    ) -> Result<(), StoreError>;

    /// The tokens of clients, by owner and age.
    async fn client_tokens(&self) -> Result<Vec<ClientTokenEntry>, StoreError>;

    /// Forgets a client's token and tells running servers of it. [`StoreError::NoRows`] when there is none.
    async fn revoke_client_token(&self, token: ClientTokenId, now: Timestamp) -> Result<(), StoreError>;

    /// Whose a client's token is, by one statement; `None` when it is nobody's, or that user's is suspended.
    async fn authenticate_client(&self, token: &ClientToken) -> Result<Option<Client>, StoreError>;

    /// The git key of a user. [`StoreError::NoRows`] when there is none.
    async fn git_ssh_key(&self, user: UserId) -> Result<GitSshKey, StoreError>;

    /// A user's link to an external provider, if there is one.
    async fn external_auth_link(
        &self,
        provider: &str,
        user: UserId,
    ) -> Result<Option<ExternalAuthLink>, StoreError>;

    /// Replaces the tokens of a link whose refresh token still is the one that was used, and says whether it was.
    async fn renew_external_auth_link(&self, renewal: &LinkRenewal) -> Result<bool, StoreError>;

    /// Removes a link's refresh token, if it still is the one that was refused, and keeps why.
    async fn refuse_external_auth_link(&self, refusal: &LinkRefusal) -> Result<(), StoreError>;

    /// Adds statistics rows, each under a new id.
    async fn insert_stats(&self, stats: &[AgentStat]) -> Result<(), StoreError>;

    /// Moves the deadline of a workspace's running build, because somebody works in it; says whether it moved.
    ///
    /// It moves to `now` and the template's `activity_bump`; when that lies beyond a future `autostart` on a day that
    /// the template allows, to the autostart and the workspace's `ttl` (the template's `default_ttl` where users may
    /// not choose). Never earlier than it is, never past `max_deadline`; and only for a completed `start` build that
    /// has a deadline, once 5 % of the length have passed.
    ///
    /// Source: coder/coder `coderd/database/queries/activitybump.sql`; the days `coderd/schedule/autostart.go`
    /// (`NextAutostart`).
    async fn bump_activity(
        &self,
        workspace: WorkspaceId,
        now: Timestamp,
        autostart: Option<Autostart>,
    ) -> Result<bool, StoreError>;

    /// Sets `last_used_at` of workspaces, never to an earlier time.
    async fn touch_workspaces(&self, workspaces: &[WorkspaceId], at: Timestamp) -> Result<(), StoreError>;

    /// How far the agents of an agent's build are, deleted ones and sub agents among them.
    async fn build_readiness(&self, agent: AgentId) -> Result<BuildReadiness, StoreError>;

    /// Sets metadata values; those of unknown agents or keys are ignored.
    async fn update_metadata(&self, values: &[MetadataValue]) -> Result<(), StoreError>;

    /// Records that sessions began: `first_connected_at` if NULL, `last_connected_at` later than any earlier
    /// disconnect, and the replica. One that had to wait until `now` leaves what another replica wrote after it.
    async fn record_connects(
        &self,
        replica: ReplicaId,
        changes: &[ConnectionChange],
        now: Timestamp,
    ) -> Result<(), StoreError>;

    /// Records that sessions live at `at`, a tick of which there is one each `tick`: `last_connected_at`, later than any
    /// earlier disconnect; the replica, `updated_at`; never `disconnected_at`. Leaves rows that another replica writes.
    async fn record_heartbeats(
        &self,
        replica: ReplicaId,
        agents: &[AgentId],
        at: Timestamp,
        tick: Duration,
    ) -> Result<(), StoreError>;

    /// Records that sessions ended: `disconnected_at`, not before `last_connected_at`, on rows whose replica still
    /// is `replica`.
    async fn record_disconnects(
        &self,
        replica: ReplicaId,
        changes: &[ConnectionChange],
    ) -> Result<(), StoreError>;

    /// Writes a seed file's documents, all or nothing, and the events that tell running servers of it.
    async fn seed(&self, seed: &crate::seed::Seed, now: Timestamp) -> Result<Vec<SeededAgent>, StoreError>;

    /// Events that other processes left since the last call, oldest first. Cheap when there are none.
    async fn take_events(&self) -> Result<Vec<StoredEvent>, StoreError>;

    /// Forgets events made before `before`, of those that [`Store::take_events`] has brought.
    async fn prune_events(&self, before: Timestamp) -> Result<(), StoreError>;

    /// Removes some of the rows that are older than `before`, and says whether there may be more.
    async fn purge(&self, what: Expired, before: Timestamp) -> Result<bool, StoreError>;

    /// Succeeds when the store can be read and written, which it tries.
    async fn ping(&self) -> Result<(), StoreError>;

    /// Whose tables it works on. On those of a coder deployment what belongs to its own servers is refused: seeding, tokens
    /// of clients, the key of resume tokens, changes to links, purging.
    fn schema(&self) -> Schema {
        Schema::Own
    }

    /// How many statements ran so far, by name.
    fn statements(&self) -> Vec<(&'static str, u64)>;

    /// Waits for running statements and closes the store; later calls fail.
    async fn close(&self);
}
