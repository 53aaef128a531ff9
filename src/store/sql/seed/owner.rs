//! The owner of a seeded workspace: the user, the git key, and the links to external providers.

use ssh_key::{Algorithm, LineEnding, PrivateKey, rand_core::OsRng};

use super::super::statement::statements;
use super::super::value::{Value, texts};
use super::Place;
use crate::clock::Timestamp;
use crate::ids::UserId;
use crate::seed::{ExternalAuthLink, Owner};
use crate::store::StoreError;

/// Name and address of the system user, as the original's migration makes it.
const PREBUILDS_NAME: &str = "Prebuilds Owner";
const PREBUILDS_EMAIL: &str = "prebuilds@coder.com";

statements! {
    USER_BY_NAME = "seed_user_by_name":
        "SELECT id FROM users WHERE lower(username) = lower($1) AND NOT deleted";
    EMAIL_TAKEN = "seed_email_taken":
        "SELECT 1 FROM users WHERE lower(email) = lower($1) AND NOT deleted AND id <> $2";
    INSERT_USER = "seed_insert_user":
        "INSERT INTO users (id, email, username, name, status, created_at, updated_at, is_system)
        VALUES ($1, $2, $3, $4, 'active', $5, $5, $6)";
    UPDATE_USER = "seed_update_user":
        "UPDATE users SET username = $2, name = coalesce($3, name), email = coalesce($4, email), updated_at = $5
        WHERE id = $1 AND (username, name, email) IS DISTINCT FROM ($2, coalesce($3, name), coalesce($4, email))";
    INSERT_GIT_KEY = "seed_insert_git_key":
        "INSERT INTO gitsshkeys (user_id, created_at, updated_at, private_key, public_key)
        VALUES ($1, $2, $2, $3, $4)";
    UPSERT_LINK = "seed_upsert_external_auth_link":
        "INSERT INTO external_auth_links (
            provider_id, user_id, created_at, updated_at, oauth_access_token, oauth_refresh_token, oauth_expiry,
            oauth_extra
        ) VALUES ($1, $2, $3, $3, $4, $5, $6, $7)
        ON CONFLICT (provider_id, user_id) DO UPDATE SET
            updated_at = excluded.updated_at, oauth_access_token = excluded.oauth_access_token,
            oauth_refresh_token = excluded.oauth_refresh_token, oauth_expiry = excluded.oauth_expiry,
            oauth_extra = excluded.oauth_extra, oauth_access_token_key_id = NULL,
            oauth_refresh_token_key_id = NULL, oauth_refresh_failure_reason = ''
        WHERE (external_auth_links.oauth_access_token, external_auth_links.oauth_refresh_token,
                external_auth_links.oauth_expiry, external_auth_links.oauth_extra)
            IS DISTINCT FROM (excluded.oauth_access_token, excluded.oauth_refresh_token, excluded.oauth_expiry,
                excluded.oauth_extra)";
    DELETE_LINKS = "seed_delete_external_auth_links":
        "DELETE FROM external_auth_links
        WHERE user_id = $1 AND provider_id NOT IN (SELECT value FROM json_each($2))",
        postgres: "DELETE FROM external_auth_links WHERE user_id = $1 AND provider_id <> ALL($2)";
}

/// A user that is in the store now.
pub(super) struct SeededOwner {
    pub(super) id: UserId,
    /// Whether something that agents' sessions copy was changed.
    pub(super) changed: bool,
}

impl Place<'_, '_> {
    pub(super) async fn owner(&mut self, owner: &Owner) -> Result<SeededOwner, StoreError> {
        let known = self
            .transaction
            .optional(USER_BY_NAME.bind(&*owner.username))
            .await?;
        let seeded = match known {
            Some(row) => {
                let id: UserId = row.id("id")?;
                if let Some(email) = &owner.email {
                    self.check_email(email, id).await?;
                }
                let update = UPDATE_USER
                    .bind(id.0)
                    .bind(&*owner.username)
                    .bind(owner.name.as_deref())
                    .bind(owner.email.as_deref())
                    .bind(self.now);
                let changed = self.transaction.execute(update).await?.rows > 0;
                SeededOwner { id, changed }
            }
            None => self.new_owner(owner).await?,
        };
        if let Some(links) = &owner.external_auth_links {
            self.links(seeded.id, links).await?;
        }
        Ok(seeded)
    }

    async fn new_owner(&mut self, owner: &Owner) -> Result<SeededOwner, StoreError> {
        let system = owner.is_prebuilds();
        let id = if system {
            UserId::PREBUILDS
        } else {
            UserId::random()
        };
        let name = match owner.name.as_deref() {
            Some(name) => name,
            None if system => PREBUILDS_NAME,
            None => "",
        };
        let email = match owner.email.as_deref() {
            Some(email) => email.to_owned(),
            None if system => PREBUILDS_EMAIL.to_owned(),
            None => format!("{}@localhost", &*owner.username),
        };
        self.check_email(&email, id).await?;
        let insert = INSERT_USER
            .bind(id.0)
            .bind(email)
            .bind(&*owner.username)
            .bind(name)
            .bind(self.now)
            .bind(system);
        self.transaction.execute(insert).await?;
        let (private, public) = git_key().map_err(|error| StoreError::Rejected(error.to_string()))?;
        let insert = INSERT_GIT_KEY
            .bind(id.0)
            .bind(self.now)
            .bind(private)
            .bind(public);
        self.transaction.execute(insert).await?;
        // Nobody can have a copy of what is new.
        Ok(SeededOwner { id, changed: false })
    }

    async fn check_email(&mut self, email: &str, owner: UserId) -> Result<(), StoreError> {
        match self
            .transaction
            .optional(EMAIL_TAKEN.bind(email).bind(owner.0))
            .await?
        {
            None => Ok(()),
            Some(_) => Err(self.conflict("owner.email", &format!("another user has the address {email:?}"))),
        }
    }

    async fn links(&mut self, owner: UserId, links: &[ExternalAuthLink]) -> Result<(), StoreError> {
        for link in links {
            let upsert = UPSERT_LINK
                .bind(&*link.provider_id)
                .bind(owner.0)
                .bind(self.now)
                .bind(link.oauth_access_token.reveal())
                .bind(link.oauth_refresh_token.reveal())
                .bind(link.oauth_expiry.unwrap_or(Timestamp::ZERO))
                .bind(Value::Json(
                    link.oauth_extra.as_ref().map(|extra| extra.reveal().into()),
                ));
            self.transaction.execute(upsert).await?;
        }
        let kept = texts(links.iter().map(|link| &*link.provider_id));
        self.transaction
            .execute(DELETE_LINKS.bind(owner.0).bind(kept))
            .await?;
        Ok(())
    }
}

/// A new key pair in OpenSSH's text forms, private and public.
fn git_key() -> Result<(String, String), ssh_key::Error> {
    let key = PrivateKey::random(&mut OsRng, Algorithm::Ed25519)?;
    let public = key.public_key().to_openssh()?;
    Ok((key.to_openssh(LineEnding::LF)?.to_string(), public + "\n"))
}
