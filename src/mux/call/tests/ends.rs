//! `wire.md` §8, cancellation and end.

use super::*;

#[test]
fn wire_072_a_fin_while_a_unary_handler_runs_ends_the_call_without_frames() {
    Peer::invoked()
        .send("05 01 02 01 78  0d 01 03 00")
        .send_fin()
        .expect_message("x")
        .expect(Event::HalfClosed)
        .expect_end("manager closed: EOF");
}

#[test]
fn wire_073_a_fin_while_a_handler_receives_is_a_cancellation_and_no_end_of_messages() {
    Peer::invoked()
        .send_fin()
        .expect_end("manager closed: EOF")
        .expect_receive_end(Some(Status::canceled()))
        .expect_send_error("EOF");
}

#[test]
fn wire_073_a_fin_after_close_send_leaves_the_receiver_at_its_end() {
    Peer::invoked()
        .send("0d 01 02 00")
        .send_fin()
        .expect(Event::HalfClosed)
        .expect_end("manager closed: EOF")
        .expect_receive_end(None);
}

#[test]
fn wire_074_cancel_with_and_without_control_bit() {
    for hex in ["89 01 02 00", "09 01 02 00"] {
        Peer::invoked()
            .send(hex)
            .expect(Event::Cancelled)
            .expect_receive_end(Some(Status::canceled()))
            .expect_send_error("EOF")
            .finish(Err(Status::canceled()))
            .expect_sent("")
            .send("03 02 01 02 2f62")
            .expect(invoke("/b"));
    }
}

#[test]
fn wire_074_cancel_after_close_send_leaves_the_receiver_at_its_end() {
    Peer::invoked()
        .send("0d 01 02 00  09 01 03 00")
        .expect(Event::HalfClosed)
        .expect(Event::Cancelled)
        .expect_receive_end(None);
}

#[test]
fn wire_075_cancel_behind_an_unread_message_is_seen_once_it_is_read() {
    Peer::invoked()
        .send("05 01 02 01 78  89 01 03 00")
        .expect_message("x")
        .expect(Event::Cancelled)
        .expect_nothing();
}

#[test]
fn wire_075_a_fin_behind_an_unread_message_may_be_seen_early() {
    let mut peer = Peer::invoked();
    assert!(!peer.transport.input_closed());
    peer.send("05 01 02 01 78").send_fin();
    assert!(peer.transport.input_closed());
    peer.expect_message("x").expect_end("manager closed: EOF");
}

#[test]
fn wire_076_the_end_of_the_server_ends_the_call_without_frames() {
    Peer::invoked()
        .end(TransportError::Canceled)
        .expect_end("context canceled")
        .expect_receive_end(Some(Status::canceled()));
}

#[test]
fn wire_078_an_end_before_any_packet_is_an_end_of_input() {
    Peer::new().send_fin().expect_end("manager closed: EOF");
}

#[test]
fn the_first_end_of_input_counts() {
    Peer::new()
        .end(TransportError::Reset)
        .send_fin()
        .expect_end("manager closed: connection reset");
}

#[test]
fn nothing_is_read_behind_an_end() {
    Peer::invoked()
        .send_fin()
        .send("05 01 02 00")
        .expect_end("manager closed: EOF");
}

#[test]
fn a_receiver_is_told_the_rule_that_its_peer_broke() {
    let mut peer = Peer::invoked();
    peer.send("03 01 02 02 2f61")
        .expect_end("manager closed: protocol error: invoke on existing stream");
    peer.expect_receive_end(Some(Status::message("protocol error: invoke on existing stream")));
}

#[test]
fn a_handler_that_vanishes_leaves_a_call_that_is_over() {
    let mut peer = Peer::invoked();
    peer.transport.handler_returned();
    peer.expect_send_error("EOF")
        .send("05 01 02 00  0d 01 03 00")
        .expect_nothing()
        .send("03 02 01 02 2f62")
        .expect(invoke("/b"));
}

#[test]
fn nothing_is_kept_after_an_end() {
    let mut peer = Peer::invoked();
    peer.send("03 02 01 02 2f62  05 02 02 03 78")
        .expect(Event::Cancelled)
        .expect_nothing()
        .send_fin()
        .expect_end("manager closed: EOF");
    assert_eq!(peer.transport.held(), 0);
    let mut peer = Peer::new();
    peer.send("0f 01 01 08 0a060a016b120176")
        .send_fin()
        .expect_end("manager closed: EOF");
    assert_eq!(peer.transport.held(), 0);
}

#[test]
fn a_packet_that_waits_for_a_handler_does_not_keep_its_chunk_alive() {
    let mut peer = Peer::invoked();
    let chunk = bytes("03 02 01 02 2f62");
    peer.transport.on_bytes(chunk.clone());
    peer.expect(Event::Cancelled).expect_nothing();
    assert!(chunk.is_unique());
}
