//! Messages between processes by way of a real Postgres: what arrives, in which order, how often; what becomes of it when
//! connections are lost, silent or refused; and what it costs.

#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "tests")]

mod support;

#[path = "pubsub/kit.rs"]
mod kit;
#[path = "pubsub/outages.rs"]
mod outages;

use std::sync::Arc;
use std::time::{Duration, Instant};

use drpcd::ids::UserId;
use drpcd::pubsub::{Lagged, MAX_PAYLOAD, WorkspaceEvent, WorkspaceEventKind};
use drpcd::store::Invalidation;
use kit::{Process, follow, next, pool, quiet};
use sqlx::postgres::PgConnectOptions;
use support::postgres::Database;
use uuid::Uuid;

#[tokio::test]
async fn processes_hear_each_other_and_themselves_once() {
    let Some(database) = Database::new() else { return };
    let (one, two) = (Process::new(&database).await, Process::new(&database).await);
    let mut at_one = follow(&one, "channel").await;
    let mut at_two = follow(&two, "channel").await;
    one.pubsub.publish("channel", "of one");
    assert_eq!(at_one.try_next().unwrap().as_deref(), Ok("of one"), "at once");
    assert_eq!(next(&mut at_two).await.as_deref(), Ok("of one"));
    two.pubsub.publish("channel", "");
    assert_eq!(next(&mut at_one).await.as_deref(), Ok(""));
    assert_eq!(next(&mut at_two).await.as_deref(), Ok(""));
    // In the database's order, both would have come before this.
    database.execute("SELECT pg_notify('channel', 'of another program')");
    for subscription in [&mut at_one, &mut at_two] {
        assert_eq!(next(subscription).await.as_deref(), Ok("of another program"));
        assert_eq!(subscription.try_next(), None);
    }
    assert_eq!((one.status().sent(), one.status().received()), (1, 2));
}

#[tokio::test]
async fn messages_of_a_channel_stay_in_order_and_share_statements() {
    let Some(database) = Database::new() else { return };
    let (one, two) = (Process::new(&database).await, Process::new(&database).await);
    let mut at_two = follow(&two, "channel").await;
    let before = one.status().statements();
    for round in 0..20 {
        // No more at once than a subscriber may leave unread.
        let numbers = || (round * 200..(round + 1) * 200).map(|number: u32| number.to_string());
        for number in numbers() {
            one.pubsub.publish("channel", &number);
        }
        for number in numbers() {
            assert_eq!(next(&mut at_two).await.as_deref(), Ok(&*number));
        }
    }
    let statements = one.status().statements() - before;
    assert!(statements <= 60, "{statements} statements for 4,000 messages");
}

#[tokio::test]
async fn payloads_below_8000_bytes_pass_and_others_disturb_nobody() {
    let Some(database) = Database::new() else { return };
    let (one, two) = (Process::new(&database).await, Process::new(&database).await);
    let mut at_one = follow(&one, "channel").await;
    let mut at_two = follow(&two, "channel").await;
    let longest = "ä".repeat(MAX_PAYLOAD / 2) + "x";
    assert_eq!(longest.len(), 7_999);
    for (channel, payload) in [
        ("channel", format!("{longest}y")),
        ("channel", "nul\0".to_owned()),
        ("", "no channel".to_owned()),
        (&"c".repeat(64), "too long a channel".to_owned()),
        ("channel", longest),
        ("channel", "last".to_owned()),
    ] {
        one.pubsub.publish(channel, &payload);
    }
    for subscription in [&mut at_one, &mut at_two] {
        assert_eq!(next(subscription).await.unwrap().len(), 7_999);
        assert_eq!(next(subscription).await.as_deref(), Ok("last"));
    }
    // Postgres has no such channels; who follows one costs the others nothing.
    let _nowhere = ["", "a\0b"].map(|channel| two.pubsub.subscribe(channel));
    follow(&two, "another channel").await;
    assert_eq!(two.status().gaps(), 0);
}

