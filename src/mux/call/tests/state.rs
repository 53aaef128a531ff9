//! `wire.md` §8, state machine, and the cells of the table in its §2.1.

use super::*;

#[test]
fn wire_028_a_unary_call_is_answered_before_close_send() {
    Peer::invoked()
        .send("05 01 02 02 6869")
        .expect_message("hi")
        .expect_nothing()
        .finish(reply("re:hi"))
        .expect_sent("05 01 01 05 72653a6869  0d 01 02 00")
        .send("0d 01 03 00")
        .expect_nothing();
}

#[test]
fn wire_029_a_second_message_of_a_finished_call_is_discarded() {
    Peer::invoked()
        .send("05 01 02 01 61")
        .expect_message("a")
        .finish(reply("b"))
        .expect_sent("05 01 01 01 62  0d 01 02 00")
        .send("05 01 03 01 63")
        .expect_nothing()
        .send_fin()
        .expect_end("manager closed: EOF");
}

#[test]
fn wire_030_a_unary_call_without_message() {
    Peer::invoked()
        .send("0d 01 02 00")
        .expect(Event::HalfClosed)
        .expect_receive_end(None)
        .finish(Err(Status::eof()))
        .expect_sent("07 01 01 0b 0000000000000000 454f46");
}

#[test]
fn wire_031_a_reply_without_message() {
    Peer::invoked().finish(Ok(None)).expect_sent("0d 01 01 00");
}

#[test]
fn wire_032_an_empty_reply() {
    Peer::invoked()
        .finish(reply(""))
        .expect_sent("05 01 01 00  0d 01 02 00");
}

#[test]
fn wire_033_close_after_a_finished_call_is_nothing() {
    Peer::invoked()
        .send("05 01 02 00  0d 01 03 00")
        .expect_message("")
        .expect(Event::HalfClosed)
        .finish(reply(""))
        .expect_sent("05 01 01 00  0d 01 02 00")
        .send("0b 01 04 00")
        .expect_nothing();
}

#[test]
fn wire_034_a_transport_carries_one_call_after_another() {
    Peer::invoked()
        .finish(reply("x"))
        .expect_sent("05 01 01 01 78  0d 01 02 00")
        .send("03 02 01 02 2f62")
        .expect(invoke("/b"))
        .finish(reply("y"))
        .expect_sent("05 02 01 01 79  0d 02 02 00");
}

#[test]
fn wire_035_both_directions_then_close_send() {
    let mut peer = Peer::invoked();
    for (id, answer) in [(2, "05 01 01 01 61"), (3, "05 01 02 01 61")] {
        peer.send(&format!("05 01 0{id} 01 61"))
            .expect_message("a")
            .handler_sends("a")
            .expect_sent(answer);
    }
    peer.send("0d 01 04 00")
        .expect(Event::HalfClosed)
        .expect_receive_end(None)
        .finish(Ok(None))
        .expect_sent("0d 01 03 00");
}

#[test]
fn wire_036_the_peers_close_cancels_without_an_answer() {
    for result in [Ok(None), reply("late"), failure("late")] {
        Peer::invoked()
            .send("0b 01 02 00")
            .expect(Event::Cancelled)
            .expect_receive_end(None)
            .expect_send_error("closed: remote closed the stream")
            .handler_closes_send()
            .handler_closes()
            .finish(result)
            .expect_sent("")
            .expect_nothing();
    }
}

#[test]
fn wire_037_after_the_handlers_close_nothing_is_sent_or_read() {
    let text = "drpc: stream terminated by sending close";
    Peer::invoked()
        .handler_closes()
        .expect_sent("0b 01 01 00")
        .send("05 01 02 01 78  0d 01 03 00  03 01 04 02 2f61  11 01 05 00")
        .expect_nothing()
        .expect_receive_end(Some(Status::message(text)))
        .expect_send_error(text)
        .handler_closes()
        .finish(failure("late"))
        .expect_sent("")
        .expect_nothing();
}

