//! Our session against the `yamux` crate, in both roles, over an in-memory socket.

use std::collections::HashMap;

use bytes::BytesMut;
use futures_util::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
use tokio_util::compat::{Compat, TokioAsyncReadCompatExt as _};

use super::super::{Event, Role, Session, StreamId};

/// More than a window, so that credit must flow in both directions.
const BODY: usize = 700_000;
const STREAMS: usize = 5;

type Connection = yamux::Connection<Compat<DuplexStream>>;

fn body(seed: usize) -> Vec<u8> {
    (0..BODY)
        .map(|i| u8::try_from((i * 7 + seed) % 251).unwrap())
        .collect()
}

/// Moves bytes between a session and a socket until `step` says that all is done.
async fn drive(
    mut socket: DuplexStream,
    mut session: Session,
    mut step: impl FnMut(&mut Session, Option<Event>) -> bool,
) {
    let mut buffer = BytesMut::new();
    loop {
        while let Some(event) = session.poll_event() {
            step(&mut session, Some(event));
        }
        let done = step(&mut session, None);
        while !session.output().is_empty() {
            let out = session.output().split();
            socket.write_all(&out).await.unwrap();
            step(&mut session, None);
        }
        if done {
            break;
        }
        buffer.reserve(10_000);
        if socket.read_buf(&mut buffer).await.unwrap() == 0 {
            break;
        }
        session.on_bytes(buffer.split().freeze());
    }
}

#[derive(Default)]
struct Echo {
    waiting: HashMap<StreamId, (BytesMut, bool)>,
    finished: usize,
}

impl Echo {
    fn step(&mut self, session: &mut Session, event: Option<Event>) -> bool {
        match event {
            Some(Event::Opened(id)) => drop(self.waiting.insert(id, (BytesMut::new(), false))),
            Some(Event::Data(id, data)) => self.waiting.get_mut(&id).unwrap().0.extend_from_slice(&data),
            Some(Event::Fin(id)) => self.waiting.get_mut(&id).unwrap().1 = true,
            Some(Event::Writable(_)) | None => {}
            Some(other) => panic!("unexpected {other:?}"),
        }
        for (id, (data, fin)) in &mut self.waiting {
            let sent = session.send(*id, data);
            session.consumed(*id, sent);
            if *fin && data.is_empty() {
                session.fin(*id);
            }
        }
        let before = self.waiting.len();
        self.waiting.retain(|_, (data, fin)| !(*fin && data.is_empty()));
        self.finished += before - self.waiting.len();
        self.finished == STREAMS
    }
}

async fn next_outbound(connection: &mut Connection) -> yamux::Stream {
    std::future::poll_fn(|cx| connection.poll_new_outbound(cx))
        .await
        .unwrap()
}

#[tokio::test]
async fn the_crate_as_client_gets_its_bytes_back() {
    let (ours, theirs) = tokio::io::duplex(64 * 1024);
    let server = tokio::spawn(async move {
        let mut echo = Echo::default();
        drive(ours, Session::new(Role::Server), |session, event| {
            echo.step(session, event)
        })
        .await;
        echo.finished
    });

    let mut connection = Connection::new(theirs.compat(), yamux::Config::default(), yamux::Mode::Client);
    let mut streams = Vec::new();
    for _ in 0..STREAMS {
        streams.push(next_outbound(&mut connection).await);
    }
    let driver = tokio::spawn(async move {
        std::future::poll_fn(|cx| connection.poll_next_inbound(cx))
            .await
            .is_none()
    });
    let calls = streams.into_iter().enumerate().map(|(i, stream)| async move {
        let (mut reader, mut writer) = stream.split();
        let write = async {
            writer.write_all(&body(i)).await.unwrap();
            writer.close().await.unwrap();
        };
        let mut back = Vec::new();
        let (_, read) = tokio::join!(write, reader.read_to_end(&mut back));
        read.unwrap();
        assert!(back == body(i), "stream {i} differs");
    });
    futures_util::future::join_all(calls).await;
    assert_eq!(server.await.unwrap(), STREAMS);
    driver.abort();
}

#[tokio::test]
async fn the_crate_as_server_gets_our_bytes() {
    let (ours, theirs) = tokio::io::duplex(64 * 1024);
    let server = tokio::spawn(async move {
        let mut connection = Connection::new(theirs.compat(), yamux::Config::default(), yamux::Mode::Server);
        let mut echoes = tokio::task::JoinSet::new();
        while let Some(Ok(mut stream)) = std::future::poll_fn(|cx| connection.poll_next_inbound(cx)).await {
            echoes.spawn(async move {
                let mut all = Vec::new();
                stream.read_to_end(&mut all).await.unwrap();
                stream.write_all(&all).await.unwrap();
                stream.close().await.unwrap();
            });
        }
    });

    let mut session = Session::new(Role::Client);
    let mut calls: HashMap<_, _> = (0..STREAMS)
        .map(|i| {
            (
                session.open().unwrap(),
                (i, BytesMut::from(&body(i)[..]), Vec::new(), false),
            )
        })
        .collect();
    let mut finished = 0;
    drive(ours, session, |session, event| {
        match event {
            Some(Event::Data(id, data)) => {
                calls.get_mut(&id).unwrap().2.extend_from_slice(&data);
                session.consumed(id, data.len());
            }
            Some(Event::Fin(id)) => {
                let (i, _, back, _) = calls.remove(&id).unwrap();
                assert!(back == body(i), "stream {i} differs");
                finished += 1;
            }
            Some(Event::Writable(_)) | None => {}
            Some(other) => panic!("unexpected {other:?}"),
        }
        for (id, (_, data, _, closed)) in &mut calls {
            session.send(*id, data);
            if data.is_empty() && !std::mem::replace(closed, true) {
                session.fin(*id);
            }
        }
        finished == STREAMS
    })
    .await;
    assert_eq!(finished, STREAMS);
    server.abort();
}
