//! What becomes of messages while the database, or the way to it, is away.

use std::time::{Duration, Instant};

use drpcd::pubsub::{Lagged, Unsent};
use sqlx::postgres::PgConnectOptions;
use tokio::net::TcpListener;

use crate::kit::{Process, follow, next, pool, quiet, until};
use crate::support::postgres::{Database, Server, Shutdown};
use crate::support::proxy::{Lane, Proxy};

/// Whoever lost the database goes on within five seconds of its return, and within this on a machine that has other things
/// to do. The end, which waits for nobody, is done in it too.
const RECOVERY: Duration = Duration::from_secs(8);

/// A process that reaches its database through a proxy.
async fn behind(proxy: &Proxy, database: &Database) -> Process {
    let options: PgConnectOptions = database.url().parse().unwrap();
    let options = options.host("127.0.0.1").port(proxy.address().port());
    Process::at(options).await
}

fn proxy_to(database: &Database) -> Proxy {
    let options: PgConnectOptions = database.url().parse().unwrap();
    Proxy::to(
        format!("{}:{}", options.get_host(), options.get_port())
            .parse()
            .unwrap(),
    )
}

#[tokio::test]
async fn tn_081_a_connection_that_is_killed_is_made_anew_and_everybody_reads_again() {
    let Some(database) = Database::new() else { return };
    let (one, two) = (Process::new(&database).await, Process::new(&database).await);
    let mut at_one = follow(&one, "channel").await;
    let mut at_two = [follow(&two, "channel").await, follow(&two, "another").await];
    for (gaps, connection) in [(1, "drpcd listen"), (2, "drpcd notify")] {
        // One that comes back is not touched.
        database.execute(&format!(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
             WHERE datname = current_database() AND application_name = '{connection}'"
        ));
        for subscription in at_two.iter_mut().chain([&mut at_one]) {
            assert_eq!(next(subscription).await, Err(Lagged), "{connection}");
        }
        one.pubsub.publish("channel", connection);
        assert_eq!(next(&mut at_two[0]).await.as_deref(), Ok(connection));
        assert_eq!(next(&mut at_one).await.as_deref(), Ok(connection));
        for subscription in at_two.iter_mut().chain([&mut at_one]) {
            quiet(subscription).await;
        }
        one.connected().await;
        two.connected().await;
        assert_eq!((one.status().gaps(), two.status().gaps()), (gaps, gaps));
    }
}

#[tokio::test]
async fn a_restart_of_the_database_costs_a_few_seconds_and_no_message() {
    let Some(mut server) = Server::new() else { return };
    let database = server.database();
    let (one, two) = (Process::new(&database).await, Process::new(&database).await);
    let mut at_two = follow(&two, "channel").await;
    for how in [Shutdown::Fast, Shutdown::Immediate] {
        server.stop(how);
        until(|| !one.status().is_connected() && !two.status().is_connected()).await;
        // More than one pause, and the longest of them.
        tokio::time::sleep(Duration::from_secs(3)).await;
        for number in 0..10 {
            one.pubsub.publish("channel", &number.to_string());
        }
        assert_eq!(one.status().waiting(), 10);
        server.start();
        let start = Instant::now();
        assert_eq!(next(&mut at_two).await, Err(Lagged));
        until(|| one.status().waiting() == 0).await;
        one.pubsub.publish("channel", "afterwards");
        // Those that waited may have been sent before this process heard again, and are read in their place.
        loop {
            let message = next(&mut at_two).await.unwrap();
            if &*message == "afterwards" {
                break;
            }
        }
        let took = start.elapsed();
        assert!(took < RECOVERY, "{took:?}");
        one.connected().await;
        two.connected().await;
    }
}

#[tokio::test]
async fn what_is_published_meanwhile_is_sent_afterwards_in_order() {
    let Some(database) = Database::new() else { return };
    let proxy = proxy_to(&database);
    let (one, two) = (behind(&proxy, &database).await, Process::new(&database).await);
    let mut at_two = follow(&two, "channel").await;
    proxy.set(Lane::SILENT, Lane::SILENT);
    proxy.reset();
    until(|| !one.status().is_connected()).await;
    for number in ["1", "2", "1", "3"] {
        one.pubsub.publish("channel", number);
    }
    quiet(&mut at_two).await;
    proxy.set(Lane::GOOD, Lane::GOOD);
    for number in ["1", "2", "3"] {
        assert_eq!(next(&mut at_two).await.as_deref(), Ok(number));
    }
    quiet(&mut at_two).await;
    assert_eq!(two.status().gaps(), 0);
}

/// What is under way when a connection is lost may arrive twice, but never not at all.
#[tokio::test]
async fn resets_under_load_lose_nothing() {
    let Some(database) = Database::new() else { return };
    let proxy = proxy_to(&database);
    let (one, two) = (behind(&proxy, &database).await, Process::new(&database).await);
    let mut at_two = follow(&two, "channel").await;
    // With what may come again of the one before, two rounds are less than a subscriber may leave unread.
    let (rounds, each) = (10, 60);
    let mut heard = vec![false; rounds * each];
    for number in 0..rounds * each {
        one.pubsub.publish("channel", &number.to_string());
        if number % each == each - 1 {
            proxy.reset();
            while !heard[number] {
                let message = next(&mut at_two).await.unwrap();
                heard[message.parse::<usize>().unwrap()] = true;
            }
        }
    }
    assert!(heard.iter().all(|heard| *heard));
    assert!(one.status().gaps() >= 3, "{}", one.status().gaps());
}

