//! What apps say that they are doing, the notifications of tasks, and what keeps a workspace running.

use proto::update_app_status_request::AppStatusState;
use serde_json::{Value, json};

use super::*;

const WORKING: i32 = AppStatusState::Working as i32;
const IDLE: i32 = AppStatusState::Idle as i32;
const COMPLETE: i32 = AppStatusState::Complete as i32;
const FAILURE: i32 = AppStatusState::Failure as i32;

fn status(state: i32, message: &str) -> proto::UpdateAppStatusRequest {
    proto::UpdateAppStatusRequest {
        slug: "code".into(),
        state,
        message: message.into(),
        uri: String::new(),
    }
}

impl Fixture {
    /// A ready agent whose workspace has a task that runs in the app `code`.
    async fn with_task() -> Self {
        let fixture = Self::new().await;
        for sql in [
            "INSERT INTO tasks (id, organization_id, owner_id, name, workspace_id, template_version_id, prompt, created_at)
            SELECT x'0000000000000000000000000000000a', organization_id, owner_id, 'sort', workspaces.id,
                (SELECT id FROM template_versions), 'sort it', 1 FROM workspaces",
            // Of an older build, which counts no more.
            "INSERT INTO task_workspace_apps SELECT tasks.id, agent_id, apps.id, 1
            FROM tasks, workspace_apps AS apps WHERE slug = 'vim'",
            "INSERT INTO task_workspace_apps SELECT tasks.id, agent_id, apps.id, 2
            FROM tasks, workspace_apps AS apps WHERE slug = 'code'",
            "UPDATE workspace_agents SET lifecycle_state = 'ready'",
        ] {
            fixture.store.query(sql).await;
        }
        fixture
    }

    async fn statuses(&self) -> Vec<String> {
        self.store
            .query("SELECT state, message, uri FROM workspace_app_statuses ORDER BY rowid")
            .await
    }

    /// Names and methods of the queued notifications.
    async fn notified(&self) -> Vec<String> {
        self.store
            .query("SELECT name FROM notification_messages AS m JOIN notification_templates AS t ON t.id = notification_template_id ORDER BY m.rowid")
            .await
    }

    fn bumps(&self) -> usize {
        self.store.calls("bump_activity")
    }
}

#[tokio::test]
async fn s1_058_a_completed_task_is_stored_told_and_notified() {
    let fixture = Fixture::with_task().await;
    let api = fixture.connect().await;
    let mut events = fixture.events().await;
    let request = proto::UpdateAppStatusRequest {
        uri: "https://example.com/pull/1".into(),
        ..status(COMPLETE, "done")
    };
    api.update_app_status(request).await.unwrap();
    assert_eq!(
        fixture.statuses().await,
        ["complete done https://example.com/pull/1"]
    );
    let belongs = "SELECT count(*) FROM workspace_app_statuses AS s
        JOIN workspace_apps AS app ON app.id = s.app_id AND app.agent_id = s.agent_id AND app.slug = 'code'
        JOIN workspaces AS w ON w.id = s.workspace_id";
    assert_eq!(fixture.value(belongs).await, "1");
    let event: Value = serde_json::from_str(&events.try_next().unwrap().unwrap()).unwrap();
    assert_eq!(event["kind"], "agt_app_status_update");
    assert_eq!(event["agent_id"], api.agent_id().to_string());

    assert_eq!(fixture.notified().await, ["Task Completed"]);
    let row = "SELECT payload FROM notification_messages WHERE created_by = 'api-workspace-agent-app-status'";
    let payload: Value = serde_json::from_str(&fixture.value(row).await).unwrap();
    assert_eq!(payload["labels"], json!({ "task": "sort", "workspace": "dev" }));
    assert_eq!(
        payload["data"],
        json!({ "dedupe_bypass_ts": "2026-03-20T12:00:00Z" }),
        "cut to the minute"
    );
    let ids = "SELECT w.id, owner_id, organization_id, app.id FROM workspaces AS w, workspace_apps AS app WHERE slug = 'code'";
    let targets: Vec<_> = payload["targets"].as_array().unwrap().iter().collect();
    let targets: Vec<_> = targets
        .iter()
        .map(|id| id.as_str().unwrap().replace('-', ""))
        .collect();
    assert_eq!(targets.join(" "), fixture.value(ids).await);
}

