//! Statistics: the row, and what a workspace in use sets off.

use super::*;
use crate::ids::AgentId;
use crate::proto::agent::stats::{Metric, metric};
use crate::services::agent::StatsReport;
use crate::telemetry::testing::Log;

fn stats(connection_count: i64) -> proto::UpdateStatsRequest {
    let metric = Metric {
        name: "agent_peers".to_owned(),
        r#type: metric::Type::Gauge.into(),
        value: 2.0,
        labels: Vec::new(),
    };
    let stats = proto::Stats {
        connections_by_proto: [("TCP".to_owned(), 3)].into(),
        connection_count,
        connection_median_latency_ms: 1.5,
        rx_packets: 1,
        rx_bytes: 2,
        tx_packets: 3,
        tx_bytes: 4,
        session_count_vscode: 1,
        session_count_jetbrains: 2,
        session_count_reconnecting_pty: 3,
        session_count_ssh: 4,
        metrics: vec![metric],
    };
    proto::UpdateStatsRequest { stats: Some(stats) }
}

fn prebuild() -> String {
    EXAMPLE.replacen("username: ada", "username: prebuilds", 1)
}

const SAMPLES: &str =
    "SELECT count(*), CAST(coalesce(sum(connection_count), 0) AS BIGINT) FROM workspace_agent_stats";

/// Seconds between the bump and the deadline that it set; empty when there was none.
const BUMPED_BY: &str =
    "SELECT (deadline - updated_at) / 1000000 FROM workspace_builds WHERE updated_at > 1774008000000000";

const USED: &str = "SELECT last_used_at >= 1774008000000000 FROM workspaces";

impl Fixture {
    /// With a build that ends in half an hour, so that any activity moves its end.
    async fn soon_over(seed: &str) -> Self {
        let fixture = Self::with(seed, config()).await;
        let deadline = NOW.saturating_add(Duration::from_mins(30)).as_micros();
        fixture
            .value(&format!("UPDATE workspace_builds SET deadline = {deadline}"))
            .await;
        fixture
    }

    async fn bumped_by(&self) -> String {
        self.value(BUMPED_BY).await
    }

    async fn used(&self) -> String {
        self.value(USED).await
    }
}

