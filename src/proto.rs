//! Messages, service traits, registrations and clients, generated from `proto/` by `build.rs`.
//!
//! Knows nothing of what the messages mean; services turn them into model types.

#![allow(missing_docs, reason = "fields are documented in the .proto files")]
#![allow(clippy::all, clippy::pedantic, reason = "generated")]

use std::fmt;

mod bounded;

mod coder {
    pub(crate) mod agent {
        pub mod v2 {
            include!(concat!(env!("OUT_DIR"), "/coder.agent.v2.rs"));
        }
    }

    pub(crate) mod tailnet {
        pub mod v2 {
            pub use crate::proto::bounded::{MAX_TELEMETRY_EVENTS, TelemetryRequest};

            include!(concat!(env!("OUT_DIR"), "/coder.tailnet.v2.rs"));
        }
    }
}

/// `coder.agent.v2`: what agents ask and report.
pub use coder::agent::v2 as agent;
/// `coder.tailnet.v2`: how peers find each other.
pub use coder::tailnet::v2 as tailnet;

impl fmt::Debug for agent::SubAgent {
    /// Without the token.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SubAgent")
            .field("name", &self.name)
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for tailnet::RefreshResumeTokenResponse {
    /// Without the token.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RefreshResumeTokenResponse")
            .field("refresh_in", &self.refresh_in)
            .field("expires_at", &self.expires_at)
            .finish_non_exhaustive()
    }
}
