//! A client of the same protocol: calls over one session, for tests, tools and load.
//!
//! Owns the client's end of a session: one yamux stream per call, as Go clients have it. A driver moves the bytes and must
//! be polled for anything to happen; handles may be used from any task. Never half-closes a stream before its call is
//! over, and never keeps one longer.

use std::collections::VecDeque;
use std::fmt;
use std::future::{Future, poll_fn};
use std::marker::PhantomData;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};

use bytes::{Bytes, BytesMut};
use prost::Message;

use super::call::{ClientCall, ClientEvent};
use super::error::{Status, TransportError};
use super::layout::Bound;
use super::pipe::{Close, CloseCode, Pipe, PipeError};
use super::session::{Event, OpenError, Role, Session, StreamId, StreamMap};
use super::stream::{AnyMessage, CallStream, Inbound, Outbound, decode};

/// Bytes of one call's frames that may wait for credit before its sender has to wait.
const SEND_BUFFER: usize = 64 * 1024;

/// Calls over one session. Cheap to clone; the session ends when its driver is dropped.
#[derive(Clone)]
pub struct Client(Arc<Mutex<State>>);

struct State {
    session: Session,
    calls: StreamMap<Call>,
    driver: Option<Waker>,
    /// Callers that wait for a stream.
    openers: Vec<Waker>,
    closing: bool,
    ended: bool,
}

struct Call {
    end: ClientCall,
    /// Frames that wait for credit or room.
    out: BytesMut,
    inbox: VecDeque<Bytes>,
    /// Bytes in the inbox that the server was not given credit for.
    uncredited: usize,
    half_closed: bool,
    result: Option<Result<(), Status>>,
    /// Nobody holds the call any more.
    dropped: bool,
    wakers: Vec<Waker>,
}

impl Client {
    /// A client on `pipe`, and the driver of its session, which ends when the session does.
    pub fn new<P: Pipe>(pipe: P) -> (Self, impl Future<Output = Result<(), PipeError>> + Send) {
        let client = Self(Arc::new(Mutex::new(State {
            session: Session::new(Role::Client),
            calls: StreamMap::new(),
            driver: None,
            openers: Vec::new(),
            closing: false,
            ended: false,
        })));
        let mut driver = Driver {
            client: client.clone(),
            pipe,
        };
        (client, async move { poll_fn(|cx| driver.poll(cx)).await })
    }

    /// Says goodbye; the driver then ends.
    pub fn close(&self) {
        self.change(|state| state.closing = true);
    }

    /// Calls a method with one request and one reply.
    pub async fn unary<Req: Message, Res: Message + Default>(
        &self,
        path: &'static str,
        request: &Req,
    ) -> Result<Res, Status> {
        let call = self.start(path).await?;
        poll_fn(|cx| call.poll_send(cx, request)).await?;
        call.close_send();
        first(&call).await
    }

    /// Calls a method with one request and a stream of replies.
    pub async fn server_stream<Req: Message, Res>(
        &self,
        path: &'static str,
        request: &Req,
    ) -> Result<Inbound<Res>, Status> {
        let call = self.start(path).await?;
        poll_fn(|cx| call.poll_send(cx, request)).await?;
        call.close_send();
        Ok(Inbound::new(call))
    }

    /// Calls a method with a stream of requests and one reply.
    pub async fn client_stream<Req, Res>(
        &self,
        path: &'static str,
    ) -> Result<ClientStream<Req, Res>, Status> {
        let call = self.start(path).await?;
        Ok(ClientStream {
            call,
            messages: PhantomData,
        })
    }

    /// Calls a method with streams in both directions.
    pub async fn bidi<Req, Res>(&self, path: &'static str) -> Result<(Outbound<Req>, Inbound<Res>), Status> {
        let call: Arc<dyn CallStream> = self.start(path).await?;
        Ok((Outbound::new(Arc::clone(&call)), Inbound::new(call)))
    }

