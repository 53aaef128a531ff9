//! `wire.md` §8, framing, as far as a call shows it. The rules of packets alone are tested beside the packet reader.

use super::*;

const UNARY: &str = "03 01 01 02 2f61  05 01 02 02 6869  0d 01 03 00";
const REPLY: &str = "05 01 01 05 72653a6869  0d 01 02 00";

#[test]
fn wire_001_a_unary_call() {
    Peer::new()
        .send(UNARY)
        .expect(invoke("/a"))
        .expect_message("hi")
        .expect(Event::HalfClosed)
        .expect_nothing()
        .finish(reply("re:hi"))
        .expect_sent(REPLY)
        .expect_nothing();
}

#[test]
fn wire_002_a_unary_call_byte_by_byte() {
    let mut peer = Peer::new();
    let mut events = Vec::new();
    for byte in bytes(UNARY) {
        peer.transport.on_bytes(Bytes::copy_from_slice(&[byte]));
        while let Some(event) = peer.transport.poll_event() {
            events.push(event);
        }
    }
    assert_eq!(
        events,
        [invoke("/a"), Event::Message("hi".into()), Event::HalfClosed]
    );
    peer.finish(reply("re:hi")).expect_sent(REPLY);
}

#[test]
fn wire_003_a_message_in_two_frames() {
    Peer::invoked()
        .send("04 01 02 02 6865  05 01 02 03 6c6c6f")
        .expect_message("hello");
}

#[test]
fn wire_004_an_invoke_in_two_frames() {
    Peer::new()
        .send("02 01 01 01 2f  03 01 01 01 61")
        .expect(invoke("/a"));
}

#[test]
fn wire_007_an_unfinished_message_before_close_send_is_dropped() {
    Peer::invoked()
        .send("04 01 02 01 78  0d 01 03 00")
        .expect(Event::HalfClosed)
        .expect_nothing();
}

#[test]
fn wire_008_a_change_of_kind_ends_the_transport() {
    Peer::invoked()
        .send("04 01 02 01 78  0d 01 02 00")
        .expect_end("manager closed: protocol error: packet kind change (fr:CloseSend pkt:Message)");
}

#[test]
fn wire_009_a_repeated_id_ends_the_transport() {
    Peer::invoked().send("05 01 01 00").expect_end(
        "manager closed: protocol error: id monotonicity violation (fr:<id s:1 m:1> r:<id s:1 m:2>)",
    );
}

#[test]
fn wire_015_a_reply_uses_the_callers_stream_and_its_own_message_ids() {
    Peer::new()
        .send("03 07 03 02 2f61  05 07 09 01 78  0d 07 64 00")
        .expect(invoke("/a"))
        .expect_message("x")
        .expect(Event::HalfClosed)
        .finish(reply("y"))
        .expect_sent("05 07 01 01 79  0d 07 02 00");
}

#[test]
fn wire_016_a_lower_stream_than_the_last_one_ends_the_transport() {
    Peer::new()
        .send("03 03 01 02 2f61")
        .expect(invoke("/a"))
        .finish(Ok(None))
        .expect_sent("0d 03 01 00")
        .send("05 02 09 00")
        .expect_end(
            "manager closed: protocol error: id monotonicity violation (fr:<id s:2 m:9> r:<id s:3 m:2>)",
        );
}

#[test]
fn wire_019_unknown_kinds_without_control_bit_end_the_transport() {
    for (hex, kind) in [("01 01 02 00", 0), ("11 01 02 00", 8), ("7f 01 02 00", 63)] {
        let text = format!("manager closed: internal error: unknown packet kind: Kind({kind})");
        Peer::invoked().send(hex).expect_end(&text);
    }
}

#[test]
fn wire_020_unknown_kinds_with_control_bit_are_ignored() {
    for hex in ["91 01 02 00", "93 01 02 00", "ff 01 02 01 78"] {
        let mut peer = Peer::invoked();
        peer.send(hex).send("05 01 03 01 78").expect_message("x");
        peer.finish(Ok(None)).expect_sent("0d 01 01 00");
    }
}

#[test]
fn wire_021_unknown_kinds_with_control_bit_on_the_first_frame_only_are_ignored() {
    Peer::invoked()
        .send("90 01 02 00  11 01 02 00  05 01 03 01 78")
        .expect_message("x");
}

