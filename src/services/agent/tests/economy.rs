//! How many statements each call costs, against what the original's cost: a kind that gets dearer fails here.
//!
//! The bounds of what an agent does at a start and then are those of `agent-services-1.md` D, less what reading the
//! agent's row first costs the original (docs/DEVIATIONS.md).

use super::*;

impl Fixture {
    /// Statements so far, of any kind.
    fn statements(&self) -> u64 {
        self.store.statements().iter().map(|(_, count)| count).sum()
    }

    /// Statements of one name so far.
    fn statements_of(&self, name: &str) -> u64 {
        let statements = self.store.statements().into_iter();
        statements
            .filter(|&(statement, _)| statement == name)
            .map(|(_, count)| count)
            .sum()
    }

    /// What `call` costs beside what it leaves to a batch.
    pub(super) async fn cost<T, E: std::fmt::Debug>(&self, call: impl Future<Output = Result<T, E>>) -> u64 {
        let before = self.statements();
        call.await.unwrap();
        self.statements() - before
    }
}

fn stats(connections: i64) -> proto::UpdateStatsRequest {
    proto::UpdateStatsRequest {
        stats: Some(proto::Stats {
            connection_count: connections,
            ..Default::default()
        }),
    }
}

fn log() -> proto::BatchCreateLogsRequest {
    proto::BatchCreateLogsRequest {
        log_source_id: vec![1; 16],
        logs: vec![proto::Log {
            output: "line".into(),
            ..Default::default()
        }],
    }
}

#[tokio::test]
async fn a_normal_start_reads_the_agents_row_once_and_costs_less_than_the_originals() {
    let fixture = Fixture::new().await;
    // The original: authentication 1 or more, memory and volume monitors 2.
    let before = fixture.statements();
    let api = fixture.connect().await;
    assert_eq!(fixture.statements() - before, 2);

    let startup = proto::UpdateStartupRequest {
        startup: Some(proto::Startup {
            version: "v2.31.0".into(),
            ..Default::default()
        }),
    };
    for (what, cost, original) in [
        (
            "manifest",
            fixture.cost(api.get_manifest(proto::GetManifestRequest {})).await,
            6,
        ),
        ("startup", fixture.cost(api.update_startup(startup)).await, 2),
        (
            "starting",
            fixture
                .cost(api.update_lifecycle(lifecycle(State::Starting as i32, at(1))))
                .await,
            2,
        ),
        (
            "ready",
            fixture
                .cost(api.update_lifecycle(lifecycle(State::Ready as i32, at(2))))
                .await,
            3,
        ),
        (
            "first banners",
            fixture
                .cost(api.get_announcement_banners(proto::GetAnnouncementBannersRequest {}))
                .await,
            3,
        ),
        (
            "banners",
            fixture
                .cost(api.get_announcement_banners(proto::GetAnnouncementBannersRequest {}))
                .await,
            0,
        ),
        (
            "monitors",
            fixture
                .cost(api.get_resources_monitoring_configuration(
                    proto::GetResourcesMonitoringConfigurationRequest {},
                ))
                .await,
            0,
        ),
        (
            "no statistics",
            fixture
                .cost(api.update_stats(proto::UpdateStatsRequest { stats: None }))
                .await,
            0,
        ),
        (
            "idle statistics",
            fixture.cost(api.update_stats(stats(0))).await,
            0,
        ),
        ("logs", fixture.cost(api.batch_create_logs(log())).await, 2),
        (
            "metadata",
            fixture
                .cost(api.batch_update_metadata(proto::BatchUpdateMetadataRequest {
                    metadata: vec![proto::Metadata {
                        key: "cpu".into(),
                        result: Some(proto::workspace_agent_metadata::Result::default()),
                    }],
                }))
                .await,
            0,
        ),
    ] {
        assert!(
            cost <= original,
            "{what} costs {cost} statements, the original {original}"
        );
    }
    assert_eq!(fixture.statements_of("authenticate"), 1);
    assert_eq!(fixture.statements_of("agent_by_id"), 0, "the row was read again");
}
