//! BatchCreateLogs: lines that scripts of an agent printed. Serves its REST counterparts too.
//!
//! Source: coder/coder `coderd/agentapi/logs.go`. The row is not read first; the statement decides.

use std::sync::atomic::Ordering;

use uuid::Uuid;

use super::{AgentApi, AgentServices, agent_error, uuid};
use crate::batch::connections::Subject;
use crate::ids::LogSourceId;
use crate::mux::{Status, quote};
use crate::proto::agent as proto;
use crate::proto::agent::log::Level;
use crate::pubsub::{LogNotification, WorkspaceEventKind};
use crate::store::{LogBatch, LogLevel, LogLine, LogSource, LogsInserted, StoreError, Violation};

/// Source of lines that name none; the original's id, name and icon.
const EXTERNAL_SOURCE: LogSourceId = LogSourceId(Uuid::from_u128(0x3b57_9bf4_1ed8_4b99_87a8_e9a1_e341_0410));
const EXTERNAL_NAME: &str = "External";
const EXTERNAL_ICON: &str = "/emojis/1f310.png";

/// Lines in one request. Agents send at most 1 MiB at a time and count 21 bytes for each line beside its text, which
/// makes less than 50,000; without a bound, 4 MiB of empty lines would become two million rows.
pub(crate) const MAX_LINES: usize = 65_536;

/// What a line takes in memory beside its text.
const LINE_OVERHEAD: usize = size_of::<LogLine>();

/// Takes the place of what no store keeps: NUL, and over REST what is no UTF-8. Without it an agent would send the same
/// batch for ever.
pub const NO_TEXT: &str = "❌";

/// What became of a batch of lines that was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogsStored {
    /// It is in the store.
    Stored,
    /// The agent's log is full, and nothing was stored.
    LimitReached,
}

/// Why a batch of lines was not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LogsError {
    /// More lines than a request may have.
    #[error("{0} log lines in one request exceed {MAX_LINES}")]
    TooManyLines(usize),
    /// The store refused it.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl AgentApi {
    pub(super) async fn create_logs(
        &self,
        request: proto::BatchCreateLogsRequest,
    ) -> Result<proto::BatchCreateLogsResponse, Status> {
        let session = &self.session;
        let answer = |log_limit_exceeded| Ok(proto::BatchCreateLogsResponse { log_limit_exceeded });
        if session.logs_overflowed() {
            return answer(true);
        }
        if request.logs.is_empty() {
            // No statement decides, so a row that may have gone is asked for.
            self.agent().await?;
            return answer(false);
        }
        check_count(request.logs.len()).map_err(|error| Status::message(error.to_string()))?;
        let id = &request.log_source_id;
        let source = uuid(id)
            .map_err(|error| Status::message(format!("parse log source ID {}: {error}", quote(id))))?;
        if source.is_nil() {
            self.insert_external_source().await?;
        }
        let lines = request.logs.into_iter().map(line).collect();
        let stored = self
            .services
            .store_logs(self.subject(), LogSourceId(source), lines);
        match stored.await {
            Ok(LogsStored::Stored) => answer(false),
            Ok(LogsStored::LimitReached) => {
                session.set_logs_overflowed();
                answer(true)
            }
            Err(LogsError::Store(error @ StoreError::NoRows)) => Err(agent_error(session.agent_id, &error)),
            Err(error) => Err(Status::message(format!("insert workspace agent logs: {error}"))),
        }
    }

    /// Once per session, since sources stay.
    async fn insert_external_source(&self) -> Result<(), Status> {
        let session = &self.session;
        if session.external_source_exists.load(Ordering::Relaxed) {
            return Ok(());
        }
        let inserted = self.services.insert_external_source(self.subject()).await;
        inserted.map_err(|error| {
            Status::message(format!("insert external workspace agent log source: {error}"))
        })?;
        session.external_source_exists.store(true, Ordering::Relaxed);
        Ok(())
    }
}

