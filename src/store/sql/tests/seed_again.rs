//! A seed over what is there: ids and tokens stay, fields follow, entries go, errors change nothing.

use super::{EXAMPLE, Kit, NOW, SMALL, at};
use crate::ids::{AgentId, AgentToken, ReplicaId};
use crate::store::{
    ConnectionChange, LifecycleState, LifecycleUpdate, MetadataValue, StartupUpdate, Store, StoreError,
    Violation,
};

/// Every row that a seed writes, less the times of the last change.
async fn contents(kit: &mut Kit) -> Vec<Vec<String>> {
    let mut tables = Vec::new();
    for table in [
        "users",
        "organizations",
        "gitsshkeys",
        "external_auth_links",
        "site_configs",
        "provisioner_jobs",
        "templates",
        "template_versions",
        "workspaces",
        "workspace_builds",
        "workspace_resources",
        "workspace_agents",
        "workspace_apps",
        "workspace_agent_scripts",
        "workspace_agent_log_sources",
        "workspace_agent_metadata",
        "workspace_agent_memory_resource_monitors",
        "workspace_agent_volume_resource_monitors",
        "workspace_agent_devcontainers",
        "drpcd_events",
    ] {
        tables.push(kit.table(&format!("SELECT * FROM {table} ORDER BY 1, 2")).await);
    }
    tables
}

#[tokio::test]
async fn conn_076_seeding_twice_changes_nothing_and_answers_the_same() {
    let (mut kit, first) = Kit::seeded(EXAMPLE).await;
    let before = contents(&mut kit).await;
    let second = kit.seed(EXAMPLE, at(60)).await.unwrap();
    assert_eq!(contents(&mut kit).await, before);
    assert_eq!(second.len(), first.len());
    assert_eq!(second[0].agent_id, first[0].agent_id);
    assert_eq!(second[0].token, first[0].token);
}

#[tokio::test]
async fn fields_follow_the_file_and_ids_stay() {
    let (mut kit, first) = Kit::seeded(EXAMPLE).await;
    let ids = "SELECT id FROM workspace_apps UNION SELECT id FROM workspace_agent_scripts
        UNION SELECT log_source_id FROM workspace_agent_scripts UNION SELECT id FROM workspace_agent_devcontainers
        UNION SELECT id FROM workspace_builds UNION SELECT id FROM workspaces UNION SELECT id FROM users";
    let before = kit.table(ids).await;
    let mut changed = EXAMPLE.to_owned();
    for (from, to) in [
        ("name: Ada Lovelace", "name: Countess"),
        ("template: docker", "template: podman"),
        ("ttl: 8h", "ttl: 9h"),
        ("architecture: amd64", "architecture: arm64"),
        ("directory: ~/src", "directory: ~/code"),
        ("GREETING: hello", "GREETING: bye"),
        ("display_name: Code", "display_name: Coding"),
        ("sharing_level: owner", "sharing_level: public"),
        ("script: echo stopping", "script: echo ending"),
        (
            "display_name: CPU, script: \"coder stat cpu\"",
            "display_name: Load, script: uptime",
        ),
        (
            "memory: { enabled: true, threshold: 90 }",
            "memory: { enabled: false, threshold: 91 }",
        ),
        (
            "path: /home, enabled: true, threshold: 90",
            "path: /home, enabled: true, threshold: 92",
        ),
        ("workspace_folder: /workspaces/web", "workspace_folder: /srv/web"),
    ] {
        assert!(changed.contains(from), "{from}");
        changed = changed.replacen(from, to, 1);
    }
    let second = kit.seed(&changed, at(60)).await.unwrap();
    assert_eq!(kit.table(ids).await, before);
    assert_eq!(
        (second[0].agent_id, second[0].token),
        (first[0].agent_id, first[0].token)
    );
    for (sql, expected) in [
        ("SELECT name FROM users", "Countess"),
        (
            "SELECT template_name || ttl FROM workspaces_expanded",
            "podman32400000000000",
        ),
        (
            "SELECT t.name FROM workspace_builds b JOIN template_versions v ON v.id = b.template_version_id
            JOIN templates t ON t.id = v.template_id",
            "podman",
        ),
        (
            "SELECT architecture, directory, environment_variables FROM workspace_agents",
            "arm64|~/code|{\"GREETING\":\"bye\"}",
        ),
        (
            "SELECT display_name, sharing_level FROM workspace_apps WHERE slug = 'code'",
            "Coding|public",
        ),
        (
            "SELECT script FROM workspace_agent_scripts WHERE display_name = 'shutdown'",
            "echo ending",
        ),
        (
            "SELECT display_name || script FROM workspace_agent_metadata WHERE \"key\" = 'cpu'",
            "Loaduptime",
        ),
        (
            "SELECT enabled, threshold FROM workspace_agent_memory_resource_monitors",
            "0|91",
        ),
        (
            "SELECT enabled, threshold FROM workspace_agent_volume_resource_monitors",
            "1|92",
        ),
        (
            "SELECT workspace_folder FROM workspace_agent_devcontainers",
            "/srv/web",
        ),
    ] {
        assert_eq!(kit.table(sql).await, [expected], "{sql}");
    }
    assert_eq!(kit.time("updated_at", first[0].agent_id).await, Some(at(60)));
}

