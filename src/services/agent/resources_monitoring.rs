//! GetResourcesMonitoringConfiguration and PushResourcesMonitoringUsage: what an agent shall measure of its machine, and
//! what it measured.
//!
//! Owns the monitors of a session, which are read once, at connection. Source: coder/coder
//! `coderd/agentapi/resources_monitoring.go`.

mod alert;

use serde_json::json;
use tokio::sync::Mutex;

pub use self::alert::AlertLimits;
use self::alert::{Alert, Level, Tally};
use super::AgentApi;
use crate::clock::Timestamp;
use crate::ids::NotificationTemplateId;
use crate::mux::Status;
use crate::proto::agent as proto;
use crate::proto::agent::get_resources_monitoring_configuration_response::{Config, Memory, Volume};
use crate::proto::agent::push_resources_monitoring_usage_request::Datapoint;
use crate::services::notifications::Notice;
use crate::store::{Monitor, MonitorState, MonitorUpdate, Monitors};

/// Samples in one report. Agents make a queue of that size, so it is never zero.
const DATAPOINTS: i32 = 20;

/// Seconds between samples. Agents start a ticker with it, so it is never zero.
const COLLECTION_INTERVAL_SECONDS: i32 = 10;

const OUT_OF_MEMORY: NotificationTemplateId =
    NotificationTemplateId(uuid::uuid!("a9d027b4-ac49-4fb1-9f6d-45af15f64e7a"));
const OUT_OF_DISK: NotificationTemplateId =
    NotificationTemplateId(uuid::uuid!("f047f6a3-5713-40f7-85aa-0394cce9fa3a"));

/// The monitors of one session; absent when its agent has none.
#[derive(Debug)]
pub(super) struct Monitoring {
    /// As read at connection; states and debounces have moved on since.
    rows: Monitors,
    /// Where the monitors are. Held throughout a report, so that reports of one session come one after the other; a
    /// report that waits for it holds one state per monitor, not its samples.
    alerts: Mutex<Alerts>,
}

#[derive(Debug)]
struct Alerts {
    memory: Option<Alert>,
    /// As many as there are volumes.
    volumes: Box<[Alert]>,
}

/// What the samples of one report lead to, for each monitor; `None` where nothing changes or the monitor is disabled.
struct Reported {
    memory: Option<MonitorState>,
    volumes: Vec<Option<MonitorState>>,
}

impl Monitoring {
    /// The monitors, if there are any.
    pub(super) fn new(rows: Monitors) -> Option<Box<Self>> {
        if rows == Monitors::default() {
            return None;
        }
        let alert = |monitor: &Monitor| Alert {
            state: monitor.state,
            debounced_until: monitor.debounced_until,
        };
        let alerts = Mutex::new(Alerts {
            memory: rows.memory.as_ref().map(alert),
            volumes: rows.volumes.iter().map(|(_, monitor)| alert(monitor)).collect(),
        });
        Some(Box::new(Self { rows, alerts }))
    }

    fn weigh(&self, datapoints: &[Datapoint], limits: AlertLimits) -> Reported {
        let memory = |sample: &Datapoint| sample.memory.as_ref().map(|memory| (memory.used, memory.total));
        let volume = |sample: &Datapoint, path: &str| {
            let volume = sample.volumes.iter().find(|volume| volume.volume == path)?;
            Some((volume.used, volume.total))
        };
        let volumes = self
            .rows
            .volumes
            .iter()
            .map(|(path, monitor)| weigh(monitor, datapoints, limits, |sample| volume(sample, path)));
        Reported {
            memory: self
                .rows
                .memory
                .as_ref()
                .and_then(|monitor| weigh(monitor, datapoints, limits, memory)),
            volumes: volumes.collect(),
        }
    }
}

fn weigh(
    monitor: &Monitor,
    datapoints: &[Datapoint],
    limits: AlertLimits,
    sample: impl Fn(&Datapoint) -> Option<(i64, i64)>,
) -> Option<MonitorState> {
    if !monitor.enabled {
        return None;
    }
    let mut tally = Tally::default();
    for datapoint in datapoints {
        tally.count(Level::of(sample(datapoint), monitor.threshold));
    }
    tally.state(limits)
}

impl AgentApi {
    pub(super) fn monitoring_configuration(&self) -> proto::GetResourcesMonitoringConfigurationResponse {
        let rows = self
            .session
            .monitoring
            .as_ref()
            .map(|monitoring| &monitoring.rows);
        let volume = |(path, monitor): &(String, Monitor)| Volume {
            enabled: monitor.enabled,
            path: path.clone(),
        };
        proto::GetResourcesMonitoringConfigurationResponse {
            config: Some(Config {
                num_datapoints: DATAPOINTS,
                collection_interval_seconds: COLLECTION_INTERVAL_SECONDS,
            }),
            memory: rows.and_then(|rows| rows.memory.as_ref()).map(|monitor| Memory {
                enabled: monitor.enabled,
            }),
            volumes: rows.map_or_else(Vec::new, |rows| rows.volumes.iter().map(volume).collect()),
        }
    }

