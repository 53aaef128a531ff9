//! Resource monitors: from pushed samples to states and notifications.

use proto::push_resources_monitoring_usage_request::Datapoint;
use proto::push_resources_monitoring_usage_request::datapoint::{MemoryUsage, VolumeUsage};
use serde_json::{Value, json};

use super::*;

mod notices;

/// How long a user is left alone after an alert.
const DEBOUNCE: Duration = Duration::from_mins(30);

/// With thresholds of 80, and a second volume.
fn seed() -> String {
    let two = "volumes: [{ path: /data, enabled: true, threshold: 80 }, { path: /home, enabled: true, threshold: 80 }]";
    EXAMPLE
        .replace("volumes: [{ path: /home, enabled: true, threshold: 90 }]", two)
        .replace("threshold: 90", "threshold: 80")
}

/// The limits are in percent.
async fn fixture(consecutive: u8, minimum: u8) -> Fixture {
    let alert_limits = AlertLimits { consecutive, minimum };
    let config = AgentConfig {
        alert_limits,
        ..config()
    };
    Fixture::with(&seed(), config).await
}

type Push = proto::PushResourcesMonitoringUsageRequest;

/// Samples of memory, of 10 each; `None` is a sample without memory.
fn memory(used: impl IntoIterator<Item = Option<i64>>) -> Push {
    let datapoint = |used: Option<i64>| Datapoint {
        memory: used.map(|used| MemoryUsage { used, total: 10 }),
        ..Default::default()
    };
    Push {
        datapoints: used.into_iter().map(datapoint).collect(),
    }
}

fn memory_of(used: &[i64]) -> Push {
    memory(used.iter().copied().map(Some))
}

/// Samples of volumes, of 10 each: by sample, then path and used.
fn volumes(samples: &[&[(&str, i64)]]) -> Push {
    let volume = |&(path, used): &(&str, i64)| VolumeUsage {
        volume: path.to_owned(),
        used,
        total: 10,
    };
    let datapoint = |sample: &&[(&str, i64)]| Datapoint {
        volumes: sample.iter().map(volume).collect(),
        ..Default::default()
    };
    Push {
        datapoints: samples.iter().map(datapoint).collect(),
    }
}

impl Fixture {
    async fn memory_state(&self) -> String {
        self.value("SELECT state FROM workspace_agent_memory_resource_monitors")
            .await
    }

    /// By path.
    async fn volume_states(&self) -> String {
        self.value("SELECT state FROM workspace_agent_volume_resource_monitors ORDER BY path")
            .await
    }

    /// Payloads of all notifications so far.
    async fn notifications(&self) -> Vec<Value> {
        let payloads = self
            .store
            .query("SELECT payload FROM notification_messages ORDER BY rowid")
            .await;
        payloads
            .iter()
            .map(|text| serde_json::from_str(text).unwrap())
            .collect()
    }

    async fn set_states(&self, state: &str) {
        for table in ["memory", "volume"] {
            let sql = format!("UPDATE workspace_agent_{table}_resource_monitors SET state = '{state}'");
            self.store.query(&sql).await;
        }
    }

    async fn sql_count(&self, table: &str) -> usize {
        self.value(&format!("SELECT count(*) FROM {table}"))
            .await
            .parse()
            .unwrap()
    }
}

#[tokio::test(start_paused = true)]
async fn s2_006_to_010_alerts_are_debounced() {
    let fixture = Fixture::with(&seed(), config()).await;
    let api = fixture.connect().await;
    for (case, wait, used, state, notified) in [
        ("s2_006", Duration::ZERO, 10, "NOK", 1),
        ("s2_007", DEBOUNCE / 4, 1, "OK", 1),
        ("s2_008", DEBOUNCE / 4, 10, "NOK", 1),
        ("s2_009", DEBOUNCE / 4, 1, "OK", 1),
        ("s2_010", DEBOUNCE / 4 + Duration::from_secs(1), 10, "NOK", 2),
    ] {
        tokio::time::advance(wait).await;
        api.push_resources_monitoring_usage(memory_of(&[used]))
            .await
            .unwrap();
        assert_eq!(fixture.memory_state().await, state, "{case}");
        assert_eq!(
            fixture.sql_count("notification_messages").await,
            notified,
            "{case}"
        );
    }
    let users = "SELECT count(*) FROM notification_messages JOIN workspaces ON owner_id = user_id";
    assert_eq!(fixture.value(users).await, "2", "to the owner");
}

