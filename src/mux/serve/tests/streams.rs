//! Streams of the session: acknowledgement, half-closing, limits.

use std::time::Duration;

use super::super::{ACK_BACKLOG, DRAIN_LIMIT};
use super::kit::*;
use crate::mux::session::MAX_STREAMS;

#[tokio::test(start_paused = true)]
async fn wire_088_ack_is_sent_within_200_ms() {
    for opening in [
        open(1, "/t/Chat"),
        call(1, "/t/Silent", ""),
        call(1, "/t/Sleep", "5000"),
        window(SYN, 1, 0),
    ] {
        let mut peer = Peer::new();
        peer.send(&[opening]).await;
        peer.expect_nothing();
        tokio::time::sleep(Duration::from_millis(200)).await;
        peer.expect(&[window(ACK, 1, 0)]);
        tokio::time::sleep(Duration::from_secs(4)).await;
        peer.expect_nothing();
    }
}

#[tokio::test(start_paused = true)]
async fn wire_087_a_late_reply_carries_no_second_ack() {
    let mut peer = Peer::new();
    peer.send(&[call(1, "/t/Sleep", "1000")]).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let flags: Vec<_> = frames(&peer.received()).iter().map(|frame| frame.1).collect();
    assert_eq!(flags, [ACK, 0]);
}

#[tokio::test(start_paused = true)]
async fn wire_088_many_streams_at_once_are_acknowledged_at_once() {
    let mut peer = Peer::new();
    let opening: Vec<_> = (0..ACK_BACKLOG)
        .map(|i| window(SYN, u32::try_from(i).unwrap() * 2 + 1, 0))
        .collect();
    peer.send(&opening).await;
    assert_eq!(frames(&peer.received()).len(), ACK_BACKLOG);
}

#[tokio::test(start_paused = true)]
async fn wire_085_a_stream_without_bytes_stays_open() {
    let mut peer = Peer::new();
    peer.send(&[window(SYN, 1, 0)]).await;
    // So does a silent call.
    peer.send(&[call(3, "/t/Silent", "")]).await;
    tokio::time::sleep(Duration::from_hours(1)).await;
    peer.expect(&[window(ACK, 1, 0), window(ACK, 3, 0)]);
    peer.send(&[data(0, 1, &[invoke("/t/Echo"), message(2, "x")].concat())])
        .await;
    peer.expect(&[data(0, 1, &[message(1, "re:x"), CLOSE_SEND_2.into()].concat())]);
}

/// The replies to calls of Echo that have come since the last look, by stream.
fn echoes(peer: &mut Peer) -> Vec<u32> {
    let reply = bytes(&[message(1, "re:x"), CLOSE_SEND_2.into()].concat());
    let frames = frames(&peer.received()).into_iter();
    let echoes = frames.filter(|frame| frame.4 == reply);
    echoes.map(|frame| frame.2).collect()
}

#[tokio::test(start_paused = true)]
async fn conn_041_a_stream_that_is_idle_for_ten_minutes_costs_the_others_nothing() {
    let mut peer = Peer::new();
    peer.send(&[window(SYN, 1, 0)]).await;
    for id in [3, 5, 7] {
        tokio::time::sleep(Duration::from_mins(10)).await;
        peer.send(&[call(id, "/t/Echo", "x")]).await;
        assert_eq!(echoes(&mut peer), [id]);
    }
}

#[tokio::test(start_paused = true)]
async fn conn_043_messages_may_hold_parts_of_frames_and_several_of_them() {
    let calls = bytes(&[1, 3, 5].map(|id| call(id, "/t/Echo", "x")).concat());
    for size in [1, 5, 12, 13, 29, calls.len()] {
        let mut peer = Peer::new();
        for part in calls.chunks(size) {
            peer.push(part);
            settle().await;
        }
        assert_eq!(echoes(&mut peer), [1, 3, 5], "in parts of {size}");
    }
}

#[tokio::test(start_paused = true)]
async fn wire_089_and_108_streams_up_to_the_cap() {
    let mut peer = Peer::new();
    for id in 0..u32::try_from(MAX_STREAMS).unwrap() {
        peer.push(&bytes(&call(id * 2 + 1, "/t/Silent", "")));
        settle().await;
    }
    peer.received();
    assert_eq!(peer.seen.running(), MAX_STREAMS);
    peer.send(&[call(9999, "/t/Silent", "")]).await;
    peer.expect(&[window(RST, 9999, 0)]);
    assert_eq!(peer.seen.running(), MAX_STREAMS);
}

#[tokio::test(start_paused = true)]
async fn wire_090_and_091_our_end_waits_for_the_peers() {
    for (path, request) in [
        ("/t/Echo", "x"),
        ("/t/Fail", "x"),
        ("/t/Leave", ""),
        ("/t/LeaveWithError", ""),
    ] {
        let mut peer = Peer::new();
        peer.send(&[call(1, path, request)]).await;
        tokio::time::sleep(Duration::from_mins(1)).await;
        let flags: Vec<_> = frames(&peer.received()).iter().map(|frame| frame.1).collect();
        assert_eq!(flags, [ACK], "{path}");
        peer.send(&[window(FIN, 1, 0)]).await;
        peer.expect(&[window(FIN, 1, 0)]);
        tokio::time::sleep(DRAIN_LIMIT * 4).await;
        peer.expect_nothing();
    }
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_never_closes_is_given_up_after_the_drain_limit() {
    let mut peer = Peer::new();
    peer.send(&[call(1, "/t/Echo", "x")]).await;
    peer.received();
    tokio::time::sleep(DRAIN_LIMIT.checked_sub(Duration::from_secs(1)).unwrap()).await;
    peer.expect_nothing();
    tokio::time::sleep(DRAIN_LIMIT + Duration::from_secs(2)).await;
    peer.expect(&[window(FIN, 1, 0)]);
    peer.send(&[data(0, 1, "ff")]).await;
    tokio::time::sleep(DRAIN_LIMIT + Duration::from_secs(2)).await;
    peer.expect(&[window(RST, 1, 0)]);
    // The session lives on.
    peer.send(&[call(3, "/t/Echo", "x")]).await;
    assert_eq!(frames(&peer.received()).len(), 1);
}

#[tokio::test(start_paused = true)]
async fn wire_049_a_fatal_packet_closes_one_stream_and_drains_it() {
    let mut peer = Peer::new();
    peer.send(&[open(1, "/t/Chat"), open(3, "/t/Chat")]).await;
    peer.send(&[data(0, 1, "05 02 01 00")]).await;
    peer.expect(&[window(ACK | FIN, 1, 0)]);
    let mut credit = 0;
    for _ in 0..40 {
        peer.send(&[data(0, 1, &"00".repeat(16 * 1024))]).await;
        credit += frames(&peer.received())
            .iter()
            .filter(|frame| frame.2 == 1)
            .map(|frame| frame.3)
            .sum::<u32>();
    }
    assert!(
        credit >= 256 * 1024,
        "a peer that goes on writing is not stuck: {credit}"
    );
    peer.send(&[window(FIN, 1, 0), data(0, 3, &message(2, "x"))])
        .await;
    assert!(peer.seen.take().contains(&"got x".to_owned()));
}
