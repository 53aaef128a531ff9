//! Metadata of calls.

use crate::cases;
use crate::support::peer::{Peer, close_send, invoke, metadata, text};
use crate::support::raw::unhex;

/// Calls with these packets before the invoke, whose id is `id`, and expects what the handler saw.
#[track_caller]
fn sees(peer: &mut Peer, before: &[Vec<u8>], id: u64, seen: &str) {
    peer.stream();
    let call = [
        invoke(1, id, "/t/Metadata"),
        text(1, id + 1, ""),
        close_send(1, id + 2),
    ];
    peer.packets(&[before.concat(), call.concat()]);
    peer.expect(&[text(1, 1, seen), close_send(1, 2)]);
    peer.finish();
}

cases! {
    fn wire_065_metadata_reaches_the_handler(peer) on drpcd | go {
        sees(peer, &[metadata(1, 1, &unhex("0a06 0a016b 120176"))], 2, "k=v");
    }

    fn wire_066_empty_metadata_is_none(peer) on drpcd | go {
        sees(peer, &[metadata(1, 1, b"")], 2, "");
    }

    fn wire_067_of_two_metadata_packets_the_last_one_counts(peer) on drpcd | go {
        let packets = [metadata(1, 1, &unhex("0a06 0a016a 120176")), metadata(1, 2, &unhex("0a06 0a016b 120177"))];
        sees(peer, &packets, 3, "k=w");
    }

    fn wire_068_metadata_of_another_stream_is_ignored(peer) on drpcd | go {
        peer.stream();
        let call = [invoke(2, 1, "/t/Metadata"), text(2, 2, ""), close_send(2, 3)];
        peer.packets(&[metadata(1, 1, &unhex("0a06 0a016b 120176")), call.concat()]);
        peer.expect(&[text(2, 1, ""), close_send(2, 2)]);
        peer.finish();
    }

    fn wire_069_metadata_that_is_no_map_ends_the_transport(peer) on drpcd | go {
        let bad = [
            b"garbage".to_vec(),
            // The value before the key, a third field, and a length that says too little.
            unhex("0a06 120176 0a016b"),
            unhex("0a09 0a016b 120176 1a0178"),
            unhex("0a05 0a016b 120176"),
        ];
        for body in &bad {
            peer.stream();
            peer.packets(&[metadata(1, 1, body), invoke(1, 2, "/t/Metadata"), text(1, 3, "")]);
            peer.expect_fin();
        }
        peer.await_notes("log: invalid data", bad.len());
    }

    fn wire_070_of_two_equal_keys_the_last_one_counts(peer) on drpcd | go {
        sees(peer, &[metadata(1, 1, &unhex("0a06 0a016b 120176 0a06 0a016b 120177"))], 2, "k=w");
    }

    fn wire_071_a_recorded_trace_context_is_read(peer) on drpcd | go {
        let value = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let body = [&unhex("0a46 0a0b"), &b"traceparent"[..], &unhex("1237"), value.as_bytes()].concat();
        sees(peer, &[metadata(1, 1, &body)], 2, &format!("traceparent={value}"));
    }
}
