//! Seed files: owners, workspaces and agents that `drpcd seed` puts into a store.
//!
//! Owns the file format and every error that a file can have; what a store does with it is the store's. A file holds one
//! or more YAML documents, one workspace each. Every error names the file, the key and the value, except for secrets.

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use uuid::Uuid;

use crate::duration::parse_go_duration;
use crate::ids::AgentToken;

/// Bytes of the largest seed file. Far above any real one; a wrong path must not fill the memory.
const MAX_FILE_SIZE: u64 = 16 * 1024 * 1024;

/// Characters of names in the store.
const MAX_NAME: usize = 64;

/// A seed file that was read and found good.
#[derive(Clone, Debug)]
pub struct Seed {
    /// Its documents, in file order; at least one.
    pub documents: Vec<Document>,
}

/// One document: a workspace with its owner and agents.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Document {
    /// Who owns it.
    pub owner: Owner,
    /// The workspace.
    pub workspace: Workspace,
    /// Site-wide banners; left as they are when the key is absent.
    pub banners: Option<Vec<Banner>>,
    /// Its agents, at least one.
    pub agents: Vec<Agent>,
}

/// The owner of a workspace.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Owner {
    /// Unique name; `prebuilds` is the system user that owns unclaimed prebuilds.
    pub username: String,
    /// Name for people.
    #[serde(default)]
    pub name: String,
    /// Unique address; derived from the user name when absent.
    pub email: Option<String>,
    /// Links to external providers; left as they are when the key is absent.
    pub external_auth_links: Option<Vec<ExternalAuthLink>>,
}

/// Tokens of one owner at one provider.
#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExternalAuthLink {
    /// Which provider.
    pub provider_id: String,
    /// A secret.
    pub oauth_access_token: String,
    /// A secret.
    #[serde(default)]
    pub oauth_refresh_token: String,
    /// When the access token ends, RFC 3339; never when absent.
    pub oauth_expiry: Option<jiff::Timestamp>,
}

impl fmt::Debug for ExternalAuthLink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ExternalAuthLink")
            .field("provider_id", &self.provider_id)
            .finish_non_exhaustive()
    }
}

/// A workspace.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Workspace {
    /// Unique among its owner's.
    pub name: String,
    /// Name of its template, which is made when there is none.
    pub template: String,
    /// Cron text.
    pub autostart_schedule: Option<String>,
    /// How long after its start it stops by itself; never when absent.
    #[serde(default, deserialize_with = "optional_duration")]
    pub ttl: Option<Duration>,
}

/// A site-wide banner, as it lies in `site_configs`.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Banner {
    /// Whether it is shown.
    #[serde(default = "yes")]
    pub enabled: bool,
    /// Its text.
    pub message: String,
    /// `#rrggbb`.
    #[serde(default)]
    pub background_color: String,
}

/// An agent.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Agent {
    /// Unique within the workspace.
    pub name: String,
    /// Its token; generated once when absent or null.
    #[serde(default, deserialize_with = "optional_token")]
    pub token: Option<AgentToken>,
    /// Such as `amd64`.
    #[serde(default = "default_architecture")]
    pub architecture: String,
    /// Such as `linux`.
    #[serde(default = "default_operating_system")]
    pub operating_system: String,
    /// Working directory; `~` and variables are expanded by the agent.
    #[serde(default)]
    pub directory: String,
    /// Path of the message of the day.
    #[serde(default)]
    pub motd_file: String,
    /// Seconds after which it counts as timed out when it never connected; 0 is never.
    #[serde(default)]
    pub connection_timeout_seconds: u16,
    /// Where to find help.
    #[serde(default)]
    pub troubleshooting_url: String,
    /// Set in every process that it starts.
    #[serde(default)]
    pub environment_variables: BTreeMap<String, String>,
    /// Built-in apps that are shown; all when absent.
    pub display_apps: Option<Vec<DisplayApp>>,
    /// Place among the agents.
    #[serde(default)]
    pub order: i32,
    /// What its token may do.
    #[serde(default)]
    pub api_key_scope: KeyScope,
    /// Apps.
    #[serde(default)]
    pub apps: Vec<App>,
    /// Scripts, run in file order.
    #[serde(default)]
    pub scripts: Vec<Script>,
    /// Metadata items.
    #[serde(default)]
    pub metadata: Vec<Metadata>,
    /// Memory and volume monitors.
    #[serde(default)]
    pub resources_monitoring: ResourcesMonitoring,
    /// Dev containers.
    #[serde(default)]
    pub devcontainers: Vec<Devcontainer>,
}

