//! Health of apps.

use proto::batch_update_app_health_request::HealthUpdate;

use super::*;

const HEALTHY: i32 = proto::AppHealth::Healthy as i32;
const UNHEALTHY: i32 = proto::AppHealth::Unhealthy as i32;

/// The example's app with a health check, another one with one, and one without.
fn seed() -> String {
    let web = "      - slug: web\n        display_name: Web\n        url: http://localhost:80\n        \
               healthcheck: { url: http://localhost:80/healthz, interval_seconds: 5, threshold: 6 }\n      - slug: vim";
    EXAMPLE.replace("      - slug: vim", web)
}

fn healths(updates: &[(&[u8], i32)]) -> proto::BatchUpdateAppHealthRequest {
    let update = |&(id, health): &(&[u8], i32)| HealthUpdate {
        id: id.to_vec(),
        health,
    };
    proto::BatchUpdateAppHealthRequest {
        updates: updates.iter().map(update).collect(),
    }
}

impl Fixture {
    async fn app(&self, slug: &str) -> uuid::Uuid {
        let id = format!("SELECT id FROM workspace_apps WHERE slug = '{slug}'");
        self.value(&id).await.parse().unwrap()
    }

    /// By slug.
    async fn healths(&self) -> String {
        self.value("SELECT health FROM workspace_apps ORDER BY slug")
            .await
    }
}

#[tokio::test]
async fn s1_049_and_050_changed_healths_are_stored_and_told_once() {
    let fixture = Fixture::with(&seed(), config()).await;
    let api = fixture.connect().await;
    let mut events = fixture.events().await;
    let (code, web) = (fixture.app("code").await, fixture.app("web").await);
    let request = healths(&[(code.as_bytes(), HEALTHY), (web.as_bytes(), UNHEALTHY)]);
    let cost = fixture.cost(api.batch_update_app_healths(request.clone())).await;
    assert_eq!(
        cost, 2,
        "one read and one write; the original writes once for each app"
    );
    assert_eq!(fixture.healths().await, "healthy,disabled,unhealthy");
    let event = events.try_next().unwrap().unwrap();
    let event: serde_json::Value = serde_json::from_str(&event).unwrap();
    assert_eq!(event["kind"], "app_health");
    assert_eq!(event["agent_id"], api.agent_id().to_string());
    assert_eq!(kinds(&mut events), [""; 0]);

    let cost = fixture.cost(api.batch_update_app_healths(request)).await;
    assert_eq!((cost, kinds(&mut events).len()), (1, 0), "s1_050");
    assert_eq!(fixture.store.calls("agent"), 0);
}

#[tokio::test]
async fn s1_051_an_empty_list_costs_nothing() {
    let fixture = Fixture::new().await;
    let api = fixture.connect().await;
    assert_eq!(fixture.cost(api.batch_update_app_healths(healths(&[]))).await, 0);
}

#[tokio::test]
async fn s1_052_to_057_one_invalid_update_refuses_all() {
    let other = "\n  - name: second\n    apps:\n      - { slug: foreign, display_name: F, \
                 healthcheck: { url: http://localhost:1, interval_seconds: 5, threshold: 6 } }\n";
    let fixture = Fixture::with(&format!("{}{other}", seed().trim_end()), config()).await;
    let api = fixture.connect().await;
    let mut events = fixture.events().await;
    let (code, vim) = (fixture.app("code").await, fixture.app("vim").await);
    let (foreign, unknown) = (fixture.app("foreign").await, uuid::Uuid::from_u128(7));
    for (case, id, health, text) in [
        (
            "s1_052",
            &vim.as_bytes()[..],
            HEALTHY,
            format!("workspace app \"{vim}\" (\"vim\") does not have healthchecks enabled"),
        ),
        (
            "s1_053",
            unknown.as_bytes(),
            HEALTHY,
            format!("workspace app ID \"{unknown}\" not found"),
        ),
        (
            "s1_054",
            code.as_bytes(),
            -999,
            format!("unknown health status \"-999\" for app \"{code}\" (\"code\")"),
        ),
        (
            "s1_054",
            code.as_bytes(),
            0,
            format!("unknown health status \"APP_HEALTH_UNSPECIFIED\" for app \"{code}\" (\"code\")"),
        ),
        (
            "s1_056",
            b"\x01\x02a",
            HEALTHY,
            "parse workspace app ID \"\\x01\\x02a\": invalid UUID (got 3 bytes)".to_owned(),
        ),
        (
            "s1_057",
            foreign.as_bytes(),
            HEALTHY,
            format!("workspace app ID \"{foreign}\" not found"),
        ),
    ] {
        // s1_055: a valid one before it is not written either.
        let request = healths(&[(code.as_bytes(), HEALTHY), (id, health)]);
        let error = api.batch_update_app_healths(request).await.unwrap_err();
        assert_eq!(error.text(), text, "{case}");
    }
    assert_eq!(fixture.store.calls("update_app_healths"), 0, "s1_055");
    assert_eq!(kinds(&mut events), [""; 0]);
}

#[tokio::test]
async fn updates_of_one_app_are_compared_with_what_is_stored_and_the_last_change_wins() {
    let fixture = Fixture::with(&seed(), config()).await;
    let api = fixture.connect().await;
    let code = fixture.app("code").await;
    let twice = |first, second| {
        let request = healths(&[(code.as_bytes(), first), (code.as_bytes(), second)]);
        api.batch_update_app_healths(request)
    };
    twice(UNHEALTHY, HEALTHY).await.unwrap();
    assert!(fixture.healths().await.starts_with("healthy,"));
    twice(UNHEALTHY, HEALTHY).await.unwrap();
    assert!(
        fixture.healths().await.starts_with("unhealthy,"),
        "healthy was no change"
    );
}

#[tokio::test]
async fn healths_that_cannot_be_read_or_written_are_told_and_no_event() {
    let fixture = Fixture::with(&seed(), config()).await;
    let api = fixture.connect().await;
    let mut events = fixture.events().await;
    let code = fixture.app("code").await;
    let request = healths(&[(code.as_bytes(), HEALTHY)]);
    fixture.store.fail("update_app_healths", away());
    let error = api.batch_update_app_healths(request.clone()).await.unwrap_err();
    assert_eq!(
        error.text(),
        format!("update workspace app health for app \"{code}\" (\"code\"): database is locked")
    );
    fixture.store.fail("app_healths", away());
    let error = api.batch_update_app_healths(request).await.unwrap_err();
    assert_eq!(
        error.text(),
        format!(
            "get workspace apps by agent ID \"{}\": database is locked",
            api.agent_id()
        )
    );
    assert_eq!(kinds(&mut events), [""; 0]);
}
