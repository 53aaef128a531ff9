//! Connections and boundaries, against a real store.

use proto::boundary_log::{HttpRequest, Resource};

use super::*;
use crate::services::connection_log::{
    Backends, ConnectionLogError, ConnectionLogger, DatabaseLogger, StructuredLogger,
};
use crate::store::ConnectionLog;
use crate::telemetry::testing::Log;

const ID: [u8; 16] = [7; 16];

fn connection(action: i32, kind: i32, ip: &str) -> proto::Connection {
    proto::Connection {
        id: ID.to_vec(),
        action,
        r#type: kind,
        timestamp: at(100),
        ip: ip.into(),
        status_code: 0,
        reason: None,
    }
}

async fn report(api: &Arc<AgentApi>, connection: proto::Connection) -> Result<(), String> {
    let request = proto::ReportConnectionRequest {
        connection: Some(connection),
    };
    api.report_connection(request)
        .await
        .map_err(|error| error.text().to_owned())
}

const ROWS: &str = "SELECT type, connect_time, ip, code, disconnect_time, disconnect_reason FROM connection_logs ORDER BY rowid";

impl Fixture {
    /// With the log in the store, as a server has it.
    async fn logging() -> Self {
        let fixture = Self::new().await;
        let mut backends = Backends::default();
        let parts = &fixture.services.parts;
        backends.add(DatabaseLogger::new(
            Arc::clone(&parts.store),
            parts.patience.clone(),
        ));
        backends.add(StructuredLogger);
        fixture.services.swap_connection_logger(backends);
        fixture
    }
}

#[tokio::test]
async fn s2_061_to_064_connects_are_stored_with_their_kind_and_address() {
    for (kind, ip, expected) in [
        (1, "127.0.0.1", "ssh 100000000 127.0.0.1 - - -"),
        (2, "8.8.8.8", "vscode 100000000 8.8.8.8 - - -"),
        (3, "localhost", "jetbrains 100000000 127.0.0.1 - - -"),
        (4, "", "reconnecting_pty 100000000 - - - -"),
        (1, "example.com", "ssh 100000000 - - - -"),
        (1, "::ffff:10.0.0.1", "ssh 100000000 10.0.0.1 - - -"),
        (1, "fd7a::1", "ssh 100000000 fd7a::1 - - -"),
    ] {
        let fixture = Fixture::logging().await;
        let mut connect = connection(1, kind, ip);
        // Not told at the beginning.
        connect.status_code = 200;
        report(&fixture.connect().await, connect).await.unwrap();
        assert_eq!(fixture.store.query(ROWS).await, [expected]);
        let rest = "SELECT workspace_name, agent_name, user_id, user_agent, slug_or_port, connection_id
            FROM connection_logs JOIN workspaces ON workspaces.id = workspace_id
                AND workspaces.owner_id = workspace_owner_id
                AND workspaces.organization_id = connection_logs.organization_id";
        assert_eq!(
            fixture.value(rest).await,
            "dev main - - - 07070707070707070707070707070707"
        );
    }
}

#[tokio::test]
async fn s2_065_and_066_disconnects_have_a_code_and_maybe_a_reason() {
    for (code, reason, expected) in [
        (0, None, "ssh 100000000 127.0.0.1 0 100000000 -"),
        (0, Some(""), "ssh 100000000 127.0.0.1 0 100000000 -"),
        (
            500,
            Some("because"),
            "ssh 100000000 127.0.0.1 500 100000000 because",
        ),
    ] {
        let fixture = Fixture::logging().await;
        let disconnect = proto::Connection {
            status_code: code,
            reason: reason.map(Into::into),
            ..connection(2, 1, "127.0.0.1")
        };
        report(&fixture.connect().await, disconnect).await.unwrap();
        assert_eq!(fixture.store.query(ROWS).await, [expected]);
    }
}

