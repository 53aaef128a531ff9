//! Writing a seed file: everything is matched by name, ids and tokens stay, and nothing that runs is reset.
//!
//! One transaction per file, which also leaves the events that tell other processes what to read again.

mod agent;
mod lists;
mod owner;
mod workspace;

use serde::Serialize;

use super::database::{Database, Session};
use super::events;
use super::statement::{Statement, statements};
use crate::clock::Timestamp;
use crate::ids::OrganizationId;
use crate::seed::{Document, Seed};
use crate::store::{Invalidation, SeededAgent, StoreError, WorkspaceEvent, WorkspaceEventKind};

/// The `site_configs` key of the announcement banners.
const BANNERS_KEY: &str = "announcement_banners";

statements! {
    SET_BANNERS = "seed_banners":
        "INSERT INTO site_configs (\"key\", value) VALUES ($1, $2)
        ON CONFLICT (\"key\") DO UPDATE SET value = excluded.value
        WHERE site_configs.value IS DISTINCT FROM excluded.value";
}

/// Every statement of a seed.
pub(super) fn statements() -> [&'static [&'static Statement]; 5] {
    [
        STATEMENTS,
        agent::STATEMENTS,
        lists::STATEMENTS,
        owner::STATEMENTS,
        workspace::STATEMENTS,
    ]
}

/// How often a file is written, at most. Agents at work lock the rows of several of them too, in the order of their ids, and
/// a file has an order of its own: on Postgres one of the two is ended then.
const TRIES: usize = 5;

pub(super) async fn apply(
    database: &Database,
    seed: &Seed,
    now: Timestamp,
) -> Result<Vec<SeededAgent>, StoreError> {
    let mut tries = 1;
    loop {
        let mut transaction = database.exclusive().await?;
        let outcome = apply_in(&mut transaction, seed, now).await;
        match transaction.finish(outcome).await {
            Err(StoreError::Conflict(_)) if tries < TRIES => tries += 1,
            outcome => return outcome,
        }
    }
}

async fn apply_in(
    transaction: &mut Session<'_>,
    seed: &Seed,
    now: Timestamp,
) -> Result<Vec<SeededAgent>, StoreError> {
    let organization = workspace::organization(transaction, now).await?;
    let mut seeded = Vec::new();
    for (index, document) in seed.documents.iter().enumerate() {
        let mut place = Place {
            transaction: &mut *transaction,
            seed,
            index,
            now,
            organization,
        };
        place.document(document, &mut seeded).await?;
    }
    banners(transaction, seed, now).await?;
    Ok(seeded)
}

/// Where in the file the writing is, so that errors can name it.
struct Place<'p, 'd> {
    transaction: &'p mut Session<'d>,
    seed: &'p Seed,
    index: usize,
    now: Timestamp,
    organization: OrganizationId,
}

impl Place<'_, '_> {
    async fn document(
        &mut self,
        document: &Document,
        seeded: &mut Vec<SeededAgent>,
    ) -> Result<(), StoreError> {
        let owner = self.owner(&document.owner).await?;
        let template = self.template(&document.workspace.template, owner.id).await?;
        let workspace = self.workspace(&document.workspace, owner.id, &template).await?;
        if owner.changed || workspace.changed {
            self.invalidate_agents_of(&workspace).await?;
        }
        let mut shown = workspace.shown_changed;
        for (at, entry) in document.agents.iter().enumerate() {
            let agent = self.agent(&workspace, at, entry).await?;
            shown |= agent.is_new;
            seeded.push(SeededAgent {
                owner: document.owner.username.to_string(),
                workspace: document.workspace.name.to_string(),
                agent: entry.name.to_string(),
                agent_id: agent.id,
                token: agent.token,
            });
        }
        if shown {
            let event = WorkspaceEvent {
                kind: WorkspaceEventKind::StateChange,
                workspace_id: workspace.id,
                agent_id: None,
            };
            events::leave_for_owner(self.transaction, owner.id, event, self.now).await?;
        }
        Ok(())
    }

    /// The error of a key whose value does not fit what the store holds.
    fn conflict(&self, path: &str, reason: &str) -> StoreError {
        StoreError::Rejected(format!(
            "{}: {}: {reason}",
            self.seed.source,
            self.seed.key(self.index, path)
        ))
    }

    async fn leave(&mut self, event: Invalidation) -> Result<(), StoreError> {
        events::leave(self.transaction, event, self.now).await
    }
}

/// A banner as it is stored.
#[derive(Serialize)]
struct StoredBanner<'s> {
    enabled: bool,
    message: &'s str,
    background_color: &'s str,
}

/// Replaces the banners with those of all documents; a file that says nothing of banners leaves them.
async fn banners(transaction: &mut Session<'_>, seed: &Seed, now: Timestamp) -> Result<(), StoreError> {
    if seed.documents.iter().all(|document| document.banners.is_none()) {
        return Ok(());
    }
    let banners = seed
        .documents
        .iter()
        .flat_map(|document| document.banners.iter().flatten());
    let list = super::batch::json(banners.map(|banner| StoredBanner {
        enabled: banner.enabled,
        message: &banner.message,
        background_color: &banner.background_color,
    }))?;
    let set = transaction
        .execute(SET_BANNERS.bind(BANNERS_KEY).bind(list))
        .await?;
    if set.rows > 0 {
        events::leave(transaction, Invalidation::Banners, now).await?;
    }
    Ok(())
}
