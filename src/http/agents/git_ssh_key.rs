//! `GET gitsshkey`: the owner's key, for git over SSH.
//!
//! Source: coder/coder `coderd/gitsshkey.go` (`agentGitSSHKey`). What it reads on the way to the owner, authentication
//! has read.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::response::Response;
use serde::Serialize;

use super::super::error::{ApiError, json};
use super::super::{App, SessionHost, auth};
use super::{Caller, caller};

#[derive(Serialize)]
struct Key<'k> {
    public_key: &'k str,
    private_key: &'k str,
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
    auth::user_data(&authenticated)?;
    let owner = authenticated.workspace.owner_id;
    let key = auth::in_time(&app.clock, host.git_ssh_key(owner))
        .await
        .map_err(|error| ApiError::internal("Internal error fetching git SSH key.", &error))?;
    Ok(json(&Key {
        public_key: &key.public_key,
        private_key: key.private_key.reveal(),
    }))
}
