//! A store that fails when a test says so, around a real one; and Postgres for tests.

#[path = "../../tests/support/coder.rs"]
pub(crate) mod coder;
mod place;
#[path = "../../tests/support/postgres.rs"]
pub(crate) mod postgres;
mod still;

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
pub(crate) use place::{Engine, Place, Raw};
pub(crate) use still::Still;

use super::SqlStore;
use super::{
    Agent, AgentStat, Authenticated, Autostart, BoundaryUsage, BuildReadiness, ConnectionChange,
    ConnectionLog, Expired, LifecycleUpdate, LogBatch, LogSource, LogsInserted, ManifestParts, MetadataValue,
    Monitors, NewSubAgent, ScriptTiming, SeededAgent, StartupUpdate, Store, StoreError, StoredEvent,
    SubAgent, SubAgentAdopted, SubAgentDeleted, Workspace,
};
use crate::client_token::{ClientToken, ClientTokenId};
use crate::clock::Timestamp;
use crate::ids::{AgentId, AgentToken, BuildId, ReplicaId, WorkspaceId};
use crate::ids::{AppId, NotificationTemplateId, UserId};
use crate::seed::Seed;
use crate::store::{
    AppBeforeStatus, AppHealth, AppWithHealth, MonitorUpdate, NewAppStatus, NewNotification,
    NotificationRecipient,
};
use crate::store::{Client, ClientTokenEntry, ExternalAuthLink, GitSshKey, LinkRefusal, LinkRenewal};
use crate::{secret::Secret, store::OwnedWorkspaces};

/// The repository's example, with every key of the format.
pub(crate) const EXAMPLE: &str = include_str!("../../examples/seed.yaml");

/// 2026-03-20T12:00:00Z.
pub(crate) const NOW: Timestamp = Timestamp::from_micros(1_774_008_000_000_000);

/// A real store in a place of its own, on the engine that `DRPCD_TEST_STORE` names, some of whose methods fail.
#[derive(Debug)]
pub(crate) struct FaultyStore {
    real: SqlStore,
    faults: Mutex<HashMap<&'static str, StoreError>>,
    lost: Mutex<HashMap<&'static str, StoreError>>,
    stalled: Mutex<HashSet<&'static str>>,
    calls: Mutex<HashMap<&'static str, usize>>,
    answers: Mutex<HashMap<&'static str, usize>>,
    place: Place,
}

impl FaultyStore {
    /// A store with the example seeded, and its agent.
    pub(crate) async fn seeded(seed: &str) -> (Arc<Self>, SeededAgent) {
        let (store, mut agents) = Self::of(seed).await;
        (store, agents.remove(0))
    }

    /// A store with a seed, and its agents.
    pub(crate) async fn of(seed: &str) -> (Arc<Self>, Vec<SeededAgent>) {
        let _still = Still::begin();
        let place = Place::new(Engine::of_environment());
        let real = place.open().await;
        let seed = Seed::parse("seed.yaml", seed).unwrap();
        let agents = real.seed(&seed, NOW).await.unwrap();
        let store = Self {
            real,
            faults: Mutex::default(),
            lost: Mutex::default(),
            stalled: Mutex::default(),
            calls: Mutex::default(),
            answers: Mutex::default(),
            place,
        };
        (Arc::new(store), agents)
    }

    /// From here on `method` fails.
    pub(crate) fn fail(&self, method: &'static str, error: StoreError) {
        self.faults.lock().unwrap().insert(method, error);
    }

    /// The next call of `method` does its work and answers `error` all the same.
    pub(crate) fn lose_answer(&self, method: &'static str, error: StoreError) {
        self.lost.lock().unwrap().insert(method, error);
    }

    /// From here on `method` never answers.
    pub(crate) fn stall(&self, method: &'static str) {
        self.stalled.lock().unwrap().insert(method);
    }

    /// From here on `method` works again.
    pub(crate) fn mend(&self, method: &'static str) {
        self.faults.lock().unwrap().remove(method);
    }

    /// How often `method` was called.
    pub(crate) fn calls(&self, method: &'static str) -> usize {
        self.calls.lock().unwrap().get(method).copied().unwrap_or(0)
    }

