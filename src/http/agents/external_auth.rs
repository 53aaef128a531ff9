//! `GET external-auth`: the owner's token of an external provider, for git and for scripts.
//!
//! Source of the texts: coder/coder `coderd/workspaceagents.go` (`workspaceAgentsExternalAuth`).

use std::borrow::Cow;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::Response;

use super::super::error::{ApiError, json};
use super::super::listener::ConnectionPlace;
use super::super::{App, SessionHost, auth, query};
use super::{Caller, caller};
use crate::services::external_auth::{ExternalAuthError, Wanted};

pub(super) async fn get<H: SessionHost>(
    State(app): State<Arc<App<H>>>,
    request: Request,
) -> Result<Response, ApiError> {
    let (request, _) = request.into_parts();
    let Caller {
        host,
        authenticated,
        at_work,
    } = caller(&app, &request).await?;
    auth::user_data(&authenticated)?;
    let url = request.uri.query();
    let wanted = wanted(url)?;
    let (owner, workspace) = (authenticated.workspace.owner_id, authenticated.workspace.id);
    drop(authenticated);
    let asked = |listen| host.external_auth().token(owner, &wanted, listen);
    if query::first(url, "listen").is_none() {
        return asked(false)
            .await
            .map(|answer| json(&answer))
            .map_err(|error| refused(&error));
    }
    let room = app.bounds.listeners.take(workspace, 1);
    let _room = room.map_err(|_| ApiError::unavailable("Too many requests wait for external providers."))?;
    drop(at_work);
    if let Some(place) = request.extensions.get::<ConnectionPlace>() {
        place.give_back();
    }
    let answer = tokio::select! {
        answer = asked(true) => answer.map_err(|error| refused(&error)),
        () = app.stopping.cancelled() => Err(ApiError::not_open()),
    };
    let mut response = answer.map_or_else(axum::response::IntoResponse::into_response, |answer| {
        json(&answer)
    });
    response
        .headers_mut()
        .insert(header::CONNECTION, HeaderValue::from_static("close"));
    Ok(response)
}

/// Exactly one of the parameters; agents of long ago call `match` `url`.
fn wanted(url: Option<&str>) -> Result<Wanted, ApiError> {
    let first = |name| query::first_non_empty(url, name).map(Cow::into_owned);
    let pattern = first("match").or_else(|| first("url"));
    match (pattern, first("id")) {
        (Some(pattern), None) => Ok(Wanted::Match(pattern)),
        (None, Some(id)) => Ok(Wanted::Id(id)),
        (None, None) => Err(bad_request("'url' or 'id' must be provided!")),
        (Some(_), Some(_)) => Err(bad_request("'url' and 'id' cannot be provided together!")),
    }
}

fn bad_request(message: &'static str) -> ApiError {
    ApiError::new(StatusCode::BAD_REQUEST, message)
}

fn refused(error: &ExternalAuthError) -> ApiError {
    let message = match error {
        ExternalAuthError::NoProvider { detail, .. } => {
            return ApiError::new(StatusCode::NOT_FOUND, error.to_string()).detail(detail.clone());
        }
        ExternalAuthError::Link(_) => "Failed to get external auth link.",
        ExternalAuthError::Check(_) => "Failed to refresh external auth token.",
        ExternalAuthError::Extra(_) => "Failed to create external auth response.",
    };
    ApiError::internal(message, error)
}
