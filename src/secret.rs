//! Texts that do not print: keys and tokens of others that pass through this server.
//!
//! Owns that none of them reaches a log, an error or a `Debug`. Agents' own tokens have a type of their own in
//! [`crate::ids`].

use std::fmt;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer};
use serde_json::Value;

/// A secret text. It has no `Display`, and its `Debug` shows nothing of it.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Takes a text as a secret.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The secret itself, for the store and for whom it is meant; never for a log.
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(redacted)")
    }
}

/// Takes texts without NUL. No error about one shows any of it.
impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // By way of a value, since serde's own text for a wrong type would quote it.
        match Value::deserialize(deserializer)? {
            Value::String(text) if !text.contains('\0') => Ok(Self(text)),
            _ => Err(D::Error::custom(
                "must be a text without NUL (the value is a secret and not shown)",
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_of_a_secret_shows_nothing_of_it() {
        assert_eq!(format!("{:?}", Secret::new("hunter2")), "Secret(redacted)");
    }

    #[test]
    fn an_error_about_a_secret_shows_nothing_of_it() {
        for text in [r#"["hunter2"]"#, r#""hunter2\u0000""#] {
            let error = serde_json::from_str::<Secret>(text).unwrap_err();
            assert!(!error.to_string().contains("hunter2"), "{error}");
        }
    }
}
