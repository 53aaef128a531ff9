//! Columns of a row as the store's types.

use sqlx::postgres::PgRow;
use sqlx::sqlite::SqliteRow;
use sqlx::{Row as _, ValueRef as _};
use uuid::Uuid;

use crate::clock::Timestamp;
use crate::store::StoreError;
use crate::store::postgres::{store_error as postgres_error, text, time};
use crate::store::sqlite::store_error as sqlite_error;

/// A row of either engine, with typed access by column name. A column that is absent or of another type is a defect and
/// answers [`StoreError::Rejected`].
pub(in crate::store) enum Row {
    Sqlite(SqliteRow),
    Postgres(PgRow),
}

/// A type that a column can be read as.
pub(in crate::store) trait Stored<'r>: Sized {
    fn from_sqlite(row: &'r SqliteRow, column: &str) -> Result<Self, sqlx::Error>;
    fn from_postgres(row: &'r PgRow, column: &str) -> Result<Self, sqlx::Error>;
}

/// The driver's own decoding, which is the same for both engines.
macro_rules! as_decoded {
    ($($type:ty),*) => {$(
        impl<'r> Stored<'r> for $type {
            fn from_sqlite(row: &'r SqliteRow, column: &str) -> Result<Self, sqlx::Error> {
                row.try_get(column)
            }

            fn from_postgres(row: &'r PgRow, column: &str) -> Result<Self, sqlx::Error> {
                row.try_get(column)
            }
        }
    )*};
}

as_decoded!(bool, Uuid, Vec<u8>);

impl<'r> Stored<'r> for i64 {
    fn from_sqlite(row: &'r SqliteRow, column: &str) -> Result<Self, sqlx::Error> {
        row.try_get(column)
    }

    /// Columns are as wide as the original's.
    fn from_postgres(row: &'r PgRow, column: &str) -> Result<Self, sqlx::Error> {
        row.try_get(column)
            .or_else(|_| row.try_get::<i32, _>(column).map(Self::from))
    }
}

impl<'r> Stored<'r> for i32 {
    fn from_sqlite(row: &'r SqliteRow, column: &str) -> Result<Self, sqlx::Error> {
        row.try_get(column)
    }

    fn from_postgres(row: &'r PgRow, column: &str) -> Result<Self, sqlx::Error> {
        row.try_get(column)
    }
}

impl<'r> Stored<'r> for &'r str {
    fn from_sqlite(row: &'r SqliteRow, column: &str) -> Result<Self, sqlx::Error> {
        row.try_get(column)
    }

    /// Labels and JSON too, which the driver takes for types of their own.
    fn from_postgres(row: &'r PgRow, column: &str) -> Result<Self, sqlx::Error> {
        text(&row.try_get_raw(column)?).map_err(|source| sqlx::Error::ColumnDecode {
            index: column.to_owned(),
            source,
        })
    }
}

impl<'r> Stored<'r> for String {
    fn from_sqlite(row: &'r SqliteRow, column: &str) -> Result<Self, sqlx::Error> {
        row.try_get(column)
    }

    fn from_postgres(row: &'r PgRow, column: &str) -> Result<Self, sqlx::Error> {
        <&str>::from_postgres(row, column).map(str::to_owned)
    }
}

impl<'r> Stored<'r> for Timestamp {
    fn from_sqlite(row: &'r SqliteRow, column: &str) -> Result<Self, sqlx::Error> {
        row.try_get(column).map(Self::from_micros)
    }

    fn from_postgres(row: &'r PgRow, column: &str) -> Result<Self, sqlx::Error> {
        time(row, column)
    }
}

impl<'r, T: Stored<'r>> Stored<'r> for Option<T> {
    fn from_sqlite(row: &'r SqliteRow, column: &str) -> Result<Self, sqlx::Error> {
        if row.try_get_raw(column)?.is_null() {
            return Ok(None);
        }
        T::from_sqlite(row, column).map(Some)
    }

    fn from_postgres(row: &'r PgRow, column: &str) -> Result<Self, sqlx::Error> {
        if row.try_get_raw(column)?.is_null() {
            return Ok(None);
        }
        T::from_postgres(row, column).map(Some)
    }
}

impl Row {
    /// A value.
    pub(in crate::store) fn get<'r, T: Stored<'r>>(&'r self, column: &str) -> Result<T, StoreError> {
        match self {
            Self::Sqlite(row) => T::from_sqlite(row, column).map_err(|error| sqlite_error(&error)),
            Self::Postgres(row) => T::from_postgres(row, column).map_err(|error| postgres_error(&error)),
        }
    }

    /// An id.
    pub(in crate::store) fn id<T: From<Uuid>>(&self, column: &str) -> Result<T, StoreError> {
        self.get::<Uuid>(column).map(T::from)
    }

    /// An id or NULL.
    pub(in crate::store) fn optional_id<T: From<Uuid>>(&self, column: &str) -> Result<Option<T>, StoreError> {
        Ok(self.get::<Option<Uuid>>(column)?.map(T::from))
    }

    /// One of an enum's labels, which `parse` knows.
    pub(in crate::store) fn label<T>(
        &self,
        column: &str,
        parse: fn(&str) -> Option<T>,
    ) -> Result<T, StoreError> {
        parse(self.get::<&str>(column)?)
            .ok_or_else(|| StoreError::Rejected(format!("column {column} holds an unknown label")))
    }
}
