//! The store on SQL databases: what is asked of them, whichever engine answers.
//!
//! Owns the statements, in the dialect of each engine side by side, and what rows mean. Connections, errors and schemas are
//! the engines' own ([`super::sqlite`], [`super::postgres`]).

mod activity;
mod agent;
mod apps;
mod auth;
pub(super) mod batch;
mod boundary_usage;
mod client_tokens;
mod connection_logs;
mod connections;
mod cursor;
pub(super) mod database;
mod events;
mod logs;
mod manifest;
mod notifications;
mod owner_secrets;
mod retention;
pub(super) mod row;
mod seed;
pub(super) mod statement;
mod subagents;
mod tailnet;
#[cfg(test)]
mod tests;
pub(super) mod value;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use self::database::Database;
use self::statement::{Dialect, Statement, statements};
use crate::client_token::{ClientToken, ClientTokenId};
use crate::clock::Timestamp;
use crate::ids::{AgentId, AgentToken, BuildId, ReplicaId, WorkspaceId};
use crate::ids::{AppId, NotificationTemplateId, UserId};
use crate::seed::Seed;
use crate::store::Coordination;
use crate::store::{
    Agent, AgentStat, Authenticated, Autostart, BoundaryUsage, BuildReadiness, ConnectionChange,
    ConnectionLog, Expired, LifecycleUpdate, LogBatch, LogSource, LogsInserted, ManifestParts, MetadataValue,
    Monitors, NewSubAgent, ScriptTiming, SeededAgent, StartupUpdate, Store, StoreError, StoredEvent,
    SubAgent, SubAgentAdopted, SubAgentDeleted, Workspace,
};
use crate::store::{
    AppBeforeStatus, AppHealth, AppWithHealth, MonitorUpdate, NewAppStatus, NewNotification,
    NotificationRecipient,
};
use crate::store::{Client, ClientTokenEntry, ExternalAuthLink, GitSshKey, LinkRefusal, LinkRenewal, Schema};
use crate::{secret::Secret, store::OwnedWorkspaces};

statements! {
    /// Touches the file, which a bare `SELECT 1` would not.
    PING = "ping": "SELECT count(*) FROM organizations";
}

/// Every statement of a store.
pub(in crate::store) fn all_statements() -> impl Iterator<Item = &'static Statement> {
    [
        STATEMENTS,
        activity::STATEMENTS,
        agent::STATEMENTS,
        apps::STATEMENTS,
        auth::STATEMENTS,
        batch::STATEMENTS,
        boundary_usage::STATEMENTS,
        client_tokens::STATEMENTS,
        connection_logs::STATEMENTS,
        connections::STATEMENTS,
        cursor::STATEMENTS,
        events::STATEMENTS,
        logs::STATEMENTS,
        manifest::STATEMENTS,
        owner_secrets::STATEMENTS,
        retention::STATEMENTS,
        notifications::STATEMENTS,
        subagents::STATEMENTS,
        tailnet::STATEMENTS,
    ]
    .into_iter()
    .chain(seed::statements())
    .flatten()
    .copied()
}

/// A store in a SQLite file or a Postgres database.
#[derive(Debug)]
pub struct SqlStore {
    database: Database,
    schema: Schema,
    cursor: cursor::Cursor,
}

impl SqlStore {
    /// A store in a database whose schema is up to date.
    pub(super) async fn new(database: Database, schema: Schema) -> Result<Self, StoreError> {
        let cursor = cursor::Cursor::default();
        cursor.skip_existing(&database).await?;
        Ok(Self {
            database,
            schema,
            cursor,
        })
    }

    /// What is not an agent's to report is left to the servers that a database belongs to.
    fn expect_own(&self, what: &str) -> Result<(), StoreError> {
        match self.schema {
            Schema::Own => Ok(()),
            Schema::Coder => Err(StoreError::Rejected(format!(
                "the database is that of a coder deployment, where {what} is left to its own servers"
            ))),
        }
    }

    /// What is asked of one engine only.
    pub(super) fn database(&self) -> &Database {
        &self.database
    }

    /// The way of its replicas to each other, on an engine that several processes can share.
    pub fn coordination(self: &Arc<Self>) -> Option<Arc<dyn Coordination>> {
        match self.database.dialect() {
            Dialect::Sqlite => None,
            Dialect::Postgres => Some(Arc::<Self>::clone(self)),
        }
    }
}

#[async_trait]
impl Store for SqlStore {
    async fn authenticate(&self, token: &AgentToken) -> Result<Option<Authenticated>, StoreError> {
        self.database.expect_writable().await?;
        auth::authenticate(&self.database, token).await
    }

    async fn outdated_builds(&self, builds: &[BuildId]) -> Result<Vec<BuildId>, StoreError> {
        auth::outdated_builds(&self.database, builds).await
    }

