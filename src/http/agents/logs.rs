//! `POST log-source` and `PATCH logs`: lines of tools that do not speak the agents' protocol.
//!
//! Source of the texts: coder/coder `coderd/workspaceagents.go` (`workspaceAgentPostLogSource`,
//! `patchWorkspaceAgentLogs`).

use std::fmt;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::Response;
use serde::de::{IgnoredAny, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use uuid::Uuid;

use super::super::error::{ApiError, json, json_with};
use super::super::{App, SessionHost, auth};
use super::body::{self, without_nul};
use super::{Caller, caller, subject};
use crate::ids::{AgentId, LogSourceId};
use crate::mux::quote;
use crate::services::agent::limits::MAX_LOG_LINES;
use crate::services::agent::{LogsError, LogsStored, NO_TEXT, clean_log_line};
use crate::store::{LogLevel, LogLine};

#[derive(Deserialize)]
struct NewSource {
    #[serde(default)]
    id: Uuid,
    #[serde(default)]
    display_name: String,
    #[serde(default)]
    icon: String,
}

#[derive(Serialize)]
struct Source {
    workspace_agent_id: AgentId,
    id: LogSourceId,
    created_at: String,
    display_name: String,
    icon: String,
}

/// A source that exists already is answered as asked for.
pub(super) async fn post_source<H: SessionHost>(
    State(app): State<Arc<App<H>>>,
    request: Request,
) -> Result<Response, ApiError> {
    let (request, body) = request.into_parts();
    let Caller {
        host,
        authenticated,
        at_work: _at_work,
    } = caller(&app, &request).await?;
    let body = body::read(&app, authenticated.workspace.id, body).await?;
    let source: NewSource = body.json("\u{fffd}")?;
    without_nul("display_name", &source.display_name)?;
    without_nul("icon", &source.icon)?;
    let (subject, id) = (subject(&authenticated), LogSourceId(source.id));
    let inserted = host
        .agents()
        .insert_log_source(subject, id, source.display_name, source.icon);
    let source = auth::in_time(&app.clock, inserted)
        .await
        .map_err(|error| ApiError::internal("An internal server error occurred.", &error))?;
    let source = Source {
        workspace_agent_id: source.agent_id,
        id: source.id,
        created_at: source.created_at.to_string(),
        display_name: source.display_name,
        icon: source.icon,
    };
    Ok(json_with(StatusCode::CREATED, &source))
}

#[derive(Deserialize)]
struct NewLogs {
    #[serde(default)]
    log_source_id: Uuid,
    #[serde(default)]
    logs: Option<NewLines>,
}

/// The lines of a request, as many as it may have. More of them, which can be empty, would take many times the memory of
/// their body.
#[derive(Default)]
struct NewLines {
    lines: Vec<NewLine>,
    /// How many there were.
    count: usize,
}

impl<'de> Deserialize<'de> for NewLines {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(LinesVisitor)
    }
}

struct LinesVisitor;

impl<'de> Visitor<'de> for LinesVisitor {
    type Value = NewLines;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a sequence")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<NewLines, A::Error> {
        let mut lines = Vec::new();
        while lines.len() < MAX_LOG_LINES {
            match list.next_element()? {
                Some(line) => lines.push(line),
                None => break,
            }
        }
        let mut count = lines.len();
        while list.next_element::<IgnoredAny>()?.is_some() {
            count += 1;
        }
        Ok(NewLines { lines, count })
    }
}

#[derive(Deserialize)]
struct NewLine {
    #[serde(default)]
    output: String,
    #[serde(default)]
    level: String,
}

pub(super) async fn patch<H: SessionHost>(
    State(app): State<Arc<App<H>>>,
    request: Request,
) -> Result<Response, ApiError> {
    let (request, body) = request.into_parts();
    let Caller {
        host,
        authenticated,
        at_work: _at_work,
    } = caller(&app, &request).await?;
    let body = body::read(&app, authenticated.workspace.id, body).await?;
    let NewLogs { log_source_id, logs } = body.json(NO_TEXT)?;
    let NewLines { lines, count } = logs.unwrap_or_default();
    if count == 0 {
        return Err(ApiError::new(StatusCode::BAD_REQUEST, "No logs provided."));
    }
    if count > MAX_LOG_LINES {
        let error = ApiError::new(StatusCode::BAD_REQUEST, "Too many logs provided.");
        return Err(error.detail(LogsError::TooManyLines(count).to_string()));
    }
    let lines = lines.into_iter().map(line).collect::<Result<Vec<_>, _>>()?;
    if log_source_id.is_nil() {
        let made = host.agents().insert_external_source(subject(&authenticated));
        auth::in_time(&app.clock, made)
            .await
            .map_err(|error| ApiError::internal("Failed to create external log source.", &error))?;
    }
    let stored = host
        .agents()
        .store_logs(subject(&authenticated), LogSourceId(log_source_id), lines);
    // The store's errors and the others' are told apart again below.
    let stored = auth::in_time(&app.clock, async {
        match stored.await {
            Ok(stored) => Ok(Ok(stored)),
            Err(LogsError::Store(error)) => Err(error),
            Err(error) => Ok(Err(error)),
        }
    });
    let failed =
        |error: &dyn std::fmt::Display| ApiError::internal("Failed to upload logs", &error.to_string());
    match stored.await {
        Ok(Ok(LogsStored::Stored)) => Ok(json(&())),
        Ok(Ok(LogsStored::LimitReached)) => Err(ApiError::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "Logs limit exceeded",
        )),
        Ok(Err(error)) => Err(failed(&error)),
        Err(error) => Err(failed(&error)),
    }
}

/// A line without level comes from a tool of before levels.
fn line(line: NewLine) -> Result<LogLine, ApiError> {
    let level = match line.level.as_str() {
        "" => Some(LogLevel::Info),
        label => LogLevel::from_label(label),
    };
    let level = level.ok_or_else(|| {
        let detail = format!("invalid log level: {}", quote(&line.level));
        ApiError::new(StatusCode::BAD_REQUEST, "Invalid log level provided.").detail(detail)
    })?;
    Ok(clean_log_line(line.output, level))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_beyond_the_limit_are_counted_and_not_kept() {
        for (sent, kept) in [
            (MAX_LOG_LINES - 1, MAX_LOG_LINES - 1),
            (MAX_LOG_LINES, MAX_LOG_LINES),
            (MAX_LOG_LINES + 1, MAX_LOG_LINES),
        ] {
            let json = format!("[{}]", vec!["{}"; sent].join(","));
            let NewLines { lines, count } = serde_json::from_str(&json).unwrap();
            assert_eq!((lines.len(), count), (kept, sent));
        }
    }
}
