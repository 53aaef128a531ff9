//! The routes over real sockets, on a real store.

mod external_auth;
mod kit;
mod logs;
mod refresh;
mod reinit;
mod shares;
mod statuses;

use serde_json::{Value, json};

use kit::{Answer, Kit};

const ROUTES: [(&str, &str); 6] = [
    ("GET", "gitsshkey"),
    ("GET", "external-auth?id=x"),
    ("POST", "log-source"),
    ("PATCH", "logs"),
    ("PATCH", "app-status"),
    ("GET", "reinit"),
];

#[tokio::test]
async fn every_route_asks_who_it_is_as_the_handshake_does() {
    let kit = Kit::new().await;
    for (method, route) in ROUTES {
        kit.send_as("", method, route, "{}").await.assert_json(
            401,
            r#"{"message":"Cookie \"coder_session_token\" must be provided."}"#,
        );
        let answer = kit
            .send_as("33333333-3333-4333-8333-333333333333", method, route, "{}")
            .await;
        assert_eq!(
            (answer.status, answer.message().as_str()),
            (401, "Workspace agent not authorized.")
        );
    }
    kit.store.fail("authenticate", kit::away());
    for (method, route) in ROUTES {
        kit.send(method, route, "{}").await.assert_json(
            500,
            r#"{"message":"Internal error checking workspace agent authorization.","detail":"database is locked"}"#,
        );
    }
}

#[tokio::test]
async fn another_method_or_path_is_refused_as_json() {
    let kit = Kit::new().await;
    for (_, route) in ROUTES {
        kit.send("DELETE", route, "")
            .await
            .assert_json(405, r#"{"message":"Method not allowed."}"#);
    }
    for route in ["", "nothing", "logs/"] {
        kit.send("GET", route, "")
            .await
            .assert_json(404, r#"{"message":"Route not found."}"#);
    }
}

#[tokio::test]
async fn a_server_that_is_not_open_refuses_every_route() {
    let kit = Kit::new().await;
    kit.app.close().await;
    for (method, route) in ROUTES {
        kit.send(method, route, "{}")
            .await
            .assert_json(503, r#"{"message":"The server is starting or stopping."}"#);
    }
}

#[tokio::test]
async fn the_owners_git_key_comes_with_both_halves_by_two_statements() {
    let kit = Kit::new().await;
    let before = kit.statements();
    let answer = kit.get("gitsshkey").await;
    assert_eq!(kit.statements() - before, 2);
    assert_eq!(answer.status, 200);
    let key = answer.json();
    let stored = |column: &str| format!("SELECT {column} FROM gitsshkeys");
    let stored = [stored("public_key"), stored("private_key")];
    assert_eq!(
        key,
        json!({
            "public_key": kit.value(&stored[0]).await,
            "private_key": kit.value(&stored[1]).await,
        })
    );
    let private = key["private_key"].as_str().unwrap();
    assert!(private.starts_with("-----BEGIN OPENSSH PRIVATE KEY-----\n"));
}

#[tokio::test]
async fn a_git_key_that_cannot_be_read_is_an_error() {
    let kit = Kit::new().await;
    kit.store.fail("git_ssh_key", kit::away());
    kit.get("gitsshkey").await.assert_json(
        500,
        r#"{"message":"Internal error fetching git SSH key.","detail":"database is locked"}"#,
    );
    kit.store.mend("git_ssh_key");
    kit.value("DELETE FROM gitsshkeys").await;
    kit.get("gitsshkey").await.assert_json(
        500,
        r#"{"message":"Internal error fetching git SSH key.","detail":"sql: no rows in result set"}"#,
    );
}

#[tokio::test]
async fn conn_063_a_token_without_user_data_gets_neither_keys_nor_tokens() {
    let seed = kit::SEED.replace("- name: main", "- name: main\n    api_key_scope: no_user_data");
    let kit = Kit::with(&seed, vec![kit::provider("github", "github", None)]).await;
    for route in [
        "gitsshkey",
        "external-auth?id=github",
        "external-auth?id=github&listen",
    ] {
        kit.get(route).await.assert_json(
            403,
            "{\"message\":\"Forbidden.\",\"detail\":\"You don't have permission to view this content. If you believe \
             this is a mistake, please contact your administrator or try signing in with different credentials.\"}",
        );
    }
    assert_eq!(
        kit.store.calls("git_ssh_key") + kit.store.calls("external_auth_link"),
        0
    );
    let source = r#"{"id":"11111111-1111-4111-8111-111111111111"}"#;
    assert_eq!(kit.send("POST", "log-source", source).await.status, 201);
}

#[tokio::test]
async fn requests_that_last_leave_room_for_others() {
    kit::driven(async {
        let kit = Kit::with(kit::SEED, vec![kit::provider("p", "github", None)]).await;
        let mut open = Vec::new();
        for _ in 0..kit::ROOM {
            open.push(kit.open("reinit").await);
            open.push(kit.open("external-auth?id=p&listen").await);
        }
        assert_eq!(kit.get("gitsshkey").await.status, 200);
    })
    .await;
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }

    fn message(&self) -> String {
        self.json()["message"].as_str().unwrap().to_owned()
    }
}
