//! The aggregator in driven time, by its exposition.

use super::*;
use crate::clock::Timestamp;

struct Fixture {
    metrics: AgentMetrics,
    registry: Registry,
}

impl Fixture {
    fn new(labels: &[AgentLabel]) -> Self {
        Self::expiring(CLEANUP_INTERVAL, labels)
    }

    fn expiring(interval: Duration, labels: &[AgentLabel]) -> Self {
        let metrics = AgentMetrics::new(Clock::driven(Timestamp::UNIX_EPOCH), interval, labels);
        let mut registry = Registry::default();
        metrics.register(&mut registry);
        let running = metrics.clone();
        tokio::spawn(async move { running.run().await });
        Self { metrics, registry }
    }

    fn text(&self) -> String {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry).unwrap();
        text
    }

    /// The samples that came from agents.
    fn samples(&self) -> Vec<String> {
        let text = self.text();
        let lines = text.lines();
        let samples =
            lines.filter(|line| !line.starts_with('#') && !line.starts_with("coderd_prometheusmetrics_"));
        samples.map(str::to_owned).collect()
    }

    fn store_size(&self) -> String {
        let name = "coderd_prometheusmetrics_metrics_aggregator_store_size ";
        let text = self.text();
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap().to_owned()
    }

    fn update(&self, metrics: &[Metric]) {
        self.metrics.update(owner("ada", "dev", "main"), metrics);
    }
}

fn owner<'l>(username: &'l str, workspace_name: &'l str, agent_name: &'l str) -> AgentLabels<'l> {
    AgentLabels {
        username,
        workspace_name,
        agent_name,
        template_name: "docker",
    }
}

fn metric(name: &str, kind: Type, value: f64, labels: &[(&str, &str)]) -> Metric {
    let label = |&(name, value): &(&str, &str)| Label {
        name: name.into(),
        value: value.into(),
    };
    Metric {
        name: name.into(),
        r#type: kind.into(),
        value,
        labels: labels.iter().map(label).collect(),
    }
}

fn gauge(name: &str, value: f64, labels: &[(&str, &str)]) -> Metric {
    metric(name, Type::Gauge, value, labels)
}

const ADA: &str = r#"username="ada",workspace_name="dev",agent_name="main",template_name="docker""#;

#[tokio::test(start_paused = true)]
async fn s2_114_updates_overwrite_and_extra_labels_make_series() {
    let fixture = Fixture::new(&AgentLabel::ALL);
    fixture.update(&[gauge("g", 1.0, &[]), gauge("g", 2.0, &[("a", "1"), ("b", "2")])]);
    // An empty value is no label, and the order of labels is none.
    fixture.update(&[
        gauge("g", 3.0, &[("a", "")]),
        gauge("g", 4.0, &[("b", "2"), ("c", ""), ("a", "1")]),
    ]);
    assert_eq!(
        fixture.samples(),
        [
            format!("g{{{ADA}}} 3.0"),
            // Labels are those that were sent first.
            format!("g{{{ADA},a=\"1\",b=\"2\"}} 4.0"),
        ]
    );
    assert_eq!(fixture.store_size(), "2");
    fixture
        .metrics
        .update(owner("bob", "dev", "main"), &[gauge("g", 5.0, &[])]);
    assert_eq!(fixture.samples().len(), 3);
}

#[tokio::test(start_paused = true)]
async fn s2_114_special_characters_in_values_do_not_collide() {
    let fixture = Fixture::new(&[]);
    let values: [&[(&str, &str)]; 6] = [
        &[("a", "x,b=y")],
        &[("a", "x"), ("b", "y")],
        &[("a", "x\\"), ("b", "y")],
        &[("a", "x\\,b=y")],
        &[("a", "x|b=y")],
        &[("a", "x\",b=\"y\n")],
    ];
    for (labels, value) in values.iter().zip(1..) {
        fixture.update(&[gauge("g", f64::from(value), labels)]);
    }
    assert_eq!(fixture.store_size(), "6");
    assert_eq!(fixture.samples().len(), 6, "one line each: {}", fixture.text());
    let hostile = format!("g{{{ADA},a=\"x\\\",b=\\\"y\\n\"}} 6.0");
    assert!(fixture.samples().contains(&hostile), "{}", fixture.text());
}

