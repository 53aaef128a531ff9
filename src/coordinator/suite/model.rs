//! Random histories against a model.

use std::collections::HashMap;

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use super::Harness;
use super::peer::{Peer, Told, id};
use crate::coordinator::PeerId;
use crate::proto::tailnet::coordinate_response::peer_update::Kind;

/// Histories; each is reproduced by its seed.
const SEEDS: u64 = 40;

/// Steps of a history.
const STEPS: i32 = 1_000;

/// Peers that meet in a history: few, so that they meet often.
const PEERS: u128 = 8;

/// Random joins, updates, tunnels, ends and readers of any slowness; afterwards everybody's view is what the tunnels say.
pub(crate) async fn random_histories_end_in_the_state_that_the_tunnels_say<H: Harness>(h: &H) {
    for seed in 0..SEEDS {
        history(h, seed).await;
        h.settle().await;
        h.assert_empty();
    }
}

#[derive(Default)]
struct Model {
    /// What each connected peer was told, in sum.
    views: HashMap<u128, HashMap<PeerId, i32>>,
    homes: HashMap<u128, i32>,
    tunnels: Vec<(u128, u128)>,
}

impl Model {
    fn view(&self, one: u128) -> HashMap<PeerId, i32> {
        let seen = |other: u128| self.tunnels.contains(&(one, other)) || self.tunnels.contains(&(other, one));
        let others = self.homes.iter().filter(|(other, _)| seen(**other));
        others.map(|(&other, &home)| (id(other), home)).collect()
    }

    fn look(&mut self, one: u128, told: Vec<Told>) {
        let view = self.views.entry(one).or_default();
        for (of, kind, home) in told {
            match kind {
                Kind::Node => _ = view.insert(of, home.unwrap()),
                Kind::ReadyForHandshake => {}
                _ => _ = view.remove(&of).expect("only what was told is taken back"),
            }
        }
    }
}

async fn history<H: Harness>(h: &H, seed: u64) {
    let mut random = SmallRng::seed_from_u64(seed);
    let mut model = Model::default();
    let mut peers: HashMap<u128, Peer<'_, H>> = HashMap::new();
    for step in 1..STEPS {
        let one = random.random_range(1..=PEERS);
        let other = random.random_range(1..=PEERS);
        let action = random.random_range(0..12);
        if action == 0 {
            // Announces itself at once, as agents do: until then the others keep what they knew.
            let peer = Peer::connect(h, one);
            peer.update(step);
            model.homes.insert(one, step);
            model.views.insert(one, HashMap::new());
            peers.insert(one, peer);
            continue;
        }
        let Some(peer) = peers.get_mut(&one) else { continue };
        match action {
            1 | 2 if one != other => {
                peer.tunnel(id(other));
                model.tunnels.push((one, other));
            }
            // A tunnel in one direction only: with both, the original parts the two although one tunnel stays.
            3 if one != other && !model.tunnels.contains(&(other, one)) => {
                peer.remove_tunnel(id(other));
                model.tunnels.retain(|tunnel| *tunnel != (one, other));
            }
            4 => {
                if random.random() {
                    peer.disconnect();
                }
                peers.remove(&one);
                model.homes.remove(&one);
                model.tunnels.retain(|(from, _)| *from != one);
            }
            5 | 6 => {
                let told = peer.told().await;
                model.look(one, told);
            }
            7 => peer.ready(&[id(other)]),
            _ => {
                peer.update(step);
                model.homes.insert(one, step);
            }
        }
    }
    for (&one, peer) in &mut peers {
        let told = peer.told().await;
        model.look(one, told);
        assert_eq!(model.views[&one], model.view(one), "seed {seed}, peer {one}");
    }
}
