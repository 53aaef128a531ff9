//! A seeded agent's own row.

use uuid::Uuid;

use super::super::agent::ensure_name_is_free;
use super::super::statement::statements;
use super::super::value::{Value, label, texts};
use super::Place;
use super::workspace::SeededWorkspace;
use crate::clock::Timestamp;
use crate::ids::{AgentId, AgentToken};
use crate::seed::Agent;
use crate::store::{Invalidation, StoreError};

macro_rules! insert_agent {
    ($display_apps:literal) => {
        concat!(
            "INSERT INTO workspace_agents (
                id, created_at, updated_at, name, resource_id, auth_token, architecture, operating_system, directory,
                motd_file, connection_timeout_seconds, troubleshooting_url, environment_variables, display_apps,
                display_order, api_key_scope
            ) VALUES ($1, $2, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, ",
            $display_apps,
            ", $14, $15)"
        )
    };
}

macro_rules! update_agent {
    ($display_apps:literal) => {
        concat!(
            "UPDATE workspace_agents SET
                updated_at = $2, auth_token = $3, architecture = $4, operating_system = $5, directory = $6,
                motd_file = $7, connection_timeout_seconds = $8, troubleshooting_url = $9,
                environment_variables = $10, display_apps = ",
            $display_apps,
            ", display_order = $12, api_key_scope = $13
            WHERE id = $1 AND (
                auth_token, architecture, operating_system, directory, motd_file, connection_timeout_seconds,
                troubleshooting_url, environment_variables, display_apps, display_order, api_key_scope
            ) IS DISTINCT FROM ($3, $4, $5, $6, $7, $8, $9, $10, ",
            $display_apps,
            ", $12, $13)"
        )
    };
}

statements! {
    AGENT_BY_NAME = "seed_agent_by_name":
        "SELECT a.id, a.auth_token, a.created_at
        FROM workspace_resources AS r JOIN workspace_agents AS a ON a.resource_id = r.id
        WHERE r.job_id = $1 AND a.name = $2 AND a.parent_id IS NULL AND NOT a.deleted";
    /// Another agent with a token. The same agent of an earlier build of the workspace is not another.
    TOKEN_TAKEN = "seed_token_taken":
        "SELECT 1 FROM workspace_agents AS a
        JOIN workspace_resources AS r ON r.id = a.resource_id
        JOIN workspace_builds AS b ON b.job_id = r.job_id
        JOIN workspaces AS w ON w.id = b.workspace_id
        WHERE a.auth_token = $1 AND a.id <> $2 AND NOT a.deleted AND NOT w.deleted
            AND NOT (b.workspace_id = $3 AND b.job_id <> $4 AND a.name = $5)";
    INSERT_AGENT = "seed_insert_agent": insert_agent!("$13"), postgres: insert_agent!("$13::display_app[]");
    UPDATE_AGENT = "seed_update_agent": update_agent!("$11"), postgres: update_agent!("$11::display_app[]");
}

/// An agent that is in the store now.
pub(super) struct WrittenAgent {
    pub(super) id: AgentId,
    pub(super) token: AgentToken,
    pub(super) created_at: Timestamp,
    /// Whether it was not there before.
    pub(super) is_new: bool,
}

impl Place<'_, '_> {
    /// Writes the agent at place `at` of the file, with all its lists.
    pub(super) async fn agent(
        &mut self,
        workspace: &SeededWorkspace,
        at: usize,
        entry: &Agent,
    ) -> Result<WrittenAgent, StoreError> {
        let environment = Value::Json(entry.environment_variables.as_ref().map(|variables| {
            let map: serde_json::Map<_, _> = variables
                .iter()
                .map(|(name, value)| (name.to_string(), value.to_string().into()))
                .collect();
            serde_json::Value::Object(map).to_string().into()
        }));
        let display_apps = texts(entry.display_apps.iter().map(|app| app.as_str()));
        let known = AGENT_BY_NAME.bind(workspace.job).bind(&*entry.name);
        let Some(row) = self.transaction.optional(known).await? else {
            let agent = WrittenAgent {
                id: AgentId::random(),
                token: entry.token.unwrap_or_else(AgentToken::random),
                // File order is the agents' order of age.
                created_at: nth(self.now, at),
                is_new: true,
            };
            self.check_token(workspace, at, entry, agent.id).await?;
            ensure_name_is_free(self.transaction, workspace.resource, &entry.name, agent.id).await?;
            let insert = INSERT_AGENT
                .bind(agent.id.0)
                .bind(agent.created_at)
                .bind(&*entry.name)
                .bind(workspace.resource.0)
                .bind(*agent.token.reveal())
                .bind(&*entry.architecture)
                .bind(&*entry.operating_system)
                .bind(&*entry.directory)
                .bind(&*entry.motd_file)
                .bind(entry.connection_timeout_seconds.0)
                .bind(&*entry.troubleshooting_url)
                .bind(environment)
                .bind(display_apps)
                .bind(entry.order)
                .bind(label(entry.api_key_scope.as_str()));
            self.transaction.execute(insert).await?;
            // Nobody can have a copy of what is new, so no event.
            self.lists(&agent, entry).await?;
            return Ok(agent);
        };
        let stored = AgentToken::new(row.get::<Uuid>("auth_token")?);
        let agent = WrittenAgent {
            id: row.id("id")?,
            token: entry.token.unwrap_or(stored),
            created_at: row.get("created_at")?,
            is_new: false,
        };
        self.check_token(workspace, at, entry, agent.id).await?;
        let update = UPDATE_AGENT
            .bind(agent.id.0)
            .bind(self.now)
            .bind(*agent.token.reveal())
            .bind(&*entry.architecture)
            .bind(&*entry.operating_system)
            .bind(&*entry.directory)
            .bind(&*entry.motd_file)
            .bind(entry.connection_timeout_seconds.0)
            .bind(&*entry.troubleshooting_url)
            .bind(environment)
            .bind(display_apps)
            .bind(entry.order)
            .bind(label(entry.api_key_scope.as_str()));
        let row_changed = self.transaction.execute(update).await?.rows > 0;
        let lists_changed = self.lists(&agent, entry).await?;
        if agent.token != stored {
            self.leave(Invalidation::Token { agent_id: agent.id }).await?;
        }
        if row_changed || lists_changed {
            self.leave(Invalidation::Agent { agent_id: agent.id }).await?;
        }
        Ok(agent)
    }

    async fn check_token(
        &mut self,
        workspace: &SeededWorkspace,
        at: usize,
        entry: &Agent,
        agent: AgentId,
    ) -> Result<(), StoreError> {
        let Some(token) = &entry.token else {
            return Ok(());
        };
        let taken = TOKEN_TAKEN
            .bind(*token.reveal())
            .bind(agent.0)
            .bind(workspace.id.0)
            .bind(workspace.job)
            .bind(&*entry.name);
        match self.transaction.optional(taken).await? {
            None => Ok(()),
            Some(_) => Err(self.conflict(
                &format!("agents[{at}].token"),
                "another agent holds this token (the value is a secret and not shown)",
            )),
        }
    }
}

/// The time of the entry at place `at` of a list: a microsecond apart, so that order by time is file order.
pub(super) fn nth(start: Timestamp, at: usize) -> Timestamp {
    let micros = u64::try_from(at).unwrap_or(u64::MAX);
    start.saturating_add(std::time::Duration::from_micros(micros))
}