    /// How often `method` has done its work.
    pub(crate) fn answers(&self, method: &'static str) -> usize {
        self.answers.lock().unwrap().get(method).copied().unwrap_or(0)
    }

    /// The rows of a statement behind the store's back: their cells as [`Raw::query`] gives them, joined by spaces; NULL
    /// is `-`.
    pub(crate) async fn query(&self, sql: &str) -> Vec<String> {
        let _still = Still::begin();
        let rows = self.place.connect().await.query(sql).await;
        let text = |row: Vec<Option<String>>| {
            let cells = row.into_iter().map(|cell| cell.unwrap_or_else(|| "-".to_owned()));
            cells.collect::<Vec<_>>().join(" ")
        };
        rows.into_iter().map(text).collect()
    }

    /// Runs statements behind the store's back for which each engine has words of its own.
    pub(crate) async fn run(&self, sqlite: &str, postgres: &str) {
        let _still = Still::begin();
        self.place.connect().await.run(sqlite, postgres).await;
    }

    /// From here on the database itself refuses, with the text `guarded`, to do `what` (INSERT, UPDATE) in a table to rows
    /// `NEW` of which a condition holds.
    pub(crate) async fn guard(&self, what: &str, table: &str, condition: &str) {
        let sqlite = format!(
            "CREATE TRIGGER guard BEFORE {what} ON {table} WHEN {condition}
                BEGIN SELECT RAISE(ABORT, 'guarded'); END"
        );
        let postgres = format!(
            "CREATE FUNCTION guard() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'guarded'; END $$;
            CREATE TRIGGER guard BEFORE {what} ON {table} FOR EACH ROW WHEN ({condition}) EXECUTE FUNCTION guard()"
        );
        self.run(&sqlite, &postgres).await;
    }

    /// From here on it does not.
    pub(crate) async fn unguard(&self, table: &str) {
        self.run("DROP TRIGGER guard", &format!("DROP TRIGGER guard ON {table}"))
            .await;
    }

    /// What becomes of a text in a column of JSON.
    pub(crate) fn json(&self, text: &str) -> String {
        match &self.place {
            Place::Sqlite(_) => text.to_owned(),
            Place::Postgres(_) => serde_json::from_str::<serde_json::Value>(text)
                .unwrap()
                .to_string(),
        }
    }

    async fn enter(&self, method: &'static str) -> Result<(), StoreError> {
        *self.calls.lock().unwrap().entry(method).or_default() += 1;
        let stalled = self.stalled.lock().unwrap().contains(method);
        if stalled {
            std::future::pending::<()>().await;
        }
        self.faults
            .lock()
            .unwrap()
            .get(method)
            .cloned()
            .map_or(Ok(()), Err)
    }

    fn leave<T>(&self, method: &'static str, answer: Result<T, StoreError>) -> Result<T, StoreError> {
        *self.answers.lock().unwrap().entry(method).or_default() += 1;
        match self.lost.lock().unwrap().remove(method) {
            Some(error) => Err(error),
            None => answer,
        }
    }
}

/// A store without a file that keeps what batches write, for tests whose time is driven: it never waits.
#[derive(Debug, Default)]
pub(crate) struct RecordingStore {
    /// What every call answers instead of doing its work.
    pub(crate) fault: Mutex<Option<StoreError>>,
    /// Statistics by statement.
    pub(crate) stats: Mutex<Vec<Vec<AgentStat>>>,
    /// Agents whose statistics are refused, and with them the statement.
    refused_stats: Mutex<Vec<AgentId>>,
    /// The one call, by its number, that finds the store away.
    away_at: Mutex<Option<usize>>,
    /// Workspaces that were marked as used, and when, by statement.
    pub(crate) touched: Mutex<Vec<(Vec<WorkspaceId>, Timestamp)>>,
    /// Metadata by statement.
    pub(crate) metadata: Mutex<Vec<Vec<MetadataValue>>>,
    /// What the next [`Store::take_events`] finds.
    pub(crate) events: Mutex<Vec<StoredEvent>>,
    /// Up to when events were pruned, by call.
    pub(crate) pruned: Mutex<Vec<Timestamp>>,
    attempts: Mutex<usize>,
}

