//! What the process tells of itself: logs and metrics.
//!
//! Owns where they go and in which form. Must never be given a token or a key: what arrives here leaves the process.

pub mod agent_metrics;
pub mod build_durations;
pub mod logs;
pub mod metrics;
pub mod network;
pub mod pubsub;
#[cfg(test)]
pub(crate) mod testing;
