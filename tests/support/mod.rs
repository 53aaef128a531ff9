//! The real binary and the real Go clients, as processes.

#![allow(
    dead_code,
    unreachable_pub,
    unused_imports,
    reason = "each test program uses its own part"
)]
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "as in the tests")]
#![allow(clippy::missing_panics_doc, reason = "as in the tests")]

pub mod balancer;
pub mod client;
pub mod coder;
mod data;
mod go;
pub mod http;
pub mod peer;
pub mod postgres;
pub mod proxy;
pub mod raw;
pub mod rows;
pub mod script;
pub mod script_answers;
pub mod server;

use std::io;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

pub use data::{Data, Lock};
pub use go::{Go, go};
pub use server::Server;

/// How long a process may take for what it should do at once.
pub const PATIENCE: Duration = Duration::from_secs(30);

pub const EXAMPLE_SEED: &str = include_str!("../../examples/seed.yaml");

/// What `seed` prints of one agent.
#[derive(Clone, Debug)]
pub struct SeededAgent {
    pub name: String,
    pub url: String,
    pub token: String,
}

/// Waits until `holds`, for at most [`PATIENCE`].
pub fn eventually(mut holds: impl FnMut() -> bool) -> Result<(), ()> {
    let end = Instant::now() + PATIENCE;
    while !holds() {
        if Instant::now() > end {
            return Err(());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// Tries again what a signal has interrupted. On a socket with a time limit the system does not go on by itself (`signal(7)`),
/// and a machine that is stopped for a moment interrupts too.
pub fn uninterrupted<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            done => return done,
        }
    }
}

pub fn drpcd() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_drpcd"));
    command.env_clear().stdin(Stdio::null());
    command
}

/// Waits for the end of a process, which must come.
pub fn wait(child: &mut Child, patience: Duration) -> ExitStatus {
    let end = Instant::now() + patience;
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status;
        }
        assert!(Instant::now() < end, "process {} does not end", child.id());
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn signal(child: &Child, name: &str) {
    let status = Command::new("kill")
        .args([format!("-{name}"), child.id().to_string()])
        .status()
        .unwrap();
    assert!(status.success());
}

/// Keeps a process from writing to any file, as a full disk does, or lets it again.
pub fn may_write(pid: u32, may: bool) {
    let limit = if may { "unlimited" } else { "0:unlimited" };
    let status = Command::new("prlimit")
        .args(["--pid", &pid.to_string(), &format!("--fsize={limit}")])
        .status()
        .unwrap();
    assert!(status.success());
}
