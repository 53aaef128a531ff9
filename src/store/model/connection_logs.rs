//! Who connected to an agent and how it ended, and what the boundaries around agents let through.

use std::net::IpAddr;

use uuid::Uuid;

use crate::clock::Timestamp;
use crate::ids::{OrganizationId, UserId, WorkspaceId};

/// What happened to a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectionEvent {
    /// It began.
    Connected,
    /// It ended.
    Disconnected {
        /// Exit or status code.
        code: i32,
    },
}

impl ConnectionEvent {
    /// The original's label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Connected => "connected",
            Self::Disconnected { .. } => "disconnected",
        }
    }
}

/// A report of one connection to an agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectionLog {
    /// Id of the row, should there be none for the connection.
    pub id: Uuid,
    /// When it happened, by the agent's clock.
    pub time: Timestamp,
    /// The workspace's organization.
    pub organization_id: OrganizationId,
    /// The workspace's owner.
    pub workspace_owner_id: UserId,
    /// The agent's workspace.
    pub workspace_id: WorkspaceId,
    /// The workspace's name.
    pub workspace_name: String,
    /// The agent's name.
    pub agent_name: String,
    /// Label of the kind of connection.
    pub kind: &'static str,
    /// Where it came from, if that is known.
    pub ip: Option<IpAddr>,
    /// The connection's own id.
    pub connection_id: Uuid,
    /// What happened.
    pub event: ConnectionEvent,
    /// Why it ended.
    pub disconnect_reason: Option<String>,
}

/// What was counted of boundaries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BoundaryUsage {
    /// Unique workspaces since the last time that this was written, and in all of the period.
    pub workspaces: Unique,
    /// Unique owners, likewise.
    pub users: Unique,
    /// Requests that were let through since the last time.
    pub allowed: i64,
    /// Requests that were not.
    pub denied: i64,
}

/// A count of unique things.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Unique {
    /// Since the last time that it was written: for a new row.
    pub new: i64,
    /// In all of the period: for the row that exists.
    pub all: i64,
}
