//! Room for what all workspaces share, so much of it for each.
//!
//! Owns how much there is and who has it. Must never wait: who finds no room is refused, and comes again.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::ids::WorkspaceId;
use crate::shares::{Share, Shares};

/// Room for so much in all.
#[derive(Debug)]
pub(super) struct Room {
    all: Arc<Semaphore>,
    each: Shares<WorkspaceId>,
}

/// There is no room, for anybody or for this workspace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NoRoom;

impl Room {
    /// Room for `all`, of which each workspace may have `each`.
    pub(super) fn new(all: usize, each: usize) -> Self {
        Self {
            all: Arc::new(Semaphore::new(all)),
            each: Shares::new(each),
        }
    }

    /// Room for `amount` of `workspace`'s.
    pub(super) fn take(&self, workspace: WorkspaceId, amount: usize) -> Result<Taken, NoRoom> {
        Ok(Taken {
            each: self.each.take(workspace, amount).map_err(|_| NoRoom)?,
            all: permit(&self.all, amount)?,
        })
    }
}

/// Room that is taken until this is dropped.
#[derive(Debug)]
pub(super) struct Taken {
    each: Share<WorkspaceId>,
    all: OwnedSemaphorePermit,
}

impl Taken {
    /// Takes what it has not yet of `amount`; otherwise nothing.
    pub(super) fn grow_to(&mut self, amount: usize) -> Result<(), NoRoom> {
        let more = amount.saturating_sub(self.all.num_permits());
        let all = permit(self.all.semaphore(), more)?;
        self.each.grow(more).map_err(|_| NoRoom)?;
        self.all.merge(all);
        Ok(())
    }
}

fn permit(all: &Arc<Semaphore>, amount: usize) -> Result<OwnedSemaphorePermit, NoRoom> {
    let amount = u32::try_from(amount).map_err(|_| NoRoom)?;
    Arc::clone(all).try_acquire_many_owned(amount).map_err(|_| NoRoom)
}

#[cfg(test)]
impl Room {
    /// How much nobody has.
    pub(super) fn left(&self) -> usize {
        self.all.available_permits()
    }

    /// Takes `amount` for nobody in particular.
    pub(super) fn hold(&self, amount: usize) -> impl Sized + use<> {
        permit(&self.all, amount).unwrap()
    }

    /// What each workspace has.
    pub(super) fn each(&self) -> &Shares<WorkspaceId> {
        &self.each
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_finds_no_room_takes_nothing() {
        let (one, other) = (WorkspaceId::random(), WorkspaceId::random());
        let room = Room::new(5, 3);
        let mut taken = room.take(one, 1).unwrap();
        taken.grow_to(2).unwrap();
        taken.grow_to(2).unwrap();
        assert_eq!(room.left(), 3);
        assert_eq!(taken.grow_to(4), Err(NoRoom), "more than a workspace may have");
        assert_eq!(room.take(one, 2).err(), Some(NoRoom));
        assert_eq!(room.left(), 3);
        let most = room.take(other, 3).unwrap();
        assert_eq!(taken.grow_to(3), Err(NoRoom), "more than there is");
        assert_eq!(room.take(one, 1).err(), Some(NoRoom));
        drop(most);
        taken.grow_to(3).unwrap();
        drop(taken);
        assert_eq!((room.left(), room.each.holders()), (5, 0));
    }
}
