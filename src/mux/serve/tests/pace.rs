//! Peers that make more work than their share: they wait, nobody loses anything.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use uuid::Uuid;

use super::super::{
    Buffers, MAX_FRAMES_PER_SECOND, MAX_OPENS_PER_SECOND, MAX_PINGS_PER_SECOND, Paces,
    SESSION_RECEIVE_BUFFER, SESSION_SEND_BUFFER, SessionEnd, WORK_PER_WAKE_UP,
};
use super::back_pressure::{hold, queue, resets};
use super::kit::*;
use crate::mux::MAX_PACKET;

type Frame = dyn Fn(u32) -> String;

/// Most bytes that the pipe takes as one message.
const CHUNK: usize = 32 * 1024;

/// Sends `frame` so many times, some hundred in a message.
async fn flood(peer: &mut Peer, count: u32, frame: impl Fn(u32) -> String) {
    let mut input = Vec::new();
    for number in 0..count {
        input.extend_from_slice(&bytes(&frame(number)));
        if input.len() > CHUNK - 100 {
            peer.push(&input);
            input.clear();
        }
    }
    peer.push(&input);
    // Each poll of the session takes a bounded number of messages.
    settle().await;
    peer.received();
}

/// Whether a call that is sent now is answered within a millisecond or so.
async fn answers(peer: &mut Peer, stream: u32) -> bool {
    peer.send(&[call(stream, "/t/Echo", "x")]).await;
    !peer.received().is_empty()
}

fn ping(number: u32) -> String {
    format!("0002000100000000{number:08x}")
}

#[tokio::test(start_paused = true)]
async fn a_second_of_work_is_done_at_once_and_more_keeps_its_peer_waiting() {
    // Opening a stream and resetting it is one open and one other frame.
    let open_and_reset = |number: u32| window(SYN, 2 * number + 1, 0) + &window(RST, 2 * number + 1, 0);
    let credit = |_: u32| window(0, 1, 0);
    for (frame, most) in [
        (&open_and_reset as &Frame, MAX_OPENS_PER_SECOND / 17 * 16),
        (&ping, MAX_PINGS_PER_SECOND),
        (&credit, MAX_FRAMES_PER_SECOND),
    ] {
        let mut peer = Peer::with_capacity(8 << 20);
        // One less, for the call that follows and its frames.
        flood(&mut peer, most - most / 100, frame).await;
        assert!(answers(&mut peer, 1_000_001).await, "{most} a second");

        let mut peer = Peer::with_capacity(8 << 20);
        flood(&mut peer, most + most / 10, frame).await;
        assert!(!answers(&mut peer, 1_000_001).await, "more than {most} a second");
        tokio::time::sleep(Duration::from_millis(200)).await;
        assert!(!peer.received().is_empty(), "it has waited long enough");
        assert!(!peer.served.is_finished());
    }
}

#[tokio::test(start_paused = true)]
async fn frames_of_the_transport_count_as_those_of_the_session_do() {
    let of_a_message = MAX_FRAMES_PER_SECOND / 8;
    for (messages, at_once) in [(7, true), (9, false)] {
        let mut peer = Peer::through(8 << 20, |pipe| Odd::framed(pipe, of_a_message));
        for number in 0..messages {
            peer.push(&bytes(&window(0, number, 0)));
        }
        settle().await;
        assert_eq!(answers(&mut peer, 1_000_001).await, at_once, "{messages}");
        tokio::time::sleep(Duration::from_millis(250)).await;
        assert_eq!(!peer.received().is_empty(), !at_once);
    }
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_waits_is_still_served_and_can_be_closed() {
    let mut peer = Peer::with_capacity(8 << 20);
    peer.send(&[call(1, "/t/Sleep", "50")]).await;
    flood(&mut peer, 3 * MAX_PINGS_PER_SECOND, ping).await;
    tokio::time::sleep(Duration::from_millis(60)).await;
    let replies = frames(&peer.received());
    assert!(
        replies.iter().any(|frame| frame.0 == 0 && frame.2 == 1),
        "{replies:?}"
    );
    peer.control.close(crate::mux::CloseCause::Requested, "test");
    peer.end().await;
}

#[tokio::test(start_paused = true)]
async fn sessions_of_one_peer_wait_for_each_other_and_go_on() {
    let paces = Paces::default();
    let session = |peer| Peer::beside(Buffers::new(usize::MAX), paces.of(Uuid::from_u128(peer)), 8 << 20);
    let (mut one, mut same, mut other) = (session(1), session(1), session(2));
    flood(&mut same, MAX_PINGS_PER_SECOND, ping).await;
    assert!(!answers(&mut one, 1).await && !answers(&mut same, 1).await);
    assert!(answers(&mut other, 1).await, "somebody else's");
    // Once that is worked off both are read from again, one after the other.
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(!one.received().is_empty() && !same.received().is_empty());
}

/// Work of a kind, of which a peer may make so much in a second, that is more than others wait for.
fn of_a_turn(rate: u32) -> u32 {
    let most = WORK_PER_WAKE_UP.as_millis() * u128::from(rate) / 1_000;
    u32::try_from(most).unwrap() + 1
}

/// A session that counts how often it is polled, and waits.
async fn counted() -> (Peer, Arc<AtomicUsize>) {
    let polls = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&polls);
    let peer = Peer::with_session(8 << 20, |mut session| {
        tokio::spawn(std::future::poll_fn(move |cx| {
            counted.fetch_add(1, Ordering::Relaxed);
            session.as_mut().poll(cx)
        }))
    });
    settle().await;
    polls.store(0, Ordering::Relaxed);
    (peer, polls)
}

