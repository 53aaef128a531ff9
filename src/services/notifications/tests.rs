//! The enqueuer against a real store.

use std::time::Duration;

use serde_json::{Value, json};

use super::*;
use crate::clock::Timestamp;
use crate::pubsub::Subscription;
use crate::store::testing::{EXAMPLE, FaultyStore, NOW};

const OUT_OF_MEMORY: NotificationTemplateId =
    NotificationTemplateId(uuid::uuid!("a9d027b4-ac49-4fb1-9f6d-45af15f64e7a"));

const BOTH: Methods = Methods {
    delivery: Some(NotificationMethod::Smtp),
    inbox: true,
};

struct Fixture {
    store: Arc<FaultyStore>,
    user_id: UserId,
    enqueuer: Enqueuer,
    told: Subscription,
}

impl Fixture {
    async fn new(methods: Methods) -> Self {
        let (store, _) = FaultyStore::seeded(EXAMPLE).await;
        let user = store.query("SELECT id FROM users").await.remove(0);
        let (clock, pubsub) = (Clock::driven(NOW), Pubsub::in_process());
        let told = pubsub.subscribe("notification_enqueued");
        let patience = Patience::new(clock.clone(), Duration::ZERO);
        let url = "https://drpcd.example.com/".parse().unwrap();
        let enqueuer = Enqueuer::new(store.clone(), clock, pubsub, patience, methods, &url);
        Self {
            store,
            user_id: UserId(user.parse().unwrap()),
            enqueuer,
            told,
        }
    }

    fn notice(&self, data: Value) -> Notice {
        Notice {
            user_id: self.user_id,
            template_id: OUT_OF_MEMORY,
            labels: [("workspace", "dev".to_owned()), ("threshold", "80%".to_owned())].into(),
            data,
            created_by: "test",
            targets: vec![Uuid::from_u128(1), Uuid::from_u128(2)],
        }
    }

    async fn enqueue(&self, data: Value) -> Result<usize, String> {
        let enqueued = self.enqueuer.enqueue(&self.notice(data)).await;
        enqueued.map(|ids| ids.len()).map_err(|error| error.to_string())
    }

    async fn methods(&self) -> String {
        let sql = "SELECT method FROM notification_messages ORDER BY rowid";
        self.store.query(sql).await.join(",")
    }
}

fn duplicate() -> Result<usize, String> {
    Err("duplicate notification".to_owned())
}

#[tokio::test]
async fn s2_117_the_same_notification_twice_a_day_is_a_duplicate() {
    let mut fixture = Fixture::new(BOTH).await;
    assert_eq!(fixture.enqueue(json!({ "timestamp": 1 })).await, Ok(2));
    assert_eq!(fixture.told.try_next().unwrap().as_deref(), Ok(""));
    assert_eq!(fixture.enqueue(json!({ "timestamp": 1 })).await, duplicate());
    assert_eq!(fixture.told.try_next(), None);
    assert_eq!(fixture.enqueue(json!({ "timestamp": 2 })).await, Ok(2));
    assert_eq!(fixture.methods().await, "smtp,inbox,smtp,inbox");
}

#[tokio::test(start_paused = true)]
async fn s2_117_the_day_is_that_of_utc() {
    let fixture = Fixture::new(BOTH).await;
    let midnight = Timestamp::from_micros(NOW.as_micros() + 12 * 3_600_000_000);
    assert_eq!(midnight.to_string(), "2026-03-21T00:00:00Z");
    assert_eq!(fixture.enqueue(Value::Null).await, Ok(2));
    tokio::time::advance(Duration::from_hours(12) - Duration::from_millis(1)).await;
    assert_eq!(fixture.enqueue(Value::Null).await, duplicate());
    tokio::time::advance(Duration::from_millis(1)).await;
    assert_eq!(fixture.enqueue(Value::Null).await, Ok(2));
}

#[tokio::test]
async fn the_hash_is_the_originals() {
    let fixture = Fixture::new(BOTH).await;
    fixture.enqueue(Value::Null).await.unwrap();
    let hashes = fixture
        .store
        .query("SELECT dedupe_hash FROM notification_messages ORDER BY rowid")
        .await;
    let payloads = fixture
        .store
        .query("SELECT CAST(payload AS TEXT) FROM notification_messages")
        .await;
    let expected = |method| {
        use md5::{Digest as _, Md5};
        let text = format!(
            "{OUT_OF_MEMORY}:{}:{method}:{}:00000000-0000-0000-0000-000000000001,\
             00000000-0000-0000-0000-000000000002:2026-03-20 00:00:00",
            fixture.user_id, payloads[0]
        );
        format!("{:032x}", u128::from_be_bytes(Md5::digest(text).into()))
    };
    assert_eq!(hashes, [expected("smtp"), expected("inbox")]);
}

