//! Where reports of connections go: nowhere, to the store, to the log, or to several of them.
//!
//! Source: coder/coder `coderd/connectionlog` and its licensed backends.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;

use super::patience::Patience;
use crate::store::{ConnectionEvent, ConnectionLog, Store, StoreError};

/// Takes reports of connections.
#[async_trait]
pub trait ConnectionLogger: fmt::Debug + Send + Sync + 'static {
    /// Records one report. Reports of one connection come in any order, and more than once.
    async fn upsert(&self, log: &ConnectionLog) -> Result<(), ConnectionLogError>;
}

/// A backend could not record a report.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectionLogError {
    /// The store refused it.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Several backends failed.
    #[error("{}", join(.0))]
    Several(Vec<ConnectionLogError>),
}

fn join(errors: &[ConnectionLogError]) -> String {
    let texts: Vec<_> = errors.iter().map(ToString::to_string).collect();
    texts.join("\n")
}

/// Hands each report to every backend, also when one fails. Without backends nothing is recorded.
#[derive(Debug, Default)]
pub struct Backends(Vec<Box<dyn ConnectionLogger>>);

impl Backends {
    /// Adds a backend.
    pub fn add(&mut self, backend: impl ConnectionLogger) {
        self.0.push(Box::new(backend));
    }
}

#[async_trait]
impl ConnectionLogger for Backends {
    async fn upsert(&self, log: &ConnectionLog) -> Result<(), ConnectionLogError> {
        let mut errors = Vec::new();
        for backend in &self.0 {
            errors.extend(backend.upsert(log).await.err());
        }
        match errors.len() {
            0 => Ok(()),
            1 => Err(errors.remove(0)),
            _ => Err(ConnectionLogError::Several(errors)),
        }
    }
}

/// One row of `connection_logs` per connection.
#[derive(Debug)]
pub struct DatabaseLogger {
    store: Arc<dyn Store>,
    patience: Patience,
}

impl DatabaseLogger {
    /// Writes to `store`, and waits for it.
    pub fn new(store: Arc<dyn Store>, patience: Patience) -> Self {
        Self { store, patience }
    }
}

#[async_trait]
impl ConnectionLogger for DatabaseLogger {
    async fn upsert(&self, log: &ConnectionLog) -> Result<(), ConnectionLogError> {
        let size = log.disconnect_reason.as_ref().map_or(0, String::len);
        let written = self
            .patience
            .call(log.workspace_id, size, || self.store.upsert_connection_log(log))
            .await;
        Ok(written?)
    }
}

/// One line per report.
#[derive(Debug)]
pub struct StructuredLogger;

#[async_trait]
impl ConnectionLogger for StructuredLogger {
    async fn upsert(&self, log: &ConnectionLog) -> Result<(), ConnectionLogError> {
        let code = match log.event {
            ConnectionEvent::Connected => None,
            ConnectionEvent::Disconnected { code } => Some(code),
        };
        tracing::info!(
            id = %log.id,
            time = %log.time,
            organization_id = %log.organization_id,
            workspace_owner_id = %log.workspace_owner_id,
            workspace_id = %log.workspace_id,
            workspace_name = log.workspace_name,
            agent_name = log.agent_name,
            r#type = log.kind,
            status = log.event.as_str(),
            code,
            ip = log.ip.map(tracing::field::display),
            connection_id = %log.connection_id,
            disconnect_reason = log.disconnect_reason,
            "connection_log"
        );
        Ok(())
    }
}
