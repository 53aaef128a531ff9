//! Which requests a peer may make of the coordinator.
//!
//! Every request is checked whole before any of it takes effect; the first failing check names it. Source: coder/coder
//! `tailnet/tunnel.go`; that `allowed_ips` are checked like `addresses` is ours.

use std::fmt;
use std::net::{AddrParseError, IpAddr, Ipv6Addr};
use std::sync::Arc;

use async_trait::async_trait;

use crate::coordinator::{InvalidId, PeerId, Role};
use crate::proto::tailnet::{CoordinateRequest, Node};

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
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Authority {
    /// An agent: announces its own addresses, never opens tunnels.
    Agent(PeerId),
    /// A client of one agent.
    SingleAgentClient(PeerId),
    /// A client of all agents that its user may reach.
    UserClient(Arc<dyn TunnelAuthorizer>),
    /// A part of the control plane: announces any address, opens any tunnel.
    Unrestricted,
}

/// Knows which agents the user of one session may reach.
#[async_trait]
pub trait TunnelAuthorizer: fmt::Debug + Send + Sync + 'static {
    /// Whether a tunnel to `agent` may be opened. Whatever keeps it from finding out is a no.
    async fn may_reach(&self, agent: PeerId) -> bool;
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
    TunnelId(InvalidId),
    /// A client asked for a tunnel to an agent that is not its own.
    #[error("authorization: invalid agent id, expected {expected}, got {got}")]
    WrongAgent {
        /// Its own.
        expected: PeerId,
        /// The other.
        got: PeerId,
    },
    /// A user's client asked for a tunnel to an agent that the user may not reach, or that is not there.
    #[error("authorization: workspace agent not found or you do not have permission")]
    UnreachableAgent,
    /// An address is not of the form `address/bits`.
    #[error("authorization: parse node address: {0}")]
    ParseAddress(#[from] ParsePrefixError),
    /// An address stands for more than itself.
    #[error("authorization: invalid address bits, expected 128, got {0}")]
    AddressBits(u8),
    /// An address belongs to somebody else.
    #[error("authorization: invalid node address, got {0}")]
    ForeignAddress(IpAddr),
    /// A client claimed to be ready.
    #[error("authorization: clients may not send ready_for_handshake")]
    ClientReady,
}

/// A text that is not `address/bits`. The text itself is not repeated: it has whatever length the peer gave it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ParsePrefixError {
    /// There is no slash.
    #[error("netip.ParsePrefix: no '/'")]
    NoSlash,
    /// What stands before the slash is no address.
    #[error("netip.ParsePrefix: {0}")]
    Address(#[from] AddrParseError),
    /// What stands behind it is no number, or more than the address has bits.
    #[error("netip.ParsePrefix: bad bits after slash")]
    Bits,
}

impl Authority {
    /// What an end of its connection means to the peer.
    pub fn role(&self) -> Role {
        match self {
            Self::Agent(_) => Role::Agent,
            _ => Role::Client,
        }
    }

    /// Checks all of a request.
    pub async fn authorize(&self, request: &CoordinateRequest) -> Result<(), AuthorizationError> {
        let node = match &request.update_self {
            Some(update) => Some(update.node.as_ref().ok_or(AuthorizationError::NodeRequired)?),
            None => None,
        };
        if let Some(tunnel) = &request.add_tunnel {
            self.authorize_tunnel(&tunnel.id).await?;
        }
        if let Some(node) = node {
            self.authorize_node(node)?;
        }
        let is_client = matches!(self, Self::SingleAgentClient(_) | Self::UserClient(_));
        if is_client && !request.ready_for_handshake.is_empty() {
            return Err(AuthorizationError::ClientReady);
        }
        Ok(())
    }

    async fn authorize_tunnel(&self, id: &[u8]) -> Result<(), AuthorizationError> {
        let parse = || PeerId::try_from(id).map_err(AuthorizationError::TunnelId);
        match self {
            Self::Agent(_) => Err(AuthorizationError::AgentTunnel),
            Self::SingleAgentClient(expected) => {
                let (expected, got) = (*expected, parse()?);
                if got == expected {
                    Ok(())
                } else {
                    Err(AuthorizationError::WrongAgent { expected, got })
                }
            }
            Self::UserClient(user) => {
                if user.may_reach(parse()?).await {
                    Ok(())
                } else {
                    Err(AuthorizationError::UnreachableAgent)
                }
            }
            Self::Unrestricted => Ok(()),
        }
    }

    fn authorize_node(&self, node: &Node) -> Result<(), AuthorizationError> {
        if matches!(self, Self::Unrestricted) {
            return Ok(());
        }
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
        Ok(())
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

/// Reads `address/bits` as Go's `netip.ParsePrefix` does: no zone, no sign, no leading zeros in the bits.
fn parse_prefix(text: &str) -> Result<(IpAddr, u8), ParsePrefixError> {
    let (address, bits) = text.rsplit_once('/').ok_or(ParsePrefixError::NoSlash)?;
    let address: IpAddr = address.parse()?;
    let canonical = bits == "0" || bits.starts_with(|first: char| ('1'..='9').contains(&first));
    let bits: u8 = bits.parse().map_err(|_| ParsePrefixError::Bits)?;
    let most = if address.is_ipv4() { 32 } else { 128 };
    if canonical && bits <= most {
        Ok((address, bits))
    } else {
        Err(ParsePrefixError::Bits)
    }
}
