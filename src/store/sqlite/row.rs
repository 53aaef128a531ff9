//! Columns of a row as the store's types.

use sqlx::sqlite::SqliteRow;
use sqlx::{Row as _, Sqlite};
use uuid::Uuid;

use super::error::store_error;
use crate::clock::Timestamp;
use crate::store::StoreError;

/// Typed access by column name. A column that is absent or of another type is a defect and answers
/// [`StoreError::Rejected`].
pub(super) trait Columns {
    /// A value as the driver decodes it.
    fn get<'r, T: sqlx::Decode<'r, Sqlite> + sqlx::Type<Sqlite>>(
        &'r self,
        column: &str,
    ) -> Result<T, StoreError>;

    /// An id.
    fn id<T: From<Uuid>>(&self, column: &str) -> Result<T, StoreError> {
        self.get::<Uuid>(column).map(T::from)
    }

    /// An id or NULL.
    fn optional_id<T: From<Uuid>>(&self, column: &str) -> Result<Option<T>, StoreError> {
        Ok(self.get::<Option<Uuid>>(column)?.map(T::from))
    }

    /// A point in time.
    fn time(&self, column: &str) -> Result<Timestamp, StoreError> {
        self.get::<i64>(column).map(Timestamp::from_micros)
    }

    /// A point in time or NULL.
    fn optional_time(&self, column: &str) -> Result<Option<Timestamp>, StoreError> {
        Ok(self.get::<Option<i64>>(column)?.map(Timestamp::from_micros))
    }

    /// One of an enum's labels, which `parse` knows.
    fn label<T>(&self, column: &str, parse: fn(&str) -> Option<T>) -> Result<T, StoreError> {
        parse(self.get::<&str>(column)?)
            .ok_or_else(|| StoreError::Rejected(format!("column {column} holds an unknown label")))
    }
}

impl Columns for SqliteRow {
    fn get<'r, T: sqlx::Decode<'r, Sqlite> + sqlx::Type<Sqlite>>(
        &'r self,
        column: &str,
    ) -> Result<T, StoreError> {
        self.try_get(column).map_err(|error| store_error(&error))
    }
}