    /// Opens a stream and begins a call on it; waits while as many streams are open as may be.
    async fn start(&self, path: &'static str) -> Result<Arc<Handle>, Status> {
        let id = poll_fn(|cx| {
            let mut state = self.lock();
            if state.ended || state.closing {
                return Poll::Ready(Err(Status::message("session shutdown")));
            }
            match state.session.open() {
                Ok(id) => {
                    let mut out = BytesMut::new();
                    let call = ClientCall::new(path, &mut out);
                    state.calls.insert(id, Call::new(call, out));
                    Poll::Ready(Ok(id))
                }
                Err(OpenError::Full) => {
                    state.openers.push(cx.waker().clone());
                    Poll::Pending
                }
                Err(error) => Poll::Ready(Err(Status::message(error.to_string()))),
            }
        })
        .await?;
        Ok(Arc::new(Handle {
            client: self.clone(),
            id,
        }))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Every holder leaves it whole at each step.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the state and wakes the driver.
    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.lock();
        let result = change(&mut state);
        let driver = state.driver.take();
        drop(state);
        if let Some(driver) = driver {
            driver.wake();
        }
        result
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("calls", &self.lock().calls.len())
            .finish()
    }
}

/// The one reply of a call.
async fn first<Res: Message + Default>(call: &Handle) -> Result<Res, Status> {
    match poll_fn(|cx| call.poll_recv(cx)).await? {
        Some(reply) => decode(reply, &Bound::PACKET),
        None => Err(Status::eof()),
    }
}

/// A call with many requests and one reply.
pub struct ClientStream<Req, Res> {
    call: Arc<Handle>,
    messages: PhantomData<fn(Req) -> Res>,
}

impl<Req: Message, Res: Message + Default> ClientStream<Req, Res> {
    /// Sends a request, waiting while the server reads more slowly than requests are made.
    pub async fn send(&mut self, request: &Req) -> Result<(), Status> {
        poll_fn(|cx| self.call.poll_send(cx, request)).await
    }

    /// Sends no more and waits for the reply.
    pub async fn finish(self) -> Result<Res, Status> {
        self.call.close_send();
        first(&self.call).await
    }
}

impl<Req, Res> fmt::Debug for ClientStream<Req, Res> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientStream").finish_non_exhaustive()
    }
}

impl Call {
    fn new(end: ClientCall, out: BytesMut) -> Self {
        Self {
            end,
            out,
            inbox: VecDeque::new(),
            uncredited: 0,
            half_closed: false,
            result: None,
            dropped: false,
            wakers: Vec::new(),
        }
    }

    /// Takes what has come; true when something did.
    fn take_events(&mut self) -> bool {
        let mut any = false;
        while let Some(event) = self.end.poll_event() {
            any = true;
            match event {
                ClientEvent::Message(message) => self.inbox.push_back(message),
                ClientEvent::HalfClosed => self.half_closed = true,
                ClientEvent::Ended(result) => self.result = Some(result),
            }
        }
        any
    }

    fn end(&mut self, why: &TransportError) {
        if let Some(ClientEvent::Ended(result)) = self.end.on_end(why) {
            self.result.get_or_insert(result);
        }
        self.wakers.drain(..).for_each(Waker::wake);
    }

    /// Nobody needs the stream any more: the call is over, or was given up.
    fn is_over(&self) -> bool {
        self.dropped || (self.result.is_some() && self.out.is_empty())
    }
}

/// A call, as its caller holds it. Dropping it cancels the call.
struct Handle {
    client: Client,
    id: StreamId,
}

impl Handle {
    fn change<T>(&self, change: impl FnOnce(&mut Call) -> T) -> Option<T> {
        self.client
            .change(|state| state.calls.get_mut(self.id).map(change))
    }
}