impl RecordingStore {
    /// From here on every call fails, or none.
    pub(crate) fn set_fault(&self, fault: Option<StoreError>) {
        *self.fault.lock().unwrap() = fault;
    }

    /// From here on statements with statistics of `agent` are refused.
    pub(crate) fn refuse_stats_of(&self, agent: AgentId) {
        self.refused_stats.lock().unwrap().push(agent);
    }

    /// The `attempt`th call finds the store away, and no other.
    pub(crate) fn go_away_at(&self, attempt: usize) {
        *self.away_at.lock().unwrap() = Some(attempt);
    }

    /// How many calls there were, failed ones too.
    pub(crate) fn attempts(&self) -> usize {
        *self.attempts.lock().unwrap()
    }

    fn enter(&self) -> Result<(), StoreError> {
        *self.attempts.lock().unwrap() += 1;
        if *self.away_at.lock().unwrap() == Some(self.attempts()) {
            return Err(StoreError::Unavailable("away for a moment".to_owned()));
        }
        self.fault.lock().unwrap().clone().map_or(Ok(()), Err)
    }
}

macro_rules! record {
    ($($name:ident($($argument:ident: $type:ty),*) -> $result:ty = $answer:expr;)*) => {
        #[async_trait]
        impl Store for RecordingStore {
            $(async fn $name(&self, $($argument: $type),*) -> Result<$result, StoreError> {
                self.enter()?;
                let answer: fn(&Self, $($type),*) -> Result<$result, StoreError> = $answer;
                answer(self, $($argument),*)
            })*

            fn statements(&self) -> Vec<(&'static str, u64)> {
                Vec::new()
            }

            async fn close(&self) {}
        }
    };
}

/// What is asked of a recording store for which it has no record.
fn nothing<T>() -> Result<T, StoreError> {
    Err(StoreError::NoRows)
}

