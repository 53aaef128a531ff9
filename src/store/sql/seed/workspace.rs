//! A seeded workspace: organization, template, workspace, its running build, and the resource that agents hang on.

use std::time::Duration;

use uuid::Uuid;

use super::super::database::Session;
use super::super::statement::statements;
use super::super::value::label;
use super::Place;
use crate::clock::Timestamp;
use crate::ids::{
    AgentId, BuildId, OrganizationId, ResourceId, TemplateId, TemplateVersionId, UserId, WorkspaceId,
};
use crate::seed::Workspace;
use crate::store::{Invalidation, StoreError};

/// Name of the organization that a new store gets.
const ORGANIZATION: &str = "coder";
/// Name of the version that a new template gets.
const VERSION: &str = "seed";
/// Type and name of the resource that seeded agents hang on.
const RESOURCE_TYPE: &str = "drpcd_seed";
const RESOURCE: &str = "workspace";

statements! {
    DEFAULT_ORGANIZATION = "seed_default_organization":
        "SELECT id FROM organizations WHERE is_default AND NOT deleted";
    INSERT_ORGANIZATION = "seed_insert_organization":
        "INSERT INTO organizations (id, name, display_name, is_default, created_at, updated_at)
        VALUES ($1, $2, $2, TRUE, $3, $3)";
    INSERT_JOB = "seed_insert_job":
        "INSERT INTO provisioner_jobs (
            id, organization_id, initiator_id, type, created_at, updated_at, started_at, completed_at
        ) VALUES ($1, $2, $3, $4, $5, $5, $5, $5)";
    TEMPLATE_BY_NAME = "seed_template_by_name":
        "SELECT id, active_version_id FROM templates
        WHERE organization_id = $1 AND lower(name) = lower($2) AND NOT deleted";
    INSERT_TEMPLATE = "seed_insert_template":
        "INSERT INTO templates (id, organization_id, active_version_id, created_by, name, created_at, updated_at)
        VALUES ($1, $2, $3, $4, $5, $6, $6)";
    INSERT_VERSION = "seed_insert_template_version":
        "INSERT INTO template_versions (
            id, template_id, organization_id, job_id, created_by, name, created_at, updated_at
        ) VALUES ($1, $2, $3, $4, $5, $6, $7, $7)";
    WORKSPACE_BY_NAME = "seed_workspace_by_name":
        "SELECT id FROM workspaces WHERE owner_id = $1 AND lower(name) = lower($2) AND NOT deleted";
    INSERT_WORKSPACE = "seed_insert_workspace":
        "INSERT INTO workspaces (
            id, owner_id, organization_id, template_id, name, autostart_schedule, ttl, created_at, updated_at
        ) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $8)";
    UPDATE_WORKSPACE = "seed_update_workspace":
        "UPDATE workspaces SET template_id = $2, name = $3, autostart_schedule = $4, ttl = $5, updated_at = $6
        WHERE id = $1 AND (template_id, name, autostart_schedule, ttl) IS DISTINCT FROM ($2, $3, $4, $5)";
    LATEST_BUILD = "seed_latest_build":
        "SELECT b.id, b.build_number, b.transition, b.job_id, v.template_id
        FROM workspace_builds AS b JOIN template_versions AS v ON v.id = b.template_version_id
        WHERE b.workspace_id = $1 ORDER BY b.build_number DESC LIMIT 1";
    INSERT_BUILD = "seed_insert_build":
        "INSERT INTO workspace_builds (
            id, workspace_id, template_version_id, initiator_id, job_id, created_at, updated_at, build_number,
            transition, reason, deadline
        ) VALUES ($1, $2, $3, $4, $5, $6, $6, $7, 'start', 'initiator', $8)";
    SET_BUILD_VERSION = "seed_set_build_version":
        "UPDATE workspace_builds SET template_version_id = $2, updated_at = $3 WHERE id = $1";
    RESOURCE_BY_JOB = "seed_resource_by_job":
        "SELECT id FROM workspace_resources WHERE job_id = $1 ORDER BY created_at, id LIMIT 1";
    INSERT_RESOURCE = "seed_insert_resource":
        "INSERT INTO workspace_resources (id, job_id, created_at, transition, type, name)
        VALUES ($1, $2, $3, 'start', $4, $5)";
    AGENTS_OF_JOB = "seed_agents_of_job":
        "SELECT a.id FROM workspace_resources AS r JOIN workspace_agents AS a ON a.resource_id = r.id
        WHERE r.job_id = $1 AND NOT a.deleted ORDER BY a.created_at, a.id";
}

/// A template that is in the store now.
pub(super) struct SeededTemplate {
    id: TemplateId,
    version: TemplateVersionId,
}

/// A workspace that is in the store now.
pub(super) struct SeededWorkspace {
    pub(super) id: WorkspaceId,
    /// Job of its latest build.
    pub(super) job: Uuid,
    /// Where its agents hang.
    pub(super) resource: ResourceId,
    /// Whether something that agents' sessions copy was changed.
    pub(super) changed: bool,
    /// Whether something that its owner's clients are shown was changed: its name, or that it is there and runs.
    pub(super) shown_changed: bool,
}

/// The organization that everything is in.
pub(super) async fn organization(
    transaction: &mut Session<'_>,
    now: Timestamp,
) -> Result<OrganizationId, StoreError> {
    if let Some(row) = transaction.optional(DEFAULT_ORGANIZATION.call()).await? {
        return row.id("id");
    }
    let id = OrganizationId::random();
    let insert = INSERT_ORGANIZATION.bind(id.0).bind(ORGANIZATION).bind(now);
    transaction.execute(insert).await?;
    Ok(id)
}

