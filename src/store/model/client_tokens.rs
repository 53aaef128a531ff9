//! Tokens of clients, as stored: whose they are, never what they are.

use crate::client_token::ClientTokenId;
use crate::clock::Timestamp;
use crate::ids::UserId;

/// Who a client is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Client {
    /// The token that it came with.
    pub token_id: ClientTokenId,
    /// Whose token that is.
    pub owner_id: UserId,
    /// That user's name.
    pub owner_username: String,
}

/// A token that was made and not revoked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientTokenEntry {
    /// What names it.
    pub id: ClientTokenId,
    /// Whose it is.
    pub owner_username: String,
    /// Whether it lets somebody in: its owner is neither deleted nor suspended.
    pub usable: bool,
    /// When it was made.
    pub created_at: Timestamp,
}