#[test]
fn wire_022_the_control_bit_changes_nothing_for_known_kinds() {
    Peer::new()
        .send("83 01 01 02 2f61  85 01 02 01 78  8d 01 03 00")
        .expect(invoke("/a"))
        .expect_message("x")
        .expect(Event::HalfClosed);
}

#[test]
fn wire_023_the_body_of_close_send_is_ignored() {
    Peer::invoked()
        .send("0d 01 02 03 616263")
        .expect(Event::HalfClosed)
        .expect_nothing();
}

#[test]
fn wire_024_a_control_packet_before_any_invoke_is_ignored() {
    Peer::new()
        .send("89 01 01 00  91 01 02 00  85 01 03 00")
        .expect_nothing()
        .send("03 01 04 02 2f61")
        .expect(invoke("/a"));
}

#[test]
fn wire_025_other_packets_before_any_invoke_end_the_transport() {
    for (hex, kind) in [
        ("05 01 01 00", "Message"),
        ("09 01 01 00", "Cancel"),
        ("0d 01 01 00", "CloseSend"),
    ] {
        let text = format!("manager closed: internal error: unknown packet kind: {kind}");
        Peer::new().send(hex).expect_end(&text);
    }
}

#[test]
fn wire_026_an_end_in_the_middle_of_a_frame_is_an_end_of_input() {
    for partial in ["05", "05 01 02 09 78", "05 01 01 09 78"] {
        Peer::invoked()
            .send(partial)
            .send_fin()
            .expect_end("manager closed: EOF");
    }
}

#[test]
fn wire_027_a_long_reply_is_split_under_one_message_id() {
    let mut peer = Peer::invoked();
    let message = Reply::erased(Box::new(raw(200_000)));
    peer.finish(Ok(Some(message)));
    let (headers, close_send) = (3 * 6 + 5, 4);
    assert_eq!(peer.out.len(), 200_000 + headers + close_send);
    assert_eq!(&peer.out[..6], &bytes("04 01 01 808004")[..]);
    assert_eq!(&peer.out[peer.out.len() - 4..], &bytes("0d 01 02 00")[..]);
}

#[test]
fn wire_081_a_message_of_four_mib_is_delivered() {
    let mut peer = Peer::invoked();
    let message = Bytes::from(vec![7; 4_194_304]);
    peer.send("05 01 02 80808002").transport.on_bytes(message.clone());
    peer.send("0d 01 03 00")
        .expect(Event::Message(message))
        .expect(Event::HalfClosed);
}

#[test]
fn wire_082_a_message_of_more_than_four_mib_ends_the_transport() {
    Peer::invoked()
        .send("05 01 02 81808002")
        .expect_end("manager closed: protocol error: data overflow (len:4194305)");
}

#[test]
fn wire_084_a_reply_over_four_mib_becomes_an_error() {
    let mut peer = Peer::invoked();
    peer.finish(Ok(Some(Reply::erased(Box::new(raw(4_194_305))))));
    let mut expected = bytes("07 01 02 26 0000000000000000").to_vec();
    expected.extend_from_slice(b"response exceeds 4194304 bytes");
    assert_eq!(peer.out, expected);
}

#[test]
fn wire_084_a_reply_of_four_mib_is_sent() {
    let mut peer = Peer::invoked();
    peer.transport.send(&raw(4_194_304), &mut peer.out).unwrap();
    assert!(peer.out.len() > 4_194_304);
}

#[test]
fn what_a_transport_holds_is_counted() {
    let mut peer = Peer::new();
    peer.send("0f 01 01 08 0a06 0a016b 120176  05").expect_nothing();
    assert_eq!((peer.transport.buffered(), peer.transport.held()), (0, 8));
    let mut peer = Peer::invoked();
    peer.send("05 01 02 02 61").expect_nothing();
    assert_eq!((peer.transport.buffered(), peer.transport.held()), (0, 1));
    peer.send("62 05 01 03 00").expect_message("ab");
    assert_eq!((peer.transport.buffered(), peer.transport.held()), (4, 4));
    peer.expect_message("")
        .send("03 02 01 02 2f62")
        .expect(Event::Cancelled);
    peer.expect_nothing();
    assert_eq!((peer.transport.buffered(), peer.transport.held()), (2, 2));
}
