-- What drpcd needs of the database of a coder deployment: run it there as the owner of the tables, once for the role `drpcd`.
-- drpcd looks for these rights when it starts. Tests hold its list and this one together, and serve agents with these alone.

GRANT USAGE ON SCHEMA public TO drpcd;
GRANT SELECT ON ALL TABLES IN SCHEMA public TO drpcd;
-- What numbers the lines of logs, which is not called after its table: `workspace_agent_startup_logs_id_seq` so far.
DO $$
BEGIN
    EXECUTE format('GRANT USAGE ON SEQUENCE %s TO drpcd', pg_get_serial_sequence('workspace_agent_logs', 'id'));
END
$$;

GRANT INSERT, UPDATE (
    first_connected_at, last_connected_at, disconnected_at, last_connected_replica_id, updated_at, version,
    expanded_directory, subsystems, api_version, lifecycle_state, started_at, ready_at, logs_length, logs_overflowed,
    display_apps, deleted
) ON workspace_agents TO drpcd;
GRANT INSERT, UPDATE (health) ON workspace_apps TO drpcd;
GRANT INSERT ON workspace_app_statuses TO drpcd;
GRANT INSERT ON workspace_agent_logs TO drpcd;
GRANT INSERT ON workspace_agent_log_sources TO drpcd;
GRANT INSERT ON workspace_agent_script_timings TO drpcd;
GRANT INSERT ON workspace_agent_stats TO drpcd;
GRANT UPDATE (value, error, collected_at) ON workspace_agent_metadata TO drpcd;
GRANT UPDATE (state, debounced_until, updated_at) ON workspace_agent_memory_resource_monitors TO drpcd;
GRANT UPDATE (state, debounced_until, updated_at) ON workspace_agent_volume_resource_monitors TO drpcd;
GRANT INSERT, UPDATE (disconnect_time, disconnect_reason, code) ON connection_logs TO drpcd;
GRANT UPDATE (last_used_at) ON workspaces TO drpcd;
GRANT UPDATE (deadline, updated_at) ON workspace_builds TO drpcd;
GRANT INSERT ON notification_messages TO drpcd;
GRANT INSERT, UPDATE (
    unique_workspaces_count, unique_users_count, allowed_requests, denied_requests, updated_at
) ON boundary_usage_stats TO drpcd;
GRANT INSERT, UPDATE (heartbeat_at) ON tailnet_coordinators TO drpcd;
GRANT INSERT, UPDATE (updated_at, node, status), DELETE ON tailnet_peers TO drpcd;
GRANT INSERT, UPDATE (updated_at), DELETE ON tailnet_tunnels TO drpcd;
