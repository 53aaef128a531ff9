//! The client's end.

use super::*;
use crate::mux::call::{ClientCall, ClientEvent};

const ENDED: Option<ClientEvent> = Some(ClientEvent::Ended(Ok(())));

#[expect(clippy::unnecessary_wraps, reason = "reads as what was polled")]
fn failed(status: Status) -> Option<ClientEvent> {
    Some(ClientEvent::Ended(Err(status)))
}

/// A call of `/a`, and where it writes what follows its Invoke.
fn begun() -> (ClientCall, BytesMut) {
    (ClientCall::new("/a", &mut BytesMut::new()), BytesMut::new())
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
    assert_eq!(call.poll_event(), ENDED);
    assert_eq!(call.poll_event(), None);
}

#[test]
fn a_client_sends_metadata_before_its_invoke() {
    let mut out = BytesMut::new();
    ClientCall::with_metadata("/a", &[(b"k", b"v")], &mut out);
    assert_eq!(out, bytes("0f 01 01 08 0a060a016b120176  03 01 02 02 2f61"));
}

#[test]
fn a_client_sees_the_servers_error_with_its_code() {
    let (mut call, mut out) = begun();
    call.on_bytes(bytes("07 01 01 0d 000000000000002a 636f646564"));
    assert_eq!(call.poll_event(), failed(Status::new(42, "coded")));
    assert_eq!(call.send(&raw(1), &mut out).unwrap_err().text(), "EOF");
    assert_eq!(call.on_end(&TransportError::Eof), None);
}

#[test]
fn a_client_may_go_on_after_the_servers_close_send() {
    let (mut call, mut out) = begun();
    call.on_bytes(bytes("0d 01 01 00  05 01 02 00"));
    assert_eq!(call.poll_event(), Some(ClientEvent::HalfClosed));
    assert_eq!(call.poll_event(), None);
    call.send(&Raw(b"x".to_vec()), &mut out).unwrap();
    call.close_send(&mut out);
    assert_eq!(out, bytes("05 01 02 01 78  0d 01 03 00"));
    assert_eq!(call.on_end(&TransportError::Eof), None, "both sides had closed");
}

#[test]
fn a_client_that_was_told_the_end_of_messages_is_not_told_an_error() {
    for end in ["07 01 02 08 0000000000000007", "89 01 02 00", "0b 01 02 00"] {
        let (mut call, _) = begun();
        call.on_bytes(bytes("0d 01 01 00"));
        call.on_bytes(bytes(end));
        assert_eq!(call.poll_event(), Some(ClientEvent::HalfClosed));
        assert_eq!(call.poll_event(), ENDED);
    }
}

#[test]
fn the_servers_close_ends_the_call_without_error() {
    let (mut call, mut out) = begun();
    call.on_bytes(bytes("05 01 01 01 78  0b 01 02 00"));
    assert_eq!(call.poll_event(), Some(ClientEvent::Message("x".into())));
    assert_eq!(call.poll_event(), ENDED);
    let text = "closed: remote closed the stream";
    assert_eq!(call.send(&raw(1), &mut out).unwrap_err().text(), text);
    call.close_send(&mut out);
    call.close(&mut out);
    assert!(out.is_empty());
}

#[test]
fn the_servers_cancel_ends_the_call() {
    for hex in ["89 01 01 00", "09 01 01 00"] {
        let (mut call, _) = begun();
        call.on_bytes(bytes(hex));
        assert_eq!(call.poll_event(), failed(Status::canceled()));
    }
}

#[test]
fn a_clients_close_ends_the_call() {
    let (mut call, mut out) = begun();
    call.close(&mut out);
    call.close(&mut out);
    assert_eq!(out, bytes("0b 01 02 00"));
    call.on_bytes(bytes("05 01 01 00"));
    assert_eq!(call.poll_event(), None);
    assert_eq!(
        call.send(&raw(1), &mut out).unwrap_err().text(),
        "drpc: stream terminated by sending close"
    );
}

#[test]
fn a_client_may_not_send_after_close_send() {
    let (mut call, mut out) = begun();
    call.close_send(&mut out);
    assert_eq!(
        call.send(&raw(1), &mut out).unwrap_err().text(),
        "drpc: send closed"
    );
    assert_eq!(out, bytes("0d 01 02 00"));
}

#[test]
fn packets_that_mean_nothing_to_a_client() {
    let cases = [
        (
            "03 01 01 00",
            "manager closed: protocol error: invoke on existing stream",
        ),
        (
            "11 01 01 00",
            "manager closed: internal error: unknown packet kind: Kind(8)",
        ),
        ("05 02 01 00", "context canceled"),
        (
            "05 01 00 00",
            "manager closed: protocol error: id monotonicity violation (fr:<id s:1 m:0> r:<id s:1 m:1>)",
        ),
    ];
    for (hex, text) in cases {
        let (mut call, _) = begun();
        call.on_bytes(bytes(hex));
        assert_eq!(call.poll_event(), failed(Status::message(text)), "{hex}");
    }
    let (mut call, _) = begun();
    call.on_bytes(bytes("91 01 01 00"));
    assert_eq!(call.poll_event(), None);
}

#[test]
fn a_client_whose_transport_ends_is_cancelled() {
    let (mut call, _) = begun();
    assert_eq!(call.on_end(&TransportError::Eof), failed(Status::canceled()));
    assert_eq!(call.on_end(&TransportError::Eof), None);
}

#[test]
fn both_ends_understand_each_other() {
    let (mut request, mut answer) = (BytesMut::new(), BytesMut::new());
    let mut call = ClientCall::with_metadata("/a", &[(b"k", b"v")], &mut request);
    call.send(&raw(200_000), &mut request).unwrap();
    call.close_send(&mut request);
    let mut server = Transport::new();
    server.on_bytes(request.freeze());
    let Some(Event::Invoke { path, metadata }) = server.poll_event() else {
        panic!("no call began")
    };
    assert_eq!((&path[..], metadata.value(b"k")), (&b"/a"[..], Some(&b"v"[..])));
    assert_eq!(server.poll_event(), Some(Event::Message(raw(200_000).0.into())));
    assert_eq!(server.poll_event(), Some(Event::HalfClosed));
    server.finish(reply("done"), &mut answer);
    call.on_bytes(answer.freeze());
    assert_eq!(call.poll_event(), Some(ClientEvent::Message("done".into())));
    assert_eq!(call.poll_event(), ENDED);
}
