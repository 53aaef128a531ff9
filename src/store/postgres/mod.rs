//! The Postgres engine: one database for any number of servers.
//!
//! Owns the connections, what Postgres' errors mean, the migrations of our own schema, and what only Postgres is asked. Must
//! never hold a transaction open while it waits for anything but the database.

mod coordination;
pub(super) mod engine;
mod error;
pub mod layout;
pub mod notify;
mod open;
mod value;

pub(super) use self::error::store_error;
use self::notify::Notifications;
pub use self::open::{PostgresError, PostgresOptions};
pub(super) use self::value::{Time, text, time};
use super::sql::SqlStore;
use super::sql::all_statements;
use super::sql::database::Database;
use crate::clock::Clock;
use crate::secret::Secret;

/// The notifications of the database at `url`.
pub fn notifications(url: &Secret) -> Result<Notifications, PostgresError> {
    open::connect_options(url).map(|options| Notifications::new(&options))
}

/// Opens a database, and brings its schema up to date if the options say so.
pub async fn open(options: &PostgresOptions, clock: Clock) -> Result<SqlStore, PostgresError> {
    let (database, place) = open::open(options, clock).await?;
    let statements = all_statements().chain(coordination::STATEMENTS.iter().copied());
    SqlStore::new(Database::postgres(database, statements))
        .await
        .map_err(|error| PostgresError::Unreachable {
            place,
            reason: error.to_string(),
        })
}
