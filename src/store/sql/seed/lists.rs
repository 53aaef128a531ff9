//! The lists of a seeded agent: entries are matched by their key, changed ones follow the file, vanished ones go.

use uuid::Uuid;

use super::super::apps::initial_health;
use super::super::statement::statements;
use super::super::value::{label, texts};
use super::Place;
use super::agent::{WrittenAgent, nth};
use crate::ids::{AppId, DevcontainerId, LogSourceId, ScriptId};
use crate::seed::{Agent, App, Devcontainer, Metadata, ResourcesMonitoring, Script};
use crate::store::StoreError;

statements! {
    /// Health is what the agent says, except that it begins and ends with the check.
    UPSERT_APP = "seed_upsert_app":
        "INSERT INTO workspace_apps (
            id, created_at, agent_id, slug, display_name, icon, command, url, healthcheck_url, healthcheck_interval,
            healthcheck_threshold, health, subdomain, sharing_level, external, hidden, display_order, open_in,
            display_group, tooltip
        ) VALUES (
            $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18,
            $19, $20
        )
        ON CONFLICT (agent_id, slug) DO UPDATE SET
            display_name = excluded.display_name, icon = excluded.icon, command = excluded.command,
            url = excluded.url, healthcheck_url = excluded.healthcheck_url,
            healthcheck_interval = excluded.healthcheck_interval,
            healthcheck_threshold = excluded.healthcheck_threshold,
            health = CASE
                WHEN (workspace_apps.healthcheck_url = '') = (excluded.healthcheck_url = '') THEN workspace_apps.health
                ELSE excluded.health
            END,
            subdomain = excluded.subdomain, sharing_level = excluded.sharing_level, external = excluded.external,
            hidden = excluded.hidden, display_order = excluded.display_order, open_in = excluded.open_in,
            display_group = excluded.display_group, tooltip = excluded.tooltip
        WHERE (
            workspace_apps.display_name, workspace_apps.icon, workspace_apps.command, workspace_apps.url,
            workspace_apps.healthcheck_url, workspace_apps.healthcheck_interval,
            workspace_apps.healthcheck_threshold, workspace_apps.subdomain, workspace_apps.sharing_level,
            workspace_apps.external, workspace_apps.hidden, workspace_apps.display_order, workspace_apps.open_in,
            workspace_apps.display_group, workspace_apps.tooltip
        ) IS DISTINCT FROM (
            excluded.display_name, excluded.icon, excluded.command, excluded.url, excluded.healthcheck_url,
            excluded.healthcheck_interval, excluded.healthcheck_threshold, excluded.subdomain,
            excluded.sharing_level, excluded.external, excluded.hidden, excluded.display_order, excluded.open_in,
            excluded.display_group, excluded.tooltip
        )";
    /// Statuses block the removal of their app.
    DELETE_APP_STATUSES = "seed_delete_app_statuses":
        "DELETE FROM workspace_app_statuses WHERE app_id IN (
            SELECT id FROM workspace_apps
            WHERE agent_id = $1 AND slug NOT IN (SELECT value FROM json_each($2))
        )",
        postgres:
        "DELETE FROM workspace_app_statuses WHERE app_id IN (
            SELECT id FROM workspace_apps WHERE agent_id = $1 AND slug <> ALL($2)
        )";
    DELETE_APPS = "seed_delete_apps":
        "DELETE FROM workspace_apps WHERE agent_id = $1 AND slug NOT IN (SELECT value FROM json_each($2))",
        postgres: "DELETE FROM workspace_apps WHERE agent_id = $1 AND slug <> ALL($2)";
    SCRIPT_BY_NAME = "seed_script_by_name":
        "SELECT id, log_source_id FROM workspace_agent_scripts
        WHERE workspace_agent_id = $1 AND display_name = $2";
    INSERT_SOURCE = "seed_insert_log_source":
        "INSERT INTO workspace_agent_log_sources (workspace_agent_id, id, created_at, display_name, icon)
        VALUES ($1, $2, $3, $4, $5)";
    SET_SOURCE_ICON = "seed_set_log_source_icon":
        "UPDATE workspace_agent_log_sources SET icon = $3
        WHERE workspace_agent_id = $1 AND id = $2 AND icon IS DISTINCT FROM $3";
    INSERT_SCRIPT = "seed_insert_script":
        "INSERT INTO workspace_agent_scripts (
            id, workspace_agent_id, log_source_id, created_at, display_name, log_path, script, cron,
            start_blocks_login, run_on_start, run_on_stop, timeout_seconds
        ) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)";
    UPDATE_SCRIPT = "seed_update_script":
        "UPDATE workspace_agent_scripts SET
            created_at = $2, log_path = $3, script = $4, cron = $5, start_blocks_login = $6, run_on_start = $7,
            run_on_stop = $8, timeout_seconds = $9
        WHERE id = $1 AND (
            created_at, log_path, script, cron, start_blocks_login, run_on_start, run_on_stop, timeout_seconds
        ) IS DISTINCT FROM ($2, $3, $4, $5, $6, $7, $8, $9)";
    /// Log sources stay, for the lines that name them do.
    DELETE_SCRIPTS = "seed_delete_scripts":
        "DELETE FROM workspace_agent_scripts
        WHERE workspace_agent_id = $1 AND display_name NOT IN (SELECT value FROM json_each($2))",
        postgres: "DELETE FROM workspace_agent_scripts WHERE workspace_agent_id = $1 AND display_name <> ALL($2)";
    UPSERT_METADATA = "seed_upsert_metadata":
        "INSERT INTO workspace_agent_metadata (
            workspace_agent_id, \"key\", display_name, script, \"interval\", timeout, display_order
        ) VALUES ($1, $2, $3, $4, $5, $6, $7)
        ON CONFLICT (workspace_agent_id, \"key\") DO UPDATE SET
            display_name = excluded.display_name, script = excluded.script, \"interval\" = excluded.\"interval\",
            timeout = excluded.timeout, display_order = excluded.display_order
        WHERE (
            workspace_agent_metadata.display_name, workspace_agent_metadata.script,
            workspace_agent_metadata.\"interval\", workspace_agent_metadata.timeout,
            workspace_agent_metadata.display_order
        ) IS DISTINCT FROM (
            excluded.display_name, excluded.script, excluded.\"interval\", excluded.timeout, excluded.display_order
        )";
    DELETE_METADATA = "seed_delete_metadata":
        "DELETE FROM workspace_agent_metadata
        WHERE workspace_agent_id = $1 AND \"key\" NOT IN (SELECT value FROM json_each($2))",
        postgres: "DELETE FROM workspace_agent_metadata WHERE workspace_agent_id = $1 AND \"key\" <> ALL($2)";
    UPSERT_MEMORY_MONITOR = "seed_upsert_memory_monitor":
        "INSERT INTO workspace_agent_memory_resource_monitors (agent_id, enabled, threshold, created_at, updated_at)
        VALUES ($1, $2, $3, $4, $4)
        ON CONFLICT (agent_id) DO UPDATE SET
            enabled = excluded.enabled, threshold = excluded.threshold, updated_at = excluded.updated_at
        WHERE (workspace_agent_memory_resource_monitors.enabled, workspace_agent_memory_resource_monitors.threshold)
            IS DISTINCT FROM (excluded.enabled, excluded.threshold)";
    DELETE_MEMORY_MONITOR = "seed_delete_memory_monitor":
        "DELETE FROM workspace_agent_memory_resource_monitors WHERE agent_id = $1";
    UPSERT_VOLUME_MONITOR = "seed_upsert_volume_monitor":
        "INSERT INTO workspace_agent_volume_resource_monitors (
            agent_id, path, enabled, threshold, created_at, updated_at
        ) VALUES ($1, $2, $3, $4, $5, $5)
        ON CONFLICT (agent_id, path) DO UPDATE SET
            enabled = excluded.enabled, threshold = excluded.threshold, updated_at = excluded.updated_at
        WHERE (workspace_agent_volume_resource_monitors.enabled, workspace_agent_volume_resource_monitors.threshold)
            IS DISTINCT FROM (excluded.enabled, excluded.threshold)";
    DELETE_VOLUME_MONITORS = "seed_delete_volume_monitors":
        "DELETE FROM workspace_agent_volume_resource_monitors
        WHERE agent_id = $1 AND path NOT IN (SELECT value FROM json_each($2))",
        postgres: "DELETE FROM workspace_agent_volume_resource_monitors WHERE agent_id = $1 AND path <> ALL($2)";
    DEVCONTAINER_BY_NAME = "seed_devcontainer_by_name":
        "SELECT id FROM workspace_agent_devcontainers WHERE workspace_agent_id = $1 AND name = $2";
    INSERT_DEVCONTAINER = "seed_insert_devcontainer":
        "INSERT INTO workspace_agent_devcontainers (
            id, workspace_agent_id, created_at, workspace_folder, config_path, name
        ) VALUES ($1, $2, $3, $4, $5, $6)";
    UPDATE_DEVCONTAINER = "seed_update_devcontainer":
        "UPDATE workspace_agent_devcontainers SET created_at = $2, workspace_folder = $3, config_path = $4
        WHERE id = $1 AND (created_at, workspace_folder, config_path) IS DISTINCT FROM ($2, $3, $4)";
    DELETE_DEVCONTAINERS = "seed_delete_devcontainers":
        "DELETE FROM workspace_agent_devcontainers
        WHERE workspace_agent_id = $1 AND name NOT IN (SELECT value FROM json_each($2))",
        postgres: "DELETE FROM workspace_agent_devcontainers WHERE workspace_agent_id = $1 AND name <> ALL($2)";
}

