//! Sub agents, against a real store.

mod apps;
mod manifests;
mod store_away;

use proto::create_sub_agent_request::{App, DisplayApp};

use super::*;
use crate::ids::AgentId;

fn request(name: &str) -> proto::CreateSubAgentRequest {
    proto::CreateSubAgentRequest {
        name: name.into(),
        directory: "/workspaces/web".into(),
        architecture: "arm64".into(),
        operating_system: "linux".into(),
        ..Default::default()
    }
}

fn app(slug: &str) -> App {
    App {
        slug: slug.into(),
        ..Default::default()
    }
}

fn with_apps(name: &str, apps: Vec<App>) -> proto::CreateSubAgentRequest {
    proto::CreateSubAgentRequest {
        apps,
        ..request(name)
    }
}

/// `index field error` of the apps that were refused.
fn app_errors(reply: &proto::CreateSubAgentResponse) -> Vec<String> {
    let show = |error: &proto::create_sub_agent_response::AppCreationError| {
        let field = error.field.as_deref().unwrap_or("-");
        format!("{} {field} {}", error.index, error.error)
    };
    reply.app_creation_errors.iter().map(show).collect()
}

impl Fixture {
    async fn create(&self, request: proto::CreateSubAgentRequest) -> proto::CreateSubAgentResponse {
        self.connect().await.create_sub_agent(request).await.unwrap()
    }

    async fn refused(&self, request: proto::CreateSubAgentRequest) -> String {
        let api = self.connect().await;
        let before = self.value("SELECT count(*) FROM workspace_agents").await;
        let error = api.create_sub_agent(request).await.unwrap_err();
        assert_eq!(self.value("SELECT count(*) FROM workspace_agents").await, before);
        error.text().to_owned()
    }

    /// Connects as a sub agent.
    async fn connect_as(&self, agent: &proto::SubAgent) -> Arc<AgentApi> {
        let token = AgentToken::new(
            agent
                .auth_token
                .as_slice()
                .try_into()
                .map(uuid::Uuid::from_bytes)
                .unwrap(),
        );
        let authenticated = self.store.authenticate(&token).await.unwrap().unwrap();
        self.services
            .begin(authenticated, "2.8".into(), self.services.heard())
            .await
            .unwrap()
    }

    async fn slugs(&self) -> Vec<String> {
        self.store
            .query(
                "SELECT substr(slug, 10) FROM workspace_apps JOIN workspace_agents ON workspace_agents.id = agent_id
                 WHERE parent_id IS NOT NULL ORDER BY slug",
            )
            .await
    }
}

#[tokio::test]
async fn s2_072_a_sub_agent_takes_what_it_was_given_and_the_rest_of_its_parent() {
    let fixture = Fixture::new().await;
    let reply = fixture.create(request("child-agent")).await;
    let agent = reply.agent.as_ref().unwrap();
    assert_eq!(
        (agent.name.as_str(), agent.id.len(), agent.auth_token.len()),
        ("child-agent", 16, 16)
    );
    assert_eq!(app_errors(&reply), [""; 0]);
    let row = "SELECT child.name, child.directory, child.architecture, child.operating_system,
            child.parent_id = parent.id, child.resource_id = parent.resource_id,
            child.troubleshooting_url = parent.troubleshooting_url,
            child.connection_timeout_seconds = parent.connection_timeout_seconds,
            child.api_key_scope = parent.api_key_scope, child.motd_file = '',
            child.environment_variables IS NULL, child.display_apps, child.display_order
        FROM workspace_agents AS child JOIN workspace_agents AS parent ON parent.name = 'main'
        WHERE child.parent_id IS NOT NULL";
    assert_eq!(
        fixture.value(row).await,
        "child-agent /workspaces/web arm64 linux 1 1 1 1 1 1 1 [] 0"
    );
}

#[tokio::test]
async fn s2_073_and_074_names_are_letters_with_single_hyphens() {
    let fixture = Fixture::new().await;
    assert_eq!(
        fixture.refused(request("")).await,
        "field: name detail: agent name cannot be empty"
    );
    for name in ["some_child_agent", "-a", "a-", "a--b", "a b", "é"] {
        let expected = format!(
            r#"field: name detail: agent name "{name}" does not match regex "(?i)^[a-z0-9](-?[a-z0-9])*$""#
        );
        assert_eq!(fixture.refused(request(name)).await, expected);
    }
    for name in ["A", "a-b-9", "Child", "ſ\u{212a}"] {
        assert!(fixture.create(request(name)).await.agent.is_some(), "{name}");
    }
}

