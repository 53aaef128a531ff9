//! External providers that workspaces need tokens of, such as git hosts: which one a URL belongs to, and the owner's
//! link to it, checked and refreshed.
//!
//! Owns when a token is good, when it is refreshed, and who is asked. Must never hold more than the links of requests at
//! work, and never let a token into a log or an error. Source: coder/coder `coderd/workspaceagents.go`
//! (`workspaceAgentsExternalAuth`) and `coderd/externalauth/externalauth.go`.

mod provider;
mod refresh;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use serde::Serialize;
use serde_json::Value;
use url::Url;

use self::refresh::Refreshes;
use super::patience::Patience;
use crate::clock::{Clock, Timestamp};
use crate::ids::UserId;
use crate::mux::quote;
use crate::secret::Secret;
use crate::services::patience::SHORT_STORE_WAIT;
use crate::store::{ExternalAuthLink, LinkTokens, Store, StoreError};

pub use self::provider::{Provider, ProviderError};

/// How often a link is looked at for somebody who waits for it.
const LISTEN_INTERVAL: Duration = Duration::from_secs(1);

/// A provider's answer to whether a token is good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CheckAnswer {
    /// HTTP status code.
    pub status: u16,
    /// The answer says that there were too many requests.
    pub rate_limited: bool,
}

/// A provider's answer to a request for a token.
#[derive(Clone)]
pub struct TokenAnswer {
    /// HTTP status code.
    pub status: u16,
    /// Its body, which holds secrets.
    pub body: Bytes,
}

/// Shows nothing of the body.
impl std::fmt::Debug for TokenAnswer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TokenAnswer")
            .field("status", &self.status)
            .finish_non_exhaustive()
    }
}

/// How a client of a provider says who it is; RFC 6749 §2.3.1 has both ways.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientAuthentication {
    /// In a header.
    Basic,
    /// Among the parameters.
    Parameters,
}

/// Reaches providers. Each request is bounded in time and size; errors name neither URL nor secret.
#[async_trait]
pub trait ProviderClient: std::fmt::Debug + Send + Sync + 'static {
    /// `GET url` as the bearer of `token`.
    async fn check(&self, url: &Url, token: &Secret) -> Result<CheckAnswer, String>;

    /// Asks for a new access token, as RFC 6749 §6 has it.
    async fn refresh(
        &self,
        provider: &Provider,
        url: &Url,
        refresh_token: &Secret,
        authentication: ClientAuthentication,
    ) -> Result<TokenAnswer, String>;
}

/// What is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// The provider of this id.
    Id(String),
    /// The provider to whose pattern this text belongs.
    Match(String),
}

/// A token, in all the forms that callers read. Or, with all else empty, the URL at which the owner can get one.
#[derive(Clone, Default, Serialize)]
pub struct ExternalAuthAnswer {
    access_token: String,
    token_extra: Option<Value>,
    url: String,
    #[serde(rename = "type")]
    kind: String,
    username: String,
    password: String,
}

/// Shows nothing of it.
impl std::fmt::Debug for ExternalAuthAnswer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ExternalAuthAnswer")
            .field("url", &self.url)
            .finish_non_exhaustive()
    }
}

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ExternalAuthError {
    /// No provider is meant.
    #[error(
        "No matching external auth provider found in Coder for the url {}.",
        quote(url)
    )]
    NoProvider {
        /// What was to match; empty when an id was asked for.
        url: String,
        /// What there is instead.
        detail: String,
    },
    /// The link cannot be read, or not be used.
    #[error("{0}")]
    Link(String),
    /// Nobody can say whether the token is good.
    #[error("{0}")]
    Check(String),
    /// What came along with the token is no JSON object.
    #[error("{0}")]
    Extra(String),
}

/// What a link is good for now.
enum Usable {
    Yes(LinkTokens),
    /// The owner has to log in again. Holds the tokens that are known to be no good.
    No(LinkTokens),
}

/// Serves agents and their helpers with tokens of their owners. Cheap to clone.
#[derive(Clone, Debug)]
pub struct ExternalAuth(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    store: Arc<dyn Store>,
    clock: Clock,
    patience: Patience,
    client: Arc<dyn ProviderClient>,
    access_url: Url,
    providers: Vec<Provider>,
    refreshes: Refreshes,
}

impl ExternalAuth {
    /// Knows `providers`, in their order.
    pub fn new(
        store: Arc<dyn Store>,
        clock: Clock,
        patience: Patience,
        client: Arc<dyn ProviderClient>,
        access_url: Url,
        providers: Vec<Provider>,
    ) -> Self {
        Self(Arc::new(Shared {
            store,
            clock,
            patience,
            client,
            access_url,
            providers,
            refreshes: Refreshes::default(),
        }))
    }

    /// The owner's token as it is now, refreshed if need be; or where to get one.
    ///
    /// With `listen` it waits, without end, for a token that is good.
    pub async fn token(
        &self,
        owner: UserId,
        wanted: &Wanted,
        listen: bool,
    ) -> Result<ExternalAuthAnswer, ExternalAuthError> {
        let shared = &self.0;
        let index = shared.find(wanted)?;
        // Providers never change.
        let provider = &shared.providers[index];
        let mut known = None;
        if let Some(link) = shared.link(provider, owner).await? {
            match self.usable(index, owner, link).await {
                Ok(Usable::Yes(tokens)) => return answer(provider, tokens),
                Ok(Usable::No(tokens)) => known = Some(tokens),
                // Looked at again by who waits.
                Err(ExternalAuthError::Check(_)) if listen => {}
                Err(error) => return Err(error),
            }
        }
        if listen {
            shared.listen(provider, owner, known).await
        } else {
            Ok(shared.login(provider))
        }
    }
}