#[tokio::test]
async fn s1_059_an_unknown_slug_is_named() {
    let fixture = Fixture::new().await;
    let api = fixture.connect().await;
    let request = proto::UpdateAppStatusRequest {
        slug: "no\"ne".into(),
        ..status(IDLE, "")
    };
    let error = api.update_app_status(request).await.unwrap_err();
    assert_eq!(
        error.text(),
        "unexpected status code 400: Failed to get workspace app.\n\tError: No app found with slug \"no\\\"ne\""
    );
    assert_eq!(error.code(), 0);
}

#[tokio::test]
async fn s1_060_an_unknown_state_is_refused_before_any_read() {
    let fixture = Fixture::new().await;
    let api = fixture.connect().await;
    let error = api.update_app_status(status(77, "")).await.unwrap_err();
    assert_eq!(
        error.text(),
        "unexpected status code 400: Invalid state provided.\n\tError: invalid state: \"77\"\n\tstate: State must be \
         one of: complete, failure, working, idle."
    );
    assert_eq!(fixture.store.calls("app_before_status"), 0);
}

#[tokio::test]
async fn s1_061_and_062_messages_are_measured_in_bytes_and_an_empty_uri_is_null() {
    let fixture = Fixture::new().await;
    let api = fixture.connect().await;
    for message in ["x".repeat(161), "日".repeat(60)] {
        let error = api.update_app_status(status(IDLE, &message)).await.unwrap_err();
        assert_eq!(
            error.text(),
            "unexpected status code 400: Message is too long.\n\tError: Message must be less than 160 characters.\n\
             \tmessage: Message must be less than 160 characters."
        );
    }
    let fitting = [159, 160].map(|length| "x".repeat(length));
    for message in &fitting {
        api.update_app_status(status(IDLE, message)).await.unwrap();
    }
    let stored = fitting.map(|message| format!("idle {message} -"));
    assert_eq!(fixture.statuses().await, stored);
}

#[tokio::test]
async fn s1_063_the_cleaned_message_is_stored() {
    let fixture = Fixture::new().await;
    let api = fixture.connect().await;
    let message = " <b>two</b>\n\u{1b}[31mlines\u{1b}[0m\u{0} ";
    api.update_app_status(status(FAILURE, message)).await.unwrap();
    assert_eq!(fixture.statuses().await, ["failure two lines -"]);
}

#[tokio::test]
async fn s1_064_and_065_news_is_told_and_work_keeps_the_workspace_running() {
    for (case, states, notified, bumps) in [
        ("s1_064", vec![WORKING], vec![], 1),
        ("s1_064", vec![IDLE], vec!["Task Idle"], 0),
        ("s1_065", vec![WORKING, IDLE], vec!["Task Idle"], 2),
        ("s1_065", vec![IDLE, IDLE], vec!["Task Idle"], 0),
        ("again", vec![WORKING, WORKING], vec![], 2),
        ("failed", vec![WORKING, FAILURE], vec!["Task Failed"], 2),
        (
            "taken up",
            vec![IDLE, WORKING, COMPLETE],
            vec!["Task Idle", "Task Working", "Task Completed"],
            2,
        ),
    ] {
        let fixture = Fixture::with_task().await;
        let api = fixture.connect().await;
        for state in &states {
            api.update_app_status(status(*state, "")).await.unwrap();
        }
        assert_eq!(
            fixture.statuses().await.len(),
            states.len(),
            "{case}: every status is a row"
        );
        assert_eq!(fixture.notified().await, notified, "{case} {states:?}");
        assert_eq!(fixture.bumps(), bumps, "{case} {states:?}");
    }
}

#[tokio::test]
async fn s1_066_and_067_who_has_no_ready_task_in_this_app_is_not_notified() {
    for (case, sql) in [
        (
            "s1_066",
            "UPDATE workspace_agents SET lifecycle_state = 'starting'",
        ),
        ("s1_067", "UPDATE tasks SET deleted_at = 1"),
        (
            "another app",
            "DELETE FROM task_workspace_apps WHERE workspace_build_number = 2",
        ),
        ("no app", "UPDATE task_workspace_apps SET workspace_app_id = NULL"),
        ("deleted agent", "UPDATE workspace_agents SET deleted = 1"),
    ] {
        let fixture = Fixture::with_task().await;
        let api = fixture.connect().await;
        fixture.store.query(sql).await;
        let mut events = fixture.events().await;
        api.update_app_status(status(COMPLETE, "")).await.unwrap();
        assert_eq!(fixture.notified().await, [""; 0], "{case}");
        assert_eq!(fixture.statuses().await, ["complete  -"], "{case}");
        assert_eq!(kinds(&mut events), ["agt_app_status_update"], "{case}");
        assert_eq!(fixture.store.calls("agent"), 0);
    }
}

