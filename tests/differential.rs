//! Random input, made from a seed, goes to drpcd's stack and to the Go libraries, which serve the same script: answers and
//! verdicts are the same, or differ as `docs/DEVIATIONS.md` says.
//!
//! Where Go has races of its own, so that one program has several outcomes, drpcd's has to be among them: a program whose
//! outcomes differ runs again, slower, until one of Go's is as ours. Ours has no such leave: a step is over when the
//! server has answered a ping behind it and had nothing else to say, so what differs once differs.
//!
//! `DRPCD_DIFFERENTIAL_SEEDS=10000` runs more; `DRPCD_DIFFERENTIAL_SEED=N` one, and prints it.

#![allow(clippy::unwrap_used, reason = "tests")]
#![allow(clippy::disallowed_methods, reason = "tests")]

#[path = "differential/deviation.rs"]
mod deviation;
#[path = "differential/model.rs"]
mod model;
#[path = "differential/program.rs"]
mod program;
#[path = "support/mod.rs"]
mod support;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use program::{Program, STREAMS, Step};
use support::PATIENCE;
use support::peer::{Control, Peer, cancel, invoke, shown, text};
use support::raw::{PING, SYN, frame};
use support::script;

/// Seeds of a plain run.
const SEEDS: u64 = 300;

/// Threads that run programs.
const WORKERS: u64 = 4;

/// How long Go has to say nothing before the next step, at first and when a program runs again: what its goroutines do
/// has no other sign of being done.
const PAUSES: [Duration; 8] = [
    Duration::from_millis(3),
    Duration::from_millis(10),
    Duration::from_millis(10),
    Duration::from_millis(10),
    Duration::from_millis(30),
    Duration::from_millis(30),
    Duration::from_millis(60),
    Duration::from_millis(120),
];

/// How long Go may take to end a stream that its client has ended. It hangs where it has a leak.
const END: Duration = Duration::from_millis(400);

/// What pings between steps begin with; those of programs have small numbers.
const STEP_PING: u32 = 0x5000_0000;

/// How a stream ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// The server ended it, and its client had not.
    Closed,
    /// The server ended it after its client did.
    Ended,
    /// It never did.
    Hangs,
    Reset,
    SessionLost,
}

/// How a session ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Life {
    Lives,
    /// The server ended it after the step of this number.
    LostAt(usize),
    /// It answers no pings, and is not over.
    HangsAt(usize),
}

/// What came on one stream of a session.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Told {
    answer: Vec<u8>,
    fins: u32,
    resets: u32,
}

/// What a server made of a program.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Outcome {
    Transport {
        answer: Vec<u8>,
        verdict: Verdict,
    },
    Session {
        life: Life,
        /// Pongs and goodbyes.
        control: Vec<Control>,
        streams: BTreeMap<u32, Told>,
    },
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Transport { answer, verdict } => write!(f, "{verdict:?} {}", shown(answer)),
            Self::Session {
                life,
                control,
                streams,
            } => {
                write!(f, "{life:?} {control:?}")?;
                for (id, told) in streams {
                    let (fins, resets) = (told.fins, told.resets);
                    write!(f, " {id}: {} {fins} FIN {resets} RST", shown(&told.answer))?;
                }
                Ok(())
            }
        }
    }
}

/// A server, and how it is waited for.
struct Side {
    peer: Peer,
    /// How long nothing has to come after a step.
    pause: Duration,
    /// How long the end of a stream may take.
    end: Duration,
}

impl Side {
    /// drpcd, whose pongs come behind all that it has to say to what came before the ping.
    fn ours(url: &str) -> Self {
        Self {
            peer: Peer::dial(url),
            pause: Duration::ZERO,
            end: PATIENCE,
        }
    }

    fn go(url: &str) -> Self {
        Self {
            peer: Peer::dial(url),
            pause: PAUSES[0],
            end: END,
        }
    }

    fn run(&mut self, program: &Program) -> Outcome {
        if self.peer.ended {
            self.peer = self.peer.another();
        }
        match program {
            Program::Transport(steps) => self.transport(steps),
            Program::Session(steps) => {
                let fresh = self.peer.another();
                let kept = std::mem::replace(&mut self.peer, fresh);
                let outcome = self.session(steps);
                self.peer = kept;
                outcome
            }
        }
    }

    /// Lets come what comes, until the server answers a ping with nothing else; false when it answers none.
    fn settle(&mut self) -> bool {
        let peer = &mut self.peer;
        let end = Instant::now() + PATIENCE;
        loop {
            while peer.pump(self.pause) {}
            let before = peer.frames;
            let ping = STEP_PING + before;
            peer.raw(&frame(PING, SYN, 0, ping, &[]));
            while !peer.ended && !peer.has_pong(ping) && Instant::now() < end {
                peer.pump(Duration::from_millis(20));
            }
            let answered = peer.has_pong(ping);
            peer.control.retain(|control| *control != Control::Pong(ping));
            if !answered || peer.frames == before + 1 {
                return answered;
            }
        }
    }

