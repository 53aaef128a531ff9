-- Tables, columns, labels and constraint names are the original's (a subset); tables of our own begin with drpcd_.
-- uuid: BLOB of 16 bytes. Time: INTEGER microseconds since 1970 in UTC; year 1, -62135596800000000, stands for "never"
-- in columns that cannot be NULL. bool: 0 or 1. enum: TEXT with CHECK. json and arrays: JSON TEXT. inet: TEXT.

CREATE TABLE users (
    id           BLOB PRIMARY KEY CHECK (length(id) = 16),
    email        TEXT NOT NULL,
    username     TEXT NOT NULL DEFAULT '' CONSTRAINT users_username_min_length CHECK (length(username) >= 1),
    name         TEXT NOT NULL DEFAULT '',
    created_at   INTEGER NOT NULL,
    updated_at   INTEGER NOT NULL,
    status       TEXT NOT NULL DEFAULT 'dormant' CHECK (status IN ('active', 'suspended', 'dormant')),
    rbac_roles   TEXT NOT NULL DEFAULT '[]',
    deleted      INTEGER NOT NULL DEFAULT 0 CHECK (deleted IN (0, 1)),
    is_system    INTEGER NOT NULL DEFAULT 0 CHECK (is_system IN (0, 1)),
    last_seen_at INTEGER NOT NULL DEFAULT -62135596800000000
) STRICT;
CREATE UNIQUE INDEX users_email_lower_idx ON users (lower(email)) WHERE deleted = 0;
CREATE UNIQUE INDEX users_username_lower_idx ON users (lower(username)) WHERE deleted = 0;

CREATE TABLE gitsshkeys (
    user_id     BLOB PRIMARY KEY CHECK (length(user_id) = 16) REFERENCES users (id),
    created_at  INTEGER NOT NULL,
    updated_at  INTEGER NOT NULL,
    private_key TEXT NOT NULL,
    public_key  TEXT NOT NULL
) STRICT;

CREATE TABLE external_auth_links (
    provider_id                    TEXT NOT NULL,
    user_id                        BLOB NOT NULL CHECK (length(user_id) = 16) REFERENCES users (id),
    created_at                     INTEGER NOT NULL,
    updated_at                     INTEGER NOT NULL,
    oauth_access_token             TEXT NOT NULL,
    oauth_refresh_token            TEXT NOT NULL,
    oauth_expiry                   INTEGER NOT NULL,
    oauth_access_token_key_id      TEXT,
    oauth_refresh_token_key_id     TEXT,
    oauth_extra                    TEXT,
    oauth_refresh_failure_reason   TEXT NOT NULL DEFAULT '',
    UNIQUE (provider_id, user_id)
) STRICT;

CREATE TABLE organizations (
    id           BLOB PRIMARY KEY CHECK (length(id) = 16),
    name         TEXT NOT NULL,
    description  TEXT NOT NULL DEFAULT '',
    display_name TEXT NOT NULL DEFAULT '',
    icon         TEXT NOT NULL DEFAULT '',
    created_at   INTEGER NOT NULL,
    updated_at   INTEGER NOT NULL,
    is_default   INTEGER NOT NULL DEFAULT 0 CHECK (is_default IN (0, 1)),
    deleted      INTEGER NOT NULL DEFAULT 0 CHECK (deleted IN (0, 1))
) STRICT;
CREATE UNIQUE INDEX idx_organization_name_lower ON organizations (lower(name)) WHERE deleted = 0;
CREATE UNIQUE INDEX organizations_single_default_org ON organizations (is_default) WHERE is_default = 1;

CREATE TABLE templates (
    id                   BLOB PRIMARY KEY CHECK (length(id) = 16),
    organization_id      BLOB NOT NULL CHECK (length(organization_id) = 16) REFERENCES organizations (id),
    active_version_id    BLOB NOT NULL CHECK (length(active_version_id) = 16),
    created_by           BLOB NOT NULL CHECK (length(created_by) = 16) REFERENCES users (id),
    created_at           INTEGER NOT NULL,
    updated_at           INTEGER NOT NULL,
    deleted              INTEGER NOT NULL DEFAULT 0 CHECK (deleted IN (0, 1)),
    name                 TEXT NOT NULL CHECK (length(name) <= 64),
    provisioner          TEXT NOT NULL,
    default_ttl          INTEGER NOT NULL DEFAULT 604800000000000,
    activity_bump        INTEGER NOT NULL DEFAULT 3600000000000,
    allow_user_autostop  INTEGER NOT NULL DEFAULT 1 CHECK (allow_user_autostop IN (0, 1))
) STRICT;
CREATE UNIQUE INDEX templates_organization_id_name_idx ON templates (organization_id, lower(name)) WHERE deleted = 0;

