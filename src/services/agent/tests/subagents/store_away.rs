//! Answers of the store that were lost: the call is made again and must not count twice.

use super::*;
use crate::store::Invalidation;
use crate::store::testing::Engine;

/// Whose calls wait for the store.
async fn patient() -> Fixture {
    Fixture::patient(EXAMPLE, config(), Duration::from_mins(1)).await
}

#[tokio::test(start_paused = true)]
async fn a_sub_agent_whose_creation_was_lost_is_there_once_with_its_apps() {
    let fixture = patient().await;
    fixture.store.lose_answer("create_sub_agent", away());
    let long = App {
        display_name: Some("x".repeat(65)),
        ..app("long")
    };
    let reply = fixture
        .create(with_apps("child", vec![app("x"), long, app("y")]))
        .await;
    assert_eq!(fixture.store.calls("create_sub_agent"), 2);
    let errors = app_errors(&reply);
    assert!(errors[0].starts_with("1 - insert workspace app: "), "{errors:?}");
    assert_eq!(errors.len(), 1);
    assert_eq!(fixture.slugs().await, ["x", "y"]);
    let agent = reply.agent.unwrap();
    let ids = "SELECT id FROM workspace_agents WHERE parent_id IS NOT NULL";
    assert_eq!(
        fixture.value(ids).await.parse(),
        uuid::Uuid::from_slice(&agent.id)
    );
    fixture.connect_as(&agent).await;
}

#[tokio::test(start_paused = true)]
async fn a_name_that_was_taken_meanwhile_is_still_refused() {
    let fixture = patient().await;
    fixture.store.fail("create_sub_agent", away());
    let api = fixture.connect().await;
    let create = api.create_sub_agent(request("main"));
    let mend = async {
        tokio::task::yield_now().await;
        fixture.store.mend("create_sub_agent");
    };
    let (reply, ()) = tokio::join!(create, mend);
    assert_eq!(
        reply.unwrap_err().text(),
        "insert sub agent: workspace agent name \"main\" already exists in this workspace build"
    );
}

#[tokio::test(start_paused = true)]
async fn display_apps_and_deletions_that_were_lost_are_done() {
    let fixture = patient().await;
    let child = fixture.create(request("child")).await.agent.unwrap();
    fixture.store.lose_answer("update_display_apps", away());
    let adopt = proto::CreateSubAgentRequest {
        id: Some(child.id.clone()),
        display_apps: vec![DisplayApp::SshHelper as i32],
        ..Default::default()
    };
    assert_eq!(fixture.create(adopt).await.agent.as_ref(), Some(&child));

    fixture.store.lose_answer("delete_sub_agent", away());
    let mut invalidations = fixture.pubsub.invalidations();
    let agent_id = AgentId(uuid::Uuid::from_slice(&child.id).unwrap());
    let delete = proto::DeleteSubAgentRequest { id: child.id };
    fixture.connect().await.delete_sub_agent(delete).await.unwrap();
    let row = "SELECT deleted, display_apps FROM workspace_agents WHERE name = 'child'";
    assert_eq!(fixture.value(row).await, r#"1 ["ssh_helper"]"#);
    assert!(invalidations.next().await.is_ok(), "copies are dropped");
    if Engine::of_environment() == Engine::Postgres {
        // Others are told by a notification, which leaves nothing behind.
        return;
    }
    let event = Invalidation::Agent { agent_id }.payload();
    let left = format!("SELECT payload FROM drpcd_events WHERE payload = '{event}'");
    assert_eq!(fixture.value(&left).await, event, "others are told once");
}
