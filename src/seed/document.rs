//! The keys of a seed file. Optional keys carry their column's name; what is left out gets the column's default.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, de::Error as _};
use serde_json::Value;
use uuid::Uuid;

use super::mapping;
use super::values::{Name, Seconds, Slug, Text, Ttl};
use crate::clock::Timestamp;
use crate::ids::AgentToken;
use crate::secret::Secret;
use crate::store::ApiKeyScope;

/// Text whose column has no bound of its own; bounds one value of a file.
const UNBOUNDED: usize = 1 << 20;

/// A checked seed file: one document per workspace, in file order.
#[derive(Clone, Debug)]
pub struct Seed {
    /// The file's name, for messages.
    pub source: String,
    /// At least one.
    pub documents: Vec<Document>,
}

/// One workspace, its owner, and its agents.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Document {
    /// Who owns the workspace.
    #[serde(deserialize_with = "mapping::one")]
    pub owner: Owner,
    /// The workspace.
    #[serde(deserialize_with = "mapping::one")]
    pub workspace: Workspace,
    /// Site-wide banners; those of all documents together replace the stored ones, `None` leaves them.
    #[serde(default, deserialize_with = "mapping::optional_list")]
    pub banners: Option<Vec<Banner>>,
    /// Its agents.
    #[serde(default, deserialize_with = "mapping::list")]
    pub agents: Vec<Agent>,
}

/// A user, matched by name without regard to case.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Owner {
    /// User name; `prebuilds` is the system user.
    pub username: Name,
    /// Full name; `None` leaves it, and is empty for a new user.
    pub name: Option<Text<UNBOUNDED>>,
    /// Address; `None` leaves it, and is `USERNAME@localhost` for a new user.
    pub email: Option<Text<UNBOUNDED>>,
    /// The user's links to external providers; `None` leaves them.
    #[serde(default, deserialize_with = "mapping::optional_list")]
    pub external_auth_links: Option<Vec<ExternalAuthLink>>,
}

impl Owner {
    /// Name of the system user that owns unclaimed prebuilds.
    pub const PREBUILDS: &'static str = "prebuilds";

    /// Whether this is the system user.
    pub fn is_prebuilds(&self) -> bool {
        self.username.eq_ignore_ascii_case(Self::PREBUILDS)
    }
}

/// A link of a user to an external provider.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExternalAuthLink {
    /// Which provider.
    pub provider_id: Text<UNBOUNDED>,
    /// Its access token.
    pub oauth_access_token: Secret,
    /// Its refresh token; empty for none.
    #[serde(default)]
    pub oauth_refresh_token: Secret,
    /// When the access token ends; left out for never.
    #[serde(default, deserialize_with = "optional_time")]
    pub oauth_expiry: Option<Timestamp>,
    /// What else the provider sent.
    pub oauth_extra: Option<Extra>,
}

/// A JSON object that may hold secrets.
#[derive(Clone)]
pub struct Extra(serde_json::Map<String, Value>);

impl Extra {
    /// The object's JSON text, for the store; never for a log.
    pub fn reveal(&self) -> String {
        Value::Object(self.0.clone()).to_string()
    }
}

impl std::fmt::Debug for Extra {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Extra(redacted)")
    }
}

impl<'de> Deserialize<'de> for Extra {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match Value::deserialize(deserializer)? {
            Value::Object(object) => Ok(Self(object)),
            _ => Err(D::Error::custom(
                "must be a mapping (the value may be a secret and is not shown)",
            )),
        }
    }
}

/// A workspace, matched by its owner and name without regard to case.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Workspace {
    /// Name.
    pub name: Name,
    /// Template, made when the store has none of that name; left out, one named `default`.
    #[serde(default = "default_template")]
    pub template: Name,
    /// Cron text of five fields, with a time zone in front if need be.
    #[serde(default, deserialize_with = "schedule")]
    pub autostart_schedule: Option<String>,
    /// How long it runs after a start; `None` for ever.
    pub ttl: Option<Ttl>,
}

/// An announcement banner.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Banner {
    /// Whether it is shown.
    #[serde(default = "yes")]
    pub enabled: bool,
    /// Its text.
    pub message: Text<UNBOUNDED>,
    /// Its colour.
    #[serde(default)]
    pub background_color: Text<UNBOUNDED>,
}

