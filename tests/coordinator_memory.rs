//! What the coordinator's memory is after everybody has left: what it was before anybody came.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::alloc::System;
use std::collections::BTreeMap;
use std::task::{Context, Poll, Waker};

use cap::Cap;
use drpcd::clock::{Clock, Timestamp};
use drpcd::coordinator::{Connection, Coordinator as _, MemoryCoordinator, PeerId, Role};
use drpcd::proto::tailnet::coordinate_request::{Disconnect, ReadyForHandshake, Tunnel, UpdateSelf};
use drpcd::proto::tailnet::{CoordinateRequest, Node};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use uuid::Uuid;

/// Counts; nothing else runs in this program.
#[global_allocator]
static HEAP: Cap<System> = Cap::new(System, usize::MAX);

const PEERS: u128 = 2_000;

const STEPS: usize = 50_000;

/// What small tables may keep that are not worth shrinking.
const SLACK: usize = 32 * 1024;

fn id(number: u128) -> Vec<u8> {
    number.to_be_bytes().to_vec()
}

fn request(random: &mut SmallRng) -> CoordinateRequest {
    let other = random.random_range(0..PEERS);
    let mut request = CoordinateRequest::default();
    match random.random_range(0..8) {
        0..4 => request.add_tunnel = Some(Tunnel { id: id(other) }),
        4 => request.remove_tunnel = Some(Tunnel { id: id(other) }),
        5 => request.ready_for_handshake = vec![ReadyForHandshake { id: id(other) }; 3],
        _ => {
            let node = Node {
                preferred_derp: random.random_range(1..1_000),
                disco: "x".repeat(random.random_range(0..1_000)),
                ..Node::default()
            };
            request.update_self = Some(UpdateSelf { node: Some(node) });
        }
    }
    request
}

/// A crowd that comes, does everything, reads half of what it is told, and leaves. Returns what it cost while it was there.
fn crowd(coordinator: &MemoryCoordinator, seed: u64) -> usize {
    let mut random = SmallRng::seed_from_u64(seed);
    let mut peers: BTreeMap<u128, Box<dyn Connection>> = BTreeMap::new();
    for _ in 0..STEPS {
        let one = random.random_range(0..PEERS);
        match random.random_range(0..10) {
            0 => {
                let peer = coordinator.connect(PeerId(Uuid::from_u128(one)), "a peer", Role::Client);
                peers.insert(one, peer);
            }
            1 => _ = peers.remove(&one),
            2..5 if one % 2 == 0 => {
                let mut cx = Context::from_waker(Waker::noop());
                while let Some(Poll::Ready(Some(_))) = peers.get(&one).map(|peer| peer.poll_response(&mut cx))
                {
                }
            }
            _ => {
                if let Some(peer) = peers.get(&one) {
                    peer.handle(request(&mut random)).unwrap();
                }
            }
        }
    }
    let peak = HEAP.allocated();
    for (number, peer) in peers {
        if number % 3 == 0 {
            let request = CoordinateRequest {
                disconnect: Some(Disconnect {}),
                ..Default::default()
            };
            peer.handle(request).unwrap();
        }
    }
    peak
}

#[test]
fn after_everybody_has_left_memory_is_what_it_was_before() {
    let coordinator = MemoryCoordinator::new(Clock::driven(Timestamp::UNIX_EPOCH));
    let before = HEAP.allocated();
    for seed in 0..5 {
        let peak = crowd(&coordinator, seed);
        assert!(peak > before + 1024 * 1024, "seed {seed}: there was no crowd");
        let after = HEAP.allocated();
        assert!(
            after <= before + SLACK,
            "seed {seed}: {before} bytes before, {peak} with the crowd, {after} after it"
        );
    }
    let status = coordinator.status();
    assert_eq!((status.peers, status.tunnels), (0, 0));
}