#[tokio::test(start_paused = true)]
async fn s2_115_series_without_news_disappear() {
    let fixture = Fixture::expiring(Duration::from_millis(1), &[]);
    fixture.update(&[gauge("g", 1.0, &[])]);
    assert_eq!(fixture.samples().len(), 1);
    tokio::time::sleep(Duration::from_millis(3)).await;
    assert_eq!(fixture.samples(), [""; 0]);
    assert_eq!(fixture.store_size(), "0");
    assert!(
        lock(&fixture.metrics.0.agents).is_empty(),
        "nothing is left of the agent"
    );
}

#[tokio::test(start_paused = true)]
async fn series_with_news_stay_and_expire_only_when_their_time_has_passed() {
    let fixture = Fixture::new(&[]);
    let pass = async |seconds| tokio::time::sleep(Duration::from_secs(seconds)).await;
    pass(60).await;
    fixture.update(&[gauge("old", 1.0, &[]), gauge("kept", 1.0, &[])]);
    pass(61).await;
    // The first cleanup, at 2 min: both have a minute left.
    assert_eq!(fixture.samples().len(), 2);
    fixture.update(&[gauge("kept", 2.0, &[])]);
    pass(119).await;
    // Just before the second, a minute after the first expired.
    assert_eq!(fixture.samples().len(), 2);
    pass(1).await;
    assert_eq!(fixture.samples(), [format!("kept{{{ADA}}} 2.0")]);
}

#[tokio::test(start_paused = true)]
async fn s2_116_series_are_summed_up_by_the_labels_that_are_asked_for() {
    let update = |fixture: &Fixture| {
        for (username, agent, value) in [("ada", "main", 1.0), ("bob", "main", 7.0), ("bob", "other", 2.0)] {
            let metrics = [gauge("g", value, &[("path", username)])];
            fixture.metrics.update(owner(username, "dev", agent), &metrics);
        }
    };
    let by_agent = Fixture::new(&[AgentLabel::AgentName]);
    update(&by_agent);
    // Extra labels are no part of the group; those of its first series stay.
    assert_eq!(
        by_agent.samples(),
        [
            r#"g{agent_name="main",path="ada"} 8.0"#,
            r#"g{agent_name="other",path="bob"} 2.0"#
        ]
    );
    let by_user = Fixture::new(&[AgentLabel::Username]);
    update(&by_user);
    assert_eq!(
        by_user.samples(),
        [
            r#"g{username="ada",path="ada"} 1.0"#,
            r#"g{username="bob",path="bob"} 9.0"#
        ]
    );
    let by_both = Fixture::new(&[
        AgentLabel::TemplateName,
        AgentLabel::Username,
        AgentLabel::Username,
    ]);
    update(&by_both);
    assert_eq!(
        by_both.samples()[1],
        r#"g{username="bob",template_name="docker",path="bob"} 9.0"#
    );
    for all in [&[][..], &AgentLabel::ALL] {
        let apart = Fixture::new(all);
        update(&apart);
        assert_eq!(apart.samples().len(), 3);
    }
}

#[tokio::test(start_paused = true)]
async fn types_and_names_are_written_as_the_text_form_wants_them() {
    let fixture = Fixture::new(&[]);
    fixture.update(&[
        metric("requests_total", Type::Counter, 3.0, &[]),
        metric("scripts_run", Type::Counter, 1.0, &[]),
        gauge("peers", 2.0, &[]),
        metric("nothing", Type::Unspecified, 1.0, &[]),
    ]);
    let text = fixture.text();
    let own = text.find("# HELP coderd_").unwrap();
    let help = "Metrics are forwarded from workspace agents connected to this instance of coderd.";
    assert_eq!(
        text[..own],
        format!(
            "# HELP peers {help}\n# TYPE peers gauge\npeers{{{ADA}}} 2.0\n\
            # HELP requests {help}\n# TYPE requests counter\nrequests_total{{{ADA}}} 3.0\n\
            # HELP scripts_run {help}\n# TYPE scripts_run unknown\nscripts_run{{{ADA}}} 1.0\n"
        )
    );
    // The first type of a name stays.
    fixture.update(&[metric("peers", Type::Counter, 5.0, &[])]);
    fixture.update(&[metric("peers", Type::Counter, 6.0, &[("a", "1")])]);
    let peers: Vec<_> = fixture
        .samples()
        .into_iter()
        .filter(|line| line.starts_with("peers"))
        .collect();
    assert_eq!(peers, [format!("peers{{{ADA}}} 5.0")]);
}

