//! A bounded queue for requests: each starts when a permit is free and the memory it may take fits the
//! budget.
//!
//! A limited number may wait for a limited time; the others are refused and told to retry. A request whose
//! future is dropped, because its client has hung up, leaves the queue at once. Requests without a body, such
//! as health checks, go first: they have two permits of their own, and the others' while nobody waits for
//! them.

use crate::memory::{Gauge, Ledger, Level, Need, Reservation};
use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::oneshot;

/// Permits for requests of high priority, in addition to the others.
pub const HIGH_PRIORITY_PERMITS: usize = 2;

/// A request's place in the queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Priority {
    /// For requests with a body.
    Normal,
    /// For requests without one: usually short, they do not wait for the others.
    High,
}

/// The queue's limits.
#[derive(Debug, Clone)]
pub struct Rules {
    /// Requests at work at the same time.
    pub permits: usize,
    /// Requests that may wait.
    pub length: usize,
    /// How long each may wait.
    pub timeout: Duration,
}

/// Frees the memory of something idle; false if everything is in use.
pub type MakeRoom = Box<dyn Fn() -> bool + Send + Sync>;

/// The queue of requests.
pub struct Admission(Arc<Queue>);

struct Queue {
    rules: Rules,
    ledger: Arc<Ledger>,
    gauge: Arc<Gauge>,
    make_room: MakeRoom,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    normal: usize,
    high: usize,
    /// Instances at work that wait for another one, which they have called.
    callers: usize,
    waiting: VecDeque<Waiter>,
}

struct Waiter {
    need: Need,
    priority: Priority,
    /// Whether an instance at work waits for it.
    is_call: bool,
    start: oneshot::Sender<Permit>,
}

/// Why a request was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The queue is full.
    #[error("{length} requests are waiting already")]
    Full {
        /// Requests that may wait.
        length: usize,
    },
    /// It waited too long.
    #[error("it waited {0:?} for a free place")]
    TooLong(Duration),
    /// All connections are taken.
    #[error("as many clients are connected as there is room for")]
    Connections,
    /// One address has as many connections as it may.
    #[error("this address has as many connections as it may")]
    Address,
    /// Memory is at its last line of defence.
    #[error("memory is at 95 % of its limit")]
    Memory,
    /// Components wait for each other.
    #[error("every permit is held by a component that waits for another one")]
    Callers,
    /// It does not fit, whatever is unloaded.
    #[error(
        "a request like this takes {needed} bytes at most, and {missing} of them are not in the \
         memory limit"
    )]
    NeverFits {
        /// Bytes that would be reserved for it.
        needed: u64,
        /// Bytes that are missing.
        missing: u64,
    },
}

impl Refusal {
    /// The reason as a metric's label.
    #[must_use]
    pub fn label(&self) -> &'static str {
        match self {
            Self::Full { .. } => "queue-full",
            Self::TooLong(_) => "queue-timeout",
            Self::Connections => "connections",
            Self::Address => "address",
            Self::Memory => "memory",
            Self::Callers => "callers",
            Self::NeverFits { .. } => "never-fits",
        }
    }
}

/// Permission to run, until dropped.
pub struct Permit {
    queue: Arc<Queue>,
    /// Whose permit it is: one that is kept for high priority, or one of all others.
    priority: Priority,
    reservation: Option<Reservation>,
    /// If another instance waits for this one.
    call: Option<Call>,
}

/// The calls of one instance to others, which it waits for. Clones share the count.
#[derive(Debug, Clone, Default)]
pub(crate) struct Calls(Arc<AtomicUsize>);

/// One of them, until dropped.
struct Call {
    queue: Arc<Queue>,
    calls: Calls,
}

impl Drop for Call {
    fn drop(&mut self) {
        let mut state = self.queue.state();
        if self.calls.0.fetch_sub(1, Ordering::Relaxed) == 1 {
            state.callers -= 1;
        }
    }
}

impl Permit {
    /// [`Priority::High`] for one of the [`HIGH_PRIORITY_PERMITS`], [`Priority::Normal`] for one of the
    /// others, which a request of high priority may have too.
    #[must_use]
    pub fn priority(&self) -> Priority {
        self.priority
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.call = None;
        self.reservation = None;
        {
            let mut state = self.queue.state();
            match self.priority {
                Priority::Normal => state.normal -= 1,
                Priority::High => state.high -= 1,
            }
        }
        Queue::advance(&self.queue);
    }
}

