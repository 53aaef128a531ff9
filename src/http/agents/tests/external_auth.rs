//! Tokens of external providers: which provider, which link, and waiting for one.

use std::time::Duration;

use tokio::io::AsyncReadExt as _;
use tokio::time::advance;

use super::kit::{self, Kit, Remote, driven, linked, provider, provider_at, until};
use crate::http::agents::MAX_LISTENERS;

const LOGIN: &str = r#"{"access_token":"","token_extra":null,"url":"https://drpcd.example.com/external-auth/p","type":"","username":"","password":""}"#;

fn message(text: &str) -> String {
    format!("{{\"message\":\"{text}\"}}")
}

#[tokio::test]
async fn conn_064_exactly_one_of_match_and_id_is_asked_for() {
    let kit = Kit::new().await;
    for query in ["", "?match=", "?id=&url=", "?listen"] {
        kit.get(&format!("external-auth{query}"))
            .await
            .assert_json(400, &message("'url' or 'id' must be provided!"));
    }
    for query in ["?id=a&match=b", "?id=a&url=b"] {
        kit.get(&format!("external-auth{query}"))
            .await
            .assert_json(400, &message("'url' and 'id' cannot be provided together!"));
    }
}

#[tokio::test]
async fn conn_065_of_two_providers_that_match_it_is_the_later_one() {
    let providers = vec![
        provider("one", "github", Some("example")),
        provider("two", "github", Some("example")),
        provider("other", "github", Some("elsewhere")),
        provider("none", "slack", None),
    ];
    let kit = Kit::with(kit::SEED, providers).await;
    for (query, id) in [
        ("match=https%3A%2F%2Fexample.com%2Frepo", "two"),
        ("url=example", "two"),
        ("match=example&url=elsewhere", "two"),
        ("id=one", "one"),
        ("id=none", "none"),
    ] {
        let answer = kit.get(&format!("external-auth?{query}")).await;
        let url = format!("https://drpcd.example.com/external-auth/{id}");
        assert_eq!(answer.json()["url"], url, "{query}");
    }
}

#[tokio::test]
async fn without_a_provider_the_patterns_are_told() {
    let kit = Kit::new().await;
    kit.get("external-auth?match=https://git.example.com").await.assert_json(
        404,
        r#"{"message":"No matching external auth provider found in Coder for the url \"https://git.example.com\".","detail":"External auth provider not found."}"#,
    );
    let providers = vec![
        provider("a", "github", None),
        provider("none", "slack", None),
        provider("b", "x", Some("q\"")),
    ];
    let kit = Kit::with(kit::SEED, providers).await;
    kit.get("external-auth?id=c").await.assert_json(
        404,
        r#"{"message":"No matching external auth provider found in Coder for the url \"\".","detail":"The configured external auth provider have regex filters that do not match the url. Provider url regex: a=\"^(https?://)?github\\\\.com(/.*)?$\",b=\"q\\\"\""}"#,
    );
}

#[tokio::test]
async fn without_a_link_the_answer_is_where_to_get_one() {
    let kit = Kit::with(kit::SEED, vec![provider("p", "github", None)]).await;
    let before = kit.statements();
    kit.get("external-auth?id=p").await.assert_json(200, LOGIN);
    assert_eq!(kit.statements() - before, 2);
}

#[tokio::test]
async fn a_token_comes_under_the_names_that_its_provider_reads() {
    for (kind, username, password) in [
        ("gitlab", "oauth2", "t"),
        ("bitbucket-cloud", "x-token-auth", "t"),
        ("bitbucket-server", "x-token-auth", "t"),
        ("bitbucket", "x-token-auth", "t"),
        ("github", "t", ""),
        ("own", "t", ""),
    ] {
        let kit = Kit::with(&linked("t", "r", None), vec![provider("p", kind, None)]).await;
        let body = format!(
            r#"{{"access_token":"t","token_extra":{{"team":"t"}},"url":"","type":"{kind}","username":"{username}","password":"{password}"}}"#
        );
        kit.get("external-auth?id=p").await.assert_json(200, &body);
    }
}

#[tokio::test]
async fn conn_073_an_encrypted_link_is_an_error_and_never_shown() {
    for column in ["oauth_access_token_key_id", "oauth_refresh_token_key_id"] {
        let kit = Kit::with(
            &linked("cipher", "text", None),
            vec![provider("p", "github", None)],
        )
        .await;
        kit.value(&format!("UPDATE external_auth_links SET {column} = 'k1'"))
            .await;
        for query in ["", "&listen"] {
            kit.get(&format!("external-auth?id=p{query}")).await.assert_json(
                500,
                r#"{"message":"Failed to get external auth link.","detail":"the link is encrypted, and this server has no keys"}"#,
            );
        }
    }
}

#[tokio::test]
async fn a_link_that_cannot_be_read_is_an_error() {
    let kit = Kit::with(kit::SEED, vec![provider("p", "github", None)]).await;
    kit.store.fail("external_auth_link", kit::away());
    kit.get("external-auth?id=p").await.assert_json(
        500,
        r#"{"message":"Failed to get external auth link.","detail":"database is locked"}"#,
    );
}