    pub(super) async fn push_usage(
        &self,
        request: proto::PushResourcesMonitoringUsageRequest,
    ) -> Result<proto::PushResourcesMonitoringUsageResponse, Status> {
        if let Some(monitoring) = &self.session.monitoring {
            let reported = monitoring.weigh(&request.datapoints, self.services.config.alert_limits);
            drop(request);
            let mut alerts = monitoring.alerts.lock().await;
            let now = self.services.parts.clock.now();
            let memory = self.monitor_memory(monitoring, &mut alerts, &reported, now).await;
            let volumes = self
                .monitor_volumes(monitoring, &mut alerts, &reported, now)
                .await;
            let errors: Vec<_> = [
                memory.err().map(|error| format!("monitor memory: {error}")),
                volumes.err().map(|error| format!("monitor volume: {error}")),
            ]
            .into_iter()
            .flatten()
            .collect();
            if !errors.is_empty() {
                return Err(Status::message(errors.join("\n")));
            }
        }
        Ok(proto::PushResourcesMonitoringUsageResponse {})
    }

    async fn monitor_memory(
        &self,
        monitoring: &Monitoring,
        alerts: &mut Alerts,
        reported: &Reported,
        now: Timestamp,
    ) -> Result<(), String> {
        let (Some(monitor), Some(alert)) = (&monitoring.rows.memory, &mut alerts.memory) else {
            return Ok(());
        };
        if !self.step(None, alert, reported.memory, now).await? {
            return Ok(());
        }
        let shortage = Shortage {
            name: "OOM",
            template_id: OUT_OF_MEMORY,
            created_by: "workspace-monitor-memory",
            threshold: Some(percentage(monitor)),
            data: json!({ "timestamp": now.to_string() }),
        };
        self.notify_of(shortage).await
    }

    /// All volumes that alert in one report go into one notification; a failed write keeps it back.
    async fn monitor_volumes(
        &self,
        monitoring: &Monitoring,
        alerts: &mut Alerts,
        reported: &Reported,
        now: Timestamp,
    ) -> Result<(), String> {
        let mut scarce = Vec::new();
        let states = alerts.volumes.iter_mut().zip(&reported.volumes);
        for ((path, monitor), (alert, state)) in monitoring.rows.volumes.iter().zip(states) {
            if self.step(Some(path), alert, *state, now).await? {
                scarce.push(json!({ "path": path, "threshold": percentage(monitor) }));
            }
        }
        if scarce.is_empty() {
            return Ok(());
        }
        let shortage = Shortage {
            name: "OOD",
            template_id: OUT_OF_DISK,
            created_by: "workspace-monitor-volumes",
            threshold: None,
            data: json!({ "volumes": scarce, "timestamp": now.to_string() }),
        };
        self.notify_of(shortage).await
    }

    /// Takes one monitor to its next state, and says whether its user is to be told. What does not change is not
    /// written, and what is not written has not happened.
    async fn step(
        &self,
        path: Option<&String>,
        alert: &mut Alert,
        reported: Option<MonitorState>,
        now: Timestamp,
    ) -> Result<bool, String> {
        let (after, tell) = alert.after(reported, now);
        if after != *alert {
            let parts = &self.services.parts;
            let update = MonitorUpdate {
                path: path.cloned(),
                state: after.state,
                debounced_until: after.debounced_until,
                updated_at: now,
            };
            let written = parts
                .patience
                .call(self.session.workspace_id, 0, || {
                    parts.store.update_monitor(self.session.agent_id, &update)
                })
                .await;
            written.map_err(|error| format!("update workspace monitor: {error}"))?;
            *alert = after;
        }
        Ok(tell)
    }

    /// Tells the workspace's owner of today, who may be another one than at connection.
    async fn notify_of(&self, shortage: Shortage) -> Result<(), String> {
        let agent = self.session.agent_id;
        let read = self.services.workspace(self.session.workspace_id, agent).await;
        let workspace = read.map_err(|error| format!("get workspace by id: {error}"))?;
        let threshold = shortage.threshold.map(|threshold| ("threshold", threshold));
        let notice = Notice {
            user_id: workspace.owner_id,
            template_id: shortage.template_id,
            targets: vec![workspace.id.0, workspace.owner_id.0, workspace.organization_id.0],
            labels: threshold
                .into_iter()
                .chain([("workspace", workspace.name)])
                .collect(),
            data: shortage.data,
            created_by: shortage.created_by,
        };
        match self.services.parts.notifications.enqueue(&notice).await {
            // A user who does not want to hear of it must not cost the agent its connection.
            Err(error) if error.is_expected() => {
                tracing::debug!(agent_id = %agent, %error, "no notification of a shortage");
                Ok(())
            }
            enqueued => enqueued
                .map(|_| ())
                .map_err(|error| format!("notify workspace {}: {error}", shortage.name)),
        }
    }
}

/// What a user is told of a scarce resource.
struct Shortage {
    /// In error texts.
    name: &'static str,
    template_id: NotificationTemplateId,
    created_by: &'static str,
    /// A label, where there is one for all.
    threshold: Option<String>,
    /// Holds the time, which tells it from other notifications of the same day.
    data: serde_json::Value,
}

fn percentage(monitor: &Monitor) -> String {
    format!("{}%", monitor.threshold)
}
