//! Putting a seed file into the store.
//!
//! Everything is matched by name: ids and tokens stay, changed fields follow the file, list entries that left the file go,
//! agents that left it and what agents reported stay. One transaction per file.

use serde_json::json;
use sqlx::query::Query;
use sqlx::sqlite::{SqliteArguments, SqliteConnection};
use sqlx::{Row, Sqlite};
use ssh_key::rand_core::OsRng;
use ssh_key::{Algorithm, LineEnding, PrivateKey};
use uuid::Uuid;

use super::SqliteStore;
use super::statement::Statement;
use crate::clock::Timestamp;
use crate::ids::{AgentId, AgentToken, UserId};
use crate::seed::{self, Document, Seed};
use crate::store::{SeededAgent, StoreError, Violation, channels};

/// Name of the organization that everything seeded belongs to.
const ORGANIZATION: &str = "coder";

type Result<T> = std::result::Result<T, StoreError>;

impl SqliteStore {
    pub(super) async fn seed(&self, seed: &Seed, now: Timestamp) -> Result<Vec<SeededAgent>> {
        let mut transaction = self.writer.begin_with("BEGIN IMMEDIATE").await?;
        let mut seeder = Seeder {
            connection: &mut transaction,
            now,
            stamp: now.as_micros(),
            events: Vec::new(),
        };
        let mut agents = Vec::new();
        for document in &seed.documents {
            seeder.document(document, &mut agents).await?;
        }
        for (channel, payload) in std::mem::take(&mut seeder.events) {
            let query = self.counters.query(Statement::InsertEvent);
            query
                .bind(channel)
                .bind(payload)
                .bind(now.as_micros())
                .execute(&mut *transaction)
                .await?;
        }
        transaction.commit().await?;
        Ok(agents)
    }
}

/// One seeding.
struct Seeder<'c> {
    connection: &'c mut SqliteConnection,
    now: Timestamp,
    /// Rises by one microsecond for each row whose order is its creation time.
    stamp: i64,
    /// Channel and payload of what other processes are told.
    events: Vec<(String, String)>,
}

type Statements<'q> = Query<'q, Sqlite, SqliteArguments>;

