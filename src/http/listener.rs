//! Accepting connections and speaking HTTP/1.1 on them until they end or become sessions.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::clock::Clock;

/// How long a connection may take to send a request's head, from its start or from the answer before. Agents send it at
/// once; connections that only wait are cut.
pub(crate) const HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// Largest head of a request. Ours need 1 KiB; operators add headers of their own with `--agent-header`.
pub(crate) const MAX_HEAD: usize = 32 * 1024;

/// Most connections that are not sessions. Each can hold [`MAX_HEAD`]; more wait in the operating system's queue until
/// one ends, which [`HEAD_TIMEOUT`] makes sure of.
pub(crate) const MAX_CONNECTIONS: usize = 4096;

/// Pause after a failed accept, which happens when the process is out of files: some will be closed meanwhile.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How long connections get to finish their answers once the listener stops.
const FINISH_TIMEOUT: Duration = Duration::from_secs(1);

/// A bound address.
#[derive(Debug)]
pub struct Listener {
    socket: TcpListener,
    address: SocketAddr,
    room: Arc<Semaphore>,
}

impl Listener {
    /// Binds `address` in Go's form: `host:port`, or `:port` for all addresses of the machine.
    pub async fn bind(address: &str) -> io::Result<Self> {
        let socket = match address.strip_prefix(':') {
            Some(port) => match TcpListener::bind(format!("[::]:{port}")).await {
                // A machine without IPv6.
                Err(error) if error.kind() != io::ErrorKind::AddrInUse => {
                    TcpListener::bind(format!("0.0.0.0:{port}")).await?
                }
                bound => bound?,
            },
            None => TcpListener::bind(address).await?,
        };
        let address = socket.local_addr()?;
        let room = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        Ok(Self {
            socket,
            address,
            room,
        })
    }

    /// With room for so many connections.
    #[cfg(test)]
    pub(super) fn with_room(self, connections: usize) -> Self {
        let room = Arc::new(Semaphore::new(connections));
        Self { room, ..self }
    }

    /// The address bound, with the port that was picked.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves `router` until `stop`, then lets answers finish. Sessions that began on it live on.
    pub async fn run(self, router: Router, clock: Clock, stop: CancellationToken) {
        let connections = TaskTracker::new();
        let mut failing = false;
        loop {
            let accepted = tokio::select! {
                accepted = accept(&self.socket, &self.room) => accepted,
                () = stop.cancelled() => break,
            };
            match accepted {
                Ok((stream, permit)) => {
                    failing = false;
                    let place = ConnectionPlace(Arc::new(Mutex::new(Some(permit))));
                    connections.spawn(serve(stream, router.clone(), place, clock.clone(), stop.clone()));
                }
                Err(error) => {
                    if !std::mem::replace(&mut failing, true) {
                        tracing::error!(%error, "cannot accept connections");
                    }
                    clock.sleep(ACCEPT_PAUSE).await;
                }
            }
        }
        drop(self.socket);
        connections.close();
        connections.wait().await;
    }
}

/// A connection's place among those that are not sessions, as a request sees it.
#[derive(Clone, Debug)]
pub(super) struct ConnectionPlace(Arc<Mutex<Option<OwnedSemaphorePermit>>>);

impl ConnectionPlace {
    /// Makes room for another connection, because this one lasts and is counted elsewhere from here on. It must end
    /// with the answer to the request.
    pub(super) fn give_back(&self) {
        // A permit or none is valid whoever panicked.
        drop(self.0.lock().unwrap_or_else(PoisonError::into_inner).take());
    }
}

async fn accept(
    socket: &TcpListener,
    room: &Arc<Semaphore>,
) -> io::Result<(TcpStream, OwnedSemaphorePermit)> {
    let permit = Arc::clone(room).acquire_owned().await.map_err(io::Error::other)?;
    let (stream, _) = socket.accept().await?;
    Ok((stream, permit))
}

async fn serve(
    stream: TcpStream,
    router: Router,
    place: ConnectionPlace,
    clock: Clock,
    stop: CancellationToken,
) {
    // Replies are small and must not wait for the peer's acknowledgements.
    let _ = stream.set_nodelay(true);
    let routes = TowerToHyperService::new(router);
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(place.clone());
        routes.call(request)
    });
    let connection = http1::Builder::new()
        // The same clock as ours: tokio's.
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(MAX_HEAD)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    let mut connection = std::pin::pin!(connection);
    let result = tokio::select! {
        result = connection.as_mut() => result,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            tokio::select! {
                result = connection => result,
                () = clock.sleep(FINISH_TIMEOUT) => Ok(()),
            }
        }
    };
    if let Err(error) = result {
        // Whoever knocks and leaves is no event; the text holds nothing of the request.
        tracing::debug!(%error, "HTTP connection failed");
    }
}
