//! Sizes and patience.

use std::time::Duration;

use crate::cases;
use crate::support::peer::{CREDIT, bytes, close_send, error, invoke, part, text, value};
use crate::support::raw::{FIN, SYN, WINDOW, drpc, frame, unhex};

/// The most that one packet may carry.
const MAX: usize = 4 << 20;

/// A message of exactly so many bytes.
fn sized(size: usize) -> Vec<u8> {
    let message = value(&"x".repeat(size - 5));
    assert_eq!(message.len(), size);
    message
}

/// The frames of a packet of so many bytes.
fn split(kind: u8, id: u64, data: &[u8]) -> Vec<u8> {
    let chunks: Vec<_> = data.chunks(65_536).collect();
    let (last, first) = chunks.split_last().unwrap();
    let mut frames = first
        .iter()
        .flat_map(|chunk| part(kind, 1, id, chunk))
        .collect::<Vec<_>>();
    frames.extend(drpc(kind, true, 1, id, last));
    frames
}

cases! {
    fn wire_081_messages_of_up_to_4_mib(peer) on drpcd | go {
        for message in [sized(MAX - 1), sized(MAX)] {
            peer.stream();
            peer.packets(&[invoke(1, 1, "/t/Join"), split(2, 2, &message), close_send(1, 3)]);
            peer.expect(&[split(2, 1, &message), close_send(1, 2)]);
            peer.finish();
        }
    }

    // Go refuses it when more bytes come with its end.
    fn wire_081_one_frame_of_4_mib_with_more_behind_it(peer) on drpcd {
        let message = sized(MAX);
        peer.stream();
        let more = text(1, 3, &"y".repeat(1_000));
        peer.packets(&[invoke(1, 1, "/t/Chat"), bytes(1, 2, &message), more.clone(), close_send(1, 4)]);
        peer.expect(&[split(2, 1, &message), text(1, 2, &"y".repeat(1_000)), close_send(1, 3)]);
        peer.finish();
    }

    fn wire_082_one_byte_more_than_4_mib(peer) on drpcd | go {
        peer.stream();
        let message = sized(MAX + 1);
        peer.packets(&[invoke(1, 1, "/t/Join"), split(2, 2, &message)]);
        peer.expect_fin();
        peer.await_note("log: manager closed: protocol error: data overflow (len:4194305)");
    }

    fn wire_083_a_declared_length_that_nobody_would_buffer(peer) on drpcd {
        peer.stream();
        peer.packets(&[invoke(1, 1, "/t/Join"), unhex("05 01 02 ff ff ff ff 0f"), vec![0x78; 1_000]]);
        peer.expect_fin();
    }

    // Go buffers 4 MiB before it says the same.
    fn wire_083_a_declared_length_once_4_mib_have_come(peer) on drpcd | go {
        peer.stream();
        peer.packets(&[invoke(1, 1, "/t/Join"), unhex("05 01 02 ff ff ff ff 0f")]);
        peer.send(&vec![0x78; MAX + 100]);
        peer.expect_fin();
    }

    fn wire_084_a_reply_over_4_mib_is_told_as_an_error(peer) on drpcd {
        peer.stream();
        peer.packets(&[invoke(1, 1, "/t/Repeat"), text(1, 2, &(MAX - 5).to_string()), close_send(1, 3)]);
        peer.expect(&[split(2, 1, &sized(MAX)), close_send(1, 2)]);
        peer.finish();
        peer.stream();
        peer.packets(&[invoke(1, 1, "/t/Repeat"), text(1, 2, &(MAX - 4).to_string()), close_send(1, 3)]);
        // The reply that was not sent has taken an id.
        peer.expect(&[error(1, 2, 0, "response exceeds 4194304 bytes")]);
        peer.finish();
    }

    // Ten minutes of it are a test with a driven clock, beside the code.
    fn wire_085_a_silent_stream_stays_open(peer) on drpcd | go {
        let id = peer.open();
        peer.until("acknowledgement", |peer| peer.incoming(id).acks == 1);
        std::thread::sleep(Duration::from_secs(1));
        peer.expect_nothing();
        peer.packets(&[invoke(1, 1, "/t/Echo"), text(1, 2, "hi"), close_send(1, 3)]);
        peer.expect(&[text(1, 1, "hi"), close_send(1, 2)]);
        peer.finish();
    }

    fn wire_086_a_client_that_stops_reading_bounds_what_is_sent_to_it(peer) on drpcd | go {
        peer.credits = false;
        let id = peer.stream();
        peer.packets(&[invoke(1, 1, "/t/Count"), text(1, 2, "1000 10000"), close_send(1, 3)]);
        peer.until("full window", |peer| peer.incoming(id).total >= CREDIT);
        assert_eq!(peer.ask("/t/Echo", "others flow"), "others flow");
        assert_eq!(peer.incoming(id).total, CREDIT);
        peer.fin();
        peer.await_note("Count ended");
    }

    fn wire_110_fast_output_keeps_its_order(peer) on drpcd | go {
        peer.credits = false;
        let id = peer.stream();
        // More than twice the credit.
        peer.packets(&[invoke(1, 1, "/t/Count"), text(1, 2, "1000 600"), close_send(1, 3)]);
        peer.until("full window", |peer| peer.incoming(id).total == CREDIT);
        peer.credits = true;
        peer.raw(&frame(WINDOW, 0, id, u32::try_from(CREDIT).unwrap(), &[]));
        let replies: Vec<_> = (0..1_000).map(|number| text(1, number + 1, &format!("{number:0>600}"))).collect();
        for some in replies.chunks(100) {
            peer.expect(some);
        }
        peer.expect(&[close_send(1, 1_001)]);
        peer.finish();
    }

    fn wire_089_six_hundred_idle_streams(peer) on drpcd | go {
        let mut streams = Vec::new();
        for _ in 0..6 {
            let batch: Vec<_> = (0..100).map(|_| peer.open()).collect();
            for id in &batch {
                peer.until("acknowledgement", |peer| peer.incoming(*id).acks == 1);
            }
            streams.extend(batch);
        }
        assert_eq!(peer.ask("/t/Echo", "hi"), "hi");
        for id in streams {
            let stream = peer.incoming(id);
            assert_eq!((stream.acks, stream.fins, stream.resets), (1, 0, 0), "stream {id}");
        }
    }

    fn wire_108_a_stream_too_many_costs_only_itself(peer) on drpcd {
        let chat = peer.stream();
        peer.packets(&[invoke(1, 1, "/t/Chat"), text(1, 2, "a")]);
        peer.expect(&[text(1, 1, "a")]);
        let mut last = chat;
        for _ in 1..4_096 {
            last = peer.open();
        }
        peer.until("acknowledgement", |peer| peer.incoming(last).acks == 1);
        let refused = peer.open();
        peer.until("reset", |peer| peer.incoming(refused).resets == 1);
        peer.current = chat;
        peer.packets(&[text(1, 3, "b")]);
        peer.expect(&[text(1, 2, "b")]);
        // One that ends makes room for another.
        peer.raw(&frame(WINDOW, FIN, last, 0, &[]));
        peer.until("end", |peer| peer.incoming(last).fins == 1);
        let id = peer.stream();
        peer.raw(&frame(WINDOW, SYN, id, 0, &[]));
        peer.until("acknowledgement", |peer| peer.incoming(id).acks == 1);
    }
}