impl Seeder<'_> {
    async fn run(&mut self, query: Statements<'_>) -> Result<u64> {
        Ok(query.execute(&mut *self.connection).await?.rows_affected())
    }

    /// The id in the first column of the row that a query finds.
    async fn id(&mut self, query: Statements<'_>) -> Result<Option<Uuid>> {
        let row = query.fetch_optional(&mut *self.connection).await?;
        Ok(row.map(|row| row.try_get(0)).transpose()?)
    }

    fn next_stamp(&mut self) -> i64 {
        self.stamp += 1;
        self.stamp
    }

    async fn document(&mut self, document: &Document, agents: &mut Vec<SeededAgent>) -> Result<()> {
        let organization = self.organization().await?;
        let owner = self.owner(&document.owner).await?;
        if let Some(banners) = &document.banners {
            let text =
                serde_json::to_string(banners).map_err(|error| StoreError::Rejected(error.to_string()))?;
            let query = sqlx::query(
                "INSERT INTO site_configs (key, value) VALUES ('announcement_banners', ?1)
                 ON CONFLICT (key) DO UPDATE SET value = excluded.value",
            );
            self.run(query.bind(text)).await?;
            self.events
                .push((channels::INVALIDATIONS.to_owned(), channels::banners_changed()));
        }
        let template = self
            .template(&document.workspace.template, organization, owner)
            .await?;
        let workspace = self
            .workspace(&document.workspace, organization, owner, template)
            .await?;
        let resource = self
            .resource(workspace, &document.workspace, organization, owner, template)
            .await?;
        for agent in &document.agents {
            let (agent_id, token) = self.agent(agent, resource).await?;
            self.events.push((
                channels::INVALIDATIONS.to_owned(),
                channels::agent_changed(agent_id),
            ));
            agents.push(SeededAgent {
                owner: document.owner.username.clone(),
                workspace: document.workspace.name.clone(),
                agent: agent.name.clone(),
                agent_id,
                token,
            });
        }
        let channel = channels::workspace_owner(UserId(owner));
        self.events.push((
            channel,
            json!({ "kind": "state_change", "workspace_id": workspace }).to_string(),
        ));
        Ok(())
    }

    async fn organization(&mut self) -> Result<Uuid> {
        let find = sqlx::query("SELECT id FROM organizations WHERE lower(name) = ?1 AND deleted = 0");
        if let Some(id) = self.id(find.bind(ORGANIZATION)).await? {
            return Ok(id);
        }
        let id = Uuid::new_v4();
        let query = sqlx::query(
            "INSERT INTO organizations (id, name, display_name, created_at, updated_at, is_default)
             VALUES (?1, ?2, ?2, ?3, ?3,
                     (SELECT count(*) = 0 FROM organizations WHERE is_default = 1))",
        );
        self.run(query.bind(id).bind(ORGANIZATION).bind(self.now.as_micros()))
            .await?;
        Ok(id)
    }

    async fn owner(&mut self, owner: &seed::Owner) -> Result<Uuid> {
        let now = self.now.as_micros();
        let email = owner
            .email
            .clone()
            .unwrap_or_else(|| format!("{}@localhost", owner.username.to_lowercase()));
        let find = sqlx::query("SELECT id FROM users WHERE lower(username) = lower(?1) AND deleted = 0");
        let id = if let Some(id) = self.id(find.bind(owner.username.clone())).await? {
            let query = sqlx::query(
                "UPDATE users SET name = ?2, email = ?3, updated_at = ?4
                 WHERE id = ?1 AND (name <> ?2 OR email <> ?3)",
            );
            self.run(query.bind(id).bind(owner.name.clone()).bind(email).bind(now))
                .await?;
            id
        } else {
            let system = owner.username == "prebuilds";
            let id = if system {
                UserId::PREBUILDS.0
            } else {
                Uuid::new_v4()
            };
            let query = sqlx::query(
                "INSERT INTO users (id, email, username, name, created_at, updated_at, status, is_system)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?5, 'active', ?6)",
            );
            let query = query
                .bind(id)
                .bind(email)
                .bind(owner.username.clone())
                .bind(owner.name.clone());
            self.run(query.bind(now).bind(system)).await?;
            self.git_key(id).await?;
            id
        };
        if let Some(links) = &owner.external_auth_links {
            self.external_auth_links(id, links).await?;
        }
        Ok(id)
    }

    async fn git_key(&mut self, user: Uuid) -> Result<()> {
        let failed = |error: ssh_key::Error| StoreError::Rejected(format!("generate git key: {error}"));
        let key = PrivateKey::random(&mut OsRng, Algorithm::Ed25519).map_err(failed)?;
        let private = key.to_openssh(LineEnding::LF).map_err(failed)?;
        let public = key.public_key().to_openssh().map_err(failed)?;
        let query = sqlx::query(
            "INSERT INTO gitsshkeys (user_id, created_at, updated_at, private_key, public_key)
             VALUES (?1, ?2, ?2, ?3, ?4)",
        );
        self.run(
            query
                .bind(user)
                .bind(self.now.as_micros())
                .bind(private.to_string())
                .bind(public),
        )
        .await?;
        Ok(())
    }

    async fn external_auth_links(&mut self, user: Uuid, links: &[seed::ExternalAuthLink]) -> Result<()> {
        for link in links {
            let query = sqlx::query(
                "INSERT INTO external_auth_links (provider_id, user_id, created_at, updated_at, oauth_access_token,
                     oauth_refresh_token, oauth_expiry)
                 VALUES (?1, ?2, ?3, ?3, ?4, ?5, ?6)
                 ON CONFLICT (provider_id, user_id) DO UPDATE SET updated_at = excluded.updated_at,
                     oauth_access_token = excluded.oauth_access_token,
                     oauth_refresh_token = excluded.oauth_refresh_token, oauth_expiry = excluded.oauth_expiry",
            );
            let expiry = link
                .oauth_expiry
                .map_or(Timestamp::ZERO.as_micros(), jiff::Timestamp::as_microsecond);
            let query = query
                .bind(link.provider_id.clone())
                .bind(user)
                .bind(self.now.as_micros());
            let query = query
                .bind(link.oauth_access_token.clone())
                .bind(link.oauth_refresh_token.clone());
            self.run(query.bind(expiry)).await?;
        }
        let kept = json!(links.iter().map(|link| &link.provider_id).collect::<Vec<_>>()).to_string();
        let query = sqlx::query(
            "DELETE FROM external_auth_links
             WHERE user_id = ?1 AND provider_id NOT IN (SELECT value FROM json_each(?2))",
        );
        self.run(query.bind(user).bind(kept)).await?;
        Ok(())
    }

    async fn template(&mut self, name: &str, organization: Uuid, owner: Uuid) -> Result<Uuid> {
        let find = sqlx::query(
            "SELECT id FROM templates WHERE organization_id = ?1 AND lower(name) = lower(?2) AND deleted = 0",
        );
        if let Some(id) = self.id(find.bind(organization).bind(name.to_owned())).await? {
            return Ok(id);
        }
        let (id, version, now) = (Uuid::new_v4(), Uuid::new_v4(), self.now.as_micros());
        let job = self.job("template_version_import", organization, owner).await?;
        let query = sqlx::query(
            "INSERT INTO templates (id, organization_id, active_version_id, created_by, created_at, updated_at, name,
                 provisioner)
             VALUES (?1, ?2, ?3, ?4, ?5, ?5, ?6, 'terraform')",
        );
        let query = query
            .bind(id)
            .bind(organization)
            .bind(version)
            .bind(owner)
            .bind(now);
        self.run(query.bind(name.to_owned())).await?;
        let query = sqlx::query(
            "INSERT INTO template_versions (id, template_id, organization_id, job_id, created_by, created_at,
                 updated_at, name, readme)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?6, 'seed', '')",
        );
        self.run(
            query
                .bind(version)
                .bind(id)
                .bind(organization)
                .bind(job)
                .bind(owner)
                .bind(now),
        )
        .await?;
        Ok(id)
    }

    /// A job that has succeeded.
    async fn job(&mut self, kind: &str, organization: Uuid, initiator: Uuid) -> Result<Uuid> {
        let id = Uuid::new_v4();
        let query = sqlx::query(
            "INSERT INTO provisioner_jobs (id, organization_id, initiator_id, file_id, created_at, updated_at,
                 started_at, completed_at, provisioner, storage_method, type, input)
             VALUES (?1, ?2, ?3, ?4, ?5, ?5, ?5, ?5, 'terraform', 'file', ?6, '{}')",
        );
        let query = query
            .bind(id)
            .bind(organization)
            .bind(initiator)
            .bind(Uuid::nil());
        self.run(query.bind(self.now.as_micros()).bind(kind.to_owned()))
            .await?;
        Ok(id)
    }

    async fn workspace(
        &mut self,
        workspace: &seed::Workspace,
        organization: Uuid,
        owner: Uuid,
        template: Uuid,
    ) -> Result<Uuid> {
        let find = sqlx::query(
            "SELECT id FROM workspaces WHERE owner_id = ?1 AND lower(name) = lower(?2) AND deleted = 0",
        );
        let found = self.id(find.bind(owner).bind(workspace.name.clone())).await?;
        let id = found.unwrap_or_else(Uuid::new_v4);
        let query = sqlx::query(
            "INSERT INTO workspaces (id, created_at, updated_at, owner_id, organization_id, template_id, name,
                 autostart_schedule, ttl)
             VALUES (?1, ?2, ?2, ?3, ?4, ?5, ?6, ?7, ?8)
             ON CONFLICT (id) DO UPDATE SET template_id = excluded.template_id,
                 autostart_schedule = excluded.autostart_schedule, ttl = excluded.ttl",
        );
        let query = query
            .bind(id)
            .bind(self.now.as_micros())
            .bind(owner)
            .bind(organization)
            .bind(template);
        let query = query
            .bind(workspace.name.clone())
            .bind(workspace.autostart_schedule.clone());
        self.run(query.bind(workspace.ttl.map(nanos))).await?;
        Ok(id)
    }

    /// A resource of the workspace's latest build; both are made when there is none.
    async fn resource(
        &mut self,
        id: Uuid,
        workspace: &seed::Workspace,
        organization: Uuid,
        owner: Uuid,
        template: Uuid,
    ) -> Result<Uuid> {
        let find = sqlx::query(
            "SELECT resource.id FROM workspace_latest_builds AS build
             JOIN workspace_resources AS resource ON resource.job_id = build.job_id
             WHERE build.workspace_id = ?1 ORDER BY resource.created_at, resource.id LIMIT 1",
        );
        if let Some(resource) = self.id(find.bind(id)).await? {
            return Ok(resource);
        }
        let now = self.now.as_micros();
        let find = sqlx::query("SELECT job_id FROM workspace_latest_builds WHERE workspace_id = ?1");
        let job = match self.id(find.bind(id)).await? {
            Some(job) => job,
            None => {
                let job = self.job("workspace_build", organization, owner).await?;
                let deadline = workspace
                    .ttl
                    .map_or(Timestamp::ZERO, |ttl| self.now.saturating_add(ttl));
                let query = sqlx::query(
                    "INSERT INTO workspace_builds (id, created_at, updated_at, workspace_id, template_version_id,
                         build_number, transition, initiator_id, job_id, deadline)
                     VALUES (?1, ?2, ?2, ?3, (SELECT active_version_id FROM templates WHERE id = ?4), 1, 'start', ?5,
                         ?6, ?7)",
                );
                let query = query
                    .bind(Uuid::new_v4())
                    .bind(now)
                    .bind(id)
                    .bind(template)
                    .bind(owner);
                self.run(query.bind(job).bind(deadline.as_micros())).await?;
                job
            }
        };
        let resource = Uuid::new_v4();
        let query = sqlx::query(
            "INSERT INTO workspace_resources (id, created_at, job_id, transition, type, name)
             VALUES (?1, ?2, ?3, 'start', 'drpcd_seed', 'main')",
        );
        self.run(query.bind(resource).bind(now).bind(job)).await?;
        Ok(resource)
    }

    async fn agent(&mut self, agent: &seed::Agent, resource: Uuid) -> Result<(AgentId, AgentToken)> {
        let find = sqlx::query(
            "SELECT agent.id, agent.auth_token, agent.parent_id IS NOT NULL AS is_sub_agent
             FROM workspace_resources AS own
             JOIN workspace_resources AS resource ON resource.job_id = own.job_id
             JOIN workspace_agents AS agent ON agent.resource_id = resource.id
             WHERE own.id = ?1 AND agent.name = ?2 AND agent.deleted = 0",
        );
        let query = find.bind(resource).bind(agent.name.clone());
        let found = query.fetch_optional(&mut *self.connection).await?;
        let (id, token) = match &found {
            Some(row) if row.try_get("is_sub_agent")? => return Err(name_taken(&agent.name)),
            Some(row) => {
                let stored = AgentToken::new(row.try_get("auth_token")?);
                (row.try_get("id")?, agent.token.unwrap_or(stored))
            }
            None => (Uuid::new_v4(), agent.token.unwrap_or_else(AgentToken::random)),
        };
        let holder =
            sqlx::query("SELECT id FROM workspace_agents WHERE auth_token = ?1 AND id <> ?2 AND deleted = 0");
        if self.id(holder.bind(*token.reveal()).bind(id)).await?.is_some() {
            return Err(StoreError::Rejected(format!(
                "the token of agent {:?} belongs to another agent",
                agent.name
            )));
        }
        let environment =
            (!agent.environment_variables.is_empty()).then(|| json!(agent.environment_variables).to_string());
        let display_apps = agent
            .display_apps
            .as_ref()
            .map(|apps| json!(apps.iter().map(|app| app.as_str()).collect::<Vec<_>>()).to_string());
        let query = sqlx::query(
            "INSERT INTO workspace_agents (id, created_at, updated_at, name, resource_id, auth_token, architecture,
                 operating_system, environment_variables, directory, connection_timeout_seconds, troubleshooting_url,
                 motd_file, display_apps, display_order, api_key_scope)
             VALUES (?1, ?2, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, coalesce(?13,
                 '[\"vscode\",\"vscode_insiders\",\"web_terminal\",\"ssh_helper\",\"port_forwarding_helper\"]'), ?14, ?15)
             ON CONFLICT (id) DO UPDATE SET updated_at = excluded.updated_at, auth_token = excluded.auth_token,
                 architecture = excluded.architecture, operating_system = excluded.operating_system,
                 environment_variables = excluded.environment_variables, directory = excluded.directory,
                 connection_timeout_seconds = excluded.connection_timeout_seconds,
                 troubleshooting_url = excluded.troubleshooting_url, motd_file = excluded.motd_file,
                 display_apps = excluded.display_apps, display_order = excluded.display_order,
                 api_key_scope = excluded.api_key_scope",
        );
        let query = query
            .bind(id)
            .bind(self.now.as_micros())
            .bind(agent.name.clone())
            .bind(resource);
        let query = query
            .bind(*token.reveal())
            .bind(agent.architecture.clone())
            .bind(agent.operating_system.clone());
        let query = query
            .bind(environment)
            .bind(agent.directory.clone())
            .bind(i64::from(agent.connection_timeout_seconds));
        let query = query
            .bind(agent.troubleshooting_url.clone())
            .bind(agent.motd_file.clone())
            .bind(display_apps);
        self.run(query.bind(agent.order).bind(agent.api_key_scope.as_str()))
            .await?;

        self.apps(id, &agent.apps).await?;
        self.scripts(id, &agent.scripts).await?;
        self.metadata(id, &agent.metadata).await?;
        self.monitors(id, &agent.resources_monitoring).await?;
        self.devcontainers(id, &agent.devcontainers).await?;
        Ok((AgentId(id), token))
    }

    /// Health is the agent's to report; it is only set where checking begins or ends.
    async fn apps(&mut self, agent: Uuid, apps: &[seed::App]) -> Result<()> {
        let kept = json!(apps.iter().map(|app| &app.slug).collect::<Vec<_>>()).to_string();
        for statement in [
            "DELETE FROM workspace_app_statuses WHERE app_id IN (SELECT id FROM workspace_apps
                 WHERE agent_id = ?1 AND slug NOT IN (SELECT value FROM json_each(?2)))",
            "DELETE FROM workspace_apps WHERE agent_id = ?1 AND slug NOT IN (SELECT value FROM json_each(?2))",
        ] {
            self.run(sqlx::query(statement).bind(agent).bind(kept.clone()))
                .await?;
        }
        for app in apps {
            let query = sqlx::query(
                "INSERT INTO workspace_apps (id, created_at, agent_id, slug, display_name, icon, command, url,
                     healthcheck_url, healthcheck_interval, healthcheck_threshold, health, subdomain, sharing_level,
                     external, display_order, hidden, open_in, display_group, tooltip)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11,
                     CASE WHEN ?9 = '' THEN 'disabled' ELSE 'initializing' END,
                     ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19)
                 ON CONFLICT (agent_id, slug) DO UPDATE SET display_name = excluded.display_name,
                     icon = excluded.icon, command = excluded.command, url = excluded.url,
                     healthcheck_url = excluded.healthcheck_url,
                     healthcheck_interval = excluded.healthcheck_interval,
                     healthcheck_threshold = excluded.healthcheck_threshold,
                     health = CASE WHEN excluded.healthcheck_url = '' OR workspace_apps.healthcheck_url = ''
                         THEN excluded.health ELSE workspace_apps.health END,
                     subdomain = excluded.subdomain, sharing_level = excluded.sharing_level,
                     external = excluded.external, display_order = excluded.display_order, hidden = excluded.hidden,
                     open_in = excluded.open_in, display_group = excluded.display_group, tooltip = excluded.tooltip",
            );
            let (url, interval, threshold) = app.healthcheck.as_ref().map_or(("", 0, 0), |check| {
                (
                    check.url.as_str(),
                    i64::from(check.interval_seconds),
                    i64::from(check.threshold),
                )
            });
            let display_name = app.display_name.as_ref().unwrap_or(&app.slug);
            let query = query
                .bind(Uuid::new_v4())
                .bind(self.now.as_micros())
                .bind(agent)
                .bind(app.slug.clone());
            let query = query
                .bind(display_name.clone())
                .bind(app.icon.clone())
                .bind(app.command.clone());
            let query = query
                .bind(app.url.clone())
                .bind(url.to_owned())
                .bind(interval)
                .bind(threshold);
            let query = query
                .bind(app.subdomain)
                .bind(app.sharing_level.as_str())
                .bind(app.external);
            let query = query.bind(app.order).bind(app.hidden).bind(app.open_in.as_str());
            self.run(query.bind(app.group.clone()).bind(app.tooltip.clone()))
                .await?;
        }
        Ok(())
    }

    async fn scripts(&mut self, agent: Uuid, scripts: &[seed::Script]) -> Result<()> {
        let kept = json!(
            scripts
                .iter()
                .map(|script| &script.display_name)
                .collect::<Vec<_>>()
        )
        .to_string();
        let query = sqlx::query(
            "DELETE FROM workspace_agent_scripts
             WHERE workspace_agent_id = ?1 AND display_name NOT IN (SELECT value FROM json_each(?2))",
        );
        self.run(query.bind(agent).bind(kept)).await?;
        for script in scripts {
            let find = sqlx::query(
                "SELECT id, log_source_id FROM workspace_agent_scripts
                 WHERE workspace_agent_id = ?1 AND display_name = ?2",
            );
            let query = find.bind(agent).bind(script.display_name.clone());
            let (id, source): (Uuid, Uuid) = match query.fetch_optional(&mut *self.connection).await? {
                Some(row) => (row.try_get(0)?, row.try_get(1)?),
                None => (Uuid::new_v4(), Uuid::new_v4()),
            };
            let created_at = self.next_stamp();
            let query = sqlx::query(
                "INSERT INTO workspace_agent_log_sources (workspace_agent_id, id, created_at, display_name, icon)
                 VALUES (?1, ?2, ?3, ?4, ?5)
                 ON CONFLICT (workspace_agent_id, id) DO UPDATE SET icon = excluded.icon",
            );
            let query = query
                .bind(agent)
                .bind(source)
                .bind(created_at)
                .bind(script.display_name.clone());
            self.run(query.bind(script.icon.clone())).await?;
            let query = sqlx::query(
                "INSERT INTO workspace_agent_scripts (id, workspace_agent_id, log_source_id, log_path, script, cron,
                     display_name, created_at, start_blocks_login, run_on_start, run_on_stop, timeout_seconds)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)
                 ON CONFLICT (id) DO UPDATE SET log_path = excluded.log_path, script = excluded.script,
                     cron = excluded.cron, created_at = excluded.created_at,
                     start_blocks_login = excluded.start_blocks_login, run_on_start = excluded.run_on_start,
                     run_on_stop = excluded.run_on_stop, timeout_seconds = excluded.timeout_seconds",
            );
            let query = query
                .bind(id)
                .bind(agent)
                .bind(source)
                .bind(script.log_path.clone());
            let query = query
                .bind(script.script.clone())
                .bind(script.cron.clone())
                .bind(script.display_name.clone());
            let query = query
                .bind(created_at)
                .bind(script.start_blocks_login)
                .bind(script.run_on_start);
            self.run(
                query
                    .bind(script.run_on_stop)
                    .bind(i64::from(script.timeout_seconds)),
            )
            .await?;
        }
        Ok(())
    }

    async fn metadata(&mut self, agent: Uuid, items: &[seed::Metadata]) -> Result<()> {
        let kept = json!(items.iter().map(|item| &item.key).collect::<Vec<_>>()).to_string();
        let query = sqlx::query(
            "DELETE FROM workspace_agent_metadata
             WHERE workspace_agent_id = ?1 AND key NOT IN (SELECT value FROM json_each(?2))",
        );
        self.run(query.bind(agent).bind(kept)).await?;
        for item in items {
            let query = sqlx::query(
                "INSERT INTO workspace_agent_metadata (workspace_agent_id, key, display_name, script, timeout,
                     interval, display_order)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)
                 ON CONFLICT (workspace_agent_id, key) DO UPDATE SET display_name = excluded.display_name,
                     script = excluded.script, timeout = excluded.timeout, interval = excluded.interval,
                     display_order = excluded.display_order",
            );
            let display_name = item.display_name.as_ref().unwrap_or(&item.key);
            let query = query
                .bind(agent)
                .bind(item.key.clone())
                .bind(display_name.clone())
                .bind(item.script.clone());
            let query = query
                .bind(i64::from(item.timeout_seconds))
                .bind(i64::from(item.interval_seconds));
            self.run(query.bind(item.order)).await?;
        }
        Ok(())
    }

    async fn monitors(&mut self, agent: Uuid, monitoring: &seed::ResourcesMonitoring) -> Result<()> {
        let now = self.now.as_micros();
        match &monitoring.memory {
            None => {
                let query =
                    sqlx::query("DELETE FROM workspace_agent_memory_resource_monitors WHERE agent_id = ?1");
                self.run(query.bind(agent)).await?;
            }
            Some(memory) => {
                let query = sqlx::query(
                    "INSERT INTO workspace_agent_memory_resource_monitors (agent_id, enabled, threshold, created_at,
                         updated_at)
                     VALUES (?1, ?2, ?3, ?4, ?4)
                     ON CONFLICT (agent_id) DO UPDATE SET enabled = excluded.enabled,
                         threshold = excluded.threshold, updated_at = excluded.updated_at",
                );
                self.run(
                    query
                        .bind(agent)
                        .bind(memory.enabled)
                        .bind(i64::from(memory.threshold))
                        .bind(now),
                )
                .await?;
            }
        }
        let kept = json!(
            monitoring
                .volumes
                .iter()
                .map(|volume| &volume.path)
                .collect::<Vec<_>>()
        )
        .to_string();
        let query = sqlx::query(
            "DELETE FROM workspace_agent_volume_resource_monitors
             WHERE agent_id = ?1 AND path NOT IN (SELECT value FROM json_each(?2))",
        );
        self.run(query.bind(agent).bind(kept)).await?;
        for volume in &monitoring.volumes {
            let query = sqlx::query(
                "INSERT INTO workspace_agent_volume_resource_monitors (agent_id, path, enabled, threshold, created_at,
                     updated_at)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?5)
                 ON CONFLICT (agent_id, path) DO UPDATE SET enabled = excluded.enabled,
                     threshold = excluded.threshold, updated_at = excluded.updated_at",
            );
            let query = query.bind(agent).bind(volume.path.clone()).bind(volume.enabled);
            self.run(query.bind(i64::from(volume.threshold)).bind(now))
                .await?;
        }
        Ok(())
    }

    async fn devcontainers(&mut self, agent: Uuid, containers: &[seed::Devcontainer]) -> Result<()> {
        let kept = json!(
            containers
                .iter()
                .map(|container| &container.name)
                .collect::<Vec<_>>()
        )
        .to_string();
        let query = sqlx::query(
            "DELETE FROM workspace_agent_devcontainers
             WHERE workspace_agent_id = ?1 AND name NOT IN (SELECT value FROM json_each(?2))",
        );
        self.run(query.bind(agent).bind(kept)).await?;
        for container in containers {
            let find = sqlx::query(
                "SELECT id FROM workspace_agent_devcontainers WHERE workspace_agent_id = ?1 AND name = ?2",
            );
            let found = self.id(find.bind(agent).bind(container.name.clone())).await?;
            let query = sqlx::query(
                "INSERT INTO workspace_agent_devcontainers (id, workspace_agent_id, created_at, workspace_folder,
                     config_path, name)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6)
                 ON CONFLICT (id) DO UPDATE SET created_at = excluded.created_at,
                     workspace_folder = excluded.workspace_folder, config_path = excluded.config_path",
            );
            let created_at = self.next_stamp();
            let query = query
                .bind(found.unwrap_or_else(Uuid::new_v4))
                .bind(agent)
                .bind(created_at);
            let query = query
                .bind(container.workspace_folder.clone())
                .bind(container.config_path.clone());
            self.run(query.bind(container.name.clone())).await?;
        }
        Ok(())
    }
}

fn nanos(duration: std::time::Duration) -> i64 {
    i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX)
}

/// The text of the original's trigger.
fn name_taken(name: &str) -> StoreError {
    StoreError::Violation {
        violation: Violation::AgentNameTaken,
        text: format!("workspace agent name \"{name}\" already exists in this workspace build"),
    }
}
