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

async fn play<H: Harness>(h: &H, plan: &Plan) {
    let mut history = History::new(h, plan);
    for step in 1..plan.steps {
        history.step(step).await;
    }
    history.check().await;
    history.leave(plan).await;
    h.settle().await;
    h.assert_empty();
}

/// What should be.
#[derive(Default)]
struct Model {
    /// What each connected peer was told, in sum.
    views: HashMap<u128, HashMap<PeerId, i32>>,
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
                }
                Kind::ReadyForHandshake => {
                    assert!(self.ready.contains(&(one, of)), "{of} never was ready for {one}");
                }
                _ => _ = view.remove(&of).expect("only what was told is taken back"),
            }
        }
    }

    /// A connection has begun; what its peer was told before counts no more.
    fn begin(&mut self, one: u128) {
        self.views.insert(one, HashMap::new());
        self.newest.retain(|(reader, _), _| *reader != one);
        self.ready.retain(|(reader, _)| *reader != one);
    }

    fn end(&mut self, one: u128) {
        self.homes.remove(&one);
        self.tunnels.retain(|(from, _)| *from != one);
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
            model: Model::default(),
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
                if self.random.random() {
                    peer.disconnect();
                }
                self.peers.remove(&one);
                model.end(one);
            }
            5 | 6 if !self.slow.contains(&one) => {
                let told = peer.told().await;
                model.look(one, told);
            }
            7 => {
                peer.ready(&[id(other)]);
                if model.connected(one, other) {
                    model.ready.insert((other, id(one)));
                }
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
            let node = self.harness.coordinator().node(id(one)).await;
            assert_eq!(
                node.map(|node| node.preferred_derp),
                self.model.homes.get(&one).copied(),
                "seed {}, peer {one}",
                self.seed
            );
        }
        let snapshot = self.harness.coordinator().snapshot(usize::MAX);
        let connected: Vec<_> = self.peers.keys().map(|&one| id(one)).collect();
        let ids: Vec<_> = snapshot.peers.iter().map(|peer| peer.id).collect();
        assert_eq!(ids, connected, "seed {}", self.seed);
        let mut tunnels: Vec<_> = self.model.tunnels.iter().collect();
        tunnels.sort();
        let tunnels: Vec<_> = tunnels.iter().map(|(from, to)| (id(*from), id(*to))).collect();
        assert_eq!(snapshot.tunnels, tunnels, "seed {}", self.seed);
    }

    /// Everybody leaves, one by one, each time told to all who read.
    async fn leave(mut self, plan: &Plan) {
        while let Some((one, peer)) = self.peers.pop_first() {
            drop(peer);
            self.model.end(one);
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
