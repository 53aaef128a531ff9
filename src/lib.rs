//! drpcd: the server that existing Go workspace agents connect to.

pub mod mux;
