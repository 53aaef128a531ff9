use std::sync::Arc;
use std::time::Duration;

use uuid::Uuid;

use super::derp::{DerpConfig, DerpMaps, DerpSource};
use super::derp_map::{DerpMapError, add_regions, check, default_map, same_map, stun_regions};
use super::{Authority, Identity, TailnetApi, TailnetServices, derp_config};
use crate::clock::{Clock, Timestamp};
use crate::coordinator::{Coordinator, MemoryCoordinator, PeerId};
use crate::mux::testing::{Caller, call};
use crate::proto::tailnet::coordinate_request::{Disconnect, ReadyForHandshake, Tunnel, UpdateSelf};
use crate::proto::tailnet::{
    CoordinateRequest, CoordinateResponse, DerpMap, Node, RefreshResumeTokenRequest, StreamDerpMapsRequest,
    Tailnet, TelemetryRequest, WorkspaceUpdate, WorkspaceUpdatesRequest,
};

/// The worked example of the address rule.
const AGENT: PeerId = PeerId(Uuid::from_u128(0x0123_cdef_4567_89ab_cdef_0123_4567_89ab));
const TAILSCALE_ADDRESS: &str = "fd7a:115c:a1e0:89ab:cdef:123:4567:89ab/128";
const CODER_ADDRESS: &str = "fd60:627a:a42b:89ab:cdef:123:4567:89ab/128";
const LEGACY_ADDRESS: &str = "fd7a:115c:a1e0:49d6:b259:b7ac:b1b2:48f4/128";
const FOREIGN_ADDRESS: &str = "fd7a:115c:a1e0::1/128";

struct Fixture {
    coordinator: MemoryCoordinator,
    services: Arc<TailnetServices>,
}

type CoordinateCaller = Caller<CoordinateRequest, CoordinateResponse>;

impl Fixture {
    fn new() -> Self {
        let coordinator = MemoryCoordinator::new();
        let maps = DerpMaps::fixed(DerpMap::default());
        Self {
            services: Arc::new(TailnetServices::new(coordinator.clone(), maps)),
            coordinator,
        }
    }

    fn api(&self, authority: Authority) -> TailnetApi {
        let id = match authority {
            Authority::Agent(id) => id,
            Authority::SingleAgentClient(_) => PeerId(Uuid::from_u128(2)),
        };
        let identity = Identity {
            id,
            name: "ada-dev-main".into(),
            authority,
        };
        TailnetApi::new(Arc::clone(&self.services), Some(identity))
    }

    /// A Coordinate call that runs until it ends or is dropped.
    fn coordinate(&self, authority: Authority) -> (CoordinateCaller, tokio::task::JoinHandle<()>) {
        let api = self.api(authority);
        let (requests, replies, caller) = call();
        (
            caller,
            tokio::spawn(async move { api.coordinate(requests, replies).await.unwrap() }),
        )
    }
}

fn announce(addresses: &[&str]) -> CoordinateRequest {
    let addresses: Vec<_> = addresses.iter().map(|&address| address.to_owned()).collect();
    let node = Node {
        allowed_ips: addresses.clone(),
        addresses,
        ..Node::default()
    };
    CoordinateRequest {
        update_self: Some(UpdateSelf { node: Some(node) }),
        ..Default::default()
    }
}

fn add_tunnel(to: &[u8]) -> CoordinateRequest {
    CoordinateRequest {
        add_tunnel: Some(Tunnel { id: to.to_vec() }),
        ..Default::default()
    }
}

#[track_caller]
fn refused(authority: Authority, request: &CoordinateRequest, start: &str) {
    let error = authority.authorize(request).unwrap_err().to_string();
    assert!(
        error.starts_with(start),
        "{error:?} does not start with {start:?}"
    );
}

#[test]
fn tn_022_and_023_an_agent_announces_its_own_addresses() {
    let agent = Authority::Agent(AGENT);
    let cases: [&[&str]; 5] = [
        &[TAILSCALE_ADDRESS],
        &[CODER_ADDRESS],
        &[TAILSCALE_ADDRESS, CODER_ADDRESS],
        &[LEGACY_ADDRESS],
        &[],
    ];
    for addresses in cases {
        agent.authorize(&announce(addresses)).unwrap();
    }
}

