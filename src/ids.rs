//! Identifiers as types, so that an agent's id cannot be passed for a workspace's, and tokens that do not print.

use std::fmt;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

macro_rules! ids {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub Uuid);

        impl $name {
            /// A new random (version 4) id.
            pub fn random() -> Self {
                Self(Uuid::new_v4())
            }

            /// The sixteen bytes that travel on the wire and lie in the store.
            pub fn as_bytes(&self) -> &[u8; 16] {
                self.0.as_bytes()
            }
        }

        impl From<Uuid> for $name {
            fn from(uuid: Uuid) -> Self {
                Self(uuid)
            }
        }

        /// Lower-case text with hyphens.
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.as_hyphenated().fmt(f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }
    )*};
}

ids! {
    /// A workspace agent, sub agents included.
    AgentId,
    /// An app of an agent.
    AppId,
    /// A status that an app reported.
    AppStatusId,
    /// A build of a workspace.
    BuildId,
    /// A dev container of an agent.
    DevcontainerId,
    /// Where an agent's log lines come from.
    LogSourceId,
    /// A notification by one method.
    NotificationId,
    /// A kind of notification.
    NotificationTemplateId,
    /// An organization.
    OrganizationId,
    /// Who takes part in coordination: an agent's own id, or the one that a client was given.
    PeerId,
    /// One start of one server process.
    ReplicaId,
    /// A resource of a build; agents hang on it.
    ResourceId,
    /// A script of an agent.
    ScriptId,
    /// A template.
    TemplateId,
    /// A version of a template.
    TemplateVersionId,
    /// A user; owners of workspaces are users.
    UserId,
    /// A workspace.
    WorkspaceId,
}

impl UserId {
    /// The system user that owns prebuilt workspaces until somebody claims them.
    pub const PREBUILDS: Self = Self(Uuid::from_u128(0xc42f_df75_3097_471c_8c33_fb52_454d_81c0));
}

/// The secret with which an agent proves who it is. It has no `Display`, and its `Debug` shows nothing of it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct AgentToken(Uuid);

impl AgentToken {
    /// A new random token.
    pub fn random() -> Self {
        Self(Uuid::new_v4())
    }

    /// Takes a UUID as a token.
    pub const fn new(uuid: Uuid) -> Self {
        Self(uuid)
    }

    /// The secret itself, for the store and for handing it to its owner; never for a log.
    pub const fn reveal(&self) -> &Uuid {
        &self.0
    }
}

impl fmt::Debug for AgentToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AgentToken(redacted)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_of_a_token_shows_nothing_of_it() {
        assert_eq!(
            format!("{:?}", AgentToken::new(Uuid::from_u128(7))),
            "AgentToken(redacted)"
        );
    }

    #[test]
    fn the_prebuilds_user_is_the_original_one() {
        assert_eq!(
            UserId::PREBUILDS.to_string(),
            "c42fdf75-3097-471c-8c33-fb52454d81c0"
        );
    }
}
