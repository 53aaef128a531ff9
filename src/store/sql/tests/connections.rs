//! Connection times.

use std::time::Duration;

use super::{Kit, NOW, SMALL, TICK, at};
use crate::clock::Timestamp;
use crate::ids::{AgentId, ReplicaId};
use crate::store::{AgentStatus, ConnectionChange, Store};

fn change(agent_id: AgentId, at: Timestamp) -> ConnectionChange {
    ConnectionChange { agent_id, at }
}

async fn connect(kit: &Kit, replica: ReplicaId, agent: AgentId, when: Timestamp) {
    connect_late(kit, replica, agent, when, when).await;
}

/// A connect that was written only at `now`.
async fn connect_late(kit: &Kit, replica: ReplicaId, agent: AgentId, when: Timestamp, now: Timestamp) {
    kit.store
        .record_connects(replica, &[change(agent, when)], now)
        .await
        .unwrap();
}

async fn beat(kit: &Kit, replica: ReplicaId, agent: AgentId, when: Timestamp) {
    kit.store
        .record_heartbeats(replica, &[agent], when, TICK)
        .await
        .unwrap();
}

async fn disconnect(kit: &Kit, replica: ReplicaId, agent: AgentId, when: Timestamp) {
    kit.store
        .record_disconnects(replica, &[change(agent, when)])
        .await
        .unwrap();
}

/// first_connected_at, last_connected_at, disconnected_at.
async fn times(kit: &Kit, agent: AgentId) -> [Option<Timestamp>; 3] {
    let times = kit.store.agent(agent).await.unwrap().connection;
    [
        times.first_connected_at,
        times.last_connected_at,
        times.disconnected_at,
    ]
}

async fn one() -> (Kit, AgentId, ReplicaId) {
    let (kit, agents) = Kit::seeded(SMALL).await;
    (kit, agents[0].agent_id, ReplicaId::random())
}

#[tokio::test]
async fn conn_028_first_connect_sets_first_last_and_replica_and_no_disconnect() {
    let (mut kit, agent, replica) = one().await;
    connect(&kit, replica, agent, at(1)).await;
    assert_eq!(times(&kit, agent).await, [Some(at(1)), Some(at(1)), None]);
    assert_eq!(kit.time("updated_at", agent).await, Some(at(1)));
    let stored = kit
        .table("SELECT last_connected_replica_id FROM workspace_agents")
        .await;
    assert_eq!(stored, [replica.0.simple().to_string()]);
}

#[tokio::test]
async fn conn_029_reconnect_keeps_first_and_the_old_disconnect() {
    let (kit, agent, replica) = one().await;
    connect(&kit, replica, agent, at(1)).await;
    disconnect(&kit, replica, agent, at(2)).await;
    assert_eq!(times(&kit, agent).await, [Some(at(1)), Some(at(1)), Some(at(2))]);
    connect(&kit, replica, agent, at(3)).await;
    assert_eq!(times(&kit, agent).await, [Some(at(1)), Some(at(3)), Some(at(2))]);
}

#[tokio::test]
async fn conn_039_a_connect_is_dated_after_the_last_disconnect() {
    let later = |time: Timestamp| Timestamp::from_micros(time.as_micros() + 1);
    let (kit, agent, replica) = one().await;
    connect(&kit, replica, agent, at(1)).await;
    disconnect(&kit, replica, agent, at(5)).await;
    // In the same microsecond, and by a clock that went back.
    connect(&kit, replica, agent, at(5)).await;
    assert_eq!(times(&kit, agent).await[1], Some(later(at(5))));
    disconnect(&kit, replica, agent, at(9)).await;
    connect(&kit, replica, agent, at(7)).await;
    assert_eq!(times(&kit, agent).await[1], Some(later(at(9))));
}

#[tokio::test]
async fn conn_030_a_heartbeat_moves_last_connected_and_never_the_disconnect() {
    let (mut kit, agent, replica) = one().await;
    connect(&kit, replica, agent, at(1)).await;
    disconnect(&kit, replica, agent, at(2)).await;
    let other = ReplicaId::random();
    beat(&kit, other, agent, at(15)).await;
    assert_eq!(times(&kit, agent).await, [Some(at(1)), Some(at(15)), Some(at(2))]);
    assert_eq!(kit.time("updated_at", agent).await, Some(at(15)));
    let stored = kit
        .table("SELECT last_connected_replica_id FROM workspace_agents")
        .await;
    assert_eq!(stored, [other.0.simple().to_string()]);
}

#[tokio::test]
async fn conn_032_a_disconnect_is_never_before_the_last_connect() {
    let (kit, agent, replica) = one().await;
    connect(&kit, replica, agent, at(10)).await;
    disconnect(&kit, replica, agent, at(4)).await;
    assert_eq!(times(&kit, agent).await[2], Some(at(10)));
}

