//! Bytes to dispatched calls and back: DRPC over yamux over any ordered byte pipe.
//!
//! Knows nothing of agents, HTTP or SQL. The protocol cores are sans-IO: bytes and the current time go in, events and
//! bytes come out.

mod error;
pub mod pipe;
mod quote;
mod registry;
mod stream;

pub use error::Status;
pub use quote::quote;
pub use registry::{HandlerFuture, Interceptor, Method, Outcome, Registry, Shape};
pub use stream::{AnyMessage, CallStream, Inbound, Outbound, Reply};
