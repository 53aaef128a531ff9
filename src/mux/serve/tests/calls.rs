//! What a call's peer gets: replies, errors, and the end of the stream.

use super::kit::*;

#[tokio::test(start_paused = true)]
async fn wire_106_a_unary_call_costs_two_messages() {
    let mut peer = Peer::new();
    // As a Go client does it: SYN, header and body in three messages.
    let request = data(
        0,
        1,
        &[invoke("/t/Echo"), message(2, "hi"), CLOSE_SEND_3.into()].concat(),
    );
    peer.send(&[window(SYN, 1, 0)]).await;
    peer.send(&[request[..24].into()]).await;
    peer.send(&[request[24..].into()]).await;
    peer.expect(&[data(ACK, 1, &[message(1, "re:hi"), CLOSE_SEND_2.into()].concat())]);
    peer.send(&[data(0, 1, "0b010400"), window(FIN, 1, 0)]).await;
    peer.expect(&[window(FIN, 1, 0)]);
    peer.expect_seen(&["/t/Echo Done"]);
}

#[tokio::test(start_paused = true)]
async fn wire_106_replies_that_are_ready_together_share_a_message() {
    let mut peer = Peer::new();
    let calls: Vec<_> = [1, 3, 5].map(|id| call(id, "/t/Echo", "x")).into();
    peer.send(&calls).await;
    let reply = |id| data(ACK, id, &[message(1, "re:x"), CLOSE_SEND_2.into()].concat());
    peer.expect(&[reply(1), reply(3), reply(5)]);
}

#[tokio::test(start_paused = true)]
async fn wire_028_the_reply_does_not_wait_for_close_send() {
    let mut peer = Peer::new();
    peer.send(&[data(SYN, 1, &[invoke("/t/Echo"), message(2, "a")].concat())])
        .await;
    peer.expect(&[data(ACK, 1, &[message(1, "re:a"), CLOSE_SEND_2.into()].concat())]);
}

#[tokio::test(start_paused = true)]
async fn wire_029_and_033_what_follows_a_finished_unary_call_is_nothing() {
    let log = Log::new();
    let mut peer = Peer::new();
    peer.send(&[call(1, "/t/Echo", "a")]).await;
    peer.received();
    peer.send(&[data(0, 1, &[message(4, "b"), "0b010500".into()].concat())])
        .await;
    peer.expect_nothing();
    peer.send(&[window(FIN, 1, 0)]).await;
    peer.expect(&[window(FIN, 1, 0)]);
    assert!(log.take().is_empty());
}

#[tokio::test(start_paused = true)]
async fn wire_030_a_unary_call_without_message_gets_eof() {
    let mut peer = Peer::new();
    peer.send(&[data(SYN, 1, &[invoke("/t/Echo"), CLOSE_SEND_2.into()].concat())])
        .await;
    peer.expect(&[data(ACK, 1, &error(1, 0, "EOF"))]);
}

#[tokio::test(start_paused = true)]
async fn wire_034_a_transport_may_carry_another_call() {
    let mut peer = Peer::new();
    peer.send(&[call(1, "/t/Echo", "a")]).await;
    peer.received();
    peer.send(&[data(0, 1, "03 02 01 07 2f742f4563686f  05 02 02 03 0a0162")])
        .await;
    peer.expect(&[data(0, 1, "05 02 01 06 0a0472653a62  0d 02 02 00")].map(|hex| hex.replace(' ', "")));
}

