//! The schema's versions.
//!
//! The version lies in the file's `user_version`. Each step runs in one transaction that takes the write lock first, so
//! two processes that start at once do not run it twice.

use std::path::Path;

use sqlx::{Connection, SqliteConnection, SqlitePool};

use super::OpenError;
use crate::store::StoreError;

/// Steps from one version to the next; the first makes version 1 of an empty file. Steps that were released never change.
const STEPS: [&str; 1] = [include_str!("migrations/0001_initial.sql")];

/// Version of the schema that this program works with.
pub const SCHEMA_VERSION: i64 = STEPS.len() as i64;

/// Brings the file up to date.
pub(super) async fn run(pool: &SqlitePool, path: &Path) -> Result<(), OpenError> {
    let failed = |source: StoreError| OpenError::Database {
        path: path.to_owned(),
        source,
    };
    let mut connection = pool.acquire().await.map_err(|error| failed(error.into()))?;
    match upgrade(&mut connection).await.map_err(failed)? {
        found if found > SCHEMA_VERSION => Err(OpenError::Newer {
            path: path.to_owned(),
            found,
        }),
        _ => Ok(()),
    }
}

/// Runs the missing steps and returns the version that the file has then.
async fn upgrade(connection: &mut SqliteConnection) -> Result<i64, StoreError> {
    loop {
        let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await?;
        let version: i64 = sqlx::query_scalar("PRAGMA user_version")
            .fetch_one(&mut *transaction)
            .await?;
        let next = usize::try_from(version)
            .ok()
            .and_then(|version| STEPS.get(version));
        let Some(step) = next else { return Ok(version) };
        sqlx::raw_sql(*step).execute(&mut *transaction).await?;
        // A pragma takes no parameters; the number is our own.
        let set = sqlx::AssertSqlSafe(format!("PRAGMA user_version = {}", version + 1));
        sqlx::raw_sql(set).execute(&mut *transaction).await?;
        transaction.commit().await?;
        tracing::info!(version = version + 1, "migrated the database");
    }
}
