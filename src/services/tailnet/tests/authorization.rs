//! Which requests are refused, and with which words.

use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use uuid::Uuid;

use super::{AGENT, CODER_ADDRESS, FOREIGN_ADDRESS, LEGACY_ADDRESS, TAILSCALE_ADDRESS, add_tunnel, announce};
use crate::coordinator::PeerId;
use crate::proto::tailnet::CoordinateRequest;
use crate::proto::tailnet::coordinate_request::{ReadyForHandshake, Tunnel, UpdateSelf};
use crate::services::tailnet::{Authority, TunnelAuthorizer};

/// A user who may reach one agent. Remembers what it was asked.
#[derive(Debug)]
struct User {
    reaches: PeerId,
    asked: Mutex<Vec<PeerId>>,
}

#[async_trait]
impl TunnelAuthorizer for User {
    async fn may_reach(&self, agent: PeerId) -> bool {
        self.asked.lock().unwrap().push(agent);
        agent == self.reaches
    }
}

fn user(reaches: PeerId) -> (Arc<User>, Authority) {
    let user = Arc::new(User {
        reaches,
        asked: Mutex::default(),
    });
    (Arc::clone(&user), Authority::UserClient(user))
}

async fn accepted(authority: &Authority, request: &CoordinateRequest) {
    authority.authorize(request).await.unwrap();
}

async fn refused(authority: &Authority, request: &CoordinateRequest, text: &str) {
    assert_eq!(authority.authorize(request).await.unwrap_err().to_string(), text);
}

/// The end of the text is Go's library's, so it is left open.
async fn refused_from(authority: &Authority, request: &CoordinateRequest, start: &str) {
    let error = authority.authorize(request).await.unwrap_err().to_string();
    assert!(
        error.starts_with(start),
        "{error:?} does not start with {start:?}"
    );
}

fn ready() -> CoordinateRequest {
    CoordinateRequest {
        ready_for_handshake: vec![ReadyForHandshake {
            id: AGENT.0.as_bytes().to_vec(),
        }],
        ..Default::default()
    }
}

#[tokio::test]
async fn tn_022_and_023_an_agent_announces_its_own_addresses() {
    let agent = Authority::Agent(AGENT);
    let cases: [&[&str]; 5] = [
        &[TAILSCALE_ADDRESS],
        &[CODER_ADDRESS],
        &[TAILSCALE_ADDRESS, CODER_ADDRESS],
        &[LEGACY_ADDRESS],
        &[],
    ];
    for addresses in cases {
        accepted(&agent, &announce(addresses)).await;
    }
}

#[tokio::test]
async fn tn_024_an_address_of_somebody_else_is_refused() {
    let text = "authorization: invalid node address, got fd7a:115c:a1e0::1";
    refused(&Authority::Agent(AGENT), &announce(&[FOREIGN_ADDRESS]), text).await;
    refused(
        &Authority::Agent(AGENT),
        &announce(&[TAILSCALE_ADDRESS, FOREIGN_ADDRESS]),
        text,
    )
    .await;
}

#[tokio::test]
async fn tn_025_an_address_stands_for_itself_alone() {
    let agent = Authority::Agent(AGENT);
    let wide = "fd7a:115c:a1e0:89ab:cdef:123:4567:89ab/64";
    let text = "authorization: invalid address bits, expected 128, got 64";
    refused(&agent, &announce(&[wide]), text).await;
    let text = "authorization: invalid address bits, expected 128, got 32";
    refused(&agent, &announce(&["10.0.0.1/32"]), text).await;
}

#[tokio::test]
async fn tn_026_an_address_is_read_as_go_reads_it() {
    let bad = [
        "nonsense",
        "fd7a::1",
        "fd7a::1/",
        "fd7a::1/x",
        "fd7a::1/129",
        "fd7a::1/-1",
        "fd7a::1/+128",
        "fd7a::1/0128",
        "fd7a::1%eth0/128",
        "10.0.0.1/33",
        "/128",
    ];
    for address in bad {
        refused_from(
            &Authority::Agent(AGENT),
            &announce(&[address]),
            "authorization: parse node address: ",
        )
        .await;
    }
}

#[tokio::test]
async fn a_refusal_does_not_repeat_what_the_peer_sent_at_any_length() {
    for long in ["x".repeat(1 << 20), format!("{}/128", "x".repeat(1 << 20))] {
        let error = Authority::Agent(AGENT)
            .authorize(&announce(&[&long]))
            .await
            .unwrap_err();
        assert!(error.to_string().len() < 200);
    }
}

#[tokio::test]
async fn tn_027_agents_cannot_open_tunnels() {
    let text = "authorization: agents cannot open tunnels";
    for id in [&AGENT.0.as_bytes()[..], &[1]] {
        refused(&Authority::Agent(AGENT), &add_tunnel(id), text).await;
    }
}

#[tokio::test]
async fn tn_028_a_client_announces_any_single_address() {
    let text = "authorization: invalid address bits, expected 128, got 64";
    for client in [Authority::SingleAgentClient(AGENT), user(AGENT).1] {
        accepted(&client, &announce(&[FOREIGN_ADDRESS])).await;
        refused(&client, &announce(&["fd7a::1/64"]), text).await;
    }
}

