//! `drpcd version`.

use std::io::Write as _;

use clap::Args;

use super::Failure;

/// Version of the program, and of the API that it speaks by default.
pub(super) const LINE: &str = concat!("v2.31.0+drpcd.", env!("CARGO_PKG_VERSION"), " (API 2.8)");

/// Prints the version.
#[derive(Args, Debug)]
pub(super) struct VersionArgs {}

pub(super) fn run() -> Result<(), Failure> {
    Ok(writeln!(std::io::stdout(), "drpcd {LINE}")?)
}