CREATE TABLE template_versions (
    id              BLOB PRIMARY KEY CHECK (length(id) = 16),
    template_id     BLOB CHECK (length(template_id) = 16) REFERENCES templates (id),
    organization_id BLOB NOT NULL CHECK (length(organization_id) = 16) REFERENCES organizations (id),
    job_id          BLOB NOT NULL CHECK (length(job_id) = 16),
    created_by      BLOB NOT NULL CHECK (length(created_by) = 16) REFERENCES users (id),
    created_at      INTEGER NOT NULL,
    updated_at      INTEGER NOT NULL,
    name            TEXT NOT NULL CHECK (length(name) <= 64),
    readme          TEXT NOT NULL,
    UNIQUE (template_id, name)
) STRICT;

CREATE TABLE provisioner_jobs (
    id              BLOB PRIMARY KEY CHECK (length(id) = 16),
    organization_id BLOB NOT NULL CHECK (length(organization_id) = 16),
    initiator_id    BLOB NOT NULL CHECK (length(initiator_id) = 16),
    file_id         BLOB NOT NULL CHECK (length(file_id) = 16),
    created_at      INTEGER NOT NULL,
    updated_at      INTEGER NOT NULL,
    started_at      INTEGER,
    canceled_at     INTEGER,
    completed_at    INTEGER,
    error           TEXT,
    provisioner     TEXT NOT NULL,
    storage_method  TEXT NOT NULL,
    type            TEXT NOT NULL
        CHECK (type IN ('template_version_import', 'workspace_build', 'template_version_dry_run')),
    input           TEXT NOT NULL,
    job_status      TEXT GENERATED ALWAYS AS (
        CASE
            WHEN completed_at IS NOT NULL THEN
                CASE WHEN error <> '' THEN 'failed' WHEN canceled_at IS NOT NULL THEN 'canceled' ELSE 'succeeded' END
            WHEN error <> '' THEN 'failed'
            WHEN canceled_at IS NOT NULL THEN 'canceling'
            WHEN started_at IS NULL THEN 'pending'
            ELSE 'running'
        END
    ) STORED
) STRICT;

CREATE TABLE workspaces (
    id                 BLOB PRIMARY KEY CHECK (length(id) = 16),
    created_at         INTEGER NOT NULL,
    updated_at         INTEGER NOT NULL,
    owner_id           BLOB NOT NULL CHECK (length(owner_id) = 16) REFERENCES users (id),
    organization_id    BLOB NOT NULL CHECK (length(organization_id) = 16) REFERENCES organizations (id),
    template_id        BLOB NOT NULL CHECK (length(template_id) = 16) REFERENCES templates (id),
    deleted            INTEGER NOT NULL DEFAULT 0 CHECK (deleted IN (0, 1)),
    name               TEXT NOT NULL CHECK (length(name) <= 64),
    autostart_schedule TEXT,
    ttl                INTEGER,
    last_used_at       INTEGER NOT NULL DEFAULT -62135596800000000
) STRICT;
CREATE UNIQUE INDEX workspaces_owner_id_lower_idx ON workspaces (owner_id, lower(name)) WHERE deleted = 0;

CREATE TABLE workspace_builds (
    id                  BLOB PRIMARY KEY CHECK (length(id) = 16),
    created_at          INTEGER NOT NULL,
    updated_at          INTEGER NOT NULL,
    workspace_id        BLOB NOT NULL CHECK (length(workspace_id) = 16) REFERENCES workspaces (id) ON DELETE CASCADE,
    template_version_id BLOB NOT NULL CHECK (length(template_version_id) = 16) REFERENCES template_versions (id),
    build_number        INTEGER NOT NULL,
    transition          TEXT NOT NULL CHECK (transition IN ('start', 'stop', 'delete')),
    initiator_id        BLOB NOT NULL CHECK (length(initiator_id) = 16),
    job_id              BLOB NOT NULL UNIQUE CHECK (length(job_id) = 16) REFERENCES provisioner_jobs (id),
    deadline            INTEGER NOT NULL DEFAULT -62135596800000000,
    max_deadline        INTEGER NOT NULL DEFAULT -62135596800000000,
    reason              TEXT NOT NULL DEFAULT 'initiator',
    UNIQUE (workspace_id, build_number),
    CONSTRAINT workspace_builds_deadline_below_max_deadline CHECK (
        max_deadline = -62135596800000000 OR (deadline <> -62135596800000000 AND deadline <= max_deadline)
    )
) STRICT;