#[tokio::test]
async fn an_agent_that_is_connected_looks_so_also_after_the_clock_went_back() {
    async fn status(kit: &Kit, agent: AgentId) -> AgentStatus {
        let row = kit.store.agent(agent).await.unwrap();
        row.status(at(25), Duration::from_secs(30))
    }
    let after = |time: Timestamp| Some(Timestamp::from_micros(time.as_micros() + 1));
    let (kit, agent, replica) = one().await;
    connect(&kit, replica, agent, at(3_600)).await;
    disconnect(&kit, replica, agent, at(3_700)).await;
    // An hour back.
    connect(&kit, replica, agent, at(5)).await;
    for tick in [10, 15, 20] {
        beat(&kit, replica, agent, at(tick)).await;
        let [first, last, gone] = times(&kit, agent).await;
        assert_eq!(
            [first, last, gone],
            [Some(at(3_600)), after(at(3_700)), Some(at(3_700))]
        );
        assert_eq!(status(&kit, agent).await, AgentStatus::Connected);
    }
    disconnect(&kit, replica, agent, at(25)).await;
    let [_, last, gone] = times(&kit, agent).await;
    assert_eq!(gone, last);
    assert!(matches!(
        status(&kit, agent).await,
        AgentStatus::Disconnected { .. }
    ));

    // The first session of all, during which the clock goes back.
    let (kit, agent, replica) = one().await;
    connect(&kit, replica, agent, at(86_400)).await;
    beat(&kit, replica, agent, at(15)).await;
    assert_eq!(
        times(&kit, agent).await,
        [Some(at(86_400)), Some(at(86_400)), None]
    );
    connect(&kit, replica, agent, at(20)).await;
    assert_eq!(times(&kit, agent).await[1], Some(at(86_400)));
}

#[tokio::test]
async fn conn_036_a_disconnect_of_a_replica_that_wrote_before_is_ignored() {
    let (mut kit, agent, replica) = one().await;
    connect(&kit, replica, agent, at(1)).await;
    let newer = ReplicaId::random();
    connect(&kit, newer, agent, at(2)).await;
    disconnect(&kit, replica, agent, at(3)).await;
    assert_eq!(times(&kit, agent).await, [Some(at(1)), Some(at(2)), None]);
    assert_eq!(kit.time("updated_at", agent).await, Some(at(2)));
    disconnect(&kit, newer, agent, at(4)).await;
    assert_eq!(times(&kit, agent).await[2], Some(at(4)));
}

#[tokio::test]
async fn conn_037_without_a_disconnect_the_last_heartbeat_stays() {
    let (kit, agent, replica) = one().await;
    connect(&kit, replica, agent, at(1)).await;
    beat(&kit, replica, agent, at(16)).await;
    assert_eq!(times(&kit, agent).await, [Some(at(1)), Some(at(16)), None]);
}

#[tokio::test]
async fn of_several_changes_of_one_agent_the_newest_counts() {
    let (kit, agent, replica) = one().await;
    let changes = [change(agent, at(3)), change(agent, at(7)), change(agent, at(5))];
    kit.store.record_connects(replica, &changes, at(7)).await.unwrap();
    assert_eq!(times(&kit, agent).await[1], Some(at(7)));
    kit.store.record_disconnects(replica, &changes).await.unwrap();
    assert_eq!(times(&kit, agent).await[2], Some(at(7)));
}

#[tokio::test]
async fn many_agents_are_one_statement_and_unknown_ones_are_ignored() {
    use std::fmt::Write as _;
    let mut yaml = String::from("owner: { username: ada }\nworkspace: { name: dev }\nagents:\n");
    for number in 0..200 {
        writeln!(yaml, "  - {{ name: agent-{number} }}").unwrap();
    }
    let (mut kit, agents) = Kit::seeded(&yaml).await;
    let replica = ReplicaId::random();
    let mut ids: Vec<_> = agents.iter().map(|agent| agent.agent_id).collect();
    ids.push(AgentId::random());
    let changes: Vec<_> = ids.iter().map(|id| change(*id, at(1))).collect();
    kit.store.record_connects(replica, &changes, at(1)).await.unwrap();
    kit.store
        .record_heartbeats(replica, &ids, at(2), TICK)
        .await
        .unwrap();
    kit.store.record_disconnects(replica, &changes).await.unwrap();
    for name in ["record_connects", "record_heartbeats", "record_disconnects"] {
        assert_eq!(kit.ran(name), 1, "{name}");
    }
    let written = format!(
        "SELECT count(*) FROM workspace_agents
        WHERE first_connected_at = {0} AND last_connected_at = {1} AND disconnected_at = {1}",
        at(1).as_micros(),
        at(2).as_micros()
    );
    assert_eq!(kit.integer(&written).await, 200);
}

#[tokio::test]
async fn nothing_to_write_is_no_statement() {
    let kit = Kit::new().await;
    let replica = ReplicaId::random();
    kit.store.record_connects(replica, &[], NOW).await.unwrap();
    kit.store
        .record_heartbeats(replica, &[], NOW, TICK)
        .await
        .unwrap();
    kit.store.record_disconnects(replica, &[]).await.unwrap();
    assert_eq!(
        kit.ran("record_connects") + kit.ran("record_heartbeats") + kit.ran("record_disconnects"),
        0
    );
}

