//! Rows of one agent: itself, its workspace, its manifest, its monitors, and what it reports of itself.

use sqlx::Row;
use sqlx::sqlite::SqliteRow;
use uuid::Uuid;

use super::SqliteStore;
use super::batch::hex_list;
use super::statement::Statement;
use crate::clock::Timestamp;
use crate::ids::{
    AgentId, AppId, DevcontainerId, LogSourceId, OrganizationId, ResourceId, ScriptId, TemplateId, UserId,
    WorkspaceId,
};
use crate::store::{
    Agent, ApiKeyScope, App, ConnectionTimes, Devcontainer, LifecycleUpdate, ManifestParts,
    MetadataDescription, Monitor, MonitorState, Monitors, Script, StartupUpdate, StoreError, Workspace,
};

impl SqliteStore {
    pub(super) async fn agent(&self, agent: AgentId) -> Result<Agent, StoreError> {
        let row = self
            .counters
            .query(Statement::Agent)
            .bind(agent.0)
            .fetch_one(&self.readers)
            .await?;
        agent_from_row(&row)
    }

    pub(super) async fn workspace_by_agent(&self, agent: AgentId) -> Result<Workspace, StoreError> {
        let query = self.counters.query(Statement::WorkspaceByAgent).bind(agent.0);
        workspace_from_row(&query.fetch_one(&self.readers).await?)
    }

    pub(super) async fn workspaces(&self, ids: &[WorkspaceId]) -> Result<Vec<Workspace>, StoreError> {
        let asked = hex_list(ids.iter().map(|id| id.0));
        let rows = self
            .counters
            .query(Statement::Workspaces)
            .bind(asked)
            .fetch_all(&self.readers)
            .await?;
        rows.iter().map(workspace_from_row).collect()
    }

    pub(super) async fn manifest_parts(&self, agent: AgentId) -> Result<ManifestParts, StoreError> {
        // One connection and one transaction, so that the parts belong together.
        let mut read = self.readers.begin().await?;
        let mut parts = ManifestParts::default();
        for row in self
            .counters
            .query(Statement::Apps)
            .bind(agent.0)
            .fetch_all(&mut *read)
            .await?
        {
            parts.apps.push(app_from_row(&row)?);
        }
        for row in self
            .counters
            .query(Statement::Scripts)
            .bind(agent.0)
            .fetch_all(&mut *read)
            .await?
        {
            parts.scripts.push(script_from_row(&row)?);
        }
        for row in self
            .counters
            .query(Statement::Metadata)
            .bind(agent.0)
            .fetch_all(&mut *read)
            .await?
        {
            parts.metadata.push(metadata_from_row(&row)?);
        }
        for row in self
            .counters
            .query(Statement::Devcontainers)
            .bind(agent.0)
            .fetch_all(&mut *read)
            .await?
        {
            parts.devcontainers.push(devcontainer_from_row(&row)?);
        }
        Ok(parts)
    }

    pub(super) async fn monitors(&self, agent: AgentId) -> Result<Monitors, StoreError> {
        let rows = self
            .counters
            .query(Statement::Monitors)
            .bind(agent.0)
            .fetch_all(&self.readers)
            .await?;
        let mut monitors = Monitors::default();
        for row in &rows {
            let monitor = Monitor {
                enabled: row.try_get("enabled")?,
                threshold: row.try_get("threshold")?,
                state: label(row, "state", MonitorState::from_label)?,
                debounced_until: Timestamp::from_micros(row.try_get("debounced_until")?),
            };
            match row.try_get::<Option<String>, _>("path")? {
                None => monitors.memory = Some(monitor),
                Some(path) => monitors.volumes.push((path, monitor)),
            }
        }
        Ok(monitors)
    }

    pub(super) async fn site_config(&self, key: &str) -> Result<Option<String>, StoreError> {
        let query = self.counters.query(Statement::SiteConfig).bind(key.to_owned());
        let row = query.fetch_optional(&self.readers).await?;
        row.map(|row| row.try_get(0))
            .transpose()
            .map_err(StoreError::from)
    }

    pub(super) async fn update_startup(
        &self,
        agent: AgentId,
        update: &StartupUpdate,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let subsystems: Vec<_> = update
            .subsystems
            .iter()
            .map(|subsystem| subsystem.as_str())
            .collect();
        let query = self
            .counters
            .query(Statement::UpdateStartup)
            .bind(agent.0)
            .bind(update.version.clone())
            .bind(update.expanded_directory.clone())
            .bind(serde_json::Value::from(subsystems).to_string())
            .bind(update.api_version.clone())
            .bind(now.as_micros());
        affected(query.execute(&self.writer).await?.rows_affected())
    }

    pub(super) async fn update_lifecycle(
        &self,
        agent: AgentId,
        update: &LifecycleUpdate,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let query = self
            .counters
            .query(Statement::UpdateLifecycle)
            .bind(agent.0)
            .bind(update.state.as_str())
            .bind(update.changed_at.as_micros())
            .bind(now.as_micros());
        affected(query.execute(&self.writer).await?.rows_affected())
    }

