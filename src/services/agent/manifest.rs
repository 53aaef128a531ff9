//! GetManifest: everything that an agent needs to begin.
//!
//! Source: coder/coder `coderd/agentapi/manifest.go`.

use std::collections::HashMap;

use super::session::AgentRow;
use super::{AgentApi, AgentConfig};
use crate::mux::{Status, quote};
use crate::proto::agent as proto;
use crate::proto::agent::workspace_app::{Health, Healthcheck, SharingLevel};
use crate::store::{App, Devcontainer, MetadataDescription, Script, Workspace};

impl AgentApi {
    pub(super) async fn manifest(&self) -> Result<proto::Manifest, Status> {
        let fetching = |cause: String| Status::message(format!("fetching workspace agent data: {cause}"));
        let (config, parts) = (&self.services.config, &self.services.parts);
        let agent = self.agent().await?;
        let workspace = self
            .workspace()
            .await
            .map_err(|error| fetching(format!("getting workspace by id: {error}")))?;
        let rows = parts
            .patience
            .call(self.session.workspace_id, 0, || {
                parts.store.manifest_parts(self.session.agent_id)
            })
            .await;
        let rows = rows.map_err(|error| fetching(error.to_string()))?;

        let names = Names {
            agent: &agent.name,
            workspace: &workspace.name,
            owner: &workspace.owner_username,
        };
        let apps = rows
            .apps
            .into_iter()
            .enumerate()
            .map(|(index, row)| app(index, row, config, &names));
        Ok(proto::Manifest {
            agent_id: self.session.agent_id.as_bytes().to_vec(),
            agent_name: agent.name.to_string(),
            owner_username: workspace.owner_username.clone(),
            workspace_id: workspace.id.as_bytes().to_vec(),
            workspace_name: workspace.name.clone(),
            git_auth_configs: config.git_auth_configs,
            environment_variables: environment(&agent)?,
            directory: agent.directory.to_string(),
            vs_code_port_proxy_uri: port_proxy_uri(config, &agent, &workspace),
            motd_path: agent.motd_file.to_string(),
            disable_direct_connections: config.disable_direct_connections,
            derp_force_websockets: config.derp_force_websockets,
            parent_id: agent.parent_id.map(|id| id.as_bytes().to_vec()),
            derp_map: Some((*parts.derp_maps.current()).clone()),
            apps: apps
                .collect::<Result<_, _>>()
                .map_err(|cause| Status::message(format!("converting workspace apps: {cause}")))?,
            scripts: rows.scripts.into_iter().map(script).collect(),
            metadata: rows.metadata.into_iter().map(metadata).collect(),
            devcontainers: rows.devcontainers.into_iter().map(devcontainer).collect(),
        })
    }
}

/// The names that stand in an app's host name.
struct Names<'a> {
    agent: &'a str,
    workspace: &'a str,
    owner: &'a str,
}

fn environment(agent: &AgentRow) -> Result<HashMap<String, String>, Status> {
    let Some(text) = &agent.environment_variables else {
        return Ok(HashMap::new());
    };
    // null is an empty map for Go.
    let parsed: Option<HashMap<String, String>> = serde_json::from_str(text)
        .map_err(|error| Status::message(format!("unmarshal environment variables: {error}")))?;
    Ok(parsed.unwrap_or_default())
}

/// Where VS Code reaches a port of the workspace; the editor fills in `{{port}}`.
fn port_proxy_uri(config: &AgentConfig, agent: &AgentRow, workspace: &Workspace) -> String {
    if config.app_hostname.is_empty() {
        return String::new();
    }
    let app = format!(
        "{{{{port}}}}--{}--{}--{}",
        agent.name, workspace.name, workspace.owner_username
    );
    let host = config.app_hostname.replace('*', &app);
    let port = match config.access_url.port() {
        Some(port) if !config.app_hostname.contains(':') => format!(":{port}"),
        _ => String::new(),
    };
    format!("{}://{host}{port}", config.access_url.scheme())
}

/// Converts an app. Agents refuse a whole manifest with an unspecified health or sharing level, so either is an error.
fn app(
    index: usize,
    row: App,
    config: &AgentConfig,
    names: &Names<'_>,
) -> Result<proto::WorkspaceApp, String> {
    let (sharing_level, health) = labels(index, &row)?;
    Ok(proto::WorkspaceApp {
        subdomain_name: subdomain_name(&row, config, names),
        id: row.id.as_bytes().to_vec(),
        url: row.url.unwrap_or_default(),
        external: row.external,
        slug: row.slug,
        display_name: row.display_name,
        command: row.command.unwrap_or_default(),
        icon: row.icon,
        subdomain: row.subdomain,
        sharing_level: sharing_level.into(),
        healthcheck: Some(Healthcheck {
            url: row.healthcheck_url,
            interval: Some(seconds(row.healthcheck_interval)),
            threshold: row.healthcheck_threshold,
        }),
        health: health.into(),
        hidden: row.hidden,
    })
}

