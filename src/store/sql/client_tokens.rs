//! Tokens of clients: made and revoked by an operator, looked up when a client dials.

use super::database::{Database, Session};
use super::events;
use super::row::Row;
use super::statement::statements;
use crate::client_token::{ClientToken, ClientTokenId};
use crate::clock::Timestamp;
use crate::store::{Client, ClientTokenEntry, Invalidation, StoreError};

statements! {
    /// Nothing for a user who is not there or not active.
    CREATE = "create_client_token":
        "INSERT INTO drpcd_client_tokens (id, sha256, user_id, created_at)
        SELECT $1, $2, id, $4 FROM users
        WHERE lower(username) = lower($3) AND NOT deleted AND status <> 'suspended' AND NOT is_system";
    LIST = "client_tokens":
        "SELECT t.id, u.username, NOT u.deleted AND u.status <> 'suspended' AS usable, t.created_at
        FROM drpcd_client_tokens AS t JOIN users AS u ON u.id = t.user_id
        ORDER BY u.username, t.created_at, t.id";
    REVOKE = "revoke_client_token": "DELETE FROM drpcd_client_tokens WHERE id = $1";
    AUTHENTICATE = "authenticate_client":
        "SELECT u.id, u.username FROM drpcd_client_tokens AS t JOIN users AS u ON u.id = t.user_id
        WHERE t.id = $1 AND t.sha256 = $2 AND NOT u.deleted AND u.status <> 'suspended'";
}

pub(super) async fn create(
    database: &Database,
    owner: &str,
    token: &ClientToken,
    now: Timestamp,
) -> Result<(), StoreError> {
    let id = token.id();
    let hash = token.sha256();
    let call = CREATE
        .bind(id.as_str())
        .bind(hash.as_slice())
        .bind(owner)
        .bind(now);
    match database.write().await?.execute(call).await?.rows {
        0 => Err(StoreError::NoRows),
        _ => Ok(()),
    }
}

pub(super) async fn list(database: &Database) -> Result<Vec<ClientTokenEntry>, StoreError> {
    let rows = database.read().await?.all(LIST.call()).await?;
    let entry = |row| -> Result<_, StoreError> {
        let row: &Row = row;
        Ok(ClientTokenEntry {
            id: row.label("id", ClientTokenId::parse)?,
            owner_username: row.get("username")?,
            usable: row.get("usable")?,
            created_at: row.get("created_at")?,
        })
    };
    rows.iter().map(entry).collect()
}

pub(super) async fn revoke(database: &Database, id: ClientTokenId, now: Timestamp) -> Result<(), StoreError> {
    let mut transaction = database.transaction().await?;
    let outcome = revoke_in(&mut transaction, id, now).await;
    transaction.finish(outcome).await
}

async fn revoke_in(
    transaction: &mut Session<'_>,
    id: ClientTokenId,
    now: Timestamp,
) -> Result<(), StoreError> {
    if transaction.execute(REVOKE.bind(id.as_str())).await?.rows == 0 {
        return Err(StoreError::NoRows);
    }
    events::leave(transaction, Invalidation::ClientToken { token_id: id }, now).await
}

pub(super) async fn authenticate(
    database: &Database,
    token: &ClientToken,
) -> Result<Option<Client>, StoreError> {
    let (token_id, hash) = (token.id(), token.sha256());
    let call = AUTHENTICATE.bind(token_id.as_str()).bind(hash.as_slice());
    let Some(row) = database.read().await?.optional(call).await? else {
        return Ok(None);
    };
    Ok(Some(Client {
        token_id,
        owner_id: row.id("id")?,
        owner_username: row.get("username")?,
    }))
}
