//! A peer made of bytes: WebSocket messages, yamux and DRPC frames over a socket, well-formed or not.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::Instant;

use super::{PATIENCE, SeededAgent, uninterrupted};

pub const SYN: u16 = 1;
pub const FIN: u16 = 4;
pub const RST: u16 = 8;

pub const DATA: u8 = 0;
pub const WINDOW: u8 = 1;
pub const PING: u8 = 2;

pub const BANNERS: &str = "/coder.agent.v2.Agent/GetAnnouncementBanners";

/// What came from the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Came {
    /// A yamux frame: type, flags, stream, length, payload.
    Frame(u8, u16, u32, u32, Vec<u8>),
    /// A WebSocket pong and its payload.
    Pong(Vec<u8>),
    /// A close frame: code and reason.
    Close(u16, String),
    /// The end of the connection.
    End,
}

/// One WebSocket connection to the server.
pub struct Raw {
    pub stream: TcpStream,
    /// Payload of messages that makes no whole yamux frame yet.
    payload: Vec<u8>,
}

/// A connection, as the server's URL says, whose reads fail after [`PATIENCE`].
pub fn connect(url: &str) -> TcpStream {
    let stream = TcpStream::connect(url.strip_prefix("http://").unwrap()).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

/// The request of a handshake; `more` are query and headers beyond those that every agent sends.
pub fn handshake(token: &str, query: &str, more: &str) -> String {
    upgrade("/api/v2/workspaceagents/me/rpc", token, query, more)
}

fn upgrade(path: &str, token: &str, query: &str, more: &str) -> String {
    format!(
        "GET {path}?version=2.8{query} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\n\
         Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
         Coder-Session-Token: {token}\r\n{more}\r\n"
    )
}

/// The status of an answer, read to the end of its head.
pub fn status(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") && uninterrupted(|| stream.read(&mut byte)).unwrap_or(0) == 1 {
        head.push(byte[0]);
    }
    let head = String::from_utf8_lossy(&head);
    head.split(' ').nth(1).unwrap_or_default().to_owned()
}

impl Raw {
    pub fn dial(agent: &SeededAgent) -> Self {
        Self::over(&agent.url, &handshake(&agent.token, "", ""))
    }

    /// A session of a user's client.
    pub fn dial_as_client(url: &str, token: &str) -> Self {
        Self::over(url, &upgrade("/api/v2/tailnet", token, "", ""))
    }

    fn over(url: &str, request: &str) -> Self {
        let mut stream = connect(url);
        stream.write_all(request.as_bytes()).unwrap();
        assert_eq!(status(&mut stream), "101");
        Self {
            stream,
            payload: Vec::new(),
        }
    }

    /// Sends one binary message.
    pub fn send(&mut self, payload: &[u8]) {
        self.try_send(payload).unwrap();
    }

    pub fn try_send(&mut self, payload: &[u8]) -> io::Result<()> {
        self.stream.write_all(&message(0x82, payload))
    }

    /// The next thing that the server sends.
    pub fn next(&mut self) -> Came {
        loop {
            if let Some(frame) = self.frame() {
                return frame;
            }
            let Some((opcode, payload)) = self.websocket_frame() else {
                return Came::End;
            };
            match opcode {
                2 => self.payload.extend(payload),
                9 => self.stream.write_all(&message(0x8a, &payload)).unwrap(),
                10 => return Came::Pong(payload),
                8 => {
                    let code = payload
                        .first_chunk()
                        .map_or(1005, |code| u16::from_be_bytes(*code));
                    let reason = String::from_utf8_lossy(payload.get(2..).unwrap_or_default());
                    return Came::Close(code, reason.into_owned());
                }
                other => panic!("opcode {other}"),
            }
        }
    }

    /// Reads until something is as wanted.
    pub fn until(&mut self, what: &str, wanted: impl Fn(&Came) -> bool) -> Came {
        let end = Instant::now() + PATIENCE;
        loop {
            let came = self.next();
            if wanted(&came) {
                return came;
            }
            // The server's own pings keep reads from failing.
            assert!(Instant::now() < end, "no {what}");
            assert_ne!(came, Came::End, "the server has closed before {what}");
        }
    }

    /// Asks with a yamux ping, and reads until it is answered.
    pub fn ping(&mut self, value: u32) {
        self.send(&frame(PING, SYN, 0, value, &[]));
        let answer = Came::Frame(PING, 2, 0, value, Vec::new());
        self.until("a pong", |came| *came == answer);
    }

