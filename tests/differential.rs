//! Random input, made from a seed, goes to drpcd's stack and to the Go libraries, which serve the same script: answers and
//! verdicts are the same, or differ as `docs/DEVIATIONS.md` says.
//!
//! Where Go has races of its own, so that one program has several outcomes, drpcd's has to be among them. A program
//! whose outcomes differ runs again, alone and slower, before it counts.
//!
//! `DRPCD_DIFFERENTIAL_SEEDS=10000` runs more; `DRPCD_DIFFERENTIAL_SEED=N` one, and prints it.

#![allow(clippy::unwrap_used, reason = "tests")]
#![allow(clippy::disallowed_methods, reason = "tests")]

#[path = "differential/deviation.rs"]
mod deviation;
#[path = "differential/program.rs"]
mod program;
#[path = "support/mod.rs"]
mod support;

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use program::{Program, Step};
use support::peer::{Peer, shown};
use support::raw::{PING, SYN, frame};
use support::script;

/// Seeds of a plain run.
const SEEDS: u64 = 300;

/// Threads that run programs.
const WORKERS: u64 = 4;

/// How long nothing has to come before the next step, at first and when a program runs again.
const PAUSES: [Duration; 5] = [
    Duration::from_millis(3),
    Duration::from_millis(10),
    Duration::from_millis(10),
    Duration::from_millis(30),
    Duration::from_millis(60),
];

/// How long the server may take to end a stream that its client has ended; Go hangs where it has a leak.
const END: Duration = Duration::from_millis(400);

/// How a program ended for one server.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Verdict {
    /// The server ended the stream, before the client did or after.
    Ended,
    /// It never did.
    Hangs,
    Reset,
    SessionLost,
    SessionLives,
}

/// What a server made of a program.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Outcome {
    answer: Vec<u8>,
    verdict: Verdict,
}

/// Lets come what comes until nothing does.
fn settle(peer: &mut Peer, pause: Duration) {
    while peer.pump(pause) {}
}

fn run(peer: &mut Peer, program: &Program, pause: Duration) -> Outcome {
    if peer.ended {
        *peer = peer.another();
    }
    match program {
        Program::Transport { steps, .. } => transport(peer, steps, pause),
        Program::Session(steps) => session(&mut peer.another(), steps, pause),
    }
}

/// Steps on one stream of a session that others use too.
fn transport(peer: &mut Peer, steps: &[Step], pause: Duration) -> Outcome {
    let id = peer.open();
    for Step(bytes) in steps {
        peer.send(bytes);
        settle(peer, pause);
    }
    let over = |peer: &mut Peer| peer.ended || peer.incoming(id).fins + peer.incoming(id).resets > 0;
    peer.fin();
    let end = Instant::now() + END;
    while !over(peer) && Instant::now() < end {
        peer.pump(Duration::from_millis(20));
    }
    let ended = peer.ended;
    let stream = peer.incoming(id);
    let verdict = match (ended, stream.fins, stream.resets) {
        (true, ..) => Verdict::SessionLost,
        (_, _, 1..) => Verdict::Reset,
        (_, 0, _) => Verdict::Hangs,
        _ => Verdict::Ended,
    };
    let answer = std::mem::take(&mut stream.bytes);
    if verdict == Verdict::Hangs {
        // A stream that leaks stays behind with its session.
        *peer = peer.another();
    }
    Outcome { answer, verdict }
}

/// Frames of a session of their own; what counts is whether it lives.
fn session(peer: &mut Peer, steps: &[Step], pause: Duration) -> Outcome {
    for Step(bytes) in steps {
        peer.raw(bytes);
        settle(peer, pause);
    }
    peer.raw(&frame(PING, SYN, 0, 0xfeed, &[]));
    let end = Instant::now() + END;
    while !peer.ended && !peer.has_pong(0xfeed) && Instant::now() < end {
        peer.pump(Duration::from_millis(20));
    }
    let verdict = if peer.ended {
        Verdict::SessionLost
    } else if peer.has_pong(0xfeed) {
        Verdict::SessionLives
    } else {
        Verdict::Hangs
    };
    Outcome {
        answer: Vec::new(),
        verdict,
    }
}

/// Runs one seed; what is wrong with it, if anything.
fn differs(ours: &mut Peer, go: &mut Peer, program: &Program) -> Option<String> {
    let (mut of_ours, mut of_go) = (Vec::new(), Vec::new());
    for pause in PAUSES {
        of_go.push(run(go, program, pause));
        of_ours.push(run(ours, program, pause));
        let same = |ours: &Outcome| {
            of_go
                .iter()
                .any(|go| deviation::allows(program, ours, go).is_some())
        };
        if of_ours.iter().all(same) {
            return None;
        }
        // An early outcome of ours may be that of a step that came too soon.
        if of_ours.len() > 1 && same(of_ours.last().unwrap()) {
            of_ours.remove(0);
        }
    }
    let show = |outcomes: &[Outcome]| {
        let one = |outcome: &Outcome| format!("  {:?} {}", outcome.verdict, shown(&outcome.answer));
        outcomes.iter().map(one).collect::<Vec<_>>().join("\n")
    };
    Some(format!(
        "{program}\nGo:\n{}\ndrpcd:\n{}",
        show(&of_go),
        show(&of_ours)
    ))
}

fn seeds() -> Option<u64> {
    std::env::var("DRPCD_DIFFERENTIAL_SEEDS").ok()?.parse().ok()
}

#[test]
fn what_may_differ_is_listed() {
    let list = include_str!("../docs/DEVIATIONS.md");
    for row in deviation::ROWS {
        assert!(
            list.lines()
                .any(|line| line.starts_with("| ") && line.contains(row)),
            "{row}"
        );
    }
}

#[test]
fn random_input_has_the_same_answers_and_verdicts_as_with_go() {
    let Some(go) = script::serve_go() else { return };
    let ours = script::serve_ours();
    if let Some(seed) = std::env::var("DRPCD_DIFFERENTIAL_SEED")
        .ok()
        .and_then(|seed| seed.parse().ok())
    {
        let program = Program::new(seed);
        let difference = differs(&mut Peer::dial(&ours), &mut Peer::dial(go), &program);
        assert!(difference.is_none(), "{}", difference.unwrap());
        return;
    }
    let (next, last) = (AtomicU64::new(0), seeds().unwrap_or(SEEDS));
    let found: Vec<_> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..WORKERS)
            .map(|_| {
                scope.spawn(|| {
                    let (mut ours, mut go) = (Peer::dial(&ours), Peer::dial(go));
                    let mut found = Vec::new();
                    loop {
                        let seed = next.fetch_add(1, Ordering::Relaxed);
                        if seed >= last {
                            return found;
                        }
                        if let Some(difference) = differs(&mut ours, &mut go, &Program::new(seed)) {
                            found.push(format!("seed {seed}: {difference}"));
                        }
                    }
                })
            })
            .collect();
        workers
            .into_iter()
            .flat_map(|worker| worker.join().unwrap())
            .collect()
    });
    assert!(
        found.is_empty(),
        "{} of {last}:\n{}",
        found.len(),
        found.join("\n\n")
    );
}
