//! Random histories against a model.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use super::Harness;
use super::peer::{Peer, Told, id};
use crate::coordinator::PeerId;
use crate::proto::tailnet::coordinate_response::peer_update::Kind;

/// One history, reproduced by its seed.
struct Plan {
    seed: u64,
    steps: i32,
    /// Who takes part: few meet often, many have many tunnels.
    peers: u128,
    /// Of how many peers one reads only at the end.
    slow_among: u128,
}

/// Random joins, updates, tunnels, ends and readers of any slowness among few peers that meet often.
pub(crate) async fn random_histories_of_a_few_end_in_the_state_that_the_tunnels_say<H: Harness>(h: &H) {
    for seed in 0..40 {
        let plan = Plan {
            seed,
            steps: 1_000,
            peers: 8,
            slow_among: 4,
        };
        play(h, &plan).await;
    }
}

/// The same among many, half of whom do not read until the end.
pub(crate) async fn random_histories_of_many_end_in_the_state_that_the_tunnels_say<H: Harness>(h: &H) {
    for seed in 100..104 {
        let plan = Plan {
            seed,
            steps: 10_000,
            peers: 200,
            slow_among: 2,
        };
        play(h, &plan).await;
    }
}

/// A short one, where each settlement takes time.
pub(crate) async fn a_random_history_ends_in_the_state_that_the_tunnels_say<H: Harness>(h: &H) {
    let plan = Plan {
        seed: 1_000,
        steps: 500,
        peers: 8,
        slow_among: 4,
    };
    play(h, &plan).await;
}

async fn play<H: Harness>(h: &H, plan: &Plan) {
    let mut history = History::new(h, plan);
    for step in 1..plan.steps {
        history.step(step).await;
    }
    history.check().await;
    history.leave(plan).await;
    h.settle().await;
    h.assert_empty();
    h.reset().await;
}

/// What should be.
#[derive(Default)]
struct Model {
    /// What each connected peer was told, in sum.
    views: HashMap<u128, HashMap<PeerId, i32>>,
    /// Whom a connected peer was told of as lost, where that is remembered.
    lost: HashSet<(u128, PeerId)>,
    remembers_losses: bool,
    /// The newest home that a connected peer was told of another; homes only grow.
    newest: HashMap<(u128, PeerId), i32>,
    /// Readiness that was passed on, by who gets it and who sent it.
    ready: HashSet<(u128, PeerId)>,
    homes: BTreeMap<u128, i32>,
    tunnels: HashSet<(u128, u128)>,
}

impl Model {
    fn connected(&self, one: u128, other: u128) -> bool {
        self.tunnels.contains(&(one, other)) || self.tunnels.contains(&(other, one))
    }

    fn view(&self, one: u128) -> HashMap<PeerId, i32> {
        let others = self
            .homes
            .iter()
            .filter(|(other, _)| self.connected(one, **other));
        others.map(|(&other, &home)| (id(other), home)).collect()
    }

    fn look(&mut self, one: u128, told: Vec<Told>) {
        let view = self.views.entry(one).or_default();
        for (of, kind, home) in told {
            match kind {
                Kind::Node => {
                    let home = home.unwrap();
                    let newest = self.newest.entry((one, of)).or_insert(home);
                    assert!(*newest <= home, "{one} is told of an old node of {of}");
                    *newest = home;
                    view.insert(of, home);
                    self.lost.remove(&(one, of));
                }
                Kind::ReadyForHandshake => {
                    assert!(self.ready.contains(&(one, of)), "{of} never was ready for {one}");
                }
                Kind::Lost => {
                    view.remove(&of).expect("only what was told is taken back");
                    if self.remembers_losses {
                        self.lost.insert((one, of));
                    }
                }
                _ => {
                    let lost = self.lost.remove(&(one, of));
                    assert!(
                        view.remove(&of).is_some() || lost,
                        "only what was told is taken back"
                    );
                }
            }
        }
    }

    /// A connection has begun; what its peer was told before counts no more.
    fn begin(&mut self, one: u128) {
        self.views.insert(one, HashMap::new());
        self.newest.retain(|(reader, _), _| *reader != one);
        self.lost.retain(|(reader, _)| *reader != one);
        self.ready.retain(|(reader, _)| *reader != one);
    }

    fn end(&mut self, one: u128, goodbye: bool) {
        self.homes.remove(&one);
        if goodbye || !self.remembers_losses {
            self.tunnels.retain(|(from, _)| *from != one);
        }
    }
}

struct History<'h, H> {
    harness: &'h H,
    random: SmallRng,
    model: Model,
    peers: BTreeMap<u128, Peer<'h, H>>,
    numbers: std::ops::RangeInclusive<u128>,
    slow: BTreeSet<u128>,
    seed: u64,
}

