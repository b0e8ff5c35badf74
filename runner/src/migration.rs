//! Moves a guest from the thread that reads requests to a thread of its own once it turns out to do real
//! work.
//!
//! Waking a thread costs more than an answer of a few microseconds, so a guest begins on the thread that read
//! its request. Longer work must not hold up the other requests there: long host calls request migration, and
//! the guest moves at its next await. This module does not know which calls are long.

use crate::threads::{Outcome, Threads};
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;
use tokio::runtime::Handle;
use tokio::sync::oneshot;

/// Whether one guest was moved, and whether it has to be. Clones share the state.
#[derive(Debug, Clone, Default)]
pub(crate) struct Migration(Arc<State>);

/// Only the thread that polls the guest uses these; handing the guest over orders the accesses of two
/// threads.
#[derive(Debug, Default)]
struct State {
    requested: AtomicBool,
    moved: AtomicBool,
}

impl Migration {
    /// Moves the guest at its next await.
    pub(crate) fn request(&self) {
        self.0.requested.store(true, Ordering::Relaxed);
    }

    fn is_requested(&self) -> bool {
        self.0.requested.load(Ordering::Relaxed)
    }

    /// Whether the guest was moved, so that blocking delays no other request.
    pub(crate) fn may_block(&self) -> bool {
        self.0.moved.load(Ordering::Relaxed)
    }

    /// Waits until the guest was moved; from then on it may block. Only for work that [`spawn`](Self::spawn)
    /// runs.
    pub(crate) async fn migrated(&self) {
        poll_fn(|context| {
            if self.may_block() {
                return Poll::Ready(());
            }
            // Requested again at each poll: an await that was dropped has not moved the guest.
            self.request();
            context.waker().wake_by_ref();
            Poll::Pending
        })
        .await;
    }

    /// Runs `work` on this thread until it requests migration, then on one of `threads`. Dropping the
    /// returned receiver does not stop the work. The outcome is an error where `work` panicked.
    pub(crate) fn spawn<T: Send + 'static>(
        self,
        threads: &Threads,
        work: impl Future<Output = T> + Send + 'static,
    ) -> Outcome<T> {
        let mut work = Box::pin(work);
        let (send, outcome) = oneshot::channel();
        if self.is_requested() {
            self.resume(threads, work, send);
            return outcome;
        }
        let threads = threads.clone();
        tokio::spawn(async move {
            let begun = poll_fn(|context| match work.as_mut().poll(context) {
                Poll::Ready(value) => Poll::Ready(Some(value)),
                Poll::Pending if self.is_requested() => Poll::Ready(None),
                Poll::Pending => Poll::Pending,
            });
            match begun.await {
                // The receiver may be gone.
                Some(value) => drop(send.send(value)),
                None => self.resume(&threads, work, send),
            }
        });
        outcome
    }

    fn resume<T: Send + 'static>(
        self,
        threads: &Threads,
        work: Pin<Box<impl Future<Output = T> + Send + 'static>>,
        send: oneshot::Sender<T>,
    ) {
        let runtime = Handle::current();
        threads.run(move || {
            self.0.moved.store(true, Ordering::Relaxed);
            drop(send.send(runtime.block_on(work)));
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread::{ThreadId, current, sleep};
    use std::time::Duration;

    fn threads() -> Threads {
        Threads::start("guest", 1).unwrap()
    }

    async fn stages(own: Migration) -> [ThreadId; 3] {
        let first = current().id();
        tokio::task::yield_now().await;
        let second = current().id();
        own.migrated().await;
        [first, second, current().id()]
    }

    #[tokio::test]
    async fn a_guest_that_requests_migration_is_moved_at_its_next_await() {
        let here = current().id();
        let own = Migration::default();
        let [first, second, third] = own.clone().spawn(&threads(), stages(own)).await.unwrap();
        assert_eq!([first, second], [here, here]);
        assert_ne!(third, here);
    }

    #[tokio::test]
    async fn a_dropped_await_does_not_move_the_guest() {
        let own = Migration::default();
        let asks = own.clone();
        let (polled, place) = own
            .spawn(&threads(), async move {
                let mut wait = Box::pin(asks.migrated());
                let polled = poll_fn(|context| Poll::Ready(wait.as_mut().poll(context))).await;
                drop(wait);
                (polled.is_pending() && !asks.may_block(), current().id())
            })
            .await
            .unwrap();
        assert!(polled);
        assert_eq!(place, current().id());
    }

    #[tokio::test]
    async fn a_request_before_the_start_begins_on_its_own_thread() {
        let own = Migration::default();
        own.request();
        let [first, second, third] = own.clone().spawn(&threads(), stages(own)).await.unwrap();
        assert_ne!(first, current().id());
        assert_eq!([first, first], [second, third]);
    }

    /// One thread reads requests here; it goes on while a guest blocks.
    #[tokio::test]
    async fn a_blocking_guest_does_not_delay_other_requests() {
        let own = Migration::default();
        let (send, receive) = std::sync::mpsc::channel();
        let asks = own.clone();
        let guest = own.spawn(&threads(), async move {
            asks.migrated().await;
            receive.recv_timeout(Duration::from_secs(30)).is_ok()
        });
        tokio::task::spawn(async move { send.send(()) }).await.unwrap().unwrap();
        assert!(guest.await.unwrap());
    }

    #[tokio::test]
    async fn a_panic_after_the_move_is_an_error_too() {
        let own = Migration::default();
        let asks = own.clone();
        let guest = own.spawn(&threads(), async move {
            asks.migrated().await;
            sleep(Duration::from_millis(1));
            panic!("a test's");
        });
        let outcome: Result<(), _> = guest.await;
        assert!(outcome.is_err());
    }
}
