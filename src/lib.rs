//! drpcd: the server that existing Go workspace agents connect to.

pub mod batch;
pub mod clock;
pub mod coordinator;
pub mod duration;
pub mod ids;
pub mod mux;
pub mod proto;
pub mod pubsub;
pub mod seed;
pub mod services;
pub mod store;
