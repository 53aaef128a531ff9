//! Renewing the tokens of external providers.

use std::time::Duration;

use tokio::time::advance;

use super::kit::{self, Kit, Remote, driven, linked, provider, provider_at, until};
use crate::services::external_auth::Provider;

/// `us:our secret`, as a header has it: form-encoded, then in base64.
const BASIC: &str = "Basic dXM6b3VyK3NlY3JldA==";

const EXPIRED: Option<&str> = Some("'2026-03-20T12:00:05Z'");

const LINK: &str =
    "SELECT oauth_access_token, oauth_refresh_token, (oauth_expiry - 1774008000000000) / 1000000,
    oauth_extra, oauth_refresh_failure_reason FROM external_auth_links";

async fn expired(change: impl FnOnce(&mut Provider)) -> (Remote, Kit) {
    let remote = Remote::new().await;
    let mut provider = Provider {
        validate_url: None,
        ..provider_at(&remote, "gitlab")
    };
    change(&mut provider);
    let kit = Kit::with(&linked("old", "once", EXPIRED), vec![provider]).await;
    (remote, kit)
}

async fn token(kit: &Kit) -> String {
    let answer = kit.get("external-auth?id=p").await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    let answer = answer.json();
    let shown = answer["access_token"].as_str().unwrap();
    assert_eq!(shown.is_empty(), !answer["url"].as_str().unwrap().is_empty());
    shown.to_owned()
}

