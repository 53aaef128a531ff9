//! GetResourcesMonitoringConfiguration: what an agent shall measure of its machine.
//!
//! Source: coder/coder `coderd/agentapi/resources_monitoring.go`. Answers from what was read at connection.

use super::AgentApi;
use crate::proto::agent as proto;
use crate::proto::agent::get_resources_monitoring_configuration_response::{Config, Memory, Volume};

/// Samples in one report. Agents make a queue of that size, so it is never zero.
const DATAPOINTS: i32 = 20;

/// Seconds between samples. Agents start a ticker with it, so it is never zero.
const COLLECTION_INTERVAL_SECONDS: i32 = 10;

impl AgentApi {
    pub(super) fn monitoring_configuration(&self) -> proto::GetResourcesMonitoringConfigurationResponse {
        let monitors = &self.session.monitors;
        let volume = |(path, monitor): &(String, crate::store::Monitor)| Volume {
            enabled: monitor.enabled,
            path: path.clone(),
        };
        proto::GetResourcesMonitoringConfigurationResponse {
            config: Some(Config {
                num_datapoints: DATAPOINTS,
                collection_interval_seconds: COLLECTION_INTERVAL_SECONDS,
            }),
            memory: monitors.memory.as_ref().map(|monitor| Memory {
                enabled: monitor.enabled,
            }),
            volumes: monitors.volumes.iter().map(volume).collect(),
        }
    }
}
