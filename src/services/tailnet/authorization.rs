//! Which requests a peer may make of the coordinator.
//!
//! Every request is checked whole before any of it takes effect; the first failing check names it. Source: coder/coder
//! `tailnet/tunnel.go`; two checks are ours: `allowed_ips` like `addresses`, and the size of a node.

use std::net::{AddrParseError, IpAddr, Ipv6Addr};
use std::num::ParseIntError;

use prost::Message as _;

use crate::coordinator::PeerId;
use crate::proto::tailnet::{CoordinateRequest, Node};

/// Encoded bytes of a node. An honest one has a few hundred; it is kept for as long as its peer is connected.
pub(super) const MAX_NODE: usize = 64 * 1024;

/// First six bytes of an agent's addresses; the other ten are those of its id.
const PREFIXES: [[u8; 6]; 2] = [
    // Tailscale's service prefix, fd7a:115c:a1e0::/48.
    [0xfd, 0x7a, 0x11, 0x5c, 0xa1, 0xe0],
    // Coder's service prefix, fd60:627a:a42b::/48.
    [0xfd, 0x60, 0x62, 0x7a, 0xa4, 0x2b],
];

/// The address that every agent had when a network held one agent; any agent may still announce it.
const LEGACY_ADDRESS: Ipv6Addr =
    Ipv6Addr::new(0xfd7a, 0x115c, 0xa1e0, 0x49d6, 0xb259, 0xb7ac, 0xb1b2, 0x48f4);

/// What a peer may ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Authority {
    /// An agent: announces its own addresses, never opens tunnels.
    Agent(PeerId),
    /// A client of one agent.
    SingleAgentClient(PeerId),
}

/// Why a request was refused; its text ends the peer's stream.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AuthorizationError {
    /// Part of the request is missing.
    #[error("update_self node is required")]
    NodeRequired,
    /// An agent asked for a tunnel.
    #[error("authorization: agents cannot open tunnels")]
    AgentTunnel,
    /// The id of a tunnel's end is no id.
    #[error("authorization: parse add tunnel id: {0}")]
    TunnelId(crate::coordinator::InvalidId),
    /// A client asked for a tunnel to an agent that is not its own.
    #[error("authorization: invalid agent id, expected {expected}, got {got}")]
    WrongAgent {
        /// Its own.
        expected: PeerId,
        /// The other.
        got: PeerId,
    },
    /// An address is not of the form `address/bits`.
    #[error("authorization: parse node address: {0}")]
    ParseAddress(#[from] ParsePrefixError),
    /// An address stands for more than itself.
    #[error("authorization: invalid address bits, expected 128, got {0}")]
    AddressBits(u8),
    /// An address belongs to somebody else.
    #[error("authorization: invalid node address, got {0}")]
    ForeignAddress(IpAddr),
    /// The node is larger than any honest one.
    #[error("authorization: node has {0} bytes, at most {MAX_NODE} are allowed")]
    NodeTooLarge(usize),
    /// A client claimed to be ready.
    #[error("authorization: clients may not send ready_for_handshake")]
    ClientReady,
}

/// A text that is not `address/bits`.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ParsePrefixError {
    /// There is no slash.
    #[error("netip.ParsePrefix({0:?}): no '/'")]
    NoSlash(String),
    /// What stands before the slash is no address.
    #[error("netip.ParsePrefix: {0}")]
    Address(#[from] AddrParseError),
    /// What stands behind it is no number.
    #[error("netip.ParsePrefix: bad bits after slash: {0}")]
    Bits(#[from] ParseIntError),
    /// The number is larger than the address.
    #[error("netip.ParsePrefix: prefix length out of range")]
    Range,
}

impl Authority {
    /// Checks all of a request.
    pub fn authorize(&self, request: &CoordinateRequest) -> Result<(), AuthorizationError> {
        if request
            .update_self
            .as_ref()
            .is_some_and(|update| update.node.is_none())
        {
            return Err(AuthorizationError::NodeRequired);
        }
        if let Some(tunnel) = &request.add_tunnel {
            self.authorize_tunnel(&tunnel.id)?;
        }
        if let Some(node) = request
            .update_self
            .as_ref()
            .and_then(|update| update.node.as_ref())
        {
            self.authorize_node(node)?;
        }
        if matches!(self, Self::SingleAgentClient(_)) && !request.ready_for_handshake.is_empty() {
            return Err(AuthorizationError::ClientReady);
        }
        Ok(())
    }

    fn authorize_tunnel(&self, id: &[u8]) -> Result<(), AuthorizationError> {
        match *self {
            Self::Agent(_) => Err(AuthorizationError::AgentTunnel),
            Self::SingleAgentClient(expected) => {
                let got = PeerId::try_from(id).map_err(AuthorizationError::TunnelId)?;
                if got == expected {
                    Ok(())
                } else {
                    Err(AuthorizationError::WrongAgent { expected, got })
                }
            }
        }
    }

    fn authorize_node(&self, node: &Node) -> Result<(), AuthorizationError> {
        for text in node.addresses.iter().chain(&node.allowed_ips) {
            let (address, bits) = parse_prefix(text)?;
            if bits != 128 {
                return Err(AuthorizationError::AddressBits(bits));
            }
            if let Self::Agent(id) = self
                && !is_address_of(address, *id)
            {
                return Err(AuthorizationError::ForeignAddress(address));
            }
        }
        let size = node.encoded_len();
        if size > MAX_NODE {
            Err(AuthorizationError::NodeTooLarge(size))
        } else {
            Ok(())
        }
    }
}

fn is_address_of(address: IpAddr, id: PeerId) -> bool {
    let IpAddr::V6(address) = address else {
        return false;
    };
    address == LEGACY_ADDRESS
        || PREFIXES.iter().any(|prefix| {
            let mut own = *id.0.as_bytes();
            own[..prefix.len()].copy_from_slice(prefix);
            address == Ipv6Addr::from(own)
        })
}

fn parse_prefix(text: &str) -> Result<(IpAddr, u8), ParsePrefixError> {
    let (address, bits) = text
        .rsplit_once('/')
        .ok_or_else(|| ParsePrefixError::NoSlash(text.to_owned()))?;
    let address: IpAddr = address.parse()?;
    let bits: u8 = bits.parse()?;
    let most = if address.is_ipv4() { 32 } else { 128 };
    if bits > most {
        Err(ParsePrefixError::Range)
    } else {
        Ok((address, bits))
    }
}
