//! What is shown of a database that cannot be reached.

use std::sync::Arc;

use sqlx::postgres::PgConnectOptions;

use super::readings;
use crate::clock::Clock;
use crate::pubsub::Remote;
use crate::store::postgres::notify::Notifications;
use crate::store::testing::RecordingStore;
use crate::telemetry::metrics::{Metrics, Reading};

#[tokio::test]
async fn the_numbers_are_those_of_the_moment() {
    // Nobody listens there.
    let options = PgConnectOptions::new_without_pgpass().host("127.0.0.1").port(1);
    let (pubsub, remote) = Remote::start(Notifications::new(&options), &Clock::system());
    let metrics = Metrics::new(Arc::new(RecordingStore::default()), None);
    metrics.add_readings(readings(remote.status()));
    metrics.add_readings(vec![Reading::gauge("another", "Of another part", || 7.0)]);
    pubsub.publish("channel", "1");
    pubsub.publish("channel", "2");
    let text = metrics.text();
    for line in [
        "drpcd_pubsub_connected 0.0",
        "drpcd_pubsub_messages_waiting 2.0",
        "drpcd_pubsub_messages_sent_total 0.0",
        "drpcd_pubsub_messages_dropped_total 0.0",
        "drpcd_pubsub_messages_received_total 0.0",
        "drpcd_pubsub_statements_total 0.0",
        "drpcd_pubsub_gaps_total 0.0",
        "drpcd_another 7.0",
    ] {
        assert!(text.lines().any(|other| other == line), "{line}:\n{text}");
    }
}
