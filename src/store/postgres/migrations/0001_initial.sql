-- Tables, columns, types, labels, lengths and constraint names are those of coder/coder (`coderd/database/dump.sql`), less
-- what nothing here reads or writes. Year 1 stands for "never". Nothing is unlogged: what an agent has told is not told
-- again. Tables with the prefix drpcd_ are our own.

CREATE TYPE agent_key_scope_enum AS ENUM ('all', 'no_user_data');
CREATE TYPE app_sharing_level AS ENUM ('owner', 'authenticated', 'organization', 'public');
CREATE TYPE build_reason AS ENUM (
    'initiator', 'autostart', 'autostop', 'dormancy', 'failedstop', 'autodelete', 'dashboard', 'cli', 'ssh_connection',
    'vscode_connection', 'jetbrains_connection', 'task_auto_pause', 'task_manual_pause', 'task_resume'
);
CREATE TYPE connection_type AS ENUM (
    'ssh', 'vscode', 'jetbrains', 'reconnecting_pty', 'workspace_app', 'port_forwarding'
);
CREATE TYPE display_app AS ENUM (
    'vscode', 'vscode_insiders', 'web_terminal', 'ssh_helper', 'port_forwarding_helper'
);
CREATE TYPE log_level AS ENUM ('trace', 'debug', 'info', 'warn', 'error');
CREATE TYPE notification_message_status AS ENUM (
    'pending', 'leased', 'sent', 'permanent_failure', 'temporary_failure', 'unknown', 'inhibited'
);
CREATE TYPE notification_method AS ENUM ('smtp', 'webhook', 'inbox');
CREATE TYPE notification_template_kind AS ENUM ('system', 'custom');
CREATE TYPE provisioner_job_status AS ENUM (
    'pending', 'running', 'succeeded', 'canceling', 'canceled', 'failed', 'unknown'
);
CREATE TYPE provisioner_job_type AS ENUM ('template_version_import', 'workspace_build', 'template_version_dry_run');
CREATE TYPE tailnet_status AS ENUM ('ok', 'lost');
CREATE TYPE user_status AS ENUM ('active', 'suspended', 'dormant');
CREATE TYPE workspace_agent_lifecycle_state AS ENUM (
    'created', 'starting', 'start_timeout', 'start_error', 'ready', 'shutting_down', 'shutdown_timeout', 'shutdown_error',
    'off'
);
CREATE TYPE workspace_agent_monitor_state AS ENUM ('OK', 'NOK');
CREATE TYPE workspace_agent_script_timing_stage AS ENUM ('start', 'stop', 'cron');
CREATE TYPE workspace_agent_script_timing_status AS ENUM ('ok', 'exit_failure', 'timed_out', 'pipes_left_open');
CREATE TYPE workspace_agent_subsystem AS ENUM ('envbuilder', 'envbox', 'none', 'exectrace');
CREATE TYPE workspace_app_health AS ENUM ('disabled', 'initializing', 'healthy', 'unhealthy');
CREATE TYPE workspace_app_open_in AS ENUM ('tab', 'window', 'slim-window');
CREATE TYPE workspace_app_status_state AS ENUM ('working', 'complete', 'failure', 'idle');
CREATE TYPE workspace_transition AS ENUM ('start', 'stop', 'delete');

CREATE TABLE users (
    id uuid NOT NULL PRIMARY KEY,
    email text NOT NULL,
    username text NOT NULL DEFAULT '' CONSTRAINT users_username_min_length CHECK (length(username) >= 1),
    name text NOT NULL DEFAULT '',
    status user_status NOT NULL DEFAULT 'dormant',
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    deleted boolean NOT NULL DEFAULT false,
    is_system boolean NOT NULL DEFAULT false
);
CREATE UNIQUE INDEX users_email_lower_idx ON users (lower(email)) WHERE deleted = false;
CREATE UNIQUE INDEX users_username_lower_idx ON users (lower(username)) WHERE deleted = false;

CREATE TABLE organizations (
    id uuid NOT NULL PRIMARY KEY,
    name text NOT NULL,
    display_name text NOT NULL,
    is_default boolean NOT NULL DEFAULT false,
    deleted boolean NOT NULL DEFAULT false,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL
);
CREATE UNIQUE INDEX idx_organization_name_lower ON organizations (lower(name)) WHERE deleted = false;
CREATE UNIQUE INDEX organizations_single_default_org ON organizations (is_default) WHERE is_default;

