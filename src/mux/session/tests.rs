//! The session's rules as transcripts, chopped input, and an independent implementation as the peer.

mod peer_crate;

use bytes::{Bytes, BytesMut};
use proptest::prelude::*;

use super::*;

/// Both ends of a transcript: what the peer sends and what it gets are written as hexadecimal, spaces between fields.
struct Peer(Session);

const SYN_1: &str = "00 01 0001 00000001 00000000";

fn bytes(hex: &str) -> Bytes {
    let digits: Vec<_> = hex.chars().filter_map(|digit| digit.to_digit(16)).collect();
    digits
        .chunks(2)
        .map(|pair| u8::try_from(pair[0] << 4 | pair[1]).unwrap())
        .collect()
}

/// `count` bytes of payload, in hexadecimal.
fn payload(count: usize) -> String {
    "61".repeat(count)
}

impl Peer {
    fn server() -> Self {
        Self(Session::new(Role::Server))
    }

    fn client() -> Self {
        Self(Session::new(Role::Client))
    }

    /// A server with stream 1 open and acknowledged.
    fn opened() -> Self {
        let mut peer = Self::server();
        peer.send(SYN_1)
            .expect(Event::Opened(StreamId(1)))
            .expect_nothing();
        peer.0.ack_all();
        peer.expect_sent("00 01 0002 00000001 00000000");
        peer
    }

    #[track_caller]
    fn send(&mut self, hex: &str) -> &mut Self {
        self.0.on_bytes(bytes(hex));
        self
    }

    #[track_caller]
    fn expect(&mut self, event: Event) -> &mut Self {
        assert_eq!(self.0.poll_event(), Some(event));
        self
    }

    #[track_caller]
    fn expect_data(&mut self, id: u32, data: &'static str) -> &mut Self {
        self.expect(Event::Data(StreamId(id), Bytes::from_static(data.as_bytes())))
    }

    #[track_caller]
    fn expect_nothing(&mut self) -> &mut Self {
        assert_eq!(self.0.poll_event(), None);
        self
    }

    #[track_caller]
    fn expect_sent(&mut self, hex: &str) -> &mut Self {
        assert_eq!(self.0.output().split().freeze(), bytes(hex));
        self
    }

    fn write(&mut self, id: u32, data: &[u8]) -> usize {
        self.0.send(StreamId(id), &mut BytesMut::from(data))
    }
}

#[test]
fn golden_unary_call() {
    let mut peer = Peer::server();
    peer.send("00 01 0001 00000001 00000000")
        .expect(Event::Opened(StreamId(1)))
        .expect_nothing();
    peer.send("00 00 0000 00000001 00000004").expect_nothing();
    peer.send("0d010300")
        .expect_data(1, "\x0d\x01\x03\0")
        .expect_nothing();
    peer.write(1, &bytes("05 01 01 02 6869  0d 01 02 00"));
    peer.expect_sent("00 00 0002 00000001 0000000a  05 01 01 02 6869  0d 01 02 00");
    peer.send("00 01 0004 00000001 00000000")
        .expect(Event::Fin(StreamId(1)));
    peer.0.fin(StreamId(1));
    peer.expect_sent("00 01 0004 00000001 00000000").expect_nothing();
    assert_eq!(peer.0.stream_count(), 0);
}

#[test]
fn golden_client_frames() {
    let mut peer = Peer::client();
    assert_eq!(peer.0.open(), Ok(StreamId(1)));
    assert_eq!(peer.0.open(), Ok(StreamId(3)));
    peer.expect_sent("");
    peer.write(3, b"hi");
    peer.write(3, b"ho");
    peer.expect_sent("00 00 0001 00000003 00000002 6869  00 00 0000 00000003 00000002 686f");
    peer.send("00 00 0002 00000003 00000002 6f6b")
        .expect_data(3, "ok")
        .expect_nothing();
    peer.0.fin(StreamId(3));
    peer.0.reset(StreamId(1));
    // The peer never heard of stream 1.
    peer.expect_sent("00 01 0004 00000003 00000000");
}

#[test]
fn wire_087_the_first_frame_carries_ack_exactly_once() {
    let mut peer = Peer::server();
    peer.send(SYN_1).expect(Event::Opened(StreamId(1)));
    assert_eq!(peer.0.unacked(), 1);
    peer.write(1, b"a");
    peer.0.ack_all();
    peer.write(1, b"b");
    peer.0.fin(StreamId(1));
    peer.expect_sent(
        "00 00 0002 00000001 00000001 61  00 00 0000 00000001 00000001 62  00 01 0004 00000001 00000000",
    );
    assert_eq!(peer.0.unacked(), 0);
}