#[tokio::test]
async fn tn_029_a_client_of_one_agent_reaches_that_agent() {
    let client = Authority::SingleAgentClient(AGENT);
    accepted(&client, &add_tunnel(AGENT.0.as_bytes())).await;
    let other = Uuid::from_u128(7);
    let text = format!("authorization: invalid agent id, expected {AGENT}, got {other}");
    refused(&client, &add_tunnel(other.as_bytes()), &text).await;
    refused_from(
        &client,
        &add_tunnel(&[1, 2]),
        "authorization: parse add tunnel id: ",
    )
    .await;
}

#[tokio::test]
async fn tn_030_clients_are_not_ready_for_handshakes() {
    let text = "authorization: clients may not send ready_for_handshake";
    refused(&Authority::SingleAgentClient(AGENT), &ready(), text).await;
    refused(&user(AGENT).1, &ready(), text).await;
    accepted(&Authority::Agent(AGENT), &ready()).await;
}

#[tokio::test]
async fn tn_031_a_users_client_reaches_what_its_user_may() {
    let (_, client) = user(AGENT);
    accepted(&client, &add_tunnel(AGENT.0.as_bytes())).await;
    let text = "authorization: workspace agent not found or you do not have permission";
    refused(&client, &add_tunnel(Uuid::from_u128(7).as_bytes()), text).await;
    refused_from(
        &client,
        &add_tunnel(&[1, 2]),
        "authorization: parse add tunnel id: ",
    )
    .await;
}

#[tokio::test]
async fn tn_032_each_users_own_authorizer_is_asked() {
    let other = PeerId(Uuid::from_u128(7));
    let ((ada, ada_client), (bob, bob_client)) = (user(AGENT), user(other));
    accepted(&ada_client, &add_tunnel(AGENT.0.as_bytes())).await;
    accepted(&bob_client, &add_tunnel(other.0.as_bytes())).await;
    assert_eq!(*ada.asked.lock().unwrap(), [AGENT]);
    assert_eq!(*bob.asked.lock().unwrap(), [other]);
}

#[tokio::test]
async fn tn_033_allowed_ips_are_checked_like_addresses() {
    let mut request = announce(&[TAILSCALE_ADDRESS]);
    let node = request.update_self.as_mut().unwrap().node.as_mut().unwrap();
    node.allowed_ips = vec![FOREIGN_ADDRESS.to_owned()];
    let text = "authorization: invalid node address, got fd7a:115c:a1e0::1";
    refused(&Authority::Agent(AGENT), &request, text).await;
    let node = request.update_self.as_mut().unwrap().node.as_mut().unwrap();
    node.allowed_ips = vec!["::/0".to_owned()];
    let text = "authorization: invalid address bits, expected 128, got 0";
    refused(&Authority::SingleAgentClient(AGENT), &request, text).await;
}

#[tokio::test]
async fn tn_034_shape_is_checked_first_and_emptiness_is_none() {
    let request = CoordinateRequest {
        update_self: Some(UpdateSelf { node: None }),
        ..add_tunnel(&[1])
    };
    let authorities = [
        Authority::Agent(AGENT),
        Authority::SingleAgentClient(AGENT),
        Authority::Unrestricted,
    ];
    for authority in &authorities {
        refused(authority, &request, "update_self node is required").await;
        accepted(authority, &CoordinateRequest::default()).await;
        accepted(authority, &announce(&[])).await;
    }
}

#[tokio::test]
async fn checks_run_in_the_order_of_the_table() {
    let request = CoordinateRequest {
        add_tunnel: Some(Tunnel { id: vec![1] }),
        ..announce(&[FOREIGN_ADDRESS])
    };
    let text = "authorization: agents cannot open tunnels";
    refused(&Authority::Agent(AGENT), &request, text).await;
    let request = CoordinateRequest {
        ready_for_handshake: ready().ready_for_handshake,
        ..announce(&["fd7a::1/64"])
    };
    let text = "authorization: invalid address bits, expected 128, got 64";
    refused(&Authority::SingleAgentClient(AGENT), &request, text).await;
}

#[tokio::test]
async fn the_control_plane_is_unrestricted() {
    let request = CoordinateRequest {
        add_tunnel: Some(Tunnel { id: vec![1] }),
        ready_for_handshake: ready().ready_for_handshake,
        ..announce(&["10.0.0.0/8", "nonsense"])
    };
    accepted(&Authority::Unrestricted, &request).await;
}

#[tokio::test]
async fn removing_tunnels_and_leaving_are_always_allowed() {
    let request = CoordinateRequest {
        remove_tunnel: Some(Tunnel { id: vec![1] }),
        disconnect: Some(crate::proto::tailnet::coordinate_request::Disconnect {}),
        ..Default::default()
    };
    for authority in [
        Authority::Agent(AGENT),
        Authority::SingleAgentClient(AGENT),
        user(AGENT).1,
    ] {
        accepted(&authority, &request).await;
    }
}
