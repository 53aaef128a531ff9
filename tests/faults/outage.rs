//! A store in a file that is away for a while, and comes back.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt, chown};
use std::process::Command;
use std::time::Duration;

use drpcd::proto::agent::DeleteSubAgentRequest;
use tokio::runtime::Runtime;

use crate::journal::{FLAGS, LONG, Outage, SHORT, an_agent_survives, at_once, nothing_is_lost};
use crate::support::client;
use crate::support::{Data, EXAMPLE_SEED, Server, drpcd, eventually, go, may_write};

/// A user without rights.
const NOBODY: u32 = 65_534;

/// Why this is not tested on Postgres; `database.rs` has what fails there.
const LOCKED: &str = "nobody locks all of it";
const DISK: &str = "its disk is its own";
const PERMISSIONS: &str = "its files are its own";

fn locked(lasts: Duration) {
    let Some(data) = Data::in_a_file(EXAMPLE_SEED, LOCKED) else {
        return;
    };
    let server = data.serve(&FLAGS);
    let lock = std::cell::Cell::new(None);
    let outage = Outage {
        begin: &|| lock.set(Some(data.lock())),
        end: &|| drop(lock.take()),
        verb: &|verb| verb,
        reasons: &["database is locked"],
        told_verbs: &["drpcd.db"],
        reads: false,
        away: false,
    };
    if let Some(report) = an_agent_survives(&data, &server, lasts, &outage) {
        nothing_is_lost(&data, server, &report);
    }
}

#[test]
fn an_agent_survives_a_store_that_somebody_else_has_locked() {
    locked(SHORT);
}

#[test]
#[ignore = "ten minutes"]
fn an_agent_survives_a_store_that_is_locked_for_ten_minutes() {
    locked(LONG);
}

#[test]
fn an_agent_survives_a_full_disk() {
    let Some(data) = Data::in_a_file(EXAMPLE_SEED, DISK) else {
        return;
    };
    let server = data.serve(&FLAGS);
    let pid = server.pids()[0];
    let outage = Outage {
        begin: &|| may_write(pid, false),
        end: &|| may_write(pid, true),
        verb: &|verb| {
            let mut limited = Command::new("prlimit");
            limited
                .arg("--fsize=0")
                .arg(verb.get_program())
                .args(verb.get_args());
            limited
        },
        reasons: &["disk I/O error"],
        told_verbs: &["drpcd.db"],
        reads: false,
        away: false,
    };
    if let Some(report) = an_agent_survives(&data, &server, SHORT, &outage) {
        nothing_is_lost(&data, server, &report);
    }
}

/// The binary as a user whom permissions bind. A copy, for where the binary is may be out of that user's reach.
fn as_nobody(data: &Data) -> Command {
    let binary = data.path().join("drpcd");
    if !binary.exists() {
        std::fs::copy(drpcd().get_program(), &binary).unwrap();
    }
    let mut command = Command::new("setpriv");
    command
        .env_clear()
        .args([format!("--reuid={NOBODY}"), format!("--regid={NOBODY}")])
        .arg("--clear-groups")
        .arg(binary);
    command
}

/// Whether this is root, who alone can become somebody else; says so if not, which is a failure where `CI` says so.
fn is_root(data: &Data) -> bool {
    let root = data.path().metadata().unwrap().uid() == 0;
    if !root {
        let message = "not root: lost permissions are not tested";
        assert!(std::env::var_os("CI").is_none_or(|ci| ci != "true"), "{message}");
        eprintln!("{message}");
    }
    root
}

/// Whether the server's user may write the files, or only read them.
fn permit(data: &Data, write: bool) {
    let (owner, directory, file) = if write {
        (NOBODY, 0o755, 0o600)
    } else {
        (0, 0o555, 0o444)
    };
    for name in ["", "drpcd.db", "drpcd.db-wal", "drpcd.db-shm"] {
        let path = data.path().join(name);
        if path.exists() {
            let mode = if name.is_empty() { directory } else { file };
            chown(&path, Some(owner), Some(owner)).unwrap();
            std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
        }
    }
}