#[tokio::test]
async fn s2_075_a_sub_agent_has_no_instance_of_its_parent() {
    // There is no instance id in this schema (instance identity is not served), so that a child cannot have one.
    let fixture = Fixture::new().await;
    let columns = "SELECT count(*) FROM pragma_table_info('workspace_agents') WHERE name LIKE '%instance%'";
    assert_eq!(fixture.value(columns).await, "0");
}

#[tokio::test]
async fn s2_086_an_unknown_display_app_is_refused_and_there_is_no_agent() {
    let fixture = Fixture::new().await;
    let request = proto::CreateSubAgentRequest {
        display_apps: vec![9999],
        ..request("child")
    };
    assert_eq!(
        fixture.refused(request).await,
        r#"field: display_apps[0] detail: "9999" is not a valid display app"#
    );
}

#[tokio::test]
async fn s2_088_a_known_id_replaces_the_display_apps_and_nothing_else() {
    let fixture = Fixture::new().await;
    let created = fixture.create(request("child")).await.agent.unwrap();
    let row = "SELECT name, directory, architecture, operating_system FROM workspace_agents
        WHERE parent_id IS NOT NULL";
    let before = fixture.value(row).await;
    let again = proto::CreateSubAgentRequest {
        id: Some(created.id.clone()),
        name: "other".into(),
        directory: "/other".into(),
        display_apps: vec![DisplayApp::WebTerminal as i32],
        apps: vec![app("ignored")],
        ..Default::default()
    };
    let reply = fixture.create(again).await;
    assert_eq!(reply.agent.as_ref(), Some(&created));
    assert_eq!(app_errors(&reply), [""; 0]);
    assert_eq!(fixture.value(row).await, before);
    let apps = "SELECT display_apps FROM workspace_agents WHERE parent_id IS NOT NULL";
    assert_eq!(fixture.value(apps).await, r#"["web_terminal"]"#);
    let cleared = proto::CreateSubAgentRequest {
        id: Some(created.id),
        ..Default::default()
    };
    fixture.create(cleared).await;
    assert_eq!(fixture.value(apps).await, "[]");
    assert_eq!(fixture.slugs().await, [""; 0]);
}

#[tokio::test]
async fn s2_089_and_090_and_091_ids_that_are_not_of_an_own_child_are_refused() {
    let fixture = Fixture::new().await;
    let with_id = |id: Vec<u8>| proto::CreateSubAgentRequest {
        id: Some(id),
        ..Default::default()
    };
    for length in [0, 5] {
        assert_eq!(
            fixture.refused(with_id(vec![0; length])).await,
            format!("parse agent id: invalid UUID (got {length} bytes)")
        );
    }
    assert_eq!(
        fixture.refused(with_id(vec![7; 16])).await,
        "get workspace agent by id: sql: no rows in result set"
    );
    let own = fixture.connect().await.agent_id();
    let foreign = "subagent does not belong to this parent agent";
    assert_eq!(fixture.refused(with_id(own.as_bytes().to_vec())).await, foreign);
    let child = fixture.create(request("child")).await.agent.unwrap();
    let grandchild = fixture
        .connect_as(&child)
        .await
        .create_sub_agent(request("grandchild"))
        .await;
    let grandchild = grandchild.unwrap().agent.unwrap();
    assert_eq!(fixture.refused(with_id(grandchild.id)).await, foreign);
}

#[tokio::test]
async fn s2_092_and_conn_071_a_name_is_free_once_its_agent_is_deleted() {
    let fixture = Fixture::new().await;
    let taken = |name: &str| {
        format!("insert sub agent: workspace agent name \"{name}\" already exists in this workspace build")
    };
    assert_eq!(fixture.refused(request("main")).await, taken("main"));
    let child = fixture.create(request("child")).await.agent.unwrap();
    assert_eq!(fixture.refused(request("child")).await, taken("child"));
    let delete = proto::DeleteSubAgentRequest { id: child.id };
    fixture.connect().await.delete_sub_agent(delete).await.unwrap();
    assert!(fixture.create(request("child")).await.agent.is_some());
}

#[tokio::test]
async fn a_parent_that_is_gone_and_a_store_that_fails_are_named() {
    let fixture = Fixture::new().await;
    let child = fixture.create(request("child")).await.agent.unwrap();
    let orphaned = fixture.connect_as(&child).await;
    let grandchild = proto::CreateSubAgentRequest {
        display_apps: vec![DisplayApp::Vscode as i32],
        ..request("grandchild")
    };
    let reply = orphaned.create_sub_agent(grandchild).await.unwrap();
    let grandchild = reply.agent.unwrap();
    let mut invalidations = fixture.pubsub.invalidations();
    let delete = proto::DeleteSubAgentRequest { id: child.id };
    fixture.connect().await.delete_sub_agent(delete).await.unwrap();
    fixture.services.on_message(invalidations.next().await).await;
    let gone = format!(
        "get parent agent: get workspace agent by id \"{}\": sql: no rows in result set",
        orphaned.agent_id()
    );
    // The original reads the parent before it looks at what it was sent, except for the display apps.
    let with_id = |id: Vec<u8>| proto::CreateSubAgentRequest {
        id: Some(id),
        ..Default::default()
    };
    for request in [
        request("x"),
        request(""),
        with_id(vec![1; 3]),
        with_id(vec![1; 16]),
        with_id(grandchild.id.clone()),
    ] {
        let error = orphaned.create_sub_agent(request).await.unwrap_err();
        assert_eq!(error.text(), gone);
    }
    let unknown = proto::CreateSubAgentRequest {
        display_apps: vec![9],
        ..request("x")
    };
    assert_eq!(
        orphaned.create_sub_agent(unknown).await.unwrap_err().text(),
        r#"field: display_apps[0] detail: "9" is not a valid display app"#
    );
    let apps = "SELECT display_apps FROM workspace_agents WHERE name = 'grandchild'";
    assert_eq!(fixture.value(apps).await, r#"["vscode"]"#);
    assert_eq!(
        orphaned
            .list_sub_agents(proto::ListSubAgentsRequest {})
            .await
            .unwrap_err()
            .text(),
        gone
    );

    let api = fixture.connect().await;
    for (method, expected) in [
        ("create_sub_agent", "insert sub agent: database is locked"),
        (
            "update_display_apps",
            "update workspace agent display apps: database is locked",
        ),
    ] {
        fixture.store.fail(method, away());
        let id = (method == "update_display_apps").then(|| vec![1; 16]);
        let request = proto::CreateSubAgentRequest { id, ..request("y") };
        assert_eq!(api.create_sub_agent(request).await.unwrap_err().text(), expected);
    }
}

#[tokio::test]
async fn s2_093_and_094_and_096_and_098_deleted_agents_are_gone_from_reads_and_their_apps_stay() {
    let fixture = Fixture::new().await;
    let api = fixture.connect().await;
    let names = async |api: &AgentApi| -> Vec<String> {
        let list = api.list_sub_agents(proto::ListSubAgentsRequest {}).await.unwrap();
        list.agents.into_iter().map(|agent| agent.name).collect()
    };
    assert_eq!(names(&api).await, [""; 0]);
    let one = fixture
        .create(with_apps("one", vec![app("x")]))
        .await
        .agent
        .unwrap();
    let two = fixture.create(request("two")).await.agent.unwrap();
    let list = api.list_sub_agents(proto::ListSubAgentsRequest {}).await.unwrap();
    let mut listed = list.agents;
    listed.sort_by(|a, b| a.name.cmp(&b.name));
    assert_eq!(listed, [one.clone(), two.clone()]);

    let child = fixture.connect_as(&two).await;
    assert_eq!(names(&child).await, [""; 0]);
    child.create_sub_agent(request("grandchild")).await.unwrap();
    assert_eq!(names(&child).await, ["grandchild"]);

    let delete = |id: &[u8]| proto::DeleteSubAgentRequest { id: id.to_vec() };
    api.delete_sub_agent(delete(&one.id)).await.unwrap();
    assert_eq!(names(&api).await, ["two"]);
    let id = AgentId(uuid::Uuid::from_slice(&one.id).unwrap());
    assert_eq!(fixture.store.agent(id).await, Err(StoreError::NoRows));
    assert_eq!(fixture.slugs().await, ["x"]);
    // Twice is fine (design 5.24), and so is an agent that is nobody's child: it stays.
    api.delete_sub_agent(delete(&one.id)).await.unwrap();
    api.delete_sub_agent(delete(api.agent_id().as_bytes()))
        .await
        .unwrap();
    assert!(fixture.store.agent(api.agent_id()).await.is_ok());
    api.delete_sub_agent(delete(&two.id)).await.unwrap();
    assert_eq!(names(&api).await, [""; 0]);
}

#[tokio::test]
async fn s2_095_a_child_of_somebody_elses_agent_stays() {
    let other = EXAMPLE
        .replace("username: ada", "username: bob")
        .replace("ada@", "bob@")
        .replace("name: dev", "name: prod");
    let fixture = Fixture::with(&format!("{EXAMPLE}\n---\n{other}"), config()).await;
    let child = fixture.create(request("child")).await.agent.unwrap();
    let bob = "SELECT a.auth_token FROM workspace_agents AS a
        JOIN workspace_resources AS r ON r.id = a.resource_id JOIN workspace_builds AS b ON b.job_id = r.job_id
        JOIN workspaces AS w ON w.id = b.workspace_id WHERE w.name = 'prod'";
    let token = AgentToken::new(fixture.value(bob).await.parse().unwrap());
    let authenticated = fixture.store.authenticate(&token).await.unwrap().unwrap();
    let stranger = fixture
        .services
        .begin(authenticated, "2.8".into(), fixture.services.heard())
        .await
        .unwrap();
    let delete = |id: Vec<u8>| proto::DeleteSubAgentRequest { id };
    let error = stranger.delete_sub_agent(delete(child.id)).await.unwrap_err();
    assert_eq!(error.text(), "unauthorized: rbac: forbidden");
    assert_eq!(
        fixture
            .value("SELECT count(*) FROM workspace_agents WHERE deleted = 1")
            .await,
        "0"
    );
    let error = stranger.delete_sub_agent(delete(vec![7; 16])).await.unwrap_err();
    assert_eq!(error.text(), "sql: no rows in result set");
}

#[tokio::test]
async fn an_owner_may_delete_from_another_workspace_and_debug_texts_show_no_token() {
    let other = EXAMPLE.replace("name: dev", "name: prod");
    let fixture = Fixture::with(&format!("{EXAMPLE}\n---\n{other}"), config()).await;
    let child = fixture.create(request("child")).await.agent.unwrap();
    let (shown, token) = (format!("{child:?}"), format!("{:?}", child.auth_token));
    assert!(shown.contains("child") && !shown.contains(&token), "{shown}");

    let elsewhere = "SELECT a.auth_token FROM workspace_agents AS a
        JOIN workspace_resources AS r ON r.id = a.resource_id JOIN workspace_builds AS b ON b.job_id = r.job_id
        JOIN workspaces AS w ON w.id = b.workspace_id WHERE w.name = 'prod'";
    let token = AgentToken::new(fixture.value(elsewhere).await.parse().unwrap());
    let authenticated = fixture.store.authenticate(&token).await.unwrap().unwrap();
    let api = fixture
        .services
        .begin(authenticated, "2.8".into(), fixture.services.heard())
        .await
        .unwrap();
    let delete = proto::DeleteSubAgentRequest { id: child.id };
    api.delete_sub_agent(delete).await.unwrap();
    let deleted = "SELECT name FROM workspace_agents WHERE deleted = 1";
    assert_eq!(fixture.value(deleted).await, "child");
}

#[tokio::test]
async fn s2_097_deleting_by_a_bad_id_is_a_uuid_error() {
    let fixture = Fixture::new().await;
    let delete = proto::DeleteSubAgentRequest { id: vec![1; 3] };
    let error = fixture
        .connect()
        .await
        .delete_sub_agent(delete)
        .await
        .unwrap_err();
    assert_eq!(error.text(), "invalid UUID (got 3 bytes)");
}

#[tokio::test]
async fn conn_026_a_sub_agents_own_token_connects_until_it_is_deleted() {
    let fixture = Fixture::new().await;
    let child = fixture.create(request("child")).await.agent.unwrap();
    let api = fixture.connect_as(&child).await;
    let parent = fixture.connect().await;
    assert_eq!(api.agent_id().as_bytes()[..], child.id);
    let mut invalidations = fixture.pubsub.invalidations();
    let delete = proto::DeleteSubAgentRequest { id: child.id };
    parent.delete_sub_agent(delete).await.unwrap();
    // The session stays, and what it asks of its row fails.
    fixture.services.on_message(invalidations.next().await).await;
    let error = api.get_manifest(proto::GetManifestRequest {}).await.unwrap_err();
    assert!(error.text().ends_with("sql: no rows in result set"), "{error:?}");
    let token = AgentToken::new(
        child
            .auth_token
            .as_slice()
            .try_into()
            .map(uuid::Uuid::from_bytes)
            .unwrap(),
    );
    assert!(fixture.store.authenticate(&token).await.unwrap().is_none());
}

#[tokio::test]
async fn requests_of_too_many_things_are_refused_before_the_store_sees_them() {
    let fixture = Fixture::new().await;
    let many = proto::CreateSubAgentRequest {
        display_apps: vec![0; 4 << 20],
        ..request("child")
    };
    assert_eq!(
        fixture.refused(many).await,
        "field: display_apps detail: 4194304 display apps exceed 1000"
    );
    let many = with_apps("child", vec![app("x"); 1001]);
    assert_eq!(
        fixture.refused(many).await,
        "field: apps detail: 1001 apps exceed 1000"
    );
    for field in ["directory", "architecture", "operating_system"] {
        let mut request = request("child");
        *match field {
            "directory" => &mut request.directory,
            "architecture" => &mut request.architecture,
            _ => &mut request.operating_system,
        } = "a\0b".into();
        assert_eq!(
            fixture.refused(request).await,
            format!("field: {field} detail: must not contain NUL")
        );
    }
}

#[tokio::test]
async fn a_sub_agent_may_have_a_thousand_apps_and_display_apps() {
    let fixture = Fixture::new().await;
    let api = fixture.connect().await;
    let told = async |request| {
        let reply = api.create_sub_agent(request).await;
        reply.map_or_else(|error| error.text().to_owned(), |_| "ok".to_owned())
    };
    for (count, apps, display_apps) in [
        (999, "ok", "ok"),
        (1_000, "ok", "ok"),
        (
            1_001,
            "field: apps detail: 1001 apps exceed 1000",
            "field: display_apps detail: 1001 display apps exceed 1000",
        ),
    ] {
        let request_with_apps = with_apps(&format!("apps-{count}"), vec![app("x"); count]);
        assert_eq!(told(request_with_apps).await, apps);
        let request = proto::CreateSubAgentRequest {
            display_apps: vec![0; count],
            ..request(&format!("display-{count}"))
        };
        assert_eq!(told(request).await, display_apps);
    }
}

#[tokio::test]
async fn sub_agents_cost_no_more_statements_than_the_originals() {
    let fixture = Fixture::new().await;
    let api = fixture.connect().await;
    let child = fixture.create(request("other")).await.agent.unwrap();
    let adopt = |id: &[u8]| proto::CreateSubAgentRequest {
        id: Some(id.to_vec()),
        ..Default::default()
    };
    let delete = || proto::DeleteSubAgentRequest { id: child.id.clone() };
    let list = proto::ListSubAgentsRequest {};
    let two_apps = with_apps("child", vec![app("x"), app("y")]);
    // What the original runs: parent, agent (its trigger looks at the name) and each app; parent, agent and update;
    // parent and children; workspace and update.
    for (what, cost, original) in [
        ("create", fixture.cost(api.create_sub_agent(two_apps)).await, 4),
        (
            "adopt",
            fixture.cost(api.create_sub_agent(adopt(&child.id))).await,
            3,
        ),
        ("list", fixture.cost(api.list_sub_agents(list)).await, 2),
        ("delete", fixture.cost(api.delete_sub_agent(delete())).await, 2),
        (
            "delete again",
            fixture.cost(api.delete_sub_agent(delete())).await,
            2,
        ),
    ] {
        assert!(
            cost <= original,
            "{what} costs {cost} statements, the original {original}"
        );
    }
    let before = fixture.statements();
    let nobodys = adopt(api.agent_id().as_bytes());
    api.create_sub_agent(nobodys).await.unwrap_err();
    assert!(
        fixture.statements() - before <= 2,
        "the original reads parent and agent"
    );
    let before = fixture.statements();
    api.create_sub_agent(request("")).await.unwrap_err();
    assert_eq!(fixture.statements() - before, 0);
}
