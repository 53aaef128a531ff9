//! The numbered wire cases, told by a scripted peer over a real socket: to drpcd's stack, and to the Go libraries of the
//! original, so that the suite itself is checked. Both serve the same script (`tests/support/script.rs`).
//!
//! A case that drpcd alone passes stands in `docs/DEVIATIONS.md` by its number; see [`deviations`].

#![allow(clippy::unwrap_used, reason = "tests")]
#![allow(clippy::disallowed_methods, reason = "tests")]

#[path = "../support/mod.rs"]
mod support;

mod clients;
mod deviations;
mod ends;
mod errors;
mod framing;
mod limits;
mod metadata;
mod mux;
mod state;
mod websocket;

use support::peer::Peer;
use support::script;

/// Runs a case against drpcd's stack.
fn drpcd(case: fn(&mut Peer)) {
    case(&mut Peer::dial(&script::serve_ours()));
}

/// Runs a case against the Go libraries, if there is Go.
fn go(case: fn(&mut Peer)) {
    if let Some(url) = script::serve_go() {
        case(&mut Peer::dial(url));
    }
}

/// Cases, each with the servers that it holds of.
macro_rules! cases {
    ($(fn $name:ident($peer:ident) on $($server:ident)|+ $body:block)*) => {
        $(mod $name {
            #[allow(unused_imports, reason = "not every case needs all")]
            use super::*;

            fn case($peer: &mut $crate::support::peer::Peer) $body

            $(#[test]
            fn $server() {
                $crate::$server(case);
            })+
        })*
    };
}
use cases;
