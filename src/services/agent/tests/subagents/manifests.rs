//! What sub agents are told of themselves, and their parents of them.

use super::*;

#[tokio::test]
async fn s1_005_a_bare_sub_agents_manifest_is_its_own_with_its_parents_names() {
    let fixture = Fixture::new().await;
    let child = fixture.create(request("child")).await.agent.unwrap();
    let api = fixture.connect_as(&child).await;
    let manifest = api.get_manifest(proto::GetManifestRequest {}).await.unwrap();
    let parent = fixture.connect().await;
    assert_eq!(
        manifest.parent_id.as_deref(),
        Some(&parent.agent_id().as_bytes()[..])
    );
    assert_eq!(
        (manifest.agent_name.as_str(), manifest.agent_id.as_slice()),
        ("child", child.id.as_slice())
    );
    // What it does not share with its parent: lists, environment and message of the day.
    assert_eq!(manifest.directory, "/workspaces/web");
    assert!(manifest.apps.is_empty() && manifest.scripts.is_empty() && manifest.metadata.is_empty());
    assert!(manifest.devcontainers.is_empty() && manifest.environment_variables.is_empty());
    assert_eq!(manifest.motd_path, "");
    let parents = parent.get_manifest(proto::GetManifestRequest {}).await.unwrap();
    assert_eq!(
        (
            &manifest.workspace_id,
            &manifest.workspace_name,
            &manifest.owner_username
        ),
        (
            &parents.workspace_id,
            &parents.workspace_name,
            &parents.owner_username
        )
    );
    let uri = parents.vs_code_port_proxy_uri.replace("--main--", "--child--");
    assert_eq!(manifest.vs_code_port_proxy_uri, uri);
    assert_eq!(
        (parents.parent_id, parents.devcontainers[0].subagent_id.as_ref()),
        (None, None)
    );
}

#[tokio::test]
async fn a_dev_container_names_the_sub_agent_that_its_agent_takes_over() {
    let fixture = Fixture::new().await;
    let child = fixture.create(request("child")).await.agent.unwrap();
    let named = "UPDATE workspace_agent_devcontainers
        SET subagent_id = (SELECT id FROM workspace_agents WHERE name = 'child') RETURNING 1";
    fixture.store.query(named).await;
    let parent = fixture.connect().await;
    let manifest = parent.get_manifest(proto::GetManifestRequest {}).await.unwrap();
    let adopt = proto::CreateSubAgentRequest {
        id: manifest.devcontainers[0].subagent_id.clone(),
        ..request("ignored")
    };
    assert_eq!(adopt.id.as_ref(), Some(&child.id));
    assert_eq!(fixture.create(adopt).await.agent.as_ref(), Some(&child));
}

#[tokio::test]
async fn a_sub_agents_manifest_has_its_apps_under_their_stored_slugs() {
    let fixture = Fixture::new().await;
    let code_server = App {
        subdomain: Some(true),
        ..app("code-server")
    };
    let reply = fixture.create(with_apps("child-agent", vec![code_server])).await;
    let api = fixture.connect_as(&reply.agent.unwrap()).await;
    let manifest = api.get_manifest(proto::GetManifestRequest {}).await.unwrap();
    let app = &manifest.apps[0];
    assert_eq!(app.slug, "fdqf0lpd-code-server");
    assert_eq!(app.subdomain_name, "fdqf0lpd-code-server--dev--ada");
    assert_eq!(app.healthcheck.as_ref().map(|check| check.threshold), Some(0));
}
