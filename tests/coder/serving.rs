//! Agents of a deployment on drpcd: what is in its database afterwards is what its own servers would have written.

use std::net::TcpListener;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::kit::{Deployment, agent};
use super::support::http::{dial, get};
use super::support::{eventually, go};

const ADA: &str = "00000002-0000-4000-8000-000000000001";
const DEV: &str = "00000006-0000-4000-8000-000000000001";

#[test]
fn agents_use_every_method_and_nothing_is_written_but_what_they_report() {
    let Some(deployment) = Deployment::new() else {
        return;
    };
    let owner = format!("workspace_owner:{ADA}");
    let logs = "agent-logs:00000009-0000-4000-8000-000000000001";
    let shared = [
        "tailnet_peer_update",
        "tailnet_tunnel_update",
        "tailnet_coordinator_heartbeat",
    ];
    let others = [
        "workspace_agent_metadata_batch",
        "notification_enqueued",
        "drpcd_events",
    ];
    let listener = deployment.listen(&[&[&owner, logs], &shared[..], &others].concat());
    let (server, role) = deployment.serve_by_grants(&["--agent-stats-refresh-interval", "1s"]);
    let flags = ["--use", "--stop-after-ready", "8s"];
    let Some(main) = go("agent", &agent(&server, "1"), &flags) else {
        return;
    };
    let second = go("agent", &agent(&server, "2"), &flags).unwrap();
    // Of a stopping workspace, a prebuild, another organization, a suspended owner.
    let short = ["--stop-after-ready", "1s"];
    let others = ["5", "7", "8", "a"].map(|last| go("agent", &agent(&server, last), &short).unwrap());
    let reports = [("main", main.result()), ("second", second.result())];
    for other in others {
        let report = other.result();
        assert_eq!(report["connections"], 1, "{report:#}");
    }
    // Of an older build, a stopped workspace, a deleted one, a deleted sub agent.
    for last in ["3", "4", "6", "9"] {
        assert_eq!(server.dial(&agent(&server, last)).0.status, 401, "{last}");
    }
    assert_eq!(server.stop(), Some(0), "{}", deployment.log());
    let heard = listener.heard();
    drop(role);

    for (name, report) in &reports {
        assert_eq!(report["connections"], 1, "{name}: {report:#}");
        let rpcs = report["rpcs"].as_object().unwrap();
        assert_eq!(
            rpcs.values().filter(|rpc| rpc["failed"] != 0).count(),
            0,
            "{name}: {rpcs:#?}"
        );
        assert_eq!(report["sub_agents"].to_string(), format!("[\"{name}-web\"]"));
        assert_eq!(report["manifest"]["owner_username"], "ada");
        assert_eq!(
            report["manifest"]["workspace_id"].as_str().map(str::len),
            Some(24),
            "base64 of 16 bytes"
        );
    }
    deployment.assert_lawful();
    assert_rows(&deployment);
    assert_left_alone(&deployment);
    assert_heard(&heard, &owner, logs);
    assert_told_once(&deployment, &heard);
    // The database's own triggers tell of peers, so nobody else does.
    for (channel, table) in shared
        .iter()
        .zip(["tailnet_peers", "tailnet_tunnels", "tailnet_coordinators"])
    {
        let told = heard.iter().filter(|(on, _)| on == channel).count();
        let written = format!("SELECT count(*) FROM audit.writes WHERE table_name = '{table}'");
        assert_eq!(deployment.value(&written), told.to_string(), "{channel}");
    }
    // Each agent had a row while it was connected: the six, and a sub agent that only asks for its manifest has none.
    let peers = "SELECT count(DISTINCT after ->> 'id') FROM audit.writes
        WHERE table_name = 'tailnet_peers' AND operation = 'INSERT' AND audit.own(after ->> 'coordinator_id')";
    assert_eq!(deployment.value(peers), "6");
    let alive = "SELECT count(*) FROM tailnet_peers WHERE audit.own(coordinator_id::text) AND status = 'ok'";
    assert_eq!(deployment.value(alive), "0");
}

