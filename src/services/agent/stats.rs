//! UpdateStats: what an agent measured, and how often it shall.
//!
//! Source: coder/coder `coderd/agentapi/stats.go`, `coderd/workspacestats/reporter.go`.

use std::collections::{BTreeMap, HashMap};

use super::AgentApi;
use crate::mux::Status;
use crate::proto::agent as proto;
use crate::store::{AgentStat, Workspace};

/// Bytes of the counts by protocol that are kept of a sample, since samples wait by number. Agents name a handful.
const MAX_PROTOCOLS: usize = 4 << 10;

/// Stored for a latency that is no number: nothing was measured.
const UNKNOWN_LATENCY: f64 = -1.0;

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
            connections_by_proto: protocols_json(&stats.connections_by_proto),
            connection_count: stats.connection_count,
            rx_packets: stats.rx_packets,
            rx_bytes: stats.rx_bytes,
            tx_packets: stats.tx_packets,
            tx_bytes: stats.tx_bytes,
            connection_median_latency_ms: Some(stats.connection_median_latency_ms)
                .filter(|latency| latency.is_finite())
                .unwrap_or(UNKNOWN_LATENCY),
            session_count_vscode: stats.session_count_vscode,
            session_count_jetbrains: stats.session_count_jetbrains,
            session_count_reconnecting_pty: stats.session_count_reconnecting_pty,
            session_count_ssh: stats.session_count_ssh,
            usage: false,
        }
    }
}

/// Counts by protocol as a JSON object, by name. Names with a NUL, which no store takes, and what goes beyond the bound
/// are left out: one agent's sample must not keep everyone's batch from being written.
fn protocols_json(counts: &HashMap<String, i64>) -> String {
    let counts: BTreeMap<_, _> = counts.iter().filter(|(name, _)| !name.contains('\0')).collect();
    let mut json = String::from("{");
    for (name, count) in counts {
        let separator = if json.len() == 1 { "" } else { "," };
        let entry = format!("{separator}{}:{count}", serde_json::Value::from(name.as_str()));
        if json.len() + entry.len() >= MAX_PROTOCOLS {
            break;
        }
        json.push_str(&entry);
    }
    json.push('}');
    json
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_by_protocol_are_sorted_bounded_and_free_of_nul() {
        let json = |entries: &[(&str, i64)]| {
            let entries = entries.iter().map(|&(name, count)| (name.to_owned(), count));
            protocols_json(&entries.collect())
        };
        assert_eq!(json(&[]), "{}");
        assert_eq!(
            json(&[("UDP", 2), ("TCP", -1), ("a\"b", 3), ("x\0", 4)]),
            r#"{"TCP":-1,"UDP":2,"a\"b":3}"#
        );
        assert_eq!(json(&[("a", 1), (&"b".repeat(MAX_PROTOCOLS), 1)]), r#"{"a":1}"#);
    }
}
