//! `GET /api/v2/workspaceagents/me/rpc`: from a request to a session.
//!
//! Owns the order of the checks: room, token, version, role, upgrade. It is that of coder/coder
//! `coderd/workspaceagentsrpc.go`; a text for each failure stands where the check does.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use bytes::BytesMut;
use hyper::upgrade::{OnUpgrade, Parts, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::sync::OwnedSemaphorePermit;

use super::error::{ApiError, Validation, plain};
use super::{App, NewSession, SessionHost, WebSocketPipe, auth, query, upgrade, version};

/// How long the answer to a handshake may take to be written. It is smaller than any socket buffer.
const UPGRADE_TIMEOUT: Duration = Duration::from_secs(10);

/// Accepts or refuses one agent.
pub(super) async fn handshake<H: SessionHost>(State(app): State<Arc<App<H>>>, request: Request) -> Response {
    // Before the check for a shutdown, so that a shutdown waits for whoever passed it.
    let at_work = app.handshakes.token();
    let Some(host) = app.host() else {
        return unavailable("The server is starting or stopping.").into_response();
    };
    let (mut request, _) = request.into_parts();
    let (session, permit) = match admit(&app, host, &request).await {
        Ok(admitted) => admitted,
        Err(error) => {
            host.refused(&error);
            return error.into_response();
        }
    };
    let response = match upgrade::accept(&request) {
        Ok(response) => response,
        Err(response) => return response,
    };
    let Some(upgraded) = request.extensions.remove::<OnUpgrade>() else {
        return plain(
            StatusCode::UPGRADE_REQUIRED,
            "WebSocket protocol violation: connection cannot be upgraded",
        );
    };
    let app = Arc::clone(&app);
    // A task of its own, which ends as the session's begins: a session keeps nothing of its handshake.
    tokio::spawn(async move {
        let timeout = app.clock.sleep(UPGRADE_TIMEOUT);
        let upgraded = tokio::select! {
            upgraded = upgraded => upgraded.ok(),
            () = timeout => None,
            () = app.stopping.cancelled() => None,
        };
        if let (Some(upgraded), Some(host)) = (upgraded, app.host()) {
            begin(host, session, upgraded, permit);
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
) -> Result<(NewSession, OwnedSemaphorePermit), ApiError> {
    let permit = Arc::clone(&app.room).try_acquire_owned();
    let permit = permit.map_err(|_| unavailable("The server has no room for another agent connection."))?;

    let token = auth::token(request)?;
    let timeout = app.clock.sleep(auth::STORE_TIMEOUT);
    let found = tokio::select! {
        found = host.authenticate(&token) => found,
        () = timeout => Err(auth::store_timed_out()),
    };
    let authenticated = auth::authorized(found)?;

    let url = request.uri.query();
    let api_version =
        query::first_non_empty(url, "version").map_or(version::DEFAULT.to_owned(), |v| v.into_owned());
    version::validate(&api_version, app.api_max_minor).map_err(|detail| {
        ApiError::new(StatusCode::BAD_REQUEST, "Unknown or unsupported API version").validation(Validation {
            field: "version",
            detail,
        })
    })?;

    let role = query::first_non_empty(url, "role").map(std::borrow::Cow::into_owned);
    Ok((
        NewSession {
            authenticated,
            api_version,
            role,
        },
        permit,
    ))
}

/// Agents and clients come again after this one.
fn unavailable(message: &'static str) -> ApiError {
    ApiError::new(StatusCode::SERVICE_UNAVAILABLE, message)
}

/// Starts the session's task.
fn begin<H: SessionHost>(host: &H, session: NewSession, upgraded: Upgraded, permit: OwnedSemaphorePermit) {
    // Down to the socket: the layers above it would stay in memory for as long as the session.
    let Ok(Parts { io, read_buf, .. }) = upgraded.downcast::<TokioIo<TcpStream>>() else {
        tracing::error!("connection of an upgraded request is no TCP connection");
        return;
    };
    let pipe = WebSocketPipe::new(io.into_inner(), BytesMut::from(&read_buf[..]));
    let session = host.serve(session, pipe);
    tokio::spawn(async move {
        session.await;
        drop(permit);
    });
}
