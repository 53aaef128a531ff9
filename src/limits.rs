//! The limits that an operator should know, in one place: how much, of what, and what is beyond.
//!
//! Owns the limits of messages by method, and the table in `docs/OPERATING.md`, which a test compares with this one. Each
//! other number stands beside the code that holds it, with its reason. Must never decide anything at run time.

use crate::http::limits as http;
use crate::mux::{Bound, Layout, MAX_PACKET, serve};
use crate::services::agent::limits as services;
use crate::services::notifications::MAX_PAYLOAD;
use crate::services::{patience, tailnet};
use crate::{batch, config, coordinator, proto, pubsub, seed, telemetry};

/// Requests without content, or with a few short texts. Later versions may add some.
const SMALL: usize = 64 << 10;

/// How much one request of a method may hold, bytes and elements: entries of lists and maps at any depth. An element takes
/// at most some hundred bytes of memory, so a message costs a few times its bytes at most.
///
/// Bytes are those of any packet where what the original takes can be large. Elements are what the method takes of them,
/// with room for more where it says itself that there are too many; methods without lists have none.
pub const MESSAGES: [(&str, usize, usize); 23] = [
    ("/coder.agent.v2.Agent/GetManifest", SMALL, 0),
    ("/coder.agent.v2.Agent/GetServiceBanner", SMALL, 0),
    ("/coder.agent.v2.Agent/UpdateStats", MAX_PACKET, 65_536),
    ("/coder.agent.v2.Agent/UpdateLifecycle", SMALL, 0),
    ("/coder.agent.v2.Agent/BatchUpdateAppHealths", MAX_PACKET, 65_536),
    ("/coder.agent.v2.Agent/UpdateStartup", MAX_PACKET, 1_024),
    ("/coder.agent.v2.Agent/BatchUpdateMetadata", MAX_PACKET, 16_384),
    ("/coder.agent.v2.Agent/BatchCreateLogs", MAX_PACKET, 131_072),
    ("/coder.agent.v2.Agent/GetAnnouncementBanners", SMALL, 0),
    ("/coder.agent.v2.Agent/ScriptCompleted", SMALL, 0),
    (
        "/coder.agent.v2.Agent/GetResourcesMonitoringConfiguration",
        SMALL,
        0,
    ),
    (
        "/coder.agent.v2.Agent/PushResourcesMonitoringUsage",
        MAX_PACKET,
        16_384,
    ),
    ("/coder.agent.v2.Agent/ReportConnection", SMALL, 0),
    ("/coder.agent.v2.Agent/CreateSubAgent", MAX_PACKET, 4_096),
    ("/coder.agent.v2.Agent/DeleteSubAgent", SMALL, 0),
    ("/coder.agent.v2.Agent/ListSubAgents", SMALL, 0),
    ("/coder.agent.v2.Agent/ReportBoundaryLogs", MAX_PACKET, 65_536),
    ("/coder.agent.v2.Agent/UpdateAppStatus", SMALL, 0),
    ("/coder.tailnet.v2.Tailnet/PostTelemetry", MAX_PACKET, 65_536),
    ("/coder.tailnet.v2.Tailnet/StreamDERPMaps", SMALL, 0),
    ("/coder.tailnet.v2.Tailnet/RefreshResumeToken", SMALL, 0),
    ("/coder.tailnet.v2.Tailnet/Coordinate", MAX_PACKET, 16_384),
    ("/coder.tailnet.v2.Tailnet/WorkspaceUpdates", SMALL, 0),
];

/// What one request of the method at `path` may hold. Of methods that are not ours nothing is known but that each message
/// is a packet.
pub fn message(path: &str) -> Bound {
    let limit = MESSAGES.iter().find(|(method, ..)| *method == path);
    limit.map_or(Bound::PACKET, |&(_, bytes, elements)| Bound {
        bytes,
        elements,
        layout: layout(path),
    })
}

fn layout(path: &str) -> &'static Layout {
    let known = proto::requests().iter().find(|(method, _)| *method == path);
    known.map_or(Bound::PACKET.layout, |(_, layout)| layout)
}

/// One limit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limit {
    /// What is limited.
    pub what: &'static str,
    /// How much of it may be, with its unit.
    pub most: String,
    /// What becomes of more.
    pub beyond: &'static str,
}

