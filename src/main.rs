//! The `drpcd` program.

use std::process::ExitCode;

fn main() -> ExitCode {
    drpcd::cli::run(std::env::args_os())
}
