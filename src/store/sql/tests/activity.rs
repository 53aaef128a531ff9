//! Deadlines that move, times of last use, and how far a build's agents are.

use super::{EXAMPLE, Kit, NOW, at};
use crate::clock::Timestamp;
use crate::ids::{AgentId, WorkspaceId};
use crate::store::{Autostart, BuildStatus, Store, StoreError};

/// A workspace with a `ttl` of 8 hours whose build ends in 30 minutes, and its id.
async fn kit() -> (Kit, WorkspaceId) {
    let (mut kit, agents) = Kit::seeded(EXAMPLE).await;
    kit.sql(&format!(
        "UPDATE workspace_builds SET deadline = {}",
        at(1_800).as_micros()
    ))
    .await;
    let workspace = kit.store.workspace_by_agent(agents[0].agent_id).await.unwrap();
    (kit, workspace.id)
}

/// An autostart in so many seconds, on a Monday.
#[expect(clippy::unnecessary_wraps, reason = "a bump may be without one")]
fn monday(seconds: i64) -> Option<Autostart> {
    Some(Autostart {
        at: at(seconds),
        weekday: 0,
    })
}

#[tokio::test]
async fn a_bump_moves_the_deadline_by_what_the_template_grants() {
    let none = None;
    // What was set before, the next autostart, the seconds from now to the deadline after it; `None` is not moved.
    for (setup, autostart, expected) in [
        ("", none, Some(3_600)),
        // At least 5 % of the length must have passed.
        ("UPDATE workspace_builds SET deadline = {3419}", none, Some(3_600)),
        ("UPDATE workspace_builds SET deadline = {3420}", none, None),
        (
            "UPDATE workspace_builds SET deadline = -62135596800000000",
            none,
            None,
        ),
        ("UPDATE workspace_builds SET transition = 'stop'", none, None),
        ("UPDATE provisioner_jobs SET completed_at = NULL", none, None),
        ("UPDATE templates SET activity_bump = 0", none, None),
        // Whole seconds count.
        (
            "UPDATE templates SET activity_bump = 3599999999999",
            none,
            Some(3_599),
        ),
        ("UPDATE templates SET activity_bump = 999999999", none, None),
        (
            "UPDATE workspace_builds SET max_deadline = {2700}",
            none,
            Some(2_700),
        ),
        (
            "UPDATE workspace_builds SET max_deadline = {9000}",
            none,
            Some(3_600),
        ),
        // Into an autostart: to it, and the workspace's own time.
        ("", monday(1_800), Some(1_800 + 28_800)),
        ("", monday(3_599), Some(3_599 + 28_800)),
        ("", monday(3_600), Some(3_600)),
        ("", monday(0), Some(3_600)),
        ("", monday(-60), Some(3_600)),
        (
            "UPDATE workspace_builds SET max_deadline = {9000}",
            monday(1_800),
            Some(9_000),
        ),
        ("UPDATE workspaces SET ttl = NULL", monday(1_800), None),
        (
            "UPDATE templates SET allow_user_autostop = 0, default_ttl = 7200000000000",
            monday(1_800),
            Some(1_800 + 7_200),
        ),
        // The template forbids Mondays; all days but Monday.
        (
            "UPDATE templates SET autostart_block_days_of_week = 1",
            monday(1_800),
            Some(3_600),
        ),
        (
            "UPDATE templates SET autostart_block_days_of_week = 126",
            monday(1_800),
            Some(1_800 + 28_800),
        ),
    ] {
        let (mut kit, workspace) = kit().await;
        let mut setup = setup.to_owned();
        for seconds in [2_700, 3_419, 3_420, 9_000] {
            setup = setup.replace(&format!("{{{seconds}}}"), &at(seconds).as_micros().to_string());
        }
        if !setup.is_empty() {
            kit.sql(&setup).await;
        }
        let row = "SELECT deadline, updated_at FROM workspace_builds";
        let before = kit.table(row).await;
        let later = at(1);
        // A second later, so that `updated_at` shows whether the row was written; all is a second later then.
        kit.sql("UPDATE workspace_builds SET max_deadline = max_deadline + 1000000 WHERE max_deadline > 0")
            .await;
        kit.sql("UPDATE workspace_builds SET deadline = deadline + 1000000 WHERE deadline > 0")
            .await;
        let autostart = autostart.map(|next| Autostart {
            at: Timestamp::from_micros(next.at.as_micros() + 1_000_000),
            ..next
        });
        let moved = kit
            .store
            .bump_activity(workspace, later, autostart)
            .await
            .unwrap();
        assert_eq!(moved, expected.is_some(), "{setup} {autostart:?}");
        if let Some(seconds) = expected {
            let after = format!("{}|{}", at(1 + seconds).as_micros(), later.as_micros());
            assert_eq!(kit.table(row).await, [after], "{setup} {autostart:?}");
        } else {
            let updated_at = before[0].split('|').nth(1).unwrap();
            assert!(kit.table(row).await[0].ends_with(updated_at), "{setup}");
        }
        assert_eq!(kit.ran("bump_activity"), 1);
    }
}