/// All limits, in the order of the table. Those of messages by method are [`MESSAGES`].
pub fn table() -> Vec<Limit> {
    let row = |what, most: String, beyond| Limit { what, most, beyond };
    vec![
        row("sessions", "`--max-agent-connections`".to_owned(), "503"),
        row("sessions of one agent", count(http::MAX_AGENT_SESSIONS), "503"),
        row(
            "sessions of one user's clients",
            count(http::MAX_CLIENT_SESSIONS),
            "503",
        ),
        row(
            "resident memory",
            "`--memory-budget`".to_owned(),
            "503 for new sessions until it is less; those that live stay",
        ),
        row(
            "connections that are not sessions",
            count(http::MAX_CONNECTIONS),
            "the one that has waited longest for a request is cut; while all have a request at work, the next waits",
        ),
        row(
            "head of a request, the handshake included",
            size(http::MAX_HEAD),
            "431",
        ),
        row(
            "time for the head of a request",
            seconds(http::HEAD_TIMEOUT),
            "the connection is cut",
        ),
        row(
            "time for the upgrade after it",
            seconds(http::UPGRADE_TIMEOUT),
            "the connection is cut",
        ),
        row(
            "streams of a session, and so calls at a time",
            count(crate::mux::MAX_STREAMS),
            "the new stream is reset",
        ),
        row(
            "streams and calls begun in all sessions of an agent, or of a user's clients",
            rate(serve::MAX_OPENS_PER_SECOND),
            "it is read from more slowly",
        ),
        row(
            "yamux pings in all of these",
            rate(serve::MAX_PINGS_PER_SECOND),
            "it is read from more slowly",
        ),
        row(
            "other yamux frames in all of these, and WebSocket frames",
            rate(serve::MAX_FRAMES_PER_SECOND),
            "it is read from more slowly",
        ),
        row("message of a call", size(MAX_PACKET), "that call fails"),
        row(
            "bytes buffered for a session, received and not yet read",
            size(serve::SESSION_RECEIVE_BUFFER),
            "the stream that goes beyond it is reset",
        ),
        row(
            "streams that are reset for it, in all sessions of an agent or of a user's clients",
            rate(serve::MAX_OVERFLOWS_PER_SECOND),
            "it is read from more slowly",
        ),
        row(
            "bytes buffered for a session, to be sent",
            size(serve::SESSION_SEND_BUFFER),
            "calls wait before they begin, and streams before they send more",
        ),
        row(
            "bytes that may come on top from calls that had begun",
            size(serve::SESSION_SEND_LIMIT - serve::SESSION_SEND_BUFFER),
            "further calls fail; one reply may go beyond",
        ),
        row(
            "bytes buffered for all sessions",
            "half the memory budget".to_owned(),
            "each may hold the next row's until there is room",
        ),
        row(
            "bytes buffered for a session then, and for one of several of an agent or of a user's clients, received; to be sent",
            size(serve::CROWDED_BUFFER),
            "as above",
        ),
        row(
            "bytes buffered for a call, to be sent",
            size(serve::SEND_BUFFER),
            "it waits before it sends more; one message may go beyond",
        ),
        row(
            "log lines of a request",
            count(services::MAX_LOG_LINES),
            "that call fails",
        ),
        row(
            "log text of an agent",
            "1 MiB".to_owned(),
            "the flag of the reply is set and the agent stops sending",
        ),
        row(
            "bytes of all metadata keys of a call",
            count(services::MAX_METADATA_KEYS),
            "that call fails",
        ),
        row("metadata value", bytes(services::MAX_METADATA_TEXT), "cut"),
        row(
            "metadata entries that wait",
            count(batch::metadata::MAX_WAITING),
            "new keys are dropped and counted",
        ),
        row(
            "statistics that wait",
            format!("{} samples", count(batch::stats::MAX_BUFFERED)),
            "the oldest are dropped and counted",
        ),
        row(
            "workspaces whose time of last use waits",
            count(batch::last_used::MAX_MARKED),
            "the next report marks the workspace",
        ),
        row(
            "metrics of an agent",
            format!(
                "{} series of {} of name and labels",
                count(telemetry::agent_metrics::MAX_SERIES),
                size(telemetry::agent_metrics::MAX_SERIES_BYTES)
            ),
            "left out, with a warning",
        ),
        row(
            "boundary logs of a request",
            count(services::MAX_BOUNDARY_LINES),
            "the rest is dropped, with a warning",
        ),
        row(
            "apps of a new sub agent, and display apps",
            format!(
                "{}; {}",
                count(services::MAX_SUB_AGENT_APPS),
                count(services::MAX_DISPLAY_APPS)
            ),
            "that call fails",
        ),
        row(
            "message and URI of an app's status",
            format!(
                "{}; {}",
                bytes(services::MAX_STATUS_MESSAGE),
                bytes(services::MAX_STATUS_URI)
            ),
            "that call fails",
        ),
        row(
            "content of a notification",
            size(MAX_PAYLOAD),
            "it is not queued, with a warning",
        ),
        row(
            "network events of a request",
            count(proto::tailnet::MAX_TELEMETRY_EVENTS),
            "the rest is dropped and counted",
        ),
        row(
            "network events that wait",
            count(batch::network_events::MAX_BUFFERED),
            "the oldest are dropped and counted",
        ),
        row(
            "DERP map as it is given",
            size(tailnet::derp::MAX_SIZE),
            "refused; the last good one stays",
        ),
        row(
            "node of a peer",
            size(coordinator::MAX_NODE),
            "that request fails",
        ),
        row(
            "tunnels of a peer",
            count(coordinator::MAX_TUNNELS),
            "that request fails",
        ),
        row(
            "workspaces and agents that an owner's clients are shown",
            count(tailnet::limits::MAX_ROWS),
            "sub agents first, then others are left out, with a warning",
        ),
        row(
            "streams of workspace updates",
            format!(
                "{} of an owner, of {} owners",
                count(tailnet::limits::MAX_STREAMS_OF_OWNER),
                count(tailnet::limits::MAX_OWNERS)
            ),
            "that call fails",
        ),
        row(
            "calls that wait for the store",
            format!(
                "{} of requests; {} of a workspace",
                size(patience::MAX_WAITING_BYTES),
                size(patience::MAX_WAITING_BYTES_EACH)
            ),
            "further calls fail at once",
        ),
        row(
            "messages to other servers on a Postgres database that is away",
            size(pubsub::limits::MAX_OUTGOING),
            "the oldest are dropped and counted; the others read what they follow again",
        ),
        row(
            "body of a REST request",
            format!(
                "{}; {} of a workspace; {} in all",
                size(http::MAX_BODY),
                size(http::EACH.body_memory),
                size(http::MAX_BODY_MEMORY)
            ),
            "413; 503; 503",
        ),
        row("time for that body", seconds(http::READ_TIMEOUT), "408"),
        row(
            "REST requests of a workspace's agents at a time, but for the next two",
            count(http::EACH.requests),
            "503",
        ),
        row(
            "requests that wait for a login at a provider",
            format!(
                "{} of a workspace; {} in all",
                count(http::EACH.listeners),
                count(http::MAX_LISTENERS)
            ),
            "503",
        ),
        row(
            "streams of claims",
            format!(
                "{} of a workspace; {} in all",
                count(http::EACH.reinit_streams),
                count(http::MAX_REINIT_STREAMS)
            ),
            "503",
        ),
        row(
            "external providers",
            count(config::MAX_PROVIDERS),
            "the server does not start",
        ),
        row(
            "seed file",
            format!(
                "{}, {} documents",
                size(seed::MAX_FILE_BYTES),
                count(seed::MAX_DOCUMENTS)
            ),
            "refused",
        ),
    ]
}

/// A number with commas between thousands.
fn count(number: impl TryInto<u64>) -> String {
    let digits = number.try_into().unwrap_or(u64::MAX).to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index) % 3 == 0 {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

fn rate(per_second: u32) -> String {
    format!("{} a second", count(per_second))
}

fn bytes(number: usize) -> String {
    format!("{} bytes", count(number))
}

/// Bytes that are whole KiB or MiB.
fn size(bytes: impl TryInto<u64>) -> String {
    let bytes = bytes.try_into().unwrap_or(u64::MAX);
    if bytes.is_multiple_of(1 << 20) {
        format!("{} MiB", count(bytes >> 20))
    } else {
        format!("{} KiB", count(bytes >> 10))
    }
}

fn seconds(time: std::time::Duration) -> String {
    format!("{} s", time.as_secs())
}

#[cfg(test)]
mod tests;
