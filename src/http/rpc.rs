//! `GET /api/v2/workspaceagents/me/rpc`: from a request to a session.
//!
//! Owns the order of the checks: room, token, room for the agent, version, role, upgrade. It is that of coder/coder
//! `coderd/workspaceagentsrpc.go`; a text for each failure stands where the check does.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use bytes::BytesMut;
use hyper::upgrade::{OnUpgrade, Parts, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::error::{ApiError, Validation, plain};
use super::{App, NewSession, SessionHost, WebSocketPipe, auth, query, upgrade, version};

/// How long the answer to a handshake may take to be written. It is smaller than any socket buffer.
pub(crate) const UPGRADE_TIMEOUT: Duration = Duration::from_secs(10);

/// Accepts or refuses one agent.
pub(super) async fn handshake<H: SessionHost>(State(app): State<Arc<App<H>>>, request: Request) -> Response {
    // Before the check for a shutdown, so that a shutdown waits for whoever passed it.
    let at_work = app.handshakes.token();
    let Some(host) = app.host() else {
        return ApiError::not_open().into_response();
    };
    let (mut request, _) = request.into_parts();
    let session = match admit(&app, host, &request).await {
        Ok(session) => session,
        Err(error) => {
            host.refused(&error);
            return error.into_response();
        }
    };
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
            begin(host, session, upgraded);
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
    let mut place = app.place()?;

    let authenticated = auth::authenticate(app, host, request).await?;
    place.claim(authenticated.agent.id)?;

    let url = request.uri.query();
    let requested = query::first_non_empty(url, "version");
    let api_version = requested.map_or_else(|| version::DEFAULT.to_owned(), Cow::into_owned);
    version::validate(&api_version, app.api_max_minor).map_err(|detail| {
        ApiError::new(StatusCode::BAD_REQUEST, "Unknown or unsupported API version").validation(Validation {
            field: "version",
            detail,
        })
    })?;

    let role = query::first_non_empty(url, "role").map(Cow::into_owned);
    Ok(NewSession {
        authenticated,
        api_version,
        role,
        place,
    })
}

/// Hands a session over, down to its socket: the layers above it would stay in memory for as long as the session.
fn begin<H: SessionHost>(host: &H, session: NewSession, upgraded: Upgraded) {
    let Ok(Parts { io, read_buf, .. }) = upgraded.downcast::<TokioIo<TcpStream>>() else {
        tracing::error!("connection of an upgraded request is no TCP connection");
        return;
    };
    let pipe = WebSocketPipe::new(io.into_inner(), BytesMut::from(&read_buf[..]));
    host.begin(session, pipe);
}
