//! The Agent service: what a workspace agent asks and reports.
//!
//! Owns the parts that all sessions share ([`AgentServices`]) and the little that a session has for itself
//! ([`AgentApi`]); each sub-API stands in a file of its own, named as in the original. Source: coder/coder
//! `coderd/agentapi/api.go`.

mod activity_bump;
mod announcement_banners;
mod apps;
mod autostart;
mod boundary_logs;
mod cached_workspace;
mod claims;
mod connections;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod heard;
mod lifecycle;
mod logs;
mod manifest;
mod metadata;
mod resources_monitoring;
mod script_completed;
mod session;
mod startup;
mod stats;
mod stats_reporter;
mod subagent;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::ops::RangeBounds;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use arc_swap::ArcSwap;
use url::Url;
use uuid::Uuid;

/// What [`crate::limits`] tells operators of.
pub(crate) mod limits {
    pub(crate) use super::apps::{MAX_STATUS_MESSAGE, MAX_STATUS_URI};
    pub(crate) use super::boundary_logs::MAX_LINES as MAX_BOUNDARY_LINES;
    pub(crate) use super::logs::MAX_LINES as MAX_LOG_LINES;
    pub(crate) use super::metadata::{MAX_KEYS as MAX_METADATA_KEYS, MAX_TEXT as MAX_METADATA_TEXT};
    pub(crate) use super::subagent::{MAX_APPS as MAX_SUB_AGENT_APPS, MAX_DISPLAY_APPS};
}

pub use self::announcement_banners::{Appearance, AppearanceError, Banner, StoreAppearance};
pub use self::apps::{AppReporter, AppStatusError, AppStatusReport};
pub use self::claims::Claims;
pub use self::heard::Heard;
pub use self::logs::{LogsError, LogsStored, NO_TEXT, clean_log_line};
pub use self::resources_monitoring::AlertLimits;
use self::session::Session;
pub use self::stats_reporter::StatsReport;
use super::connection_log::{Backends, ConnectionLogger};
use super::notifications::Enqueuer;
use super::patience::Patience;
use super::tailnet::derp::DerpMaps;
use crate::batch::boundary_usage::BoundaryUsageTracker;
use crate::batch::last_used::LastUsed;
use crate::batch::metadata::MetadataBatcher;
use crate::batch::stats::StatsBatcher;
use crate::clock::Clock;
use crate::ids::AgentId;
use crate::mux::Status;
use crate::proto::agent as proto;
use crate::pubsub::Pubsub;
use crate::store::{Authenticated, Monitors, Store, StoreError};
use crate::telemetry::agent_metrics::AgentMetrics;
use crate::telemetry::build_durations::BuildDurations;

/// Interval between statistics when the setting is zero.
const DEFAULT_STATS_INTERVAL: Duration = Duration::from_mins(5);

/// Why a session could not begin; the peer gets the text with the end of its connection.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BeginError {
    /// Both kinds of monitors come by one statement, whose failure has the text of the first.
    #[error("initialize resource monitoring: fetch memory resource monitor: {0}")]
    Monitors(#[source] StoreError),
}

/// What an operator says about agents.
#[derive(Clone, Debug)]
pub struct AgentConfig {
    /// Where agents reach this server.
    pub access_url: Url,
    /// Host pattern of apps with its `*`, empty for none.
    pub app_hostname: String,
    /// How often agents report statistics; zero is 5 minutes.
    pub stats_interval: Duration,
    /// Agents may only be reached through relays.
    pub disable_direct_connections: bool,
    /// Agents speak WebSocket to relays.
    pub derp_force_websockets: bool,
    /// How many git providers are configured.
    pub git_auth_configs: u32,
    /// Sessions are counted elsewhere (experiment `workspace-usage`).
    pub workspace_usage: bool,
    /// When scarce memory or disk is worth an alert.
    pub alert_limits: AlertLimits,
}

impl AgentConfig {
    fn stats_interval(&self) -> Duration {
        if self.stats_interval.is_zero() {
            DEFAULT_STATS_INTERVAL
        } else {
            self.stats_interval
        }
    }
}

/// The collaborators of the service.
#[derive(Clone, Debug)]
pub struct Collaborators {
    /// Holds every row.
    pub store: Arc<dyn Store>,
    /// Tells the time.
    pub clock: Clock,
    /// Carries events.
    pub pubsub: Pubsub,
    /// Waits for the store.
    pub patience: Patience,
    /// Collects statistics.
    pub stats: StatsBatcher,
    /// Collects which workspaces are in use.
    pub last_used: LastUsed,
    /// Collects the metrics that agents send along with statistics, where somebody can read them.
    pub agent_metrics: Option<AgentMetrics>,
    /// Collects how long builds took, where somebody can read it.
    pub build_durations: Option<BuildDurations>,
    /// Collects metadata.
    pub metadata: MetadataBatcher,
    /// Queues notifications.
    pub notifications: Enqueuer,
    /// Counts what boundaries let through, if anybody wants to know.
    pub boundary_usage: Option<BoundaryUsageTracker>,
    /// Has the DERP map.
    pub derp_maps: DerpMaps,
}

