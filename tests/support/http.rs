//! Requests to a server, byte for byte.

use std::io::{Read, Write};
use std::net::TcpStream;

use super::{PATIENCE, SeededAgent, Server};

pub const RPC: &str = "/api/v2/workspaceagents/me/rpc";

/// An answer.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: String,
}

/// The address in a URL.
fn connect(url: &str) -> TcpStream {
    let stream = TcpStream::connect(url.strip_prefix("http://").unwrap()).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// Reads the head of an answer, byte by byte, so that nothing behind it is lost.
fn read_head(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        // Also when a signal comes between, which a read with a time limit is told of.
        let read = stream.read_exact(&mut byte);
        read.unwrap_or_else(|error| panic!("{error} after {:?}", String::from_utf8_lossy(&head)));
        head.push(byte[0]);
    }
    String::from_utf8(head).unwrap()
}

fn status(head: &str) -> u16 {
    head.split(' ').nth(1).unwrap().parse().unwrap()
}

/// `GET target` with more headers, each ending in `\r\n`.
pub fn get(url: &str, target: &str, headers: &str) -> Answer {
    let request = format!("GET {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{headers}\r\n");
    answer(connect(url), &request)
}

/// Sends a request whose answer ends the connection.
fn answer(mut stream: TcpStream, request: &str) -> Answer {
    stream.write_all(request.as_bytes()).unwrap();
    let head = read_head(&mut stream);
    let mut body = String::new();
    stream.read_to_string(&mut body).unwrap();
    Answer {
        status: status(&head),
        head,
        body,
    }
}

/// A request with a body, as JSON.
pub fn send(url: &str, method: &str, target: &str, token: &str, body: &str) -> Answer {
    let request = format!(
        "{method} {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nCoder-Session-Token: {token}\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    answer(connect(url), &request)
}

/// Opens a stream of events, and gives its head and what follows.
pub fn events(url: &str, target: &str, token: &str) -> (String, TcpStream) {
    let mut stream = connect(url);
    let request = format!("GET {target} HTTP/1.1\r\nHost: x\r\nCoder-Session-Token: {token}\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    let head = read_head(&mut stream);
    (head, stream)
}

/// Dials as an agent. The stream is the WebSocket if the status is 101, else the answer's body comes on it.
pub fn dial(url: &str, query: &str, token: &str) -> (Answer, TcpStream) {
    dial_at(url, &format!("{RPC}{query}"), token)
}

/// As [`dial`], at any route.
pub fn dial_at(url: &str, target: &str, token: &str) -> (Answer, TcpStream) {
    handshake(url, target, &format!("Coder-Session-Token: {token}\r\n"))
}

/// As [`dial_at`], with whatever headers say who it is, each ending in `\r\n`.
pub fn handshake(url: &str, target: &str, headers: &str) -> (Answer, TcpStream) {
    let mut stream = connect(url);
    let request = format!(
        "GET {target} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{headers}\r\n"
    );
    stream.write_all(request.as_bytes()).unwrap();
    let head = read_head(&mut stream);
    let status = status(&head);
    let mut body = String::new();
    if status != 101 {
        let length = head
            .lines()
            .find_map(|line| line.strip_prefix("content-length: "))
            .unwrap();
        let mut bytes = vec![0; length.parse().unwrap()];
        stream.read_exact(&mut bytes).unwrap();
        body = String::from_utf8(bytes).unwrap();
    }
    (Answer { status, head, body }, stream)
}

impl Server {
    pub fn get(&self, target: &str) -> Answer {
        get(&self.url, target, "")
    }

    /// The status of a handshake of its first agent.
    pub fn dial_status(&self) -> u16 {
        self.dial(self.agent()).0.status
    }

    pub fn dial(&self, agent: &SeededAgent) -> (Answer, TcpStream) {
        dial(&self.url, "?version=2.8&role=agent", &agent.token)
    }
}
