//! A streaming call without a session, for tests of services.

use std::collections::VecDeque;
use std::marker::PhantomData;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};

use bytes::{Bytes, BytesMut};
use prost::Message;

use super::error::Status;
use super::stream::{AnyMessage, CallStream, Inbound, Outbound};

#[derive(Default)]
struct State {
    requests: VecDeque<Bytes>,
    half_closed: bool,
    replies: VecDeque<Bytes>,
    closed: bool,
    /// The peer does not read.
    stalled: bool,
    wakers: Vec<Waker>,
}

#[derive(Default)]
struct Double(Mutex<State>);

impl Double {
    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.0.lock().unwrap();
        let result = change(&mut state);
        state.wakers.drain(..).for_each(Waker::wake);
        result
    }
}

impl CallStream for Double {
    fn poll_recv(&self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, Status>> {
        let mut state = self.0.lock().unwrap();
        if let Some(request) = state.requests.pop_front() {
            return Poll::Ready(Ok(Some(request)));
        }
        if state.half_closed || state.closed {
            return Poll::Ready(Ok(None));
        }
        state.wakers.push(cx.waker().clone());
        Poll::Pending
    }

    fn poll_send(&self, cx: &mut Context<'_>, message: &dyn AnyMessage) -> Poll<Result<(), Status>> {
        let mut state = self.0.lock().unwrap();
        if state.stalled {
            state.wakers.push(cx.waker().clone());
            return Poll::Pending;
        }
        let mut out = BytesMut::new();
        message.encode_into(&mut out);
        state.replies.push_back(out.freeze());
        state.wakers.drain(..).for_each(Waker::wake);
        Poll::Ready(Ok(()))
    }

    fn close_send(&self) {
        self.change(|state| state.closed = true);
    }

    fn close(&self) {
        self.change(|state| state.closed = true);
    }
}

/// The caller's end of a call.
pub(crate) struct Caller<Req, Res> {
    call: Arc<Double>,
    messages: PhantomData<(Req, Res)>,
}

/// A call, and its caller.
pub(crate) fn call<Req: Message + Default, Res: Message + Default>()
-> (Inbound<Req>, Outbound<Res>, Caller<Req, Res>) {
    let call = Arc::new(Double::default());
    let caller = Caller {
        call: Arc::clone(&call),
        messages: PhantomData,
    };
    (Inbound::new(call.clone()), Outbound::new(call), caller)
}

impl<Req: Message, Res: Message + Default> Caller<Req, Res> {
    pub(crate) fn send(&self, request: &Req) {
        self.call
            .change(|state| state.requests.push_back(request.encode_to_vec().into()));
    }

    pub(crate) fn half_close(&self) {
        self.call.change(|state| state.half_closed = true);
    }

    /// Stops reading, or goes on.
    pub(crate) fn stall(&self, stalled: bool) {
        self.call.change(|state| state.stalled = stalled);
    }

    /// Whether there are requests that the handler has not taken yet.
    pub(crate) fn has_requests(&self) -> bool {
        self.call.change(|state| !state.requests.is_empty())
    }

    /// Replies that have come.
    pub(crate) fn replies(&self) -> Vec<Res> {
        self.call.change(|state| {
            state
                .replies
                .drain(..)
                .map(|reply| Res::decode(reply).unwrap())
                .collect()
        })
    }

    /// Whether the handler has closed the call.
    pub(crate) fn is_closed(&self) -> bool {
        self.call.change(|state| state.closed)
    }
}