#[tokio::test(start_paused = true)]
async fn other_sessions_have_their_turn_between_chunks_of_small_frames() {
    let (mut peer, polls) = counted().await;
    let frames_of_a_turn = of_a_turn(MAX_FRAMES_PER_SECOND);
    for number in 0..8 {
        let credit = window(0, 1, 0).repeat(frames_of_a_turn as usize);
        peer.push(&bytes(&(credit + &ping(number))));
    }
    settle().await;
    assert_eq!(frames(&peer.received()).len(), 8);
    // A chunk for each turn, and one more to see that there is nothing.
    assert_eq!(polls.load(Ordering::Relaxed), 9);
}

#[tokio::test(start_paused = true)]
async fn other_sessions_have_their_turn_between_calls_that_came_at_once() {
    const CALLS: u32 = 256;
    let (mut peer, polls) = counted().await;
    let calls = (0..CALLS).map(|number| call(2 * number + 1, "/t/Echo", "x"));
    peer.push(&bytes(&calls.collect::<String>()));
    settle().await;
    let replies = frames(&peer.received());
    assert_eq!(
        replies
            .iter()
            .filter(|frame| frame.0 == 0 && !frame.4.is_empty())
            .count(),
        CALLS as usize
    );
    let turns = CALLS.div_ceil(of_a_turn(MAX_OPENS_PER_SECOND));
    assert_eq!(polls.load(Ordering::Relaxed), turns as usize);
}

#[tokio::test(start_paused = true)]
async fn calls_that_came_at_once_wait_within_them_once_their_peer_is_ahead() {
    // More of them than one turn works off, so that a later turn meets the limit.
    let mut peer = Peer::with_capacity(8 << 20);
    let open_and_reset = |number: u32| window(SYN, 2 * number + 1, 0) + &window(RST, 2 * number + 1, 0);
    flood(&mut peer, MAX_OPENS_PER_SECOND / 17 * 16 - 100, open_and_reset).await;
    let first = 1_000_001;
    let calls = (0..300).map(|number| call(first + 2 * number, "/t/Silent", "x"));
    peer.push(&bytes(&calls.collect::<String>()));
    settle().await;
    let at_once = peer.seen.running();
    assert!((100..200).contains(&at_once), "{at_once} calls at once");
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(peer.seen.running(), 300);
}

/// A call of a stream's many, which is cancelled at once.
fn invoke_and_cancel(number: u32) -> String {
    let call = number + 1;
    let parts = [0, 7, 14, 21].map(|shift| call >> shift & 0x7f | u32::from(shift < 21) << 7);
    let varint = parts.map(|part| format!("{part:02x}")).concat();
    format!("03{varint}01072f742f4563686f89{varint}0200")
}

#[tokio::test(start_paused = true)]
async fn calls_on_one_stream_count_as_streams_do() {
    let mut peer = Peer::with_capacity(8 << 20);
    let invoke = |number: u32| data(if number == 0 { SYN } else { 0 }, 1, &invoke_and_cancel(number));
    flood(&mut peer, MAX_OPENS_PER_SECOND + MAX_OPENS_PER_SECOND / 5, invoke).await;
    assert!(!answers(&mut peer, 3).await);
    tokio::time::sleep(Duration::from_millis(400)).await;
    assert!(!peer.received().is_empty());
}

