//! ReportConnection: who came to an agent, and how that ended.
//!
//! Source: coder/coder `coderd/agentapi/connectionlog.go`.

use std::net::IpAddr;

use uuid::Uuid;

use super::{AgentApi, enum_name, uuid};
use crate::clock::Timestamp;
use crate::mux::Status;
use crate::proto::agent as proto;
use crate::proto::agent::connection::{Action, Type};
use crate::store::{ConnectionEvent, ConnectionLog};

impl AgentApi {
    pub(super) async fn log_connection(&self, request: proto::ReportConnectionRequest) -> Result<(), Status> {
        let connection = request.connection.unwrap_or_default();
        let id = uuid(&connection.id)
            .map_err(|error| Status::message(format!("connection id from bytes: {error}")))?;
        if id.is_nil() {
            return Err(Status::message("connection ID cannot be nil"));
        }
        let event = event(&connection)?;
        let kind = kind(connection.r#type)?;
        // An absent time is 1970, as it is for Go.
        let time = match &connection.timestamp {
            None => Timestamp::UNIX_EPOCH,
            Some(time) => Timestamp::from_proto(time)
                .ok_or_else(|| Status::message("export connection log: timestamp out of range"))?,
        };
        let reason = connection.reason.filter(|reason| !reason.is_empty());
        if reason.as_ref().is_some_and(|reason| reason.contains('\0')) {
            return Err(Status::message("reason must not contain NUL"));
        }
        let workspace = self
            .workspace()
            .await
            .map_err(|error| Status::message(format!("get workspace by agent id: {error}")))?;
        let log = ConnectionLog {
            id: Uuid::new_v4(),
            time,
            organization_id: workspace.organization_id,
            workspace_owner_id: workspace.owner_id,
            workspace_id: workspace.id,
            workspace_name: workspace.name.clone(),
            agent_name: self.session.agent_name.to_string(),
            kind,
            ip: address(&connection.ip),
            connection_id: id,
            event,
            disconnect_reason: reason,
        };
        // Loaded for each call: the backends may be exchanged while agents are connected.
        let logger = self.services.connection_logger.load_full();
        let logged = logger.upsert(&log).await;
        logged.map_err(|error| Status::message(format!("export connection log: {error}")))
    }
}

/// A code is only told at the end, and then always.
fn event(connection: &proto::Connection) -> Result<ConnectionEvent, Status> {
    match Action::try_from(connection.action) {
        Ok(Action::Connect) => Ok(ConnectionEvent::Connected),
        Ok(Action::Disconnect) => Ok(ConnectionEvent::Disconnected {
            code: connection.status_code,
        }),
        Ok(Action::Unspecified) | Err(_) => {
            let name = enum_name::<Action>(connection.action, Action::as_str_name);
            Err(Status::message(format!(
                "unknown agent connection action \"{name}\""
            )))
        }
    }
}

fn kind(number: i32) -> Result<&'static str, Status> {
    match Type::try_from(number) {
        Ok(Type::Ssh) => Ok("ssh"),
        Ok(Type::Vscode) => Ok("vscode"),
        Ok(Type::Jetbrains) => Ok("jetbrains"),
        Ok(Type::ReconnectingPty) => Ok("reconnecting_pty"),
        Ok(Type::Unspecified) | Err(_) => {
            let name = enum_name::<Type>(number, Type::as_str_name);
            Err(Status::message(format!(
                "unknown agent connection type \"{name}\""
            )))
        }
    }
}

/// What is no address is unknown, never an error.
fn address(text: &str) -> Option<IpAddr> {
    if text == "localhost" {
        return Some(IpAddr::from([127, 0, 0, 1]));
    }
    text.parse::<IpAddr>().ok().map(|ip| ip.to_canonical())
}