impl CallStream for Handle {
    fn poll_recv(&self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, Status>> {
        let received = self.change(|call| {
            if let Some(message) = call.inbox.pop_front() {
                return Poll::Ready(Ok(Some(message)));
            }
            match &call.result {
                Some(Ok(())) => Poll::Ready(Ok(None)),
                Some(Err(status)) => Poll::Ready(Err(status.clone())),
                None if call.half_closed => Poll::Ready(Ok(None)),
                None => {
                    call.wakers.push(cx.waker().clone());
                    Poll::Pending
                }
            }
        });
        received.unwrap_or_else(|| Poll::Ready(Err(Status::canceled())))
    }

    fn poll_send(&self, cx: &mut Context<'_>, message: &dyn AnyMessage) -> Poll<Result<(), Status>> {
        let sent = self.change(|call| {
            if call.out.len() >= SEND_BUFFER && call.result.is_none() {
                call.wakers.push(cx.waker().clone());
                return Poll::Pending;
            }
            Poll::Ready(call.end.send(message, &mut call.out))
        });
        sent.unwrap_or_else(|| Poll::Ready(Err(Status::eof())))
    }

    fn close_send(&self) {
        self.change(|call| {
            call.end.close_send(&mut call.out);
            if call.half_closed {
                call.result.get_or_insert(Ok(()));
            }
        });
    }

    fn close(&self) {
        self.change(|call| {
            call.end.close(&mut call.out);
            call.result.get_or_insert(Ok(()));
        });
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.change(|call| call.dropped = true);
    }
}

/// Moves bytes between the pipe and the calls.
struct Driver<P> {
    client: Client,
    pipe: P,
}

impl<P: Pipe> Driver<P> {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), PipeError>> {
        let client = self.client.clone();
        let mut state = client.lock();
        state.driver = Some(cx.waker().clone());
        loop {
            let received = match self.pipe.poll_recv(cx) {
                Poll::Ready(Some(Ok(chunk))) => {
                    state.on_chunk(chunk);
                    true
                }
                Poll::Ready(Some(Err(error))) => {
                    state.end();
                    return Poll::Ready(Err(error));
                }
                Poll::Ready(None) => {
                    state.end();
                    return Poll::Ready(Ok(()));
                }
                Poll::Pending => false,
            };
            state.flush();
            let written = poll_write(&mut self.pipe, &mut state.session, cx);
            if let Poll::Ready(Err(error)) = written {
                state.end();
                return Poll::Ready(Err(error));
            }
            if state.closing && written.is_ready() {
                state.end();
                let close = Close {
                    code: CloseCode::NORMAL,
                    reason: "".into(),
                };
                return self.pipe.poll_close(cx, &close);
            }
            if !received && (written.is_pending() || !state.flush()) {
                return Poll::Pending;
            }
        }
    }
}

/// Ready once all that the session wants to send is with the pipe.
fn poll_write<P: Pipe>(
    pipe: &mut P,
    session: &mut Session,
    cx: &mut Context<'_>,
) -> Poll<Result<(), PipeError>> {
    while !session.output().is_empty() {
        ready!(pipe.poll_send(cx, session.output()))?;
    }
    pipe.poll_flush(cx)
}

impl<P> Drop for Driver<P> {
    fn drop(&mut self) {
        self.client.lock().end();
    }
}

impl State {
    fn on_chunk(&mut self, chunk: Bytes) {
        self.session.on_bytes(chunk);
        while let Some(event) = self.session.poll_event() {
            match event {
                Event::Data(id, data) => match self.calls.get_mut(id) {
                    Some(call) => {
                        call.uncredited += data.len();
                        call.end.on_bytes(data);
                        if call.take_events() {
                            call.wakers.drain(..).for_each(Waker::wake);
                        }
                    }
                    None => self.session.consumed(id, data.len()),
                },
                Event::Fin(id) => self.end_call(id, &TransportError::Eof),
                Event::Reset(id) => self.end_call(id, &TransportError::Reset),
                Event::Fatal(_) => self.end(),
                _ => {}
            }
        }
    }

    fn end_call(&mut self, id: StreamId, why: &TransportError) {
        if let Some(call) = self.calls.get_mut(id) {
            call.end(why);
            call.out.clear();
        }
    }

    /// Gives the session what calls want to send and ends the streams of those that are over. True when something moved.
    fn flush(&mut self) -> bool {
        let mut moved = false;
        let mut over = Vec::new();
        for (id, call) in self.calls.iter_mut() {
            if !call.out.is_empty() && !call.dropped && self.session.send(id, &mut call.out) > 0 {
                moved = true;
                call.wakers.drain(..).for_each(Waker::wake);
            }
            let waiting: usize = call.inbox.iter().map(Bytes::len).sum();
            if call.uncredited > waiting {
                self.session.consumed(id, call.uncredited - waiting);
                call.uncredited = waiting;
            }
            if call.is_over() {
                // The stream goes; what was received stays for its caller.
                self.session.fin(id);
                if call.dropped {
                    over.push(id);
                }
            }
        }
        for id in over {
            self.calls.remove(id);
            moved = true;
            self.openers.drain(..).for_each(Waker::wake);
        }
        moved
    }

    /// The session is over, and so is every call.
    fn end(&mut self) {
        self.ended = true;
        for (_, call) in self.calls.iter_mut() {
            call.end(&TransportError::Canceled);
        }
        self.openers.drain(..).for_each(Waker::wake);
    }
}

#[cfg(test)]
mod tests;
