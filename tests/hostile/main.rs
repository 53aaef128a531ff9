//! Peers that mean harm, against the real binary: each ends as `docs/OPERATING.md` says, the server's memory stays bounded,
//! and an honest session beside it is answered all the while.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(
    clippy::disallowed_methods,
    reason = "the server is another process, with the system's clock"
)]

mod memory;
#[path = "../support/mod.rs"]
mod support;

use std::io::{Read as _, Write as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use support::raw::{
    BANNERS, Came, DATA, FIN, PING, RST, Raw, SYN, WINDOW, call, connect, drpc, frame, handshake, message,
    status,
};
use support::{Data, PATIENCE, SeededAgent, Server, eventually, uninterrupted};

/// Two agents: one for the honest session, one for whoever means harm.
const SEED: &str = "
owner: { username: ada, name: Ada Lovelace, email: ada@example.com }
workspace: { name: dev, template: docker }
banners:
  - { message: hello, background_color: '#004852' }
agents:
  - { name: good, token: null, architecture: amd64, operating_system: linux }
  - { name: bad, token: null, architecture: amd64, operating_system: linux }
";

/// Memory that a server may take beyond what it began with, whatever a peer does: one session's buffers and an allocator's
/// habits. A peer that gets through takes hundreds of MiB.
const MAX_GROWTH: u64 = 128 << 20;

/// A server, an honest session at work, and what the server's memory was.
struct Scene {
    data: Data,
    server: Server,
    before: u64,
    answered: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
    honest: Option<JoinHandle<()>>,
}

impl Scene {
    fn new(flags: &[&str]) -> Self {
        let data = Data::new(SEED);
        let server = data.serve(flags);
        Self::of(data, server)
    }

    /// With one process on either engine, for limits that each has for itself.
    fn alone(flags: &[&str]) -> Self {
        let data = Data::new(SEED);
        let server = data.serve_alone(flags);
        Self::of(data, server)
    }

    fn of(data: Data, server: Server) -> Self {
        let (answered, stop) = (Arc::default(), Arc::default());
        let honest = honest(server.agents[0].clone(), Arc::clone(&answered), Arc::clone(&stop));
        let scene = Self {
            data,
            before: resident(&server),
            server,
            answered,
            stop,
            honest: Some(honest),
        };
        scene.honest_calls(20);
        scene
    }

    fn bad(&self) -> &SeededAgent {
        &self.server.agents[1]
    }

    fn dial(&self) -> Raw {
        Raw::dial(self.bad())
    }

    /// Waits until so many more honest calls were answered.
    #[track_caller]
    fn honest_calls(&self, more: usize) {
        let from = self.answered.load(Ordering::Relaxed);
        let answered = eventually(|| {
            let failed = self.honest.as_ref().is_none_or(JoinHandle::is_finished);
            assert!(!failed, "the honest session has failed");
            self.answered.load(Ordering::Relaxed) >= from + more
        });
        assert_eq!(answered, Ok(()), "the honest session is not answered");
    }

    /// Who has flooded the server since `began`, with half a second more than what may come at once, was kept waiting, and is
    /// answered all the same.
    #[track_caller]
    fn held_back(&self, peer: &mut Raw, began: Instant) {
        self.honest_calls(20);
        peer.ping(7);
        assert!(
            began.elapsed() > Duration::from_millis(400),
            "it was not kept waiting"
        );
    }

    /// Nobody was harmed.
    #[track_caller]
    fn unharmed(mut self) {
        self.honest_calls(20);
        let grown = resident(&self.server).saturating_sub(self.before);
        assert!(grown < MAX_GROWTH, "{} MiB more", grown >> 20);
        self.stop.store(true, Ordering::Relaxed);
        self.honest.take().unwrap().join().unwrap();
        assert_eq!(self.server.stop(), Some(0));
    }
}

/// Calls one after another until it is told to stop. Fails when an answer is wrong, or takes longer than patience.
fn honest(agent: SeededAgent, answered: Arc<AtomicUsize>, stop: Arc<AtomicBool>) -> JoinHandle<()> {
    std::thread::spawn(move || {
        let mut session = Raw::dial(&agent);
        for id in (1..).step_by(2) {
            if stop.load(Ordering::Relaxed) {
                return;
            }
            let answer = session.call(id, BANNERS, &[]);
            assert!(
                answer.windows(5).any(|part| part == b"hello"),
                "{}",
                String::from_utf8_lossy(&answer)
            );
            answered.fetch_add(1, Ordering::Relaxed);
            // Honest agents are not busy.
            std::thread::sleep(Duration::from_millis(2));
        }
    })
}

/// The status of one more handshake.
fn dialed(server: &Server, agent: &SeededAgent) -> String {
    let mut stream = connect(&server.url);
    stream
        .write_all(handshake(&agent.token, "", "").as_bytes())
        .unwrap();
    status(&mut stream)
}

/// Bytes of memory of a server, in all its processes.
fn resident(server: &Server) -> u64 {
    let pages = server.pids().into_iter().map(|pid| -> u64 {
        let statm = std::fs::read_to_string(format!("/proc/{pid}/statm")).unwrap();
        statm.split(' ').nth(1).unwrap().parse().unwrap()
    });
    pages.sum::<u64>() * u64::try_from(rustix::param::page_size()).unwrap()
}

/// Numbers of streams that a client opens.
fn ids(count: u32) -> impl Iterator<Item = u32> {
    (0..count).map(|index| 2 * index + 1)
}

#[test]
fn of_a_flood_of_streams_those_beyond_the_limit_are_reset_alone() {
    let scene = Scene::new(&[]);
    let mut peer = scene.dial();
    for id in ids(6_000) {
        peer.send(&frame(WINDOW, SYN, id, 0, &[]));
    }
    // Those that stay are acknowledged, the others reset, each once.
    let (mut acknowledged, mut refused) = (0, 0);
    while acknowledged + refused < 6_000 {
        match peer.next() {
            Came::Frame(WINDOW, flags, id, 0, _) if flags == RST => {
                refused += 1;
                assert!(id > 2 * 4_096, "{id}");
            }
            Came::Frame(WINDOW, 2, ..) => acknowledged += 1,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!((acknowledged, refused), (4_096, 1_904));
    // One that goes makes room for one.
    peer.send(&frame(WINDOW, RST, 1, 0, &[]));
    let answer = peer.call(20_001, BANNERS, &[]);
    assert!(answer.windows(5).any(|part| part == b"hello"));
    scene.unharmed();
}

#[test]
fn a_flood_of_streams_that_are_reset_at_once_is_read_at_its_pace() {
    let scene = Scene::new(&[]);
    let mut peer = scene.dial();
    // Half a second more than the second that may come at once.
    let began = Instant::now();
    for chunk in ids(24_576).collect::<Vec<_>>().chunks(256) {
        let open_and_reset = |&id| [frame(WINDOW, SYN, id, 0, &[]), frame(WINDOW, RST, id, 0, &[])].concat();
        peer.send(&chunk.iter().map(open_and_reset).collect::<Vec<_>>().concat());
    }
    scene.held_back(&mut peer, began);
    scene.unharmed();
}

#[test]
fn a_stream_without_credit_holds_up_its_own_calls_only() {
    let scene = Scene::new(&[]);
    let mut peer = scene.dial();
    // Calls one after another on one stream, whose window is never opened again: 4,000 errors of 150 bytes.
    let path = format!("/no.Such/{}", "x".repeat(100));
    peer.send(&frame(WINDOW, SYN, 1, 0, &[]));
    for number in 1..=4_000 {
        peer.send(&frame(DATA, 0, 1, 0, &call(number, &path, &[])));
        if number % 100 == 0 {
            peer.ping(u32::try_from(number).unwrap());
        }
    }
    // Others flow.
    let answer = peer.call(3, BANNERS, &[]);
    assert!(answer.windows(5).any(|part| part == b"hello"));
    scene.unharmed();
}

#[test]
fn a_peer_that_never_reads_is_not_read_from_and_then_closed() {
    let scene = Scene::new(&["--agent-connection-update-frequency", "2s"]);
    let mut peer = scene.dial();
    peer.stream
        .set_write_timeout(Some(Duration::from_secs(1)))
        .unwrap();
    // Each call's answer is an error as long as its path. What is not read fills the sockets, then the session's buffers,
    // then further calls wait, and streams that hold too much are reset, until the server reads no more.
    let path = format!("/no.Such/{}", "x".repeat(30 << 10));
    let mut sent = 0;
    for id in ids(100_000) {
        let call = frame(DATA, SYN, id, 0, &call(1, &path, &[]));
        if peer.try_send(&call).is_err() {
            break;
        }
        sent += call.len();
        assert!(sent < 1 << 30, "the server reads on");
    }
    scene.honest_calls(20);
    // It gives no sign of life.
    scene.data.await_value(
        "SELECT disconnected_at IS NOT NULL FROM workspace_agents WHERE name = 'bad'",
        "1",
    );
    scene.unharmed();
}

#[test]
fn a_flood_of_pings_is_answered_at_its_pace() {
    let scene = Scene::new(&[]);
    let mut peer = scene.dial();
    let pings: Vec<u8> = (0..2_048)
        .flat_map(|value| frame(PING, SYN, 0, value, &[]))
        .collect();
    let began = Instant::now();
    peer.send(&pings);
    for value in 0..2_048 {
        assert_eq!(peer.next(), Came::Frame(PING, 2, 0, value, Vec::new()));
    }
    peer.ping(1);
    assert!(
        began.elapsed() > Duration::from_millis(900),
        "it was not kept waiting"
    );
    // Of WebSocket pings only the last that came wants an answer.
    let mut pings = Vec::new();
    for value in 0..20_000_u32 {
        pings.extend(message(0x89, &value.to_be_bytes()));
    }
    peer.stream.write_all(&pings).unwrap();
    let last = Came::Pong(19_999_u32.to_be_bytes().to_vec());
    peer.until("the last pong", |came| *came == last);
    scene.unharmed();
}

#[test]
fn sessions_of_an_agent_and_those_of_a_users_clients_share_a_pace() {
    /// As in `docs/OPERATING.md`.
    const PINGS: u32 = 1_024;
    let scene = Scene::alone(&[]);
    let token = scene.data.client_token("ada");
    let client = || Raw::dial_as_client(&scene.server.url, &token);
    for mut sessions in [[scene.dial(), scene.dial()], [client(), client()]] {
        // Of each what may come at once if it were alone: the second's has to wait for half of the first's.
        let began = Instant::now();
        for session in &mut sessions {
            let pings = (0..PINGS).flat_map(|value| frame(PING, SYN, 0, value, &[]));
            session.send(&pings.collect::<Vec<_>>());
        }
        for session in &mut sessions {
            session.ping(PINGS);
        }
        assert!(
            began.elapsed() > Duration::from_millis(400),
            "they were not kept waiting"
        );
    }
    scene.unharmed();
}

#[test]
fn a_flood_of_small_messages_is_read_at_its_pace() {
    let scene = Scene::new(&[]);
    let mut peer = scene.dial();
    // Half a second more than the second that may come at once, of messages that carry nothing.
    let began = Instant::now();
    peer.stream
        .write_all(&message(0x82, &[]).repeat(393_216))
        .unwrap();
    scene.held_back(&mut peer, began);
    scene.unharmed();
}

#[test]
fn a_handshake_that_never_ends_is_cut() {
    let scene = Scene::new(&[]);
    let request = handshake(&scene.bad().token, "", "");
    let mut slow: Vec<_> = (0..100).map(|_| connect(&scene.server.url)).collect();
    let started = Instant::now();
    let mut cut = 0;
    // A byte each now and then, which never makes the request whole.
    for byte in request.as_bytes()[..request.len() - 2].chunks(1) {
        slow.retain_mut(|stream| {
            let refused = stream.write_all(byte).is_err();
            cut += usize::from(refused);
            !refused
        });
        if slow.is_empty() {
            break;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    assert_eq!(cut, 100, "after {:?}", started.elapsed());
    assert!(started.elapsed() > Duration::from_secs(9), "they have their time");
    scene.unharmed();
}

#[test]
fn more_slow_handshakes_than_there_is_room_for_cost_only_their_like() {
    /// As in `docs/OPERATING.md`.
    const ROOM: usize = 4_096;
    const MORE: usize = 500;
    const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
    // Here and in the server, and what else is open.
    if !may_open((ROOM + MORE + 200) as u64) {
        return;
    }
    let scene = Scene::alone(&[]);
    let request = handshake(&scene.bad().token, "", "");
    let (begin, rest) = request.as_bytes().split_at(request.len() / 2);
    let health = || support::http::get(&scene.server.url, "/healthz", "").status;
    let mut slow = Vec::new();
    let started = Instant::now();
    for number in 0..ROOM + MORE {
        // Connections are let in in order. The queue before them must not fill: it would be a second until the next try.
        if number % 256 == 0 && number < ROOM {
            assert_eq!(health(), 200);
        }
        slow.push(connect(&scene.server.url));
    }
    let mut last = slow.pop().unwrap();
    last.write_all(begin).unwrap();
    // Whoever is not slow is answered before the first of these would have run out of time, which makes room too.
    let opened = started.elapsed();
    assert_eq!(health(), 200);
    Raw::dial(&scene.server.agents[0]);
    let answered = started.elapsed();
    // A machine that takes long to open them cannot tell.
    assert!(
        answered < HEAD_TIMEOUT || opened > HEAD_TIMEOUT * 3 / 4,
        "{opened:?}, {answered:?}"
    );
    for _ in 0..20 {
        assert_eq!(health(), 200);
        Raw::dial(&scene.server.agents[0]);
    }
    scene.honest_calls(20);
    // The first of the slow ones have gone for others. The last one may still become quick.
    last.write_all(rest).unwrap();
    assert_eq!(status(&mut last), "101");
    for stream in &mut slow[..MORE] {
        assert!(!matches!(uninterrupted(|| stream.read(&mut [0])), Ok(1..)));
    }
    drop((slow, last));
    scene.unharmed();
}

/// Whether this process may have so many files open at a time. Says so if not.
fn may_open(files: u64) -> bool {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    setrlimit(Resource::Nofile, raised).unwrap();
    let may = limit.maximum.is_none_or(|most| most >= files);
    if !may {
        let message = format!("{files} files may not be open at a time (ulimit -Hn)");
        assert!(std::env::var_os("CI").is_none_or(|ci| ci != "true"), "{message}");
        eprintln!("skipped: {message}");
    }
    may
}

#[test]
fn a_peer_that_falls_silent_is_closed() {
    let scene = Scene::new(&["--agent-connection-update-frequency", "2s"]);
    let mut peer = scene.dial();
    // Half a frame, and then nothing: no answer to the server's pings either, as if the machine were gone.
    peer.send(&[0, 0, 0]);
    let mut last = Vec::new();
    peer.stream.read_to_end(&mut last).unwrap();
    // WebSocket pings, and close 1000.
    let (pings, close) = last.split_last_chunk::<4>().unwrap();
    assert_eq!(close, &[0x88, 2, 0x03, 0xe8]);
    assert!(pings.chunks(2).all(|ping| ping == [0x89, 0]) && !pings.is_empty());
    scene.unharmed();
}

#[test]
fn wire_105_an_orderly_end_is_not_logged_and_a_broken_one_is_once() {
    let data = Data::new(SEED);
    let server = data.serve_alone(&[]);
    let session = || Raw::dial(&server.agents[1]);
    let of_agents = || -> Vec<String> {
        let log = data.log();
        let lines = log.lines().filter(|line| line.contains("agent_id="));
        lines.map(ToOwned::to_owned).collect()
    };
    let close = |code: u16| {
        let mut peer = session();
        peer.stream
            .write_all(&message(0x88, &code.to_be_bytes()))
            .unwrap();
        peer.stream.read_to_end(&mut Vec::new()).unwrap();
    };
    close(1000);
    close(1001);
    // One after the other, so that whatever these would log stands before what the next ones do.
    close(1011);
    let logged = |count: usize| {
        let seen = eventually(|| of_agents().len() >= count);
        let lines = of_agents();
        assert_eq!((seen, lines.len()), (Ok(()), count), "{lines:#?}");
        let broken =
            |line: &String| line.contains(" WARN ") && line.contains("workspace agent RPC listen error");
        assert!(lines.iter().all(broken), "{lines:#?}");
    };
    logged(1);
    // Five bytes of a frame were promised.
    let mut cut = session();
    cut.stream.write_all(&message(0x82, &[0; 5])[..7]).unwrap();
    drop(cut);
    logged(2);
    // Closed with a pong unread, TCP resets a connection.
    let mut reset = session();
    reset.send(&frame(PING, SYN, 0, 1, &[]));
    assert_eq!(uninterrupted(|| reset.stream.peek(&mut [0])).unwrap(), 1);
    drop(reset);
    logged(3);
    assert_eq!(server.stop(), Some(0));
    logged(3);
}

#[test]
fn pieces_of_one_byte_make_whole_calls() {
    let scene = Scene::new(&[]);
    let mut peer = scene.dial();
    // A WebSocket message for each byte.
    for byte in frame(DATA, SYN, 1, 0, &call(1, BANNERS, &[])) {
        peer.send(&[byte]);
    }
    let answer = Came::Frame(DATA, 2, 1, 0, Vec::new());
    let came = peer.until("an answer", |came| matches!(came, Came::Frame(DATA, _, 1, ..)));
    assert_ne!(came, answer);
    // A DRPC frame, and a yamux frame, for each byte of a request; unknown fields, which mean nothing.
    let request: Vec<u8> = [0x78, 1].repeat(10_000);
    let mut input = frame(DATA, SYN, 3, 0, &drpc(1, true, 1, 1, BANNERS.as_bytes()));
    for (index, byte) in request.iter().enumerate() {
        let last = index + 1 == request.len();
        input.extend(frame(DATA, 0, 3, 0, &drpc(2, last, 1, 2, &[*byte])));
    }
    peer.send(&input);
    peer.until("an answer", |came| matches!(came, Came::Frame(DATA, _, 3, ..)));
    scene.unharmed();
}

#[test]
fn what_is_too_large_is_refused() {
    let scene = Scene::new(&[]);
    let token = scene.bad().token.clone();
    // The head of a handshake, and a query within it.
    let mut stream = connect(&scene.server.url);
    let head = handshake(&token, "", &format!("X-Operator: {}\r\n", "a".repeat(64 << 10)));
    stream.write_all(&head.as_bytes()[..32 << 10]).unwrap();
    assert_eq!(status(&mut stream), "431");
    let mut stream = connect(&scene.server.url);
    let query = format!("&version={}", "9".repeat(20_000));
    stream
        .write_all(handshake(&token, &query, "").as_bytes())
        .unwrap();
    assert_eq!(status(&mut stream), "101", "the first value counts");

    // A control frame of WebSocket, and a message of more bytes than there are.
    let mut peer = scene.dial();
    peer.stream.write_all(&message(0x89, &[0; 126])).unwrap();
    let text = "received control frame payload with invalid length";
    assert_eq!(peer.next(), Came::Close(1002, text.to_owned()));
    let mut peer = scene.dial();
    peer.stream
        .write_all(&[
            0x82, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0,
        ])
        .unwrap();
    let text = "received negative payload length";
    assert_eq!(peer.next(), Came::Close(1002, text.to_owned()));

    // A yamux frame beyond its window.
    let mut peer = scene.dial();
    peer.send(&frame(DATA, SYN, 1, 256 * 1024 + 1, &[]));
    assert_eq!(peer.next(), Came::Frame(3, 0, 0, 1, Vec::new()));
    assert_eq!(peer.next(), Came::Close(1011, "recv window exceeded".to_owned()));

    // A DRPC frame, whose stream ends alone; a packet of many frames.
    let mut peer = scene.dial();
    let declared = [
        &drpc(1, true, 1, 1, BANNERS.as_bytes())[..],
        &[0x05, 1, 2, 0x81, 0x80, 0x80, 2],
    ]
    .concat();
    peer.send(&frame(DATA, SYN, 1, 0, &declared));
    peer.until(
        "the stream's end",
        |came| matches!(came, Came::Frame(_, flags, 1, ..) if flags & FIN > 0),
    );
    peer.send(&frame(DATA, SYN, 3, 0, &drpc(1, true, 1, 1, BANNERS.as_bytes())));
    let part = drpc(2, false, 1, 2, &vec![0; 32 << 10]);
    for _ in 0..128 {
        // Not faster than credit comes.
        peer.ping(3);
        peer.send(&frame(DATA, 0, 3, 0, &part));
    }
    peer.send(&frame(DATA, 0, 3, 0, &drpc(2, true, 1, 2, &[0])));
    peer.until(
        "the stream's end",
        |came| matches!(came, Came::Frame(_, flags, 3, ..) if flags & FIN > 0),
    );

    // A small message that would be a large one in memory.
    let logs = [0x12, 0].repeat(131_073);
    peer.send(&frame(
        DATA,
        SYN,
        5,
        0,
        &drpc(1, true, 1, 1, b"/coder.agent.v2.Agent/BatchCreateLogs"),
    ));
    let parts = logs.chunks(32 << 10);
    let count = parts.len();
    for (index, part) in parts.enumerate() {
        // Not faster than credit comes.
        peer.ping(5);
        peer.send(&frame(DATA, 0, 5, 0, &drpc(2, index + 1 == count, 1, 2, part)));
    }
    let text = b"message has more than 131072 elements";
    let refused = |came: &Came| matches!(came, Came::Frame(_, _, 5, _, data) if data.ends_with(text));
    peer.until("an error", refused);
    let answer = peer.call(7, BANNERS, &[]);
    assert!(answer.windows(5).any(|part| part == b"hello"));
    scene.unharmed();
}

#[test]
fn one_agent_cannot_take_the_places_of_others() {
    let scene = Scene::alone(&["--max-agent-connections", "100"]);
    let mut held: Vec<_> = (0..64).map(|_| scene.dial()).collect();
    assert_eq!(dialed(&scene.server, scene.bad()), "503");
    Raw::dial(&scene.server.agents[0]);
    for session in &mut held {
        session.ping(1);
    }
    // Those that leave make room.
    drop(held);
    let came_back = eventually(|| dialed(&scene.server, scene.bad()) == "101");
    assert_eq!(came_back, Ok(()), "within {PATIENCE:?}");
    scene.unharmed();
}