impl<'h, H: Harness> History<'h, H> {
    fn new(harness: &'h H, plan: &Plan) -> Self {
        let numbers = 1..=plan.peers;
        Self {
            harness,
            random: SmallRng::seed_from_u64(plan.seed),
            model: Model {
                remembers_losses: H::REMEMBERS_LOSSES,
                ..Model::default()
            },
            peers: BTreeMap::new(),
            slow: numbers
                .clone()
                .filter(|number| number % plan.slow_among == 0)
                .collect(),
            numbers,
            seed: plan.seed,
        }
    }

    /// Lets a random peer do something random. Homes are numbers of steps.
    async fn step(&mut self, step: i32) {
        let one = self.random.random_range(self.numbers.clone());
        let other = self.random.random_range(self.numbers.clone());
        let action = self.random.random_range(0..12);
        if action == 0 {
            self.connect(one, step);
            return;
        }
        let Some(peer) = self.peers.get_mut(&one) else {
            return;
        };
        let model = &mut self.model;
        match action {
            1 | 2 if one != other => {
                peer.tunnel(id(other));
                model.tunnels.insert((one, other));
            }
            // A tunnel in one direction only: with both, the original parts the two although one tunnel stays.
            3 if one != other && !model.tunnels.contains(&(other, one)) => {
                peer.remove_tunnel(id(other));
                model.tunnels.remove(&(one, other));
            }
            4 => {
                let goodbye = self.random.random();
                if goodbye {
                    peer.disconnect();
                }
                self.peers.remove(&one);
                model.end(one, goodbye);
            }
            5 | 6 if !self.slow.contains(&one) => {
                let told = peer.told().await;
                model.look(one, told);
            }
            // Between two settlements: what is known elsewhere of a tunnel, or of a connection, is known here.
            7 => {
                self.harness.settle().await;
                peer.ready(&[id(other)]);
                if model.connected(one, other) {
                    model.ready.insert((other, id(one)));
                }
                self.harness.settle().await;
            }
            _ => {
                peer.update(step);
                model.homes.insert(one, step);
            }
        }
    }

    /// Connects a peer, which may have a connection already.
    fn connect(&mut self, one: u128, step: i32) {
        let peer = Peer::connect(self.harness, one);
        // Who takes over announces itself at once, as agents do: until then the others keep what they knew.
        if self.peers.contains_key(&one) || self.random.random() {
            peer.update(step);
            self.model.homes.insert(one, step);
        }
        self.model.begin(one);
        self.peers.insert(one, peer);
    }

    /// Lets everybody read. Their views are then what the tunnels say, and lookups what was announced.
    async fn check(&mut self) {
        for (&one, peer) in &mut self.peers {
            let told = peer.told().await;
            self.model.look(one, told);
            assert_eq!(
                self.model.views[&one],
                self.model.view(one),
                "seed {}, peer {one}",
                self.seed
            );
            let home = self.model.homes.get(&one).copied();
            // A loss that is remembered has a node too.
            if home.is_none() && self.model.remembers_losses {
                continue;
            }
            for coordinator in self.harness.coordinators() {
                let node = coordinator.node(id(one)).await.unwrap();
                let found = node.map(|node| node.preferred_derp);
                assert_eq!(found, home, "seed {}, peer {one}", self.seed);
            }
        }
        self.check_snapshots().await;
    }

    async fn check_snapshots(&self) {
        let (mut ids, mut tunnels) = (Vec::new(), Vec::new());
        for coordinator in self.harness.coordinators() {
            let snapshot = coordinator.snapshot(usize::MAX).await.unwrap();
            ids.extend(snapshot.peers.iter().map(|peer| peer.id));
            tunnels.extend(snapshot.tunnels);
        }
        ids.sort();
        tunnels.sort();
        let connected: Vec<_> = self.peers.keys().map(|&one| id(one)).collect();
        assert_eq!(ids, connected, "seed {}", self.seed);
        let of_connected = self
            .model
            .tunnels
            .iter()
            .filter(|(from, _)| self.peers.contains_key(from));
        let mut expected: Vec<_> = of_connected.map(|(from, to)| (id(*from), id(*to))).collect();
        expected.sort();
        assert_eq!(tunnels, expected, "seed {}", self.seed);
    }

    /// Everybody leaves, one by one, each time told to all who read.
    async fn leave(mut self, plan: &Plan) {
        while let Some((one, peer)) = self.peers.pop_first() {
            drop(peer);
            self.model.end(one, false);
            let at_random = self.random.random_range(1..=plan.peers);
            if let Some(reader) = self.peers.get_mut(&at_random) {
                let told = reader.told().await;
                self.model.look(at_random, told);
                let view = &self.model.views[&at_random];
                assert_eq!(*view, self.model.view(at_random), "seed {}", plan.seed);
            }
        }
    }
}
