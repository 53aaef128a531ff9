//! The numbers of the way to other processes, for who collects them.

use super::metrics::Reading;
use crate::pubsub::RemoteStatus;

/// The numbers of `status`, each read when asked for.
#[expect(clippy::cast_precision_loss, reason = "metrics are floating-point numbers")]
pub fn readings(status: &RemoteStatus) -> Vec<Reading> {
    let number = |read: fn(&RemoteStatus) -> f64| {
        let status = status.clone();
        move || read(&status)
    };
    vec![
        Reading::gauge(
            "pubsub_connected",
            "Whether messages of other servers on the database are heard",
            number(|status| f64::from(u8::from(status.is_connected()))),
        ),
        Reading::gauge(
            "pubsub_messages_waiting",
            "Messages to other servers that are not known to be sent",
            number(|status| status.waiting() as f64),
        ),
        Reading::counter(
            "pubsub_messages_sent",
            "Messages sent to other servers",
            number(|status| status.sent() as f64),
        ),
        Reading::counter(
            "pubsub_messages_dropped",
            "Messages to other servers for which there was no room while the database was away",
            number(|status| status.dropped() as f64),
        ),
        Reading::counter(
            "pubsub_messages_received",
            "Messages of other servers",
            number(|status| status.received() as f64),
        ),
        Reading::counter(
            "pubsub_statements",
            "Statements that sent messages, and beats to see that they arrive",
            number(|status| status.statements() as f64),
        ),
        Reading::counter(
            "pubsub_gaps",
            "How often messages of others may have been missed, so that all that is followed was read again",
            number(|status| status.gaps() as f64),
        ),
    ]
}

#[cfg(test)]
mod tests;