CREATE TABLE workspace_resources (
    id         BLOB PRIMARY KEY CHECK (length(id) = 16),
    created_at INTEGER NOT NULL,
    job_id     BLOB NOT NULL CHECK (length(job_id) = 16) REFERENCES provisioner_jobs (id),
    transition TEXT NOT NULL CHECK (transition IN ('start', 'stop', 'delete')),
    type       TEXT NOT NULL CHECK (length(type) <= 192),
    name       TEXT NOT NULL CHECK (length(name) <= 64)
) STRICT;
CREATE INDEX workspace_resources_job_id_idx ON workspace_resources (job_id);

CREATE TABLE workspace_agents (
    id                         BLOB PRIMARY KEY CHECK (length(id) = 16),
    parent_id                  BLOB CHECK (length(parent_id) = 16) REFERENCES workspace_agents (id) ON DELETE CASCADE,
    created_at                 INTEGER NOT NULL,
    updated_at                 INTEGER NOT NULL,
    name                       TEXT NOT NULL CHECK (length(name) <= 64),
    first_connected_at         INTEGER,
    last_connected_at          INTEGER,
    disconnected_at            INTEGER,
    resource_id                BLOB NOT NULL CHECK (length(resource_id) = 16)
        REFERENCES workspace_resources (id) ON DELETE CASCADE,
    auth_token                 BLOB NOT NULL CHECK (length(auth_token) = 16),
    auth_instance_id           TEXT,
    architecture               TEXT NOT NULL CHECK (length(architecture) <= 64),
    operating_system           TEXT NOT NULL CHECK (length(operating_system) <= 64),
    environment_variables      TEXT,
    directory                  TEXT NOT NULL DEFAULT '' CHECK (length(directory) <= 4096),
    version                    TEXT NOT NULL DEFAULT '',
    last_connected_replica_id  BLOB CHECK (length(last_connected_replica_id) = 16),
    connection_timeout_seconds INTEGER NOT NULL DEFAULT 0,
    troubleshooting_url        TEXT NOT NULL DEFAULT '',
    motd_file                  TEXT NOT NULL DEFAULT '',
    lifecycle_state            TEXT NOT NULL DEFAULT 'created' CHECK (lifecycle_state IN ('created', 'starting',
        'start_timeout', 'start_error', 'ready', 'shutting_down', 'shutdown_timeout', 'shutdown_error', 'off')),
    expanded_directory         TEXT NOT NULL DEFAULT '' CHECK (length(expanded_directory) <= 4096),
    logs_length                INTEGER NOT NULL DEFAULT 0 CONSTRAINT max_logs_length CHECK (logs_length <= 1048576),
    logs_overflowed            INTEGER NOT NULL DEFAULT 0 CHECK (logs_overflowed IN (0, 1)),
    started_at                 INTEGER,
    ready_at                   INTEGER,
    subsystems                 TEXT NOT NULL DEFAULT '[]'
        CONSTRAINT subsystems_not_none CHECK (subsystems NOT LIKE '%"none"%'),
    display_apps               TEXT NOT NULL
        DEFAULT '["vscode","vscode_insiders","web_terminal","ssh_helper","port_forwarding_helper"]',
    api_version                TEXT NOT NULL DEFAULT '',
    display_order              INTEGER NOT NULL DEFAULT 0,
    api_key_scope              TEXT NOT NULL DEFAULT 'all' CHECK (api_key_scope IN ('all', 'no_user_data')),
    deleted                    INTEGER NOT NULL DEFAULT 0 CHECK (deleted IN (0, 1))
) STRICT;
CREATE INDEX workspace_agents_auth_token_idx ON workspace_agents (auth_token);
CREATE INDEX workspace_agents_resource_id_idx ON workspace_agents (resource_id);
CREATE INDEX workspace_agents_parent_id_idx ON workspace_agents (parent_id) WHERE parent_id IS NOT NULL;

