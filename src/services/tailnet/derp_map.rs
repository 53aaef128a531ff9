//! DERP maps as agents get them: comparing, checking and completing.

use url::Url;

use crate::proto::tailnet::DerpMap;
use crate::proto::tailnet::derp_map::region::Node;
use crate::proto::tailnet::derp_map::{HomeParams, Region};

/// STUN port of a node that does no STUN.
const NO_STUN: i32 = -1;

/// What is added to the texts of maps without a relay (the original's words; coder/coder `tailnet/derpmap.go`).
const NETWORKING: &str = "A valid DERP map is required for networking to work. You must either supply your own DERP map or use \
                          the built-in DERP server";

/// Why a map cannot be used. Texts of what the original checks too are the original's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DerpMapError {
    /// It has no regions.
    #[error("DERP map has no regions. {NETWORKING}")]
    NoRegions,
    /// All of its nodes only do STUN.
    #[error("DERP map has no DERP nodes. {NETWORKING}")]
    NoNodes,
    /// A region promises a relay that this server does not have.
    #[error("region {0} has EmbeddedRelay set, but this server serves no relay")]
    EmbeddedRelay(i64),
    /// The key of a region is not its id.
    #[error("region {key} has RegionID {id}")]
    RegionId {
        /// Its key in the map.
        key: i64,
        /// Its own idea.
        id: i64,
    },
    /// A region of a STUN address would take the id of a region of the map.
    #[error("a default region ID {id} ({code} - {name:?}) conflicts with a remote region from {origin:?}")]
    RegionTaken {
        /// The id.
        id: i64,
        /// Code of the one that is to be added.
        code: String,
        /// Its name.
        name: String,
        /// Where the map is from.
        origin: String,
    },
    /// A STUN address is not `host:port`.
    #[error("split host port for {address:?}: address {address}: {reason}")]
    StunAddress {
        /// The address.
        address: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A STUN address has a port that is no number, or too large a one.
    #[error("parse port for {0:?}: invalid syntax")]
    StunPort(String),
}

/// Whether agents would see no difference. The order of nodes in a region is none.
///
/// Unlike the original (coder/coder `tailnet/derpmap.go:CompareDERPMaps`), home parameters and `can_port_80` count.
pub fn same_map(one: &DerpMap, other: &DerpMap) -> bool {
    one.home_params == other.home_params
        && one.regions.len() == other.regions.len()
        && one.regions.iter().all(|(id, region)| {
            other
                .regions
                .get(id)
                .is_some_and(|other| same_region(region, other))
        })
}

fn same_region(one: &Region, other: &Region) -> bool {
    let by_name = |region: &Region| {
        let mut nodes = region.nodes.clone();
        nodes.sort_by(|one, other| one.name.cmp(&other.name));
        nodes
    };
    let without_nodes = |region: &Region| Region {
        nodes: Vec::new(),
        ..region.clone()
    };
    without_nodes(one) == without_nodes(other) && by_name(one) == by_name(other)
}

/// The region of a server that was given no map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DefaultRegion {
    /// Its id; those of STUN servers follow it.
    pub id: i64,
    /// Its code.
    pub code: String,
    /// Its name.
    pub name: String,
}

impl DefaultRegion {
    /// A map of this region alone, at the access URL. Agents take it as their home, reachable or not, so that direct
    /// connections work. It does not pretend to be a relay.
    pub fn map(&self, access_url: &Url) -> DerpMap {
        let node = Node {
            name: format!("{}a", self.id),
            region_id: self.id,
            host_name: access_url.host_str().unwrap_or_default().to_owned(),
            stun_port: NO_STUN,
            derp_port: access_url.port_or_known_default().map_or(0, i32::from),
            force_http: access_url.scheme() == "http",
            ..Node::default()
        };
        let region = Region {
            region_id: self.id,
            region_code: self.code.clone(),
            region_name: self.name.clone(),
            nodes: vec![node],
            ..Region::default()
        };
        DerpMap {
            home_params: Some(HomeParams::default()),
            regions: [(self.id, region)].into(),
        }
    }
}