/// An app of an agent.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct App {
    /// Unique within the agent.
    pub slug: String,
    /// Name for people; the slug when absent.
    pub display_name: Option<String>,
    /// Command, for terminal apps.
    pub command: Option<String>,
    /// URL, for web apps.
    pub url: Option<String>,
    /// Icon path or URL.
    #[serde(default)]
    pub icon: String,
    /// Served on a subdomain.
    #[serde(default)]
    pub subdomain: bool,
    /// Who may open it.
    #[serde(default)]
    pub sharing_level: SharingLevel,
    /// How its health is checked; not at all when absent.
    pub healthcheck: Option<Healthcheck>,
    /// Opens outside.
    #[serde(default)]
    pub external: bool,
    /// Not shown.
    #[serde(default)]
    pub hidden: bool,
    /// Place among the apps.
    #[serde(default)]
    pub order: i32,
    /// How it opens.
    #[serde(default)]
    pub open_in: OpenIn,
    /// Group that it is shown in.
    pub group: Option<String>,
    /// Shown with it.
    #[serde(default)]
    pub tooltip: String,
}

/// A health check.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Healthcheck {
    /// Asked; any 2xx answer is healthy.
    pub url: String,
    /// Seconds between checks.
    pub interval_seconds: u16,
    /// Failures before it counts as unhealthy.
    pub threshold: u16,
}

/// A script of an agent.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Script {
    /// Unique within the agent.
    pub display_name: String,
    /// Its text.
    pub script: String,
    /// Runs when the agent starts.
    #[serde(default)]
    pub run_on_start: bool,
    /// Runs when the agent stops.
    #[serde(default)]
    pub run_on_stop: bool,
    /// Nobody may log in before it ended.
    #[serde(default)]
    pub start_blocks_login: bool,
    /// Seconds it may run; 0 is unlimited.
    #[serde(default)]
    pub timeout_seconds: u16,
    /// When to run it; empty for never on a schedule.
    #[serde(default)]
    pub cron: String,
    /// Where the agent logs it.
    #[serde(default)]
    pub log_path: String,
    /// Icon of its log lines.
    #[serde(default)]
    pub icon: String,
}

/// A metadata item of an agent.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Metadata {
    /// Unique within the agent, at most 127 characters.
    pub key: String,
    /// Name for people; the key when absent.
    pub display_name: Option<String>,
    /// Prints the value.
    pub script: String,
    /// Seconds between runs; 0 is once.
    pub interval_seconds: u32,
    /// Seconds that one run may take.
    pub timeout_seconds: u32,
    /// Place among the items.
    #[serde(default)]
    pub order: i32,
}

/// Resource monitors of an agent.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ResourcesMonitoring {
    /// The memory monitor.
    pub memory: Option<MemoryMonitor>,
    /// Volume monitors.
    #[serde(default)]
    pub volumes: Vec<VolumeMonitor>,
}

/// A memory monitor.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MemoryMonitor {
    /// Whether it may alert.
    pub enabled: bool,
    /// Percent, 0 to 100.
    pub threshold: u8,
}

/// A volume monitor.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VolumeMonitor {
    /// Mount point, unique within the agent.
    pub path: String,
    /// Whether it may alert.
    pub enabled: bool,
    /// Percent, 0 to 100.
    pub threshold: u8,
}