CREATE TABLE gitsshkeys (
    user_id uuid NOT NULL PRIMARY KEY REFERENCES users (id),
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    private_key text NOT NULL,
    public_key text NOT NULL
);

CREATE TABLE external_auth_links (
    provider_id text NOT NULL,
    user_id uuid NOT NULL,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    oauth_access_token text NOT NULL,
    oauth_refresh_token text NOT NULL,
    oauth_expiry timestamptz NOT NULL,
    -- Not NULL says that the token is encrypted, which nothing here can undo.
    oauth_access_token_key_id text,
    oauth_refresh_token_key_id text,
    oauth_extra jsonb,
    oauth_refresh_failure_reason text NOT NULL DEFAULT '',
    PRIMARY KEY (provider_id, user_id)
);

CREATE TABLE site_configs (
    "key" varchar(256) NOT NULL PRIMARY KEY,
    value text NOT NULL
);

CREATE TABLE provisioner_jobs (
    id uuid NOT NULL PRIMARY KEY,
    organization_id uuid NOT NULL REFERENCES organizations (id) ON DELETE CASCADE,
    initiator_id uuid NOT NULL,
    type provisioner_job_type NOT NULL,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    started_at timestamptz,
    canceled_at timestamptz,
    completed_at timestamptz,
    error text,
    job_status provisioner_job_status NOT NULL GENERATED ALWAYS AS (
        CASE
            WHEN completed_at IS NOT NULL THEN
                CASE
                    WHEN error <> '' THEN 'failed'::provisioner_job_status
                    WHEN canceled_at IS NOT NULL THEN 'canceled'::provisioner_job_status
                    ELSE 'succeeded'::provisioner_job_status
                END
            WHEN error <> '' THEN 'failed'::provisioner_job_status
            WHEN canceled_at IS NOT NULL THEN 'canceling'::provisioner_job_status
            WHEN started_at IS NULL THEN 'pending'::provisioner_job_status
            ELSE 'running'::provisioner_job_status
        END
    ) STORED
);
CREATE INDEX idx_provisioner_jobs_organization ON provisioner_jobs (organization_id);

CREATE TABLE templates (
    id uuid NOT NULL PRIMARY KEY,
    organization_id uuid NOT NULL REFERENCES organizations (id) ON DELETE CASCADE,
    active_version_id uuid NOT NULL,
    created_by uuid NOT NULL REFERENCES users (id) ON DELETE RESTRICT,
    name varchar(64) NOT NULL,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    deleted boolean NOT NULL DEFAULT false,
    -- Nanoseconds.
    default_ttl bigint NOT NULL DEFAULT 604800000000000,
    activity_bump bigint NOT NULL DEFAULT 3600000000000,
    allow_user_autostart boolean NOT NULL DEFAULT true,
    allow_user_autostop boolean NOT NULL DEFAULT true,
    -- Bits of the days without autostart, Monday first.
    autostart_block_days_of_week smallint NOT NULL DEFAULT 0
);
CREATE UNIQUE INDEX templates_organization_id_name_idx ON templates (organization_id, lower(name)) WHERE deleted = false;

CREATE TABLE template_versions (
    id uuid NOT NULL PRIMARY KEY,
    template_id uuid REFERENCES templates (id) ON DELETE CASCADE,
    organization_id uuid NOT NULL REFERENCES organizations (id) ON DELETE CASCADE,
    job_id uuid NOT NULL REFERENCES provisioner_jobs (id) ON DELETE CASCADE,
    created_by uuid NOT NULL REFERENCES users (id) ON DELETE RESTRICT,
    name varchar(64) NOT NULL,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    UNIQUE (template_id, name)
);

