//! Every method of the Agent service, called by the reference agent on the real binary: what is in the store afterwards.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(clippy::disallowed_methods, reason = "real peers keep real time")]

mod support;

use std::time::Duration;

use drpcd::clock::Clock;
use drpcd::proto::agent as proto;
use drpcd::proto::agent::AgentClient;
use support::{Data, EXAMPLE_SEED, client, eventually, go};
use tokio::runtime::Runtime;
use uuid::Uuid;

/// The methods of the service, but for the banner that agents of API 2.0 ask for.
const METHODS: [&str; 17] = [
    "BatchCreateLogs",
    "BatchUpdateAppHealths",
    "BatchUpdateMetadata",
    "CreateSubAgent",
    "DeleteSubAgent",
    "GetAnnouncementBanners",
    "GetManifest",
    "GetResourcesMonitoringConfiguration",
    "ListSubAgents",
    "PushResourcesMonitoringUsage",
    "ReportBoundaryLogs",
    "ReportConnection",
    "ScriptCompleted",
    "UpdateAppStatus",
    "UpdateLifecycle",
    "UpdateStartup",
    "UpdateStats",
];

/// The agent of the example, twice.
fn two_agents() -> String {
    let (head, agent) = EXAMPLE_SEED.split_once("  - name: main\n").unwrap();
    format!("{head}  - name: main\n{agent}  - name: second\n{agent}")
}

/// A task of the workspace, run in the first app of the agent `main`.
fn add_task(data: &Data) {
    let (id, created_at) = (data.id(Uuid::from_u128(1)), data.time(Clock::system().now()));
    data.execute(&format!(
        "INSERT INTO tasks (id, organization_id, owner_id, name, workspace_id, template_version_id, prompt, created_at)
            SELECT {id}, organization_id, owner_id, 'fix', id, (SELECT id FROM template_versions LIMIT 1), 'fix it',
            {created_at} FROM workspaces;
        INSERT INTO task_workspace_apps (task_id, workspace_agent_id, workspace_app_id, workspace_build_number)
            SELECT {id}, workspace_agents.id, workspace_apps.id, 1
            FROM workspace_agents JOIN workspace_apps ON workspace_apps.agent_id = workspace_agents.id
            WHERE workspace_agents.name = 'main' AND workspace_apps.slug = 'code'"
    ));
}

#[test]
fn two_agents_of_a_workspace_use_every_method_and_all_of_it_is_stored() {
    let data = Data::new(&two_agents());
    let server = data.serve(&["--agent-stats-refresh-interval", "1s"]);
    add_task(&data);
    let flags = ["--use", "--stop-after-ready", "8s"];
    let Some(main) = go("agent", &server.agents[0], &flags) else {
        return;
    };
    let second = go("agent", &server.agents[1], &flags).unwrap();
    let reports = [("main", main.result()), ("second", second.result())];
    assert_eq!(server.stop(), Some(0));

    for (name, report) in &reports {
        assert_eq!(report["connections"], 1, "{name}: {report:#}");
        for method in METHODS {
            let rpc = &report["rpcs"][method];
            assert!(rpc["calls"].as_u64() > Some(0), "{name} did not call {method}");
            assert_eq!(rpc["failed"], 0, "{name}: {method}: {rpc:#}");
        }
        assert_eq!(report["sub_agents"].to_string(), format!("[\"{name}-web\"]"));
        let error = &report["sub_agent_errors"]["app_creation_errors"][0];
        assert_eq!((&error["index"], &error["field"]), (&1.into(), &"slug".into()));
        let child = &report["sub_agent_manifest"];
        assert_eq!(child["agent_name"], format!("{name}-web"));
        assert_eq!(child["parent_id"], report["manifest"]["agent_id"]);
    }
    let rows = |sql: &str| data.query(sql);

    let agents = rows(
        "SELECT name, lifecycle_state, version, CAST(subsystems AS TEXT) LIKE '%envbox%', deleted FROM workspace_agents ORDER BY name",
    );
    assert_eq!(
        agents,
        [
            "main off v2.31.0 1 0",
            "main-gone created  0 1",
            "main-web created  0 0",
            "second off v2.31.0 1 0",
            "second-gone created  0 1",
            "second-web created  0 0",
        ]
    );
    assert_eq!(
        rows(
            "SELECT count(*) FROM workspace_agents AS child JOIN workspace_agents AS parent
             ON parent.id = child.parent_id AND parent.resource_id = child.resource_id
             AND child.name IN (parent.name || '-web', parent.name || '-gone')"
        ),
        ["4"]
    );
    let apps = rows(
        "SELECT workspace_agents.name, CASE WHEN slug LIKE '%-code-server' THEN '-code-server' ELSE slug END, health, open_in
         FROM workspace_apps JOIN workspace_agents ON workspace_agents.id = agent_id
         ORDER BY workspace_agents.name, slug",
    );
    assert_eq!(
        apps,
        [
            "main code healthy slim-window",
            "main vim disabled slim-window",
            "main-gone -code-server initializing tab",
            "main-web -code-server initializing tab",
            "second code healthy slim-window",
            "second vim disabled slim-window",
            "second-gone -code-server initializing tab",
            "second-web -code-server initializing tab",
        ]
    );
    let statuses = rows(
        "SELECT name, state, message, coalesce(uri, 'NULL')
         FROM workspace_app_statuses JOIN workspace_agents ON workspace_agents.id = agent_id ORDER BY name, CAST(state AS TEXT) DESC",
    );
    let both = |rows: &[&str]| -> Vec<String> {
        ["main", "second"]
            .iter()
            .flat_map(|name| rows.iter().map(move |row| format!("{name} {row}")))
            .collect()
    };
    assert_eq!(
        statuses,
        both(&[
            "working Reading the ticket NULL",
            "complete Done https://example.com/pull/1"
        ])
    );
    let visits = rows(
        "SELECT agent_name, type, ip, coalesce(code, -1), disconnect_time IS NULL, coalesce(disconnect_reason, 'NULL')
         FROM connection_logs ORDER BY agent_name, CAST(type AS TEXT)",
    );
    assert_eq!(
        visits,
        both(&[
            "ssh 127.0.0.1 255 0 process exited with error status: 255",
            "vscode 192.0.2.7 -1 1 NULL"
        ])
    );
    let timings = rows(
        "SELECT workspace_agents.name, stage, status, exit_code
         FROM workspace_agent_script_timings AS timings
         JOIN workspace_agent_scripts AS scripts ON scripts.id = timings.script_id
         JOIN workspace_agents ON workspace_agents.id = scripts.workspace_agent_id ORDER BY workspace_agents.name, CAST(stage AS TEXT)",
    );
    assert_eq!(timings, both(&["start ok 0", "stop ok 0"]));
    let usage = rows(
        // A row for each replica that has counted.
        "SELECT max(unique_workspaces_count), max(unique_users_count), sum(allowed_requests), sum(denied_requests)
         FROM boundary_usage_stats",
    );
    assert_eq!(usage, ["1 1 4 2"]);
    let monitors = rows(
        "SELECT state FROM workspace_agent_memory_resource_monitors
         UNION ALL SELECT state FROM workspace_agent_volume_resource_monitors",
    );
    assert_eq!(monitors, ["NOK", "NOK", "OK", "OK"]);
    let notifications = rows("SELECT DISTINCT created_by, method FROM notification_messages ORDER BY 1");
    assert_eq!(
        notifications,
        [
            "api-workspace-agent-app-status inbox",
            "workspace-monitor-memory inbox"
        ]
    );
    let stats = rows(
        "SELECT name, count(*) >= 2, max(connection_count), max(session_count_vscode)
         FROM workspace_agent_stats JOIN workspace_agents ON workspace_agents.id = agent_id GROUP BY name ORDER BY name",
    );
    assert_eq!(stats, both(&["1 2 1"]));
    assert_eq!(rows("SELECT last_used_at > created_at FROM workspaces"), ["1"]);
    let values = rows(
        "SELECT name, count(*) FROM workspace_agent_metadata
         JOIN workspace_agents ON workspace_agents.id = workspace_agent_id WHERE value <> '' GROUP BY name ORDER BY name",
    );
    assert_eq!(values, both(&["2"]));
    let lines = rows(
        "SELECT name, count(*) FROM workspace_agent_logs
         JOIN workspace_agents ON workspace_agents.id = agent_id GROUP BY name ORDER BY name",
    );
    assert_eq!(lines, both(&["2"]));
}