/// A dev container of an agent.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Devcontainer {
    /// Unique within the agent.
    pub name: String,
    /// Folder on the host.
    pub workspace_folder: String,
    /// Path of its configuration.
    #[serde(default)]
    pub config_path: String,
}

macro_rules! choices {
    ($($(#[$doc:meta])* $name:ident $(= $default:ident)? { $($variant:ident = $label:literal),* $(,)? })*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
        pub enum $name { $(#[doc = concat!("`", $label, "`")] #[serde(rename = $label)] $variant),* }

        impl $name {
            /// The database's label.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $label),* }
            }
        }

        $(impl Default for $name {
            fn default() -> Self {
                Self::$default
            }
        })?
    )*};
}

choices! {
    /// A built-in app.
    DisplayApp {
        Vscode = "vscode", VscodeInsiders = "vscode_insiders", WebTerminal = "web_terminal", SshHelper = "ssh_helper",
        PortForwardingHelper = "port_forwarding_helper",
    }
    /// Who may open an app.
    SharingLevel = Owner {
        Owner = "owner", Authenticated = "authenticated", Organization = "organization", Public = "public",
    }
    /// How an app opens.
    OpenIn = SlimWindow { Tab = "tab", Window = "window", SlimWindow = "slim-window" }
    /// What an agent's token may do.
    KeyScope = All { All = "all", NoUserData = "no_user_data" }
}

fn yes() -> bool {
    true
}

fn default_architecture() -> String {
    "amd64".to_owned()
}

fn default_operating_system() -> String {
    "linux".to_owned()
}

fn optional_duration<'de, D: serde::Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Duration>, D::Error> {
    let Some(text) = Option::<String>::deserialize(deserializer)? else {
        return Ok(None);
    };
    parse_go_duration(&text)
        .map(Some)
        .map_err(serde::de::Error::custom)
}

/// The value is a secret, so no error repeats it.
fn optional_token<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<AgentToken>, D::Error> {
    let not_a_uuid = || serde::de::Error::custom("must be a UUID or null");
    match Value::deserialize(deserializer)? {
        Value::Null => Ok(None),
        Value::String(text) => Uuid::parse_str(&text)
            .map(AgentToken::new)
            .map(Some)
            .map_err(|_| not_a_uuid()),
        _ => Err(not_a_uuid()),
    }
}

/// Why a seed file cannot be used. Nothing was changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SeedError {
    /// The file could not be read.
    #[error("{file}: {source}")]
    Read {
        /// Its name.
        file: String,
        /// Why.
        source: std::io::Error,
    },
    /// The file is not YAML, or too large.
    #[error("{file}: {reason}")]
    Syntax {
        /// Its name.
        file: String,
        /// Where and why.
        reason: String,
    },
    /// A key is unknown, missing, or has a value that it cannot have.
    #[error("{file}: {key}: {reason}{value}")]
    Key {
        /// Its name.
        file: String,
        /// Path of the key, such as `agents[0].apps[1].slug`.
        key: String,
        /// Why.
        reason: String,
        /// The value, in brackets, where it may be shown.
        value: String,
    },
}

impl Seed {
    /// Reads the file at `path`.
    pub fn read(path: &Path) -> Result<Self, SeedError> {
        let file = path.display().to_string();
        let failed = |source| SeedError::Read {
            file: file.clone(),
            source,
        };
        if std::fs::metadata(path).map_err(failed)?.len() > MAX_FILE_SIZE {
            let reason = format!("a seed file has at most {MAX_FILE_SIZE} bytes");
            return Err(SeedError::Syntax { file, reason });
        }
        let text = std::fs::read_to_string(path).map_err(failed)?;
        Self::parse(&file, &text)
    }