CREATE TABLE workspaces (
    id uuid NOT NULL PRIMARY KEY,
    owner_id uuid NOT NULL REFERENCES users (id) ON DELETE RESTRICT,
    organization_id uuid NOT NULL REFERENCES organizations (id) ON DELETE RESTRICT,
    template_id uuid NOT NULL REFERENCES templates (id) ON DELETE RESTRICT,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    deleted boolean NOT NULL DEFAULT false,
    name varchar(64) NOT NULL,
    autostart_schedule text,
    -- Nanoseconds.
    ttl bigint,
    last_used_at timestamptz NOT NULL DEFAULT '0001-01-01 00:00:00+00'
);
CREATE UNIQUE INDEX workspaces_owner_id_lower_idx ON workspaces (owner_id, lower(name)) WHERE deleted = false;

CREATE TABLE workspace_builds (
    id uuid NOT NULL PRIMARY KEY,
    workspace_id uuid NOT NULL REFERENCES workspaces (id) ON DELETE CASCADE,
    template_version_id uuid NOT NULL REFERENCES template_versions (id) ON DELETE CASCADE,
    initiator_id uuid NOT NULL,
    job_id uuid NOT NULL UNIQUE REFERENCES provisioner_jobs (id) ON DELETE CASCADE,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    build_number integer NOT NULL,
    transition workspace_transition NOT NULL,
    deadline timestamptz NOT NULL DEFAULT '0001-01-01 00:00:00+00',
    max_deadline timestamptz NOT NULL DEFAULT '0001-01-01 00:00:00+00',
    reason build_reason NOT NULL DEFAULT 'initiator',
    UNIQUE (workspace_id, build_number),
    CONSTRAINT workspace_builds_deadline_below_max_deadline CHECK (
        max_deadline = '0001-01-01 00:00:00+00'
        OR (deadline <> '0001-01-01 00:00:00+00' AND deadline <= max_deadline)
    )
);

CREATE TABLE workspace_resources (
    id uuid NOT NULL PRIMARY KEY,
    job_id uuid NOT NULL REFERENCES provisioner_jobs (id) ON DELETE CASCADE,
    created_at timestamptz NOT NULL,
    transition workspace_transition NOT NULL,
    type varchar(192) NOT NULL,
    name varchar(64) NOT NULL
);
CREATE INDEX workspace_resources_job_id_idx ON workspace_resources (job_id);

CREATE TABLE workspace_agents (
    id uuid NOT NULL PRIMARY KEY,
    parent_id uuid REFERENCES workspace_agents (id) ON DELETE CASCADE,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    name varchar(64) NOT NULL,
    resource_id uuid NOT NULL REFERENCES workspace_resources (id) ON DELETE CASCADE,
    auth_token uuid NOT NULL,
    architecture varchar(64) NOT NULL,
    operating_system varchar(64) NOT NULL,
    environment_variables jsonb,
    directory varchar(4096) NOT NULL DEFAULT '',
    expanded_directory varchar(4096) NOT NULL DEFAULT '',
    version text NOT NULL DEFAULT '',
    api_version text NOT NULL DEFAULT '',
    troubleshooting_url text NOT NULL DEFAULT '',
    motd_file text NOT NULL DEFAULT '',
    first_connected_at timestamptz,
    last_connected_at timestamptz,
    disconnected_at timestamptz,
    started_at timestamptz,
    ready_at timestamptz,
    last_connected_replica_id uuid,
    -- Seconds; 0 is never.
    connection_timeout_seconds integer NOT NULL DEFAULT 0,
    lifecycle_state workspace_agent_lifecycle_state NOT NULL DEFAULT 'created',
    logs_length integer NOT NULL DEFAULT 0 CONSTRAINT max_logs_length CHECK (logs_length <= 1048576),
    logs_overflowed boolean NOT NULL DEFAULT false,
    subsystems workspace_agent_subsystem[] DEFAULT '{}' CONSTRAINT subsystems_not_none CHECK (
        NOT ('none'::workspace_agent_subsystem = ANY (subsystems))
    ),
    display_apps display_app[] NOT NULL
        DEFAULT '{vscode,vscode_insiders,web_terminal,ssh_helper,port_forwarding_helper}',
    display_order integer NOT NULL DEFAULT 0,
    api_key_scope agent_key_scope_enum NOT NULL DEFAULT 'all',
    -- Only sub agents are ever marked.
    deleted boolean NOT NULL DEFAULT false
    -- Room in each page: heartbeats change columns without an index, and then touch no index either.
) WITH (fillfactor = 70);
CREATE INDEX workspace_agents_auth_token_idx ON workspace_agents (auth_token);
CREATE INDEX workspace_agents_resource_id_idx ON workspace_agents (resource_id);
CREATE INDEX workspace_agents_parent_id_idx ON workspace_agents (parent_id) WHERE parent_id IS NOT NULL;

