//! Workspaces in use, their deadlines, and how far the agents of a build are.

use super::batch::{Hex, json, write};
use super::engine::{Database, statements};
use super::row::Columns as _;
use crate::clock::Timestamp;
use crate::ids::{AgentId, UserId, WorkspaceId};
use crate::store::{Autostart, BuildReadiness, BuildStatus, StoreError};

/// Workspaces that one statement marks; bounds the JSON text that lists them to about 70 KiB.
const WORKSPACES_PER_STATEMENT: usize = 2_000;

statements! {
    /// Durations are stored in nanoseconds and used in whole seconds, as in the original; times are microseconds. A
    /// NULL `ttl` makes the length NULL, so that nothing moves.
    BUMP_ACTIVITY = "bump_activity":
        "UPDATE workspace_builds SET
            updated_at = ?2,
            deadline = CASE max_deadline
                WHEN -62135596800000000 THEN max(deadline, ?2 + bump.length)
                ELSE min(max(deadline, ?2 + bump.length), max_deadline)
            END
        FROM (
            SELECT b.id AS build_id,
                CASE
                    WHEN ?3 > ?2 AND ?2 + t.activity_bump / 1000000000 * 1000000 > ?3
                        AND (t.autostart_block_days_of_week >> ?4) & 1 = 0
                    THEN ?3 - ?2
                        + CASE WHEN t.allow_user_autostop THEN w.ttl ELSE t.default_ttl END / 1000000000 * 1000000
                    ELSE t.activity_bump / 1000000000 * 1000000
                END AS length
            FROM workspaces AS w
            JOIN templates AS t ON t.id = w.template_id
            JOIN workspace_builds AS b ON b.workspace_id = w.id AND b.build_number = (
                SELECT max(build_number) FROM workspace_builds WHERE workspace_id = ?1
            )
            JOIN provisioner_jobs AS j ON j.id = b.job_id
            WHERE w.id = ?1 AND j.completed_at IS NOT NULL AND b.transition = 'start' AND t.activity_bump > 0
        ) AS bump
        WHERE id = bump.build_id AND bump.length > 0 AND deadline <> -62135596800000000
            AND deadline - bump.length * 95 / 100 < ?2";
    TOUCH_WORKSPACES = "touch_workspaces":
        "UPDATE workspaces SET last_used_at = ?2
        WHERE id IN (SELECT unhex(value) FROM json_each(?1)) AND last_used_at < ?2";
    BUILD_READINESS = "build_readiness":
        "SELECT b.created_at, b.transition, t.name AS template_name, o.name AS organization_name, w.owner_id,
            count(a.ready_at) = count(*) AS all_agents_ready,
            coalesce(max(a.ready_at), -62135596800000000) AS last_agent_ready_at,
            CASE
                WHEN max(a.lifecycle_state = 'start_error') THEN 'error'
                WHEN max(a.lifecycle_state = 'start_timeout') THEN 'timeout'
                ELSE 'success'
            END AS status
        FROM workspace_agents AS asking
        JOIN workspace_resources AS place ON place.id = asking.resource_id
        JOIN workspace_builds AS b ON b.job_id = place.job_id
        JOIN workspaces AS w ON w.id = b.workspace_id
        JOIN templates AS t ON t.id = w.template_id
        JOIN organizations AS o ON o.id = w.organization_id
        JOIN workspace_resources AS r ON r.job_id = b.job_id
        JOIN workspace_agents AS a ON a.resource_id = r.id
        WHERE asking.id = ?1
        GROUP BY b.id";
}

pub(super) async fn bump(
    database: &Database,
    workspace: WorkspaceId,
    now: Timestamp,
    autostart: Option<Autostart>,
) -> Result<bool, StoreError> {
    let call = BUMP_ACTIVITY
        .bind(workspace.0)
        .bind(now.as_micros())
        .bind(autostart.map(|next| next.at.as_micros()))
        .bind(autostart.map(|next| next.weekday));
    Ok(database.write().await?.execute(call).await?.rows > 0)
}

pub(super) async fn touch(
    database: &Database,
    workspaces: &[WorkspaceId],
    at: Timestamp,
) -> Result<(), StoreError> {
    let list = |chunk: &[WorkspaceId]| json(chunk.iter().map(|id| Hex(id.0)));
    write(database, workspaces, WORKSPACES_PER_STATEMENT, list, |list| {
        TOUCH_WORKSPACES.bind(list).bind(at.as_micros())
    })
    .await
}

pub(super) async fn build_readiness(
    database: &Database,
    agent: AgentId,
) -> Result<BuildReadiness, StoreError> {
    let row = database.read().await?.one(BUILD_READINESS.bind(agent.0)).await?;
    Ok(BuildReadiness {
        created_at: row.time("created_at")?,
        transition: row.get("transition")?,
        template_name: row.get("template_name")?,
        organization_name: row.get("organization_name")?,
        is_prebuild: row.id::<UserId>("owner_id")? == UserId::PREBUILDS,
        all_agents_ready: row.get("all_agents_ready")?,
        last_agent_ready_at: row.time("last_agent_ready_at")?,
        status: row.label("status", BuildStatus::from_label)?,
    })
}
