//! A streaming call as its handler sees it: typed halves over whatever carries the messages.
//!
//! Owns encoding and decoding of messages, nothing of frames. The serving shell, the client and the doubles of tests
//! each bring a [`CallStream`].

use std::fmt;
use std::future::poll_fn;
use std::marker::PhantomData;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use prost::Message;

use super::error::Status;
use super::layout::Bound;

/// A message whose type is no longer known, so that replies of all methods can share a path without being encoded
/// before there is a buffer for them.
pub trait AnyMessage: Send + Sync {
    /// Bytes that [`AnyMessage::encode_into`] appends.
    fn encoded_len(&self) -> usize;

    /// Appends the encoded message.
    fn encode_into(&self, out: &mut BytesMut);
}

impl<M: Message> AnyMessage for M {
    fn encoded_len(&self) -> usize {
        Message::encoded_len(self)
    }

    fn encode_into(&self, out: &mut BytesMut) {
        out.reserve(Message::encoded_len(self));
        // Encoding fails only for want of room, and the room was just made.
        Message::encode_raw(self, out);
    }
}

/// The reply of a unary or client-streaming call.
pub struct Reply(Box<dyn AnyMessage>);

impl Reply {
    /// Takes a message as the reply.
    pub fn new<M: Message + 'static>(message: M) -> Self {
        Self(Box::new(message))
    }

    /// Takes a message whose type is forgotten already.
    pub fn erased(message: Box<dyn AnyMessage>) -> Self {
        Self(message)
    }

    /// The message.
    pub fn as_message(&self) -> &dyn AnyMessage {
        &*self.0
    }
}

impl fmt::Debug for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Reply({} bytes)", self.0.encoded_len())
    }
}

/// What carries the messages of one streaming call. Wakers may belong to any task.
pub trait CallStream: Send + Sync {
    /// The next message of the peer; `None` once it has half-closed; an error when the call is over otherwise: the
    /// peer's own error, or `context canceled`.
    fn poll_recv(&self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, Status>>;

    /// Takes a message for the peer, or waits until there is room for one.
    fn poll_send(&self, cx: &mut Context<'_>, message: &dyn AnyMessage) -> Poll<Result<(), Status>>;

    /// Says that nobody will ask for messages any more, so that those that still come can be dropped.
    fn stop_receiving(&self) {}

    /// Says that no more messages follow; the peer may go on sending.
    fn close_send(&self);

    /// Ends the call in both directions.
    fn close(&self);
}

/// The messages that come in on one call.
pub struct Inbound<T> {
    stream: Arc<dyn CallStream>,
    bound: Bound,
    message: PhantomData<fn() -> T>,
}

impl<T> Inbound<T> {
    /// The receiving half of `stream`.
    pub fn new(stream: Arc<dyn CallStream>) -> Self {
        Self::bounded(stream, Bound::PACKET)
    }

    /// The receiving half of `stream`, each message of which must be within `bound`.
    pub fn bounded(stream: Arc<dyn CallStream>, bound: Bound) -> Self {
        Self {
            stream,
            bound,
            message: PhantomData,
        }
    }
}

impl<T: Message + Default> Inbound<T> {
    /// Waits for the next message; `None` once the peer has half-closed.
    ///
    /// An error ends the stream: what the peer sent could not be decoded or was too much, the peer sent an error, or the call was
    /// cancelled.
    pub async fn next(&mut self) -> Result<Option<T>, Status> {
        match poll_fn(|cx| self.stream.poll_recv(cx)).await? {
            Some(bytes) => decode(bytes, &self.bound).map(Some),
            None => Ok(None),
        }
    }
}

impl<T> Drop for Inbound<T> {
    fn drop(&mut self) {
        self.stream.stop_receiving();
    }
}

impl<T> fmt::Debug for Inbound<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inbound").finish_non_exhaustive()
    }
}

/// The messages that go out on one call.
pub struct Outbound<T> {
    stream: Arc<dyn CallStream>,
    message: PhantomData<fn(T)>,
}

impl<T> Outbound<T> {
    /// The sending half of `stream`.
    pub fn new(stream: Arc<dyn CallStream>) -> Self {
        Self {
            stream,
            message: PhantomData,
        }
    }

    /// Says that no more messages follow; the peer may go on sending.
    pub fn close_send(&mut self) {
        self.stream.close_send();
    }

    /// Ends the call in both directions.
    pub fn close(&mut self) {
        self.stream.close();
    }
}

impl<T: Message> Outbound<T> {
    /// Queues a message, waiting while the peer reads more slowly than messages are made.
    ///
    /// Fails when the call is over; the text says why.
    pub async fn send(&mut self, message: &T) -> Result<(), Status> {
        self.send_as(message).await
    }

    /// As [`Outbound::send`], of a message that encodes to what a `T` would: for what is encoded once and sent to many.
    pub async fn send_as(&mut self, message: &dyn AnyMessage) -> Result<(), Status> {
        poll_fn(|cx| self.stream.poll_send(cx, message)).await
    }
}

impl<T> fmt::Debug for Outbound<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Outbound").finish_non_exhaustive()
    }
}

/// Decodes a message, or says to the peer why it could not be.
pub(super) fn decode<T: Message + Default>(bytes: Bytes, bound: &Bound) -> Result<T, Status> {
    bound.check(&bytes)?;
    T::decode(bytes).map_err(|error| Status::message(error.to_string()))
}