fn labels(index: usize, row: &App) -> Result<(SharingLevel, Health), String> {
    let sharing_level = match row.sharing_level.as_str() {
        "owner" => SharingLevel::Owner,
        "authenticated" => SharingLevel::Authenticated,
        "organization" => SharingLevel::Organization,
        "public" => SharingLevel::Public,
        level => return Err(bad_app(index, &row.slug, "sharing level", level)),
    };
    let health = match row.health.as_str() {
        "disabled" => Health::Disabled,
        "initializing" => Health::Initializing,
        "healthy" => Health::Healthy,
        "unhealthy" => Health::Unhealthy,
        // The original shows the sharing level here too.
        _ => return Err(bad_app(index, &row.slug, "health", &row.sharing_level)),
    };
    Ok((sharing_level, health))
}

fn bad_app(index: usize, slug: &str, what: &str, value: &str) -> String {
    format!(
        "parse app {index} ({}): unknown app {what}: {}",
        quote(slug),
        quote(value)
    )
}

/// First label of the host name at which a subdomain app is reached.
fn subdomain_name(app: &App, config: &AgentConfig, names: &Names<'_>) -> String {
    let Names {
        agent,
        workspace,
        owner,
    } = names;
    let missing = [&app.slug[..], agent, workspace, owner]
        .iter()
        .any(|name| name.is_empty());
    if config.app_hostname.is_empty() || !app.subdomain || missing {
        return String::new();
    }
    if is_port(&app.slug) {
        format!("{}--{agent}--{workspace}--{owner}", app.slug)
    } else {
        format!("{}--{workspace}--{owner}", app.slug)
    }
}

/// Four or five digits, and an `s` for TLS.
fn is_port(slug: &str) -> bool {
    let digits = slug.strip_suffix('s').unwrap_or(slug);
    (4..=5).contains(&digits.len()) && digits.bytes().all(|byte| byte.is_ascii_digit())
}

fn seconds(seconds: i32) -> prost_types::Duration {
    prost_types::Duration {
        seconds: seconds.into(),
        nanos: 0,
    }
}

/// The display name is not filled in, as in the original.
fn script(row: Script) -> proto::WorkspaceAgentScript {
    proto::WorkspaceAgentScript {
        log_source_id: row.log_source_id.as_bytes().to_vec(),
        log_path: row.log_path,
        script: row.script,
        cron: row.cron,
        run_on_start: row.run_on_start,
        run_on_stop: row.run_on_stop,
        start_blocks_login: row.start_blocks_login,
        timeout: Some(seconds(row.timeout_seconds)),
        display_name: String::new(),
        id: row.id.as_bytes().to_vec(),
    }
}

fn metadata(row: MetadataDescription) -> proto::workspace_agent_metadata::Description {
    proto::workspace_agent_metadata::Description {
        display_name: row.display_name,
        key: row.key,
        script: row.script,
        interval: Some(raw_nanos(row.interval)),
        timeout: Some(raw_nanos(row.timeout)),
    }
}

/// The column's number as nanoseconds. Agents read the nanoseconds of the duration as seconds, so a number that was scaled
/// "correctly" would make them wait for years.
fn raw_nanos(number: i64) -> prost_types::Duration {
    const NANOS_PER_SECOND: i64 = 1_000_000_000;
    prost_types::Duration {
        seconds: number / NANOS_PER_SECOND,
        // Below one second's worth, so it always fits.
        nanos: i32::try_from(number % NANOS_PER_SECOND).unwrap_or_default(),
    }
}

fn devcontainer(row: Devcontainer) -> proto::WorkspaceAgentDevcontainer {
    proto::WorkspaceAgentDevcontainer {
        id: row.id.as_bytes().to_vec(),
        workspace_folder: row.workspace_folder,
        config_path: row.config_path,
        name: row.name,
        subagent_id: row.subagent_id.map(|id| id.as_bytes().to_vec()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::AppId;

    #[test]
    fn s1_013_an_unknown_label_is_named_with_the_place_and_slug_of_its_app() {
        let row = |health: &str, sharing_level: &str| App {
            id: AppId::random(),
            slug: "code".into(),
            display_name: String::new(),
            icon: String::new(),
            command: None,
            url: None,
            healthcheck_url: String::new(),
            healthcheck_interval: 0,
            healthcheck_threshold: 0,
            health: health.into(),
            subdomain: false,
            sharing_level: sharing_level.into(),
            external: false,
            hidden: false,
        };
        assert_eq!(
            labels(2, &row("healthy", "public")),
            Ok((SharingLevel::Public, Health::Healthy))
        );
        assert_eq!(
            labels(2, &row("healthy", "everybody")).unwrap_err(),
            r#"parse app 2 ("code"): unknown app sharing level: "everybody""#
        );
        assert_eq!(
            labels(0, &row("well", "owner")).unwrap_err(),
            r#"parse app 0 ("code"): unknown app health: "owner""#
        );
    }
}
