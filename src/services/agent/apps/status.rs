//! UpdateAppStatus: what an app says that it is doing, and who hears of it.
//!
//! Serves the RPC and its REST counterpart alike. Owns the checks, when a task's owner is notified, and when a status
//! keeps a workspace running. Source: coder/coder `coderd/agentapi/apps.go:UpdateAppStatus`.

use std::fmt;
use std::sync::Arc;

use serde_json::json;

use super::clean::clean;
use crate::clock::Timestamp;
use crate::ids::{AgentId, AppId, AppStatusId, NotificationTemplateId, UserId, WorkspaceId};
use crate::mux::{Status, quote};
use crate::proto::agent as proto;
use crate::proto::agent::update_app_status_request::AppStatusState as Proto;
use crate::pubsub::{WorkspaceEvent, WorkspaceEventKind};
use crate::services::agent::{AgentApi, AgentServices, enum_name};
use crate::services::notifications::Notice;
use crate::store::{AppBeforeStatus, AppStatusState, NewAppStatus, StoreError, Workspace};

/// Bytes of a message before it is cleaned.
pub(crate) const MAX_MESSAGE: usize = 160;

/// Bytes of a URI: as long as browsers and servers take, and no way to fill a disk with few calls.
pub(crate) const MAX_URI: usize = 8 << 10;

const TASK_WORKING: NotificationTemplateId =
    NotificationTemplateId(uuid::uuid!("bd4b7168-d05e-4e19-ad0f-3593b77aa90f"));
const TASK_IDLE: NotificationTemplateId =
    NotificationTemplateId(uuid::uuid!("d4a6271c-cced-4ed0-84ad-afd02a9c7799"));
const TASK_COMPLETED: NotificationTemplateId =
    NotificationTemplateId(uuid::uuid!("8c5a4d12-9f7e-4b3a-a1c8-6e4f2d9b5a7c"));
const TASK_FAILED: NotificationTemplateId =
    NotificationTemplateId(uuid::uuid!("3b7e8f1a-4c2d-49a6-b5e9-7f3a1c8d6b4e"));

/// Microseconds in a minute. A task's owner hears of each state at most once a minute.
const MINUTE: i64 = 60_000_000;

/// Who reports a status.
#[derive(Clone, Debug)]
pub struct AppReporter {
    /// Whose app it is.
    pub agent_id: AgentId,
    /// The agent's workspace.
    pub workspace_id: WorkspaceId,
    /// On whose channel the status is told.
    pub owner_id: UserId,
    /// A copy of the workspace; without one it is read when somebody is to be notified.
    pub workspace: Option<Arc<Workspace>>,
}

/// What an app says of itself.
#[derive(Clone, Debug)]
pub struct AppStatusReport {
    /// Which app.
    pub slug: String,
    /// What it is doing; an error is a state that does not exist, as the peer wrote it.
    pub state: Result<AppStatusState, String>,
    /// What it says, at most 160 bytes.
    pub message: String,
    /// Where there is more; may be empty.
    pub uri: String,
}

/// Why a status was refused: an HTTP answer, which on an RPC travels as its text.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct AppStatusError {
    /// HTTP status code.
    pub code: u16,
    /// What went wrong.
    pub message: &'static str,
    /// More of it.
    pub detail: String,
    /// Fields of the request with what is wrong with each.
    pub validations: Vec<(&'static str, &'static str)>,
}

impl fmt::Display for AppStatusError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "unexpected status code {}: {}", self.code, self.message)?;
        if !self.detail.is_empty() {
            write!(f, "\n\tError: {}", self.detail)?;
        }
        for (field, detail) in &self.validations {
            write!(f, "\n\t{field}: {detail}")?;
        }
        Ok(())
    }
}

impl AppStatusError {
    fn bad_request(message: &'static str, detail: String) -> Self {
        Self {
            code: 400,
            message,
            detail,
            validations: Vec::new(),
        }
    }

    fn internal(message: &'static str, detail: String) -> Self {
        Self {
            code: 500,
            ..Self::bad_request(message, detail)
        }
    }

