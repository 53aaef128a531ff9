//! The state machine of a call.

use crate::cases;
use crate::support::peer::{bytes, close, close_send, control, error, invoke, metadata, text};

cases! {
    fn wire_028_a_unary_reply_waits_for_no_close_send(peer) on drpcd | go {
        peer.stream();
        peer.packets(&[invoke(1, 1, "/t/Echo"), text(1, 2, "hi")]);
        peer.expect(&[text(1, 1, "hi"), close_send(1, 2)]);
        peer.finish();
    }

    // Go never reads on.
    fn wire_029_a_second_message_of_a_unary_call_is_discarded(peer) on drpcd {
        peer.stream();
        peer.packets(&[invoke(1, 1, "/t/Echo"), text(1, 2, "a"), text(1, 3, "b")]);
        peer.expect(&[text(1, 1, "a"), close_send(1, 2)]);
        peer.expect_nothing();
        peer.finish();
    }

    fn wire_030_a_unary_call_without_a_message(peer) on drpcd | go {
        peer.stream();
        peer.packets(&[invoke(1, 1, "/t/Echo"), close_send(1, 2)]);
        peer.expect(&[error(1, 1, 0, "EOF")]);
        peer.finish();
    }

    fn wire_031_a_method_that_replies_nothing(peer) on drpcd | go {
        peer.stream();
        peer.packets(&[invoke(1, 1, "/t/Nothing"), text(1, 2, ""), close_send(1, 3)]);
        peer.expect(&[close_send(1, 1)]);
        peer.finish();
    }

    fn wire_032_an_empty_reply(peer) on drpcd | go {
        peer.stream();
        peer.packets(&[invoke(1, 1, "/t/Echo"), bytes(1, 2, b""), close_send(1, 3)]);
        peer.expect(&[bytes(1, 1, b""), close_send(1, 2)]);
        peer.finish();
    }

    fn wire_033_a_close_after_a_finished_call(peer) on drpcd | go {
        peer.stream();
        peer.packets(&[invoke(1, 1, "/t/Echo"), text(1, 2, "hi"), close_send(1, 3)]);
        peer.expect(&[text(1, 1, "hi"), close_send(1, 2)]);
        peer.packets(&[close(1, 4)]);
        peer.expect_nothing();
        peer.finish();
        assert_eq!(peer.logged(), [""; 0]);
    }

    fn wire_034_one_call_after_another_on_a_transport(peer) on drpcd | go {
        peer.stream();
        for sid in 1..=3 {
            peer.packets(&[invoke(sid, 1, "/t/Echo"), text(sid, 2, "hi"), close_send(sid, 3)]);
            peer.expect(&[text(sid, 1, "hi"), close_send(sid, 2)]);
        }
        peer.finish();
    }

    fn wire_035_both_directions_then_an_end_from_both(peer) on drpcd | go {
        peer.stream();
        peer.packets(&[invoke(1, 1, "/t/Chat"), text(1, 2, "a")]);
        peer.expect(&[text(1, 1, "a")]);
        peer.packets(&[text(1, 3, "b")]);
        peer.expect(&[text(1, 2, "b")]);
        peer.packets(&[close_send(1, 4)]);
        peer.expect(&[close_send(1, 3)]);
        peer.await_note("Chat eof");
        peer.finish();
    }

    fn wire_036_the_peers_close_cancels_without_an_answer(peer) on drpcd | go {
        peer.stream();
        peer.packets(&[invoke(1, 1, "/t/Chat"), text(1, 2, "a")]);
        peer.expect(&[text(1, 1, "a")]);
        peer.await_note("Chat sent a");
        peer.packets(&[close(1, 3)]);
        peer.await_note("Chat eof");
        peer.expect_nothing();
        peer.finish();
        peer.stream();
        peer.packets(&[invoke(1, 1, "/t/Chat"), text(1, 2, "sleep")]);
        peer.await_note("Chat sleeps");
        peer.packets(&[close(1, 3)]);
        peer.await_note("Chat cancelled");
        peer.expect_nothing();
        peer.finish();
    }

    fn wire_037_after_the_handlers_close_nothing_goes_either_way(peer) on drpcd | go {
        peer.stream();
        peer.packets(&[invoke(1, 1, "/t/Chat"), text(1, 2, "close")]);
        peer.expect(&[close(1, 1)]);
        peer.packets(&[text(1, 3, "late")]);
        peer.expect_nothing();
        peer.finish();
        let notes = peer.notes();
        assert!(!notes.iter().any(|note| note == "Chat got late"), "{notes:?}");
    }

    fn wire_038_nothing_is_sent_after_close_send_and_an_error_is(peer) on drpcd | go {
        peer.stream();
        peer.packets(&[invoke(1, 1, "/t/Chat"), text(1, 2, "half-close")]);
        peer.expect(&[close_send(1, 1)]);
        peer.packets(&[text(1, 3, "a")]);
        // The refused message takes an id of its own.
        peer.expect(&[error(1, 3, 0, "drpc: send closed")]);
        peer.await_note("Chat send: drpc: send closed");
        peer.finish();
    }

    fn wire_039_a_call_that_both_have_closed_is_over(peer) on drpcd | go {
        peer.stream();
        peer.packets(&[invoke(1, 1, "/t/Chat"), text(1, 2, "half-close")]);
        peer.expect(&[close_send(1, 1)]);
        peer.packets(&[text(1, 3, "sleep")]);
        peer.await_note("Chat sleeps");
        peer.packets(&[close_send(1, 4)]);
        peer.await_note("Chat cancelled");
        peer.expect_nothing();
        peer.finish();
    }

    // Go blocks on the first message that nobody reads.
    fn wire_040_an_early_end_leaves_nobody_blocked(peer) on drpcd {
        peer.stream();
        peer.packets(&[invoke(1, 1, "/t/Leave")]);
        peer.expect(&[close_send(1, 1)]);
        let large = "x".repeat(100_000);
        for id in 2..12 {
            peer.packets(&[text(1, id, &large)]);
        }
        peer.packets(&[close_send(1, 12)]);
        peer.finish();
        peer.stream();
        peer.packets(&[invoke(1, 1, "/t/Leave")]);
        peer.expect(&[close_send(1, 1)]);
        peer.packets(&[text(1, 2, "late")]);
        peer.finish();
    }

    fn wire_041_many_messages_and_one_reply(peer) on drpcd | go {
        peer.stream();
        peer.packets(&[invoke(1, 1, "/t/Join"), text(1, 2, "a"), text(1, 3, "b"), close_send(1, 4)]);
        peer.expect(&[text(1, 1, "ab"), close_send(1, 2)]);
        peer.finish();
    }

    fn wire_042_no_message_and_still_a_reply(peer) on drpcd | go {
        peer.stream();
        peer.packets(&[invoke(1, 1, "/t/Join"), close_send(1, 2)]);
        peer.expect(&[text(1, 1, ""), close_send(1, 2)]);
        peer.finish();
    }

    fn wire_043_many_replies_then_the_end(peer) on drpcd | go {
        peer.stream();
        peer.packets(&[invoke(1, 1, "/t/Count"), text(1, 2, "3"), close_send(1, 3)]);
        peer.expect(&[text(1, 1, "0"), text(1, 2, "1"), text(1, 3, "2"), close_send(1, 4)]);
        peer.finish();
    }

    fn wire_044_an_error_after_replies(peer) on drpcd | go {
        peer.stream();
        peer.packets(&[invoke(1, 1, "/t/CountFail"), text(1, 2, "2 9 enough"), close_send(1, 3)]);
        peer.expect(&[text(1, 1, "0"), text(1, 2, "1"), error(1, 3, 9, "enough")]);
        peer.expect_nothing();
        peer.finish();
    }

    fn wire_045_a_close_after_replies(peer) on drpcd | go {
        peer.stream();
        peer.packets(&[invoke(1, 1, "/t/CountClose"), text(1, 2, "2"), close_send(1, 3)]);
        peer.expect(&[text(1, 1, "0"), text(1, 2, "1"), close(1, 3)]);
        peer.expect_nothing();
        peer.finish();
    }

    fn wire_046_an_invoke_of_the_running_stream(peer) on drpcd | go {
        peer.stream();
        peer.packets(&[invoke(1, 1, "/t/Sleep"), text(1, 2, "100000")]);
        peer.await_note("Sleep began");
        peer.packets(&[invoke(1, 3, "/t/Echo")]);
        peer.expect_fin();
        peer.await_note("Sleep cancelled");
    }

    fn wire_047_metadata_of_the_running_stream(peer) on drpcd | go {
        peer.stream();
        peer.packets(&[invoke(1, 1, "/t/Chat"), text(1, 2, "a")]);
        peer.expect(&[text(1, 1, "a")]);
        peer.packets(&[control(metadata(1, 3, b"")), text(1, 4, "b")]);
        peer.expect(&[text(1, 2, "b")]);
        peer.packets(&[metadata(1, 5, b"")]);
        peer.expect_fin();
    }

    fn wire_048_a_higher_stream_cancels_the_one_that_runs(peer) on drpcd | go {
        peer.stream();
        peer.packets(&[invoke(1, 1, "/t/Sleep"), text(1, 2, "100000")]);
        peer.await_note("Sleep began");
        peer.packets(&[invoke(2, 1, "/t/Echo"), text(2, 2, "hi"), close_send(2, 3)]);
        peer.expect(&[text(2, 1, "hi"), close_send(2, 2)]);
        peer.await_note("Sleep cancelled");
        peer.finish();
    }

    // Go cancels and then reads nothing more.
    fn wire_049_a_message_of_a_higher_stream_without_invoke(peer) on drpcd {
        peer.stream();
        peer.packets(&[invoke(1, 1, "/t/Sleep"), text(1, 2, "100000")]);
        peer.await_note("Sleep began");
        peer.packets(&[text(2, 1, "hi")]);
        peer.await_note("Sleep cancelled");
        peer.expect_fin();
    }

    fn wire_050_a_message_after_close_send(peer) on drpcd | go {
        peer.stream();
        peer.packets(&[invoke(1, 1, "/t/JoinLate"), text(1, 2, "a"), close_send(1, 3), text(1, 4, "b")]);
        peer.expect(&[text(1, 1, "a"), close_send(1, 2)]);
        peer.finish();
    }

    fn wire_051_a_second_close_send(peer) on drpcd | go {
        peer.stream();
        peer.packets(&[invoke(1, 1, "/t/JoinLate"), text(1, 2, "a"), close_send(1, 3), close_send(1, 4)]);
        peer.expect(&[text(1, 1, "a"), close_send(1, 2)]);
        peer.finish();
    }

    fn wire_052_messages_before_close_send_reach_a_slow_handler(peer) on drpcd | go {
        peer.stream();
        let mut packets = vec![invoke(1, 1, "/t/JoinLate")];
        packets.extend((2..12).map(|id| text(1, id, "a")));
        packets.push(close_send(1, 12));
        peer.packets(&packets);
        peer.expect(&[text(1, 1, "aaaaaaaaaa"), close_send(1, 2)]);
        peer.finish();
    }
}
