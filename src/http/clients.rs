//! The routes of clients: people's programs that reach agents, with a client's token.
//!
//! Owns who a client is, what it must ask before it dials, and the order of the checks: room, token, agent, version,
//! resume token, upgrade. It is that of coder/coder `coderd/workspaceagents.go` (`workspaceAgentClientCoordinate`,
//! `tailnetRPCConn`, `workspaceAgentConnection`) behind `coderd/httpmw/apikey.go` and `workspaceagentparam.go`.

use std::sync::Arc;

use axum::Router;
use axum::extract::{Path, Request, State};
use axum::http::StatusCode;
use axum::http::request::Parts;
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use serde::Serialize;
use serde_json::Value;
use uuid::Uuid;

use super::auth::{TOKEN_COOKIE, find, in_time, parse_uuid};
use super::error::{ApiError, Validation, json};
use super::rpc::{api_version, establish};
use super::{App, ConnectionInfo, NewClientSession, SessionHost, query};
use crate::client_token::ClientToken;
use crate::coordinator::PeerId;
use crate::ids::AgentId;
use crate::mux::quote;
use crate::services::tailnet::derp_config;
use crate::store::Client;

/// The query parameter with which a client that comes back keeps its peer id.
const RESUME_TOKEN: &str = "resume_token";

/// Message and detail of a resume token that is none.
const INVALID_RESUME_TOKEN: &str = "Invalid resume token";

/// The routes, without what is common to them.
pub(super) fn routes<H: SessionHost>() -> Router<Arc<App<H>>> {
    Router::new()
        .route("/api/v2/workspaceagents/connection", get(connection::<H>))
        .route(
            "/api/v2/workspaceagents/{agent}/connection",
            get(agent_connection::<H>),
        )
        .route("/api/v2/workspaceagents/{agent}/coordinate", get(coordinate::<H>))
        .route("/api/v2/tailnet", get(tailnet::<H>))
}

/// What a client of all agents needs to know.
async fn connection<H: SessionHost>(
    State(app): State<Arc<App<H>>>,
    request: Request,
) -> Result<Response, ApiError> {
    let host = app.host().ok_or_else(ApiError::not_open)?;
    let (request, _) = request.into_parts();
    client(&app, host, &request).await?;
    Ok(told(host.connection_info()))
}

/// What a client of one agent needs to know.
async fn agent_connection<H: SessionHost>(
    State(app): State<Arc<App<H>>>,
    Path(agent): Path<String>,
    request: Request,
) -> Result<Response, ApiError> {
    let host = app.host().ok_or_else(ApiError::not_open)?;
    let (request, _) = request.into_parts();
    let client = client(&app, host, &request).await?;
    own_agent(&app, host, &client, &agent).await?;
    Ok(told(host.connection_info()))
}

/// A session about one agent.
async fn coordinate<H: SessionHost>(
    State(app): State<Arc<App<H>>>,
    Path(agent): Path<String>,
    request: Request,
) -> Response {
    handshake(app, Some(agent), request).await
}

/// A session about all agents of a user.
async fn tailnet<H: SessionHost>(State(app): State<Arc<App<H>>>, request: Request) -> Response {
    handshake(app, None, request).await
}

async fn handshake<H: SessionHost>(app: Arc<App<H>>, agent: Option<String>, request: Request) -> Response {
    // Before the check for a shutdown, so that a shutdown waits for whoever passed it.
    let at_work = app.handshakes.token();
    let Some(host) = app.host() else {
        return ApiError::not_open().into_response();
    };
    let (request, _) = request.into_parts();
    match admit(&app, host, &request, agent.as_deref()).await {
        Ok(session) => establish(&app, at_work, request, |host, pipe| {
            host.begin_client(session, pipe);
        }),
        Err(error) => {
            host.refused(&error);
            error.into_response()
        }
    }
}

/// The checks before the upgrade.
async fn admit<H: SessionHost>(
    app: &App<H>,
    host: &H,
    request: &Parts,
    agent: Option<&str>,
) -> Result<NewClientSession, ApiError> {
    let place = app.place()?;
    let client = client(app, host, request).await?;
    let place = place.of_client(client.owner_id)?;
    let agent = match agent {
        Some(text) => Some(own_agent(app, host, &client, text).await?),
        None => None,
    };
    api_version(app, request)?;
    let peer = match query::first_non_empty(request.uri.query(), RESUME_TOKEN) {
        None => PeerId(Uuid::new_v4()),
        Some(token) => host.resumed_peer(&token).ok_or_else(|| {
            ApiError::new(StatusCode::UNAUTHORIZED, INVALID_RESUME_TOKEN).validation(Validation {
                field: RESUME_TOKEN,
                detail: INVALID_RESUME_TOKEN.to_owned(),
            })
        })?,
    };
    Ok(NewClientSession {
        client,
        peer,
        agent,
        place,
    })
}

/// Who asks.
async fn client<H: SessionHost>(app: &App<H>, host: &H, request: &Parts) -> Result<Client, ApiError> {
    let signed_out = |detail: String| {
        let message = "You are signed out or your session has expired. Please sign in again to continue.";
        ApiError::new(StatusCode::UNAUTHORIZED, message).detail(detail)
    };
    if !host.serves_clients() {
        let error = ApiError::new(StatusCode::NOT_FOUND, "Clients are not served here.");
        return Err(error.detail(
            "This server works on the database of a coder deployment, whose own servers serve clients.",
        ));
    }
    let Some(text) = find(request) else {
        let detail = format!("Cookie \"{TOKEN_COOKIE}\" or query parameter must be provided.");
        return Err(signed_out(detail));
    };
    let token = ClientToken::parse(&text).ok_or_else(|| {
        let detail = format!("Invalid client token format. (len {})", text.len());
        signed_out(detail)
    })?;
    match in_time(&app.clock, host.authenticate_client(&token)).await {
        Ok(Some(client)) => Ok(client),
        Ok(None) => Err(signed_out(
            "The client token is unknown or was revoked.".to_owned(),
        )),
        Err(error) => Err(ApiError::internal(
            "An internal error occurred. Please try again or contact the system administrator.",
            &format!("Internal error fetching the client token: {error}"),
        )),
    }
}

/// The agent that a path names, if it is one of the client's owner.
async fn own_agent<H: SessionHost>(
    app: &App<H>,
    host: &H,
    client: &Client,
    text: &str,
) -> Result<AgentId, ApiError> {
    let agent = parse_uuid(text.as_bytes()).map(AgentId).ok_or_else(|| {
        let message = format!("Invalid UUID {}.", quote(text));
        ApiError::new(StatusCode::BAD_REQUEST, message)
    })?;
    match in_time(&app.clock, host.owns_agent(client.owner_id, agent)).await {
        Ok(true) => Ok(agent),
        Ok(false) => Err(ApiError::new(
            StatusCode::NOT_FOUND,
            "Agent doesn't exist with that id, or you do not have access to it.",
        )),
        Err(error) => Err(ApiError::internal(
            "Internal error fetching workspace agent.",
            &error,
        )),
    }
}

fn told(info: ConnectionInfo) -> Response {
    #[derive(Serialize)]
    struct Body {
        derp_map: Value,
        derp_force_websockets: bool,
        disable_direct_connections: bool,
        hostname_suffix: String,
    }
    json(&Body {
        derp_map: derp_config::to_json(&info.derp_map),
        derp_force_websockets: info.derp_force_websockets,
        disable_direct_connections: info.disable_direct_connections,
        hostname_suffix: info.hostname_suffix,
    })
}
