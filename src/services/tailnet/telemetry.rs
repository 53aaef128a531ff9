//! `PostTelemetry`: events as clients send them, turned into those that this server has a use for.
//!
//! Maps and probe results, which clients send along, are not kept: nothing that is done with events needs them. Source:
//! coder/coder `coderd/telemetry/telemetry.go`.

use std::time::Duration;

use uuid::Uuid;

use crate::batch::network_events::{NetworkEvent, NetworkEvents};
use crate::clock::Timestamp;
use crate::proto::tailnet::telemetry_event::{ClientType, Status};
use crate::proto::tailnet::{TelemetryEvent, TelemetryRequest};

/// Characters of the texts of an event; honest ones have a dozen.
const MAX_TEXT: usize = 64;

/// Hands the events of a request on. Those whose id is no UUID are dropped, as are those that were too many to be read.
pub(super) fn post(request: &TelemetryRequest, to: &NetworkEvents) {
    let sent = request.events.len();
    let events: Vec<_> = request.events.iter().filter_map(event).collect();
    let malformed = sent - events.len() + request.unread;
    to.add(events, malformed);
}

fn event(event: &TelemetryEvent) -> Option<NetworkEvent> {
    Some(NetworkEvent {
        id: Uuid::from_slice(&event.id).ok()?,
        time: event.time.as_ref().and_then(Timestamp::from_proto),
        application: text(&event.application),
        status: match Status::try_from(event.status) {
            Ok(Status::Connected) => "connected",
            Ok(Status::Disconnected) => "disconnected",
            Err(_) => "unknown",
        },
        client_type: match ClientType::try_from(event.client_type) {
            Ok(ClientType::Cli) => "cli",
            Ok(ClientType::Agent) => "agent",
            Ok(ClientType::Coderd) => "coderd",
            Ok(ClientType::Wsproxy) => "wsproxy",
            Err(_) => "unknown",
        },
        client_version: text(&event.client_version),
        node_id_self: event.node_id_self,
        node_id_remote: event.node_id_remote,
        is_direct: event.p2p_endpoint.is_some(),
        home_derp: event.home_derp,
        connection_age: duration(event.connection_age.as_ref()),
        connection_setup: duration(event.connection_setup.as_ref()),
        p2p_setup: duration(event.p2p_setup.as_ref()),
        derp_latency: duration(event.derp_latency.as_ref()),
        p2p_latency: duration(event.p2p_latency.as_ref()),
        throughput_mbits: event.throughput_mbits,
    })
}

fn text(text: &str) -> Box<str> {
    text.chars().take(MAX_TEXT).collect::<String>().into()
}

/// What is absent stays so; what is negative is as good as absent.
fn duration(duration: Option<&prost_types::Duration>) -> Option<Duration> {
    duration.and_then(|duration| (*duration).try_into().ok())
}
