//! What the cases say of Go clients, seen by one: `drpc-interop script-client`, whose `cases.go` has the sessions.

use crate::support::{SeededAgent, go};

/// Has the session of a name with the server at `url`; the Go client says whether what it was told is right.
fn sees(session: &str, url: &str) {
    let server = SeededAgent {
        url: url.to_owned(),
        name: session.to_owned(),
        token: "unused".to_owned(),
    };
    if let Some(client) = go("script-client", &server, &["--session", session]) {
        client.result();
    }
}

/// Cases, each with the servers that it holds of.
macro_rules! cases {
    ($(fn $name:ident($url:ident) on $($server:ident)|+ $body:block)*) => {
        $(mod $name {
            use super::*;

            fn case($url: &str) $body

            $(#[test]
            fn $server() {
                $crate::$server(case);
            })+
        })*
    };
}

cases! {
    fn wire_064_ten_thousand_errors_at_once_keep_their_codes(url) on drpcd | go {
        sees("errors-at-once", url);
    }

    fn wire_076_calls_that_a_shutdown_ends_are_told_so(url) on drpcd | go {
        sees("shutdown", url);
    }

    fn wire_080_a_thousand_cancelled_streams_are_gone_on_both_sides(url) on drpcd | go {
        sees("cancelled-streams", url);
    }

    fn wire_092_who_writes_on_after_an_error_is_told_the_end_and_reads_it(url) on drpcd | go {
        sees("error-while-writing", url);
    }
}