    /// Reads the text of a file that is called `file` in errors.
    pub fn parse(file: &str, text: &str) -> Result<Self, SeedError> {
        let syntax = |reason: String| SeedError::Syntax {
            file: file.to_owned(),
            reason,
        };
        let values: Vec<Value> =
            serde_saphyr::from_multiple(text).map_err(|error| syntax(error.to_string()))?;
        if values.is_empty() {
            return Err(syntax("holds no document".to_owned()));
        }
        let mut documents = Vec::with_capacity(values.len());
        for (index, value) in values.iter().enumerate() {
            let prefix = if values.len() == 1 {
                String::new()
            } else {
                format!("document {}: ", index + 1)
            };
            let document: Document = serde_path_to_error::deserialize(value).map_err(|error| {
                let key = error.path().to_string();
                key_error(file, &prefix, value, &key, &error.inner().to_string())
            })?;
            check(&document).map_err(|(key, reason)| key_error(file, &prefix, value, &key, &reason))?;
            documents.push(document);
        }
        Ok(Self { documents })
    }
}

fn key_error(file: &str, prefix: &str, document: &Value, key: &str, reason: &str) -> SeedError {
    let value = if is_secret(key) {
        None
    } else {
        lookup(document, key)
    };
    let shown =
        value.filter(|value| !value.is_object() && !value.is_array() && !reason.contains(&value.to_string()));
    SeedError::Key {
        file: file.to_owned(),
        key: format!("{prefix}{key}"),
        reason: reason.to_owned(),
        value: shown.map(|value| format!(" (found {value})")).unwrap_or_default(),
    }
}

fn is_secret(key: &str) -> bool {
    key.ends_with("token") || key.contains("external_auth_links")
}

/// The value at a path such as `agents[0].name`.
fn lookup<'a>(document: &'a Value, key: &str) -> Option<&'a Value> {
    let mut value = document;
    for part in key.split(['.', '[']) {
        value = match part.strip_suffix(']') {
            Some(index) => value.get(index.parse::<usize>().ok()?)?,
            None => value.get(part)?,
        };
    }
    Some(value)
}

/// A key and what is wrong with it.
type Wrong = (String, String);

/// What the types do not say.
fn check(document: &Document) -> Result<(), Wrong> {
    check_name("owner.username", &document.owner.username)?;
    check_name("workspace.name", &document.workspace.name)?;
    check_name("workspace.template", &document.workspace.template)?;
    if document.agents.is_empty() {
        return Err(("agents".to_owned(), "must hold at least one agent".to_owned()));
    }
    unique(
        "agents",
        "name",
        document.agents.iter().map(|agent| agent.name.as_str()),
    )?;
    for (index, agent) in document.agents.iter().enumerate() {
        check_agent(&format!("agents[{index}]"), agent)?;
    }
    Ok(())
}

