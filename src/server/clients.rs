//! What clients' sessions get, and the end of those whose token was revoked.

use std::sync::Arc;

use crate::clock::Clock;
use crate::config::Config;
use crate::pubsub::Pubsub;
use crate::services::tailnet::resume::ResumeTokens;
use crate::services::tailnet::updates::WorkspaceUpdates;
use crate::sessions::Sessions;
use crate::store::{Invalidation, Store, StoreError};

/// What the sessions of clients share.
#[derive(Clone, Debug)]
pub(super) struct Clients {
    pub(super) resume: Arc<ResumeTokens>,
    pub(super) updates: WorkspaceUpdates,
    pub(super) derp_force_websockets: bool,
    pub(super) disable_direct_connections: bool,
    pub(super) hostname_suffix: String,
}

impl Clients {
    pub(super) async fn new(
        config: &Config,
        store: &Arc<dyn Store>,
        pubsub: &Pubsub,
        clock: &Clock,
    ) -> Result<Self, StoreError> {
        Ok(Self {
            resume: Arc::new(ResumeTokens::open(&**store, clock.clone()).await?),
            updates: WorkspaceUpdates::new(Arc::clone(store), pubsub.clone(), clock.clone()),
            derp_force_websockets: config.derp_force_websockets,
            disable_direct_connections: config.block_direct_connections,
            hostname_suffix: config.workspace_hostname_suffix.clone(),
        })
    }
}

/// Closes the sessions of tokens that are revoked, for as long as it is polled.
pub(super) async fn end_revoked(sessions: Sessions, pubsub: Pubsub) {
    let mut invalidations = pubsub.invalidations();
    loop {
        match invalidations.next().await {
            Ok(Invalidation::ClientToken { token_id }) => sessions.revoke(token_id),
            Ok(_) => {}
            // Any revocation may be among what was missed.
            Err(_) => sessions.close_all_clients(),
        }
    }
}
