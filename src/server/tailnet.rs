//! What the Tailnet service gets from the rest: settings, the HTTP client, and a place for its numbers.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use url::Url;

use crate::batch::network_events::NetworkEvents;
use crate::config::Config;
use crate::http::Outbound;
use crate::services::tailnet::TailnetServices;
use crate::services::tailnet::derp::{DerpConfig, DerpStatus, FetchMap};
use crate::services::tailnet::derp_map::DefaultRegion;
use crate::telemetry::metrics::Reading;

/// Fetches DERP maps with the server's one client.
#[derive(Debug)]
pub(super) struct Fetch(pub(super) Outbound);

#[async_trait]
impl FetchMap for Fetch {
    async fn fetch(&self, url: &Url, most: usize) -> Result<Bytes, String> {
        self.0.get(url, most).await.map_err(|error| error.to_string())
    }
}

/// What the settings say about DERP.
pub(super) fn derp_config(config: &Config, access_url: &Url) -> DerpConfig {
    DerpConfig {
        path: config.derp_config_path.clone(),
        url: config.derp_config_url.clone(),
        access_url: access_url.clone(),
        region: DefaultRegion {
            id: config.derp_server_region_id,
            code: config.derp_server_region_code.clone(),
            name: config.derp_server_region_name.clone(),
        },
        stun_addresses: config.derp_server_stun_addresses.clone(),
        // As in the original: without direct connections nobody needs to know how it is seen from outside.
        without_stun: config.block_direct_connections,
        frequency: config.derp_map_update_frequency,
    }
}

/// Numbers that parts keep themselves.
#[expect(clippy::cast_precision_loss, reason = "metrics are floating-point numbers")]
pub(super) fn readings(
    derp: DerpStatus,
    events: NetworkEvents,
    tailnet: Arc<TailnetServices>,
) -> Vec<Reading> {
    let age = derp.clone();
    let (tunnels, health) = (Arc::clone(&tailnet), Arc::clone(&tailnet));
    let runtime = tokio::runtime::Handle::current().metrics();
    vec![
        Reading::gauge("tasks", "Tasks that live now", move || {
            runtime.num_alive_tasks() as f64
        }),
        Reading::gauge(
            "derp_map_version",
            "DERP maps served since the start, the current one included",
            move || derp.version() as f64,
        ),
        Reading::gauge(
            "derp_map_age_seconds",
            "Time since the DERP map's file or URL was last found good",
            move || age.age().as_secs_f64(),
        ),
        Reading::counter(
            "network_events_dropped",
            "Events of connections that were malformed or too many",
            move || events.dropped() as f64,
        ),
        Reading::gauge("tailnet_peers", "Peers that are connected", move || {
            tailnet.status().peers as f64
        }),
        Reading::gauge("tailnet_tunnels", "Tunnels between peers", move || {
            tunnels.status().tunnels as f64
        }),
        Reading::gauge(
            "tailnet_coordinator_healthy",
            "Whether the coordinator reaches what it depends on",
            move || f64::from(u8::from(health.status().healthy)),
        ),
    ]
}