#[tokio::test]
async fn a_token_is_shown_to_its_provider_first() {
    let remote = Remote::new().await;
    let kit = Kit::with(&linked("t", "r", None), vec![provider_at(&remote, "github")]).await;
    let rate_limited = "X-RateLimit-Remaining: 0\r\n";
    for (status, headers, good) in [
        (200, "", true),
        (401, "", false),
        (403, "", false),
        (403, rate_limited, true),
        (403, "Retry-After: 60\r\n", true),
        (403, "X-RateLimit-Remaining: 1\r\n", false),
        (429, "", true),
    ] {
        remote.will_answer(status, headers, "{}");
        let answer = kit.get("external-auth?id=p").await;
        assert_eq!(answer.status, 200);
        assert_eq!(answer.json()["access_token"] == "t", good, "{status} {headers}");
        assert_eq!(remote.asked(), ["GET /user|Bearer t|"]);
    }
    remote.will_answer(502, "", "Bearer t");
    kit.get("external-auth?id=p").await.assert_json(
        500,
        r#"{"message":"Failed to refresh external auth token.","detail":"validate external auth token: status 502"}"#,
    );
}

/// Waits until the link was looked at `times`, without moving time.
async fn looked_at(kit: &Kit, times: usize) {
    until(|| kit.store.calls("external_auth_link") >= times).await;
}

/// Moves time on by a second, once everything of before is done, until the link is looked at again. A look must be answered
/// before that, which has but two seconds for it, and whose end begins its second late.
async fn tick(kit: &Kit, times: usize) {
    until(|| kit.store.answers("external_auth_link") >= times).await;
    loop {
        kit.value("SELECT 1").await;
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        if kit.store.calls("external_auth_link") > times {
            break;
        }
        // Timers fire up to a millisecond late.
        advance(Duration::from_millis(1_002)).await;
    }
}

#[tokio::test]
async fn conn_066_who_listens_gets_a_link_soon_after_it_was_made() {
    driven(async {
        let kit = Kit::with(kit::SEED, vec![provider("p", "github", None)]).await;
        let mut stream = kit.open("external-auth?id=p&listen=true").await;
        for look in 1..=3 {
            tick(&kit, look).await;
        }
        looked_at(&kit, 4).await;
        kit.value(
            "INSERT INTO external_auth_links (provider_id, user_id, created_at, updated_at, oauth_access_token,
                 oauth_refresh_token, oauth_expiry)
             SELECT 'p', id, 1, 1, 'new', '', -62135596800000000 FROM users",
        )
        .await;
        tick(&kit, 4).await;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
        assert!(answer.to_lowercase().contains("connection: close\r\n"));
        assert!(answer.contains(r#"{"access_token":"new","token_extra":null,"#), "{answer}");
        assert_eq!(kit.store.calls("external_auth_link"), 5);
    })
    .await;
}

#[tokio::test]
async fn a_bad_token_is_shown_to_its_provider_once_however_long_somebody_listens() {
    driven(async {
        let remote = Remote::new().await;
        let kit = Kit::with(&linked("bad", "r", None), vec![provider_at(&remote, "github")]).await;
        remote.will_answer(401, "", "");
        remote.will_answer(200, "", "");
        let mut stream = kit.open("external-auth?id=p&listen").await;
        until(|| remote.times_asked() == 1).await;
        for look in 1..=3 {
            tick(&kit, look).await;
        }
        looked_at(&kit, 4).await;
        assert_eq!(remote.times_asked(), 1);
        kit.value("UPDATE external_auth_links SET oauth_access_token = 'good'")
            .await;
        tick(&kit, 4).await;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(answer.contains(r#"{"access_token":"good","#), "{answer}");
        assert_eq!(
            remote.asked(),
            ["GET /user|Bearer bad|", "GET /user|Bearer good|"]
        );
    })
    .await;
}

#[tokio::test]
async fn listening_ends_with_who_listens() {
    driven(async {
        let kit = Kit::with(kit::SEED, vec![provider("p", "github", None)]).await;
        let before = kit.app.bounds().listeners.left();
        let stream = kit.open("external-auth?id=p&listen").await;
        looked_at(&kit, 1).await;
        until(|| kit.app.bounds().listeners.left() == before - 1).await;
        drop(stream);
        until(|| kit.app.bounds().listeners.left() == before).await;
    })
    .await;
}

#[tokio::test]
async fn listening_ends_with_the_server() {
    let kit = Kit::with(kit::SEED, vec![provider("p", "github", None)]).await;
    let listening = kit.get("external-auth?id=p&listen");
    let closing = async {
        looked_at(&kit, 1).await;
        kit.app.close().await;
    };
    let (answer, ()) = tokio::join!(listening, closing);
    answer.assert_json(503, r#"{"message":"The server is starting or stopping."}"#);
}

#[tokio::test]
async fn there_is_room_for_so_many_listeners() {
    let kit = Kit::with(kit::SEED, vec![provider("p", "github", None)]).await;
    let but_one = kit.app.bounds().listeners.hold(MAX_LISTENERS - 1);
    let last = kit.open("external-auth?id=p&listen").await;
    looked_at(&kit, 1).await;
    kit.get("external-auth?id=p&listen")
        .await
        .assert_json(503, &message("Too many requests wait for external providers."));
    kit.get("external-auth?id=p").await.assert_json(200, LOGIN);
    drop((but_one, last));
}
