//! A network between agents and a server that does what networks do: it delays, trickles, falls silent and resets. Also
//! between a server and its database, with an address that may move from one to another.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio::sync::watch;

use super::{SeededAgent, Server};

/// Bytes that are under way in one direction of a connection; what does not fit is the sender's to keep.
const UNDER_WAY: usize = 16 * 1024;

/// What happens to one direction of every connection.
#[derive(Clone, Copy, Debug)]
pub struct Lane {
    /// Nothing arrives, not even an end. What was sent arrives when it is over, as TCP would send it again.
    pub silent: bool,
    /// How long each piece is under way.
    pub delay: Duration,
    /// Bytes of a piece.
    pub piece: usize,
    /// An end is never passed on.
    pub keeps_ends: bool,
}

impl Lane {
    pub const GOOD: Self = Self {
        silent: false,
        delay: Duration::ZERO,
        piece: UNDER_WAY,
        keeps_ends: false,
    };

    pub const SILENT: Self = Self {
        silent: true,
        ..Self::GOOD
    };
}

#[derive(Clone, Copy, Debug)]
struct Network {
    /// Where a new connection leads.
    target: SocketAddr,
    to_server: Lane,
    to_agent: Lane,
    /// Connections of an earlier one are reset.
    generation: u64,
}

/// A proxy to one server at a time, on a port of its own.
pub struct Proxy {
    address: SocketAddr,
    network: watch::Sender<Network>,
    runtime: Option<Runtime>,
}

impl Proxy {
    pub fn new(server: &Server) -> Self {
        Self::to(server.url.strip_prefix("http://").unwrap().parse().unwrap())
    }

    pub fn to(target: SocketAddr) -> Self {
        let runtime = Runtime::new().unwrap();
        // Asynchronous tests cannot wait for another runtime.
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let (network, changes) = watch::channel(Network {
            target,
            to_server: Lane::GOOD,
            to_agent: Lane::GOOD,
            generation: 0,
        });
        runtime.spawn(async move {
            let listener = TcpListener::from_std(listener).unwrap();
            while let Ok((agent, _)) = listener.accept().await {
                tokio::spawn(connect(agent, changes.clone()));
            }
        });
        Self {
            address,
            network,
            runtime: Some(runtime),
        }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// An agent that dials through the proxy.
    pub fn agent(&self, server: &Server) -> SeededAgent {
        SeededAgent {
            url: format!("http://{}", self.address),
            ..server.agent().clone()
        }
    }

    /// From here on, also for connections that are open.
    pub fn set(&self, to_server: Lane, to_agent: Lane) {
        self.network.send_modify(|network| {
            network.to_server = to_server;
            network.to_agent = to_agent;
        });
    }

    /// From here on new connections lead to another server; those that are open stay.
    pub fn aim(&self, target: SocketAddr) {
        self.network.send_modify(|network| network.target = target);
    }

    /// Resets every connection that is open, on both sides.
    pub fn reset(&self) {
        self.network.send_modify(|network| network.generation += 1);
    }
}

async fn connect(agent: TcpStream, changes: watch::Receiver<Network>) {
    let target = changes.borrow().target;
    let Ok(server) = TcpStream::connect(target).await else {
        return;
    };
    for stream in [&agent, &server] {
        stream.set_nodelay(true).unwrap();
    }
    let generation = changes.borrow().generation;
    let mut resets = changes.clone();
    let ((agent_in, agent_out), (server_in, server_out)) = (agent.into_split(), server.into_split());
    let mut up = Pump::new(agent_in, server_out, changes.clone(), |network| network.to_server);
    let mut down = Pump::new(server_in, agent_out, changes, |network| network.to_agent);
    let reset = tokio::select! {
        _ = resets.wait_for(|network| network.generation != generation) => true,
        _ = async { tokio::join!(up.run(), down.run()) } => false,
    };
    if reset {
        for side in [up.to.as_ref(), down.to.as_ref()] {
            side.set_zero_linger().unwrap();
        }
    }
}

/// One direction of a connection.
struct Pump {
    from: OwnedReadHalf,
    to: OwnedWriteHalf,
    changes: watch::Receiver<Network>,
    lane: fn(&Network) -> Lane,
}

impl Pump {
    fn new(
        from: OwnedReadHalf,
        to: OwnedWriteHalf,
        changes: watch::Receiver<Network>,
        lane: fn(&Network) -> Lane,
    ) -> Self {
        Self {
            from,
            to,
            changes,
            lane,
        }
    }

    /// The lane as it is once something can arrive.
    async fn open_lane(&mut self) -> Lane {
        let lane = self.lane;
        let network = self.changes.wait_for(|network| !lane(network).silent).await;
        // The sender lives as long as the runtime of this task.
        lane(&network.unwrap())
    }

    async fn run(&mut self) {
        let mut buffer = vec![0; UNDER_WAY];
        loop {
            let read = self.from.read(&mut buffer).await.unwrap_or(0);
            let mut rest = &buffer[..read];
            while !rest.is_empty() {
                let lane = self.open_lane().await;
                if !lane.delay.is_zero() {
                    tokio::time::sleep(lane.delay).await;
                }
                let (piece, behind) = rest.split_at(rest.len().min(lane.piece));
                if self.to.write_all(piece).await.is_err() {
                    return;
                }
                rest = behind;
            }
            if read == 0 {
                if self.open_lane().await.keeps_ends {
                    return std::future::pending().await;
                }
                let _ = self.to.shutdown().await;
                return;
            }
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        // As above.
        self.runtime.take().unwrap().shutdown_background();
    }
}
