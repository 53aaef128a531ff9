//! What each RPC does.

pub mod tailnet;