/// The parts of the service that all sessions share.
#[derive(Debug)]
pub struct AgentServices {
    parts: Collaborators,
    config: AgentConfig,
    appearance: ArcSwap<Box<dyn Appearance>>,
    connection_logger: ArcSwap<Box<dyn ConnectionLogger>>,
    sessions: Mutex<SessionList>,
}

/// Sessions that live, so that their copies of rows can be refreshed. Bounded by the sessions of the server.
#[derive(Debug, Default)]
struct SessionList {
    next: u64,
    /// By agent and number, so that an event finds its agent's sessions.
    live: BTreeMap<(AgentId, u64), Weak<AgentApi>>,
    /// Events for those that are about to begin.
    recent: heard::Recent,
}

impl SessionList {
    fn within(&self, range: impl RangeBounds<(AgentId, u64)>) -> Vec<Arc<AgentApi>> {
        let live = self.live.range(range).filter_map(|(_, api)| api.upgrade());
        live.collect()
    }
}

impl AgentServices {
    /// Puts the service together.
    pub fn new(parts: Collaborators, config: AgentConfig, appearance: impl Appearance) -> Arc<Self> {
        let appearance = ArcSwap::from_pointee(Box::new(appearance) as Box<dyn Appearance>);
        Arc::new(Self {
            parts,
            config,
            appearance,
            connection_logger: ArcSwap::from_pointee(Box::new(Backends::default())),
            sessions: Mutex::default(),
        })
    }

    /// Exchanges where banners come from; the next call asks the new source.
    pub fn swap_appearance(&self, appearance: impl Appearance) {
        self.appearance.store(Arc::new(Box::new(appearance)));
    }

    /// Exchanges where reports of connections go, which is nowhere at first.
    pub fn swap_connection_logger(&self, logger: impl ConnectionLogger) {
        self.connection_logger.store(Arc::new(Box::new(logger)));
    }

    /// How far events have been heard. Asked before an agent is authenticated, for [`AgentServices::begin`].
    pub fn heard(&self) -> Heard {
        self.list().recent.heard()
    }

    /// Begins a session: reads what it needs beside what authentication has read.
    ///
    /// `api_version` is what the agent dialed with, as it wrote it. Rows that have changed after `heard` are read again. An
    /// error ends the connection.
    pub async fn begin(
        self: &Arc<Self>,
        authenticated: Authenticated,
        api_version: String,
        heard: Heard,
    ) -> Result<Arc<AgentApi>, BeginError> {
        let id = authenticated.agent.id;
        let monitors = self
            .parts
            .patience
            .call(authenticated.workspace.id, 0, || self.parts.store.monitors(id))
            .await
            .map_err(BeginError::Monitors)?;
        Ok(self.session(authenticated, api_version, monitors, heard))
    }

    fn session(
        self: &Arc<Self>,
        authenticated: Authenticated,
        api_version: String,
        monitors: Monitors,
        heard: Heard,
    ) -> Arc<AgentApi> {
        let mut list = self.list();
        let number = list.next;
        list.next += 1;
        let session = Session::new(authenticated, api_version, monitors);
        if list.recent.concern(session.agent_id, heard) {
            session.drop_copies();
        }
        let api = Arc::new(AgentApi {
            services: Arc::clone(self),
            number,
            session,
        });
        list.live.insert(api.key(), Arc::downgrade(&api));
        api
    }

    fn list(&self) -> MutexGuard<'_, SessionList> {
        // Every holder leaves it whole at each step.
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All sessions. Collected before any can be dropped here: the last holder of one locks the list.
    fn live(&self) -> Vec<Arc<AgentApi>> {
        self.list().within(..)
    }

    /// Makes the sessions of an agent, or all, read their rows again, those that are about to begin among them.
    fn drop_copies(&self, whom: Option<AgentId>) {
        let mut list = self.list();
        list.recent.add(whom);
        let concerned = match whom {
            Some(agent) => list.within((agent, 0)..=(agent, u64::MAX)),
            None => list.within(..),
        };
        drop(list);
        for api in concerned {
            api.session.drop_copies();
        }
    }
}

/// The service for one session.
#[derive(Debug)]
pub struct AgentApi {
    services: Arc<AgentServices>,
    number: u64,
    session: Session,
}

impl AgentApi {
    /// Whose session it is.
    pub fn agent_id(&self) -> AgentId {
        self.session.agent_id
    }

    fn key(&self) -> (AgentId, u64) {
        (self.session.agent_id, self.number)
    }
}

impl Drop for AgentApi {
    fn drop(&mut self) {
        tracing::debug!(
            workspace_id = %self.session.workspace_id,
            agent_id = %self.session.agent_id,
            "cache refresh loop exited, invalidating the workspace cache on agent API"
        );
        self.services.list().live.remove(&self.key());
    }
}

