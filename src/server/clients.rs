//! What clients' sessions get, and the end of those whose token was revoked.

use std::sync::Arc;
use std::time::Duration;

use crate::clock::Clock;
use crate::config::Config;
use crate::pubsub::{Invalidations, Lagged, Pubsub};
use crate::services::tailnet::resume::ResumeTokens;
use crate::services::tailnet::updates::WorkspaceUpdates;
use crate::sessions::Sessions;
use crate::store::{Invalidation, Schema, Store, StoreError};

/// How often tokens are looked up after revocations may have been missed. A client may have been let in before that and
/// have no session yet when they are looked up first, but it has one when its handshake must be over.
const LOOKS: u32 = 2;

/// Longer than a handshake takes, from the look at the token to the session.
const HANDSHAKE: Duration = Duration::from_secs(15);

/// How often tokens are looked up all the same, while clients have sessions: a user's suspension or deletion is told to
/// nobody, nor is what somebody removes behind the servers' backs.
const REFRESH: Duration = Duration::from_mins(5);

/// Pause before a store that is away is asked again.
const RETRY_PAUSE: Duration = Duration::from_secs(5);

/// What the sessions of clients share.
#[derive(Clone, Debug)]
pub(super) struct Clients {
    /// Whether there are any: a coder deployment's clients are served by its own servers.
    pub(super) served: bool,
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
        let (served, resume) = match store.schema() {
            Schema::Own => (true, ResumeTokens::open(&**store, clock.clone()).await?),
            Schema::Coder => (false, ResumeTokens::of_this_process(clock.clone())),
        };
        Ok(Self {
            served,
            resume: Arc::new(resume),
            updates: WorkspaceUpdates::new(Arc::clone(store), pubsub.clone(), clock.clone()),
            derp_force_websockets: config.derp_force_websockets,
            disable_direct_connections: config.block_direct_connections,
            hostname_suffix: config.workspace_hostname_suffix.clone(),
        })
    }
}

/// Closes the sessions of tokens that are revoked, for as long as it is polled.
///
/// The tokens of the sessions are looked up when revocations may have been missed, as before it begins, and every
/// [`REFRESH`].
pub(super) async fn end_revoked(
    sessions: Sessions,
    store: Arc<dyn Store>,
    clock: Clock,
    mut invalidations: Invalidations,
) {
    let mut looks = LOOKS;
    let mut next_look = std::pin::pin!(clock.sleep(Duration::ZERO));
    let mut failing = false;
    loop {
        let event = tokio::select! {
            event = invalidations.next() => event,
            () = next_look.as_mut() => {
                let pause = match end_unusable(&sessions, &*store).await {
                    Ok(()) => {
                        failing = false;
                        looks = looks.saturating_sub(1);
                        if looks > 0 { HANDSHAKE } else { REFRESH }
                    }
                    Err(error) => {
                        if !std::mem::replace(&mut failing, true) {
                            tracing::warn!(%error, "failed to look for revoked tokens");
                        }
                        RETRY_PAUSE
                    }
                };
                next_look.set(clock.sleep(pause));
                continue;
            }
        };
        match event {
            Ok(Invalidation::ClientToken { token_id }) => sessions.revoke(token_id),
            Ok(_) => {}
            Err(Lagged) => {
                looks = LOOKS;
                next_look.set(clock.sleep(Duration::ZERO));
            }
        }
    }
}

/// Closes the sessions of tokens that would let nobody in any more, which one statement tells of all.
async fn end_unusable(sessions: &Sessions, store: &dyn Store) -> Result<(), StoreError> {
    let mut unusable = sessions.client_tokens();
    if unusable.is_empty() {
        return Ok(());
    }
    for token in store.client_tokens().await? {
        if token.usable {
            unusable.remove(&token.id);
        }
    }
    for token in unusable {
        sessions.revoke(token);
    }
    Ok(())
}

#[cfg(test)]
mod tests;
