//! Writes that are collected: many agents, one statement.
//!
//! Owns what has been accepted and is not yet in the store. Each batch is a cheap handle to add to, and a `run` that
//! the server drives until shutdown, when it writes what is left.

pub mod boundary_usage;
pub mod connections;
pub mod last_used;
pub mod metadata;
pub mod network_events;
pub mod stats;

/// What a batch that is still not written at the end of its time failed with.
fn late() -> crate::store::StoreError {
    crate::store::StoreError::Unavailable("the store did not answer before the end".to_owned())
}
