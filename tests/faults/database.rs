//! A Postgres database that is away for a while, and comes back, under two replicas of a server.

use std::cell::{Cell, RefCell};
use std::ffi::OsStr;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use sqlx::{AssertSqlSafe, Connection as _, PgConnection};
use tokio::runtime::Runtime;

use crate::journal::{FLAGS, LONG, Outage, SHORT, an_agent_survives, nothing_is_lost};
use crate::support::postgres::{self, Shutdown, apart};
use crate::support::proxy::{Lane, Proxy};
use crate::support::server::Launch;
use crate::support::{Data, EXAMPLE_SEED, Server, drpcd, eventually};

/// Longer than a statement may take: those that nobody answers are given up, and asked again when they may be answered
/// too.
const BEYOND_A_STATEMENT: Duration = Duration::from_secs(14);

/// How late an answer is of a database that is slow: within the limit of a statement, and of nothing else.
const LATE: Duration = Duration::from_secs(5);

/// Within this an answer that a database has given arrives.
const ANSWERED: Duration = Duration::from_millis(500);

/// Statements of the servers that a database has not answered yet.
fn asked(url: &str) -> i64 {
    let active =
        "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'drpcd' AND state = 'active'";
    apart(async || {
        let mut connection = PgConnection::connect(url).await.unwrap();
        sqlx::query_scalar(active)
            .fetch_one(&mut connection)
            .await
            .unwrap()
    })
}

/// Connections that the servers may have: the pool of each, that of its beats, and the two for messages.
const MAX_CONNECTIONS: i64 = 2 * (10 + 1 + 2);

/// What is answered when nobody lets a server in.
const NO_CONNECTION: &str = "no connection to the database was to be had in time";

/// What is answered by connections that the database has just ended.
const ENDED: [&str; 2] = [
    "error communicating with database",
    "terminating connection due to administrator command",
];

/// What is answered when it has ended them and lets nobody in.
const GONE: [&str; 3] = [NO_CONNECTION, ENDED[0], ENDED[1]];

/// What is answered behind a proxy that leads to nobody. It takes connections and ends them, which the driver finds out or
/// takes for a word on TLS.
const NOBODY_BEHIND: [&str; 3] = [NO_CONNECTION, ENDED[0], "unexpected response from SSLRequest"];

/// What a database says that takes no writes.
const READ_ONLY: &str = "in a read-only transaction";

/// What is answered then, by the database or before it is asked.
const NO_WRITES: [&str; 3] = ["the database takes no writes", READ_ONLY, NO_CONNECTION];

/// What a server logs when it finds out.
const CANNOT_WRITE: &str = "cannot write to the database";

/// As those, also of connections that were to the server before it.
const ANOTHER_ONE: [&str; 4] = [NO_WRITES[0], NO_WRITES[1], NO_WRITES[2], ENDED[0]];

/// What verbs say, which name the database.
const UNREACHABLE: &str = "cannot reach database drpcd_test";

/// Connections of the servers.
const CONNECTIONS: &str = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'drpcd'";

/// Two servers on a database of their own.
struct Kit {
    // Dropped in this order: the database's end is nobody's business then.
    server: Server,
    data: Data,
    database: RefCell<postgres::Server>,
}

impl Kit {
    /// `None` without Postgres.
    fn new(flags: &[&str]) -> Option<Self> {
        let database = postgres::Server::new()?;
        let data = Data::on(&database, EXAMPLE_SEED);
        let flags: Vec<_> = FLAGS.iter().chain(flags).copied().collect();
        Some(Self {
            server: data.serve(&flags),
            data,
            database: RefCell::new(database),
        })
    }
}

fn survives(data: &Data, server: Server, lasts: Duration, outage: &Outage<'_>) {
    if let Some(report) = an_agent_survives(data, &server, lasts, outage) {
        // Whatever was given up meanwhile has ended.
        eventually(|| data.number(CONNECTIONS) <= MAX_CONNECTIONS).unwrap();
        nothing_is_lost(data, server, &report);
    }
}

fn stopped(how: Shutdown, lasts: Duration) {
    let Some(kit) = Kit::new(&[]) else {
        return;
    };
    let outage = Outage {
        begin: &|| kit.database.borrow_mut().stop(how),
        end: &|| kit.database.borrow_mut().start(),
        verb: &|verb| verb,
        reasons: &GONE,
        told_verbs: &[UNREACHABLE],
        reads: false,
        away: true,
    };
    survives(&kit.data, kit.server, lasts, &outage);
}

#[test]
fn an_agent_survives_a_database_that_is_shut_down() {
    stopped(Shutdown::Fast, SHORT);
}

#[test]
fn an_agent_survives_a_database_that_crashes() {
    stopped(Shutdown::Immediate, SHORT);
}