#[tokio::test]
async fn tn_085_malformed_payloads_are_ignored_and_the_listener_lives() {
    let Some(database) = Database::new() else { return };
    let (one, two) = (Process::new(&database).await, Process::new(&database).await);
    let owner = UserId(Uuid::from_u128(1));
    let mut events = two.pubsub.workspace_events(owner);
    let mut invalidations = two.pubsub.invalidations();
    let mut claims = two.pubsub.prebuild_claims(Uuid::from_u128(2).into());
    assert_eq!(events.next().await, Err(Lagged));
    assert_eq!(invalidations.next().await, Err(Lagged));
    assert_eq!(claims.next().await, Err(Lagged));

    for garbage in ["", "{", "null", "\u{1}\u{fffd}", r#"{"kind":"of_the_future"}"#] {
        for channel in [&WorkspaceEvent::channel(owner), Invalidation::CHANNEL] {
            one.pubsub.publish(channel, garbage);
        }
    }
    one.pubsub
        .publish(Invalidation::CHANNEL, &Invalidation::Banners.payload());
    assert_eq!(invalidations.next().await, Ok(Invalidation::Banners));
    let event = WorkspaceEvent {
        kind: WorkspaceEventKind::StateChange,
        workspace_id: Uuid::from_u128(3).into(),
        agent_id: None,
    };
    one.pubsub.publish_workspace_event(owner, &event);
    // An event that cannot be read stands for any.
    for _ in 0..5 {
        assert_eq!(events.next().await, Err(Lagged));
    }
    assert_eq!(events.next().await, Ok(event));
    let channel = format!("prebuild_claimed_{}", Uuid::from_u128(2));
    one.pubsub.publish(&channel, "whatever it is");
    assert_eq!(claims.next().await, Ok(()));
    assert_eq!(two.status().gaps(), 0);
}

#[tokio::test]
async fn a_subscription_is_told_to_read_again_once_its_channel_is_listened_to_and_not_before_or_after() {
    let Some(database) = Database::new() else { return };
    let (one, two) = (Process::new(&database).await, Process::new(&database).await);
    let mut first = two.pubsub.subscribe("channel");
    assert_eq!(next(&mut first).await, Err(Lagged));
    let mut second = two.pubsub.subscribe("channel");
    one.pubsub.publish("channel", "to both");
    for subscription in [&mut first, &mut second] {
        assert_eq!(next(subscription).await.as_deref(), Ok("to both"));
    }
    // It comes back before the channel is left.
    drop((first, second));
    let mut third = two.pubsub.subscribe("channel");
    one.pubsub.publish("channel", "to the third");
    assert_eq!(next(&mut third).await.as_deref(), Ok("to the third"));
}

/// Each subscriber reads a row when it begins and when it is told to. About then another program writes it and says so.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_subscribes_while_others_publish_misses_nothing() {
    let Some(database) = Database::new() else { return };
    let process = Process::new(&database).await;
    database.execute("CREATE TABLE things (name text PRIMARY KEY, done boolean NOT NULL)");
    let (writer, reader) = (pool(&database).await, pool(&database).await);
    for number in 0..500_u32 {
        let name = format!("thing {number}");
        let insert = sqlx::query("INSERT INTO things VALUES ($1, false)").bind(&name);
        insert.execute(&writer).await.unwrap();
        let (thing, writer) = (name.clone(), writer.clone());
        let begun = Instant::now();
        let write = tokio::spawn(async move {
            // A timer is too coarse.
            while begun.elapsed() < Duration::from_micros(number.into()) * 8 {
                tokio::task::yield_now().await;
            }
            let sql = "WITH changed AS (UPDATE things SET done = true WHERE name = $1 RETURNING name)
                 SELECT pg_notify(name, 'changed') FROM changed";
            sqlx::query(sql).bind(&thing).execute(&writer).await.unwrap();
        });
        let mut messages = process.pubsub.subscribe(&name);
        loop {
            let read = sqlx::query_scalar("SELECT done FROM things WHERE name = $1").bind(&name);
            let done: bool = read.fetch_one(&reader).await.unwrap();
            if done {
                break;
            }
            let _ = next(&mut messages).await;
        }
        write.await.unwrap();
    }
}

#[tokio::test]
async fn what_nobody_follows_is_not_listened_to() {
    let Some(database) = Database::new() else { return };
    let (one, two) = (Process::new(&database).await, Process::new(&database).await);
    let received = async |payload: &str| {
        let before = two.status().received();
        one.pubsub.publish("followed for a while", payload);
        // Comes behind it.
        let mut fence = follow(&two, &format!("fence {payload}")).await;
        one.pubsub.publish(&format!("fence {payload}"), "");
        assert_eq!(next(&mut fence).await.as_deref(), Ok(""));
        two.status().received() - before == 2
    };
    assert!(!received("before").await);
    let followed = follow(&two, "followed for a while").await;
    let other = follow(&two, "followed for a while too").await;
    assert!(received("meanwhile").await);
    drop(followed);
    let end = Instant::now() + Duration::from_secs(30);
    let mut attempt = 0;
    while received(&format!("after {attempt}")).await {
        assert!(Instant::now() < end, "still listened to");
        tokio::time::sleep(Duration::from_millis(500)).await;
        attempt += 1;
    }
    // And again.
    let _followed = follow(&two, "followed for a while").await;
    assert!(received("again").await);
    drop(other);
}