impl Shared {
    /// Of those whose pattern matches the last one; an id ends the search.
    fn find(&self, wanted: &Wanted) -> Result<usize, ExternalAuthError> {
        let mut providers = self.providers.iter();
        let found = match wanted {
            Wanted::Id(id) => providers.position(|provider| provider.id == *id),
            Wanted::Match(url) => providers.rposition(|provider| provider.matches(url)),
        };
        found.ok_or_else(|| ExternalAuthError::NoProvider {
            url: match wanted {
                Wanted::Id(_) => String::new(),
                Wanted::Match(url) => url.clone(),
            },
            detail: self.described(),
        })
    }

    fn described(&self) -> String {
        if self.providers.is_empty() {
            return "External auth provider not found.".to_owned();
        }
        let patterns = self.providers.iter().filter_map(|provider| {
            let regex = provider.regex.as_ref()?;
            Some(format!("{}={}", provider.id, quote(regex.as_str())))
        });
        let patterns = patterns.collect::<Vec<_>>().join(",");
        format!(
            "The configured external auth provider have regex filters that do not match the url. Provider url regex: \
             {patterns}"
        )
    }

    async fn link(
        &self,
        provider: &Provider,
        owner: UserId,
    ) -> Result<Option<LinkTokens>, ExternalAuthError> {
        let late = StoreError::Unavailable("context deadline exceeded".to_owned());
        let read = tokio::select! {
            read = self.store.external_auth_link(&provider.id, owner) => read,
            () = self.clock.sleep(SHORT_STORE_WAIT) => Err(late),
        };
        match read {
            Ok(None) => Ok(None),
            Ok(Some(ExternalAuthLink {
                tokens: Some(tokens), ..
            })) => Ok(Some(tokens)),
            Ok(Some(ExternalAuthLink { tokens: None, .. })) => Err(ExternalAuthError::Link(
                "the link is encrypted, and this server has no keys".to_owned(),
            )),
            Err(error) => Err(ExternalAuthError::Link(error.to_string())),
        }
    }

    /// Where the owner can log in.
    fn login(&self, provider: &Provider) -> ExternalAuthAnswer {
        let mut url = self.access_url.clone();
        url.set_path(&format!("/external-auth/{}", provider.id));
        url.set_query(None);
        url.set_fragment(None);
        ExternalAuthAnswer {
            url: url.into(),
            ..ExternalAuthAnswer::default()
        }
    }

    /// Looks at the link until there is a good token. One that was looked at is not looked at again: providers allow
    /// only so many requests.
    async fn listen(
        &self,
        provider: &Provider,
        owner: UserId,
        mut known: Option<LinkTokens>,
    ) -> Result<ExternalAuthAnswer, ExternalAuthError> {
        let mut ticks = self.clock.interval(LISTEN_INTERVAL);
        loop {
            ticks.tick().await;
            let Some(tokens) = self.link(provider, owner).await? else {
                continue;
            };
            let same = |known: &LinkTokens| {
                (&known.access, &known.refresh, known.expiry)
                    == (&tokens.access, &tokens.refresh, tokens.expiry)
            };
            if self.expired(&tokens) || known.as_ref().is_some_and(same) {
                continue;
            }
            let good = self.check(provider, &tokens).await.unwrap_or_else(|error| {
                tracing::warn!(
                    workspace_owner_id = %owner,
                    provider = provider.id,
                    %error,
                    "failed to validate external auth token"
                );
                false
            });
            if good {
                return answer(provider, tokens);
            }
            known = Some(tokens);
        }
    }

    fn expired(&self, tokens: &LinkTokens) -> bool {
        tokens.expiry != Timestamp::ZERO && tokens.expiry < self.clock.now()
    }

    /// Whether the provider takes a token that has not expired. Without a URL to ask, and where the provider has too much
    /// to do, it is taken for good.
    async fn check(&self, provider: &Provider, tokens: &LinkTokens) -> Result<bool, ExternalAuthError> {
        if self.expired(tokens) {
            return Ok(false);
        }
        let Some(url) = &provider.validate_url else {
            return Ok(true);
        };
        let failed = |error| ExternalAuthError::Check(format!("validate external auth token: {error}"));
        let answer = self.client.check(url, &tokens.access).await.map_err(failed)?;
        match answer.status {
            200 | 429 => Ok(true),
            401 => Ok(false),
            403 => Ok(answer.rate_limited),
            status => Err(failed(format!("status {status}"))),
        }
    }
}

/// Names under which providers take a token as a password; coder/coder `coderd/workspaceagents.go`
/// (`createExternalAuthResponse`).
fn answer(provider: &Provider, tokens: LinkTokens) -> Result<ExternalAuthAnswer, ExternalAuthError> {
    let token = tokens.access.reveal().to_owned();
    let (username, password) = match provider.kind.as_str() {
        "gitlab" => ("oauth2".to_owned(), token.clone()),
        "bitbucket" | "bitbucket-cloud" | "bitbucket-server" => ("x-token-auth".to_owned(), token.clone()),
        _ => (token.clone(), String::new()),
    };
    let extra = tokens.extra.map(|extra| {
        // Engines keep it in forms of their own.
        serde_json::from_str(extra.reveal())
            .map_err(|_| ExternalAuthError::Extra("oauth_extra is no JSON".to_owned()))
    });
    Ok(ExternalAuthAnswer {
        access_token: token,
        token_extra: extra.transpose()?,
        url: String::new(),
        kind: provider.kind.clone(),
        username,
        password,
    })
}
