//! Errors in both directions.

use crate::cases;
use crate::support::peer::{bytes, close_send, error, invoke, text};
use crate::support::raw::{drpc, unhex};

cases! {
    fn wire_053_an_error_without_code(peer) on drpcd | go {
        peer.stream();
        peer.packets(&[invoke(1, 1, "/t/Fail"), text(1, 2, "0 boom"), close_send(1, 3)]);
        peer.expect(&[unhex("07 01 01 0c 0000000000000000 626f6f6d")]);
        peer.finish();
    }

    fn wire_054_an_error_with_a_code(peer) on drpcd | go {
        peer.stream();
        peer.packets(&[invoke(1, 1, "/t/Fail"), text(1, 2, "42 coded"), close_send(1, 3)]);
        peer.expect(&[unhex("07 01 01 0d 000000000000002a 636f646564")]);
        peer.finish();
    }

    fn wire_055_an_unserved_method_has_code_12(peer) on drpcd | go {
        peer.stream();
        peer.packets(&[invoke(1, 1, "/t/Unimplemented"), text(1, 2, ""), close_send(1, 3)]);
        peer.expect(&[error(1, 1, 12, "Unimplemented")]);
        peer.finish();
    }

    fn wire_056_an_unknown_rpc_is_answered_on_its_invoke(peer) on drpcd | go {
        peer.stream();
        peer.packets(&[invoke(1, 1, "/no.Such/Rpc")]);
        peer.expect(&[error(1, 1, 0, "protocol error: unknown rpc: \"/no.Such/Rpc\"")]);
        peer.finish();
    }

    fn wire_057_an_unknown_rpc_is_named_as_it_was_sent(peer) on drpcd | go {
        for name in ["", "t/Echo", "/t/Echo/", "/T/echo"] {
            peer.stream();
            peer.packets(&[invoke(1, 1, name)]);
            peer.expect(&[error(1, 1, 0, &format!("protocol error: unknown rpc: \"{name}\""))]);
            peer.finish();
        }
    }

    fn wire_058_names_are_quoted_as_go_quotes_them(peer) on drpcd | go {
        peer.stream();
        peer.packets(&[drpc(1, true, 1, 1, b"/a\"b\\\x00\xff\n\xc3\xa9\xe2\x80\xa8")]);
        let quoted = "protocol error: unknown rpc: \"/a\\\"b\\\\\\x00\\xff\\n\u{e9}\\u2028\"";
        peer.expect(&[error(1, 1, 0, quoted)]);
        peer.finish();
    }

    fn wire_059_a_request_that_cannot_be_read_spoils_nothing_after_it(peer) on drpcd | go {
        peer.stream();
        peer.packets(&[invoke(1, 1, "/t/Echo"), bytes(1, 2, b"\x0a\x7fshort"), close_send(1, 3)]);
        // The codec's text differs: an error, of code 0, and nothing else.
        peer.until("error", |peer| {
            let id = peer.current;
            peer.incoming(id).bytes.len() > 12
        });
        let id = peer.current;
        let reply = std::mem::take(&mut peer.incoming(id).bytes);
        assert_eq!(&reply[..3], [0x07, 1, 1]);
        assert_eq!(&reply[4..12], [0; 8]);
        assert_eq!(reply.len(), 4 + usize::from(reply[3]));
        peer.packets(&[invoke(2, 1, "/t/Echo"), text(2, 2, "hi"), close_send(2, 3)]);
        peer.expect(&[text(2, 1, "hi"), close_send(2, 2)]);
        peer.finish();
    }

    fn wire_060_a_panic_costs_its_own_call_alone(peer) on drpcd | go {
        let sleeper = peer.stream();
        peer.packets(&[invoke(1, 1, "/t/Chat"), text(1, 2, "a")]);
        peer.expect(&[text(1, 1, "a")]);
        peer.stream();
        peer.packets(&[invoke(1, 1, "/t/Panic"), text(1, 2, ""), close_send(1, 3)]);
        peer.expect(&[error(1, 1, 0, "internal error: panic serving dRPC request")]);
        peer.finish();
        peer.current = sleeper;
        peer.packets(&[text(1, 3, "b"), close_send(1, 4)]);
        peer.expect(&[text(1, 2, "b"), close_send(1, 3)]);
        peer.finish();
    }

    fn wire_061_the_peers_error_reaches_the_handler_and_is_not_answered(peer) on drpcd | go {
        peer.stream();
        peer.packets(&[invoke(1, 1, "/t/Chat"), text(1, 2, "a")]);
        peer.expect(&[text(1, 1, "a")]);
        peer.await_note("Chat sent a");
        peer.packets(&[error(1, 3, 7, "enough")]);
        peer.await_note("Chat recv: 7 enough");
        peer.expect_nothing();
        peer.finish();
    }

    fn wire_062_a_peers_error_that_is_too_short(peer) on drpcd | go {
        peer.stream();
        peer.packets(&[invoke(1, 1, "/t/Chat"), text(1, 2, "a")]);
        peer.expect(&[text(1, 1, "a")]);
        peer.await_note("Chat sent a");
        peer.packets(&[drpc(3, true, 1, 3, b"abc")]);
        peer.await_note("Chat recv: 0 abc (drpcwire note: invalid error data)");
        peer.finish();
    }

    fn wire_063_a_long_error_is_one_frame(peer) on drpcd | go {
        peer.stream();
        peer.packets(&[invoke(1, 1, "/t/FailLong"), text(1, 2, "100000"), close_send(1, 3)]);
        peer.expect(&[error(1, 1, 0, &"e".repeat(100_000))]);
        peer.finish();
    }

    // Go clients do the same in `tests/interop.rs`.
    fn wire_064_ten_thousand_errors_keep_their_codes(peer) on drpcd | go {
        for _ in 0..50 {
            let streams: Vec<_> = (0..200).map(|_| peer.stream()).collect();
            for id in &streams {
                peer.current = *id;
                let request = format!("{id} error of {id}");
                peer.packets(&[invoke(1, 1, "/t/Fail"), text(1, 2, &request), close_send(1, 3)]);
            }
            for id in streams {
                peer.current = id;
                peer.expect(&[error(1, 1, id.into(), &format!("error of {id}"))]);
                peer.finish();
            }
        }
    }
}