    /// Steps on one stream of a session that others use too.
    fn transport(&mut self, steps: &[Step]) -> Outcome {
        let id = self.peer.open();
        for Step(bytes) in steps {
            self.peer.send(bytes);
            self.settle();
        }
        let over = |peer: &mut Peer| peer.ended || peer.incoming(id).fins + peer.incoming(id).resets > 0;
        let closed = over(&mut self.peer);
        self.peer.fin();
        let end = Instant::now() + self.end;
        while !over(&mut self.peer) && Instant::now() < end {
            self.peer.pump(Duration::from_millis(20));
        }
        let ended = self.peer.ended;
        let stream = self.peer.incoming(id);
        let verdict = match (ended, stream.fins, stream.resets) {
            (true, ..) => Verdict::SessionLost,
            (_, _, 1..) => Verdict::Reset,
            (_, 0, _) => Verdict::Hangs,
            _ if closed => Verdict::Closed,
            _ => Verdict::Ended,
        };
        let answer = std::mem::take(&mut stream.bytes);
        if verdict == Verdict::Hangs {
            // A stream that leaks stays behind with its session.
            self.peer = self.peer.another();
        }
        Outcome::Transport { answer, verdict }
    }

    /// Frames of a session of their own.
    fn session(&mut self, steps: &[Step]) -> Outcome {
        let mut life = Life::Lives;
        for (at, Step(bytes)) in steps.iter().enumerate() {
            self.peer.raw(bytes);
            if !self.settle() {
                life = if self.peer.ended {
                    Life::LostAt(at)
                } else {
                    Life::HangsAt(at)
                };
                break;
            }
        }
        let control = self.peer.control.drain(..);
        let control = control.filter(|control| matches!(control, Control::Pong(_) | Control::GoAway(_)));
        let control = control.collect();
        let streams = STREAMS.map(|id| {
            let stream = self.peer.incoming(id);
            let told = Told {
                answer: std::mem::take(&mut stream.bytes),
                fins: stream.fins,
                resets: stream.resets,
            };
            (id, told)
        });
        let streams = streams.into_iter().filter(|(_, told)| *told != Told::default());
        Outcome::Session {
            life,
            control,
            streams: streams.collect(),
        }
    }
}

/// Runs one seed; what is wrong with it, if anything.
fn differs(ours: &mut Side, go: &mut Side, program: &Program) -> Option<String> {
    let (mut of_ours, mut of_go) = (Vec::new(), Vec::new());
    for pause in PAUSES {
        go.pause = pause;
        of_go.push(go.run(program));
        of_ours.push(ours.run(program));
        let same = |ours: &Outcome| {
            of_go
                .iter()
                .any(|go| deviation::allows(program, ours, go).is_some())
        };
        if of_ours.iter().all(same) {
            return None;
        }
    }
    let show = |outcomes: &[Outcome]| {
        let one = |outcome: &Outcome| format!("  {outcome}");
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
fn an_answer_may_be_missing_only_where_what_ends_its_call_came_with_the_request() {
    let call = [invoke(1, 1, "/t/Echo"), text(1, 2, "hi")].concat();
    let allowed = |steps: &[Vec<u8>], ours: Verdict| {
        let outcome = |answer: &[u8], verdict| Outcome::Transport {
            answer: answer.to_vec(),
            verdict,
        };
        let program = Program::Transport(steps.iter().cloned().map(Step).collect());
        let (ours, go) = (outcome(b"", ours), outcome(&text(1, 1, "hi"), Verdict::Ended));
        deviation::allows(&program, &ours, &go).is_some()
    };
    assert!(!allowed(std::slice::from_ref(&call), Verdict::Ended));
    assert!(!allowed(&[call.clone(), cancel(1, 3)], Verdict::Ended));
    let together = [[call, cancel(1, 3)].concat()];
    assert!(allowed(&together, Verdict::Ended));
    assert!(!allowed(&together, Verdict::Closed));
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
        let difference = differs(&mut Side::ours(&ours), &mut Side::go(go), &program);
        assert!(difference.is_none(), "{}", difference.unwrap());
        return;
    }
    let (next, last) = (AtomicU64::new(0), seeds().unwrap_or(SEEDS));
    let found: Vec<_> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..WORKERS)
            .map(|_| {
                scope.spawn(|| {
                    let (mut ours, mut go) = (Side::ours(&ours), Side::go(go));
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
