//! The tests of both engines on Postgres.

use super::{EXAMPLE, NOW, SMALL, TICK, at};
use crate::store::testing::Place;

type Kit = super::Kit<super::OnPostgres>;

impl Kit {
    /// For what only Postgres does; `None` without it.
    async fn of_postgres() -> Option<Self> {
        Some(Self::at(Place::of_postgres()?).await)
    }
}

#[path = "activity.rs"]
mod activity;
#[path = "auth.rs"]
mod auth;
#[path = "connections.rs"]
mod connections;
mod locks;
mod plans;
#[path = "seed_again.rs"]
mod seed_again;
#[path = "seed_new.rs"]
mod seed_new;
#[path = "tailnet.rs"]
mod tailnet;
#[path = "writes.rs"]
mod writes;
