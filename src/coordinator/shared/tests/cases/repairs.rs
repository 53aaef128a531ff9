//! The cases of what is lost, late or broken on the way, and made up for.

use super::*;

cases! {
    tn_081_missed_notifications_are_made_up_for on 2;
    tn_082_a_lost_notification_is_made_up_for_within_the_refresh on 1;
    tn_083_a_slow_connection_costs_the_others_nothing on 2;
    tn_084_a_stored_node_that_cannot_be_read_costs_the_others_nothing on 1;
    tn_085_malformed_notifications_are_ignored on 1;
}

async fn tn_081_missed_notifications_are_made_up_for(replicas: Replicas) {
    replicas.all_started().await;
    let foreign = replicas.foreign(1);
    foreign.beat().await;
    let mut clients = [replicas.client(0, 8), replicas.client(1, 9)];
    for client in &mut clients {
        client.tunnel(id(1));
        assert_eq!(client.told().await, []);
    }
    // Everybody's first refresh has been, within six seconds of each other: none comes in the next 18.
    let refreshes = || replicas.ways.iter().map(|way| way.calls(&["heartbeats"]));
    let before: Vec<_> = refreshes().collect();
    foreign
        .while_beating(eventually(async || {
            refreshes().zip(&before).all(|(now, before)| now > *before)
        }))
        .await;
    foreign.put_unheard(1, &encoded(10)).await;
    replicas.miss_everything(|| foreign.publish(Notice::Peer(id(1))));
    let began = tokio::time::Instant::now();
    for client in &mut clients {
        foreign.while_beating(told_until(client, new(1, 10))).await;
    }
    assert!(began.elapsed() < Duration::from_secs(15), "{:?}", began.elapsed());
}

async fn tn_082_a_lost_notification_is_made_up_for_within_the_refresh(replicas: Replicas) {
    replicas.all_started().await;
    let foreign = replicas.foreign(1);
    foreign.beat().await;
    let mut client = replicas.client(0, 9);
    client.tunnel(id(1));
    replicas.settle().await;
    foreign.put_unheard(1, &encoded(10)).await;
    let began = tokio::time::Instant::now();
    foreign.while_beating(told_until(&mut client, new(1, 10))).await;
    if replicas.tables.is_some() {
        assert!(
            began.elapsed() <= Duration::from_secs(31),
            "{:?}",
            began.elapsed()
        );
    }
}

async fn tn_083_a_slow_connection_costs_the_others_nothing(replicas: Replicas) {
    let agent = replicas.agent(1, 1);
    agent.update(10);
    let mut clients: Vec<_> = (100..150).map(|number| replicas.client(0, number)).collect();
    for client in &clients {
        client.tunnel(id(1));
    }
    let slow = clients.split_off(49);
    for client in &mut clients {
        told_until(client, new(1, 10)).await;
    }
    for home in 11..30 {
        agent.update(home);
        replicas.settle().await;
    }
    for client in &mut clients {
        assert_eq!(client.told().await, [new(1, 29)]);
    }
    let [mut slow] = <[_; 1]>::try_from(slow).ok().unwrap();
    assert_eq!(
        slow.told().await,
        [new(1, 29)],
        "when it reads, it has the latest"
    );
}

async fn tn_084_a_stored_node_that_cannot_be_read_costs_the_others_nothing(replicas: Replicas) {
    replicas.all_started().await;
    let foreign = replicas.foreign(1);
    foreign.beat().await;
    let mut client = replicas.client(0, 9);
    client.tunnel(id(1));
    client.tunnel(id(2));
    foreign.put_unheard(1, b"\xff no node").await;
    foreign.publish(Notice::Peer(id(1)));
    foreign.put(2, 20).await;
    assert_eq!(told_until(&mut client, new(2, 20)).await, [new(2, 20)]);
    foreign.put(1, 10).await;
    foreign.while_beating(told_until(&mut client, new(1, 10))).await;
    foreign.put_unheard(1, b"\xff no node").await;
    foreign.publish(Notice::Peer(id(1)));
    foreign.while_beating(told_until(&mut client, lost(1))).await;
    assert_eq!(client.told().await, [], "it is there, so it is not gone");
}

async fn tn_085_malformed_notifications_are_ignored(replicas: Replicas) {
    replicas.all_started().await;
    let foreign = replicas.foreign(1);
    let mut client = replicas.client(0, 9);
    client.tunnel(id(1));
    replicas.settle().await;
    let channels = [
        notices::PEER_UPDATE,
        notices::TUNNEL_UPDATE,
        notices::HEARTBEAT,
        notices::READY_FOR_HANDSHAKE,
    ];
    for channel in channels {
        for payload in [
            "",
            "x",
            ",",
            "00000000-0000-0000-0000-000000000001,",
            "{}",
            "\u{1f980}",
        ] {
            replicas.hub.publish(channel, payload);
        }
    }
    foreign.beat().await;
    foreign.put(1, 10).await;
    assert_eq!(told_until(&mut client, new(1, 10)).await, [new(1, 10)]);
    assert_eq!(client.errors().await, NO_ERROR);
}