/// Makes the server give up the connection that it has open, by calls that are cancelled while they wait for a lock.
fn lose_connection(data: &Data, server: &Server, runtime: &Runtime) {
    let callers: Vec<_> = (0..4)
        .map(|_| runtime.block_on(client::dial(server.agent(), "probe")).unwrap())
        .collect();
    let lock = data.lock();
    for caller in callers {
        let call = runtime.spawn(async move {
            // Of nobody: nothing comes of it, should it get through.
            let id = vec![7; 16];
            let _ = caller.delete_sub_agent(&DeleteSubAgentRequest { id }).await;
        });
        std::thread::sleep(Duration::from_millis(700));
        call.abort();
    }
    std::thread::sleep(Duration::from_millis(300));
    drop(lock);
}

#[test]
fn an_agent_survives_the_loss_of_permissions() {
    let Some(data) = Data::in_a_file(EXAMPLE_SEED, PERMISSIONS) else {
        return;
    };
    if !is_root(&data) {
        return;
    }
    permit(&data, true);
    let server = data.serve_by(as_nobody(&data), "127.0.0.1:0", &FLAGS);
    let runtime = Runtime::new().unwrap();
    let begin = || {
        permit(&data, false);
        // What is open stays open.
        assert_eq!(server.get("/readyz").status, 200);
        let lost = || {
            lose_connection(&data, &server, &runtime);
            server.get("/readyz").status == 503
        };
        eventually(lost).unwrap();
    };
    let outage = Outage {
        begin: &begin,
        end: &|| permit(&data, true),
        verb: &|verb| {
            let mut command = as_nobody(&data);
            command.args(verb.get_args());
            command
        },
        reasons: &["attempt to write a readonly database"],
        told_verbs: &["drpcd.db"],
        reads: false,
        away: false,
    };
    if let Some(report) = an_agent_survives(&data, &server, SHORT, &outage) {
        nothing_is_lost(&data, server, &report);
    }
}

#[test]
fn a_start_without_permissions_is_refused_and_names_the_file() {
    let Some(data) = Data::in_a_file(EXAMPLE_SEED, PERMISSIONS) else {
        return;
    };
    if !is_root(&data) {
        return;
    }
    permit(&data, true);
    assert_eq!(
        data.serve_by(as_nobody(&data), "127.0.0.1:0", &[]).stop(),
        Some(0)
    );
    permit(&data, false);
    let mut start = as_nobody(&data);
    start.args(["server", "--http-address", "127.0.0.1:0", "--data-dir"]);
    let output = at_once("start", || start.arg(data.path()).output().unwrap());
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    let file = data.database().display().to_string();
    assert!(
        stderr.contains(&file) && stderr.contains("Permission denied"),
        "{stderr}"
    );
    permit(&data, true);
    assert_eq!(
        data.serve_by(as_nobody(&data), "127.0.0.1:0", &[]).stop(),
        Some(0)
    );
}

#[test]
fn an_agent_survives_a_store_that_is_locked_for_five_seconds_again_and_again() {
    let Some(data) = Data::in_a_file(EXAMPLE_SEED, LOCKED) else {
        return;
    };
    let server = data.serve(&FLAGS);
    let flags = ["--use", "--start-script", "2s", "--duration", "3m"];
    let Some(mut agent) = go("agent", server.agent(), &flags) else {
        return;
    };
    agent.await_line("lifecycle STARTING");
    for _ in 0..3 {
        let lock = data.lock();
        std::thread::sleep(Duration::from_secs(5));
        assert_eq!(at_once("healthz", || server.get("/healthz")).status, 200);
        drop(lock);
        // Longer than SQLite waits between two looks at a lock.
        std::thread::sleep(Duration::from_millis(300));
    }
    agent.await_line("used");
    eventually(|| server.get("/readyz").status == 200).unwrap();
    agent.terminate();
    let report = agent.result();
    nothing_is_lost(&data, server, &report);
}
