//! Counts the runs of one model, for `statistics`.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Runs of a model since the service started.
#[derive(Debug, Default)]
pub(crate) struct RunCounts {
    succeeded: Tally,
    failed: Tally,
    last_ms: AtomicU64,
}

/// A number of runs, and how long they took together.
#[derive(Debug, Default)]
struct Tally {
    count: AtomicU64,
    nanoseconds: AtomicU64,
}

impl Tally {
    fn add(&self, took: Duration) {
        let nanoseconds = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        self.count.fetch_add(1, Ordering::Relaxed);
        self.nanoseconds.fetch_add(nanoseconds, Ordering::Relaxed);
    }

    fn get(&self) -> (u64, u64) {
        (self.count.load(Ordering::Relaxed), self.nanoseconds.load(Ordering::Relaxed))
    }
}

impl RunCounts {
    /// Counts a run that ends now.
    pub(super) fn add(&self, took: Duration, is_success: bool) {
        let tally = if is_success { &self.succeeded } else { &self.failed };
        tally.add(took);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.last_ms.store(u64::try_from(now.as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// Number and nanoseconds of the runs that succeeded.
    pub(crate) fn succeeded(&self) -> (u64, u64) {
        self.succeeded.get()
    }

    /// Number and nanoseconds of the runs that failed.
    pub(crate) fn failed(&self) -> (u64, u64) {
        self.failed.get()
    }

    /// When the last run ended, in milliseconds since 1970; 0 if there was none.
    pub(crate) fn last_ms(&self) -> u64 {
        self.last_ms.load(Ordering::Relaxed)
    }
}
