//! `wire.md` §8, metadata: which call it belongs to. Its body is tested beside [`Metadata`].

use super::*;

#[track_caller]
fn assert_value(hex: &str, expected: Option<&[u8]>) {
    let mut peer = Peer::new();
    peer.send(hex);
    let Some(Event::Invoke { metadata, .. }) = peer.transport.poll_event() else {
        panic!("no call began")
    };
    assert_eq!(metadata.value(b"k"), expected);
    assert_eq!(metadata.is_empty(), expected.is_none());
}

#[test]
fn wire_065_metadata_belongs_to_the_invoke_behind_it() {
    assert_value("0f 01 01 08 0a060a016b120176  03 01 02 02 2f61", Some(b"v"));
}

#[test]
fn wire_066_an_empty_packet_is_no_metadata() {
    assert_value("0f 01 01 00  03 01 02 02 2f61", None);
}

#[test]
fn wire_067_of_two_packets_only_the_last_counts() {
    let second = "0f 01 02 08 0a060a016b120177  03 01 03 02 2f61";
    assert_value(&format!("0f 01 01 08 0a060a016b120176 {second}"), Some(b"w"));
    assert_value(
        "0f 01 01 08 0a060a016b120176  0f 01 02 00  03 01 03 02 2f61",
        None,
    );
}

#[test]
fn wire_068_metadata_of_another_stream_is_ignored() {
    assert_value("0f 01 01 08 0a060a016b120176  03 02 01 02 2f61", None);
}

#[test]
fn metadata_of_one_call_does_not_reach_the_next() {
    let mut peer = Peer::new();
    peer.send("0f 01 01 08 0a060a016b120176  03 01 02 02 2f61");
    assert!(matches!(peer.transport.poll_event(), Some(Event::Invoke { .. })));
    peer.finish(Ok(None))
        .send("03 02 01 02 2f62")
        .expect(invoke("/b"));
}

#[test]
fn wire_069_bad_metadata_ends_the_transport() {
    Peer::new()
        .send("0f 01 01 03 616263  03 01 02 02 2f61")
        .expect_end("invalid data");
}

#[test]
fn metadata_does_not_keep_its_chunk_alive() {
    let chunk = bytes("0f 01 01 08 0a060a016b120176");
    let mut transport = Transport::new();
    transport.on_bytes(chunk.clone());
    assert_eq!(transport.poll_event(), None);
    assert!(chunk.is_unique());
}
