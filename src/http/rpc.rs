//! From a request to a session: `GET /api/v2/workspaceagents/me/rpc`, and what clients' routes share with it.
//!
//! Owns the order of the checks: room, token, room for the agent, version, role, upgrade. It is that of coder/coder
//! `coderd/workspaceagentsrpc.go`; a text for each failure stands where the check does.

use std::borrow::Cow;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use bytes::BytesMut;
use hyper::upgrade::{OnUpgrade, Parts, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio_util::task::task_tracker::TaskTrackerToken;

use super::error::{ApiError, Validation, plain};
use super::{App, NewSession, SessionHost, WebSocketPipe, auth, query, upgrade, version};

/// How long the answer to a handshake may take to be written. It is smaller than any socket buffer.
pub(crate) const UPGRADE_TIMEOUT: Duration = Duration::from_secs(10);

/// At most one warning of a version that is refused in this time: whoever asks for it asks again within seconds.
const VERSION_WARNING_INTERVAL: Duration = Duration::from_mins(1);

/// Characters that are logged of a version that is refused.
const MAX_VERSION_LOGGED: usize = 32;

/// Accepts or refuses one agent.
pub(super) async fn handshake<H: SessionHost>(State(app): State<Arc<App<H>>>, request: Request) -> Response {
    // Before the check for a shutdown, so that a shutdown waits for whoever passed it.
    let at_work = app.handshakes.token();
    let Some(host) = app.host() else {
        return ApiError::not_open().into_response();
    };
    let (request, _) = request.into_parts();
    match admit(&app, host, &request).await {
        Ok(session) => establish(&app, at_work, request, |host, pipe| host.begin(session, pipe)),
        Err(error) => {
            host.refused(&error);
            error.into_response()
        }
    }
}

/// Answers a good request, and hands its connection to `begin`.
pub(super) fn establish<H: SessionHost>(
    app: &Arc<App<H>>,
    at_work: TaskTrackerToken,
    mut request: axum::http::request::Parts,
    begin: impl FnOnce(&H, WebSocketPipe<TcpStream>) + Send + 'static,
) -> Response {
    let response = match upgrade::accept(&request) {
        Ok(response) => response,
        Err(refusal) => return refusal.into_response(),
    };
    let Some(upgraded) = request.extensions.remove::<OnUpgrade>() else {
        return plain(
            StatusCode::UPGRADE_REQUIRED,
            "WebSocket protocol violation: connection cannot be upgraded",
        );
    };
    let app = Arc::clone(app);
    // A task of its own, which ends as the session's begins: a session keeps nothing of its handshake.
    tokio::spawn(async move {
        let timeout = app.clock.sleep(UPGRADE_TIMEOUT);
        let upgraded = tokio::select! {
            upgraded = upgraded => upgraded.ok(),
            () = timeout => None,
            () = app.stopping.cancelled() => None,
        };
        if let (Some(pipe), Some(host)) = (upgraded.and_then(pipe), app.host()) {
            begin(host, pipe);
        }
        drop(at_work);
    });
    response
}

/// The checks before the upgrade.
async fn admit<H: SessionHost>(
    app: &App<H>,
    host: &H,
    request: &axum::http::request::Parts,
) -> Result<NewSession, ApiError> {
    let place = app.place()?;
    // What changes from here on, the session is told.
    let heard = host.heard();
    let authenticated = auth::authenticate(app, host, request).await?;
    let place = place.of_agent(authenticated.agent.id)?;
    let api_version = api_version(app, request)?;
    let role = query::first_non_empty(request.uri.query(), "role").map(Cow::into_owned);
    Ok(NewSession {
        authenticated,
        heard,
        api_version,
        role,
        place,
    })
}

/// The version that a request asks for, if it is one that is served.
pub(super) fn api_version<H>(app: &App<H>, request: &axum::http::request::Parts) -> Result<String, ApiError> {
    let requested = query::first_non_empty(request.uri.query(), "version");
    let api_version = requested.map_or_else(|| version::DEFAULT.to_owned(), Cow::into_owned);
    version::validate(&api_version, app.api_max_minor).map_err(|detail| {
        warn_of_version(app, &api_version);
        ApiError::new(StatusCode::BAD_REQUEST, "Unknown or unsupported API version").validation(Validation {
            field: "version",
            detail,
        })
    })?;
    Ok(api_version)
}

/// Agents that are newer than this server are refused for as long as nobody does anything about it.
fn warn_of_version<H>(app: &App<H>, requested: &str) {
    let now = app.clock.monotonic();
    // One number, whoever panicked.
    let mut next = app
        .next_version_warning
        .lock()
        .unwrap_or_else(PoisonError::into_inner);
    if next.is_some_and(|at| now < at) {
        return;
    }
    *next = Some(now + VERSION_WARNING_INTERVAL);
    drop(next);
    let requested: String = requested.chars().take(MAX_VERSION_LOGGED).collect();
    tracing::warn!(
        ?requested,
        newest = version::newest(app.api_max_minor),
        "an API version that is not served is asked for, and refused; --api-max-minor lets newer ones in"
    );
}

/// A connection down to its socket: the layers above it would stay in memory for as long as the session.
fn pipe(upgraded: Upgraded) -> Option<WebSocketPipe<TcpStream>> {
    let Ok(Parts { io, read_buf, .. }) = upgraded.downcast::<TokioIo<TcpStream>>() else {
        tracing::error!("connection of an upgraded request is no TCP connection");
        return None;
    };
    Some(WebSocketPipe::new(io.into_inner(), BytesMut::from(&read_buf[..])))
}
