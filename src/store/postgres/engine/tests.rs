//! Connections that die in use, wait for somebody else, or are not to be had.

use super::super::open::{self, PostgresOptions, VERB_WAIT};
use super::*;
use crate::secret::Secret;
use crate::store::testing::postgres::Server;

/// How long a machine that has other things to do may take for what happens at once.
const PATIENCE: Duration = Duration::from_secs(30);

async fn open(url: &str) -> Database {
    let options = PostgresOptions {
        url: Secret::new(url),
        max_connections: 1,
        wait: VERB_WAIT,
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
    let row = database
        .session()
        .await?
        .optional(sql, Vec::new())
        .await?
        .unwrap();
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
