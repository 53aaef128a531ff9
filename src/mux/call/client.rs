//! The client's end of a call: what it writes, and what the server's packets mean to it.

use bytes::{Bytes, BytesMut};

use crate::mux::error::{Status, TransportError};
use crate::mux::frame::{Kind, PacketId, write_split, write_whole};
use crate::mux::packet::PacketReader;
use crate::mux::stream::AnyMessage;

/// The only stream of a client's transport.
const STREAM: u64 = 1;

/// What the server's packets mean.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ClientEvent {
    /// A message.
    Message(Bytes),
    /// The server sends no more messages; the client may go on.
    HalfClosed,
    /// The call is over, with or without an error.
    Ended(Result<(), Status>),
}

/// One call on one transport.
#[derive(Debug)]
pub(crate) struct ClientCall {
    reader: PacketReader,
    sent: u64,
    send_closed: bool,
    receive_closed: bool,
    ended: bool,
}

impl ClientCall {
    /// Begins a call of `path`.
    pub(crate) fn new(path: &str, out: &mut BytesMut) -> Self {
        let reader = PacketReader::new();
        let mut call = Self {
            reader,
            sent: 0,
            send_closed: false,
            receive_closed: false,
            ended: false,
        };
        let id = call.next_id();
        write_split(Kind::INVOKE, id, path.len(), out, |out| {
            out.extend_from_slice(path.as_bytes())
        });
        call
    }

    fn next_id(&mut self) -> PacketId {
        self.sent += 1;
        PacketId {
            stream: STREAM,
            message: self.sent,
        }
    }

    /// Sends a message.
    pub(crate) fn send(&mut self, message: &dyn AnyMessage, out: &mut BytesMut) -> Result<(), Status> {
        if self.ended {
            return Err(Status::eof());
        }
        if self.send_closed {
            return Err(Status::message("drpc: send closed"));
        }
        let id = self.next_id();
        write_split(Kind::MESSAGE, id, message.encoded_len(), out, |out| {
            message.encode_into(out)
        });
        Ok(())
    }

    /// Sends no more messages.
    pub(crate) fn close_send(&mut self, out: &mut BytesMut) {
        if !self.ended && !std::mem::replace(&mut self.send_closed, true) {
            let id = self.next_id();
            write_whole(Kind::CLOSE_SEND, id, 0, out, |_| {});
        }
    }

    /// Bytes came from the server.
    pub(crate) fn on_bytes(&mut self, bytes: Bytes) {
        if !self.ended {
            self.reader.push(bytes);
        }
    }

    /// What the end of the transport means to a call that is not over. Asked once all events are read.
    pub(crate) fn on_end(&mut self, why: &TransportError) -> Option<ClientEvent> {
        let result = match why {
            TransportError::Eof | TransportError::Canceled => Err(Status::canceled()),
            other => Err(Status::message(other.to_string())),
        };
        (!std::mem::replace(&mut self.ended, true)).then_some(ClientEvent::Ended(result))
    }

    /// The next event, if what has come makes one.
    pub(crate) fn poll_event(&mut self) -> Option<ClientEvent> {
        while !self.ended {
            let packet = match self.reader.next() {
                Ok(packet) => packet?,
                Err(error) => return self.end(Err(Status::message(format!("manager closed: {error}")))),
            };
            match packet.kind {
                Kind::MESSAGE if !self.receive_closed => return Some(ClientEvent::Message(packet.data)),
                Kind::CLOSE_SEND if !self.receive_closed => {
                    self.receive_closed = true;
                    return if self.send_closed {
                        self.end(Ok(()))
                    } else {
                        Some(ClientEvent::HalfClosed)
                    };
                }
                Kind::CLOSE => return self.end(Ok(())),
                Kind::ERROR => return self.end(Err(Status::decode(&packet.data))),
                Kind::CANCEL => return self.end(Err(Status::canceled())),
                Kind::MESSAGE | Kind::CLOSE_SEND => {}
                _ if packet.control => {}
                kind => {
                    return self.end(Err(Status::message(format!(
                        "internal error: unknown packet kind: {kind}"
                    ))));
                }
            }
        }
        None
    }

    fn end(&mut self, result: Result<(), Status>) -> Option<ClientEvent> {
        self.ended = true;
        self.reader.clear();
        Some(ClientEvent::Ended(result))
    }
}
