//! The audit itself.

use super::support::coder;

#[test]
fn the_audit_names_every_write_that_is_not_allowed_and_no_other() {
    let Some(database) = coder::audited() else { return };
    assert!(coder::violations(&database).is_empty());
    let own = "gen_random_uuid()";
    for allowed in [
        "UPDATE workspace_agents SET last_connected_at = now(), updated_at = now() WHERE name = 'second'",
        "INSERT INTO workspace_agents (id, parent_id, created_at, updated_at, name, resource_id, auth_token, architecture,
            operating_system)
        SELECT gen_random_uuid(), id, now(), now(), 'child', resource_id, gen_random_uuid(), '', '' FROM workspace_agents
        WHERE name = 'second'",
        "INSERT INTO workspace_apps (id, created_at, agent_id, slug, display_name, icon)
        SELECT gen_random_uuid(), now(), id, '', '', '' FROM workspace_agents WHERE name = 'child'",
        "UPDATE workspace_agents SET deleted = true WHERE name = 'child'",
        &format!("INSERT INTO tailnet_coordinators VALUES ({own}, now())"),
    ] {
        database.execute(allowed);
        assert_eq!(coder::violations(&database), [""; 0], "{allowed}");
    }
    for (forbidden, named) in [
        (
            "UPDATE workspace_agents SET name = 'other' WHERE name = 'second'",
            "UPDATE workspace_agents name",
        ),
        (
            "UPDATE workspace_agents SET deleted = true WHERE name = 'other'",
            "UPDATE workspace_agents deleted",
        ),
        (
            "INSERT INTO workspace_apps (id, created_at, agent_id, slug, display_name, icon)
            SELECT gen_random_uuid(), now(), id, 'x', '', '' FROM workspace_agents WHERE name = 'other'",
            "INSERT workspace_apps",
        ),
        (
            "UPDATE workspace_builds SET deadline = deadline, reason = 'cli' WHERE id::text LIKE '%11'",
            "UPDATE workspace_builds reason",
        ),
        (
            "UPDATE tailnet_coordinators SET heartbeat_at = now() WHERE id::text LIKE '00000010-%1'",
            "UPDATE tailnet_coordinators heartbeat_at",
        ),
        (
            "DELETE FROM tailnet_peers WHERE id::text LIKE '%1'",
            "DELETE tailnet_peers",
        ),
        (
            "UPDATE external_auth_links SET updated_at = updated_at WHERE provider_id = 'gitea'",
            "UPDATE external_auth_links",
        ),
        ("TRUNCATE workspace_agent_logs", "TRUNCATE workspace_agent_logs"),
        ("CREATE TABLE drpcd_events ()", "CREATE TABLE"),
        ("DROP VIEW tasks_with_status", "DROP VIEW"),
    ] {
        database.execute("TRUNCATE audit.writes");
        database.execute(forbidden);
        let violations = coder::violations(&database);
        assert_eq!(
            violations.iter().map(|text| text.trim()).collect::<Vec<_>>(),
            [named]
        );
    }
}