impl AgentServices {
    /// Stores lines of an agent's log, and tells who follows it. The all-zero source stands for the external one, which
    /// must be in the store.
    pub async fn store_logs(
        &self,
        subject: Subject,
        source: LogSourceId,
        lines: Vec<LogLine>,
    ) -> Result<LogsStored, LogsError> {
        check_count(lines.len())?;
        let (parts, agent) = (&self.parts, subject.agent_id);
        let length: usize = lines.iter().map(|line| line.output.len()).sum();
        let batch = LogBatch {
            agent_id: agent,
            source_id: if source.0.is_nil() {
                EXTERNAL_SOURCE
            } else {
                source
            },
            created_at: parts.clock.now(),
            output_length: i64::try_from(length).unwrap_or(i64::MAX),
            lines,
        };
        let mut attempts = 0;
        match parts
            .patience
            .call(
                subject.workspace_id,
                length + batch.lines.len() * LINE_OVERHEAD,
                || {
                    attempts += 1;
                    parts.store.insert_logs(&batch)
                },
            )
            .await
        {
            Ok(LogsInserted::Stored {
                first_id,
                previous_length,
            }) => {
                let created_after = first_id - 1;
                parts
                    .pubsub
                    .publish_logs(agent, LogNotification { created_after });
                // Of an attempt whose answer was lost nobody knows whether it stored the first lines. Those who hear it once
                // too often look once more.
                if previous_length == 0 || attempts > 1 {
                    self.publish(subject, WorkspaceEventKind::AgentFirstLogs);
                }
                Ok(LogsStored::Stored)
            }
            Ok(LogsInserted::AlreadyOverflowed) => Ok(LogsStored::LimitReached),
            Err(error) if error.is_violation(Violation::MaxLogsLength) => {
                self.overflow(subject).await;
                Ok(LogsStored::LimitReached)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// The limit is reached: from here on every batch is answered without a write.
    async fn overflow(&self, subject: Subject) {
        let (parts, agent) = (&self.parts, subject.agent_id);
        let marked = parts
            .patience
            .call(subject.workspace_id, 0, || parts.store.set_logs_overflowed(agent))
            .await;
        if let Err(error) = marked {
            tracing::warn!(agent_id = %agent, %error, "failed to update workspace agent log overflow");
        }
        self.publish(subject, WorkspaceEventKind::AgentLogsOverflow);
    }

    /// Makes sure of the source of lines that name none.
    pub async fn insert_external_source(&self, subject: Subject) -> Result<(), StoreError> {
        let (name, icon) = (EXTERNAL_NAME.to_owned(), EXTERNAL_ICON.to_owned());
        self.insert_log_source(subject, EXTERNAL_SOURCE, name, icon)
            .await
            .map(|_| ())
    }

    /// Adds a source of log lines and answers it as asked for, also when the agent has one of that id already.
    pub async fn insert_log_source(
        &self,
        subject: Subject,
        id: LogSourceId,
        display_name: String,
        icon: String,
    ) -> Result<LogSource, StoreError> {
        let parts = &self.parts;
        let source = LogSource {
            agent_id: subject.agent_id,
            id,
            created_at: parts.clock.now(),
            display_name,
            icon,
        };
        match parts
            .patience
            .call(subject.workspace_id, 0, || parts.store.insert_log_source(&source))
            .await
        {
            Err(error) if !error.is_violation(Violation::LogSourceExists) => Err(error),
            _ => Ok(source),
        }
    }
}

fn check_count(lines: usize) -> Result<(), LogsError> {
    if lines > MAX_LINES {
        return Err(LogsError::TooManyLines(lines));
    }
    Ok(())
}

/// A line as it is stored: NUL becomes [`NO_TEXT`].
pub fn clean_log_line(output: String, level: LogLevel) -> LogLine {
    let output = if output.contains('\0') {
        output.replace('\0', NO_TEXT)
    } else {
        output
    };
    LogLine { output, level }
}

fn line(log: proto::Log) -> LogLine {
    let level = match Level::try_from(log.level).unwrap_or(Level::Unspecified) {
        Level::Trace => LogLevel::Trace,
        Level::Debug => LogLevel::Debug,
        Level::Warn => LogLevel::Warn,
        Level::Error => LogLevel::Error,
        Level::Info | Level::Unspecified => LogLevel::Info,
    };
    clean_log_line(log.output, level)
}
