//! Readers that do not read, on either side.

use std::time::Duration;

use bytes::Bytes;

use super::super::buffers::Part;
use super::super::{
    Buffers, CROWDED_BUFFER, MAX_OVERFLOWS_PER_SECOND, Pace, SEND_BUFFER, SESSION_RECEIVE_BUFFER,
    SESSION_SEND_BUFFER, SESSION_SEND_LIMIT,
};
use super::kit::*;
use crate::mux::MAX_PACKET;

const WINDOW: usize = 256 * 1024;

/// Where a session has the most room, and where it has the least.
#[derive(Clone, Copy, Debug)]
enum Place {
    Alone,
    /// Among sessions that hold as much as all together may.
    Crowded,
    /// Beside another one of its peer.
    OneOfTwo,
}

/// A session in its place, and the other one of its peer, if there is one.
fn session(place: Place) -> (Peer, Option<Pace>) {
    let pace = Pace::default();
    let other = matches!(place, Place::OneOfTwo).then(|| pace.clone());
    let all = if matches!(place, Place::Crowded) {
        0
    } else {
        usize::MAX
    };
    (Peer::beside(Buffers::new(all), pace, 1 << 20), other)
}

/// Streams that were reset since the last look.
pub(super) fn resets(peer: &mut Peer) -> usize {
    let frames = frames(&peer.received());
    frames.iter().filter(|frame| frame.1 & RST != 0).count()
}

fn payload_of(peer: &mut Peer, stream: u32) -> Vec<u8> {
    let messages = peer.received();
    assert!(
        messages.iter().all(|message| message.len() <= 32 * 1024),
        "messages stay small"
    );
    let payloads = frames(&messages)
        .into_iter()
        .filter(|frame| frame.0 == 0 && frame.2 == stream);
    payloads.flat_map(|frame| frame.4.to_vec()).collect()
}

#[tokio::test(start_paused = true)]
async fn wire_086_and_110_a_reader_that_does_not_read_holds_up_itself_alone() {
    let mut peer = Peer::new();
    peer.send(&[call(1, "/t/Count", "100")]).await;
    let mut all = payload_of(&mut peer, 1);
    assert_eq!(all.len(), WINDOW, "no more than the credit");
    assert_eq!(peer.seen.running(), 1, "the handler waits");
    tokio::time::sleep(Duration::from_mins(1)).await;
    peer.send(&[call(3, "/t/Echo", "x")]).await;
    assert!(!payload_of(&mut peer, 3).is_empty(), "others flow");
    while peer.seen.running() > 0 {
        peer.send(&[window(0, 1, 128 * 1024)]).await;
        let more = payload_of(&mut peer, 1);
        assert!(!more.is_empty() && more.len() <= 128 * 1024);
        all.extend(more);
    }
    peer.send(&[window(0, 1, 128 * 1024)]).await;
    all.extend(payload_of(&mut peer, 1));
    // 100 messages of 10,000 bytes in order, then CloseSend.
    let mut rest = &all[..];
    for i in 0..100 {
        let at = rest
            .windows(10_000)
            .position(|text| text.iter().all(u8::is_ascii_digit))
            .unwrap();
        assert_eq!(rest[at..at + 10_000], *format!("{i:0>10000}").as_bytes());
        rest = &rest[at + 10_000..];
    }
    assert_eq!(rest, [0x0d, 1, 101, 0]);
}

#[tokio::test(start_paused = true)]
async fn wire_110_what_a_stream_may_queue_is_bounded() {
    let mut peer = Peer::new();
    peer.send(&[call(1, "/t/Count", "1000")]).await;
    payload_of(&mut peer, 1);
    let queued = peer
        .control
        .shared()
        .queued
        .load(std::sync::atomic::Ordering::Relaxed);
    assert!((SEND_BUFFER..SEND_BUFFER + 11_000).contains(&queued), "{queued}");
}

