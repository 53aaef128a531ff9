//! The Go programs of `interop/`, as processes.

use std::io::{BufRead as _, BufReader, Read as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;

use serde_json::Value;

use super::{SeededAgent, signal};

/// The Go programs, built once; `None` when there is no Go, which is a failure where `CI` says so.
pub fn go_program() -> Option<&'static Path> {
    static PROGRAM: OnceLock<Option<PathBuf>> = OnceLock::new();
    PROGRAM
        .get_or_init(|| {
            let module = Path::new(env!("CARGO_MANIFEST_DIR")).join("interop");
            let program = Path::new(env!("CARGO_TARGET_TMPDIR")).join("drpc-interop");
            let mut build = Command::new("go");
            build
                .current_dir(&module)
                .arg("build")
                .arg("-o")
                .arg(&program)
                .arg("./cmd/drpc-interop");
            match build.status() {
                Ok(status) => {
                    assert!(status.success(), "the Go programs do not build");
                    Some(program)
                }
                Err(error) => {
                    let message = format!("no Go ({error}): interoperability is not tested");
                    assert!(std::env::var_os("CI").is_none_or(|ci| ci != "true"), "{message}");
                    eprintln!("{message}");
                    None
                }
            }
        })
        .as_deref()
}

/// A running Go program. What it said is printed if its test fails.
pub struct Go {
    name: String,
    child: Child,
    errors: BufReader<std::process::ChildStderr>,
    /// Progress that was read.
    seen: String,
}

/// Starts a verb of the Go programs against `agent`; `None` when there is no Go.
pub fn go(verb: &str, agent: &SeededAgent, flags: &[&str]) -> Option<Go> {
    let mut command = Command::new(go_program()?);
    command
        .arg(verb)
        .args(["--url", &agent.url, "--token", &agent.token])
        .args(flags);
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let errors = BufReader::new(child.stderr.take().unwrap());
    let name = format!("{verb} {}", agent.name);
    Some(Go {
        name,
        child,
        errors,
        seen: String::new(),
    })
}

impl Go {
    /// Waits for a line of progress.
    #[track_caller]
    pub fn await_line(&mut self, wanted: &str) {
        self.await_progress(wanted, |line| line == wanted);
    }

    /// Waits for a line of progress that may have come while another one was waited for.
    #[track_caller]
    pub fn await_once(&mut self, wanted: &str) {
        if !self.seen.lines().any(|line| line == wanted) {
            self.await_line(wanted);
        }
    }

    /// Waits for lines of progress, in any order.
    #[track_caller]
    pub fn await_all(&mut self, wanted: &[impl AsRef<str>]) {
        let mut missing: Vec<&str> = wanted.iter().map(AsRef::as_ref).collect();
        while !missing.is_empty() {
            let what = missing.join("\" and \"");
            self.await_progress(&what, |line| {
                let found = missing.iter().position(|wanted| line == *wanted);
                found.map(|at| missing.swap_remove(at)).is_some()
            });
        }
    }

    /// Waits for a line of progress that begins so.
    #[track_caller]
    pub fn await_start(&mut self, wanted: &str) {
        self.await_progress(wanted, |line| line.starts_with(wanted));
    }

    /// Waits for a session that ended by an error with `wanted` in it.
    #[track_caller]
    pub fn await_error(&mut self, wanted: &str) {
        self.await_progress(wanted, |line| {
            line.starts_with("session ended: ") && line.contains(wanted)
        });
    }

    #[track_caller]
    fn await_progress(&mut self, wanted: &str, mut is_it: impl FnMut(&str) -> bool) {
        let from = self.seen.len();
        loop {
            let start = self.seen.len();
            let read = self.errors.read_line(&mut self.seen).unwrap();
            assert!(read > 0, "no {wanted:?} in:\n{}", &self.seen[from..]);
            if is_it(self.seen[start..].trim_end()) {
                return;
            }
        }
    }

    pub fn terminate(&self) {
        signal(&self.child, "TERM");
    }

    /// The result, and whether what was asked for held.
    pub fn finish(mut self) -> (Value, bool) {
        let mut output = String::new();
        let mut errors = String::new();
        let mut stdout = self.child.stdout.take().unwrap();
        // Both at once: a program whose progress nobody reads stands still.
        std::thread::scope(|scope| {
            scope.spawn(|| self.errors.read_to_string(&mut errors).unwrap());
            stdout.read_to_string(&mut output).unwrap();
        });
        let status = self.child.wait().unwrap();
        let value =
            serde_json::from_str(&output).unwrap_or_else(|error| panic!("{error}: {output:?}\n{errors}"));
        (value, status.success())
    }

    /// The result of a run that must have held.
    #[track_caller]
    pub fn result(self) -> Value {
        let (value, ok) = self.finish();
        // What became of it comes first: whoever prints this may print only its beginning.
        assert!(ok, "{}, {}: {value:#}", value["status"], value["unfinished"]);
        value
    }
}

impl Drop for Go {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            let _ = self.errors.read_to_string(&mut self.seen);
            eprintln!("== what {} said\n{}", self.name, self.seen);
        }
    }
}