/// An agent, matched by name.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Agent {
    /// Name, unique in the workspace.
    pub name: Name,
    /// Its secret; `None` keeps the stored one and makes one for a new agent.
    #[serde(default, deserialize_with = "token")]
    pub token: Option<AgentToken>,
    /// Processor, as Go names it.
    #[serde(default = "amd64")]
    pub architecture: Text<64>,
    /// Operating system, as Go names it.
    #[serde(default = "linux")]
    pub operating_system: Text<64>,
    /// Working directory before expansion.
    #[serde(default)]
    pub directory: Text<4096>,
    /// Path of the message of the day.
    #[serde(default)]
    pub motd_file: Text<UNBOUNDED>,
    /// Seconds after which an agent that never connected counts as timed out; 0 is never.
    #[serde(default)]
    pub connection_timeout_seconds: Seconds,
    /// Where users find help.
    #[serde(default)]
    pub troubleshooting_url: Text<UNBOUNDED>,
    /// Environment; `None` is NULL.
    pub environment_variables: Option<BTreeMap<Text<UNBOUNDED>, Text<UNBOUNDED>>>,
    /// Apps of the product itself; left out, all.
    #[serde(default = "all_display_apps")]
    pub display_apps: Vec<DisplayApp>,
    /// What its token gives access to.
    #[serde(default = "scope_all", deserialize_with = "scope")]
    pub api_key_scope: ApiKeyScope,
    /// Place among the agents.
    #[serde(default)]
    pub order: i32,
    /// By slug.
    #[serde(default, deserialize_with = "mapping::list")]
    pub apps: Vec<App>,
    /// By display name.
    #[serde(default, deserialize_with = "mapping::list")]
    pub scripts: Vec<Script>,
    /// By key.
    #[serde(default, deserialize_with = "mapping::list")]
    pub metadata: Vec<Metadata>,
    /// Memory and volume monitors.
    #[serde(default, deserialize_with = "mapping::one")]
    pub resources_monitoring: ResourcesMonitoring,
    /// By name.
    #[serde(default, deserialize_with = "mapping::list")]
    pub devcontainers: Vec<Devcontainer>,
}

/// Declares an enum whose labels are those of the database.
macro_rules! labels {
    ($($(#[$doc:meta])* $name:ident { $($variant:ident = $label:literal),* $(,)? })*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
        pub enum $name { $(#[doc = concat!("`", $label, "`")] #[serde(rename = $label)] $variant),* }

        impl $name {
            /// The database's label.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $label),* }
            }
        }
    )*};
}

labels! {
    /// An app of the product itself.
    DisplayApp {
        Vscode = "vscode", VscodeInsiders = "vscode_insiders", WebTerminal = "web_terminal", SshHelper = "ssh_helper",
        PortForwardingHelper = "port_forwarding_helper",
    }
    /// Who may open an app.
    SharingLevel {
        Owner = "owner", Authenticated = "authenticated", Organization = "organization", Public = "public",
    }
    /// Where an app opens.
    OpenIn { Tab = "tab", Window = "window", SlimWindow = "slim-window" }
}

/// An app of an agent.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct App {
    /// Name in URLs.
    pub slug: Slug,
    /// Name for people.
    #[serde(default)]
    pub display_name: Text<64>,
    /// Icon path or URL.
    #[serde(default)]
    pub icon: Text<256>,
    /// Command, for terminal apps.
    pub command: Option<Text<65_534>>,
    /// URL, for web apps.
    pub url: Option<Text<65_534>>,
    /// Served on a subdomain.
    #[serde(default)]
    pub subdomain: bool,
    /// Who may open it.
    #[serde(default = "sharing_owner")]
    pub sharing_level: SharingLevel,
    /// How its health is found out; `None` is not at all.
    #[serde(default, deserialize_with = "mapping::optional")]
    pub healthcheck: Option<Healthcheck>,
    /// Place among the apps.
    #[serde(default)]
    pub order: i32,
    /// Not shown.
    #[serde(default)]
    pub hidden: bool,
    /// Opens outside.
    #[serde(default)]
    pub external: bool,
    /// Where it opens.
    #[serde(default = "slim_window")]
    pub open_in: OpenIn,
    /// Group that it is shown in.
    pub group: Option<Text<UNBOUNDED>>,
    /// Help text.
    #[serde(default)]
    pub tooltip: Text<2_048>,
}

/// A health check of an app.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Healthcheck {
    /// What is asked.
    pub url: Text<UNBOUNDED>,
    /// Seconds between checks.
    #[serde(default)]
    pub interval_seconds: Seconds,
    /// Failures before the app counts as unhealthy.
    #[serde(default)]
    pub threshold: Seconds,
}

/// A script of an agent.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Script {
    /// Name for people, and that of its log source.
    pub display_name: Text<127>,
    /// Text of the script.
    pub script: Text<UNBOUNDED>,
    /// Icon of its log source.
    #[serde(default)]
    pub icon: Text<UNBOUNDED>,
    /// Where the agent logs it.
    #[serde(default)]
    pub log_path: Text<UNBOUNDED>,
    /// When to run it.
    #[serde(default)]
    pub cron: Text<UNBOUNDED>,
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
    pub timeout_seconds: Seconds,
}

