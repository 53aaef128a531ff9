//! The real binary on the database of an existing coder deployment: what is served, what is left to the deployment's own
//! servers, and what is written.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(clippy::disallowed_methods, reason = "real peers keep real time")]

#[path = "../support/mod.rs"]
mod support;

mod audit;
mod coordination;
mod kit;
mod refusals;
mod serving;