    /// Makes a call on a new stream, and gives the DRPC frames of its answer. What comes on other streams is passed over.
    pub fn call(&mut self, id: u32, path: &str, request: &[u8]) -> Vec<u8> {
        self.send(&frame(DATA, SYN, id, 0, &call(1, path, request)));
        let mut answer = Vec::new();
        loop {
            match self.until(
                "an answer",
                |came| matches!(came, Came::Frame(_, _, of, _, _) if *of == id),
            ) {
                Came::Frame(_, flags, _, _, payload) => {
                    answer.extend(payload);
                    assert_eq!(flags & RST, 0, "the call's stream was reset");
                }
                other => panic!("{other:?}"),
            }
            // CloseSend without data, or an error.
            let ended = answer.len() >= 4 && answer[answer.len() - 4] == 0x0d;
            if ended || answer.first() == Some(&0x07) {
                self.send(&frame(WINDOW, FIN, id, 0, &[]));
                return answer;
            }
        }
    }

    fn frame(&mut self) -> Option<Came> {
        let header: [u8; 12] = *self.payload.first_chunk()?;
        let word =
            |at: usize| u32::from_be_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
        let (kind, flags) = (header[1], u16::from_be_bytes([header[2], header[3]]));
        let body = if kind == DATA { word(8) as usize } else { 0 };
        if self.payload.len() < 12 + body {
            return None;
        }
        let payload = self.payload[12..12 + body].to_vec();
        self.payload.drain(..12 + body);
        Some(Came::Frame(kind, flags, word(4), word(8), payload))
    }

    /// `None` at the end of the connection, whichever way it comes.
    fn websocket_frame(&mut self) -> Option<(u8, Vec<u8>)> {
        let mut header = [0; 2];
        if let Err(error) = self.stream.read_exact(&mut header) {
            let waited = matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut);
            assert!(!waited, "the server says nothing for {PATIENCE:?}");
            return None;
        }
        let mut length = usize::from(header[1]);
        if length == 126 {
            let mut long = [0; 2];
            self.stream.read_exact(&mut long).ok()?;
            length = usize::from(u16::from_be_bytes(long));
        }
        let mut payload = vec![0; length];
        self.stream.read_exact(&mut payload).ok()?;
        Some((header[0] & 0x0f, payload))
    }
}

/// A WebSocket frame of a client, with a mask of zeros.
pub fn message(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![first];
    match payload.len() {
        len @ 0..=125 => bytes.push(0x80 | u8::try_from(len).unwrap()),
        len @ 126..=0xffff => {
            bytes.push(0xfe);
            bytes.extend(u16::try_from(len).unwrap().to_be_bytes());
        }
        len => {
            bytes.push(0xff);
            bytes.extend((len as u64).to_be_bytes());
        }
    }
    bytes.extend([0; 4]);
    bytes.extend(payload);
    bytes
}

/// A yamux frame. A data frame's length is that of its payload unless it is given.
pub fn frame(kind: u8, flags: u16, stream: u32, length: u32, payload: &[u8]) -> Vec<u8> {
    let length = match (kind, length) {
        (DATA, 0) => u32::try_from(payload.len()).unwrap(),
        (_, length) => length,
    };
    let mut bytes = vec![0, kind];
    bytes.extend(flags.to_be_bytes());
    bytes.extend(stream.to_be_bytes());
    bytes.extend(length.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// A DRPC frame: kind, done, stream and message id, data.
pub fn drpc(kind: u8, done: bool, stream: u64, message: u64, data: &[u8]) -> Vec<u8> {
    let mut bytes = vec![kind << 1 | u8::from(done)];
    for mut number in [stream, message, data.len() as u64] {
        while number > 0x7f {
            bytes.push(u8::try_from(number & 0x7f).unwrap() | 0x80);
            number >>= 7;
        }
        bytes.push(u8::try_from(number).unwrap());
    }
    bytes.extend(data);
    bytes
}

/// The three packets of a unary call.
pub fn call(stream: u64, path: &str, request: &[u8]) -> Vec<u8> {
    [
        drpc(1, true, stream, 1, path.as_bytes()),
        drpc(2, true, stream, 2, request),
        drpc(6, true, stream, 3, &[]),
    ]
    .concat()
}

/// Bytes written as hexadecimal digits; spaces are nothing.
pub fn unhex(text: &str) -> Vec<u8> {
    let digits: Vec<_> = text.chars().filter_map(|digit| digit.to_digit(16)).collect();
    digits
        .chunks(2)
        .map(|pair| u8::try_from(pair[0] << 4 | pair[1]).unwrap())
        .collect()
}
