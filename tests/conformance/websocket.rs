//! The WebSocket below the session.

use crate::cases;
use crate::support::peer::{Control, close_send, invoke, text};
use crate::support::raw::{DATA, SYN, WINDOW, frame, message};

cases! {
    fn wire_101_a_text_message_closes_the_websocket(peer) on drpcd | go {
        peer.websocket(&message(0x81, b"hello"));
        peer.until("end", |peer| peer.ended);
        let reason = "unexpected frame type read (expected MessageBinary): MessageText";
        assert_eq!(peer.control, [Control::Close(1003, reason.into())]);
    }

    fn wire_102_empty_and_fragmented_messages_change_nothing(peer) on drpcd | go {
        peer.websocket(&message(0x82, b""));
        let id = peer.stream();
        let call = [invoke(1, 1, "/t/Echo"), text(1, 2, "hi"), close_send(1, 3)].concat();
        let bytes = frame(DATA, SYN, id, 0, &call);
        peer.websocket(&message(0x02, &bytes[..5]));
        peer.websocket(&message(0x00, b""));
        peer.websocket(&message(0x00, &bytes[5..20]));
        peer.websocket(&message(0x80, &bytes[20..]));
        peer.expect(&[text(1, 1, "hi"), close_send(1, 2)]);
        peer.finish();
    }

    fn wire_103_a_websocket_ping_is_answered_with_its_payload(peer) on drpcd | go {
        peer.websocket(&message(0x89, b"payload"));
        peer.until("pong", |peer| peer.control.contains(&Control::WebSocketPong(b"payload".into())));
    }

    fn wire_104_messages_out_are_binary_unmasked_and_at_most_32_kib(peer) on drpcd {
        peer.stream();
        peer.packets(&[invoke(1, 1, "/t/Count"), text(1, 2, "100 60000"), close_send(1, 3)]);
        let id = peer.current;
        peer.until("end of the call", |peer| peer.incoming(id).bytes.ends_with(&close_send(1, 101)));
        for (first, masked, length) in &peer.messages {
            assert_eq!((*first, *masked), (0x82, false));
            assert!(*length <= 32 * 1024, "{length}");
        }
        assert!(peer.messages.len() > 180);
    }

    fn wire_106_a_small_call_costs_few_messages(peer) on drpcd {
        peer.stream();
        peer.packets(&[invoke(1, 1, "/t/Echo"), text(1, 2, "hi"), close_send(1, 3)]);
        peer.expect(&[text(1, 1, "hi"), close_send(1, 2)]);
        peer.finish();
        assert_eq!(peer.messages.len(), 2);
        // Replies that are ready together share one.
        peer.messages.clear();
        let streams: Vec<_> = (0..8).map(|_| peer.stream()).collect();
        let call = [invoke(1, 1, "/t/Echo"), text(1, 2, "hi"), close_send(1, 3)].concat();
        let calls: Vec<u8> = streams.iter().flat_map(|id| frame(DATA, SYN, *id, 0, &call)).collect();
        peer.raw(&calls);
        for id in streams {
            peer.current = id;
            peer.expect(&[text(1, 1, "hi"), close_send(1, 2)]);
        }
        assert_eq!(peer.messages.len(), 1);
    }

    fn wire_107_frames_cut_over_messages_or_many_in_one(peer) on drpcd | go {
        let call = [invoke(1, 1, "/t/Echo"), text(1, 2, "hi"), close_send(1, 3)].concat();
        let (first, second) = (peer.stream(), peer.stream());
        let mut bytes = [frame(WINDOW, SYN, first, 0, &[]), frame(DATA, 0, first, 0, &call)].concat();
        bytes.extend([frame(WINDOW, SYN, second, 0, &[]), frame(DATA, 0, second, 0, &call)].concat());
        peer.raw(&bytes);
        for id in [first, second] {
            peer.current = id;
            peer.expect(&[text(1, 1, "hi"), close_send(1, 2)]);
            peer.finish();
        }
        let id = peer.stream();
        let bytes = [frame(WINDOW, SYN, id, 0, &[]), frame(DATA, 0, id, 0, &call)].concat();
        for byte in bytes {
            peer.raw(&[byte]);
        }
        peer.expect(&[text(1, 1, "hi"), close_send(1, 2)]);
        peer.finish();
    }
}
