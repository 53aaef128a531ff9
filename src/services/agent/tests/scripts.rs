//! Runs of scripts, against a real store.

use super::*;

fn timing(script: &[u8]) -> proto::Timing {
    proto::Timing {
        script_id: script.to_vec(),
        start: at(10),
        end: at(12),
        exit_code: 0,
        stage: 0,
        status: 0,
    }
}

async fn complete(api: &AgentApi, timing: Option<proto::Timing>) -> Result<(), String> {
    let request = proto::WorkspaceAgentScriptCompletedRequest { timing };
    let reply = api.script_completed(request).await;
    reply.map(|_| ()).map_err(|error| error.text().to_owned())
}

async fn script(fixture: &Fixture) -> Vec<u8> {
    let id = fixture
        .value("SELECT id FROM workspace_agent_scripts LIMIT 1")
        .await;
    uuid::Uuid::parse_str(&id).unwrap().as_bytes().to_vec()
}

const TIMINGS: &str = "SELECT started_at, ended_at, exit_code, stage, status
    FROM workspace_agent_script_timings ORDER BY started_at";

#[tokio::test]
async fn s2_051_and_052_runs_are_stored_as_they_went() {
    let fixture = Fixture::new().await;
    let (api, id) = (fixture.connect().await, script(&fixture).await);
    for (second, (stage, status, exit_code)) in
        [(0, 0, 0), (1, 0, 0), (2, 0, 0), (0, 2, 255), (1, 1, 1), (2, 3, 0)]
            .into_iter()
            .enumerate()
    {
        let start = at(i64::try_from(second).unwrap());
        let timing = proto::Timing {
            start,
            stage,
            status,
            exit_code,
            ..timing(&id)
        };
        complete(&api, Some(timing)).await.unwrap();
    }
    assert_eq!(
        fixture.store.query(TIMINGS).await,
        [
            "0 12000000 0 start ok",
            "1000000 12000000 0 stop ok",
            "2000000 12000000 0 cron ok",
            "3000000 12000000 255 start timed_out",
            "4000000 12000000 1 stop exit_failure",
            "5000000 12000000 0 cron pipes_left_open",
        ]
    );
}

#[tokio::test]
async fn s2_053_to_057_bad_timings_are_refused_in_order() {
    let fixture = Fixture::new().await;
    let (api, id) = (fixture.connect().await, script(&fixture).await);
    let zero = Some(prost_types::Timestamp {
        seconds: -62_135_596_800,
        nanos: 0,
    });
    let wild = Some(prost_types::Timestamp {
        seconds: i64::MAX,
        nanos: 0,
    });
    let nanos = |nanos| Some(prost_types::Timestamp { seconds: 12, nanos });
    let start = "script start time is required and cannot be zero";
    let end = "script end time is required and cannot be zero";
    for (timing, expected) in [
        (None, "script timing is required"),
        (
            Some(proto::Timing {
                start: None,
                ..timing(b"abc")
            }),
            "script id from bytes: invalid UUID (got 3 bytes)",
        ),
        (
            Some(proto::Timing {
                start: None,
                end: None,
                ..timing(&id)
            }),
            start,
        ),
        (
            Some(proto::Timing {
                start: zero,
                ..timing(&id)
            }),
            start,
        ),
        (
            Some(proto::Timing {
                start: wild,
                ..timing(&id)
            }),
            start,
        ),
        (
            Some(proto::Timing {
                end: None,
                ..timing(&id)
            }),
            end,
        ),
        (
            Some(proto::Timing {
                end: zero,
                ..timing(&id)
            }),
            end,
        ),
        (
            Some(proto::Timing {
                start: at(13),
                ..timing(&id)
            }),
            "script start time cannot be after end time",
        ),
        // Both are stored as the same microsecond, and compared before.
        (
            Some(proto::Timing {
                start: nanos(200),
                end: nanos(100),
                ..timing(&id)
            }),
            "script start time cannot be after end time",
        ),
    ] {
        assert_eq!(complete(&api, timing).await.unwrap_err(), expected);
    }
    assert_eq!(fixture.store.query(TIMINGS).await, [""; 0]);
}

#[tokio::test]
async fn s2_058_and_059_an_instant_run_and_one_at_the_epoch_are_accepted() {
    let fixture = Fixture::new().await;
    let (api, id) = (fixture.connect().await, script(&fixture).await);
    let epoch = proto::Timing {
        start: at(0),
        end: at(0),
        ..timing(&id)
    };
    complete(&api, Some(epoch)).await.unwrap();
    complete(
        &api,
        Some(proto::Timing {
            end: at(10),
            ..timing(&id)
        }),
    )
    .await
    .unwrap();
    assert_eq!(
        fixture.store.query(TIMINGS).await,
        ["0 0 0 start ok", "10000000 10000000 0 start ok"]
    );
}

#[tokio::test]
async fn s2_060_a_run_given_twice_and_what_the_store_does_not_know_is_an_insert_error() {
    let fixture = Fixture::new().await;
    let (api, id) = (fixture.connect().await, script(&fixture).await);
    complete(&api, Some(timing(&id))).await.unwrap();
    for timing in [
        timing(&id),
        timing(&[0; 16]),
        proto::Timing {
            start: at(1),
            stage: 9,
            ..timing(&id)
        },
        proto::Timing {
            start: at(1),
            status: 9,
            ..timing(&id)
        },
    ] {
        let error = complete(&api, Some(timing)).await.unwrap_err();
        assert!(
            error.starts_with("insert workspace agent script timings into database: "),
            "{error}"
        );
    }
    assert_eq!(fixture.store.query(TIMINGS).await.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_run_whose_answer_was_lost_is_stored_once_and_no_error() {
    let fixture = Fixture::patient(EXAMPLE, config(), Duration::from_mins(1)).await;
    let (api, id) = (fixture.connect().await, script(&fixture).await);
    fixture.store.lose_answer("insert_script_timing", away());
    complete(&api, Some(timing(&id))).await.unwrap();
    assert_eq!(fixture.store.calls("insert_script_timing"), 2);
    assert_eq!(
        fixture.store.query(TIMINGS).await,
        ["10000000 12000000 0 start ok"]
    );
    // Without a lost answer it is the agent that sent it twice.
    complete(&api, Some(timing(&id))).await.unwrap_err();
}

#[tokio::test]
async fn a_run_costs_one_statement_and_no_event() {
    let fixture = Fixture::new().await;
    let (api, id) = (fixture.connect().await, script(&fixture).await);
    let mut events = fixture.events().await;
    assert_eq!(fixture.cost(complete(&api, Some(timing(&id)))).await, 1);
    assert_eq!(kinds(&mut events), [""; 0]);
}

#[tokio::test]
async fn a_run_of_another_agents_script_is_stored_as_in_the_original() {
    let other = EXAMPLE.replace("name: dev", "name: prod");
    let fixture = Fixture::with(&format!("{EXAMPLE}\n---\n{other}"), config()).await;
    let api = fixture.connect().await;
    let foreign = format!(
        "SELECT id FROM workspace_agent_scripts WHERE lower(hex(workspace_agent_id)) <> '{}' LIMIT 1",
        api.agent_id().0.simple()
    );
    let id: uuid::Uuid = fixture.value(&foreign).await.parse().unwrap();
    complete(&api, Some(timing(id.as_bytes()))).await.unwrap();
    assert_eq!(fixture.store.query(TIMINGS).await.len(), 1);
}
