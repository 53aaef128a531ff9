//! What clients are told and allowed: an owner's workspaces and agents, and the key of resume tokens.

use std::collections::BTreeMap;

use super::database::Database;
use super::statement::statements;
use crate::ids::{AgentId, UserId, WorkspaceId};
use crate::secret::Secret;
use crate::store::{JobStatus, OwnedAgent, OwnedWorkspace, OwnedWorkspaces, StoreError, Transition};

/// The `site_configs` key of the key that resume tokens are signed with. Our own, so that no other server on the same
/// database takes it for one of its keys.
const RESUME_KEY: &str = "drpcd_tailnet_resume_key";

statements! {
    /// Agents' own rows come before those of sub agents, of which an agent can make many.
    OWNED_WORKSPACES = "owned_workspaces":
        "SELECT w.id AS workspace_id, w.name AS workspace_name, j.job_status, b.transition, a.id AS agent_id,
            a.name AS agent_name
        FROM workspaces AS w
        JOIN workspace_builds AS b ON b.workspace_id = w.id AND b.build_number = (
            SELECT max(newest.build_number) FROM workspace_builds AS newest WHERE newest.workspace_id = w.id
        )
        JOIN provisioner_jobs AS j ON j.id = b.job_id
        LEFT JOIN workspace_agents AS a ON NOT a.deleted AND a.resource_id IN (
            SELECT r.id FROM workspace_resources AS r WHERE r.job_id = b.job_id
        )
        WHERE w.owner_id = $1 AND NOT w.deleted
        ORDER BY a.parent_id IS NOT NULL, w.id, a.id
        LIMIT $2";
    OWNS_AGENT = "owns_agent":
        "SELECT EXISTS (
            SELECT 1 FROM workspace_agents AS a
            JOIN workspace_resources AS r ON r.id = a.resource_id
            JOIN workspace_builds AS b ON b.job_id = r.job_id
            JOIN workspaces AS w ON w.id = b.workspace_id
            WHERE a.id = $2 AND NOT a.deleted AND w.owner_id = $1 AND NOT w.deleted AND b.build_number = (
                SELECT max(newest.build_number) FROM workspace_builds AS newest WHERE newest.workspace_id = w.id
            )
        ) AS owns";
    /// Of several that come at once the first writes; all get what is there then.
    RESUME_KEY_OR_NEW = "resume_key":
        "INSERT INTO site_configs (\"key\", value) VALUES ($1, $2)
        ON CONFLICT (\"key\") DO UPDATE SET value = site_configs.value
        RETURNING value";
}

pub(super) async fn owned_workspaces(
    database: &Database,
    owner: UserId,
    most: u32,
) -> Result<OwnedWorkspaces, StoreError> {
    // One more than is wanted says whether there is more.
    let call = OWNED_WORKSPACES.bind(owner.0).bind(i64::from(most) + 1);
    let rows = database.read().await?.all(call).await?;
    let more = rows.len() > most as usize;
    let mut workspaces: BTreeMap<WorkspaceId, OwnedWorkspace> = BTreeMap::new();
    for row in rows.iter().take(most as usize) {
        let id = row.id("workspace_id")?;
        let workspace = match workspaces.entry(id) {
            std::collections::btree_map::Entry::Occupied(known) => known.into_mut(),
            std::collections::btree_map::Entry::Vacant(vacant) => vacant.insert(OwnedWorkspace {
                id,
                name: row.get::<&str>("workspace_name")?.into(),
                job_status: row.label("job_status", JobStatus::from_label)?,
                transition: row.label("transition", Transition::from_label)?,
                agents: Vec::new(),
            }),
        };
        if let Some(agent) = row.optional_id::<AgentId>("agent_id")? {
            workspace.agents.push(OwnedAgent {
                id: agent,
                name: row.get::<&str>("agent_name")?.into(),
            });
        }
    }
    let mut workspaces: Vec<_> = workspaces.into_values().collect();
    for workspace in &mut workspaces {
        workspace.agents.sort_unstable();
    }
    Ok(OwnedWorkspaces { workspaces, more })
}

pub(super) async fn owns_agent(
    database: &Database,
    owner: UserId,
    agent: AgentId,
) -> Result<bool, StoreError> {
    let call = OWNS_AGENT.bind(owner.0).bind(agent.0);
    database.read().await?.one(call).await?.get("owns")
}

pub(super) async fn resume_key(database: &Database, candidate: &Secret) -> Result<Secret, StoreError> {
    let call = RESUME_KEY_OR_NEW.bind(RESUME_KEY).bind(candidate.reveal());
    let row = database.write().await?.one(call).await?;
    Ok(Secret::new(row.get::<String>("value")?))
}
