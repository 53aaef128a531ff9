//! What the statements that run on a coder database need of it: tables, columns, labels, constraints and triggers.
//!
//! Holds no rule. A test makes a database of nothing but this and prepares every statement there, so that nothing can be
//! missing here; what is here and not needed by a statement, another one finds.

use self::Kind::{Bool, Bytes, Enum, EnumArray, Float, Inet, Int, Json, Text, Time, Uuid, UuidArray};

/// What kind of values a column holds. Lengths and widths are the database's business.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Bool,
    Bytes,
    Enum(&'static str),
    EnumArray(&'static str),
    Float,
    Inet,
    Int,
    Json,
    Text,
    Time,
    Uuid,
    UuidArray,
}

impl Kind {
    /// The type, as `pg_type` names it; of a list that of its elements.
    pub(super) fn name(self) -> &'static str {
        match self {
            Bool => "bool",
            Bytes => "bytea",
            Enum(name) | EnumArray(name) => name,
            Float => "float8",
            Inet => "inet",
            Int => "int8",
            Json => "jsonb",
            Text => "text",
            Time => "timestamptz",
            Uuid | UuidArray => "uuid",
        }
    }

    /// Whether the values are lists.
    pub(super) fn is_array(self) -> bool {
        matches!(self, EnumArray(_) | UuidArray)
    }

    /// Whether a column of the type `name`, or of lists of it, holds such values.
    pub(super) fn takes(self, name: &str) -> bool {
        match self {
            Int => matches!(name, "int2" | "int4" | "int8"),
            Float => matches!(name, "float4" | "float8"),
            Text => matches!(name, "text" | "varchar"),
            _ => name == self.name(),
        }
    }
}

/// A table and those of its columns that are named.
#[derive(Debug)]
pub(super) struct Relation {
    pub(super) name: &'static str,
    /// Rows are inserted, with values for these columns and no others.
    pub(super) inserted: bool,
    pub(super) columns: &'static [(&'static str, Kind)],
}

