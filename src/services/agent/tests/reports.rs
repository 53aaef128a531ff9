//! Lifecycle, startup and metadata.

use super::*;

#[tokio::test]
async fn s1_029_to_034_states_and_their_times() {
    let fixture = Fixture::new().await;
    let api = fixture.connect().await;
    let mut events = fixture.events().await;
    let times = "SELECT lifecycle_state, started_at / 1000000, ready_at / 1000000 FROM workspace_agents";
    let steps = [
        (State::Created, 1, "created - -"),
        (State::Starting, 2, "starting 2 -"),
        (State::StartTimeout, 3, "start_timeout 2 3"),
        (State::StartError, 4, "start_error 2 4"),
        (State::Ready, 5, "ready 2 5"),
        (State::ShuttingDown, 6, "shutting_down 2 5"),
        (State::ShutdownTimeout, 7, "shutdown_timeout 2 5"),
        (State::ShutdownError, 8, "shutdown_error 2 5"),
        (State::Off, 9, "off 2 5"),
        (State::Starting, 10, "starting 10 -"),
    ];
    for (state, seconds, expected) in steps {
        let request = lifecycle(state.into(), at(seconds));
        let reply = api.update_lifecycle(request).await.unwrap();
        assert_eq!(Some(reply), request.lifecycle);
        assert_eq!(fixture.value(times).await, expected, "{state:?}");
    }
    assert_eq!(kinds(&mut events), ["agt_lifecycle_update"; 10]);
    assert_eq!(fixture.store.calls("agent"), 0, "the row is not read");
}

#[tokio::test]
async fn s1_031_from_created_straight_to_ready_sets_both_times() {
    let fixture = Fixture::new().await;
    let api = fixture.connect().await;
    api.update_lifecycle(lifecycle(State::Ready.into(), at(7)))
        .await
        .unwrap();
    let times = "SELECT started_at, ready_at FROM workspace_agents";
    assert_eq!(fixture.value(times).await, "7000000 7000000");
}

#[tokio::test]
async fn s1_032_year_one_is_now_and_an_absent_time_is_1970() {
    let fixture = Fixture::new().await;
    let api = fixture.connect().await;
    let year_one = Some(Timestamp::ZERO.into());
    let reply = api
        .update_lifecycle(lifecycle(State::Ready.into(), year_one))
        .await
        .unwrap();
    let now = Timestamp::from_proto(&reply.changed_at.unwrap()).unwrap();
    assert!(now >= NOW);
    let times = "SELECT started_at, ready_at FROM workspace_agents";
    assert_eq!(fixture.value(times).await, format!("{0} {0}", now.as_micros()));
    api.update_lifecycle(lifecycle(State::Ready.into(), None))
        .await
        .unwrap();
    assert_eq!(fixture.value("SELECT ready_at FROM workspace_agents").await, "0");
}

#[tokio::test]
async fn s1_035_and_043_states_that_are_refused_write_and_publish_nothing() {
    let fixture = Fixture::new().await;
    let api = fixture.connect().await;
    let mut events = fixture.events().await;
    let texts = [
        (
            lifecycle(-999, at(1)),
            "unknown lifecycle state \"-999\"".to_owned(),
        ),
        (
            lifecycle(0, at(1)),
            "unknown lifecycle state \"STATE_UNSPECIFIED\"".to_owned(),
        ),
        (
            proto::UpdateLifecycleRequest { lifecycle: None },
            "lifecycle is required".to_owned(),
        ),
    ];
    for (request, text) in texts {
        assert_eq!(api.update_lifecycle(request).await.unwrap_err().text(), text);
    }
    fixture
        .store
        .fail("update_lifecycle", StoreError::Rejected("boom".into()));
    let error = api
        .update_lifecycle(lifecycle(State::Ready.into(), at(1)))
        .await
        .unwrap_err();
    assert_eq!(error.text(), "update workspace agent lifecycle state: boom");
    fixture.store.fail("update_lifecycle", StoreError::NoRows);
    let error = api
        .update_lifecycle(lifecycle(State::Ready.into(), at(1)))
        .await
        .unwrap_err();
    let gone = format!(
        "get workspace agent by id \"{}\": sql: no rows in result set",
        api.agent_id()
    );
    assert_eq!(error.text(), gone);
    assert_eq!(kinds(&mut events), [""; 0]);
    assert_eq!(
        fixture
            .value("SELECT lifecycle_state FROM workspace_agents")
            .await,
        "created"
    );
}

fn startup(version: &str, subsystems: &[i32]) -> proto::UpdateStartupRequest {
    let startup = proto::Startup {
        version: version.into(),
        expanded_directory: "/home/ada/src".into(),
        subsystems: subsystems.to_vec(),
    };
    proto::UpdateStartupRequest {
        startup: Some(startup),
    }
}