#[tokio::test]
async fn s1_018_full_statistics_are_stored_bump_mark_used_tell_and_reach_the_metrics() {
    let fixture = Fixture::soon_over(EXAMPLE).await;
    let api = fixture.connect().await;
    let mut events = fixture.events().await;
    let reply = api.update_stats(stats(3)).await.unwrap();
    assert_eq!(reply.report_interval.unwrap().seconds, 30);
    // Without an autostart, by the template's hour.
    assert_eq!(fixture.bumped_by().await, "3600");
    assert_eq!(fixture.used().await, "0", "not before the batch");
    let event = events.try_next().unwrap().unwrap();
    let workspace_id = api.session.workspace_id;
    assert_eq!(
        *event,
        *format!(r#"{{"kind":"stats_update","workspace_id":"{workspace_id}"}}"#)
    );
    assert_eq!(
        fixture.exposed("agent_peers"),
        [r#"agent_peers{username="ada",workspace_name="dev",agent_name="main",template_name="docker"} 2.0"#]
    );
    fixture.flush().await;
    assert_eq!(fixture.used().await, "1");
    assert_eq!(fixture.store.calls("touch_workspaces"), 1);
    let row = "SELECT workspace_agent_stats.created_at / 1000000, connections_by_proto, connection_count, rx_packets, rx_bytes,
        tx_packets, tx_bytes, connection_median_latency_ms, session_count_vscode, session_count_jetbrains,
        session_count_reconnecting_pty, session_count_ssh, usage
        FROM workspace_agent_stats JOIN workspaces ON workspaces.id = workspace_id AND owner_id = user_id
            AND workspaces.template_id = workspace_agent_stats.template_id";
    let expected = format!(
        "{} {{\"TCP\":3}} 3 1 2 3 4 1.5 1 2 3 4 0",
        NOW.as_micros() / 1_000_000
    );
    assert_eq!(fixture.value(row).await, expected);
}

#[tokio::test]
async fn s1_019_without_connections_a_sample_is_stored_and_nothing_else_happens() {
    let fixture = Fixture::soon_over(EXAMPLE).await;
    let api = fixture.connect().await;
    let mut events = fixture.events().await;
    api.update_stats(stats(0)).await.unwrap();
    fixture.flush().await;
    assert_eq!(fixture.value(SAMPLES).await, "1 0");
    assert_eq!(fixture.store.calls("bump_activity"), 0);
    assert_eq!(fixture.store.calls("touch_workspaces"), 0);
    assert_eq!(kinds(&mut events), [""; 0]);
}

#[tokio::test]
async fn s1_020_absent_statistics_are_answered_with_the_interval_alone() {
    let fixture = Fixture::with(&prebuild(), config()).await;
    let api = fixture.connect().await;
    let before = fixture.store.statements();
    let reply = api
        .update_stats(proto::UpdateStatsRequest { stats: None })
        .await
        .unwrap();
    assert_eq!(reply.report_interval.unwrap().seconds, 30);
    // Not even the workspace, which is not cached here.
    assert_eq!(fixture.store.statements(), before);
    fixture.flush().await;
    assert_eq!(fixture.value(SAMPLES).await, "0 0");
}

#[tokio::test]
async fn s1_021_a_bump_into_an_autostart_goes_on_to_the_workspaces_own_time() {
    // It is 23:00 on Friday in Sydney when a fixture begins.
    let at_2330 = EXAMPLE.replacen(
        "autostart_schedule: null",
        "autostart_schedule: \"CRON_TZ=Australia/Sydney 30 23 * * *\"",
        1,
    );
    let fixture = Fixture::soon_over(&at_2330).await;
    fixture.connect().await.update_stats(stats(1)).await.unwrap();
    let autostart = NOW.saturating_add(Duration::from_mins(30));
    let deadline = autostart.saturating_add(Duration::from_hours(8));
    assert_eq!(
        fixture.value("SELECT deadline FROM workspace_builds").await,
        deadline.as_micros().to_string()
    );

    // The template does not start workspaces on Fridays, which it is in Sydney.
    let fixture = Fixture::soon_over(&at_2330).await;
    fixture
        .value("UPDATE templates SET autostart_block_days_of_week = 1 << 4")
        .await;
    fixture.connect().await.update_stats(stats(1)).await.unwrap();
    assert_eq!(fixture.bumped_by().await, "3600");

    // A text that is no weekly schedule counts as none.
    let monthly = EXAMPLE.replacen("autostart_schedule: null", "autostart_schedule: 0 8 1 * *", 1);
    let fixture = Fixture::soon_over(&monthly).await;
    fixture.connect().await.update_stats(stats(1)).await.unwrap();
    assert_eq!(fixture.bumped_by().await, "3600");
}

#[tokio::test]
async fn s1_022_with_the_experiment_session_counts_are_left_out_and_the_bump_is_not() {
    let workspace_usage = AgentConfig {
        workspace_usage: true,
        ..config()
    };
    let fixture = Fixture::with(EXAMPLE, workspace_usage).await;
    fixture.connect().await.update_stats(stats(1)).await.unwrap();
    assert_eq!(fixture.store.calls("bump_activity"), 1);
    fixture.flush().await;
    let row = "SELECT session_count_vscode + session_count_jetbrains + session_count_reconnecting_pty + session_count_ssh,
        connection_count, tx_bytes FROM workspace_agent_stats";
    assert_eq!(fixture.value(row).await, "0 1 4");
}

#[tokio::test]
async fn s1_023_a_prebuild_is_marked_used_and_told_of_but_not_bumped() {
    let fixture = Fixture::soon_over(&prebuild()).await;
    let api = fixture.connect().await;
    let mut events = fixture.events().await;
    api.update_stats(stats(1)).await.unwrap();
    assert_eq!(fixture.store.calls("bump_activity"), 0);
    assert_eq!(kinds(&mut events), ["stats_update"]);
    fixture.flush().await;
    assert_eq!(fixture.used().await, "1");
}

#[tokio::test]
async fn s1_024_and_025_a_prebuild_is_looked_up_once_per_report_and_others_never() {
    let fixture = Fixture::new().await;
    let api = fixture.connect().await;
    api.update_stats(stats(1)).await.unwrap();
    assert_eq!(fixture.store.calls("workspace_by_agent"), 0);

    let fixture = Fixture::with(&prebuild(), config()).await;
    let api = fixture.connect().await;
    assert!(api.session.cached_workspace().is_none(), "s1_091");
    api.update_stats(stats(3)).await.unwrap();
    assert_eq!(fixture.store.calls("workspace_by_agent"), 1);
    fixture.store.fail("workspace_by_agent", away());
    let error = api.update_stats(stats(3)).await.unwrap_err();
    assert_eq!(
        error.text(),
        format!(
            "get workspace by agent ID \"{}\": database is locked",
            api.agent_id()
        )
    );
    fixture.flush().await;
    assert_eq!(
        fixture.value(SAMPLES).await,
        "1 3",
        "a failed report leaves no row"
    );
}

#[tokio::test]
async fn s1_026_statistics_need_no_metrics_to_go_to() {
    let mut fixture = Fixture::new().await;
    fixture.change(|parts| parts.agent_metrics = None);
    fixture.connect().await.update_stats(stats(1)).await.unwrap();
    assert_eq!(fixture.exposed("agent_peers"), [""; 0]);
    fixture.flush().await;
    assert_eq!(fixture.value(SAMPLES).await, "1 1");
}

/// Ours cannot fail to publish; the nearest is a follower that missed messages, or nobody at all.
#[tokio::test]
async fn s1_027_an_event_that_reaches_nobody_fails_no_report() {
    let fixture = Fixture::new().await;
    let api = fixture.connect().await;
    api.update_stats(stats(1)).await.unwrap();
    let mut slow = fixture.events().await;
    for _ in 0..300 {
        api.update_stats(stats(1)).await.unwrap();
    }
    assert!(slow.try_next().unwrap().is_err());
}

#[tokio::test]
async fn s1_028_no_report_reads_the_agents_row() {
    let fixture = Fixture::new().await;
    let api = fixture.connect().await;
    api.session.drop_copies();
    api.update_stats(stats(1)).await.unwrap();
    assert_eq!(fixture.store.calls("agent"), 0);
    // Its name at connection is what the metrics carry.
    assert_eq!(fixture.exposed("agent_peers").len(), 1);
}

#[tokio::test]
async fn a_bump_that_fails_fails_no_report() {
    let fixture = Fixture::soon_over(EXAMPLE).await;
    let api = fixture.connect().await;
    let mut events = fixture.events().await;
    fixture.store.fail("bump_activity", away());
    let log = Log::new();
    api.update_stats(stats(1)).await.unwrap();
    let workspace = api.session.workspace_id;
    let failed = format!("ERROR activity bump failed workspace_id={workspace} error=database is locked");
    assert!(log.take().contains(&failed));
    assert_eq!(kinds(&mut events), ["stats_update"]);
    fixture.store.mend("bump_activity");
    api.update_stats(stats(1)).await.unwrap();
    let bumped = format!("DEBUG bumped deadline from activity workspace_id={workspace} moved=true");
    assert!(log.take().contains(&bumped));
    fixture.flush().await;
    assert_eq!(fixture.used().await, "1");
}

#[tokio::test]
async fn the_event_goes_to_the_owner_that_the_workspace_has_by_now() {
    let fixture = Fixture::new().await;
    let api = fixture.connect().await;
    let mut before = fixture.events().await;
    let mut claimed = (*api.workspace().await.unwrap()).clone();
    claimed.owner_id = UserId::random();
    let mut after = fixture
        .pubsub
        .subscribe(&format!("workspace_owner:{}", claimed.owner_id));
    api.session.cache_workspace(Arc::new(claimed));
    api.update_stats(stats(1)).await.unwrap();
    assert_eq!(kinds(&mut before), [""; 0]);
    assert_eq!(kinds(&mut after), ["stats_update"]);
}

#[tokio::test]
async fn s2_119_usage_counts_by_sessions_and_a_prebuild_is_not_bumped() {
    let sessions = |count| proto::Stats {
        session_count_ssh: count,
        // Connections say nothing of usage.
        connection_count: 1 - count,
        ..stats(0).stats.unwrap()
    };
    for (seed, count, bumps, events) in [
        (EXAMPLE.to_owned(), 0, 0, vec![]),
        (EXAMPLE.to_owned(), 1, 1, vec!["stats_update"]),
        (prebuild(), 1, 0, vec!["stats_update"]),
    ] {
        let fixture = Fixture::with(&seed, config()).await;
        let mut stats = sessions(count);
        if count == 0 {
            stats.session_count_vscode = 0;
            stats.session_count_jetbrains = 0;
            stats.session_count_reconnecting_pty = 0;
        }
        let api = fixture.connect().await;
        let mut told = fixture.events().await;
        let workspace = api.workspace().await.unwrap();
        let report = StatsReport {
            now: NOW,
            workspace: &workspace,
            agent_id: AgentId::random(),
            agent_name: "main",
            stats: &stats,
            usage: true,
        };
        fixture.services.report_stats(report).await;
        assert_eq!(fixture.exposed("agent_peers").len(), 1);
        assert_eq!(fixture.store.calls("bump_activity"), bumps, "{count}");
        assert_eq!(kinds(&mut told), events);
        fixture.flush().await;
        assert_eq!(fixture.used().await, count.to_string());
        assert_eq!(
            fixture.value("SELECT usage FROM workspace_agent_stats").await,
            "1"
        );
    }
}