fn check_agent(at: &str, agent: &Agent) -> Result<(), Wrong> {
    check_name(&format!("{at}.name"), &agent.name)?;
    check_length(&format!("{at}.architecture"), &agent.architecture, MAX_NAME)?;
    check_length(
        &format!("{at}.operating_system"),
        &agent.operating_system,
        MAX_NAME,
    )?;
    check_length(&format!("{at}.directory"), &agent.directory, 4_096)?;
    for (name, value) in &agent.environment_variables {
        check_length(&format!("{at}.environment_variables.{name}"), value, usize::MAX)?;
    }
    unique(
        &format!("{at}.apps"),
        "slug",
        agent.apps.iter().map(|app| app.slug.as_str()),
    )?;
    for (index, app) in agent.apps.iter().enumerate() {
        let at = format!("{at}.apps[{index}]");
        check_slug(&format!("{at}.slug"), &app.slug)?;
        check_length(
            &format!("{at}.display_name"),
            app.display_name.as_deref().unwrap_or(""),
            MAX_NAME,
        )?;
        check_length(&format!("{at}.icon"), &app.icon, 256)?;
        check_length(
            &format!("{at}.command"),
            app.command.as_deref().unwrap_or(""),
            65_534,
        )?;
        check_length(&format!("{at}.url"), app.url.as_deref().unwrap_or(""), 65_534)?;
        check_length(&format!("{at}.tooltip"), &app.tooltip, 2_048)?;
    }
    unique(
        &format!("{at}.scripts"),
        "display_name",
        agent.scripts.iter().map(|script| script.display_name.as_str()),
    )?;
    for (index, script) in agent.scripts.iter().enumerate() {
        let at = format!("{at}.scripts[{index}]");
        check_length(&format!("{at}.display_name"), &script.display_name, 127)?;
        check_length(&format!("{at}.script"), &script.script, usize::MAX)?;
    }
    unique(
        &format!("{at}.metadata"),
        "key",
        agent.metadata.iter().map(|item| item.key.as_str()),
    )?;
    for (index, item) in agent.metadata.iter().enumerate() {
        let at = format!("{at}.metadata[{index}]");
        check_length(&format!("{at}.key"), &item.key, 127)?;
        check_length(
            &format!("{at}.display_name"),
            item.display_name.as_deref().unwrap_or(""),
            127,
        )?;
        check_length(&format!("{at}.script"), &item.script, 65_535)?;
    }
    let monitoring = &agent.resources_monitoring;
    if let Some(memory) = &monitoring.memory {
        check_percent(
            &format!("{at}.resources_monitoring.memory.threshold"),
            memory.threshold,
        )?;
    }
    let volumes = format!("{at}.resources_monitoring.volumes");
    unique(
        &volumes,
        "path",
        monitoring.volumes.iter().map(|volume| volume.path.as_str()),
    )?;
    for (index, volume) in monitoring.volumes.iter().enumerate() {
        check_percent(&format!("{volumes}[{index}].threshold"), volume.threshold)?;
    }
    unique(
        &format!("{at}.devcontainers"),
        "name",
        agent
            .devcontainers
            .iter()
            .map(|container| container.name.as_str()),
    )
}

/// Letters and digits of ASCII with single hyphens between them, as the original asks of names of agents.
fn is_name(name: &str) -> bool {
    !name.is_empty()
        && name
            .split('-')
            .all(|part| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_alphanumeric()))
}

fn check_name(key: &str, name: &str) -> Result<(), Wrong> {
    if is_name(name) && name.len() <= MAX_NAME {
        return Ok(());
    }
    let reason = format!("must be 1 to {MAX_NAME} letters and digits with single hyphens between them");
    Err((key.to_owned(), reason))
}

fn check_slug(key: &str, slug: &str) -> Result<(), Wrong> {
    if is_name(slug) && !slug.bytes().any(|byte| byte.is_ascii_uppercase()) {
        return Ok(());
    }
    Err((
        key.to_owned(),
        "must be lower-case letters and digits with single hyphens between them".to_owned(),
    ))
}

fn check_length(key: &str, text: &str, most: usize) -> Result<(), Wrong> {
    if text.contains('\0') {
        return Err((key.to_owned(), "must not contain NUL".to_owned()));
    }
    if text.chars().count() > most {
        return Err((key.to_owned(), format!("must have at most {most} characters")));
    }
    Ok(())
}

fn check_percent(key: &str, percent: u8) -> Result<(), Wrong> {
    if percent <= 100 {
        Ok(())
    } else {
        Err((key.to_owned(), "must be 0 to 100".to_owned()))
    }
}

fn unique<'a>(list: &str, key: &str, names: impl Iterator<Item = &'a str>) -> Result<(), Wrong> {
    let mut seen = HashSet::new();
    for (index, name) in names.enumerate() {
        if name.is_empty() {
            return Err((format!("{list}[{index}].{key}"), "must not be empty".to_owned()));
        }
        if !seen.insert(name) {
            return Err((
                format!("{list}[{index}].{key}"),
                "is already used in this list".to_owned(),
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
