-- Tables, columns, labels, lengths and constraint names are those of coder/coder (`coderd/database/dump.sql`), less
-- what nothing here reads or writes. Types: uuid BLOB(16); time INTEGER microseconds since 1970, where
-- -62135596800000000 is year 1 and stands for "never"; bool 0/1; enum TEXT with CHECK; jsonb and arrays JSON TEXT.
-- Tables with the prefix drpcd_ are our own.

CREATE TABLE users (
    id         BLOB    NOT NULL PRIMARY KEY CHECK (length(id) = 16),
    email      TEXT    NOT NULL,
    username   TEXT    NOT NULL DEFAULT '' CONSTRAINT users_username_min_length CHECK (length(username) >= 1),
    name       TEXT    NOT NULL DEFAULT '',
    status     TEXT    NOT NULL DEFAULT 'dormant' CHECK (status IN ('active', 'suspended', 'dormant')),
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    deleted    INTEGER NOT NULL DEFAULT 0 CHECK (deleted IN (0, 1)),
    is_system  INTEGER NOT NULL DEFAULT 0 CHECK (is_system IN (0, 1))
) STRICT;
CREATE UNIQUE INDEX users_email_lower_idx ON users (lower(email)) WHERE deleted = 0;
CREATE UNIQUE INDEX users_username_lower_idx ON users (lower(username)) WHERE deleted = 0;

CREATE TABLE organizations (
    id           BLOB    NOT NULL PRIMARY KEY CHECK (length(id) = 16),
    name         TEXT    NOT NULL,
    display_name TEXT    NOT NULL,
    is_default   INTEGER NOT NULL DEFAULT 0 CHECK (is_default IN (0, 1)),
    deleted      INTEGER NOT NULL DEFAULT 0 CHECK (deleted IN (0, 1)),
    created_at   INTEGER NOT NULL,
    updated_at   INTEGER NOT NULL
) STRICT;
CREATE UNIQUE INDEX idx_organization_name_lower ON organizations (lower(name)) WHERE deleted = 0;
CREATE UNIQUE INDEX organizations_single_default_org ON organizations (is_default) WHERE is_default = 1;

CREATE TABLE gitsshkeys (
    user_id     BLOB    NOT NULL PRIMARY KEY REFERENCES users (id),
    created_at  INTEGER NOT NULL,
    updated_at  INTEGER NOT NULL,
    private_key TEXT    NOT NULL,
    public_key  TEXT    NOT NULL
) STRICT;

CREATE TABLE external_auth_links (
    provider_id                  TEXT    NOT NULL,
    user_id                      BLOB    NOT NULL CHECK (length(user_id) = 16),
    created_at                   INTEGER NOT NULL,
    updated_at                   INTEGER NOT NULL,
    oauth_access_token           TEXT    NOT NULL,
    oauth_refresh_token          TEXT    NOT NULL,
    oauth_expiry                 INTEGER NOT NULL,
    -- Not NULL says that the token is encrypted, which nothing here can undo.
    oauth_access_token_key_id    TEXT,
    oauth_refresh_token_key_id   TEXT,
    oauth_extra                  TEXT    CHECK (json_valid(oauth_extra)),
    oauth_refresh_failure_reason TEXT    NOT NULL DEFAULT '',
    PRIMARY KEY (provider_id, user_id)
) STRICT;

CREATE TABLE site_configs (
    "key" TEXT NOT NULL PRIMARY KEY CHECK (length("key") <= 256),
    value TEXT NOT NULL
) STRICT;

