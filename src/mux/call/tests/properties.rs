//! What holds for any bytes and any handler.

use proptest::prelude::*;

use super::*;
use crate::mux::frame::Kind;
use crate::mux::packet::PacketReader;

/// What happens to a transport.
#[derive(Clone, Debug)]
enum Step {
    Frame {
        control: u8,
        stream: u8,
        message: u8,
        data: Vec<u8>,
    },
    Garbage(Vec<u8>),
    End(u8),
    Poll,
    Send,
    CloseSend,
    Close,
    Finish(bool),
    HandlerReturned,
}

fn step() -> impl Strategy<Value = Step> {
    let data = || proptest::collection::vec(any::<u8>(), 0..10);
    prop_oneof![
        8 => (0_u8..=255, 1_u8..4, 1_u8..12, data())
            .prop_map(|(control, stream, message, data)| Step::Frame { control, stream, message, data }),
        8 => (prop_oneof![Just(0x03_u8), Just(0x05), Just(0x0d)], 1_u8..4, 1_u8..12, data())
            .prop_map(|(control, stream, message, data)| Step::Frame { control, stream, message, data }),
        1 => data().prop_map(Step::Garbage),
        1 => (0_u8..3).prop_map(Step::End),
        12 => Just(Step::Poll),
        3 => Just(Step::Send),
        1 => Just(Step::CloseSend),
        1 => Just(Step::Close),
        3 => any::<bool>().prop_map(Step::Finish),
        1 => Just(Step::HandlerReturned),
    ]
}

proptest! {
    /// Whatever a peer and a handler do: calls never overlap, what is sent is well-formed and in order, nothing is sent
    /// for a call after its last packet, and nothing at all happens after the end.
    #[test]
    fn any_sequence_of_steps_keeps_the_promises_to_the_shell(steps in proptest::collection::vec(step(), 0..60)) {
        let mut peer = Peer::new();
        let (mut running, mut over) = (false, false);
        let mut sent = PacketReader::new();
        let mut last_of_stream: Option<(u64, Kind)> = None;
        for step in steps {
            match step {
                Step::Frame { control, stream, message, data } => {
                    let len = u8::try_from(data.len()).unwrap();
                    let frame = [&[control, stream, message, len][..], &data].concat();
                    peer.transport.on_bytes(frame.into());
                }
                Step::Garbage(bytes) => peer.transport.on_bytes(bytes.into()),
                Step::End(0) => peer.transport.on_end(TransportError::Eof),
                Step::End(1) => peer.transport.on_end(TransportError::Reset),
                Step::End(_) => peer.transport.on_end(TransportError::Canceled),
                Step::Poll => match peer.transport.poll_event() {
                    None => {}
                    Some(_) if over => prop_assert!(false, "an event after the end"),
                    Some(Event::Invoke { .. }) => {
                        prop_assert!(!running, "a second call while one runs");
                        running = true;
                    }
                    Some(Event::Ended(_)) => over = true,
                    Some(Event::Message(_) | Event::HalfClosed | Event::Cancelled) => {
                        prop_assert!(running, "an event for nobody");
                    }
                },
                Step::Send if running => {
                    let expected = peer.transport.send_error();
                    prop_assert_eq!(peer.try_send("x").err(), expected);
                }
                Step::CloseSend if running => peer.transport.close_send(&mut peer.out),
                Step::Close if running => peer.transport.close(&mut peer.out),
                Step::Finish(ok) if running => {
                    peer.finish(if ok { reply("x") } else { failure("x") });
                    running = false;
                }
                Step::HandlerReturned if running => {
                    peer.transport.handler_returned();
                    running = false;
                }
                Step::Send | Step::CloseSend | Step::Close | Step::Finish(_) | Step::HandlerReturned => {}
            }
            let out = peer.out.split().freeze();
            prop_assert!(out.is_empty() || !over, "frames after the end");
            sent.push(out);
            while let Some(packet) = sent.next()? {
                if let Some((stream, kind)) = last_of_stream && stream == packet.id.stream {
                    let last = matches!(kind, Kind::ERROR | Kind::CLOSE);
                    prop_assert!(!last, "a packet after the last one");
                    let closed = kind == Kind::CLOSE_SEND && packet.kind == Kind::MESSAGE;
                    prop_assert!(!closed, "a message after CloseSend");
                }
                last_of_stream = Some((packet.id.stream, packet.kind));
            }
            prop_assert_eq!(sent.assembling() + sent.buffered(), 0, "half a frame");
        }
    }

    /// A handler that echoes answers the same however its peer's bytes are chopped.
    #[test]
    fn wire_002_chopping_changes_no_answer(
        frames in proptest::collection::vec((0_u8..=255, 1_u8..3, 0_u8..3, any::<u8>()), 0..20),
        cuts in proptest::collection::vec(0_usize..200, 0..20),
    ) {
        let mut message = 0;
        let mut bytes = bytes("03 01 01 02 2f61").to_vec();
        for (control, stream, gap, data) in frames {
            message += gap;
            bytes.extend([control, stream, message + 2, 1, data]);
        }
        let mut cuts: Vec<_> = cuts.into_iter().filter(|&cut| cut < bytes.len()).collect();
        cuts.sort_unstable();
        let every: Vec<_> = (1..bytes.len()).collect();
        let whole = echo(&bytes, &[]);
        prop_assert_eq!(&echo(&bytes, &cuts), &whole);
        prop_assert_eq!(&echo(&bytes, &every), &whole);
    }
}

/// Runs an echoing handler over `bytes`, cut after each of `cuts`, and gives its events and what it sent.
fn echo(bytes: &[u8], cuts: &[usize]) -> (Vec<Event>, BytesMut) {
    let mut peer = Peer::new();
    let mut events = Vec::new();
    let mut start = 0;
    for &end in cuts.iter().chain([&bytes.len()]) {
        peer.transport
            .on_bytes(Bytes::copy_from_slice(&bytes[start..end]));
        start = end;
        while let Some(event) = peer.transport.poll_event() {
            match &event {
                Event::Message(data) => {
                    // An echo to a peer that has left is lost.
                    let _ = peer.transport.send(&Raw(data.to_vec()), &mut peer.out);
                }
                Event::HalfClosed => peer.transport.finish(reply("end"), &mut peer.out),
                Event::Cancelled => peer.transport.handler_returned(),
                Event::Invoke { .. } | Event::Ended(_) => {}
            }
            events.push(event);
        }
    }
    (events, peer.out)
}