CREATE TABLE workspace_apps (
    id uuid NOT NULL PRIMARY KEY,
    created_at timestamptz NOT NULL,
    agent_id uuid NOT NULL REFERENCES workspace_agents (id) ON DELETE CASCADE,
    slug text NOT NULL,
    display_name varchar(64) NOT NULL,
    icon varchar(256) NOT NULL,
    command varchar(65534),
    url varchar(65534),
    healthcheck_url text NOT NULL DEFAULT '',
    -- Seconds.
    healthcheck_interval integer NOT NULL DEFAULT 0,
    healthcheck_threshold integer NOT NULL DEFAULT 0,
    health workspace_app_health NOT NULL DEFAULT 'disabled',
    subdomain boolean NOT NULL DEFAULT false,
    sharing_level app_sharing_level NOT NULL DEFAULT 'owner',
    external boolean NOT NULL DEFAULT false,
    hidden boolean NOT NULL DEFAULT false,
    display_order integer NOT NULL DEFAULT 0,
    open_in workspace_app_open_in NOT NULL DEFAULT 'slim-window',
    display_group text,
    tooltip varchar(2048) NOT NULL DEFAULT '',
    UNIQUE (agent_id, slug)
);

CREATE TABLE workspace_app_statuses (
    id uuid NOT NULL PRIMARY KEY,
    created_at timestamptz NOT NULL,
    agent_id uuid NOT NULL REFERENCES workspace_agents (id),
    app_id uuid NOT NULL REFERENCES workspace_apps (id),
    workspace_id uuid NOT NULL REFERENCES workspaces (id),
    state workspace_app_status_state NOT NULL,
    message text NOT NULL,
    uri text
);
CREATE INDEX workspace_app_statuses_app_id_idx ON workspace_app_statuses (app_id, created_at DESC);
CREATE INDEX idx_workspace_app_statuses_workspace_id_created_at
    ON workspace_app_statuses (workspace_id, created_at DESC);
CREATE INDEX workspace_app_statuses_agent_id_idx ON workspace_app_statuses (agent_id);

CREATE TABLE workspace_agent_scripts (
    id uuid NOT NULL PRIMARY KEY,
    workspace_agent_id uuid NOT NULL REFERENCES workspace_agents (id) ON DELETE CASCADE,
    log_source_id uuid NOT NULL,
    log_path text NOT NULL,
    created_at timestamptz NOT NULL,
    script text NOT NULL,
    cron text NOT NULL,
    start_blocks_login boolean NOT NULL,
    run_on_start boolean NOT NULL,
    run_on_stop boolean NOT NULL,
    timeout_seconds integer NOT NULL,
    display_name text NOT NULL
);
CREATE INDEX workspace_agent_scripts_workspace_agent_id_idx ON workspace_agent_scripts (workspace_agent_id);

CREATE TABLE workspace_agent_script_timings (
    script_id uuid NOT NULL REFERENCES workspace_agent_scripts (id) ON DELETE CASCADE,
    started_at timestamptz NOT NULL,
    ended_at timestamptz NOT NULL,
    exit_code integer NOT NULL,
    stage workspace_agent_script_timing_stage NOT NULL,
    status workspace_agent_script_timing_status NOT NULL,
    CONSTRAINT workspace_agent_script_timings_script_id_started_at_key UNIQUE (script_id, started_at)
);

CREATE TABLE workspace_agent_log_sources (
    workspace_agent_id uuid NOT NULL REFERENCES workspace_agents (id) ON DELETE CASCADE,
    id uuid NOT NULL,
    created_at timestamptz NOT NULL,
    display_name varchar(127) NOT NULL,
    icon text NOT NULL,
    CONSTRAINT workspace_agent_log_sources_pkey PRIMARY KEY (workspace_agent_id, id)
);

