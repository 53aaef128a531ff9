//! DERP maps: reading, writing, comparing and building them.

use prost::Message as _;

use crate::proto::tailnet::DerpMap;
use crate::proto::tailnet::derp_map::region::Node;
use crate::proto::tailnet::derp_map::{HomeParams, Region};
use crate::services::tailnet::derp_config;
use crate::services::tailnet::derp_map::{
    DefaultRegion, DerpMapError, add_regions, check, default_map, same_map, stun_regions, without_stun,
};

pub(super) fn map(text: &str) -> DerpMap {
    derp_config::parse(text.as_bytes()).unwrap()
}

pub(super) const MAP: &str = r#"{"Regions": {"1": {"RegionID": 1, "RegionCode": "one", "Nodes": [
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
        let error = derp_config::parse(text.as_bytes()).unwrap_err().to_string();
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
    let clash = add_regions(&mut clash, stun, "https://example.com/map").unwrap_err();
    assert_eq!(
        clash.to_string(),
        "a default region ID 1000 (coder_stun_1000 - \"Coder STUN 1000\") conflicts with a remote region from \
         \"https://example.com/map\""
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

#[test]
fn the_default_region_is_called_as_the_settings_say() {
    let region = DefaultRegion {
        id: 7,
        code: "home".to_owned(),
        name: "At home".to_owned(),
    };
    let map = region.map(&"https://drpcd.example.com".parse().unwrap());
    let region = &map.regions[&7];
    assert_eq!(
        (
            region.region_id,
            region.region_code.as_str(),
            region.region_name.as_str()
        ),
        (7, "home", "At home")
    );
    assert_eq!(
        (region.nodes[0].name.as_str(), region.nodes[0].region_id),
        ("7a", 7)
    );
}

#[test]
fn without_stun_no_node_has_a_port_for_it() {
    let mut map = map(MAP);
    add_regions(&mut map, stun_regions(999, &["host:1".to_owned()]).unwrap(), "").unwrap();
    without_stun(&mut map);
    assert_eq!(map.regions[&1000].nodes, []);
    let ports: Vec<_> = map.regions[&1].nodes.iter().map(|node| node.stun_port).collect();
    assert_eq!(ports, [-1, -1]);
}

/// A map in which every field says something.
fn full() -> DerpMap {
    let node = Node {
        name: "4a".to_owned(),
        region_id: 4,
        host_name: "derp4.example.com".to_owned(),
        cert_name: "derp.example.com".to_owned(),
        ipv4: "192.0.2.1".to_owned(),
        ipv6: "2001:db8::1".to_owned(),
        stun_port: -1,
        stun_only: true,
        derp_port: 8443,
        insecure_for_tests: true,
        force_http: true,
        stun_test_ip: "192.0.2.2".to_owned(),
        can_port_80: true,
    };
    let region = Region {
        region_id: 4,
        embedded_relay: true,
        region_code: "four".to_owned(),
        region_name: "The <fourth>".to_owned(),
        avoid: true,
        nodes: vec![node, Node::default()],
    };
    DerpMap {
        home_params: Some(HomeParams {
            region_score: [(4, 0.5), (5, 2.0)].into(),
        }),
        regions: [(4, region), (5, Region::default())].into(),
    }
}

#[test]
fn tn_021_a_map_survives_the_way_to_its_written_form_and_back() {
    let written = derp_config::to_json(&full()).to_string();
    assert_eq!(map(&written), full());
    let default = default_map(&"http://127.0.0.1:3000".parse().unwrap());
    for other in [default, map(MAP), map("{}")] {
        assert_eq!(map(&derp_config::to_json(&other).to_string()), other);
    }
    let node = derp_config::to_json(&full())["Regions"]["4"]["Nodes"][0].clone();
    let keys: Vec<_> = node.as_object().unwrap().keys().cloned().collect();
    assert_eq!(keys.len(), 13, "as many as the message has: {keys:?}");
}
