//! A dumb TCP load balancer: each connection goes to the next replica that takes it, and that is all it knows.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio::sync::Semaphore;

/// Connections at a time; further ones wait to be accepted. More than any test has, fewer than the files that a process
/// may have open: two each.
const MAX_CONNECTIONS: usize = 8_192;

/// How long the last words of servers that have ended may be under way.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// A balancer on an address of its own; its connections end with it.
#[derive(Debug)]
pub struct Balancer {
    address: SocketAddr,
    replicas: Arc<Mutex<Vec<SocketAddr>>>,
    /// Connections whose server has not ended its side.
    speaking: Arc<AtomicUsize>,
    runtime: Runtime,
}

impl Balancer {
    /// One without replicas, which closes what it accepts.
    pub fn new(address: &str) -> Self {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        let runtime = builder.worker_threads(1).enable_all().build().unwrap();
        let listener = runtime.block_on(TcpListener::bind(address)).unwrap();
        let balancer = Self {
            address: listener.local_addr().unwrap(),
            replicas: Arc::default(),
            speaking: Arc::default(),
            runtime,
        };
        let work = accept(
            listener,
            Arc::clone(&balancer.replicas),
            Arc::clone(&balancer.speaking),
        );
        balancer.runtime.spawn(work);
        balancer
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// From here on these take the connections.
    pub fn set_replicas(&self, replicas: Vec<SocketAddr>) {
        *self.replicas.lock().unwrap() = replicas;
    }

    /// Waits until what servers that have ended said last was passed on.
    pub fn settle(&self) {
        let end = Instant::now() + LAST_WORDS;
        while self.speaking.load(Ordering::Acquire) > 0 && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

async fn accept(listener: TcpListener, replicas: Arc<Mutex<Vec<SocketAddr>>>, speaking: Arc<AtomicUsize>) {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    for turn in 0_usize.. {
        let place = Arc::clone(&places).acquire_owned().await;
        let Ok((client, _)) = listener.accept().await else {
            continue;
        };
        let mut replicas = replicas.lock().unwrap().clone();
        if !replicas.is_empty() {
            let count = replicas.len();
            replicas.rotate_left(turn % count);
        }
        let speaking = Arc::clone(&speaking);
        tokio::spawn(async move {
            for replica in replicas {
                if let Ok(server) = TcpStream::connect(replica).await {
                    relay(client, server, &speaking).await;
                    break;
                }
            }
            drop(place);
        });
    }
}

async fn relay(client: TcpStream, server: TcpStream, speaking: &AtomicUsize) {
    for stream in [&client, &server] {
        let _ = stream.set_nodelay(true);
    }
    let (client_in, client_out) = client.into_split();
    let (server_in, server_out) = server.into_split();
    speaking.fetch_add(1, Ordering::AcqRel);
    let down = async {
        copy(server_in, client_out).await;
        speaking.fetch_sub(1, Ordering::AcqRel);
    };
    tokio::join!(copy(client_in, server_out), down);
}

/// Passes on what comes, and its end.
async fn copy(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin) {
    let _ = tokio::io::copy(&mut from, &mut to).await;
    let _ = to.shutdown().await;
}
