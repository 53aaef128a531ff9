//! Our own messages between processes on one store: rows that a session keeps a copy of have changed.

use super::{Lagged, Pubsub, Subscription};
use crate::store::Invalidation;

/// Who follows what other processes changed.
#[derive(Debug)]
pub struct Invalidations(Subscription);

impl Invalidations {
    /// Waits for the next change. A payload that this version does not know is passed over, with a warning.
    ///
    /// [`Lagged`] stands for any number of changes that were missed. Cancel safe.
    pub async fn next(&mut self) -> Result<Invalidation, Lagged> {
        loop {
            let payload = self.0.next().await?;
            if let Some(invalidation) = Invalidation::from_payload(&payload) {
                return Ok(invalidation);
            }
            tracing::warn!(%payload, "unknown event between processes");
        }
    }
}

impl Pubsub {
    /// Follows the changes of rows from now on.
    pub fn invalidations(&self) -> Invalidations {
        Invalidations(self.subscribe(Invalidation::CHANNEL))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn changes_come_and_unknown_ones_are_passed_over() {
        let pubsub = Pubsub::in_process();
        let mut invalidations = pubsub.invalidations();
        pubsub.publish(Invalidation::CHANNEL, r#"{"kind":"of_the_future"}"#);
        pubsub.publish(Invalidation::CHANNEL, &Invalidation::Banners.payload());
        assert_eq!(invalidations.next().await, Ok(Invalidation::Banners));
    }
}
