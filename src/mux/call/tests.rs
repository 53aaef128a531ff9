//! The call's rules as transcripts: bytes from the peer, events for the shell, bytes to the peer.

use bytes::{BufMut, Bytes, BytesMut};

use super::{ClientCall, ClientEvent, Event, Transport};
use crate::mux::error::{Status, TransportError};
use crate::mux::stream::{AnyMessage, Reply};

/// A message that is its own encoding.
struct Raw(Vec<u8>);

impl AnyMessage for Raw {
    fn encoded_len(&self) -> usize {
        self.0.len()
    }

    fn encode_into(&self, out: &mut BytesMut) {
        out.put_slice(&self.0);
    }
}

fn reply(text: &str) -> Result<Option<Reply>, Status> {
    Ok(Some(Reply::erased(Box::new(Raw(text.into())))))
}

/// Both ends of a transcript. What it sends and expects is written as hexadecimal, spaces between fields.
struct Peer {
    transport: Transport,
    out: BytesMut,
}

const INVOKE: &str = "03 01 01 02 2f61";

impl Peer {
    fn new() -> Self {
        Self {
            transport: Transport::new(),
            out: BytesMut::new(),
        }
    }

    /// A peer whose call of `/a` has begun.
    fn invoked() -> Self {
        let mut peer = Self::new();
        peer.send(INVOKE).expect(Event::Invoke {
            path: "/a".into(),
            metadata: Default::default(),
        });
        peer
    }

    #[track_caller]
    fn send(&mut self, hex: &str) -> &mut Self {
        self.transport.on_bytes(bytes(hex));
        self
    }

    #[track_caller]
    fn expect(&mut self, event: Event) -> &mut Self {
        assert_eq!(self.transport.poll_event(), Some(event));
        self
    }

    #[track_caller]
    fn expect_message(&mut self, text: &'static str) -> &mut Self {
        self.expect(Event::Message(text.into()))
    }

    #[track_caller]
    fn expect_nothing(&mut self) -> &mut Self {
        assert_eq!(self.transport.poll_event(), None);
        self
    }

    #[track_caller]
    fn expect_end(&mut self, text: &str) -> &mut Self {
        match self.transport.poll_event() {
            Some(Event::Ended(error)) => assert_eq!(error.to_string(), text),
            other => panic!("expected the end, got {other:?}"),
        }
        self.expect_nothing()
    }

    fn finish(&mut self, result: Result<Option<Reply>, Status>) -> &mut Self {
        self.transport.finish(result, &mut self.out);
        self
    }

    fn send_message(&mut self, text: &str) -> Result<(), Status> {
        self.transport.send(&Raw(text.into()), &mut self.out)
    }

    #[track_caller]
    fn expect_sent(&mut self, hex: &str) -> &mut Self {
        assert_eq!(Bytes::from(self.out.split()), bytes(hex));
        self
    }
}

fn bytes(hex: &str) -> Bytes {
    let digits: Vec<_> = hex.chars().filter_map(|digit| digit.to_digit(16)).collect();
    digits
        .chunks(2)
        .map(|pair| u8::try_from(pair[0] << 4 | pair[1]).unwrap())
        .collect()
}

#[test]
fn wire_001_a_unary_call() {
    Peer::invoked()
        .send("05 01 02 02 6869  0d 01 03 00")
        .expect_message("hi")
        .expect(Event::HalfClosed)
        .expect_nothing()
        .finish(reply("re:hi"))
        .expect_sent("05 01 01 05 72653a6869  0d 01 02 00");
}

#[test]
fn wire_004_an_invoke_in_two_frames() {
    let mut peer = Peer::new();
    peer.send("02 01 01 01 2f  03 01 01 01 61").expect(Event::Invoke {
        path: "/a".into(),
        metadata: Default::default(),
    });
}

#[test]
fn wire_007_an_unfinished_message_before_close_send_is_dropped() {
    Peer::invoked()
        .send("04 01 02 01 78  0d 01 03 00")
        .expect(Event::HalfClosed)
        .expect_nothing();
}

#[test]
fn wire_015_a_reply_uses_the_callers_stream_and_its_own_message_ids() {
    let mut peer = Peer::new();
    peer.send("03 07 03 02 2f61  05 07 09 01 78  0d 07 64 00");
    assert!(matches!(peer.transport.poll_event(), Some(Event::Invoke { .. })));
    peer.expect_message("x")
        .expect(Event::HalfClosed)
        .finish(reply("y"));
    peer.expect_sent("05 07 01 01 79  0d 07 02 00");
}