/// What a peer is told when an agent's row cannot be had.
fn agent_error(agent: AgentId, error: &StoreError) -> Status {
    Status::message(format!("get workspace agent by id \"{agent}\": {error}"))
}

/// What a peer is told when a sub-message is absent; the original panics.
fn required(field: &str) -> Status {
    Status::message(format!("{field} is required"))
}

/// An enum's value as the original prints it in error texts: its name, or its number when it has none.
fn enum_name<E: TryFrom<i32>>(number: i32, name: fn(&E) -> &'static str) -> String {
    E::try_from(number).map_or_else(|_| number.to_string(), |value| name(&value).to_owned())
}

/// An id as it travels, or what the original says of bytes that are none.
fn uuid(bytes: &[u8]) -> Result<Uuid, String> {
    Uuid::from_slice(bytes).map_err(|_| format!("invalid UUID (got {} bytes)", bytes.len()))
}

/// NUL never reaches a store.
fn refuse_nul<'a>(field: &str, texts: impl IntoIterator<Item = &'a String>) -> Result<(), Status> {
    if texts.into_iter().any(|text| text.contains('\0')) {
        return Err(Status::message(format!("{field} must not contain NUL")));
    }
    Ok(())
}

impl proto::Agent for AgentApi {
    async fn get_manifest(&self, _request: proto::GetManifestRequest) -> Result<proto::Manifest, Status> {
        self.manifest().await
    }

    async fn get_service_banner(
        &self,
        _request: proto::GetServiceBannerRequest,
    ) -> Result<proto::ServiceBanner, Status> {
        self.service_banner().await
    }

    async fn get_announcement_banners(
        &self,
        _request: proto::GetAnnouncementBannersRequest,
    ) -> Result<proto::GetAnnouncementBannersResponse, Status> {
        self.announcement_banners().await
    }

    async fn update_stats(
        &self,
        request: proto::UpdateStatsRequest,
    ) -> Result<proto::UpdateStatsResponse, Status> {
        self.report_stats(request).await
    }

    async fn update_lifecycle(
        &self,
        request: proto::UpdateLifecycleRequest,
    ) -> Result<proto::Lifecycle, Status> {
        self.report_lifecycle(request).await
    }

    async fn update_startup(&self, request: proto::UpdateStartupRequest) -> Result<proto::Startup, Status> {
        self.report_startup(request).await
    }

    async fn batch_update_metadata(
        &self,
        request: proto::BatchUpdateMetadataRequest,
    ) -> Result<proto::BatchUpdateMetadataResponse, Status> {
        self.report_metadata(request)
    }

    async fn batch_create_logs(
        &self,
        request: proto::BatchCreateLogsRequest,
    ) -> Result<proto::BatchCreateLogsResponse, Status> {
        self.create_logs(request).await
    }

    async fn get_resources_monitoring_configuration(
        &self,
        _request: proto::GetResourcesMonitoringConfigurationRequest,
    ) -> Result<proto::GetResourcesMonitoringConfigurationResponse, Status> {
        Ok(self.monitoring_configuration())
    }

    async fn script_completed(
        &self,
        request: proto::WorkspaceAgentScriptCompletedRequest,
    ) -> Result<proto::WorkspaceAgentScriptCompletedResponse, Status> {
        self.complete_script(request).await
    }

    async fn create_sub_agent(
        &self,
        request: proto::CreateSubAgentRequest,
    ) -> Result<proto::CreateSubAgentResponse, Status> {
        self.new_sub_agent(request).await
    }

    async fn delete_sub_agent(
        &self,
        request: proto::DeleteSubAgentRequest,
    ) -> Result<proto::DeleteSubAgentResponse, Status> {
        self.remove_sub_agent(request).await
    }

    async fn list_sub_agents(
        &self,
        _request: proto::ListSubAgentsRequest,
    ) -> Result<proto::ListSubAgentsResponse, Status> {
        self.sub_agents().await
    }

    async fn push_resources_monitoring_usage(
        &self,
        request: proto::PushResourcesMonitoringUsageRequest,
    ) -> Result<proto::PushResourcesMonitoringUsageResponse, Status> {
        self.push_usage(request).await
    }

    async fn batch_update_app_healths(
        &self,
        request: proto::BatchUpdateAppHealthRequest,
    ) -> Result<proto::BatchUpdateAppHealthResponse, Status> {
        self.report_app_healths(request).await
    }

    async fn report_connection(&self, request: proto::ReportConnectionRequest) -> Result<(), Status> {
        self.log_connection(request).await
    }

    async fn report_boundary_logs(
        &self,
        request: proto::ReportBoundaryLogsRequest,
    ) -> Result<proto::ReportBoundaryLogsResponse, Status> {
        self.log_boundary(&request);
        Ok(proto::ReportBoundaryLogsResponse {})
    }

    async fn update_app_status(
        &self,
        request: proto::UpdateAppStatusRequest,
    ) -> Result<proto::UpdateAppStatusResponse, Status> {
        self.report_app_status(request).await
    }
}