/// What an agent is told of itself and of its site.
async fn told(session: &AgentClient) -> (String, usize, String) {
    let manifest = session.get_manifest(&proto::GetManifestRequest {}).await.unwrap();
    let banners = proto::GetAnnouncementBannersRequest {};
    let banners = session.get_announcement_banners(&banners).await.unwrap();
    let banner = banners.announcement_banners[0].message.clone();
    (manifest.directory, manifest.metadata.len(), banner)
}

#[test]
fn what_a_seed_changes_is_told_in_open_sessions_of_every_server() {
    let runtime = Runtime::new().unwrap();
    let data = Data::new(EXAMPLE_SEED);
    let server = data.serve(&[]);
    let expected = ("~/src".to_owned(), 2, "Maintenance on Friday".to_owned());
    let begin = |index| {
        let agent = server.agent_at(index);
        runtime.block_on(async {
            let session = client::agent(&agent).await.unwrap();
            assert_eq!(told(&session).await, expected);
            session
        })
    };
    let sessions: Vec<_> = (0..server.replicas()).map(begin).collect();
    let changed = EXAMPLE_SEED
        .replace("~/src", "~/other")
        .replace("Friday", "Monday");
    data.seed(&changed);
    let expected = ("~/other".to_owned(), 2, "Maintenance on Monday".to_owned());
    for session in &sessions {
        let is_told = eventually(|| runtime.block_on(told(session)) == expected);
        assert_eq!(is_told, Ok(()));
    }
}

/// Reports what it does until the server is gone; returns how often that was acknowledged.
async fn write(session: AgentClient) -> usize {
    use proto::lifecycle::State;
    let mut acknowledged = 0;
    for state in [State::Starting, State::Ready].into_iter().cycle() {
        let lifecycle = proto::Lifecycle {
            state: state.into(),
            changed_at: Some(Clock::system().now().into()),
        };
        let request = proto::UpdateLifecycleRequest {
            lifecycle: Some(lifecycle),
        };
        if session.update_lifecycle(&request).await.is_err() {
            break;
        }
        acknowledged += 1;
    }
    acknowledged
}

#[test]
fn conn_074_a_manifest_is_whole_after_the_kill_of_a_server_that_was_writing() {
    let runtime = Runtime::new().unwrap();
    let data = Data::new(EXAMPLE_SEED);
    let mut server = data.serve(&[]);
    for index in 0..server.replicas() {
        let agent = server.agent_at(index);
        let session = runtime.block_on(client::agent(&agent)).unwrap();
        let before = runtime.block_on(told(&session));
        let writing = runtime.spawn(write(session));
        std::thread::sleep(Duration::from_millis(300));
        server.kill_replica(index);
        assert!(runtime.block_on(writing).unwrap() > 0, "it was writing");
        server.start_replica(index);
        let session = runtime.block_on(client::agent(&server.agent_at(index))).unwrap();
        assert_eq!(runtime.block_on(told(&session)), before);
    }
}
