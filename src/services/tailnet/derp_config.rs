//! DERP maps as operators write them: Tailscale's JSON form.
//!
//! As in Go, keys match in any case and unknown keys are ignored.

use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

use crate::proto::tailnet::DerpMap;
use crate::proto::tailnet::derp_map::region::Node;
use crate::proto::tailnet::derp_map::{HomeParams, Region};

/// A text is not a DERP map.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DerpConfigError {
    /// It is not JSON.
    #[error("{0}")]
    Syntax(#[from] serde_json::Error),
    /// A key holds something that it cannot hold.
    #[error("{key}: {reason}")]
    Value {
        /// Path of the key, as written.
        key: String,
        /// Why.
        reason: String,
    },
}

/// Reads a map. Home parameters are set even when the text has none: agents dereference them.
pub(crate) fn parse(text: &[u8]) -> Result<DerpMap, DerpConfigError> {
    let value: Value = serde_json::from_slice(text)?;
    let root = Fields::new("", &value)?;
    let mut map = DerpMap {
        home_params: Some(HomeParams::default()),
        ..DerpMap::default()
    };
    if let Some((key, scores)) = root
        .object("HomeParams")?
        .and_then(|home| home.object("RegionScore").transpose())
        .transpose()?
        .map(|scores| (scores.path.clone(), scores))
    {
        let home = map.home_params.get_or_insert_default();
        for (id, score) in scores.entries() {
            let score = score
                .as_f64()
                .ok_or_else(|| wrong(&format!("{key}.{id}"), "must be a number"))?;
            home.region_score.insert(region_key(&key, id)?, score);
        }
    }
    if let Some(regions) = root.object("Regions")? {
        for (id, value) in regions.entries() {
            // Go decodes null as an absent region.
            if value.is_null() {
                continue;
            }
            let path = format!("{}.{id}", regions.path);
            map.regions.insert(
                region_key(&regions.path, id)?,
                region(&Fields::new(&path, value)?)?,
            );
        }
    }
    Ok(map)
}

/// A map in the form that [`parse`] reads; what has its zero value is left out, as Tailscale does, except for what names
/// a thing.
pub fn to_json(map: &DerpMap) -> Value {
    let scores = map.home_params.iter().flat_map(|home| &home.region_score);
    let scores: Map<_, _> = scores.map(|(id, score)| (id.to_string(), json!(score))).collect();
    let regions = map.regions.iter();
    let regions: Map<_, _> = regions
        .map(|(id, region)| (id.to_string(), region_to_json(region)))
        .collect();
    json!({"HomeParams": {"RegionScore": scores}, "Regions": regions})
}

fn region_to_json(region: &Region) -> Value {
    json!({
        "EmbeddedRelay": region.embedded_relay,
        "RegionID": region.region_id,
        "RegionCode": region.region_code,
        "RegionName": region.region_name,
        "Avoid": region.avoid,
        "Nodes": region.nodes.iter().map(node_to_json).collect::<Vec<_>>(),
    })
}

fn node_to_json(node: &Node) -> Value {
    let mut fields = json!({
        "Name": node.name,
        "RegionID": node.region_id,
        "HostName": node.host_name,
    });
    let optional = [
        ("CertName", json!(node.cert_name)),
        ("IPv4", json!(node.ipv4)),
        ("IPv6", json!(node.ipv6)),
        ("STUNPort", json!(node.stun_port)),
        ("STUNOnly", json!(node.stun_only)),
        ("DERPPort", json!(node.derp_port)),
        ("InsecureForTests", json!(node.insecure_for_tests)),
        ("ForceHTTP", json!(node.force_http)),
        ("STUNTestIP", json!(node.stun_test_ip)),
        ("CanPort80", json!(node.can_port_80)),
    ];
    let zeros = [json!(""), json!(0), json!(false)];
    for (key, value) in optional {
        if !zeros.contains(&value) {
            fields[key] = value;
        }
    }
    fields
}

fn region(fields: &Fields<'_>) -> Result<Region, DerpConfigError> {
    let mut nodes = Vec::new();
    if let Some((path, list)) = fields.find("Nodes") {
        let list = match list {
            Value::Null => &Vec::new(),
            Value::Array(list) => list,
            _ => return Err(wrong(&path, "must be a list")),
        };
        for (index, value) in list.iter().enumerate() {
            nodes.push(node(&Fields::new(&format!("{path}[{index}]"), value)?)?);
        }
    }
    Ok(Region {
        region_id: fields.get("RegionID")?,
        embedded_relay: fields.get("EmbeddedRelay")?,
        region_code: fields.get("RegionCode")?,
        region_name: fields.get("RegionName")?,
        avoid: fields.get("Avoid")?,
        nodes,
    })
}

fn node(fields: &Fields<'_>) -> Result<Node, DerpConfigError> {
    Ok(Node {
        name: fields.get("Name")?,
        region_id: fields.get("RegionID")?,
        host_name: fields.get("HostName")?,
        cert_name: fields.get("CertName")?,
        ipv4: fields.get("IPv4")?,
        ipv6: fields.get("IPv6")?,
        stun_port: fields.get("STUNPort")?,
        stun_only: fields.get("STUNOnly")?,
        derp_port: fields.get("DERPPort")?,
        insecure_for_tests: fields.get("InsecureForTests")?,
        force_http: fields.get("ForceHTTP")?,
        stun_test_ip: fields.get("STUNTestIP")?,
        can_port_80: fields.get("CanPort80")?,
    })
}

fn wrong(key: &str, reason: &str) -> DerpConfigError {
    DerpConfigError::Value {
        key: key.to_owned(),
        reason: reason.to_owned(),
    }
}

fn region_key(path: &str, id: &str) -> Result<i64, DerpConfigError> {
    id.parse()
        .map_err(|_| wrong(&format!("{path}.{id}"), "the key must be a region id"))
}

/// The keys of an object, and where it stands.
struct Fields<'a> {
    path: String,
    map: Option<&'a Map<String, Value>>,
}

impl<'a> Fields<'a> {
    fn new(path: &str, value: &'a Value) -> Result<Self, DerpConfigError> {
        let map = match value {
            Value::Object(map) => Some(map),
            Value::Null => None,
            _ => {
                return Err(wrong(
                    if path.is_empty() { "DERP map" } else { path },
                    "must be an object",
                ));
            }
        };
        Ok(Self {
            path: path.to_owned(),
            map,
        })
    }

    fn entries(&self) -> impl Iterator<Item = (&'a String, &'a Value)> + use<'a> {
        self.map.into_iter().flatten()
    }

    /// The path and value of a key, in whatever case it is written.
    fn find(&self, name: &str) -> Option<(String, &'a Value)> {
        let (key, value) = self.entries().find(|(key, _)| key.eq_ignore_ascii_case(name))?;
        let path = if self.path.is_empty() {
            key.clone()
        } else {
            format!("{}.{key}", self.path)
        };
        Some((path, value))
    }

    fn object(&self, name: &str) -> Result<Option<Self>, DerpConfigError> {
        self.find(name)
            .map(|(path, value)| Self::new(&path, value))
            .transpose()
    }

    fn get<T: DeserializeOwned + Default>(&self, name: &str) -> Result<T, DerpConfigError> {
        match self.find(name) {
            None | Some((_, Value::Null)) => Ok(T::default()),
            Some((path, value)) => T::deserialize(value).map_err(|error| wrong(&path, &error.to_string())),
        }
    }
}
