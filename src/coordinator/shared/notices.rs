//! What replicas tell each other, in the original's form.
//!
//! Channels and payloads are those of coder/coder `enterprise/tailnet/pgcoord.go`: ids as text, two of them with a comma
//! between. What cannot be read is somebody else's mistake, and ignored.

use std::fmt;

use uuid::Uuid;

use crate::coordinator::PeerId;
use crate::ids::ReplicaId;
use crate::store::Tunnel;

/// A row of a peer has changed.
pub(super) const PEER_UPDATE: &str = "tailnet_peer_update";
/// A row of a tunnel has changed.
pub(super) const TUNNEL_UPDATE: &str = "tailnet_tunnel_update";
/// A replica lives.
pub(super) const HEARTBEAT: &str = "tailnet_coordinator_heartbeat";
/// A peer is ready for a handshake with another.
pub(super) const READY_FOR_HANDSHAKE: &str = "tailnet_ready_for_handshake";

/// A notification.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Notice {
    Peer(PeerId),
    Tunnel(Tunnel),
    Heartbeat(ReplicaId),
    Ready { to: PeerId, from: PeerId },
}

/// The text is not repeated: it has whatever length somebody gave it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a payload of this channel")]
pub(super) struct Malformed;

impl Notice {
    pub(super) fn channel(&self) -> &'static str {
        match self {
            Self::Peer(_) => PEER_UPDATE,
            Self::Tunnel(_) => TUNNEL_UPDATE,
            Self::Heartbeat(_) => HEARTBEAT,
            Self::Ready { .. } => READY_FOR_HANDSHAKE,
        }
    }

    pub(super) fn parse(channel: &str, payload: &str) -> Result<Self, Malformed> {
        let one = || id(payload).ok_or(Malformed);
        let two = || {
            let (first, second) = payload.split_once(',').ok_or(Malformed)?;
            Ok((
                PeerId(id(first).ok_or(Malformed)?),
                PeerId(id(second).ok_or(Malformed)?),
            ))
        };
        match channel {
            PEER_UPDATE => Ok(Self::Peer(PeerId(one()?))),
            TUNNEL_UPDATE => two().map(|(from, to)| Self::Tunnel(Tunnel { from, to })),
            HEARTBEAT => Ok(Self::Heartbeat(ReplicaId(one()?))),
            READY_FOR_HANDSHAKE => two().map(|(to, from)| Self::Ready { to, from }),
            _ => Err(Malformed),
        }
    }
}

/// An id in its usual form and no other.
fn id(text: &str) -> Option<Uuid> {
    let is_usual = text.len() == 36;
    Uuid::try_parse(text).ok().filter(|_| is_usual)
}

/// The payload.
impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Peer(id) => id.fmt(f),
            Self::Tunnel(tunnel) => write!(f, "{},{}", tunnel.from, tunnel.to),
            Self::Heartbeat(replica) => replica.fmt(f),
            Self::Ready { to, from } => write!(f, "{to},{from}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notices_have_the_originals_form() {
        let (one, other) = (PeerId(Uuid::from_u128(1)), PeerId(Uuid::from_u128(2)));
        let (one_text, other_text) = (
            "00000000-0000-0000-0000-000000000001",
            "00000000-0000-0000-0000-000000000002",
        );
        let both = format!("{one_text},{other_text}");
        for (notice, channel, payload) in [
            (Notice::Peer(one), "tailnet_peer_update", one_text),
            (
                Notice::Tunnel(Tunnel { from: one, to: other }),
                "tailnet_tunnel_update",
                &both,
            ),
            (
                Notice::Heartbeat(ReplicaId(one.0)),
                "tailnet_coordinator_heartbeat",
                one_text,
            ),
            (
                Notice::Ready { to: one, from: other },
                "tailnet_ready_for_handshake",
                &both,
            ),
        ] {
            assert_eq!(
                (notice.channel(), notice.to_string().as_str()),
                (channel, payload)
            );
            assert_eq!(Notice::parse(channel, payload), Ok(notice));
        }
    }

    #[test]
    fn tn_085_what_cannot_be_read_is_said_to_be_so() {
        let good = "00000000-0000-0000-0000-000000000001";
        for channel in [
            PEER_UPDATE,
            TUNNEL_UPDATE,
            HEARTBEAT,
            READY_FOR_HANDSHAKE,
            "another",
        ] {
            for payload in [
                "",
                ",",
                "x",
                &good[1..],
                &format!("{{{good}}}"),
                &format!("{good},"),
                &format!(",{good}"),
                &format!("{good},{good},{good}"),
                &format!("{good}, {good}"),
                &"é".repeat(18),
            ] {
                assert_eq!(
                    Notice::parse(channel, payload),
                    Err(Malformed),
                    "{channel}: {payload}"
                );
            }
        }
    }
}
