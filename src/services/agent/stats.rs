//! UpdateStats: what an agent measured, and how often it shall.
//!
//! Source: coder/coder `coderd/agentapi/stats.go`, `coderd/workspacestats/reporter.go`.

use super::AgentApi;
use crate::mux::Status;
use crate::proto::agent as proto;
use crate::store::{AgentStat, Workspace};

impl AgentApi {
    pub(super) async fn report_stats(
        &self,
        request: proto::UpdateStatsRequest,
    ) -> Result<proto::UpdateStatsResponse, Status> {
        let services = &self.services;
        let interval = services.config.stats_interval();
        let response = proto::UpdateStatsResponse {
            report_interval: Some(prost_types::Duration::try_from(interval).unwrap_or_default()),
        };
        // An agent asks for the interval with an empty report.
        let Some(mut stats) = request.stats else {
            return Ok(response);
        };
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
        services.parts.stats.add(self.sample(&stats, &workspace));
        Ok(response)
    }

    fn sample(&self, stats: &proto::Stats, workspace: &Workspace) -> AgentStat {
        AgentStat {
            created_at: self.services.parts.clock.now(),
            user_id: workspace.owner_id,
            agent_id: self.session.agent_id,
            workspace_id: workspace.id,
            template_id: workspace.template_id,
            connections_by_proto: serde_json::json!(stats.connections_by_proto).to_string(),
            connection_count: stats.connection_count,
            rx_packets: stats.rx_packets,
            rx_bytes: stats.rx_bytes,
            tx_packets: stats.tx_packets,
            tx_bytes: stats.tx_bytes,
            connection_median_latency_ms: stats.connection_median_latency_ms,
            session_count_vscode: stats.session_count_vscode,
            session_count_jetbrains: stats.session_count_jetbrains,
            session_count_reconnecting_pty: stats.session_count_reconnecting_pty,
            session_count_ssh: stats.session_count_ssh,
            usage: false,
        }
    }
}