CREATE TABLE workspace_agent_logs (
    id bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY,
    agent_id uuid NOT NULL REFERENCES workspace_agents (id) ON DELETE CASCADE,
    created_at timestamptz NOT NULL,
    output varchar(1024) NOT NULL,
    level log_level NOT NULL DEFAULT 'info',
    log_source_id uuid NOT NULL DEFAULT '00000000-0000-0000-0000-000000000000'
);
CREATE INDEX workspace_agent_logs_agent_id_id_idx ON workspace_agent_logs (agent_id, id);

CREATE TABLE workspace_agent_metadata (
    workspace_agent_id uuid NOT NULL REFERENCES workspace_agents (id) ON DELETE CASCADE,
    display_name varchar(127) NOT NULL,
    "key" varchar(127) NOT NULL,
    script varchar(65535) NOT NULL,
    value varchar(65535) NOT NULL DEFAULT '',
    error varchar(65535) NOT NULL DEFAULT '',
    -- Seconds.
    timeout bigint NOT NULL,
    "interval" bigint NOT NULL,
    collected_at timestamptz NOT NULL DEFAULT '0001-01-01 00:00:00+00',
    display_order integer NOT NULL DEFAULT 0,
    CONSTRAINT workspace_agent_metadata_pkey PRIMARY KEY (workspace_agent_id, "key")
) WITH (fillfactor = 70);

CREATE TABLE workspace_agent_stats (
    id uuid NOT NULL PRIMARY KEY,
    created_at timestamptz NOT NULL,
    user_id uuid NOT NULL,
    agent_id uuid NOT NULL,
    workspace_id uuid NOT NULL,
    template_id uuid NOT NULL,
    connections_by_proto jsonb NOT NULL DEFAULT '{}',
    connection_count bigint NOT NULL DEFAULT 0,
    rx_packets bigint NOT NULL DEFAULT 0,
    rx_bytes bigint NOT NULL DEFAULT 0,
    tx_packets bigint NOT NULL DEFAULT 0,
    tx_bytes bigint NOT NULL DEFAULT 0,
    connection_median_latency_ms double precision NOT NULL DEFAULT -1,
    session_count_vscode bigint NOT NULL DEFAULT 0,
    session_count_jetbrains bigint NOT NULL DEFAULT 0,
    session_count_reconnecting_pty bigint NOT NULL DEFAULT 0,
    session_count_ssh bigint NOT NULL DEFAULT 0,
    usage boolean NOT NULL DEFAULT false
);
CREATE INDEX idx_agent_stats_created_at ON workspace_agent_stats (created_at);

CREATE TABLE workspace_agent_memory_resource_monitors (
    agent_id uuid NOT NULL PRIMARY KEY REFERENCES workspace_agents (id) ON DELETE CASCADE,
    enabled boolean NOT NULL,
    threshold integer NOT NULL,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    state workspace_agent_monitor_state NOT NULL DEFAULT 'OK',
    debounced_until timestamptz NOT NULL DEFAULT '0001-01-01 00:00:00+00'
);

CREATE TABLE workspace_agent_volume_resource_monitors (
    agent_id uuid NOT NULL REFERENCES workspace_agents (id) ON DELETE CASCADE,
    path text NOT NULL,
    enabled boolean NOT NULL,
    threshold integer NOT NULL,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    state workspace_agent_monitor_state NOT NULL DEFAULT 'OK',
    debounced_until timestamptz NOT NULL DEFAULT '0001-01-01 00:00:00+00',
    PRIMARY KEY (agent_id, path)
);

CREATE TABLE workspace_agent_devcontainers (
    id uuid NOT NULL PRIMARY KEY,
    workspace_agent_id uuid NOT NULL REFERENCES workspace_agents (id) ON DELETE CASCADE,
    created_at timestamptz NOT NULL,
    workspace_folder text NOT NULL,
    config_path text NOT NULL,
    name text NOT NULL,
    subagent_id uuid REFERENCES workspace_agents (id) ON DELETE SET NULL
);
CREATE INDEX workspace_agent_devcontainers_workspace_agent_id ON workspace_agent_devcontainers (workspace_agent_id);
CREATE INDEX workspace_agent_devcontainers_subagent_id
    ON workspace_agent_devcontainers (subagent_id) WHERE subagent_id IS NOT NULL;

