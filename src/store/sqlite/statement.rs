//! Every statement of the engine, with its name, its text and how often it ran.
//!
//! One list, so that a test can prepare all of them and an operator can see which kinds the server spends.

use std::sync::atomic::{AtomicU64, Ordering};

use sqlx::Sqlite;
use sqlx::query::Query;
use sqlx::sqlite::SqliteArguments;

macro_rules! statements {
    ($($variant:ident $name:literal $sql:literal)*) => {
        /// A statement by name.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(super) enum Statement { $($variant),* }

        impl Statement {
            pub(super) const ALL: &'static [Self] = &[$(Self::$variant),*];

            pub(super) const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name),* }
            }

            pub(super) const fn sql(self) -> &'static str {
                match self { $(Self::$variant => $sql),* }
            }
        }
    };
}

statements! {
    Authenticate "authenticate" "
        SELECT agent.*,
               build.id AS build_id, build.template_version_id,
               workspace.id AS workspace_id, workspace.name AS workspace_name, workspace.owner_id,
               workspace.organization_id, workspace.template_id, workspace.autostart_schedule,
               owner.username AS owner_username, template.name AS template_name
        FROM workspace_agents AS agent
        JOIN workspace_resources AS resource ON resource.id = agent.resource_id
        JOIN workspace_builds AS build ON build.job_id = resource.job_id
        JOIN workspaces AS workspace ON workspace.id = build.workspace_id
        JOIN users AS owner ON owner.id = workspace.owner_id
        JOIN templates AS template ON template.id = workspace.template_id
        JOIN provisioner_jobs AS job ON job.id = build.job_id
        JOIN workspace_builds AS latest ON latest.workspace_id = build.workspace_id
             AND latest.build_number =
                 (SELECT max(build_number) FROM workspace_builds WHERE workspace_id = build.workspace_id)
        JOIN provisioner_jobs AS latest_job ON latest_job.id = latest.job_id
        WHERE agent.auth_token = ?1 AND agent.deleted = 0 AND workspace.deleted = 0
          AND (latest.id = build.id
               OR (build.transition = 'start' AND job.job_status = 'succeeded'
                   AND latest.build_number = build.build_number + 1 AND latest.transition = 'stop'
                   AND latest_job.job_status IN ('pending', 'running')))
        ORDER BY agent.created_at DESC LIMIT 1"

    EligibleBuilds "eligible_builds" "
        SELECT build.id
        FROM json_each(?1) AS asked
        JOIN workspace_builds AS build ON build.id = unhex(asked.value)
        JOIN workspaces AS workspace ON workspace.id = build.workspace_id
        JOIN provisioner_jobs AS job ON job.id = build.job_id
        JOIN workspace_builds AS latest ON latest.workspace_id = build.workspace_id
             AND latest.build_number =
                 (SELECT max(build_number) FROM workspace_builds WHERE workspace_id = build.workspace_id)
        JOIN provisioner_jobs AS latest_job ON latest_job.id = latest.job_id
        WHERE workspace.deleted = 0
          AND (latest.id = build.id
               OR (build.transition = 'start' AND job.job_status = 'succeeded'
                   AND latest.build_number = build.build_number + 1 AND latest.transition = 'stop'
                   AND latest_job.job_status IN ('pending', 'running')))"

    Agent "agent" "SELECT * FROM workspace_agents WHERE id = ?1 AND deleted = 0"

    WorkspaceByAgent "workspace_by_agent" "
        SELECT workspace.id AS workspace_id, workspace.name AS workspace_name, workspace.owner_id,
               workspace.organization_id, workspace.template_id, workspace.autostart_schedule,
               owner.username AS owner_username, template.name AS template_name
        FROM workspace_agents AS agent
        JOIN workspace_resources AS resource ON resource.id = agent.resource_id
        JOIN workspace_builds AS build ON build.job_id = resource.job_id
        JOIN workspaces AS workspace ON workspace.id = build.workspace_id
        JOIN users AS owner ON owner.id = workspace.owner_id
        JOIN templates AS template ON template.id = workspace.template_id
        WHERE agent.id = ?1 AND workspace.deleted = 0"

    Workspaces "workspaces" "
        SELECT workspace.id AS workspace_id, workspace.name AS workspace_name, workspace.owner_id,
               workspace.organization_id, workspace.template_id, workspace.autostart_schedule,
               owner.username AS owner_username, template.name AS template_name
        FROM json_each(?1) AS asked
        JOIN workspaces AS workspace ON workspace.id = unhex(asked.value)
        JOIN users AS owner ON owner.id = workspace.owner_id
        JOIN templates AS template ON template.id = workspace.template_id
        WHERE workspace.deleted = 0"

    Apps "apps" "SELECT * FROM workspace_apps WHERE agent_id = ?1 ORDER BY slug"
    Scripts "scripts" "SELECT * FROM workspace_agent_scripts WHERE workspace_agent_id = ?1 ORDER BY created_at, id"
    Metadata "metadata" "
        SELECT key, display_name, script, interval, timeout FROM workspace_agent_metadata
        WHERE workspace_agent_id = ?1 ORDER BY display_order, key"
    Devcontainers "devcontainers" "
        SELECT * FROM workspace_agent_devcontainers WHERE workspace_agent_id = ?1 ORDER BY created_at, id"

    Monitors "monitors" "
        SELECT NULL AS path, enabled, threshold, state, debounced_until
        FROM workspace_agent_memory_resource_monitors WHERE agent_id = ?1
        UNION ALL
        SELECT path, enabled, threshold, state, debounced_until
        FROM workspace_agent_volume_resource_monitors WHERE agent_id = ?1
        ORDER BY path"

    SiteConfig "site_config" "SELECT value FROM site_configs WHERE key = ?1"

    UpdateStartup "update_startup" "
        UPDATE workspace_agents
        SET version = ?2, expanded_directory = ?3, subsystems = ?4, api_version = ?5, updated_at = ?6
        WHERE id = ?1 AND deleted = 0"

    UpdateLifecycle "update_lifecycle" "
        UPDATE workspace_agents
        SET lifecycle_state = ?2,
            started_at = CASE
                WHEN ?2 = 'starting' THEN ?3
                WHEN ?2 IN ('ready', 'start_timeout', 'start_error') THEN coalesce(started_at, ?3)
                ELSE started_at END,
            ready_at = CASE
                WHEN ?2 = 'starting' THEN NULL
                WHEN ?2 IN ('ready', 'start_timeout', 'start_error') THEN ?3
                ELSE ready_at END,
            updated_at = ?4
        WHERE id = ?1 AND deleted = 0"

    InsertLogSource "insert_log_source" "
        INSERT INTO workspace_agent_log_sources (workspace_agent_id, id, created_at, display_name, icon)
        VALUES (?1, ?2, ?3, ?4, ?5)"

    AddLogsLength "add_logs_length" "
        UPDATE workspace_agents SET logs_length = logs_length + ?2
        WHERE id = ?1 AND deleted = 0 AND logs_overflowed = 0
        RETURNING logs_length - ?2"

    LogsOverflowed "logs_overflowed" "SELECT logs_overflowed FROM workspace_agents WHERE id = ?1 AND deleted = 0"

    InsertLogs "insert_logs" "
        INSERT INTO workspace_agent_logs (agent_id, created_at, output, level, log_source_id)
        SELECT ?1, ?2, substr(line.value ->> 0, 1, 1024), line.value ->> 1, ?3
        FROM json_each(?4) AS line ORDER BY line.key
        RETURNING id"

    SetLogsOverflowed "set_logs_overflowed" "UPDATE workspace_agents SET logs_overflowed = 1 WHERE id = ?1"

    InsertStats "insert_stats" "
        INSERT INTO workspace_agent_stats (id, created_at, user_id, agent_id, workspace_id, template_id,
            connections_by_proto, connection_count, rx_packets, rx_bytes, tx_packets, tx_bytes,
            connection_median_latency_ms, session_count_vscode, session_count_jetbrains,
            session_count_reconnecting_pty, session_count_ssh, usage)
        SELECT unhex(stat.value ->> 0), stat.value ->> 1, unhex(stat.value ->> 2), unhex(stat.value ->> 3),
            unhex(stat.value ->> 4), unhex(stat.value ->> 5), stat.value ->> 6, stat.value ->> 7, stat.value ->> 8,
            stat.value ->> 9, stat.value ->> 10, stat.value ->> 11, stat.value ->> 12, stat.value ->> 13,
            stat.value ->> 14, stat.value ->> 15, stat.value ->> 16, stat.value ->> 17
        FROM json_each(?1) AS stat"

    UpdateMetadata "update_metadata" "
        UPDATE workspace_agent_metadata
        SET value = new.value, error = new.error, collected_at = new.collected_at
        FROM (SELECT unhex(item.value ->> 0) AS agent_id, item.value ->> 1 AS key, item.value ->> 2 AS value,
                     item.value ->> 3 AS error, item.value ->> 4 AS collected_at
              FROM json_each(?1) AS item) AS new
        WHERE workspace_agent_metadata.workspace_agent_id = new.agent_id
          AND workspace_agent_metadata.key = new.key"

    RecordConnects "record_connects" "
        UPDATE workspace_agents
        SET first_connected_at = coalesce(first_connected_at, new.at),
            last_connected_at = max(new.at, coalesce(disconnected_at + 1, new.at)),
            last_connected_replica_id = ?2,
            updated_at = new.at
        FROM (SELECT unhex(item.value ->> 0) AS id, item.value ->> 1 AS at FROM json_each(?1) AS item) AS new
        WHERE workspace_agents.id = new.id"

    RecordHeartbeats "record_heartbeats" "
        UPDATE workspace_agents
        SET last_connected_at = max(?2, coalesce(disconnected_at + 1, ?2)), last_connected_replica_id = ?3,
            updated_at = ?2
        WHERE id IN (SELECT unhex(value) FROM json_each(?1))"

    RecordDisconnects "record_disconnects" "
        UPDATE workspace_agents
        SET disconnected_at = max(new.at, coalesce(last_connected_at, new.at)), updated_at = new.at
        FROM (SELECT unhex(item.value ->> 0) AS id, item.value ->> 1 AS at FROM json_each(?1) AS item) AS new
        WHERE workspace_agents.id = new.id AND workspace_agents.last_connected_replica_id = ?2"

    InsertEvent "insert_event" "INSERT INTO drpcd_events (channel, payload, created_at) VALUES (?1, ?2, ?3)"
    LastEvent "last_event" "SELECT coalesce(max(id), 0) FROM drpcd_events"
    EventsAfter "events_after" "SELECT id, channel, payload FROM drpcd_events WHERE id > ?1 ORDER BY id LIMIT ?2"
    PruneEvents "prune_events" "DELETE FROM drpcd_events WHERE created_at < ?1"

    Ping "ping" "SELECT 1"
}

/// How often each statement ran.
#[derive(Debug)]
pub(super) struct Counters([AtomicU64; Statement::ALL.len()]);

impl Default for Counters {
    fn default() -> Self {
        Self([const { AtomicU64::new(0) }; Statement::ALL.len()])
    }
}

impl Counters {
    /// The statement as a query, which counts as run.
    pub(super) fn query(&self, statement: Statement) -> Query<'static, Sqlite, SqliteArguments> {
        if let Some(index) = Statement::ALL.iter().position(|&other| other == statement) {
            self.0[index].fetch_add(1, Ordering::Relaxed);
        }
        sqlx::query(statement.sql())
    }

    /// Every statement's name and count.
    pub(super) fn all(&self) -> Vec<(&'static str, u64)> {
        let counts = self.0.iter().map(|count| count.load(Ordering::Relaxed));
        Statement::ALL
            .iter()
            .map(|statement| statement.name())
            .zip(counts)
            .collect()
    }
}