#[test]
#[ignore = "ten minutes"]
fn an_agent_survives_a_database_that_is_down_for_ten_minutes() {
    stopped(Shutdown::Immediate, LONG);
}

#[test]
fn an_agent_survives_a_database_that_falls_silent() {
    let Some(kit) = Kit::new(&[]) else {
        return;
    };
    let outage = Outage {
        begin: &|| kit.database.borrow().pause(),
        end: &|| kit.database.borrow().resume(),
        verb: &|verb| verb,
        reasons: &[NO_CONNECTION],
        told_verbs: &[UNREACHABLE],
        reads: false,
        away: true,
    };
    survives(&kit.data, kit.server, BEYOND_A_STATEMENT, &outage);
}

#[test]
fn an_agent_survives_a_database_whose_answers_are_five_seconds_late() {
    let Some(database) = postgres::Server::new() else {
        return;
    };
    let data = Data::on(&database, EXAMPLE_SEED);
    let proxy = Proxy::to(database.address());
    let url = postgres::at_port(data.url(), proxy.address().port());
    let mut command = drpcd();
    command
        .args(["server", "--http-address", "127.0.0.1:0"])
        .args(["--postgres-url", &url])
        .args(FLAGS);
    let launch = Launch::new(&command, data.path().join("log.0"));
    let server = Server::alone(launch, &data.seed_file());
    let late = Lane {
        delay: LATE,
        ..Lane::GOOD
    };
    // An answer may come to whoever was waiting, but no connection is opened, given out or taken back within the time that
    // this may take: for whoever comes later the database is away.
    let outage = Outage {
        begin: &|| proxy.set(Lane::GOOD, late),
        end: &|| proxy.set(Lane::GOOD, Lane::GOOD),
        verb: &|verb| {
            let mut command = drpcd();
            for argument in verb.get_args() {
                let direct = argument == OsStr::new(data.url());
                command.arg(if direct { OsStr::new(&url) } else { argument });
            }
            command
        },
        reasons: &[NO_CONNECTION],
        told_verbs: &[UNREACHABLE],
        reads: false,
        away: true,
    };
    survives(&data, server, BEYOND_A_STATEMENT, &outage);
}

/// What is read gets through where there is a connection for it.
fn locked(flags: &[&str]) {
    let Some(kit) = Kit::new(flags) else {
        return;
    };
    let lock = Cell::new(None);
    let outage = Outage {
        begin: &|| lock.set(Some(kit.data.lock())),
        end: &|| drop(lock.take()),
        verb: &|verb| verb,
        reasons: &[NO_CONNECTION],
        told_verbs: &["statement timeout", "timed out"],
        reads: true,
        away: false,
    };
    survives(&kit.data, kit.server, BEYOND_A_STATEMENT, &outage);
}

#[test]
fn an_agent_survives_tables_that_somebody_else_has_locked() {
    locked(&[]);
}

#[test]
fn an_agent_survives_a_pool_whose_connections_all_wait_for_somebody_else() {
    locked(&["--postgres-conn-max-open", "2"]);
}

/// Somebody else's connections: all that a database has.
struct Crowd {
    connections: Vec<PgConnection>,
    runtime: Runtime,
}

impl Crowd {
    /// Ends the servers' connections and takes what there is, until they have none.
    fn new(url: &str) -> Self {
        let runtime = Runtime::new().unwrap();
        let connections = runtime.block_on(async {
            let mut connections = vec![PgConnection::connect(url).await.unwrap()];
            loop {
                let end = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
                    WHERE application_name = 'drpcd'";
                let ended: i64 = sqlx::query_scalar(end)
                    .fetch_one(&mut connections[0])
                    .await
                    .unwrap();
                while let Ok(connection) = PgConnection::connect(url).await {
                    connections.push(connection);
                }
                if ended == 0 {
                    return connections;
                }
            }
        });
        Self { connections, runtime }
    }

    /// Returns when others get in again.
    fn leave(self, url: &str) {
        self.runtime.block_on(async {
            for connection in self.connections {
                connection.close().await.unwrap();
            }
        });
        let connect = || self.runtime.block_on(PgConnection::connect(url));
        eventually(|| connect().is_ok()).unwrap();
    }
}

#[test]
fn an_agent_survives_a_database_whose_connections_all_are_others() {
    let Some(kit) = Kit::new(&[]) else {
        return;
    };
    let crowd = Cell::new(None::<Crowd>);
    let outage = Outage {
        begin: &|| crowd.set(Some(Crowd::new(kit.data.url()))),
        end: &|| crowd.take().unwrap().leave(kit.data.url()),
        verb: &|verb| verb,
        reasons: &GONE,
        told_verbs: &[UNREACHABLE],
        reads: false,
        away: true,
    };
    survives(&kit.data, kit.server, SHORT, &outage);
}

