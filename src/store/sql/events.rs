//! Events for other processes, left in the transaction that they are about.
//!
//! On SQLite they are rows that the others look for ([`super::cursor`]); Postgres notifies by itself.

use super::database::Session;
use super::statement::{Dialect, statements};
use crate::clock::Timestamp;
use crate::ids::UserId;
use crate::store::{Invalidation, StoreError, WorkspaceEvent};

statements! {
    LEAVE_EVENT = "leave_event": "INSERT INTO drpcd_events (channel, payload, created_at) VALUES ($1, $2, $3)",
        postgres: "SELECT pg_notify($1, $2)";
}

/// Leaves an event, which others see when the transaction commits.
pub(super) async fn leave(
    transaction: &mut Session<'_>,
    invalidation: Invalidation,
    now: Timestamp,
) -> Result<(), StoreError> {
    insert(transaction, Invalidation::CHANNEL, invalidation.payload(), now).await
}

/// Leaves an event for those who follow the workspaces of `owner`.
pub(super) async fn leave_for_owner(
    transaction: &mut Session<'_>,
    owner: UserId,
    event: WorkspaceEvent,
    now: Timestamp,
) -> Result<(), StoreError> {
    insert(transaction, &WorkspaceEvent::channel(owner), event.payload(), now).await
}

async fn insert(
    transaction: &mut Session<'_>,
    channel: &str,
    payload: String,
    now: Timestamp,
) -> Result<(), StoreError> {
    let call = LEAVE_EVENT.bind(channel).bind(payload);
    let call = match transaction.dialect() {
        Dialect::Sqlite => call.bind(now),
        Dialect::Postgres => call,
    };
    transaction.execute(call).await.map(|_| ())
}
