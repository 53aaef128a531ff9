//! Connections that are not sessions: how many, for how long, and which of them goes for another.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::{Notify, mpsc};
use tokio::time::advance;
use tokio_util::task::AbortOnDropHandle;

use super::super::limits::{HEAD_TIMEOUT, UPGRADE_TIMEOUT};
use super::super::*;
use super::fixture::{ALICE, Fixture, Host, PATIENCE, handshake, with_token};
use crate::clock::testing::{driven, settle};
use crate::services::patience::SHORT_STORE_WAIT;

/// How long an answer must not come for it to wait. A slow machine makes the check weaker, never wrong.
const QUIET: Duration = Duration::from_millis(60);

/// Timers are as fine as this.
const TICK: Duration = Duration::from_millis(1);

const GET: &[u8] = b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";

async fn asking(fixture: &Fixture) -> TcpStream {
    let mut stream = TcpStream::connect(fixture.address).await.unwrap();
    stream.write_all(GET).await.unwrap();
    stream
}

async fn is_answered(stream: &mut TcpStream, within: Duration) -> bool {
    let mut answer = Vec::new();
    let read = tokio::time::timeout(within, stream.read_to_end(&mut answer)).await;
    read.is_ok() && answer.starts_with(b"HTTP/1.1 200")
}

/// How many connections there is room for.
const ROOM: usize = 3;

/// A connection with a request at work that the store does not answer, for as long as time stands still.
async fn at_work(fixture: &Fixture) -> TcpStream {
    fixture.store_answers(Err(StoreError::Unavailable("hangs".to_owned())));
    let asked = || fixture.app.host().unwrap().asked.lock().unwrap().len();
    let before = asked();
    let mut stream = TcpStream::connect(fixture.address).await.unwrap();
    let request = handshake("", &with_token(ALICE));
    stream.write_all(request.as_bytes()).await.unwrap();
    // It hears and authenticates.
    while asked() < before + 2 {
        tokio::task::yield_now().await;
    }
    stream
}

/// Whether a connection ends without an answer.
async fn is_cut(stream: &mut TcpStream) -> bool {
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    answer.is_empty()
}

#[tokio::test]
async fn so_many_connections_have_room_and_for_one_more_the_longest_waiting_is_cut() {
    driven(async {
        for others in [ROOM - 2, ROOM - 1, ROOM] {
            let fixture = Fixture::with_connections(ROOM).await;
            let mut held = VecDeque::new();
            for _ in 0..others {
                let mut stream = TcpStream::connect(fixture.address).await.unwrap();
                // A head that is begun counts for nothing.
                stream.write_all(&GET[..20]).await.unwrap();
                held.push_back(stream);
            }
            assert!(is_answered(&mut asking(&fixture).await, PATIENCE).await);
            if others == ROOM {
                assert!(is_cut(&mut held.pop_front().unwrap()).await);
            }
            for mut stream in held {
                stream.write_all(&GET[20..]).await.unwrap();
                assert!(is_answered(&mut stream, PATIENCE).await, "beside {others}");
            }
        }
    })
    .await;
}

#[tokio::test]
async fn a_connection_that_was_answered_waits_from_then_on() {
    driven(async {
        let fixture = Fixture::with_connections(2).await;
        let mut first = TcpStream::connect(fixture.address).await.unwrap();
        let mut second = TcpStream::connect(fixture.address).await.unwrap();
        first
            .write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
            .await
            .unwrap();
        assert!(first.read(&mut vec![0; 4_096]).await.unwrap() > 0);
        assert!(is_answered(&mut asking(&fixture).await, PATIENCE).await);
        assert!(is_cut(&mut second).await);
        first.write_all(GET).await.unwrap();
        assert!(is_answered(&mut first, PATIENCE).await);
    })
    .await;
}

#[tokio::test]
async fn a_connection_with_a_request_at_work_is_not_cut() {
    driven(async {
        let fixture = Fixture::with_connections(2).await;
        let mut worked = at_work(&fixture).await;
        let mut waiting = TcpStream::connect(fixture.address).await.unwrap();
        for _ in 0..3 {
            assert!(is_answered(&mut asking(&fixture).await, PATIENCE).await);
        }
        assert!(is_cut(&mut waiting).await);
        advance(SHORT_STORE_WAIT + TICK).await;
        let mut answer = vec![0; 4_096];
        let length = worked.read(&mut answer).await.unwrap();
        assert!(answer[..length].starts_with(b"HTTP/1.1 500"));
    })
    .await;
}

