//! One DRPC transport, seen from the server: packets in, events for the shell out; a handler's doings in, frames out.
//!
//! Owns the state of the call that the transport carries, and which packet may come when. A transport carries one call at
//! a time; agents use one transport per call, but a peer may go on with a higher stream id. Takes no time, opens no
//! socket, starts no task: the shell feeds it and runs the handlers.
//!
//! ```text
//!            Invoke            CloseSend of one side
//!   Waiting ───────► Open ───────────────────────────► half closed
//!                     │                                     │
//!                     │ Close or Error of either side,      │ the same, or CloseSend
//!                     │ Cancel, a higher stream id, the     │ of the other side
//!                     │ end of the transport                │
//!                     └──────────► Terminated ◄─────────────┘
//!                                      │ the handler has returned
//!                                      ▼
//!                            ready for a higher stream id
//! ```
//!
//! A handler that returns Ok sends its CloseSend and leaves the call half closed until the peer's. Each of `send`, `recv`
//! and `terminated` is set once, the first value wins. Sources: storj/drpc `drpcstream/stream.go`,
//! `drpcmanager/manager.go`. Two things are better than there: a message that nobody will read is discarded instead of
//! blocking the reader, and a packet without its Invoke does not hang the transport.

mod client;
#[cfg(test)]
mod tests;

use bytes::{Bytes, BytesMut};

pub(super) use self::client::{ClientCall, ClientEvent};
use super::error::{ProtocolError, Status, TransportError};
use super::frame::{Kind, PacketId, write_split, write_whole};
use super::metadata::Metadata;
use super::packet::{MAX_PACKET, Packet, PacketReader};
use super::stream::{AnyMessage, Reply};

/// What the shell must react to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// A call begins.
    Invoke {
        /// Path of the method, as sent.
        path: Bytes,
        /// What was sent before it.
        metadata: Metadata,
    },
    /// A message for the handler.
    Message(Bytes),
    /// No more messages will come; the handler goes on.
    HalfClosed,
    /// The call is over before its handler is: cancel the handler, then say so with
    /// [`Transport::handler_returned`]. A pending receive gets [`Transport::receive_error`].
    Cancelled,
    /// The peer is done with the transport, or broke a rule. The shell cancels what runs, sends no more frames and closes
    /// its side. Nothing follows.
    Ended(TransportError),
}

/// What came after the last message of the peer.
#[derive(Clone, Debug, PartialEq, Eq)]
enum ReceiveEnd {
    /// CloseSend or Close.
    Eof,
    /// An error: the peer's own, or why there is no peer any more.
    Failed(Status),
}

/// Why nothing can be sent any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SendEnd {
    /// CloseSend was sent.
    Closed,
    /// Close was sent.
    CallClosed,
    /// The peer closed the call.
    ClosedByPeer,
    /// There is no call any more.
    Gone,
}

impl SendEnd {
    fn status(self) -> Status {
        Status::message(match self {
            Self::Closed => "drpc: send closed",
            Self::CallClosed => "drpc: stream terminated by sending close",
            Self::ClosedByPeer => "closed: remote closed the stream",
            Self::Gone => "EOF",
        })
    }
}

/// The call that a transport carries, or carried last.
#[derive(Debug)]
struct Call {
    stream: u64,
    /// Message id of the last packet that was attempted.
    sent: u64,
    send: Option<SendEnd>,
    recv: Option<ReceiveEnd>,
    terminated: bool,
    /// The handler has not returned.
    running: bool,
    /// [`Event::Cancelled`] was given out.
    cancelled: bool,
}

impl Call {
    fn new(stream: u64) -> Self {
        Self {
            stream,
            sent: 0,
            send: None,
            recv: None,
            terminated: false,
            running: true,
            cancelled: false,
        }
    }

    fn terminate(&mut self, send: SendEnd, recv: ReceiveEnd) {
        self.send.get_or_insert(send);
        self.recv.get_or_insert(recv);
        self.terminated = true;
    }

    /// Both sides have said that they send no more.
    fn terminate_if_both_closed(&mut self) {
        if self.send == Some(SendEnd::Closed) && self.recv == Some(ReceiveEnd::Eof) {
            self.terminated = true;
        }
    }

    fn next_id(&mut self) -> PacketId {
        self.sent = self.sent.wrapping_add(1);
        PacketId {
            stream: self.stream,
            message: self.sent,
        }
    }
}

/// How far the peer's side of the transport is.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Input {
    Open,
    /// Nothing more will come.
    Closed(TransportError),
    /// [`Event::Ended`] was given out.
    Ended,
}

/// The server's end of one transport.
#[derive(Debug)]
pub(super) struct Transport {
    reader: PacketReader,
    call: Option<Call>,
    /// Metadata waiting for its Invoke, and the stream id of both.
    metadata: Option<(u64, Metadata)>,
    /// A packet of a higher stream id, until the call before it is done.
    held: Option<Packet>,
    input: Input,
}

impl Transport {
    pub(super) fn new() -> Self {
        Self {
            reader: PacketReader::new(),
            call: None,
            metadata: None,
            held: None,
            input: Input::Open,
        }
    }

