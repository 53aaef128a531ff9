//! Statuses of apps, from tools.

use serde_json::json;

use super::kit::Kit;

const STATUSES: &str = "SELECT state, message, uri FROM workspace_app_statuses ORDER BY rowid";

#[tokio::test]
async fn a_status_is_stored_as_by_the_call() {
    let kit = Kit::new().await;
    for state in ["working", "complete", "failure", "idle"] {
        let body = json!({
            "app_slug": "code", "state": state, "message": "a <b>b</b>", "uri": "https://example.com",
            "icon": "old", "needs_user_attention": true,
        });
        kit.send("PATCH", "app-status", &body.to_string())
            .await
            .assert_json(200, "null");
    }
    let expected =
        ["working", "complete", "failure", "idle"].map(|state| format!("{state} a b https://example.com"));
    assert_eq!(kit.value(STATUSES).await, expected.join(","));
}

#[tokio::test]
async fn a_status_that_is_none_is_refused_in_the_words_of_the_call() {
    let kit = Kit::new().await;
    let too_long = "x".repeat(161);
    for (slug, state, message, expected) in [
        (
            "code",
            "other",
            too_long.as_str(),
            r#"{"message":"Message is too long.","detail":"Message must be less than 160 characters.","validations":[{"field":"message","detail":"Message must be less than 160 characters."}]}"#,
        ),
        (
            "code",
            "ot\"her",
            "",
            r#"{"message":"Invalid state provided.","detail":"invalid state: \"ot\\\"her\"","validations":[{"field":"state","detail":"State must be one of: complete, failure, working, idle."}]}"#,
        ),
        (
            "nope",
            "idle",
            "",
            r#"{"message":"Failed to get workspace app.","detail":"No app found with slug \"nope\""}"#,
        ),
    ] {
        let body = json!({ "app_slug": slug, "state": state, "message": message });
        kit.send("PATCH", "app-status", &body.to_string())
            .await
            .assert_json(400, expected);
    }
    let answer = kit.send("PATCH", "app-status", "{}").await;
    assert_eq!(answer.message(), "Invalid state provided.");
    assert_eq!(kit.value(STATUSES).await, "");
}

#[tokio::test]
async fn a_status_that_the_store_refuses_is_an_error() {
    let kit = Kit::new().await;
    let refused = crate::store::StoreError::Rejected("no".to_owned());
    kit.store.fail("insert_app_status", refused);
    let body = json!({ "app_slug": "code", "state": "idle" });
    kit.send("PATCH", "app-status", &body.to_string())
        .await
        .assert_json(
            500,
            r#"{"message":"Failed to insert workspace app status.","detail":"no"}"#,
        );
}