#[tokio::test]
async fn while_all_have_a_request_at_work_the_next_waits_for_the_first_that_is_done() {
    driven(async {
        let fixture = Fixture::with_connections(1).await;
        let mut worked = at_work(&fixture).await;
        let mut next = asking(&fixture).await;
        tokio::task::spawn_blocking(|| std::thread::sleep(QUIET))
            .await
            .unwrap();
        let early = next.try_read(&mut [0]).unwrap_err();
        assert_eq!(early.kind(), std::io::ErrorKind::WouldBlock);
        advance(SHORT_STORE_WAIT + TICK).await;
        // It would be kept for another request.
        let mut answer = Vec::new();
        worked.read_to_end(&mut answer).await.unwrap();
        assert!(answer.starts_with(b"HTTP/1.1 500"));
        assert!(is_answered(&mut next, PATIENCE).await);
    })
    .await;
}

#[tokio::test]
async fn a_session_leaves_its_place_to_other_connections() {
    let mut fixture = Fixture::with_connections(1).await;
    let (answer, _session) = fixture.exchange_open(&handshake("", &with_token(ALICE))).await;
    assert_eq!(answer.status, 101);
    fixture.next_session().await;
    assert!(is_answered(&mut asking(&fixture).await, PATIENCE).await);
}

#[tokio::test]
async fn a_head_has_so_much_time() {
    driven(async {
        for (time, answered) in [(HEAD_TIMEOUT - TICK, true), (HEAD_TIMEOUT + TICK, false)] {
            let fixture = Fixture::new().await;
            let mut stream = TcpStream::connect(fixture.address).await.unwrap();
            // From the answer before.
            stream
                .write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
                .await
                .unwrap();
            let mut answer = vec![0; 4_096];
            assert!(stream.read(&mut answer).await.unwrap() > 0);
            stream.write_all(&GET[..20]).await.unwrap();
            advance(time).await;
            // Of a connection that is cut, writing may fail already.
            let _ = stream.write_all(&GET[20..]).await;
            answer.clear();
            let _ = stream.read_to_end(&mut answer).await;
            assert_eq!(answer.starts_with(b"HTTP/1.1 200"), answered, "{time:?}");
        }
    })
    .await;
}

/// A request to upgrade whose answer is written once it is let go, and what must be kept meanwhile.
async fn held_upgrade() -> (hyper::http::request::Parts, Arc<Notify>, impl Sized) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut agent = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (server, _) = listener.accept().await.unwrap();
    let (asked, mut request) = mpsc::channel(1);
    let let_go = Arc::new(Notify::new());
    let waiting = Arc::clone(&let_go);
    let service = service_fn(move |request: hyper::Request<Incoming>| {
        let _ = asked.try_send(request);
        let waiting = Arc::clone(&waiting);
        async move {
            waiting.notified().await;
            let mut answer = hyper::Response::new(String::new());
            *answer.status_mut() = hyper::StatusCode::SWITCHING_PROTOCOLS;
            Ok::<_, Infallible>(answer)
        }
    });
    let connection = http1::Builder::new().serve_connection(TokioIo::new(server), service);
    let connection = AbortOnDropHandle::new(tokio::spawn(connection.with_upgrades()));
    agent
        .write_all(handshake("", &with_token(ALICE)).as_bytes())
        .await
        .unwrap();
    let (request, _) = request.recv().await.unwrap().into_parts();
    (request, let_go, (agent, connection))
}

#[tokio::test(start_paused = true)]
async fn an_upgrade_has_so_much_time() {
    let (request, _never, _connection) = held_upgrade().await;
    let app = Arc::new(App::<Host>::new(Clock::system(), 8, 0));
    let began = app.clock.monotonic();
    let answer = rpc::establish(&app, app.handshakes.token(), request, |_, _| unreachable!());
    assert_eq!(answer.status(), 101);
    app.handshakes.close();
    tokio::time::timeout(2 * UPGRADE_TIMEOUT, app.handshakes.wait())
        .await
        .unwrap();
    let took = app.clock.monotonic() - began;
    assert!(
        (UPGRADE_TIMEOUT..UPGRADE_TIMEOUT + QUIET).contains(&took),
        "{took:?}"
    );
}

#[tokio::test]
async fn an_upgrade_is_waited_for_up_to_the_limit() {
    driven(async {
        for (time, begins) in [(UPGRADE_TIMEOUT - TICK, true), (UPGRADE_TIMEOUT + TICK, false)] {
            let fixture = Fixture::new().await;
            let (request, let_go, _connection) = held_upgrade().await;
            let app = &fixture.app;
            let (begun, mut session) = mpsc::channel(1);
            let answer = rpc::establish(app, app.handshakes.token(), request, move |_, _| {
                begun.try_send(()).unwrap();
            });
            assert_eq!(answer.status(), 101);
            // It begins to wait, and then it notices what time it is before it can see the upgrade.
            settle().await;
            advance(time).await;
            settle().await;
            let_go.notify_one();
            app.handshakes.close();
            app.handshakes.wait().await;
            assert_eq!(session.try_recv().is_ok(), begins, "{time:?}");
        }
    })
    .await;
}
