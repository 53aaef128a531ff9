//! Connections that die in use, wait for somebody else, or are not to be had.

use super::super::open::{self, PostgresOptions, SERVER_WAIT};
use super::*;
use crate::secret::Secret;
use crate::store::testing::postgres::Server;

/// How long a machine that has other things to do may take for what happens at once.
const PATIENCE: Duration = Duration::from_secs(30);

/// How long a test waits for a connection: longer than a caller on such a machine, and no longer than some wait in vain.
const CONNECTION_PATIENCE: Duration = Duration::from_secs(5);

async fn open(url: &str) -> Database {
    open_with(url, 1, 1).await
}

async fn open_with(url: &str, max_connections: u32, max_idle: u32) -> Database {
    let options = PostgresOptions {
        url: Secret::new(url),
        max_connections,
        max_idle,
        connection_wait: CONNECTION_PATIENCE,
        wait: SERVER_WAIT,
        lock_wait: None,
        migrate: true,
        expected: None,
    };
    let opened = open::open(&options, Clock::system()).await.unwrap();
    opened.database
}

async fn eventually(mut holds: impl FnMut() -> bool) {
    let wait = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, wait).await.unwrap();
}

async fn count(database: &Database, sql: &'static str) -> Result<i64, StoreError> {
    count_by(&mut database.session().await?, sql).await
}

async fn count_by(session: &mut Session<'_>, sql: &'static str) -> Result<i64, StoreError> {
    let row = session.optional(sql, Vec::new()).await?.unwrap();
    Ok(row.try_get(0).unwrap())
}

#[tokio::test]
async fn a_connection_that_dies_while_it_is_given_back_keeps_no_place() {
    let Some(server) = Server::new() else {
        return;
    };
    let place = server.database();
    let database = open(place.url()).await;
    let mut session = database.session().await.unwrap();
    session.optional("SELECT 1", Vec::new()).await.unwrap();
    server.pause();
    drop(session);
    eventually(|| database.pool.size() == 0).await;
    server.resume();
    assert_eq!(count(&database, "SELECT 7::bigint").await, Ok(7));
}

#[tokio::test]
async fn a_statement_that_waits_for_somebody_else_is_ended_by_the_database() {
    let Some(server) = Server::new() else {
        return;
    };
    let place = server.database();
    // The database's word comes a tenth before the server gives up: time enough here, whatever else the machine does.
    let database = open(place.url()).await;
    let other = open(place.url()).await;
    let pid = "SELECT pg_backend_pid()::bigint";
    let before = count(&database, pid).await;
    let mut lock = other.transaction().await.unwrap();
    lock.execute("LOCK TABLE site_configs IN EXCLUSIVE MODE", Vec::new())
        .await
        .unwrap();
    let insert = "INSERT INTO site_configs (\"key\", value) VALUES ('late', '')";
    let mut session = database.session().await.unwrap();
    let error = session.execute(insert, Vec::new()).await.unwrap_err();
    assert!(error.is_unavailable(), "{error:?}");
    assert!(error.to_string().contains("statement timeout"), "{error}");
    drop(session);
    lock.finish(Ok(())).await.unwrap();
    // The same connection, and nothing came of the statement.
    assert_eq!(count(&database, pid).await, before);
    let late = "SELECT count(*) FROM site_configs WHERE \"key\" = 'late'";
    assert_eq!(count(&database, late).await, Ok(0));
}

#[tokio::test]
async fn a_database_that_lets_nobody_in_is_away() {
    let Some(server) = Server::new() else {
        return;
    };
    let place = server.database();
    let database = open(place.url()).await;
    server.database().execute(&format!(
        "ALTER DATABASE {} ALLOW_CONNECTIONS false",
        place.url().rsplit('/').next().unwrap()
    ));
    let error = count(&database, "SELECT 1::bigint").await.unwrap_err();
    assert!(error.is_unavailable(), "{error:?}");
    assert!(error.to_string().contains("not currently accepting"), "{error}");
}

#[tokio::test]
async fn what_shows_that_a_server_lives_waits_behind_no_call_and_shows_that_writes_are_taken_again() {
    let Some(server) = Server::new() else {
        return;
    };
    let place = server.database();
    let database = open(place.url()).await;
    let _call = database.session().await.unwrap();
    assert!(database.session().await.is_err(), "all connections are held");
    let full = StoreError::Unavailable("no space left on device".to_owned());
    database.refused(full.clone(), false);
    // What is only read there says nothing of it.
    let mut apart = database.session_apart().await.unwrap();
    apart.optional("SELECT 1", Vec::new()).await.unwrap();
    assert_eq!(database.write_error(), Some(full.clone()));
    drop(apart);
    let mut apart = database.write_apart().await.unwrap();
    apart.optional("SELECT 1 WHERE FALSE", Vec::new()).await.unwrap();
    assert_eq!(database.write_error(), Some(full));
    apart.optional("SELECT 1", Vec::new()).await.unwrap();
    assert_eq!(database.write_error(), None);
}

