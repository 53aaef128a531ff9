use uuid::Uuid;

use super::*;
use crate::proto::tailnet::Node;

fn id(number: u128) -> PeerId {
    PeerId(Uuid::from_u128(number))
}

fn node(home: i32) -> Arc<EncodedNode> {
    let node = Node {
        preferred_derp: home,
        ..Node::default()
    };
    Arc::new(EncodedNode::new(node).unwrap())
}

/// What is to be written: whether all rows go, those that go, those that come.
fn take(tunnels: &mut OwnTunnels) -> (bool, Vec<PeerId>, Vec<PeerId>) {
    let TunnelChanges {
        withdraw,
        remove,
        add,
        again: _,
    } = tunnels.take(usize::MAX);
    (withdraw, remove, add)
}

/// Tunnels to 1 and 2, all rows known and written.
fn written() -> OwnTunnels {
    let mut tunnels = OwnTunnels::default();
    tunnels.complete();
    assert_eq!((tunnels.add(id(1)), tunnels.add(id(2))), (Ok(true), Ok(true)));
    let changes = tunnels.take(9);
    assert!(!tunnels.settle(&changes, 1));
    tunnels
}

#[test]
fn a_row_says_the_latest_and_is_settled_when_that_is_written() {
    let mut row = OwnRow::default();
    assert!(row.announce(&node(1), 7));
    assert!(matches!(row.take(), Some(Said::Node(_))));
    assert!(row.take().is_none(), "taken once");
    assert!(row.announce(&node(2), 7));
    row.settle(Some(DatabaseTime(5)), 1);
    assert_eq!(row.written_at(), None, "more was said meanwhile");
    row.take();
    row.settle(Some(DatabaseTime(6)), 2);
    assert_eq!(row.written_at(), Some(DatabaseTime(6)));
    assert!(row.is_clean());
}

#[test]
fn the_same_node_is_written_again_for_a_new_connection_only() {
    let mut row = OwnRow::default();
    assert!(row.announce(&node(1), 7));
    assert!(!row.announce(&node(1), 7));
    assert!(
        row.announce(&node(1), 8),
        "it becomes the newest of the peer's rows"
    );
    assert!(row.lose());
    assert!(row.announce(&node(1), 8), "it is back");
}

#[test]
fn tn_088_who_has_said_nothing_is_not_lost() {
    let mut row = OwnRow::default();
    assert!(!row.lose());
    assert!(
        row.leave(),
        "but may have a row of an earlier life, which goodbye removes"
    );
    assert!(!row.leave() && !row.lose());
}

#[test]
fn a_row_that_is_not_what_was_written_is_written_again() {
    let mut row = OwnRow::default();
    row.announce(&node(1), 7);
    assert!(!row.check(None, 9), "it is not written yet");
    row.take();
    assert!(!row.check(None, 9), "it is being written");
    row.settle(Some(DatabaseTime(5)), 3);
    assert!(!row.check(None, 3), "it was looked at before it was written");
    assert!(!row.check(Some(DatabaseTime(5)), 4));
    assert!(row.check(Some(DatabaseTime(4)), 4));
    assert!(matches!(row.take(), Some(Said::Node(_))));
}

#[test]
fn tunnels_are_written_once_and_removed_once() {
    let mut tunnels = written();
    assert_eq!(tunnels.add(id(1)), Ok(false));
    assert!(tunnels.remove(id(1)) && !tunnels.remove(id(1)));
    assert!(!tunnels.remove(id(9)), "all rows are known, and that is none");
    assert_eq!(take(&mut tunnels), (false, vec![id(1)], vec![]));
    assert_eq!(tunnels.wanted().collect::<Vec<_>>(), [id(2)]);
}

