//! ScriptCompleted: how a script of an agent ended.
//!
//! Source: coder/coder `coderd/agentapi/scripts.go:ScriptCompleted`. As there, the script need not be the caller's.

use super::{AgentApi, uuid};
use crate::clock::Timestamp;
use crate::ids::ScriptId;
use crate::mux::Status;
use crate::proto::agent as proto;
use crate::proto::agent::timing::{Stage, Status as End};
use crate::store::{ScriptTiming, Violation};

impl AgentApi {
    pub(super) async fn complete_script(
        &self,
        request: proto::WorkspaceAgentScriptCompletedRequest,
    ) -> Result<proto::WorkspaceAgentScriptCompletedResponse, Status> {
        let timing = request
            .timing
            .ok_or_else(|| Status::message("script timing is required"))?;
        let script_id = uuid(&timing.script_id)
            .map_err(|error| Status::message(format!("script id from bytes: {error}")))?;
        let (start, started_at) = time(timing.start, "start")?;
        let (end, ended_at) = time(timing.end, "end")?;
        if start > end {
            return Err(Status::message("script start time cannot be after end time"));
        }
        let timing = ScriptTiming {
            script_id: ScriptId(script_id),
            started_at,
            ended_at,
            exit_code: timing.exit_code,
            stage: Stage::try_from(timing.stage).map_or("", stage),
            status: End::try_from(timing.status).map_or("", status),
        };
        let parts = &self.services.parts;
        let mut attempts = 0;
        let written = parts
            .patience
            .call(self.session.workspace_id, 0, || {
                attempts += 1;
                parts.store.insert_script_timing(&timing)
            })
            .await;
        match written {
            Ok(()) => {}
            // The store went away after it had written the row.
            Err(error) if attempts > 1 && error.is_violation(Violation::ScriptTimingExists) => {}
            Err(error) => {
                return Err(Status::message(format!(
                    "insert workspace agent script timings into database: {error}"
                )));
            }
        }
        Ok(proto::WorkspaceAgentScriptCompletedResponse {})
    }
}

/// A time as it was sent, by which two are compared, and as it is stored. Year 1 is Go's zero time; an empty timestamp,
/// which is 1970, passes.
fn time(time: Option<prost_types::Timestamp>, which: &str) -> Result<((i64, i32), Timestamp), Status> {
    time.filter(|&time| time != Timestamp::ZERO.into())
        .and_then(|time| Some(((time.seconds, time.nanos), Timestamp::from_proto(&time)?)))
        .ok_or_else(|| Status::message(format!("script {which} time is required and cannot be zero")))
}

fn stage(stage: Stage) -> &'static str {
    match stage {
        Stage::Start => "start",
        Stage::Stop => "stop",
        Stage::Cron => "cron",
    }
}

fn status(status: End) -> &'static str {
    match status {
        End::Ok => "ok",
        End::ExitFailure => "exit_failure",
        End::TimedOut => "timed_out",
        End::PipesLeftOpen => "pipes_left_open",
    }
}