CREATE TABLE provisioner_jobs (
    id              BLOB    NOT NULL PRIMARY KEY CHECK (length(id) = 16),
    organization_id BLOB    NOT NULL REFERENCES organizations (id) ON DELETE CASCADE,
    initiator_id    BLOB    NOT NULL CHECK (length(initiator_id) = 16),
    type            TEXT    NOT NULL
        CHECK (type IN ('template_version_import', 'workspace_build', 'template_version_dry_run')),
    created_at      INTEGER NOT NULL,
    updated_at      INTEGER NOT NULL,
    started_at      INTEGER,
    canceled_at     INTEGER,
    completed_at    INTEGER,
    error           TEXT,
    job_status      TEXT    NOT NULL GENERATED ALWAYS AS (
        CASE
            WHEN completed_at IS NOT NULL THEN
                CASE
                    WHEN error <> '' THEN 'failed'
                    WHEN canceled_at IS NOT NULL THEN 'canceled'
                    ELSE 'succeeded'
                END
            WHEN error <> '' THEN 'failed'
            WHEN canceled_at IS NOT NULL THEN 'canceling'
            WHEN started_at IS NULL THEN 'pending'
            ELSE 'running'
        END
    ) STORED
) STRICT;
CREATE INDEX idx_provisioner_jobs_organization ON provisioner_jobs (organization_id);

