//! Many agents on a Postgres database: what they cost it, and what becomes of them when one of several servers dies or all restart.
//!
//! One program, as most of it is waiting, of which plain runs have two minutes.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a failed test shows where"
)]
#![allow(clippy::disallowed_methods, reason = "real servers take real time")]

mod economy;
mod replicas;
#[path = "../support/mod.rs"]
mod support;