#[tokio::test]
async fn s1_044_and_047_startup_is_stored_sorted_and_once_and_echoed_as_sent() {
    let fixture = Fixture::new().await;
    let api = fixture.connect().await;
    let request = startup("v1.2.3", &[3, 2, 1, 1]);
    assert_eq!(
        Some(api.update_startup(request.clone()).await.unwrap()),
        request.startup
    );
    let row = "SELECT version, expanded_directory, subsystems, api_version FROM workspace_agents";
    let expected = r#"v1.2.3 /home/ada/src ["envbox","envbuilder","exectrace"] 2.8"#;
    assert_eq!(fixture.value(row).await, expected);
}

#[tokio::test]
async fn s1_045_and_046_and_048_startups_that_are_refused() {
    let fixture = Fixture::new().await;
    let api = fixture.connect().await;
    let texts = [
        (startup("asdf", &[]), "invalid agent semver version \"asdf\""),
        (startup("v1.2.3", &[-999]), "invalid agent subsystem \"-999\""),
        (
            startup("v1.2.3", &[0]),
            "invalid agent subsystem \"SUBSYSTEM_UNSPECIFIED\"",
        ),
        (
            startup("v1.2.3-\0", &[]),
            "invalid agent semver version \"v1.2.3-\\x00\"",
        ),
        (
            proto::UpdateStartupRequest { startup: None },
            "startup is required",
        ),
    ];
    for (request, text) in texts {
        assert_eq!(api.update_startup(request).await.unwrap_err().text(), text);
    }
    assert_eq!(fixture.store.calls("update_startup"), 0);
    fixture.store.fail("update_startup", away());
    let error = api.update_startup(startup("v1.2.3", &[])).await.unwrap_err();
    assert_eq!(
        error.text(),
        "update workspace agent startup in database: database is locked"
    );

    let authenticated = fixture.store.authenticate(&fixture.token).await.unwrap().unwrap();
    let nameless = fixture
        .services
        .begin(authenticated, String::new(), fixture.services.heard())
        .await
        .unwrap();
    let error = nameless.update_startup(startup("asdf", &[])).await.unwrap_err();
    assert_eq!(error.text(), "internal error; api version unspecified");
}

fn metadata(items: &[(&str, &str)]) -> proto::BatchUpdateMetadataRequest {
    let item = |&(key, value): &(&str, &str)| {
        let collected_at = at(1);
        let result = proto::workspace_agent_metadata::Result {
            collected_at,
            value: value.into(),
            ..Default::default()
        };
        proto::Metadata {
            key: key.into(),
            result: Some(result),
        }
    };
    proto::BatchUpdateMetadataRequest {
        metadata: items.iter().map(item).collect(),
    }
}

#[tokio::test]
async fn s1_068_and_072_metadata_is_stored_with_the_servers_time() {
    let fixture = Fixture::new().await;
    let api = fixture.connect().await;
    api.batch_update_metadata(metadata(&[])).await.unwrap();
    api.batch_update_metadata(metadata(&[("cpu", " 5% "), ("mem", "1 GiB")]))
        .await
        .unwrap();
    fixture.flush().await;
    let rows = "SELECT key, value, collected_at / 60000000 FROM workspace_agent_metadata ORDER BY key";
    let now = NOW.as_micros() / 60_000_000;
    assert_eq!(fixture.value(rows).await, format!("cpu 5% {now},mem 1 GiB {now}"));
}

#[tokio::test]
async fn s1_070_keys_over_the_limit_are_refused_and_those_before_it_kept() {
    let fixture = Fixture::new().await;
    let api = fixture.connect().await;
    let long = "k".repeat(6_144 - 6);
    let request = metadata(&[("cpu", "1"), ("mem", "2"), (&long, "3"), ("x", "4"), ("y", "5")]);
    let error = api.batch_update_metadata(request).await.unwrap_err();
    assert_eq!(error.text(), "metadata keys of 6145 bytes exceeded 6144 bytes");
    fixture.flush().await;
    let stored = "SELECT value FROM workspace_agent_metadata ORDER BY key";
    assert_eq!(fixture.value(stored).await, "1,2");
}

#[tokio::test]
async fn keys_are_taken_up_to_the_limit_and_no_further() {
    let fixture = Fixture::new().await;
    let api = fixture.connect().await;
    for (bytes, expected) in [
        (6_143, "ok"),
        (6_144, "ok"),
        (6_145, "metadata keys of 6145 bytes exceeded 6144 bytes"),
    ] {
        let (first, second) = ("k".repeat(3_000), "l".repeat(bytes - 3_000));
        let told = api
            .batch_update_metadata(metadata(&[(&first, ""), (&second, "")]))
            .await;
        assert_eq!(
            told.map_or_else(|error| error.text().to_owned(), |_| "ok".to_owned()),
            expected
        );
    }
}

#[tokio::test]
async fn a_metadata_item_without_a_result_is_refused_whole() {
    let fixture = Fixture::new().await;
    let api = fixture.connect().await;
    let mut request = metadata(&[("cpu", "1")]);
    request.metadata.push(proto::Metadata {
        key: "mem".into(),
        result: None,
    });
    assert_eq!(
        api.batch_update_metadata(request).await.unwrap_err().text(),
        "result is required"
    );
    fixture.flush().await;
    assert_eq!(
        fixture
            .value("SELECT value FROM workspace_agent_metadata WHERE value <> ''")
            .await,
        ""
    );
}
