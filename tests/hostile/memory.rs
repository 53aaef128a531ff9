//! The memory budget: beyond it nobody new is let in, and those inside notice nothing.

use crate::support::raw::{BANNERS, DATA, SYN, drpc, frame};
use crate::support::{Data, eventually, http};
use crate::{SEED, Scene, dialed, resident};

#[test]
fn with_a_budget_that_the_start_uses_up_a_server_is_ready_and_lets_nobody_in() {
    let data = Data::new(SEED);
    let server = data.serve(&["--memory-budget", "1"]);
    for _ in 0..3 {
        assert_eq!(dialed(&server, &server.agents[1]), "503");
    }
    assert_eq!(http::get(&server.url, "/readyz", "").status, 200);
    assert_eq!(server.stop(), Some(0));
}

#[test]
fn beyond_the_memory_budget_nobody_new_is_let_in_and_those_inside_stay() {
    /// MiB between what a server holds with one session and the budget: room for a start that takes a little more.
    const ROOM: u64 = 24;
    /// Each holds less than a session may hold while all together hold too much, and all of them twice the room.
    const PEERS: usize = 16;
    const PARTS: usize = 112;
    const PART: usize = 32 << 10;
    let first = Scene::alone(&[]);
    let budget = (resident(&first.server) >> 20) + ROOM;
    first.unharmed();
    let scene = Scene::alone(&["--memory-budget", &budget.to_string()]);
    let new = || dialed(&scene.server, scene.bad());
    assert_eq!(new(), "101");
    let mut inside: Vec<_> = (0..PEERS).map(|_| scene.dial()).collect();
    // Messages that never become whole.
    let part = drpc(2, false, 1, 2, &vec![0; PART]);
    for peer in &mut inside {
        peer.send(&frame(DATA, SYN, 1, 0, &drpc(1, true, 1, 1, BANNERS.as_bytes())));
        for _ in 0..PARTS {
            // Not faster than credit comes.
            peer.ping(1);
            peer.send(&frame(DATA, 0, 1, 0, &part));
        }
    }
    assert_eq!(eventually(|| new() == "503"), Ok(()), "of {budget} MiB");
    // And not for how many sessions the agent has.
    let told = eventually(|| scene.data.log().contains("memory budget used up"));
    assert_eq!(told, Ok(()), "of {budget} MiB");
    scene.honest_calls(20);
    for peer in &mut inside {
        peer.ping(2);
    }
    assert_eq!(new(), "503");
    assert_eq!(http::get(&scene.server.url, "/readyz", "").status, 200);
    scene.unharmed();
}
