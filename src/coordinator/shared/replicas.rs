//! Which other replicas live.
//!
//! A replica lives for [`EXPIRY`] from its last sign of life: a beat on the channel, a row whose time has moved between two
//! looks at it, or, at the first look, a row that is young: who has just begun knows of the others at once. One that falls
//! silent is looked at twice before it is given up, as a beat that was not heard is no beat that was not sent. Times and
//! ages of rows come from the database and are compared with each other only, never with the clock of this machine. While
//! the database does not answer, nobody is given up: nobody's row could have moved.
//!
//! Source: coder/coder `enterprise/tailnet/pgcoord.go` (heartbeats), where silence on the channel alone decides.

use std::collections::HashMap;
use std::time::Duration;

use crate::clock::Instant;
use crate::ids::ReplicaId;
use crate::store::{DatabaseTime, Heartbeat};

/// How often a replica says that it lives.
pub(super) const HEARTBEAT: Duration = Duration::from_secs(2);

/// Silence after which a replica is given up: three beats.
pub(super) const EXPIRY: Duration = Duration::from_secs(6);

/// Silence after which it is looked at for the first time: what stands then is compared with what stands at the end.
const FIRST_LOOK: Duration = Duration::from_secs(3);

/// How far apart two looks are that may decide: a living replica has moved its row meanwhile.
const BETWEEN_LOOKS: Duration = HEARTBEAT;

/// Replicas that are remembered. A deployment has a few; beats of more are not heard.
const MAX_REPLICAS: usize = 1_024;

#[derive(Debug)]
pub(super) struct Replicas {
    me: ReplicaId,
    others: HashMap<ReplicaId, Replica>,
}

#[derive(Debug, Default)]
struct Replica {
    /// Its last sign of life; `None` of one that is not known to live.
    heard: Option<Instant>,
    /// What its row says, and since when it says that, as far as was looked.
    row: Option<(DatabaseTime, Instant)>,
    /// When its row was looked at last.
    looked: Option<Instant>,
}

/// Who has come to life, and who was given up.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Changes {
    pub(super) came: Vec<ReplicaId>,
    pub(super) went: Vec<ReplicaId>,
}

impl Replicas {
    pub(super) fn new(me: ReplicaId) -> Self {
        Self {
            me,
            others: HashMap::new(),
        }
    }

    /// Whether another replica lives. What is stored of this one's own is about its past, and counts as a dead one's.
    pub(super) fn is_alive(&self, id: ReplicaId) -> bool {
        self.others
            .get(&id)
            .is_some_and(|replica| replica.heard.is_some())
    }

    /// How many live.
    #[cfg(test)]
    pub(super) fn living(&self) -> usize {
        self.others
            .values()
            .filter(|replica| replica.heard.is_some())
            .count()
    }

    /// A replica says that it lives. True when that was not known.
    pub(super) fn heard(&mut self, id: ReplicaId, now: Instant) -> bool {
        if id == self.me || (self.others.len() >= MAX_REPLICAS && !self.others.contains_key(&id)) {
            return false;
        }
        self.others.entry(id).or_default().heard.replace(now).is_none()
    }

    /// Whether somebody has been silent for so long that the rows are to be looked at.
    pub(super) fn wants_look(&self, now: Instant) -> bool {
        self.others.values().any(|replica| {
            let Some(heard) = replica.heard else { return false };
            let silent = now.saturating_duration_since(heard);
            match replica.looked.filter(|looked| *looked >= heard) {
                None => silent >= FIRST_LOOK,
                Some(looked) => {
                    let late = looked >= heard + EXPIRY;
                    let rest = if late { BETWEEN_LOOKS } else { Duration::ZERO };
                    silent >= EXPIRY && now.saturating_duration_since(looked) >= rest
                }
            }
        })
    }

    /// Nobody could write for a while: that a row stands where it stood before tells nothing of whose it is.
    pub(super) fn forget_rows(&mut self) {
        for replica in self.others.values_mut() {
            replica.row = None;
        }
    }

