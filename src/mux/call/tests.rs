//! The call's rules as transcripts: bytes from the peer, events for the shell, bytes to the peer.

mod client;
mod ends;
mod errors;
mod framing;
mod metadata;
mod properties;
mod state;

use bytes::{BufMut, Bytes, BytesMut};

use super::{Event, Transport};
use crate::mux::error::{Status, TransportError};
use crate::mux::metadata::Metadata;
use crate::mux::stream::{AnyMessage, Reply};

/// A message that is its own encoding.
struct Raw(Vec<u8>);

impl AnyMessage for Raw {
    fn encoded_len(&self) -> usize {
        self.0.len()
    }

    fn encode_into(&self, out: &mut BytesMut) {
        out.put_slice(&self.0);
    }
}

/// A message of as many bytes.
fn raw(len: usize) -> Raw {
    Raw(vec![7; len])
}

type HandlerResult = Result<Option<Reply>, Status>;

#[expect(clippy::unnecessary_wraps, reason = "reads as what a handler returns")]
fn reply(text: &str) -> HandlerResult {
    Ok(Some(Reply::erased(Box::new(Raw(text.into())))))
}

fn failure(text: &'static str) -> HandlerResult {
    Err(Status::message(text))
}

fn invoke(path: &'static str) -> Event {
    Event::Invoke {
        path: path.into(),
        metadata: Metadata::default(),
    }
}

/// Both ends of a transcript. What it sends and expects is written as hexadecimal, spaces between fields.
struct Peer {
    transport: Transport,
    out: BytesMut,
}

impl Peer {
    fn new() -> Self {
        Self {
            transport: Transport::new(),
            out: BytesMut::new(),
        }
    }

    /// A peer whose call of `/a` has begun.
    fn invoked() -> Self {
        let mut peer = Self::new();
        peer.send("03 01 01 02 2f61").expect(invoke("/a"));
        peer
    }

    #[track_caller]
    fn send(&mut self, hex: &str) -> &mut Self {
        self.transport.on_bytes(bytes(hex));
        self
    }

    /// The peer's FIN.
    fn send_fin(&mut self) -> &mut Self {
        self.end(TransportError::Eof)
    }

    fn end(&mut self, why: TransportError) -> &mut Self {
        self.transport.on_end(why);
        self
    }

    #[track_caller]
    fn expect(&mut self, event: Event) -> &mut Self {
        assert_eq!(self.transport.poll_event(), Some(event));
        self
    }

    #[track_caller]
    fn expect_message(&mut self, text: &'static str) -> &mut Self {
        self.expect(Event::Message(text.into()))
    }

    #[track_caller]
    fn expect_nothing(&mut self) -> &mut Self {
        assert_eq!(self.transport.poll_event(), None);
        self
    }

    /// The transport ends with this text, nothing was sent on it since the last look, and nothing will be.
    #[track_caller]
    fn expect_end(&mut self, text: &str) -> &mut Self {
        match self.transport.poll_event() {
            Some(Event::Ended(error)) => assert_eq!(error.to_string(), text),
            other => panic!("expected the end, got {other:?}"),
        }
        self.expect_nothing().finish(reply("late")).expect_sent("")
    }

    /// What a handler's receive returns that finds no message: `None` for end of messages.
    #[track_caller]
    fn expect_receive_end(&mut self, error: Option<Status>) -> &mut Self {
        let closed = error.is_none();
        let actual = (self.transport.receive_error(), self.transport.receive_closed());
        assert_eq!(actual, (error, closed));
        self
    }

    #[track_caller]
    fn handler_sends(&mut self, text: &str) -> &mut Self {
        self.try_send(text).unwrap();
        self
    }

    #[track_caller]
    fn expect_send_error(&mut self, text: &str) -> &mut Self {
        assert_eq!(self.transport.send_error().unwrap().text(), text);
        assert_eq!(self.try_send("x").unwrap_err().text(), text);
        self.expect_sent("")
    }

    fn try_send(&mut self, text: &str) -> Result<(), Status> {
        self.transport.send(&Raw(text.into()), &mut self.out)
    }

    fn handler_closes_send(&mut self) -> &mut Self {
        self.transport.close_send(&mut self.out);
        self
    }

    fn handler_closes(&mut self) -> &mut Self {
        self.transport.close(&mut self.out);
        self
    }

    fn finish(&mut self, result: HandlerResult) -> &mut Self {
        self.transport.finish(result, &mut self.out);
        self
    }

    #[track_caller]
    fn expect_sent(&mut self, hex: &str) -> &mut Self {
        assert_eq!(Bytes::from(self.out.split()), bytes(hex));
        self
    }
}

fn bytes(hex: &str) -> Bytes {
    let digits: Vec<_> = hex.chars().filter_map(|digit| digit.to_digit(16)).collect();
    digits
        .chunks(2)
        .map(|pair| u8::try_from(pair[0] << 4 | pair[1]).unwrap())
        .collect()
}
