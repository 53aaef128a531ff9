//! Seed files: what `drpcd seed` puts into a store, read from YAML and checked as a whole before anything is written.
//!
//! Owns the file format: its keys, their types and bounds, and the texts of what is wrong with a file. Must never
//! touch a store, and never repeat a secret in an error.

mod document;
mod mapping;
mod read;
#[cfg(test)]
mod tests;
mod values;

pub use document::*;
pub use read::SeedError;
pub(crate) use read::{MAX_DOCUMENTS, MAX_FILE_BYTES};
pub use values::{Name, Seconds, Slug, Text, Ttl};
