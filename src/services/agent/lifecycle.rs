//! UpdateLifecycle: where an agent is in its life.
//!
//! Source: coder/coder `coderd/agentapi/lifecycle.go`, `metrics.go`. The row is not read first; the statement decides.

use std::sync::atomic::Ordering;

use super::{AgentApi, agent_error, enum_name, required};
use crate::clock::Timestamp;
use crate::mux::Status;
use crate::proto::agent as proto;
use crate::proto::agent::lifecycle::State;
use crate::pubsub::WorkspaceEventKind;
use crate::store::{LifecycleState, LifecycleUpdate, StoreError};

impl AgentApi {
    pub(super) async fn report_lifecycle(
        &self,
        request: proto::UpdateLifecycleRequest,
    ) -> Result<proto::Lifecycle, Status> {
        let mut lifecycle = request.lifecycle.ok_or_else(|| required("lifecycle"))?;
        let (session, parts) = (&self.session, &self.services.parts);
        tracing::debug!(workspace_id = %session.workspace_id, payload = ?lifecycle, "workspace agent state report");
        let state = state(lifecycle.state)?;
        let now = parts.clock.now();
        // An absent time is 1970, as it is for Go; only year 1 stands for "now".
        let mut changed_at = match &lifecycle.changed_at {
            None => Timestamp::UNIX_EPOCH,
            Some(time) => Timestamp::from_proto(time)
                .ok_or_else(|| write_error(&StoreError::Rejected("timestamp out of range".to_owned())))?,
        };
        if changed_at == Timestamp::ZERO {
            changed_at = now;
            lifecycle.changed_at = Some(now.into());
        }
        let update = LifecycleUpdate { state, changed_at };
        let written = parts
            .patience
            .call(session.workspace_id, 0, || {
                parts.store.update_lifecycle(session.agent_id, &update)
            })
            .await;
        match written {
            Ok(()) => {}
            Err(error @ StoreError::NoRows) => return Err(agent_error(session.agent_id, &error)),
            Err(error) => {
                tracing::error!(agent_id = %session.agent_id, %error, "failed to update lifecycle state");
                return Err(write_error(&error));
            }
        }
        self.publish(WorkspaceEventKind::AgentLifecycleUpdate);
        if matches!(
            state,
            LifecycleState::Ready | LifecycleState::StartTimeout | LifecycleState::StartError
        ) {
            self.observe_build().await;
        }
        Ok(lifecycle)
    }

    /// Records how long the build took when its last agent is through with its start. Looked at once per session, even
    /// if others were not through then: the last one of them records it. Never fails the call.
    async fn observe_build(&self) {
        let parts = &self.services.parts;
        let Some(durations) = &parts.build_durations else {
            return;
        };
        if self.session.build_observed.swap(true, Ordering::Relaxed) {
            return;
        }
        match parts.store.build_readiness(self.session.agent_id).await {
            Ok(build) if !build.all_agents_ready => {}
            Ok(build) if build.last_agent_ready_at == Timestamp::ZERO => {
                tracing::warn!(agent_id = %self.session.agent_id, "last_agent_ready_at is unexpectedly zero");
            }
            Ok(build) => durations.observe(&build),
            Err(error) => {
                tracing::warn!(agent_id = %self.session.agent_id, %error, "failed to get build info for metrics");
            }
        }
    }
}

fn write_error(error: &StoreError) -> Status {
    Status::message(format!("update workspace agent lifecycle state: {error}"))
}

fn state(number: i32) -> Result<LifecycleState, Status> {
    let state = match State::try_from(number).unwrap_or(State::Unspecified) {
        State::Created => LifecycleState::Created,
        State::Starting => LifecycleState::Starting,
        State::StartTimeout => LifecycleState::StartTimeout,
        State::StartError => LifecycleState::StartError,
        State::Ready => LifecycleState::Ready,
        State::ShuttingDown => LifecycleState::ShuttingDown,
        State::ShutdownTimeout => LifecycleState::ShutdownTimeout,
        State::ShutdownError => LifecycleState::ShutdownError,
        State::Off => LifecycleState::Off,
        State::Unspecified => {
            let name = enum_name::<State>(number, State::as_str_name);
            return Err(Status::message(format!("unknown lifecycle state \"{name}\"")));
        }
    };
    Ok(state)
}
