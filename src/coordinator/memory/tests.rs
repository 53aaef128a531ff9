use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Wake, Waker};

use uuid::Uuid;

use super::*;
use crate::clock::Timestamp;
use crate::coordinator::suite::{Harness, coordinator_suite};
use crate::proto::tailnet::coordinate_request::{Tunnel, UpdateSelf};

struct Memory(MemoryCoordinator);

fn coordinator() -> MemoryCoordinator {
    MemoryCoordinator::new(Clock::driven(Timestamp::UNIX_EPOCH))
}

impl Harness for Memory {
    const REMEMBERS_LOSSES: bool = false;

    fn coordinators(&self) -> Vec<&dyn Coordinator> {
        vec![&self.0]
    }

    /// Every effect is there when a call returns.
    async fn settle(&self) {}

    fn assert_empty(&self) {
        assert!(self.0.is_empty());
    }

    /// Nothing does.
    async fn reset(&self) {}
}

coordinator_suite!(
    #[tokio::test]
    Memory(coordinator())
);

const AGENT: PeerId = PeerId(Uuid::from_u128(1));
const CLIENT: PeerId = PeerId(Uuid::from_u128(2));

fn update(home: i32) -> CoordinateRequest {
    let node = Node {
        preferred_derp: home,
        ..Node::default()
    };
    CoordinateRequest {
        update_self: Some(UpdateSelf { node: Some(node) }),
        ..Default::default()
    }
}

fn tunnel(to: PeerId) -> CoordinateRequest {
    CoordinateRequest {
        add_tunnel: Some(Tunnel {
            id: to.0.as_bytes().to_vec(),
        }),
        ..Default::default()
    }
}

#[derive(Default)]
struct Count(AtomicUsize);

impl Wake for Count {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

struct Panics;

impl Wake for Panics {
    fn wake(self: Arc<Self>) {
        panic!("a waker panics, as the test wants");
    }
}

/// Waits with a waker until there is nothing more to read.
fn wait(connection: &dyn Connection, waker: Arc<impl Wake + Send + Sync + 'static>) {
    let waker = Waker::from(waker);
    while connection
        .poll_response(&mut Context::from_waker(&waker))
        .is_ready()
    {}
}

#[test]
fn a_node_is_kept_once_for_all_who_are_told_of_it() {
    let coordinator = coordinator();
    let agent = coordinator.connect(AGENT, "agent", Role::Agent);
    let clients: Vec<_> = (10..20_u128)
        .map(|number| {
            let client = coordinator.connect(PeerId(Uuid::from_u128(number)), "client", Role::Client);
            client.handle(tunnel(AGENT)).unwrap();
            client
        })
        .collect();
    agent.handle(update(5)).unwrap();
    let node = coordinator.state().core.node(AGENT).unwrap();
    for client in &clients {
        let Poll::Ready(Some(response)) = client.poll_response(&mut Context::from_waker(Waker::noop()))
        else {
            panic!("nothing was told");
        };
        assert!(Arc::ptr_eq(response.updates[0].node.as_ref().unwrap(), &node));
    }
}

#[test]
fn a_peer_that_does_not_ask_is_woken_once() {
    let coordinator = coordinator();
    let (agent, client) = (
        coordinator.connect(AGENT, "agent", Role::Agent),
        coordinator.connect(CLIENT, "client", Role::Client),
    );
    client.handle(tunnel(AGENT)).unwrap();
    let wakes = Arc::new(Count::default());
    wait(&*client, Arc::clone(&wakes));
    for home in 1..100 {
        agent.handle(update(home)).unwrap();
    }
    assert_eq!(wakes.0.load(Ordering::Relaxed), 1);
    wait(&*client, Arc::clone(&wakes));
    agent.handle(update(100)).unwrap();
    assert_eq!(wakes.0.load(Ordering::Relaxed), 2);
}

#[tokio::test]
async fn tn_061_a_panic_while_a_peer_is_cleaned_up_leaves_the_coordinator_usable() {
    let coordinator = coordinator();
    let agent = coordinator.connect(AGENT, "agent", Role::Agent);
    agent.handle(update(1)).unwrap();
    let watchers: Vec<_> = [CLIENT, PeerId(Uuid::from_u128(3))]
        .map(|id| {
            let watcher = coordinator.connect(id, "client", Role::Client);
            watcher.handle(tunnel(AGENT)).unwrap();
            watcher
        })
        .into();
    let wakes = Arc::new(Count::default());
    wait(&*watchers[0], Arc::new(Panics));
    wait(&*watchers[1], Arc::clone(&wakes));
    drop(agent);
    assert_eq!(wakes.0.load(Ordering::Relaxed), 1, "the others are woken");

    let agent = coordinator.connect(AGENT, "agent", Role::Agent);
    agent.handle(update(2)).unwrap();
    wait(&*watchers[1], Arc::clone(&wakes));
    coordinator.close().await.unwrap();
    let mut cx = Context::from_waker(Waker::noop());
    for connection in watchers.iter().chain([&agent]) {
        let mut errors = Vec::new();
        while let Poll::Ready(Some(response)) = connection.poll_response(&mut cx) {
            errors.push(response.error);
        }
        assert_eq!(errors.last().unwrap(), "coordinator closed");
    }
    drop((agent, watchers));
    assert!(coordinator.is_empty());
}

#[test]
fn a_panic_with_the_lock_held_ends_neither_the_process_nor_the_coordinator() {
    let coordinator = coordinator();
    let agent = coordinator.connect(AGENT, "agent", Role::Agent);
    let request = || coordinator.change(|_| panic!("in the core, as the test wants"));
    assert!(catch_unwind(AssertUnwindSafe(request)).is_err());
    agent.handle(update(7)).unwrap();
    assert!(coordinator.state().core.node(AGENT).is_some());
}

#[test]
fn a_crowd_that_has_left_costs_no_memory() {
    let coordinator = coordinator();
    let agent = coordinator.connect(AGENT, "agent", Role::Agent);
    let crowd: Vec<_> = (10..5_010_u128)
        .map(|number| {
            let client = coordinator.connect(PeerId(Uuid::from_u128(number)), "client", Role::Client);
            client.handle(tunnel(AGENT)).unwrap();
            wait(&*client, Arc::new(Count::default()));
            client
        })
        .collect();
    drop(crowd);
    let state = coordinator.state();
    assert!(state.waiting.capacity() < 1_000, "{}", state.waiting.capacity());
    assert!(state.core.capacity() < 1_000, "{}", state.core.capacity());
    drop(state);
    drop(agent);
}
