//! Which agents the clients of an owner may reach.

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use uuid::Uuid;

use super::add_tunnel;
use crate::clock::Clock;
use crate::coordinator::PeerId;
use crate::ids::UserId;
use crate::services::tailnet::users::OwnerAuthorizer;
use crate::services::tailnet::{Authority, TunnelAuthorizer as _};
use crate::store::testing::{FaultyStore, NOW};
use crate::store::{SeededAgent, StoreError};

const TWO_OWNERS: &str = "owner: { username: ada }
workspace: { name: dev }
agents: [{ name: main }]
---
owner: { username: grace }
workspace: { name: dev }
agents: [{ name: main }]
";

struct Fixture {
    store: Arc<FaultyStore>,
    ada: OwnerAuthorizer,
    agents: Vec<SeededAgent>,
}

impl Fixture {
    async fn new() -> Self {
        let (store, agents) = FaultyStore::of(TWO_OWNERS).await;
        let owner = user(&store, "ada").await;
        let ada = OwnerAuthorizer::new(store.clone(), Clock::driven(NOW), owner);
        Self { store, ada, agents }
    }

    /// Whether ada may reach the agent of the seed at this place.
    async fn reaches(&self, place: usize) -> bool {
        self.ada.may_reach(PeerId(self.agents[place].agent_id.0)).await
    }
}

async fn user(store: &FaultyStore, name: &str) -> UserId {
    let id = store
        .query(&format!("SELECT id FROM users WHERE username = '{name}'"))
        .await;
    UserId(Uuid::parse_str(&id[0]).unwrap())
}

#[tokio::test]
async fn tn_031_an_owner_reaches_own_agents_and_no_others() {
    let fixture = Fixture::new().await;
    assert!(fixture.reaches(0).await);
    assert!(!fixture.reaches(1).await, "of another owner");
    assert!(
        !fixture.ada.may_reach(PeerId(Uuid::from_u128(7))).await,
        "unknown"
    );
    let calls = fixture.store.calls("owns_agent");
    let authority = Authority::UserClient(Arc::new(fixture.ada));
    let agents = &fixture.agents;
    let own = add_tunnel(agents[0].agent_id.as_bytes());
    authority.authorize(&own).await.unwrap();
    let error = authority
        .authorize(&add_tunnel(agents[1].agent_id.as_bytes()))
        .await;
    assert_eq!(
        error.unwrap_err().to_string(),
        "authorization: workspace agent not found or you do not have permission"
    );
    assert_eq!(fixture.store.calls("owns_agent"), calls + 2, "one statement each");
}

#[tokio::test]
async fn what_ends_a_right_counts_at_once() {
    for end in [
        "UPDATE workspaces SET deleted = 1",
        "UPDATE workspaces SET owner_id = (SELECT id FROM users WHERE username = 'grace'), name = 'given'
         WHERE owner_id = (SELECT id FROM users WHERE username = 'ada')",
        "UPDATE workspace_agents SET deleted = 1",
        "INSERT INTO provisioner_jobs (id, organization_id, initiator_id, type, created_at, updated_at)
            SELECT randomblob(16), organization_id, initiator_id, type, created_at, updated_at
            FROM provisioner_jobs WHERE id IN (SELECT job_id FROM workspace_builds);
         INSERT INTO workspace_builds (id, workspace_id, template_version_id, initiator_id, job_id, created_at,
            updated_at, build_number, transition)
            SELECT randomblob(16), workspace_id, template_version_id, initiator_id, (
                SELECT id FROM provisioner_jobs WHERE completed_at IS NULL LIMIT 1
            ), created_at, updated_at, 2, 'stop' FROM workspace_builds
            WHERE workspace_id = (
                SELECT w.id FROM workspaces AS w JOIN users AS u ON u.id = w.owner_id WHERE u.username = 'ada'
            )",
    ] {
        let fixture = Fixture::new().await;
        assert!(fixture.reaches(0).await);
        for statement in end.split(';') {
            fixture.store.query(statement).await;
        }
        assert!(!fixture.reaches(0).await, "{end}");
    }
}

#[tokio::test]
async fn a_store_that_is_away_is_a_no() {
    let fixture = Fixture::new().await;
    let away = StoreError::Unavailable("database is locked".to_owned());
    fixture.store.fail("owns_agent", away);
    assert!(!fixture.reaches(0).await);
    fixture.store.mend("owns_agent");
    assert!(fixture.reaches(0).await);
}

#[tokio::test]
async fn a_store_that_does_not_answer_within_two_seconds_is_a_no() {
    let fixture = Fixture::new().await;
    fixture.store.stall("owns_agent");
    tokio::time::pause();
    let mut question = fixture.ada.may_reach(PeerId(fixture.agents[0].agent_id.0));
    assert_eq!((&mut question).now_or_never(), None);
    // Timers go by whole milliseconds.
    tokio::time::advance(Duration::from_millis(2_001)).await;
    assert_eq!(question.now_or_never(), Some(false));
}