#[tokio::test(start_paused = true)]
async fn s2_023_an_alert_comes_strictly_after_the_debounce() {
    let fixture = Fixture::with(&seed(), config()).await;
    let api = fixture.connect().await;
    api.push_resources_monitoring_usage(memory_of(&[10]))
        .await
        .unwrap();
    api.push_resources_monitoring_usage(memory_of(&[1]))
        .await
        .unwrap();
    let until = "SELECT debounced_until - updated_at FROM workspace_agent_memory_resource_monitors";
    assert_eq!(fixture.value(until).await, DEBOUNCE.as_micros().to_string());
    tokio::time::advance(DEBOUNCE).await;
    api.push_resources_monitoring_usage(memory_of(&[10]))
        .await
        .unwrap();
    assert_eq!(
        fixture.sql_count("notification_messages").await,
        1,
        "at its very end"
    );
    api.push_resources_monitoring_usage(memory_of(&[1]))
        .await
        .unwrap();
    tokio::time::advance(Duration::from_millis(1)).await;
    api.push_resources_monitoring_usage(memory_of(&[10]))
        .await
        .unwrap();
    assert_eq!(fixture.sql_count("notification_messages").await, 2);
}

/// Case, state before, limits, samples, state after, and whether somebody is notified.
type Case = (
    &'static str,
    &'static str,
    (u8, u8),
    [i64; 17],
    &'static str,
    bool,
);

const LOW: [i64; 17] = [2, 3, 2, 4, 2, 3, 2, 1, 2, 3, 4, 4, 1, 2, 3, 1, 2];
const RUN: [i64; 17] = [2, 3, 2, 4, 2, 3, 2, 1, 2, 3, 4, 4, 1, 8, 9, 8, 9];
const SCATTERED: [i64; 17] = [2, 8, 2, 9, 2, 8, 2, 9, 2, 8, 4, 9, 1, 8, 2, 8, 9];

/// 24 and 59 percent are 4 and 10 of 17.
const CASES: [Case; 6] = [
    ("s2_011", "OK", (24, 59), LOW, "OK", false),
    ("s2_012", "OK", (24, 59), RUN, "NOK", true),
    ("s2_013", "OK", (59, 24), SCATTERED, "NOK", true),
    ("s2_014", "NOK", (24, 59), LOW, "OK", false),
    ("s2_015", "NOK", (24, 59), RUN, "NOK", false),
    ("s2_016", "NOK", (59, 24), SCATTERED, "NOK", false),
];