#[test]
fn what_changes_while_it_is_written_is_written_again() {
    let mut tunnels = written();
    tunnels.remove(id(1));
    let changes = tunnels.take(9);
    assert_eq!(tunnels.add(id(1)), Ok(true));
    assert!(tunnels.settle(&changes, 2), "there is more");
    assert_eq!(take(&mut tunnels), (false, vec![], vec![id(1)]));
}

#[test]
fn what_was_not_written_is_tried_again() {
    let mut tunnels = written();
    tunnels.remove(id(1));
    assert_eq!(tunnels.add(id(3)), Ok(true));
    let changes = tunnels.take(9);
    tunnels.fail(&changes);
    assert_eq!(take(&mut tunnels), (false, vec![id(1)], vec![id(3)]));

    let mut tunnels = OwnTunnels::default();
    tunnels.remove(id(1));
    let changes = tunnels.take(9);
    tunnels.complete();
    tunnels.fail(&changes);
    assert_eq!(
        take(&mut tunnels),
        (false, vec![id(1)], vec![]),
        "although it was no longer needed to know rows of earlier lives by"
    );
}

#[test]
fn a_withdrawal_comes_before_what_is_asked_for_after_it() {
    let mut tunnels = written();
    assert!(tunnels.withdraw());
    assert_eq!(tunnels.wanted().count(), 0);
    assert_eq!(tunnels.add(id(2)), Ok(true));
    let changes = tunnels.take(9);
    assert_eq!(
        (changes.withdraw, &changes.remove[..], &changes.add[..]),
        (true, &[][..], &[id(2)][..])
    );
    assert!(tunnels.withdraw(), "once more, as the first is under way");
    assert!(tunnels.settle(&changes, 2));
    assert_eq!(take(&mut tunnels), (true, vec![], vec![]));
}

#[test]
fn who_has_no_tunnels_has_none_to_withdraw() {
    let mut tunnels = OwnTunnels::default();
    tunnels.complete();
    assert!(!tunnels.withdraw());
    let mut tunnels = OwnTunnels::default();
    assert!(tunnels.withdraw(), "there may be rows of an earlier life");
    let changes = tunnels.take(9);
    assert!(!tunnels.settle(&changes, 1));
    assert!(tunnels.is_complete() && !tunnels.withdraw());
}

#[test]
fn rows_of_an_earlier_life_are_adopted_unless_more_is_known_of_them() {
    let mut tunnels = OwnTunnels::default();
    tunnels.remove(id(1));
    let changes = tunnels.take(9);
    tunnels.settle(&changes, 1);
    assert!(!tunnels.adopt(id(1), 1), "it was removed since");
    assert!(tunnels.adopt(id(2), 1));
    tunnels.complete();
    assert!(!tunnels.adopt(id(3), 1), "all were found");
    assert_eq!(tunnels.wanted().collect::<Vec<_>>(), [id(2)]);
    assert!(tunnels.is_clean());
    assert!(tunnels.remove(id(2)));
}

#[test]
fn tunnels_are_bounded_those_that_are_being_removed_included() {
    let mut tunnels = OwnTunnels::default();
    tunnels.complete();
    for number in 0..MAX_TUNNELS as u128 {
        assert_eq!(tunnels.add(id(number)), Ok(true));
        tunnels.remove(id(number));
    }
    assert_eq!(tunnels.add(id(u128::MAX)), Err(TooMany));
    let changes = tunnels.take(10);
    assert_eq!(changes.remove.len(), 10);
    tunnels.settle(&changes, 1);
    assert_eq!(tunnels.add(id(u128::MAX)), Ok(true), "there is room again");
}

#[test]
fn tunnels_that_are_not_what_was_written_are_written_again() {
    let mut tunnels = written();
    assert!(!tunnels.check(id(1), true, 9) && !tunnels.check(id(1), false, 1));
    assert!(tunnels.check(id(1), false, 2));
    assert!(tunnels.check(id(7), true, 2), "a row that should not be there");
    assert_eq!(take(&mut tunnels), (false, vec![id(7)], vec![id(1)]));
}
