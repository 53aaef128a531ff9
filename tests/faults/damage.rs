//! Files of a database whose bytes somebody has changed.

use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::process::Stdio;

use crate::go;
use crate::journal::{AGENT, FLAGS, nothing_is_lost};
use crate::support::http::get;
use crate::support::postgres::{self, Shutdown};
use crate::support::{Data, EXAMPLE_SEED, drpcd, eventually};

/// Bytes of a page of the file.
const PAGE: u64 = 4_096;

/// Why those of SQLite's file are not run on Postgres.
const DAMAGE: &str = "its files are its own";

/// Overwrites bytes of SQLite's file, and returns what was there.
fn overwrite(data: &Data, at: u64, bytes: &[u8]) -> Vec<u8> {
    overwrite_file(&data.database(), at, bytes)
}

fn overwrite_file(path: &Path, at: u64, bytes: &[u8]) -> Vec<u8> {
    let file = File::options().read(true).write(true).open(path).unwrap();
    let mut before = vec![0; bytes.len()];
    file.read_exact_at(&mut before, at).unwrap();
    file.write_all_at(bytes, at).unwrap();
    before
}

/// The first page of a table.
fn root(data: &Data, table: &str) -> u64 {
    let sql = format!("SELECT rootpage FROM sqlite_schema WHERE name = '{table}'");
    let page: u64 = data.value(&sql).parse().unwrap();
    (page - 1) * PAGE
}

/// Starts a server that must not come up, and returns what it says.
fn refused(data: &Data, flags: &[&std::ffi::OsStr]) -> String {
    let mut command = drpcd();
    command.args(["server", "--http-address", "127.0.0.1:0", "--data-dir"]);
    let mut server = command
        .arg(data.path())
        .args(flags)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let up = eventually(|| server.try_wait().unwrap().is_some()).is_err();
    let _ = server.kill();
    let mut stderr = String::new();
    server.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
    assert!(!up, "the server came up:\n{stderr}");
    assert_eq!(server.wait().unwrap().code(), Some(1), "{stderr}");
    stderr
}

#[test]
fn a_damaged_file_is_named_at_the_start_and_left_as_it_is() {
    let Some(data) = Data::in_a_file(EXAMPLE_SEED, DAMAGE) else {
        return;
    };
    assert_eq!(data.serve(&[]).stop(), Some(0));
    let users = root(&data, "users");
    data.checkpoint();
    let seed = data.seed_file();
    let with_seed = ["--seed".as_ref(), seed.as_os_str()];
    let cases: [(u64, usize, &[&std::ffi::OsStr], &str); 3] = [
        (0, 100, &[], "is not a SQLite database"),
        (100, 3_996, &[], "malformed"),
        (users, 4_096, &with_seed, "malformed"),
    ];
    for (at, length, flags, reason) in cases {
        let before = overwrite(&data, at, &vec![0xA5; length]);
        let damaged = std::fs::read(data.database()).unwrap();
        let stderr = refused(&data, flags);
        assert!(stderr.contains(reason), "{stderr}");
        assert!(
            stderr.contains(&data.database().display().to_string()),
            "{stderr}"
        );
        assert!(!stderr.contains("panic"), "{stderr}");
        assert!(
            std::fs::read(data.database()).unwrap() == damaged,
            "{reason}: the file was changed"
        );
        overwrite(&data, at, &before);
    }
    assert_eq!(data.serve(&[]).stop(), Some(0));
}

