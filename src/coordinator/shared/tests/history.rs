//! Random histories of two replicas in a world that fails, which end in what was asked once it is whole again.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use super::*;

const PEERS: u128 = 10;

/// What a peer was told, in sum.
#[derive(Default)]
struct View {
    known: HashMap<PeerId, Option<i32>>,
}

impl View {
    /// Whoever is lost stays known, until it is gone.
    fn look(&mut self, told: Vec<Told>) {
        for (of, kind, home) in told {
            match kind {
                Kind::Node => _ = self.known.insert(of, home),
                Kind::Lost => {
                    let before = self.known.insert(of, None);
                    assert!(
                        before.is_some_and(|home| home.is_some()),
                        "only who was told of is lost"
                    );
                }
                Kind::Disconnected => {
                    assert!(self.known.remove(&of).is_some(), "only who was told of is gone");
                }
                _ => {}
            }
        }
    }

    fn nodes(&self) -> BTreeMap<PeerId, i32> {
        let known = self.known.iter();
        known.filter_map(|(id, home)| Some((*id, (*home)?))).collect()
    }
}

struct Sitting<'r> {
    peer: Peer<'r, Replicas>,
    view: View,
    home: Option<i32>,
}

struct History<'r> {
    replicas: &'r Replicas,
    random: SmallRng,
    sitting: BTreeMap<u128, Sitting<'r>>,
    tunnels: BTreeSet<(u128, u128)>,
    /// Homes only grow.
    next_home: i32,
}

impl History<'_> {
    fn one(&mut self) -> u128 {
        self.random.random_range(1..=PEERS)
    }

    fn home(&mut self) -> i32 {
        self.next_home += 1;
        self.next_home
    }

    fn connect(&mut self, number: u128, role: Role) {
        let coordinator = self.replicas.coordinator_of(number);
        let peer = Peer::connect_to(self.replicas, coordinator, number, role);
        let sitting = Sitting {
            peer,
            view: View::default(),
            home: None,
        };
        let before = self.sitting.insert(number, sitting);
        // Who takes over announces itself at once, as agents do.
        if before.is_some() || self.random.random() {
            self.announce(number);
        }
    }

    fn announce(&mut self, number: u128) {
        let home = self.home();
        if let Some(sitting) = self.sitting.get_mut(&number) {
            sitting.peer.update(home);
            sitting.home = Some(home);
        }
    }

    /// A random thing happens to the world or is done by a peer. Streams that the world has ended are of no more use.
    async fn step(&mut self) {
        let (one, other) = (self.one(), self.one());
        let way = &self.replicas.ways[self.random.random_range(0..2)];
        match self.random.random_range(0..40) {
            0 => way.cut(self.random.random()),
            1 => way.lose_answers(self.random.random()),
            2 => self.replicas.hub.lose_messages(),
            3 => {
                let millis = self.random.random_range(1..4_000);
                tokio::time::sleep(Duration::from_millis(millis)).await;
            }
            4..12 => self.connect(one, Role::Agent),
            12..16 => {
                if let Some(sitting) = self.sitting.remove(&one)
                    && self.random.random()
                {
                    sitting.peer.disconnect();
                    self.tunnels.retain(|(from, _)| *from != one);
                }
            }
            16..24 if one != other => {
                if let Some(sitting) = self.sitting.get(&one) {
                    sitting.peer.tunnel(id(other));
                    self.tunnels.insert((one, other));
                }
            }
            24..28 if one != other => {
                if let Some(sitting) = self.sitting.get(&one) {
                    sitting.peer.remove_tunnel(id(other));
                    self.tunnels.remove(&(one, other));
                }
            }
            28..31 => {
                let millis = self.random.random_range(1..100);
                tokio::time::sleep(Duration::from_millis(millis)).await;
                if let Some(sitting) = self.sitting.get_mut(&one) {
                    sitting.view.look(read(&mut sitting.peer));
                }
            }
            _ => self.announce(one),
        }
    }

    /// The world is whole again: after two refreshes everybody knows what there is to know.
    async fn check(&mut self, seed: u64) {
        for way in &self.replicas.ways {
            way.cut(false);
            way.lose_answers(false);
        }
        tokio::time::sleep(Duration::from_secs(80)).await;
        let homes: BTreeMap<u128, i32> = self
            .sitting
            .iter()
            .filter_map(|(number, sitting)| Some((*number, sitting.home?)))
            .collect();
        for (&one, sitting) in &mut self.sitting {
            sitting.view.look(sitting.peer.told().await);
            assert!(!sitting.peer.ended, "seed {seed}: agents stay");
            let joined =
                |other: u128| self.tunnels.contains(&(one, other)) || self.tunnels.contains(&(other, one));
            let expected: BTreeMap<PeerId, i32> = homes
                .iter()
                .filter(|(other, _)| **other != one && joined(**other))
                .map(|(other, home)| (id(*other), *home))
                .collect();
            assert_eq!(sitting.view.nodes(), expected, "seed {seed}, peer {one}");
        }
        let rows = self.replicas.tables().rows();
        for ((peer, of), row) in &rows.peers {
            let number = peer.0.as_u128();
            let home = homes.get(&number);
            assert_eq!(row.lost, home.is_none(), "seed {seed}: row of {peer} by {of}");
            if let Some(home) = home {
                assert_eq!(row.node, encoded(*home), "seed {seed}: row of {peer} by {of}");
            }
        }
    }
}

/// What there is to read now, whether everything has arrived or not.
fn read(peer: &mut Peer<'_, Replicas>) -> Vec<Told> {
    let mut cx = Context::from_waker(std::task::Waker::noop());
    let mut told = Vec::new();
    while let Poll::Ready(Some(response)) = peer.connection.poll_response(&mut cx) {
        told.extend(response.updates.into_iter().map(|update| {
            let node = update.node.filter(|_| update.kind == Kind::Node);
            (
                update.of,
                update.kind,
                node.map(|node| node.decode().preferred_derp),
            )
        }));
    }
    told
}

#[tokio::test(start_paused = true)]
async fn random_histories_in_a_failing_world_end_in_what_was_asked() {
    for seed in 0..60 {
        let replicas = if seed % 3 == 0 {
            Replicas::with_triggers(2)
        } else {
            Replicas::in_memory(2)
        };
        let mut history = History {
            replicas: &replicas,
            random: SmallRng::seed_from_u64(seed),
            sitting: BTreeMap::new(),
            tunnels: BTreeSet::new(),
            next_home: 0,
        };
        for _ in 0..4 {
            for _ in 0..250 {
                history.step().await;
            }
            history.check(seed).await;
        }
        history.sitting.clear();
        tokio::time::sleep(Duration::from_secs(80)).await;
        // What is due at this very moment is no remnant.
        replicas.settle().await;
        replicas.assert_empty();
    }
}