#[tokio::test(start_paused = true)]
async fn a_large_reply_does_not_delay_small_ones_of_other_streams() {
    let mut peer = Peer::with_capacity(32 * 1024);
    peer.push(&bytes(
        &[call(1, "/t/Huge", "200000"), call(3, "/t/Echo", "x")].concat(),
    ));
    let mut before = 0;
    for _ in 0..100 {
        settle().await;
        for (_, _, stream, length, ()) in frames_in_parts(&mut peer) {
            if stream == 3 {
                assert!(before <= 100_000, "{before} bytes came first");
                return;
            }
            before += length;
        }
    }
    panic!("no reply");
}

/// Frames that begin in what has come since the last look; their payload may still be on its way.
fn frames_in_parts(peer: &mut Peer) -> Vec<(u8, u16, u32, u32, ())> {
    thread_local!(static REST: std::cell::RefCell<Vec<u8>> = const { std::cell::RefCell::new(Vec::new()) });
    REST.with_borrow_mut(|rest| {
        rest.extend(peer.received().concat());
        let mut found = Vec::new();
        while rest.len() >= 12 {
            let word = |at: usize| u32::from_be_bytes(rest[at..at + 4].try_into().unwrap());
            let (stream, length) = (word(4), word(8));
            let whole = 12 + if rest[1] == 0 { length as usize } else { 0 };
            if rest.len() < whole {
                break;
            }
            found.push((rest[1], 0, stream, length, ()));
            rest.drain(..whole);
        }
        found
    })
}

#[tokio::test(start_paused = true)]
async fn wire_093_pings_are_answered_while_the_pipe_is_full() {
    let mut peer = Peer::with_capacity(1);
    peer.send(&[call(1, "/t/Count", "1000")]).await;
    peer.send(&["0002000100000000deadbeef".into()]).await;
    let mut all = Vec::new();
    for _ in 0..100 {
        all.extend(peer.received().concat());
        settle().await;
    }
    assert!(hex(&all).contains("0002000200000000deadbeef"));
}

#[tokio::test(start_paused = true)]
async fn a_handler_that_does_not_read_holds_up_its_own_peer() {
    let mut peer = Peer::new();
    peer.send(&[open(1, "/t/Deaf")]).await;
    let mut input = String::new();
    for _ in 0..60 {
        input += &message(2, &"x".repeat(1000));
        input.truncate(input.len());
    }
    // One packet of many frames: all but the last are `done = 0`, so it is one message of 60,000 bytes.
    let part = format!("040102ff07{}", "61".repeat(1023));
    let whole: String = (0..200).map(|_| part.as_str()).collect();
    for chunk in whole.as_bytes().chunks(2 * 16 * 1024) {
        peer.send(&[data(0, 1, std::str::from_utf8(chunk).unwrap())])
            .await;
    }
    // A packet in progress is credited, so that a long one can arrive.
    let credited: u32 = frames(&peer.received())
        .iter()
        .filter(|frame| frame.0 == 1)
        .map(|frame| frame.3)
        .sum();
    assert!(credited >= 128 * 1024);
    // Once it is complete and unread, nothing more is.
    peer.send(&[data(0, 1, "05010200")]).await;
    peer.received();
    for _ in 0..12 {
        peer.send(&[data(0, 1, &message(3, &"x".repeat(10_000)))]).await;
    }
    assert!(frames(&peer.received()).is_empty(), "no credit for what waits");
}

#[tokio::test(start_paused = true)]
async fn wire_040_and_092_a_finished_call_keeps_reading() {
    for path in ["/t/Leave", "/t/LeaveWithError"] {
        let mut peer = Peer::new();
        peer.send(&[open(1, path)]).await;
        peer.received();
        let mut credit = 0;
        for id in 2..102 {
            peer.send(&[data(0, 1, &message(id, &"x".repeat(10_000)))]).await;
            credit += frames(&peer.received()).iter().map(|frame| frame.3).sum::<u32>();
        }
        assert!(
            credit >= 768 * 1024,
            "{path}: the peer must not be held up: {credit}"
        );
        peer.send(&[window(FIN, 1, 0)]).await;
        peer.expect(&[window(FIN, 1, 0)]);
    }
}