#[test]
fn damage_to_a_running_servers_file_ends_no_session_and_costs_no_more_than_the_damaged_table() {
    let Some(data) = Data::in_a_file(EXAMPLE_SEED, DAMAGE) else {
        return;
    };
    let server = data.serve(&["--agent-connection-update-frequency", "2s"]);
    let flags = ["--start-script", "3s", "--log-lines", "50", "--duration", "2m"];
    let mut agent = go!("agent", server.agent(), &flags);
    agent.await_line("lifecycle STARTING");
    data.await_value("SELECT count(*) > 0 FROM workspace_agent_logs", "1");

    let logs = root(&data, "workspace_agent_logs");
    let before = loop {
        data.checkpoint();
        let before = overwrite(&data, logs, &[0xA5; 4_096]);
        // What was written meanwhile, with that page in it, would count instead.
        if std::fs::metadata(data.database().with_extension("db-wal"))
            .unwrap()
            .len()
            == 0
        {
            break before;
        }
        overwrite(&data, logs, &before);
    };
    // Somebody else's write, upon which the server's copies of pages count no more.
    data.execute("UPDATE users SET updated_at = updated_at");

    agent.await_line("lifecycle READY");
    eventually(|| data.log().contains("the database file is damaged")).unwrap();
    eventually(|| server.get("/readyz").status == 503).unwrap();
    assert_eq!(server.get("/healthz").status, 200);
    assert!(data.log().contains(&data.database().display().to_string()));
    let seen = || data.number("SELECT last_connected_at FROM workspace_agents");
    let then = seen();
    eventually(|| seen() > then).unwrap();

    let address = server.url.strip_prefix("http://").unwrap().to_owned();
    assert_eq!(server.stop(), Some(0), "{}", data.log());
    overwrite(&data, logs, &before);
    let log = data.log();
    assert_eq!(log.matches("the database file is damaged").count(), 1, "{log}");
    // At the old address, where the agent looks for it.
    let server = data.serve_at(&address, &[], &[]);
    data.await_status("connected");
    agent.terminate();
    let report = agent.result();
    assert_eq!(report["connections"], 2, "{report:#}");
    assert_eq!(server.stop(), Some(0));
    let lines = report["log_lines"].to_string();
    assert_eq!(data.value("SELECT count(*) FROM workspace_agent_logs"), lines);
    data.assert_intact();
}

#[test]
fn a_damaged_table_of_postgres_ends_no_session_and_costs_no_more_than_itself() {
    let Some(mut database) = postgres::Server::new() else {
        return;
    };
    let data = Data::on(&database, EXAMPLE_SEED);
    let server = data.serve(&FLAGS);
    // Lines come for longer than it takes to damage their table.
    let flags = [&AGENT[..], &["--start-script", "15s", "--duration", "3m"]].concat();
    let mut agent = go!("agent", server.agent(), &flags);
    agent.await_line("lifecycle STARTING");
    data.await_value("SELECT count(*) > 0 FROM workspace_agent_logs", "1");

    let name = data.value("SELECT pg_relation_filepath('workspace_agent_logs')");
    let logs = database.file(&name);
    database.stop(Shutdown::Fast);
    let length = usize::try_from(logs.metadata().unwrap().len()).unwrap();
    let before = overwrite_file(&logs, 0, &vec![0xA5; length]);
    database.start();

    // What is not of that table is stored, and the lines wait.
    let told = || database.log().matches("invalid page in block").count();
    eventually(|| told() > 2).unwrap();
    // By each that has met it once, with the name of the file.
    let named = format!("the database is damaged error=invalid page in block 0 of relation {name}");
    let logged = || data.log().matches(&named).count();
    eventually(|| logged() > 0).unwrap();
    let reported = || data.number("SELECT count(*) FROM workspace_agent_stats");
    let then = reported();
    eventually(|| reported() > then + 2).unwrap();
    let seen = || data.number("SELECT max(last_connected_at) FROM workspace_agents");
    let then = seen();
    eventually(|| seen() > then).unwrap();
    for replica in 0..server.replicas() {
        assert_eq!(get(server.replica_url(replica), "/healthz", "").status, 200);
    }

    assert!(logged() <= server.replicas(), "{}", data.log());
    database.stop(Shutdown::Fast);
    overwrite_file(&logs, 0, &before);
    database.start();
    agent.await_line("lifecycle READY");
    agent.await_line("used");
    agent.terminate();
    nothing_is_lost(&data, server, &agent.result());
}
