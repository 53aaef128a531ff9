//! Whether the process lives and is ready.

use std::sync::Mutex;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, advance};

use super::super::*;
use super::fixture::{ALICE, Fixture, Host, with_token};
use crate::clock::testing::{driven, settle};
use crate::services::patience::SHORT_STORE_WAIT;

#[tokio::test]
async fn conn_077_health_follows_the_life_of_the_server() {
    let fixture = Fixture::starting(0).await;
    assert_eq!(fixture.get("/readyz").await.status, 503);
    assert_eq!(fixture.get("/healthz").await.status, 200);
    let body = r#"{"message":"The server is starting or stopping."}"#;
    fixture
        .dial("", &(with_token(ALICE) + "Connection: close\r\n"))
        .await
        .assert_json(503, body);

    let ((begun, _begun), (refused, _refused)) = (mpsc::channel(1), mpsc::channel(1));
    fixture.app.open(Host {
        store: Mutex::new(Ok(())),
        begun,
        refused,
        asked: Mutex::default(),
    });
    assert_eq!(fixture.get("/readyz").await.status, 200);
    let healthz = fixture.get("/healthz").await;
    assert_eq!((healthz.status, healthz.body.as_str()), (200, "OK"));

    fixture.store_answers(Err(StoreError::Unavailable("gone".to_owned())));
    assert_eq!(fixture.get("/readyz").await.status, 503);
    assert_eq!(fixture.get("/healthz").await.status, 200);
    fixture.store_answers(Ok(()));

    fixture.app.close().await;
    assert_eq!(fixture.get("/readyz").await.status, 503);
    assert_eq!(fixture.get("/healthz").await.status, 200);
    fixture
        .dial("", &(with_token(ALICE) + "Connection: close\r\n"))
        .await
        .assert_json(503, body);
}

#[tokio::test]
async fn a_store_that_refuses_is_told_of_at_once_and_a_silent_one_in_time() {
    driven(async {
        let fixture = Fixture::new().await;
        fixture.store_answers(Err(StoreError::Unavailable("gone".to_owned())));
        assert_eq!(
            fixture.get("/readyz").await.status,
            503,
            "while time stands still"
        );
        fixture.store_answers(Err(StoreError::Unavailable("hangs".to_owned())));
        let began = Instant::now();
        let moving = async {
            loop {
                settle().await;
                advance(Duration::from_millis(100)).await;
            }
        };
        let answer = tokio::select! {
            answer = fixture.get("/readyz") => answer,
            () = moving => unreachable!(),
        };
        assert_eq!(answer.status, 503);
        let waited = began.elapsed();
        assert!(
            (SHORT_STORE_WAIT..2 * SHORT_STORE_WAIT).contains(&waited),
            "{waited:?}"
        );
    })
    .await;
}
