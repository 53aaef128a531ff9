//! DERP maps: reading, comparing, building and following them.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use prost::Message as _;

use super::settle;
use crate::clock::{Clock, Timestamp};
use crate::coordinator::MemoryCoordinator;
use crate::mux::testing::{Caller, call};
use crate::proto::tailnet::{DerpMap, StreamDerpMapsRequest, Tailnet};
use crate::services::tailnet::derp::{DEFAULT_FREQUENCY, DerpConfig, DerpError, DerpMaps, DerpSource};
use crate::services::tailnet::derp_map::{
    DerpMapError, add_regions, check, default_map, same_map, stun_regions,
};
use crate::services::tailnet::{TailnetApi, TailnetServices, derp_config};

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
    let default = default_map(&"http://127.0.0.1:3000".parse().unwrap());
    let maps = ["{}", MAP, r#"{"HomeParams": null}"#].map(map);
    for map in maps.iter().chain([&default]) {
        let decoded = DerpMap::decode(&*map.encode_to_vec()).unwrap();
        assert!(
            decoded.home_params.is_some(),
            "field 1 is there even when it is empty"
        );
    }
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
    assert_eq!(regions[0].region_name, "Coder STUN 1000");
    assert_eq!(regions[0].nodes.len(), 1);
    let disabled = ["disable".to_owned()];
    assert_eq!(stun_regions(999, &disabled).unwrap(), []);
    let among_others = ["a.example.com:1".to_owned(), "disable".to_owned()];
    assert_eq!(stun_regions(999, &among_others).unwrap(), []);
    let bracketed = stun_regions(999, &["[::1]:3478".to_owned()]).unwrap();
    assert_eq!(bracketed[0].nodes[0].host_name, "::1");
}

/// The original's words.
const NETWORKING: &str = "A valid DERP map is required for networking to work. You must either supply your own DERP \
                          map or use the built-in DERP server";

