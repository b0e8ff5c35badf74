//! One run of a plan, executed by several threads.
//!
//! One atomic word holds the stage and the next task; workers take tasks by adding to it. The worker that
//! ends a stage's last task opens the next stage. Between stages workers spin briefly, then sleep until
//! woken. The threads come from [`crate::threads`].

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use super::dispatch::{self, Work};
use crate::kernels::arch::isa::Isa;
use crate::kernels::memory::{Arena, Memory, Task, clear_halo};
use crate::packed::Packed;

/// Polls of the word before a worker sleeps: some tens of microseconds.
const SPINS: usize = 4000;

/// Floats a run needs: the plan's arena, then scratch for each thread. `None` if beyond `usize`.
pub(crate) fn workspace_floats(packed: &Packed, threads: usize) -> Option<usize> {
    let arena = usize::try_from(packed.plan().arena).ok()?.next_multiple_of(16);
    arena.checked_add(scratch_floats(packed).checked_mul(threads)?)
}

fn scratch_floats(packed: &Packed) -> usize {
    let plan = packed.plan();
    let works = packed.stages().iter().filter_map(|stage| Work::of(plan, *stage));
    works.map(|work| dispatch::scratch(work, &plan.maps)).max().unwrap_or(0).next_multiple_of(16)
}

/// One run.
pub(crate) struct Execution {
    packed: Arc<Packed>,
    arena: Arena,
    isa: Isa,
    threads: usize,
    scratch: usize,
    /// Stage in the upper half, next task in the lower.
    cursor: AtomicU64,
    /// Tasks of the current stage that have ended.
    ended: AtomicUsize,
    /// Workers that have joined so far.
    joined: AtomicUsize,
    failed: AtomicBool,
    sleepers: AtomicUsize,
    lock: Mutex<()>,
    opened: Condvar,
}

// SAFETY: all fields but `arena` are `Sync`. Threads access the arena only in `task`, where facts 1 to 3 of
// `kernels` keep every access inside the arena and free of races.
unsafe impl Sync for Execution {}

impl Execution {
    /// A run of `packed` on an arena of at least [`workspace_floats`] that already contains the inputs.
    /// `None` if the arena is smaller, or the weights are fewer than the plan was checked for.
    pub(crate) fn new(packed: Arc<Packed>, arena: Arena, isa: Isa, threads: usize) -> Option<Self> {
        let needed = workspace_floats(&packed, threads)?;
        if arena.len() < needed || packed.weights().len() < packed.checked_weights() {
            return None;
        }
        let scratch = scratch_floats(&packed);
        Some(Self {
            isa,
            threads,
            scratch,
            arena,
            packed,
            cursor: AtomicU64::new(0),
            ended: AtomicUsize::new(0),
            joined: AtomicUsize::new(0),
            failed: AtomicBool::new(false),
            sleepers: AtomicUsize::new(0),
            lock: Mutex::new(()),
            opened: Condvar::new(),
        })
    }

    /// Returns the arena, and whether every step was executed.
    pub(crate) fn into_arena(self) -> (Arena, bool) {
        let done = self.stage_of(self.cursor.load(Ordering::Acquire)) >= self.packed.stages().len();
        (self.arena, done && !self.failed.load(Ordering::Acquire))
    }

    fn stage_of(&self, cursor: u64) -> usize {
        (cursor >> 32) as usize
    }

    /// Works until the run is over. Workers beyond the number of threads return at once.
    pub(crate) fn work(&self) {
        let worker = self.joined.fetch_add(1, Ordering::Relaxed);
        if worker >= self.threads {
            return;
        }
        let plan = self.packed.plan();
        let mut last = None;
        loop {
            let taken = self.cursor.fetch_add(1, Ordering::AcqRel);
            let stage = self.stage_of(taken);
            let current = self.packed.stages().get(stage);
            let Some(work) = current.and_then(|stage| Work::of(plan, *stage)) else { return };
            let tasks = dispatch::tasks(work, &plan.maps, self.threads);
            let index = (taken & u64::from(u32::MAX)) as usize;
            if index < tasks {
                let again = last.replace(stage) == Some(stage);
                if !self.task(work, index, worker, again) {
                    return;
                }
                if self.ended.fetch_add(1, Ordering::AcqRel) + 1 == tasks {
                    self.open(stage + 1);
                }
            } else if !self.wait(stage) {
                return;
            }
        }
    }

    /// Runs one task; false if this or another task panicked.
    fn task(&self, work: Work, index: usize, worker: usize, again: bool) -> bool {
        struct Alarm<'a>(&'a Execution);
        impl Drop for Alarm<'_> {
            fn drop(&mut self) {
                if std::thread::panicking() {
                    self.0.failed.store(true, Ordering::Release);
                    self.0.wake();
                }
            }
        }
        let alarm = Alarm(self);
        let plan = self.packed.plan();
        let arena = self.arena.as_ptr();
        let memory = Memory { arena, weights: self.packed.weights(), maps: &plan.maps };
        let first = (plan.arena as usize).next_multiple_of(16) + worker * self.scratch;
        // SAFETY: `worker < threads`, so its scratch is inside the arena, whose length `new` compared with
        // `workspace_floats`. The rest follows from the facts in `kernels`: the plan is checked, only this
        // thread took `index` from this stage's tasks, and the stage is open.
        unsafe {
            let scratch = arena.add(first);
            if index == 0 {
                for map in work.outputs() {
                    clear_halo(arena, &plan.maps[map as usize]);
                }
            }
            let task = Task { index, threads: self.threads, scratch, again, slice: None };
            dispatch::run(self.isa, &memory, work, task);
        }
        drop(alarm);
        !self.failed.load(Ordering::Acquire)
    }

    /// Lets the next stage begin.
    fn open(&self, stage: usize) {
        self.ended.store(0, Ordering::Release);
        self.cursor.store((stage as u64) << 32, Ordering::SeqCst);
        if self.sleepers.load(Ordering::SeqCst) > 0 {
            self.wake();
        }
    }

    fn wake(&self) {
        let guard = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        self.opened.notify_all();
        drop(guard);
    }

    /// Waits for the stage after `stage`; false if the run failed.
    fn wait(&self, stage: usize) -> bool {
        let over = || {
            self.stage_of(self.cursor.load(Ordering::SeqCst)) != stage
                || self.failed.load(Ordering::Acquire)
        };
        for _ in 0..SPINS {
            if over() {
                return !self.failed.load(Ordering::Acquire);
            }
            std::hint::spin_loop();
        }
        let mut guard = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        self.sleepers.fetch_add(1, Ordering::SeqCst);
        while !over() {
            guard = self.opened.wait(guard).unwrap_or_else(PoisonError::into_inner);
        }
        self.sleepers.fetch_sub(1, Ordering::SeqCst);
        drop(guard);
        !self.failed.load(Ordering::Acquire)
    }
}