CREATE TABLE workspace_apps (
    id                    BLOB PRIMARY KEY CHECK (length(id) = 16),
    created_at            INTEGER NOT NULL,
    agent_id              BLOB NOT NULL CHECK (length(agent_id) = 16) REFERENCES workspace_agents (id) ON DELETE CASCADE,
    slug                  TEXT NOT NULL,
    display_name          TEXT NOT NULL CHECK (length(display_name) <= 64),
    icon                  TEXT NOT NULL CHECK (length(icon) <= 256),
    command               TEXT CHECK (length(command) <= 65534),
    url                   TEXT CHECK (length(url) <= 65534),
    healthcheck_url       TEXT NOT NULL DEFAULT '',
    healthcheck_interval  INTEGER NOT NULL DEFAULT 0,
    healthcheck_threshold INTEGER NOT NULL DEFAULT 0,
    health                TEXT NOT NULL DEFAULT 'disabled'
        CHECK (health IN ('disabled', 'initializing', 'healthy', 'unhealthy')),
    subdomain             INTEGER NOT NULL DEFAULT 0 CHECK (subdomain IN (0, 1)),
    sharing_level         TEXT NOT NULL DEFAULT 'owner'
        CHECK (sharing_level IN ('owner', 'authenticated', 'organization', 'public')),
    external              INTEGER NOT NULL DEFAULT 0 CHECK (external IN (0, 1)),
    display_order         INTEGER NOT NULL DEFAULT 0,
    hidden                INTEGER NOT NULL DEFAULT 0 CHECK (hidden IN (0, 1)),
    open_in               TEXT NOT NULL DEFAULT 'slim-window' CHECK (open_in IN ('tab', 'window', 'slim-window')),
    display_group         TEXT,
    tooltip               TEXT NOT NULL DEFAULT '' CHECK (length(tooltip) <= 2048),
    UNIQUE (agent_id, slug)
) STRICT;

CREATE TABLE workspace_app_statuses (
    id           BLOB PRIMARY KEY CHECK (length(id) = 16),
    created_at   INTEGER NOT NULL,
    agent_id     BLOB NOT NULL CHECK (length(agent_id) = 16) REFERENCES workspace_agents (id),
    app_id       BLOB NOT NULL CHECK (length(app_id) = 16) REFERENCES workspace_apps (id),
    workspace_id BLOB NOT NULL CHECK (length(workspace_id) = 16) REFERENCES workspaces (id),
    state        TEXT NOT NULL CHECK (state IN ('working', 'complete', 'failure', 'idle')),
    message      TEXT NOT NULL,
    uri          TEXT
) STRICT;
CREATE INDEX idx_workspace_app_statuses_app_id_created_at ON workspace_app_statuses (app_id, created_at DESC);

CREATE TABLE workspace_agent_log_sources (
    workspace_agent_id BLOB NOT NULL CHECK (length(workspace_agent_id) = 16)
        REFERENCES workspace_agents (id) ON DELETE CASCADE,
    id                 BLOB NOT NULL CHECK (length(id) = 16),
    created_at         INTEGER NOT NULL,
    display_name       TEXT NOT NULL CHECK (length(display_name) <= 127),
    icon               TEXT NOT NULL,
    PRIMARY KEY (workspace_agent_id, id)
) STRICT;

CREATE TABLE workspace_agent_logs (
    id            INTEGER PRIMARY KEY AUTOINCREMENT,
    agent_id      BLOB NOT NULL CHECK (length(agent_id) = 16) REFERENCES workspace_agents (id) ON DELETE CASCADE,
    created_at    INTEGER NOT NULL,
    output        TEXT NOT NULL CHECK (length(output) <= 1024),
    level         TEXT NOT NULL DEFAULT 'info' CHECK (level IN ('trace', 'debug', 'info', 'warn', 'error')),
    log_source_id BLOB NOT NULL DEFAULT x'00000000000000000000000000000000' CHECK (length(log_source_id) = 16)
) STRICT;
CREATE INDEX workspace_agent_logs_id_agent_id_idx ON workspace_agent_logs (agent_id, id);