impl Admission {
    /// A queue with these limits, which reserves memory in `ledger` and calls `make_room` when that is short.
    #[must_use]
    pub fn new(rules: Rules, ledger: Arc<Ledger>, gauge: Arc<Gauge>, make_room: MakeRoom) -> Self {
        Self(Arc::new(Queue { rules, ledger, gauge, make_room, state: Mutex::default() }))
    }

    /// Checks that a request would not be refused now, before its body is read. Idle models are unloaded if
    /// it would not fit otherwise.
    ///
    /// # Errors
    /// [`Refusal`].
    pub fn check(&self, need: Need, priority: Priority) -> Result<(), Refusal> {
        let mut state = self.0.state();
        self.0.refuse(&mut state, need, priority)
    }

    /// Waits for a permit.
    ///
    /// # Errors
    /// [`Refusal`]: at once if the queue is full or waiting cannot help, else after the timeout.
    pub async fn enter(&self, need: Need, priority: Priority) -> Result<Permit, Refusal> {
        let begun = {
            let mut state = self.0.state();
            self.0.refuse(&mut state, need, priority)?;
            let (start, begun) = oneshot::channel();
            let waiter = Waiter { need, priority, is_call: false, start };
            match priority {
                Priority::Normal => state.waiting.push_back(waiter),
                Priority::High => {
                    let is_high = |waiter: &Waiter| waiter.priority == Priority::High;
                    let behind = state.waiting.iter().take_while(|waiter| is_high(waiter)).count();
                    state.waiting.insert(behind, waiter);
                }
            }
            begun
        };
        self.begin(begun).await
    }

    /// Waits for a permit for a request of an instance at work, which has made these `calls`. It goes first,
    /// and may have any permit: its caller keeps one until it has ended.
    ///
    /// # Errors
    /// [`Refusal`]: at once if the caller would wait for a permit that none but callers could give back.
    pub(crate) async fn enter_call(&self, need: Need, calls: &Calls) -> Result<Permit, Refusal> {
        let (call, begun) = {
            let mut state = self.0.state();
            self.0.refuse(&mut state, need, Priority::High)?;
            let is_first = calls.0.load(Ordering::Relaxed) == 0;
            let callers = state.callers + usize::from(is_first);
            let ahead = state.waiting.iter().take_while(|waiter| waiter.is_call).count();
            let is_free = ahead == 0 && self.0.free_permit(&state, Priority::High, true).is_some();
            if !is_free && state.normal + state.high <= callers {
                return Err(Refusal::Callers);
            }
            state.callers = callers;
            calls.0.fetch_add(1, Ordering::Relaxed);
            let call = Call { queue: Arc::clone(&self.0), calls: calls.clone() };
            let (start, begun) = oneshot::channel();
            let waiter = Waiter { need, priority: Priority::High, is_call: true, start };
            state.waiting.insert(ahead, waiter);
            (call, begun)
        };
        let mut permit = self.begin(begun).await?;
        permit.call = Some(call);
        Ok(permit)
    }

    async fn begin(&self, begun: oneshot::Receiver<Permit>) -> Result<Permit, Refusal> {
        Queue::advance(&self.0);
        let timeout = self.0.rules.timeout;
        match tokio::time::timeout(timeout, begun).await {
            Ok(Ok(permit)) => Ok(permit),
            // The sender is never dropped unsent, so this is the timeout.
            Ok(Err(_)) | Err(_) => Err(Refusal::TooLong(timeout)),
        }
    }

    /// Starts the requests that fit by now. It has to be called from time to time, because memory also comes
    /// free elsewhere.
    pub fn advance(&self) {
        Queue::advance(&self.0);
    }

    /// Requests at work.
    #[must_use]
    pub fn at_work(&self) -> usize {
        let state = self.0.state();
        state.normal + state.high
    }

    /// Requests in the queue.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.0.state().waiting.len()
    }
}

