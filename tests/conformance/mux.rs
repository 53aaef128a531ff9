//! yamux below the calls.

use crate::cases;
use crate::support::peer::{ACK, CREDIT, Control, close_send, invoke, text};
use crate::support::raw::{DATA, FIN, PING, RST, SYN, WINDOW, frame};

cases! {
    fn wire_087_a_stream_is_acknowledged_exactly_once(peer) on drpcd | go {
        for path in ["/t/Echo", "/t/Count", "/t/Join", "/t/Chat"] {
            let id = peer.stream();
            peer.packets(&[invoke(1, 1, path), text(1, 2, "1"), close_send(1, 3)]);
            peer.until("end of the call", |peer| peer.incoming(id).bytes.ends_with(&close_send(1, 2)));
            peer.incoming(id).bytes.clear();
            peer.finish();
            peer.ask("/t/Echo", "");
            assert_eq!(peer.incoming(id).acks, 1, "{path}");
        }
    }

    // Go sends it in a frame of its own.
    fn wire_087_a_quick_reply_carries_the_acknowledgement(peer) on drpcd {
        let id = peer.stream();
        peer.packets(&[invoke(1, 1, "/t/Echo"), text(1, 2, "hi"), close_send(1, 3)]);
        peer.expect(&[text(1, 1, "hi"), close_send(1, 2)]);
        assert_eq!((peer.incoming(id).frames, peer.incoming(id).acks), (1, 1));
        peer.finish();
    }

    fn wire_088_silent_streams_are_acknowledged(peer) on drpcd | go {
        let silent = peer.stream();
        peer.packets(&[invoke(1, 1, "/t/Silent"), text(1, 2, ""), close_send(1, 3)]);
        peer.until("acknowledgement", |peer| peer.incoming(silent).acks == 1);
        let sleeping = peer.stream();
        peer.packets(&[invoke(1, 1, "/t/Sleep"), text(1, 2, "100000"), close_send(1, 3)]);
        peer.until("acknowledgement", |peer| peer.incoming(sleeping).acks == 1);
        let unused = peer.open();
        peer.until("acknowledgement", |peer| peer.incoming(unused).acks == 1);
    }

    fn wire_093_a_ping_is_answered_at_once_and_during_a_download(peer) on drpcd | go {
        peer.raw(&frame(PING, SYN, 0, 0xdead_beef, &[]));
        peer.until("pong", |peer| peer.control.contains(&Control::Pong(0xdead_beef)));
        let id = peer.stream();
        peer.packets(&[invoke(1, 1, "/t/Count"), text(1, 2, "1000 10000"), close_send(1, 3)]);
        for value in 1..=10 {
            peer.raw(&frame(PING, SYN, 0, value, &[]));
            peer.until("pong", |peer| peer.control.contains(&Control::Pong(value)));
        }
        peer.until("end of the call", |peer| peer.incoming(id).bytes.ends_with(&close_send(1, 1_001)));
        peer.incoming(id).bytes.clear();
        peer.finish();
    }

    fn wire_094_a_pong_may_come_at_any_time(peer) on drpcd | go {
        for value in [0, 1, 77] {
            peer.raw(&frame(PING, ACK, 0, value, &[]));
        }
        assert_eq!(peer.ask("/t/Echo", "hi"), "hi");
    }

    fn wire_095_an_opening_frame_may_carry_data(peer) on drpcd | go {
        let id = peer.stream();
        let call = [invoke(1, 1, "/t/Echo"), text(1, 2, "hi"), close_send(1, 3)].concat();
        peer.raw(&frame(DATA, SYN, id, 0, &call));
        peer.expect(&[text(1, 1, "hi"), close_send(1, 2)]);
        peer.finish();
    }

    fn wire_096_frames_of_unknown_streams_are_ignored(peer) on drpcd | go {
        for id in [7_771, 7_772] {
            peer.raw(&frame(DATA, 0, id, 0, b"abc"));
            peer.raw(&frame(WINDOW, 0, id, 1_000, &[]));
            peer.raw(&frame(WINDOW, RST, id, 0, &[]));
            peer.raw(&frame(WINDOW, FIN, id, 0, &[]));
        }
        assert_eq!(peer.ask("/t/Echo", "hi"), "hi");
    }

    fn wire_097_a_stream_that_is_opened_twice_ends_the_session(peer) on drpcd | go {
        let id = peer.open();
        peer.until("acknowledgement", |peer| peer.incoming(id).acks == 1);
        peer.raw(&frame(WINDOW, SYN, id, 0, &[]));
        peer.until("end", |peer| peer.ended);
    }

    // Go may close before its own reason is sent.
    fn wire_097_a_stream_that_is_opened_twice_is_told_why(peer) on drpcd {
        let id = peer.open();
        peer.until("acknowledgement", |peer| peer.incoming(id).acks == 1);
        peer.raw(&frame(WINDOW, SYN, id, 0, &[]));
        peer.until("end", |peer| peer.ended);
        assert!(peer.control.contains(&Control::GoAway(1)), "{:?}", peer.control);
    }

    fn wire_098_a_wrong_version_or_type_ends_the_session(peer) on drpcd | go {
        let mut version = frame(WINDOW, SYN, 1, 0, &[]);
        version[0] = 1;
        for bad in [version, frame(4, 0, 1, 0, &[])] {
            let mut other = peer.another();
            other.raw(&bad);
            other.until("end", |peer| peer.ended);
        }
    }

    fn wire_099_data_beyond_the_window_ends_the_session(peer) on drpcd | go {
        let id = peer.open();
        // Behind its first packet nobody reads: the handler sleeps.
        peer.packets(&[invoke(1, 1, "/t/Chat"), text(1, 2, "sleep")]);
        peer.await_note("Chat sleeps");
        // Several messages, so that none is read ahead as a whole.
        let filler = frame(DATA, 0, id, 0, &text(1, 3, &"x".repeat(60_000)));
        for _ in 0..(2 * CREDIT / 60_000) {
            peer.raw(&filler);
        }
        let large = vec![0x78; 2 * CREDIT];
        peer.raw(&frame(DATA, 0, id, 0, &large));
        peer.until("end", |peer| peer.ended);
    }

    fn wire_100_flags_may_be_combined_and_unknown_ones_are_ignored(peer) on drpcd | go {
        let id = peer.stream();
        let call = [invoke(1, 1, "/t/Echo"), text(1, 2, "hi"), close_send(1, 3)].concat();
        peer.raw(&frame(WINDOW, SYN | 0x4000, id, 0, &[]));
        peer.raw(&frame(DATA, 0x8000, id, 0, &call));
        peer.expect(&[text(1, 1, "hi"), close_send(1, 2)]);
        peer.raw(&frame(WINDOW, ACK | FIN, id, 0, &[]));
        peer.expect_fin();
        // An end that comes with the last data.
        let id = peer.stream();
        peer.raw(&frame(WINDOW, SYN, id, 0, &[]));
        peer.raw(&frame(DATA, FIN, id, 0, b"\x03\x01"));
        peer.expect_fin();
    }
}
