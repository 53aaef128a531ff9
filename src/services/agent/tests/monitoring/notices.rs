//! What the owner is told of a shortage, and that nothing depends on it.

use super::*;

#[tokio::test(start_paused = true)]
async fn s2_032_a_notification_that_failed_is_not_made_up_for() {
    let fixture = Fixture::with(&seed(), config()).await;
    let api = fixture.connect().await;
    fixture.store.fail("insert_notification", away());
    let mut full = volumes(&[&[("/data", 10), ("/home", 10)]]);
    full.datapoints[0].memory = Some(MemoryUsage { used: 10, total: 10 });
    let error = api
        .push_resources_monitoring_usage(full.clone())
        .await
        .unwrap_err();
    assert_eq!(
        error.text(),
        "monitor memory: notify workspace OOM: enqueue notification: database is locked\n\
         monitor volume: notify workspace OOD: enqueue notification: database is locked"
    );
    fixture.store.mend("insert_notification");
    api.push_resources_monitoring_usage(full.clone()).await.unwrap();
    assert_eq!(fixture.sql_count("notification_messages").await, 0);

    fixture.store.fail("workspace_by_agent", away());
    tokio::time::advance(DEBOUNCE + Duration::from_secs(1)).await;
    api.push_resources_monitoring_usage(memory_of(&[1]))
        .await
        .unwrap();
    let error = api
        .push_resources_monitoring_usage(memory_of(&[10]))
        .await
        .unwrap_err();
    assert_eq!(
        error.text(),
        "monitor memory: get workspace by id: database is locked"
    );
}

#[tokio::test(start_paused = true)]
async fn s2_033_notifications_say_what_and_where() {
    let fixture = Fixture::with(&seed(), config()).await;
    let api = fixture.connect().await;
    let mut full = volumes(&[&[("/home", 10)]]);
    full.datapoints[0].memory = Some(MemoryUsage { used: 10, total: 10 });
    api.push_resources_monitoring_usage(full.clone()).await.unwrap();
    let notifications = fixture.notifications().await;
    let [memory, disk] = &notifications[..] else {
        panic!("{notifications:?}")
    };
    assert_eq!(
        memory["notification_template_id"],
        "a9d027b4-ac49-4fb1-9f6d-45af15f64e7a"
    );
    assert_eq!(
        memory["labels"],
        json!({ "workspace": "dev", "threshold": "80%" })
    );
    assert_eq!(memory["data"], json!({ "timestamp": NOW.to_string() }));
    assert_eq!(
        disk["notification_template_id"],
        "f047f6a3-5713-40f7-85aa-0394cce9fa3a"
    );
    assert_eq!(disk["labels"], json!({ "workspace": "dev" }));
    let volume = json!({ "path": "/home", "threshold": "80%" });
    assert_eq!(
        disk["data"],
        json!({ "volumes": [volume], "timestamp": NOW.to_string() })
    );
    let ids = "SELECT id, owner_id, organization_id FROM workspaces";
    let ids = fixture.value(ids).await;
    for payload in [memory, disk] {
        let targets: Vec<_> = payload["targets"].as_array().unwrap().iter().collect();
        let targets: Vec<_> = targets
            .iter()
            .map(|id| id.as_str().unwrap().replace('-', ""))
            .collect();
        assert_eq!(targets.join(" "), ids);
    }
    let by = "SELECT created_by FROM notification_messages ORDER BY rowid";
    assert_eq!(
        fixture.value(by).await,
        "workspace-monitor-memory,workspace-monitor-volumes"
    );

    tokio::time::advance(DEBOUNCE + Duration::from_secs(1)).await;
    api.push_resources_monitoring_usage(memory_of(&[1]))
        .await
        .unwrap();
    api.push_resources_monitoring_usage(memory_of(&[10]))
        .await
        .unwrap();
    let again = fixture.notifications().await;
    assert_ne!(again[2]["data"]["timestamp"], memory["data"]["timestamp"]);
}

#[tokio::test(start_paused = true)]
async fn the_owner_of_today_is_notified() {
    let fixture = Fixture::with(&seed(), config()).await;
    let api = fixture.connect().await;
    let heir = "INSERT INTO users (id, email, username, name, created_at, updated_at, status)
        SELECT x'00000000000000000000000000000009', 'b@example.com', 'bob', '', 1, 1, 'active'";
    fixture.store.query(heir).await;
    fixture
        .store
        .query("UPDATE workspaces SET owner_id = x'00000000000000000000000000000009'")
        .await;
    api.push_resources_monitoring_usage(memory_of(&[10]))
        .await
        .unwrap();
    let payload = &fixture.notifications().await[0];
    assert_eq!(payload["user_username"], "bob");
    assert_eq!(
        payload["user_name"], "bob",
        "the user name stands for the missing name"
    );
}

#[tokio::test(start_paused = true)]
async fn conn_072_an_unwanted_or_repeated_notification_is_no_error_to_the_agent() {
    let fixture = Fixture::with(&seed(), config()).await;
    let api = fixture.connect().await;
    api.push_resources_monitoring_usage(memory_of(&[10]))
        .await
        .unwrap();
    // The same at the same time: only a restart that forgot its debounce could do that.
    fixture.set_states("OK").await;
    fixture
        .store
        .query("UPDATE workspace_agent_memory_resource_monitors SET debounced_until = 0")
        .await;
    let again = fixture.connect().await;
    again
        .push_resources_monitoring_usage(memory_of(&[10]))
        .await
        .unwrap();
    assert_eq!(fixture.sql_count("notification_messages").await, 1);
    assert_eq!(fixture.store.calls("insert_notification"), 2);

    fixture.opt_out("f047f6a3571340f785aa0394cce9fa3a").await;
    again
        .push_resources_monitoring_usage(volumes(&[&[("/home", 10)]]))
        .await
        .unwrap();
    assert_eq!(fixture.volume_states().await, "OK,NOK");
    assert_eq!(fixture.sql_count("notification_messages").await, 1);
}