#[tokio::test]
async fn s2_067_and_068_bad_reports_are_refused_in_order() {
    let fixture = Fixture::logging().await;
    let api = fixture.connect().await;
    let absent = api
        .report_connection(proto::ReportConnectionRequest { connection: None })
        .await;
    assert_eq!(
        absent.unwrap_err().text(),
        "connection id from bytes: invalid UUID (got 0 bytes)"
    );
    let good = || connection(1, 1, "");
    for (bad, expected) in [
        (
            proto::Connection {
                id: vec![1; 3],
                action: 0,
                ..good()
            },
            "connection id from bytes: invalid UUID (got 3 bytes)",
        ),
        (
            proto::Connection {
                id: vec![0; 16],
                action: 0,
                ..good()
            },
            "connection ID cannot be nil",
        ),
        (
            proto::Connection {
                action: 0,
                r#type: 0,
                ..good()
            },
            "unknown agent connection action \"ACTION_UNSPECIFIED\"",
        ),
        (
            proto::Connection { action: 9, ..good() },
            "unknown agent connection action \"9\"",
        ),
        (
            proto::Connection { r#type: 0, ..good() },
            "unknown agent connection type \"TYPE_UNSPECIFIED\"",
        ),
        (
            proto::Connection { r#type: -1, ..good() },
            "unknown agent connection type \"-1\"",
        ),
        (
            proto::Connection {
                reason: Some("a\0b".into()),
                ..good()
            },
            "reason must not contain NUL",
        ),
        (
            proto::Connection {
                timestamp: at(i64::MAX),
                ..good()
            },
            "export connection log: timestamp out of range",
        ),
    ] {
        assert_eq!(report(&api, bad).await.unwrap_err(), expected);
    }
    assert_eq!(fixture.store.query(ROWS).await, [""; 0]);
}

#[tokio::test]
async fn an_absent_time_is_1970() {
    let fixture = Fixture::logging().await;
    let connect = proto::Connection {
        timestamp: None,
        ..connection(1, 1, "")
    };
    report(&fixture.connect().await, connect).await.unwrap();
    assert_eq!(fixture.store.query(ROWS).await, ["ssh 0 - - - -"]);
}

#[tokio::test]
async fn s2_069_a_filled_cache_costs_no_read_and_an_empty_one_costs_one() {
    let fixture = Fixture::logging().await;
    let api = fixture.connect().await;
    report(&api, connection(1, 1, "")).await.unwrap();
    assert_eq!(fixture.store.calls("workspace_by_agent"), 0);
    api.session.drop_copies();
    report(&api, connection(2, 1, "")).await.unwrap();
    assert_eq!(fixture.store.calls("workspace_by_agent"), 1);
    api.session.drop_copies();
    fixture.store.fail("workspace_by_agent", away());
    assert_eq!(
        report(&api, connection(2, 1, "")).await.unwrap_err(),
        "get workspace by agent id: database is locked"
    );
}

#[derive(Debug)]
struct Broken;

#[async_trait::async_trait]
impl ConnectionLogger for Broken {
    async fn upsert(&self, _log: &ConnectionLog) -> Result<(), ConnectionLogError> {
        Err(StoreError::Rejected("broken".to_owned()).into())
    }
}

#[tokio::test]
async fn s2_070_a_logger_that_fails_is_named_and_does_not_keep_the_others_from_it() {
    let fixture = Fixture::logging().await;
    let api = fixture.connect().await;
    fixture.services.swap_connection_logger(Broken);
    assert_eq!(
        report(&api, connection(1, 1, "")).await.unwrap_err(),
        "export connection log: broken"
    );
    let mut backends = Backends::default();
    backends.add(Broken);
    backends.add(DatabaseLogger::new(
        Arc::clone(&fixture.services.parts.store),
        fixture.services.parts.patience.clone(),
    ));
    backends.add(Broken);
    fixture.services.swap_connection_logger(backends);
    assert_eq!(
        report(&api, connection(1, 1, "")).await.unwrap_err(),
        "export connection log: broken\nbroken"
    );
    assert_eq!(fixture.store.query(ROWS).await.len(), 1);
    // Nobody listens.
    fixture.services.swap_connection_logger(Backends::default());
    report(&api, connection(2, 1, "")).await.unwrap();
    assert_eq!(fixture.store.query(ROWS).await, ["ssh 100000000 - - - -"]);
}

#[tokio::test]
async fn s2_071_reports_of_one_connection_are_one_row_whatever_their_order() {
    let fixture = Fixture::logging().await;
    let api = fixture.connect().await;
    let disconnect = |seconds, code, reason: &str| proto::Connection {
        timestamp: at(seconds),
        status_code: code,
        reason: Some(reason.into()),
        ..connection(2, 1, "")
    };
    report(&api, connection(1, 1, "")).await.unwrap();
    report(&api, disconnect(200, 1, "first")).await.unwrap();
    let ended = ["ssh 100000000 - 1 200000000 first"];
    assert_eq!(fixture.store.query(ROWS).await, ended);
    report(&api, disconnect(300, 2, "second")).await.unwrap();
    report(
        &api,
        proto::Connection {
            reason: Some("late".into()),
            ..connection(1, 1, "")
        },
    )
    .await
    .unwrap();
    assert_eq!(fixture.store.query(ROWS).await, ended);

    let fixture = Fixture::logging().await;
    let api = fixture.connect().await;
    report(&api, disconnect(200, 0, "")).await.unwrap();
    report(&api, connection(1, 1, "")).await.unwrap();
    assert_eq!(fixture.store.query(ROWS).await, ["ssh 200000000 - 0 200000000 -"]);
}

fn boundary_log(allowed: bool, resource: Option<Resource>) -> proto::BoundaryLog {
    proto::BoundaryLog {
        allowed,
        time: Some(prost_types::Timestamp {
            seconds: 1_774_008_000,
            nanos: 120_000_000,
        }),
        resource,
    }
}

#[expect(clippy::unnecessary_wraps, reason = "fields of messages are optional")]
fn http(rule: &str) -> Option<Resource> {
    Some(Resource::HttpRequest(HttpRequest {
        method: "GET".into(),
        url: "https://example.com/".into(),
        matched_rule: rule.into(),
    }))
}

const USAGE: &str = "SELECT unique_workspaces_count, unique_users_count, allowed_requests, denied_requests FROM boundary_usage_stats";

async fn flush_usage(fixture: &Fixture) -> Vec<String> {
    let stop = CancellationToken::new();
    stop.cancel();
    let tracker = fixture.services.parts.boundary_usage.clone().unwrap();
    tracker.run(stop).await.unwrap();
    fixture.store.query(USAGE).await
}

#[tokio::test]
async fn s2_099_requests_are_logged_with_their_rule_if_allowed_and_counted_once() {
    let fixture = Fixture::new().await;
    let api = fixture.connect().await;
    let log = Log::new();
    let logs = vec![
        boundary_log(true, http("domain=example.com")),
        boundary_log(false, http("no rule")),
    ];
    api.report_boundary_logs(proto::ReportBoundaryLogsRequest { logs })
        .await
        .unwrap();
    let lines = log.take();
    assert_eq!(lines.len(), 2, "{lines:#?}");
    for (line, decision) in lines.iter().zip(["allow", "deny"]) {
        assert!(
            line.starts_with(&format!(
                "INFO boundary_request decision=\"{decision}\" workspace_id="
            )),
            "{line}"
        );
        for field in [
            " template_id=",
            " template_version_id=",
            " http_method=\"GET\" http_url=\"https://example.com/\"",
            " event_time=\"2026-03-20T12:00:00.12Z\"",
        ] {
            assert!(line.contains(field), "{line}");
        }
    }
    assert!(
        lines[0].ends_with(" matched_rule=\"domain=example.com\""),
        "{}",
        lines[0]
    );
    assert!(!lines[1].contains("matched_rule"), "{}", lines[1]);
    assert_eq!(flush_usage(&fixture).await, ["1 1 1 1"]);
}

#[tokio::test]
async fn s2_100_and_101_and_102_what_cannot_be_counted_is_warned_about_and_not_tracked() {
    // A request without body cannot travel: on the wire it is an empty one, which counts (case 100 of the original's
    // own tests is about a value that only Go can make).
    let fixture = Fixture::new().await;
    let api = fixture.connect().await;
    let log = Log::new();
    let logs = vec![boundary_log(true, None), boundary_log(false, None)];
    api.report_boundary_logs(proto::ReportBoundaryLogsRequest { logs })
        .await
        .unwrap();
    let warning = format!(
        "WARN unknown resource type workspace_id={}",
        api.session.workspace_id
    );
    assert_eq!(log.take(), [warning.clone(), warning]);
    assert_eq!(flush_usage(&fixture).await, [""; 0]);
    let empty = Some(Resource::HttpRequest(HttpRequest::default()));
    let logs = vec![boundary_log(true, empty)];
    api.report_boundary_logs(proto::ReportBoundaryLogsRequest { logs })
        .await
        .unwrap();
    assert_eq!(flush_usage(&fixture).await, ["1 1 1 0"]);
}

#[tokio::test]
async fn s2_103_and_104_no_tracker_is_fine_and_no_time_is_year_1() {
    let fixture = Fixture::new().await;
    let mut parts = fixture.services.parts.clone();
    parts.boundary_usage = None;
    let dyn_store: Arc<dyn Store> = fixture.store.clone();
    let appearance = StoreAppearance::new(dyn_store, parts.patience.clone());
    let services = AgentServices::new(parts, config(), appearance);
    let authenticated = fixture.store.authenticate(&fixture.token).await.unwrap().unwrap();
    let api = services
        .begin(authenticated, "2.8".into(), services.heard())
        .await
        .unwrap();
    let log = Log::new();
    let logs = vec![proto::BoundaryLog {
        time: None,
        ..boundary_log(true, http(""))
    }];
    api.report_boundary_logs(proto::ReportBoundaryLogsRequest { logs })
        .await
        .unwrap();
    assert!(log.take()[0].contains(" event_time=\"0001-01-01T00:00:00Z\" matched_rule=\"\""));
}

#[tokio::test]
async fn a_flood_of_boundary_logs_is_counted_whole_and_logged_in_part() {
    let fixture = Fixture::new().await;
    let api = fixture.connect().await;
    let log = Log::new();
    for (reported, logged) in [(4_095, 4_095), (4_096, 4_096), (4_097, 4_097), (5_000, 4_097)] {
        let logs = vec![boundary_log(false, http("")); reported];
        api.report_boundary_logs(proto::ReportBoundaryLogsRequest { logs })
            .await
            .unwrap();
        let lines = log.take();
        assert_eq!(lines.len(), logged);
        // The last line then says that there were more.
        let more = lines[logged - 1].contains("boundary log lines dropped");
        assert_eq!(more, reported > 4_096, "{reported}");
    }
    assert_eq!(flush_usage(&fixture).await, ["1 1 0 17288"]);
}