#[test]
fn wire_087_credit_can_carry_the_ack() {
    let mut peer = Peer::server();
    let half = payload(128 * 1024);
    peer.send(&format!("00 00 0001 00000001 00020000 {half}"))
        .expect(Event::Opened(StreamId(1)));
    let Some(Event::Data(_, data)) = peer.0.poll_event() else {
        panic!("data expected")
    };
    peer.0.consumed(StreamId(1), data.len());
    peer.0.ack_all();
    peer.expect_sent("00 01 0002 00000001 00020000");
}

#[test]
fn wire_089_six_hundred_streams_stay_open() {
    let mut peer = Peer::server();
    for id in (1..=1199).step_by(2) {
        peer.send(&format!("00 01 0001 {id:08x} 00000000"))
            .expect(Event::Opened(StreamId(id)));
    }
    peer.expect_nothing().expect_sent("");
    assert_eq!(peer.0.stream_count(), 600);
}

#[test]
fn wire_090_fin_is_sent_once() {
    let mut peer = Peer::opened();
    peer.0.fin(StreamId(1));
    peer.0.fin(StreamId(1));
    assert_eq!(peer.write(1, b"late"), 0);
    peer.expect_sent("00 01 0004 00000001 00000000");
    peer.send("00 01 0004 00000001 00000000")
        .expect(Event::Fin(StreamId(1)));
    peer.0.fin(StreamId(1));
    peer.0.reset(StreamId(1));
    peer.expect_sent("");
}

#[test]
fn wire_093_a_ping_is_answered_with_its_own_value() {
    let mut peer = Peer::server();
    peer.send("00 02 0001 00000000 deadbeef")
        .expect_nothing()
        .expect_sent("00 02 0002 00000000 deadbeef");
}

#[test]
fn wire_093_a_ping_is_answered_behind_a_full_output() {
    let mut peer = Peer::opened();
    while peer.write(1, &[0; 8192]) > 0 {}
    assert_eq!(peer.0.sendable(StreamId(1)), 0);
    peer.send("00 02 0001 00000000 00000007").expect_nothing();
    assert!(peer.0.output().ends_with(&bytes("00 02 0002 00000000 00000007")));
}

#[test]
fn a_flood_of_pings_is_noticed() {
    let mut peer = Peer::server();
    let pings = "00 02 0001 00000000 00000007".repeat(1000);
    let mut floods = 0;
    while !peer.0.is_flooded() {
        peer.send(&pings).expect_nothing();
        floods += 1;
        assert!(floods < 100);
    }
    assert!(peer.0.output().len() < 256 * 1024);
}

#[test]
fn wire_094_an_own_ping_uses_syn_and_any_pong_is_ignored() {
    let mut peer = Peer::server();
    peer.0.ping();
    peer.0.ping();
    peer.expect_sent("00 02 0001 00000000 00000000  00 02 0001 00000000 00000001");
    peer.send("00 02 0002 00000000 00000001  00 02 0002 00000000 12345678")
        .expect_nothing()
        .expect_sent("");
}

#[test]
fn wire_095_data_with_syn_opens_and_delivers() {
    let mut peer = Peer::server();
    peer.send("00 00 0001 00000001 00000002 6869")
        .expect(Event::Opened(StreamId(1)))
        .expect_data(1, "hi")
        .expect_nothing();
}

#[test]
fn wire_096_frames_of_unknown_streams_are_ignored() {
    let mut peer = Peer::opened();
    peer.send("00 00 0000 00000009 00000003 616161  00 01 0000 00000009 00020000")
        .expect_nothing()
        .send("00 01 0008 00000009 00000000  00 01 0004 00000009 00000000")
        .expect_nothing()
        .send("00 00 0000 00000001 00000001 78")
        .expect_data(1, "x")
        .expect_sent("");
}

#[test]
fn wire_097_a_duplicate_syn_ends_the_session() {
    let mut peer = Peer::opened();
    peer.send(SYN_1)
        .expect(Event::Fatal(SessionError::DuplicateStream))
        .expect_nothing();
    peer.expect_sent("00 03 0000 00000000 00000001");
    assert_eq!(
        SessionError::DuplicateStream.to_string(),
        "duplicate stream initiated"
    );
    peer.send(SYN_1).expect_nothing();
}