impl Queue {
    /// The state, without the requests whose clients have left.
    fn state(&self) -> MutexGuard<'_, State> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.waiting.retain(|waiter| !waiter.start.is_closed());
        state
    }

    fn refuse(&self, state: &mut State, need: Need, priority: Priority) -> Result<(), Refusal> {
        if self.gauge.level() == Level::Full {
            return Err(Refusal::Memory);
        }
        let length = self.rules.length;
        // The length counts for each priority by itself: photos that wait do not get a health check refused.
        let ahead = state.waiting.iter().filter(|waiter| waiter.priority == priority).count();
        let free = self.free_permit(state, priority, false).is_some() && ahead == 0;
        if !free && ahead >= length {
            return Err(Refusal::Full { length });
        }
        while let Some(missing) = self.ledger.short_of(need) {
            if (self.make_room)() {
                continue;
            }
            let never = self.ledger.never_fits(need).is_some();
            if !never && state.normal + state.high > 0 {
                // The models that take the room are in use, and can be unloaded afterwards.
                break;
            }
            let needed = need.instance.saturating_add(need.activation);
            return Err(Refusal::NeverFits { needed, missing });
        }
        Ok(())
    }

    /// The kind of permit that a request of this priority can have now. One of high priority takes a permit
    /// of the others only if none of them waits, or if an instance at work waits for it.
    fn free_permit(&self, state: &State, priority: Priority, is_call: bool) -> Option<Priority> {
        if priority == Priority::High && state.high < HIGH_PRIORITY_PERMITS {
            return Some(Priority::High);
        }
        let may_take = priority == Priority::Normal
            || is_call
            || state.waiting.iter().all(|waiter| waiter.priority == Priority::High);
        (may_take && state.normal < self.rules.permits).then_some(Priority::Normal)
    }

    /// Starts requests from the head of the queue while they have a permit and fit.
    fn advance(queue: &Arc<Self>) {
        // The permit of a client that has left is dropped after the lock, which its `drop` takes.
        let mut untaken = Vec::new();
        let mut state = queue.state();
        let mut position = 0;
        while let Some(waiter) = state.waiting.get(position) {
            let need = waiter.need;
            let Some(priority) = queue.free_permit(&state, waiter.priority, waiter.is_call) else {
                // A request behind it may have the other priority, which has permits of its own.
                position += 1;
                continue;
            };
            let Some(reservation) = queue.reserve(need) else { break };
            let Some(waiter) = state.waiting.remove(position) else { break };
            match priority {
                Priority::Normal => state.normal += 1,
                Priority::High => state.high += 1,
            }
            let reservation = Some(reservation);
            let permit = Permit { queue: Arc::clone(queue), priority, reservation, call: None };
            untaken.extend(waiter.start.send(permit).err());
        }
        drop(state);
        drop(untaken);
    }

    fn reserve(&self, need: Need) -> Option<Reservation> {
        if self.gauge.level() >= Level::Tight {
            // The caller of `advance` tries again later.
            return None;
        }
        loop {
            if let Some(reservation) = self.ledger.try_reserve(need) {
                return Some(reservation);
            }
            // Only idle models are unloaded; memory of running requests is waited for.
            if !(self.make_room)() {
                return None;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Admission, Calls, Priority, Refusal, Rules};
    use crate::memory::{Budget, Gauge, Ledger, Need};
    use std::sync::Arc;
    use std::time::Duration;

    const NEED: Need = Need { instance: 10, activation: 0 };

    fn queue(permits: usize, length: usize, budget: Option<u64>) -> Admission {
        let timeout = Duration::from_secs(2);
        let gauge = Arc::new(Gauge::new(Budget::default()));
        let ledger = Arc::new(Ledger::new(budget, 0, 0));
        Admission::new(Rules { permits, length, timeout }, ledger, gauge, Box::new(|| false))
    }

    #[tokio::test(start_paused = true)]
    async fn the_queue_has_a_length_and_a_timeout() {
        let queue = queue(1, 1, None);
        let permit = queue.enter(NEED, Priority::Normal).await.unwrap();
        let mut second = Box::pin(queue.enter(NEED, Priority::Normal));
        assert!(polled(&mut second).is_none(), "the second one waits");
        assert_eq!((queue.at_work(), queue.waiting()), (1, 1));
        let full = Refusal::Full { length: 1 };
        assert_eq!(queue.check(NEED, Priority::Normal), Err(full.clone()));
        assert_eq!(queue.enter(NEED, Priority::Normal).await.err(), Some(full));
        assert_eq!(queue.waiting(), 1, "the refused request has left the queue");
        drop(permit);
        let permit = second.await.unwrap();
        assert_eq!((queue.at_work(), queue.waiting()), (1, 0));
        let late = queue.enter(NEED, Priority::Normal).await.err();
        assert_eq!(late, Some(Refusal::TooLong(Duration::from_secs(2))));
        drop(permit);
        assert_eq!((queue.at_work(), queue.waiting()), (0, 0));
    }

    #[tokio::test]
    async fn a_request_that_is_dropped_leaves_the_queue() {
        let queue = queue(1, 8, None);
        let _permit = queue.enter(NEED, Priority::Normal).await.unwrap();
        let mut second = Box::pin(queue.enter(NEED, Priority::Normal));
        assert!(polled(&mut second).is_none());
        drop(second);
        assert_eq!(queue.waiting(), 0);
    }

    #[tokio::test]
    async fn a_request_that_never_fits_is_refused_and_others_wait() {
        let queue = queue(4, 8, Some(25));
        let first = queue.enter(NEED, Priority::Normal).await.unwrap();
        let _second = queue.enter(NEED, Priority::Normal).await.unwrap();
        let mut third = Box::pin(queue.enter(NEED, Priority::Normal));
        assert!(polled(&mut third).is_none(), "there are permits, but no room");
        drop(first);
        assert!(polled(&mut third).is_some_and(|permit| permit.is_ok()));
        let vast = Need { instance: 20, activation: 6 };
        let refusal = Refusal::NeverFits { needed: 26, missing: 1 };
        assert_eq!(queue.enter(vast, Priority::Normal).await.err(), Some(refusal));
    }

    #[tokio::test]
    async fn a_request_without_a_body_does_not_wait_behind_those_with_one() {
        let queue = queue(1, 1, None);
        let permit = queue.enter(NEED, Priority::Normal).await.unwrap();
        let mut waiting = Box::pin(queue.enter(NEED, Priority::Normal));
        assert!(polled(&mut waiting).is_none());
        assert!(queue.check(NEED, Priority::Normal).is_err(), "the queue is full");
        let quick = queue.enter(NEED, Priority::High).await.unwrap();
        assert_eq!((queue.at_work(), queue.waiting()), (2, 1));
        drop(quick);
        assert!(polled(&mut waiting).is_none(), "a permit of high priority is not for it");
        drop(permit);
        assert!(polled(&mut waiting).is_some());
    }

    #[tokio::test]
    async fn requests_without_a_body_take_free_permits_while_no_photo_waits() {
        let queue = queue(3, 8, None);
        let mut quick = Vec::new();
        for _ in 0..5 {
            quick.push(queue.enter(NEED, Priority::High).await.unwrap());
        }
        let kinds: Vec<_> = quick.iter().map(|permit| permit.priority()).collect();
        assert_eq!(kinds, [[Priority::High; 2].as_slice(), &[Priority::Normal; 3]].concat());
        let mut photo = Box::pin(queue.enter(NEED, Priority::Normal));
        let mut late = Box::pin(queue.enter(NEED, Priority::High));
        assert!(polled(&mut photo).is_none() && polled(&mut late).is_none(), "all are taken");
        drop(quick.pop());
        let photo = polled(&mut photo);
        assert!(photo.is_some(), "the photo is next for a permit of all");
        assert!(polled(&mut late).is_none());
        drop(quick.remove(0));
        assert!(polled(&mut late).is_some(), "two stay kept for requests without a body");
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_is_refused_where_only_callers_could_make_room() {
        let queue = queue(1, 8, None);
        let calls: Vec<Calls> = (0..4).map(|_| Calls::default()).collect();
        let first = queue.enter(NEED, Priority::Normal).await.unwrap();
        let second = queue.enter_call(NEED, &calls[0]).await.unwrap();
        let third = queue.enter_call(NEED, &calls[1]).await.unwrap();
        assert_eq!(queue.enter_call(NEED, &calls[2]).await.err(), Some(Refusal::Callers));
        let mut waiting = Box::pin(queue.enter_call(NEED, &calls[0]));
        assert!(polled(&mut waiting).is_none(), "the third waits for nobody, and will make room");
        drop(third);
        let third = polled(&mut waiting).unwrap().unwrap();
        drop((first, second, third));
        assert_eq!((queue.at_work(), queue.0.state().callers), (0, 0));
    }

    /// Polls once.
    fn polled<F: Future + Unpin>(future: &mut F) -> Option<F::Output> {
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        match std::pin::Pin::new(future).poll(&mut context) {
            std::task::Poll::Ready(output) => Some(output),
            std::task::Poll::Pending => None,
        }
    }
}