#[tokio::test(start_paused = true)]
async fn other_sessions_have_their_turn_between_calls_of_one_frame() {
    const CALLS: u32 = 200;
    let (mut peer, polls) = counted().await;
    peer.push(&bytes(&data(
        SYN,
        1,
        &(0..CALLS).map(invoke_and_cancel).collect::<String>(),
    )));
    settle().await;
    let turns = CALLS.div_ceil(of_a_turn(MAX_OPENS_PER_SECOND));
    assert_eq!(polls.load(Ordering::Relaxed), turns as usize);
    assert_eq!(peer.seen.take().len(), 0);
    peer.send(&[data(
        0,
        1,
        &(invoke_and_cancel(CALLS) + &invoke_and_cancel(CALLS + 1)),
    )])
    .await;
    assert!(answers(&mut peer, 3).await, "nothing is in disorder");
}

#[tokio::test(start_paused = true)]
async fn calls_of_one_frame_are_begun_before_more_is_read() {
    const CALLS: u32 = 101;
    let mut peer = Peer::with_capacity(8 << 20);
    // The last of them stays.
    let last = "03 65 01 09 2f742f53696c656e74  05 65 02 02 7801";
    let calls = (0..CALLS - 1).map(invoke_and_cancel).collect::<String>() + last;
    let streams = 2 * MAX_OPENS_PER_SECOND / CALLS;
    for number in 0..streams {
        peer.push(&bytes(&data(SYN, 2 * number + 1, &calls)));
    }
    settle().await;
    let (worked_off, half) = (peer.seen.running(), streams as usize / 2);
    assert!(
        (half - 2..half + 2).contains(&worked_off),
        "{worked_off} of {streams}"
    );
}

#[tokio::test(start_paused = true)]
async fn other_sessions_have_their_turn_between_calls_that_waited_for_room() {
    const CALLS: u32 = 100;
    let (mut peer, polls) = counted().await;
    queue(&mut peer, SESSION_SEND_BUFFER).await;
    for number in 0..CALLS {
        peer.send(&[call(2 * number + 1, "/t/Silent", "x")]).await;
    }
    assert_eq!(peer.seen.running(), 0);
    polls.store(0, Ordering::Relaxed);
    queue(&mut peer, 0).await;
    assert_eq!(peer.seen.running(), CALLS as usize);
    let turns = CALLS.div_ceil(of_a_turn(MAX_OPENS_PER_SECOND));
    assert!(polls.load(Ordering::Relaxed) >= turns as usize);
}

#[tokio::test(start_paused = true)]
async fn streams_that_are_reset_for_want_of_room_have_a_turn_each() {
    const STREAMS: u32 = 10;
    let (mut peer, polls) = counted().await;
    // All that may be held, and as many further streams as are to be reset.
    let full = u32::try_from(SESSION_RECEIVE_BUFFER / MAX_PACKET).unwrap();
    for number in 0..full {
        hold(&mut peer, 2 * number + 1, MAX_PACKET).await;
    }
    settle().await;
    polls.store(0, Ordering::Relaxed);
    let more = (full..full + STREAMS).map(|number| call(2 * number + 1, "/t/Silent", "x"));
    peer.push(&bytes(&more.collect::<String>()));
    settle().await;
    assert_eq!(resets(&mut peer), STREAMS as usize);
    assert!(polls.load(Ordering::Relaxed) >= STREAMS as usize);
}

#[tokio::test(start_paused = true)]
async fn what_came_before_the_end_is_worked_off_however_much_it_is() {
    const CALLS: u32 = 256;
    let calls = (0..CALLS).map(|number| call(2 * number + 1, "/t/Echo", "x"));
    let calls = calls.collect::<String>();
    let behind_a_bad_frame = "010000000000000000000000".to_owned() + &call(2 * CALLS + 1, "/t/Echo", "x");
    // A clean end, one within a frame, and a frame that ends the session.
    for (last, closes, clean) in [
        ("", true, true),
        ("00", true, false),
        (&*behind_a_bad_frame, false, false),
    ] {
        let mut peer = Peer::with_capacity(8 << 20);
        peer.push(&bytes(&(calls.clone() + last)));
        if closes {
            peer.close(1000);
        }
        let seen = peer.seen.clone();
        let end = peer.end().await;
        let as_it_should = if clean {
            matches!(end, SessionEnd::PeerLeft)
        } else {
            matches!(end, SessionEnd::Failed(_))
        };
        assert!(as_it_should, "{last:?}: {end:?}");
        assert_eq!(seen.take().len(), CALLS as usize, "{last:?}");
    }
}
