//! The registry mux: from `/package.Service/Method` to the handler of that method.
//!
//! Built once per process and shared by all sessions; `S` is what a handler gets to know of the session that calls
//! it. Never sees frames: a handler is given decoded messages or the typed halves of a stream.
//!
//! The counterpart in the original is storj/drpc `drpcmux`, which is built anew for each connection.

use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::TryFutureExt as _;
use prost::Message;

use super::error::Status;
use super::layout::Bound;
use super::metadata::Metadata;
use super::quote::quote;
use super::stream::{CallStream, Inbound, Outbound, Reply, decode};

/// A handler at work. `Ok(None)` ends the call without a reply message.
pub type HandlerFuture = Pin<Box<dyn Future<Output = Result<Option<Reply>, Status>> + Send>>;

type UnaryHandler<S> = Box<dyn Fn(&S, Bytes) -> Result<HandlerFuture, Status> + Send + Sync>;
type ServerStreamHandler<S> =
    Box<dyn Fn(&S, Bytes, Arc<dyn CallStream>) -> Result<HandlerFuture, Status> + Send + Sync>;
type StreamHandler<S> = Box<dyn Fn(&S, Arc<dyn CallStream>) -> HandlerFuture + Send + Sync>;

/// How a method is handled.
enum Handler<S> {
    /// Starts with the one request message.
    Single(UnaryHandler<S>),
    /// As [`Handler::Single`], and answers with a stream.
    ServerStream(ServerStreamHandler<S>),
    /// Starts at once and reads the requests itself.
    Stream(StreamHandler<S>),
}

/// Which way messages of a method flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// One request, one reply.
    Unary,
    /// One request, many replies.
    ServerStream,
    /// Many requests, one reply.
    ClientStream,
    /// Many of both.
    Bidi,
}

impl Shape {
    /// Whether a handler starts with the first message instead of with the call.
    pub fn takes_one_request(self) -> bool {
        matches!(self, Self::Unary | Self::ServerStream)
    }

    /// Whether a handler may be quiet for long, so that the stream must be acknowledged without waiting for it.
    pub fn is_streaming(self) -> bool {
        !matches!(self, Self::Unary)
    }
}

/// One registered method.
pub struct Method<S> {
    path: &'static str,
    shape: Shape,
    handler: Handler<S>,
}

impl<S> Method<S> {
    /// Its path, with the leading slash.
    pub fn path(&self) -> &'static str {
        self.path
    }

    /// Its shape.
    pub fn shape(&self) -> Shape {
        self.shape
    }
}

impl<S> fmt::Debug for Method<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Method")
            .field("path", &self.path)
            .field("shape", &self.shape)
            .finish_non_exhaustive()
    }
}

/// Hangs around every call of every session: tracing, metrics and authorization belong here.
pub trait Interceptor<S>: Send + Sync + 'static {
    /// Before a handler starts; an error is sent to the peer and the handler does not start. `metadata` is what the
    /// peer sent with the call.
    fn admit(&self, session: &S, method: &Method<S>, metadata: &Metadata) -> Result<(), Status> {
        let _ = (session, method, metadata);
        Ok(())
    }

    /// After a handler ended, or was cancelled.
    fn finished(&self, session: &S, method: &Method<S>, outcome: &Outcome, elapsed: Duration) {
        let _ = (session, method, outcome, elapsed);
    }
}

/// How a handler ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// With success.
    Done,
    /// With an error, which the peer got.
    Failed(Status),
    /// The peer or the server ended the call before the handler did.
    Cancelled,
    /// With a panic; the peer got a general error.
    Panicked,
}

/// The methods that a server answers, by path.
pub struct Registry<S> {
    methods: HashMap<&'static [u8], Method<S>>,
    interceptors: Vec<Box<dyn Interceptor<S>>>,
    /// What a message of the method at a path may hold.
    bounds: fn(&str) -> Bound,
}

impl<S> Default for Registry<S> {
    fn default() -> Self {
        Self {
            methods: HashMap::new(),
            interceptors: Vec::new(),
            bounds: |_| Bound::PACKET,
        }
    }
}

impl<S> fmt::Debug for Registry<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set()
            .entries(self.methods.values().map(Method::path))
            .finish()
    }
}