CREATE TABLE templates (
    id                          BLOB    NOT NULL PRIMARY KEY CHECK (length(id) = 16),
    organization_id             BLOB    NOT NULL REFERENCES organizations (id) ON DELETE CASCADE,
    active_version_id           BLOB    NOT NULL CHECK (length(active_version_id) = 16),
    created_by                  BLOB    NOT NULL REFERENCES users (id) ON DELETE RESTRICT,
    name                        TEXT    NOT NULL CHECK (length(name) <= 64),
    created_at                  INTEGER NOT NULL,
    updated_at                  INTEGER NOT NULL,
    deleted                     INTEGER NOT NULL DEFAULT 0 CHECK (deleted IN (0, 1)),
    -- Nanoseconds.
    default_ttl                 INTEGER NOT NULL DEFAULT 604800000000000,
    activity_bump               INTEGER NOT NULL DEFAULT 3600000000000,
    allow_user_autostart        INTEGER NOT NULL DEFAULT 1 CHECK (allow_user_autostart IN (0, 1)),
    allow_user_autostop         INTEGER NOT NULL DEFAULT 1 CHECK (allow_user_autostop IN (0, 1)),
    -- Bits of the days without autostart, Monday first.
    autostart_block_days_of_week INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE UNIQUE INDEX templates_organization_id_name_idx ON templates (organization_id, lower(name)) WHERE deleted = 0;

CREATE TABLE template_versions (
    id              BLOB    NOT NULL PRIMARY KEY CHECK (length(id) = 16),
    template_id     BLOB    REFERENCES templates (id) ON DELETE CASCADE,
    organization_id BLOB    NOT NULL REFERENCES organizations (id) ON DELETE CASCADE,
    job_id          BLOB    NOT NULL REFERENCES provisioner_jobs (id) ON DELETE CASCADE,
    created_by      BLOB    NOT NULL REFERENCES users (id) ON DELETE RESTRICT,
    name            TEXT    NOT NULL CHECK (length(name) <= 64),
    created_at      INTEGER NOT NULL,
    updated_at      INTEGER NOT NULL,
    UNIQUE (template_id, name)
) STRICT;

CREATE TABLE workspaces (
    id                 BLOB    NOT NULL PRIMARY KEY CHECK (length(id) = 16),
    owner_id           BLOB    NOT NULL REFERENCES users (id) ON DELETE RESTRICT,
    organization_id    BLOB    NOT NULL REFERENCES organizations (id) ON DELETE RESTRICT,
    template_id        BLOB    NOT NULL REFERENCES templates (id) ON DELETE RESTRICT,
    created_at         INTEGER NOT NULL,
    updated_at         INTEGER NOT NULL,
    deleted            INTEGER NOT NULL DEFAULT 0 CHECK (deleted IN (0, 1)),
    name               TEXT    NOT NULL CHECK (length(name) <= 64),
    autostart_schedule TEXT,
    -- Nanoseconds.
    ttl                INTEGER,
    last_used_at       INTEGER NOT NULL DEFAULT -62135596800000000
) STRICT;
CREATE UNIQUE INDEX workspaces_owner_id_lower_idx ON workspaces (owner_id, lower(name)) WHERE deleted = 0;

CREATE TABLE workspace_builds (
    id                  BLOB    NOT NULL PRIMARY KEY CHECK (length(id) = 16),
    workspace_id        BLOB    NOT NULL REFERENCES workspaces (id) ON DELETE CASCADE,
    template_version_id BLOB    NOT NULL REFERENCES template_versions (id) ON DELETE CASCADE,
    initiator_id        BLOB    NOT NULL CHECK (length(initiator_id) = 16),
    job_id              BLOB    NOT NULL UNIQUE REFERENCES provisioner_jobs (id) ON DELETE CASCADE,
    created_at          INTEGER NOT NULL,
    updated_at          INTEGER NOT NULL,
    build_number        INTEGER NOT NULL,
    transition          TEXT    NOT NULL CHECK (transition IN ('start', 'stop', 'delete')),
    deadline            INTEGER NOT NULL DEFAULT -62135596800000000,
    max_deadline        INTEGER NOT NULL DEFAULT -62135596800000000,
    reason              TEXT    NOT NULL DEFAULT 'initiator' CHECK (reason IN (
        'initiator', 'autostart', 'autostop', 'dormancy', 'failedstop', 'autodelete', 'dashboard', 'cli',
        'ssh_connection', 'vscode_connection', 'jetbrains_connection', 'task_auto_pause', 'task_manual_pause',
        'task_resume'
    )),
    UNIQUE (workspace_id, build_number),
    CONSTRAINT workspace_builds_deadline_below_max_deadline CHECK (
        max_deadline = -62135596800000000
        OR (deadline <> -62135596800000000 AND deadline <= max_deadline)
    )
) STRICT;

CREATE TABLE workspace_resources (
    id         BLOB    NOT NULL PRIMARY KEY CHECK (length(id) = 16),
    job_id     BLOB    NOT NULL REFERENCES provisioner_jobs (id) ON DELETE CASCADE,
    created_at INTEGER NOT NULL,
    transition TEXT    NOT NULL CHECK (transition IN ('start', 'stop', 'delete')),
    type       TEXT    NOT NULL CHECK (length(type) <= 192),
    name       TEXT    NOT NULL CHECK (length(name) <= 64)
) STRICT;
CREATE INDEX workspace_resources_job_id_idx ON workspace_resources (job_id);

CREATE TABLE workspace_agents (
    id                         BLOB    NOT NULL PRIMARY KEY CHECK (length(id) = 16),
    parent_id                  BLOB    REFERENCES workspace_agents (id) ON DELETE CASCADE,
    created_at                 INTEGER NOT NULL,
    updated_at                 INTEGER NOT NULL,
    name                       TEXT    NOT NULL CHECK (length(name) <= 64),
    resource_id                BLOB    NOT NULL REFERENCES workspace_resources (id) ON DELETE CASCADE,
    auth_token                 BLOB    NOT NULL CHECK (length(auth_token) = 16),
    architecture               TEXT    NOT NULL CHECK (length(architecture) <= 64),
    operating_system           TEXT    NOT NULL CHECK (length(operating_system) <= 64),
    environment_variables      TEXT    CHECK (json_valid(environment_variables)),
    directory                  TEXT    NOT NULL DEFAULT '' CHECK (length(directory) <= 4096),
    expanded_directory         TEXT    NOT NULL DEFAULT '' CHECK (length(expanded_directory) <= 4096),
    version                    TEXT    NOT NULL DEFAULT '',
    api_version                TEXT    NOT NULL DEFAULT '',
    troubleshooting_url        TEXT    NOT NULL DEFAULT '',
    motd_file                  TEXT    NOT NULL DEFAULT '',
    first_connected_at         INTEGER,
    last_connected_at          INTEGER,
    disconnected_at            INTEGER,
    started_at                 INTEGER,
    ready_at                   INTEGER,
    last_connected_replica_id  BLOB    CHECK (length(last_connected_replica_id) = 16),
    -- Seconds; 0 is never.
    connection_timeout_seconds INTEGER NOT NULL DEFAULT 0,
    lifecycle_state            TEXT    NOT NULL DEFAULT 'created' CHECK (lifecycle_state IN (
        'created', 'starting', 'start_timeout', 'start_error', 'ready', 'shutting_down', 'shutdown_timeout',
        'shutdown_error', 'off'
    )),
    logs_length                INTEGER NOT NULL DEFAULT 0 CONSTRAINT max_logs_length CHECK (logs_length <= 1048576),
    logs_overflowed            INTEGER NOT NULL DEFAULT 0 CHECK (logs_overflowed IN (0, 1)),
    subsystems                 TEXT    NOT NULL DEFAULT '[]'
        CONSTRAINT subsystems_not_none CHECK (json_valid(subsystems) AND subsystems NOT LIKE '%"none"%'),
    display_apps               TEXT    NOT NULL
        DEFAULT '["vscode","vscode_insiders","web_terminal","ssh_helper","port_forwarding_helper"]'
        CHECK (json_valid(display_apps)),
    display_order              INTEGER NOT NULL DEFAULT 0,
    api_key_scope              TEXT    NOT NULL DEFAULT 'all' CHECK (api_key_scope IN ('all', 'no_user_data')),
    -- Only sub agents are ever marked.
    deleted                    INTEGER NOT NULL DEFAULT 0 CHECK (deleted IN (0, 1))
) STRICT;
CREATE INDEX workspace_agents_auth_token_idx ON workspace_agents (auth_token);
CREATE INDEX workspace_agents_resource_id_idx ON workspace_agents (resource_id);
CREATE INDEX workspace_agents_parent_id_idx ON workspace_agents (parent_id) WHERE parent_id IS NOT NULL;

CREATE TABLE workspace_apps (
    id                    BLOB    NOT NULL PRIMARY KEY CHECK (length(id) = 16),
    created_at            INTEGER NOT NULL,
    agent_id              BLOB    NOT NULL REFERENCES workspace_agents (id) ON DELETE CASCADE,
    slug                  TEXT    NOT NULL,
    display_name          TEXT    NOT NULL CHECK (length(display_name) <= 64),
    icon                  TEXT    NOT NULL CHECK (length(icon) <= 256),
    command               TEXT    CHECK (length(command) <= 65534),
    url                   TEXT    CHECK (length(url) <= 65534),
    healthcheck_url       TEXT    NOT NULL DEFAULT '',
    -- Seconds.
    healthcheck_interval  INTEGER NOT NULL DEFAULT 0,
    healthcheck_threshold INTEGER NOT NULL DEFAULT 0,
    health                TEXT    NOT NULL DEFAULT 'disabled'
        CHECK (health IN ('disabled', 'initializing', 'healthy', 'unhealthy')),
    subdomain             INTEGER NOT NULL DEFAULT 0 CHECK (subdomain IN (0, 1)),
    sharing_level         TEXT    NOT NULL DEFAULT 'owner'
        CHECK (sharing_level IN ('owner', 'authenticated', 'organization', 'public')),
    external              INTEGER NOT NULL DEFAULT 0 CHECK (external IN (0, 1)),
    hidden                INTEGER NOT NULL DEFAULT 0 CHECK (hidden IN (0, 1)),
    display_order         INTEGER NOT NULL DEFAULT 0,
    open_in               TEXT    NOT NULL DEFAULT 'slim-window' CHECK (open_in IN ('tab', 'window', 'slim-window')),
    display_group         TEXT,
    tooltip               TEXT    NOT NULL DEFAULT '' CHECK (length(tooltip) <= 2048),
    UNIQUE (agent_id, slug)
) STRICT;

CREATE TABLE workspace_app_statuses (
    id           BLOB    NOT NULL PRIMARY KEY CHECK (length(id) = 16),
    created_at   INTEGER NOT NULL,
    agent_id     BLOB    NOT NULL REFERENCES workspace_agents (id),
    app_id       BLOB    NOT NULL REFERENCES workspace_apps (id),
    workspace_id BLOB    NOT NULL REFERENCES workspaces (id),
    state        TEXT    NOT NULL CHECK (state IN ('working', 'complete', 'failure', 'idle')),
    message      TEXT    NOT NULL,
    uri          TEXT
) STRICT;
CREATE INDEX workspace_app_statuses_app_id_idx ON workspace_app_statuses (app_id, created_at DESC);
CREATE INDEX idx_workspace_app_statuses_workspace_id_created_at
    ON workspace_app_statuses (workspace_id, created_at DESC);
CREATE INDEX workspace_app_statuses_agent_id_idx ON workspace_app_statuses (agent_id);

CREATE TABLE workspace_agent_scripts (
    id                 BLOB    NOT NULL PRIMARY KEY CHECK (length(id) = 16),
    workspace_agent_id BLOB    NOT NULL REFERENCES workspace_agents (id) ON DELETE CASCADE,
    log_source_id      BLOB    NOT NULL CHECK (length(log_source_id) = 16),
    log_path           TEXT    NOT NULL,
    created_at         INTEGER NOT NULL,
    script             TEXT    NOT NULL,
    cron               TEXT    NOT NULL,
    start_blocks_login INTEGER NOT NULL CHECK (start_blocks_login IN (0, 1)),
    run_on_start       INTEGER NOT NULL CHECK (run_on_start IN (0, 1)),
    run_on_stop        INTEGER NOT NULL CHECK (run_on_stop IN (0, 1)),
    timeout_seconds    INTEGER NOT NULL,
    display_name       TEXT    NOT NULL
) STRICT;
CREATE INDEX workspace_agent_scripts_workspace_agent_id_idx ON workspace_agent_scripts (workspace_agent_id);

CREATE TABLE workspace_agent_script_timings (
    script_id  BLOB    NOT NULL REFERENCES workspace_agent_scripts (id) ON DELETE CASCADE,
    started_at INTEGER NOT NULL,
    ended_at   INTEGER NOT NULL,
    exit_code  INTEGER NOT NULL,
    stage      TEXT    NOT NULL CHECK (stage IN ('start', 'stop', 'cron')),
    status     TEXT    NOT NULL CHECK (status IN ('ok', 'exit_failure', 'timed_out', 'pipes_left_open')),
    CONSTRAINT workspace_agent_script_timings_script_id_started_at_key UNIQUE (script_id, started_at)
) STRICT;

CREATE TABLE workspace_agent_log_sources (
    workspace_agent_id BLOB    NOT NULL REFERENCES workspace_agents (id) ON DELETE CASCADE,
    id                 BLOB    NOT NULL CHECK (length(id) = 16),
    created_at         INTEGER NOT NULL,
    display_name       TEXT    NOT NULL CHECK (length(display_name) <= 127),
    icon               TEXT    NOT NULL,
    CONSTRAINT workspace_agent_log_sources_pkey PRIMARY KEY (workspace_agent_id, id)
) STRICT;

CREATE TABLE workspace_agent_logs (
    id            INTEGER PRIMARY KEY AUTOINCREMENT,
    agent_id      BLOB    NOT NULL REFERENCES workspace_agents (id) ON DELETE CASCADE,
    created_at    INTEGER NOT NULL,
    output        TEXT    NOT NULL CHECK (length(output) <= 1024),
    level         TEXT    NOT NULL DEFAULT 'info' CHECK (level IN ('trace', 'debug', 'info', 'warn', 'error')),
    log_source_id BLOB    NOT NULL DEFAULT x'00000000000000000000000000000000' CHECK (length(log_source_id) = 16)
) STRICT;
CREATE INDEX workspace_agent_logs_agent_id_id_idx ON workspace_agent_logs (agent_id, id);

CREATE TABLE workspace_agent_metadata (
    workspace_agent_id BLOB    NOT NULL REFERENCES workspace_agents (id) ON DELETE CASCADE,
    display_name       TEXT    NOT NULL CHECK (length(display_name) <= 127),
    "key"              TEXT    NOT NULL CHECK (length("key") <= 127),
    script             TEXT    NOT NULL CHECK (length(script) <= 65535),
    value              TEXT    NOT NULL DEFAULT '' CHECK (length(value) <= 65535),
    error              TEXT    NOT NULL DEFAULT '' CHECK (length(error) <= 65535),
    -- Seconds.
    timeout            INTEGER NOT NULL,
    "interval"         INTEGER NOT NULL,
    collected_at       INTEGER NOT NULL DEFAULT -62135596800000000,
    display_order      INTEGER NOT NULL DEFAULT 0,
    CONSTRAINT workspace_agent_metadata_pkey PRIMARY KEY (workspace_agent_id, "key")
) STRICT;

CREATE TABLE workspace_agent_stats (
    id                             BLOB    NOT NULL PRIMARY KEY CHECK (length(id) = 16),
    created_at                     INTEGER NOT NULL,
    user_id                        BLOB    NOT NULL CHECK (length(user_id) = 16),
    agent_id                       BLOB    NOT NULL CHECK (length(agent_id) = 16),
    workspace_id                   BLOB    NOT NULL CHECK (length(workspace_id) = 16),
    template_id                    BLOB    NOT NULL CHECK (length(template_id) = 16),
    connections_by_proto           TEXT    NOT NULL DEFAULT '{}' CHECK (json_valid(connections_by_proto)),
    connection_count               INTEGER NOT NULL DEFAULT 0,
    rx_packets                     INTEGER NOT NULL DEFAULT 0,
    rx_bytes                       INTEGER NOT NULL DEFAULT 0,
    tx_packets                     INTEGER NOT NULL DEFAULT 0,
    tx_bytes                       INTEGER NOT NULL DEFAULT 0,
    connection_median_latency_ms   REAL    NOT NULL DEFAULT -1,
    session_count_vscode           INTEGER NOT NULL DEFAULT 0,
    session_count_jetbrains        INTEGER NOT NULL DEFAULT 0,
    session_count_reconnecting_pty INTEGER NOT NULL DEFAULT 0,
    session_count_ssh              INTEGER NOT NULL DEFAULT 0,
    usage                          INTEGER NOT NULL DEFAULT 0 CHECK (usage IN (0, 1))
) STRICT;
CREATE INDEX idx_agent_stats_created_at ON workspace_agent_stats (created_at);

CREATE TABLE workspace_agent_memory_resource_monitors (
    agent_id        BLOB    NOT NULL PRIMARY KEY REFERENCES workspace_agents (id) ON DELETE CASCADE,
    enabled         INTEGER NOT NULL CHECK (enabled IN (0, 1)),
    threshold       INTEGER NOT NULL,
    created_at      INTEGER NOT NULL,
    updated_at      INTEGER NOT NULL,
    state           TEXT    NOT NULL DEFAULT 'OK' CHECK (state IN ('OK', 'NOK')),
    debounced_until INTEGER NOT NULL DEFAULT -62135596800000000
) STRICT;

CREATE TABLE workspace_agent_volume_resource_monitors (
    agent_id        BLOB    NOT NULL REFERENCES workspace_agents (id) ON DELETE CASCADE,
    path            TEXT    NOT NULL,
    enabled         INTEGER NOT NULL CHECK (enabled IN (0, 1)),
    threshold       INTEGER NOT NULL,
    created_at      INTEGER NOT NULL,
    updated_at      INTEGER NOT NULL,
    state           TEXT    NOT NULL DEFAULT 'OK' CHECK (state IN ('OK', 'NOK')),
    debounced_until INTEGER NOT NULL DEFAULT -62135596800000000,
    PRIMARY KEY (agent_id, path)
) STRICT;

CREATE TABLE workspace_agent_devcontainers (
    id                 BLOB    NOT NULL PRIMARY KEY CHECK (length(id) = 16),
    workspace_agent_id BLOB    NOT NULL REFERENCES workspace_agents (id) ON DELETE CASCADE,
    created_at         INTEGER NOT NULL,
    workspace_folder   TEXT    NOT NULL,
    config_path        TEXT    NOT NULL,
    name               TEXT    NOT NULL,
    subagent_id        BLOB    REFERENCES workspace_agents (id) ON DELETE SET NULL
) STRICT;
CREATE INDEX workspace_agent_devcontainers_workspace_agent_id ON workspace_agent_devcontainers (workspace_agent_id);
CREATE INDEX workspace_agent_devcontainers_subagent_id
    ON workspace_agent_devcontainers (subagent_id) WHERE subagent_id IS NOT NULL;

CREATE TABLE connection_logs (
    id                 BLOB    NOT NULL PRIMARY KEY CHECK (length(id) = 16),
    connect_time       INTEGER NOT NULL,
    organization_id    BLOB    NOT NULL REFERENCES organizations (id) ON DELETE CASCADE,
    workspace_owner_id BLOB    NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    workspace_id       BLOB    NOT NULL REFERENCES workspaces (id) ON DELETE CASCADE,
    workspace_name     TEXT    NOT NULL,
    agent_name         TEXT    NOT NULL,
    type               TEXT    NOT NULL CHECK (type IN (
        'ssh', 'vscode', 'jetbrains', 'reconnecting_pty', 'workspace_app', 'port_forwarding'
    )),
    ip                 TEXT,
    code               INTEGER,
    user_agent         TEXT,
    user_id            BLOB    CHECK (length(user_id) = 16),
    slug_or_port       TEXT,
    connection_id      BLOB    CHECK (length(connection_id) = 16),
    disconnect_time    INTEGER,
    disconnect_reason  TEXT
) STRICT;
CREATE UNIQUE INDEX idx_connection_logs_connection_id_workspace_id_agent_name
    ON connection_logs (connection_id, workspace_id, agent_name);
CREATE INDEX idx_connection_logs_connect_time_desc ON connection_logs (connect_time DESC);

CREATE TABLE boundary_usage_stats (
    replica_id              BLOB    NOT NULL PRIMARY KEY CHECK (length(replica_id) = 16),
    unique_workspaces_count INTEGER NOT NULL DEFAULT 0,
    unique_users_count      INTEGER NOT NULL DEFAULT 0,
    allowed_requests        INTEGER NOT NULL DEFAULT 0,
    denied_requests         INTEGER NOT NULL DEFAULT 0,
    window_start            INTEGER NOT NULL,
    updated_at              INTEGER NOT NULL
) STRICT;

CREATE TABLE tasks (
    id                  BLOB    NOT NULL PRIMARY KEY CHECK (length(id) = 16),
    organization_id     BLOB    NOT NULL REFERENCES organizations (id) ON DELETE CASCADE,
    owner_id            BLOB    NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    name                TEXT    NOT NULL,
    workspace_id        BLOB    REFERENCES workspaces (id) ON DELETE CASCADE,
    template_version_id BLOB    NOT NULL REFERENCES template_versions (id) ON DELETE CASCADE,
    prompt              TEXT    NOT NULL,
    created_at          INTEGER NOT NULL,
    deleted_at          INTEGER
) STRICT;
CREATE INDEX tasks_workspace_id_idx ON tasks (workspace_id);

CREATE TABLE task_workspace_apps (
    task_id                BLOB    NOT NULL REFERENCES tasks (id) ON DELETE CASCADE,
    workspace_agent_id     BLOB    REFERENCES workspace_agents (id) ON DELETE CASCADE,
    workspace_app_id       BLOB    REFERENCES workspace_apps (id) ON DELETE CASCADE,
    workspace_build_number INTEGER NOT NULL,
    PRIMARY KEY (task_id, workspace_build_number)
) STRICT;
CREATE INDEX task_workspace_apps_workspace_agent_id_idx ON task_workspace_apps (workspace_agent_id);
CREATE INDEX task_workspace_apps_workspace_app_id_idx ON task_workspace_apps (workspace_app_id);

CREATE TABLE notification_templates (
    id                 BLOB    NOT NULL PRIMARY KEY CHECK (length(id) = 16),
    name               TEXT    NOT NULL UNIQUE,
    title_template     TEXT    NOT NULL,
    body_template      TEXT    NOT NULL,
    actions            TEXT    CHECK (json_valid(actions)),
    "group"            TEXT,
    method             TEXT    CHECK (method IN ('smtp', 'webhook', 'inbox')),
    kind               TEXT    NOT NULL DEFAULT 'system' CHECK (kind IN ('system', 'custom')),
    enabled_by_default INTEGER NOT NULL DEFAULT 1 CHECK (enabled_by_default IN (0, 1))
) STRICT;

CREATE TABLE notification_preferences (
    user_id                  BLOB    NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    notification_template_id BLOB    NOT NULL REFERENCES notification_templates (id) ON DELETE CASCADE,
    disabled                 INTEGER NOT NULL DEFAULT 0 CHECK (disabled IN (0, 1)),
    created_at               INTEGER NOT NULL,
    updated_at               INTEGER NOT NULL,
    PRIMARY KEY (user_id, notification_template_id)
) STRICT;

CREATE TABLE notification_messages (
    id                       BLOB    NOT NULL PRIMARY KEY CHECK (length(id) = 16),
    notification_template_id BLOB    NOT NULL REFERENCES notification_templates (id) ON DELETE CASCADE,
    user_id                  BLOB    NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    method                   TEXT    NOT NULL CHECK (method IN ('smtp', 'webhook', 'inbox')),
    status                   TEXT    NOT NULL DEFAULT 'pending' CHECK (status IN (
        'pending', 'leased', 'sent', 'permanent_failure', 'temporary_failure', 'unknown', 'inhibited'
    )),
    status_reason            TEXT,
    created_by               TEXT    NOT NULL,
    payload                  TEXT    NOT NULL CHECK (json_valid(payload)),
    attempt_count            INTEGER DEFAULT 0,
    targets                  TEXT    CHECK (json_valid(targets)),
    created_at               INTEGER NOT NULL,
    updated_at               INTEGER,
    leased_until             INTEGER,
    next_retry_after         INTEGER,
    queued_seconds           REAL,
    dedupe_hash              TEXT
) STRICT;
CREATE UNIQUE INDEX notification_messages_dedupe_hash_idx ON notification_messages (dedupe_hash);

-- What one process tells the others; read by the server when the database was written to by somebody else.
CREATE TABLE drpcd_events (
    id         INTEGER PRIMARY KEY AUTOINCREMENT,
    channel    TEXT    NOT NULL,
    payload    TEXT    NOT NULL,
    created_at INTEGER NOT NULL
) STRICT;
CREATE INDEX drpcd_events_created_at_idx ON drpcd_events (created_at);

-- A client's token is its id, a hyphen and a secret; only the hash of the whole is kept.
CREATE TABLE drpcd_client_tokens (
    id         TEXT    NOT NULL PRIMARY KEY CHECK (length(id) = 10),
    sha256     BLOB    NOT NULL CHECK (length(sha256) = 32),
    user_id    BLOB    NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    created_at INTEGER NOT NULL
) STRICT;

CREATE VIEW workspaces_expanded AS
SELECT
    workspaces.*,
    users.username     AS owner_username,
    users.name         AS owner_name,
    organizations.name AS organization_name,
    templates.name     AS template_name,
    (
        SELECT tasks.id FROM tasks
        WHERE tasks.workspace_id = workspaces.id AND tasks.deleted_at IS NULL
        ORDER BY tasks.created_at DESC, tasks.id LIMIT 1
    ) AS task_id
FROM workspaces
INNER JOIN users ON users.id = workspaces.owner_id
INNER JOIN organizations ON organizations.id = workspaces.organization_id
INNER JOIN templates ON templates.id = workspaces.template_id;

CREATE VIEW workspace_latest_builds AS
SELECT workspace_builds.*, provisioner_jobs.job_status
FROM workspace_builds
INNER JOIN provisioner_jobs ON provisioner_jobs.id = workspace_builds.job_id
WHERE workspace_builds.build_number = (
    SELECT max(newest.build_number) FROM workspace_builds AS newest
    WHERE newest.workspace_id = workspace_builds.workspace_id
);
