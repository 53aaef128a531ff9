//! What goes wrong around a server: its store, its process, the network. The real binary and agents that treat failures
//! as real ones do.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(clippy::disallowed_methods, reason = "real peers keep real time")]

mod batched;
mod clients;
mod crash;
mod damage;
mod database;
mod journal;
mod network;
mod outage;
#[path = "../support/mod.rs"]
mod support;

/// Skips the test where there is no Go.
macro_rules! go {
    ($($argument:expr),* $(,)?) => {
        match crate::support::go($($argument),*) {
            Some(go) => go,
            None => return,
        }
    };
}
pub(crate) use go;
