//! Order, once, and how much there may be.

use super::*;
use crate::pubsub::MAX_PAYLOAD;

fn texts(batch: &[Message]) -> Vec<(&str, &str)> {
    let text = |message| {
        let Message { channel, payload }: &Message = message;
        (&**channel, &**payload)
    };
    batch.iter().map(text).collect()
}

fn push(outgoing: &Outgoing, messages: &[(&str, &str)]) {
    for (channel, payload) in messages {
        outgoing.push(Message::new(channel, payload));
    }
}

#[test]
fn messages_leave_in_order_and_equal_ones_once() {
    let outgoing = Outgoing::default();
    push(
        &outgoing,
        &[("a", "1"), ("b", "1"), ("a", "2"), ("a", "1"), ("b", "1")],
    );
    assert_eq!(outgoing.len(), 3);
    assert_eq!(texts(&outgoing.take()), [("a", "1"), ("b", "1"), ("a", "2")]);
    assert_eq!(outgoing.sent(), 3);
    assert_eq!(outgoing.len(), 0);
    assert!(outgoing.take().is_empty());
}

#[test]
fn what_is_published_while_its_equal_is_under_way_goes_with_the_next_batch() {
    let outgoing = Outgoing::default();
    push(&outgoing, &[("a", "1")]);
    outgoing.take();
    push(&outgoing, &[("a", "1")]);
    assert_eq!(outgoing.len(), 2);
    outgoing.sent();
    assert_eq!(texts(&outgoing.take()), [("a", "1")]);
}

#[test]
fn a_batch_that_may_not_have_been_sent_goes_first_but_for_what_was_published_again() {
    let outgoing = Outgoing::default();
    push(&outgoing, &[("a", "1"), ("a", "2"), ("a", "3")]);
    outgoing.take();
    push(&outgoing, &[("a", "4"), ("a", "2")]);
    outgoing.put_back();
    outgoing.put_back();
    assert_eq!(
        texts(&outgoing.take()),
        [("a", "1"), ("a", "3"), ("a", "4"), ("a", "2")]
    );
}

#[test]
fn a_batch_is_bounded_by_number_and_by_bytes() {
    let outgoing = Outgoing::default();
    for number in 0..=MAX_BATCH {
        push(&outgoing, &[("a", &number.to_string())]);
    }
    assert_eq!(outgoing.take().len(), MAX_BATCH);
    outgoing.sent();
    assert_eq!(texts(&outgoing.take()), [("a", &*MAX_BATCH.to_string())]);
    outgoing.sent();

    let large = "x".repeat(MAX_PAYLOAD - 4);
    for number in 1_000..1_200 {
        push(&outgoing, &[("a", &format!("{number}{large}"))]);
    }
    let batch = outgoing.take();
    let bytes: usize = batch.iter().map(Message::size).sum();
    assert!(
        bytes <= MAX_BATCH_BYTES && bytes > MAX_BATCH_BYTES - 9_000,
        "{bytes}"
    );
    outgoing.sent();
    assert_eq!(batch.len() + outgoing.take().len(), 200);
}

#[test]
fn the_oldest_of_too_many_are_dropped_and_counted_and_the_others_are_told_of_a_gap() {
    let outgoing = Outgoing::default();
    let most = MAX_BYTES / Message::new("a", "0000000").size();
    let numbered = |number: usize| format!("{number:07}");
    for number in 0..most {
        push(&outgoing, &[("a", &numbered(number))]);
    }
    assert_eq!((outgoing.len(), outgoing.dropped()), (most, 0));
    for number in most..most + 10 {
        push(&outgoing, &[("a", &numbered(number))]);
    }
    assert!(outgoing.state().bytes <= MAX_BYTES);
    let dropped = usize::try_from(outgoing.dropped()).unwrap();
    assert!((10..=12).contains(&dropped), "{dropped}");
    let mut left = Vec::new();
    while outgoing.len() > 0 {
        left.extend(outgoing.take());
        outgoing.sent();
    }
    assert_eq!(&*left[0].payload, numbered(dropped));
    let gaps = left.iter().filter(|message| &*message.channel == GAP_CHANNEL);
    assert_eq!(gaps.count(), 1);
    assert_eq!(left.len(), most + 10 - dropped + 1);
}

#[test]
fn the_bound_itself_fits_and_a_byte_more_does_not() {
    let size = Message::new("a", "0000000").size();
    for (bytes, drops) in [(MAX_BYTES - 1, false), (MAX_BYTES, false), (MAX_BYTES + 1, true)] {
        let outgoing = Outgoing::default();
        let alike = bytes / size - 1;
        for number in 0..alike {
            push(&outgoing, &[("a", &format!("{number:07}"))]);
        }
        let filling = bytes - alike * size - Message::new("b", "").size();
        push(&outgoing, &[("b", &"x".repeat(filling))]);
        assert_eq!(outgoing.dropped() > 0, drops, "{bytes}");
        assert_eq!(outgoing.state().bytes == bytes, !drops, "{bytes}");
    }
}

#[test]
fn word_of_a_gap_outlives_what_comes_after_it() {
    let outgoing = Outgoing::default();
    let most = MAX_BYTES / Message::new("a", "0000000").size();
    for number in 0..3 * most {
        push(&outgoing, &[("a", &format!("{number:07}"))]);
    }
    let state = outgoing.state();
    assert!(state.known.contains(&Message::new(GAP_CHANNEL, "")));
    assert_eq!(state.waiting.len(), state.known.len());
    assert_eq!(state.dropped, (3 * most + 1 - state.waiting.len()) as u64);
}

#[test]
fn there_is_one_warning_until_a_batch_is_sent_again() {
    let outgoing = Outgoing::default();
    let most = MAX_BYTES / Message::new("a", "0000000").size();
    for number in 0..most {
        push(&outgoing, &[("a", &format!("{number:07}"))]);
    }
    assert!(!outgoing.state().warned);
    push(&outgoing, &[("a", "one more")]);
    assert!(outgoing.state().warned);
    outgoing.take();
    outgoing.sent();
    assert!(!outgoing.state().warned);
}