impl Place<'_, '_> {
    /// Brings every list of an agent in line with the file; whether anything changed.
    pub(super) async fn lists(&mut self, agent: &WrittenAgent, entry: &Agent) -> Result<bool, StoreError> {
        let mut changed = self.apps(agent, &entry.apps).await?;
        changed |= self.scripts(agent, &entry.scripts).await?;
        changed |= self.metadata(agent, &entry.metadata).await?;
        changed |= self.monitors(agent, &entry.resources_monitoring).await?;
        changed |= self.devcontainers(agent, &entry.devcontainers).await?;
        Ok(changed > 0)
    }

    async fn apps(&mut self, agent: &WrittenAgent, apps: &[App]) -> Result<u64, StoreError> {
        let mut changed = 0;
        for app in apps {
            let (url, interval, threshold) = match &app.healthcheck {
                Some(check) => (&*check.url, check.interval_seconds.0, check.threshold.0),
                None => ("", 0, 0),
            };
            let upsert = UPSERT_APP
                .bind(AppId::random().0)
                .bind(self.now)
                .bind(agent.id.0)
                .bind(&*app.slug)
                .bind(&*app.display_name)
                .bind(&*app.icon)
                .bind(app.command.as_deref())
                .bind(app.url.as_deref())
                .bind(url)
                .bind(interval)
                .bind(threshold)
                .bind(initial_health(url))
                .bind(app.subdomain)
                .bind(label(app.sharing_level.as_str()))
                .bind(app.external)
                .bind(app.hidden)
                .bind(app.order)
                .bind(label(app.open_in.as_str()))
                .bind(app.group.as_deref())
                .bind(&*app.tooltip);
            changed += self.transaction.execute(upsert).await?.rows;
        }
        let kept = texts(apps.iter().map(|app| &*app.slug));
        let delete = DELETE_APP_STATUSES.bind(agent.id.0).bind(kept.clone());
        self.transaction.execute(delete).await?;
        let delete = DELETE_APPS.bind(agent.id.0).bind(kept);
        Ok(changed + self.transaction.execute(delete).await?.rows)
    }

