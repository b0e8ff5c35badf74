//! A pool of helper threads, shared by concurrent runs. A run's own thread always works too, so that every
//! run makes progress even while all helpers are busy with others.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use crate::kernels::Execution;

/// A pool of helper threads, which sleep while idle.
pub struct Pool {
    shared: Arc<Shared>,
    threads: usize,
    helpers: Vec<JoinHandle<()>>,
}

struct Shared {
    state: Mutex<State>,
    /// Signals a queued run, or that the pool closes.
    work: Condvar,
}

#[derive(Default)]
struct State {
    queue: VecDeque<(Arc<Execution>, Arc<HelperCount>)>,
    closed: bool,
}

/// Counts the helpers that work on a run.
#[derive(Default)]
struct HelperCount {
    helpers: Mutex<usize>,
    left: Condvar,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl std::fmt::Debug for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pool").field("threads", &self.threads).finish_non_exhaustive()
    }
}

impl Pool {
    /// A pool whose runs use up to `threads` threads, including the caller's. If the system provides fewer
    /// (Wasm provides none), runs use fewer.
    #[must_use]
    pub fn new(threads: usize) -> Self {
        let shared = Arc::new(Shared { state: Mutex::default(), work: Condvar::new() });
        let helpers: Vec<_> = (1..threads.max(1))
            .map_while(|i| {
                let shared = Arc::clone(&shared);
                let name = format!("cellnet-{i}");
                std::thread::Builder::new().name(name).spawn(move || help(&shared)).ok()
            })
            .collect();
        Self { threads: helpers.len() + 1, shared, helpers }
    }

    /// Threads of a run, including the caller's.
    #[must_use]
    pub fn threads(&self) -> usize {
        self.threads
    }

    /// Executes a run with the helpers that are free, and returns it. `None` would mean that a helper still
    /// holds it, which the wait below rules out.
    pub(crate) fn run(&self, execution: Execution) -> Option<Execution> {
        if self.helpers.is_empty() {
            execution.work();
            return Some(execution);
        }
        let execution = Arc::new(execution);
        let helper_count = Arc::new(HelperCount::default());
        let mut state = locked(&self.shared.state);
        for _ in &self.helpers {
            state.queue.push_back((Arc::clone(&execution), Arc::clone(&helper_count)));
        }
        drop(state);
        self.shared.work.notify_all();
        execution.work();
        locked(&self.shared.state).queue.retain(|(other, _)| !Arc::ptr_eq(other, &execution));
        let mut helpers = locked(&helper_count.helpers);
        while *helpers > 0 {
            helpers = helper_count.left.wait(helpers).unwrap_or_else(PoisonError::into_inner);
        }
        drop(helpers);
        Arc::into_inner(execution)
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        locked(&self.shared.state).closed = true;
        self.shared.work.notify_all();
        for helper in self.helpers.drain(..) {
            // A helper that panicked has already marked its run as failed.
            let _ = helper.join();
        }
    }
}

/// A helper's loop: takes a run from the queue, works on it to its end, and releases it.
fn help(shared: &Shared) {
    /// Decrements the count of helpers even if the helper panics.
    struct Leave(Arc<HelperCount>);
    impl Drop for Leave {
        fn drop(&mut self) {
            *locked(&self.0.helpers) -= 1;
            self.0.left.notify_all();
        }
    }
    loop {
        let mut state = locked(&shared.state);
        let (execution, helper_count) = loop {
            if let Some(next) = state.queue.pop_front() {
                break next;
            }
            if state.closed {
                return;
            }
            state = shared.work.wait(state).unwrap_or_else(PoisonError::into_inner);
        };
        *locked(&helper_count.helpers) += 1;
        drop(state);
        let leave = Leave(helper_count);
        execution.work();
        drop(execution);
        drop(leave);
    }
}