#[test]
fn tn_024_to_026_and_033_what_is_not_an_agents_address_is_refused() {
    let agent = Authority::Agent(AGENT);
    refused(
        agent,
        &announce(&[FOREIGN_ADDRESS]),
        "authorization: invalid node address, got fd7a:115c:a1e0::1",
    );
    let wide = "fd7a:115c:a1e0:89ab:cdef:123:4567:89ab/64";
    refused(
        agent,
        &announce(&[wide]),
        "authorization: invalid address bits, expected 128, got 64",
    );
    refused(
        agent,
        &announce(&["10.0.0.1/32"]),
        "authorization: invalid address bits, expected 128, got 32",
    );
    for bad in [
        "nonsense",
        "fd7a::1",
        "fd7a::1/x",
        "fd7a::1/129",
        "fd7a::1/-1",
        "/128",
    ] {
        refused(agent, &announce(&[bad]), "authorization: parse node address: ");
    }
    let mut request = announce(&[TAILSCALE_ADDRESS]);
    let node = request.update_self.as_mut().unwrap().node.as_mut().unwrap();
    node.allowed_ips = vec![FOREIGN_ADDRESS.into()];
    refused(agent, &request, "authorization: invalid node address");
}

#[test]
fn tn_027_agents_cannot_open_tunnels() {
    refused(
        Authority::Agent(AGENT),
        &add_tunnel(AGENT.0.as_bytes()),
        "authorization: agents cannot open tunnels",
    );
    refused(
        Authority::Agent(AGENT),
        &add_tunnel(&[1]),
        "authorization: agents cannot open tunnels",
    );
}

#[test]
fn tn_028_to_030_what_a_client_of_one_agent_may_do() {
    let client = Authority::SingleAgentClient(AGENT);
    client.authorize(&announce(&[FOREIGN_ADDRESS])).unwrap();
    client.authorize(&add_tunnel(AGENT.0.as_bytes())).unwrap();
    refused(
        client,
        &announce(&["fd7a::1/64"]),
        "authorization: invalid address bits, expected 128, got 64",
    );
    let other = Uuid::from_u128(7);
    let text = format!("authorization: invalid agent id, expected {AGENT}, got {other}");
    refused(client, &add_tunnel(other.as_bytes()), &text);
    refused(
        client,
        &add_tunnel(&[1, 2]),
        "authorization: parse add tunnel id: ",
    );
    let ready = vec![ReadyForHandshake {
        id: AGENT.0.as_bytes().to_vec(),
    }];
    let request = CoordinateRequest {
        ready_for_handshake: ready,
        ..Default::default()
    };
    refused(
        client,
        &request,
        "authorization: clients may not send ready_for_handshake",
    );
}

#[test]
fn tn_034_shape_is_checked_first() {
    let request = CoordinateRequest {
        update_self: Some(UpdateSelf { node: None }),
        ..add_tunnel(&[1])
    };
    refused(Authority::Agent(AGENT), &request, "update_self node is required");
    Authority::Agent(AGENT)
        .authorize(&CoordinateRequest::default())
        .unwrap();
    Authority::Agent(AGENT).authorize(&announce(&[])).unwrap();
}

#[test]
fn a_node_is_bounded() {
    let with = |bytes: usize| {
        let node = Node {
            disco: "x".repeat(bytes),
            ..Node::default()
        };
        CoordinateRequest {
            update_self: Some(UpdateSelf { node: Some(node) }),
            ..Default::default()
        }
    };
    // A text of that length has four bytes of tag and length.
    Authority::Agent(AGENT).authorize(&with(64 * 1024 - 4)).unwrap();
    refused(
        Authority::Agent(AGENT),
        &with(64 * 1024 - 3),
        "authorization: node has 65537 bytes",
    );
}