    async fn agent(&self, agent: AgentId) -> Result<Agent, StoreError> {
        agent::agent(&self.database, agent).await
    }

    async fn workspace_by_agent(&self, agent: AgentId) -> Result<Workspace, StoreError> {
        agent::workspace_by_agent(&self.database, agent).await
    }

    async fn workspaces(&self, ids: &[WorkspaceId]) -> Result<Vec<Workspace>, StoreError> {
        agent::workspaces(&self.database, ids).await
    }

    async fn manifest_parts(&self, agent: AgentId) -> Result<ManifestParts, StoreError> {
        manifest::parts(&self.database, agent).await
    }

    async fn monitors(&self, agent: AgentId) -> Result<Monitors, StoreError> {
        agent::monitors(&self.database, agent).await
    }

    async fn site_config(&self, key: &str) -> Result<Option<String>, StoreError> {
        agent::site_config(&self.database, key).await
    }

    async fn update_startup(&self, agent: AgentId, update: &StartupUpdate) -> Result<(), StoreError> {
        agent::update_startup(&self.database, agent, update).await
    }

    async fn update_lifecycle(&self, agent: AgentId, update: &LifecycleUpdate) -> Result<(), StoreError> {
        agent::update_lifecycle(&self.database, agent, update).await
    }

    async fn insert_log_source(&self, source: &LogSource) -> Result<(), StoreError> {
        logs::insert_source(&self.database, source).await
    }

    async fn insert_logs(&self, batch: &LogBatch) -> Result<LogsInserted, StoreError> {
        logs::insert(&self.database, batch).await
    }

    async fn set_logs_overflowed(&self, agent: AgentId) -> Result<(), StoreError> {
        logs::set_overflowed(&self.database, agent).await
    }

    async fn create_sub_agent(&self, agent: &NewSubAgent) -> Result<Vec<(usize, StoreError)>, StoreError> {
        subagents::create(&self.database, agent).await
    }

