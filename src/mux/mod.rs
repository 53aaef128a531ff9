//! Bytes to dispatched calls and back: DRPC over yamux over any ordered byte pipe.
//!
//! Knows nothing of agents, HTTP or SQL. The protocol cores are sans-IO: bytes and the current time go in, events and
//! bytes come out.
