//! Tokens of clients: of people who reach agents, as opposed to agents' own.
//!
//! Owns their form: ten letters and digits that name the token, a hyphen, and 22 that are the secret (coder/coder
//! `coderd/apikey/apikey.go` gives its keys the same form, which Go clients check). Only a hash of the whole is ever
//! stored. Must never let the secret into a log.

use std::fmt;

use rand::RngExt as _;
use rand::distr::Alphanumeric;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest as _, Sha256};

/// Characters of the part that names a token.
const ID_LEN: usize = 10;

/// Characters of the secret part: more than 130 bits.
const SECRET_LEN: usize = 22;

const LEN: usize = ID_LEN + 1 + SECRET_LEN;

/// The part of a token that names it, which is no secret.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClientTokenId([u8; ID_LEN]);

impl ClientTokenId {
    /// Reads one; `None` when the text is none.
    pub fn parse(text: &str) -> Option<Self> {
        let bytes: [u8; ID_LEN] = text.as_bytes().try_into().ok()?;
        bytes.iter().all(u8::is_ascii_alphanumeric).then_some(Self(bytes))
    }

    /// As text.
    pub fn as_str(&self) -> &str {
        // Letters and digits only.
        str::from_utf8(&self.0).unwrap_or_default()
    }
}

impl fmt::Display for ClientTokenId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for ClientTokenId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Serialize for ClientTokenId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for ClientTokenId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
        Self::parse(&text).ok_or_else(|| serde::de::Error::custom("not the id of a client token"))
    }
}

/// The secret with which a client proves whose it is. It has no `Display`, and its `Debug` shows only its id.
#[derive(Clone, PartialEq, Eq)]
pub struct ClientToken([u8; LEN]);

impl ClientToken {
    /// A new one.
    pub fn random() -> Self {
        let mut bytes = [b'-'; LEN];
        let mut random = rand::rng().sample_iter(Alphanumeric);
        for (at, byte) in bytes.iter_mut().enumerate() {
            if at != ID_LEN {
                // The iterator never ends.
                *byte = random.next().unwrap_or(b'0');
            }
        }
        Self(bytes)
    }

    /// Reads one; `None` when the text is none.
    pub fn parse(text: &[u8]) -> Option<Self> {
        let bytes: [u8; LEN] = text.try_into().ok()?;
        let mut places = bytes.iter().enumerate();
        let whole = places.all(|(at, byte)| {
            if at == ID_LEN {
                *byte == b'-'
            } else {
                byte.is_ascii_alphanumeric()
            }
        });
        whole.then_some(Self(bytes))
    }

    /// What names it.
    pub fn id(&self) -> ClientTokenId {
        let mut id = [0; ID_LEN];
        id.copy_from_slice(&self.0[..ID_LEN]);
        ClientTokenId(id)
    }

    /// What is stored of it.
    pub fn sha256(&self) -> [u8; 32] {
        Sha256::digest(self.0).into()
    }

    /// The whole, for whom it was made; never for a log.
    pub fn reveal(&self) -> &str {
        // Letters, digits and a hyphen only.
        str::from_utf8(&self.0).unwrap_or_default()
    }
}

impl fmt::Debug for ClientToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ClientToken({}, redacted)", self.id())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_ten_characters_a_hyphen_and_twenty_two() {
        let token = ClientToken::random();
        let (id, secret) = token.reveal().split_once('-').unwrap();
        assert_eq!((id.len(), secret.len()), (10, 22));
        assert_eq!(
            ClientToken::parse(token.reveal().as_bytes()).as_ref(),
            Some(&token)
        );
        assert_eq!(ClientTokenId::parse(id), Some(token.id()));
        assert_ne!(token, ClientToken::random());
    }

    #[test]
    fn what_has_another_form_is_no_token() {
        let good = "abcdefghij-0123456789012345678901";
        assert!(ClientToken::parse(good.as_bytes()).is_some());
        for bad in [
            "",
            "abcdefghij",
            "abcdefghij-012345678901234567890",
            "abcdefghij-01234567890123456789012",
            "abcdefghi-j0123456789012345678901",
            "abcdefghij_0123456789012345678901",
            "abcdefghij-012345678901234567890\u{e9}",
            "abcdefghij-01234567890123456789 1",
        ] {
            assert_eq!(ClientToken::parse(bad.as_bytes()), None, "{bad}");
        }
        assert_eq!(ClientTokenId::parse("abcdefghi!"), None);
        assert_eq!(ClientTokenId::parse("abcdefghi"), None);
    }

    #[test]
    fn debug_shows_the_id_and_nothing_of_the_secret() {
        let token = ClientToken::parse(b"abcdefghij-0123456789012345678901").unwrap();
        assert_eq!(format!("{token:?}"), "ClientToken(abcdefghij, redacted)");
    }
}
