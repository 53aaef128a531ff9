//! CreateSubAgent, DeleteSubAgent, ListSubAgents: agents that run within an agent's machine, such as dev containers.
//!
//! Source: coder/coder `coderd/agentapi/subagent.go`. The agent and its apps are one transaction here; an app that is
//! refused still leaves the others and the agent.

use std::collections::HashSet;

use prost::Message as _;
use sha2::{Digest as _, Sha256};

use super::{AgentApi, agent_error, uuid};
use crate::ids::{AgentId, AgentToken, AppId};
use crate::mux::{Status, quote};
use crate::proto::agent as proto;
use crate::proto::agent::create_sub_agent_request::app::{OpenIn, SharingLevel};
use crate::proto::agent::create_sub_agent_request::{App, DisplayApp};
use crate::proto::agent::create_sub_agent_response::AppCreationError;
use crate::store::{
    Invalidation, NewApp, NewSubAgent, StoreError, SubAgent, SubAgentAdopted, SubAgentDeleted,
};

/// Apps of one request: each is a row written under the store's write lock. A dev container has a handful.
pub(crate) const MAX_APPS: usize = 1_000;

/// Display apps of one request, duplicates included; there are five kinds.
pub(crate) const MAX_DISPLAY_APPS: usize = 1_000;

/// What is wrong with a field of a request.
struct Invalid {
    field: String,
    detail: String,
}

impl Invalid {
    fn new(field: impl Into<String>, detail: impl Into<String>) -> Self {
        Self {
            field: field.into(),
            detail: detail.into(),
        }
    }
}

impl From<Invalid> for Status {
    fn from(Invalid { field, detail }: Invalid) -> Self {
        Self::message(format!("field: {field} detail: {detail}"))
    }
}

impl AgentApi {
    pub(super) async fn new_sub_agent(
        &self,
        request: proto::CreateSubAgentRequest,
    ) -> Result<proto::CreateSubAgentResponse, Status> {
        let display_apps = display_apps(&request.display_apps)?;
        match &request.id {
            Some(id) => self.adopt_sub_agent(id, &display_apps).await,
            None => self.insert_sub_agent(request, display_apps).await,
        }
    }