#[tokio::test(start_paused = true)]
async fn wire_040_a_message_that_a_handler_leaves_unread_holds_nothing_up() {
    let mut peer = Peer::new();
    peer.send(&[open(1, "/t/LeaveLate"), data(0, 1, &message(2, "unread"))])
        .await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    peer.received();
    assert_eq!(peer.seen.running(), 0);
    peer.send(&[window(FIN, 1, 0)]).await;
    peer.expect(&[window(FIN, 1, 0)]);
}

/// The first of up to 200 streams that is reset, when each sends `input` after its SYN; how many bytes each holds is known.
async fn first_reset(peer: &mut Peer, input: &[u8]) -> Option<u32> {
    for stream in (1..400).step_by(2) {
        for (index, part) in input.chunks(16 * 1024).enumerate() {
            let flags = if index == 0 { SYN } else { 0 };
            let header = bytes(&data(flags, stream, ""));
            let length = u32::try_from(part.len()).unwrap().to_be_bytes();
            peer.push(&[&header[..8], &length, part].concat());
            settle().await;
        }
        let came = frames(&peer.received());
        if let Some(frame) = came.iter().find(|frame| frame.1 & RST != 0) {
            return Some(frame.2);
        }
    }
    None
}

/// A DRPC packet of stream 1 with a MiB of data that `of` makes.
fn mebibyte(kind: u8, id: u8, before: &str, after: usize) -> Vec<u8> {
    let body = [bytes(before).to_vec(), vec![b'x'; after]].concat();
    let len = body.len();
    let varint =
        [0, 7, 14].map(|shift| u8::try_from(len >> shift & 0x7f).unwrap() | u8::from(shift < 14) << 7);
    [&[kind << 1 | 1, 1, id][..], &varint, &body].concat()
}

#[tokio::test(start_paused = true)]
async fn metadata_of_calls_without_a_request_counts_as_input() {
    let mut peer = Peer::new();
    // One pair, whose value is a MiB: entry 0x0a with its length, key, value with its length.
    let value = (1 << 20) - 16;
    let varint = |len: usize| {
        [0, 7, 14]
            .map(|shift| format!("{:02x}", len >> shift & 0x7f | usize::from(shift < 14) << 7))
            .concat()
    };
    let pair = format!("0a{}0a016112{}", varint(value + 7), varint(value));
    let input = [
        mebibyte(7, 1, &pair, value),
        bytes(&drpc(1, 2, b"/t/Echo")).to_vec(),
    ]
    .concat();
    let stream = first_reset(&mut peer, &input).await.expect("one stream is reset");
    assert!((125..=135).contains(&stream), "64 of a MiB each: {stream}");
}

#[tokio::test(start_paused = true)]
async fn requests_of_handlers_at_work_count_as_input() {
    let mut peer = Peer::new();
    let invoke = bytes(&drpc(1, 1, b"/t/Silent"));
    // An unknown field of a MiB.
    let len = (1 << 20) - 8;
    let field = format!(
        "7a{}",
        [0, 7, 14]
            .map(|shift| format!("{:02x}", len >> shift & 0x7f | usize::from(shift < 14) << 7))
            .concat()
    );
    let input = [invoke.to_vec(), mebibyte(2, 2, &field, len)].concat();
    let stream = first_reset(&mut peer, &input).await.expect("one stream is reset");
    assert!((125..=135).contains(&stream), "64 of a MiB each: {stream}");
}

/// A request of exactly so many bytes: an unknown field.
fn request_of(bytes: usize) -> Vec<u8> {
    let varint = |len: usize| {
        let part = |shift: u32| u8::try_from(len >> shift & 0x7f).unwrap();
        [part(0) | 0x80, part(7) | 0x80, part(14) | 0x80, part(21)]
    };
    let body = match bytes {
        2 => vec![0x78, 1],
        _ => [&[0x7a][..], &varint(bytes - 5), &vec![b'x'; bytes - 5]].concat(),
    };
    assert_eq!(body.len(), bytes);
    [&[5, 1, 2][..], &varint(bytes), &body].concat()
}

