//! The shell's rules as transcripts of a scripted peer over an in-memory pipe, with time that stands still until asked.

mod back_pressure;
mod calls;
mod ends;
mod kit;
mod memory;
mod pace;
mod streams;