#[tokio::test(start_paused = true)]
async fn what_prometheus_could_not_read_is_left_out_and_costs_no_other_metric() {
    let fixture = Fixture::new(&[]);
    let long = "n".repeat(MAX_SERIES_BYTES + 1);
    fixture.update(&[
        gauge("", 1.0, &[]),
        gauge("1st", 1.0, &[]),
        gauge("a b", 1.0, &[]),
        gauge("x 1\ny", 1.0, &[]),
        gauge("ä", 1.0, &[]),
        gauge(&long, 1.0, &[]),
        gauge("g", 1.0, &[("", "1")]),
        gauge("g", 1.0, &[("a:b", "1")]),
        gauge("g", 1.0, &[("__name__", "h")]),
        gauge("g", 1.0, &[("a\"} 1\n", "1")]),
        gauge("g", 1.0, &[("a", "1"), ("a", "2")]),
        gauge("g", 1.0, &[("a", "1"), ("username", "root")]),
        gauge("g", 1.0, &[("a", &long)]),
        gauge("drpcd_sessions", 1.0, &[]),
        gauge("coderd_agentapi_metadata_flushed_total", 1.0, &[]),
        gauge("coderd_template_workspace_build_duration_seconds_sum", 1.0, &[]),
        gauge("coderd_prometheusmetrics_metrics_aggregator_store_size", 9.0, &[]),
        gauge("a:b_1", f64::NAN, &[("_c", "")]),
    ]);
    assert_eq!(fixture.samples(), [format!("a:b_1{{{ADA},_c=\"\"}} NaN")]);
    assert_eq!(fixture.store_size(), "1");
}

#[tokio::test(start_paused = true)]
async fn an_agent_holds_a_bounded_number_of_series() {
    let fixture = Fixture::new(&[]);
    let many: Vec<_> = (0..MAX_SERIES + 10)
        .map(|n| gauge(&format!("g{n}"), 1.0, &[]))
        .collect();
    fixture.update(&many);
    assert_eq!(fixture.store_size(), MAX_SERIES.to_string());
    // Those that are there are still updated, and another agent has room of its own.
    fixture.update(&[gauge("g0", 2.0, &[])]);
    assert!(fixture.samples().contains(&format!("g0{{{ADA}}} 2.0")));
    fixture
        .metrics
        .update(owner("bob", "dev", "main"), &[gauge("g", 1.0, &[])]);
    assert_eq!(fixture.store_size(), (MAX_SERIES + 1).to_string());
}

#[tokio::test(start_paused = true)]
async fn series_are_taken_up_to_their_number_and_size() {
    for (series, kept) in [
        (MAX_SERIES - 1, MAX_SERIES - 1),
        (MAX_SERIES, MAX_SERIES),
        (MAX_SERIES + 1, MAX_SERIES),
    ] {
        let fixture = Fixture::new(&[]);
        let many: Vec<_> = (0..series).map(|n| gauge(&format!("g{n}"), 1.0, &[])).collect();
        fixture.update(&many);
        assert_eq!(fixture.store_size(), kept.to_string());
    }
    for (bytes, kept) in [
        (MAX_SERIES_BYTES - 1, "1"),
        (MAX_SERIES_BYTES, "1"),
        (MAX_SERIES_BYTES + 1, "0"),
    ] {
        let fixture = Fixture::new(&[]);
        fixture.update(&[gauge(&"n".repeat(bytes - 4), 1.0, &[("ab", "cd")])]);
        assert_eq!(fixture.store_size(), kept, "{bytes}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_aggregator_tells_how_long_it_takes() {
    let fixture = Fixture::new(&[]);
    fixture.update(&[]);
    fixture.update(&[gauge("g", 1.0, &[])]);
    tokio::time::sleep(CLEANUP_INTERVAL * 2 + Duration::from_secs(1)).await;
    let text = fixture.text();
    for line in [
        "execution_update_seconds_count 1",
        "execution_cleanup_seconds_count 2",
        "execution_update_seconds_bucket{le=\"0.001\"} 1",
        "execution_update_seconds_bucket{le=\"30.0\"} 1",
    ] {
        let line = format!("coderd_prometheusmetrics_metrics_aggregator_{line}\n");
        assert!(text.contains(&line), "{line}{text}");
    }
}
