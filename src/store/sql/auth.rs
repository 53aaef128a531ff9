//! Who may connect: authentication by token, and which builds' agents must leave.

use super::agent::{agent_from, workspace_from};
use super::database::Database;
use super::statement::statements;
use super::value::ids;
use crate::ids::{AgentToken, BuildId};
use crate::store::{Authenticated, StoreError};

/// Builds that one statement checks; bounds the text that lists them to about 40 KiB.
const BUILDS_PER_STATEMENT: usize = 1_000;

/// Whether agents of the build `b` may be connected: it is the newest of its workspace, or it is a succeeded `start`
/// build and the newest is the `stop` build right after it, whose job has not ended (so that stop scripts report).
/// coder/coder `coderd/database/queries/workspaceagents.sql`, GetAuthenticatedWorkspaceAgentAndBuildByAuthToken.
macro_rules! eligible_build {
    () => {
        "(
            NOT EXISTS (
                SELECT 1 FROM workspace_builds AS newer
                WHERE newer.workspace_id = b.workspace_id AND newer.build_number > b.build_number
            )
            OR (
                b.transition = 'start'
                AND (SELECT job_status FROM provisioner_jobs WHERE id = b.job_id) = 'succeeded'
                AND EXISTS (
                    SELECT 1 FROM workspace_builds AS next
                    JOIN provisioner_jobs AS job ON job.id = next.job_id
                    WHERE next.workspace_id = b.workspace_id
                        AND next.build_number = b.build_number + 1
                        AND next.transition = 'stop'
                        AND job.job_status IN ('pending', 'running')
                )
                AND NOT EXISTS (
                    SELECT 1 FROM workspace_builds AS newer
                    WHERE newer.workspace_id = b.workspace_id AND newer.build_number > b.build_number + 1
                )
            )
        )"
    };
}

statements! {
    /// Tokens are not unique in the table; should two rows be eligible, the newest build's first one is taken.
    AUTHENTICATE = "authenticate": concat!(
        "SELECT ", super::agent::agent_columns!(), ", ", super::agent::workspace_columns!(), ",
            b.id AS build_id, b.template_version_id
        FROM workspace_agents AS a
        JOIN workspace_resources AS r ON r.id = a.resource_id
        JOIN workspace_builds AS b ON b.job_id = r.job_id
        JOIN workspaces AS w ON w.id = b.workspace_id
        JOIN users AS u ON u.id = w.owner_id
        JOIN templates AS t ON t.id = w.template_id
        WHERE a.auth_token = $1 AND NOT a.deleted AND NOT w.deleted AND ", eligible_build!(), "
        ORDER BY b.created_at DESC, a.created_at, a.id LIMIT 1"
    );
    OUTDATED_BUILDS = "outdated_builds": concat!(
        "SELECT unhex(listed.value) AS id FROM json_each($1) AS listed
        WHERE NOT EXISTS (
            SELECT 1 FROM workspace_builds AS b
            JOIN workspaces AS w ON w.id = b.workspace_id
            WHERE b.id = unhex(listed.value) AND NOT w.deleted AND ", eligible_build!(), "
        ) ORDER BY listed.key"
    ), postgres: concat!(
        "SELECT listed.id FROM unnest($1::uuid[]) WITH ORDINALITY AS listed(id, n)
        WHERE NOT EXISTS (
            SELECT 1 FROM workspace_builds AS b
            JOIN workspaces AS w ON w.id = b.workspace_id
            WHERE b.id = listed.id AND NOT w.deleted AND ", eligible_build!(), "
        ) ORDER BY listed.n"
    );
}

pub(super) async fn authenticate(
    database: &Database,
    token: &AgentToken,
) -> Result<Option<Authenticated>, StoreError> {
    let row = database
        .read()
        .await?
        .optional(AUTHENTICATE.bind(*token.reveal()))
        .await?;
    row.map(|row| {
        Ok(Authenticated {
            agent: agent_from(&row)?,
            workspace: workspace_from(&row)?,
            build_id: row.id("build_id")?,
            template_version_id: row.id("template_version_id")?,
        })
    })
    .transpose()
}

pub(super) async fn outdated_builds(
    database: &Database,
    builds: &[BuildId],
) -> Result<Vec<BuildId>, StoreError> {
    let mut session = database.read().await?;
    let mut outdated = Vec::new();
    for chunk in builds.chunks(BUILDS_PER_STATEMENT) {
        let listed = ids(chunk.iter().map(|build| build.0));
        for row in session.all(OUTDATED_BUILDS.bind(listed)).await? {
            outdated.push(row.id("id")?);
        }
    }
    Ok(outdated)
}