#[test]
fn tn_020_maps_that_cannot_be_served() {
    let addresses = [
        (
            "host",
            "split host port for \"host\": address host: missing port in address",
        ),
        (
            "::1:3478",
            "split host port for \"::1:3478\": address ::1:3478: too many colons in address",
        ),
        (
            "[::1",
            "split host port for \"[::1\": address [::1: missing ']' in address",
        ),
        (
            "[::1]3478",
            "split host port for \"[::1]3478\": address [::1]3478: missing port in address",
        ),
        ("host:x", "parse port for \"host:x\": "),
        ("host:70000", "parse port for \"host:70000\": "),
    ];
    for (address, text) in addresses {
        let error = stun_regions(999, &[address.to_owned()]).unwrap_err().to_string();
        assert!(error.starts_with(text), "{error}");
    }

    let mut clash = map(&MAP.replace("\"1\": {\"RegionID\": 1,", "\"1000\": {\"RegionID\": 1000,"));
    let stun = stun_regions(999, &["host:1".to_owned()]).unwrap();
    assert_eq!(
        add_regions(&mut clash, stun),
        Err(DerpMapError::RegionTaken(1000))
    );

    let none = check(&map("{}")).unwrap_err().to_string();
    assert_eq!(none, format!("DERP map has no regions. {NETWORKING}"));
    let stun_only = MAP.replace("\"Name\"", "\"STUNOnly\": true, \"Name\"");
    let none = check(&map(&stun_only)).unwrap_err().to_string();
    assert_eq!(none, format!("DERP map has no DERP nodes. {NETWORKING}"));
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

fn config(path: Option<&Path>) -> DerpConfig {
    DerpConfig {
        path: path.map(PathBuf::from),
        access_url: "http://127.0.0.1:3000".parse().unwrap(),
        stun_addresses: Vec::new(),
        frequency: Duration::ZERO,
    }
}

/// A StreamDERPMaps call that runs until it is aborted.
fn stream(
    maps: DerpMaps,
) -> (
    Caller<StreamDerpMapsRequest, DerpMap>,
    tokio::task::JoinHandle<()>,
) {
    let services = Arc::new(TailnetServices::new(MemoryCoordinator::new(), maps));
    let api = TailnetApi::new(services, None);
    let (_, replies, caller) = call();
    let task = tokio::spawn(async move {
        let _ = api.stream_derp_maps(StreamDerpMapsRequest {}, replies).await;
    });
    (caller, task)
}

/// A file that is followed, and a stream of its maps.
struct Followed {
    directory: tempfile::TempDir,
    caller: Caller<StreamDerpMapsRequest, DerpMap>,
    _task: tokio::task::JoinHandle<()>,
}

impl Followed {
    async fn new(text: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("derp.json");
        std::fs::write(&path, text).unwrap();
        let source = DerpSource::load(config(Some(&path))).unwrap();
        let (caller, task) = stream(source.maps());
        tokio::spawn(source.run(Clock::driven(Timestamp::UNIX_EPOCH)));
        settle().await;
        Self {
            directory,
            caller,
            _task: task,
        }
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("derp.json")
    }

    /// Writes the file and waits for two looks at it. Returns how many maps were sent.
    async fn write(&self, text: &str) -> usize {
        std::fs::write(self.path(), text).unwrap();
        self.wait().await
    }

    async fn wait(&self) -> usize {
        // Two waits, since a look may be on its thread when the first one ends.
        for _ in 0..2 {
            tokio::time::sleep(DEFAULT_FREQUENCY).await;
            settle().await;
        }
        self.caller.replies().len()
    }
}

#[tokio::test(start_paused = true)]
async fn tn_013_the_first_map_comes_at_once() {
    let followed = Followed::new(MAP).await;
    assert_eq!(followed.caller.replies(), [map(MAP)]);
}

#[tokio::test(start_paused = true)]
async fn tn_014_the_same_map_is_not_sent_again() {
    let followed = Followed::new(MAP).await;
    assert_eq!(followed.caller.replies().len(), 1);
    for _ in 0..20 {
        assert_eq!(followed.wait().await, 0);
    }
    assert_eq!(
        followed.write(&format!("{MAP} ")).await,
        0,
        "nor when its file was touched"
    );
}

#[tokio::test(start_paused = true)]
async fn tn_015_a_changed_file_is_sent_once() {
    let followed = Followed::new(MAP).await;
    followed.caller.replies();
    let renamed = MAP.replace("a.example.com", "elsewhere.example.com");
    assert_eq!(followed.write(&renamed).await, 1);
    let scored = renamed.replace(
        r#"{"Regions""#,
        r#"{"HomeParams": {"RegionScore": {"1": 0.5}}, "Regions""#,
    );
    assert_eq!(
        followed.write(&scored).await,
        1,
        "home parameters alone count too"
    );
}

#[tokio::test(start_paused = true)]
async fn a_file_that_has_become_bad_leaves_the_last_good_map() {
    let followed = Followed::new(MAP).await;
    followed.caller.replies();
    assert_eq!(followed.write("broken").await, 0);
    assert_eq!(
        followed.write(r#"{"Regions": {}}"#).await,
        0,
        "nor is one sent that cannot be served"
    );
    std::fs::remove_file(followed.path()).unwrap();
    assert_eq!(followed.wait().await, 0);
    assert_eq!(followed.write(MAP).await, 0, "mending it is no change");
    assert_eq!(followed.write(&MAP.replace("\"one\"", "\"other\"")).await, 1);
    assert!(!followed.caller.is_closed());
}

#[tokio::test]
async fn tn_017_a_stream_that_is_cancelled_leaves_nothing_behind() {
    let (sender, receiver) = tokio::sync::watch::channel(Arc::new(map(MAP)));
    let (_caller, task) = stream(DerpMaps::following(receiver));
    settle().await;
    assert!(sender.receiver_count() > 0);
    task.abort();
    let _ = task.await;
    assert_eq!(sender.receiver_count(), 0);
}

#[tokio::test(start_paused = true)]
async fn tn_018_a_period_of_zero_is_the_default() {
    let followed = Followed::new(MAP).await;
    followed.caller.replies();
    std::fs::write(followed.path(), MAP.replace("\"one\"", "\"other\"")).unwrap();
    tokio::time::sleep(DEFAULT_FREQUENCY.saturating_sub(Duration::from_millis(1))).await;
    settle().await;
    assert_eq!(followed.caller.replies().len(), 0, "nobody looks earlier");
    assert_eq!(followed.wait().await, 1);
}

#[tokio::test]
async fn a_stream_does_not_end_when_nobody_changes_the_map_any_more() {
    let (caller, task) = stream(DerpMaps::fixed(map(MAP)));
    settle().await;
    assert_eq!(caller.replies().len(), 1);
    assert!(!caller.is_closed() && !task.is_finished());
}

#[tokio::test]
async fn a_map_that_changed_and_changed_back_is_not_sent() {
    let (sender, receiver) = tokio::sync::watch::channel(Arc::new(map(MAP)));
    let (caller, _task) = stream(DerpMaps::following(receiver));
    settle().await;
    assert_eq!(caller.replies().len(), 1);
    sender.send_replace(Arc::new(map("{}")));
    sender.send_replace(Arc::new(map(MAP)));
    settle().await;
    assert_eq!(caller.replies().len(), 0);
}

#[test]
fn a_first_map_that_cannot_be_served_is_an_error_that_names_the_file() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("derp.json");
    let load = || DerpSource::load(config(Some(&path))).unwrap_err();
    assert!(matches!(load(), DerpError::Read { .. }));
    assert!(load().to_string().contains("derp.json"));
    std::fs::write(&path, "{").unwrap();
    assert!(matches!(load(), DerpError::Parse { .. }));
    std::fs::write(&path, "{}").unwrap();
    assert!(matches!(load(), DerpError::Map(DerpMapError::NoRegions)));
    std::fs::write(&path, " ".repeat(1024 * 1024 + 1)).unwrap();
    assert!(matches!(load(), DerpError::TooLarge { .. }));
}

#[test]
fn what_never_ends_is_too_large() {
    let endless = DerpSource::load(config(Some(Path::new("/dev/zero")))).unwrap_err();
    assert!(matches!(endless, DerpError::TooLarge { .. }), "{endless}");
}
