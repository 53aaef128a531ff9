//! ReportBoundaryLogs: what the boundary around an agent let through, and what it did not.
//!
//! Source: coder/coder `coderd/agentapi/boundary_logs.go`. Never fails, and asks nobody.

use super::AgentApi;
use crate::clock::Timestamp;
use crate::proto::agent as proto;
use crate::proto::agent::boundary_log::Resource;

/// Requests of one call that are logged line by line. An agent sends what came together within seconds; beyond that it
/// would only fill the disk.
pub(crate) const MAX_LINES: usize = 4_096;

impl AgentApi {
    pub(super) fn log_boundary(&self, request: &proto::ReportBoundaryLogsRequest) {
        let session = &self.session;
        let (mut allowed, mut denied) = (0, 0);
        for (index, log) in request.logs.iter().enumerate() {
            let Some(Resource::HttpRequest(http)) = &log.resource else {
                tracing::warn!(workspace_id = %session.workspace_id, "unknown resource type");
                continue;
            };
            let decision = if log.allowed {
                allowed += 1;
                "allow"
            } else {
                denied += 1;
                "deny"
            };
            if index >= MAX_LINES {
                continue;
            }
            tracing::info!(
                decision,
                workspace_id = %session.workspace_id,
                template_id = %session.template_id,
                template_version_id = %session.template_version_id,
                http_method = http.method,
                http_url = http.url,
                event_time = event_time(log.time.as_ref()),
                matched_rule = log.allowed.then_some(http.matched_rule.as_str()),
                "boundary_request"
            );
        }
        if request.logs.len() > MAX_LINES {
            let dropped = request.logs.len() - MAX_LINES;
            tracing::warn!(workspace_id = %session.workspace_id, dropped, "boundary log lines dropped");
        }
        if allowed + denied > 0
            && let Some(tracker) = &self.services.parts.boundary_usage
        {
            tracker.track(session.workspace_id, session.owner_id, allowed, denied);
        }
    }
}

/// RFC 3339 in UTC with as many digits of nanoseconds as are needed; an absent time is Go's zero time.
fn event_time(time: Option<&prost_types::Timestamp>) -> String {
    let Some((time, second)) = time.and_then(|time| {
        let second = prost_types::Timestamp { nanos: 0, ..*time };
        Some((time, Timestamp::from_proto(&second)?))
    }) else {
        return Timestamp::ZERO.to_string();
    };
    let text = second.to_string();
    match time.nanos {
        nanos @ 1..1_000_000_000 => {
            let digits = format!("{nanos:09}");
            format!("{}.{}Z", text.trim_end_matches('Z'), digits.trim_end_matches('0'))
        }
        _ => text,
    }
}