CREATE TABLE workspace_agent_scripts (
    id                 BLOB PRIMARY KEY CHECK (length(id) = 16),
    workspace_agent_id BLOB NOT NULL CHECK (length(workspace_agent_id) = 16)
        REFERENCES workspace_agents (id) ON DELETE CASCADE,
    log_source_id      BLOB NOT NULL CHECK (length(log_source_id) = 16),
    log_path           TEXT NOT NULL,
    script             TEXT NOT NULL,
    cron               TEXT NOT NULL,
    display_name       TEXT NOT NULL,
    created_at         INTEGER NOT NULL,
    start_blocks_login INTEGER NOT NULL CHECK (start_blocks_login IN (0, 1)),
    run_on_start       INTEGER NOT NULL CHECK (run_on_start IN (0, 1)),
    run_on_stop        INTEGER NOT NULL CHECK (run_on_stop IN (0, 1)),
    timeout_seconds    INTEGER NOT NULL
) STRICT;
CREATE INDEX workspace_agent_scripts_workspace_agent_id_idx ON workspace_agent_scripts (workspace_agent_id);

CREATE TABLE workspace_agent_script_timings (
    script_id  BLOB NOT NULL CHECK (length(script_id) = 16)
        REFERENCES workspace_agent_scripts (id) ON DELETE CASCADE,
    started_at INTEGER NOT NULL,
    ended_at   INTEGER NOT NULL,
    exit_code  INTEGER NOT NULL,
    stage      TEXT NOT NULL CHECK (stage IN ('start', 'stop', 'cron')),
    status     TEXT NOT NULL CHECK (status IN ('ok', 'exit_failure', 'timed_out', 'pipes_left_open')),
    CONSTRAINT workspace_agent_script_timings_script_id_started_at_key UNIQUE (script_id, started_at)
) STRICT;

CREATE TABLE workspace_agent_metadata (
    workspace_agent_id BLOB NOT NULL CHECK (length(workspace_agent_id) = 16)
        REFERENCES workspace_agents (id) ON DELETE CASCADE,
    key                TEXT NOT NULL CHECK (length(key) <= 127),
    display_name       TEXT NOT NULL CHECK (length(display_name) <= 127),
    script             TEXT NOT NULL CHECK (length(script) <= 65535),
    value              TEXT NOT NULL DEFAULT '' CHECK (length(value) <= 65535),
    error              TEXT NOT NULL DEFAULT '' CHECK (length(error) <= 65535),
    timeout            INTEGER NOT NULL,
    interval           INTEGER NOT NULL,
    collected_at       INTEGER NOT NULL DEFAULT -62135596800000000,
    display_order      INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (workspace_agent_id, key)
) STRICT, WITHOUT ROWID;

CREATE TABLE workspace_agent_stats (
    id                             BLOB PRIMARY KEY CHECK (length(id) = 16),
    created_at                     INTEGER NOT NULL,
    user_id                        BLOB NOT NULL CHECK (length(user_id) = 16),
    agent_id                       BLOB NOT NULL CHECK (length(agent_id) = 16),
    workspace_id                   BLOB NOT NULL CHECK (length(workspace_id) = 16),
    template_id                    BLOB NOT NULL CHECK (length(template_id) = 16),
    connections_by_proto           TEXT NOT NULL DEFAULT '{}',
    connection_count               INTEGER NOT NULL DEFAULT 0,
    rx_packets                     INTEGER NOT NULL DEFAULT 0,
    rx_bytes                       INTEGER NOT NULL DEFAULT 0,
    tx_packets                     INTEGER NOT NULL DEFAULT 0,
    tx_bytes                       INTEGER NOT NULL DEFAULT 0,
    connection_median_latency_ms   REAL NOT NULL DEFAULT -1,
    session_count_vscode           INTEGER NOT NULL DEFAULT 0,
    session_count_jetbrains        INTEGER NOT NULL DEFAULT 0,
    session_count_reconnecting_pty INTEGER NOT NULL DEFAULT 0,
    session_count_ssh              INTEGER NOT NULL DEFAULT 0,
    usage                          INTEGER NOT NULL DEFAULT 0 CHECK (usage IN (0, 1))
) STRICT;
CREATE INDEX idx_agent_stats_created_at ON workspace_agent_stats (created_at);

CREATE TABLE workspace_agent_memory_resource_monitors (
    agent_id        BLOB PRIMARY KEY CHECK (length(agent_id) = 16) REFERENCES workspace_agents (id) ON DELETE CASCADE,
    enabled         INTEGER NOT NULL CHECK (enabled IN (0, 1)),
    threshold       INTEGER NOT NULL,
    created_at      INTEGER NOT NULL,
    updated_at      INTEGER NOT NULL,
    state           TEXT NOT NULL DEFAULT 'OK' CHECK (state IN ('OK', 'NOK')),
    debounced_until INTEGER NOT NULL DEFAULT -62135596800000000
) STRICT;