#[tokio::test]
async fn too_many_messages_are_dropped_oldest_first_and_others_read_again() {
    let Some(database) = Database::new() else { return };
    let proxy = proxy_to(&database);
    let (one, two) = (behind(&proxy, &database).await, Process::new(&database).await);
    let mut at_two = [follow(&two, "channel").await, follow(&two, "another").await];
    proxy.set(Lane::SILENT, Lane::SILENT);
    proxy.reset();
    until(|| !one.status().is_connected()).await;
    let large = "x".repeat(7_000);
    // Twice what there is room for.
    for number in 0..5_000 {
        one.pubsub.publish("channel", &format!("{number}{large}"));
    }
    assert!(
        (2_000..3_500).contains(&one.status().dropped()),
        "{}",
        one.status().dropped()
    );
    proxy.set(Lane::GOOD, Lane::GOOD);
    until(|| one.status().waiting() == 0).await;
    for subscription in &mut at_two {
        until(|| matches!(subscription.try_next(), Some(Err(Lagged)))).await;
    }
    until(|| two.status().gaps() == 1).await;
}

/// A connection over which nothing comes any more, and that does not say so.
#[tokio::test]
async fn a_silent_listener_is_found_out() {
    let Some(server) = Server::new() else { return };
    let database = server.database();
    let (one, two) = (Process::new(&database).await, Process::new(&database).await);
    let mut at_two = follow(&two, "channel").await;
    let sql = "SELECT pid FROM pg_stat_activity WHERE application_name = 'drpcd listen'
         ORDER BY backend_start DESC LIMIT 1";
    let pid: i32 = sqlx::query_scalar(sql)
        .fetch_one(&pool(&database).await)
        .await
        .unwrap();
    signal(pid, "STOP");
    one.pubsub.publish("channel", "nobody hears this");
    let start = Instant::now();
    assert_eq!(next(&mut at_two).await, Err(Lagged));
    let took = start.elapsed();
    assert!(
        took > Duration::from_secs(5) && took < Duration::from_secs(20),
        "{took:?}"
    );
    one.pubsub.publish("channel", "this is heard");
    assert_eq!(next(&mut at_two).await.as_deref(), Ok("this is heard"));
    signal(pid, "CONT");
}

/// The whole database falls silent, and its connections with it.
#[tokio::test]
async fn a_silent_database_is_found_out() {
    let Some(server) = Server::new() else { return };
    let database = server.database();
    let (one, two) = (Process::new(&database).await, Process::new(&database).await);
    let mut at_two = follow(&two, "channel").await;
    server.pause();
    one.pubsub.publish("channel", "meanwhile");
    until(|| !one.status().is_connected() && !two.status().is_connected()).await;
    server.resume();
    let start = Instant::now();
    until(|| one.status().is_connected() && two.status().is_connected()).await;
    let took = start.elapsed();
    assert!(took < RECOVERY, "{took:?}");
    until(|| one.status().waiting() == 0).await;
    // Before or after it was told so, or not at all if it was not listening then.
    until(|| matches!(at_two.try_next(), Some(Err(Lagged)))).await;
}

#[tokio::test]
async fn the_end_does_not_wait_for_a_database_that_stays_away() {
    let Some(mut server) = Server::new() else { return };
    let database = server.database();
    let process = Process::new(&database).await;
    server.stop(Shutdown::Fast);
    until(|| !process.status().is_connected()).await;
    process.pubsub.publish("channel", "1");
    process.pubsub.publish("channel", "2");
    let start = Instant::now();
    let left = process.remote.finish(Duration::from_secs(1)).await;
    assert_eq!(left, Err(Unsent(2)));
    assert!(start.elapsed() < RECOVERY, "{:?}", start.elapsed());

    let options: PgConnectOptions = database.url().parse().unwrap();
    let idle = Process::start(&options);
    tokio::time::sleep(Duration::from_millis(100)).await;
    let start = Instant::now();
    assert_eq!(idle.remote.finish(Duration::from_secs(20)).await, Ok(()));
    assert!(
        start.elapsed() < Duration::from_secs(10),
        "nothing is left to be sent"
    );
}

#[tokio::test]
async fn a_database_that_refuses_is_not_asked_without_pause() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let options = PgConnectOptions::new_without_pgpass()
        .host("127.0.0.1")
        .port(listener.local_addr().unwrap().port())
        .username("nobody");
    let process = Process::start(&options);
    let mut attempts = 0;
    let counting = async {
        loop {
            // Closed at once.
            listener.accept().await.unwrap();
            attempts += 1;
        }
    };
    let _ = tokio::time::timeout(Duration::from_secs(5), counting).await;
    assert!((5..=16).contains(&attempts), "{attempts}");
    assert!(!process.status().is_connected());
}

fn signal(pid: i32, name: &str) {
    let status = std::process::Command::new("kill")
        .args([format!("-{name}"), pid.to_string()])
        .status()
        .unwrap();
    assert!(status.success());
}