    pub(super) async fn ping(&self) -> Result<(), StoreError> {
        self.counters.query(Statement::Ping).execute(&self.writer).await?;
        Ok(())
    }
}

/// An update by id that met no row found no agent.
fn affected(rows: u64) -> Result<(), StoreError> {
    if rows == 0 {
        Err(StoreError::NoRows)
    } else {
        Ok(())
    }
}

fn time(row: &SqliteRow, column: &str) -> Result<Option<Timestamp>, sqlx::Error> {
    Ok(row.try_get::<Option<i64>, _>(column)?.map(Timestamp::from_micros))
}

/// Reads an enum; a label that is none of its own means that the file is not ours.
fn label<T>(row: &SqliteRow, column: &str, parse: fn(&str) -> Option<T>) -> Result<T, StoreError> {
    let text: &str = row.try_get(column)?;
    parse(text).ok_or_else(|| StoreError::Rejected(format!("unknown {column}")))
}

pub(super) fn agent_from_row(row: &SqliteRow) -> Result<Agent, StoreError> {
    Ok(Agent {
        id: AgentId(row.try_get("id")?),
        parent_id: row.try_get::<Option<Uuid>, _>("parent_id")?.map(AgentId),
        name: row.try_get("name")?,
        resource_id: ResourceId(row.try_get("resource_id")?),
        created_at: Timestamp::from_micros(row.try_get("created_at")?),
        updated_at: Timestamp::from_micros(row.try_get("updated_at")?),
        environment_variables: row.try_get("environment_variables")?,
        directory: row.try_get("directory")?,
        motd_file: row.try_get("motd_file")?,
        version: row.try_get("version")?,
        api_version: row.try_get("api_version")?,
        connection_timeout_seconds: row.try_get("connection_timeout_seconds")?,
        connection: ConnectionTimes {
            first_connected_at: time(row, "first_connected_at")?,
            last_connected_at: time(row, "last_connected_at")?,
            disconnected_at: time(row, "disconnected_at")?,
        },
        logs_length: row.try_get("logs_length")?,
        logs_overflowed: row.try_get("logs_overflowed")?,
        api_key_scope: label(row, "api_key_scope", ApiKeyScope::from_label)?,
    })
}

pub(super) fn workspace_from_row(row: &SqliteRow) -> Result<Workspace, StoreError> {
    Ok(Workspace {
        id: WorkspaceId(row.try_get("workspace_id")?),
        name: row.try_get("workspace_name")?,
        owner_id: UserId(row.try_get("owner_id")?),
        owner_username: row.try_get("owner_username")?,
        organization_id: OrganizationId(row.try_get("organization_id")?),
        template_id: TemplateId(row.try_get("template_id")?),
        template_name: row.try_get("template_name")?,
        autostart_schedule: row.try_get("autostart_schedule")?,
    })
}

fn app_from_row(row: &SqliteRow) -> Result<App, sqlx::Error> {
    Ok(App {
        id: AppId(row.try_get("id")?),
        slug: row.try_get("slug")?,
        display_name: row.try_get("display_name")?,
        icon: row.try_get("icon")?,
        command: row.try_get("command")?,
        url: row.try_get("url")?,
        healthcheck_url: row.try_get("healthcheck_url")?,
        healthcheck_interval: row.try_get("healthcheck_interval")?,
        healthcheck_threshold: row.try_get("healthcheck_threshold")?,
        health: row.try_get("health")?,
        subdomain: row.try_get("subdomain")?,
        sharing_level: row.try_get("sharing_level")?,
        external: row.try_get("external")?,
        hidden: row.try_get("hidden")?,
    })
}

fn script_from_row(row: &SqliteRow) -> Result<Script, sqlx::Error> {
    Ok(Script {
        id: ScriptId(row.try_get("id")?),
        log_source_id: LogSourceId(row.try_get("log_source_id")?),
        log_path: row.try_get("log_path")?,
        script: row.try_get("script")?,
        cron: row.try_get("cron")?,
        run_on_start: row.try_get("run_on_start")?,
        run_on_stop: row.try_get("run_on_stop")?,
        start_blocks_login: row.try_get("start_blocks_login")?,
        timeout_seconds: row.try_get("timeout_seconds")?,
    })
}

fn metadata_from_row(row: &SqliteRow) -> Result<MetadataDescription, sqlx::Error> {
    Ok(MetadataDescription {
        key: row.try_get("key")?,
        display_name: row.try_get("display_name")?,
        script: row.try_get("script")?,
        interval: row.try_get("interval")?,
        timeout: row.try_get("timeout")?,
    })
}

fn devcontainer_from_row(row: &SqliteRow) -> Result<Devcontainer, sqlx::Error> {
    Ok(Devcontainer {
        id: DevcontainerId(row.try_get("id")?),
        workspace_folder: row.try_get("workspace_folder")?,
        config_path: row.try_get("config_path")?,
        name: row.try_get("name")?,
        subagent_id: row.try_get::<Option<Uuid>, _>("subagent_id")?.map(AgentId),
    })
}