CREATE TABLE connection_logs (
    id uuid NOT NULL PRIMARY KEY,
    connect_time timestamptz NOT NULL,
    organization_id uuid NOT NULL REFERENCES organizations (id) ON DELETE CASCADE,
    workspace_owner_id uuid NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    workspace_id uuid NOT NULL REFERENCES workspaces (id) ON DELETE CASCADE,
    workspace_name text NOT NULL,
    agent_name text NOT NULL,
    type connection_type NOT NULL,
    ip inet,
    code integer,
    user_agent text,
    user_id uuid,
    slug_or_port text,
    connection_id uuid,
    disconnect_time timestamptz,
    disconnect_reason text
);
CREATE UNIQUE INDEX idx_connection_logs_connection_id_workspace_id_agent_name
    ON connection_logs (connection_id, workspace_id, agent_name);
CREATE INDEX idx_connection_logs_connect_time_desc ON connection_logs (connect_time DESC);

CREATE TABLE boundary_usage_stats (
    replica_id uuid NOT NULL PRIMARY KEY,
    unique_workspaces_count bigint NOT NULL DEFAULT 0,
    unique_users_count bigint NOT NULL DEFAULT 0,
    allowed_requests bigint NOT NULL DEFAULT 0,
    denied_requests bigint NOT NULL DEFAULT 0,
    window_start timestamptz NOT NULL,
    updated_at timestamptz NOT NULL
);

CREATE TABLE tasks (
    id uuid NOT NULL PRIMARY KEY,
    organization_id uuid NOT NULL REFERENCES organizations (id) ON DELETE CASCADE,
    owner_id uuid NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    name text NOT NULL,
    workspace_id uuid REFERENCES workspaces (id) ON DELETE CASCADE,
    template_version_id uuid NOT NULL REFERENCES template_versions (id) ON DELETE CASCADE,
    prompt text NOT NULL,
    created_at timestamptz NOT NULL,
    deleted_at timestamptz
);
CREATE INDEX tasks_workspace_id_idx ON tasks (workspace_id);

CREATE TABLE task_workspace_apps (
    task_id uuid NOT NULL REFERENCES tasks (id) ON DELETE CASCADE,
    workspace_agent_id uuid REFERENCES workspace_agents (id) ON DELETE CASCADE,
    workspace_app_id uuid REFERENCES workspace_apps (id) ON DELETE CASCADE,
    workspace_build_number integer NOT NULL,
    PRIMARY KEY (task_id, workspace_build_number)
);
CREATE INDEX task_workspace_apps_workspace_agent_id_idx ON task_workspace_apps (workspace_agent_id);
CREATE INDEX task_workspace_apps_workspace_app_id_idx ON task_workspace_apps (workspace_app_id);

CREATE TABLE notification_templates (
    id uuid NOT NULL PRIMARY KEY,
    name text NOT NULL UNIQUE,
    title_template text NOT NULL,
    body_template text NOT NULL,
    actions jsonb,
    "group" text,
    method notification_method,
    kind notification_template_kind NOT NULL DEFAULT 'system',
    enabled_by_default boolean NOT NULL DEFAULT true
);

CREATE TABLE notification_preferences (
    user_id uuid NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    notification_template_id uuid NOT NULL REFERENCES notification_templates (id) ON DELETE CASCADE,
    disabled boolean NOT NULL DEFAULT false,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    PRIMARY KEY (user_id, notification_template_id)
);

CREATE TABLE notification_messages (
    id uuid NOT NULL PRIMARY KEY,
    notification_template_id uuid NOT NULL REFERENCES notification_templates (id) ON DELETE CASCADE,
    user_id uuid NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    method notification_method NOT NULL,
    status notification_message_status NOT NULL DEFAULT 'pending',
    status_reason text,
    created_by text NOT NULL,
    payload jsonb NOT NULL,
    attempt_count integer DEFAULT 0,
    targets uuid[],
    created_at timestamptz NOT NULL,
    updated_at timestamptz,
    leased_until timestamptz,
    next_retry_after timestamptz,
    queued_seconds double precision,
    dedupe_hash text
);
CREATE UNIQUE INDEX notification_messages_dedupe_hash_idx ON notification_messages (dedupe_hash);

