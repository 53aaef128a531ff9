//! The memory that the process may take before it lets no more sessions in.
//!
//! Owns the reading of what the process holds and of what there is. Linux only; elsewhere nothing is known and there is no
//! bound. Reads files under `/proc` and `/sys`, which are no disk: a reading takes some microseconds.

use std::fs;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::clock::{Clock, Instant};
use crate::mux::Buffers;
use crate::telemetry::metrics::Reading;

/// How old a reading may be, so that a thousand agents that come back at once cost ten readings a second. What they take
/// meanwhile, some MiB, is small beside the quarter of memory that the budget leaves.
const MAX_AGE: Duration = Duration::from_millis(100);

/// Parts of four of the memory there is that make the default budget.
const DEFAULT_QUARTERS: u64 = 3;

/// The memory that the process holds, against a bound.
#[derive(Debug)]
pub(super) struct MemoryBudget {
    clock: Clock,
    /// Bytes; `None` where there is no bound.
    most: Option<u64>,
    resident: fn() -> Option<u64>,
    last: Mutex<Last>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Last {
    at: Option<Instant>,
    exceeded: bool,
}

impl MemoryBudget {
    /// A budget of `mebibytes`; 0 is three quarters of the memory there is.
    pub(super) fn new(clock: Clock, mebibytes: u64) -> Self {
        let most = match mebibytes {
            0 => available().map(|bytes| bytes / 4 * DEFAULT_QUARTERS),
            mebibytes => Some(mebibytes.saturating_mul(1 << 20)),
        };
        if most.is_some() && resident().is_none() {
            tracing::warn!("the memory budget does not count: /proc/self/statm cannot be read");
        }
        Self {
            clock,
            most,
            resident,
            last: Mutex::default(),
        }
    }

    /// The account of what sessions buffer: half the budget, so that what else there is to a session has the other.
    pub(super) fn buffers(&self) -> Buffers {
        let half = self.most.map(|most| most / 2);
        Buffers::new(half.map_or(usize::MAX, |half| usize::try_from(half).unwrap_or(usize::MAX)))
    }

    /// Whether there is memory for another session.
    pub(super) fn has_room(&self) -> bool {
        let Some(most) = self.most else { return true };
        let now = self.clock.monotonic();
        // A copy of two words; it is whole whoever panicked.
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if last
            .at
            .is_none_or(|at| now.saturating_duration_since(at) >= MAX_AGE)
        {
            last.at = Some(now);
            let resident = (self.resident)().unwrap_or_default();
            let exceeded = resident >= most;
            if exceeded != std::mem::replace(&mut last.exceeded, exceeded) {
                if exceeded {
                    tracing::warn!(resident, most, "memory budget used up: no new sessions");
                } else {
                    tracing::info!(resident, most, "memory for new sessions again");
                }
            }
        }
        !last.exceeded
    }
}

/// What sessions buffer, as a number.
#[expect(clippy::cast_precision_loss, reason = "metrics are floating-point numbers")]
pub(super) fn readings(buffers: Buffers) -> Vec<Reading> {
    vec![Reading::gauge(
        "session_buffer_bytes",
        "Bytes that sessions buffer, received and to be sent; of each, whole pieces of 64 KiB",
        move || buffers.held() as f64,
    )]
}

/// Bytes of memory that the process holds.
fn resident() -> Option<u64> {
    let statm = fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = statm.split_whitespace().nth(1)?.parse().ok()?;
    let page = u64::try_from(rustix::param::page_size()).ok()?;
    pages.checked_mul(page)
}

/// Bytes of memory that there are for the process: the machine's, or what its control group may take.
fn available() -> Option<u64> {
    let meminfo = fs::read_to_string("/proc/meminfo").ok()?;
    let group = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let limits = group_limits(Path::new("/sys/fs/cgroup"), &group);
    limits.into_iter().chain(machine(&meminfo)).min()
}

/// `MemTotal` of `/proc/meminfo`, bytes.
fn machine(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kibibytes.checked_mul(1024)
}

/// What the control groups that the process is in may take: of version 2 the group and all above it, of version 1 the one
/// that a container sees as its own. Groups without a limit say `max`, or a number beyond any machine.
fn group_limits(root: &Path, groups: &str) -> Vec<u64> {
    let own = groups.lines().find_map(|line| line.strip_prefix("0::/"));
    let mut places = vec![root.join("memory/memory.limit_in_bytes")];
    let mut group = own.map(|own| root.join(own.trim_end()));
    while let Some(at) = group.filter(|at| at.starts_with(root)) {
        places.push(at.join("memory.max"));
        group = at.parent().map(Path::to_owned);
    }
    let read = |place| fs::read_to_string(place).ok()?.trim().parse().ok();
    places.into_iter().filter_map(read).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn budget(most: Option<u64>, resident: fn() -> Option<u64>) -> MemoryBudget {
        MemoryBudget {
            clock: Clock::system(),
            most,
            resident,
            last: Mutex::default(),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_budget_is_used_up_when_it_is_reached() {
        for (most, room) in [(999, false), (1_000, false), (1_001, true)] {
            assert_eq!(budget(Some(most), || Some(1_000)).has_room(), room, "{most}");
        }
        assert!(budget(None, || Some(u64::MAX)).has_room());
        assert!(budget(Some(1), || None).has_room(), "nothing is known");
    }

    #[test]
    fn sessions_may_buffer_half_the_budget() {
        for (most, half) in [(Some(999), 499), (Some(1_000), 500), (None, usize::MAX)] {
            assert_eq!(budget(most, || None).buffers().most(), half, "{most:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_reading_counts_for_a_while() {
        use std::sync::atomic::{AtomicU64, Ordering};
        static RESIDENT: AtomicU64 = AtomicU64::new(5);
        let budget = budget(Some(10), || Some(RESIDENT.load(Ordering::Relaxed)));
        assert!(budget.has_room());
        RESIDENT.store(10, Ordering::Relaxed);
        tokio::time::advance(MAX_AGE - Duration::from_millis(1)).await;
        assert!(budget.has_room());
        tokio::time::advance(Duration::from_millis(1)).await;
        assert!(!budget.has_room());
        RESIDENT.store(9, Ordering::Relaxed);
        tokio::time::advance(MAX_AGE).await;
        assert!(budget.has_room(), "it comes back");
    }

    #[test]
    fn the_least_limit_of_the_group_and_those_above_counts() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        fs::create_dir_all(root.join("a/b")).unwrap();
        fs::create_dir_all(root.join("memory")).unwrap();
        fs::write(root.join("memory.max"), "9000\n").unwrap();
        fs::write(root.join("a/memory.max"), "5000\n").unwrap();
        fs::write(root.join("a/b/memory.max"), "max\n").unwrap();
        fs::write(root.join("memory/memory.limit_in_bytes"), "7000\n").unwrap();
        assert_eq!(group_limits(root, "1:cpu:/x\n0::/a/b\n"), [7000, 5000, 9000]);
        assert_eq!(group_limits(root, "4:memory:/docker/1\n"), [7000]);
        assert_eq!(machine("MemFree: 1 kB\nMemTotal:       16 kB\n"), Some(16 * 1024));
        assert_eq!(machine("MemTotal: much"), None);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn linux_says_what_there_is_and_what_is_taken() {
        let (resident, available) = (resident().unwrap(), available().unwrap());
        assert!(
            (1 << 20..available).contains(&resident),
            "{resident} of {available}"
        );
        assert_eq!(
            MemoryBudget::new(Clock::system(), 5).most,
            Some(5 << 20),
            "a setting is in MiB"
        );
    }
}
