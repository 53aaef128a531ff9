//! Who may connect: authentication and the build check, one rule for both.

use std::collections::HashSet;

use sqlx::Row;
use sqlx::sqlite::SqliteRow;

use super::SqliteStore;
use super::agent::{agent_from_row, workspace_from_row};
use super::batch::hex_list;
use super::statement::Statement;
use crate::ids::{AgentToken, BuildId, TemplateVersionId};
use crate::store::{Authenticated, StoreError};

impl SqliteStore {
    pub(super) async fn authenticate(&self, token: &AgentToken) -> Result<Option<Authenticated>, StoreError> {
        let query = self.counters.query(Statement::Authenticate).bind(*token.reveal());
        let row = query.fetch_optional(&self.readers).await?;
        row.as_ref().map(authenticated_from_row).transpose()
    }

    pub(super) async fn outdated_builds(&self, builds: &[BuildId]) -> Result<Vec<BuildId>, StoreError> {
        let asked = hex_list(builds.iter().map(|build| build.0));
        let rows = self
            .counters
            .query(Statement::EligibleBuilds)
            .bind(asked)
            .fetch_all(&self.readers)
            .await?;
        let mut eligible = HashSet::with_capacity(rows.len());
        for row in &rows {
            eligible.insert(BuildId(row.try_get(0)?));
        }
        Ok(builds
            .iter()
            .copied()
            .filter(|build| !eligible.contains(build))
            .collect())
    }
}

fn authenticated_from_row(row: &SqliteRow) -> Result<Authenticated, StoreError> {
    Ok(Authenticated {
        agent: agent_from_row(row)?,
        workspace: workspace_from_row(row)?,
        build_id: BuildId(row.try_get("build_id")?),
        template_version_id: TemplateVersionId(row.try_get("template_version_id")?),
    })
}
