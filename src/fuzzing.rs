//! What must hold for any input, target by target. A finding is a panic.
//!
//! The same bodies run under libFuzzer (`fuzz/`, `scripts/fuzz`) and, over the committed corpora, in every `cargo test`.
//! Owns their list, and those whose subjects are not in a room of their own. Never part of the server.

use prost::Message;

use crate::coordinator::fuzzing::coordinate_request;
use crate::http::fuzzing::websocket;
use crate::limits;
use crate::mux::fuzzing::{calls, frames, invoke_metadata, packets, yamux};
use crate::proto::{agent, tailnet};
use crate::seed::Seed;
use crate::services::agent::fuzzing::texts;
use crate::services::tailnet::derp_config;

/// The body of a target.
pub type Body = fn(&[u8]);

/// All targets by name; each has a directory of this name in `fuzz/corpus`.
pub const TARGETS: [(&str, Body); 10] = [
    ("frames", frames),
    ("packets", packets),
    ("calls", calls),
    ("metadata", invoke_metadata),
    ("yamux", yamux),
    ("websocket", websocket),
    ("requests", requests),
    ("texts", texts),
    ("seed", seed),
    ("derp", derp),
];

/// Runs the body of the target `name` over one input.
///
/// # Panics
///
/// When something does not hold, which is a finding, and when there is no such target.
pub fn run(name: &str, data: &[u8]) {
    let Some((_, body)) = TARGETS.iter().find(|(target, _)| *target == name) else {
        panic!("no target {name}");
    };
    body(data);
}

/// How a request of a method is looked at.
type Look = fn(&str, &[u8]);

/// Every method's request.
const REQUESTS: [(&str, Look); 23] = [
    (
        "/coder.agent.v2.Agent/GetManifest",
        request::<agent::GetManifestRequest>,
    ),
    (
        "/coder.agent.v2.Agent/GetServiceBanner",
        request::<agent::GetServiceBannerRequest>,
    ),
    (
        "/coder.agent.v2.Agent/UpdateStats",
        request::<agent::UpdateStatsRequest>,
    ),
    (
        "/coder.agent.v2.Agent/UpdateLifecycle",
        request::<agent::UpdateLifecycleRequest>,
    ),
    (
        "/coder.agent.v2.Agent/BatchUpdateAppHealths",
        request::<agent::BatchUpdateAppHealthRequest>,
    ),
    (
        "/coder.agent.v2.Agent/UpdateStartup",
        request::<agent::UpdateStartupRequest>,
    ),
    (
        "/coder.agent.v2.Agent/BatchUpdateMetadata",
        request::<agent::BatchUpdateMetadataRequest>,
    ),
    (
        "/coder.agent.v2.Agent/BatchCreateLogs",
        request::<agent::BatchCreateLogsRequest>,
    ),
    (
        "/coder.agent.v2.Agent/GetAnnouncementBanners",
        request::<agent::GetAnnouncementBannersRequest>,
    ),
    (
        "/coder.agent.v2.Agent/ScriptCompleted",
        request::<agent::WorkspaceAgentScriptCompletedRequest>,
    ),
    (
        "/coder.agent.v2.Agent/GetResourcesMonitoringConfiguration",
        request::<agent::GetResourcesMonitoringConfigurationRequest>,
    ),
    (
        "/coder.agent.v2.Agent/PushResourcesMonitoringUsage",
        request::<agent::PushResourcesMonitoringUsageRequest>,
    ),
    (
        "/coder.agent.v2.Agent/ReportConnection",
        request::<agent::ReportConnectionRequest>,
    ),
    (
        "/coder.agent.v2.Agent/CreateSubAgent",
        request::<agent::CreateSubAgentRequest>,
    ),
    (
        "/coder.agent.v2.Agent/DeleteSubAgent",
        request::<agent::DeleteSubAgentRequest>,
    ),
    (
        "/coder.agent.v2.Agent/ListSubAgents",
        request::<agent::ListSubAgentsRequest>,
    ),
    (
        "/coder.agent.v2.Agent/ReportBoundaryLogs",
        request::<agent::ReportBoundaryLogsRequest>,
    ),
    (
        "/coder.agent.v2.Agent/UpdateAppStatus",
        request::<agent::UpdateAppStatusRequest>,
    ),
    ("/coder.tailnet.v2.Tailnet/PostTelemetry", telemetry),
    (
        "/coder.tailnet.v2.Tailnet/StreamDERPMaps",
        request::<tailnet::StreamDerpMapsRequest>,
    ),
    (
        "/coder.tailnet.v2.Tailnet/RefreshResumeToken",
        request::<tailnet::RefreshResumeTokenRequest>,
    ),
    ("/coder.tailnet.v2.Tailnet/Coordinate", coordinate),
    (
        "/coder.tailnet.v2.Tailnet/WorkspaceUpdates",
        request::<tailnet::WorkspaceUpdatesRequest>,
    ),
];

/// A request of the method that the first byte names.
fn requests(data: &[u8]) {
    let Some((method, message)) = data.split_first() else {
        return;
    };
    let (path, look) = REQUESTS[usize::from(*method) % REQUESTS.len()];
    look(path, message);
}

/// What is counted is what the decoder makes, and what it makes is encoded and decoded to the same.
fn request<M: Message + Default + PartialEq>(path: &str, message: &[u8]) {
    decoded::<M>(path, message, |_| false);
}

/// As [`request`], of a decoder that `passes_over` what it does not read, whatever it is.
fn decoded<M: Message + Default + PartialEq>(
    path: &str,
    message: &[u8],
    passes_over: impl FnOnce(&M) -> bool,
) -> Option<M> {
    let bound = limits::message(path);
    let read = M::decode(message);
    let counted = bound.elements_of(message);
    let Ok(read) = read else { return None };
    // What the decoder takes was counted to its end.
    let counted = counted.unwrap_or_else(|| {
        assert!(
            passes_over(&read),
            "{path}: the decoder goes on where counting stops"
        );
        usize::MAX
    });
    let again = read.encode_to_vec();
    let kept = bound.elements_of(&again);
    assert!(
        kept.is_some_and(|kept| kept <= counted),
        "{path}: {kept:?} of {counted}"
    );
    // NaN is not itself; its text is.
    let twice = M::decode(&*again).map(|twice| twice.encode_to_vec().len());
    assert_eq!(twice, Ok(again.len()), "{path}");
    bound.check(message).is_ok().then_some(read)
}

fn coordinate(path: &str, message: &[u8]) {
    if let Some(request) = decoded::<tailnet::CoordinateRequest>(path, message, |_| false) {
        coordinate_request(request);
    }
}

fn telemetry(path: &str, message: &[u8]) {
    decoded::<tailnet::TelemetryRequest>(path, message, |read| read.unread > 0);
}

/// A seed file is taken or refused with a reason.
fn seed(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    if let Err(error) = Seed::parse("fuzz", text) {
        assert!(error.to_string().starts_with("fuzz: "), "{error}");
    }
}

/// A DERP map that is taken is written and read again as the same.
fn derp(data: &[u8]) {
    if let Ok(map) = derp_config::parse(data) {
        let again = derp_config::parse(derp_config::to_json(&map).to_string().as_bytes());
        assert_eq!(again.ok(), Some(map));
    }
}

#[cfg(test)]
mod tests;
