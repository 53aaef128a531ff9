//! Databases as a coder deployment has them: `tests/fixtures/coder`, where the ids and tokens stand.
//!
//! Part of the library's unit tests too (`crate::store::testing::coder`), so it names nothing of the crate.

#![allow(dead_code, unreachable_pub, reason = "each test program uses its own part")]
#![allow(clippy::unwrap_used, reason = "as in the tests")]
#![allow(clippy::missing_panics_doc, reason = "as in the tests")]

use std::sync::OnceLock;

use sqlx::{AssertSqlSafe, Connection as _, Executor as _, PgConnection};

use super::postgres::{Database, Template, apart};

const DEPLOYMENT: &[&str] = &[
    include_str!("../fixtures/coder/1_types.sql"),
    include_str!("../fixtures/coder/2_workspaces.sql"),
    include_str!("../fixtures/coder/3_agents.sql"),
    include_str!("../fixtures/coder/4_rest.sql"),
    include_str!("../fixtures/coder/5_deployment.sql"),
];

const AUDIT: &str = include_str!("../fixtures/coder/6_audit.sql");

/// A deployment.
pub fn deployment() -> Option<Database> {
    static TEMPLATE: OnceLock<Option<Template>> = OnceLock::new();
    copy(&TEMPLATE, DEPLOYMENT)
}

/// A deployment in which every write from now on is recorded.
pub fn audited() -> Option<Database> {
    static TEMPLATE: OnceLock<Option<Template>> = OnceLock::new();
    copy(&TEMPLATE, &[DEPLOYMENT, &[AUDIT]].concat())
}

fn copy(template: &'static OnceLock<Option<Template>>, files: &[&'static str]) -> Option<Database> {
    let fill = async |url: String| {
        let mut connection = PgConnection::connect(&url).await.unwrap();
        for file in files {
            connection.execute(sqlx::raw_sql(*file)).await.unwrap();
        }
        connection.close().await.unwrap();
    };
    template
        .get_or_init(|| Template::new(fill))
        .as_ref()
        .map(Template::database)
}

/// The first column of the rows of a query, as text.
pub fn query(database: &Database, sql: &str) -> Vec<String> {
    let sql = format!("SELECT coalesce(column0::text, 'NULL') FROM ({sql}) AS rows (column0)");
    let url = database.url().to_owned();
    apart(async || {
        let mut connection = PgConnection::connect(&url).await.unwrap();
        sqlx::query_scalar(AssertSqlSafe(sql))
            .fetch_all(&mut connection)
            .await
            .unwrap()
    })
}

/// The writes to an audited deployment that a server which only serves agents may not make.
pub fn violations(database: &Database) -> Vec<String> {
    query(database, "SELECT * FROM audit.violations()")
}