    /// Bytes came from the peer.
    pub(super) fn on_bytes(&mut self, bytes: Bytes) {
        if self.input == Input::Open {
            self.reader.push(bytes);
        }
    }

    /// The peer will send no more, or no peer is left. The first reason counts.
    pub(super) fn on_end(&mut self, why: TransportError) {
        if self.input == Input::Open {
            self.input = Input::Closed(why);
        }
    }

    /// Bytes that came and were not yet looked at. While they are as many as one read ahead may be, the shell stops
    /// reading, so that the peer runs out of credit.
    pub(super) fn buffered(&self) -> usize {
        self.reader.buffered() + self.held.as_ref().map_or(0, |packet| packet.data.len())
    }

    /// Copies what is not yet looked at out of the larger chunks that it came in.
    pub(super) fn detach(&mut self) {
        self.reader.detach();
    }

    /// Bytes that this transport keeps in memory: those not yet looked at, a packet in progress, and metadata that waits.
    pub(super) fn held(&self) -> usize {
        let metadata = self.metadata.as_ref().map_or(0, |(_, metadata)| metadata.size());
        self.buffered() + self.reader.assembling() + metadata
    }

    /// Whether nothing more will come, whatever is still to be read.
    pub(super) fn input_closed(&self) -> bool {
        self.input != Input::Open
    }

    /// The next event, if what has come makes one. Messages are given out one at a time, so a shell that has no room for
    /// more just does not ask.
    pub(super) fn poll_event(&mut self) -> Option<Event> {
        loop {
            if self.input == Input::Ended {
                return None;
            }
            let running = self.call.as_mut().filter(|call| call.running);
            if let Some(call) = running {
                if call.terminated && !std::mem::replace(&mut call.cancelled, true) {
                    return Some(Event::Cancelled);
                }
                if self.held.is_some() {
                    return self.end_of_input();
                }
            }
            let packet = match self.held.take() {
                Some(packet) => packet,
                None => match self.reader.next() {
                    Ok(Some(packet)) => packet,
                    Ok(None) => return self.end_of_input(),
                    Err(error) => return Some(self.fail(error.into())),
                },
            };
            match self.on_packet(packet) {
                Ok(Some(event)) => return Some(event),
                Ok(None) => {}
                Err(error) => return Some(self.fail(error)),
            }
        }
    }

    /// All that came was read; is there an end behind it?
    fn end_of_input(&mut self) -> Option<Event> {
        let Input::Closed(why) = &self.input else {
            return None;
        };
        let why = why.clone();
        Some(self.fail(why))
    }

    /// Ends the transport; a running call ends with it.
    fn fail(&mut self, why: TransportError) -> Event {
        let recv = match &why {
            TransportError::Protocol(error) => Status::message(error.to_string()),
            TransportError::InvalidMetadata => Status::message(why.to_string()),
            _ => Status::canceled(),
        };
        if let Some(call) = &mut self.call {
            call.terminate(SendEnd::Gone, ReceiveEnd::Failed(recv));
        }
        self.reader.clear();
        self.metadata = None;
        self.held = None;
        self.input = Input::Ended;
        Event::Ended(why)
    }

    fn on_packet(&mut self, packet: Packet) -> Result<Option<Event>, TransportError> {
        match &mut self.call {
            Some(call) if packet.id.stream < call.stream => Ok(None),
            Some(call) if packet.id.stream == call.stream => on_own_packet(call, packet),
            Some(call) if call.running => {
                call.terminate(SendEnd::Gone, ReceiveEnd::Failed(Status::canceled()));
                // Copied: it may wait long for the handler, and must not keep alive the larger chunk it came in.
                let data = Bytes::copy_from_slice(&packet.data);
                self.held = Some(Packet { data, ..packet });
                Ok(None)
            }
            _ => self.on_first_packet(packet),
        }
    }

    /// A packet while no call runs.
    fn on_first_packet(&mut self, packet: Packet) -> Result<Option<Event>, TransportError> {
        let stream = packet.id.stream;
        match packet.kind {
            Kind::INVOKE => {
                let metadata = self
                    .metadata
                    .take()
                    .filter(|(of, _)| *of == stream)
                    .map(|(_, metadata)| metadata);
                self.call = Some(Call::new(stream));
                Ok(Some(Event::Invoke {
                    path: packet.data,
                    metadata: metadata.unwrap_or_default(),
                }))
            }
            Kind::INVOKE_METADATA => {
                let metadata = Metadata::decode(&packet.data).map_err(|_| TransportError::InvalidMetadata)?;
                self.metadata = Some((stream, metadata));
                Ok(None)
            }
            _ if packet.control => Ok(None),
            kind => Err(ProtocolError::UnexpectedKind(kind).into()),
        }
    }

    /// What a receive that waits, or is yet to come, fails with once all messages are read; `None` while the call lives or
    /// when the peer has half-closed.
    pub(super) fn receive_error(&self) -> Option<Status> {
        match self.call.as_ref()?.recv.as_ref()? {
            ReceiveEnd::Eof => None,
            ReceiveEnd::Failed(status) => Some(status.clone()),
        }
    }

