//! Recorded sessions of real Go clients with a real Go server: drpcd answers the same.
//!
//! `scripts/captures` records them. The verbs are those that operators have.

#![allow(clippy::unwrap_used, reason = "tests")]
#![allow(clippy::disallowed_methods, reason = "tests")]

#[path = "support/mod.rs"]
mod support;

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use drpcd::capture::{Call, Capture, Header, Side, compare};
use drpcd::clock::Clock;
use drpcd::http::capture::{address_of, replay};
use drpcd::mux::inspect::CallFrame;
use drpcd::proto::agent::{CreateSubAgentRequest, GetManifestRequest};
use support::{Data, EXAMPLE_SEED, SeededAgent, client, script, script_answers};

/// Fewest sessions that are recorded.
const SESSIONS: usize = 40;

fn recorded() -> Vec<(PathBuf, Capture)> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/captures");
    let files = directory.read_dir().unwrap().map(|entry| entry.unwrap().path());
    let mut captures: Vec<_> = files
        .filter(|file| file.file_name().unwrap() != "answers.txt")
        .map(|file| {
            let text = std::fs::read_to_string(&file).unwrap();
            let capture = Capture::parse(&text).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
            assert_eq!(capture.to_text(), text, "{}", file.display());
            (file, capture)
        })
        .collect();
    captures.sort_by(|(one, _), (two, _)| one.cmp(two));
    captures
}

#[test]
fn every_method_is_recorded() {
    let captures = recorded();
    assert!(captures.len() >= SESSIONS, "{}", captures.len());
    let calls = captures
        .iter()
        .flat_map(|(_, capture)| capture.calls().into_values());
    let called: BTreeSet<_> = calls.map(|call| call.path).collect();
    let real: BTreeSet<_> = script_answers::examples()
        .keys()
        .map(|path| (*path).to_owned())
        .collect();
    assert_eq!(
        real.difference(&called).collect::<Vec<_>>(),
        Vec::<&String>::new()
    );
}

/// How many messages of a call the agent sent, and how many were answered.
fn messages(call: &Call) -> (usize, usize) {
    let count = |frames: &[CallFrame]| {
        frames
            .iter()
            .filter(|frame| frame.kind == CallFrame::MESSAGE)
            .count()
    };
    (count(&call.sent), count(&call.answers))
}

fn fails(call: &Call) -> bool {
    call.answers.iter().any(|frame| frame.kind == CallFrame::ERROR)
}

fn is_cancelled(call: &Call) -> bool {
    call.given_up_at.is_some()
}

/// Whether a call is one of its kind.
type Shows = fn(&Call) -> bool;

/// More than one window of a stream.
const LARGE: usize = 256 << 10;

/// Sessions that show how calls may go, whatever their method, and what shows it in one of their calls: the four shapes,
/// errors, metadata, cancellation, large messages.
const KINDS: [(&str, Shows); 11] = [
    ("unary-echo", |call| messages(call) == (1, 1)),
    ("server-stream", |call| messages(call) == (1, 5)),
    ("client-stream", |call| messages(call) == (3, 1)),
    ("bidi", |call| messages(call) == (3, 3)),
    ("error-with-code", fails),
    ("error-unknown-rpc", fails),
    ("metadata", |call| call.sent[0].name() == "metadata"),
    ("unary-cancelled", is_cancelled),
    ("server-stream-cancelled", is_cancelled),
    ("bidi-cancelled", is_cancelled),
    ("unary-large-request", |call| {
        call.sent.iter().map(|frame| frame.data.len()).sum::<usize>() > LARGE
    }),
];

#[test]
fn every_kind_of_call_is_recorded() {
    let captures = recorded();
    let calls_of = |name: &str| {
        let of = |(file, _): &&(PathBuf, Capture)| file.file_stem().is_some_and(|stem| stem == name);
        let found = captures.iter().find(of);
        found.unwrap_or_else(|| panic!("no {name}")).1.calls()
    };
    for (name, shows) in KINDS {
        let calls = calls_of(name);
        assert!(calls.values().any(shows), "{name}: {calls:?}");
    }
    // Calls at a time are of one session.
    assert!(calls_of("together-shapes").len() > 1);
}

#[test]
fn handshakes_are_recorded_without_their_tokens() {
    for (file, capture) in recorded() {
        let value = |from, name: &str| {
            let of = |header: &&Header| header.from == from && header.name.eq_ignore_ascii_case(name);
            let found = capture.headers.iter().find(of);
            found.map(|header| header.value.as_str())
        };
        let handshake = [
            value(Side::Agent, "Sec-WebSocket-Version"),
            value(Side::Agent, "Coder-Session-Token"),
            value(Side::Server, "Upgrade"),
        ];
        let expected = ["13", "REDACTED", "websocket"].map(Some);
        assert_eq!(handshake, expected, "{}", file.display());
    }
}

#[test]
fn what_may_differ_is_listed() {
    /// The one thing that [`compare`] passes over in an answer.
    const ROW: &str = "| DRPC: text of the error for a request that cannot be decoded |";
    let list = include_str!("../docs/DEVIATIONS.md");
    assert!(list.lines().any(|line| line.starts_with(ROW)));
}