    /// An agent that the template created beforehand: only its display apps follow the request.
    async fn adopt_sub_agent(
        &self,
        id: &[u8],
        display_apps: &[&'static str],
    ) -> Result<proto::CreateSubAgentResponse, Status> {
        let (parts, parent) = (&self.services.parts, self.session.agent_id);
        let id = match uuid(id) {
            Ok(id) => id,
            Err(error) => {
                let invalid = Status::message(format!("parse agent id: {error}"));
                return Err(self.refused(invalid).await);
            }
        };
        let now = parts.clock.now();
        let updated = parts
            .patience
            .call(self.session.workspace_id, size_of_val(display_apps), || {
                parts
                    .store
                    .update_display_apps(AgentId(id), parent, display_apps, now)
            })
            .await;
        match updated {
            Ok(SubAgentAdopted::Done(agent)) => Ok(created(agent, Vec::new())),
            Ok(SubAgentAdopted::NoParent) => Err(parent_error(&agent_error(parent, &StoreError::NoRows))),
            Ok(SubAgentAdopted::NoAgent) => {
                let error = StoreError::NoRows;
                Err(Status::message(format!("get workspace agent by id: {error}")))
            }
            Ok(SubAgentAdopted::NotAChild) => {
                Err(Status::message("subagent does not belong to this parent agent"))
            }
            Err(error) => Err(Status::message(format!(
                "update workspace agent display apps: {error}"
            ))),
        }
    }

    async fn insert_sub_agent(
        &self,
        request: proto::CreateSubAgentRequest,
        display_apps: Vec<&'static str>,
    ) -> Result<proto::CreateSubAgentResponse, Status> {
        let (parts, parent) = (&self.services.parts, self.session.agent_id);
        if let Err(invalid) = check_agent(&request) {
            return Err(self.refused(invalid.into()).await);
        }
        let size = request.encoded_len();
        let (apps, mut errors) = apps(&request.name, request.apps);
        let agent = NewSubAgent {
            id: AgentId::random(),
            parent_id: parent,
            auth_token: AgentToken::random(),
            created_at: parts.clock.now(),
            name: request.name,
            directory: request.directory,
            architecture: request.architecture,
            operating_system: request.operating_system,
            display_apps,
            apps,
        };
        let refused = parts
            .patience
            .call(self.session.workspace_id, size, || {
                parts.store.create_sub_agent(&agent)
            })
            .await
            .map_err(|error| match error {
                StoreError::NoRows => parent_error(&agent_error(parent, &error)),
                error => Status::message(format!("insert sub agent: {error}")),
            })?;
        errors.extend(refused.into_iter().map(|(index, error)| AppCreationError {
            index: position(index),
            field: None,
            error: format!("insert workspace app: {error}"),
        }));
        errors.sort_by_key(|error| error.index);
        let agent = SubAgent {
            id: agent.id,
            name: agent.name,
            auth_token: agent.auth_token,
        };
        Ok(created(agent, errors))
    }

    /// What is answered to a bad request. The parent is read before a request is looked at, so that its absence comes
    /// first; here only a request that is refused has to know.
    async fn refused(&self, invalid: Status) -> Status {
        match self.agent().await {
            Ok(_) => invalid,
            Err(error) => parent_error(&error),
        }
    }

    pub(super) async fn remove_sub_agent(
        &self,
        request: proto::DeleteSubAgentRequest,
    ) -> Result<proto::DeleteSubAgentResponse, Status> {
        let (parts, caller) = (&self.services.parts, self.session.agent_id);
        let agent = AgentId(uuid(&request.id).map_err(Status::message)?);
        let now = parts.clock.now();
        let deleted = parts
            .patience
            .call(self.session.workspace_id, 0, || {
                parts.store.delete_sub_agent(agent, caller, now)
            })
            .await
            .map_err(|error| Status::message(error.to_string()))?;
        match deleted {
            SubAgentDeleted::Done => {
                // Other processes learn it from the store, with the commit itself: nobody would tell them again if this one
                // ended before it could. Such a deletion is rare, so that no other commit waits for its notification.
                let event = Invalidation::Agent { agent_id: agent };
                parts.pubsub.deliver(Invalidation::CHANNEL, &event.payload());
                Ok(proto::DeleteSubAgentResponse {})
            }
            SubAgentDeleted::Forbidden => Err(Status::message("unauthorized: rbac: forbidden")),
        }
    }

    pub(super) async fn sub_agents(&self) -> Result<proto::ListSubAgentsResponse, Status> {
        let (parts, parent) = (&self.services.parts, self.session.agent_id);
        let agents = parts
            .patience
            .call(self.session.workspace_id, 0, || parts.store.sub_agents(parent))
            .await
            .map_err(|error| match error {
                StoreError::NoRows => parent_error(&agent_error(parent, &error)),
                error => Status::message(error.to_string()),
            })?;
        Ok(proto::ListSubAgentsResponse {
            agents: agents.into_iter().map(sub_agent).collect(),
        })
    }
}

fn parent_error(error: &Status) -> Status {
    Status::message(format!("get parent agent: {}", error.text()))
}

fn created(agent: SubAgent, errors: Vec<AppCreationError>) -> proto::CreateSubAgentResponse {
    proto::CreateSubAgentResponse {
        agent: Some(sub_agent(agent)),
        app_creation_errors: errors,
    }
}

fn sub_agent(agent: SubAgent) -> proto::SubAgent {
    proto::SubAgent {
        name: agent.name,
        id: agent.id.as_bytes().to_vec(),
        auth_token: agent.auth_token.reveal().as_bytes().to_vec(),
    }
}

fn position(index: usize) -> i32 {
    // A message has at most 4 MiB.
    i32::try_from(index).unwrap_or(i32::MAX)
}

fn display_apps(numbers: &[i32]) -> Result<Vec<&'static str>, Invalid> {
    if numbers.len() > MAX_DISPLAY_APPS {
        let detail = format!("{} display apps exceed {MAX_DISPLAY_APPS}", numbers.len());
        return Err(Invalid::new("display_apps", detail));
    }
    let label = |(index, &number): (usize, &i32)| match DisplayApp::try_from(number) {
        Ok(DisplayApp::Vscode) => Ok("vscode"),
        Ok(DisplayApp::VscodeInsiders) => Ok("vscode_insiders"),
        Ok(DisplayApp::WebTerminal) => Ok("web_terminal"),
        Ok(DisplayApp::SshHelper) => Ok("ssh_helper"),
        Ok(DisplayApp::PortForwardingHelper) => Ok("port_forwarding_helper"),
        Err(_) => Err(Invalid::new(
            format!("display_apps[{index}]"),
            format!("\"{number}\" is not a valid display app"),
        )),
    };
    numbers.iter().enumerate().map(label).collect()
}

fn check_agent(request: &proto::CreateSubAgentRequest) -> Result<(), Invalid> {
    let name = &request.name;
    if name.is_empty() {
        return Err(Invalid::new("name", "agent name cannot be empty"));
    }
    // Without regard to case, which for Go makes the long s and the Kelvin sign letters too.
    let letter = |c: char| c.is_ascii_alphanumeric() || matches!(c, '\u{17f}' | '\u{212a}');
    if !is_slug(name, letter) {
        return Err(Invalid::new(
            "name",
            format!(
                "agent name {} does not match regex \"(?i)^[a-z0-9](-?[a-z0-9])*$\"",
                quote(name)
            ),
        ));
    }
    for (field, text) in [
        ("directory", &request.directory),
        ("architecture", &request.architecture),
        ("operating_system", &request.operating_system),
    ] {
        if text.contains('\0') {
            return Err(Invalid::new(field, "must not contain NUL"));
        }
    }
    if request.apps.len() > MAX_APPS {
        let detail = format!("{} apps exceed {MAX_APPS}", request.apps.len());
        return Err(Invalid::new("apps", detail));
    }
    Ok(())
}

