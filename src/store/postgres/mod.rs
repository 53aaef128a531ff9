//! The Postgres engine: one database for any number of servers.
//!
//! Owns the connections, what Postgres' errors mean, the migrations of our own schema, and what only Postgres is asked. Must
//! never hold a transaction open while it waits for anything but the database.

mod coordination;
pub(super) mod engine;
mod error;
mod layout;
pub mod notify;
mod open;
mod pool;
mod value;

pub(super) use self::error::store_error;
use self::notify::Notifications;
pub(super) use self::open::Reached;
pub use self::open::{
    CONNECTION_WAIT, PostgresError, PostgresOptions, SERVER_WAIT, VERB_LOCK_WAIT, VERB_WAIT,
};
pub(super) use self::value::{Time, text, time};
use super::schema::{Report, SchemaStep};
use super::sql::SqlStore;
use super::sql::all_statements;
use super::sql::database::Database;
use crate::clock::Clock;
use crate::secret::Secret;

/// The notifications of the database at `url`.
pub fn notifications(url: &Secret) -> Result<Notifications, PostgresError> {
    open::connect_options(url).map(|options| Notifications::new(&options))
}

/// Opens a database whose tables are ours, and brings its schema up to date if the options say so; or a coder
/// deployment's, if it has all that is needed.
pub async fn open(options: &PostgresOptions, clock: Clock) -> Result<SqlStore, PostgresError> {
    let opened = open::open(options, clock).await?;
    let statements = all_statements().chain(coordination::STATEMENTS.iter().copied());
    let database = Database::postgres(opened.database, statements);
    SqlStore::new(database, opened.schema)
        .await
        .map_err(|error| PostgresError::Unreachable {
            place: opened.place,
            reason: error.to_string(),
        })
}

/// The steps of our schema in a database, which is not written.
pub async fn migrations(url: &Secret, clock: &Clock) -> Result<Vec<SchemaStep>, PostgresError> {
    let mut reached = Reached::at(url, clock).await?;
    let migrations = reached.migrations().await;
    reached.close().await;
    migrations
}

/// What is in a database, where nothing is written.
pub async fn examine(url: &Secret, clock: &Clock) -> Result<Report, PostgresError> {
    let mut reached = Reached::at(url, clock).await?;
    let report = reached.report().await;
    reached.close().await;
    report
}