    async fn scripts(&mut self, agent: &WrittenAgent, scripts: &[Script]) -> Result<u64, StoreError> {
        let mut changed = 0;
        for (at, script) in scripts.iter().enumerate() {
            let created_at = nth(agent.created_at, at);
            let known = SCRIPT_BY_NAME.bind(agent.id.0).bind(&*script.display_name);
            if let Some(row) = self.transaction.optional(known).await? {
                let update = UPDATE_SCRIPT
                    .bind(row.id::<Uuid>("id")?)
                    .bind(created_at)
                    .bind(&*script.log_path)
                    .bind(&*script.script)
                    .bind(&*script.cron)
                    .bind(script.start_blocks_login)
                    .bind(script.run_on_start)
                    .bind(script.run_on_stop)
                    .bind(script.timeout_seconds.0);
                changed += self.transaction.execute(update).await?.rows;
                let source = row.id::<Uuid>("log_source_id")?;
                let icon = SET_SOURCE_ICON.bind(agent.id.0).bind(source).bind(&*script.icon);
                self.transaction.execute(icon).await?;
                continue;
            }
            let source = LogSourceId::random();
            let insert = INSERT_SOURCE
                .bind(agent.id.0)
                .bind(source.0)
                .bind(created_at)
                .bind(&*script.display_name)
                .bind(&*script.icon);
            self.transaction.execute(insert).await?;
            let insert = INSERT_SCRIPT
                .bind(ScriptId::random().0)
                .bind(agent.id.0)
                .bind(source.0)
                .bind(created_at)
                .bind(&*script.display_name)
                .bind(&*script.log_path)
                .bind(&*script.script)
                .bind(&*script.cron)
                .bind(script.start_blocks_login)
                .bind(script.run_on_start)
                .bind(script.run_on_stop)
                .bind(script.timeout_seconds.0);
            changed += self.transaction.execute(insert).await?.rows;
        }
        let kept = texts(scripts.iter().map(|script| &*script.display_name));
        let delete = DELETE_SCRIPTS.bind(agent.id.0).bind(kept);
        Ok(changed + self.transaction.execute(delete).await?.rows)
    }