#[tokio::test]
async fn what_the_agent_reported_is_left() {
    let (mut kit, agents) = Kit::seeded(EXAMPLE).await;
    let agent = agents[0].agent_id;
    let startup = StartupUpdate {
        version: "v2.31.0".to_owned(),
        expanded_directory: "/home/ada".to_owned(),
        subsystems: vec![],
        api_version: "2.8".to_owned(),
    };
    kit.store.update_startup(agent, &startup).await.unwrap();
    let ready = LifecycleUpdate {
        state: LifecycleState::Ready,
        changed_at: at(1),
    };
    kit.store.update_lifecycle(agent, &ready).await.unwrap();
    let connect = ConnectionChange {
        agent_id: agent,
        at: at(1),
    };
    kit.store
        .record_connects(ReplicaId::random(), &[connect], at(1))
        .await
        .unwrap();
    let value = MetadataValue {
        agent_id: agent,
        key: "cpu".to_owned(),
        value: "5 %".to_owned(),
        error: String::new(),
        collected_at: at(1),
    };
    kit.store.update_metadata(&[value]).await.unwrap();
    kit.sql("UPDATE workspace_apps SET health = 'healthy' WHERE slug = 'code'")
        .await;
    kit.sql("UPDATE workspace_agent_memory_resource_monitors SET state = 'NOK', debounced_until = 5")
        .await;
    let runtime = "SELECT a.version, a.expanded_directory, a.api_version, a.lifecycle_state, a.ready_at,
            a.first_connected_at, a.last_connected_replica_id, p.health, m.value, m.collected_at, r.state,
            r.debounced_until, b.deadline
        FROM workspace_agents a
        JOIN workspace_apps p ON p.agent_id = a.id AND p.slug = 'code'
        JOIN workspace_agent_metadata m ON m.workspace_agent_id = a.id AND m.\"key\" = 'cpu'
        JOIN workspace_agent_memory_resource_monitors r ON r.agent_id = a.id
        CROSS JOIN workspace_builds b";
    let before = kit.table(runtime).await;
    let changed = EXAMPLE
        .replace("directory: ~/src", "directory: /x")
        .replace("display_name: Code", "display_name: C")
        .replace("display_name: CPU", "display_name: C")
        .replace("threshold: 90", "threshold: 10");
    kit.seed(&changed, at(60)).await.unwrap();
    assert_eq!(kit.table(runtime).await, before);
}

#[tokio::test]
async fn health_begins_and_ends_with_the_check() {
    let yaml = |app: &str| SMALL.replace("name: main", &format!("name: main, apps: [{{ slug: a{app} }}]"));
    let checked = yaml(", healthcheck: { url: 'http://x' }");
    let (mut kit, _) = Kit::seeded(&yaml("")).await;
    let health = "SELECT health FROM workspace_apps";
    assert_eq!(kit.table(health).await, ["disabled"]);
    kit.seed(&checked, at(1)).await.unwrap();
    assert_eq!(kit.table(health).await, ["initializing"]);
    kit.sql("UPDATE workspace_apps SET health = 'unhealthy'").await;
    kit.seed(&checked.replace("http://x", "http://y"), at(2))
        .await
        .unwrap();
    assert_eq!(kit.table(health).await, ["unhealthy"]);
    kit.seed(&yaml(""), at(3)).await.unwrap();
    assert_eq!(kit.table(health).await, ["disabled"]);
}

