//! The lists of an agent's manifest, in the order in which agents get them.

use super::database::{Database, Session};
use super::statement::statements;
use crate::ids::AgentId;
use crate::store::{App, Devcontainer, ManifestParts, MetadataDescription, Script, StoreError};

statements! {
    APPS = "apps_by_agent":
        "SELECT id, slug, display_name, icon, command, url, healthcheck_url, healthcheck_interval,
            healthcheck_threshold, health, subdomain, sharing_level, external, hidden
        FROM workspace_apps WHERE agent_id = $1 ORDER BY slug";
    SCRIPTS = "scripts_by_agent":
        "SELECT id, log_source_id, log_path, script, cron, run_on_start, run_on_stop, start_blocks_login,
            timeout_seconds
        FROM workspace_agent_scripts WHERE workspace_agent_id = $1 ORDER BY created_at, id";
    METADATA = "metadata_by_agent":
        "SELECT \"key\", display_name, script, \"interval\", timeout
        FROM workspace_agent_metadata WHERE workspace_agent_id = $1 ORDER BY display_order, \"key\"";
    DEVCONTAINERS = "devcontainers_by_agent":
        "SELECT id, workspace_folder, config_path, name, subagent_id
        FROM workspace_agent_devcontainers WHERE workspace_agent_id = $1 ORDER BY created_at, id";
}

pub(super) async fn parts(database: &Database, agent: AgentId) -> Result<ManifestParts, StoreError> {
    let mut snapshot = database.snapshot().await?;
    let outcome = read(&mut snapshot, agent).await;
    snapshot.finish(outcome).await
}

async fn read(snapshot: &mut Session<'_>, agent: AgentId) -> Result<ManifestParts, StoreError> {
    let mut parts = ManifestParts::default();
    for row in snapshot.all(APPS.bind(agent.0)).await? {
        parts.apps.push(App {
            id: row.id("id")?,
            slug: row.get("slug")?,
            display_name: row.get("display_name")?,
            icon: row.get("icon")?,
            command: row.get("command")?,
            url: row.get("url")?,
            healthcheck_url: row.get("healthcheck_url")?,
            healthcheck_interval: row.get("healthcheck_interval")?,
            healthcheck_threshold: row.get("healthcheck_threshold")?,
            health: row.get("health")?,
            subdomain: row.get("subdomain")?,
            sharing_level: row.get("sharing_level")?,
            external: row.get("external")?,
            hidden: row.get("hidden")?,
        });
    }
    for row in snapshot.all(SCRIPTS.bind(agent.0)).await? {
        parts.scripts.push(Script {
            id: row.id("id")?,
            log_source_id: row.id("log_source_id")?,
            log_path: row.get("log_path")?,
            script: row.get("script")?,
            cron: row.get("cron")?,
            run_on_start: row.get("run_on_start")?,
            run_on_stop: row.get("run_on_stop")?,
            start_blocks_login: row.get("start_blocks_login")?,
            timeout_seconds: row.get("timeout_seconds")?,
        });
    }
    for row in snapshot.all(METADATA.bind(agent.0)).await? {
        parts.metadata.push(MetadataDescription {
            key: row.get("key")?,
            display_name: row.get("display_name")?,
            script: row.get("script")?,
            interval: row.get("interval")?,
            timeout: row.get("timeout")?,
        });
    }
    for row in snapshot.all(DEVCONTAINERS.bind(agent.0)).await? {
        parts.devcontainers.push(Devcontainer {
            id: row.id("id")?,
            workspace_folder: row.get("workspace_folder")?,
            config_path: row.get("config_path")?,
            name: row.get("name")?,
            subagent_id: row.optional_id("subagent_id")?,
        });
    }
    Ok(parts)
}
