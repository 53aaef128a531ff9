//! `GET reinit`: a stream of events that tells an agent to start anew, because its prebuilt workspace got an owner.
//!
//! Every agent keeps one open for as long as it lives. Its reader is strict (coder/coder `codersdk/agentsdk/agentsdk.go`,
//! `SSEAgentReinitReceiver`): a line `event: <type>`, for data a line `data: <json>`, blank lines between; anything else,
//! comments too, ends the stream with an error.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderName, HeaderValue, header};
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use futures_util::stream;
use serde::Serialize;
use tokio::time::Interval;

use super::super::error::ApiError;
use super::super::listener::ConnectionPlace;
use super::super::{App, SessionHost};
use super::room::Taken;
use super::{Caller, caller};
use crate::ids::WorkspaceId;
use crate::services::agent::Claims;

/// How often a stream without news says that it lives; as often as the original's.
const PING_INTERVAL: Duration = Duration::from_secs(15);

const PING: Bytes = Bytes::from_static(b"event: ping\n\n");

/// What happened. The capitals are those of the agents of API 2.8.
#[derive(Serialize)]
struct Reinitialization {
    #[serde(rename = "WorkspaceID")]
    workspace_id: WorkspaceId,
    reason: &'static str,
}

pub(super) async fn get<H: SessionHost>(
    State(app): State<Arc<App<H>>>,
    request: Request,
) -> Result<Response, ApiError> {
    let (request, _) = request.into_parts();
    let Caller {
        host,
        authenticated,
        at_work: _at_work,
    } = caller(&app, &request).await?;
    app.expect_memory()?;
    let room = app.bounds.reinit_streams.take(authenticated.workspace.id, 1);
    let room = room.map_err(|_| ApiError::unavailable("Too many agents wait for claims."))?;
    if let Some(place) = request.extensions.get::<ConnectionPlace>() {
        place.give_back();
    }
    let events = Events {
        claims: host.agents().claims(&authenticated.workspace),
        pings: app.clock.interval(PING_INTERVAL),
        workspace: authenticated.workspace.id,
        _room: room,
    };
    let stopping = app.stopping.clone();
    let stream = stream::unfold(events, move |mut events| {
        let stopping = stopping.clone();
        async move {
            let event = tokio::select! {
                event = events.next() => event,
                () = stopping.cancelled() => return None,
            };
            Some((Ok::<_, Infallible>(event), events))
        }
    });
    let headers = [
        (
            header::CONTENT_TYPE,
            HeaderValue::from_static("text/event-stream"),
        ),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-cache")),
        // The connection is not counted any more, so it ends with the stream.
        (header::CONNECTION, HeaderValue::from_static("close")),
        (
            HeaderName::from_static("x-accel-buffering"),
            HeaderValue::from_static("no"),
        ),
    ];
    Ok((headers, Body::from_stream(stream)).into_response())
}

/// What an agent hears, one event after the other.
struct Events {
    claims: Claims,
    pings: Interval,
    workspace: WorkspaceId,
    _room: Taken,
}

impl Events {
    async fn next(&mut self) -> Bytes {
        tokio::select! {
            biased;
            () = self.claims.next() => claimed(self.workspace),
            _ = self.pings.tick() => PING,
        }
    }
}

fn claimed(workspace_id: WorkspaceId) -> Bytes {
    let event = Reinitialization {
        workspace_id,
        reason: "prebuild_claimed",
    };
    // An id and a constant always serialize.
    let json = serde_json::to_string(&event).unwrap_or_default();
    Bytes::from(format!("event: data\ndata: {json}\n\n"))
}
