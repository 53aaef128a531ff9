use std::borrow::Cow;
use std::future::poll_fn;
use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode as Code;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role};
use tokio_tungstenite::tungstenite::{Error, Message};

use super::*;

type Client = WebSocketStream<DuplexStream>;

/// A pipe of ours and an independent client on its other end; `buffer` bytes fit between them.
async fn pair(buffer: usize) -> (WebSocketPipe<DuplexStream>, Client) {
    let (server, client) = duplex(buffer);
    (
        WebSocketPipe::new(server, BytesMut::new()),
        WebSocketStream::from_raw_socket(client, Role::Client, None).await,
    )
}

async fn recv(pipe: &mut WebSocketPipe<DuplexStream>) -> Option<Result<Bytes, PipeError>> {
    poll_fn(|cx| pipe.poll_recv(cx)).await
}

/// Sends all of `bytes` and flushes.
async fn send(pipe: &mut WebSocketPipe<DuplexStream>, bytes: &[u8]) {
    let mut out = BytesMut::from(bytes);
    while !out.is_empty() {
        poll_fn(|cx| pipe.poll_send(cx, &mut out)).await.unwrap();
    }
    poll_fn(|cx| pipe.poll_flush(cx)).await.unwrap();
}

async fn close(pipe: &mut WebSocketPipe<DuplexStream>, code: CloseCode, reason: &'static str) {
    let close = Close {
        code,
        reason: Cow::Borrowed(reason),
    };
    poll_fn(|cx| pipe.poll_close(cx, &close)).await.unwrap();
}

fn close_frame(code: u16, reason: &str) -> Message {
    Message::Close(Some(CloseFrame {
        code: Code::from(code),
        reason: reason.into(),
    }))
}

/// Received bytes until the pipe ends, and how it ends.
async fn recv_all(pipe: &mut WebSocketPipe<DuplexStream>) -> (Vec<u8>, Option<PipeError>) {
    let mut bytes = Vec::new();
    loop {
        match recv(pipe).await {
            Some(Ok(chunk)) => bytes.extend(chunk),
            Some(Err(error)) => return (bytes, Some(error)),
            None => return (bytes, None),
        }
    }
}

#[tokio::test]
async fn wire_101_a_text_message_is_answered_with_close_1003() {
    let (mut pipe, mut client) = pair(4096).await;
    client.send(Message::text("hello")).await.unwrap();
    let (bytes, error) = recv_all(&mut pipe).await;
    assert!(bytes.is_empty());
    let text = "unexpected frame type read (expected MessageBinary): MessageText";
    assert_eq!(error.unwrap().to_string(), text);
    assert_eq!(client.next().await.unwrap().unwrap(), close_frame(1003, text));
}

#[tokio::test]
async fn wire_103_a_ping_is_answered_with_its_payload() {
    let (mut pipe, mut client) = pair(4096).await;
    client.send(Message::Ping("are you there".into())).await.unwrap();
    assert_eq!(recv(&mut pipe).await.unwrap().unwrap(), Bytes::new());
    assert_eq!(
        client.next().await.unwrap().unwrap(),
        Message::Pong("are you there".into())
    );
}

#[tokio::test]
async fn our_ping_is_answered_and_the_answer_is_a_sign_of_life() {
    let (mut pipe, mut client) = pair(4096).await;
    assert!(poll_fn(|cx| pipe.poll_ping(cx)).await.unwrap());
    assert_eq!(client.next().await.unwrap().unwrap(), Message::Ping(Bytes::new()));
    client.flush().await.unwrap();
    assert_eq!(recv(&mut pipe).await.unwrap().unwrap(), Bytes::new());
}

#[tokio::test]
async fn wire_104_messages_are_binary_unmasked_and_at_most_32_kib() {
    let (server, mut client) = duplex(1 << 20);
    let mut pipe = WebSocketPipe::new(server, BytesMut::new());
    send(&mut pipe, &[7; 40_000]).await;
    send(&mut pipe, b"hi").await;
    let mut wire = vec![0; 4 + 32_768 + 4 + 7_232 + 2 + 2];
    client.read_exact(&mut wire).await.unwrap();
    assert_eq!(wire[..4], [0x82, 126, 0x80, 0x00]);
    assert_eq!(wire[32_772..32_776], [0x82, 126, 0x1c, 0x40]);
    assert_eq!(wire[40_008..], [0x82, 2, b'h', b'i']);
}

#[tokio::test]
async fn bytes_survive_a_transport_that_takes_a_few_at_a_time() {
    let (mut pipe, mut client) = pair(7).await;
    let sent: Vec<u8> = (0..100_000_u32).map(|number| number.to_le_bytes()[0]).collect();
    let expected = sent.clone();
    let reader = tokio::spawn(async move {
        let mut read = Vec::new();
        while read.len() < expected.len() {
            read.extend(client.next().await.unwrap().unwrap().into_data());
        }
        assert_eq!(read, expected);
        client.send(Message::binary(read)).await.unwrap();
        client.close(None).await.unwrap();
    });
    send(&mut pipe, &sent).await;
    let (received, error) = recv_all(&mut pipe).await;
    assert!(matches!(error, Some(PipeError::Closed { code: NO_STATUS, .. })));
    assert_eq!(received, sent);
    reader.await.unwrap();
}

#[tokio::test]
async fn what_http_read_behind_the_request_comes_first() {
    let (server, _client) = duplex(64);
    let first = [0x82, 0x82, 0, 0, 0, 0, b'o', b'k'];
    let mut pipe = WebSocketPipe::new(server, BytesMut::from(&first[..]));
    assert_eq!(recv(&mut pipe).await.unwrap().unwrap(), Bytes::from_static(b"ok"));
}