#[tokio::test]
async fn s2_118_who_has_opted_out_or_not_in_gets_nothing() {
    let fixture = Fixture::new(BOTH).await;
    let disabled = Err("notification is not enabled".to_owned());
    let preference = |disabled: u8| {
        format!(
            "INSERT INTO notification_preferences
                (user_id, notification_template_id, disabled, created_at, updated_at)
            SELECT id, x'{}', {disabled}, 1, 1 FROM users WHERE TRUE
            ON CONFLICT (user_id, notification_template_id) DO UPDATE SET disabled = excluded.disabled",
            OUT_OF_MEMORY.0.simple()
        )
    };
    fixture.store.query(&preference(1)).await;
    assert_eq!(fixture.enqueue(json!(1)).await, disabled);
    fixture
        .store
        .query("UPDATE notification_templates SET enabled_by_default = 0")
        .await;
    fixture.store.query("DELETE FROM notification_preferences").await;
    assert_eq!(fixture.enqueue(json!(1)).await, disabled);
    assert_eq!(fixture.methods().await, "");
    fixture.store.query(&preference(0)).await;
    assert_eq!(fixture.enqueue(json!(1)).await, Ok(2));
}

#[tokio::test]
async fn the_payload_is_the_originals() {
    let fixture = Fixture::new(BOTH).await;
    let ids = fixture
        .enqueuer
        .enqueue(&fixture.notice(json!({ "k": [1] })))
        .await
        .unwrap();
    let payloads = fixture
        .store
        .query("SELECT payload FROM notification_messages")
        .await;
    let user = fixture.user_id;
    let expected = format!(
        "{{\"_version\":\"1.2\",\"notification_name\":\"Workspace Out Of Memory\",\
         \"notification_template_id\":\"{OUT_OF_MEMORY}\",\"user_id\":\"{user}\",\
         \"user_email\":\"ada@example.com\",\"user_name\":\"Ada Lovelace\",\"user_username\":\"ada\",\
         \"actions\":[{{\"label\":\"Open workspace\",\"url\":\"https://drpcd.example.com/@ada/dev\"}}],\
         \"labels\":{{\"threshold\":\"80%\",\"workspace\":\"dev\"}},\"data\":{{\"k\":[1]}},\
         \"targets\":[\"00000000-0000-0000-0000-000000000001\",\"00000000-0000-0000-0000-000000000002\"]}}"
    );
    let expected = fixture.store.json(&expected);
    assert_eq!(payloads, [expected.clone(), expected]);
    let rows = fixture
        .store
        .query("SELECT id, status, created_by, targets FROM notification_messages ORDER BY rowid")
        .await;
    let row = |id: &NotificationId| {
        format!(
            "{} pending test [\"00000000-0000-0000-0000-000000000001\",\"00000000-0000-0000-0000-000000000002\"]",
            id.0.simple()
        )
    };
    assert_eq!(rows, ids.iter().map(row).collect::<Vec<_>>());
}

#[tokio::test]
async fn methods_follow_the_deployment_and_the_template_each_once() {
    let none = Methods {
        delivery: None,
        inbox: false,
    };
    let inbox = Methods { inbox: true, ..none };
    for (methods, template, expected) in [
        (none, "NULL", ""),
        (inbox, "NULL", "inbox"),
        (BOTH, "NULL", "smtp,inbox"),
        (BOTH, "'webhook'", "webhook,inbox"),
        (BOTH, "'inbox'", "inbox"),
        (none, "'webhook'", "webhook"),
    ] {
        let fixture = Fixture::new(methods).await;
        let sql = format!("UPDATE notification_templates SET method = {template}");
        fixture.store.query(&sql).await;
        fixture.enqueue(Value::Null).await.unwrap();
        assert_eq!(fixture.methods().await, expected, "{methods:?} {template}");
    }
}

#[tokio::test]
async fn an_error_leaves_the_methods_before_it() {
    let fixture = Fixture::new(BOTH).await;
    fixture
        .store
        .guard("INSERT", "notification_messages", "NEW.method = 'inbox'")
        .await;
    assert_eq!(
        fixture.enqueue(Value::Null).await,
        Err("enqueue notification: guarded".to_owned())
    );
    assert_eq!(fixture.methods().await, "smtp");
}

