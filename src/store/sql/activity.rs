//! Workspaces in use, their deadlines, and how far the agents of a build are.

use super::batch::write;
use super::database::Database;
use super::statement::statements;
use super::value::ids;
use crate::clock::Timestamp;
use crate::ids::{AgentId, UserId, WorkspaceId};
use crate::store::{Autostart, BuildReadiness, BuildStatus, StoreError};

/// Workspaces that one statement marks; bounds the text that lists them to about 70 KiB.
const WORKSPACES_PER_STATEMENT: usize = 2_000;

statements! {
    /// Durations are stored in nanoseconds and used in whole seconds, as in the original; SQLite's times are
    /// microseconds. A NULL `ttl` makes the length NULL, so that nothing moves.
    BUMP_ACTIVITY = "bump_activity":
        "UPDATE workspace_builds SET
            updated_at = $2,
            deadline = CASE max_deadline
                WHEN -62135596800000000 THEN max(deadline, $2 + bump.length)
                ELSE min(max(deadline, $2 + bump.length), max_deadline)
            END
        FROM (
            SELECT b.id AS build_id,
                CASE
                    WHEN $3 > $2 AND $2 + t.activity_bump / 1000000000 * 1000000 > $3
                        AND (t.autostart_block_days_of_week >> $4) & 1 = 0
                    THEN $3 - $2
                        + CASE WHEN t.allow_user_autostop THEN w.ttl ELSE t.default_ttl END / 1000000000 * 1000000
                    ELSE t.activity_bump / 1000000000 * 1000000
                END AS length
            FROM workspaces AS w
            JOIN templates AS t ON t.id = w.template_id
            JOIN workspace_builds AS b ON b.workspace_id = w.id AND b.build_number = (
                SELECT max(build_number) FROM workspace_builds WHERE workspace_id = $1
            )
            JOIN provisioner_jobs AS j ON j.id = b.job_id
            WHERE w.id = $1 AND j.completed_at IS NOT NULL AND b.transition = 'start' AND t.activity_bump > 0
        ) AS bump
        WHERE id = bump.build_id AND bump.length > 0 AND deadline <> -62135596800000000
            AND deadline - bump.length * 95 / 100 < $2",
        postgres:
        "UPDATE workspace_builds SET
            updated_at = $2,
            deadline = CASE max_deadline
                WHEN '0001-01-01 00:00:00+00' THEN greatest(deadline, $2 + bump.length)
                ELSE least(greatest(deadline, $2 + bump.length), max_deadline)
            END
        FROM (
            SELECT b.id AS build_id,
                CASE
                    WHEN $3::timestamptz > $2::timestamptz
                        AND $2 + t.activity_bump / 1000000000 * interval '1 second' > $3
                        AND (t.autostart_block_days_of_week >> $4::int) & 1 = 0
                    THEN $3 - $2
                        + CASE WHEN t.allow_user_autostop THEN w.ttl ELSE t.default_ttl END / 1000000000
                            * interval '1 second'
                    ELSE t.activity_bump / 1000000000 * interval '1 second'
                END AS length
            FROM workspaces AS w
            JOIN templates AS t ON t.id = w.template_id
            JOIN workspace_builds AS b ON b.workspace_id = w.id AND b.build_number = (
                SELECT max(build_number) FROM workspace_builds WHERE workspace_id = $1
            )
            JOIN provisioner_jobs AS j ON j.id = b.job_id
            WHERE w.id = $1 AND j.completed_at IS NOT NULL AND b.transition = 'start' AND t.activity_bump > 0
        ) AS bump
        WHERE id = bump.build_id AND bump.length > interval '0' AND deadline <> '0001-01-01 00:00:00+00'
            AND deadline - bump.length * 0.95 < $2";
    TOUCH_WORKSPACES = "touch_workspaces":
        "UPDATE workspaces SET last_used_at = $2
        WHERE id IN (SELECT unhex(value) FROM json_each($1)) AND last_used_at < $2",
        postgres:
        "UPDATE workspaces SET last_used_at = $2
        WHERE id IN (
            SELECT id FROM workspaces WHERE id = ANY($1) AND last_used_at < $2 ORDER BY id FOR NO KEY UPDATE
        )";
    BUILD_READINESS = "build_readiness":
        "SELECT b.created_at, b.transition, t.name AS template_name, o.name AS organization_name, w.owner_id,
            count(a.ready_at) = count(*) AS all_agents_ready,
            max(a.ready_at) AS last_agent_ready_at,
            CASE
                WHEN count(*) FILTER (WHERE a.lifecycle_state = 'start_error') > 0 THEN 'error'
                WHEN count(*) FILTER (WHERE a.lifecycle_state = 'start_timeout') > 0 THEN 'timeout'
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
        WHERE asking.id = $1
        GROUP BY b.id, t.name, o.name, w.owner_id";
}

pub(super) async fn bump(
    database: &Database,
    workspace: WorkspaceId,
    now: Timestamp,
    autostart: Option<Autostart>,
) -> Result<bool, StoreError> {
    let call = BUMP_ACTIVITY
        .bind(workspace.0)
        .bind(now)
        .bind(autostart.map(|next| next.at))
        .bind(autostart.map(|next| next.weekday));
    Ok(database.write().await?.execute(call).await?.rows > 0)
}

pub(super) async fn touch(
    database: &Database,
    workspaces: &[WorkspaceId],
    at: Timestamp,
) -> Result<(), StoreError> {
    write(database, workspaces, WORKSPACES_PER_STATEMENT, |chunk| {
        let listed = ids(chunk.iter().map(|id| id.0));
        Ok(TOUCH_WORKSPACES.bind(listed).bind(at))
    })
    .await
}

pub(super) async fn build_readiness(
    database: &Database,
    agent: AgentId,
) -> Result<BuildReadiness, StoreError> {
    let row = database.read().await?.one(BUILD_READINESS.bind(agent.0)).await?;
    Ok(BuildReadiness {
        created_at: row.get("created_at")?,
        transition: row.get("transition")?,
        template_name: row.get("template_name")?,
        organization_name: row.get("organization_name")?,
        is_prebuild: row.id::<UserId>("owner_id")? == UserId::PREBUILDS,
        all_agents_ready: row.get("all_agents_ready")?,
        last_agent_ready_at: row
            .get::<Option<_>>("last_agent_ready_at")?
            .unwrap_or(Timestamp::ZERO),
        status: row.label("status", BuildStatus::from_label)?,
    })
}
