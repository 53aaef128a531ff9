use super::*;

#[tokio::test]
async fn subscribers_of_a_channel_get_its_messages_in_order_and_no_others() {
    let pubsub = Pubsub::in_process();
    let (mut one, mut two) = (pubsub.subscribe("a"), pubsub.subscribe("a"));
    let mut other = pubsub.subscribe("b");
    pubsub.publish("a", "1");
    pubsub.publish("a", "2");
    for subscription in [&mut one, &mut two] {
        assert_eq!(subscription.next().await.as_deref(), Ok("1"));
        assert_eq!(subscription.next().await.as_deref(), Ok("2"));
    }
    assert_eq!(other.try_next(), None);
}

#[tokio::test]
async fn a_slow_subscriber_is_told_that_it_missed_messages_and_goes_on() {
    let pubsub = Pubsub::in_process();
    let mut slow = pubsub.subscribe("a");
    for number in 0..=MAX_UNREAD {
        pubsub.publish("a", &number.to_string());
    }
    assert_eq!(slow.next().await, Err(Lagged));
    assert_eq!(slow.next().await.as_deref(), Ok(&*MAX_UNREAD.to_string()));
    assert_eq!(slow.try_next(), None);
}

#[test]
fn a_dropped_subscription_leaves_nothing_behind() {
    let pubsub = Pubsub::in_process();
    let (one, two) = (pubsub.subscribe("a"), pubsub.subscribe("a"));
    drop(one);
    assert_eq!(lock(&pubsub.0.channels)["a"].len(), 1);
    drop(two);
    assert!(lock(&pubsub.0.channels).is_empty());
    pubsub.publish("a", "nobody");
}

#[tokio::test]
async fn a_waiting_subscriber_wakes_up() {
    let pubsub = Pubsub::in_process();
    let mut waiting = pubsub.subscribe("a");
    let message = tokio::spawn(async move { waiting.next().await });
    tokio::task::yield_now().await;
    pubsub.publish("a", "now");
    assert_eq!(message.await.unwrap().as_deref(), Ok("now"));
}
