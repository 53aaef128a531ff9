//! BatchCreateLogs: lines that scripts of an agent printed.
//!
//! Source: coder/coder `coderd/agentapi/logs.go`. The row is not read first; the statement decides.

use std::sync::atomic::Ordering;

use uuid::Uuid;

use super::{AgentApi, agent_error, uuid};
use crate::clock::Timestamp;
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
const MAX_LINES: usize = 65_536;

/// What a line takes in memory beside its text.
const LINE_OVERHEAD: usize = size_of::<LogLine>();

/// Takes the place of a NUL, which no store keeps. Without it an agent would send the same batch for ever.
const NUL_REPLACEMENT: &str = "❌";

impl AgentApi {
    pub(super) async fn create_logs(
        &self,
        request: proto::BatchCreateLogsRequest,
    ) -> Result<proto::BatchCreateLogsResponse, Status> {
        let (session, parts) = (&self.session, &self.services.parts);
        let answer = |log_limit_exceeded| Ok(proto::BatchCreateLogsResponse { log_limit_exceeded });
        if session.logs_overflowed() {
            return answer(true);
        }
        if request.logs.is_empty() {
            // No statement decides, so a row that may have gone is asked for.
            self.agent().await?;
            return answer(false);
        }
        if request.logs.len() > MAX_LINES {
            let count = request.logs.len();
            return Err(Status::message(format!(
                "{count} log lines in one request exceed {MAX_LINES}"
            )));
        }
        let id = &request.log_source_id;
        let source = uuid(id)
            .map_err(|error| Status::message(format!("parse log source ID {}: {error}", quote(id))))?;
        let created_at = parts.clock.now();
        let source_id = if source.is_nil() {
            self.insert_external_source(created_at).await?;
            EXTERNAL_SOURCE
        } else {
            LogSourceId(source)
        };
        let lines: Vec<_> = request.logs.into_iter().map(line).collect();
        let length: usize = lines.iter().map(|line| line.output.len()).sum();
        let batch = LogBatch {
            agent_id: session.agent_id,
            source_id,
            created_at,
            output_length: i64::try_from(length).unwrap_or(i64::MAX),
            lines,
        };
        match parts
            .patience
            .call(length + batch.lines.len() * LINE_OVERHEAD, || {
                parts.store.insert_logs(&batch)
            })
            .await
        {
            Ok(LogsInserted::Stored {
                first_id,
                previous_length,
            }) => {
                parts.pubsub.publish_logs(
                    session.agent_id,
                    LogNotification {
                        created_after: first_id - 1,
                    },
                );
                if previous_length == 0 {
                    self.publish(WorkspaceEventKind::AgentFirstLogs);
                }
                answer(false)
            }
            Ok(LogsInserted::AlreadyOverflowed) => {
                session.set_logs_overflowed();
                answer(true)
            }
            Err(error) if error.is_violation(Violation::MaxLogsLength) => {
                self.overflow().await;
                answer(true)
            }
            Err(error @ StoreError::NoRows) => Err(agent_error(session.agent_id, &error)),
            Err(error) => Err(Status::message(format!("insert workspace agent logs: {error}"))),
        }
    }

    /// The limit is reached: from here on every batch is answered without a write.
    async fn overflow(&self) {
        let (session, parts) = (&self.session, &self.services.parts);
        let marked = parts
            .patience
            .call(0, || parts.store.set_logs_overflowed(session.agent_id))
            .await;
        if let Err(error) = marked {
            tracing::warn!(agent_id = %session.agent_id, %error, "failed to update workspace agent log overflow");
        }
        session.set_logs_overflowed();
        self.publish(WorkspaceEventKind::AgentLogsOverflow);
    }

    /// Once per session, since sources stay.
    async fn insert_external_source(&self, created_at: Timestamp) -> Result<(), Status> {
        if self.session.external_source_exists.load(Ordering::Relaxed) {
            return Ok(());
        }
        let parts = &self.services.parts;
        let source = LogSource {
            agent_id: self.session.agent_id,
            id: EXTERNAL_SOURCE,
            created_at,
            display_name: EXTERNAL_NAME.to_owned(),
            icon: EXTERNAL_ICON.to_owned(),
        };
        match parts
            .patience
            .call(0, || parts.store.insert_log_source(&source))
            .await
        {
            Err(error) if !error.is_violation(Violation::LogSourceExists) => Err(Status::message(format!(
                "insert external workspace agent log source: {error}"
            ))),
            _ => {
                self.session.external_source_exists.store(true, Ordering::Relaxed);
                Ok(())
            }
        }
    }
}

fn line(log: proto::Log) -> LogLine {
    let level = match Level::try_from(log.level).unwrap_or(Level::Unspecified) {
        Level::Trace => LogLevel::Trace,
        Level::Debug => LogLevel::Debug,
        Level::Warn => LogLevel::Warn,
        Level::Error => LogLevel::Error,
        Level::Info | Level::Unspecified => LogLevel::Info,
    };
    let output = if log.output.contains('\0') {
        log.output.replace('\0', NUL_REPLACEMENT)
    } else {
        log.output
    };
    LogLine { output, level }
}
