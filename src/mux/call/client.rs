//! The client's end of a call: what it writes, and what the server's packets mean to it.
//!
//! A client cancels a call by ending its side of the transport, without a packet, as Go clients of coder do. Source:
//! storj/drpc `drpcstream/stream.go`, which both ends share there.

use bytes::{Bytes, BytesMut};

use crate::mux::error::{ProtocolError, Status, TransportError};
use crate::mux::frame::{Kind, PacketId, write_split, write_whole};
use crate::mux::metadata;
use crate::mux::packet::{Packet, PacketReader};
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
    /// The call is over, with or without an error. The client closes its side of the transport.
    Ended(Result<(), Status>),
}

/// One call on one transport.
#[derive(Debug)]
pub(crate) struct ClientCall {
    reader: PacketReader,
    /// Message id of the last packet that was attempted.
    sent: u64,
    send_closed: bool,
    receive_closed: bool,
    /// Why nothing can be sent any more, once the call is over.
    ended: Option<&'static str>,
}

impl ClientCall {
    /// Begins a call of `path`.
    pub(crate) fn new(path: &str, out: &mut BytesMut) -> Self {
        Self::with_metadata(path, &[], out)
    }

    /// Begins a call of `path` with metadata.
    pub(crate) fn with_metadata(path: &str, pairs: &[(&[u8], &[u8])], out: &mut BytesMut) -> Self {
        let mut call = Self {
            reader: PacketReader::new(),
            sent: 0,
            send_closed: false,
            receive_closed: false,
            ended: None,
        };
        if !pairs.is_empty() {
            let mut body = BytesMut::new();
            metadata::encode(pairs, &mut body);
            call.write(Kind::INVOKE_METADATA, &body, out);
        }
        call.write(Kind::INVOKE, path.as_bytes(), out);
        call
    }

    fn write(&mut self, kind: Kind, data: &[u8], out: &mut BytesMut) {
        let id = self.next_id();
        write_split(kind, id, data.len(), out, |out| out.extend_from_slice(data));
    }

    fn next_id(&mut self) -> PacketId {
        self.sent = self.sent.wrapping_add(1);
        PacketId {
            stream: STREAM,
            message: self.sent,
        }
    }

    /// Sends a message. There is no limit on this side: a server refuses what is too long.
    pub(crate) fn send(&mut self, message: &dyn AnyMessage, out: &mut BytesMut) -> Result<(), Status> {
        // A refused attempt takes a message id too, as in Go.
        let id = self.next_id();
        if self.send_closed {
            return Err(Status::message("drpc: send closed"));
        }
        if let Some(end) = self.ended {
            return Err(Status::message(end));
        }
        write_split(Kind::MESSAGE, id, message.encoded_len(), out, |out| {
            message.encode_into(out);
        });
        Ok(())
    }

    /// Sends no more messages. If the server does not either, the call is over.
    pub(crate) fn close_send(&mut self, out: &mut BytesMut) {
        if self.ended.is_some() || self.send_closed {
            return;
        }
        self.send_closed = true;
        if self.receive_closed {
            self.ended = Some("EOF");
        }
        let id = self.next_id();
        write_whole(Kind::CLOSE_SEND, id, 0, out, |_| {});
    }

    /// Ends the call in both directions. Nothing is received any more.
    pub(crate) fn close(&mut self, out: &mut BytesMut) {
        if self.ended.is_none() {
            let id = self.next_id();
            write_whole(Kind::CLOSE, id, 0, out, |_| {});
            self.end("drpc: stream terminated by sending close");
        }
    }

    /// Bytes came from the server.
    pub(crate) fn on_bytes(&mut self, bytes: Bytes) {
        if self.ended.is_none() {
            self.reader.push(bytes);
        }
    }

    /// What the end of the transport means to a call that is not over. Asked once all events are read.
    pub(crate) fn on_end(&mut self, why: &TransportError) -> Option<ClientEvent> {
        if self.ended.is_some() {
            return None;
        }
        self.end("EOF");
        let status = match why {
            TransportError::Eof | TransportError::Canceled => Status::canceled(),
            other => Status::message(other.to_string()),
        };
        Some(ClientEvent::Ended(Err(status)))
    }

    /// The next event, if what has come makes one.
    pub(crate) fn poll_event(&mut self) -> Option<ClientEvent> {
        while self.ended.is_none() {
            let event = match self.reader.next() {
                Ok(packet) => self.on_packet(packet?),
                Err(error) => Err(error.into()),
            };
            match event {
                Ok(None) => {}
                Ok(event) => return event,
                Err(error) => return self.on_end(&error),
            }
        }
        None
    }

    fn on_packet(&mut self, packet: Packet) -> Result<Option<ClientEvent>, TransportError> {
        if packet.id.stream != STREAM {
            // A later stream on the transport ends this one, whatever it may be.
            return Err(TransportError::Canceled);
        }
        let half_closed = self.receive_closed;
        let result = match packet.kind {
            Kind::MESSAGE | Kind::CLOSE_SEND if half_closed => return Ok(None),
            Kind::MESSAGE => return Ok(Some(ClientEvent::Message(packet.data))),
            Kind::CLOSE_SEND => {
                self.receive_closed = true;
                if !self.send_closed {
                    return Ok(Some(ClientEvent::HalfClosed));
                }
                Ok(())
            }
            Kind::CLOSE => {
                self.end("closed: remote closed the stream");
                Ok(())
            }
            Kind::ERROR => Err(Status::decode(&packet.data)),
            Kind::CANCEL => Err(Status::canceled()),
            Kind::INVOKE => return Err(ProtocolError::InvokeOnExistingStream.into()),
            _ if packet.control => return Ok(None),
            kind => return Err(ProtocolError::UnexpectedKind(kind).into()),
        };
        self.end("EOF");
        // A receiver that was told that no more comes is not told otherwise.
        Ok(Some(ClientEvent::Ended(if half_closed {
            Ok(())
        } else {
            result
        })))
    }

    /// Nothing is sent or received any more. The first reason counts.
    fn end(&mut self, why_not_send: &'static str) {
        self.ended.get_or_insert(why_not_send);
        self.reader.clear();
    }
}
