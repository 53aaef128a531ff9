//! The Tailnet service, call by call, over streams in memory.

mod authorization;
mod coordinate;
mod derp;
mod derp_source;
mod hostile;
mod telemetry;
mod users;

use uuid::Uuid;

use crate::clock::{Clock, Timestamp};
use crate::coordinator::{MemoryCoordinator, PeerId};
use crate::proto::tailnet::coordinate_request::{Tunnel, UpdateSelf};
use crate::proto::tailnet::{CoordinateRequest, Node};

/// The worked example of the address rule.
const AGENT: PeerId = PeerId(Uuid::from_u128(0x0123_cdef_4567_89ab_cdef_0123_4567_89ab));
const TAILSCALE_ADDRESS: &str = "fd7a:115c:a1e0:89ab:cdef:123:4567:89ab/128";
const CODER_ADDRESS: &str = "fd60:627a:a42b:89ab:cdef:123:4567:89ab/128";
const LEGACY_ADDRESS: &str = "fd7a:115c:a1e0:49d6:b259:b7ac:b1b2:48f4/128";
const FOREIGN_ADDRESS: &str = "fd7a:115c:a1e0::1/128";

/// Announces a node as honest peers do: `allowed_ips` are the `addresses`.
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

fn coordinator() -> MemoryCoordinator {
    MemoryCoordinator::new(Clock::driven(Timestamp::UNIX_EPOCH))
}
