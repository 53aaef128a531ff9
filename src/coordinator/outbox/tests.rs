use uuid::Uuid;

use super::*;
use crate::proto::tailnet::Node;

const X: PeerId = PeerId(Uuid::from_u128(7));

fn node(home: i32) -> Arc<EncodedNode> {
    let node = Node {
        preferred_derp: home,
        ..Node::default()
    };
    Arc::new(EncodedNode::new(node).unwrap())
}

/// All that is said next: the kind and, of a node, its home.
fn said(outbox: &mut Outbox) -> Vec<(Kind, Option<i32>)> {
    let mut said = Vec::new();
    while let Next::Response(response) = outbox.next() {
        said.extend(response.updates.into_iter().map(|update| {
            let home = update.node.map(|node| node.decode().preferred_derp);
            (update.kind, home)
        }));
    }
    said
}

/// An outbox whose owner was told of X with home 1.
fn told() -> Outbox {
    let mut outbox = Outbox::default();
    outbox.tell_node(X, &node(1), "test");
    assert_eq!(said(&mut outbox), [(Kind::Node, Some(1))]);
    outbox
}

#[test]
fn an_end_takes_back_what_was_not_read() {
    let mut outbox = Outbox::default();
    for number in 0..1_000 {
        let of = PeerId(Uuid::from_u128(number));
        outbox.tell_node(of, &node(1), "test");
        outbox.tell_ready(of);
        outbox.tell_end(of, Kind::Lost, "test");
    }
    assert!(
        outbox.others.is_empty() && outbox.order.is_empty(),
        "nothing is left of them"
    );
    assert_eq!(outbox.next(), Next::Nothing);
}

#[test]
fn a_node_that_returns_to_what_was_told_is_no_news() {
    let mut outbox = told();
    outbox.tell_node(X, &node(2), "test");
    outbox.tell_node(X, &node(1), "test");
    assert!(outbox.order.is_empty());
    assert_eq!(said(&mut outbox), []);
}

#[test]
fn after_an_unread_end_the_same_node_is_news() {
    let mut outbox = told();
    outbox.tell_end(X, Kind::Disconnected, "test");
    outbox.tell_node(X, &node(2), "test");
    outbox.tell_node(X, &node(1), "test");
    assert_eq!(said(&mut outbox), [(Kind::Node, Some(1))]);
}

#[test]
fn of_two_ends_the_first_counts() {
    for (first, second) in [(Kind::Lost, Kind::Disconnected), (Kind::Disconnected, Kind::Lost)] {
        let mut outbox = told();
        outbox.tell_end(X, first, "test");
        outbox.tell_end(X, second, "test");
        assert_eq!(said(&mut outbox), [(first, None)]);
        outbox.tell_end(X, second, "test");
        assert_eq!(
            said(&mut outbox),
            [],
            "who was told of an end is told of no other"
        );
        assert!(outbox.others.is_empty());
    }
}

#[test]
fn an_end_after_a_return_is_the_newest() {
    let mut outbox = told();
    outbox.tell_end(X, Kind::Disconnected, "test");
    outbox.tell_node(X, &node(2), "test");
    outbox.tell_end(X, Kind::Lost, "test");
    assert_eq!(said(&mut outbox), [(Kind::Lost, None)]);
}

#[test]
fn a_node_comes_before_the_readiness_of_its_peer() {
    let mut outbox = Outbox::default();
    outbox.tell_ready(X);
    outbox.tell_ready(X);
    outbox.tell_node(X, &node(3), "test");
    assert_eq!(
        said(&mut outbox),
        [(Kind::Node, Some(3)), (Kind::ReadyForHandshake, None)]
    );
}

#[test]
fn who_waits_longest_is_told_of_first() {
    let mut outbox = Outbox::default();
    let ids = [9, 3, 5].map(|number| PeerId(Uuid::from_u128(number)));
    for round in 0..2 {
        for id in ids {
            outbox.tell_node(id, &node(round), "test");
        }
    }
    let Next::Response(response) = outbox.next() else {
        panic!("nothing is said");
    };
    let order: Vec<_> = response.updates.iter().map(|update| update.of).collect();
    assert_eq!(order, ids);
}

