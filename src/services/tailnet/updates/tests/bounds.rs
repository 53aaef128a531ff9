//! How much is shown at most.

use super::*;
use crate::telemetry::testing::Log;

#[tokio::test]
async fn what_is_too_much_to_show_is_left_out_and_logged() {
    let log = Log::new();
    let kit = Kit::new().await;
    let add = |first: u32, last: u32| {
        let agents = format!(
            "WITH RECURSIVE n (i) AS (SELECT {first} UNION ALL SELECT i + 1 FROM n WHERE i < {last})
            INSERT INTO workspace_agents (id, created_at, updated_at, name, resource_id, auth_token,
                architecture, operating_system)
            SELECT randomblob(16), a.created_at, a.updated_at, 'agent' || i, r.id, randomblob(16), '', ''
            FROM n, workspaces AS w JOIN workspace_builds AS b ON b.workspace_id = w.id
            JOIN workspace_resources AS r ON r.job_id = b.job_id
            JOIN workspace_agents AS a ON a.resource_id = r.id
            WHERE w.name = 'dev' AND a.name = 'main'"
        );
        kit.change(agents)
    };
    let told = || {
        let lines = log.take();
        lines
            .iter()
            .filter(|line| line.contains("too many workspaces and agents"))
            .count()
    };
    // There is one, and its workspace has no row of its own.
    add(2, MAX_ROWS - 1).await;
    driven(async {
        let mut stream = kit.stream();
        let mut shown = 0;
        while shown < MAX_ROWS - 1 {
            shown += u32::try_from(stream.next().await.upserted_agents.len()).unwrap();
        }
        assert_eq!(shown, MAX_ROWS - 1);
        add(MAX_ROWS, MAX_ROWS).await;
        assert_eq!(text(&stream.next().await), [format!("+agent agent{MAX_ROWS}")]);
        assert_eq!(told(), 0);
        add(MAX_ROWS + 1, MAX_ROWS + 1).await;
        kit.pass(MIN_INTERVAL).await;
        assert_eq!(told(), 1);
    })
    .await;
}
