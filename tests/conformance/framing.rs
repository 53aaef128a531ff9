//! Frames and packets.

use crate::cases;
use crate::support::peer::{bytes, cancel, close, close_send, control, error, invoke, part, text, value};
use crate::support::raw::{drpc, frame, unhex};

/// What a finished call of "hello" looks like.
fn hello() -> [Vec<u8>; 2] {
    [text(1, 1, "hello"), close_send(1, 2)]
}

fn echo() -> Vec<u8> {
    invoke(1, 1, "/t/Echo")
}

cases! {
    fn wire_001_a_unary_call_in_one_chunk(peer) on drpcd | go {
        peer.stream();
        peer.packets(&[echo(), text(1, 2, "hi"), close_send(1, 3)]);
        peer.expect(&[unhex("05 01 01 04 0a 02 6869"), unhex("0d 01 02 00")]);
        peer.finish();
    }

    fn wire_002_the_same_call_byte_by_byte(peer) on drpcd | go {
        let call = [echo(), text(1, 2, "hello"), close_send(1, 3)].concat();
        peer.open();
        for byte in &call {
            peer.send(&[*byte]);
        }
        peer.expect(&hello());
        peer.finish();
        // Header and payload of each frame in messages of their own, as Go sends them.
        let id = peer.open();
        let data = frame(0, 0, id, 0, &call);
        peer.raw(&data[..12]);
        peer.raw(&data[12..]);
        peer.expect(&hello());
        peer.finish();
    }

    fn wire_003_a_message_in_two_frames(peer) on drpcd | go {
        let message = value("hello");
        peer.stream();
        peer.packets(&[echo(), part(2, 1, 2, &message[..3]), bytes(1, 2, &message[3..]), close_send(1, 3)]);
        peer.expect(&hello());
        peer.finish();
    }

    fn wire_004_an_invoke_in_two_frames(peer) on drpcd | go {
        peer.stream();
        peer.packets(&[part(1, 1, 1, b"/t/E"), drpc(1, true, 1, 1, b"cho"), text(1, 2, "hello"), close_send(1, 3)]);
        peer.expect(&hello());
        peer.finish();
    }

    fn wire_005_empty_frames_around_data(peer) on drpcd | go {
        peer.stream();
        let message = value("hello");
        let frames = [part(2, 1, 2, b""), part(2, 1, 2, &message), part(2, 1, 2, b""), bytes(1, 2, b"")];
        peer.packets(&[echo(), frames.concat(), close_send(1, 3)]);
        peer.expect(&hello());
        peer.finish();
    }

    fn wire_006_a_newer_message_drops_an_unfinished_one(peer) on drpcd | go {
        peer.stream();
        peer.packets(&[echo(), part(2, 1, 2, b"old"), text(1, 3, "hello"), close_send(1, 4)]);
        peer.expect(&hello());
        peer.finish();
    }

    fn wire_007_an_unfinished_message_before_close_send(peer) on drpcd | go {
        peer.stream();
        peer.packets(&[invoke(1, 1, "/t/Chat"), part(2, 1, 2, b"old"), close_send(1, 3)]);
        peer.expect(&[close_send(1, 1)]);
        peer.await_note("Chat eof");
        peer.finish();
    }

    fn wire_008_one_packet_keeps_its_kind(peer) on drpcd | go {
        peer.stream();
        peer.packets(&[invoke(1, 1, "/t/Chat"), part(2, 1, 2, b"old"), close_send(1, 2)]);
        peer.expect_fin();
    }

    fn wire_009_an_id_that_was_used_does_not_come_again(peer) on drpcd | go {
        peer.stream();
        peer.packets(&[echo(), text(1, 1, "hello")]);
        peer.expect_fin();
    }

    fn wire_010_message_ids_never_go_down(peer) on drpcd | go {
        peer.stream();
        peer.packets(&[invoke(1, 1, "/t/Chat"), text(1, 6, "a")]);
        peer.expect(&[text(1, 1, "a")]);
        peer.packets(&[text(1, 4, "b")]);
        peer.expect_fin();
    }

    fn wire_011_a_dropped_packet_is_not_taken_up_again(peer) on drpcd | go {
        peer.stream();
        peer.packets(&[invoke(1, 1, "/t/Chat"), part(2, 1, 2, b"a"), part(2, 1, 3, b"b"), part(2, 1, 2, b"c")]);
        peer.expect_fin();
    }

    fn wire_012_there_is_no_stream_zero(peer) on drpcd | go {
        peer.stream();
        peer.packets(&[invoke(0, 1, "/t/Echo"), text(0, 2, "hello")]);
        peer.expect_fin();
    }

    fn wire_013_the_first_stream_has_no_message_zero(peer) on drpcd | go {
        peer.stream();
        peer.packets(&[invoke(1, 0, "/t/Echo"), text(1, 1, "hello")]);
        peer.expect_fin();
    }

    fn wire_014_later_streams_may_have_a_message_zero(peer) on drpcd | go {
        peer.stream();
        peer.packets(&[invoke(2, 0, "/t/Echo"), text(2, 1, "hello"), close_send(2, 2)]);
        peer.expect(&[text(2, 1, "hello"), close_send(2, 2)]);
        peer.finish();
    }

    fn wire_015_gaps_between_ids(peer) on drpcd | go {
        peer.stream();
        peer.packets(&[invoke(7, 3, "/t/Echo"), text(7, 9, "hello"), close_send(7, 100)]);
        peer.expect(&[text(7, 1, "hello"), close_send(7, 2)]);
        peer.finish();
    }

    fn wire_016_a_stream_lower_than_the_last_one(peer) on drpcd | go {
        peer.stream();
        peer.packets(&[invoke(3, 1, "/t/Echo"), text(3, 2, "hello"), close_send(3, 3)]);
        peer.expect(&[text(3, 1, "hello"), close_send(3, 2)]);
        peer.packets(&[invoke(2, 1, "/t/Echo")]);
        peer.expect_fin();
    }

    fn wire_017_a_number_without_end(peer) on drpcd | go {
        peer.stream();
        peer.send(&[&[0x03][..], &[0x80; 11]].concat());
        peer.expect_fin();
    }

    fn wire_018_numbers_longer_than_they_need_to_be(peer) on drpcd | go {
        peer.stream();
        // The length of close-send as two bytes, and stream 1 as three.
        peer.packets(&[echo(), text(1, 2, "hello"), unhex("0d 81 80 00 03 80 00")]);
        peer.expect(&hello());
        peer.finish();
    }

    fn wire_019_an_unknown_kind_without_control_bit(peer) on drpcd | go {
        for kind in [0, 8, 63] {
            peer.stream();
            peer.packets(&[invoke(1, 1, "/t/Chat"), text(1, 2, "a")]);
            peer.expect(&[text(1, 1, "a")]);
            peer.packets(&[drpc(kind, true, 1, 3, b"")]);
            peer.expect_fin();
        }
    }

    fn wire_020_an_unknown_kind_with_control_bit(peer) on drpcd | go {
        for kind in [8, 9] {
            peer.stream();
            peer.packets(&[invoke(1, 1, "/t/Chat"), text(1, 2, "a")]);
            peer.expect(&[text(1, 1, "a")]);
            peer.packets(&[control(drpc(kind, true, 1, 3, b"x")), text(1, 4, "b")]);
            peer.expect(&[text(1, 2, "b")]);
            peer.packets(&[close_send(1, 5)]);
            peer.expect(&[close_send(1, 3)]);
            peer.finish();
        }
    }

    fn wire_021_a_packet_is_control_when_any_of_its_frames_is(peer) on drpcd | go {
        peer.stream();
        peer.packets(&[invoke(1, 1, "/t/Chat"), text(1, 2, "a")]);
        peer.expect(&[text(1, 1, "a")]);
        peer.packets(&[control(part(9, 1, 3, b"x")), drpc(9, true, 1, 3, b"y"), text(1, 4, "b")]);
        peer.expect(&[text(1, 2, "b")]);
        peer.packets(&[close_send(1, 5)]);
        peer.expect(&[close_send(1, 3)]);
        peer.finish();
    }

    fn wire_022_the_control_bit_on_known_kinds(peer) on drpcd | go {
        peer.stream();
        peer.packets(&[control(echo()), control(text(1, 2, "hello")), control(close_send(1, 3))]);
        peer.expect(&hello());
        peer.finish();
    }

    fn wire_023_a_body_on_close_send(peer) on drpcd | go {
        peer.stream();
        peer.packets(&[echo(), text(1, 2, "hello"), drpc(6, true, 1, 3, b"body")]);
        peer.expect(&hello());
        peer.finish();
    }

    // Go reads nothing more after such a packet.
    fn wire_024_control_packets_before_an_invoke(peer) on drpcd {
        for first in [control(drpc(8, true, 1, 1, b"x")), control(cancel(1, 1)), control(text(1, 1, "early"))] {
            peer.stream();
            peer.packets(&[first, invoke(1, 2, "/t/Echo"), text(1, 3, "hello"), close_send(1, 4)]);
            peer.expect(&hello());
            peer.finish();
        }
    }

    fn wire_025_other_packets_before_an_invoke(peer) on drpcd {
        for first in [text(1, 1, "early"), cancel(1, 1), close(1, 1), close_send(1, 1), error(1, 1, 7, "e")] {
            peer.stream();
            peer.packets(&[first]);
            peer.expect_fin();
        }
    }

    fn wire_026_an_end_in_the_middle_of_a_frame(peer) on drpcd | go {
        peer.stream();
        peer.send(&echo()[..6]);
        peer.finish();
        peer.stream();
        peer.packets(&[echo(), unhex("05 01 02 7f 0a")]);
        peer.finish();
        assert_eq!(peer.logged(), [""; 0]);
    }

    fn wire_027_a_long_reply_is_split_at_64_kib(peer) on drpcd | go {
        // 199,996 bytes of text make a message of 200,000.
        peer.stream();
        peer.packets(&[invoke(1, 1, "/t/Repeat"), text(1, 2, "199996"), close_send(1, 3)]);
        let message = value(&"x".repeat(199_996));
        assert_eq!(message.len(), 200_000);
        let (first, rest) = message.split_at(65_536);
        let (second, rest) = rest.split_at(65_536);
        let (third, last) = rest.split_at(65_536);
        assert_eq!(last.len(), 3_392);
        peer.expect(&[part(2, 1, 1, first), part(2, 1, 1, second), part(2, 1, 1, third), bytes(1, 1, last)]);
        peer.expect(&[close_send(1, 2)]);
        peer.finish();
    }
}
