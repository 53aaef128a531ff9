//! How long builds took, told once their last agent is through with its start.

use super::*;
use crate::telemetry::testing::Log;

const NAME: &str = "coderd_template_workspace_build_duration_seconds";

/// Two agents, so that one can be late.
const TWO: &str = "owner: { username: ada }
workspace: { name: dev, template: docker }
agents: [{ name: main }, { name: other }]
";

/// Seconds after the making of the build, as agents say them.
fn after(seconds: i64) -> Option<prost_types::Timestamp> {
    at(NOW.as_micros() / 1_000_000 + seconds)
}

fn series(line: &str, labels: &str, value: &str) -> String {
    format!("{NAME}_{line}{labels} {value}")
}

const LABELS: &str = r#"{template_name="docker",organization_name="coder",transition="start",status="success",is_prebuild="false"}"#;

impl Fixture {
    /// The sums and counts that were observed.
    fn observed(&self) -> Vec<String> {
        let lines = self.exposed(NAME).into_iter();
        lines.filter(|line| !line.contains("_bucket")).collect()
    }

    /// The other agent reports a state over a session of its own.
    async fn other(&self, state: State, seconds: i64) {
        let token = self
            .value("SELECT auth_token FROM workspace_agents WHERE name = 'other'")
            .await;
        let token = AgentToken::new(token.parse().unwrap());
        let authenticated = self.store.authenticate(&token).await.unwrap().unwrap();
        let api = self
            .services
            .begin(authenticated, "2.8".into(), self.services.heard())
            .await
            .unwrap();
        let request = lifecycle(state.into(), after(seconds));
        api.update_lifecycle(request).await.unwrap();
    }
}

#[tokio::test]
async fn s1_030_and_039_and_042_a_build_is_observed_once_from_its_making_to_ready() {
    let fixture = Fixture::new().await;
    let api = fixture.connect().await;
    let starting = lifecycle(State::Starting.into(), after(5));
    api.update_lifecycle(starting).await.unwrap();
    assert_eq!(fixture.observed(), [""; 0]);
    assert_eq!(fixture.store.calls("build_readiness"), 0);
    for seconds in [90, 120] {
        let ready = lifecycle(State::Ready.into(), after(seconds));
        api.update_lifecycle(ready).await.unwrap();
        assert_eq!(
            fixture.observed(),
            [series("sum", LABELS, "90.0"), series("count", LABELS, "1")]
        );
    }
    assert_eq!(fixture.store.calls("build_readiness"), 1);
    let buckets: Vec<_> = fixture
        .exposed(&format!("{NAME}_bucket"))
        .iter()
        .map(|line| {
            let bound = line.split("le=\"").nth(1).unwrap();
            let (bound, rest) = bound.split_once('"').unwrap();
            format!("{bound}:{}", rest.rsplit(' ').next().unwrap())
        })
        .collect();
    assert_eq!(
        buckets.join(" "),
        "1.0:0 10.0:0 30.0:0 60.0:0 300.0:1 600.0:1 1800.0:1 3600.0:1 +Inf:1"
    );
}

#[tokio::test]
async fn s1_036_a_build_with_an_agent_that_is_not_ready_is_not_observed_until_it_is() {
    let fixture = Fixture::with(TWO, config()).await;
    let api = fixture.connect().await;
    let ready = lifecycle(State::Ready.into(), after(10));
    api.update_lifecycle(ready).await.unwrap();
    assert_eq!(fixture.store.calls("build_readiness"), 1);
    assert_eq!(fixture.observed(), [""; 0]);
    fixture.other(State::Starting, 15).await;
    assert_eq!(fixture.observed(), [""; 0]);
    fixture.other(State::Ready, 20).await;
    assert_eq!(
        fixture.observed(),
        [series("sum", LABELS, "20.0"), series("count", LABELS, "1")]
    );
}

#[tokio::test]
async fn s1_037_a_prebuild_is_labelled_as_one() {
    let prebuild = EXAMPLE.replacen("username: ada", "username: prebuilds", 1);
    let fixture = Fixture::with(&prebuild, config()).await;
    let api = fixture.connect().await;
    let ready = lifecycle(State::Ready.into(), after(10));
    api.update_lifecycle(ready).await.unwrap();
    assert_eq!(
        fixture.observed()[0],
        series(
            "sum",
            &LABELS.replace("is_prebuild=\"false\"", "is_prebuild=\"true\""),
            "10.0"
        )
    );
}

#[tokio::test]
async fn s1_038_the_worst_agent_gives_the_status() {
    for (other, own, status) in [
        (State::StartError, State::Ready, "error"),
        (State::StartTimeout, State::Ready, "timeout"),
        (State::StartTimeout, State::StartError, "error"),
        (State::StartError, State::StartTimeout, "error"),
        (State::Ready, State::StartTimeout, "timeout"),
    ] {
        let fixture = Fixture::with(TWO, config()).await;
        fixture.other(other, 30).await;
        let api = fixture.connect().await;
        let request = lifecycle(own.into(), after(20));
        api.update_lifecycle(request).await.unwrap();
        let labels = LABELS.replace("success", status);
        assert_eq!(fixture.observed()[0], series("sum", &labels, "30.0"));
    }
}

#[tokio::test]
async fn s1_040_without_metrics_nothing_is_read_for_them() {
    let mut fixture = Fixture::new().await;
    fixture.change(|parts| parts.build_durations = None);
    let api = fixture.connect().await;
    let ready = lifecycle(State::Ready.into(), after(10));
    api.update_lifecycle(ready).await.unwrap();
    assert_eq!(fixture.store.calls("build_readiness"), 0);
}

#[tokio::test]
async fn s1_041_a_build_that_cannot_be_read_fails_no_report() {
    let fixture = Fixture::new().await;
    let api = fixture.connect().await;
    fixture.store.fail("build_readiness", away());
    let log = Log::new();
    let request = lifecycle(State::Ready.into(), after(10));
    let reply = api.update_lifecycle(request).await.unwrap();
    assert_eq!(Some(reply), request.lifecycle);
    assert_eq!(fixture.observed(), [""; 0]);
    let warning = format!(
        "WARN failed to get build info for metrics agent_id={} error=database is locked",
        api.agent_id()
    );
    assert!(log.take().contains(&warning));
}

#[tokio::test]
async fn a_build_that_was_ready_in_year_one_is_not_observed() {
    let fixture = Fixture::new().await;
    let api = fixture.connect().await;
    fixture
        .store
        .run(
            "CREATE TRIGGER t AFTER UPDATE OF ready_at ON workspace_agents BEGIN
                UPDATE workspace_agents SET ready_at = -62135596800000000; END",
            "CREATE FUNCTION t() RETURNS trigger LANGUAGE plpgsql AS
                $$ BEGIN NEW.ready_at := '0001-01-01T00:00:00Z'; RETURN NEW; END $$;
            CREATE TRIGGER t BEFORE UPDATE OF ready_at ON workspace_agents FOR EACH ROW EXECUTE FUNCTION t()",
        )
        .await;
    let log = Log::new();
    let request = lifecycle(State::Ready.into(), after(10));
    api.update_lifecycle(request).await.unwrap();
    assert_eq!(fixture.observed(), [""; 0]);
    let warning = format!(
        "WARN last_agent_ready_at is unexpectedly zero agent_id={}",
        api.agent_id()
    );
    assert!(log.take().contains(&warning));
}