#[tokio::test]
async fn an_absent_template_or_user_is_told() {
    let fixture = Fixture::new(BOTH).await;
    for notice in [
        Notice {
            template_id: NotificationTemplateId(Uuid::nil()),
            ..fixture.notice(Value::Null)
        },
        Notice {
            user_id: UserId(Uuid::nil()),
            ..fixture.notice(Value::Null)
        },
    ] {
        let error = fixture.enqueuer.enqueue(&notice).await.unwrap_err();
        assert_eq!(
            error.to_string(),
            "new message metadata: sql: no rows in result set"
        );
    }
}

#[tokio::test]
async fn links_are_filled_in_whatever_the_names_hold() {
    let fixture = Fixture::new(BOTH).await;
    for (actions, expected) in [
        ("NULL", Ok("null")),
        ("'null'", Ok("null")),
        ("'[]'", Ok("[]")),
        (
            r#"'[{"label":"{{ .Labels.workspace }} {{.Labels.none}}","url":"{{base_url}}{{.UserName}}"}]'"#,
            Ok(r#"[{"label":"a\"b <no value>","url":"https://drpcd.example.comAda Lovelace"}]"#),
        ),
        (
            r#"'[{"label":"{{if .X}}"}]'"#,
            Err("enqueue notification (payload build): render actions: unknown placeholder \"if .X\""),
        ),
        (
            r#"'[{"label":"{{base_url"}]'"#,
            Err("enqueue notification (payload build): render actions: unclosed placeholder"),
        ),
    ] {
        let sql = format!("UPDATE notification_templates SET actions = {actions}");
        fixture.store.query(&sql).await;
        fixture.store.query("DELETE FROM notification_messages").await;
        let mut notice = fixture.notice(Value::Null);
        notice.labels.insert("workspace", "a\"b".to_owned());
        let enqueued = fixture.enqueuer.enqueue(&notice).await;
        let enqueued = enqueued.map(|_| ()).map_err(|error| error.to_string());
        match expected {
            Err(text) => assert_eq!(enqueued, Err(text.to_owned())),
            Ok(json) => {
                assert_eq!(enqueued, Ok(()), "{actions}");
                let sql = "SELECT payload -> 'actions' FROM notification_messages";
                assert_eq!(fixture.store.query(sql).await[0], json);
            }
        }
    }
}

#[tokio::test]
async fn a_payload_has_a_bound() {
    let fixture = Fixture::new(BOTH).await;
    let recipient = fixture
        .store
        .notification_recipient(fixture.user_id, OUT_OF_MEMORY)
        .await
        .unwrap();
    // What there is beside the text.
    let notice = fixture.notice(Value::String(String::new()));
    let beside = fixture.enqueuer.payload(&notice, &recipient).unwrap().len();
    let data = |size: usize| Value::String("x".repeat(size - beside));
    for size in [MAX_PAYLOAD - 1, MAX_PAYLOAD] {
        assert_eq!(fixture.enqueue(data(size)).await, Ok(2), "{size}");
    }
    assert_eq!(
        fixture.enqueue(data(MAX_PAYLOAD + 1)).await.unwrap_err(),
        "enqueue notification (payload build): payload of 65537 bytes exceeds 65536 bytes"
    );
    assert_eq!(fixture.methods().await, "smtp,inbox,smtp,inbox");
}

#[tokio::test]
async fn every_template_of_the_original_is_there_and_its_links_can_be_filled_in() {
    let fixture = Fixture::new(BOTH).await;
    let sql = "SELECT id, name, kind, enabled_by_default, method IS NULL
        FROM notification_templates ORDER BY name";
    let rows = fixture.store.query(sql).await;
    let expected = [
        "3b7e8f1a4c2d49a6b5e97f3a1c8d6b4e Task Failed",
        "8c5a4d129f7e4b3aa1c86e4f2d9b5a7c Task Completed",
        "a9d027b4ac494fb19f6d45af15f64e7a Workspace Out Of Memory",
        "bd4b7168d05e4e19ad0f3593b77aa90f Task Working",
        "d4a6271ccced4ed084adafd02a9c7799 Task Idle",
        "f047f6a3571340f785aa0394cce9fa3a Workspace Out Of Disk",
    ];
    let mut sorted = rows.clone();
    sorted.sort();
    assert_eq!(sorted, expected.map(|row| format!("{row} system 1 1")));
    for row in rows {
        let (id, _) = row.split_once(' ').unwrap();
        let notice = Notice {
            template_id: NotificationTemplateId(id.parse().unwrap()),
            ..fixture.notice(Value::Null)
        };
        fixture.enqueuer.enqueue(&notice).await.unwrap();
    }
}
