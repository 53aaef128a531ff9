//! What clients are told and allowed.

use super::{Kit, NOW};
use crate::client_token::ClientToken;
use crate::ids::{AgentId, AgentToken, UserId};
use crate::store::{JobStatus, NewSubAgent, OwnedWorkspaces, Store, Transition};

const THREE: &str = "owner: { username: ada }
workspace: { name: one }
agents: [{ name: a }, { name: b }]
---
owner: { username: ada }
workspace: { name: two }
agents: []
---
owner: { username: grace }
workspace: { name: hers }
agents: [{ name: a }]
";

async fn owner(kit: &mut Kit, name: &str) -> UserId {
    let sql = format!("SELECT id FROM users WHERE username = '{name}'");
    UserId(kit.table(&sql).await[0].parse().unwrap())
}

/// Workspaces by name with their agents' names, both in alphabetical order.
fn shown(owned: &OwnedWorkspaces) -> Vec<String> {
    let workspaces = owned.workspaces.iter().map(|workspace| {
        let mut agents: Vec<_> = workspace.agents.iter().map(|agent| &*agent.name).collect();
        agents.sort_unstable();
        format!("{}: {}", workspace.name, agents.join(" "))
    });
    let mut shown: Vec<_> = workspaces.collect();
    shown.sort();
    shown
}

/// Gives each workspace of ada's a newer build without agents, which is about to stop it.
async fn stop(kit: &mut Kit) {
    for sql in [
        "CREATE TEMP TABLE stops AS SELECT randomblob(16) AS job, b.* FROM workspace_builds AS b
        JOIN workspaces AS w ON w.id = b.workspace_id JOIN users AS u ON u.id = w.owner_id WHERE username = 'ada'",
        "INSERT INTO provisioner_jobs (id, organization_id, initiator_id, type, created_at, updated_at)
        SELECT s.job, j.organization_id, j.initiator_id, j.type, 0, 0
        FROM stops AS s JOIN provisioner_jobs AS j ON j.id = s.job_id",
        "INSERT INTO workspace_builds (id, workspace_id, template_version_id, initiator_id, job_id, created_at,
            updated_at, build_number, transition)
        SELECT randomblob(16), workspace_id, template_version_id, initiator_id, job, 0, 0, 2, 'stop' FROM stops",
    ] {
        kit.sql(sql).await;
    }
}

#[tokio::test]
async fn an_owners_live_workspaces_come_with_the_live_agents_of_their_latest_build_by_one_statement() {
    let (mut kit, _) = Kit::seeded(THREE).await;
    let ada = owner(&mut kit, "ada").await;
    let owned = kit.store.owned_workspaces(ada, 100).await.unwrap();
    assert_eq!(shown(&owned), ["one: a b", "two: "]);
    assert!(!owned.more);
    for workspace in &owned.workspaces {
        assert_eq!(
            (workspace.job_status, workspace.transition),
            (JobStatus::Succeeded, Transition::Start)
        );
        assert!(workspace.agents.is_sorted());
    }
    assert!(owned.workspaces.is_sorted_by_key(|workspace| workspace.id));
    assert_eq!(kit.ran("owned_workspaces"), 1);

    kit.sql("UPDATE workspace_agents SET deleted = 1 WHERE name = 'b'")
        .await;
    kit.sql("UPDATE workspaces SET deleted = 1 WHERE name = 'two'")
        .await;
    let owned = kit.store.owned_workspaces(ada, 100).await.unwrap();
    assert_eq!(shown(&owned), ["one: a"]);

    stop(&mut kit).await;
    let owned = kit.store.owned_workspaces(ada, 100).await.unwrap();
    assert_eq!(shown(&owned), ["one: "]);
    let workspace = &owned.workspaces[0];
    assert_eq!(
        (workspace.job_status, workspace.transition),
        (JobStatus::Pending, Transition::Stop)
    );
}

#[tokio::test]
async fn sub_agents_are_left_out_first_when_there_is_too_much() {
    let (mut kit, agents) = Kit::seeded(THREE).await;
    let ada = owner(&mut kit, "ada").await;
    for name in ["child1", "child2"] {
        let child = NewSubAgent {
            id: AgentId::random(),
            parent_id: agents[0].agent_id,
            auth_token: AgentToken::random(),
            created_at: NOW,
            name: name.to_owned(),
            directory: String::new(),
            architecture: "amd64".to_owned(),
            operating_system: "linux".to_owned(),
            display_apps: Vec::new(),
            apps: Vec::new(),
        };
        kit.store.create_sub_agent(&child).await.unwrap();
    }
    // There are five rows.
    for most in [5, 6] {
        let owned = kit.store.owned_workspaces(ada, most).await.unwrap();
        let all = ["one: a b child1 child2", "two: "].map(str::to_owned);
        assert_eq!((shown(&owned), owned.more), (all.to_vec(), false));
    }
    assert!(kit.store.owned_workspaces(ada, 4).await.unwrap().more);
    let owned = kit.store.owned_workspaces(ada, 3).await.unwrap();
    assert_eq!(
        (shown(&owned), owned.more),
        (vec!["one: a b".to_owned(), "two: ".to_owned()], true)
    );
}

#[tokio::test]
async fn a_token_is_usable_for_as_long_as_it_lets_its_owner_in() {
    let (mut kit, _) = Kit::seeded(THREE).await;
    let tokens = [(); 3].map(|()| ClientToken::random());
    for (token, owner) in tokens.iter().zip(["ada", "ada", "grace"]) {
        kit.store.create_client_token(owner, token, NOW).await.unwrap();
    }
    for (set, expected) in [
        ("status = 'active', deleted = FALSE", true),
        ("status = 'dormant'", true),
        ("status = 'suspended'", false),
        ("status = 'active', deleted = TRUE", false),
    ] {
        kit.sql(&format!("UPDATE users SET {set} WHERE username = 'ada'"))
            .await;
        let mut listed: Vec<_> = kit.store.client_tokens().await.unwrap();
        listed.retain(|token| token.owner_username == "ada");
        assert_eq!(listed.len(), 2, "{set}");
        for (token, entry) in tokens.iter().zip([expected, expected, true]) {
            let let_in = kit.store.authenticate_client(token).await.unwrap().is_some();
            assert_eq!(let_in, entry, "{set}");
        }
        assert!(listed.iter().all(|token| token.usable == expected), "{set}");
    }
    assert_eq!(kit.ran("client_tokens"), 4, "one statement for all");
}
