//! Renewing access tokens.
//!
//! A refresh token is good for one use with many providers, so a renewal that has begun is finished and written whatever
//! becomes of who asked for it, and two of one user never run at once.

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash as _, Hasher as _};
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Map, Value};
use tokio::sync::Mutex;

use super::{ClientAuthentication, ExternalAuth, ExternalAuthError, Provider, Shared, TokenAnswer, Usable};
use crate::clock::Timestamp;
use crate::ids::UserId;
use crate::secret::Secret;
use crate::store::{LinkRefusal, LinkRenewal, LinkTokens, StoreError};

/// A token that ends within it counts as expired, as in Go's `golang.org/x/oauth2`, so that it does not end on the way.
const EXPIRY_MARGIN: Duration = Duration::from_secs(10);

/// Locks for renewals, shared by the users that fall on one. A renewal takes well under a second.
const LOCKS: usize = 64;

/// How long a provider that is out of order is asked again.
const RETRY_TIME: Duration = Duration::from_secs(10);

/// Pause before the first and, doubling up to [`MAX_PAUSE`], before further requests.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const MAX_PAUSE: Duration = Duration::from_secs(2);

/// Bytes of a provider's reason that are kept.
const MAX_REASON: usize = 400;

/// Who is at it now.
#[derive(Debug)]
pub(super) struct Refreshes([Mutex<()>; LOCKS]);

impl Default for Refreshes {
    fn default() -> Self {
        Self(std::array::from_fn(|_| Mutex::default()))
    }
}

impl Refreshes {
    fn lock_of(&self, provider: usize, owner: UserId) -> &Mutex<()> {
        let mut hasher = DefaultHasher::new();
        (provider, owner).hash(&mut hasher);
        // Below `LOCKS`, so it fits in either direction.
        &self.0[usize::try_from(hasher.finish() % LOCKS as u64).unwrap_or_default()]
    }
}

/// Why there is no new token.
#[derive(Debug)]
enum NotRenewed {
    /// The provider refuses the refresh token for good.
    Refused(String),
    /// Perhaps later.
    Failed(String),
}

impl ExternalAuth {
    /// What a link is good for, after a renewal if it needs one.
    pub(super) async fn usable(
        &self,
        index: usize,
        owner: UserId,
        tokens: LinkTokens,
    ) -> Result<Usable, ExternalAuthError> {
        let shared = &self.0;
        let provider = &shared.providers[index];
        let tokens = if !shared.expires(&tokens) {
            tokens
        } else if !provider.can_refresh() || tokens.refresh.is_empty() {
            return Ok(Usable::No(tokens));
        } else {
            let this = self.clone();
            let renewing = tokio::spawn(async move { this.0.renewed(index, owner).await });
            let ended = renewing
                .await
                .map_err(|_| ExternalAuthError::Check("refresh token: the task has ended".to_owned()))?;
            match ended? {
                Some(renewed) => renewed,
                None => return Ok(Usable::No(tokens)),
            }
        };
        if shared.check(provider, &tokens).await? {
            Ok(Usable::Yes(tokens))
        } else {
            Ok(Usable::No(tokens))
        }
    }
}

impl Provider {
    fn can_refresh(&self) -> bool {
        !self.no_refresh && self.token_url.is_some()
    }
}

impl Shared {
    fn expires(&self, tokens: &LinkTokens) -> bool {
        tokens.expiry != Timestamp::ZERO && tokens.expiry <= self.clock.now().saturating_add(EXPIRY_MARGIN)
    }

    /// The tokens of a link after a renewal, by this or by whoever was faster; `None` when it cannot be renewed.
    async fn renewed(&self, index: usize, owner: UserId) -> Result<Option<LinkTokens>, ExternalAuthError> {
        let provider = &self.providers[index];
        let _alone = self.refreshes.lock_of(index, owner).lock().await;
        let Some(tokens) = self.link(provider, owner).await? else {
            return Ok(None);
        };
        if !self.expires(&tokens) {
            return Ok(Some(tokens));
        }
        if tokens.refresh.is_empty() {
            return Ok(None);
        }
        let outcome = self.ask_until_answered(provider, &tokens).await;
        let written = match outcome {
            Ok(tokens_now) => self.keep(provider, owner, tokens.refresh, tokens_now).await,
            Err(NotRenewed::Refused(reason)) => {
                tracing::info!(workspace_owner_id = %owner, provider = provider.id, "external auth link was refused");
                self.refuse(provider, owner, tokens.refresh, reason)
                    .await
                    .map(|()| None)
            }
            Err(NotRenewed::Failed(error)) => {
                tracing::warn!(
                    workspace_owner_id = %owner,
                    provider = provider.id,
                    %error,
                    "failed to refresh external auth token"
                );
                return Ok(None);
            }
        };
        match written {
            Ok(Some(tokens)) => Ok(Some(tokens)),
            // Somebody else has written; what is there now decides.
            Ok(None) => Ok(self.link(provider, owner).await?.filter(|now| !self.expires(now))),
            Err(error) => Err(ExternalAuthError::Check(format!(
                "persist refreshed token: {error}"
            ))),
        }
    }

    /// Writes new tokens; `None` when the link has become another one.
    async fn keep(
        &self,
        provider: &Provider,
        owner: UserId,
        used: Secret,
        tokens: LinkTokens,
    ) -> Result<Option<LinkTokens>, StoreError> {
        let renewal = LinkRenewal {
            provider_id: provider.id.clone(),
            user_id: owner,
            used,
            tokens,
            at: self.clock.now(),
        };
        let write = || self.store.renew_external_auth_link(&renewal);
        // The old tokens are gone, so it waits for a store that is away.
        let written = self.patience.call(owner, 0, write).await?;
        Ok(written.then_some(renewal.tokens))
    }