#[test]
fn an_agent_survives_a_database_that_takes_no_writes() {
    let Some(kit) = Kit::new(&[]) else {
        return;
    };
    let set = |read_only: &str| {
        let url = kit.database.borrow().url().to_owned();
        let set = format!("ALTER SYSTEM SET default_transaction_read_only = {read_only}");
        apart(async || {
            let mut connection = PgConnection::connect(&url).await.unwrap();
            for sql in [&set, "SELECT pg_reload_conf()"] {
                let done = sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut connection).await;
                done.unwrap();
            }
        });
    };
    let outage = Outage {
        begin: &|| set("on"),
        end: &|| set("off"),
        verb: &|verb| verb,
        reasons: &NO_WRITES,
        told_verbs: &[READ_ONLY],
        reads: false,
        away: false,
    };
    survives(&kit.data, kit.server, SHORT, &outage);
}

/// What a database says whose disk is full.
const FULL: &str = "No space left on device";

/// Has a function be asked before each write.
const ASKED: &str = "
    CREATE FUNCTION no_space() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$;
    DO $$ DECLARE each regclass; BEGIN
        FOR each IN SELECT oid FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace LOOP
            EXECUTE format(
                'CREATE TRIGGER no_space BEFORE INSERT OR UPDATE OR DELETE ON %s
                FOR EACH STATEMENT EXECUTE FUNCTION no_space()', each);
        END LOOP;
    END $$";

/// Has that function answer as if the disk were full: only root could give the database a small one.
const NO_SPACE: &str = "CREATE OR REPLACE FUNCTION no_space() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        RAISE EXCEPTION USING ERRCODE = 'disk_full', MESSAGE = 'could not extend file: No space left on device';
    END $$";

/// Has it let all pass again.
const SPACE: &str =
    "CREATE OR REPLACE FUNCTION no_space() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$";

#[test]
fn an_agent_survives_a_database_whose_disk_is_full() {
    let Some(kit) = Kit::new(&[]) else {
        return;
    };
    kit.data.execute(ASKED);
    let outage = Outage {
        begin: &|| kit.data.execute(NO_SPACE),
        end: &|| kit.data.execute(SPACE),
        verb: &|verb| verb,
        reasons: &[FULL],
        told_verbs: &[FULL],
        reads: false,
        away: false,
    };
    survives(&kit.data, kit.server, SHORT, &outage);
}

/// Where nobody listens.
const NOWHERE: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 1);

/// The server of a database dies for good, and its standby takes over. The address of the database leads there once the
/// standby takes writes, or as soon as nobody else is there.
fn failed_over(leads_there_before: bool) {
    let Some((primary, standby)) = postgres::Server::with_standby() else {
        return;
    };
    let address = Proxy::to(primary.address());
    let primary = RefCell::new(primary);
    let data = Data::through(&address, &primary.borrow(), EXAMPLE_SEED);
    let server = data.serve(&FLAGS);
    let replicas = server.replicas();
    let (reasons, told_verbs): (&[&str], &[&str]) = if leads_there_before {
        (&ANOTHER_ONE, &[READ_ONLY])
    } else {
        (&NOBODY_BEHIND, &[UNREACHABLE])
    };
    let outage = Outage {
        begin: &|| {
            // What is under way is answered first: of a commit that is stored and not acknowledged nobody knows, so its lines are
            // stored twice.
            address.set(Lane::SILENT, Lane::GOOD);
            // Whoever dials a server that stops is a process of it, which stays until something comes or a minute is over: nobody
            // may dial it in silence.
            address.aim(NOWHERE);
            eventually(|| asked(primary.borrow().url()) == 0).unwrap();
            std::thread::sleep(ANSWERED);
            primary.borrow_mut().stop(Shutdown::Immediate);
            address.set(Lane::GOOD, Lane::GOOD);
            if leads_there_before {
                address.aim(standby.address());
                // Until something is to be written, a standby is as good as any.
                let told = || data.log().matches(CANNOT_WRITE).count() >= replicas;
                eventually(told).unwrap();
            }
        },
        end: &|| {
            standby.promote();
            address.aim(standby.address());
        },
        verb: &|verb| verb,
        reasons,
        told_verbs,
        reads: false,
        away: !leads_there_before,
    };
    survives(&data, server, SHORT, &outage);
}

#[test]
fn an_agent_survives_a_failover_to_a_standby() {
    failed_over(false);
}

#[test]
fn an_agent_survives_an_address_that_leads_to_a_standby_before_it_is_promoted() {
    failed_over(true);
}