    async fn update_display_apps(
        &self,
        agent: AgentId,
        parent: AgentId,
        display_apps: &[&'static str],
        now: Timestamp,
    ) -> Result<SubAgentAdopted, StoreError> {
        subagents::update_display_apps(&self.database, agent, parent, display_apps, now).await
    }

    async fn sub_agents(&self, parent: AgentId) -> Result<Vec<SubAgent>, StoreError> {
        subagents::list(&self.database, parent).await
    }

    async fn delete_sub_agent(
        &self,
        agent: AgentId,
        caller: AgentId,
        now: Timestamp,
    ) -> Result<SubAgentDeleted, StoreError> {
        subagents::delete(&self.database, agent, caller, now).await
    }

    async fn insert_script_timing(&self, timing: &ScriptTiming) -> Result<(), StoreError> {
        subagents::insert_timing(&self.database, timing).await
    }

    async fn notification_recipient(
        &self,
        user: UserId,
        template: NotificationTemplateId,
    ) -> Result<NotificationRecipient, StoreError> {
        notifications::recipient(&self.database, user, template).await
    }

    async fn insert_notification(&self, message: &NewNotification) -> Result<(), StoreError> {
        notifications::insert(&self.database, message).await
    }

    async fn update_monitor(&self, agent: AgentId, update: &MonitorUpdate) -> Result<(), StoreError> {
        notifications::update_monitor(&self.database, agent, update).await
    }

    async fn app_healths(&self, agent: AgentId) -> Result<Vec<AppWithHealth>, StoreError> {
        apps::healths(&self.database, agent).await
    }

    async fn update_app_healths(&self, changes: &[(AppId, AppHealth)]) -> Result<(), StoreError> {
        apps::update_healths(&self.database, changes).await
    }

    async fn app_before_status(
        &self,
        agent: AgentId,
        workspace: WorkspaceId,
        slug: &str,
    ) -> Result<AppBeforeStatus, StoreError> {
        apps::before_status(&self.database, agent, workspace, slug).await
    }

    async fn insert_app_status(&self, status: &NewAppStatus) -> Result<(), StoreError> {
        apps::insert_status(&self.database, status).await
    }

    async fn upsert_connection_log(&self, log: &ConnectionLog) -> Result<(), StoreError> {
        connection_logs::upsert(&self.database, log).await
    }

    async fn upsert_boundary_usage(
        &self,
        replica: ReplicaId,
        usage: &BoundaryUsage,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        boundary_usage::upsert(&self.database, replica, usage, now).await
    }

    async fn owned_workspaces(&self, owner: UserId, most: u32) -> Result<OwnedWorkspaces, StoreError> {
        tailnet::owned_workspaces(&self.database, owner, most).await
    }

    async fn owns_agent(&self, owner: UserId, agent: AgentId) -> Result<bool, StoreError> {
        tailnet::owns_agent(&self.database, owner, agent).await
    }

    async fn resume_key(&self, candidate: &Secret) -> Result<Secret, StoreError> {
        self.expect_own("making keys")?;
        tailnet::resume_key(&self.database, candidate).await
    }

    async fn create_client_token(
        &self,
        owner: &str,
        token: &ClientToken,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        self.expect_own("making tokens")?;
        client_tokens::create(&self.database, owner, token, now).await
    }

    async fn client_tokens(&self) -> Result<Vec<ClientTokenEntry>, StoreError> {
        self.expect_own("listing tokens")?;
        client_tokens::list(&self.database).await
    }

    async fn revoke_client_token(&self, token: ClientTokenId, now: Timestamp) -> Result<(), StoreError> {
        self.expect_own("revoking tokens")?;
        let revoked = client_tokens::revoke(&self.database, token, now).await;
        self.cursor.look_again();
        revoked
    }

    async fn authenticate_client(&self, token: &ClientToken) -> Result<Option<Client>, StoreError> {
        self.expect_own("serving clients")?;
        client_tokens::authenticate(&self.database, token).await
    }

    async fn git_ssh_key(&self, user: UserId) -> Result<GitSshKey, StoreError> {
        owner_secrets::git_ssh_key(&self.database, user).await
    }

    async fn external_auth_link(
        &self,
        provider: &str,
        user: UserId,
    ) -> Result<Option<ExternalAuthLink>, StoreError> {
        owner_secrets::link(&self.database, provider, user).await
    }

    async fn renew_external_auth_link(&self, renewal: &LinkRenewal) -> Result<bool, StoreError> {
        self.expect_own("renewing external-auth links")?;
        owner_secrets::renew_link(&self.database, renewal).await
    }

    async fn refuse_external_auth_link(&self, refusal: &LinkRefusal) -> Result<(), StoreError> {
        self.expect_own("changing external-auth links")?;
        owner_secrets::refuse_link(&self.database, refusal).await
    }

    async fn insert_stats(&self, stats: &[AgentStat]) -> Result<(), StoreError> {
        batch::insert_stats(&self.database, stats).await
    }

    async fn bump_activity(
        &self,
        workspace: WorkspaceId,
        now: Timestamp,
        autostart: Option<Autostart>,
    ) -> Result<bool, StoreError> {
        activity::bump(&self.database, workspace, now, autostart).await
    }

    async fn touch_workspaces(&self, workspaces: &[WorkspaceId], at: Timestamp) -> Result<(), StoreError> {
        activity::touch(&self.database, workspaces, at).await
    }

    async fn build_readiness(&self, agent: AgentId) -> Result<BuildReadiness, StoreError> {
        activity::build_readiness(&self.database, agent).await
    }

    async fn update_metadata(&self, values: &[MetadataValue]) -> Result<(), StoreError> {
        batch::update_metadata(&self.database, values).await
    }

    async fn record_connects(
        &self,
        replica: ReplicaId,
        changes: &[ConnectionChange],
        now: Timestamp,
    ) -> Result<(), StoreError> {
        connections::record_connects(&self.database, replica, changes, now).await
    }

    async fn record_heartbeats(
        &self,
        replica: ReplicaId,
        agents: &[AgentId],
        at: Timestamp,
        tick: Duration,
    ) -> Result<(), StoreError> {
        connections::record_heartbeats(&self.database, replica, agents, at, tick).await
    }

    async fn record_disconnects(
        &self,
        replica: ReplicaId,
        changes: &[ConnectionChange],
    ) -> Result<(), StoreError> {
        connections::record_disconnects(&self.database, replica, changes).await
    }

    async fn seed(&self, seed: &Seed, now: Timestamp) -> Result<Vec<SeededAgent>, StoreError> {
        self.expect_own("seeding")?;
        let seeded = seed::apply(&self.database, seed, now).await;
        self.cursor.look_again();
        seeded
    }

    async fn take_events(&self) -> Result<Vec<StoredEvent>, StoreError> {
        self.cursor.take(&self.database).await
    }

    async fn prune_events(&self, before: Timestamp) -> Result<(), StoreError> {
        self.cursor.prune(&self.database, before).await
    }

    async fn purge(&self, what: Expired, before: Timestamp) -> Result<bool, StoreError> {
        self.expect_own("removing old rows")?;
        retention::purge(&self.database, what, before).await
    }

    async fn ping(&self) -> Result<(), StoreError> {
        self.database.read().await?.one(PING.call()).await?;
        self.database.probe().await
    }

    fn schema(&self) -> Schema {
        self.schema
    }

    fn statements(&self) -> Vec<(&'static str, u64)> {
        self.database.statements()
    }

    async fn close(&self) {
        self.database.close().await;
    }
}
