//! Room for sessions: how many in all, and how many of one agent.
//!
//! Owns who holds a place. Must never end a session: whoever comes too many is refused, and comes again.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::error::ApiError;
use crate::ids::AgentId;

/// Most sessions of one agent. It has one, and a few helpers beside it; after a loss of the network those that are not yet
/// known to be dead stay for half a minute, in which an agent dials some ten times.
pub(crate) const MAX_AGENT_SESSIONS: u32 = 64;

/// Room for sessions. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Places(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    all: Arc<Semaphore>,
    /// Sessions of each agent that has any.
    of_agents: Mutex<HashMap<AgentId, u32>>,
}

/// What is said when there is no room for anybody.
pub(super) fn full() -> ApiError {
    ApiError::unavailable("The server has no room for another agent connection.")
}

impl Places {
    /// Room for so many sessions; 0 is unlimited.
    pub(super) fn new(most: usize) -> Self {
        let permits = match most {
            0 => Semaphore::MAX_PERMITS,
            most => most.min(Semaphore::MAX_PERMITS),
        };
        Self(Arc::new(Inner {
            all: Arc::new(Semaphore::new(permits)),
            of_agents: Mutex::default(),
        }))
    }

    /// Takes a place for a session whose agent is not known yet.
    pub(super) fn take(&self) -> Result<Place, ApiError> {
        let permit = Arc::clone(&self.0.all).try_acquire_owned().map_err(|_| full())?;
        Ok(Place {
            _permit: permit,
            places: self.clone(),
            agent: None,
        })
    }

    fn of_agents(&self) -> MutexGuard<'_, HashMap<AgentId, u32>> {
        // Nothing that runs under the lock leaves it half-changed.
        self.0.of_agents.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Room for one session, until it is dropped.
#[derive(Debug)]
pub struct Place {
    _permit: OwnedSemaphorePermit,
    places: Places,
    agent: Option<AgentId>,
}

impl Place {
    /// Counts the session as one of `agent`'s.
    pub(super) fn claim(&mut self, agent: AgentId) -> Result<(), ApiError> {
        let mut of_agents = self.places.of_agents();
        let count = of_agents.entry(agent).or_default();
        if *count >= MAX_AGENT_SESSIONS {
            return Err(ApiError::unavailable("The agent has too many connections."));
        }
        *count += 1;
        self.agent = Some(agent);
        Ok(())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let Some(agent) = self.agent else { return };
        let mut of_agents = self.places.of_agents();
        if let Entry::Occupied(mut entry) = of_agents.entry(agent) {
            *entry.get_mut() -= 1;
            if *entry.get() == 0 {
                entry.remove();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    fn agent(number: u128) -> AgentId {
        AgentId(Uuid::from_u128(number))
    }

    fn take(places: &Places, of: AgentId) -> Result<Place, ApiError> {
        let mut place = places.take()?;
        place.claim(of)?;
        Ok(place)
    }

    #[test]
    fn an_agent_has_so_many_sessions_and_no_more() {
        let places = Places::new(0);
        let mut held: Vec<_> = (1..MAX_AGENT_SESSIONS)
            .map(|_| take(&places, agent(1)).unwrap())
            .collect();
        held.push(take(&places, agent(1)).unwrap());
        let refused = take(&places, agent(1)).unwrap_err();
        assert_eq!(
            refused,
            ApiError::unavailable("The agent has too many connections.")
        );
        take(&places, agent(2)).unwrap();
        held.pop();
        drop(take(&places, agent(1)).unwrap());
        held.clear();
        assert_eq!(places.of_agents().len(), 0, "nothing is kept of who left");
    }

    #[test]
    fn there_is_room_for_so_many_sessions_and_no_more() {
        let places = Places::new(3);
        let mut held: Vec<_> = (0..3)
            .map(|number| take(&places, agent(number)).unwrap())
            .collect();
        assert!(places.take().is_err());
        held.pop();
        held.push(take(&places, agent(3)).unwrap());
        assert!(places.take().is_err());
    }
}
