//! What must hold of the WebSocket adapter for any peer. A finding is a panic.
//!
//! Owns the body of the fuzz target; see [`crate::fuzzing`]. Never part of the server.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tungstenite::protocol::frame::FrameHeader;
use tungstenite::protocol::frame::coding::{Control, Data, OpCode};

use super::{MAX_MESSAGE, Pipe as _, PipeError, WebSocketPipe};
use crate::mux::fuzzing::Input;

/// A socket that gives its pieces one by one, and takes as many bytes as it is told to, or none.
#[derive(Debug)]
struct Socket {
    pieces: VecDeque<Bytes>,
    /// Bytes that each write takes, in turn; 0 is not now.
    room: VecDeque<usize>,
    written: Vec<u8>,
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if let Some(piece) = self.pieces.front_mut() {
            buf.put_slice(&piece.split_to(piece.len().min(buf.remaining())));
            if piece.is_empty() {
                self.pieces.pop_front();
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Socket {
    fn poll_write(mut self: Pin<&mut Self>, _cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let room = self.room.pop_front().unwrap_or(usize::MAX);
        self.room.push_back(room);
        if room == 0 {
            return Poll::Pending;
        }
        let taken = buf.len().min(room);
        self.written.extend_from_slice(&buf[..taken]);
        Poll::Ready(Ok(taken))
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// What came out of the adapter: payload, how it ended, what it wrote.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    payload: Vec<u8>,
    end: String,
}

/// Any input, whole and chopped: the same payload and the same end. What is written is well-formed, whatever the socket
/// takes at a time, and nothing piles up.
pub(crate) fn websocket(data: &[u8]) {
    let mut input = Input(data);
    let room: VecDeque<_> = input.short().iter().map(|room| usize::from(*room)).collect();
    let (whole, pieces) = input.chopped();
    let one = run([whole].into(), VecDeque::new());
    assert_eq!(
        one,
        run(pieces.clone().into(), VecDeque::new()),
        "chopping changes payload"
    );
    // A socket that never takes anything would never be polled again.
    let stuck = room.iter().all(|room| *room == 0);
    let slow = run(pieces.into(), if stuck { VecDeque::new() } else { room });
    assert_eq!(one, slow, "a slow socket changes payload");
}

fn run(pieces: VecDeque<Bytes>, room: VecDeque<usize>) -> Seen {
    let came: usize = pieces.iter().map(Bytes::len).sum();
    let turns = room.len() + 1;
    let socket = Socket {
        pieces,
        room,
        written: Vec::new(),
    };
    let mut pipe = WebSocketPipe::new(socket, BytesMut::new());
    let mut cx = Context::from_waker(Waker::noop());
    let mut payload = Vec::new();
    let end = loop {
        match pipe.poll_recv(&mut cx) {
            Poll::Ready(Some(Ok(chunk))) => payload.extend_from_slice(&chunk),
            Poll::Ready(None) => break "left".to_owned(),
            Poll::Ready(Some(Err(PipeError::Io(error)))) => panic!("{error}"),
            Poll::Ready(Some(Err(error))) => break error.to_string(),
            Poll::Pending => panic!("the socket always has something to read, if only its end"),
        }
        assert!(
            pipe.pending.len() <= MAX_MESSAGE + 3 * 127,
            "control frames pile up"
        );
        let mut out = BytesMut::from(&chunk_of(&payload)[..]);
        while !out.is_empty() {
            let before = out.len();
            match pipe.poll_send(&mut cx, &mut out) {
                Poll::Ready(Ok(())) => assert!(out.len() < before, "ready without taking anything"),
                Poll::Ready(Err(_)) => break,
                Poll::Pending => {}
            }
        }
    };
    assert!(payload.len() <= came);
    for _ in 0..turns * 400 {
        if pipe.poll_flush(&mut cx).is_ready() {
            break;
        }
    }
    assert!(pipe.pending.is_empty(), "a flush that does not end");
    check_written(&pipe.io.written);
    Seen { payload, end }
}

/// Something to send now and then.
fn chunk_of(payload: &[u8]) -> Vec<u8> {
    match payload.len() % 5 {
        0 => vec![1; payload.len() % 300],
        _ => Vec::new(),
    }
}

/// Frames of a server: whole, unmasked, data binary and small, nothing behind a close frame.
fn check_written(mut written: &[u8]) {
    let mut closed = false;
    while !written.is_empty() {
        assert!(!closed, "a frame behind the close frame");
        let mut cursor = io::Cursor::new(written);
        let (header, length) = FrameHeader::parse(&mut cursor)
            .ok()
            .flatten()
            .unwrap_or_else(|| panic!("no frame: {written:02x?}"));
        assert!(header.is_final && header.mask.is_none() && !(header.rsv1 || header.rsv2 || header.rsv3));
        let most = match header.opcode {
            OpCode::Data(Data::Binary) => MAX_MESSAGE,
            OpCode::Control(control) => {
                closed = control == Control::Close;
                125
            }
            other @ OpCode::Data(_) => panic!("{other:?}"),
        };
        let header = usize::try_from(cursor.position()).unwrap_or(usize::MAX);
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        assert!(length <= most && header + length <= written.len(), "half a frame");
        written = &written[header + length..];
    }
}