    async fn metadata(&mut self, agent: &WrittenAgent, items: &[Metadata]) -> Result<u64, StoreError> {
        let mut changed = 0;
        for item in items {
            let upsert = UPSERT_METADATA
                .bind(agent.id.0)
                .bind(&*item.key)
                .bind(&*item.display_name)
                .bind(&*item.script)
                .bind(item.interval_seconds.0)
                .bind(item.timeout_seconds.0)
                .bind(item.order);
            changed += self.transaction.execute(upsert).await?.rows;
        }
        let kept = texts(items.iter().map(|item| &*item.key));
        let delete = DELETE_METADATA.bind(agent.id.0).bind(kept);
        Ok(changed + self.transaction.execute(delete).await?.rows)
    }

    async fn monitors(
        &mut self,
        agent: &WrittenAgent,
        monitors: &ResourcesMonitoring,
    ) -> Result<u64, StoreError> {
        let now = self.now;
        let memory = match &monitors.memory {
            Some(memory) => UPSERT_MEMORY_MONITOR
                .bind(agent.id.0)
                .bind(memory.enabled)
                .bind(memory.threshold.0)
                .bind(now),
            None => DELETE_MEMORY_MONITOR.bind(agent.id.0),
        };
        let mut changed = self.transaction.execute(memory).await?.rows;
        for volume in &monitors.volumes {
            let upsert = UPSERT_VOLUME_MONITOR
                .bind(agent.id.0)
                .bind(&*volume.path)
                .bind(volume.enabled)
                .bind(volume.threshold.0)
                .bind(now);
            changed += self.transaction.execute(upsert).await?.rows;
        }
        let kept = texts(monitors.volumes.iter().map(|volume| &*volume.path));
        let delete = DELETE_VOLUME_MONITORS.bind(agent.id.0).bind(kept);
        Ok(changed + self.transaction.execute(delete).await?.rows)
    }

    async fn devcontainers(
        &mut self,
        agent: &WrittenAgent,
        containers: &[Devcontainer],
    ) -> Result<u64, StoreError> {
        let mut changed = 0;
        for (at, container) in containers.iter().enumerate() {
            let created_at = nth(agent.created_at, at);
            let known = DEVCONTAINER_BY_NAME.bind(agent.id.0).bind(&*container.name);
            let write = match self.transaction.optional(known).await? {
                Some(row) => UPDATE_DEVCONTAINER
                    .bind(row.id::<Uuid>("id")?)
                    .bind(created_at)
                    .bind(&*container.workspace_folder)
                    .bind(&*container.config_path),
                None => INSERT_DEVCONTAINER
                    .bind(DevcontainerId::random().0)
                    .bind(agent.id.0)
                    .bind(created_at)
                    .bind(&*container.workspace_folder)
                    .bind(&*container.config_path)
                    .bind(&*container.name),
            };
            changed += self.transaction.execute(write).await?.rows;
        }
        let kept = texts(containers.iter().map(|container| &*container.name));
        let delete = DELETE_DEVCONTAINERS.bind(agent.id.0).bind(kept);
        Ok(changed + self.transaction.execute(delete).await?.rows)
    }
}
