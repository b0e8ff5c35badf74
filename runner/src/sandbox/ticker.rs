//! Advances wasmtime's epoch while any instance is at work, so that deadlines interrupt guest code. It sleeps
//! otherwise, so that an idle service causes no wake-ups. What happens at a deadline is left to `instance`.

use crate::shortage;
use anyhow::Context;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;
use wasmtime::Engine;

/// How late a deadline may interrupt guest code that never calls the host.
pub(super) const TICK: Duration = Duration::from_millis(10);

/// Counts the instances at work. The thread ends after the last handle is dropped.
#[derive(Clone)]
pub(super) struct Ticker(Arc<Shared>);

struct Shared {
    clock: Mutex<Clock>,
    wake: Condvar,
}

#[derive(Default)]
struct Clock {
    running: usize,
    /// Whether the thread waits to be woken. It is notified only then, because that is a system call.
    idle: bool,
}

/// While this lives, the epoch advances.
pub(super) struct Running(Arc<Shared>);

impl Ticker {
    pub(super) fn start(engine: Engine) -> anyhow::Result<Self> {
        let shared = Arc::new(Shared { clock: Mutex::default(), wake: Condvar::new() });
        let weak = Arc::downgrade(&shared);
        let thread = std::thread::Builder::new().name("skincell-ticker".to_owned());
        shortage::thread()
            .and_then(|()| thread.stack_size(64 << 10).spawn(move || tick(&engine, &weak)))
            .context("cannot start the clock thread")?;
        Ok(Self(shared))
    }

    pub(super) fn running(&self) -> Running {
        let mut clock = self.0.lock();
        clock.running += 1;
        if clock.idle {
            self.0.wake.notify_one();
        }
        drop(clock);
        Running(Arc::clone(&self.0))
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Clock> {
        // A panic cannot leave a count half-written.
        self.clock.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.lock().running -= 1;
    }
}

fn tick(engine: &Engine, shared: &Weak<Shared>) {
    /// How often an idle thread checks whether its sandbox still exists.
    const IDLE: Duration = Duration::from_secs(3600);
    while let Some(shared) = shared.upgrade() {
        let idle = |clock: &mut Clock| {
            clock.idle = clock.running == 0;
            clock.idle
        };
        drop(shared.wake.wait_timeout_while(shared.lock(), IDLE, idle));
        drop(shared);
        std::thread::sleep(TICK);
        engine.increment_epoch();
    }
}
