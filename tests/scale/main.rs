//! Many agents on a Postgres database: what they cost it, and what becomes of them when one of several servers dies or all restart.
//!
//! One program, as most of it is waiting, of which plain runs have two minutes.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a failed test shows where"
)]
#![allow(clippy::disallowed_methods, reason = "real servers take real time")]

mod economy;
mod replicas;
#[path = "../support/mod.rs"]
mod support;

use std::fmt::Write as _;

use uuid::Uuid;

/// Agents, each alone in a workspace, and the file with their tokens that the Go programs read.
fn crowd(agents: usize, more: &str) -> (String, String) {
    let (mut seed, mut tokens) = (String::new(), String::new());
    for number in 0..agents {
        let token = Uuid::new_v4();
        writeln!(tokens, "{token}").unwrap();
        write!(
            seed,
            "---\nowner: {{ username: ada, email: ada@example.com }}\nworkspace: {{ name: w{number} }}\n\
             agents:\n  - name: main\n    token: {token}\n{more}"
        )
        .unwrap();
    }
    (seed.trim_start_matches("---\n").to_owned(), tokens)
}