impl<S: 'static> Registry<S> {
    /// A registry without methods.
    pub fn new() -> Self {
        Self::default()
    }

    /// A registry without methods, which asks `bounds` what a message of the method at a path may hold. A message beyond
    /// it is answered with an error and not decoded.
    pub fn with_bounds(bounds: fn(&str) -> Bound) -> Self {
        Self {
            bounds,
            ..Self::default()
        }
    }

    /// Adds an interceptor; the first one added is asked first.
    pub fn intercept(&mut self, interceptor: impl Interceptor<S>) {
        self.interceptors.push(Box::new(interceptor));
    }

    /// Adds a method with one request and one reply.
    pub fn unary<Req, Res, F, Fut>(&mut self, path: &'static str, handler: F)
    where
        Req: Message + Default + 'static,
        Res: Message + 'static,
        F: Fn(&S, Req) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Res, Status>> + Send + 'static,
    {
        let bound = (self.bounds)(path);
        let start = move |session: &S, request: Bytes| {
            let call = handler(session, decode(request, &bound)?);
            // Mapped in place, here and below: a block that awaits the call would hold room for it twice.
            Ok(Box::pin(call.map_ok(|reply| Some(Reply::new(reply)))) as HandlerFuture)
        };
        self.insert(path, Shape::Unary, Handler::Single(Box::new(start)));
    }

    /// Adds a method with one request and a stream of replies.
    pub fn server_stream<Req, Res, F, Fut>(&mut self, path: &'static str, handler: F)
    where
        Req: Message + Default + 'static,
        Res: Message + 'static,
        F: Fn(&S, Req, Outbound<Res>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<(), Status>> + Send + 'static,
    {
        let bound = (self.bounds)(path);
        let start = move |session: &S, request: Bytes, stream: Arc<dyn CallStream>| {
            let call = handler(session, decode(request, &bound)?, Outbound::new(stream));
            Ok(Box::pin(call.map_ok(|()| None)) as HandlerFuture)
        };
        self.insert(path, Shape::ServerStream, Handler::ServerStream(Box::new(start)));
    }

    /// Adds a method with a stream of requests and one reply.
    pub fn client_stream<Req, Res, F, Fut>(&mut self, path: &'static str, handler: F)
    where
        Req: Message + Default + 'static,
        Res: Message + 'static,
        F: Fn(&S, Inbound<Req>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Res, Status>> + Send + 'static,
    {
        let bound = (self.bounds)(path);
        let start = move |session: &S, stream: Arc<dyn CallStream>| {
            let call = handler(session, Inbound::bounded(stream, bound));
            Box::pin(call.map_ok(|reply| Some(Reply::new(reply)))) as HandlerFuture
        };
        self.insert(path, Shape::ClientStream, Handler::Stream(Box::new(start)));
    }

    /// Adds a method with streams in both directions.
    pub fn bidi<Req, Res, F, Fut>(&mut self, path: &'static str, handler: F)
    where
        Req: Message + Default + 'static,
        Res: Message + 'static,
        F: Fn(&S, Inbound<Req>, Outbound<Res>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<(), Status>> + Send + 'static,
    {
        let bound = (self.bounds)(path);
        let start = move |session: &S, stream: Arc<dyn CallStream>| {
            let requests = Inbound::bounded(Arc::clone(&stream), bound);
            let call = handler(session, requests, Outbound::new(stream));
            Box::pin(call.map_ok(|()| None)) as HandlerFuture
        };
        self.insert(path, Shape::Bidi, Handler::Stream(Box::new(start)));
    }

    fn insert(&mut self, path: &'static str, shape: Shape, handler: Handler<S>) {
        let previous = self
            .methods
            .insert(path.as_bytes(), Method { path, shape, handler });
        debug_assert!(previous.is_none(), "{path} registered twice");
    }

    /// The method at `path`, byte for byte, or what the peer is told.
    pub fn lookup(&self, path: &[u8]) -> Result<&Method<S>, Status> {
        self.methods
            .get(path)
            .ok_or_else(|| Status::message(format!("protocol error: unknown rpc: {}", quote(path))))
    }

    /// Starts a handler. `request` is the first message for shapes that take one request, else `None`.
    ///
    /// Fails with what the peer is told when an interceptor refuses or the request cannot be decoded.
    pub fn start(
        &self,
        method: &Method<S>,
        session: &S,
        metadata: &Metadata,
        request: Option<Bytes>,
        stream: impl FnOnce() -> Arc<dyn CallStream>,
    ) -> Result<HandlerFuture, Status> {
        for interceptor in &self.interceptors {
            interceptor.admit(session, method, metadata)?;
        }
        match &method.handler {
            Handler::Single(start) => start(session, request.unwrap_or_default()),
            Handler::ServerStream(start) => start(session, request.unwrap_or_default(), stream()),
            Handler::Stream(start) => Ok(start(session, stream())),
        }
    }

    /// Tells the interceptors that a handler ended.
    pub fn finished(&self, method: &Method<S>, session: &S, outcome: &Outcome, elapsed: Duration) {
        for interceptor in &self.interceptors {
            interceptor.finished(session, method, outcome, elapsed);
        }
    }
}
