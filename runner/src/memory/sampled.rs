//! Measures the memory that a piece of work takes: the process's private memory, sampled during the work,
//! less the growth of memory that is tracked otherwise (guests' linear memories and request bodies).

use super::ProcessMemory;
use crate::shortage;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// The time between two samples; a run of the smallest model takes several times as long.
const EVERY: Duration = Duration::from_millis(1);

/// Linear memory of all instances and bytes of all request bodies.
static TRACKED: AtomicU64 = AtomicU64::new(0);

/// The bytes of one instance or body, untracked when dropped.
#[derive(Debug, Default)]
pub(crate) struct TrackedBytes(u64);

impl TrackedBytes {
    /// Adds bytes.
    pub(crate) fn grow(&mut self, bytes: u64) {
        self.0 = self.0.saturating_add(bytes);
        TRACKED.fetch_add(bytes, Ordering::Relaxed);
    }
}

impl Drop for TrackedBytes {
    fn drop(&mut self) {
        TRACKED.fetch_sub(self.0, Ordering::Relaxed);
    }
}

/// Private bytes of the process, without tracked ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Sampled {
    /// Before the work.
    pub(crate) before: u64,
    /// The peak during the work; `None` if no thread could be started to sample.
    pub(crate) peak: Option<u64>,
    /// After the work.
    pub(crate) after: u64,
}

/// Runs `work` and measures its memory. Other work at the same time counts too, so models are measured alone.
pub(crate) fn sampled<T>(work: impl FnOnce() -> T) -> (T, Sampled) {
    let before = own_bytes();
    let peak = AtomicU64::new(before);
    let done = AtomicBool::new(false);
    let (outcome, was_watched) = std::thread::scope(|scope| {
        /// Ends the sampling even if the work panics.
        struct Done<'a>(&'a AtomicBool);
        impl Drop for Done<'_> {
            fn drop(&mut self) {
                self.0.store(true, Ordering::Release);
            }
        }
        let watch = || {
            while !done.load(Ordering::Acquire) {
                peak.fetch_max(own_bytes(), Ordering::Relaxed);
                std::thread::sleep(EVERY);
            }
        };
        let watcher = shortage::thread().and_then(|()| {
            std::thread::Builder::new().name("sampler".to_owned()).spawn_scoped(scope, watch)
        });
        let _done = Done(&done);
        (work(), watcher.is_ok())
    });
    let after = own_bytes();
    let peak = was_watched.then(|| peak.into_inner().max(after));
    (outcome, Sampled { before, peak, after })
}

fn own_bytes() -> u64 {
    ProcessMemory::now().private_bytes.saturating_sub(TRACKED.load(Ordering::Relaxed))
}

#[cfg(test)]
mod tests {
    use super::sampled;
    use std::time::Duration;

    #[test]
    fn the_peak_is_seen_and_is_distinct_from_what_stays() {
        let (kept, memory) = sampled(|| {
            let passing = vec![1_u8; 48 << 20];
            std::thread::sleep(Duration::from_millis(20));
            drop(std::hint::black_box(passing));
            vec![1_u8; 16 << 20]
        });
        let mib = |bytes: u64| bytes >> 20;
        let peak = memory.peak.unwrap() - memory.before;
        let left = memory.after - memory.before;
        assert!((44..80).contains(&mib(peak)), "{memory:?}");
        assert!((14..40).contains(&mib(left)), "{memory:?}");
        drop(std::hint::black_box(kept));
    }
}
