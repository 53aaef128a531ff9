//! Accepting connections and speaking HTTP/1.1 on them until they end or become sessions.

mod room;

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub(super) use room::ConnectionPlace;
pub(crate) use room::MAX_CONNECTIONS;
use room::{Cut, Room};

use crate::clock::Clock;

/// How long a connection may take to send a request's head, from its start or from the answer before. Agents send it at
/// once; connections that only wait are cut.
pub(crate) const HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// Largest head of a request. Ours need 1 KiB; operators add headers of their own with `--agent-header`.
pub(crate) const MAX_HEAD: usize = 32 * 1024;

/// Pause after a failed accept, which happens when the process is out of files: some will be closed meanwhile.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How long connections get to finish their answers once the listener stops.
const FINISH_TIMEOUT: Duration = Duration::from_secs(1);

/// A bound address.
#[derive(Debug)]
pub struct Listener {
    socket: TcpListener,
    address: SocketAddr,
    room: Room,
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
        Ok(Self {
            socket,
            address,
            room: Room::new(MAX_CONNECTIONS),
        })
    }

    /// With room for so many connections.
    #[cfg(test)]
    pub(super) fn with_room(self, connections: usize) -> Self {
        let room = Room::new(connections);
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
                Ok((stream, place)) => {
                    failing = false;
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

/// The next connection. One beyond those that there is room for is accepted and waits here; others wait in the operating
/// system's queue.
async fn accept(socket: &TcpListener, room: &Room) -> io::Result<(TcpStream, (ConnectionPlace, Cut))> {
    let (stream, _) = socket.accept().await?;
    Ok((stream, room.enter().await))
}

async fn serve(
    stream: TcpStream,
    router: Router,
    (place, cut): (ConnectionPlace, Cut),
    clock: Clock,
    stop: CancellationToken,
) {
    // Replies are small and must not wait for the peer's acknowledgements. Where it fails the connection has ended, which is
    // noticed when it is read.
    let _ = stream.set_nodelay(true);
    let routes = TowerToHyperService::new(router);
    let service = service_fn(move |mut request: Request<Incoming>| {
        let begun = place.begin().map(|at_work| {
            request.extensions_mut().insert(place.clone());
            (at_work, routes.call(request))
        });
        async move {
            let (at_work, answer) = begun.ok_or(io::ErrorKind::ConnectionAborted)?;
            let Ok(answer) = answer.await;
            // It is written as this ends. What the socket does not take at once, since the peer has not, counts as waiting.
            drop(at_work);
            Ok::<_, io::Error>(answer)
        }
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
        Ok(()) = cut => Ok(()),
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