CREATE TABLE workspace_agent_volume_resource_monitors (
    agent_id        BLOB NOT NULL CHECK (length(agent_id) = 16) REFERENCES workspace_agents (id) ON DELETE CASCADE,
    path            TEXT NOT NULL,
    enabled         INTEGER NOT NULL CHECK (enabled IN (0, 1)),
    threshold       INTEGER NOT NULL,
    created_at      INTEGER NOT NULL,
    updated_at      INTEGER NOT NULL,
    state           TEXT NOT NULL DEFAULT 'OK' CHECK (state IN ('OK', 'NOK')),
    debounced_until INTEGER NOT NULL DEFAULT -62135596800000000,
    PRIMARY KEY (agent_id, path)
) STRICT;

CREATE TABLE workspace_agent_devcontainers (
    id                 BLOB PRIMARY KEY CHECK (length(id) = 16),
    workspace_agent_id BLOB NOT NULL CHECK (length(workspace_agent_id) = 16)
        REFERENCES workspace_agents (id) ON DELETE CASCADE,
    created_at         INTEGER NOT NULL,
    workspace_folder   TEXT NOT NULL,
    config_path        TEXT NOT NULL,
    name               TEXT NOT NULL,
    subagent_id        BLOB CHECK (length(subagent_id) = 16) REFERENCES workspace_agents (id) ON DELETE SET NULL
) STRICT;
CREATE INDEX workspace_agent_devcontainers_workspace_agent_id ON workspace_agent_devcontainers (workspace_agent_id);

CREATE TABLE connection_logs (
    id                 BLOB PRIMARY KEY CHECK (length(id) = 16),
    connect_time       INTEGER NOT NULL,
    organization_id    BLOB NOT NULL CHECK (length(organization_id) = 16) REFERENCES organizations (id) ON DELETE CASCADE,
    workspace_owner_id BLOB NOT NULL CHECK (length(workspace_owner_id) = 16) REFERENCES users (id) ON DELETE CASCADE,
    workspace_id       BLOB NOT NULL CHECK (length(workspace_id) = 16) REFERENCES workspaces (id) ON DELETE CASCADE,
    workspace_name     TEXT NOT NULL,
    agent_name         TEXT NOT NULL,
    type               TEXT NOT NULL CHECK (type IN ('ssh', 'vscode', 'jetbrains', 'reconnecting_pty', 'workspace_app',
        'port_forwarding')),
    ip                 TEXT,
    code               INTEGER,
    user_agent         TEXT,
    user_id            BLOB CHECK (length(user_id) = 16),
    slug_or_port       TEXT,
    connection_id      BLOB CHECK (length(connection_id) = 16),
    disconnect_time    INTEGER,
    disconnect_reason  TEXT
) STRICT;
CREATE UNIQUE INDEX idx_connection_logs_connection_id_workspace_id_agent_name
    ON connection_logs (connection_id, workspace_id, agent_name);
CREATE INDEX idx_connection_logs_connect_time_desc ON connection_logs (connect_time DESC);

CREATE TABLE boundary_usage_stats (
    replica_id              BLOB PRIMARY KEY CHECK (length(replica_id) = 16),
    unique_workspaces_count INTEGER NOT NULL DEFAULT 0,
    unique_users_count      INTEGER NOT NULL DEFAULT 0,
    allowed_requests        INTEGER NOT NULL DEFAULT 0,
    denied_requests         INTEGER NOT NULL DEFAULT 0,
    window_start            INTEGER NOT NULL,
    updated_at              INTEGER NOT NULL
) STRICT;

CREATE TABLE site_configs (
    key   TEXT PRIMARY KEY CHECK (length(key) <= 256),
    value TEXT NOT NULL
) STRICT;

-- Events from one process to another, see store/sqlite/events.rs.
CREATE TABLE drpcd_events (
    id         INTEGER PRIMARY KEY AUTOINCREMENT,
    channel    TEXT NOT NULL,
    payload    TEXT NOT NULL,
    created_at INTEGER NOT NULL
) STRICT;

CREATE VIEW workspace_latest_builds AS
SELECT build.*
FROM workspace_builds AS build
WHERE build.build_number =
    (SELECT max(latest.build_number) FROM workspace_builds AS latest WHERE latest.workspace_id = build.workspace_id);
