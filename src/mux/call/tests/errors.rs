//! `wire.md` §8, errors. The body of an Error packet is tested beside [`Status`].

use super::*;

#[test]
fn wire_053_an_error_without_code() {
    Peer::invoked()
        .finish(failure("boom"))
        .expect_sent("07 01 01 0c 0000000000000000 626f6f6d");
}

#[test]
fn wire_054_an_error_with_code() {
    Peer::invoked()
        .finish(Err(Status::new(42, "coded")))
        .expect_sent("07 01 01 0d 000000000000002a 636f646564");
}

#[test]
fn wire_055_an_unimplemented_method() {
    Peer::invoked()
        .finish(Err(Status::unimplemented()))
        .expect_sent("07 01 01 15 000000000000000c 556e696d706c656d656e746564");
}

#[test]
fn wire_056_an_error_may_be_sent_before_any_message() {
    Peer::invoked()
        .finish(failure("no"))
        .expect_sent("07 01 01 0a 0000000000000000 6e6f")
        .send("05 01 02 01 78  0d 01 03 00")
        .expect_nothing();
}

#[test]
fn wire_057_a_path_is_given_out_as_it_was_sent() {
    Peer::new().send("03 01 01 00").expect(invoke(""));
    Peer::new().send("03 01 01 01 61").expect(invoke("a"));
    Peer::new().send("03 01 01 02 ff00").expect(Event::Invoke {
        path: Bytes::from_static(b"\xff\0"),
        metadata: Metadata::default(),
    });
}

#[test]
fn wire_059_a_transport_is_usable_after_an_error() {
    Peer::invoked()
        .send("05 01 02 01 ff  0d 01 03 00")
        .expect(Event::Message(Bytes::from_static(b"\xff")))
        .finish(failure("no"))
        .expect_sent("07 01 01 0a 0000000000000000 6e6f")
        .send("03 02 01 02 2f62")
        .expect(invoke("/b"))
        .finish(Ok(None))
        .expect_sent("0d 02 01 00");
}

#[test]
fn wire_061_the_peers_error_reaches_the_handler_and_is_not_answered() {
    Peer::invoked()
        .send("07 01 02 0a 0000000000000007 6e6f")
        .expect(Event::Cancelled)
        .expect_receive_end(Some(Status::new(7, "no")))
        .expect_send_error("EOF")
        .finish(failure("late"))
        .expect_sent("");
}

#[test]
fn wire_061_an_error_after_close_send_leaves_the_receiver_at_its_end() {
    Peer::invoked()
        .send("0d 01 02 00  07 01 03 08 0000000000000007")
        .expect(Event::HalfClosed)
        .expect(Event::Cancelled)
        .expect_receive_end(None)
        .expect_send_error("EOF");
}

#[test]
fn wire_062_a_short_error_of_the_peer() {
    Peer::invoked()
        .send("07 01 02 03 616263")
        .expect(Event::Cancelled)
        .expect_receive_end(Some(Status::message("abc (drpcwire note: invalid error data)")));
}

#[test]
fn wire_063_a_long_error_is_one_frame() {
    let mut peer = Peer::invoked();
    peer.finish(Err(Status::message("x".repeat(100_000))));
    assert_eq!(peer.out.len(), 6 + 8 + 100_000);
    assert_eq!(&peer.out[..6], &bytes("07 01 01 a88d06")[..]);
}