/// The row's replica, and whether the agent looks connected at `now`.
async fn seen(kit: &mut Kit, now: Timestamp) -> (ReplicaId, bool) {
    let rows = kit
        .table("SELECT id, last_connected_replica_id FROM workspace_agents")
        .await;
    let (id, replica) = rows[0].split_once('|').unwrap();
    let agent = kit.store.agent(AgentId(id.parse().unwrap())).await.unwrap();
    let status = agent.status(now, TICK * 2);
    (
        ReplicaId(replica.parse().unwrap()),
        status == AgentStatus::Connected,
    )
}

#[tokio::test]
async fn conn_036_a_session_whose_end_is_late_takes_no_row_from_a_newer_one_elsewhere() {
    let (mut kit, agent, old) = one().await;
    let new = ReplicaId::random();
    connect(&kit, old, agent, at(1)).await;
    beat(&kit, old, agent, at(15)).await;
    connect(&kit, new, agent, at(20)).await;
    for tick in [30, 45, 60] {
        beat(&kit, old, agent, at(tick)).await;
        assert_eq!(seen(&mut kit, at(tick)).await, (new, true), "{tick}");
        beat(&kit, new, agent, at(tick + 7)).await;
        assert_eq!(times(&kit, agent).await[1], Some(at(tick + 7)));
    }
    disconnect(&kit, old, agent, at(68)).await;
    assert_eq!(seen(&mut kit, at(68)).await, (new, true));
    assert_eq!(times(&kit, agent).await[2], None);
    disconnect(&kit, new, agent, at(69)).await;
    assert_eq!(seen(&mut kit, at(69)).await, (new, false));
}

#[tokio::test]
async fn conn_036_a_connect_that_had_to_wait_is_not_written_over_a_newer_one_elsewhere() {
    let (mut kit, agent, cut_off) = one().await;
    let other = ReplicaId::random();
    // Both of a session at the one that could not write; the agent has come to the other since.
    connect(&kit, other, agent, at(3)).await;
    beat(&kit, other, agent, at(15)).await;
    connect_late(&kit, cut_off, agent, at(1), at(20)).await;
    assert_eq!(seen(&mut kit, at(20)).await, (other, true));
    assert_eq!(times(&kit, agent).await, [Some(at(3)), Some(at(15)), None]);
    disconnect(&kit, cut_off, agent, at(2)).await;
    assert_eq!(seen(&mut kit, at(20)).await, (other, true));
    // It is the newer one that waited.
    connect_late(&kit, cut_off, agent, at(16), at(40)).await;
    assert_eq!(seen(&mut kit, at(40)).await, (cut_off, true));
    assert_eq!(times(&kit, agent).await[1], Some(at(16)));
    // The other's session has ended, the one that waited lives.
    connect(&kit, other, agent, at(41)).await;
    disconnect(&kit, other, agent, at(42)).await;
    connect_late(&kit, cut_off, agent, at(17), at(50)).await;
    assert_eq!(seen(&mut kit, at(50)).await, (cut_off, true));
}

#[tokio::test]
async fn a_connect_that_did_not_wait_is_written_whatever_the_clocks_of_others_say() {
    let (mut kit, agent, ahead) = one().await;
    let behind = ReplicaId::random();
    connect(&kit, ahead, agent, at(1)).await;
    beat(&kit, ahead, agent, at(15)).await;
    connect(&kit, behind, agent, at(12)).await;
    disconnect(&kit, ahead, agent, at(17)).await;
    assert_eq!(seen(&mut kit, at(17)).await, (behind, true));
}

#[tokio::test]
async fn a_time_from_before_the_clock_went_back_keeps_nobody_out() {
    let (mut kit, agent, before) = one().await;
    let after = ReplicaId::random();
    connect(&kit, before, agent, at(3_600)).await;
    // It was killed, and the next one had to wait.
    connect_late(&kit, after, agent, at(5), at(20)).await;
    assert_eq!(seen(&mut kit, at(20)).await, (after, true));
    beat(&kit, before, agent, at(3_600)).await;
    beat(&kit, after, agent, at(30)).await;
    assert_eq!(seen(&mut kit, at(30)).await, (after, true));
}

#[tokio::test]
async fn the_agents_of_a_replica_that_died_are_taken_over_while_they_still_look_connected() {
    let (mut kit, agent, dead) = one().await;
    let other = ReplicaId::random();
    // It has an older session.
    connect(&kit, other, agent, at(1)).await;
    connect(&kit, dead, agent, at(2)).await;
    beat(&kit, dead, agent, at(16)).await;
    beat(&kit, other, agent, at(30)).await;
    assert_eq!(seen(&mut kit, at(30)).await, (dead, true), "a tick may be late");
    beat(&kit, other, agent, at(45)).await;
    assert_eq!(seen(&mut kit, at(45)).await, (other, true));
    // After an end nobody is waited for.
    connect(&kit, dead, agent, at(46)).await;
    disconnect(&kit, dead, agent, at(47)).await;
    beat(&kit, other, agent, at(48)).await;
    assert_eq!(seen(&mut kit, at(48)).await, (other, true));
}