    async fn refuse(
        &self,
        provider: &Provider,
        owner: UserId,
        used: Secret,
        reason: String,
    ) -> Result<(), StoreError> {
        let refusal = LinkRefusal {
            provider_id: provider.id.clone(),
            user_id: owner,
            used,
            reason,
            at: self.clock.now(),
        };
        self.store.refuse_external_auth_link(&refusal).await
    }

    async fn ask_until_answered(
        &self,
        provider: &Provider,
        tokens: &LinkTokens,
    ) -> Result<LinkTokens, NotRenewed> {
        let deadline = self.clock.monotonic() + RETRY_TIME;
        let mut pause = FIRST_PAUSE;
        loop {
            match self.ask(provider, tokens).await {
                Err(NotRenewed::Failed(_)) if self.clock.monotonic() + pause < deadline => {
                    self.clock.sleep(pause).await;
                    pause = (pause * 2).min(MAX_PAUSE);
                }
                outcome => return outcome,
            }
        }
    }

    /// Asks once, with the client's secret in a header; a provider that does not read it there gets it as a parameter.
    async fn ask(&self, provider: &Provider, tokens: &LinkTokens) -> Result<LinkTokens, NotRenewed> {
        let mut answer = self.ask_as(provider, tokens, ClientAuthentication::Basic).await?;
        if answer.is_about_the_client() {
            answer = self
                .ask_as(provider, tokens, ClientAuthentication::Parameters)
                .await?;
        }
        self.read(provider, tokens, &answer)
    }

    async fn ask_as(
        &self,
        provider: &Provider,
        tokens: &LinkTokens,
        authentication: ClientAuthentication,
    ) -> Result<TokenAnswer, NotRenewed> {
        let Some(url) = &provider.token_url else {
            return Err(NotRenewed::Failed("no token URL".to_owned()));
        };
        let asked = self
            .client
            .refresh(provider, url, &tokens.refresh, authentication);
        asked.await.map_err(NotRenewed::Failed)
    }

    fn read(
        &self,
        provider: &Provider,
        old: &LinkTokens,
        answer: &TokenAnswer,
    ) -> Result<LinkTokens, NotRenewed> {
        let body: TokenBody = serde_json::from_slice(&answer.body).unwrap_or_default();
        let access = body.access_token.unwrap_or_default();
        if !(200..300).contains(&answer.status) || access.is_empty() {
            return Err(answer.refusal(&body.error));
        }
        let refresh = body.refresh_token.filter(|token| !token.is_empty());
        let seconds = body
            .expires_in
            .as_ref()
            .and_then(seconds)
            .filter(|&seconds| seconds > 0);
        let expiry = seconds.map(|seconds| self.clock.now().saturating_add(Duration::from_secs(seconds)));
        Ok(LinkTokens {
            access,
            refresh: refresh.unwrap_or_else(|| old.refresh.clone()),
            expiry: expiry.unwrap_or(Timestamp::ZERO),
            extra: provider.extra(&answer.body).or_else(|| old.extra.clone()),
        })
    }
}

impl Provider {
    /// What is kept of what came along.
    fn extra(&self, body: &[u8]) -> Option<Secret> {
        if self.extra_token_keys.is_empty() {
            return None;
        }
        let mut body: Map<String, Value> = serde_json::from_slice(body).ok()?;
        let kept = self.extra_token_keys.iter().map(|key| {
            let value = body.remove(key).unwrap_or_default();
            (key.clone(), value)
        });
        Some(Secret::new(Value::Object(kept.collect()).to_string()))
    }
}

/// A token endpoint's answer, good or bad (RFC 6749 §5).
#[derive(Default, Deserialize)]
#[serde(default)]
struct TokenBody {
    access_token: Option<Secret>,
    refresh_token: Option<Secret>,
    expires_in: Option<Value>,
    error: String,
}

/// Some providers write the number as a text.
fn seconds(value: &Value) -> Option<u64> {
    match value {
        Value::String(text) => text.parse().ok(),
        value => value.as_u64(),
    }
}

impl TokenAnswer {
    fn error(&self) -> String {
        let body: TokenBody = serde_json::from_slice(&self.body).unwrap_or_default();
        body.error
    }

    /// Whether it says that the client is not who it should be, rather than that its token is no good.
    fn is_about_the_client(&self) -> bool {
        matches!(
            self.error().as_str(),
            "invalid_client" | "incorrect_client_credentials"
        ) || self.status == 401
    }

    /// Which kind of refusal it is; the codes are the providers', as coder/coder `coderd/externalauth/externalauth.go`
    /// (`isFailedRefresh`) sorts them.
    fn refusal(&self, error: &str) -> NotRenewed {
        let mut text = format!("oauth2: status {}", self.status);
        // A code is a short word; anything else might be a secret.
        let is_code = !error.is_empty()
            && error
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
        if is_code {
            text.push_str(": ");
            text.push_str(error);
        }
        // ASCII, which may be cut anywhere.
        text.truncate(MAX_REASON);
        let refused = matches!(
            error,
            "bad_refresh_token" | "invalid_grant" | "invalid_refresh_token"
        ) || matches!(self.status, 200 | 400 | 401 | 403);
        if refused {
            NotRenewed::Refused(text)
        } else {
            NotRenewed::Failed(text)
        }
    }
}
