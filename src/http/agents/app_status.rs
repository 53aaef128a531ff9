//! `PATCH app-status`: what an app says that it is doing, from tools that do not speak the agents' protocol.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::Response;
use serde::Deserialize;

use super::super::error::{ApiError, Validation, json};
use super::super::{App, SessionHost, auth};
use super::{Caller, body, caller};
use crate::services::agent::{AppReporter, AppStatusError, AppStatusReport};
use crate::store::{AppStatusState, StoreError};

#[derive(Default, Deserialize)]
#[serde(default)]
struct NewStatus {
    app_slug: String,
    state: String,
    message: String,
    uri: String,
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
    let status: NewStatus = body.json("\u{fffd}")?;
    let reporter = AppReporter {
        agent_id: authenticated.agent.id,
        workspace_id: authenticated.workspace.id,
        owner_id: authenticated.workspace.owner_id,
        workspace: Some(Arc::new(authenticated.workspace)),
    };
    let report = AppStatusReport {
        slug: status.app_slug,
        state: AppStatusState::from_label(&status.state).ok_or(status.state),
        message: status.message,
        uri: status.uri,
    };
    let updated = async { Ok(host.agents().update_app_status(&reporter, report).await) };
    let updated = auth::in_time(&app.clock, updated)
        .await
        .map_err(|error: StoreError| ApiError::internal("Failed to insert workspace app status.", &error))?;
    updated.map_err(refused)?;
    Ok(json(&()))
}

fn refused(error: AppStatusError) -> ApiError {
    let status = StatusCode::from_u16(error.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let refusal = ApiError::new(status, error.message).detail(error.detail);
    error
        .validations
        .into_iter()
        .fold(refusal, |refusal, (field, detail)| {
            let detail = detail.to_owned();
            refusal.validation(Validation { field, detail })
        })
}