#[tokio::test]
async fn tn_024_a_refused_agent_learns_why_and_is_gone() {
    let fixture = Fixture::new();
    let (client, _client_task) = fixture.coordinate(Authority::SingleAgentClient(AGENT));
    client.send(&add_tunnel(AGENT.0.as_bytes()));
    let (agent, task) = fixture.coordinate(Authority::Agent(AGENT));
    agent.send(&announce(&[TAILSCALE_ADDRESS]));
    settle().await;
    assert_eq!(client.replies().len(), 1);
    agent.send(&announce(&[FOREIGN_ADDRESS]));
    task.await.unwrap();
    assert_eq!(
        agent.replies()[0].error,
        "authorization: invalid node address, got fd7a:115c:a1e0::1"
    );
    assert!(agent.is_closed());
    assert!(fixture.coordinator.node(AGENT).is_none());
    settle().await;
    assert_eq!(client.replies()[0].peer_updates[0].reason, "lost");
}

/// Lets every task run until it waits.
async fn settle() {
    for _ in 0..20 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn tn_009_without_an_identity_coordinate_fails() {
    let api = TailnetApi::new(Fixture::new().services, None);
    let (requests, replies, _caller) = call();
    assert_eq!(
        api.coordinate(requests, replies).await.unwrap_err().text(),
        "no Stream ID"
    );
}

#[tokio::test]
async fn tn_007_and_010_what_agents_do_not_use_is_unimplemented() {
    let api = Fixture::new().api(Authority::Agent(AGENT));
    api.post_telemetry(TelemetryRequest::default()).await.unwrap();
    let status = api
        .refresh_resume_token(RefreshResumeTokenRequest {})
        .await
        .unwrap_err();
    assert_eq!((status.code(), status.text()), (12, "Unimplemented"));
    let (_, replies, _caller) = call::<WorkspaceUpdatesRequest, WorkspaceUpdate>();
    let status = api
        .workspace_updates(WorkspaceUpdatesRequest::default(), replies)
        .await
        .unwrap_err();
    assert_eq!((status.code(), status.text()), (12, "Unimplemented"));
}

#[tokio::test]
async fn tn_012_a_swapped_coordinator_ends_its_streams_and_new_calls_reach_the_new_one() {
    let fixture = Fixture::new();
    let (old, task) = fixture.coordinate(Authority::Agent(AGENT));
    settle().await;
    let next = MemoryCoordinator::new();
    fixture.services.swap_coordinator(next.clone());
    task.await.unwrap();
    assert_eq!(old.replies()[0].error, "coordinator closed");
    let (new, _task) = fixture.coordinate(Authority::Agent(AGENT));
    new.send(&announce(&[CODER_ADDRESS]));
    settle().await;
    assert!(next.node(AGENT).is_some());
}

#[tokio::test]
async fn tn_045_after_goodbye_the_stream_ends_without_an_error() {
    let fixture = Fixture::new();
    let (agent, task) = fixture.coordinate(Authority::Agent(AGENT));
    agent.send(&announce(&[TAILSCALE_ADDRESS]));
    agent.send(&CoordinateRequest {
        disconnect: Some(Disconnect {}),
        ..Default::default()
    });
    task.await.unwrap();
    assert!(agent.is_closed() && agent.replies().is_empty());
}

#[tokio::test]
async fn tn_046_half_closing_is_no_goodbye() {
    let fixture = Fixture::new();
    let (client, _client_task) = fixture.coordinate(Authority::SingleAgentClient(AGENT));
    client.send(&add_tunnel(AGENT.0.as_bytes()));
    let (agent, task) = fixture.coordinate(Authority::Agent(AGENT));
    agent.send(&announce(&[TAILSCALE_ADDRESS]));
    settle().await;
    agent.half_close();
    task.await.unwrap();
    settle().await;
    let reasons: Vec<_> = client
        .replies()
        .into_iter()
        .map(|reply| reply.peer_updates[0].reason.clone())
        .collect();
    assert_eq!(reasons, ["node update", "lost"]);
}

#[tokio::test]
async fn a_stalled_peer_can_still_send() {
    let fixture = Fixture::new();
    let (client, _client_task) = fixture.coordinate(Authority::SingleAgentClient(AGENT));
    client.send(&add_tunnel(AGENT.0.as_bytes()));
    let (agent, _task) = fixture.coordinate(Authority::Agent(AGENT));
    agent.stall(true);
    agent.send(&announce(&[TAILSCALE_ADDRESS]));
    client.send(&announce(&[]));
    settle().await;
    agent.send(&announce(&[CODER_ADDRESS]));
    settle().await;
    assert_eq!(client.replies().len(), 2);
    agent.stall(false);
    settle().await;
    assert_eq!(agent.replies().len(), 1);
}

fn map(text: &str) -> DerpMap {
    derp_config::parse(text).unwrap()
}

const MAP: &str = r#"{"Regions": {"1": {"RegionID": 1, "RegionCode": "one", "Nodes": [
    {"Name": "1a", "RegionID": 1, "HostName": "a.example.com"},
    {"Name": "1b", "RegionID": 1, "HostName": "b.example.com"}]}}}"#;

