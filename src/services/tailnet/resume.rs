//! Tokens with which a client that comes back keeps its peer id.
//!
//! Owns their form and when one is good. Must never let the key or a token into a log. What a token says is the
//! original's (coder/coder `tailnet/resume.go`); its form is our own, since clients only hand it back: version, peer id
//! and expiry, signed with HMAC-SHA-256, as base64url.

#[cfg(test)]
mod tests;

use std::fmt;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, Mac as _};
use sha2::Sha256;
use uuid::Uuid;

use crate::clock::{Clock, Timestamp};
use crate::coordinator::PeerId;
use crate::proto::tailnet::RefreshResumeTokenResponse;
use crate::secret::Secret;
use crate::store::{Store, StoreError};

/// How long a token is good.
pub const EXPIRY: Duration = Duration::from_hours(24);

/// When a client should ask for the next one.
const REFRESH_IN: Duration = Duration::from_hours(12);

/// First byte of a token. Whatever changes its meaning or its algorithm gets another.
const VERSION: u8 = 1;

/// Signed along, so that nothing else that is ever signed with the key can pass for such a token.
const PURPOSE: &[u8] = b"drpcd tailnet resume token\0";

const ID_LEN: usize = 16;
const EXPIRY_LEN: usize = 8;
const SIGNED_LEN: usize = 1 + ID_LEN + EXPIRY_LEN;
const MAC_LEN: usize = 32;
const TOKEN_LEN: usize = SIGNED_LEN + MAC_LEN;

/// Characters of a token; a multiple of four, so that no bit of the last one is unused.
const TEXT_LEN: usize = TOKEN_LEN / 3 * 4;
const _: () = assert!(TOKEN_LEN.is_multiple_of(3));

/// Bytes of the key: those of the hash, as RFC 2104 advises.
const KEY_LEN: usize = 32;

/// Issues and checks tokens.
pub struct ResumeTokens {
    key: Hmac<Sha256>,
    clock: Clock,
}

/// Without the key.
impl fmt::Debug for ResumeTokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResumeTokens").finish_non_exhaustive()
    }
}

impl ResumeTokens {
    /// With the key that all processes on `store` share; whoever comes first makes it. Fails when the store does, and
    /// when what it holds is no key.
    pub async fn open(store: &dyn Store, clock: Clock) -> Result<Self, StoreError> {
        let candidate = URL_SAFE_NO_PAD.encode(rand::random::<[u8; KEY_LEN]>());
        let text = store.resume_key(&Secret::new(candidate)).await?;
        let key = URL_SAFE_NO_PAD.decode(text.reveal()).ok();
        let key = key.and_then(|key| <[u8; KEY_LEN]>::try_from(key).ok());
        let key = key.ok_or_else(|| {
            StoreError::Rejected(format!(
                "the store's key of resume tokens is not {KEY_LEN} bytes as base64url"
            ))
        })?;
        Ok(Self::with_key(&key, clock))
    }

    /// With a key that nobody else has, and that ends with this process.
    pub fn of_this_process(clock: Clock) -> Self {
        Self::with_key(&rand::random(), clock)
    }

    #[expect(clippy::expect_used, reason = "HMAC takes a key of any length (RFC 2104)")]
    fn with_key(key: &[u8; KEY_LEN], clock: Clock) -> Self {
        let key = Hmac::new_from_slice(key).expect("a key of any length");
        Self { key, clock }
    }

    /// A token for `peer`, good for [`EXPIRY`] from now.
    pub fn issue(&self, peer: PeerId) -> RefreshResumeTokenResponse {
        let expires_at = self.clock.now().saturating_add(EXPIRY);
        let mut token = Vec::with_capacity(TOKEN_LEN);
        token.push(VERSION);
        token.extend_from_slice(peer.0.as_bytes());
        token.extend_from_slice(&expires_at.as_micros().to_be_bytes());
        let mac = self.mac(&token).finalize().into_bytes();
        token.extend_from_slice(&mac);
        RefreshResumeTokenResponse {
            token: URL_SAFE_NO_PAD.encode(token),
            refresh_in: prost_types::Duration::try_from(REFRESH_IN).ok(),
            expires_at: Some(expires_at.into()),
        }
    }

    /// The peer that `token` was issued for, while it is good.
    pub fn verify(&self, token: &str) -> Option<PeerId> {
        // Before anything is made of it: what strangers send has any length.
        if token.len() != TEXT_LEN {
            return None;
        }
        let token: [u8; TOKEN_LEN] = URL_SAFE_NO_PAD.decode(token).ok()?.try_into().ok()?;
        let (signed, mac) = token.split_at(SIGNED_LEN);
        // Takes the same time wherever the first difference is.
        self.mac(signed).verify_slice(mac).ok()?;
        let (version, rest) = signed.split_first()?;
        let (id, expiry) = rest.split_at(ID_LEN);
        let expires_at = Timestamp::from_micros(i64::from_be_bytes(expiry.try_into().ok()?));
        let good = *version == VERSION && self.clock.now() < expires_at;
        good.then_some(())?;
        Uuid::from_slice(id).ok().map(PeerId)
    }

    fn mac(&self, signed: &[u8]) -> Hmac<Sha256> {
        let mut mac = self.key.clone();
        mac.update(PURPOSE);
        mac.update(signed);
        mac
    }
}
