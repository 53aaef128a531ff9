//! Seed files.

/// A parsed seed file.
#[derive(Debug)]
pub struct Seed {}