/// Of these, rows are read or updated.
const fn used(name: &'static str, columns: &'static [(&'static str, Kind)]) -> Relation {
    Relation {
        name,
        inserted: false,
        columns,
    }
}

/// Rows are inserted into these.
const fn filled(name: &'static str, columns: &'static [(&'static str, Kind)]) -> Relation {
    Relation {
        name,
        inserted: true,
        columns,
    }
}

pub(super) const RELATIONS: &[Relation] = &[
    used(
        "users",
        &[("id", Uuid), ("username", Text), ("name", Text), ("email", Text)],
    ),
    used("organizations", &[("id", Uuid), ("name", Text)]),
    used(
        "provisioner_jobs",
        &[
            ("id", Uuid),
            ("completed_at", Time),
            ("job_status", Enum("provisioner_job_status")),
        ],
    ),
    used(
        "templates",
        &[
            ("id", Uuid),
            ("name", Text),
            ("default_ttl", Int),
            ("activity_bump", Int),
            ("allow_user_autostop", Bool),
            ("autostart_block_days_of_week", Int),
        ],
    ),
    used(
        "workspaces",
        &[
            ("id", Uuid),
            ("owner_id", Uuid),
            ("organization_id", Uuid),
            ("template_id", Uuid),
            ("deleted", Bool),
            ("name", Text),
            ("autostart_schedule", Text),
            ("ttl", Int),
            ("last_used_at", Time),
        ],
    ),
    used(
        "workspace_builds",
        &[
            ("id", Uuid),
            ("workspace_id", Uuid),
            ("template_version_id", Uuid),
            ("job_id", Uuid),
            ("created_at", Time),
            ("updated_at", Time),
            ("build_number", Int),
            ("transition", Enum("workspace_transition")),
            ("deadline", Time),
            ("max_deadline", Time),
        ],
    ),
    used("workspace_resources", &[("id", Uuid), ("job_id", Uuid)]),
    used(
        "tasks",
        &[
            ("id", Uuid),
            ("name", Text),
            ("workspace_id", Uuid),
            ("created_at", Time),
            ("deleted_at", Time),
        ],
    ),
    used(
        "task_workspace_apps",
        &[
            ("task_id", Uuid),
            ("workspace_app_id", Uuid),
            ("workspace_build_number", Int),
        ],
    ),
    filled(
        "workspace_agents",
        &[
            ("id", Uuid),
            ("parent_id", Uuid),
            ("created_at", Time),
            ("updated_at", Time),
            ("name", Text),
            ("resource_id", Uuid),
            ("auth_token", Uuid),
            ("architecture", Text),
            ("operating_system", Text),
            ("environment_variables", Json),
            ("directory", Text),
            ("expanded_directory", Text),
            ("version", Text),
            ("api_version", Text),
            ("troubleshooting_url", Text),
            ("motd_file", Text),
            ("first_connected_at", Time),
            ("last_connected_at", Time),
            ("disconnected_at", Time),
            ("started_at", Time),
            ("ready_at", Time),
            ("last_connected_replica_id", Uuid),
            ("connection_timeout_seconds", Int),
            ("lifecycle_state", Enum("workspace_agent_lifecycle_state")),
            ("logs_length", Int),
            ("logs_overflowed", Bool),
            ("subsystems", EnumArray("workspace_agent_subsystem")),
            ("display_apps", EnumArray("display_app")),
            ("api_key_scope", Enum("agent_key_scope_enum")),
            ("deleted", Bool),
        ],
    ),
    filled(
        "workspace_apps",
        &[
            ("id", Uuid),
            ("created_at", Time),
            ("agent_id", Uuid),
            ("slug", Text),
            ("display_name", Text),
            ("icon", Text),
            ("command", Text),
            ("url", Text),
            ("healthcheck_url", Text),
            ("healthcheck_interval", Int),
            ("healthcheck_threshold", Int),
            ("health", Enum("workspace_app_health")),
            ("subdomain", Bool),
            ("sharing_level", Enum("app_sharing_level")),
            ("external", Bool),
            ("hidden", Bool),
            ("display_order", Int),
            ("open_in", Enum("workspace_app_open_in")),
            ("display_group", Text),
        ],
    ),
    filled(
        "workspace_app_statuses",
        &[
            ("id", Uuid),
            ("created_at", Time),
            ("agent_id", Uuid),
            ("app_id", Uuid),
            ("workspace_id", Uuid),
            ("state", Enum("workspace_app_status_state")),
            ("message", Text),
            ("uri", Text),
        ],
    ),
    used(
        "workspace_agent_scripts",
        &[
            ("id", Uuid),
            ("workspace_agent_id", Uuid),
            ("log_source_id", Uuid),
            ("log_path", Text),
            ("created_at", Time),
            ("script", Text),
            ("cron", Text),
            ("start_blocks_login", Bool),
            ("run_on_start", Bool),
            ("run_on_stop", Bool),
            ("timeout_seconds", Int),
        ],
    ),
    filled(
        "workspace_agent_script_timings",
        &[
            ("script_id", Uuid),
            ("started_at", Time),
            ("ended_at", Time),
            ("exit_code", Int),
            ("stage", Enum("workspace_agent_script_timing_stage")),
            ("status", Enum("workspace_agent_script_timing_status")),
        ],
    ),
    filled(
        "workspace_agent_log_sources",
        &[
            ("workspace_agent_id", Uuid),
            ("id", Uuid),
            ("created_at", Time),
            ("display_name", Text),
            ("icon", Text),
        ],
    ),
    filled(
        "workspace_agent_logs",
        &[
            ("id", Int),
            ("agent_id", Uuid),
            ("created_at", Time),
            ("output", Text),
            ("level", Enum("log_level")),
            ("log_source_id", Uuid),
        ],
    ),
    used(
        "workspace_agent_metadata",
        &[
            ("workspace_agent_id", Uuid),
            ("display_name", Text),
            ("key", Text),
            ("script", Text),
            ("value", Text),
            ("error", Text),
            ("timeout", Int),
            ("interval", Int),
            ("collected_at", Time),
            ("display_order", Int),
        ],
    ),
    filled(
        "workspace_agent_stats",
        &[
            ("id", Uuid),
            ("created_at", Time),
            ("user_id", Uuid),
            ("agent_id", Uuid),
            ("workspace_id", Uuid),
            ("template_id", Uuid),
            ("connections_by_proto", Json),
            ("connection_count", Int),
            ("rx_packets", Int),
            ("rx_bytes", Int),
            ("tx_packets", Int),
            ("tx_bytes", Int),
            ("connection_median_latency_ms", Float),
            ("session_count_vscode", Int),
            ("session_count_jetbrains", Int),
            ("session_count_reconnecting_pty", Int),
            ("session_count_ssh", Int),
            ("usage", Bool),
        ],
    ),
    used(
        "workspace_agent_memory_resource_monitors",
        &[
            ("agent_id", Uuid),
            ("enabled", Bool),
            ("threshold", Int),
            ("updated_at", Time),
            ("state", Enum("workspace_agent_monitor_state")),
            ("debounced_until", Time),
        ],
    ),
    used(
        "workspace_agent_volume_resource_monitors",
        &[
            ("agent_id", Uuid),
            ("path", Text),
            ("enabled", Bool),
            ("threshold", Int),
            ("updated_at", Time),
            ("state", Enum("workspace_agent_monitor_state")),
            ("debounced_until", Time),
        ],
    ),
    used(
        "workspace_agent_devcontainers",
        &[
            ("id", Uuid),
            ("workspace_agent_id", Uuid),
            ("created_at", Time),
            ("workspace_folder", Text),
            ("config_path", Text),
            ("name", Text),
            ("subagent_id", Uuid),
        ],
    ),
    filled(
        "connection_logs",
        &[
            ("id", Uuid),
            ("connect_time", Time),
            ("organization_id", Uuid),
            ("workspace_owner_id", Uuid),
            ("workspace_id", Uuid),
            ("workspace_name", Text),
            ("agent_name", Text),
            ("type", Enum("connection_type")),
            ("ip", Inet),
            ("code", Int),
            ("connection_id", Uuid),
            ("disconnect_time", Time),
            ("disconnect_reason", Text),
        ],
    ),
    filled(
        "boundary_usage_stats",
        &[
            ("replica_id", Uuid),
            ("unique_workspaces_count", Int),
            ("unique_users_count", Int),
            ("allowed_requests", Int),
            ("denied_requests", Int),
            ("window_start", Time),
            ("updated_at", Time),
        ],
    ),
    used(
        "external_auth_links",
        &[
            ("provider_id", Text),
            ("user_id", Uuid),
            ("oauth_access_token", Text),
            ("oauth_refresh_token", Text),
            ("oauth_expiry", Time),
            ("oauth_access_token_key_id", Text),
            ("oauth_refresh_token_key_id", Text),
            ("oauth_extra", Json),
            ("oauth_refresh_failure_reason", Text),
        ],
    ),
    used(
        "gitsshkeys",
        &[("user_id", Uuid), ("private_key", Text), ("public_key", Text)],
    ),
    used("site_configs", &[("key", Text), ("value", Text)]),
    used(
        "notification_templates",
        &[
            ("id", Uuid),
            ("name", Text),
            ("actions", Json),
            ("method", Enum("notification_method")),
        ],
    ),
    filled(
        "notification_messages",
        &[
            ("id", Uuid),
            ("notification_template_id", Uuid),
            ("user_id", Uuid),
            ("method", Enum("notification_method")),
            ("created_by", Text),
            ("payload", Json),
            ("targets", UuidArray),
            ("created_at", Time),
        ],
    ),
    filled("tailnet_coordinators", &[("id", Uuid), ("heartbeat_at", Time)]),
    filled(
        "tailnet_peers",
        &[
            ("id", Uuid),
            ("coordinator_id", Uuid),
            ("updated_at", Time),
            ("node", Bytes),
            ("status", Enum("tailnet_status")),
        ],
    ),
    filled(
        "tailnet_tunnels",
        &[
            ("coordinator_id", Uuid),
            ("src_id", Uuid),
            ("dst_id", Uuid),
            ("updated_at", Time),
        ],
    ),
];

/// Labels that are written or compared with, by type.
pub(super) const LABELS: &[(&str, &[&str])] = &[
    ("workspace_transition", &["start", "stop", "delete"]),
    ("provisioner_job_status", &["pending", "running", "succeeded"]),
    (
        "workspace_agent_lifecycle_state",
        &[
            "created",
            "starting",
            "start_timeout",
            "start_error",
            "ready",
            "shutting_down",
            "shutdown_timeout",
            "shutdown_error",
            "off",
        ],
    ),
    (
        "workspace_agent_subsystem",
        &["envbuilder", "envbox", "exectrace"],
    ),
    (
        "display_app",
        &[
            "vscode",
            "vscode_insiders",
            "web_terminal",
            "ssh_helper",
            "port_forwarding_helper",
        ],
    ),
    ("agent_key_scope_enum", &["all", "no_user_data"]),
    ("log_level", &["trace", "debug", "info", "warn", "error"]),
    ("workspace_agent_monitor_state", &["OK", "NOK"]),
    ("workspace_agent_script_timing_stage", &["start", "stop", "cron"]),
    (
        "workspace_agent_script_timing_status",
        &["ok", "exit_failure", "timed_out", "pipes_left_open"],
    ),
    (
        "workspace_app_health",
        &["disabled", "initializing", "healthy", "unhealthy"],
    ),
    (
        "app_sharing_level",
        &["owner", "authenticated", "organization", "public"],
    ),
    ("workspace_app_open_in", &["tab", "window", "slim-window"]),
    (
        "workspace_app_status_state",
        &["working", "complete", "failure", "idle"],
    ),
    (
        "connection_type",
        &["ssh", "vscode", "jetbrains", "reconnecting_pty"],
    ),
    ("notification_method", &["smtp", "webhook", "inbox"]),
    ("tailnet_status", &["ok", "lost"]),
];

/// Columns that must be unique together, for an insert meets them with `ON CONFLICT`.
pub(super) const UNIQUE: &[(&str, &[&str])] = &[
    ("workspace_agents", &["id"]),
    ("workspace_apps", &["id"]),
    ("workspace_app_statuses", &["id"]),
    (
        "connection_logs",
        &["connection_id", "workspace_id", "agent_name"],
    ),
    ("boundary_usage_stats", &["replica_id"]),
    ("tailnet_coordinators", &["id"]),
    ("tailnet_peers", &["id", "coordinator_id"]),
    ("tailnet_tunnels", &["coordinator_id", "src_id", "dst_id"]),
];

/// Primary keys of one column that a statement groups by, and reads other columns of.
pub(super) const PRIMARY: &[(&str, &str)] = &[("workspace_builds", "id")];

/// Constraints and unique indexes that an error is told by.
pub(super) const NAMED: &[(&str, &str)] = &[
    ("workspace_agents", "max_logs_length"),
    ("workspace_agent_log_sources", "workspace_agent_log_sources_pkey"),
    (
        "workspace_agent_script_timings",
        "workspace_agent_script_timings_script_id_started_at_key",
    ),
    ("notification_messages", "notification_messages_dedupe_hash_idx"),
];

/// Triggers that keep rules which no statement here looks at.
pub(super) const TRIGGERS: &[(&str, &str)] = &[
    ("workspace_agents", "workspace_agent_name_unique_trigger"),
    ("notification_messages", "inhibit_enqueue_if_disabled"),
    ("notification_messages", "update_notification_message_dedupe_hash"),
];