#[tokio::test]
async fn vanished_entries_go_and_vanished_agents_stay() {
    let (mut kit, agents) = Kit::seeded(EXAMPLE).await;
    kit.sql(
        "INSERT INTO workspace_app_statuses
        SELECT randomblob(16), 0, p.agent_id, p.id, w.id, 'working', '', NULL FROM workspace_apps p, workspaces w",
    )
    .await;
    let other =
        "owner: { username: ada }\nworkspace: { name: dev, template: docker }\nagents: [{ name: other }]\n";
    let added = kit.seed(other, at(1)).await.unwrap();
    assert_eq!(kit.integer("SELECT count(*) FROM workspace_agents").await, 2);
    assert!(kit.authenticates(&agents[0].token).await && kit.authenticates(&added[0].token).await);
    assert_eq!(
        kit.integer("SELECT count(*) FROM workspace_apps").await,
        2,
        "the absent agent keeps its lists"
    );
    // The agent is named and its lists are empty.
    kit.seed(&other.replace("other", "main"), at(2)).await.unwrap();
    for table in [
        "workspace_apps",
        "workspace_app_statuses",
        "workspace_agent_scripts",
        "workspace_agent_metadata",
        "workspace_agent_memory_resource_monitors",
        "workspace_agent_volume_resource_monitors",
        "workspace_agent_devcontainers",
    ] {
        assert_eq!(
            kit.integer(&format!("SELECT count(*) FROM {table}")).await,
            0,
            "{table}"
        );
    }
    // Log lines may still name their source.
    assert_eq!(
        kit.integer("SELECT count(*) FROM workspace_agent_log_sources")
            .await,
        2
    );
    // A file that says nothing of banners leaves them; an empty list removes them.
    assert!(
        kit.store
            .site_config("announcement_banners")
            .await
            .unwrap()
            .unwrap()
            .contains("Friday")
    );
    kit.seed(&format!("{other}banners: []\n"), at(3)).await.unwrap();
    assert_eq!(
        kit.store
            .site_config("announcement_banners")
            .await
            .unwrap()
            .unwrap(),
        "[]"
    );
}

#[tokio::test]
async fn external_auth_links_follow_the_file_where_it_names_any() {
    let owner = |links: &str| SMALL.replace("username: ada", &format!("username: ada{links}"));
    let link = |id: &str| format!("{{ provider_id: {id}, oauth_access_token: secret }}");
    let two = owner(&format!(
        ", external_auth_links: [{}, {}]",
        link("github"),
        link("gitlab")
    ));
    let (mut kit, _) = Kit::seeded(&two).await;
    let links = "SELECT provider_id FROM external_auth_links ORDER BY 1";
    kit.seed(SMALL, at(1)).await.unwrap();
    assert_eq!(kit.table(links).await, ["github", "gitlab"]);
    kit.seed(
        &owner(&format!(", external_auth_links: [{}]", link("gitlab"))),
        at(2),
    )
    .await
    .unwrap();
    assert_eq!(kit.table(links).await, ["gitlab"]);
}

#[tokio::test]
async fn a_script_put_in_the_middle_gets_its_place() {
    let scripts = |names: &[&str]| {
        let list: Vec<_> = names
            .iter()
            .map(|name| format!("{{ display_name: {name}, script: run, log_path: {name} }}"))
            .collect();
        SMALL.replace(
            "name: main",
            &format!("name: main, scripts: [{}]", list.join(", ")),
        )
    };
    let (kit, agents) = Kit::seeded(&scripts(&["a", "c"])).await;
    let before = kit
        .store
        .manifest_parts(agents[0].agent_id)
        .await
        .unwrap()
        .scripts;
    kit.seed(&scripts(&["c", "b", "a"]), at(1)).await.unwrap();
    let after = kit
        .store
        .manifest_parts(agents[0].agent_id)
        .await
        .unwrap()
        .scripts;
    let names: Vec<_> = after.iter().map(|script| &*script.log_path).collect();
    assert_eq!(names, ["c", "b", "a"]);
    assert_eq!((after[0].id, after[2].id), (before[1].id, before[0].id));
}

#[tokio::test]
async fn a_token_given_replaces_the_stored_one_and_null_keeps_it() {
    let (kit, first) = Kit::seeded(SMALL).await;
    let new = AgentToken::random();
    let given = SMALL.replace("name: main", &format!("name: main, token: {}", new.reveal()));
    let second = kit.seed(&given, at(1)).await.unwrap();
    assert_eq!((second[0].agent_id, second[0].token), (first[0].agent_id, new));
    assert!(!kit.authenticates(&first[0].token).await);
    assert!(kit.authenticates(&new).await);
    assert_eq!(kit.seed(SMALL, at(2)).await.unwrap()[0].token, new);
}

#[tokio::test]
async fn a_token_of_another_agent_is_refused_and_nothing_is_changed() {
    let (mut kit, agents) = Kit::seeded(EXAMPLE).await;
    let before = contents(&mut kit).await;
    let token = agents[0].token.reveal().to_string();
    let yaml = format!(
        "{}---\nowner: {{ username: bob }}\nworkspace: {{ name: w }}\nagents:\n- name: a\n- {{ name: b, token: {token} }}\n",
        EXAMPLE.replace("directory: ~/src", "directory: /changed")
    );
    let error = kit.seed(&yaml, at(1)).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "seed.yaml: document 2: agents[1].token: another agent holds this token (the value is a secret and not shown)"
    );
    assert_eq!(contents(&mut kit).await, before);
}