/// What the deployment's dashboard reads.
fn assert_rows(deployment: &Deployment) {
    let rows = |sql: &str| deployment.query(sql);
    let both = |texts: &[&str]| -> Vec<String> {
        let of = |name: &'static str| texts.iter().map(move |text| format!("{name} {text}"));
        of("main").chain(of("second")).collect()
    };
    let of_dev = format!(
        "workspace_agents AS a JOIN workspace_resources AS r ON r.id = a.resource_id
        JOIN workspace_builds AS b ON b.job_id = r.job_id AND b.workspace_id = '{DEV}' AND b.build_number = 2"
    );
    assert_eq!(
        rows(&format!(
            "SELECT concat_ws(' ', a.name, lifecycle_state, version, api_version, subsystems, a.deleted,
                first_connected_at IS NOT NULL, disconnected_at >= last_connected_at,
                last_connected_replica_id IS NOT NULL, started_at <= ready_at, logs_length > 0)
            FROM {of_dev} ORDER BY a.name"
        )),
        [
            "main off v2.31.0 2.8 {envbox} f t t t t t",
            "main-gone created {} t f f f",
            "main-web created {} f t t t f",
            "second off v2.31.0 2.8 {envbox} f t t t t t",
            "second-gone created {} t f f f",
            "second-web created {} f t t t f",
        ]
        .map(|row| row.replace("created {}", "created   {}"))
    );
    assert_eq!(
        rows(&format!(
            "SELECT concat_ws(' ', a.name, substr(slug, length(slug) - 10), health, open_in) FROM {of_dev}
            JOIN workspace_apps ON agent_id = a.id ORDER BY a.name, slug"
        )),
        [
            "main code healthy slim-window",
            "main vim disabled slim-window",
            "main-gone code-server initializing tab",
            "main-web code-server initializing tab",
            "second code healthy slim-window",
            "second vim disabled slim-window",
            "second-gone code-server initializing tab",
            "second-web code-server initializing tab",
        ]
    );
    assert_eq!(
        rows(&format!(
            "SELECT concat_ws(' ', a.name, state, message, uri) FROM {of_dev}
            JOIN workspace_app_statuses ON agent_id = a.id ORDER BY a.name, workspace_app_statuses.created_at"
        )),
        both(&[
            "working Reading the ticket",
            "complete Done https://example.com/pull/1"
        ])
    );
    assert_eq!(
        rows(
            "SELECT concat_ws(' ', agent_name, type, host(ip), code, disconnect_time IS NULL, disconnect_reason,
                workspace_name, workspace_owner_id = (SELECT id FROM users WHERE username = 'ada'))
            FROM connection_logs ORDER BY agent_name, type"
        ),
        both(&[
            "ssh 127.0.0.1 255 f process exited with error status: 255 dev t",
            "vscode 192.0.2.7 t dev t",
        ])
    );
    assert_eq!(
        rows(&format!(
            "SELECT concat_ws(' ', a.name, stage, status, exit_code) FROM {of_dev}
            JOIN workspace_agent_scripts AS s ON s.workspace_agent_id = a.id
            JOIN workspace_agent_script_timings AS t ON t.script_id = s.id ORDER BY a.name, stage"
        )),
        both(&["start ok 0", "stop ok 0"])
    );
    assert_eq!(
        rows(&format!(
            "SELECT concat_ws(' ', a.name, m.state, v.state, m.debounced_until > now()) FROM {of_dev}
            JOIN workspace_agent_memory_resource_monitors AS m ON m.agent_id = a.id
            JOIN workspace_agent_volume_resource_monitors AS v ON v.agent_id = a.id ORDER BY a.name"
        )),
        both(&["NOK OK t"])
    );
    assert_eq!(
        rows(
            "SELECT DISTINCT concat_ws(' ', t.name, m.method, m.created_by, m.status, m.payload ->> '_version',
                length(m.dedupe_hash))
            FROM notification_messages AS m JOIN notification_templates AS t ON t.id = m.notification_template_id
            WHERE m.created_by LIKE '%workspace%' ORDER BY 1"
        ),
        [
            "Task Completed inbox api-workspace-agent-app-status pending 1.2 32",
            "Workspace Out Of Memory inbox workspace-monitor-memory pending 1.2 32",
        ]
    );
    assert_eq!(
        rows(&format!(
            "SELECT concat_ws(' ', a.name, count(*) >= 2, max(connection_count), max(session_count_vscode),
                bool_and(s.workspace_id = b.workspace_id), bool_and(s.user_id = '{ADA}')) FROM {of_dev}
            JOIN workspace_agent_stats AS s ON s.agent_id = a.id GROUP BY a.name ORDER BY a.name"
        )),
        both(&["t 2 1 t t"])
    );
    assert_eq!(
        rows(&format!(
            "SELECT concat_ws(' ', a.name, count(*)) FROM {of_dev}
            JOIN workspace_agent_metadata AS m ON m.workspace_agent_id = a.id AND m.value <> ''
                AND m.collected_at > now() - interval '1 hour'
            GROUP BY a.name ORDER BY a.name"
        )),
        both(&["2"])
    );
    assert_eq!(
        rows(&format!(
            "SELECT concat_ws(' ', a.name, count(*)) FROM {of_dev}
            JOIN workspace_agent_logs AS l ON l.agent_id = a.id GROUP BY a.name ORDER BY a.name"
        )),
        both(&["2"])
    );
    assert_eq!(
        rows(
            "SELECT concat_ws(' ', unique_workspaces_count, unique_users_count, allowed_requests, denied_requests)
            FROM boundary_usage_stats ORDER BY allowed_requests"
        ),
        ["1 1 4 2", "0 0 7 0"]
    );
    // Somebody works there: it is used now, and its end has moved from in ten minutes to in an hour.
    assert_eq!(
        deployment.value(&format!(
            "SELECT concat_ws(' ', w.last_used_at > now() - interval '10 minutes',
                b.deadline > now() + interval '50 minutes', b.updated_at > now() - interval '10 minutes')
            FROM workspaces AS w JOIN workspace_builds AS b ON b.workspace_id = w.id AND b.build_number = 2
            WHERE w.id = '{DEV}'"
        )),
        "t t t"
    );
}