    fn invalid(mut self, field: &'static str, detail: &'static str) -> Self {
        self.validations.push((field, detail));
        self
    }
}

impl AgentApi {
    pub(in crate::services::agent) async fn report_app_status(
        &self,
        request: proto::UpdateAppStatusRequest,
    ) -> Result<proto::UpdateAppStatusResponse, Status> {
        let session = &self.session;
        let reporter = AppReporter {
            agent_id: session.agent_id,
            workspace_id: session.workspace_id,
            owner_id: session.owner_id,
            workspace: session.cached_workspace(),
        };
        let report = AppStatusReport {
            slug: request.slug,
            state: state(request.state),
            message: request.message,
            uri: request.uri,
        };
        let updated = self.services.update_app_status(&reporter, report).await;
        updated.map_err(|error| Status::message(error.to_string()))?;
        Ok(proto::UpdateAppStatusResponse {})
    }
}

impl AgentServices {
    /// Stores what an app says that it is doing, tells who follows the workspace, notifies the owner of a task, and
    /// keeps the workspace running while there is work.
    pub async fn update_app_status(
        &self,
        reporter: &AppReporter,
        report: AppStatusReport,
    ) -> Result<(), AppStatusError> {
        let parts = &self.parts;
        let AppStatusReport {
            slug,
            state,
            message,
            uri,
        } = report;
        let state = check(&message, &uri, state)?;
        let read = parts
            .patience
            .call(reporter.workspace_id, slug.len() + uri.len(), || {
                let (agent, workspace) = (reporter.agent_id, reporter.workspace_id);
                parts.store.app_before_status(agent, workspace, &slug)
            })
            .await;
        let app = read.map_err(|error| {
            // Agents are told the same whatever it was.
            if error != StoreError::NoRows {
                tracing::warn!(agent = %reporter.agent_id, %error, "failed to read an app");
            }
            let detail = format!("No app found with slug {}", quote(&slug));
            AppStatusError::bad_request("Failed to get workspace app.", detail)
        })?;
        drop(slug);

        let failed = |detail| AppStatusError::internal("Failed to insert workspace app status.", detail);
        if uri.contains('\0') {
            return Err(failed("uri must not contain NUL".to_owned()));
        }
        let now = parts.clock.now();
        let status = NewAppStatus {
            id: AppStatusId::random(),
            created_at: now,
            agent_id: reporter.agent_id,
            app_id: app.id,
            workspace_id: reporter.workspace_id,
            state,
            message: clean(&message),
            uri: (!uri.is_empty()).then_some(uri),
        };
        let size = status.message.len() + status.uri.as_ref().map_or(0, String::len);
        let written = parts
            .patience
            .call(reporter.workspace_id, size, || {
                parts.store.insert_app_status(&status)
            })
            .await;
        written.map_err(|error| failed(error.to_string()))?;
        drop(status);

        let event = WorkspaceEvent {
            kind: WorkspaceEventKind::AgentAppStatusUpdate,
            workspace_id: reporter.workspace_id,
            agent_id: Some(reporter.agent_id),
        };
        parts.pubsub.publish_workspace_event(reporter.owner_id, &event);
        if let Some(task) = task_to_tell_of(&app, state) {
            self.notify_of_task(reporter, app.id, task, state, now).await;
        }
        self.bump_for_status(reporter.workspace_id, app.latest, state)
            .await;
        Ok(())
    }

