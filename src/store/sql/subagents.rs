//! Sub agents: created whole by their parent, marked when deleted, never removed.

use super::agent::ensure_name_is_free;
use super::apps::initial_health;
use super::database::{Database, Session};
use super::events;
use super::row::Row;
use super::statement::statements;
use super::value::{label, texts};
use crate::clock::Timestamp;
use crate::ids::{AgentId, AgentToken, ResourceId};
use crate::store::{
    Invalidation, NewApp, NewSubAgent, ScriptTiming, StoreError, SubAgent, SubAgentAdopted, SubAgentDeleted,
};

/// Owner and organization of an agent's workspace.
macro_rules! owner_of {
    ($agent:literal) => {
        concat!(
            "(SELECT w.owner_id, w.organization_id
            FROM workspace_agents AS a
            JOIN workspace_resources AS r ON r.id = a.resource_id
            JOIN workspace_builds AS b ON b.job_id = r.job_id
            JOIN workspaces AS w ON w.id = b.workspace_id
            WHERE a.id = ",
            $agent,
            ")"
        )
    };
}

/// Whether the workspaces of $1 and $2 have one owner and organization.
macro_rules! same_owner {
    () => {
        concat!(
            "EXISTS (
                SELECT 1 FROM ",
            owner_of!("$1"),
            " AS one JOIN ",
            owner_of!("$2"),
            " AS other
                ON one.owner_id = other.owner_id AND one.organization_id = other.organization_id
            )"
        )
    };
}

macro_rules! insert_sub_agent {
    ($display_apps:literal) => {
        concat!(
            "INSERT INTO workspace_agents (
                id, parent_id, created_at, updated_at, name, resource_id, auth_token, architecture, operating_system,
                directory, troubleshooting_url, connection_timeout_seconds, display_apps, api_key_scope
            )
            SELECT $1, id, $3, $3, $4, resource_id, $5, $6, $7, $8, troubleshooting_url,
                connection_timeout_seconds, ",
            $display_apps,
            ", api_key_scope
            FROM workspace_agents WHERE id = $2 AND NOT deleted
            ON CONFLICT (id) DO UPDATE SET updated_at = excluded.updated_at
            RETURNING resource_id"
        )
    };
}

macro_rules! update_display_apps {
    ($display_apps:literal) => {
        concat!(
            "UPDATE workspace_agents SET display_apps = ",
            $display_apps,
            ", updated_at = $4
            WHERE id = $1 AND parent_id = $2 AND NOT deleted
                AND EXISTS (SELECT 1 FROM workspace_agents WHERE id = $2 AND NOT deleted)
            RETURNING id, name, auth_token"
        )
    };
}

statements! {
    /// The parent's resource, timeout, help and scope; never its environment, message of the day or instance. An id that
    /// is there is of an attempt whose outcome was unknown.
    INSERT_SUB_AGENT = "insert_sub_agent": insert_sub_agent!("$9"),
        postgres: insert_sub_agent!("$9::display_app[]");
    INSERT_SUB_AGENT_APP = "insert_sub_agent_app":
        "INSERT INTO workspace_apps (
            id, created_at, agent_id, slug, display_name, icon, command, url, healthcheck_url, healthcheck_interval,
            healthcheck_threshold, health, subdomain, sharing_level, external, hidden, display_order, open_in,
            display_group
        )
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18,
            $19)
        ON CONFLICT (id) DO NOTHING";
    UPDATE_DISPLAY_APPS = "update_sub_agent_display_apps": update_display_apps!("$3"),
        postgres: update_display_apps!("$3::display_app[]");
    /// Why no display apps were updated.
    NOT_ADOPTED = "sub_agent_not_adopted":
        "SELECT EXISTS (SELECT 1 FROM workspace_agents WHERE id = $1 AND NOT deleted) AS agent,
            EXISTS (SELECT 1 FROM workspace_agents WHERE id = $2 AND NOT deleted) AS parent";
    /// One row at least while the parent lives.
    SUB_AGENTS = "sub_agents":
        "SELECT child.id, child.name, child.auth_token
        FROM workspace_agents AS parent
        LEFT JOIN workspace_agents AS child ON child.parent_id = parent.id AND NOT child.deleted
        WHERE parent.id = $1 AND NOT parent.deleted
        ORDER BY child.created_at, child.id";
    DELETE_SUB_AGENT = "delete_sub_agent": concat!(
        "UPDATE workspace_agents SET deleted = TRUE
        WHERE id = $1 AND parent_id IS NOT NULL AND NOT deleted AND ", same_owner!()
    );
    /// Why nothing was deleted; no row for an agent that never was.
    NOT_DELETED = "sub_agent_not_deleted": concat!(
        "SELECT ", same_owner!(), " AS own FROM workspace_agents WHERE id = $1"
    );
    INSERT_SCRIPT_TIMING = "insert_script_timing":
        "INSERT INTO workspace_agent_script_timings (script_id, started_at, ended_at, exit_code, stage, status)
        VALUES ($1, $2, $3, $4, $5, $6)";
}

/// Returns the apps that were refused, each with its index and the engine's text.
pub(super) async fn create(
    database: &Database,
    agent: &NewSubAgent,
) -> Result<Vec<(usize, StoreError)>, StoreError> {
    let mut transaction = database.transaction().await?;
    let outcome = create_in(&mut transaction, agent).await;
    transaction.finish(outcome).await
}

