//! The `drpcd` program.

fn main() {}