    /// Tells a task's owner of its state. Must never fail the call.
    async fn notify_of_task(
        &self,
        reporter: &AppReporter,
        app: AppId,
        task: &str,
        state: AppStatusState,
        now: Timestamp,
    ) {
        let (parts, agent) = (&self.parts, reporter.agent_id);
        let workspace = match &reporter.workspace {
            Some(workspace) => Ok(Arc::clone(workspace)),
            None => self.workspace(reporter.workspace_id, agent).await.map(Arc::new),
        };
        let workspace = match workspace {
            Ok(workspace) => workspace,
            Err(error) => {
                tracing::warn!(agent_id = %agent, %error, "failed to notify of task state");
                return;
            }
        };
        let notice = Notice {
            user_id: workspace.owner_id,
            template_id: match state {
                AppStatusState::Working => TASK_WORKING,
                AppStatusState::Idle => TASK_IDLE,
                AppStatusState::Complete => TASK_COMPLETED,
                AppStatusState::Failure => TASK_FAILED,
            },
            labels: [("task", task.to_owned()), ("workspace", workspace.name.clone())].into(),
            data: json!({ "dedupe_bypass_ts": minute(now).to_string() }),
            created_by: "api-workspace-agent-app-status",
            targets: vec![
                workspace.id.0,
                workspace.owner_id.0,
                workspace.organization_id.0,
                app.0,
            ],
        };
        match parts.notifications.enqueue(&notice).await {
            Ok(_) => {}
            Err(error) if error.is_expected() => {
                tracing::debug!(agent_id = %agent, %error, "no notification of a task");
            }
            Err(error) => tracing::warn!(agent_id = %agent, %error, "failed to notify of task state"),
        }
    }

    /// Moves the deadline of the workspace when a status is activity; its next autostart plays no part.
    async fn bump_for_status(
        &self,
        workspace: WorkspaceId,
        latest: Option<AppStatusState>,
        state: AppStatusState,
    ) {
        if is_activity(latest, state) {
            self.bump(workspace, None).await;
        }
    }
}

const MESSAGE_DETAIL: &str = "Message must be less than 160 characters.";
const URI_DETAIL: &str = "URI must be at most 8192 bytes.";

/// A state as it travels on an RPC.
fn state(number: i32) -> Result<AppStatusState, String> {
    match Proto::try_from(number) {
        Ok(Proto::Working) => Ok(AppStatusState::Working),
        Ok(Proto::Idle) => Ok(AppStatusState::Idle),
        Ok(Proto::Complete) => Ok(AppStatusState::Complete),
        Ok(Proto::Failure) => Ok(AppStatusState::Failure),
        Err(_) => Err(enum_name::<Proto>(number, Proto::as_str_name)),
    }
}

/// What needs no row to be refused.
fn check(
    message: &str,
    uri: &str,
    state: Result<AppStatusState, String>,
) -> Result<AppStatusState, AppStatusError> {
    if message.len() > MAX_MESSAGE {
        let error = AppStatusError::bad_request("Message is too long.", MESSAGE_DETAIL.to_owned());
        return Err(error.invalid("message", MESSAGE_DETAIL));
    }
    if uri.len() > MAX_URI {
        let error = AppStatusError::bad_request("URI is too long.", URI_DETAIL.to_owned());
        return Err(error.invalid("uri", URI_DETAIL));
    }
    state.map_err(|state| {
        let detail = format!("invalid state: {}", quote(state));
        let error = AppStatusError::bad_request("Invalid state provided.", detail);
        error.invalid("state", "State must be one of: complete, failure, working, idle.")
    })
}

/// The name of the task whose owner shall hear of the new state, if there is one.
fn task_to_tell_of(app: &AppBeforeStatus, state: AppStatusState) -> Option<&str> {
    let task = app.task.as_ref()?;
    if !task.agent_ready {
        tracing::debug!("skipping AI task notification because agent is not ready");
        return None;
    }
    // A task begins by working, which is no news.
    let news = app.latest.unwrap_or(AppStatusState::Working) != state;
    (task.runs_in_app && news).then_some(&task.name)
}

/// Whether a status is reason to move the deadline of its workspace: there is work, or there was until now.
fn is_activity(latest: Option<AppStatusState>, state: AppStatusState) -> bool {
    [latest, Some(state)].contains(&Some(AppStatusState::Working))
}

fn minute(now: Timestamp) -> Timestamp {
    let micros = now.as_micros();
    Timestamp::from_micros(micros - micros.rem_euclid(MINUTE))
}