#[tokio::test(start_paused = true)]
async fn wire_035_a_chat_ends_when_both_have_said_so() {
    for path in ["/t/Chat", "/t/FarChat"] {
        let mut peer = Peer::new();
        peer.send(&[data(SYN, 1, &[invoke(path), message(2, "a")].concat())])
            .await;
        peer.expect(&[data(ACK, 1, &message(1, "a"))]);
        peer.send(&[data(0, 1, &message(3, "b"))]).await;
        peer.expect(&[data(0, 1, &message(2, "b"))]);
        peer.send(&[data(0, 1, "0d010400")]).await;
        peer.expect(&[data(0, 1, CLOSE_SEND_3)]);
        peer.expect_seen(&["got a", "got b", "eof", &format!("{path} Done")]);
        assert_eq!(peer.seen.running(), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn wire_036_the_peers_close_is_an_end_without_answer() {
    let mut peer = Peer::new();
    peer.send(&[data(SYN, 1, &[invoke("/t/Chat"), "0b010200".into()].concat())])
        .await;
    peer.expect_nothing();
    assert_eq!(peer.seen.take()[0], "eof");
    peer.send(&[window(FIN, 1, 0)]).await;
    peer.expect(&[window(ACK | FIN, 1, 0)]);
}

#[tokio::test(start_paused = true)]
async fn wire_037_the_handlers_close_ends_the_call() {
    let mut peer = Peer::new();
    peer.send(&[data(SYN, 1, &[invoke("/t/Chat"), message(2, "close")].concat())])
        .await;
    peer.expect(&[data(ACK, 1, "0b010100")]);
    peer.send(&[data(0, 1, &message(3, "late"))]).await;
    peer.expect_nothing();
    peer.expect_seen(&[
        "recv: 0 drpc: stream terminated by sending close",
        "/t/Chat Cancelled",
    ]);
}

#[tokio::test(start_paused = true)]
async fn wire_038_sending_after_close_send_fails() {
    let mut peer = Peer::new();
    let input = [invoke("/t/Chat"), message(2, "half-close"), message(3, "x")].concat();
    peer.send(&[data(SYN, 1, &input)]).await;
    peer.expect(&[data(
        ACK,
        1,
        &[CLOSE_SEND_1.into(), error(3, 0, "drpc: send closed")].concat(),
    )]);
}

#[tokio::test(start_paused = true)]
async fn wire_039_a_call_closed_by_both_is_over() {
    let mut peer = Peer::new();
    let input = [invoke("/t/Chat"), message(2, "half-close"), CLOSE_SEND_3.into()].concat();
    peer.send(&[data(SYN, 1, &input)]).await;
    peer.expect(&[data(ACK, 1, CLOSE_SEND_1)]);
    assert_eq!(peer.seen.running(), 0);
}

#[tokio::test(start_paused = true)]
async fn wire_041_and_042_a_client_stream_is_joined() {
    let mut peer = Peer::new();
    let input = [
        invoke("/t/Join"),
        message(2, "a"),
        message(3, "b"),
        "0d010400".into(),
    ]
    .concat();
    peer.send(&[data(SYN, 1, &input)]).await;
    peer.expect(&[data(ACK, 1, &[message(1, "ab"), CLOSE_SEND_2.into()].concat())]);
    peer.send(&[data(SYN, 3, &[invoke("/t/Join"), CLOSE_SEND_2.into()].concat())])
        .await;
    peer.expect(&[data(ACK, 3, &["05010100", CLOSE_SEND_2].concat())]);
}

#[tokio::test(start_paused = true)]
async fn wire_046_a_second_invoke_ends_the_transport() {
    let mut peer = Peer::new();
    peer.send(&[open(1, "/t/Chat")]).await;
    peer.send(&[data(0, 1, &drpc(1, 2, b"/t/Echo"))]).await;
    peer.expect(&[window(ACK | FIN, 1, 0)]);
    peer.expect_seen(&[
        "recv: 0 protocol error: invoke on existing stream",
        "/t/Chat Cancelled",
    ]);
}

#[tokio::test(start_paused = true)]
async fn wire_048_the_next_call_cancels_the_one_before() {
    let mut peer = Peer::new();
    peer.send(&[open(1, "/t/Chat")]).await;
    peer.send(&[data(0, 1, "03 02 01 07 2f742f4563686f  05 02 02 03 0a0162")])
        .await;
    peer.expect(&[data(ACK, 1, "05 02 01 06 0a0472653a62  0d 02 02 00").replace(' ', "")]);
    peer.expect_seen(&["recv: 0 context canceled", "/t/Chat Cancelled", "/t/Echo Done"]);
}

#[tokio::test(start_paused = true)]
async fn wire_052_messages_before_close_send_reach_a_slow_handler() {
    let mut peer = Peer::new();
    let mut input = invoke("/t/FarChat");
    for id in 2..7 {
        input += &message(id, &id.to_string());
    }
    peer.send(&[data(SYN, 1, &[input, "0d010700".into()].concat())])
        .await;
    peer.expect_seen(&[
        "got 2",
        "got 3",
        "got 4",
        "got 5",
        "got 6",
        "eof",
        "/t/FarChat Done",
    ]);
}

#[tokio::test(start_paused = true)]
async fn wire_054_and_056_errors_reach_the_caller() {
    let mut peer = Peer::new();
    peer.send(&[call(1, "/t/Fail", "coded")]).await;
    peer.expect(&[data(ACK, 1, &error(1, 42, "coded"))]);
    // On the Invoke already.
    peer.send(&[open(3, "/no.Such/Rpc")]).await;
    peer.expect(&[data(
        ACK,
        3,
        &error(1, 0, "protocol error: unknown rpc: \"/no.Such/Rpc\""),
    )]);
    peer.send(&[call(5, "/t/Refused", "")]).await;
    peer.expect(&[data(ACK, 5, &error(1, 7, "no"))]);
}

#[tokio::test(start_paused = true)]
async fn wire_059_an_undecodable_request_spoils_nothing() {
    let mut peer = Peer::new();
    peer.send(&[data(
        SYN,
        1,
        &[invoke("/t/Echo"), drpc(2, 2, b"\x0a\xff")].concat(),
    )])
    .await;
    let messages = peer.received();
    let answer = hex(&messages[0]);
    assert!(
        answer.contains("0701010000") || answer.contains("0701"),
        "{answer}"
    );
    peer.send(&[data(0, 1, "03 02 01 07 2f742f4563686f  05 02 02 03 0a0162")])
        .await;
    peer.expect(&[data(0, 1, "05 02 01 06 0a0472653a62  0d 02 02 00").replace(' ', "")]);
}

#[tokio::test(start_paused = true)]
async fn wire_060_a_panic_answers_its_caller_alone() {
    let log = Log::new();
    let mut peer = Peer::new();
    peer.send(&[open(1, "/t/Chat")]).await;
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    peer.send(&[call(3, "/t/Panic", "x")]).await;
    std::panic::set_hook(hook);
    peer.expect(&[data(
        ACK,
        3,
        &error(1, 0, "internal error: panic serving dRPC request"),
    )]);
    peer.send(&[call(5, "/t/Echo", "x"), data(0, 1, &message(2, "y"))])
        .await;
    assert_eq!(frames(&peer.received()).len(), 2);
    assert_eq!(
        log.take(),
        ["ERROR panic serving dRPC request method=\"/t/Panic\""]
    );
    assert_eq!(peer.seen.take()[0], "/t/Panic Panicked");
}

#[tokio::test(start_paused = true)]
async fn wire_061_the_peers_error_reaches_the_handler() {
    let mut peer = Peer::new();
    peer.send(&[data(SYN, 1, &[invoke("/t/Chat"), error(2, 7, "mine")].concat())])
        .await;
    peer.expect_nothing();
    peer.expect_seen(&["recv: 7 mine", "/t/Chat Cancelled"]);
}

#[tokio::test(start_paused = true)]
async fn wire_065_metadata_reaches_the_interceptors() {
    let mut peer = Peer::new();
    let metadata = drpc(7, 1, &bytes("0a06 0a016b 120176"));
    let input = [metadata, drpc(1, 2, b"/t/Echo"), message(3, "x")].concat();
    peer.send(&[data(SYN, 1, &input)]).await;
    peer.expect_seen(&["metadata k=v", "/t/Echo Done"]);
}

#[tokio::test(start_paused = true)]
async fn wire_084_a_reply_over_the_limit_is_an_error() {
    let mut peer = Peer::new();
    peer.send(&[call(1, "/t/Huge", "4194304")]).await;
    peer.expect(&[data(ACK, 1, &error(2, 0, "response exceeds 4194304 bytes"))]);
}

#[tokio::test(start_paused = true)]
async fn wire_107_a_call_may_come_byte_by_byte() {
    let mut peer = Peer::new();
    for byte in bytes(&call(1, "/t/Echo", "hi")).chunks(1) {
        peer.push(byte);
    }
    settle().await;
    peer.expect(&[data(ACK, 1, &[message(1, "re:hi"), CLOSE_SEND_2.into()].concat())]);
}
