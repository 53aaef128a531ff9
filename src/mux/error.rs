//! What a peer is told when a call fails.

/// A failed call, as its peer sees it: a code and a text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Status {
    code: u64,
    message: String,
}

impl Status {
    /// A status with a code; codes follow gRPC's numbers by convention.
    pub fn new(code: u64, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
        }
    }

    /// A status without a code, which is what most errors are.
    pub fn message(message: impl Into<String>) -> Self {
        Self::new(0, message)
    }

    /// What a method answers that a service does not implement.
    pub fn unimplemented() -> Self {
        Self::new(12, "Unimplemented")
    }

    /// The code; 0 is none.
    pub fn code(&self) -> u64 {
        self.code
    }

    /// The text.
    pub fn text(&self) -> &str {
        &self.message
    }
}
