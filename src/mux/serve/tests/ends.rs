//! Cancellation, ends of streams and sessions, and what is logged of them.

use std::time::Duration;

use super::kit::*;
use crate::mux::pipe::CloseCode;
use crate::mux::serve::{CloseCause, ServeError, SessionEnd};

#[tokio::test(start_paused = true)]
async fn wire_072_fin_cancels_a_unary_handler_without_a_word() {
    let mut peer = Peer::new();
    peer.send(&[call(1, "/t/Sleep", "1000")]).await;
    assert_eq!(peer.seen.running(), 1);
    peer.send(&[window(FIN, 1, 0)]).await;
    peer.expect(&[window(ACK | FIN, 1, 0)]);
    assert_eq!(peer.seen.running(), 0);
    peer.expect_seen(&["/t/Sleep Cancelled"]);
}

#[tokio::test(start_paused = true)]
async fn wire_073_fin_cancels_a_handler_that_receives() {
    for path in ["/t/Chat", "/t/FarChat"] {
        let mut peer = Peer::new();
        peer.send(&[open(1, path), window(FIN, 1, 0)]).await;
        peer.expect(&[window(ACK | FIN, 1, 0)]);
        settle().await;
        let seen = peer.seen.take();
        assert!(
            seen.iter().any(|line| line == "recv: 0 context canceled"),
            "{path}: {seen:?}"
        );
        assert_eq!(peer.seen.running(), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn wire_073_fin_cancels_a_handler_that_sends() {
    let mut peer = Peer::new();
    peer.send(&[call(1, "/t/Count", "1000")]).await;
    assert_eq!(peer.seen.running(), 1);
    peer.received();
    peer.send(&[window(FIN, 1, 0)]).await;
    peer.expect(&[window(FIN, 1, 0)]);
    assert_eq!(peer.seen.running(), 0);
}

#[tokio::test(start_paused = true)]
async fn wire_074_cancel_ends_the_call_and_not_the_transport() {
    let mut peer = Peer::new();
    peer.send(&[data(SYN, 1, &[invoke("/t/Chat"), "09010200".into()].concat())])
        .await;
    peer.expect_nothing();
    peer.expect_seen(&["recv: 0 context canceled", "/t/Chat Cancelled"]);
    peer.send(&[data(0, 1, "03 02 01 07 2f742f4563686f  05 02 02 03 0a0162")])
        .await;
    assert_eq!(frames(&peer.received()).len(), 1);
}

#[tokio::test(start_paused = true)]
async fn wire_075_messages_are_read_before_the_end_behind_them() {
    let mut peer = Peer::new();
    let input = [
        invoke("/t/Chat"),
        message(2, "a"),
        message(3, "b"),
        "0b010400".into(),
    ]
    .concat();
    peer.send(&[data(SYN, 1, &input), window(FIN, 1, 0)]).await;
    assert_eq!(peer.seen.take()[0], "got a");
    settle().await;
    assert_eq!(peer.seen.running(), 0);
}

#[tokio::test(start_paused = true)]
async fn wire_075_cancel_behind_an_unread_message_waits_for_its_reader() {
    let mut peer = Peer::new();
    let input = [invoke("/t/Deaf"), message(2, "a"), CANCEL_3.into()].concat();
    peer.send(&[data(SYN, 1, &input)]).await;
    assert_eq!(peer.seen.running(), 1);
    // A handler that never reads is given up in the end.
    peer.send(&[window(FIN, 1, 0)]).await;
    assert_eq!(peer.seen.running(), 1);
    tokio::time::sleep(super::super::DRAIN_LIMIT * 2).await;
    assert_eq!(peer.seen.running(), 0);
    assert_eq!(frames(&peer.received()).last().unwrap().1, FIN);
}

#[tokio::test(start_paused = true)]
async fn wire_076_a_shutdown_ends_streams_without_frames() {
    let log = Log::new();
    let mut peer = Peer::new();
    peer.send(&[open(1, "/t/Chat"), open(3, "/t/Silent")]).await;
    peer.control.close(CloseCause::Draining, "going down");
    peer.control.close(CloseCause::Requested, "too late");
    settle().await;
    peer.expect(&[window(ACK | FIN, 1, 0), window(ACK | FIN, 3, 0)]);
    peer.expect_seen(&["recv: 0 context canceled", "/t/Chat Cancelled"]);
    assert_eq!(peer.seen.running(), 0);
    assert_eq!(peer.pipe.closed_by_peer().unwrap().code, CloseCode::GOING_AWAY);
    assert_eq!(
        log.take(),
        vec!["DEBUG drpc server error error=context canceled"; 2]
    );
    let end = peer.end().await;
    assert!(
        matches!(&end, SessionEnd::Closed { cause: CloseCause::Draining, reason } if reason == "going down"),
        "{end:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn wire_077_a_lost_session_takes_its_handlers_and_no_others() {
    let (one, mut other) = (Peer::new(), Peer::new());
    let mut one = one;
    one.send(&[open(1, "/t/Chat")]).await;
    other.send(&[open(1, "/t/Chat")]).await;
    let seen = one.seen.clone();
    drop(one.pipe);
    settle().await;
    assert_eq!((seen.running(), other.seen.running()), (0, 1));
}

#[tokio::test(start_paused = true)]
async fn wire_078_a_stream_that_opens_and_closes_is_nothing() {
    let log = Log::new();
    let mut peer = Peer::new();
    peer.send(&[window(SYN, 1, 0), window(FIN, 1, 0)]).await;
    peer.expect(&[window(ACK | FIN, 1, 0)]);
    peer.expect_seen(&[]);
    assert!(log.take().is_empty());
}

#[tokio::test(start_paused = true)]
async fn wire_080_cancelled_streams_leave_nothing_behind() {
    let mut peer = Peer::new();
    for id in (1..2001).step_by(2) {
        peer.send(&[call(id, "/t/Silent", "")]).await;
    }
    assert_eq!(peer.seen.running(), 1000);
    for id in (1..2001).step_by(2) {
        peer.send(&[window(FIN, id, 0)]).await;
    }
    assert_eq!(peer.seen.running(), 0);
    let fins = frames(&peer.received())
        .iter()
        .filter(|frame| frame.1 & FIN != 0)
        .count();
    assert_eq!(fins, 1000);
    // Their numbers are free again.
    peer.send(&[call(1, "/t/Echo", "x")]).await;
    assert_eq!(frames(&peer.received()).len(), 1);
}

#[tokio::test(start_paused = true)]
async fn wire_105_the_end_of_the_pipe_is_classified() {
    for (code, failed) in [(1000, false), (1001, false), (1011, true), (1005, true)] {
        let mut peer = Peer::new();
        peer.send(&[open(1, "/t/Chat")]).await;
        peer.close(code);
        settle().await;
        let closed = peer.pipe.closed_by_peer().unwrap().code;
        let end = peer.end().await;
        assert_eq!(matches!(end, SessionEnd::Failed(_)), failed, "{code}: {end:?}");
        assert_eq!(
            closed,
            if failed {
                CloseCode::INTERNAL
            } else {
                CloseCode::NORMAL
            }
        );
    }
    let mut peer = Peer::new();
    peer.send(&["0000".into()]).await;
    peer.close(1000);
    let SessionEnd::Failed(error) = peer.end().await else {
        panic!("an end within a frame")
    };
    assert_eq!(error.to_string(), "unexpected EOF");
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_left_in_good_order_is_no_failure_however_much_it_sent_before() {
    // More than one wake-up works off, of which the first already shows that nothing can be sent.
    let calls: String = (0..200)
        .map(|number| call(2 * number + 1, "/t/Echo", "x"))
        .collect();
    for (code, failed) in [(1000, false), (1011, true)] {
        let mut peer = Peer::through(8 << 20, Odd::broken);
        peer.push(&bytes(&calls));
        peer.close(code);
        let end = peer.end().await;
        assert_eq!(matches!(end, SessionEnd::Failed(_)), failed, "{code}: {end:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_protocol_error_of_the_session_is_told_and_closes_with_1011() {
    let mut peer = Peer::new();
    peer.send(&[open(1, "/t/Chat"), open(1, "/t/Chat")]).await;
    let received = peer.received();
    assert!(hex(&received.concat()).ends_with("000300000000000000000001"));
    let close = peer.pipe.closed_by_peer().unwrap();
    assert_eq!(
        (close.code, &*close.reason),
        (CloseCode::INTERNAL, "duplicate stream initiated")
    );
    assert!(matches!(
        peer.end().await,
        SessionEnd::Failed(ServeError::Session(_))
    ));
}

#[tokio::test(start_paused = true)]
async fn wire_109_ordinary_ends_are_not_logged() {
    let log = Log::new();
    let mut peer = Peer::new();
    for id in (1..2001).step_by(2) {
        peer.send(&[
            call(id, "/t/Echo", "x"),
            data(0, id, "0b010400"),
            window(FIN, id, 0),
        ])
        .await;
        peer.received();
    }
    // An end in the middle of a frame, and a handler's error.
    peer.send(&[
        data(SYN, 2001, "0301"),
        window(FIN, 2001, 0),
        call(2003, "/t/Fail", "x"),
    ])
    .await;
    peer.send(&[open(2005, "/t/Chat")]).await;
    peer.close(1000);
    peer.end().await;
    assert_eq!(log.take(), Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn wire_109_faults_are_logged_once_each() {
    let log = Log::new();
    let mut peer = Peer::new();
    peer.send(&[data(SYN, 1, "11010200")]).await;
    peer.send(&[data(SYN, 3, &drpc(7, 1, b"garbage"))]).await;
    peer.send(&[open(5, "/t/Chat"), window(RST, 5, 0)]).await;
    peer.send(&[data(0, 1, "1101"), window(FIN, 1, 0), window(FIN, 3, 0)])
        .await;
    assert_eq!(
        log.take(),
        [
            "DEBUG drpc server error error=manager closed: internal error: unknown packet kind: Kind(8)",
            "DEBUG drpc server error error=invalid data",
            "DEBUG drpc server error error=manager closed: connection reset",
        ]
    );
    let closed: Vec<_> = frames(&peer.received())
        .iter()
        .map(|frame| (frame.1, frame.2))
        .collect();
    assert_eq!(closed, [(ACK | FIN, 1), (ACK | FIN, 3)]);
    peer.expect_seen(&["recv: 0 context canceled", "/t/Chat Cancelled"]);
}

#[tokio::test(start_paused = true)]
async fn a_goodbye_to_a_peer_that_does_not_read_is_bounded() {
    let mut peer = Peer::with_capacity(1);
    peer.send(&[call(1, "/t/Echo", "x"), call(3, "/t/Echo", "x")])
        .await;
    peer.send(&[call(5, "/t/Echo", "x")]).await;
    peer.control.close(CloseCause::Requested, "enough");
    let before = tokio::time::Instant::now();
    let _pipe = peer.pipe;
    peer.served.await.unwrap();
    assert_eq!(before.elapsed().as_secs(), super::super::CLOSE_TIMEOUT.as_secs());
}

#[tokio::test(start_paused = true)]
async fn any_byte_counts_as_a_sign_of_life() {
    let mut peer = Peer::new();
    let first = peer.control.last_received();
    tokio::time::sleep(Duration::from_secs(20)).await;
    assert_eq!(peer.control.last_received(), first);
    peer.send(&["00".into()]).await;
    assert!(peer.control.last_received() - first >= Duration::from_secs(20));
}

#[tokio::test(start_paused = true)]
async fn wire_094_a_ping_goes_out_when_asked_for() {
    let mut peer = Peer::new();
    peer.control.ping();
    settle().await;
    peer.expect(&["000200010000000000000000".into()]);
    settle().await;
    peer.expect_nothing();
}
