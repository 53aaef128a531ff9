//! The test bed for Postgres: what `tests/support/postgres.rs` promises, and what lets one test run on either engine.

#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "tests")]

mod support;

use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::net::{Shutdown as Shut, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use sqlx::{Connection as _, PgConnection, Row as _, SqliteConnection};
use support::balancer::Balancer;
use support::postgres::{Database, Server, Shutdown, Template, apart};
use support::{eventually, rows};

/// Makes [`victim`] one.
const VICTIM: &str = "DRPCD_TEST_VICTIM";

/// The first value of a query.
fn value(url: &str, sql: &'static str) -> Result<String, sqlx::Error> {
    apart(async || {
        let mut connection = PgConnection::connect(url).await?;
        let row = sqlx::query(sql).fetch_one(&mut connection).await?;
        row.try_get(0)
    })
}

#[test]
fn databases_are_apart_and_dropped() {
    let (Some(one), Some(other)) = (Database::new(), Database::new()) else {
        return;
    };
    one.execute("CREATE TABLE notes (note text); INSERT INTO notes VALUES ('mine')");
    assert_eq!(value(one.url(), "SELECT note FROM notes").unwrap(), "mine");
    assert!(value(other.url(), "SELECT note FROM notes").is_err());
    let gone = one.url().to_owned();
    drop(one);
    assert!(value(&gone, "SELECT 'there'").is_err());
}

#[test]
fn a_template_is_filled_once_and_copied() {
    let template = Template::new(async |url| {
        let mut connection = PgConnection::connect(&url).await.unwrap();
        let table = "CREATE TABLE notes (note text); INSERT INTO notes VALUES ('from the template')";
        sqlx::raw_sql(table).execute(&mut connection).await.unwrap();
    });
    let Some(template) = template else { return };
    let (one, other) = (template.database(), template.database());
    one.execute("DELETE FROM notes");
    assert_eq!(
        value(other.url(), "SELECT note FROM notes").unwrap(),
        "from the template"
    );
}

#[tokio::test(start_paused = true)]
async fn paused_time_stands_still_meanwhile() {
    let before = tokio::time::Instant::now();
    let Some(database) = Database::new() else { return };
    database.execute("SELECT pg_sleep(0.01)");
    drop(database);
    assert_eq!(before.elapsed(), Duration::ZERO);
}

/// Runs `work`, which must wait for `resume`.
#[track_caller]
fn waits(work: impl FnOnce() + Send, resume: impl FnOnce()) {
    let done = AtomicBool::new(false);
    let early = std::thread::scope(|scope| {
        scope.spawn(|| {
            work();
            done.store(true, Ordering::SeqCst);
        });
        std::thread::sleep(Duration::from_millis(300));
        let early = done.load(Ordering::SeqCst);
        resume();
        early
    });
    assert!(!early, "it did not wait");
}

#[test]
fn a_server_stops_starts_and_pauses() {
    let Some(mut server) = Server::new() else { return };
    let database = server.database();
    database.execute("CREATE TABLE notes (note text)");
    let read = || value(database.url(), "SELECT string_agg(note, ' ') FROM notes");
    for (how, note) in [(Shutdown::Fast, "fast"), (Shutdown::Immediate, "immediate")] {
        database.execute(&format!("INSERT INTO notes VALUES ('{note}')"));
        server.stop(how);
        assert!(read().is_err(), "{how:?}");
        server.start();
    }
    assert_eq!(read().unwrap(), "fast immediate", "what was committed is there");

    server.pause();
    waits(|| drop(read().unwrap()), || server.resume());
    let directory = server.socket_directory().to_owned();
    server.pause();
    drop(server);
    assert!(!directory.exists());
}

#[test]
fn a_standby_has_what_was_acknowledged_and_takes_over() {
    let Some((mut primary, standby)) = Server::with_standby() else {
        return;
    };
    let database = primary.database();
    database.execute("CREATE TABLE notes (note text)");
    standby.pause();
    let insert = "INSERT INTO notes VALUES ('acknowledged')";
    waits(|| database.execute(insert), || standby.resume());
    primary.stop(Shutdown::Immediate);
    standby.promote();
    let database = database.at_port(standby.port());
    database.execute("INSERT INTO notes VALUES ('later')");
    let notes = value(database.url(), "SELECT string_agg(note, ' ') FROM notes");
    assert_eq!(notes.unwrap(), "acknowledged later");
}

/// Not a test: what the next one starts, with this variable, and kills.
#[test]
#[ignore = "runs only within another test"]
fn victim() {
    if std::env::var_os(VICTIM).is_none() {
        return;
    }
    let Some(server) = Server::new() else { return };
    let pid = std::fs::read_to_string(server.socket_directory().join("data/postmaster.pid")).unwrap();
    println!(
        "{} {}",
        pid.lines().next().unwrap(),
        server.socket_directory().display()
    );
    std::thread::sleep(Duration::from_secs(60));
}

#[test]
fn nothing_is_left_of_a_test_that_is_killed() {
    let mut victim = Command::new(std::env::current_exe().unwrap());
    victim.args(["victim", "--exact", "--ignored", "--nocapture"]);
    let mut victim = victim.env(VICTIM, "1").stdout(Stdio::piped()).spawn().unwrap();
    let lines = std::io::BufRead::lines(std::io::BufReader::new(victim.stdout.take().unwrap()));
    let mut lines = lines.map(Result::unwrap).filter_map(|line| {
        let (pid, directory) = line.split_once(" /")?;
        Some((pid.rsplit(' ').next()?.to_owned(), format!("/{directory}")))
    });
    let found = lines.next();
    victim.kill().unwrap();
    victim.wait().unwrap();
    // Without Postgres it had none.
    let Some((pid, directory)) = found else { return };
    assert!(pid.parse::<u32>().is_ok(), "{pid}");
    eventually(|| !Path::new(&directory).exists() && !Path::new("/proc").join(&pid).exists()).unwrap();
}

#[test]
fn a_row_reads_the_same_on_either_engine() {
    let Some(database) = Database::new() else { return };
    let postgres = "SELECT '00000000-0000-0000-0000-0000000000ff'::uuid, '\\x0aff'::bytea, 1 < 2, NULL, 7::bigint, 'a b',
        '1970-01-01T00:00:01.5Z'::timestamptz, '0001-01-01T00:00:00Z'::timestamptz";
    let sqlite = "SELECT x'000000000000000000000000000000ff', x'0aff', 1 < 2, NULL, 7, 'a b', 1500000, -62135596800000000";
    let expected = "00000000-0000-0000-0000-0000000000ff 0aff 1  7 a b 1500000 -62135596800000000";
    apart(async || {
        let mut connection = PgConnection::connect(database.url()).await.unwrap();
        assert_eq!(rows::of_postgres(&mut connection, postgres).await, [expected]);
        let mut connection = SqliteConnection::connect("sqlite::memory:").await.unwrap();
        assert_eq!(rows::of_sqlite(&mut connection, sqlite).await, [expected]);
    });
}

/// A server that says its name to whoever comes, and hears them out.
fn greeter(name: &'static str) -> TcpListener {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let own = listener.try_clone().unwrap();
    std::thread::spawn(move || {
        for stream in own.incoming() {
            let mut stream = stream.unwrap();
            stream.write_all(name.as_bytes()).unwrap();
            stream.shutdown(Shut::Write).unwrap();
            let _ = stream.read_to_end(&mut Vec::new());
        }
    });
    listener
}

#[test]
fn the_balancer_goes_round_and_passes_over_who_is_gone() {
    let balancer = Balancer::new("127.0.0.1:0");
    let ask = || {
        let mut stream = TcpStream::connect(balancer.url().strip_prefix("http://").unwrap()).unwrap();
        let mut answer = String::new();
        stream
            .read_to_string(&mut answer)
            .map(|_| answer)
            .unwrap_or_default()
    };
    assert_eq!(ask(), "", "there is nobody yet");
    let (one, other) = (greeter("one"), greeter("other"));
    let mut addresses = [&one, &other]
        .map(|listener| listener.local_addr().unwrap())
        .to_vec();
    balancer.set_replicas(addresses.clone());
    let answers: BTreeSet<_> = (0..2).map(|_| ask()).collect();
    assert_eq!(answers, BTreeSet::from(["one".to_owned(), "other".to_owned()]));
    // A port where nobody is.
    addresses[0] = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    balancer.set_replicas(addresses);
    assert_eq!([ask(), ask()], ["other", "other"]);
    balancer.settle();
}

/// What a test pays; printed, not judged.
#[test]
#[ignore = "a measurement"]
fn cost() {
    const COUNT: u32 = 20;
    let start = Instant::now();
    let Some(first) = Database::new() else { return };
    println!("first database: {:?}", start.elapsed());
    let start = Instant::now();
    drop(first);
    println!("dropped: {:?}", start.elapsed());
    let start = Instant::now();
    let databases: Vec<_> = (0..COUNT).map(|_| Database::new()).collect();
    println!("each further: {:?}", start.elapsed() / COUNT);
    let start = Instant::now();
    drop(databases);
    println!("each drop: {:?}", start.elapsed() / COUNT);
}
