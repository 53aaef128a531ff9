//! The methods of the real services, which the script answers with every field set (`tests/captures/answers.txt`, written
//! by `drpc-interop script-answers`). Requests and answers pass through this side's own messages.

use std::collections::HashMap;
use std::sync::OnceLock;

use bytes::Bytes;
use drpcd::mux::{Inbound, Outbound, Registry, Status};
use drpcd::proto::{agent, tailnet};
use prost::Message;

use super::script::Notes;

/// What is sent and answered for a method.
pub struct Example {
    pub request: Bytes,
    pub reply: Bytes,
}

/// By path.
pub fn examples() -> &'static HashMap<&'static str, Example> {
    static EXAMPLES: OnceLock<HashMap<&str, Example>> = OnceLock::new();
    EXAMPLES.get_or_init(|| {
        let lines = include_str!("../captures/answers.txt").lines();
        let example = |line: &'static str| {
            let mut words = line.split(' ');
            let path = words.next().unwrap();
            let mut bytes = || super::raw::unhex(words.next().unwrap()).into();
            let (request, reply) = (bytes(), bytes());
            (path, Example { request, reply })
        };
        lines.map(example).collect()
    })
}

fn answer<M: Message + Default>(path: &str) -> M {
    M::decode(examples()[path].reply.clone()).unwrap()
}

macro_rules! answers {
    ($registry:expr, $($shape:ident $path:literal $request:ty => $reply:ty;)*) => {
        $(answers!(@$shape $registry, $path, $request, $reply);)*
    };
    (@unary $registry:expr, $path:literal, $request:ty, $reply:ty) => {
        $registry.unary($path, |_: &Notes, _: $request| async { Ok(answer::<$reply>($path)) })
    };
    (@server_stream $registry:expr, $path:literal, $request:ty, $reply:ty) => {
        $registry.server_stream($path, |_: &Notes, _: $request, mut out: Outbound<$reply>| async move {
            out.send(&answer($path)).await
        })
    };
    (@bidi $registry:expr, $path:literal, $request:ty, $reply:ty) => {
        $registry.bidi($path, |_: &Notes, requests: Inbound<$request>, replies: Outbound<$reply>| {
            each($path, requests, replies)
        })
    };
}

/// An answer for each request.
async fn each<Req: Message + Default, Res: Message + Default>(
    path: &str,
    mut requests: Inbound<Req>,
    mut replies: Outbound<Res>,
) -> Result<(), Status> {
    while let Ok(Some(_)) = requests.next().await {
        replies.send(&answer(path)).await?;
    }
    Ok(())
}

pub fn register(registry: &mut Registry<Notes>) {
    answers! { registry,
        unary "/coder.agent.v2.Agent/GetManifest" agent::GetManifestRequest => agent::Manifest;
        unary "/coder.agent.v2.Agent/GetServiceBanner" agent::GetServiceBannerRequest => agent::ServiceBanner;
        unary "/coder.agent.v2.Agent/UpdateStats" agent::UpdateStatsRequest => agent::UpdateStatsResponse;
        unary "/coder.agent.v2.Agent/UpdateLifecycle" agent::UpdateLifecycleRequest => agent::Lifecycle;
        unary "/coder.agent.v2.Agent/BatchUpdateAppHealths"
            agent::BatchUpdateAppHealthRequest => agent::BatchUpdateAppHealthResponse;
        unary "/coder.agent.v2.Agent/UpdateStartup" agent::UpdateStartupRequest => agent::Startup;
        unary "/coder.agent.v2.Agent/BatchUpdateMetadata"
            agent::BatchUpdateMetadataRequest => agent::BatchUpdateMetadataResponse;
        unary "/coder.agent.v2.Agent/BatchCreateLogs"
            agent::BatchCreateLogsRequest => agent::BatchCreateLogsResponse;
        unary "/coder.agent.v2.Agent/GetAnnouncementBanners"
            agent::GetAnnouncementBannersRequest => agent::GetAnnouncementBannersResponse;
        unary "/coder.agent.v2.Agent/ScriptCompleted"
            agent::WorkspaceAgentScriptCompletedRequest => agent::WorkspaceAgentScriptCompletedResponse;
        unary "/coder.agent.v2.Agent/GetResourcesMonitoringConfiguration"
            agent::GetResourcesMonitoringConfigurationRequest => agent::GetResourcesMonitoringConfigurationResponse;
        unary "/coder.agent.v2.Agent/PushResourcesMonitoringUsage"
            agent::PushResourcesMonitoringUsageRequest => agent::PushResourcesMonitoringUsageResponse;
        unary "/coder.agent.v2.Agent/ReportConnection" agent::ReportConnectionRequest => ();
        unary "/coder.agent.v2.Agent/CreateSubAgent" agent::CreateSubAgentRequest => agent::CreateSubAgentResponse;
        unary "/coder.agent.v2.Agent/DeleteSubAgent" agent::DeleteSubAgentRequest => agent::DeleteSubAgentResponse;
        unary "/coder.agent.v2.Agent/ListSubAgents" agent::ListSubAgentsRequest => agent::ListSubAgentsResponse;
        unary "/coder.agent.v2.Agent/ReportBoundaryLogs"
            agent::ReportBoundaryLogsRequest => agent::ReportBoundaryLogsResponse;
        unary "/coder.agent.v2.Agent/UpdateAppStatus"
            agent::UpdateAppStatusRequest => agent::UpdateAppStatusResponse;
        unary "/coder.tailnet.v2.Tailnet/PostTelemetry" tailnet::TelemetryRequest => tailnet::TelemetryResponse;
        server_stream "/coder.tailnet.v2.Tailnet/StreamDERPMaps" tailnet::StreamDerpMapsRequest => tailnet::DerpMap;
        unary "/coder.tailnet.v2.Tailnet/RefreshResumeToken"
            tailnet::RefreshResumeTokenRequest => tailnet::RefreshResumeTokenResponse;
        bidi "/coder.tailnet.v2.Tailnet/Coordinate" tailnet::CoordinateRequest => tailnet::CoordinateResponse;
        server_stream "/coder.tailnet.v2.Tailnet/WorkspaceUpdates"
            tailnet::WorkspaceUpdatesRequest => tailnet::WorkspaceUpdate;
    }
}