/// What others have written, and what drpcd writes into databases of its own.
fn assert_left_alone(deployment: &Deployment) {
    for (sql, expected) in [
        (
            "SELECT count(*) FROM workspace_agent_stats WHERE created_at < now() - interval '8 days'",
            "20",
        ),
        (
            "SELECT count(*) FROM workspace_agent_logs WHERE output = 'an old line'",
            "2",
        ),
        (
            "SELECT count(*) FROM notification_messages WHERE created_by = 'system'",
            "1",
        ),
        (
            "SELECT string_agg(key, ' ' ORDER BY key) FROM site_configs",
            "announcement_banners deployment_id derp_mesh_key",
        ),
        ("SELECT count(*) FROM replicas", "1"),
        (
            "SELECT count(*) FROM tailnet_peers WHERE coordinator_id::text LIKE '00000010-%'",
            "2",
        ),
        (
            "SELECT count(*) FROM tailnet_tunnels WHERE coordinator_id::text LIKE '00000010-%'",
            "2",
        ),
        (
            "SELECT count(*) FROM pg_tables WHERE tablename LIKE 'drpcd%'",
            "0",
        ),
    ] {
        assert_eq!(deployment.value(sql), expected, "{sql}");
    }
}

/// What the deployment's dashboard waits for.
fn assert_heard(heard: &[(String, String)], owner: &str, logs: &str) {
    let kinds = |agent: bool| {
        let of_owner = heard.iter().filter(|(channel, _)| channel == owner);
        let events = of_owner.map(|(_, payload)| serde_json::from_str::<Value>(payload).unwrap());
        let mut kinds: Vec<_> = events
            .filter(|event| event.get("agent_id").is_some() == agent)
            .map(|event| event["kind"].as_str().unwrap().to_owned())
            .collect();
        kinds.sort();
        kinds.dedup();
        kinds
    };
    assert_eq!(
        kinds(true),
        [
            "agt_app_status_update",
            "agt_connection_update",
            "agt_first_logs",
            "agt_lifecycle_update",
            "app_health",
        ]
    );
    assert_eq!(kinds(false), ["stats_update"]);
    let on = |wanted: &str| heard.iter().filter(|(channel, _)| channel == wanted).count();
    assert!(
        on(logs) > 0 && on("workspace_agent_metadata_batch") > 0 && on("notification_enqueued") > 0,
        "{heard:?}"
    );
    for (_, payload) in heard.iter().filter(|(channel, _)| channel == logs) {
        assert!(
            serde_json::from_str::<Value>(payload).unwrap()["created_after"].is_i64(),
            "{payload}"
        );
    }
}

/// What other servers of ours wait for: of each sub agent that was deleted, once.
fn assert_told_once(deployment: &Deployment, heard: &[(String, String)]) {
    let deleted =
        deployment.query("SELECT id FROM workspace_agents WHERE name IN ('main-gone', 'second-gone')");
    assert_eq!(deleted.len(), 2);
    for id in deleted {
        let of = |(channel, payload): &&(String, String)| channel == "drpcd_events" && payload.contains(&id);
        assert_eq!(heard.iter().filter(of).count(), 1, "{id}: {heard:?}");
    }
}