/// Letters with single hyphens between them.
fn is_slug(text: &str, letter: impl Fn(char) -> bool) -> bool {
    text.split('-')
        .all(|part| !part.is_empty() && part.chars().all(&letter))
}

/// The apps that are good as far as one can tell without the store, and what is wrong with the others.
fn apps(agent: &str, apps: Vec<App>) -> (Vec<NewApp>, Vec<AppCreationError>) {
    let mut seen = HashSet::new();
    let (mut good, mut errors) = (Vec::new(), Vec::new());
    for (index, app) in apps.into_iter().enumerate() {
        match new_app(agent, index, app, &mut seen) {
            Ok(app) => good.push(app),
            Err(Invalid { field, detail }) => errors.push(AppCreationError {
                index: position(index),
                field: Some(field),
                error: detail,
            }),
        }
    }
    (good, errors)
}

fn new_app(agent: &str, index: usize, app: App, seen: &mut HashSet<String>) -> Result<NewApp, Invalid> {
    let slug = app.slug.as_str();
    if slug.is_empty() {
        return Err(Invalid::new("slug", "must not be empty"));
    }
    if !is_slug(slug, |c| c.is_ascii_lowercase() || c.is_ascii_digit()) {
        let detail = format!("{} does not match regex \"^[a-z0-9](-?[a-z0-9])*$\"", quote(slug));
        return Err(Invalid::new("slug", detail));
    }
    // Kept for the ones after it, whatever is wrong with the rest of this one.
    if !seen.insert(slug.to_owned()) {
        return Err(Invalid::new("slug", format!("{} is already in use", quote(slug))));
    }
    let share = app.share.unwrap_or_default();
    let sharing_level = match SharingLevel::try_from(share) {
        Ok(SharingLevel::Owner) => "owner",
        Ok(SharingLevel::Authenticated) => "authenticated",
        Ok(SharingLevel::Public) => "public",
        Ok(SharingLevel::Organization) => "organization",
        Err(_) => {
            let detail = format!("\"{share}\" is not a valid app sharing level");
            return Err(Invalid::new("share", detail));
        }
    };
    let open = app.open_in.unwrap_or_default();
    let open_in = match OpenIn::try_from(open) {
        Ok(OpenIn::SlimWindow) => "slim-window",
        Ok(OpenIn::Tab) => "tab",
        Err(_) => {
            let detail = format!("\"{open}\" is not an open in setting");
            return Err(Invalid::new("open_in", detail));
        }
    };
    let healthcheck = app.healthcheck.unwrap_or_default();
    for (field, text) in [
        ("command", app.command.as_deref()),
        ("display_name", app.display_name.as_deref()),
        ("group", app.group.as_deref()),
        ("healthcheck", Some(healthcheck.url.as_str())),
        ("icon", app.icon.as_deref()),
        ("url", app.url.as_deref()),
    ] {
        if text.is_some_and(|text| text.contains('\0')) {
            return Err(Invalid::new(field, "must not contain NUL"));
        }
    }
    let given = |text: Option<String>| text.filter(|text| !text.is_empty());
    Ok(NewApp {
        index,
        id: AppId::random(),
        slug: format!("{}-{slug}", slug_hash(agent, slug)),
        display_name: app.display_name.unwrap_or_default(),
        icon: app.icon.unwrap_or_default(),
        command: given(app.command),
        url: given(app.url),
        healthcheck_url: healthcheck.url,
        healthcheck_interval: healthcheck.interval,
        healthcheck_threshold: healthcheck.threshold,
        subdomain: app.subdomain.unwrap_or_default(),
        sharing_level,
        external: app.external.unwrap_or_default(),
        hidden: app.hidden.unwrap_or_default(),
        display_order: app.order.unwrap_or_default(),
        open_in,
        display_group: given(app.group),
    })
}

/// Eight digits that keep slugs of different agents apart: the first 40 bits of a SHA-256 in base32hex.
fn slug_hash(agent: &str, slug: &str) -> String {
    let digest = Sha256::digest(format!("{agent}/{slug}"));
    let bits = digest[..5]
        .iter()
        .fold(0_u64, |bits, &byte| bits << 8 | u64::from(byte));
    let digit = |place: u32| char::from_digit(((bits >> (35 - 5 * place)) & 31) as u32, 32);
    // Five bits are always a digit of base 32.
    (0..8).filter_map(digit).collect()
}
