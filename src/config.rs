//! Settings: each one is defined once, here, with its flag, environment variable, key in the configuration file,
//! default and help.
//!
//! Owns names, forms and precedence (flag, environment, file, default). Must never act on a setting: that is for the
//! part that it is handed to. Names are those of the original where the meaning is the same (coder/coder
//! `codersdk/deployment.go`); ours are `DRPCD_*`.
//!
//! An argument's clap id is its key in the configuration file, with dots between groups.

mod access_url;
mod choices;
mod external_auth;
mod file;
mod layers;
mod parse;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use regex::Regex;
use url::Url;

use crate::duration::parse_go_duration;
use crate::secret::Secret;
use crate::services::external_auth::Provider;
use crate::store::Tables;
use crate::telemetry::agent_metrics::AgentLabel;

pub use access_url::bare_access_url;
use access_url::default_access_url;
pub use choices::{ConnectionLogKind, MaxIdle, NotificationsMethod, StoreKind, Synchronous};
pub(crate) use external_auth::MAX_PROVIDERS;
pub use external_auth::read_providers;
pub use file::{ConfigError, ConfigFile};
pub use layers::{describe, layer};
pub(crate) use parse::parse_secret;
use parse::{
    parse_agent_label, parse_bool, parse_http_url, parse_listen_address, parse_max_idle,
    parse_positive_duration, parse_wildcard,
};

/// Most connections that a Postgres server can be set to have (postgres/postgres `src/include/postmaster/postmaster.h`,
/// `MAX_BACKENDS`). The pool has a place for each from the start.
const MAX_CONNECTIONS: i64 = 0x3_ffff;

/// Largest id of a DERP region: a node tells its home region as 32 bits, and the regions of STUN servers come behind.
const MAX_REGION: i64 = 1_000_000_000;

/// What every verb that opens the store needs.
#[derive(Args, Clone, Debug)]
pub struct CommonConfig {
    /// YAML file with settings; flags and environment variables win over it.
    #[arg(
        id = "config",
        short = 'c',
        long,
        env = "CODER_CONFIG_PATH",
        value_name = "FILE"
    )]
    pub config: Option<PathBuf>,

    /// Directory of the SQLite database; made when absent. Not used with Postgres.
    #[arg(
        id = "drpcd.dataDir",
        long = "data-dir",
        env = "DRPCD_DATA_DIR",
        value_name = "DIR"
    )]
    pub data_dir: Option<PathBuf>,

    /// Postgres database instead of SQLite, which several servers may share: postgres://USER:PASSWORD@HOST:PORT/DATABASE.
    #[arg(
        id = "drpcd.postgresURL",
        long = "postgres-url",
        env = "CODER_PG_CONNECTION_URL",
        hide_env_values = true,
        value_name = "URL",
        value_parser = parse_secret
    )]
    pub postgres_url: Option<Secret>,

    /// Most connections to Postgres at once.
    #[arg(
        id = "drpcd.postgresConnMaxOpen",
        long = "postgres-conn-max-open",
        env = "CODER_PG_CONN_MAX_OPEN",
        value_name = "COUNT",
        default_value_t = 10,
        value_parser = clap::value_parser!(u32).range(2..=MAX_CONNECTIONS)
    )]
    pub postgres_conn_max_open: u32,

    /// Most connections to Postgres that are kept open while nobody uses them; `auto` is a third of those at once.
    #[arg(
        id = "drpcd.postgresConnMaxIdle",
        long = "postgres-conn-max-idle",
        env = "CODER_PG_CONN_MAX_IDLE",
        value_name = "COUNT",
        default_value = "auto",
        value_parser = parse_max_idle
    )]
    pub postgres_conn_max_idle: MaxIdle,

    /// What the store is: a SQLite file, a Postgres database of our own, or that of an existing coder deployment [default:
    /// what --data-dir or --postgres-url names, and what is found there].
    #[arg(
        id = "drpcd.store",
        long = "store",
        env = "DRPCD_STORE",
        value_name = "STORE",
        value_enum
    )]
    pub store: Option<StoreKind>,

    /// Brings the schema of the store up to date when it is opened; that of a coder deployment never.
    #[arg(
        id = "drpcd.autoMigrate",
        long = "auto-migrate",
        env = "DRPCD_AUTO_MIGRATE",
        value_name = "BOOL",
        default_value = "true",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true",
        value_parser = parse_bool
    )]
    pub auto_migrate: bool,

    /// URL at which agents and users reach the server [default: from the listening address].
    #[arg(
        id = "networking.accessURL",
        long = "access-url",
        env = "CODER_ACCESS_URL",
        value_name = "URL",
        value_parser = parse_http_url
    )]
    pub access_url: Option<Url>,

    /// When SQLite waits for the disk: at checkpoints (normal), or also at every commit (full), for power loss.
    #[arg(
        id = "drpcd.sqliteSynchronous",
        long = "sqlite-synchronous",
        env = "DRPCD_SQLITE_SYNCHRONOUS",
        value_name = "MODE",
        default_value = "normal",
        value_enum
    )]
    pub sqlite_synchronous: Synchronous,
}