#[tokio::test]
async fn an_address_of_another_user_is_refused_by_key_and_value() {
    let (mut kit, _) = Kit::seeded(EXAMPLE).await;
    let before = contents(&mut kit).await;
    let bob = SMALL.replace("username: ada", "username: bob, email: ADA@example.com");
    let error = kit.seed(&bob, at(1)).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "seed.yaml: owner.email: another user has the address \"ADA@example.com\""
    );
    assert_eq!(contents(&mut kit).await, before);
}

#[tokio::test]
async fn conn_070_a_name_that_a_sub_agent_has_is_refused_in_the_originals_words() {
    let (mut kit, agents) = Kit::seeded(SMALL).await;
    let sub = AgentId::random();
    kit.sql(&format!(
        "INSERT INTO workspace_agents (
            id, parent_id, created_at, updated_at, name, resource_id, auth_token, architecture, operating_system
        ) SELECT x'{}', id, 0, 0, 'sub', resource_id, randomblob(16), '', '' FROM workspace_agents",
        sub.0.simple()
    ))
    .await;
    let taken = SMALL.replace("name: main", "name: sub");
    let error = kit.seed(&taken, at(1)).await.unwrap_err();
    assert!(error.is_violation(Violation::AgentNameTaken), "{error:?}");
    assert_eq!(
        error.to_string(),
        "workspace agent name \"sub\" already exists in this workspace build"
    );
    // conn_071: a deleted one's name is free, and names are case-sensitive.
    kit.seed(&SMALL.replace("name: main", "name: Sub"), at(2))
        .await
        .unwrap();
    kit.sql("UPDATE workspace_agents SET deleted = 1 WHERE name = 'sub'")
        .await;
    let added = kit.seed(&taken, at(3)).await.unwrap();
    assert_ne!(added[0].agent_id, sub);
    assert_ne!(added[0].agent_id, agents[0].agent_id);
}

#[tokio::test]
async fn a_stopped_workspace_is_started_again() {
    let (mut kit, first) = Kit::seeded(SMALL).await;
    kit.sql(
        "INSERT INTO provisioner_jobs (id, organization_id, initiator_id, type, created_at, updated_at, completed_at)
        SELECT x'000102030405060708090a0b0c0d0e0f', id, id, 'workspace_build', 0, 0, 1 FROM organizations",
    )
    .await;
    kit.sql(
        "INSERT INTO workspace_builds (
            id, workspace_id, template_version_id, initiator_id, job_id, created_at, updated_at, build_number, transition
        ) SELECT randomblob(16), workspace_id, template_version_id, initiator_id,
            x'000102030405060708090a0b0c0d0e0f', 0, 0, 2, 'stop'
        FROM workspace_builds",
    )
    .await;
    assert!(!kit.authenticates(&first[0].token).await);
    // The same agent of an earlier build may hand its token down.
    let token = first[0].token.reveal();
    let yaml = SMALL.replace("name: main", &format!("name: main, token: {token}"));
    let second = kit.seed(&yaml, at(1)).await.unwrap();
    assert_eq!(
        kit.table("SELECT build_number, transition FROM workspace_latest_builds")
            .await,
        ["3|start"]
    );
    let found = kit.store.authenticate(&first[0].token).await.unwrap().unwrap();
    assert_eq!(found.agent.id, second[0].agent_id);
}

#[tokio::test]
async fn a_stopped_workspace_whose_builds_have_no_number_left_is_refused() {
    let (mut kit, _) = Kit::seeded(SMALL).await;
    kit.sql("UPDATE workspace_builds SET transition = 'stop', build_number = 2147483647")
        .await;
    let error = kit.seed(SMALL, at(1)).await.unwrap_err();
    assert!(error.to_string().contains("no number is left"), "{error}");
    assert_eq!(
        kit.table("SELECT build_number, transition FROM workspace_builds")
            .await,
        ["2147483647|stop"]
    );
}

#[tokio::test]
async fn a_deleted_workspace_is_made_anew() {
    let (mut kit, first) = Kit::seeded(SMALL).await;
    kit.sql("UPDATE workspaces SET deleted = 1").await;
    let second = kit.seed(SMALL, NOW).await.unwrap();
    assert_ne!(second[0].agent_id, first[0].agent_id);
    assert_eq!(
        kit.store
            .authenticate(&first[0].token)
            .await
            .map(|found| found.is_some()),
        Ok::<_, StoreError>(false)
    );
}
