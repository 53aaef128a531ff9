//! Which agents' rows have changed of late, for sessions that are about to begin with copies of them.
//!
//! Between the statement that authenticates an agent and the entry of its session in the list, an event finds nobody to
//! tell. Owns what was heard meanwhile; must never decide what an event means.

use std::collections::VecDeque;

use crate::ids::AgentId;

/// Events that are remembered. A handshake takes seconds; one during which more are heard costs its session one more read
/// of its rows.
const MAX_REMEMBERED: usize = 1_024;

/// How far events had been heard at some time; by default, before the first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Heard(u64);

/// The newest events.
#[derive(Debug, Default)]
pub(super) struct Recent {
    /// Events so far.
    count: u64,
    /// Whom the last of them concerned, oldest first; `None` is everybody.
    concerned: VecDeque<Option<AgentId>>,
}

impl Recent {
    /// How far events have been heard.
    pub(super) fn heard(&self) -> Heard {
        Heard(self.count)
    }

    /// One more is heard, which concerns one agent or all.
    pub(super) fn add(&mut self, whom: Option<AgentId>) {
        self.count += 1;
        if self.concerned.len() == MAX_REMEMBERED {
            self.concerned.pop_front();
        }
        self.concerned.push_back(whom);
    }

    /// Whether any event after `since` concerned an agent, or may have.
    pub(super) fn concern(&self, agent: AgentId, since: Heard) -> bool {
        let later = usize::try_from(self.count - since.0).unwrap_or(usize::MAX);
        let is_concerned = |whom: &Option<AgentId>| whom.is_none_or(|whom| whom == agent);
        later > self.concerned.len() || self.concerned.iter().rev().take(later).any(is_concerned)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_heard_since_concerns_its_agent_and_what_is_forgotten_everybody() {
        let (one, other) = (AgentId::random(), AgentId::random());
        let mut recent = Recent::default();
        let start = recent.heard();
        assert!(!recent.concern(one, start));
        recent.add(Some(one));
        let middle = recent.heard();
        recent.add(Some(other));
        assert!(recent.concern(one, start) && !recent.concern(one, middle));
        assert!(recent.concern(other, middle) && !recent.concern(other, recent.heard()));
        let later = recent.heard();
        recent.add(None);
        assert!(recent.concern(one, later) && recent.concern(other, later));

        let stranger = AgentId::random();
        let start = recent.heard();
        (0..MAX_REMEMBERED).for_each(|_| recent.add(Some(other)));
        assert!(!recent.concern(stranger, start));
        recent.add(Some(other));
        assert!(recent.concern(stranger, start), "one is forgotten");
        assert_eq!(recent.concerned.len(), MAX_REMEMBERED);
    }
}
