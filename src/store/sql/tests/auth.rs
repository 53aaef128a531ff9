//! Eligibility: one table of builds for authentication and for the build check.

use uuid::Uuid;

use super::{EXAMPLE, Kit, SMALL};
use crate::ids::{AgentId, AgentToken, BuildId, WorkspaceId};
use crate::store::{ApiKeyScope, ConnectionTimes, ManifestParts, Monitors, Store, StoreError};

/// A build of the one seeded workspace, and the state of its job.
struct Build {
    number: i64,
    transition: &'static str,
    /// Columns started_at, canceled_at, completed_at, error of its job.
    job: &'static str,
}

const PENDING: &str = "NULL, NULL, NULL, NULL";
const RUNNING: &str = "1, NULL, NULL, NULL";
const SUCCEEDED: &str = "1, NULL, 2, NULL";
const FAILED: &str = "1, NULL, 2, 'broken'";
const CANCELED: &str = "1, 1, 2, NULL";
const CANCELING: &str = "1, 1, NULL, NULL";

const fn build(number: i64, transition: &'static str, job: &'static str) -> Build {
    Build {
        number,
        transition,
        job,
    }
}

async fn add_build(kit: &mut Kit, build: &Build) {
    let job = Uuid::new_v4().simple();
    let id = Uuid::new_v4().simple();
    kit.sql(&format!(
        "INSERT INTO provisioner_jobs (
            id, organization_id, initiator_id, type, created_at, updated_at, started_at, canceled_at, completed_at,
            error
        ) SELECT x'{job}', id, id, 'workspace_build', 0, 0, {} FROM organizations",
        build.job
    ))
    .await;
    kit.sql(&format!(
        "INSERT INTO workspace_builds (
            id, workspace_id, template_version_id, initiator_id, job_id, created_at, updated_at, build_number,
            transition
        ) SELECT x'{id}', workspace_id, template_version_id, initiator_id, x'{job}', 0, 0, {}, '{}'
        FROM workspace_builds WHERE build_number = 1",
        build.number, build.transition
    ))
    .await;
}

/// Both users of the rule must agree on the seeded agent, which belongs to build 1.
async fn check(case: &str, kit: &Kit, token: &AgentToken, first: BuildId, eligible: bool) {
    assert_eq!(kit.authenticates(token).await, eligible, "{case}: authentication");
    let outdated = kit.store.outdated_builds(&[first]).await.unwrap();
    assert_eq!(outdated.is_empty(), eligible, "{case}: build check");
}

async fn first_build(kit: &mut Kit) -> BuildId {
    let id = kit
        .cell("SELECT id FROM workspace_builds WHERE build_number = 1")
        .await;
    BuildId(id.unwrap().parse().unwrap())
}

#[tokio::test]
async fn conn_020_to_027_eligibility_follows_the_latest_build() {
    let cases: [(&str, &str, &[Build], bool); 15] = [
        ("the latest build", "", &[], true),
        (
            "conn_020 workspace deleted",
            "UPDATE workspaces SET deleted = 1",
            &[],
            false,
        ),
        ("conn_021 newer start", "", &[build(2, "start", SUCCEEDED)], false),
        (
            "conn_021 newer start, running",
            "",
            &[build(2, "start", RUNNING)],
            false,
        ),
        ("conn_022 stop running", "", &[build(2, "stop", RUNNING)], true),
        ("conn_022 stop pending", "", &[build(2, "stop", PENDING)], true),
        (
            "conn_023 stop succeeded",
            "",
            &[build(2, "stop", SUCCEEDED)],
            false,
        ),
        ("stop failed", "", &[build(2, "stop", FAILED)], false),
        ("stop canceled", "", &[build(2, "stop", CANCELED)], false),
        ("stop canceling", "", &[build(2, "stop", CANCELING)], false),
        (
            "conn_024 own job failed",
            "UPDATE provisioner_jobs SET error = 'broken' WHERE type = 'workspace_build'",
            &[build(2, "stop", RUNNING)],
            false,
        ),
        (
            "conn_025 latest is build 3",
            "",
            &[build(2, "stop", RUNNING), build(3, "stop", RUNNING)],
            false,
        ),
        ("delete running", "", &[build(2, "delete", RUNNING)], false),
        ("a gap before the stop", "", &[build(3, "stop", RUNNING)], false),
        (
            "conn_027 own job still running",
            "UPDATE provisioner_jobs SET completed_at = NULL WHERE type = 'workspace_build'",
            &[],
            true,
        ),
    ];
    for (case, change, builds, eligible) in cases {
        let (mut kit, agents) = Kit::seeded(SMALL).await;
        let first = first_build(&mut kit).await;
        if !change.is_empty() {
            kit.sql(change).await;
        }
        for build in builds {
            add_build(&mut kit, build).await;
        }
        check(case, &kit, &agents[0].token, first, eligible).await;
    }
}