    /// Whether the peer has said that it sends no more messages.
    pub(super) fn receive_closed(&self) -> bool {
        self.call
            .as_ref()
            .is_some_and(|call| call.recv == Some(ReceiveEnd::Eof))
    }

    /// Whether the call has ended in both directions, so that its handler's result reaches nobody.
    pub(super) fn is_terminated(&self) -> bool {
        self.call.as_ref().is_none_or(|call| call.terminated)
    }

    /// Why nothing can be sent now; `None` when something can.
    pub(super) fn send_error(&self) -> Option<Status> {
        match &self.call {
            Some(call) => call.send.map(SendEnd::status),
            None => Some(SendEnd::Gone.status()),
        }
    }

    /// The handler sends a message, which is encoded into `out`.
    pub(super) fn send(&mut self, message: &dyn AnyMessage, out: &mut BytesMut) -> Result<(), Status> {
        let Some(call) = &mut self.call else {
            return Err(SendEnd::Gone.status());
        };
        // A refused attempt takes a message id too, as in Go.
        let id = call.next_id();
        if let Some(end) = call.send {
            return Err(end.status());
        }
        let len = message.encoded_len();
        if len > MAX_PACKET {
            return Err(Status::message(format!("response exceeds {MAX_PACKET} bytes")));
        }
        write_split(Kind::MESSAGE, id, len, out, |out| message.encode_into(out));
        Ok(())
    }

    /// The handler sends no more.
    pub(super) fn close_send(&mut self, out: &mut BytesMut) {
        let Some(call) = self.call.as_mut().filter(|call| call.send.is_none()) else {
            return;
        };
        let id = call.next_id();
        write_whole(Kind::CLOSE_SEND, id, 0, out, |_| {});
        call.send = Some(SendEnd::Closed);
        call.terminate_if_both_closed();
    }

    /// The handler ends the call in both directions.
    pub(super) fn close(&mut self, out: &mut BytesMut) {
        let Some(call) = self.call.as_mut().filter(|call| !call.terminated) else {
            return;
        };
        let id = call.next_id();
        write_whole(Kind::CLOSE, id, 0, out, |_| {});
        let end = SendEnd::CallClosed;
        call.terminate(end, ReceiveEnd::Failed(end.status()));
        // The handler ended the call itself; it need not be told.
        call.cancelled = true;
    }

    /// The handler has returned; its last frames are appended to `out`. Unlike after an error, a call that it completed
    /// waits for the peer's CloseSend, in which messages are discarded and broken rules still end the transport.
    pub(super) fn finish(&mut self, result: Result<Option<Reply>, Status>, out: &mut BytesMut) {
        let over = self.call.as_ref().is_none_or(|call| call.terminated);
        if !over {
            let result = match result {
                Ok(Some(reply)) => self.send(reply.as_message(), out),
                Ok(None) => Ok(()),
                Err(status) => Err(status),
            };
            match result {
                Ok(()) => self.close_send(out),
                Err(status) => self.send_status(&status, out),
            }
        }
        if let Some(call) = &mut self.call {
            call.running = false;
        }
    }

    fn send_status(&mut self, status: &Status, out: &mut BytesMut) {
        let Some(call) = &mut self.call else { return };
        let id = call.next_id();
        let len = status.encoded_len();
        write_whole(Kind::ERROR, id, len, out, |out| status.encode(out));
        call.terminate(SendEnd::Gone, ReceiveEnd::Eof);
    }

    /// The handler is gone without a result. What still comes for it is discarded from here on.
    pub(super) fn handler_returned(&mut self) {
        if let Some(call) = &mut self.call {
            call.terminate(SendEnd::Gone, ReceiveEnd::Failed(Status::canceled()));
            call.running = false;
        }
    }
}

/// A packet of the call that runs, or ran last.
fn on_own_packet(call: &mut Call, packet: Packet) -> Result<Option<Event>, TransportError> {
    if call.terminated {
        return Ok(None);
    }
    let open = call.recv.is_none();
    match packet.kind {
        Kind::INVOKE => return Err(ProtocolError::InvokeOnExistingStream.into()),
        Kind::MESSAGE if open && call.running => return Ok(Some(Event::Message(packet.data))),
        Kind::MESSAGE => {}
        Kind::CLOSE_SEND => {
            call.recv.get_or_insert(ReceiveEnd::Eof);
            call.terminate_if_both_closed();
            if open && !call.terminated {
                return Ok(Some(Event::HalfClosed));
            }
        }
        Kind::CLOSE => call.terminate(SendEnd::ClosedByPeer, ReceiveEnd::Eof),
        Kind::ERROR => call.terminate(SendEnd::Gone, ReceiveEnd::Failed(Status::decode(&packet.data))),
        Kind::CANCEL => call.terminate(SendEnd::Gone, ReceiveEnd::Failed(Status::canceled())),
        _ if packet.control => {}
        kind => return Err(ProtocolError::UnexpectedKind(kind).into()),
    }
    Ok(None)
}
