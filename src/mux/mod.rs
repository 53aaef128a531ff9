//! Bytes to dispatched calls and back: DRPC over yamux over any ordered byte pipe.
//!
//! Knows nothing of agents, HTTP or SQL. The protocol cores are sans-IO: bytes and the current time go in, events and
//! bytes come out.

mod call;
mod client;
mod error;
mod frame;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
pub mod inspect;
mod layout;
mod metadata;
mod packet;
pub mod pipe;
mod quote;
mod registry;
pub mod serve;
mod session;
mod stream;
#[cfg(test)]
pub(crate) mod testing;
mod varint;
mod wakeup;

pub use client::{Client, ClientStream};
pub use error::{ProtocolError, Status, TransportError};
pub use frame::{Kind, PacketId};
pub use layout::{Bound, Field, Layout};
pub use metadata::Metadata;
pub use packet::MAX_PACKET;
pub use quote::{is_print, quote};
pub use registry::{HandlerFuture, Interceptor, Method, Outcome, Registry, Shape};
pub use serve::{Buffers, CloseCause, Control, Paces, ServeError, SessionEnd, serve};
pub(crate) use session::MAX_STREAMS;
pub use stream::{AnyMessage, CallStream, Inbound, Outbound, Reply};