#[test]
fn a_handler_that_closed_and_lingers_is_told_that_the_peer_left() {
    Peer::invoked()
        .handler_closes()
        .expect_sent("0b 01 01 00")
        .send("05 01 02 01 78")
        .expect_nothing()
        .send_fin()
        .expect_end("manager closed: EOF");
}

#[test]
fn wire_038_sending_after_close_send_fails_and_takes_a_message_id() {
    let mut peer = Peer::invoked();
    peer.handler_closes_send().expect_sent("0d 01 01 00");
    let error = peer.try_send("x").unwrap_err();
    assert_eq!(error.text(), "drpc: send closed");
    peer.handler_closes_send()
        .finish(Err(error))
        .expect_sent("07 01 03 19 0000000000000000 647270633a2073656e6420636c6f736564");
}

#[test]
fn wire_038_a_reply_after_close_send_becomes_an_error() {
    Peer::invoked()
        .handler_closes_send()
        .expect_sent("0d 01 01 00")
        .finish(reply("x"))
        .expect_sent("07 01 03 19 0000000000000000 647270633a2073656e6420636c6f736564");
}

#[test]
fn wire_039_a_call_closed_by_the_handler_and_the_peer_is_over() {
    Peer::invoked()
        .handler_closes_send()
        .expect_sent("0d 01 01 00")
        .send("0d 01 02 00")
        .expect(Event::Cancelled)
        .expect_receive_end(None)
        .finish(failure("late"))
        .expect_sent("");
}

#[test]
fn wire_039_a_call_closed_by_the_peer_and_the_handler_is_over() {
    Peer::invoked()
        .send("0d 01 02 00")
        .expect(Event::HalfClosed)
        .handler_closes_send()
        .expect_sent("0d 01 01 00")
        .expect(Event::Cancelled)
        .finish(failure("late"))
        .expect_sent("");
}

#[test]
fn wire_040_messages_after_an_early_end_are_discarded() {
    Peer::invoked()
        .finish(Ok(None))
        .expect_sent("0d 01 01 00")
        .send("05 01 02 01 78  05 01 03 01 78  0d 01 04 00")
        .expect_nothing()
        .send_fin()
        .expect_end("manager closed: EOF");
}

#[test]
fn wire_041_many_messages_and_one_reply() {
    Peer::invoked()
        .send("05 01 02 01 61  05 01 03 01 62  0d 01 04 00")
        .expect_message("a")
        .expect_message("b")
        .expect(Event::HalfClosed)
        .finish(reply("ab"))
        .expect_sent("05 01 01 02 6162  0d 01 02 00");
}

#[test]
fn wire_042_no_messages_and_one_reply() {
    Peer::invoked()
        .send("0d 01 02 00")
        .expect(Event::HalfClosed)
        .expect_receive_end(None)
        .finish(reply("0"))
        .expect_sent("05 01 01 01 30  0d 01 02 00");
}

#[test]
fn wire_043_many_replies() {
    Peer::invoked()
        .handler_sends("a")
        .handler_sends("b")
        .handler_sends("")
        .finish(Ok(None))
        .expect_sent("05 01 01 01 61  05 01 02 01 62  05 01 03 00  0d 01 04 00");
}

#[test]
fn wire_044_an_error_after_replies() {
    Peer::invoked()
        .handler_sends("a")
        .handler_sends("b")
        .expect_sent("05 01 01 01 61  05 01 02 01 62")
        .finish(failure("boom"))
        .expect_sent("07 01 03 0c 0000000000000000 626f6f6d");
}

#[test]
fn wire_045_close_after_replies() {
    Peer::invoked()
        .handler_sends("a")
        .handler_sends("b")
        .expect_sent("05 01 01 01 61  05 01 02 01 62")
        .handler_closes()
        .finish(Ok(None))
        .expect_sent("0b 01 03 00");
}

#[test]
fn close_after_close_send_is_sent() {
    Peer::invoked()
        .handler_closes_send()
        .handler_closes()
        .expect_sent("0d 01 01 00  0b 01 02 00");
}

