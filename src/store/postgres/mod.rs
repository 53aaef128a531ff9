//! The engine for several servers on one database.

pub mod notify;