/// The map of a server with default settings.
#[cfg(test)]
pub(crate) fn default_map(access_url: &Url) -> DerpMap {
    let region = DefaultRegion {
        id: 999,
        code: "drpcd".to_owned(),
        name: "drpcd".to_owned(),
    };
    region.map(access_url)
}

/// One region per STUN address, with ids behind `base`, since an agent probes one STUN server per region. `disable`
/// anywhere in the list is none.
pub fn stun_regions(base: i64, addresses: &[String]) -> Result<Vec<Region>, DerpMapError> {
    if addresses.iter().any(|address| address == "disable") {
        return Ok(Vec::new());
    }
    let regions = addresses.iter().zip(base + 1..).map(|(address, id)| {
        let (host, port) = split_host_port(address).map_err(|reason| DerpMapError::StunAddress {
            address: address.clone(),
            reason,
        })?;
        let port: u16 = port
            .parse()
            .map_err(|_| DerpMapError::StunPort(address.clone()))?;
        let node = Node {
            name: format!("{id}stun0"),
            region_id: id,
            host_name: host.to_owned(),
            stun_only: true,
            stun_port: port.into(),
            ..Node::default()
        };
        Ok(Region {
            region_id: id,
            region_code: format!("coder_stun_{id}"),
            region_name: format!("Coder STUN {id}"),
            nodes: vec![node],
            ..Region::default()
        })
    });
    regions.collect()
}

/// Splits `host:port` or `[host]:port` as Go's `net.SplitHostPort` does; an error is its reason.
fn split_host_port(address: &str) -> Result<(&str, &str), &'static str> {
    const MISSING_PORT: &str = "missing port in address";
    if let Some(bracketed) = address.strip_prefix('[') {
        let (host, rest) = bracketed.split_once(']').ok_or("missing ']' in address")?;
        return Ok((host, rest.strip_prefix(':').ok_or(MISSING_PORT)?));
    }
    let (host, port) = address.rsplit_once(':').ok_or(MISSING_PORT)?;
    if host.contains(':') {
        return Err("too many colons in address");
    }
    Ok((host, port))
}

/// Adds regions to a map from `origin`; an id that is taken is an error.
pub fn add_regions(map: &mut DerpMap, regions: Vec<Region>, origin: &str) -> Result<(), DerpMapError> {
    for region in regions {
        if map.regions.contains_key(&region.region_id) {
            return Err(DerpMapError::RegionTaken {
                id: region.region_id,
                code: region.region_code,
                name: region.region_name,
                origin: origin.to_owned(),
            });
        }
        map.regions.insert(region.region_id, region);
    }
    Ok(())
}

/// Takes all STUN out of a map: agents then learn nothing of how they are seen from outside. A region may be left without
/// nodes.
pub fn without_stun(map: &mut DerpMap) {
    for region in map.regions.values_mut() {
        region.nodes.retain(|node| !node.stun_only);
        for node in &mut region.nodes {
            node.stun_port = NO_STUN;
        }
    }
}

/// Checks a map that an operator gave.
pub fn check(map: &DerpMap) -> Result<(), DerpMapError> {
    if map.regions.is_empty() {
        return Err(DerpMapError::NoRegions);
    }
    for (&key, region) in &map.regions {
        if key != region.region_id {
            return Err(DerpMapError::RegionId {
                key,
                id: region.region_id,
            });
        }
        if region.embedded_relay {
            return Err(DerpMapError::EmbeddedRelay(key));
        }
    }
    let relays = map
        .regions
        .values()
        .flat_map(|region| &region.nodes)
        .any(|node| !node.stun_only);
    if relays {
        Ok(())
    } else {
        Err(DerpMapError::NoNodes)
    }
}