#[test]
fn an_error_after_the_peers_close_send_is_sent() {
    Peer::invoked()
        .send("0d 01 02 00")
        .expect(Event::HalfClosed)
        .handler_sends("a")
        .finish(failure("boom"))
        .expect_sent("05 01 01 01 61  07 01 02 0c 0000000000000000 626f6f6d");
}

const SECOND_INVOKE: &str = "manager closed: protocol error: invoke on existing stream";

#[test]
fn wire_046_a_second_invoke_ends_the_transport() {
    Peer::invoked().send("03 01 02 02 2f61").expect_end(SECOND_INVOKE);
    Peer::invoked()
        .send("0d 01 02 00")
        .expect(Event::HalfClosed)
        .send("03 01 03 02 2f61")
        .expect_end(SECOND_INVOKE);
}

#[test]
fn wire_046_a_second_invoke_of_an_answered_call_ends_the_transport_until_both_sides_closed() {
    Peer::invoked()
        .finish(Ok(None))
        .expect_sent("0d 01 01 00")
        .send("03 01 02 02 2f61")
        .expect_end(SECOND_INVOKE);
    Peer::invoked()
        .finish(Ok(None))
        .expect_sent("0d 01 01 00")
        .send("0d 01 02 00  03 01 03 02 2f61  11 01 04 00")
        .expect_nothing();
    Peer::invoked()
        .finish(failure("x"))
        .send("03 01 02 02 2f61  11 01 03 00")
        .expect_nothing();
}

#[test]
fn wire_047_metadata_of_a_running_call_ends_the_transport_unless_it_is_control() {
    Peer::invoked()
        .send("0f 01 02 00")
        .expect_end("manager closed: internal error: unknown packet kind: InvokeMetadata");
    Peer::invoked()
        .send("8f 01 02 00  05 01 03 00")
        .expect_message("");
}

#[test]
fn wire_048_a_higher_stream_cancels_the_call_and_waits_for_its_handler() {
    let mut peer = Peer::invoked();
    peer.send("03 02 01 02 2f62  05 02 02 01 78")
        .expect(Event::Cancelled)
        .expect_nothing()
        .expect_receive_end(Some(Status::canceled()))
        .expect_send_error("EOF");
    peer.transport.handler_returned();
    peer.expect(invoke("/b"))
        .expect_message("x")
        .finish(reply("y"))
        .expect_sent("05 02 01 01 79  0d 02 02 00");
}

#[test]
fn wire_048_metadata_of_a_higher_stream_cancels_the_call_too() {
    Peer::invoked()
        .send("0f 02 01 00")
        .expect(Event::Cancelled)
        .finish(reply("late"))
        .expect_sent("")
        .send("03 02 02 02 2f62")
        .expect(invoke("/b"));
}

#[test]
fn wire_048_an_end_behind_a_higher_stream_does_not_wait_for_the_handler() {
    Peer::invoked()
        .send("03 02 01 02 2f62")
        .expect(Event::Cancelled)
        .expect_nothing()
        .send_fin()
        .expect_end("manager closed: EOF");
}

#[test]
fn wire_049_a_message_of_a_higher_stream_without_invoke() {
    Peer::invoked()
        .send("05 02 01 00")
        .expect(Event::Cancelled)
        .finish(reply("late"))
        .expect_sent("")
        .expect_end("manager closed: internal error: unknown packet kind: Message");
}

#[test]
fn wire_050_messages_after_close_send_are_dropped() {
    Peer::invoked()
        .send("0d 01 02 00  05 01 03 01 78")
        .expect(Event::HalfClosed)
        .expect_nothing();
}

#[test]
fn wire_051_a_second_close_send_is_nothing() {
    Peer::invoked()
        .send("0d 01 02 00  0d 01 03 00")
        .expect(Event::HalfClosed)
        .expect_nothing()
        .finish(reply("x"))
        .expect_sent("05 01 01 01 78  0d 01 02 00");
}

#[test]
fn wire_052_messages_before_close_send_come_first() {
    Peer::invoked()
        .send("05 01 02 01 61  05 01 03 01 62  0d 01 04 00")
        .expect_message("a")
        .expect_message("b")
        .expect(Event::HalfClosed);
}
