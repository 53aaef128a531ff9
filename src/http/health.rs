//! Whether the process lives, whether it is ready, and what it is.

use std::sync::Arc;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use serde::Serialize;

use super::{App, SessionHost, error, version};
use crate::services::patience::SHORT_STORE_WAIT;

/// Our version in the form that clients compare: those of log streamers use newer APIs from v2.31.0 on.
pub const BUILD_VERSION: &str = concat!("v2.31.0+drpcd.", env!("CARGO_PKG_VERSION"));

/// The process lives, whatever its state.
pub(super) async fn healthz() -> Response {
    text(StatusCode::OK, "OK")
}

/// Whether agents that come now are served.
pub(super) async fn readyz<H: SessionHost>(State(app): State<Arc<App<H>>>) -> Response {
    let Some(host) = app.host() else {
        return text(StatusCode::SERVICE_UNAVAILABLE, "starting or stopping");
    };
    let timeout = app.clock.sleep(SHORT_STORE_WAIT);
    let answered = tokio::select! {
        answer = host.ping() => answer.is_ok(),
        () = timeout => false,
    };
    if answered {
        text(StatusCode::OK, "OK")
    } else {
        text(StatusCode::SERVICE_UNAVAILABLE, "store does not answer")
    }
}

#[derive(Serialize)]
struct BuildInfo {
    external_url: &'static str,
    version: &'static str,
    agent_api_version: String,
}

/// What runs here. Keys are those of coder/coder `codersdk/deployment.go` (`BuildInfoResponse`).
pub(super) async fn buildinfo<H: SessionHost>(State(app): State<Arc<App<H>>>) -> Response {
    error::json(&BuildInfo {
        external_url: env!("CARGO_PKG_REPOSITORY"),
        version: BUILD_VERSION,
        agent_api_version: version::newest(app.api_max_minor),
    })
}

fn text(status: StatusCode, text: &'static str) -> Response {
    (
        status,
        [(header::CONTENT_TYPE, "text/plain; charset=utf-8")],
        text,
    )
        .into_response()
}
