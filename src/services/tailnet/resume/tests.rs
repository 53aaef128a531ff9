//! Resume tokens: what a good one says, and that nothing else passes for one.

use super::*;
use crate::store::sqlite::{self, SqliteOptions};
use crate::store::testing::{FaultyStore, NOW};

const PEER: PeerId = PeerId(Uuid::from_u128(7));
const SMALL: &str = "owner: { username: ada }\nworkspace: { name: dev }\nagents: []\n";

async fn tokens() -> ResumeTokens {
    let (store, _) = FaultyStore::of(SMALL).await;
    ResumeTokens::open(&*store, Clock::driven(NOW)).await.unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_token_brings_its_peer_back_and_says_when_it_ends() {
    let tokens = tokens().await;
    let now = tokens.clock.now();
    let answer = tokens.issue(PEER);
    assert_eq!(answer.refresh_in.unwrap().seconds, 12 * 60 * 60);
    let expires_at = Timestamp::from_proto(&answer.expires_at.unwrap()).unwrap();
    assert_eq!(expires_at, now.saturating_add(Duration::from_hours(24)));
    assert_eq!(tokens.verify(&answer.token), Some(PEER));
    assert_eq!(answer.token.len(), TEXT_LEN);
}

#[tokio::test(start_paused = true)]
async fn a_token_is_good_until_the_microsecond_at_which_it_ends() {
    let tokens = tokens().await;
    let token = tokens.issue(PEER).token;
    tokio::time::advance(EXPIRY - Duration::from_micros(1)).await;
    assert_eq!(tokens.verify(&token), Some(PEER));
    tokio::time::advance(Duration::from_micros(1)).await;
    assert_eq!(tokens.verify(&token), None);
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_is_set_moves_the_end_and_one_that_is_set_back_revives_a_token() {
    let tokens = tokens().await;
    let token = tokens.issue(PEER).token;
    let day = i64::try_from(EXPIRY.as_micros()).unwrap();
    for (jump, expected) in [(day, None), (-day, Some(PEER)), (-day, Some(PEER))] {
        tokens.clock.jump(jump);
        assert_eq!(tokens.verify(&token), expected, "{jump}");
    }
    // What is issued by a clock that was slow ends by that clock.
    let early = tokens.issue(PEER).token;
    tokens.clock.jump(day);
    assert_eq!(tokens.verify(&early), None);
}

#[tokio::test]
async fn another_stores_token_is_none() {
    let (one, other) = (tokens().await, tokens().await);
    assert_eq!(other.verify(&one.issue(PEER).token), None);
}

#[tokio::test]
async fn every_bit_of_a_token_counts() {
    let tokens = tokens().await;
    let token = URL_SAFE_NO_PAD.decode(tokens.issue(PEER).token).unwrap();
    for bit in 0..token.len() * 8 {
        let mut tampered = token.clone();
        tampered[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(
            tokens.verify(&URL_SAFE_NO_PAD.encode(tampered)),
            None,
            "bit {bit}"
        );
    }
}

/// A text as [`ResumeTokens::issue`] makes it, of these parts.
fn signed(tokens: &ResumeTokens, purpose: &[u8], version: u8, expires_at: Timestamp) -> String {
    let mut token = vec![version];
    token.extend_from_slice(PEER.0.as_bytes());
    token.extend_from_slice(&expires_at.as_micros().to_be_bytes());
    let mut mac = tokens.key.clone();
    mac.update(purpose);
    mac.update(&token);
    token.extend_from_slice(&mac.finalize().into_bytes());
    URL_SAFE_NO_PAD.encode(token)
}

#[tokio::test]
async fn what_was_signed_for_another_purpose_or_in_another_form_is_refused() {
    let tokens = tokens().await;
    let later = NOW.saturating_add(EXPIRY);
    assert_eq!(
        tokens.verify(&signed(&tokens, PURPOSE, VERSION, later)),
        Some(PEER)
    );
    assert_eq!(tokens.verify(&signed(&tokens, b"", VERSION, later)), None);
    assert_eq!(
        tokens.verify(&signed(&tokens, b"drpcd other\0", VERSION, later)),
        None
    );
    assert_eq!(tokens.verify(&signed(&tokens, PURPOSE, VERSION + 1, later)), None);
    assert_eq!(tokens.verify(&signed(&tokens, PURPOSE, 0, later)), None);
}

#[tokio::test]
async fn garbage_is_refused() {
    let tokens = tokens().await;
    let token = tokens.issue(PEER).token;
    let garbage = [
        String::new(),
        "a".repeat(TEXT_LEN),
        "=".repeat(TEXT_LEN),
        "é".repeat(TEXT_LEN / 2),
        "\0".repeat(TEXT_LEN),
        token[1..].to_owned(),
        format!("{token}A"),
        format!("{token}{token}"),
        token.repeat(100_000),
        format!(" {}", &token[1..]),
        "eyJhbGciOiJub25lIn0.eyJzdWIiOiIwMDAwMDAwMC0wMDAwLTAwMDAtMDAwMC0wMDAwMDAwMDAwMDcifQ.".to_owned(),
    ];
    for text in garbage {
        assert_eq!(tokens.verify(&text), None, "{} bytes", text.len());
    }
}

#[tokio::test]
async fn all_processes_on_a_store_share_its_key_also_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let open = || async {
        let store = sqlite::open(dir.path(), SqliteOptions::default()).await;
        store.unwrap()
    };
    let (one, two) = (open().await, open().await);
    let clock = Clock::driven(NOW);
    let (first, second) = tokio::join!(
        ResumeTokens::open(&one, clock.clone()),
        ResumeTokens::open(&two, clock.clone())
    );
    let token = first.unwrap().issue(PEER).token;
    assert_eq!(second.unwrap().verify(&token), Some(PEER));
    one.close().await;
    two.close().await;
    let reopened = ResumeTokens::open(&open().await, clock).await.unwrap();
    assert_eq!(reopened.verify(&token), Some(PEER));
}

#[tokio::test]
async fn a_key_that_is_none_is_an_error_that_does_not_show_it() {
    let (store, _) = FaultyStore::of(SMALL).await;
    for value in ["hunter2", "aHVudGVyMg", ""] {
        let set = format!(
            "INSERT INTO site_configs (key, value) VALUES ('drpcd_tailnet_resume_key', '{value}')
                ON CONFLICT (key) DO UPDATE SET value = excluded.value"
        );
        store.query(&set).await;
        let error = ResumeTokens::open(&*store, Clock::driven(NOW)).await.unwrap_err();
        assert_eq!(
            error.to_string(),
            "the store's key of resume tokens is not 32 bytes as base64url"
        );
    }
}

#[tokio::test]
async fn neither_key_nor_token_is_shown() {
    let (store, _) = FaultyStore::of(SMALL).await;
    let tokens = ResumeTokens::open(&*store, Clock::driven(NOW)).await.unwrap();
    assert_eq!(format!("{tokens:?}"), "ResumeTokens { .. }");
    let answer = tokens.issue(PEER);
    assert!(!format!("{answer:?}").contains(&answer.token));
    let key = store.query("SELECT value FROM site_configs").await.remove(0);
    assert_eq!(URL_SAFE_NO_PAD.decode(key).unwrap().len(), KEY_LEN);
}