record! {
    authenticate(token: &AgentToken) -> Option<Authenticated> = |_, _| nothing();
    outdated_builds(builds: &[BuildId]) -> Vec<BuildId> = |_, _| nothing();
    agent(agent: AgentId) -> Agent = |_, _| nothing();
    workspace_by_agent(agent: AgentId) -> Workspace = |_, _| nothing();
    workspaces(ids: &[WorkspaceId]) -> Vec<Workspace> = |_, _| nothing();
    manifest_parts(agent: AgentId) -> ManifestParts = |_, _| nothing();
    monitors(agent: AgentId) -> Monitors = |_, _| nothing();
    site_config(key: &str) -> Option<String> = |_, _| nothing();
    update_startup(agent: AgentId, update: &StartupUpdate) -> () = |_, _, _| nothing();
    update_lifecycle(agent: AgentId, update: &LifecycleUpdate) -> () = |_, _, _| nothing();
    insert_log_source(source: &LogSource) -> () = |_, _| nothing();
    insert_logs(batch: &LogBatch) -> LogsInserted = |_, _| nothing();
    set_logs_overflowed(agent: AgentId) -> () = |_, _| nothing();
    create_sub_agent(agent: &NewSubAgent) -> Vec<(usize, StoreError)> = |_, _| nothing();
    update_display_apps(agent: AgentId, parent: AgentId, apps: &[&'static str], now: Timestamp) -> SubAgentAdopted =
        |_, _, _, _, _| nothing();
    sub_agents(parent: AgentId) -> Vec<SubAgent> = |_, _| nothing();
    delete_sub_agent(agent: AgentId, caller: AgentId, now: Timestamp) -> SubAgentDeleted = |_, _, _, _| nothing();
    insert_script_timing(timing: &ScriptTiming) -> () = |_, _| nothing();
    notification_recipient(user: UserId, template: NotificationTemplateId) -> NotificationRecipient = |_, _, _| nothing();
    insert_notification(message: &NewNotification) -> () = |_, _| nothing();
    update_monitor(agent: AgentId, update: &MonitorUpdate) -> () = |_, _, _| nothing();
    app_healths(agent: AgentId) -> Vec<AppWithHealth> = |_, _| nothing();
    update_app_healths(changes: &[(AppId, AppHealth)]) -> () = |_, _| nothing();
    app_before_status(agent: AgentId, workspace: WorkspaceId, slug: &str) -> AppBeforeStatus = |_, _, _, _| nothing();
    insert_app_status(status: &NewAppStatus) -> () = |_, _| nothing();
    upsert_connection_log(log: &ConnectionLog) -> () = |_, _| nothing();
    upsert_boundary_usage(replica: ReplicaId, usage: &BoundaryUsage, now: Timestamp) -> bool = |_, _, _, _| nothing();
    owned_workspaces(owner: UserId, most: u32) -> OwnedWorkspaces = |_, _, _| nothing();
    owns_agent(owner: UserId, agent: AgentId) -> bool = |_, _, _| nothing();
    resume_key(candidate: &Secret) -> Secret = |_, _| nothing();
    create_client_token(owner: &str, token: &ClientToken, now: Timestamp) -> () = |_, _, _, _| nothing();
    client_tokens() -> Vec<ClientTokenEntry> = |_| nothing();
    revoke_client_token(token: ClientTokenId, now: Timestamp) -> () = |_, _, _| nothing();
    authenticate_client(token: &ClientToken) -> Option<Client> = |_, _| nothing();
    git_ssh_key(user: UserId) -> GitSshKey = |_, _| nothing();
    external_auth_link(provider: &str, user: UserId) -> Option<ExternalAuthLink> = |_, _, _| nothing();
    renew_external_auth_link(renewal: &LinkRenewal) -> bool = |_, _| nothing();
    refuse_external_auth_link(refusal: &LinkRefusal) -> () = |_, _| nothing();
    insert_stats(stats: &[AgentStat]) -> () = |this, stats| {
        let refused = this.refused_stats.lock().unwrap();
        if stats.iter().any(|stat| refused.contains(&stat.agent_id)) {
            return Err(StoreError::Rejected("a row is out of range".to_owned()));
        }
        this.stats.lock().unwrap().push(stats.to_vec());
        Ok(())
    };
    bump_activity(workspace: WorkspaceId, now: Timestamp, autostart: Option<Autostart>) -> bool =
        |_, _, _, _| nothing();
    touch_workspaces(workspaces: &[WorkspaceId], at: Timestamp) -> () = |this, workspaces, at| {
        this.touched.lock().unwrap().push((workspaces.to_vec(), at));
        Ok(())
    };
    build_readiness(agent: AgentId) -> BuildReadiness = |_, _| nothing();
    update_metadata(values: &[MetadataValue]) -> () = |this, values| {
        this.metadata.lock().unwrap().push(values.to_vec());
        Ok(())
    };
    record_connects(replica: ReplicaId, changes: &[ConnectionChange], now: Timestamp) -> () = |_, _, _, _| nothing();
    record_heartbeats(replica: ReplicaId, agents: &[AgentId], at: Timestamp, tick: Duration) -> () =
        |_, _, _, _, _| nothing();
    record_disconnects(replica: ReplicaId, changes: &[ConnectionChange]) -> () = |_, _, _| nothing();
    seed(seed: &Seed, now: Timestamp) -> Vec<SeededAgent> = |_, _, _| nothing();
    take_events() -> Vec<StoredEvent> = |this| Ok(std::mem::take(&mut *this.events.lock().unwrap()));
    prune_events(before: Timestamp) -> () = |this, before| {
        this.pruned.lock().unwrap().push(before);
        Ok(())
    };
    purge(what: Expired, before: Timestamp) -> bool = |_, _, _| Ok(false);
    ping() -> () = |_| Ok(());
}

macro_rules! pass {
    ($($name:ident($($argument:ident: $type:ty),*) -> $result:ty;)*) => {
        #[async_trait]
        impl Store for FaultyStore {
            $(async fn $name(&self, $($argument: $type),*) -> Result<$result, StoreError> {
                self.enter(stringify!($name)).await?;
                // A call is never over at once, so that tests can put something between.
                tokio::task::yield_now().await;
                let _still = Still::begin();
                let answer = Store::$name(&self.real, $($argument),*).await;
                self.leave(stringify!($name), answer)
            })*

            fn statements(&self) -> Vec<(&'static str, u64)> {
                Store::statements(&self.real)
            }

            async fn close(&self) {
                Store::close(&self.real).await;
            }
        }
    };
}

pass! {
    authenticate(token: &AgentToken) -> Option<Authenticated>;
    outdated_builds(builds: &[BuildId]) -> Vec<BuildId>;
    agent(agent: AgentId) -> Agent;
    workspace_by_agent(agent: AgentId) -> Workspace;
    workspaces(ids: &[WorkspaceId]) -> Vec<Workspace>;
    manifest_parts(agent: AgentId) -> ManifestParts;
    monitors(agent: AgentId) -> Monitors;
    site_config(key: &str) -> Option<String>;
    update_startup(agent: AgentId, update: &StartupUpdate) -> ();
    update_lifecycle(agent: AgentId, update: &LifecycleUpdate) -> ();
    insert_log_source(source: &LogSource) -> ();
    insert_logs(batch: &LogBatch) -> LogsInserted;
    set_logs_overflowed(agent: AgentId) -> ();
    create_sub_agent(agent: &NewSubAgent) -> Vec<(usize, StoreError)>;
    update_display_apps(agent: AgentId, parent: AgentId, apps: &[&'static str], now: Timestamp) -> SubAgentAdopted;
    sub_agents(parent: AgentId) -> Vec<SubAgent>;
    delete_sub_agent(agent: AgentId, caller: AgentId, now: Timestamp) -> SubAgentDeleted;
    insert_script_timing(timing: &ScriptTiming) -> ();
    notification_recipient(user: UserId, template: NotificationTemplateId) -> NotificationRecipient;
    insert_notification(message: &NewNotification) -> ();
    update_monitor(agent: AgentId, update: &MonitorUpdate) -> ();
    app_healths(agent: AgentId) -> Vec<AppWithHealth>;
    update_app_healths(changes: &[(AppId, AppHealth)]) -> ();
    app_before_status(agent: AgentId, workspace: WorkspaceId, slug: &str) -> AppBeforeStatus;
    insert_app_status(status: &NewAppStatus) -> ();
    upsert_connection_log(log: &ConnectionLog) -> ();
    upsert_boundary_usage(replica: ReplicaId, usage: &BoundaryUsage, now: Timestamp) -> bool;
    owned_workspaces(owner: UserId, most: u32) -> OwnedWorkspaces;
    owns_agent(owner: UserId, agent: AgentId) -> bool;
    resume_key(candidate: &Secret) -> Secret;
    create_client_token(owner: &str, token: &ClientToken, now: Timestamp) -> ();
    client_tokens() -> Vec<ClientTokenEntry>;
    revoke_client_token(token: ClientTokenId, now: Timestamp) -> ();
    authenticate_client(token: &ClientToken) -> Option<Client>;
    git_ssh_key(user: UserId) -> GitSshKey;
    external_auth_link(provider: &str, user: UserId) -> Option<ExternalAuthLink>;
    renew_external_auth_link(renewal: &LinkRenewal) -> bool;
    refuse_external_auth_link(refusal: &LinkRefusal) -> ();
    insert_stats(stats: &[AgentStat]) -> ();
    bump_activity(workspace: WorkspaceId, now: Timestamp, autostart: Option<Autostart>) -> bool;
    touch_workspaces(workspaces: &[WorkspaceId], at: Timestamp) -> ();
    build_readiness(agent: AgentId) -> BuildReadiness;
    update_metadata(values: &[MetadataValue]) -> ();
    record_connects(replica: ReplicaId, changes: &[ConnectionChange], now: Timestamp) -> ();
    record_heartbeats(replica: ReplicaId, agents: &[AgentId], at: Timestamp, tick: Duration) -> ();
    record_disconnects(replica: ReplicaId, changes: &[ConnectionChange]) -> ();
    seed(seed: &Seed, now: Timestamp) -> Vec<SeededAgent>;
    take_events() -> Vec<StoredEvent>;
    prune_events(before: Timestamp) -> ();
    purge(what: Expired, before: Timestamp) -> bool;
    ping() -> ();
}