#[test]
fn wire_016_a_lower_stream_than_the_last_one_ends_the_transport() {
    let mut peer = Peer::new();
    peer.send("03 03 01 02 2f61");
    assert!(matches!(peer.transport.poll_event(), Some(Event::Invoke { .. })));
    peer.finish(Ok(None)).send("05 02 09 00");
    peer.expect_end(
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
fn wire_020_and_021_unknown_kinds_with_control_bit_are_ignored() {
    for hex in ["91 01 02 00", "93 01 02 00", "90 01 02 00 11 01 02 00"] {
        Peer::invoked()
            .send(hex)
            .send("05 01 03 01 78")
            .expect_message("x");
    }
}

#[test]
fn wire_022_the_control_bit_changes_nothing_for_known_kinds() {
    let mut peer = Peer::new();
    peer.send("83 01 01 02 2f61  85 01 02 01 78  8d 01 03 00");
    assert!(matches!(peer.transport.poll_event(), Some(Event::Invoke { .. })));
    peer.expect_message("x").expect(Event::HalfClosed);
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
    let mut peer = Peer::new();
    peer.send("89 01 01 00  91 01 02 00").expect_nothing();
    peer.send("03 01 03 02 2f61").expect(Event::Invoke {
        path: "/a".into(),
        metadata: Default::default(),
    });
}

#[test]
fn wire_025_other_packets_before_any_invoke_end_the_transport() {
    for (hex, kind) in [
        ("05 01 01 00", "Message"),
        ("09 01 01 00", "Cancel"),
        ("0d 01 01 00", "CloseSend"),
    ] {
        Peer::new().send(hex).expect_end(&format!(
            "manager closed: internal error: unknown packet kind: {kind}"
        ));
    }
}

#[test]
fn wire_026_an_end_in_the_middle_of_a_frame_is_an_end_of_input() {
    let mut peer = Peer::invoked();
    peer.send("05 01 02 09 78").transport.on_end(TransportError::Eof);
    peer.expect_end("manager closed: EOF");
    assert_eq!(peer.transport.receive_error(), Some(Status::canceled()));
    peer.finish(reply("late")).expect_sent("");
}

#[test]
fn wire_029_a_second_message_of_a_finished_call_is_discarded() {
    let mut peer = Peer::invoked();
    peer.send("05 01 02 01 61")
        .expect_message("a")
        .finish(reply("b"))
        .expect_sent("05 01 01 01 62 0d 01 02 00");
    peer.send("05 01 03 01 63  0d 01 04 00")
        .expect_nothing()
        .transport
        .on_end(TransportError::Eof);
    peer.expect_end("manager closed: EOF");
}

#[test]
fn wire_031_and_032_replies_without_message_and_with_an_empty_one() {
    Peer::invoked().finish(Ok(None)).expect_sent("0d 01 01 00");
    Peer::invoked()
        .finish(reply(""))
        .expect_sent("05 01 01 00  0d 01 02 00");
}

#[test]
fn wire_033_close_after_a_finished_call_is_nothing() {
    let mut peer = Peer::invoked();
    peer.send("05 01 02 00  0d 01 03 00")
        .expect_message("")
        .expect(Event::HalfClosed)
        .finish(reply(""));
    peer.send("0b 01 04 00").expect_nothing();
}

#[test]
fn wire_034_a_transport_carries_one_call_after_another() {
    let mut peer = Peer::invoked();
    peer.finish(reply("x")).expect_sent("05 01 01 01 78 0d 01 02 00");
    peer.send("03 02 01 02 2f62").expect(Event::Invoke {
        path: "/b".into(),
        metadata: Default::default(),
    });
    peer.finish(reply("y")).expect_sent("05 02 01 01 79 0d 02 02 00");
}

#[test]
fn wire_035_both_directions_then_close_send() {
    let mut peer = Peer::invoked();
    for (id, answer) in [(2, "05 01 01 01 61"), (3, "05 01 02 01 61")] {
        peer.send(&format!("05 01 0{id} 01 61"))
            .expect_message("a")
            .send_message("a")
            .unwrap();
        peer.expect_sent(answer);
    }
    peer.send("0d 01 04 00")
        .expect(Event::HalfClosed)
        .finish(Ok(None))
        .expect_sent("0d 01 03 00");
}

#[test]
fn wire_036_the_peers_close_cancels_without_an_answer() {
    for result in [Ok(None), Err(Status::message("late"))] {
        let mut peer = Peer::invoked();
        peer.send("0b 01 02 00").expect(Event::Cancelled);
        assert!(peer.transport.receive_closed());
        assert_eq!(
            peer.send_message("x").unwrap_err().text(),
            "closed: remote closed the stream"
        );
        peer.finish(result).expect_sent("").expect_nothing();
    }
}

#[test]
fn wire_037_after_the_handlers_close_nothing_is_sent_or_read() {
    let mut peer = Peer::invoked();
    peer.transport.close(&mut peer.out);
    peer.expect_sent("0b 01 01 00")
        .send("05 01 02 01 78")
        .expect_nothing();
    peer.finish(Err(Status::message("late")))
        .expect_sent("")
        .expect_nothing();
}

#[test]
fn a_handler_that_closed_and_lingers_is_told_that_the_peer_left() {
    let mut peer = Peer::invoked();
    peer.transport.close(&mut peer.out);
    peer.expect_nothing().transport.on_end(TransportError::Eof);
    peer.expect_end("manager closed: EOF");
}

#[test]
fn wire_038_sending_after_close_send_fails_and_takes_a_message_id() {
    let mut peer = Peer::invoked();
    peer.transport.close_send(&mut peer.out);
    let error = peer.send_message("x").unwrap_err();
    assert_eq!(error.text(), "drpc: send closed");
    let expected = "0d 01 01 00  07 01 03 19 0000000000000000 647270633a2073656e6420636c6f736564";
    peer.finish(Err(error)).expect_sent(expected);
}

#[test]
fn wire_039_a_call_closed_by_both_sides_is_over() {
    let mut peer = Peer::invoked();
    peer.transport.close_send(&mut peer.out);
    peer.send("0d 01 02 00").expect(Event::Cancelled);
    peer.finish(Err(Status::message("late")))
        .expect_sent("0d 01 01 00");
}

#[test]
fn wire_040_messages_after_an_early_end_are_discarded() {
    let mut peer = Peer::invoked();
    peer.finish(Ok(None)).expect_sent("0d 01 01 00");
    peer.send("05 01 02 01 78  05 01 03 01 78  0d 01 04 00")
        .expect_nothing();
}

#[test]
fn wire_044_an_error_after_messages() {
    let mut peer = Peer::invoked();
    peer.send_message("a").unwrap();
    peer.finish(Err(Status::message("boom")))
        .expect_sent("05 01 01 01 61  07 01 02 0c 0000000000000000 626f6f6d");
}

#[test]
fn wire_046_a_second_invoke_ends_the_transport() {
    Peer::invoked()
        .send("03 01 02 02 2f61")
        .expect_end("manager closed: protocol error: invoke on existing stream");
}

#[test]
fn wire_047_metadata_on_the_running_call() {
    Peer::invoked()
        .send("0f 01 02 00")
        .expect_end("manager closed: internal error: unknown packet kind: InvokeMetadata");
    Peer::invoked().send("8f 01 02 00").expect_nothing();
}

#[test]
fn wire_048_a_higher_stream_cancels_the_call_and_waits_for_its_handler() {
    let mut peer = Peer::invoked();
    peer.send("03 02 01 02 2f62")
        .expect(Event::Cancelled)
        .expect_nothing();
    assert_eq!(peer.transport.receive_error(), Some(Status::canceled()));
    peer.transport.handler_returned();
    peer.expect(Event::Invoke {
        path: "/b".into(),
        metadata: Default::default(),
    });
}

#[test]
fn wire_049_a_message_of_a_higher_stream_without_invoke() {
    let mut peer = Peer::invoked();
    peer.send("05 02 01 00")
        .expect(Event::Cancelled)
        .finish(reply("late"))
        .expect_sent("");
    peer.expect_end("manager closed: internal error: unknown packet kind: Message");
}

#[test]
fn wire_050_and_051_messages_after_close_send_are_dropped() {
    Peer::invoked()
        .send("0d 01 02 00  05 01 03 01 78  0d 01 04 00")
        .expect(Event::HalfClosed)
        .expect_nothing();
}

#[test]
fn wire_052_messages_before_close_send_come_first() {
    Peer::invoked()
        .send("05 01 02 01 61  05 01 03 01 62  0d 01 04 00")
        .expect_message("a")
        .expect_message("b")
        .expect(Event::HalfClosed);
}

#[test]
fn wire_061_the_peers_error_reaches_the_handler_and_is_not_answered() {
    let mut peer = Peer::invoked();
    peer.send("07 01 02 0a 0000000000000007 6e6f")
        .expect(Event::Cancelled);
    assert_eq!(peer.transport.receive_error(), Some(Status::new(7, "no")));
    assert_eq!(peer.send_message("x").unwrap_err().text(), "EOF");
    peer.finish(Err(Status::message("late"))).expect_sent("");
}

#[test]
fn wire_061_an_error_after_close_send_leaves_the_receiver_at_its_end() {
    let mut peer = Peer::invoked();
    peer.send("0d 01 02 00  07 01 03 08 0000000000000007")
        .expect(Event::HalfClosed)
        .expect(Event::Cancelled);
    assert_eq!(
        (peer.transport.receive_error(), peer.transport.receive_closed()),
        (None, true)
    );
}

#[test]
fn wire_063_a_long_error_is_one_frame() {
    let mut peer = Peer::invoked();
    peer.finish(Err(Status::message("x".repeat(100_000))));
    assert_eq!(peer.out.len(), 6 + 8 + 100_000);
    assert_eq!(&peer.out[..6], &bytes("07 01 01 a88d06")[..]);
}

#[test]
fn wire_065_to_068_metadata_belongs_to_the_invoke_of_its_stream() {
    let cases = [
        ("0f 01 01 08 0a06 0a016b 120176  03 01 02 02 2f61", Some("v")),
        ("0f 01 01 00  03 01 02 02 2f61", None),
        (
            "0f 01 01 08 0a06 0a016b 120176  0f 01 02 08 0a06 0a016b 120177  03 01 03 02 2f61",
            Some("w"),
        ),
        ("0f 01 01 08 0a06 0a016b 120176  03 02 01 02 2f61", None),
    ];
    for (hex, expected) in cases {
        let mut peer = Peer::new();
        peer.send(hex);
        let Some(Event::Invoke { metadata, .. }) = peer.transport.poll_event() else {
            panic!("{hex}")
        };
        assert_eq!(
            metadata.value(b"k").map(|value| &value[..]),
            expected.map(str::as_bytes),
            "{hex}"
        );
    }
}

#[test]
fn wire_069_bad_metadata_ends_the_transport() {
    Peer::new()
        .send("0f 01 01 03 616263  03 01 02 02 2f61")
        .expect_end("invalid data");
}

#[test]
fn wire_074_cancel_with_and_without_control_bit() {
    for hex in ["89 01 02 00", "09 01 02 00"] {
        let mut peer = Peer::invoked();
        peer.send(hex).expect(Event::Cancelled);
        assert_eq!(peer.transport.receive_error(), Some(Status::canceled()));
        peer.finish(Err(Status::canceled())).expect_sent("");
        peer.send("03 02 01 02 2f62").expect(Event::Invoke {
            path: "/b".into(),
            metadata: Default::default(),
        });
    }
}

#[test]
fn wire_078_an_end_before_any_packet_is_an_end_of_input() {
    let mut peer = Peer::new();
    peer.transport.on_end(TransportError::Eof);
    peer.expect_end("manager closed: EOF");
}

#[test]
fn wire_084_a_reply_over_four_mib_becomes_an_error() {
    let mut peer = Peer::invoked();
    peer.finish(Ok(Some(Reply::erased(Box::new(Raw(vec![0; 4_194_305]))))));
    let mut expected = bytes("07 01 02 26 0000000000000000").to_vec();
    expected.extend_from_slice(b"response exceeds 4194304 bytes");
    assert_eq!(peer.out, expected);
}

#[test]
fn the_first_end_of_input_counts() {
    let mut peer = Peer::new();
    peer.transport.on_end(TransportError::Reset);
    peer.transport.on_end(TransportError::Eof);
    peer.expect_end("manager closed: connection reset");
}

#[test]
fn a_client_writes_what_go_writes() {
    let mut out = BytesMut::new();
    let mut call = ClientCall::new("/t.S/Unary", &mut out);
    call.send(&Raw(b"hi".to_vec()), &mut out).unwrap();
    call.close_send(&mut out);
    call.close_send(&mut out);
    assert_eq!(
        out,
        bytes("03 01 01 0a 2f742e532f556e617279  05 01 02 02 6869  0d 01 03 00")
    );

    call.on_bytes(bytes("05 01 01 05 72653a6869  0d 01 02 00"));
    assert_eq!(call.poll_event(), Some(ClientEvent::Message("re:hi".into())));
    assert_eq!(call.poll_event(), Some(ClientEvent::Ended(Ok(()))));
    assert_eq!(call.poll_event(), None);
}

#[test]
fn a_client_sees_the_servers_error_with_its_code() {
    let mut call = ClientCall::new("/a", &mut BytesMut::new());
    call.on_bytes(bytes("07 01 01 0d 000000000000002a 636f646564"));
    assert_eq!(
        call.poll_event(),
        Some(ClientEvent::Ended(Err(Status::new(42, "coded"))))
    );
    assert_eq!(call.on_end(&TransportError::Eof), None);
}

#[test]
fn a_client_whose_transport_ends_is_cancelled() {
    let mut call = ClientCall::new("/a", &mut BytesMut::new());
    let cancelled = ClientEvent::Ended(Err(Status::canceled()));
    assert_eq!(call.on_end(&TransportError::Eof), Some(cancelled));
}