#[test]
fn wire_098_a_bad_version_or_type_ends_the_session() {
    for (hex, error) in [
        ("01 00 0000 00000000 00000000", SessionError::Version),
        ("00 04 0000 00000000 00000000", SessionError::FrameType),
        ("474554202f20485454502f31", SessionError::Version),
    ] {
        Peer::server()
            .send(hex)
            .expect(Event::Fatal(error))
            .expect_nothing()
            .expect_sent("");
    }
}

#[test]
fn wire_099_data_beyond_the_window_ends_the_session() {
    let mut peer = Peer::opened();
    // Refused with the header: nothing is buffered for an announced length.
    peer.send("00 00 0000 00000001 00040001")
        .expect(Event::Fatal(SessionError::WindowExceeded))
        .expect_sent("00 03 0000 00000000 00000001");
}

#[test]
fn wire_099_what_was_not_consumed_counts() {
    let mut peer = Peer::opened();
    peer.send(&format!("00 00 0000 00000001 00040000 {}", payload(256 * 1024)));
    let Some(Event::Data(id, data)) = peer.0.poll_event() else {
        panic!("data expected")
    };
    assert_eq!(data.len(), 256 * 1024);
    peer.0.consumed(id, 128 * 1024 - 1);
    peer.expect_nothing().expect_sent("");
    peer.0.consumed(id, 1);
    peer.expect_sent("00 01 0000 00000001 00020000");
    peer.send("00 00 0000 00000001 00020001")
        .expect(Event::Fatal(SessionError::WindowExceeded));
}

#[test]
fn wire_100_flags_may_be_combined_and_unknown_bits_are_nothing() {
    let mut peer = Peer::server();
    peer.send("00 00 fff5 00000001 00000002 6869")
        .expect(Event::Opened(StreamId(1)))
        .expect_data(1, "hi")
        .expect(Event::Fin(StreamId(1)))
        .expect_nothing();
    peer.0.fin(StreamId(1));
    peer.expect_sent("00 01 0006 00000001 00000000");

    let mut peer = Peer::client();
    peer.0.open().unwrap();
    peer.write(1, b"x");
    peer.send("00 01 0006 00000001 00000000")
        .expect(Event::Fin(StreamId(1)));
    assert_eq!(peer.0.unacked(), 0);
}

#[test]
fn wire_108_a_stream_too_many_is_reset_alone() {
    let mut peer = Peer::server();
    for id in 0..u32::try_from(MAX_STREAMS).unwrap() {
        let id = 2 * id + 1;
        peer.send(&format!("00 01 0001 {id:08x} 00000000"))
            .expect(Event::Opened(StreamId(id)));
    }
    peer.send("00 00 0001 0000ffff 00000002 6869  00 00 0000 00000001 00000002 6869")
        .expect_data(1, "hi")
        .expect_nothing()
        .expect_sent("00 01 0008 0000ffff 00000000");
}

#[test]
fn credit_bounds_what_is_sent_and_its_return_is_told() {
    let mut peer = Peer::opened();
    let mut sent = 0;
    loop {
        let n = peer.write(1, &[0; 20_000]);
        peer.0.output().clear();
        sent += n;
        if n == 0 {
            break;
        }
    }
    assert_eq!(sent, 256 * 1024);
    peer.send("00 01 0000 00000001 00000003")
        .expect(Event::Writable(StreamId(1)))
        .expect_nothing();
    assert_eq!(peer.write(1, b"abcdef"), 3);
    peer.expect_sent("00 00 0000 00000001 00000003 616263");
}

#[test]
fn a_second_fin_of_the_peer_ends_the_session() {
    let mut peer = Peer::opened();
    peer.send("00 01 0004 00000001 00000000")
        .expect(Event::Fin(StreamId(1)));
    peer.send("00 01 0004 00000001 00000000")
        .expect(Event::Fatal(SessionError::UnexpectedFlag));
}

#[test]
fn data_after_the_peers_fin_is_dropped() {
    let mut peer = Peer::opened();
    peer.send("00 01 0004 00000001 00000000")
        .expect(Event::Fin(StreamId(1)));
    peer.send("00 00 0000 00000001 00000001 61").expect_nothing();
}

#[test]
fn the_peers_reset_forgets_the_stream() {
    let mut peer = Peer::opened();
    peer.send("00 01 0008 00000001 00000000")
        .expect(Event::Reset(StreamId(1)));
    assert_eq!((peer.0.stream_count(), peer.write(1, b"x")), (0, 0));
    peer.0.fin(StreamId(1));
    peer.expect_sent("");
}

