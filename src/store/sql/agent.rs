//! One agent: its row, its workspace, the parts of its manifest, and what it reports of itself.

use super::database::{Database, Session};
use super::row::Row;
use super::statement::{Dialect, statements};
use super::value::{ids, label, texts};
use crate::ids::{AgentId, ResourceId, WorkspaceId};
use crate::store::{
    Agent, ApiKeyScope, ConnectionTimes, LifecycleUpdate, Monitor, MonitorState, Monitors, StartupUpdate,
    StoreError, Violation, Workspace,
};

/// Workspaces that one statement reads; bounds the text that lists them to about 40 KiB.
const WORKSPACES_PER_STATEMENT: usize = 1_000;

/// What [`agent_from`] reads of `workspace_agents AS a`.
macro_rules! agent_columns {
    () => {
        "a.id AS agent_id, a.parent_id, a.name AS agent_name, a.resource_id, a.created_at, a.updated_at,
            a.environment_variables, a.directory, a.motd_file, a.version, a.api_version,
            a.connection_timeout_seconds, a.first_connected_at, a.last_connected_at, a.disconnected_at,
            a.logs_length, a.logs_overflowed, a.api_key_scope"
    };
}
pub(super) use agent_columns;

/// What [`workspace_from`] reads of `workspaces AS w`, its owner `u` and its template `t`.
macro_rules! workspace_columns {
    () => {
        "w.id AS workspace_id, w.name AS workspace_name, w.owner_id, w.organization_id, w.template_id,
            w.autostart_schedule, u.username AS owner_username, t.name AS template_name"
    };
}
pub(super) use workspace_columns;

macro_rules! update_lifecycle {
    ($state:literal) => {
        concat!(
            "UPDATE workspace_agents SET
                lifecycle_state = ",
            $state,
            ",
                started_at = CASE
                    WHEN ",
            $state,
            " = 'starting' THEN $3
                    WHEN ",
            $state,
            " IN ('ready', 'start_timeout', 'start_error') THEN coalesce(started_at, $3)
                    ELSE started_at
                END,
                ready_at = CASE
                    WHEN ",
            $state,
            " = 'starting' THEN NULL
                    WHEN ",
            $state,
            " IN ('ready', 'start_timeout', 'start_error') THEN $3
                    ELSE ready_at
                END
            WHERE id = $1 AND NOT deleted"
        )
    };
}

statements! {
    AGENT = "agent_by_id": concat!(
        "SELECT ", agent_columns!(), " FROM workspace_agents AS a WHERE a.id = $1 AND NOT a.deleted"
    );
    /// Finds the workspace of a deleted sub agent too: deleting twice succeeds.
    WORKSPACE_BY_AGENT = "workspace_by_agent": concat!(
        "SELECT ", workspace_columns!(), "
        FROM workspace_agents AS a
        JOIN workspace_resources AS r ON r.id = a.resource_id
        JOIN workspace_builds AS b ON b.job_id = r.job_id
        JOIN workspaces AS w ON w.id = b.workspace_id
        JOIN users AS u ON u.id = w.owner_id
        JOIN templates AS t ON t.id = w.template_id
        WHERE a.id = $1"
    );
    WORKSPACES = "workspaces_by_ids": concat!(
        "SELECT ", workspace_columns!(), "
        FROM json_each($1) AS listed
        JOIN workspaces AS w ON w.id = unhex(listed.value)
        JOIN users AS u ON u.id = w.owner_id
        JOIN templates AS t ON t.id = w.template_id
        WHERE NOT w.deleted"
    ), postgres: concat!(
        "SELECT ", workspace_columns!(), "
        FROM workspaces AS w
        JOIN users AS u ON u.id = w.owner_id
        JOIN templates AS t ON t.id = w.template_id
        WHERE w.id = ANY($1) AND NOT w.deleted"
    );
    MONITORS = "monitors":
        "SELECT NULL AS path, enabled, threshold, state, debounced_until
        FROM workspace_agent_memory_resource_monitors WHERE agent_id = $1
        UNION ALL
        SELECT path, enabled, threshold, state, debounced_until
        FROM workspace_agent_volume_resource_monitors WHERE agent_id = $1
        ORDER BY path";
    UPDATE_STARTUP = "update_startup":
        "UPDATE workspace_agents SET version = $2, expanded_directory = $3, subsystems = $4, api_version = $5
        WHERE id = $1 AND NOT deleted",
        postgres:
        "UPDATE workspace_agents SET version = $2, expanded_directory = $3,
            subsystems = $4::workspace_agent_subsystem[], api_version = $5
        WHERE id = $1 AND NOT deleted";
    /// Decides by the row that it changes, so that nothing has to be read first.
    UPDATE_LIFECYCLE = "update_lifecycle": update_lifecycle!("$2"),
        postgres: update_lifecycle!("$2::workspace_agent_lifecycle_state");
    /// An agent of the same build with a name. Rows without a build are let through.
    NAME_TAKEN = "agent_name_taken":
        "SELECT 1 FROM workspace_resources AS mine
        JOIN workspace_builds AS b ON b.job_id = mine.job_id
        JOIN workspace_resources AS r ON r.job_id = b.job_id
        JOIN workspace_agents AS a ON a.resource_id = r.id
        WHERE mine.id = $1 AND a.name = $2 AND NOT a.deleted AND a.id <> $3 LIMIT 1";
    SITE_CONFIG = "site_config": "SELECT value FROM site_configs WHERE \"key\" = $1";
}

