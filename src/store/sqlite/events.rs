//! Events from other processes on the same file.
//!
//! A verb such as `seed` leaves its events in `drpcd_events`, in the transaction that they tell of. A server asks
//! `PRAGMA data_version`, which moves only for commits of other connections, and reads the new rows when it has moved.

use std::sync::atomic::Ordering;

use sqlx::Row;

use super::SqliteStore;
use super::statement::Statement;
use crate::clock::Timestamp;
use crate::store::{StoreError, StoredEvent};

/// Events read at once; the next call reads on.
const EVENTS_PER_READ: i64 = 1_000;

impl SqliteStore {
    /// What happened before the store was opened is not news.
    pub(super) async fn skip_events(&self) -> Result<(), StoreError> {
        let row = self
            .counters
            .query(Statement::LastEvent)
            .fetch_one(&self.writer)
            .await?;
        self.last_event.store(row.try_get(0)?, Ordering::Relaxed);
        Ok(())
    }

    pub(super) async fn take_events(&self) -> Result<Vec<StoredEvent>, StoreError> {
        let mut writer = self.writer.acquire().await?;
        let version: i64 = sqlx::query_scalar("PRAGMA data_version")
            .fetch_one(&mut *writer)
            .await?;
        if version == self.data_version.load(Ordering::Relaxed) {
            return Ok(Vec::new());
        }
        let after = self.last_event.load(Ordering::Relaxed);
        let query = self
            .counters
            .query(Statement::EventsAfter)
            .bind(after)
            .bind(EVENTS_PER_READ);
        let rows = query.fetch_all(&mut *writer).await?;
        let mut events = Vec::with_capacity(rows.len());
        for row in &rows {
            events.push(StoredEvent {
                id: row.try_get(0)?,
                channel: row.try_get(1)?,
                payload: row.try_get(2)?,
            });
        }
        if let Some(last) = events.last() {
            self.last_event.store(last.id, Ordering::Relaxed);
        }
        if i64::try_from(events.len()) != Ok(EVENTS_PER_READ) {
            // Only now is the version dealt with; a failure above is tried again.
            self.data_version.store(version, Ordering::Relaxed);
        }
        Ok(events)
    }

    pub(super) async fn prune_events(&self, before: Timestamp) -> Result<(), StoreError> {
        self.counters
            .query(Statement::PruneEvents)
            .bind(before.as_micros())
            .execute(&self.writer)
            .await?;
        Ok(())
    }
}
