//! Which channels are listened to, and which should be.
//!
//! Owns the difference between the two: a channel is listened to from its first subscription on, and for a while after its
//! last. Must never do I/O: what to LISTEN and UNLISTEN to is told to who holds the connection.

use std::collections::HashSet;
use std::sync::{Arc, Mutex};

use tokio::sync::Notify;

use super::lock;

/// Channels that may be noted as changed before all channels are looked at instead. Noting is cheaper for a few among
/// thousands, and as many as this come together when all clients dial again at once.
const MAX_NOTED: usize = 1_024;

/// Channels whose subscriptions began or ended.
#[derive(Debug, Default)]
pub(super) struct Changes {
    noted: Mutex<Changed>,
    any: Notify,
}

/// What has changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Changed {
    /// These, some of them perhaps back to what they were.
    Some(Vec<Arc<str>>),
    /// Any.
    All,
}

impl Default for Changed {
    fn default() -> Self {
        Self::Some(Vec::new())
    }
}

impl Changes {
    /// Notes that a channel has got its first subscription, or has lost its last. Called after the fact.
    pub(super) fn note(&self, channel: Arc<str>) {
        let mut noted = lock(&self.noted);
        match &mut *noted {
            Changed::Some(channels) if channels.len() < MAX_NOTED => channels.push(channel),
            changed => *changed = Changed::All,
        }
        drop(noted);
        self.any.notify_one();
    }

    /// Waits until there may be some. Cancel safe.
    pub(super) async fn any(&self) {
        self.any.notified().await;
    }

    /// Those since the last call.
    pub(super) fn take(&self) -> Changed {
        std::mem::take(&mut *lock(&self.noted))
    }
}

/// The channels of one connection, which begins without any.
#[derive(Debug, Default)]
pub(super) struct Listening {
    listened: HashSet<Arc<str>>,
    /// Those of `listened` that nobody had subscribed to when that was looked at last.
    idle: HashSet<Arc<str>>,
}

impl Listening {
    /// Those of the `changed` channels that have to be listened to now. `wanted` says of which there are subscriptions, and
    /// `all` names those.
    pub(super) fn missing(
        &mut self,
        changed: Changed,
        wanted: impl Fn(&str) -> bool,
        all: impl FnOnce() -> Vec<Arc<str>>,
    ) -> Vec<Arc<str>> {
        let changed = match changed {
            Changed::Some(channels) => channels,
            Changed::All => all().into_iter().chain(self.listened.iter().cloned()).collect(),
        };
        let mut missing = HashSet::new();
        for channel in changed {
            match (wanted(&channel), self.listened.contains(&channel)) {
                (true, true) => {
                    self.idle.remove(&channel);
                }
                (true, false) => {
                    missing.insert(channel);
                }
                (false, true) => {
                    self.idle.insert(channel);
                }
                // It came and went.
                (false, false) => {}
            }
        }
        missing.into_iter().collect()
    }

    /// `channels` are listened to.
    pub(super) fn begun(&mut self, channels: &[Arc<str>]) {
        self.listened.extend(channels.iter().cloned());
    }

    /// Those that nobody has subscribed to for a while, if this is asked once in a while. They are listened to no more.
    ///
    /// Not at once, as clients that dial again come back to the same channel.
    pub(super) fn end_idle(&mut self, wanted: impl Fn(&str) -> bool) -> Vec<Arc<str>> {
        let mut ended: Vec<_> = self.idle.drain().collect();
        ended.retain(|channel| !wanted(channel));
        for channel in &ended {
            self.listened.remove(channel);
        }
        ended
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&str]) -> Vec<Arc<str>> {
        names.iter().map(|&name| name.into()).collect()
    }

    fn sorted(mut channels: Vec<Arc<str>>) -> Vec<Arc<str>> {
        channels.sort_unstable();
        channels
    }

    #[tokio::test]
    async fn changes_are_noted_until_they_are_taken() {
        let changes = Changes::default();
        changes.note("a".into());
        changes.note("b".into());
        changes.any().await;
        assert_eq!(changes.take(), Changed::Some(names(&["a", "b"])));
        assert_eq!(changes.take(), Changed::Some(Vec::new()));
    }

    #[test]
    fn too_many_changes_are_one() {
        let changes = Changes::default();
        for number in 0..MAX_NOTED {
            changes.note(number.to_string().into());
        }
        assert!(matches!(&*lock(&changes.noted), Changed::Some(noted) if noted.len() == MAX_NOTED));
        for _ in 0..3 {
            changes.note("one more".into());
            assert_eq!(*lock(&changes.noted), Changed::All);
        }
        changes.take();
        assert_eq!(changes.take(), Changed::Some(Vec::new()));
    }

    fn missing(listening: &mut Listening, changed: &[&str], wanted: &[&str]) -> Vec<Arc<str>> {
        let changed = Changed::Some(names(changed));
        let missing = listening.missing(changed, |channel| wanted.contains(&channel), Vec::new);
        sorted(missing)
    }

    #[test]
    fn a_channel_is_listened_to_once_for_all_its_subscriptions() {
        let mut listening = Listening::default();
        assert_eq!(
            missing(&mut listening, &["a", "b", "a"], &["a", "b"]),
            names(&["a", "b"])
        );
        listening.begun(&names(&["a", "b"]));
        let wanted = ["a", "b", "c"];
        assert_eq!(missing(&mut listening, &["a", "c"], &wanted), names(&["c"]));
        // One whose subscription has ended before anybody looked.
        assert_eq!(missing(&mut listening, &["d"], &wanted), names(&[]));
        assert_eq!(listening.end_idle(|_| false), names(&[]));
    }

    #[test]
    fn a_channel_without_subscriptions_is_left_later_unless_somebody_comes_back() {
        let mut listening = Listening::default();
        let channels = ["left", "back", "back unnoticed"];
        listening.begun(&names(&channels));
        assert_eq!(missing(&mut listening, &channels, &[]), names(&[]));
        // Nothing to be done for it: it is still listened to.
        assert_eq!(missing(&mut listening, &["back"], &["back"]), names(&[]));
        assert_eq!(
            listening.end_idle(|channel| channel == "back unnoticed"),
            names(&["left"])
        );
        assert_eq!(listening.end_idle(|_| false), names(&[]));
        assert_eq!(
            missing(&mut listening, &["left", "back"], &["left", "back"]),
            names(&["left"])
        );
    }

    #[test]
    fn after_too_many_changes_all_channels_are_looked_at() {
        let mut listening = Listening::default();
        listening.begun(&names(&["stays", "left"]));
        let wanted = ["stays", "new"];
        let is_wanted = |channel: &str| wanted.contains(&channel);
        let missing = listening.missing(Changed::All, is_wanted, || names(&wanted));
        assert_eq!(missing, names(&["new"]));
        assert_eq!(listening.end_idle(is_wanted), names(&["left"]));
    }
}
