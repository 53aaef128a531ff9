//! Statements as Postgres understands and plans them.

use std::collections::HashSet;

use super::super::PER_AGENT;
use super::Kit;
use crate::store::sql::all_statements;
use crate::store::sql::statement::Statement;

/// Prepares a statement on the connection behind the store; how many arguments it has.
async fn prepare(kit: &mut Kit, Statement { name, postgres, .. }: &Statement) -> usize {
    kit.sql(&format!("PREPARE \"{name}\" AS {postgres}")).await;
    let types =
        format!("SELECT cardinality(parameter_types) FROM pg_prepared_statements WHERE name = '{name}'");
    usize::try_from(kit.integer(&types).await).unwrap()
}

#[tokio::test]
async fn every_statement_prepares() {
    let Some(mut kit) = Kit::of_postgres().await else {
        return;
    };
    // Of SQLite's file alone, the table of events.
    let ours = |statement: &&Statement| !statement.postgres.contains("drpcd_events");
    let mut names = HashSet::new();
    for statement in all_statements().filter(ours) {
        prepare(&mut kit, statement).await;
        assert!(names.insert(statement.name), "{}", statement.name);
    }
}

#[tokio::test]
async fn per_agent_statements_scan_no_table() {
    let Some(mut kit) = Kit::of_postgres().await else {
        return;
    };
    // A scan is left only where nothing else would do, however small the tables are.
    kit.sql("SET enable_seqscan = off").await;
    kit.sql("SET plan_cache_mode = force_generic_plan").await;
    let ours = |statement: &&Statement| {
        PER_AGENT.contains(&statement.name) && !statement.postgres.contains("drpcd_events")
    };
    for statement in all_statements().filter(ours) {
        let arguments = vec!["NULL"; prepare(&mut kit, statement).await].join(", ");
        let name = statement.name;
        let plan = kit
            .table(&format!("EXPLAIN EXECUTE \"{name}\"({arguments})"))
            .await;
        let scans = plan.iter().any(|step| step.contains("Seq Scan"));
        assert!(!scans, "{name}: {plan:#?}");
    }
}
