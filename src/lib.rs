//! drpcd: the server that existing Go workspace agents connect to.

pub mod clock;
pub mod config;
pub mod duration;
pub mod http;
pub mod ids;
pub mod mux;
pub mod proto;
pub mod seed;
pub mod store;
pub mod telemetry;
