//! How close the process is to its budget, by the kernel's count. Its levels are the safety net for
//! reservations in the ledger that were too small; `admission` and `nn` act on them.

use super::{Budget, MemoryGroup, ProcessMemory};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How old a reading may be: one costs some 20 microseconds, and many requests may come at once.
const FRESH: Duration = Duration::from_millis(10);

/// Stands for no limit: more than any machine has.
const NO_LIMIT: u64 = u64::MAX;

/// The memory held, in relation to the budget.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Level {
    /// Below 80 %: requests start if their reservations fit.
    #[default]
    Normal,
    /// From 80 %: requests wait, and idle models are unloaded.
    Tight,
    /// From 95 %: requests are refused.
    Full,
}

/// Compares the memory held with a budget.
#[derive(Debug)]
pub struct Gauge {
    group: Option<MemoryGroup>,
    /// In bytes; [`NO_LIMIT`] stands for no limit.
    limit: AtomicU64,
    last: Mutex<Option<(Instant, Level)>>,
}

impl Gauge {
    /// A gauge for this process.
    #[must_use]
    pub fn new(budget: Budget) -> Self {
        let limit = AtomicU64::new(budget.bytes.unwrap_or(NO_LIMIT));
        Self { group: budget.group, limit, last: Mutex::default() }
    }

    /// Changes the limit.
    pub fn set_limit(&self, bytes: u64) {
        self.limit.store(bytes, Ordering::Relaxed);
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Bytes held now that the kernel cannot reclaim, of this process, or of the whole control group if the
    /// budget is its limit.
    #[must_use]
    pub fn held_bytes(&self) -> u64 {
        let own = ProcessMemory::now().private_bytes;
        let group = self.group.as_ref().and_then(MemoryGroup::held_bytes);
        own.max(group.unwrap_or(0))
    }

    /// The level, read again if the last reading is too old.
    pub fn level(&self) -> Level {
        let limit = self.limit.load(Ordering::Relaxed);
        if limit == NO_LIMIT {
            return Level::Normal;
        }
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((at, level)) = *last
            && at.elapsed() < FRESH
        {
            return level;
        }
        let level = level_of(self.held_bytes(), limit);
        *last = Some((Instant::now(), level));
        level
    }
}

fn level_of(held: u64, limit: u64) -> Level {
    let at_least =
        |per_cent: u64| u128::from(held) * 100 >= u128::from(limit) * u128::from(per_cent);
    match () {
        () if at_least(95) => Level::Full,
        () if at_least(80) => Level::Tight,
        () => Level::Normal,
    }
}

#[cfg(test)]
mod tests {
    use super::{Level, level_of};

    #[test]
    fn the_lines_are_at_80_and_95_per_cent() {
        let cases = [
            (799, Level::Normal),
            (800, Level::Tight),
            (949, Level::Tight),
            (950, Level::Full),
            (2000, Level::Full),
        ];
        for (held, level) in cases {
            assert_eq!(level_of(held, 1000), level, "{held}");
        }
    }
}