#[tokio::test]
async fn recorded_agents_get_the_recorded_answers() {
    let address = address_of(&script::serve_ours().parse().unwrap()).unwrap();
    let clock = Clock::system();
    let mut wrong = Vec::new();
    for (file, capture) in recorded() {
        let replayed = replay(address, "token", &capture, &clock).await.unwrap();
        let differences = compare(&capture, &replayed);
        wrong.extend(
            differences
                .iter()
                .map(|difference| format!("{}: {difference}", file.display())),
        );
    }
    assert_eq!(wrong, Vec::<String>::new());
}

fn drpcd(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_drpcd"))
        .arg("capture")
        .args(arguments)
        .output()
        .unwrap()
}

/// A session with two calls; the token of a sub agent that came of it.
fn speak(agent: &SeededAgent) -> Vec<u8> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let client = client::agent(agent).await.unwrap();
        assert_eq!(
            client
                .get_manifest(&GetManifestRequest {})
                .await
                .unwrap()
                .agent_name,
            "main"
        );
        let request = CreateSubAgentRequest {
            name: "helper".into(),
            directory: "/".into(),
            architecture: "amd64".into(),
            operating_system: "linux".into(),
            ..CreateSubAgentRequest::default()
        };
        client
            .create_sub_agent(&request)
            .await
            .unwrap()
            .agent
            .unwrap()
            .auth_token
    })
}

/// A session of a client with a real server, recorded by the real proxy.
#[test]
fn a_session_is_recorded_shown_replayed_and_compared() {
    let data = Data::new(EXAMPLE_SEED);
    let server = data.serve(&[]);
    let agent = server.agents[0].clone();
    let output = tempfile::tempdir().unwrap();
    let mut recorder = Command::new(env!("CARGO_BIN_EXE_drpcd"))
        .args(["capture", "record", "--to", &agent.url, "--output"])
        .arg(output.path())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(recorder.stdout.take().unwrap())
        .read_line(&mut line)
        .unwrap();
    let mut through = agent.clone();
    line.trim()
        .strip_prefix("listening on ")
        .unwrap()
        .clone_into(&mut through.url);

    let token = speak(&through);
    let pid = rustix::process::Pid::from_raw(i32::try_from(recorder.id()).unwrap()).unwrap();
    let file = output.path().join("0001.txt");
    let end = std::time::Instant::now() + support::PATIENCE;
    while !file.exists() {
        assert!(std::time::Instant::now() < end, "nothing is recorded");
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    assert!(recorder.wait().unwrap().success());

    let text = std::fs::read_to_string(&file).unwrap();
    assert!(!text.contains(&agent.token), "the agent's token was recorded");
    assert!(text.contains("/coder.agent.v2.Agent/CreateSubAgent"));
    let hex = uuid::Uuid::from_slice(&token).unwrap().simple().to_string();
    assert!(!text.contains(&hex), "the sub agent's token was recorded");
    let mode = std::os::unix::fs::MetadataExt::mode(&file.metadata().unwrap());
    assert_eq!(mode & 0o777, 0o600);

    let file = file.to_str().unwrap();
    let shown = String::from_utf8(drpcd(&["show", file]).stdout).unwrap();
    assert!(
        shown.contains("/coder.agent.v2.Agent/GetManifest\n  > invoke 1/1 "),
        "{shown}"
    );
    let again = output.path().join("again.txt");
    let again = again.to_str().unwrap();
    // The name is taken by now, so the server answers otherwise.
    let replayed = drpcd(&[
        "replay",
        file,
        "--to",
        &agent.url,
        "--token",
        &agent.token,
        "--output",
        again,
    ]);
    let told = String::from_utf8(replayed.stdout).unwrap();
    assert_eq!(replayed.status.code(), Some(1));
    assert!(
        told.contains("/coder.agent.v2.Agent/CreateSubAgent: answer 1 is message 1/1"),
        "{told}"
    );
    assert_eq!(told.lines().count(), 1, "{told}");
    assert!(drpcd(&["diff", file, file]).status.success());
    let differs = drpcd(&["diff", file, again]);
    assert_eq!(
        (differs.status.code(), String::from_utf8(differs.stdout).unwrap()),
        (Some(1), told)
    );
}

#[test]
fn what_is_no_capture_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("other.txt");
    std::fs::write(&file, "drpcd capture 1\nrequest /\nstatus 101\n\nnonsense\n").unwrap();
    let failed = drpcd(&["show", file.to_str().unwrap()]);
    assert_eq!(failed.status.code(), Some(1));
    let text = String::from_utf8(failed.stderr).unwrap();
    assert_eq!(
        text,
        format!(
            "drpcd: {}: line 5: time, direction and kind expected\n",
            file.display()
        )
    );
    let failed = drpcd(&["record", "--to", "https://127.0.0.1:1", "--output", "."]);
    assert_eq!(failed.status.code(), Some(2));
    let recorded = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/captures/unary-echo.txt");
    for (file, wrong) in [
        ("absent.txt", "drpcd: cannot read absent.txt: "),
        (recorded, "drpcd: cannot replay to http://127.0.0.1:1/: "),
    ] {
        let failed = drpcd(&["replay", file, "--to", "http://127.0.0.1:1", "--token", "x"]);
        assert_eq!(failed.status.code(), Some(1));
        let text = String::from_utf8(failed.stderr).unwrap();
        assert!(text.starts_with(wrong), "{text}");
    }
}
