//! A fixed set of threads, started once: for work that must not wait for a new thread, and must not fail when
//! the system has none.
//!
//! tokio starts threads for blocking work on demand, and panics in the caller if that fails. Moving guests to
//! such a thread is left to `migration`.

use crate::shortage;
use anyhow::Context;
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use tokio::sync::oneshot;

/// A number of threads; they end when the last handle is dropped and the queue is empty.
#[derive(Clone)]
pub(crate) struct Threads(Arc<Handles>);

/// The result of work, or an error if the work panicked.
pub(crate) type Outcome<T> = oneshot::Receiver<T>;

type Job = Box<dyn FnOnce() + Send>;

struct Handles(Arc<Shared>);

#[derive(Default)]
struct Shared {
    queue: Mutex<Queue>,
    wake: Condvar,
}

#[derive(Default)]
struct Queue {
    jobs: VecDeque<Job>,
    is_closed: bool,
}

impl Threads {
    /// Starts `count` threads called `name`.
    ///
    /// # Errors
    /// When the system cannot start as many.
    pub(crate) fn start(name: &str, count: usize) -> anyhow::Result<Self> {
        let shared = Arc::new(Shared::default());
        let threads = Self(Arc::new(Handles(Arc::clone(&shared))));
        for number in 0..count {
            let shared = Arc::clone(&shared);
            let thread = std::thread::Builder::new().name(format!("{name}-{number}"));
            shortage::thread()
                .and_then(|()| thread.spawn(move || shared.work()))
                .with_context(|| format!("cannot start the {count} threads called {name}"))?;
        }
        Ok(threads)
    }

    /// Runs `work` on the first free thread.
    pub(crate) fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Outcome<T> {
        let (send, outcome) = oneshot::channel();
        // The receiver may be gone.
        let job = Box::new(move || drop(send.send(work())));
        self.0.0.lock().jobs.push_back(job);
        self.0.0.wake.notify_one();
        outcome
    }
}

impl Drop for Handles {
    fn drop(&mut self) {
        self.0.lock().is_closed = true;
        self.0.wake.notify_all();
    }
}

impl Shared {
    fn work(&self) {
        while let Some(job) = self.next() {
            // The panic was reported on standard error, and dropping the sender reports it to the receiver.
            // Nothing of the job is used afterwards.
            let _ = catch_unwind(AssertUnwindSafe(job));
        }
    }

    fn next(&self) -> Option<Job> {
        let waiting = |queue: &mut Queue| queue.jobs.is_empty() && !queue.is_closed;
        let queue = self.wake.wait_while(self.lock(), waiting);
        queue.unwrap_or_else(PoisonError::into_inner).jobs.pop_front()
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        // Jobs run outside the lock, so a panic cannot leave the queue half-changed.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::Threads;

    #[test]
    fn a_panic_is_reported_and_its_thread_goes_on() {
        let threads = Threads::start("test", 1).unwrap();
        let failed = threads.run(|| panic!("a test's"));
        assert!(failed.blocking_recv().is_err());
        assert_eq!(threads.run(|| 7).blocking_recv(), Ok(7));
    }

    #[test]
    fn queued_work_is_finished_after_the_last_handle_is_dropped() {
        let threads = Threads::start("test", 2).unwrap();
        let outcomes: Vec<_> = (0..20).map(|number| threads.run(move || number)).collect();
        drop(threads);
        let sum: i32 = outcomes.into_iter().map(|outcome| outcome.blocking_recv().unwrap()).sum();
        assert_eq!(sum, 190);
    }
}
