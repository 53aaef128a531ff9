//! What a sample of an agent's statistics sets off: a row, metrics, and signs of life of its workspace.
//!
//! Owns the order of these and which of them a sample without users leaves out. Must never fail: whatever goes wrong
//! is logged where it happens. Source: coder/coder `coderd/workspacestats/reporter.go`.

use std::collections::{BTreeMap, HashMap};

use uuid::Uuid;

use super::{AgentServices, autostart};
use crate::clock::Timestamp;
use crate::ids::AgentId;
use crate::proto::agent as proto;
use crate::pubsub::{WorkspaceEvent, WorkspaceEventKind};
use crate::store::{AgentStat, Workspace};
use crate::telemetry::agent_metrics::AgentLabels;

/// Bytes of the counts by protocol that are kept of a sample, since samples wait by number. Agents name a handful.
const MAX_PROTOCOLS: usize = 4 << 10;

/// Stored for a latency that is no number: nothing was measured.
const UNKNOWN_LATENCY: f64 = -1.0;

/// A sample and whose it is.
#[derive(Clone, Copy, Debug)]
pub struct StatsReport<'r> {
    /// When it came.
    pub now: Timestamp,
    /// The workspace of the agent.
    pub workspace: &'r Workspace,
    /// The agent.
    pub agent_id: AgentId,
    /// Its name.
    pub agent_name: &'r str,
    /// What was measured.
    pub stats: &'r proto::Stats,
    /// Whether usage tracking measured it instead of an agent: then sessions say whether somebody is there, otherwise
    /// connections do.
    pub usage: bool,
}

impl AgentServices {
    /// Takes a sample in: its row and its metrics always; the deadline, the time of last use and the event only when
    /// somebody uses the workspace.
    pub async fn report_stats(&self, report: StatsReport<'_>) {
        let StatsReport {
            now,
            workspace,
            stats,
            ..
        } = report;
        let parts = &self.parts;
        parts.stats.add(sample(&report));
        if let Some(metrics) = &parts.agent_metrics {
            let labels = AgentLabels {
                username: &workspace.owner_username,
                workspace_name: &workspace.name,
                agent_name: report.agent_name,
                template_name: &workspace.template_name,
            };
            metrics.update(labels, &stats.metrics);
        }
        let in_use = if report.usage {
            let sessions = [
                stats.session_count_vscode,
                stats.session_count_jetbrains,
                stats.session_count_reconnecting_pty,
                stats.session_count_ssh,
            ];
            sessions.iter().any(|&count| count != 0)
        } else {
            stats.connection_count != 0
        };
        if !in_use {
            return;
        }
        if !workspace.is_prebuild() {
            let schedule = workspace.autostart_schedule.as_deref();
            let next_autostart = schedule.and_then(|schedule| autostart::next(schedule, now));
            self.bump(workspace.id, next_autostart).await;
        }
        parts.last_used.mark(workspace.id);
        let event = WorkspaceEvent {
            kind: WorkspaceEventKind::StatsUpdate,
            workspace_id: workspace.id,
            agent_id: None,
        };
        parts.pubsub.publish_workspace_event(workspace.owner_id, &event);
    }
}

fn sample(report: &StatsReport<'_>) -> AgentStat {
    let StatsReport { workspace, stats, .. } = report;
    AgentStat {
        id: Uuid::new_v4(),
        created_at: report.now,
        user_id: workspace.owner_id,
        agent_id: report.agent_id,
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
        usage: report.usage,
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