#[tokio::test]
async fn a_status_costs_no_more_statements_than_the_originals() {
    let fixture = Fixture::with_task().await;
    let api = fixture.connect().await;
    let cost = async |state| fixture.cost(api.update_app_status(status(state, ""))).await;
    // App, latest status, insert, task, agent, template and user, notification.
    assert_eq!(cost(COMPLETE).await, 4, "the original 7");
    // App, latest status, insert, task, agent.
    assert_eq!(cost(COMPLETE).await, 2, "the original 5");
    fixture.store.query("UPDATE tasks SET deleted_at = 1").await;
    // App, latest status, insert.
    assert_eq!(cost(IDLE).await, 2, "the original 3");
    // And the bump.
    assert_eq!(cost(WORKING).await, 3, "the original 4");
}

#[tokio::test]
async fn a_notification_that_fails_does_not_fail_the_status() {
    for method in ["notification_recipient", "insert_notification"] {
        let fixture = Fixture::with_task().await;
        let api = fixture.connect().await;
        fixture.store.fail(method, away());
        api.update_app_status(status(COMPLETE, "")).await.unwrap();
        assert_eq!(fixture.statuses().await.len(), 1, "{method}");
    }
    let fixture = Fixture::with_task().await;
    let api = fixture.connect().await;
    api.session.drop_copies();
    fixture.store.fail("workspace_by_agent", away());
    api.update_app_status(status(COMPLETE, "")).await.unwrap();
    assert_eq!(fixture.notified().await, [""; 0]);
    fixture.store.mend("workspace_by_agent");
    api.update_app_status(status(FAILURE, "")).await.unwrap();
    assert_eq!(
        fixture.notified().await,
        ["Task Failed"],
        "read when there is no copy"
    );
}

#[tokio::test]
async fn conn_072_the_same_state_within_a_minute_is_dropped_without_an_error() {
    let fixture = Fixture::with_task().await;
    let api = fixture.connect().await;
    for state in [IDLE, WORKING, IDLE] {
        api.update_app_status(status(state, "")).await.unwrap();
    }
    assert_eq!(fixture.notified().await, ["Task Idle", "Task Working"]);
}

#[tokio::test]
async fn a_status_that_cannot_be_stored_is_told_and_no_event() {
    let fixture = Fixture::new().await;
    let api = fixture.connect().await;
    let mut events = fixture.events().await;
    let request = proto::UpdateAppStatusRequest {
        uri: "a\0b".into(),
        ..status(IDLE, "")
    };
    let error = api.update_app_status(request).await.unwrap_err();
    assert_eq!(
        error.text(),
        "unexpected status code 500: Failed to insert workspace app status.\n\tError: uri must not contain NUL"
    );
    let uri = |length| proto::UpdateAppStatusRequest {
        uri: "x".repeat(length),
        ..status(IDLE, "")
    };
    let error = api.update_app_status(uri(8_193)).await.unwrap_err();
    assert_eq!(
        error.text(),
        "unexpected status code 400: URI is too long.\n\tError: URI must be at most 8192 bytes.\n\turi: URI must be at \
         most 8192 bytes."
    );
    fixture.store.fail("insert_app_status", away());
    for length in [8_191, 8_192] {
        let error = api.update_app_status(uri(length)).await.unwrap_err();
        assert_eq!(
            error.text(),
            "unexpected status code 500: Failed to insert workspace app status.\n\tError: \
             database is locked"
        );
    }
    assert_eq!(kinds(&mut events), [""; 0]);
    assert_eq!(fixture.bumps(), 0);
}

#[tokio::test]
async fn the_state_is_working_when_it_is_left_out() {
    let fixture = Fixture::new().await;
    let api = fixture.connect().await;
    let request = proto::UpdateAppStatusRequest {
        slug: "code".into(),
        ..Default::default()
    };
    api.update_app_status(request).await.unwrap();
    assert_eq!(fixture.statuses().await, ["working  -"]);
}