async fn create_in(
    transaction: &mut Session<'_>,
    agent: &NewSubAgent,
) -> Result<Vec<(usize, StoreError)>, StoreError> {
    let insert = INSERT_SUB_AGENT
        .bind(agent.id.0)
        .bind(agent.parent_id.0)
        .bind(agent.created_at)
        .bind(agent.name.as_str())
        .bind(*agent.auth_token.reveal())
        .bind(agent.architecture.as_str())
        .bind(agent.operating_system.as_str())
        .bind(agent.directory.as_str())
        .bind(texts(agent.display_apps.iter().copied()));
    let resource: ResourceId = transaction.one(insert).await?.id("resource_id")?;
    ensure_name_is_free(transaction, resource, &agent.name, agent.id).await?;
    let mut refused = Vec::new();
    for app in &agent.apps {
        // A refused row takes nothing else with it.
        match insert_app(transaction, agent, app).await {
            Ok(()) => {}
            Err(error @ (StoreError::Violation { .. } | StoreError::Rejected(_))) => {
                refused.push((app.index, error));
            }
            Err(error) => return Err(error),
        }
    }
    Ok(refused)
}

async fn insert_app(
    transaction: &mut Session<'_>,
    agent: &NewSubAgent,
    app: &NewApp,
) -> Result<(), StoreError> {
    let insert = INSERT_SUB_AGENT_APP
        .bind(app.id.0)
        .bind(agent.created_at)
        .bind(agent.id.0)
        .bind(app.slug.as_str())
        .bind(app.display_name.as_str())
        .bind(app.icon.as_str())
        .bind(app.command.as_deref())
        .bind(app.url.as_deref())
        .bind(app.healthcheck_url.as_str())
        .bind(app.healthcheck_interval)
        .bind(app.healthcheck_threshold)
        .bind(initial_health(&app.healthcheck_url))
        .bind(app.subdomain)
        .bind(label(app.sharing_level))
        .bind(app.external)
        .bind(app.hidden)
        .bind(app.display_order)
        .bind(label(app.open_in))
        .bind(app.display_group.as_deref());
    transaction.try_execute(insert).await.map(|_| ())
}

pub(super) async fn update_display_apps(
    database: &Database,
    agent: AgentId,
    parent: AgentId,
    display_apps: &[&'static str],
    now: Timestamp,
) -> Result<SubAgentAdopted, StoreError> {
    let update = UPDATE_DISPLAY_APPS
        .bind(agent.0)
        .bind(parent.0)
        .bind(texts(display_apps.iter().copied()))
        .bind(now);
    let mut session = database.write().await?;
    if let Some(row) = session.optional(update).await? {
        return sub_agent(&row).map(SubAgentAdopted::Done);
    }
    let why = session.one(NOT_ADOPTED.bind(agent.0).bind(parent.0)).await?;
    Ok(match (why.get("parent")?, why.get("agent")?) {
        (false, _) => SubAgentAdopted::NoParent,
        (true, false) => SubAgentAdopted::NoAgent,
        (true, true) => SubAgentAdopted::NotAChild,
    })
}

fn sub_agent(row: &Row) -> Result<SubAgent, StoreError> {
    Ok(SubAgent {
        id: row.id("id")?,
        name: row.get("name")?,
        auth_token: AgentToken::new(row.get("auth_token")?),
    })
}

pub(super) async fn list(database: &Database, parent: AgentId) -> Result<Vec<SubAgent>, StoreError> {
    let rows = database.read().await?.all(SUB_AGENTS.bind(parent.0)).await?;
    if rows.is_empty() {
        return Err(StoreError::NoRows);
    }
    let mut agents = Vec::new();
    for row in &rows {
        if row.optional_id::<AgentId>("id")?.is_some() {
            agents.push(sub_agent(row)?);
        }
    }
    Ok(agents)
}

pub(super) async fn delete(
    database: &Database,
    agent: AgentId,
    caller: AgentId,
    now: Timestamp,
) -> Result<SubAgentDeleted, StoreError> {
    let mut transaction = database.transaction().await?;
    let outcome = delete_in(&mut transaction, agent, caller, now).await;
    transaction.finish(outcome).await
}

async fn delete_in(
    transaction: &mut Session<'_>,
    agent: AgentId,
    caller: AgentId,
    now: Timestamp,
) -> Result<SubAgentDeleted, StoreError> {
    let delete = DELETE_SUB_AGENT.bind(agent.0).bind(caller.0);
    if transaction.execute(delete).await?.rows > 0 {
        events::leave(transaction, Invalidation::Agent { agent_id: agent }, now).await?;
        return Ok(SubAgentDeleted::Done);
    }
    let why = transaction.one(NOT_DELETED.bind(agent.0).bind(caller.0)).await?;
    let own: bool = why.get("own")?;
    Ok(if own {
        SubAgentDeleted::Done
    } else {
        SubAgentDeleted::Forbidden
    })
}

pub(super) async fn insert_timing(database: &Database, timing: &ScriptTiming) -> Result<(), StoreError> {
    let insert = INSERT_SCRIPT_TIMING
        .bind(timing.script_id.0)
        .bind(timing.started_at)
        .bind(timing.ended_at)
        .bind(timing.exit_code)
        .bind(label(timing.stage))
        .bind(label(timing.status));
    database.write().await?.execute(insert).await.map(|_| ())
}