#[test]
fn keys_and_links_are_read_and_never_changed() {
    let Some(deployment) = Deployment::new() else {
        return;
    };
    // Whoever asked for a new token would be heard here.
    let provider = TcpListener::bind("127.0.0.1:0").unwrap();
    provider.set_nonblocking(true).unwrap();
    let url = format!("http://{}/token", provider.local_addr().unwrap());
    let mut variables = Vec::new();
    for (number, name) in [(0, "gitea"), (1, "github"), (2, "gitlab")] {
        for (key, value) in [
            ("ID", name),
            ("TYPE", name),
            ("TOKEN_URL", &url),
            ("CLIENT_ID", "drpcd"),
        ] {
            variables.push((format!("CODER_EXTERNAL_AUTH_{number}_{key}"), value.to_owned()));
        }
    }
    let variables: Vec<_> = variables
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()))
        .collect();
    let server = deployment.serve(&[], &variables);
    let ask = |last: &str, target: &str| {
        let header = format!("Coder-Session-Token: {}\r\n", agent(&server, last).token);
        let answer = get(
            &server.url,
            &format!("/api/v2/workspaceagents/me/{target}"),
            &header,
        );
        let body: Value = serde_json::from_str(&answer.body).unwrap();
        (answer.status, body)
    };
    let (status, key) = ask("1", "gitsshkey");
    assert_eq!((status, &key["private_key"]), (200, &"private key of ada".into()));
    assert_eq!(ask("8", "gitsshkey").0, 403);
    let (status, link) = ask("1", "external-auth?id=gitea");
    assert_eq!((status, &link["access_token"]), (200, &"gitea-access".into()));
    assert_eq!(link["token_extra"], serde_json::json!({"scope": "repo"}));
    // It has ended, and is for others to renew.
    let (status, link) = ask("1", "external-auth?id=github");
    assert_eq!((status, &link["access_token"]), (200, &"".into()));
    assert!(
        link["url"].as_str().unwrap().ends_with("/external-auth/github"),
        "{link}"
    );
    // It is encrypted, and the keys are not here.
    let (status, link) = ask("1", "external-auth?id=gitlab");
    assert_eq!(status, 500, "{link}");
    assert!(
        link.to_string().contains("encrypted") && !link.to_string().contains("c2Vh"),
        "{link}"
    );
    assert_eq!(server.stop(), Some(0), "{}", deployment.log());
    assert!(provider.accept().is_err(), "somebody asked for a new token");
    deployment.assert_lawful();
    let links = "SELECT concat_ws(' ', provider_id, oauth_access_token, oauth_refresh_token, oauth_refresh_failure_reason)
        FROM external_auth_links ORDER BY provider_id";
    assert_eq!(
        deployment.query(links),
        [
            "gitea gitea-access  ",
            "github github-access github-refresh ",
            "gitlab c2VhbGVkIGFjY2Vzcw== c2VhbGVkIHJlZnJlc2g= ",
        ]
    );
    assert!(
        deployment
            .log()
            .contains("the database is that of a coder deployment"),
        "{}",
        deployment.log()
    );
}

#[test]
fn a_database_that_takes_no_writes_is_known_for_as_long_as_it_takes_none() {
    /// Several heartbeats, which are tried each second then.
    const OUTAGE: Duration = Duration::from_secs(6);
    let Some(deployment) = Deployment::new() else {
        return;
    };
    let server = deployment.serve(&[], &[]);
    let ready = || server.get("/readyz").status;
    eventually(|| ready() == 200).unwrap();
    // Where its servers are let in, all their transactions read.
    let name = deployment.value("SELECT current_database()");
    deployment.database.execute(&format!(
        "ALTER DATABASE {name} SET default_transaction_read_only = on;
        SELECT pg_terminate_backend(pid) FROM pg_stat_activity
        WHERE datname = current_database() AND application_name LIKE 'drpcd%'"
    ));
    eventually(|| deployment.log().contains("cannot write to the database")).unwrap();
    let token = agent(&server, "1").token;
    let end = Instant::now() + OUTAGE;
    while Instant::now() < end {
        assert_eq!(ready(), 503);
        let handshake = dial(&server.url, "?version=2.8&role=probe", &token).0;
        assert_ne!(handshake.status, 101, "an agent is let in");
        std::thread::sleep(Duration::from_millis(50));
    }
    let said = |what: &str| deployment.log().matches(what).count();
    assert_eq!(said("cannot write to the database"), 1, "{}", deployment.log());
    assert_eq!(said("the database is written again"), 0, "{}", deployment.log());
    deployment.database.execute(&format!(
        "BEGIN READ WRITE; ALTER DATABASE {name} RESET default_transaction_read_only; COMMIT;
        SELECT pg_terminate_backend(pid) FROM pg_stat_activity
        WHERE datname = current_database() AND application_name LIKE 'drpcd%'"
    ));
    eventually(|| ready() == 200).unwrap();
    assert_eq!(said("the database is written again"), 1, "{}", deployment.log());
    assert_eq!(server.stop(), Some(0), "{}", deployment.log());
}