    /// All rows, as they were at `looked` or later.
    pub(super) fn looked(&mut self, rows: &[Heartbeat], looked: Instant) -> Changes {
        let mut changes = Changes::default();
        let rows = rows.iter().filter(|row| row.replica != self.me);
        let rows: HashMap<_, _> = rows.map(|row| (row.replica, row)).collect();
        for (&id, &&Heartbeat { at, age, .. }) in rows.iter().take(MAX_REPLICAS) {
            let replica = self.others.entry(id).or_default();
            replica.looked = Some(looked);
            let Some((was, since)) = replica.row else {
                replica.row = Some((at, looked));
                if replica.heard.is_none() && age < EXPIRY {
                    replica.heard = Some(looked.checked_sub(age).unwrap_or(looked));
                    changes.came.push(id);
                }
                continue;
            };
            if was == at {
                continue;
            }
            replica.row = Some((at, looked));
            // It moved at some time since `since`, which is no news if a beat was heard later than that.
            if replica.heard.is_none_or(|heard| since >= heard) && replica.heard.replace(looked).is_none() {
                changes.came.push(id);
            }
        }
        for (&id, replica) in &mut self.others {
            let Some(heard) = replica.heard else { continue };
            let gone = match (rows.contains_key(&id), replica.row) {
                (true, Some((_, since))) => looked.saturating_duration_since(since) >= BETWEEN_LOOKS,
                (true, None) => false,
                (false, _) => true,
            };
            if gone && looked.saturating_duration_since(heard) >= EXPIRY {
                replica.heard = None;
                changes.went.push(id);
            }
        }
        self.others
            .retain(|id, replica| replica.heard.is_some() || rows.contains_key(id));
        changes
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::clock::{Clock, Timestamp};

    const ME: ReplicaId = ReplicaId(Uuid::from_u128(1));
    const A: ReplicaId = ReplicaId(Uuid::from_u128(2));
    const B: ReplicaId = ReplicaId(Uuid::from_u128(3));

    /// Replicas, and a clock that starts at zero.
    fn replicas() -> (Replicas, impl Fn(u64) -> Instant) {
        let start = Clock::driven(Timestamp::UNIX_EPOCH).monotonic();
        let at = move |millis| start + Duration::from_millis(millis);
        (Replicas::new(ME), at)
    }

    /// Rows that are too old to be a sign of life by themselves.
    fn rows(rows: &[(ReplicaId, i64)]) -> Vec<Heartbeat> {
        rows.iter().map(|&(id, at)| row(id, at, EXPIRY)).collect()
    }

    fn row(replica: ReplicaId, at: i64, age: Duration) -> Heartbeat {
        Heartbeat {
            replica,
            at: DatabaseTime(at),
            age,
        }
    }

    fn came(ids: &[ReplicaId]) -> Changes {
        Changes {
            came: ids.to_vec(),
            went: Vec::new(),
        }
    }

    fn went(ids: &[ReplicaId]) -> Changes {
        Changes {
            came: Vec::new(),
            went: ids.to_vec(),
        }
    }

    #[test]
    fn own_beats_are_ignored() {
        let (mut replicas, at) = replicas();
        assert!(!replicas.heard(ME, at(0)));
        assert_eq!(replicas.looked(&rows(&[(ME, 1)]), at(0)), Changes::default());
        assert_eq!(replicas.looked(&rows(&[(ME, 2)]), at(9_000)), Changes::default());
        assert!(!replicas.is_alive(ME) && !replicas.wants_look(at(60_000)));
    }

    #[test]
    fn tn_068_who_is_silent_and_whose_row_stands_still_for_two_looks_is_given_up_after_six_seconds() {
        let (mut replicas, at) = replicas();
        assert!(replicas.heard(A, at(0)), "the first beat is news");
        assert!(!replicas.heard(A, at(0)));
        assert!(!replicas.wants_look(at(2_999)));
        assert!(replicas.wants_look(at(3_000)));
        assert_eq!(replicas.looked(&rows(&[(A, 70)]), at(3_000)), Changes::default());
        assert!(!replicas.wants_look(at(5_999)), "one look is enough until then");
        assert!(replicas.wants_look(at(6_000)));
        assert!(replicas.is_alive(A));
        assert_eq!(replicas.looked(&rows(&[(A, 70)]), at(6_000)), went(&[A]));
        assert!(!replicas.is_alive(A) && !replicas.wants_look(at(60_000)));
        assert!(replicas.heard(A, at(61_000)), "it is back");
    }

    #[test]
    fn who_is_not_heard_but_whose_row_moves_lives() {
        let (mut replicas, at) = replicas();
        replicas.heard(A, at(0));
        let mut millis = 3_000;
        replicas.looked(&rows(&[(A, -1)]), at(millis));
        millis = 0;
        for round in 0..20 {
            millis += 6_000;
            assert!(!replicas.wants_look(at(millis - 1)), "at {millis}");
            assert!(replicas.wants_look(at(millis)), "at {millis}");
            assert_eq!(
                replicas.looked(&rows(&[(A, round)]), at(millis)),
                Changes::default()
            );
        }
        assert!(replicas.is_alive(A));
        assert_eq!(replicas.looked(&rows(&[(A, 19)]), at(millis + 6_000)), went(&[A]));
    }

    #[test]
    fn a_single_look_decides_nothing() {
        let (mut replicas, at) = replicas();
        replicas.heard(A, at(0));
        // The database did not answer any sooner.
        assert_eq!(replicas.looked(&rows(&[(A, 1)]), at(40_000)), Changes::default());
        assert!(!replicas.wants_look(at(41_999)));
        assert!(replicas.wants_look(at(42_000)));
        assert_eq!(replicas.looked(&rows(&[(A, 1)]), at(42_000)), went(&[A]));
    }

    #[test]
    fn what_was_seen_before_an_outage_decides_nothing_after_it() {
        let (mut replicas, at) = replicas();
        replicas.heard(A, at(0));
        replicas.looked(&rows(&[(A, 1)]), at(3_000));
        replicas.forget_rows();
        assert_eq!(replicas.looked(&rows(&[(A, 1)]), at(9_000)), Changes::default());
        assert_eq!(replicas.looked(&rows(&[(A, 2)]), at(11_000)), Changes::default());
        assert!(replicas.is_alive(A));
    }

    #[test]
    fn the_databases_clock_may_be_anything_and_go_back() {
        let (mut replicas, at) = replicas();
        replicas.heard(A, at(0));
        replicas.looked(&rows(&[(A, 1_000_000)]), at(3_000));
        assert_eq!(replicas.looked(&rows(&[(A, -5)]), at(6_000)), Changes::default());
        assert!(replicas.is_alive(A), "it was written");
    }

    #[test]
    fn who_was_never_heard_lives_once_its_row_moves() {
        let (mut replicas, at) = replicas();
        assert_eq!(
            replicas.looked(&rows(&[(A, 1), (B, 1)]), at(0)),
            Changes::default()
        );
        assert!(!replicas.is_alive(A));
        assert_eq!(replicas.looked(&rows(&[(A, 2), (B, 1)]), at(30_000)), came(&[A]));
        assert!(replicas.is_alive(A) && !replicas.is_alive(B));
    }

    #[test]
    fn who_has_just_begun_knows_of_those_whose_rows_are_young() {
        let (mut replicas, at) = replicas();
        let millis = Duration::from_millis;
        let stored = [row(A, 1, millis(5_999)), row(B, 1, millis(6_000))];
        assert_eq!(replicas.looked(&stored, at(10_000)), came(&[A]));
        assert!(replicas.is_alive(A) && !replicas.is_alive(B));
        // It beat 5,999 ms before that, and is looked at twice all the same.
        assert!(replicas.wants_look(at(10_001)));
        let stored = [row(A, 1, millis(6_000))];
        assert_eq!(replicas.looked(&stored, at(10_001)), Changes::default());
        assert!(!replicas.wants_look(at(12_000)));
        assert!(replicas.wants_look(at(12_001)));
        let stored = [row(A, 1, millis(8_000))];
        assert_eq!(replicas.looked(&stored, at(12_001)), went(&[A]));
        assert_eq!(
            replicas.looked(&stored, at(14_001)),
            Changes::default(),
            "it is no news"
        );
        // One that says it lives loses nothing by an older row.
        assert!(replicas.heard(B, at(14_001)));
        assert_eq!(
            replicas.looked(&[row(B, 1, millis(0))], at(14_002)),
            Changes::default()
        );
    }

    #[test]
    fn who_has_no_row_is_given_up_when_its_time_is_over_and_then_forgotten() {
        let (mut replicas, at) = replicas();
        replicas.heard(A, at(0));
        assert_eq!(replicas.looked(&[], at(5_999)), Changes::default());
        assert_eq!(replicas.looked(&[], at(6_000)), went(&[A]));
        assert!(replicas.others.is_empty());
    }

    #[test]
    fn tn_070_two_that_fall_silent_together_are_both_given_up() {
        let (mut replicas, at) = replicas();
        replicas.heard(A, at(0));
        replicas.heard(B, at(1));
        let stored = rows(&[(A, 1), (B, 1)]);
        assert!(replicas.wants_look(at(3_000)));
        replicas.looked(&stored, at(3_000));
        assert!(replicas.wants_look(at(6_000)));
        let mut gone = replicas.looked(&stored, at(6_000)).went;
        assert!(replicas.wants_look(at(6_001)));
        gone.extend(replicas.looked(&stored, at(6_001)).went);
        assert_eq!(gone, [A, B]);
        assert!(!replicas.wants_look(at(60_000)));
    }

    #[test]
    fn looks_of_an_earlier_silence_do_not_count() {
        let (mut replicas, at) = replicas();
        replicas.heard(A, at(0));
        replicas.looked(&rows(&[(A, 1)]), at(3_000));
        replicas.heard(A, at(3_500));
        assert!(!replicas.wants_look(at(6_499)));
        assert!(replicas.wants_look(at(6_500)));
        // What moved before the last beat is no later sign of life.
        assert_eq!(replicas.looked(&rows(&[(A, 2)]), at(6_500)), Changes::default());
        assert!(!replicas.wants_look(at(9_499)));
        assert_eq!(replicas.looked(&rows(&[(A, 2)]), at(9_500)), went(&[A]));
    }

    #[test]
    fn replicas_are_bounded() {
        let (mut replicas, at) = replicas();
        for number in 0..5_000 {
            replicas.heard(ReplicaId(Uuid::from_u128(number)), at(0));
        }
        assert!(replicas.others.len() <= MAX_REPLICAS);
    }
}