#[test]
fn tn_015_order_of_nodes_is_no_change_everything_else_is() {
    let swapped = r#"{"Regions": {"1": {"RegionID": 1, "RegionCode": "one", "Nodes": [
        {"Name": "1b", "RegionID": 1, "HostName": "b.example.com"},
        {"Name": "1a", "RegionID": 1, "HostName": "a.example.com"}]}}}"#;
    assert!(same_map(&map(MAP), &map(swapped)));
    let changes = [
        MAP.replace("a.example.com", "c.example.com"),
        MAP.replace(r#""RegionCode": "one""#, r#""RegionCode": "two""#),
        MAP.replace(
            r#"{"Regions""#,
            r#"{"HomeParams": {"RegionScore": {"1": 0.5}}, "Regions""#,
        ),
        MAP.replace(r#""Name": "1a""#, r#""Name": "1a", "CanPort80": true"#),
    ];
    for changed in changes {
        assert!(!same_map(&map(MAP), &map(&changed)), "{changed}");
    }
}

#[test]
fn tn_016_home_params_are_always_set() {
    for text in ["{}", MAP, r#"{"HomeParams": null}"#] {
        assert!(map(text).home_params.is_some(), "{text}");
    }
    assert!(
        default_map(&"http://127.0.0.1:3000".parse().unwrap())
            .home_params
            .is_some()
    );
}

#[test]
fn keys_match_in_any_case_and_unknown_ones_are_ignored() {
    let loud = MAP
        .replace("RegionID", "REGIONID")
        .replace("\"Nodes\"", "\"nodes\"")
        .replace("{\"Regions\"", "{\"Later\": 1, \"regions\"");
    assert_eq!(map(&loud), map(MAP));
}

#[test]
fn a_wrong_value_is_named_by_its_key() {
    let cases = [
        (
            r#"{"Regions": {"x": {}}}"#,
            "Regions.x: the key must be a region id",
        ),
        (
            r#"{"Regions": {"1": {"Nodes": [{"STUNPort": "no"}]}}}"#,
            "Regions.1.Nodes[0].STUNPort: invalid type",
        ),
        (
            r#"{"HomeParams": {"RegionScore": {"1": true}}}"#,
            "HomeParams.RegionScore.1: must be a number",
        ),
        ("[]", "DERP map: must be an object"),
    ];
    for (text, start) in cases {
        let error = derp_config::parse(text).unwrap_err().to_string();
        assert!(error.starts_with(start), "{error}");
    }
}

#[test]
fn tn_019_stun_addresses_are_regions_of_their_own() {
    let addresses = ["a.example.com:3478".to_owned(), "b.example.com:19302".to_owned()];
    let regions = stun_regions(999, &addresses).unwrap();
    let facts: Vec<_> = regions
        .iter()
        .map(|region| {
            let node = &region.nodes[0];
            (
                region.region_id,
                region.region_code.as_str(),
                node.name.as_str(),
                node.stun_only,
                node.stun_port,
            )
        })
        .collect();
    let expected = [
        (1000, "coder_stun_1000", "1000stun0", true, 3478),
        (1001, "coder_stun_1001", "1001stun0", true, 19302),
    ];
    assert_eq!(facts, expected);
    assert_eq!(stun_regions(999, &["disable".to_owned()]).unwrap(), []);
}

#[test]
fn tn_020_maps_that_cannot_be_served() {
    let bad = stun_regions(999, &["host".to_owned()]).unwrap_err().to_string();
    assert!(bad.starts_with("split host port for \"host\""), "{bad}");
    let bad = stun_regions(999, &["host:x".to_owned()]).unwrap_err().to_string();
    assert!(bad.starts_with("parse port for \"host:x\""), "{bad}");

    let mut clash = map(&MAP.replace("\"1\": {\"RegionID\": 1,", "\"1000\": {\"RegionID\": 1000,"));
    let stun = stun_regions(999, &["host:1".to_owned()]).unwrap();
    assert_eq!(
        add_regions(&mut clash, stun),
        Err(DerpMapError::RegionTaken(1000))
    );

    let none = check(&map("{}")).unwrap_err().to_string();
    assert!(none.starts_with("DERP map has no regions. "), "{none}");
    let stun_only = MAP.replace("\"Name\"", "\"STUNOnly\": true, \"Name\"");
    let none = check(&map(&stun_only)).unwrap_err().to_string();
    assert!(none.starts_with("DERP map has no DERP nodes. "), "{none}");
    let relay = MAP.replace("\"RegionCode\"", "\"EmbeddedRelay\": true, \"RegionCode\"");
    assert_eq!(check(&map(&relay)), Err(DerpMapError::EmbeddedRelay(1)));
    let moved = MAP.replace(
        "\"RegionID\": 1, \"RegionCode\"",
        "\"RegionID\": 2, \"RegionCode\"",
    );
    assert_eq!(check(&map(&moved)), Err(DerpMapError::RegionId { key: 1, id: 2 }));
}

#[test]
fn conn_055_the_default_region_stands_at_the_access_url() {
    let default = default_map(&"http://10.0.0.1:3000".parse().unwrap());
    let region = &default.regions[&999];
    let node = &region.nodes[0];
    assert_eq!(
        (region.region_code.as_str(), region.embedded_relay),
        ("drpcd", false)
    );
    assert_eq!(
        (node.name.as_str(), node.host_name.as_str()),
        ("999a", "10.0.0.1")
    );
    assert_eq!(
        (node.derp_port, node.stun_port, node.force_http),
        (3000, -1, true)
    );
    let secure = default_map(&"https://drpcd.example.com".parse().unwrap());
    let node = &secure.regions[&999].nodes[0];
    assert_eq!((node.derp_port, node.force_http), (443, false));
}

#[tokio::test(start_paused = true)]
async fn tn_013_to_015_and_018_a_stream_gets_the_map_and_its_changes() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("derp.json");
    std::fs::write(&path, MAP).unwrap();
    let config = DerpConfig {
        path: Some(path.clone()),
        access_url: "http://127.0.0.1:3000".parse().unwrap(),
        stun_addresses: Vec::new(),
        frequency: Duration::ZERO,
    };
    let source = DerpSource::load(config).unwrap();
    let services = Arc::new(TailnetServices::new(MemoryCoordinator::new(), source.maps()));
    tokio::spawn(source.run(Clock::driven(Timestamp::UNIX_EPOCH)));
    let api = TailnetApi::new(services, None);
    let (_, replies, caller) = call::<StreamDerpMapsRequest, DerpMap>();
    let stream = tokio::spawn(async move { api.stream_derp_maps(StreamDerpMapsRequest {}, replies).await });
    settle().await;
    assert_eq!(caller.replies(), [map(MAP)], "the first map comes at once");

    let changed = MAP.replace("\"one\"", "\"other\"");
    let steps = [
        (MAP.to_owned(), 0, "the same map is not sent again"),
        (MAP.to_owned() + " ", 0, "a file that says the same is no change"),
        (changed.clone(), 1, "a changed map is sent once"),
        ("broken".to_owned(), 0, "a bad file leaves the last map"),
        (changed + "  ", 0, "and its mending is no change"),
    ];
    for (text, expected, why) in steps {
        std::fs::write(&path, text).unwrap();
        tokio::time::sleep(Duration::from_secs(11)).await;
        settle().await;
        assert_eq!(caller.replies().len(), expected, "{why}");
    }
    stream.abort();
}
