//! The tests of both engines on Postgres.

use super::{EXAMPLE, NOW, SMALL, TICK, at};

type Kit = super::Kit<super::OnPostgres>;

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
