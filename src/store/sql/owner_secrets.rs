//! What users have with others: git keys, and links to external providers.

use super::database::Database;
use super::statement::statements;
use super::value::Value;
use crate::ids::UserId;
use crate::secret::Secret;
use crate::store::{ExternalAuthLink, GitSshKey, LinkRefusal, LinkRenewal, LinkTokens, StoreError};

statements! {
    GIT_SSH_KEY = "git_ssh_key": "SELECT public_key, private_key FROM gitsshkeys WHERE user_id = $1";
    /// A key id says that a token is encrypted, which nothing here can undo.
    LINK = "external_auth_link":
        "SELECT oauth_access_token, oauth_refresh_token, oauth_expiry, oauth_extra, oauth_refresh_failure_reason,
            oauth_access_token_key_id IS NOT NULL OR oauth_refresh_token_key_id IS NOT NULL AS encrypted
        FROM external_auth_links WHERE provider_id = $1 AND user_id = $2";
    /// The link may have been made anew meanwhile; then what is there wins.
    RENEW_LINK = "renew_external_auth_link":
        "UPDATE external_auth_links SET oauth_access_token = $4, oauth_refresh_token = $5, oauth_expiry = $6,
            oauth_extra = $7, oauth_refresh_failure_reason = '', updated_at = $8
        WHERE provider_id = $1 AND user_id = $2 AND oauth_refresh_token = $3
            AND oauth_access_token_key_id IS NULL AND oauth_refresh_token_key_id IS NULL";
    REFUSE_LINK = "refuse_external_auth_link":
        "UPDATE external_auth_links SET oauth_refresh_token = '', oauth_refresh_failure_reason = $4, updated_at = $5
        WHERE provider_id = $1 AND user_id = $2 AND oauth_refresh_token = $3
            AND oauth_refresh_token_key_id IS NULL";
}

pub(super) async fn git_ssh_key(database: &Database, user: UserId) -> Result<GitSshKey, StoreError> {
    let row = database.read().await?.one(GIT_SSH_KEY.bind(user.0)).await?;
    Ok(GitSshKey {
        public_key: row.get("public_key")?,
        private_key: Secret::new(row.get::<String>("private_key")?),
    })
}

pub(super) async fn link(
    database: &Database,
    provider: &str,
    user: UserId,
) -> Result<Option<ExternalAuthLink>, StoreError> {
    let row = database
        .read()
        .await?
        .optional(LINK.bind(provider).bind(user.0))
        .await?;
    let Some(row) = row else { return Ok(None) };
    let encrypted: bool = row.get("encrypted")?;
    let tokens = if encrypted {
        None
    } else {
        Some(LinkTokens {
            access: Secret::new(row.get::<String>("oauth_access_token")?),
            refresh: Secret::new(row.get::<String>("oauth_refresh_token")?),
            expiry: row.get("oauth_expiry")?,
            extra: row.get::<Option<String>>("oauth_extra")?.map(Secret::new),
        })
    };
    Ok(Some(ExternalAuthLink {
        tokens,
        refresh_failure: row.get("oauth_refresh_failure_reason")?,
    }))
}

pub(super) async fn renew_link(database: &Database, renewal: &LinkRenewal) -> Result<bool, StoreError> {
    let LinkRenewal {
        provider_id,
        user_id,
        used,
        tokens,
        at,
    } = renewal;
    let call = RENEW_LINK
        .bind(provider_id.as_str())
        .bind(user_id.0)
        .bind(used.reveal())
        .bind(tokens.access.reveal())
        .bind(tokens.refresh.reveal())
        .bind(tokens.expiry)
        .bind(Value::Json(
            tokens.extra.as_ref().map(|extra| extra.reveal().into()),
        ))
        .bind(*at);
    Ok(database.write().await?.execute(call).await?.rows > 0)
}

pub(super) async fn refuse_link(database: &Database, refusal: &LinkRefusal) -> Result<(), StoreError> {
    let call = REFUSE_LINK
        .bind(refusal.provider_id.as_str())
        .bind(refusal.user_id.0)
        .bind(refusal.used.reveal())
        .bind(refusal.reason.as_str())
        .bind(refusal.at);
    database.write().await?.execute(call).await.map(|_| ())
}