#[test]
fn a_go_away_stops_opening_but_not_what_runs() {
    let mut peer = Peer::client();
    peer.0.open().unwrap();
    peer.send("00 03 0000 00000000 00000000")
        .expect(Event::GoAway)
        .expect_nothing();
    assert_eq!(peer.0.open(), Err(OpenError::GoAway));
    assert_eq!(peer.write(1, b"x"), 1);
    for (code, error) in [
        (1, SessionError::PeerProtocolError),
        (2, SessionError::PeerInternalError),
        (9, SessionError::PeerGoAway),
    ] {
        Peer::server()
            .send(&format!("00 03 0000 00000000 {code:08x}"))
            .expect(Event::Fatal(error));
    }
}

#[test]
fn a_client_waits_for_answers_after_256_streams() {
    let mut peer = Peer::client();
    for _ in 0..256 {
        peer.0.open().unwrap();
    }
    assert_eq!(peer.0.open(), Err(OpenError::Full));
    peer.send("00 01 0002 00000001 00000000").expect_nothing();
    assert_eq!(peer.0.open(), Ok(StreamId(513)));
}

#[test]
fn a_client_refuses_streams_of_the_peer() {
    let mut peer = Peer::client();
    peer.send("00 00 0001 00000002 00000001 61")
        .expect_nothing()
        .expect_sent("00 01 0008 00000002 00000000");
}

#[test]
fn an_end_within_a_frame_is_told_apart() {
    let mut peer = Peer::opened();
    assert!(!peer.0.is_mid_frame());
    peer.send("00 00 00").expect_nothing();
    assert!(peer.0.is_mid_frame());
    peer.send("00 00000001 00000002 61")
        .expect_data(1, "a")
        .expect_nothing();
    assert!(peer.0.is_mid_frame());
    peer.send("62").expect_data(1, "b").expect_nothing();
    assert!(!peer.0.is_mid_frame());
}

#[test]
fn an_idle_session_is_small() {
    assert!(size_of::<Session>() <= 256, "{}", size_of::<Session>());
    assert!(size_of::<Flow>() <= 24, "{}", size_of::<Flow>());
}

proptest! {
    /// However the input is chopped, the same events come out, data joined.
    #[test]
    fn wire_107_borders_of_chunks_mean_nothing(
        frames in proptest::collection::vec((0_u8..6, 1_u32..4, 0_usize..40), 0..40),
        cuts in proptest::collection::vec(1_usize..30, 1..20),
    ) {
        let mut input = BytesMut::new();
        for (kind, id, len) in frames {
            let frame = match kind {
                0 => format!("00 01 0001 {id:08x} 00000000"),
                1 => format!("00 00 0000 {id:08x} {len:08x} {}", payload(len)),
                2 => format!("00 00 0001 {id:08x} {len:08x} {}", payload(len)),
                3 => format!("00 01 0004 {id:08x} 00000000"),
                4 => format!("00 01 0008 {id:08x} 00000000"),
                _ => format!("00 02 0001 00000000 {len:08x}"),
            };
            input.extend_from_slice(&bytes(&frame));
        }
        let whole = run(std::iter::once(input.clone().freeze()));
        let mut rest = input.freeze();
        let chopped = run(cuts.iter().cycle().map_while(move |cut| {
            (!rest.is_empty()).then(|| rest.split_to(rest.len().min(*cut)))
        }));
        prop_assert_eq!(whole, chopped);
    }

    /// No input makes the session panic or hold more than it should.
    #[test]
    fn any_input_is_survived(chunks in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..64), 0..20)) {
        let mut session = Session::new(Role::Server);
        for chunk in chunks {
            session.on_bytes(chunk.into());
            while let Some(event) = session.poll_event() {
                if let Event::Data(id, data) = event {
                    session.consumed(id, data.len());
                }
            }
        }
        prop_assert!(session.stream_count() <= MAX_STREAMS);
    }
}

/// The events as text, with the data of neighbouring events joined, and the output.
fn run(chunks: impl Iterator<Item = Bytes>) -> (Vec<String>, Bytes) {
    let mut session = Session::new(Role::Server);
    let mut events: Vec<String> = Vec::new();
    let mut last_data = None;
    for chunk in chunks {
        session.on_bytes(chunk);
        while let Some(event) = session.poll_event() {
            match event {
                Event::Data(id, data) if last_data == Some(id) => {
                    events.last_mut().unwrap().push_str(&"a".repeat(data.len()));
                }
                Event::Data(id, data) => {
                    events.push(format!("{id} {}", "a".repeat(data.len())));
                    last_data = Some(id);
                    continue;
                }
                other => {
                    events.push(format!("{other:?}"));
                    last_data = None;
                }
            }
        }
    }
    (events, session.output().split().freeze())
}