#[tokio::test]
async fn a_bump_is_about_the_latest_build_and_no_other_workspace() {
    let (mut kit, workspace) = kit().await;
    let second = EXAMPLE.replacen("name: dev", "name: other", 1);
    kit.seed(&second, NOW).await.unwrap();
    let nobody = kit.store.bump_activity(WorkspaceId::random(), NOW, None).await;
    assert_eq!(nobody, Ok(false));
    assert_eq!(kit.store.bump_activity(workspace, NOW, None).await, Ok(true));
    let deadlines = "SELECT (deadline - 1774008000000000) / 1000000 FROM workspace_builds ORDER BY 1";
    assert_eq!(kit.table(deadlines).await, ["3600", "28800"]);

    // A newer build that has not ended: the running one is not moved any more.
    kit.sql(
        "INSERT INTO provisioner_jobs (id, organization_id, initiator_id, type, created_at, updated_at)
        SELECT randomblob(16), organization_id, initiator_id, type, created_at + 1, updated_at
        FROM provisioner_jobs WHERE type = 'workspace_build' LIMIT 1",
    )
    .await;
    let id = workspace.0.simple();
    kit.sql(&format!(
        "INSERT INTO workspace_builds (
            id, workspace_id, template_version_id, initiator_id, job_id, created_at, updated_at, build_number, transition
        )
        SELECT randomblob(16), workspace_id, template_version_id, initiator_id,
            (SELECT id FROM provisioner_jobs ORDER BY created_at DESC LIMIT 1), created_at, updated_at, 2, 'start'
        FROM workspace_builds WHERE workspace_id = x'{id}'"
    ))
    .await;
    assert_eq!(
        kit.store.bump_activity(workspace, at(3_000), None).await,
        Ok(false)
    );
}

#[tokio::test]
async fn workspaces_are_marked_as_used_by_one_statement_and_never_backwards() {
    let (mut kit, first) = kit().await;
    for name in ["two", "three"] {
        let yaml = EXAMPLE.replacen("name: dev", &format!("name: {name}"), 1);
        kit.seed(&yaml, NOW).await.unwrap();
    }
    kit.sql(&format!(
        "UPDATE workspaces SET last_used_at = {} WHERE name = 'two'",
        at(100).as_micros()
    ))
    .await;
    let second = kit.cell("SELECT id FROM workspaces WHERE name = 'two'").await;
    let second = WorkspaceId(second.unwrap().parse().unwrap());
    kit.store
        .touch_workspaces(&[first, second, WorkspaceId::random()], at(60))
        .await
        .unwrap();
    let never = Timestamp::ZERO.as_micros();
    let expected = [
        format!("dev|{}", at(60).as_micros()),
        format!("three|{never}"),
        format!("two|{}", at(100).as_micros()),
    ];
    assert_eq!(
        kit.table("SELECT name, last_used_at FROM workspaces ORDER BY name")
            .await,
        expected
    );
    kit.store.touch_workspaces(&[], at(70)).await.unwrap();
    assert_eq!(kit.ran("touch_workspaces"), 1);
}

#[tokio::test]
async fn readiness_counts_every_agent_of_the_build_deleted_ones_too() {
    let (mut kit, agents) = Kit::seeded("owner: { username: ada }\nworkspace: { name: dev, template: docker }\nagents: [{ name: a }, { name: b }]\n").await;
    let [a, b] = [agents[0].agent_id, agents[1].agent_id];
    let readiness = kit.store.build_readiness(a).await.unwrap();
    assert_eq!(
        (
            readiness.created_at,
            readiness.transition.as_str(),
            readiness.template_name.as_str(),
            readiness.organization_name.as_str(),
            readiness.is_prebuild,
            readiness.all_agents_ready,
            readiness.last_agent_ready_at,
            readiness.status,
        ),
        (
            NOW,
            "start",
            "docker",
            "coder",
            false,
            false,
            Timestamp::ZERO,
            BuildStatus::Success
        )
    );
    for (state_a, state_b, deleted, status) in [
        ("ready", "ready", 0, BuildStatus::Success),
        ("ready", "start_timeout", 0, BuildStatus::Timeout),
        ("start_error", "start_timeout", 1, BuildStatus::Error),
        ("ready", "start_error", 1, BuildStatus::Error),
    ] {
        for (agent, state, ready) in [(a, state_a, at(20)), (b, state_b, at(30))] {
            kit.sql(&format!(
                "UPDATE workspace_agents SET lifecycle_state = '{state}', ready_at = {}, deleted = {deleted} WHERE id = x'{}'",
                ready.as_micros(),
                agent.0.simple()
            ))
            .await;
        }
        let readiness = kit.store.build_readiness(a).await.unwrap();
        assert!(readiness.all_agents_ready);
        assert_eq!(
            (readiness.last_agent_ready_at, readiness.status),
            (at(30), status)
        );
    }
    kit.sql("UPDATE workspace_agents SET ready_at = NULL WHERE name = 'b'")
        .await;
    let readiness = kit.store.build_readiness(a).await.unwrap();
    assert!(!readiness.all_agents_ready);
    let nobody = kit.store.build_readiness(AgentId::random()).await;
    assert_eq!(nobody, Err(StoreError::NoRows));
}