#[tokio::test]
async fn a_thousand_claims_are_followed_over_one_connection() {
    const COUNT: usize = 1_000;
    let Some(database) = Database::new() else { return };
    let (one, two) = (Process::new(&database).await, Process::new(&database).await);
    let workspaces: Vec<_> = (0..COUNT).map(|_| Uuid::new_v4()).collect();
    let followed = workspaces.iter().map(|&id| two.pubsub.prebuild_claims(id.into()));
    let mut followed: Vec<_> = followed.collect();
    for claims in &mut followed {
        assert_eq!(claims.next().await, Err(Lagged));
    }
    for workspace in &workspaces {
        one.pubsub
            .publish(&format!("prebuild_claimed_{workspace}"), "prebuild_claimed");
    }
    for claims in &mut followed {
        assert_eq!(claims.next().await, Ok(()));
    }
    assert_eq!(two.status().received(), COUNT as u64);
    let listening = "SELECT count(*) FROM pg_stat_activity
         WHERE datname = current_database() AND application_name = 'drpcd listen'";
    let connections: i64 = sqlx::query_scalar(listening)
        .fetch_one(&pool(&database).await)
        .await
        .unwrap();
    assert_eq!(connections, 2, "one for each process");
}

#[tokio::test]
async fn what_was_published_before_the_end_is_sent() {
    let Some(database) = Database::new() else { return };
    let (one, two) = (Process::new(&database).await, Process::new(&database).await);
    let mut at_two = follow(&two, "channel").await;
    for number in 0..200 {
        one.pubsub.publish("channel", &number.to_string());
    }
    assert_eq!(one.remote.finish(Duration::from_secs(10)).await, Ok(()));
    for number in 0..200 {
        assert_eq!(next(&mut at_two).await.as_deref(), Ok(&*number.to_string()));
    }
    // With nobody there, messages stay within the process.
    let mut at_one = one.pubsub.subscribe("channel");
    one.pubsub.publish("channel", "late");
    assert_eq!(at_one.try_next().unwrap().as_deref(), Ok("late"));
    quiet(&mut at_two).await;
}

#[tokio::test]
async fn a_database_of_another_encoding_is_refused() {
    let Some(database) = Database::new() else { return };
    let name = format!("ascii_{}", Uuid::new_v4().simple());
    database.execute(&format!(
        "CREATE DATABASE {name} TEMPLATE template0 ENCODING 'SQL_ASCII' LC_COLLATE 'C' LC_CTYPE 'C'"
    ));
    let options: PgConnectOptions = database.url().parse().unwrap();
    let notifications = drpcd::store::postgres::notify::Notifications::new(&options.database(&name));
    let error = notifications.connect(Duration::from_secs(10)).await.unwrap_err();
    let text = "the database's encoding is SQL_ASCII instead of UTF8";
    assert_eq!(error.to_string(), text);
    database.execute(&format!("DROP DATABASE {name} WITH (FORCE)"));
}

/// What a message costs; printed, not judged.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn cost() {
    const COUNT: u32 = 100_000;
    /// Less than a subscriber may leave unread.
    const AHEAD: u32 = 250;
    let Some(database) = Database::new() else { return };
    let (one, two) = (Process::new(&database).await, Process::new(&database).await);
    let mut at_two = follow(&two, "channel").await;
    let payload = |number: u32| format!("{number:0130}");
    let read = Arc::new(tokio::sync::Semaphore::new(AHEAD as usize));
    let permits = Arc::clone(&read);
    let start = Instant::now();
    let before = one.status().statements();
    let reader = tokio::spawn(async move {
        for number in 0..COUNT {
            assert_eq!(next(&mut at_two).await.as_deref(), Ok(&*payload(number)));
            permits.add_permits(1);
        }
    });
    for number in 0..COUNT {
        read.acquire().await.unwrap().forget();
        one.pubsub.publish("channel", &payload(number));
    }
    reader.await.unwrap();
    let statements = one.status().statements() - before;
    report(
        "published, sent, received and read, 250 ahead",
        COUNT,
        start,
        statements,
    );

    let start = Instant::now();
    let before = one.status().statements();
    for number in 0..COUNT / 2 {
        one.pubsub.publish("nobody's", &payload(number));
    }
    println!("publish alone: {:?} a message", start.elapsed() / (COUNT / 2));
    while one.status().waiting() > 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    report(
        "published at once and sent",
        COUNT / 2,
        start,
        one.status().statements() - before,
    );

    let mut at_two = follow(&two, "latency").await;
    let mut times = Vec::new();
    for number in 0..500 {
        let start = Instant::now();
        one.pubsub.publish("latency", &number.to_string());
        next(&mut at_two).await.unwrap();
        times.push(start.elapsed());
    }
    times.sort_unstable();
    println!("one at a time: median {:?}, 99 % {:?}", times[250], times[495]);
}

fn report(what: &str, count: u32, start: Instant, statements: u64) {
    let seconds = start.elapsed().as_secs_f64();
    println!(
        "{what}: {:.0} messages/s, {:.1} statements for each 1,000",
        f64::from(count) / seconds,
        f64::from(u32::try_from(statements).unwrap()) * 1_000.0 / f64::from(count),
    );
}