/// A metadata item that an agent shall collect.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Metadata {
    /// Its key.
    pub key: Text<127>,
    /// Name for people.
    #[serde(default)]
    pub display_name: Text<127>,
    /// Script that prints the value.
    pub script: Text<65_535>,
    /// Seconds between collections; 0 is once.
    #[serde(default)]
    pub interval_seconds: Seconds,
    /// Seconds that a collection may take.
    #[serde(default)]
    pub timeout_seconds: Seconds,
    /// Place among the items.
    #[serde(default)]
    pub order: i32,
}

/// What an agent watches.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ResourcesMonitoring {
    /// Memory; `None` is not watched.
    #[serde(default, deserialize_with = "mapping::optional")]
    pub memory: Option<MemoryMonitor>,
    /// By path.
    #[serde(default, deserialize_with = "mapping::list")]
    pub volumes: Vec<VolumeMonitor>,
}

/// Percent of a resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Percent(pub i32);

impl<'de> Deserialize<'de> for Percent {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let percent = i64::deserialize(deserializer)?;
        match i32::try_from(percent) {
            Ok(percent @ 0..=100) => Ok(Self(percent)),
            _ => Err(D::Error::invalid_value(
                serde::de::Unexpected::Signed(percent),
                &"a percentage from 0 to 100",
            )),
        }
    }
}

/// Alerts when memory use is too high.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MemoryMonitor {
    /// Whether it may alert.
    #[serde(default = "yes")]
    pub enabled: bool,
    /// From where on usage is too high.
    pub threshold: Percent,
}

/// Alerts when a volume is too full.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VolumeMonitor {
    /// Where it is mounted.
    pub path: Text<UNBOUNDED>,
    /// Whether it may alert.
    #[serde(default = "yes")]
    pub enabled: bool,
    /// From where on usage is too high.
    pub threshold: Percent,
}

/// A dev container of an agent.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Devcontainer {
    /// Its name.
    pub name: Text<UNBOUNDED>,
    /// Folder on the host.
    pub workspace_folder: Text<UNBOUNDED>,
    /// Path of its configuration.
    #[serde(default)]
    pub config_path: Text<UNBOUNDED>,
}

const fn yes() -> bool {
    true
}

const fn scope_all() -> ApiKeyScope {
    ApiKeyScope::All
}

const fn sharing_owner() -> SharingLevel {
    SharingLevel::Owner
}

const fn slim_window() -> OpenIn {
    OpenIn::SlimWindow
}

fn default_template() -> Name {
    Name::fixed("default")
}

fn amd64() -> Text<64> {
    Text::fixed("amd64")
}

fn linux() -> Text<64> {
    Text::fixed("linux")
}

fn all_display_apps() -> Vec<DisplayApp> {
    vec![
        DisplayApp::Vscode,
        DisplayApp::VscodeInsiders,
        DisplayApp::WebTerminal,
        DisplayApp::SshHelper,
        DisplayApp::PortForwardingHelper,
    ]
}

fn scope<'de, D: Deserializer<'de>>(deserializer: D) -> Result<ApiKeyScope, D::Error> {
    let label = String::deserialize(deserializer)?;
    ApiKeyScope::from_label(&label).ok_or_else(|| D::Error::unknown_variant(&label, &["all", "no_user_data"]))
}

fn token<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<AgentToken>, D::Error> {
    // By way of a value, since the usual texts would quote the secret.
    match Value::deserialize(deserializer)? {
        Value::Null => Ok(None),
        Value::String(text) => match Uuid::parse_str(&text) {
            Ok(uuid) if !uuid.is_nil() => Ok(Some(AgentToken::new(uuid))),
            _ => Err(D::Error::custom(
                "must be a UUID other than the zero one (the value is a secret and not shown)",
            )),
        },
        _ => Err(D::Error::custom(
            "must be a UUID or null (the value is a secret and not shown)",
        )),
    }
}

fn optional_time<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Timestamp>, D::Error> {
    let Some(text) = Option::<String>::deserialize(deserializer)? else {
        return Ok(None);
    };
    match text.parse::<jiff::Timestamp>() {
        Ok(time) => Ok(Some(Timestamp::from_micros(time.as_microsecond()))),
        Err(_) => Err(D::Error::invalid_value(
            serde::de::Unexpected::Str(&text),
            &"a time such as 2026-03-20T12:00:00Z",
        )),
    }
}

fn schedule<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    let Some(text) = Option::<Text<UNBOUNDED>>::deserialize(deserializer)? else {
        return Ok(None);
    };
    let fields = text
        .split_whitespace()
        .filter(|field| !field.starts_with("CRON_TZ=") && !field.starts_with("TZ="));
    if fields.count() == 5 {
        return Ok(Some(text.to_string()));
    }
    Err(D::Error::invalid_value(
        serde::de::Unexpected::Str(&text),
        &"a cron text of five fields such as 30 9 * * 1-5",
    ))
}
