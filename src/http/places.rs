//! Room for sessions: how many in all, how many of one agent, and of one user's clients.
//!
//! Owns who holds a place. Must never end a session: whoever comes too many is refused, and comes again.

use std::sync::Arc;

use futures_util::future::Either;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::error::ApiError;
use crate::ids::{AgentId, UserId};
use crate::shares::{Share, Shares};

/// Most sessions of one agent. It has one, and a few helpers beside it; after a loss of the network those that are not yet
/// known to be dead stay for half a minute, in which an agent dials some ten times.
pub(crate) const MAX_AGENT_SESSIONS: usize = 64;

/// Most sessions of one user's clients. Each terminal and editor that is open on a workspace has one.
pub(crate) const MAX_CLIENT_SESSIONS: usize = 256;

/// Room for sessions. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Places {
    all: Arc<Semaphore>,
    of_agents: Shares<AgentId>,
    of_clients: Shares<UserId>,
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
        Self {
            all: Arc::new(Semaphore::new(permits)),
            of_agents: Shares::new(MAX_AGENT_SESSIONS),
            of_clients: Shares::new(MAX_CLIENT_SESSIONS),
        }
    }

    /// Takes a place for a session of which nobody knows yet whose it is.
    pub(super) fn take(&self) -> Result<Unclaimed<'_>, ApiError> {
        let permit = Arc::clone(&self.all).try_acquire_owned().map_err(|_| full())?;
        Ok(Unclaimed { permit, places: self })
    }
}

/// Room for a session, until it is known whose it is.
#[derive(Debug)]
pub(super) struct Unclaimed<'p> {
    permit: OwnedSemaphorePermit,
    places: &'p Places,
}

impl Unclaimed<'_> {
    /// Counts the session as one of `agent`'s.
    pub(super) fn of_agent(self, agent: AgentId) -> Result<Place, ApiError> {
        let share = self.places.of_agents.take(agent, 1);
        let share = share.map_err(|_| ApiError::unavailable("The agent has too many connections."))?;
        Ok(Place {
            _permit: self.permit,
            _of: Either::Left(share),
        })
    }

    /// Counts the session as one of `user`'s clients.
    pub(super) fn of_client(self, user: UserId) -> Result<Place, ApiError> {
        let share = self.places.of_clients.take(user, 1);
        let share =
            share.map_err(|_| ApiError::unavailable("The user's clients have too many connections."))?;
        Ok(Place {
            _permit: self.permit,
            _of: Either::Right(share),
        })
    }
}

/// Room for one session, until it is dropped.
#[derive(Debug)]
pub struct Place {
    _permit: OwnedSemaphorePermit,
    _of: Either<Share<AgentId>, Share<UserId>>,
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    fn agent(number: u128) -> AgentId {
        AgentId(Uuid::from_u128(number))
    }

    fn take(places: &Places, of: AgentId) -> Result<Place, ApiError> {
        places.take()?.of_agent(of)
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
        assert_eq!(places.of_agents.holders(), 0, "nothing is kept of who left");
    }

    #[test]
    fn a_user_has_so_many_sessions_of_clients_and_no_more() {
        let places = Places::new(0);
        let take = |user| places.take().unwrap().of_client(UserId(Uuid::from_u128(user)));
        let mut held: Vec<_> = (1..MAX_CLIENT_SESSIONS).map(|_| take(1).unwrap()).collect();
        held.push(take(1).unwrap());
        assert_eq!(
            take(1).unwrap_err(),
            ApiError::unavailable("The user's clients have too many connections.")
        );
        take(2).unwrap();
        held.pop();
        drop(take(1).unwrap());
        held.clear();
        assert_eq!(places.of_clients.holders(), 0, "nothing is kept of who left");
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
