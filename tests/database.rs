//! The way from a server to its Postgres database, on the real binary: TLS, and hearing other servers.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::net::TcpListener;
use std::process::Command;
use std::time::Duration;

use support::postgres::{self, Database, PASSWORD};
use support::proxy::{Lane, Proxy};
use support::server::Launch;
use support::{Data, EXAMPLE_SEED, Server, drpcd, http};
use url::Url;

/// Who vouches for the certificate of the database, which is for 127.0.0.1 and good until 2120; and somebody else.
const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/tls/root.pem");
const OTHER_ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/tls/other-root.pem");
const CERTIFICATE: &str = include_str!("fixtures/tls/server.pem");
const KEY: &str = include_str!("fixtures/tls/server.key");

/// Connections of servers, by what they are for and whether they are encrypted.
const CONNECTIONS: &str =
    "SELECT DISTINCT application_name, ssl FROM pg_stat_ssl JOIN pg_stat_activity USING (pid)
    WHERE application_name LIKE 'drpcd%' AND datname = current_database() ORDER BY 1";

fn server(url: &str) -> Command {
    let mut command = drpcd();
    command.args(["server", "--http-address", "127.0.0.1:0", "--postgres-url", url]);
    command
}

/// A server on a database at `url`, which `data` is about.
fn started(data: &Data, url: &str, flags: &[&str]) -> Server {
    let mut command = server(url);
    command.args(flags);
    Server::alone(
        Launch::new(&command, data.path().join("log.0")),
        &data.seed_file(),
    )
}

/// What a server says that does not start.
#[track_caller]
fn refused(url: &str) -> String {
    let output = server(url).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(!said.contains(PASSWORD), "{said}");
    said
}

/// The URL of a database at a host, with settings.
fn url_of(database: &Database, host: &str, settings: &[(&str, &str)]) -> String {
    let mut url: Url = database.url().parse().unwrap();
    url.set_host(Some(host)).unwrap();
    url.query_pairs_mut().extend_pairs(settings);
    url.into()
}

#[test]
fn a_database_is_spoken_to_by_tls_if_it_is_the_one_that_it_should_be() {
    let Some(mut server) = postgres::Server::new() else {
        return;
    };
    server.demand_tls(CERTIFICATE, KEY);
    let (ip, name) = ("127.0.0.1", "localhost");
    let full = |root| [("sslmode", "verify-full"), ("sslrootcert", root)];
    for (host, settings) in [
        (ip, &full(ROOT)[..]),
        (name, &[("sslmode", "verify-ca"), ("sslrootcert", ROOT)]),
        (ip, &[("sslmode", "require")]),
        (ip, &[]),
    ] {
        let (data, database) = (Data::on(&server, EXAMPLE_SEED), server.database());
        let served = started(&data, &url_of(&database, host, settings), &[]);
        let data = data.moved_to(database);
        assert_eq!(
            data.query(CONNECTIONS),
            ["drpcd 1", "drpcd listen 1", "drpcd notify 1"],
            "{settings:?}"
        );
        assert_eq!(served.stop(), Some(0), "{settings:?}");
    }

    let database = server.database();
    for (host, settings, reason) in [
        (ip, &full(OTHER_ROOT)[..], "UnknownIssuer"),
        (name, &full(ROOT), "not valid for name"),
        (ip, &full("/nowhere/root.pem"), "No such file"),
        (ip, &[("sslmode", "disable")], "no encryption"),
    ] {
        let said = refused(&url_of(&database, host, settings));
        let place = format!("at {host}:{}: ", server.port());
        assert!(said.contains("cannot reach database"), "{settings:?}: {said}");
        assert!(said.contains(&place), "{settings:?}: {said}");
        assert!(said.contains(reason), "{settings:?}: {said}");
    }
}

/// How long a piece is under way to a database that is far away, or back.
const FAR: Duration = Duration::from_millis(50);

#[test]
fn who_is_let_in_first_is_let_in_by_a_server_that_hears_the_others() {
    let Some(server) = postgres::Server::new() else {
        return;
    };
    let proxy = Proxy::to(server.address());
    let data = Data::through(&proxy, &server, EXAMPLE_SEED);
    let far = Lane {
        delay: FAR,
        ..Lane::GOOD
    };
    proxy.set(far, far);
    let free = TcpListener::bind("127.0.0.1:0").unwrap();
    let metrics = free.local_addr().unwrap().to_string();
    drop(free);
    let flags = ["--prometheus-enable", "--prometheus-address", &metrics];
    let _served = started(&data, data.url(), &flags);
    let page = http::get(&format!("http://{metrics}"), "/metrics", "").body;
    let connected = page.lines().any(|line| line == "drpcd_pubsub_connected 1.0");
    assert!(connected, "{page}");
}