impl Place<'_, '_> {
    pub(super) async fn template(
        &mut self,
        name: &str,
        creator: UserId,
    ) -> Result<SeededTemplate, StoreError> {
        let known = TEMPLATE_BY_NAME.bind(self.organization.0).bind(name);
        if let Some(row) = self.transaction.optional(known).await? {
            return Ok(SeededTemplate {
                id: row.id("id")?,
                version: row.id("active_version_id")?,
            });
        }
        let template = SeededTemplate {
            id: TemplateId::random(),
            version: TemplateVersionId::random(),
        };
        let job = self.completed_job("template_version_import", creator).await?;
        let insert = INSERT_TEMPLATE
            .bind(template.id.0)
            .bind(self.organization.0)
            .bind(template.version.0)
            .bind(creator.0)
            .bind(name)
            .bind(self.now);
        self.transaction.execute(insert).await?;
        let insert = INSERT_VERSION
            .bind(template.version.0)
            .bind(template.id.0)
            .bind(self.organization.0)
            .bind(job)
            .bind(creator.0)
            .bind(VERSION)
            .bind(self.now);
        self.transaction.execute(insert).await?;
        Ok(template)
    }

    async fn completed_job(&mut self, kind: &'static str, initiator: UserId) -> Result<Uuid, StoreError> {
        let job = Uuid::new_v4();
        let insert = INSERT_JOB
            .bind(job)
            .bind(self.organization.0)
            .bind(initiator.0)
            .bind(label(kind))
            .bind(self.now);
        self.transaction.execute(insert).await?;
        Ok(job)
    }

    pub(super) async fn workspace(
        &mut self,
        entry: &Workspace,
        owner: UserId,
        template: &SeededTemplate,
    ) -> Result<SeededWorkspace, StoreError> {
        let ttl = entry.ttl.map(|ttl| ttl.0);
        let known = WORKSPACE_BY_NAME.bind(owner.0).bind(&*entry.name);
        let (id, changed, is_new) = if let Some(row) = self.transaction.optional(known).await? {
            let id: WorkspaceId = row.id("id")?;
            let update = UPDATE_WORKSPACE
                .bind(id.0)
                .bind(template.id.0)
                .bind(&*entry.name)
                .bind(entry.autostart_schedule.as_deref())
                .bind(ttl)
                .bind(self.now);
            (id, self.transaction.execute(update).await?.rows > 0, false)
        } else {
            let id = WorkspaceId::random();
            let insert = INSERT_WORKSPACE
                .bind(id.0)
                .bind(owner.0)
                .bind(self.organization.0)
                .bind(template.id.0)
                .bind(&*entry.name)
                .bind(entry.autostart_schedule.as_deref())
                .bind(ttl)
                .bind(self.now);
            self.transaction.execute(insert).await?;
            (id, false, true)
        };
        let (job, started) = self.running_build(id, owner, entry, template).await?;
        let resource = self.resource(job).await?;
        Ok(SeededWorkspace {
            id,
            job,
            resource,
            changed,
            shown_changed: is_new || changed || started,
        })
    }

    /// The job of the workspace's latest build, and whether it is a new one. A workspace that is new or was stopped is
    /// started.
    async fn running_build(
        &mut self,
        workspace: WorkspaceId,
        owner: UserId,
        entry: &Workspace,
        template: &SeededTemplate,
    ) -> Result<(Uuid, bool), StoreError> {
        let mut last_number: i32 = 0;
        if let Some(row) = self.transaction.optional(LATEST_BUILD.bind(workspace.0)).await? {
            if row.get::<&str>("transition")? == "start" {
                if row.id::<TemplateId>("template_id")? != template.id {
                    let build: BuildId = row.id("id")?;
                    let set = SET_BUILD_VERSION
                        .bind(build.0)
                        .bind(template.version.0)
                        .bind(self.now);
                    self.transaction.execute(set).await?;
                }
                return Ok((row.id("job_id")?, false));
            }
            last_number = row.get("build_number")?;
        }
        let number = last_number.checked_add(1).ok_or_else(|| {
            StoreError::Rejected(format!(
                "workspace {}: no number is left for a build",
                &*entry.name
            ))
        })?;
        let deadline = entry.ttl.map_or(Timestamp::ZERO, |ttl| {
            self.now
                .saturating_add(Duration::from_nanos(ttl.0.unsigned_abs()))
        });
        let job = self.completed_job("workspace_build", owner).await?;
        let insert = INSERT_BUILD
            .bind(BuildId::random().0)
            .bind(workspace.0)
            .bind(template.version.0)
            .bind(owner.0)
            .bind(job)
            .bind(self.now)
            .bind(number)
            .bind(deadline);
        self.transaction.execute(insert).await?;
        if last_number > 0 {
            self.leave(Invalidation::Build {
                workspace_id: workspace,
            })
            .await?;
        }
        Ok((job, true))
    }

    async fn resource(&mut self, job: Uuid) -> Result<ResourceId, StoreError> {
        if let Some(row) = self.transaction.optional(RESOURCE_BY_JOB.bind(job)).await? {
            return row.id("id");
        }
        let id = ResourceId::random();
        let insert = INSERT_RESOURCE
            .bind(id.0)
            .bind(job)
            .bind(self.now)
            .bind(RESOURCE_TYPE)
            .bind(RESOURCE);
        self.transaction.execute(insert).await?;
        Ok(id)
    }

    /// Tells of every agent of the workspace, for each session has a copy of its rows.
    pub(super) async fn invalidate_agents_of(
        &mut self,
        workspace: &SeededWorkspace,
    ) -> Result<(), StoreError> {
        for row in self.transaction.all(AGENTS_OF_JOB.bind(workspace.job)).await? {
            let agent_id: AgentId = row.id("id")?;
            self.leave(Invalidation::Agent { agent_id }).await?;
        }
        Ok(())
    }
}
