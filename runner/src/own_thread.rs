//! Where a guest runs: where its request was read, until it turns out to be work; then on a thread of its
//! own. An answer that takes microseconds is not worth waking a thread for, and nothing longer may hold up
//! those that read requests.
//!
//! Who takes long says so before it does, and is moved where it next waits. What takes long is not known
//! here.

use crate::threads::{Outcome, Threads};
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;
use tokio::runtime::Handle;
use tokio::sync::oneshot;

/// Where one guest is, and whether it wants to be elsewhere.
#[derive(Debug, Clone, Default)]
pub(crate) struct OwnThread(Arc<Place>);

/// Set and read by whoever polls the guest; moving it orders the rest.
#[derive(Debug, Default)]
struct Place {
    asked: AtomicBool,
    moved: AtomicBool,
}

impl OwnThread {
    /// At its next wait the guest is moved.
    pub(crate) fn ask(&self) {
        self.0.asked.store(true, Ordering::Relaxed);
    }

    fn asked(&self) -> bool {
        self.0.asked.load(Ordering::Relaxed)
    }

    /// Whether the guest has been moved: from then on it keeps nobody waiting.
    pub(crate) fn may_block(&self) -> bool {
        self.0.moved.load(Ordering::Relaxed)
    }

    /// Returns when the caller may block as long as it likes; only for work that [`spawn`](Self::spawn) runs.
    pub(crate) async fn arrive(&self) {
        poll_fn(|context| {
            if self.may_block() {
                return Poll::Ready(());
            }
            // Asked for anew each time: a wait that was given up has moved nobody.
            self.ask();
            context.waker().wake_by_ref();
            Poll::Pending
        })
        .await;
    }

    /// Begins `work`, here or on one of `threads`, and goes on with it there once it asks. The outcome comes
    /// whether or not somebody waits for it; it is an error where `work` panicked.
    pub(crate) fn spawn<T: Send + 'static>(
        self,
        threads: &Threads,
        work: impl Future<Output = T> + Send + 'static,
    ) -> Outcome<T> {
        let mut work = Box::pin(work);
        let (send, outcome) = oneshot::channel();
        if self.asked() {
            self.go_on(threads, work, send);
            return outcome;
        }
        let threads = threads.clone();
        tokio::spawn(async move {
            let begun = poll_fn(|context| match work.as_mut().poll(context) {
                Poll::Ready(value) => Poll::Ready(Some(value)),
                Poll::Pending if self.asked() => Poll::Ready(None),
                Poll::Pending => Poll::Pending,
            });
            match begun.await {
                // It may be that nobody waits.
                Some(value) => drop(send.send(value)),
                None => self.go_on(&threads, work, send),
            }
        });
        outcome
    }

    fn go_on<T: Send + 'static>(
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

    async fn stages(own: OwnThread) -> [ThreadId; 3] {
        let first = current().id();
        tokio::task::yield_now().await;
        let second = current().id();
        own.arrive().await;
        [first, second, current().id()]
    }

    #[tokio::test]
    async fn what_asks_is_moved_and_what_does_not_stays() {
        let here = current().id();
        let own = OwnThread::default();
        let [first, second, third] = own.clone().spawn(&threads(), stages(own)).await.unwrap();
        assert_eq!([first, second], [here, here]);
        assert_ne!(third, here);
    }

    #[tokio::test]
    async fn a_wait_that_is_given_up_moves_nobody() {
        let own = OwnThread::default();
        let asks = own.clone();
        let (polled, place) = own
            .spawn(&threads(), async move {
                let mut wait = Box::pin(asks.arrive());
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
    async fn what_has_asked_before_begins_on_its_own() {
        let own = OwnThread::default();
        own.ask();
        let [first, second, third] = own.clone().spawn(&threads(), stages(own)).await.unwrap();
        assert_ne!(first, current().id());
        assert_eq!([first, first], [second, third]);
    }

    /// One thread reads requests here; it goes on while a guest blocks.
    #[tokio::test]
    async fn a_guest_that_blocks_holds_nobody_up() {
        let own = OwnThread::default();
        let (send, receive) = std::sync::mpsc::channel();
        let asks = own.clone();
        let guest = own.spawn(&threads(), async move {
            asks.arrive().await;
            receive.recv_timeout(Duration::from_secs(30)).is_ok()
        });
        tokio::task::spawn(async move { send.send(()) }).await.unwrap().unwrap();
        assert!(guest.await.unwrap());
    }

    #[tokio::test]
    async fn a_panic_after_the_move_is_told_as_one_before_it() {
        let own = OwnThread::default();
        let asks = own.clone();
        let guest = own.spawn(&threads(), async move {
            asks.arrive().await;
            sleep(Duration::from_millis(1));
            panic!("a test's");
        });
        let outcome: Result<(), _> = guest.await;
        assert!(outcome.is_err());
    }
}