#[tokio::test]
async fn an_expired_token_is_renewed_and_kept() {
    let (remote, kit) = expired(|provider| provider.extra_token_keys = vec!["scope".to_owned()]).await;
    remote.will_answer(
        200,
        "",
        r#"{"access_token":"new","refresh_token":"next","expires_in":3600,"scope":"repo"}"#,
    );
    assert_eq!(token(&kit).await, "new");
    assert_eq!(
        remote.asked(),
        [format!(
            "POST /token|{BASIC}|grant_type=refresh_token&refresh_token=once"
        )]
    );
    // Rounded: time has gone on by less than a second or so.
    let link = kit.value(LINK).await;
    assert!(link.starts_with("new next 36"), "{link}");
    assert!(link.ends_with(r#" {"scope":"repo"} "#), "{link}");
    assert_eq!(token(&kit).await, "new", "it is good for an hour");
    assert_eq!(remote.times_asked(), 0);
}

#[tokio::test]
async fn what_a_provider_leaves_out_stays() {
    let (remote, kit) = expired(|_| ()).await;
    remote.will_answer(200, "", r#"{"access_token":"new"}"#);
    assert_eq!(token(&kit).await, "new");
    let never = (-62_135_596_800_i64) - 1_774_008_000;
    assert_eq!(
        kit.value(LINK).await,
        format!(r#"new once {never} {{"team":"t"}} "#)
    );
}

#[tokio::test]
async fn a_new_token_is_shown_to_its_provider_and_kept_whatever_it_says() {
    let (remote, kit) = expired(|_| ()).await;
    drop(kit);
    let kit = Kit::with(
        &linked("old", "once", EXPIRED),
        vec![provider_at(&remote, "gitlab")],
    )
    .await;
    remote.will_answer(200, "", r#"{"access_token":"new","refresh_token":"next"}"#);
    remote.will_answer(401, "", "");
    assert_eq!(token(&kit).await, "");
    let asked = remote.asked();
    assert_eq!((asked.len(), asked[1].as_str()), (2, "GET /user|Bearer new|"));
    assert!(kit.value(LINK).await.starts_with("new next "));
}

#[tokio::test]
async fn a_provider_that_does_not_read_the_header_gets_the_secret_as_a_parameter() {
    for (status, body) in [
        (401, ""),
        (400, r#"{"error":"invalid_client"}"#),
        (200, r#"{"error":"incorrect_client_credentials"}"#),
    ] {
        let (remote, kit) = expired(|_| ()).await;
        remote.will_answer(status, "", body);
        remote.will_answer(200, "", r#"{"access_token":"new","expires_in":"3600"}"#);
        assert_eq!(token(&kit).await, "new");
        let expected =
            "POST /token||grant_type=refresh_token&refresh_token=once&client_id=us&client_secret=our+secret";
        assert_eq!(remote.asked()[1], expected);
    }
}

#[tokio::test]
async fn a_refresh_token_that_is_refused_is_not_used_again() {
    for (status, body, reason) in [
        (
            400,
            r#"{"error":"invalid_grant"}"#,
            "oauth2: status 400: invalid_grant",
        ),
        (
            200,
            r#"{"error":"bad_refresh_token"}"#,
            "oauth2: status 200: bad_refresh_token",
        ),
        (403, "<html>", "oauth2: status 403"),
        (400, r#"{"error":"once is no good"}"#, "oauth2: status 400"),
    ] {
        let (remote, kit) = expired(|_| ()).await;
        remote.will_answer(status, "", body);
        assert_eq!(token(&kit).await, "");
        assert_eq!(
            kit.value(LINK).await,
            format!(r#"old  5 {{"team":"t"}} {reason}"#)
        );
        assert_eq!(token(&kit).await, "");
        assert_eq!(remote.times_asked(), 1);
    }
}

#[tokio::test]
async fn a_provider_that_is_out_of_order_is_asked_again_and_nothing_is_lost() {
    driven(async {
        let (remote, kit) = expired(|_| ()).await;
        for _ in 0..2 {
            remote.will_answer(503, "", "later");
        }
        remote.will_answer(200, "", r#"{"access_token":"new"}"#);
        let asking = token(&kit);
        let waiting = async {
            for (times, pause) in [(1, 250), (2, 500)] {
                until(|| remote.times_asked() == times).await;
                let mut left = pause;
                // In steps, since the answer has to arrive before the pause begins.
                while remote.times_asked() == times {
                    assert!(left > -5_000, "it is not asked again");
                    advance(Duration::from_millis(10)).await;
                    left -= 10;
                    for _ in 0..20 {
                        tokio::task::yield_now().await;
                    }
                }
            }
        };
        let (token, ()) = tokio::join!(asking, waiting);
        assert_eq!(token, "new");
        assert!(kit.value(LINK).await.starts_with("new once "));
    })
    .await;
}

#[tokio::test]
async fn what_cannot_be_renewed_leads_to_a_login() {
    let (remote, kit) = expired(|provider| provider.no_refresh = true).await;
    assert_eq!(token(&kit).await, "");
    let (silent, unconfigured) = expired(|provider| provider.token_url = None).await;
    assert_eq!(token(&unconfigured).await, "");
    let kit = Kit::with(
        &linked("old", "''", EXPIRED),
        vec![provider_at(&remote, "gitlab")],
    )
    .await;
    assert_eq!(token(&kit).await, "");
    assert_eq!(remote.times_asked() + silent.times_asked(), 0);
}

#[tokio::test]
async fn a_token_that_has_not_expired_is_not_renewed() {
    let remote = Remote::new().await;
    let expiry = Some("'2026-03-20T13:00:00Z'");
    let provider = Provider {
        validate_url: None,
        ..provider_at(&remote, "gitlab")
    };
    let kit = Kit::with(&linked("still", "once", expiry), vec![provider]).await;
    assert_eq!(token(&kit).await, "still");
    assert_eq!(remote.times_asked(), 0);
}

#[tokio::test]
async fn two_who_ask_at_once_cost_one_renewal() {
    let (remote, kit) = expired(|_| ()).await;
    remote.will_answer(
        200,
        "",
        r#"{"access_token":"new","refresh_token":"next","expires_in":3600}"#,
    );
    let tokens = tokio::join!(token(&kit), token(&kit), token(&kit));
    assert_eq!(tokens, ("new".to_owned(), "new".to_owned(), "new".to_owned()));
    assert_eq!(remote.times_asked(), 1);
}

#[tokio::test]
async fn a_renewal_is_finished_for_nobody_in_particular() {
    let (remote, kit) = expired(|_| ()).await;
    remote.will_answer(200, "", r#"{"access_token":"new","refresh_token":"next"}"#);
    kit.store.fail("renew_external_auth_link", kit::away());
    let stream = kit.open("external-auth?id=p").await;
    until(|| kit.store.calls("renew_external_auth_link") > 0).await;
    drop(stream);
    kit.store.mend("renew_external_auth_link");
    tokio::time::timeout(Duration::from_secs(20), async {
        while !kit.value(LINK).await.starts_with("new next ") {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn a_link_that_was_made_anew_meanwhile_wins() {
    let (remote, kit) = expired(|_| ()).await;
    remote.will_answer(400, "", r#"{"error":"invalid_grant"}"#);
    kit.store.fail("refuse_external_auth_link", kit::away());
    let answer = kit.get("external-auth?id=p").await;
    assert_eq!(answer.status, 500, "{}", answer.body);
    kit.store.mend("refuse_external_auth_link");
    // What a login writes: the refusal of the old token must not touch it.
    kit.value("UPDATE external_auth_links SET oauth_access_token = 'login', oauth_refresh_token = 'fresh', oauth_expiry = -62135596800000000")
        .await;
    assert_eq!(token(&kit).await, "login");
    assert_eq!(remote.times_asked(), 1);
}

#[tokio::test]
async fn nobody_is_asked_whom_the_operator_did_not_name() {
    let github = provider("p", "github", None);
    assert!(github.token_url.is_none() && github.validate_url.is_none());
    let kit = Kit::with(&linked("t", "r", EXPIRED), vec![github]).await;
    assert_eq!(token(&kit).await, "");
}
