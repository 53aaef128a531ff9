//! BatchUpdateAppHealths and UpdateAppStatus: how an agent's apps are, and what they are doing.
//!
//! Source: coder/coder `coderd/agentapi/apps.go`.

mod clean;
mod status;

#[cfg(any(test, feature = "fuzzing"))]
pub(super) use clean::clean;

use std::collections::BTreeMap;

pub use self::status::{AppReporter, AppStatusError, AppStatusReport};
pub(crate) use self::status::{MAX_MESSAGE as MAX_STATUS_MESSAGE, MAX_URI as MAX_STATUS_URI};
use super::{AgentApi, enum_name, uuid};
use crate::ids::AppId;
use crate::mux::{Status, quote};
use crate::proto::agent as proto;
use crate::proto::agent::AppHealth as Proto;
use crate::proto::agent::batch_update_app_health_request::HealthUpdate;
use crate::pubsub::WorkspaceEventKind;
use crate::store::{AppHealth, AppWithHealth};

impl AgentApi {
    /// Takes all updates or none. They are compared with what is stored and written by one statement.
    pub(super) async fn report_app_healths(
        &self,
        request: proto::BatchUpdateAppHealthRequest,
    ) -> Result<proto::BatchUpdateAppHealthResponse, Status> {
        let parts = &self.services.parts;
        let (agent, workspace) = (self.session.agent_id, self.session.workspace_id);
        tracing::debug!(agent_id = %agent, updates = request.updates.len(), "got batch app health update");
        let answer = Ok(proto::BatchUpdateAppHealthResponse {});
        if request.updates.is_empty() {
            return answer;
        }
        let read = parts
            .patience
            .call(workspace, 0, || parts.store.app_healths(agent))
            .await;
        let apps = read.map_err(|error| {
            Status::message(format!("get workspace apps by agent ID \"{agent}\": {error}"))
        })?;
        let apps: BTreeMap<_, _> = apps.into_iter().map(|app| (app.id, app)).collect();
        // By app, so that there are no more than the agent has; of several for one app the last wins.
        let mut changes = BTreeMap::new();
        for update in &request.updates {
            let (app, health) = check(&apps, update).map_err(Status::message)?;
            if app.health != health {
                changes.insert(app.id, health);
            }
        }
        drop(request);
        let changes: Vec<_> = changes.into_iter().collect();
        let Some(first) = changes.first().and_then(|(id, _)| apps.get(id)) else {
            return answer;
        };
        let written = parts
            .patience
            .call(workspace, 0, || parts.store.update_app_healths(&changes))
            .await;
        written.map_err(|error| {
            Status::message(format!(
                "update workspace app health for app \"{}\" ({}): {error}",
                first.id,
                quote(&first.slug)
            ))
        })?;
        self.publish(WorkspaceEventKind::AppHealthUpdate);
        answer
    }
}

fn check<'a>(
    apps: &'a BTreeMap<AppId, AppWithHealth>,
    update: &HealthUpdate,
) -> Result<(&'a AppWithHealth, AppHealth), String> {
    let id =
        uuid(&update.id).map_err(|error| format!("parse workspace app ID {}: {error}", quote(&update.id)))?;
    let app = apps
        .get(&AppId(id))
        .ok_or_else(|| format!("workspace app ID \"{id}\" not found"))?;
    let name = || format!("\"{id}\" ({})", quote(&app.slug));
    if !app.checked {
        return Err(format!(
            "workspace app {} does not have healthchecks enabled",
            name()
        ));
    }
    let health = match Proto::try_from(update.health).unwrap_or(Proto::Unspecified) {
        Proto::Disabled => AppHealth::Disabled,
        Proto::Initializing => AppHealth::Initializing,
        Proto::Healthy => AppHealth::Healthy,
        Proto::Unhealthy => AppHealth::Unhealthy,
        Proto::Unspecified => {
            let health = enum_name::<Proto>(update.health, Proto::as_str_name);
            return Err(format!("unknown health status \"{health}\" for app {}", name()));
        }
    };
    Ok((app, health))
}