#[tokio::test(start_paused = true)]
async fn s2_011_to_016_runs_and_shares_of_high_samples_decide_on_memory() {
    for (case, before, (consecutive, minimum), samples, after, notified) in CASES {
        let fixture = fixture(consecutive, minimum).await;
        fixture.set_states(before).await;
        let api = fixture.connect().await;
        api.push_resources_monitoring_usage(memory_of(&samples))
            .await
            .unwrap();
        assert_eq!(fixture.memory_state().await, after, "{case}");
        assert_eq!(
            fixture.notifications().await.len(),
            usize::from(notified),
            "{case}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn s2_029_runs_and_shares_of_high_samples_decide_on_volumes() {
    for (case, before, (consecutive, minimum), samples, after, notified) in CASES {
        let fixture = fixture(consecutive, minimum).await;
        fixture.set_states(before).await;
        let api = fixture.connect().await;
        let samples = samples.map(|used| [("/data", 1), ("/home", used)]);
        let samples: Vec<&[_]> = samples.iter().map(|sample| &sample[..]).collect();
        api.push_resources_monitoring_usage(volumes(&samples))
            .await
            .unwrap();
        assert_eq!(fixture.volume_states().await, format!("OK,{after}"), "{case}");
        assert_eq!(
            fixture.notifications().await.len(),
            usize::from(notified),
            "{case}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn s2_017_to_020_unknown_and_missing_samples() {
    let known_and_not = |known: i64, unknown: usize| {
        memory(
            [Some(known)]
                .into_iter()
                .chain(std::iter::repeat_n(None, unknown)),
        )
    };
    for (case, before, limits, request, after) in [
        ("s2_017", "OK", (50, 100), known_and_not(10, 3), "OK"),
        ("s2_018", "NOK", (50, 20), known_and_not(1, 1), "NOK"),
        ("s2_019", "NOK", (50, 20), memory([]), "OK"),
        (
            "s2_020 3/20",
            "OK",
            (50, 20),
            memory((0..20).map(|i| Some(if i < 3 { 9 } else { 1 }))),
            "OK",
        ),
        (
            "s2_020 4/20",
            "OK",
            (50, 20),
            memory((0..20).map(|i| Some(if i < 4 { 9 } else { 1 }))),
            "NOK",
        ),
        (
            "s2_020 3/17",
            "OK",
            (50, 20),
            memory((0..17).map(|i| Some(if i < 3 { 9 } else { 1 }))),
            "OK",
        ),
        (
            "s2_020 4/17",
            "OK",
            (50, 20),
            memory((0..17).map(|i| Some(if i < 4 { 9 } else { 1 }))),
            "NOK",
        ),
    ] {
        let fixture = fixture(limits.0, limits.1).await;
        fixture.set_states(before).await;
        let api = fixture.connect().await;
        api.push_resources_monitoring_usage(request).await.unwrap();
        assert_eq!(fixture.memory_state().await, after, "{case}");
    }
}

#[tokio::test(start_paused = true)]
async fn s2_021_and_022_thresholds_are_met_by_equal_and_never_by_nonsense() {
    for (used, total, threshold, state) in [
        (8, 10, 80, "NOK"),
        (7_999, 10_000, 80, "OK"),
        (29, 100, 29, "OK"),
        (0, 0, 80, "OK"),
        (5, 0, 80, "OK"),
    ] {
        let fixture = Fixture::with(
            &seed().replace("threshold: 80", &format!("threshold: {threshold}")),
            config(),
        )
        .await;
        let api = fixture.connect().await;
        let mut request = memory_of(&[0]);
        request.datapoints[0].memory = Some(MemoryUsage { used, total });
        api.push_resources_monitoring_usage(request).await.unwrap();
        assert_eq!(
            fixture.memory_state().await,
            state,
            "{used} of {total} against {threshold}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn s2_024_and_025_disabled_and_absent_monitors_do_nothing() {
    let disabled = seed().replace("enabled: true, threshold: 80", "enabled: false, threshold: 80");
    let from = seed().find("    resources_monitoring:").unwrap();
    let to = seed().find("    devcontainers:").unwrap();
    let absent = format!("{}{}", &seed()[..from], &seed()[to..]);
    for (case, seed) in [("s2_024", disabled), ("s2_025", absent)] {
        let fixture = Fixture::with(&seed, config()).await;
        let api = fixture.connect().await;
        let mut request = volumes(&[&[("/data", 10), ("/home", 10)]]);
        request.datapoints[0].memory = Some(MemoryUsage { used: 10, total: 10 });
        api.push_resources_monitoring_usage(request).await.unwrap();
        assert_eq!(fixture.store.calls("update_monitor"), 0, "{case}");
        assert_eq!(fixture.sql_count("notification_messages").await, 0, "{case}");
    }
}

#[tokio::test(start_paused = true)]
async fn s2_026_volumes_that_fill_up_together_are_one_notification() {
    let fixture = Fixture::with(&seed(), config()).await;
    let api = fixture.connect().await;
    api.push_resources_monitoring_usage(volumes(&[&[("/home", 9), ("/data", 10)]]))
        .await
        .unwrap();
    assert_eq!(fixture.volume_states().await, "NOK,NOK");
    let notifications = fixture.notifications().await;
    assert_eq!(notifications.len(), 1);
    let expected = json!([{ "path": "/data", "threshold": "80%" }, { "path": "/home", "threshold": "80%" }]);
    assert_eq!(notifications[0]["data"]["volumes"], expected);
}

#[tokio::test(start_paused = true)]
async fn s2_027_each_volume_has_a_debounce_of_its_own() {
    let fixture = Fixture::with(&seed(), config()).await;
    let api = fixture.connect().await;
    // The states of s2_006 to s2_010; the second volume's are one step behind.
    let second = Duration::from_secs(1);
    for (step, (wait, data, home, expected)) in [
        (Duration::ZERO, 10, 1, vec!["/data"]),
        (DEBOUNCE / 4, 1, 10, vec!["/home"]),
        (DEBOUNCE / 4, 10, 1, vec![]),
        (DEBOUNCE / 4, 1, 10, vec![]),
        (DEBOUNCE / 4 + second, 10, 1, vec!["/data"]),
        (DEBOUNCE / 4, 1, 10, vec!["/home"]),
    ]
    .into_iter()
    .enumerate()
    {
        tokio::time::advance(wait).await;
        let before = fixture.notifications().await.len();
        api.push_resources_monitoring_usage(volumes(&[&[("/data", data), ("/home", home)]]))
            .await
            .unwrap();
        let new = fixture.notifications().await.split_off(before);
        let paths: Vec<_> = new
            .iter()
            .flat_map(|payload| payload["data"]["volumes"].as_array().unwrap())
            .map(|volume| volume["path"].as_str().unwrap())
            .collect();
        assert_eq!(paths, expected, "step {step}");
    }
}

#[tokio::test(start_paused = true)]
async fn s2_028_a_path_that_a_sample_lacks_is_unknown_and_foreign_paths_are_ignored() {
    let fixture = Fixture::with(&seed(), config()).await;
    fixture.set_states("NOK").await;
    let api = fixture.connect().await;
    // The first entry of a path counts; the path must be the same to the byte.
    api.push_resources_monitoring_usage(volumes(&[
        &[("/home", 1), ("/home", 10), ("/data/", 1), ("/other", 10)],
        &[("/home", 1), ("/data", 1)],
    ]))
    .await
    .unwrap();
    assert_eq!(fixture.volume_states().await, "NOK,OK");
}

#[tokio::test(start_paused = true)]
async fn s2_030_and_031_parts_fail_for_themselves_and_are_told_together() {
    let fixture = Fixture::with(&seed(), config()).await;
    let api = fixture.connect().await;
    // The second volume's row cannot be written.
    let table = "workspace_agent_volume_resource_monitors";
    fixture.store.guard("UPDATE", table, "NEW.path = '/home'").await;
    let full = volumes(&[&[("/data", 10), ("/home", 10)]]);
    let error = api
        .push_resources_monitoring_usage(full.clone())
        .await
        .unwrap_err();
    assert_eq!(error.text(), "monitor volume: update workspace monitor: guarded");
    assert_eq!(fixture.volume_states().await, "NOK,OK", "s2_030");
    assert_eq!(fixture.sql_count("notification_messages").await, 0, "s2_030");

    fixture.store.unguard(table).await;
    fixture.store.fail("update_monitor", away());
    let mut both = full;
    both.datapoints[0].memory = Some(MemoryUsage { used: 10, total: 10 });
    let error = api
        .push_resources_monitoring_usage(both.clone())
        .await
        .unwrap_err();
    let away = "update workspace monitor: database is locked";
    assert_eq!(
        error.text(),
        format!("monitor memory: {away}\nmonitor volume: {away}")
    );

    // What was not written has not happened, so it alerts now.
    fixture.store.mend("update_monitor");
    api.push_resources_monitoring_usage(both).await.unwrap();
    let notifications = fixture.notifications().await;
    let kinds: Vec<_> = notifications
        .iter()
        .map(|payload| &payload["notification_name"])
        .collect();
    assert_eq!(kinds, ["Workspace Out Of Memory", "Workspace Out Of Disk"]);
    let home = json!([{ "path": "/home", "threshold": "80%" }]);
    assert_eq!(notifications[1]["data"]["volumes"], home);
}

#[tokio::test(start_paused = true)]
async fn a_push_that_changes_nothing_costs_no_statement() {
    let fixture = Fixture::with(&seed(), config()).await;
    let api = fixture.connect().await;
    let low = || api.push_resources_monitoring_usage(memory_of(&[1]));
    assert_eq!(fixture.cost(low()).await, 0);
    // A state, the workspace, template and user, and the notification.
    let high = || api.push_resources_monitoring_usage(memory_of(&[10]));
    assert_eq!(fixture.cost(high()).await, 4, "as the original's");
    assert_eq!(fixture.cost(high()).await, 0);
    assert_eq!(fixture.cost(low()).await, 1);
    assert_eq!(fixture.store.calls("agent"), 0);
}

#[tokio::test(start_paused = true)]
async fn a_new_session_goes_on_where_the_last_one_was() {
    let fixture = Fixture::with(&seed(), config()).await;
    let api = fixture.connect().await;
    api.push_resources_monitoring_usage(memory_of(&[10]))
        .await
        .unwrap();
    api.push_resources_monitoring_usage(memory_of(&[1]))
        .await
        .unwrap();
    let api = fixture.connect().await;
    api.push_resources_monitoring_usage(memory_of(&[10]))
        .await
        .unwrap();
    assert_eq!(
        fixture.sql_count("notification_messages").await,
        1,
        "still debounced"
    );
}

#[tokio::test(start_paused = true)]
async fn pushes_of_one_session_come_one_after_the_other() {
    let fixture = Fixture::with(&seed(), config()).await;
    let api = fixture.connect().await;
    let pushes = (0..8).map(|_| api.push_resources_monitoring_usage(memory_of(&[10])));
    for pushed in futures_util::future::join_all(pushes).await {
        pushed.unwrap();
    }
    assert_eq!(fixture.store.calls("update_monitor"), 1);
    assert_eq!(fixture.sql_count("notification_messages").await, 1);
}
