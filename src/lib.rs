//! drpcd: the server that existing Go workspace agents connect to.

pub mod batch;
pub mod capture;
pub mod cli;
pub mod client_token;
pub mod clock;
pub mod config;
pub mod coordinator;
pub mod duration;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
pub mod http;
pub mod ids;
pub mod limits;
pub mod mux;
pub mod proto;
pub mod pubsub;
pub mod secret;
pub mod seed;
pub mod server;
pub mod services;
pub mod sessions;
pub(crate) mod shares;
pub mod store;
pub(crate) mod supervise;
pub mod telemetry;
