//! The tests of both engines on SQLite, and those of SQLite alone.

use std::path::Path;

use sqlx::ConnectOptions as _;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use tempfile::TempDir;

use super::{EXAMPLE, NOW, SMALL, TICK, at};
use crate::store::testing::Place;

type Kit = super::Kit<super::OnSqlite>;

#[path = "activity.rs"]
mod activity;
#[path = "auth.rs"]
mod auth;
#[path = "connections.rs"]
mod connections;
#[path = "engine.rs"]
mod engine;
#[path = "processes.rs"]
mod processes;
#[path = "seed_again.rs"]
mod seed_again;
#[path = "seed_new.rs"]
mod seed_new;
#[path = "tailnet.rs"]
mod tailnet;
#[path = "writes.rs"]
mod writes;

impl Kit {
    fn dir(&self) -> &TempDir {
        match &self.place {
            Place::Sqlite(directory) => directory,
            Place::Postgres(_) => unreachable!("it was made on SQLite"),
        }
    }

    fn into_dir(self) -> TempDir {
        match self.place {
            Place::Sqlite(directory) => directory,
            Place::Postgres(_) => unreachable!("it was made on SQLite"),
        }
    }
}

/// A connection to the file in a directory.
async fn raw(directory: &Path) -> SqliteConnection {
    SqliteConnectOptions::new()
        .filename(directory.join("drpcd.db"))
        .disable_statement_logging()
        .connect()
        .await
        .unwrap()
}
