//! Routes of agents and of the tools that run beside them, below `/api/v2/workspaceagents/me/`.
//!
//! Owns how their requests are read and how failures are worded; one file per group. Each asks [`caller`] who it is
//! first. Must never wait for the store for longer than a handshake does: whoever asks comes again. What is done with the
//! data is up to the services.

mod app_status;
mod body;
mod external_auth;
mod git_ssh_key;
mod logs;
mod reinit;
mod room;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use axum::Router;
use axum::http::request::Parts;
use axum::routing::{get, patch, post};

pub(crate) use body::{MAX_BODY, MAX_MEMORY as MAX_BODY_MEMORY, READ_TIMEOUT};
use room::Room;

use super::error::ApiError;
use super::{App, SessionHost, auth};
use crate::batch::connections::Subject;
use crate::ids::WorkspaceId;
use crate::shares::{Share, Shares};
use crate::store::Authenticated;

/// Most requests that wait for a link to an external provider. Each reads a row a second, while a person logs in.
pub(crate) const MAX_LISTENERS: usize = 256;

/// Most streams of claims. Every agent holds one for as long as it lives.
pub(crate) const MAX_REINIT_STREAMS: usize = 65_536;

/// What the agents of one workspace may have of these, with its sub agents, which it can make.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Each {
    /// Requests at work that neither listen nor are streams of claims. Tools send one at a time.
    pub(crate) requests: usize,
    pub(crate) listeners: usize,
    pub(crate) reinit_streams: usize,
    /// Bytes of bodies: two of the largest.
    pub(crate) body_memory: usize,
}

/// A workspace has a handful of agents, each with a stream and a few tools.
pub(crate) const EACH: Each = Each {
    requests: 64,
    listeners: 32,
    reinit_streams: 256,
    body_memory: 2 * MAX_BODY,
};

/// Room for requests that last or are large: in all, and for each workspace.
#[derive(Debug)]
pub(super) struct Bounds {
    listeners: Room,
    reinit_streams: Room,
    requests: Shares<WorkspaceId>,
    /// In pieces of [`body::PIECE`].
    body_memory: Room,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            listeners: Room::new(MAX_LISTENERS, EACH.listeners),
            reinit_streams: Room::new(MAX_REINIT_STREAMS, EACH.reinit_streams),
            requests: Shares::new(EACH.requests),
            body_memory: Room::new(body::MAX_MEMORY / body::PIECE, EACH.body_memory / body::PIECE),
        }
    }
}

/// The routes, without what is common to them.
pub(super) fn routes<H: SessionHost>() -> Router<Arc<App<H>>> {
    Router::new()
        .route("/gitsshkey", get(git_ssh_key::get::<H>))
        .route("/external-auth", get(external_auth::get::<H>))
        .route("/log-source", post(logs::post_source::<H>))
        .route("/logs", patch(logs::patch::<H>))
        .route("/app-status", patch(app_status::patch::<H>))
        .route("/reinit", get(reinit::get::<H>))
}

/// Who asks, and who answers.
struct Caller<'a, H> {
    host: &'a H,
    authenticated: Authenticated,
    /// Its place among the requests of its workspace, held while it is at work.
    at_work: Share<WorkspaceId>,
}

async fn caller<'a, H: SessionHost>(app: &'a App<H>, request: &Parts) -> Result<Caller<'a, H>, ApiError> {
    let host = app.host().ok_or_else(ApiError::not_open)?;
    let authenticated = auth::authenticate(app, host, request).await?;
    let at_work = app.bounds.requests.take(authenticated.workspace.id, 1);
    let at_work =
        at_work.map_err(|_| ApiError::unavailable("The workspace has too many requests at work."))?;
    Ok(Caller {
        host,
        authenticated,
        at_work,
    })
}

/// Whom events of a request are about.
fn subject(authenticated: &Authenticated) -> Subject {
    Subject {
        agent_id: authenticated.agent.id,
        workspace_id: authenticated.workspace.id,
        owner_id: authenticated.workspace.owner_id,
    }
}