#[tokio::test]
async fn statements_that_were_prepared_for_another_schema_are_prepared_anew() {
    let Some(server) = Server::new() else {
        return;
    };
    let place = server.database();
    let database = open_with(place.url(), 2, 2).await;
    place.execute(
        "CREATE TYPE mood AS ENUM ('good'); CREATE TABLE moods (id integer, mood mood);
        INSERT INTO moods VALUES (1, 'good')",
    );
    let read = ("SELECT id FROM moods", None);
    let write = ("UPDATE moods SET mood = $1", Some("good"));
    let run = async |(sql, label): (&'static str, Option<&'static str>)| {
        let arguments = label.map(|label| Value::Label(Some(label)));
        // Both connections, at the same time.
        let mut sessions = [
            database.session().await.unwrap(),
            database.session().await.unwrap(),
        ];
        let [one, other] = &mut sessions;
        let arguments = || arguments.iter().cloned().collect();
        [
            one.execute(sql, arguments()).await.map(|_| ()),
            other.execute(sql, arguments()).await.map(|_| ()),
        ]
    };
    for (statement, change) in [
        (read, "ALTER TABLE moods ALTER COLUMN id TYPE bigint"),
        (
            write,
            "CREATE TYPE moods_now AS ENUM ('good', 'bad');
            ALTER TABLE moods ALTER COLUMN mood TYPE moods_now USING mood::text::moods_now;
            DROP TYPE mood; ALTER TYPE moods_now RENAME TO mood",
        ),
    ] {
        assert_eq!(run(statement).await, [Ok(()), Ok(())]);
        place.execute(change);
        let mut session = database.session().await.unwrap();
        let arguments = statement.1.map(|label| Value::Label(Some(label)));
        let outdated = session
            .execute(statement.0, arguments.into_iter().collect())
            .await;
        assert!(outdated.is_err_and(|error| error.is_unavailable()), "{change}");
        drop(session);
        assert_eq!(run(statement).await, [Ok(()), Ok(())], "{change}");
    }
    // Nor is a connection kept whose statements are gone, as behind a pooler.
    let mut session = database.session().await.unwrap();
    session.control("DEALLOCATE ALL").await.unwrap();
    let gone = session.execute(write.0, vec![Value::Label(Some("good"))]).await;
    assert!(gone.is_err_and(|error| error.is_unavailable()));
    drop(session);
    assert_eq!(run(write).await, [Ok(()), Ok(())]);
}

#[tokio::test]
async fn a_connection_that_is_given_back_is_closed_where_enough_are_idle_and_nobody_waits() {
    let Some(server) = Server::new() else {
        return;
    };
    let place = server.database();
    let database = open_with(place.url(), 6, 2).await;
    let mut sessions = Vec::new();
    for _ in 0..6 {
        sessions.push(database.session().await.unwrap());
    }
    sessions.truncate(1);
    eventually(|| database.pool.size() == 3).await;
    drop(sessions);
    eventually(|| database.pool.size() == 2).await;
    // As the server sees it, by a third that is held meanwhile: taken for each look, one that is slow to come back would be
    // followed by a fourth.
    let two = [
        database.session().await.unwrap(),
        database.session().await.unwrap(),
    ];
    let mut third = database.session().await.unwrap();
    let there = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'drpcd'";
    let only_those = async {
        // Those that were closed may not have ended there yet.
        while count_by(&mut third, there).await != Ok(3) {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(PATIENCE, only_those).await.unwrap();
    drop((two, third));
    eventually(|| database.pool.size() == 2).await;

    // None is idle, but one that somebody waits for is not closed.
    let none = open_with(place.url(), 1, 0).await;
    let pid = "SELECT pg_backend_pid()::bigint";
    let mut session = none.session().await.unwrap();
    let row = session.optional(pid, Vec::new()).await.unwrap().unwrap();
    let first: i64 = row.try_get(0).unwrap();
    let give_back = async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        drop(session);
    };
    let (second, ()) = tokio::join!(count(&none, pid), give_back);
    assert_eq!(second, Ok(first));
    eventually(|| none.pool.size() == 0).await;
}
