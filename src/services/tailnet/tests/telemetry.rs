//! Events of connections: what becomes of them, and of those that cannot be read.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::coordinator;
use crate::batch::network_events::{NetworkEvent, NetworkEvents, Sink};
use crate::clock::{Clock, Timestamp};
use crate::proto::tailnet::telemetry_event::{ClientType, P2pEndpoint, Status};
use crate::proto::tailnet::{
    DerpMap, MAX_TELEMETRY_EVENTS, Tailnet, TelemetryEvent, TelemetryRequest, TelemetryResponse,
};
use crate::services::tailnet::derp::DerpMaps;
use crate::services::tailnet::{TailnetApi, TailnetServices};

#[derive(Clone, Debug, Default)]
struct Seen(Arc<Mutex<Vec<NetworkEvent>>>);

impl Sink for Seen {
    fn report(&self, batch: &[NetworkEvent]) {
        self.0.lock().unwrap().extend_from_slice(batch);
    }
}

/// Posts requests. Returns what came out of them, and how many events were given up.
async fn posted(requests: Vec<TelemetryRequest>) -> (Vec<NetworkEvent>, u64) {
    let (seen, clock) = (Seen::default(), Clock::driven(Timestamp::UNIX_EPOCH));
    let events = NetworkEvents::new(seen.clone(), clock);
    let services = TailnetServices::new(Box::new(coordinator()), DerpMaps::fixed(DerpMap::default()));
    let services = services.with_network_events(events.clone());
    let api = TailnetApi::new(Arc::new(services), None);
    for request in requests {
        assert_eq!(api.post_telemetry(request).await.unwrap(), TelemetryResponse {});
    }
    let shutdown = CancellationToken::new();
    shutdown.cancel();
    events.run(shutdown).await;
    let seen = seen.0.lock().unwrap().clone();
    (seen, events.dropped())
}

fn request(events: Vec<TelemetryEvent>) -> TelemetryRequest {
    TelemetryRequest { events, unread: 0 }
}

fn event(number: u128) -> TelemetryEvent {
    TelemetryEvent {
        id: Uuid::from_u128(number).as_bytes().to_vec(),
        ..TelemetryEvent::default()
    }
}

fn seconds(seconds: i64) -> prost_types::Duration {
    prost_types::Duration { seconds, nanos: 0 }
}

#[tokio::test]
async fn tn_090_without_a_handler_telemetry_succeeds() {
    let services = TailnetServices::new(Box::new(coordinator()), DerpMaps::fixed(DerpMap::default()));
    let api = TailnetApi::new(Arc::new(services), None);
    let reply = api.post_telemetry(request(vec![event(1)])).await;
    assert_eq!(reply.unwrap(), TelemetryResponse {});
}

#[tokio::test]
async fn tn_091_an_event_whose_id_is_no_uuid_costs_itself_alone() {
    let bad = TelemetryEvent {
        id: vec![1; 15],
        ..TelemetryEvent::default()
    };
    let (seen, dropped) = posted(vec![request(vec![event(1), bad, event(2)])]).await;
    let ids: Vec<_> = seen.iter().map(|event| event.id.as_u128()).collect();
    assert_eq!((ids, dropped), (vec![1, 2], 1));
}

#[tokio::test]
async fn an_event_is_kept_as_it_was_told() {
    let told = TelemetryEvent {
        time: Some(prost_types::Timestamp { seconds: 7, nanos: 0 }),
        application: "ssh".to_owned(),
        status: Status::Disconnected.into(),
        client_type: ClientType::Wsproxy.into(),
        client_version: "v2.31.0".to_owned(),
        node_id_self: 3,
        node_id_remote: 4,
        p2p_endpoint: Some(P2pEndpoint::default()),
        home_derp: 999,
        connection_age: Some(seconds(60)),
        connection_setup: Some(seconds(1)),
        p2p_setup: Some(seconds(-1)),
        derp_latency: Some(prost_types::Duration {
            seconds: 0,
            nanos: 5_000_000,
        }),
        p2p_latency: None,
        throughput_mbits: Some(12.5),
        ..event(1)
    };
    let expected = NetworkEvent {
        id: Uuid::from_u128(1),
        time: Some(Timestamp::from_micros(7_000_000)),
        application: "ssh".into(),
        status: "disconnected",
        client_type: "wsproxy",
        client_version: "v2.31.0".into(),
        node_id_self: 3,
        node_id_remote: 4,
        is_direct: true,
        home_derp: 999,
        connection_age: Some(Duration::from_secs(60)),
        connection_setup: Some(Duration::from_secs(1)),
        p2p_setup: None,
        derp_latency: Some(Duration::from_millis(5)),
        p2p_latency: None,
        throughput_mbits: Some(12.5),
    };
    let later = TelemetryEvent {
        status: 9,
        client_type: -1,
        ..event(2)
    };
    let (seen, _) = posted(vec![request(vec![told, later])]).await;
    assert_eq!(seen[0], expected);
    assert_eq!(
        (seen[1].status, seen[1].client_type, seen[1].time),
        ("unknown", "unknown", None)
    );
}

#[tokio::test]
async fn what_a_client_sends_in_excess_is_counted_and_not_kept() {
    let wordy = TelemetryEvent {
        application: "ä".repeat(100_000),
        client_version: "v".repeat(100_000),
        ..event(1)
    };
    let excessive = TelemetryRequest {
        events: vec![wordy],
        unread: 1_000_000,
    };
    let (seen, dropped) = posted(vec![excessive]).await;
    assert_eq!(
        (seen[0].application.chars().count(), seen[0].client_version.len()),
        (64, 64)
    );
    assert_eq!(dropped, 1_000_000);

    let full = || request((0..MAX_TELEMETRY_EVENTS as u128).map(event).collect());
    let (seen, dropped) = posted((0..15).map(|_| full()).collect()).await;
    assert_eq!((seen.len(), dropped), (10_000, 5_000));
}

#[tokio::test]
async fn events_of_a_request_are_read_up_to_the_limit() {
    use prost::Message as _;
    for (sent, kept) in [
        (MAX_TELEMETRY_EVENTS - 1, MAX_TELEMETRY_EVENTS - 1),
        (MAX_TELEMETRY_EVENTS, MAX_TELEMETRY_EVENTS),
        (MAX_TELEMETRY_EVENTS + 1, MAX_TELEMETRY_EVENTS),
    ] {
        // As it comes from the wire, where each event is a field of its own.
        let field = |number| {
            let event = event(number).encode_to_vec();
            [&[0x0a, u8::try_from(event.len()).unwrap()], &event[..]].concat()
        };
        let bytes = (0..sent as u128).map(field).collect::<Vec<_>>().concat();
        let request = TelemetryRequest::decode(&bytes[..]).unwrap();
        let (seen, dropped) = posted(vec![request]).await;
        assert_eq!((seen.len(), dropped), (kept, (sent - kept) as u64));
    }
}