/// Where the store is.
#[derive(Clone, Copy, Debug)]
pub enum StorePlace<'c> {
    /// A SQLite file in this directory.
    Directory(&'c Path),
    /// A Postgres database.
    Postgres {
        /// Its URL.
        url: &'c Secret,
        /// Whose tables it should have, if that was said.
        expected: Option<Tables>,
    },
}

/// The settings name no store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoStorePlace {
    /// Nor say what it is.
    #[error("missing --data-dir (env DRPCD_DATA_DIR), or --postgres-url (env CODER_PG_CONNECTION_URL)")]
    Nothing,
    /// It is a file.
    #[error("--store sqlite (env DRPCD_STORE) needs --data-dir (env DRPCD_DATA_DIR)")]
    NoDirectory,
    /// It is a database.
    #[error("--store postgres or coder (env DRPCD_STORE) needs --postgres-url (env CODER_PG_CONNECTION_URL)")]
    NoUrl,
}

impl CommonConfig {
    /// The place that the settings name; where they do not say what it is, Postgres if both are named.
    pub fn store_place(&self) -> Result<StorePlace<'_>, NoStorePlace> {
        let directory = self.data_dir.as_deref().map(StorePlace::Directory);
        let database = |expected| {
            let url = self.postgres_url.as_ref();
            url.map(|url| StorePlace::Postgres { url, expected })
        };
        match self.store {
            None => database(None).or(directory).ok_or(NoStorePlace::Nothing),
            Some(StoreKind::Sqlite) => directory.ok_or(NoStorePlace::NoDirectory),
            Some(StoreKind::Postgres) => database(Some(Tables::Own)).ok_or(NoStorePlace::NoUrl),
            Some(StoreKind::Coder) => database(Some(Tables::Coder)).ok_or(NoStorePlace::NoUrl),
        }
    }
}

/// The settings of `server`.
#[derive(Args, Clone, Debug)]
pub struct Config {
    /// Settings shared with other verbs.
    #[command(flatten)]
    pub common: CommonConfig,

