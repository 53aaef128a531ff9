//! What the cases say of Go clients, seen by one: `drpc-interop script-client`, whose `cases.go` has the sessions.

use crate::cases;
use crate::support::peer::Peer;
use crate::support::{SeededAgent, go};

/// Has the session of a name with the peer's server; the Go client says whether what it was told is right.
fn a_client_sees(peer: &Peer, session: &str) {
    let server = SeededAgent {
        name: session.to_owned(),
        url: peer.url().to_owned(),
        token: "unused".to_owned(),
    };
    if let Some(client) = go("script-client", &server, &["--session", session]) {
        client.result();
    }
}

cases! {
    fn wire_064_ten_thousand_errors_at_once_keep_their_codes(peer) on drpcd | go {
        a_client_sees(peer, "errors-at-once");
    }

    fn wire_076_calls_that_a_shutdown_ends_are_told_so(peer) on drpcd | go {
        a_client_sees(peer, "shutdown");
    }

    fn wire_080_a_thousand_cancelled_streams_are_gone_on_both_sides(peer) on drpcd | go {
        a_client_sees(peer, "cancelled-streams");
    }

    fn wire_092_who_writes_on_after_an_error_is_told_the_end_and_reads_it(peer) on drpcd | go {
        a_client_sees(peer, "error-while-writing");
    }
}