#[test]
fn tn_079_whom_there_is_news_of_waits_once_and_again_after_it_was_told() {
    let mut outbox = Outbox::default();
    let ids: Vec<_> = (0..2_000).map(|number| PeerId(Uuid::from_u128(number))).collect();
    let tell = |outbox: &mut Outbox, home| {
        for id in &ids {
            outbox.tell_node(*id, &node(home), "test");
        }
    };
    tell(&mut outbox, 1);
    tell(&mut outbox, 2);
    assert_eq!(outbox.order.len(), 2_000, "who is told of twice waits once");
    let mut batch = || match outbox.next() {
        Next::Response(response) => response.updates.into_iter().map(|update| update.of).collect(),
        _ => Vec::new(),
    };
    let first = batch();
    assert_eq!(first.len(), 1_023, "a batch has its limit");
    assert_eq!([first, batch()].concat(), ids, "nobody twice");
    assert_eq!(batch(), []);
    outbox.tell_node(ids[7], &node(3), "test");
    assert_eq!(
        said(&mut outbox),
        [(Kind::Node, Some(3))],
        "told, it can wait again"
    );
}

#[test]
fn a_response_is_full_at_1024_updates_readiness_included() {
    let mut outbox = Outbox::default();
    for number in 0..1_000 {
        let of = PeerId(Uuid::from_u128(number));
        outbox.tell_node(of, &node(1), "test");
        outbox.tell_ready(of);
    }
    let mut counts = Vec::new();
    while let Next::Response(response) = outbox.next() {
        counts.push(response.updates.len());
    }
    assert_eq!(counts, [1_024, 976]);
}

#[test]
fn the_last_error_comes_once_and_after_everything_else() {
    let mut outbox = told();
    outbox.tell_end(X, Kind::Lost, "test");
    outbox.tell_error(|| "first".to_owned());
    outbox.end(Some("last"));
    outbox.end(Some("too late"));
    outbox.tell_node(X, &node(4), "too late");
    outbox.tell_error(|| "too late".to_owned());
    let mut errors = Vec::new();
    while let Next::Response(response) = outbox.next() {
        errors.push((response.updates.len(), response.error));
    }
    assert_eq!(
        errors,
        [(1, String::new()), (0, "first".into()), (0, "last".into())]
    );
    assert_eq!(outbox.next(), Next::Ended);
}

#[test]
fn an_immediate_end_frees_what_was_not_read() {
    let mut outbox = told();
    outbox.tell_node(X, &node(2), "test");
    outbox.end_now(None);
    assert_eq!(outbox.next(), Next::Ended);
    assert!(outbox.others.is_empty());
}

/// An outbox whose owner was told of X with home 1, and that it is lost.
fn told_lost() -> Outbox {
    let mut outbox = told();
    outbox.tell_lost(X, "test");
    assert_eq!(said(&mut outbox), [(Kind::Lost, Some(1))], "with its node");
    outbox
}

#[test]
fn a_loss_is_remembered() {
    let mut outbox = told_lost();
    assert_eq!(outbox.told(X), Told::Lost);
    outbox.tell_lost(X, "test");
    assert_eq!(said(&mut outbox), [], "it is no news twice");

    outbox.tell_node(X, &node(1), "test");
    assert_eq!(
        said(&mut outbox),
        [(Kind::Node, Some(1))],
        "found again, unchanged"
    );
    assert_eq!(outbox.told(X), Told::Node);

    let mut outbox = told_lost();
    outbox.tell_end(X, Kind::Disconnected, "test");
    assert_eq!(said(&mut outbox), [(Kind::Disconnected, None)]);
    assert_eq!(outbox.told(X), Told::Nothing);
    assert!(outbox.others.is_empty());
}

#[test]
fn a_loss_of_whom_nothing_was_told_is_no_news() {
    let mut outbox = Outbox::default();
    outbox.tell_lost(X, "test");
    outbox.tell_node(X, &node(1), "test");
    outbox.tell_lost(X, "test");
    assert_eq!(said(&mut outbox), []);
    assert!(outbox.others.is_empty() && outbox.order.is_empty());
}

#[test]
fn of_a_loss_and_what_follows_it_unread_the_last_counts() {
    let mut outbox = told();
    outbox.tell_lost(X, "test");
    outbox.tell_node(X, &node(1), "test");
    assert_eq!(
        said(&mut outbox),
        [(Kind::Node, Some(1))],
        "the peer behind the same node is another one"
    );
    outbox.tell_lost(X, "test");
    outbox.tell_end(X, Kind::Disconnected, "test");
    assert_eq!(said(&mut outbox), [(Kind::Disconnected, None)]);

    let mut outbox = told_lost();
    outbox.tell_node(X, &node(2), "test");
    outbox.tell_lost(X, "test");
    assert_eq!(said(&mut outbox), []);
    assert_eq!(outbox.told(X), Told::Lost);
}

#[test]
fn a_loss_takes_readiness_back() {
    let mut outbox = told();
    outbox.tell_ready(X);
    outbox.tell_lost(X, "test");
    assert_eq!(said(&mut outbox), [(Kind::Lost, Some(1))]);
}