pub(super) fn agent_from(row: &Row) -> Result<Agent, StoreError> {
    Ok(Agent {
        id: row.id("agent_id")?,
        parent_id: row.optional_id("parent_id")?,
        name: row.get("agent_name")?,
        resource_id: row.id("resource_id")?,
        created_at: row.get("created_at")?,
        updated_at: row.get("updated_at")?,
        environment_variables: row.get("environment_variables")?,
        directory: row.get("directory")?,
        motd_file: row.get("motd_file")?,
        version: row.get("version")?,
        api_version: row.get("api_version")?,
        connection_timeout_seconds: row.get("connection_timeout_seconds")?,
        connection: ConnectionTimes {
            first_connected_at: row.get("first_connected_at")?,
            last_connected_at: row.get("last_connected_at")?,
            disconnected_at: row.get("disconnected_at")?,
        },
        logs_length: row.get("logs_length")?,
        logs_overflowed: row.get("logs_overflowed")?,
        api_key_scope: row.label("api_key_scope", ApiKeyScope::from_label)?,
    })
}

pub(super) fn workspace_from(row: &Row) -> Result<Workspace, StoreError> {
    Ok(Workspace {
        id: row.id("workspace_id")?,
        name: row.get("workspace_name")?,
        owner_id: row.id("owner_id")?,
        owner_username: row.get("owner_username")?,
        organization_id: row.id("organization_id")?,
        template_id: row.id("template_id")?,
        template_name: row.get("template_name")?,
        autostart_schedule: row.get("autostart_schedule")?,
    })
}

pub(super) async fn agent(database: &Database, agent: AgentId) -> Result<Agent, StoreError> {
    agent_from(&database.read().await?.one(AGENT.bind(agent.0)).await?)
}

pub(super) async fn workspace_by_agent(database: &Database, agent: AgentId) -> Result<Workspace, StoreError> {
    workspace_from(
        &database
            .read()
            .await?
            .one(WORKSPACE_BY_AGENT.bind(agent.0))
            .await?,
    )
}

pub(super) async fn workspaces(
    database: &Database,
    listed: &[WorkspaceId],
) -> Result<Vec<Workspace>, StoreError> {
    let mut session = database.read().await?;
    let mut workspaces = Vec::with_capacity(listed.len());
    for chunk in listed.chunks(WORKSPACES_PER_STATEMENT) {
        let chunk = ids(chunk.iter().map(|id| id.0));
        for row in session.all(WORKSPACES.bind(chunk)).await? {
            workspaces.push(workspace_from(&row)?);
        }
    }
    Ok(workspaces)
}

pub(super) async fn monitors(database: &Database, agent: AgentId) -> Result<Monitors, StoreError> {
    let mut monitors = Monitors::default();
    for row in database.read().await?.all(MONITORS.bind(agent.0)).await? {
        let monitor = Monitor {
            enabled: row.get("enabled")?,
            threshold: row.get("threshold")?,
            state: row.label("state", MonitorState::from_label)?,
            debounced_until: row.get("debounced_until")?,
        };
        match row.get("path")? {
            None => monitors.memory = Some(monitor),
            Some(path) => monitors.volumes.push((path, monitor)),
        }
    }
    Ok(monitors)
}

pub(super) async fn site_config(database: &Database, key: &str) -> Result<Option<String>, StoreError> {
    let row = database.read().await?.optional(SITE_CONFIG.bind(key)).await?;
    row.map(|row| row.get("value")).transpose()
}

pub(super) async fn update_startup(
    database: &Database,
    agent: AgentId,
    update: &StartupUpdate,
) -> Result<(), StoreError> {
    let subsystems = texts(update.subsystems.iter().map(|subsystem| subsystem.as_str()));
    let call = UPDATE_STARTUP
        .bind(agent.0)
        .bind(update.version.as_str())
        .bind(update.expanded_directory.as_str())
        .bind(subsystems)
        .bind(update.api_version.as_str());
    match database.write().await?.execute(call).await?.rows {
        0 => Err(StoreError::NoRows),
        _ => Ok(()),
    }
}

pub(super) async fn update_lifecycle(
    database: &Database,
    agent: AgentId,
    update: &LifecycleUpdate,
) -> Result<(), StoreError> {
    let call = UPDATE_LIFECYCLE
        .bind(agent.0)
        .bind(label(update.state.as_str()))
        .bind(update.changed_at);
    match database.write().await?.execute(call).await?.rows {
        0 => Err(StoreError::NoRows),
        _ => Ok(()),
    }
}

/// Refuses a name that another live agent of the resource's build has; to be called within the transaction that
/// writes the name. Stands in for the original's trigger `workspace_agent_name_unique_trigger`, with its text, where
/// there is none.
pub(super) async fn ensure_name_is_free(
    transaction: &mut Session<'_>,
    resource: ResourceId,
    name: &str,
    agent: AgentId,
) -> Result<(), StoreError> {
    if transaction.dialect() == Dialect::Postgres {
        return Ok(());
    }
    let taken = NAME_TAKEN.bind(resource.0).bind(name).bind(agent.0);
    match transaction.optional(taken).await? {
        None => Ok(()),
        Some(_) => Err(StoreError::Violation {
            violation: Violation::AgentNameTaken,
            text: format!("workspace agent name \"{name}\" already exists in this workspace build"),
        }),
    }
}