/// Makes a call whose handler keeps a request of so many bytes.
pub(super) async fn hold(peer: &mut Peer, stream: u32, size: usize) {
    peer.send(&[open(stream, "/t/Silent")]).await;
    for part in request_of(size).chunks(64 * 1024) {
        let header = bytes(&data(0, stream, ""));
        let length = u32::try_from(part.len()).unwrap().to_be_bytes();
        peer.push(&[&header[..8], &length, part].concat());
        settle().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_session_may_hold_so_much_input_and_no_more() {
    for (place, most) in [
        (Place::Alone, SESSION_RECEIVE_BUFFER),
        (Place::Crowded, CROWDED_BUFFER),
        (Place::OneOfTwo, CROWDED_BUFFER),
    ] {
        let full = most / MAX_PACKET;
        // All of the greatest size, but for the last two.
        for (last_but_one, reset) in [
            (MAX_PACKET - 3, false),
            (MAX_PACKET - 2, false),
            (MAX_PACKET - 1, true),
        ] {
            let (mut peer, _other) = session(place);
            let sizes = (1..full).map(|_| MAX_PACKET).chain([last_but_one, 2]);
            for (stream, size) in (1..).step_by(2).zip(sizes) {
                hold(&mut peer, stream, size).await;
            }
            assert_eq!(
                resets(&mut peer),
                usize::from(reset),
                "{place:?}: {last_but_one} of {most}"
            );
            assert_eq!(peer.seen.running(), full + usize::from(!reset));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn streams_that_are_reset_for_want_of_room_make_their_session_wait() {
    const FULL: usize = SESSION_RECEIVE_BUFFER / MAX_PACKET;
    // Beside them each stream takes some of a second for itself.
    for (streams, waits) in [
        (MAX_OVERFLOWS_PER_SECOND - 2, false),
        (MAX_OVERFLOWS_PER_SECOND + 2, true),
    ] {
        let mut peer = Peer::new();
        let sizes = (0..FULL).map(|_| MAX_PACKET);
        let mut ids = (1..).step_by(2);
        for size in sizes {
            hold(&mut peer, ids.next().unwrap(), size).await;
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
        peer.received();
        let too_many: Vec<u8> = (0..streams)
            .flat_map(|_| bytes(&call(ids.next().unwrap(), "/t/Silent", "x")))
            .collect();
        peer.push(&too_many);
        peer.push(&bytes("000200010000000000000007"));
        settle().await;
        let pongs = |peer: &mut Peer| {
            frames(&peer.received())
                .iter()
                .filter(|frame| frame.0 == 2)
                .count()
        };
        assert_eq!(pongs(&mut peer), usize::from(!waits), "{streams}");
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert_eq!(pongs(&mut peer), usize::from(waits), "{streams}");
    }
}

#[tokio::test(start_paused = true)]
async fn paths_of_calls_that_wait_to_begin_count_as_input() {
    let mut peer = Peer::new();
    // What is to be sent is at its limit, so that no call begins: errors as long as their paths, without credit to send.
    let long = |byte: u8| mebibyte(1, 1, &format!("{byte:02x}"), (1 << 20) - 2);
    let stream = first_reset(&mut peer, &long(b'/'))
        .await
        .expect("one stream is reset");
    // Some twenty are answered, a quarter of each answer being the peer's credit; sixty-four of the others wait.
    assert!((165..=180).contains(&stream), "{stream}");
}

#[tokio::test(start_paused = true)]
async fn a_session_that_hoards_input_loses_the_stream_that_does_it() {
    let mut peer = Peer::new();
    let part = format!("040102808004{}", "61".repeat(65_536));
    let part = bytes(&part);
    let mut reset = None;
    'streams: for stream in (1..100).step_by(2) {
        peer.send(&[open(stream, "/t/Chat")]).await;
        for _ in 0..60 {
            let frame = [
                &bytes(&data(0, stream, ""))[..8],
                &u32::try_from(part.len()).unwrap().to_be_bytes(),
                &part,
            ];
            peer.push(&frame.concat());
            settle().await;
            reset = frames(&peer.received())
                .iter()
                .find(|frame| frame.1 == RST)
                .map(|frame| frame.2);
            if reset.is_some() {
                break 'streams;
            }
        }
    }
    let stream = reset.expect("one stream is reset");
    // Sixteen streams with 60 frames of 64 KiB stay below the limit.
    assert!(stream > 32, "{stream}");
    assert_eq!(peer.seen.running(), usize::try_from(stream / 2).unwrap());
}

#[tokio::test(start_paused = true)]
async fn calls_begin_until_as_much_waits_as_the_session_may_have() {
    for (place, most) in [
        (Place::Alone, SESSION_SEND_BUFFER),
        (Place::Crowded, CROWDED_BUFFER),
        (Place::OneOfTwo, CROWDED_BUFFER),
    ] {
        for (waits, begins) in [(most - 1, true), (most, false), (most + 1, false)] {
            let (mut peer, _other) = session(place);
            let queued = &peer.control.shared().queued;
            queued.store(waits, std::sync::atomic::Ordering::Relaxed);
            peer.send(&[call(1, "/t/Silent", "")]).await;
            assert_eq!(peer.seen.running() == 1, begins, "{place:?}: {waits} of {most}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn calls_that_waited_for_others_replies_begin_once_those_are_gone() {
    let mut peer = Peer::with_capacity(20 << 20);
    // 300 replies of 200,000 bytes are more than what the pipe takes and what may wait; each has the credit that it needs.
    for stream in (1..600).step_by(2) {
        peer.send(&[call(stream, "/t/Huge", "200000")]).await;
    }
    let mut came = 0;
    for _ in 0..10_000 {
        let messages = peer.received();
        if messages.is_empty() {
            break;
        }
        came += messages.iter().map(Bytes::len).sum::<usize>();
        settle().await;
    }
    assert!(came > 300 * 200_000, "{came} bytes");
    assert_eq!(peer.seen.running(), 0);
}

/// Changes what is queued, and lets the server notice.
pub(super) async fn queue(peer: &mut Peer, bytes: usize) {
    let queued = &peer.control.shared().queued;
    queued.store(bytes, std::sync::atomic::Ordering::Relaxed);
    peer.send(&["000200010000000000000007".to_owned()]).await;
    peer.received();
}

#[tokio::test(start_paused = true)]
async fn calls_whose_request_comes_later_wait_as_well() {
    let mut peer = Peer::new();
    peer.send(&[open(1, "/t/Silent")]).await;
    queue(&mut peer, SESSION_SEND_BUFFER).await;
    for part in [&message(2, "x"), CLOSE_SEND_3] {
        peer.send(&[data(0, 1, part)]).await;
    }
    assert_eq!(peer.seen.running(), 0);
    queue(&mut peer, SESSION_SEND_BUFFER - 1).await;
    assert_eq!(peer.seen.running(), 1);
}

#[tokio::test(start_paused = true)]
async fn streams_with_nothing_under_way_wait_for_others_output_to_go() {
    for path in ["/t/Chat", "/t/FarChat"] {
        let mut peer = Peer::new();
        peer.send(&[open(1, path)]).await;
        queue(&mut peer, SESSION_SEND_BUFFER).await;
        peer.send(&[data(0, 1, &message(2, "x"))]).await;
        peer.expect_seen(&["got x"]);
        peer.expect_nothing();
        queue(&mut peer, SESSION_SEND_BUFFER).await;
        peer.expect_nothing();
        let queued = &peer.control.shared().queued;
        queued.store(0, std::sync::atomic::Ordering::Relaxed);
        peer.send(&["000200010000000000000007".to_owned()]).await;
        let replies = frames(&peer.received());
        assert!(replies.iter().any(|frame| frame.0 == 0 && frame.2 == 1), "{path}");
    }
}

#[tokio::test(start_paused = true)]
async fn replies_of_calls_that_began_together_are_errors_once_too_much_waits() {
    const REPLY: usize = 1 << 20;
    const CALLS: usize = 4 * SESSION_SEND_LIMIT / REPLY;
    let mut peer = Peer::with_capacity(64 << 20);
    for stream in (1..).step_by(2).take(CALLS) {
        peer.send(&[call(stream, "/t/HugeLate", &REPLY.to_string())])
            .await;
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    let queued = peer
        .control
        .shared()
        .queued
        .load(std::sync::atomic::Ordering::Relaxed);
    assert!(
        (SESSION_SEND_LIMIT..SESSION_SEND_LIMIT + REPLY).contains(&queued),
        "{queued}"
    );
    let errors = peer.received().concat();
    let text = b"too much of this session waits to be sent";
    let errors = errors.windows(text.len()).filter(|at| at == text).count();
    // A quarter of each reply is the credit that its stream has, and is sent.
    let whole = SESSION_SEND_LIMIT / (REPLY - 256 * 1024);
    assert!((CALLS - whole - 2..=CALLS - whole).contains(&errors), "{errors}");
}

#[tokio::test(start_paused = true)]
async fn a_reply_is_an_error_from_the_limit_on() {
    const UNSENT: &str = "too much of this session waits to be sent";
    for (place, most) in [
        (Place::Alone, SESSION_SEND_LIMIT),
        (Place::Crowded, 2 * CROWDED_BUFFER),
        (Place::OneOfTwo, 2 * CROWDED_BUFFER),
    ] {
        for (waits, reply) in [(most - 1, "slept"), (most, UNSENT), (most + 1, UNSENT)] {
            let (mut peer, _other) = session(place);
            peer.send(&[call(1, "/t/Sleep", "1000")]).await;
            peer.control
                .shared()
                .queued
                .store(waits, std::sync::atomic::Ordering::Relaxed);
            tokio::time::sleep(Duration::from_secs(2)).await;
            let sent = peer.received().concat();
            let is_told = |text: &str| sent.windows(text.len()).any(|at| at == text.as_bytes());
            assert_eq!(
                [is_told("slept"), is_told(UNSENT)],
                [reply != UNSENT, reply == UNSENT],
                "{place:?}: {waits} of {most}"
            );
        }
    }
}

#[tokio::test(start_paused = true)]
async fn while_all_sessions_hold_too_much_one_may_hold_no_more_than_an_honest_one_needs() {
    const ALL: usize = 64 << 20;
    let buffers = Buffers::new(ALL);
    let mut others = Part::of(&buffers);
    let mut peer = Peer::within(buffers.clone());
    for (stream, of_others, reset) in [
        (1, ALL, 0),
        (3, ALL, 0),
        (5, ALL, 1),
        (7, ALL / 2, 0),
        (9, ALL, 1),
    ] {
        others.set(of_others);
        hold(&mut peer, stream, MAX_PACKET).await;
        assert_eq!(resets(&mut peer), reset, "{stream}");
    }
    assert_eq!(buffers.held(), ALL + 3 * MAX_PACKET);
    peer.served.abort();
    settle().await;
    assert_eq!(buffers.held(), ALL, "what a session held is given back");
}

#[tokio::test(start_paused = true)]
async fn a_session_has_its_room_once_it_is_its_peers_only_one() {
    let (mut peer, other) = session(Place::OneOfTwo);
    for (stream, reset) in [(1, 0), (3, 0), (5, 1)] {
        hold(&mut peer, stream, MAX_PACKET).await;
        assert_eq!(resets(&mut peer), reset, "{stream}");
    }
    drop(other);
    hold(&mut peer, 7, MAX_PACKET).await;
    assert_eq!(resets(&mut peer), 0);
}
