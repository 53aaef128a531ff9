//! UpdateStats: what an agent measured, and how often it shall.
//!
//! Source: coder/coder `coderd/agentapi/stats.go`.

use super::AgentApi;
use super::stats_reporter::StatsReport;
use crate::mux::Status;
use crate::proto::agent as proto;

impl AgentApi {
    pub(super) async fn report_stats(
        &self,
        request: proto::UpdateStatsRequest,
    ) -> Result<proto::UpdateStatsResponse, Status> {
        let services = &self.services;
        let interval = services.config.stats_interval();
        let response = proto::UpdateStatsResponse {
            // No setting is longer than Go's longest duration, which fits.
            report_interval: Some(prost_types::Duration::try_from(interval).unwrap_or_default()),
        };
        // An agent asks for the interval with an empty report.
        let Some(mut stats) = request.stats else {
            return Ok(response);
        };
        let now = services.parts.clock.now();
        let workspace = self.workspace().await.map_err(|error| {
            Status::message(format!(
                "get workspace by agent ID \"{}\": {error}",
                self.session.agent_id
            ))
        })?;
        tracing::debug!(?interval, workspace_id = %workspace.id, payload = ?stats, "read stats report");
        if services.config.workspace_usage {
            stats.session_count_vscode = 0;
            stats.session_count_jetbrains = 0;
            stats.session_count_reconnecting_pty = 0;
            stats.session_count_ssh = 0;
        }
        let report = StatsReport {
            now,
            workspace: &workspace,
            agent_id: self.session.agent_id,
            agent_name: &self.session.agent_name,
            stats: &stats,
            usage: false,
        };
        services.report_stats(report).await;
        Ok(response)
    }
}
