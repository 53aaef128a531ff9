//! How calls, streams and sessions end.

use crate::cases;
use crate::support::peer::{CREDIT, Peer, cancel, close, close_send, control, error, invoke, metadata, text};
use crate::support::raw::{FIN, PING, SYN, WINDOW, frame, message};

/// Streams that are opened before their acknowledgements are waited for: Go accepts no more than 256 unseen ones.
const BATCH: usize = 100;

/// One way to end a session.
type End = fn(&mut Peer);

cases! {
    fn wire_072_an_end_while_a_unary_handler_runs_cancels_it(peer) on drpcd | go {
        peer.stream();
        peer.packets(&[invoke(1, 1, "/t/Sleep"), text(1, 2, "100000"), close_send(1, 3)]);
        peer.await_note("Sleep began");
        peer.finish();
        peer.await_note("Sleep cancelled");
    }

    fn wire_073_an_end_while_a_handler_receives_sends_or_sleeps_cancels_it(peer) on drpcd | go {
        peer.stream();
        peer.packets(&[invoke(1, 1, "/t/Chat"), text(1, 2, "a")]);
        peer.expect(&[text(1, 1, "a")]);
        peer.await_note("Chat sent a");
        peer.finish();
        peer.await_note("Chat recv: 0 context canceled");

        peer.stream();
        peer.packets(&[invoke(1, 1, "/t/Chat"), text(1, 2, "sleep")]);
        peer.await_note("Chat sleeps");
        peer.finish();
        peer.await_note("Chat cancelled");

        // Nobody reads what it sends.
        peer.credits = false;
        let id = peer.stream();
        peer.packets(&[invoke(1, 1, "/t/Chat"), text(1, 2, "count 1000 10000")]);
        peer.until("full window", |peer| peer.incoming(id).total == CREDIT);
        peer.fin();
        peer.credits = true;
        // What a write is told that was under way differs.
        peer.await_note_like("Chat send: ");
    }

    fn wire_074_a_cancel_ends_the_call_and_not_the_transport(peer) on drpcd | go {
        for (packet, times) in [(cancel(1, 3), 1), (control(cancel(1, 3)), 2)] {
            peer.stream();
            peer.packets(&[invoke(1, 1, "/t/Chat"), text(1, 2, "a")]);
            peer.expect(&[text(1, 1, "a")]);
            // Else the end could meet what is still being sent, although it has arrived.
            peer.await_notes("Chat sent a", times);
            peer.packets(&[packet]);
            peer.await_notes("Chat recv: 0 context canceled", times);
            peer.expect_nothing();
            peer.packets(&[invoke(2, 1, "/t/Echo"), text(2, 2, "hi"), close_send(2, 3)]);
            peer.expect(&[text(2, 1, "hi"), close_send(2, 2)]);
            peer.finish();
        }
    }

    fn wire_075_a_cancel_behind_an_unread_message_is_seen_when_that_is_read(peer) on drpcd | go {
        peer.stream();
        peer.packets(&[invoke(1, 1, "/t/JoinLate"), text(1, 2, "a"), control(cancel(1, 3))]);
        peer.await_note("Join recv: 0 context canceled");
        peer.expect_nothing();
        peer.finish();
        peer.stream();
        peer.packets(&[invoke(1, 1, "/t/JoinLate"), text(1, 2, "a")]);
        peer.finish();
        peer.await_notes("Join recv: 0 context canceled", 2);
    }

    fn wire_076_a_shutdown_ends_calls_without_frames(peer) on drpcd | go {
        let id = peer.stream();
        peer.packets(&[invoke(1, 1, "/t/Chat"), text(1, 2, "a")]);
        peer.expect(&[text(1, 1, "a")]);
        let last = peer.stream();
        peer.packets(&[invoke(1, 1, "/t/Shutdown"), text(1, 2, ""), close_send(1, 3)]);
        peer.until("end", |peer| peer.ended);
        assert_eq!((peer.incoming(id).bytes.len(), peer.incoming(last).bytes.len()), (0, 0));
    }

    fn wire_077_a_lost_session_takes_its_own_handlers_and_no_others(peer) on drpcd | go {
        peer.stream();
        peer.packets(&[invoke(1, 1, "/t/Chat"), text(1, 2, "a")]);
        peer.expect(&[text(1, 1, "a")]);
        let chat = peer.current;
        let name = peer.unique("lost");
        let mut lost = peer.another();
        lost.ask("/t/Name", &name);
        lost.stream();
        lost.packets(&[invoke(1, 1, "/t/Silent"), text(1, 2, "")]);
        lost.await_note("Silent began");
        drop(lost);
        peer.await_note_of(&name, "Silent cancelled");
        peer.current = chat;
        peer.packets(&[text(1, 3, "b")]);
        peer.expect(&[text(1, 2, "b")]);
    }

    fn wire_078_a_stream_that_opens_and_closes_is_nothing(peer) on drpcd | go {
        peer.open();
        peer.finish();
        let id = peer.stream();
        peer.raw(&frame(WINDOW, SYN | FIN, id, 0, &[]));
        peer.expect_fin();
        assert_eq!(peer.notes(), [""; 0]);
    }

    // Go clients do the same in `tests/interop.rs`.
    fn wire_079_twenty_thousand_calls_in_turn_and_side_by_side(peer) on drpcd | go {
        for round in 0..20_000_u32 {
            let request = round.to_string();
            peer.stream();
            peer.packets(&[invoke(1, 1, "/t/Echo"), text(1, 2, &request), close_send(1, 3)]);
            peer.expect(&[text(1, 1, &request), close_send(1, 2)]);
            // The end of the one before the last: its answer came with a later one's, at the latest.
            peer.fin();
        }
        for round in 0..1_250_u32 {
            let streams: Vec<_> = (0..16).map(|_| peer.stream()).collect();
            for id in &streams {
                peer.current = *id;
                peer.packets(&[invoke(1, 1, "/t/Echo"), text(1, 2, &(round + id).to_string()), close_send(1, 3)]);
            }
            for id in streams {
                peer.current = id;
                peer.expect(&[text(1, 1, &(round + id).to_string()), close_send(1, 2)]);
                peer.finish();
            }
        }
    }

    fn wire_080_a_thousand_cancelled_streams_leave_nothing_behind(peer) on drpcd | go {
        for _ in 0..10 {
            let streams: Vec<_> = (0..BATCH).map(|_| peer.stream()).collect();
            for id in &streams {
                peer.current = *id;
                peer.packets(&[invoke(1, 1, "/t/Silent"), text(1, 2, ""), close_send(1, 3)]);
            }
            for id in &streams {
                peer.until("acknowledgement", |peer| peer.incoming(*id).acks == 1);
            }
            peer.await_notes("Silent began", streams.len());
            for id in streams {
                peer.current = id;
                peer.finish();
            }
            peer.await_notes("Silent cancelled", BATCH);
            peer.forget();
        }
    }

    fn wire_091_a_stream_that_ended_well_is_not_reset(peer) on drpcd | go {
        let streams: Vec<_> = (0..200)
            .map(|_| {
                let id = peer.stream();
                peer.packets(&[invoke(1, 1, "/t/Count"), text(1, 2, "1"), close_send(1, 3)]);
                peer.expect(&[text(1, 1, "0"), close_send(1, 2)]);
                peer.finish();
                id
            })
            .collect();
        peer.ask("/t/Echo", "");
        for id in streams {
            assert_eq!((peer.incoming(id).fins, peer.incoming(id).resets), (1, 0));
        }
    }

    fn wire_090_the_servers_end_comes_after_the_clients_and_once(peer) on drpcd | go {
        for (path, request, reply) in [
            ("/t/Echo", "hi", [text(1, 1, "hi"), close_send(1, 2)]),
            ("/t/Count", "1", [text(1, 1, "0"), close_send(1, 2)]),
            ("/t/Fail", "7 no", [error(1, 1, 7, "no"), Vec::new()]),
        ] {
            peer.stream();
            peer.packets(&[invoke(1, 1, path), text(1, 2, request), close_send(1, 3)]);
            peer.expect(&reply);
            peer.expect_nothing();
            peer.finish();
            peer.ask("/t/Echo", "");
            let id = peer.current;
            assert_eq!((peer.incoming(id).fins, peer.incoming(id).resets), (1, 0));
        }
    }

    fn wire_092_a_client_that_writes_on_after_an_error_reads_that_error(peer) on drpcd | go {
        let large = "x".repeat(100_000);
        for _ in 0..20 {
            peer.stream();
            peer.packets(&[invoke(1, 1, "/t/Chat"), text(1, 2, "fail 9 enough")]);
            for id in 3..13 {
                peer.packets(&[text(1, id, &large)]);
            }
            peer.expect(&[error(1, 1, 9, "enough")]);
            peer.finish();
        }
    }

    fn wire_105_an_orderly_close_is_an_end_and_a_cut_is_logged(peer) on drpcd | go {
        let ends: [(&str, End, &str); 5] = [
            ("1000", |peer| peer.websocket(&message(0x88, &1000_u16.to_be_bytes())), "session ended"),
            ("1001", |peer| peer.websocket(&message(0x88, &1001_u16.to_be_bytes())), "session ended"),
            ("1011", |peer| peer.websocket(&message(0x88, &1011_u16.to_be_bytes())), "session failed"),
            // Five bytes of a frame were promised.
            ("cut", |peer| peer.websocket(&message(0x82, &[0; 5])[..7]), "session failed"),
            // Closed with a pong unread, TCP resets a connection.
            ("reset", |peer| peer.leave_unread(&frame(PING, SYN, 0, 1, &[])), "session failed"),
        ];
        for (what, end, noted) in ends {
            let name = peer.unique(what);
            let mut other = peer.another();
            other.ask("/t/Name", &name);
            end(&mut other);
            drop(other);
            peer.await_note_of(&name, noted);
        }
    }

    fn wire_109_what_goes_well_is_not_logged_and_what_breaks_a_rule_is(peer) on drpcd | go {
        for round in 0..1_000 {
            peer.stream();
            peer.packets(&[invoke(1, 1, "/t/Echo"), text(1, 2, "hi"), close_send(1, 3)]);
            peer.expect(&[text(1, 1, "hi"), close_send(1, 2)]);
            if round % 2 == 0 {
                peer.packets(&[close(1, 4)]);
            }
            peer.finish();
        }
        peer.stream();
        peer.send(b"\x03\x01");
        peer.finish();
        assert_eq!(peer.logged(), [""; 0]);

        peer.stream();
        peer.packets(&[invoke(1, 0, "/t/Echo")]);
        peer.expect_fin();
        let monotonicity = "id monotonicity violation (fr:<id s:1 m:0> r:<id s:1 m:1>)";
        peer.await_note(&format!("log: manager closed: protocol error: {monotonicity}"));

        peer.stream();
        peer.packets(&[metadata(1, 1, b"garbage")]);
        peer.expect_fin();
        peer.await_note("log: invalid data");

        peer.stream();
        peer.packets(&[invoke(1, 1, "/t/Chat"), text(1, 2, "a")]);
        peer.expect(&[text(1, 1, "a")]);
        peer.reset();
        peer.await_note("log: manager closed: connection reset");
        assert_eq!(peer.logged().len(), 3);
    }
}
