//! How many statements each call costs, against what the original's cost: a kind that gets dearer fails here.
//!
//! The bounds of what an agent does at a start and then are those of `agent-services-1.md` D, less what reading the
//! agent's row first costs the original (docs/DEVIATIONS.md).

use super::*;

impl Fixture {
    /// Statements so far, of any kind.
    pub(super) fn statements(&self) -> u64 {
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

/// The original: 0 without connections, 1 to bump, 1 more for the template's schedule, 1 more without a cached workspace.
/// Rows and times of last use are in batches on both sides.
#[tokio::test]
async fn statistics_of_a_workspace_in_use_cost_no_more_than_the_originals() {
    let autostart = EXAMPLE.replacen("autostart_schedule: null", "autostart_schedule: 0 8 * * *", 1);
    let prebuild = EXAMPLE.replacen("username: ada", "username: prebuilds", 1);
    for (seed, connections, ours, original) in [
        (EXAMPLE, 0, 0, 0),
        (EXAMPLE, 1, 1, 1),
        (&autostart, 0, 0, 0),
        (&autostart, 1, 1, 2),
        (&prebuild, 0, 1, 1),
        (&prebuild, 1, 1, 1),
    ] {
        let fixture = Fixture::with(seed, config()).await;
        let api = fixture.connect().await;
        let nothing = proto::UpdateStatsRequest { stats: None };
        assert_eq!(fixture.cost(api.update_stats(nothing)).await, 0);
        for _ in 0..2 {
            let cost = fixture.cost(api.update_stats(stats(connections))).await;
            assert_eq!(cost, ours, "{connections} connections");
            assert!(cost <= original);
        }
        let before = fixture.statements();
        fixture.flush().await;
        let batches = 1 + u64::from(connections > 0);
        assert_eq!(
            fixture.statements() - before,
            batches,
            "for any number of reports"
        );
    }
}

/// The original: 2 (the row, the update), 3 at the first end of a start, since the build is read for its metric.
#[tokio::test]
async fn a_lifecycle_report_costs_one_statement_and_the_first_end_of_a_start_two() {
    let fixture = Fixture::new().await;
    let api = fixture.connect().await;
    for (state, ours, original) in [
        (State::Starting, 1, 2),
        (State::StartTimeout, 2, 3),
        (State::Ready, 1, 2),
        (State::ShuttingDown, 1, 2),
        (State::Starting, 1, 2),
        (State::Ready, 1, 2),
    ] {
        let cost = fixture
            .cost(api.update_lifecycle(lifecycle(state.into(), at(1))))
            .await;
        assert_eq!(cost, ours, "{state:?}");
        assert!(cost <= original);
    }
}