-- A client's token is its id, a hyphen and a secret; only the hash of the whole is kept.
CREATE TABLE drpcd_client_tokens (
    id text NOT NULL PRIMARY KEY CHECK (length(id) = 10),
    sha256 bytea NOT NULL CHECK (length(sha256) = 32),
    user_id uuid NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    created_at timestamptz NOT NULL
);

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

-- Who coordinates peers: one row for each server process, kept fresh by it.
CREATE TABLE tailnet_coordinators (
    id uuid NOT NULL PRIMARY KEY,
    heartbeat_at timestamptz NOT NULL
) WITH (fillfactor = 50);

-- A peer may have rows of several coordinators: it moved, or one of them is gone.
CREATE TABLE tailnet_peers (
    id uuid NOT NULL,
    coordinator_id uuid NOT NULL REFERENCES tailnet_coordinators (id) ON DELETE CASCADE,
    updated_at timestamptz NOT NULL,
    node bytea NOT NULL,
    status tailnet_status NOT NULL DEFAULT 'ok',
    PRIMARY KEY (id, coordinator_id)
) WITH (fillfactor = 70);
CREATE INDEX idx_tailnet_peers_coordinator ON tailnet_peers (coordinator_id);

-- No foreign key to peers: tunnels may be there first.
CREATE TABLE tailnet_tunnels (
    coordinator_id uuid NOT NULL REFERENCES tailnet_coordinators (id) ON DELETE CASCADE,
    src_id uuid NOT NULL,
    dst_id uuid NOT NULL,
    updated_at timestamptz NOT NULL,
    PRIMARY KEY (coordinator_id, src_id, dst_id)
);
CREATE INDEX idx_tailnet_tunnels_src_id ON tailnet_tunnels USING hash (src_id);
CREATE INDEX idx_tailnet_tunnels_dst_id ON tailnet_tunnels USING hash (dst_id);

-- Two live agents of one build cannot share a name. Rows without a build are let through.
CREATE FUNCTION check_workspace_agent_name_unique() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NOT NEW.deleted AND EXISTS (
        SELECT 1
        FROM workspace_resources AS mine
        JOIN workspace_builds AS b ON b.job_id = mine.job_id
        JOIN workspace_resources AS r ON r.job_id = b.job_id
        JOIN workspace_agents AS other ON other.resource_id = r.id
        WHERE mine.id = NEW.resource_id AND other.name = NEW.name AND other.id <> NEW.id AND NOT other.deleted
    ) THEN
        RAISE EXCEPTION 'workspace agent name "%" already exists in this workspace build', NEW.name
            USING ERRCODE = 'unique_violation';
    END IF;
    RETURN NEW;
END
$$;
CREATE TRIGGER workspace_agent_name_unique_trigger
    BEFORE INSERT OR UPDATE OF name, resource_id ON workspace_agents
    FOR EACH ROW EXECUTE FUNCTION check_workspace_agent_name_unique();

-- The same for the same notification on one UTC day.
CREATE FUNCTION compute_notification_message_dedupe_hash() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.dedupe_hash := md5(concat_ws(
        ':', NEW.notification_template_id, NEW.user_id, NEW.method, NEW.payload::text,
        array_to_string(NEW.targets, ','), date_trunc('day', NEW.created_at AT TIME ZONE 'UTC')
    ));
    RETURN NEW;
END
$$;
CREATE TRIGGER update_notification_message_dedupe_hash
    BEFORE INSERT OR UPDATE ON notification_messages
    FOR EACH ROW EXECUTE FUNCTION compute_notification_message_dedupe_hash();

-- Nothing is queued for a user who has opted out, or not in where the template asks for that.
CREATE FUNCTION inhibit_enqueue_if_disabled() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF coalesce(
        (
            SELECT disabled FROM notification_preferences
            WHERE user_id = NEW.user_id AND notification_template_id = NEW.notification_template_id
        ),
        (SELECT NOT enabled_by_default FROM notification_templates WHERE id = NEW.notification_template_id),
        false
    ) THEN
        RAISE EXCEPTION 'cannot enqueue message: notification is not enabled';
    END IF;
    RETURN NEW;
END
$$;
CREATE TRIGGER inhibit_enqueue_if_disabled
    BEFORE INSERT ON notification_messages
    FOR EACH ROW EXECUTE FUNCTION inhibit_enqueue_if_disabled();
