//! Sessions of clients end when their tokens let nobody in any more.

use tokio::task::JoinHandle;

use super::*;
use crate::batch::connections::ConnectionTimes;
use crate::client_token::ClientToken;
use crate::ids::ReplicaId;
use crate::mux::Control;
use crate::pubsub::Pubsub;
use crate::sessions::MonitorConfig;
use crate::store::testing::{EXAMPLE, FaultyStore, NOW};

/// Time for queries of a real store, while that of the runtime is paused.
async fn settle() {
    for _ in 0..20 {
        tokio::task::spawn_blocking(|| std::thread::sleep(Duration::from_millis(5)))
            .await
            .unwrap();
    }
}

/// Waits for what a real store makes happen, for a minute at most.
async fn until(happened: impl Fn() -> bool) {
    for _ in 0..600 {
        if happened() {
            return;
        }
        settle().await;
    }
    panic!("it did not happen");
}

const GRACE: &str = "---\nowner: { username: grace }\nworkspace: { name: hers }\nagents: []\n";

/// Sessions, and what ends those of clients.
fn ending(store: &Arc<FaultyStore>, clock: &Clock, pubsub: &Pubsub) -> (Sessions, JoinHandle<()>) {
    let shared: Arc<dyn Store> = store.clone();
    let replica = ReplicaId::random();
    let config = MonitorConfig::default();
    let tick = config.update_frequency;
    let times = ConnectionTimes::new(Arc::clone(&shared), pubsub.clone(), clock.clone(), replica, tick);
    let sessions = Sessions::new(clock.clone(), Arc::clone(&shared), times, config);
    let ending = end_revoked(sessions.clone(), shared, clock.clone(), pubsub.invalidations());
    (sessions, tokio::spawn(ending))
}

#[tokio::test(start_paused = true)]
async fn missed_revocations_are_made_up_for_and_nobody_else_is_disturbed() {
    let (store, _) = FaultyStore::seeded(EXAMPLE).await;
    let (clock, pubsub) = (Clock::driven(NOW), Pubsub::in_process());
    let (sessions, ending) = ending(&store, &clock, &pubsub);
    pubsub.lose_messages();
    settle().await;
    assert_eq!(store.calls("client_tokens"), 0, "nobody is concerned");
    tokio::time::advance(HANDSHAKE * 2).await;

    let [kept, revoked, begins] = [(); 3].map(|()| ClientToken::random());
    for token in [&kept, &revoked, &begins] {
        store.create_client_token("ada", token, NOW).await.unwrap();
    }
    let controls = [(); 3].map(|()| Control::new(&clock));
    let closing = || {
        let closing = |control: &Control| control.requested_close().is_some();
        controls.each_ref().map(closing)
    };
    let _kept = sessions.add_client(kept.id(), controls[0].clone());
    let _revoked = sessions.add_client(revoked.id(), controls[1].clone());
    store.revoke_client_token(revoked.id(), NOW).await.unwrap();
    store.revoke_client_token(begins.id(), NOW).await.unwrap();
    store.fail("client_tokens", StoreError::Unavailable("away".to_owned()));
    pubsub.lose_messages();
    until(|| store.calls("client_tokens") == 1).await;
    assert_eq!(closing(), [false; 3], "nobody knows");
    store.mend("client_tokens");
    tokio::time::advance(RETRY_PAUSE).await;
    until(|| closing() == [false, true, false]).await;

    // Authenticated before its token was revoked, it begins only now.
    let _begins = sessions.add_client(begins.id(), controls[2].clone());
    tokio::time::advance(HANDSHAKE).await;
    until(|| closing() == [false, true, true]).await;
    let looks = store.calls("client_tokens");
    tokio::time::advance(HANDSHAKE * 10).await;
    settle().await;
    assert_eq!(store.calls("client_tokens"), looks);
    ending.abort();
}

#[tokio::test(start_paused = true)]
async fn tokens_that_let_nobody_in_any_more_are_noticed_within_the_refresh() {
    let seed = format!("{EXAMPLE}{GRACE}");
    let (store, _) = FaultyStore::of(&seed).await;
    let (clock, pubsub) = (Clock::driven(NOW), Pubsub::in_process());
    let (sessions, ending) = ending(&store, &clock, &pubsub);
    settle().await;
    tokio::time::advance(REFRESH).await;
    settle().await;
    assert_eq!(store.calls("client_tokens"), 0, "nobody is concerned");

    let tokens = [(); 3].map(|()| ClientToken::random());
    let owners = ["ada", "ada", "grace"];
    for (token, owner) in tokens.iter().zip(owners) {
        store.create_client_token(owner, token, NOW).await.unwrap();
    }
    let controls = [(); 3].map(|()| Control::new(&clock));
    let closing = || {
        let closing = |control: &Control| control.requested_close().is_some();
        controls.each_ref().map(closing)
    };
    let guards: Vec<_> = tokens
        .iter()
        .zip(&controls)
        .map(|(token, control)| sessions.add_client(token.id(), control.clone()))
        .collect();
    tokio::time::advance(REFRESH).await;
    until(|| store.calls("client_tokens") == 1).await;
    settle().await;
    assert_eq!(closing(), [false; 3]);

    // Of none of these is anybody told.
    let remove = format!("DELETE FROM drpcd_client_tokens WHERE id = '{}'", tokens[0].id());
    for (sql, expected) in [
        (&*remove, [true, false, false]),
        (
            "UPDATE users SET status = 'suspended' WHERE username = 'grace'",
            [true, false, true],
        ),
        (
            "UPDATE users SET deleted = TRUE WHERE username = 'ada'",
            [true; 3],
        ),
    ] {
        let before = store.calls("client_tokens");
        store.run(sql, sql).await;
        tokio::time::advance(REFRESH - Duration::from_secs(1)).await;
        settle().await;
        assert_eq!(store.calls("client_tokens"), before);
        tokio::time::advance(Duration::from_secs(1)).await;
        until(|| closing() == expected).await;
        assert_eq!(store.calls("client_tokens"), before + 1, "one look for all");
    }
    drop(guards);
    ending.abort();
}
