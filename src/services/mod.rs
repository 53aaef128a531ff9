//! The services that agents call, behind the traits that are generated from `proto/`.
//!
//! Owns what a call means: checks, rules, and the texts that a peer gets. Must never see frames, HTTP or SQL.

pub mod agent;
pub mod connection_log;
pub mod external_auth;
pub mod notifications;
pub mod patience;
pub mod tailnet;
