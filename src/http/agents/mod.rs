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
#[cfg(test)]
mod tests;

use std::sync::Arc;

use axum::Router;
use axum::http::request::Parts;
use axum::routing::{get, patch, post};
use tokio::sync::Semaphore;

pub(crate) use body::{MAX_BODY, MAX_MEMORY as MAX_BODY_MEMORY};

use super::error::ApiError;
use super::{App, SessionHost, auth};
use crate::batch::connections::Subject;
use crate::store::Authenticated;

/// Most requests that wait for a link to an external provider. Each reads a row a second, while a person logs in.
pub(crate) const MAX_LISTENERS: usize = 256;

/// Most streams of claims. Every agent holds one for as long as it lives.
pub(crate) const MAX_REINIT_STREAMS: usize = 65_536;

/// Room for requests that last or are large.
#[derive(Debug)]
pub(super) struct Bounds {
    listeners: Arc<Semaphore>,
    reinit_streams: Arc<Semaphore>,
    /// In pieces of [`body::PIECE`].
    body_memory: Semaphore,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            listeners: Arc::new(Semaphore::new(MAX_LISTENERS)),
            reinit_streams: Arc::new(Semaphore::new(MAX_REINIT_STREAMS)),
            body_memory: Semaphore::new(body::MAX_MEMORY / body::PIECE),
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
async fn caller<'a, H: SessionHost>(
    app: &'a App<H>,
    request: &Parts,
) -> Result<(&'a H, Authenticated), ApiError> {
    let host = app.host().ok_or_else(ApiError::not_open)?;
    let authenticated = auth::authenticate(app, host, request).await?;
    Ok((host, authenticated))
}

/// Whom events of a request are about.
fn subject(authenticated: &Authenticated) -> Subject {
    Subject {
        agent_id: authenticated.agent.id,
        workspace_id: authenticated.workspace.id,
        owner_id: authenticated.workspace.owner_id,
    }
}
