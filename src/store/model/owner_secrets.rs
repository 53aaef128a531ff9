//! What users have with others: git keys, and links to external providers.

use crate::clock::Timestamp;
use crate::ids::UserId;
use crate::secret::Secret;

/// A user's key for git over SSH, in OpenSSH's text forms.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GitSshKey {
    /// The public half.
    pub public_key: String,
    /// The private half.
    pub private_key: Secret,
}

/// A user's link to an external provider.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExternalAuthLink {
    /// Its tokens. `None` when either is encrypted: what is stored then is of no use, and leaves the store in no case.
    pub tokens: Option<LinkTokens>,
    /// Why the last refresh was refused; empty when none was.
    pub refresh_failure: String,
}

/// The tokens of a link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkTokens {
    /// What the provider takes.
    pub access: Secret,
    /// What it gives a new one for; empty when there is none.
    pub refresh: Secret,
    /// When the access token ends; [`Timestamp::ZERO`] is never.
    pub expiry: Timestamp,
    /// A JSON object of what else came with the tokens.
    pub extra: Option<Secret>,
}

/// New tokens of a link.
#[derive(Clone, Debug)]
pub struct LinkRenewal {
    /// The provider.
    pub provider_id: String,
    /// Whose link.
    pub user_id: UserId,
    /// The refresh token that was used.
    pub used: Secret,
    /// What came for it.
    pub tokens: LinkTokens,
    /// When.
    pub at: Timestamp,
}

/// A refresh that the provider refused for good.
#[derive(Clone, Debug)]
pub struct LinkRefusal {
    /// The provider.
    pub provider_id: String,
    /// Whose link.
    pub user_id: UserId,
    /// The refresh token that was used.
    pub used: Secret,
    /// What the provider said, free of NUL.
    pub reason: String,
    /// When.
    pub at: Timestamp,
}
