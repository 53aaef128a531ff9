//! Reading the events that other processes left in one database file.
//!
//! Owns how far this process has read. Postgres, which notifies by itself, has no such table, and nothing is read there.

use std::sync::{Mutex, MutexGuard, PoisonError};

use super::database::Database;
use super::statement::{Dialect, statements};
use crate::clock::Timestamp;
use crate::store::{StoreError, StoredEvent};

/// Events that one call reads; the next call goes on. Bounds what a large seed brings into memory at once.
const EVENTS_PER_READ: i64 = 4_096;

statements! {
    LAST_EVENT = "last_event": "SELECT coalesce(max(id), 0) AS id FROM drpcd_events";
    EVENTS_SINCE = "events_since":
        "SELECT id, channel, payload FROM drpcd_events WHERE id > $1 ORDER BY id LIMIT $2";
    PRUNE_EVENTS = "prune_events": "DELETE FROM drpcd_events WHERE created_at < $1 AND id <= $2";
}

/// How far the events were read.
#[derive(Debug, Default)]
pub(super) struct Cursor(Mutex<Position>);

#[derive(Clone, Copy, Debug, Default)]
struct Position {
    /// Id of the last event that was seen.
    seen: i64,
    /// `data_version` at that time and the connection that it is of; it moves only for commits of other connections.
    version: Option<(u64, i64)>,
}

impl Cursor {
    /// A copy of a few numbers; it is whole whoever panicked.
    fn lock(&self) -> MutexGuard<'_, Position> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn get(&self) -> Position {
        *self.lock()
    }

    fn set(&self, position: Position) {
        *self.lock() = position;
    }

    /// Makes the next read look at the table although nobody else has committed.
    pub(super) fn look_again(&self) {
        self.lock().version = None;
    }

    /// Starts after what is there: whoever opens the store has nothing in memory that an old event could be about.
    pub(super) async fn skip_existing(&self, database: &Database) -> Result<(), StoreError> {
        if database.dialect() == Dialect::Postgres {
            return Ok(());
        }
        let row = database.write().await?.one(LAST_EVENT.call()).await?;
        self.set(Position {
            seen: row.get("id")?,
            version: None,
        });
        Ok(())
    }

    pub(super) async fn take(&self, database: &Database) -> Result<Vec<StoredEvent>, StoreError> {
        if database.dialect() == Dialect::Postgres {
            return Ok(Vec::new());
        }
        // The writer is the one connection that does not count this process's own writes.
        let mut session = database.write().await?;
        let position = self.get();
        let version = session.data_version().await?;
        if version == position.version {
            return Ok(Vec::new());
        }
        let rows = session
            .all(EVENTS_SINCE.bind(position.seen).bind(EVENTS_PER_READ))
            .await?;
        let mut events = Vec::with_capacity(rows.len());
        for row in rows {
            events.push(StoredEvent {
                id: row.get("id")?,
                channel: row.get("channel")?,
                payload: row.get("payload")?,
            });
        }
        let more = i64::try_from(events.len()).unwrap_or(i64::MAX) >= EVENTS_PER_READ;
        self.set(Position {
            seen: events.last().map_or(position.seen, |event| event.id),
            version: if more { None } else { version },
        });
        Ok(events)
    }

    /// Whatever the clock says, an event that was not read is not old.
    pub(super) async fn prune(&self, database: &Database, before: Timestamp) -> Result<(), StoreError> {
        if database.dialect() == Dialect::Postgres {
            return Ok(());
        }
        let call = PRUNE_EVENTS.bind(before).bind(self.get().seen);
        database.write().await?.execute(call).await.map(|_| ())
    }
}
