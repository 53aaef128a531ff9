use std::time::Duration;

use crate::store::testing::{EXAMPLE, FaultyStore, NOW};
use crate::store::{Expired, Store as _};

const DAY: i64 = 86_400_000_000;

/// Rows `age` days old: `count` of each kind.
async fn fill(store: &FaultyStore, age: i64, count: u32) {
    let at = NOW.as_micros() - age * DAY;
    let numbers =
        format!("WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {count})");
    for insert in [
        format!(
            "INSERT INTO workspace_agent_stats (id, created_at, user_id, agent_id, workspace_id, template_id)
             {numbers} SELECT randomblob(16), {at}, w.owner_id, a.id, w.id, w.template_id
             FROM n, workspaces AS w, workspace_agents AS a WHERE a.name = 'main' RETURNING 1"
        ),
        format!(
            "INSERT INTO workspace_agent_logs (agent_id, log_source_id, created_at, level, output)
             {numbers} SELECT a.id, randomblob(16), {at}, 'info', 'x' FROM n, workspace_agents AS a RETURNING 1"
        ),
    ] {
        store.query(&insert).await;
    }
}

async fn counts(store: &FaultyStore) -> String {
    let counts = "SELECT (SELECT count(*) FROM workspace_agent_stats) || ' ' ||
        (SELECT count(*) FROM workspace_agent_logs)";
    store.query(counts).await.remove(0)
}

async fn purge_all(store: &FaultyStore, keep: i64) -> u32 {
    let before = NOW.saturating_sub(Duration::from_secs(u64::try_from(keep).unwrap() * 86_400));
    let mut steps = 0;
    for what in Expired::ALL {
        while store.purge(what, before).await.unwrap() {
            steps += 1;
        }
    }
    steps
}

#[tokio::test]
async fn old_statistics_go_in_steps_and_logs_only_with_their_builds() {
    let (store, _) = FaultyStore::seeded(EXAMPLE).await;
    fill(&store, 8, 2_500).await;
    fill(&store, 6, 5).await;
    assert_eq!(purge_all(&store, 7).await, 2);
    // The agent is in its workspace's latest build.
    assert_eq!(counts(&store).await, "5 2505");

    let columns = store
        .query("SELECT name FROM pragma_table_info('provisioner_jobs') WHERE name <> 'id'")
        .await;
    let columns = columns
        .iter()
        .map(|name| format!("\"{name}\""))
        .collect::<Vec<_>>()
        .join(", ");
    store
        .query(&format!(
            "INSERT INTO provisioner_jobs (id, {columns}) SELECT x'{:032x}', {columns} FROM provisioner_jobs LIMIT 1 RETURNING 1",
            9
        ))
        .await;
    let columns = store
        .query("SELECT name FROM pragma_table_info('workspace_builds') WHERE name NOT IN ('id', 'job_id', 'build_number')")
        .await;
    let columns = columns
        .iter()
        .map(|name| format!("\"{name}\""))
        .collect::<Vec<_>>()
        .join(", ");
    store
        .query(&format!(
            "INSERT INTO workspace_builds (id, job_id, build_number, {columns})
             SELECT randomblob(16), x'{:032x}', 2, {columns} FROM workspace_builds RETURNING 1",
            9
        ))
        .await;
    // Made at the beginning of the test's time, so that only a shorter time makes it old.
    assert_eq!(purge_all(&store, 7).await, 0);
    assert_eq!(counts(&store).await, "5 2505");
    let seen = format!(
        "UPDATE workspace_agents SET last_connected_at = {} RETURNING 1",
        NOW.as_micros() - 8 * DAY
    );
    store.query(&seen).await;
    assert_eq!(purge_all(&store, 7).await, 2);
    assert_eq!(counts(&store).await, "5 0");
}
