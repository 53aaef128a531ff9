//! What waits costs no more memory than is counted.

use std::time::Duration;

use bytes::BytesMut;

use super::super::SESSION_SEND_BUFFER;
use super::back_pressure::queue;
use super::kit::*;
use crate::mux::pipe::Pipe as _;

/// Sends `frames` in one message with a frame for nobody, and whether the server then has let go of that message.
async fn leaves_nothing_of_its_message(peer: &mut Peer, frames: &str) -> bool {
    const FILLER: usize = 16 * 1024;
    let filler = data(0, 999, &"00".repeat(FILLER));
    let mut out = BytesMut::from(&bytes(&[frames, &filler].concat())[..]);
    let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
    assert!(peer.pipe.poll_send(&mut cx, &mut out).is_ready() && out.is_empty());
    settle().await;
    // Only the last holder of a buffer gets all of it back.
    out.try_reclaim(FILLER)
}

#[tokio::test(start_paused = true)]
async fn a_call_that_waits_to_begin_keeps_nothing_of_the_message_that_it_came_in() {
    let mut peer = Peer::new();
    queue(&mut peer, SESSION_SEND_BUFFER).await;
    assert!(leaves_nothing_of_its_message(&mut peer, &call(1, "/t/Echo", "x")).await);
    assert!(leaves_nothing_of_its_message(&mut peer, &call(3, "/t/Echo", "x")).await);
    queue(&mut peer, 0).await;
    peer.expect_seen(&["/t/Echo Done", "/t/Echo Done"]);
}

#[tokio::test(start_paused = true)]
async fn messages_that_nobody_reads_keep_nothing_of_the_message_that_they_came_in() {
    let mut peer = Peer::new();
    let begin = data(SYN, 1, &[invoke("/t/Deaf"), message(2, "x")].concat());
    assert!(leaves_nothing_of_its_message(&mut peer, &begin).await);
    for id in [3, 4] {
        let more = data(0, 1, &message(id, "x"));
        assert!(leaves_nothing_of_its_message(&mut peer, &more).await, "{id}");
    }
}

#[tokio::test(start_paused = true)]
async fn input_is_read_again_at_once_after_a_flood_of_pings_has_gone_out() {
    const PING: &str = "000200010000000000000007";
    // A pipe full of answers, and more of them than may wait behind it: the last thousand is not read.
    const THOUSANDS: usize = 34;
    let mut peer = Peer::with_capacity(256 * 1024);
    let pings = bytes(&PING.repeat(1_000));
    for _ in 0..THOUSANDS {
        peer.push(&pings);
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    let first = peer.received().concat().len();
    assert!(
        (256 * 1024..THOUSANDS * pings.len() - 128 * 1024).contains(&first),
        "{first}"
    );
    // The rest goes out all at once, and nothing else happens.
    settle().await;
    let rest = peer.received().concat().len();
    assert_eq!(first + rest, THOUSANDS * pings.len());
}