#[tokio::test]
async fn conn_022_the_exception_is_for_start_builds_only() {
    let (mut kit, agents) = Kit::seeded(SMALL).await;
    let first = first_build(&mut kit).await;
    kit.sql("UPDATE workspace_builds SET transition = 'stop'").await;
    add_build(&mut kit, &build(2, "stop", RUNNING)).await;
    check("own build is a stop", &kit, &agents[0].token, first, false).await;
}

#[tokio::test]
async fn conn_009_an_unknown_token_authenticates_nobody() {
    let (kit, _) = Kit::seeded(SMALL).await;
    assert!(!kit.authenticates(&AgentToken::random()).await);
}

#[tokio::test]
async fn conn_026_a_deleted_sub_agent_authenticates_no_more() {
    let (mut kit, agents) = Kit::seeded(SMALL).await;
    assert!(kit.authenticates(&agents[0].token).await);
    kit.sql("UPDATE workspace_agents SET deleted = 1").await;
    assert!(!kit.authenticates(&agents[0].token).await);
    let agent = agents[0].agent_id;
    assert_eq!(kit.store.agent(agent).await, Err(StoreError::NoRows));
    // Deleting twice succeeds, which needs the workspace.
    kit.store.workspace_by_agent(agent).await.unwrap();
}

#[tokio::test]
async fn an_unknown_build_is_outdated_and_the_order_is_kept() {
    let (mut kit, _) = Kit::seeded(SMALL).await;
    let known = first_build(&mut kit).await;
    let unknown: Vec<_> = (0..1_500).map(|_| BuildId::random()).collect();
    let mut asked = unknown.clone();
    asked.insert(700, known);
    assert_eq!(kit.store.outdated_builds(&asked).await.unwrap(), unknown);
    assert_eq!(kit.ran("outdated_builds"), 2, "one statement per 1,000 builds");
    assert_eq!(kit.store.outdated_builds(&[]).await.unwrap(), []);
    assert_eq!(kit.ran("outdated_builds"), 2);
}

#[tokio::test]
async fn one_statement_reads_all_that_a_session_needs() {
    let (mut kit, agents) = Kit::seeded(EXAMPLE).await;
    let found = kit.store.authenticate(&agents[0].token).await.unwrap().unwrap();
    let total: u64 = kit.ran("authenticate") + kit.ran("agent_by_id") + kit.ran("workspace_by_agent");
    assert_eq!(total, 1);
    assert_eq!(found.build_id, first_build(&mut kit).await);
    let agent = &found.agent;
    assert_eq!((agent.id, &*agent.name), (agents[0].agent_id, "main"));
    assert_eq!((&*agent.directory, &*agent.motd_file), ("~/src", "/etc/motd"));
    let environment: serde_json::Value =
        serde_json::from_str(agent.environment_variables.as_deref().unwrap()).unwrap();
    assert_eq!(environment, serde_json::json!({ "GREETING": "hello" }));
    assert_eq!(agent.connection_timeout_seconds, 120);
    assert_eq!(agent.api_key_scope, ApiKeyScope::All);
    assert_eq!(agent.connection, ConnectionTimes::default());
    let workspace = &found.workspace;
    assert_eq!(
        (
            &*workspace.name,
            &*workspace.owner_username,
            &*workspace.template_name
        ),
        ("dev", "ada", "docker")
    );
    assert!(!workspace.is_prebuild());
    // The separate reads say the same.
    assert_eq!(&kit.store.agent(agent.id).await.unwrap(), agent);
    assert_eq!(&kit.store.workspace_by_agent(agent.id).await.unwrap(), workspace);
    let listed = [workspace.id, WorkspaceId::random()];
    assert_eq!(
        kit.store.workspaces(&listed).await.unwrap(),
        std::slice::from_ref(workspace)
    );
    kit.sql("UPDATE workspaces SET deleted = 1").await;
    assert_eq!(kit.store.workspaces(&listed).await.unwrap(), []);
}

#[tokio::test]
async fn absent_rows_are_no_rows() {
    let kit = Kit::new().await;
    let nobody = AgentId::random();
    assert_eq!(kit.store.agent(nobody).await, Err(StoreError::NoRows));
    assert_eq!(
        kit.store.workspace_by_agent(nobody).await,
        Err(StoreError::NoRows)
    );
    assert_eq!(StoreError::NoRows.to_string(), "sql: no rows in result set");
    assert_eq!(
        kit.store.manifest_parts(nobody).await.unwrap(),
        ManifestParts::default()
    );
    assert_eq!(kit.store.monitors(nobody).await.unwrap(), Monitors::default());
    assert_eq!(kit.store.site_config("announcement_banners").await.unwrap(), None);
}
