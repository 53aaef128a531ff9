//! What the agents of one workspace may have, so that none takes what is everybody's.

use std::sync::atomic::Ordering;

use serde_json::json;
use tokio::io::AsyncWriteExt as _;

use super::kit::{self, Kit, driven, provider, until};
use crate::http::agents::body::PIECE;
use crate::http::agents::{Bounds, EACH};
use crate::ids::WorkspaceId;
use crate::shares::{Share, Shares};

const LISTEN: &str = "external-auth?id=p&listen";

type Kind = fn(&Bounds) -> &Shares<WorkspaceId>;

fn message(text: &str) -> String {
    format!("{{\"message\":\"{text}\"}}")
}

/// Takes so much of what the agents of a workspace may have of one kind.
fn hold_each(kit: &Kit, kind: Kind, workspace: WorkspaceId, amount: usize) -> Share<WorkspaceId> {
    kind(kit.app.bounds()).take(workspace, amount).unwrap()
}

/// A kit whose other workspaces have all that they may.
async fn beside_others(kind: Kind, most: usize) -> (Kit, impl Sized) {
    let kit = Kit::with(kit::SEED, vec![provider("p", "github", None)]).await;
    let others: Vec<_> = (1..4)
        .map(|other| hold_each(&kit, kind, WorkspaceId(uuid::Uuid::from_u128(other)), most))
        .collect();
    (kit, others)
}

#[tokio::test]
async fn requests_of_a_workspace_are_at_work_up_to_the_limit() {
    let kind: Kind = |bounds| &bounds.requests;
    let (kit, _others) = beside_others(kind, EACH.requests).await;
    let workspace = kit.workspace().await;
    for (held, status) in [(EACH.requests - 1, 200), (EACH.requests, 503)] {
        let held = hold_each(&kit, kind, workspace, held);
        let answer = kit.get("gitsshkey").await;
        assert_eq!(answer.status, status);
        if status == 503 {
            answer.assert_json(503, &message("The workspace has too many requests at work."));
        }
        drop(held);
    }
    // A body that does not come keeps its request at work.
    let _held = hold_each(&kit, kind, workspace, EACH.requests - 1);
    let room = kit.app.bounds().body_memory.left();
    let mut slow = kit.open_body("PATCH", "logs", 100).await;
    slow.write_all(b"{").await.unwrap();
    until(|| kit.app.bounds().body_memory.left() < room).await;
    assert_eq!(kit.get("gitsshkey").await.status, 503);
}

#[tokio::test]
async fn listeners_of_a_workspace_are_taken_up_to_the_limit_and_are_no_requests_at_work() {
    driven(async {
        let kind: Kind = |bounds| bounds.listeners.each();
        let (kit, _others) = beside_others(kind, EACH.listeners).await;
        let workspace = kit.workspace().await;
        let but_one = hold_each(&kit, kind, workspace, EACH.listeners - 1);
        let requests = hold_each(&kit, |bounds| &bounds.requests, workspace, EACH.requests - 1);
        let before = kit.app.bounds().listeners.left();
        let last = kit.open(LISTEN).await;
        until(|| kit.app.bounds().listeners.left() == before - 1).await;
        kit.get(LISTEN)
            .await
            .assert_json(503, &message("Too many requests wait for external providers."));
        assert_eq!(kit.app.bounds().listeners.left(), before - 1);
        drop((but_one, last, requests));
    })
    .await;
}

#[tokio::test]
async fn streams_of_claims_of_a_workspace_are_taken_up_to_the_limit_and_are_no_requests_at_work() {
    let kind: Kind = |bounds| bounds.reinit_streams.each();
    let (kit, _others) = beside_others(kind, EACH.reinit_streams).await;
    let workspace = kit.workspace().await;
    let but_one = hold_each(&kit, kind, workspace, EACH.reinit_streams - 1);
    let _requests = hold_each(&kit, |bounds| &bounds.requests, workspace, EACH.requests - 1);
    let before = kit.app.bounds().reinit_streams.left();
    let last = kit.open("reinit").await;
    until(|| kit.app.bounds().reinit_streams.left() == before - 1).await;
    kit.get("reinit")
        .await
        .assert_json(503, &message("Too many agents wait for claims."));
    assert_eq!(kit.app.bounds().reinit_streams.left(), before - 1);
    drop((but_one, last));
}

#[tokio::test]
async fn a_stream_of_claims_begins_only_while_there_is_memory() {
    let kit = Kit::new().await;
    kit.has_memory.store(false, Ordering::Relaxed);
    kit.get("reinit").await.assert_json(
        503,
        &message("The server has no room for another agent connection."),
    );
    assert_eq!(kit.get("gitsshkey").await.status, 200);
}

#[tokio::test]
async fn bodies_of_a_workspace_take_memory_up_to_the_limit() {
    let kind: Kind = |bounds| bounds.body_memory.each();
    let most = EACH.body_memory / PIECE;
    let (kit, _others) = beside_others(kind, most).await;
    let workspace = kit.workspace().await;
    let body = json!({ "logs": [{ "output": "x".repeat(100_000) }] }).to_string();
    let pieces = body.len().div_ceil(PIECE);
    for (room, status) in [(pieces + 1, 200), (pieces, 200), (pieces - 1, 503)] {
        let held = hold_each(&kit, kind, workspace, most - room);
        let answer = kit.send("PATCH", "logs", &body).await;
        assert_eq!(answer.status, status, "{room}");
        if status == 503 {
            answer.assert_json(503, &message("Too many large requests are at work."));
        }
        drop(held);
    }
    drop(hold_each(&kit, kind, workspace, most));
}