#[tokio::test]
async fn a_message_above_4_mib_passes() {
    let (mut pipe, mut client) = pair(1 << 16).await;
    let writer = tokio::spawn(async move {
        client.send(Message::binary(vec![1; 5 << 20])).await.unwrap();
        client
    });
    let mut received = 0;
    while received < 5 << 20 {
        received += recv(&mut pipe).await.unwrap().unwrap().len();
    }
    writer.await.unwrap();
}

#[tokio::test]
async fn wire_105_close_1000_and_1001_are_the_end_and_other_codes_are_errors() {
    for code in [1000, 1001] {
        let (mut pipe, mut client) = pair(4096).await;
        client.send(close_frame(code, "bye")).await.unwrap();
        assert!(recv(&mut pipe).await.is_none());
        assert!(recv(&mut pipe).await.is_none(), "it stays ended");
        assert_eq!(
            client.next().await.unwrap().unwrap(),
            close_frame(code, "bye"),
            "the close is answered"
        );
    }
    let (mut pipe, mut client) = pair(4096).await;
    client.send(close_frame(1011, "broken")).await.unwrap();
    let error = recv(&mut pipe).await.unwrap().unwrap_err();
    assert!(matches!(error, PipeError::Closed { code: 1011, reason } if reason == "broken"));
}

#[tokio::test]
async fn wire_105_the_end_of_the_transport_is_clean_only_between_frames() {
    let (server, client) = duplex(64);
    drop(client);
    assert!(
        recv(&mut WebSocketPipe::new(server, BytesMut::new()))
            .await
            .is_none()
    );

    let (server, mut client) = duplex(64);
    client.write_all(&[0x82, 0x85, 0, 0, 0, 0, b'h']).await.unwrap();
    drop(client);
    let (bytes, error) = recv_all(&mut WebSocketPipe::new(server, BytesMut::new())).await;
    assert_eq!(bytes, b"h");
    assert!(matches!(error, Some(PipeError::UnexpectedEof)));
}

#[tokio::test]
async fn closing_says_why_and_waits_for_the_peers_close() {
    let (mut pipe, mut client) = pair(4096).await;
    // Not read by anybody: closing skips it.
    client.send(Message::binary("late")).await.unwrap();
    let peer = tokio::spawn(async move {
        assert_eq!(client.next().await.unwrap().unwrap(), close_frame(1001, ""));
        assert!(matches!(
            client.next().await,
            None | Some(Err(Error::ConnectionClosed))
        ));
    });
    close(&mut pipe, CloseCode::GOING_AWAY, "").await;
    drop(pipe);
    peer.await.unwrap();
}

#[tokio::test]
async fn after_a_violation_the_close_keeps_its_code() {
    let (mut pipe, mut client) = pair(4096).await;
    client.send(Message::text("x")).await.unwrap();
    recv_all(&mut pipe).await.1.unwrap();
    let peer = tokio::spawn(async move {
        let Message::Close(Some(frame)) = client.next().await.unwrap().unwrap() else {
            panic!("no close")
        };
        assert_eq!(u16::from(frame.code), 1003);
        // The end of ours ends the pipe's wait.
        while client.next().await.is_some_and(|message| message.is_ok()) {}
    });
    close(&mut pipe, CloseCode::INTERNAL, "text").await;
    peer.await.unwrap();
}

#[tokio::test]
async fn nothing_is_sent_behind_a_close() {
    let (mut pipe, mut client) = pair(4096).await;
    client.send(close_frame(1000, "")).await.unwrap();
    assert!(recv(&mut pipe).await.is_none());
    let mut out = BytesMut::from(&b"x"[..]);
    let error = poll_fn(|cx| pipe.poll_send(cx, &mut out)).await.unwrap_err();
    assert!(matches!(error, PipeError::Io(error) if error.kind() == std::io::ErrorKind::BrokenPipe));
}

#[tokio::test(start_paused = true)]
async fn pings_of_a_peer_that_reads_nothing_do_not_pile_up() {
    let (server, mut client) = duplex(1024);
    let mut pipe = WebSocketPipe::new(server, BytesMut::new());
    // The transport is full, and stays so.
    let mut out = BytesMut::from(&[0; 4096][..]);
    let full = tokio::time::timeout(Duration::from_secs(1), async {
        poll_fn(|cx| pipe.poll_send(cx, &mut out)).await.unwrap();
        poll_fn(|cx| pipe.poll_flush(cx)).await.unwrap();
    });
    assert!(full.await.is_err());
    let held = pipe.pending.len();
    let ping = [[0x89, 0x80 | 120, 0, 0, 0, 0].as_slice(), &[b'p'; 120]].concat();
    for _ in 0..1000 {
        client.write_all(&ping).await.unwrap();
        assert_eq!(recv(&mut pipe).await.unwrap().unwrap(), Bytes::new());
    }
    assert_eq!(pipe.pending.len(), held);
}

#[test]
fn an_idle_pipe_holds_no_buffer() {
    let size = size_of::<WebSocketPipe<TcpStream>>();
    assert!(size <= 320, "{size} bytes");
}

#[tokio::test]
async fn buffers_are_given_back_when_all_is_written() {
    let (mut pipe, mut client) = pair(64).await;
    let reader = tokio::spawn(async move {
        client.next().await.unwrap().unwrap();
        client
    });
    send(&mut pipe, &[0; 10_000]).await;
    assert_eq!(pipe.pending.capacity(), 0);
    drop(reader.await.unwrap());
}