    /// Address to listen on; port 0 picks a free one.
    #[arg(
        id = "networking.http.httpAddress",
        long = "http-address",
        env = "CODER_HTTP_ADDRESS",
        value_name = "ADDRESS",
        default_value = "127.0.0.1:3000",
        value_parser = parse_listen_address
    )]
    pub http_address: String,

    /// Wildcard host of workspace apps, such as *.example.com.
    #[arg(
        id = "networking.wildcardAccessURL",
        long = "wildcard-access-url",
        env = "CODER_WILDCARD_ACCESS_URL",
        value_name = "HOST",
        value_parser = parse_wildcard
    )]
    pub wildcard_access_url: Option<String>,

    /// File with the DERP map, in Tailscale's JSON form.
    #[arg(
        id = "networking.derp.configPath",
        long = "derp-config-path",
        env = "CODER_DERP_CONFIG_PATH",
        value_name = "FILE"
    )]
    pub derp_config_path: Option<PathBuf>,

    /// URL of the DERP map, in Tailscale's JSON form.
    #[arg(
        id = "networking.derp.url",
        long = "derp-config-url",
        env = "CODER_DERP_CONFIG_URL",
        value_name = "URL",
        value_parser = parse_http_url
    )]
    pub derp_config_url: Option<Url>,

    /// Id of the DERP region that stands at the access URL when no map is given; those of STUN servers follow it.
    #[arg(
        id = "networking.derp.regionID",
        long = "derp-server-region-id",
        env = "CODER_DERP_SERVER_REGION_ID",
        value_name = "ID",
        default_value_t = 999,
        value_parser = clap::value_parser!(i64).range(1..=MAX_REGION)
    )]
    pub derp_server_region_id: i64,

    /// Code of that region.
    #[arg(
        id = "networking.derp.regionCode",
        long = "derp-server-region-code",
        env = "CODER_DERP_SERVER_REGION_CODE",
        value_name = "CODE",
        default_value = "drpcd"
    )]
    pub derp_server_region_code: String,

    /// Name of that region.
    #[arg(
        id = "networking.derp.regionName",
        long = "derp-server-region-name",
        env = "CODER_DERP_SERVER_REGION_NAME",
        value_name = "NAME",
        default_value = "drpcd"
    )]
    pub derp_server_region_name: String,

    /// STUN servers, each as a region of its own behind the default one; `disable` for none.
    #[arg(
        id = "networking.derp.stunAddresses",
        long = "derp-server-stun-addresses",
        env = "CODER_DERP_SERVER_STUN_ADDRESSES",
        value_name = "HOST:PORT",
        value_delimiter = ','
    )]
    pub derp_server_stun_addresses: Vec<String>,

    /// Tells agents to reach relays over WebSocket.
    #[arg(
        id = "networking.derp.forceWebSockets",
        long = "derp-force-websockets",
        env = "CODER_DERP_FORCE_WEBSOCKETS",
        value_name = "BOOL",
        default_value = "false",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true",
        value_parser = parse_bool
    )]
    pub derp_force_websockets: bool,

    /// Tells agents to use relays only.
    #[arg(
        id = "networking.derp.blockDirect",
        long = "block-direct-connections",
        env = "CODER_BLOCK_DIRECT",
        value_name = "BOOL",
        default_value = "false",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true",
        value_parser = parse_bool
    )]
    pub block_direct_connections: bool,

    /// What names of workspaces end with on clients' machines.
    #[arg(
        id = "workspaceHostnameSuffix",
        long = "workspace-hostname-suffix",
        env = "CODER_WORKSPACE_HOSTNAME_SUFFIX",
        value_name = "SUFFIX",
        default_value = "coder"
    )]
    pub workspace_hostname_suffix: String,

    /// How often agents report statistics; 0 is 5m.
    #[arg(
        id = "agentStatsRefreshInterval",
        long = "agent-stats-refresh-interval",
        env = "CODER_AGENT_STATS_REFRESH_INTERVAL",
        value_name = "DURATION",
        default_value = "30s",
        hide = true,
        value_parser = parse_go_duration
    )]
    pub agent_stats_refresh_interval: Duration,

    /// Experiments to take part in; `workspace-usage` leaves counting sessions to others.
    #[arg(
        id = "experiments",
        long = "experiments",
        env = "CODER_EXPERIMENTS",
        value_name = "NAME",
        value_delimiter = ','
    )]
    pub experiments: Vec<String>,

    /// Queues notifications for this way of delivery too; something else must deliver them [default: none].
    #[arg(
        id = "notifications.method",
        long = "notifications-method",
        env = "CODER_NOTIFICATIONS_METHOD",
        value_name = "METHOD",
        value_enum
    )]
    pub notifications_method: Option<NotificationsMethod>,

    /// Queues notifications for the users' inboxes.
    #[arg(
        id = "notifications.inbox.enabled",
        long = "notifications-inbox-enabled",
        env = "CODER_NOTIFICATIONS_INBOX_ENABLED",
        value_name = "BOOL",
        default_value = "true",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true",
        value_parser = parse_bool
    )]
    pub notifications_inbox_enabled: bool,

    /// Where logs go in human form: a path, /dev/stderr, /dev/stdout, or empty for nowhere.
    #[arg(
        id = "introspection.logging.humanPath",
        long = "log-human",
        env = "CODER_LOGGING_HUMAN",
        value_name = "PATH",
        default_value = "/dev/stderr"
    )]
    pub log_human: String,

    /// Where logs go as JSON: a path, /dev/stderr, /dev/stdout, or empty for nowhere.
    #[arg(
        id = "introspection.logging.jsonPath",
        long = "log-json",
        env = "CODER_LOGGING_JSON",
        value_name = "PATH",
        default_value = ""
    )]
    pub log_json: String,

    /// Regular expression for debug logs to keep, matched against `target: message`; `.*` is all.
    #[arg(
        id = "introspection.logging.filter",
        short = 'l',
        long = "log-filter",
        env = "CODER_LOG_FILTER",
        value_name = "REGEX"
    )]
    pub log_filter: Option<Regex>,

    /// Serves metrics at /metrics of the address below.
    #[arg(
        id = "introspection.prometheus.enable",
        long = "prometheus-enable",
        env = "CODER_PROMETHEUS_ENABLE",
        value_name = "BOOL",
        default_value = "false",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true",
        value_parser = parse_bool
    )]
    pub prometheus_enable: bool,

    /// Address to serve metrics on.
    #[arg(
        id = "introspection.prometheus.address",
        long = "prometheus-address",
        env = "CODER_PROMETHEUS_ADDRESS",
        value_name = "ADDRESS",
        default_value = "127.0.0.1:2112",
        value_parser = parse_listen_address
    )]
    pub prometheus_address: String,

    /// Collects the metrics that agents send and serves them with the server's own.
    #[arg(
        id = "introspection.prometheus.collect_agent_stats",
        long = "prometheus-collect-agent-stats",
        env = "CODER_PROMETHEUS_COLLECT_AGENT_STATS",
        value_name = "BOOL",
        default_value = "false",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true",
        value_parser = parse_bool
    )]
    pub prometheus_collect_agent_stats: bool,

    /// Labels by which agents' metrics are summed up; all four keep every agent apart.
    #[arg(
        id = "introspection.prometheus.aggregate_agent_stats_by",
        long = "prometheus-aggregate-agent-stats-by",
        env = "CODER_PROMETHEUS_AGGREGATE_AGENT_STATS_BY",
        value_name = "LABEL",
        value_delimiter = ',',
        default_value = "agent_name,template_name,username,workspace_name",
        value_parser = parse_agent_label
    )]
    pub prometheus_aggregate_agent_stats_by: Vec<AgentLabel>,

    /// How often sessions are looked at and their times written.
    #[arg(
        id = "drpcd.agentConnectionUpdateFrequency",
        long = "agent-connection-update-frequency",
        env = "DRPCD_AGENT_CONNECTION_UPDATE_FREQUENCY",
        value_name = "DURATION",
        default_value = "15s",
        value_parser = parse_positive_duration
    )]
    pub agent_connection_update_frequency: Duration,

    /// Silence after which a session is closed; 0 is twice the update frequency.
    #[arg(
        id = "drpcd.agentInactiveDisconnectTimeout",
        long = "agent-inactive-disconnect-timeout",
        env = "DRPCD_AGENT_INACTIVE_DISCONNECT_TIMEOUT",
        value_name = "DURATION",
        default_value = "0s",
        value_parser = parse_go_duration
    )]
    pub agent_inactive_disconnect_timeout: Duration,

    /// How often the DERP map is compared with what agents have.
    #[arg(
        id = "drpcd.derpMapUpdateFrequency",
        long = "derp-map-update-frequency",
        env = "DRPCD_DERP_MAP_UPDATE_FREQUENCY",
        value_name = "DURATION",
        default_value = "5s",
        value_parser = parse_positive_duration
    )]
    pub derp_map_update_frequency: Duration,

    /// Newest minor of API version 2 that agents may ask for.
    #[arg(
        id = "drpcd.apiMaxMinor",
        long = "api-max-minor",
        env = "DRPCD_API_MAX_MINOR",
        value_name = "MINOR",
        default_value_t = 8
    )]
    pub api_max_minor: u32,

    /// Most sessions at once; 0 is unlimited.
    #[arg(
        id = "drpcd.maxAgentConnections",
        long = "max-agent-connections",
        env = "DRPCD_MAX_AGENT_CONNECTIONS",
        value_name = "COUNT",
        default_value_t = 0
    )]
    pub max_agent_connections: usize,

    /// Resident memory in MiB from which on new sessions are refused; 0 is three quarters of what there is.
    #[arg(
        id = "drpcd.memoryBudget",
        long = "memory-budget",
        env = "DRPCD_MEMORY_BUDGET",
        value_name = "MIB",
        default_value_t = 0
    )]
    pub memory_budget: u64,

    /// Where reports of connections to agents go; several, or `none` alone.
    #[arg(
        id = "drpcd.connectionLog",
        long = "connection-log",
        env = "DRPCD_CONNECTION_LOG",
        value_name = "BACKEND",
        default_value = "database",
        value_delimiter = ',',
        value_enum
    )]
    pub connection_log: Vec<ConnectionLogKind>,

    /// How long a shutdown may take to write what is queued.
    #[arg(
        id = "drpcd.shutdownGrace",
        long = "shutdown-grace",
        env = "DRPCD_SHUTDOWN_GRACE",
        value_name = "DURATION",
        default_value = "10s",
        value_parser = parse_go_duration
    )]
    pub shutdown_grace: Duration,

    /// Time over which a shutdown spreads the closing of sessions.
    #[arg(
        id = "drpcd.drainTime",
        long = "drain-time",
        env = "DRPCD_DRAIN_TIME",
        value_name = "DURATION",
        default_value = "0s",
        value_parser = parse_go_duration
    )]
    pub drain_time: Duration,

    /// How long statistics, notifications and the logs of old builds are kept; 0 is for ever.
    #[arg(
        id = "drpcd.retention",
        long = "retention",
        env = "DRPCD_RETENTION",
        value_name = "DURATION",
        default_value = "168h",
        value_parser = parse_go_duration
    )]
    pub retention: Duration,

    /// How long an agent's call waits for a store that is away.
    #[arg(
        id = "drpcd.storeWait",
        long = "store-wait",
        env = "DRPCD_STORE_WAIT",
        value_name = "DURATION",
        default_value = "15m",
        value_parser = parse_go_duration
    )]
    pub store_wait: Duration,

    /// External providers; they are read by [`read_providers`], since they are no flags.
    #[arg(skip)]
    pub external_auth: Vec<Provider>,
}

impl Config {
    /// The defaults, whatever the environment says.
    pub fn with_defaults(data_dir: impl Into<PathBuf>) -> Self {
        layers::defaults(data_dir.into())
    }

    /// The access URL, or the one that follows from the address listened on: an unspecified host becomes 127.0.0.1.
    pub fn access_url_for(&self, listening: SocketAddr) -> Url {
        self.common
            .access_url
            .clone()
            .unwrap_or_else(|| default_access_url(listening))
    }
}

#[cfg(test)]
mod tests;
