//! The line at the door: a request is let in when a slot is free and what it may take still fits the
//! budget; so many may wait, so long; the rest are told to come back.
//!
//! Whoever drops its place, such as a client that hangs up, leaves the line at once. Requests without a
//! body, such as health checks, have slots of their own and stand in front.

use crate::memory::{Gauge, Ledger, Level, Need, Reservation};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::oneshot;

/// Slots for requests without a body, beside all others.
pub const LIGHT_SLOTS: usize = 2;

/// What a request is to the door.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Weight {
    /// It brings a body.
    Full,
    /// It brings none: short, as a rule, and not to wait behind those that bring one.
    Light,
}

/// How the door is kept.
#[derive(Debug, Clone)]
pub struct Rules {
    /// Requests at work at the same time.
    pub slots: usize,
    /// Requests that may wait.
    pub length: usize,
    /// How long they may.
    pub patience: Duration,
}

/// Frees memory of something idle; whether there was something.
pub type MakeRoom = Box<dyn Fn() -> bool + Send + Sync>;

/// The door.
pub struct Admission(Arc<Door>);

struct Door {
    rules: Rules,
    ledger: Arc<Ledger>,
    gauge: Arc<Gauge>,
    make_room: MakeRoom,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    full: usize,
    light: usize,
    line: VecDeque<Waiter>,
}

struct Waiter {
    need: Need,
    weight: Weight,
    start: oneshot::Sender<Slot>,
}

/// Why a request was not let in.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// As many are waiting as may.
    #[error("{length} requests are waiting already")]
    Full {
        /// How many may wait.
        length: usize,
    },
    /// It waited as long as one may.
    #[error("no slot came free within {0:?}")]
    TooLong(Duration),
    /// Every place for a connection is taken.
    #[error("as many clients are connected as there is room for")]
    Connections,
    /// One address has as many connections as it may.
    #[error("this address has as many connections as it may")]
    Address,
    /// Memory is at its last line of defence.
    #[error("memory is at 95 % of its limit")]
    Memory,
    /// It can never fit.
    #[error(
        "a request like this takes {needed} bytes at most, and {missing} of them are not in the \
         memory limit"
    )]
    NeverFits {
        /// Bytes it would be promised.
        needed: u64,
        /// Bytes there are too few.
        missing: u64,
    },
}

impl Refusal {
    /// The reason as a metric's label.
    #[must_use]
    pub fn label(&self) -> &'static str {
        match self {
            Self::Full { .. } => "line-full",
            Self::TooLong(_) => "waited-too-long",
            Self::Connections => "connections",
            Self::Address => "address",
            Self::Memory => "memory",
            Self::NeverFits { .. } => "never-fits",
        }
    }
}

/// The right to be at work, until dropped.
pub struct Slot {
    door: Arc<Door>,
    weight: Weight,
    reservation: Option<Reservation>,
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.reservation = None;
        {
            let mut state = self.door.state();
            match self.weight {
                Weight::Full => state.full -= 1,
                Weight::Light => state.light -= 1,
            }
        }
        Door::advance(&self.door);
    }
}

impl Admission {
    /// A door by these rules, with `ledger` to promise from and `make_room` to call when it is short.
    #[must_use]
    pub fn new(rules: Rules, ledger: Arc<Ledger>, gauge: Arc<Gauge>, make_room: MakeRoom) -> Self {
        Self(Arc::new(Door { rules, ledger, gauge, make_room, state: Mutex::default() }))
    }

    /// Whether the next one would be refused: asked before a body is read for nothing.
    ///
    /// # Errors
    /// [`Refusal`].
    pub fn check(&self, need: Need, weight: Weight) -> Result<(), Refusal> {
        let mut state = self.0.state();
        self.0.refuse(&mut state, need, weight)
    }

    /// Waits for a slot.
    ///
    /// # Errors
    /// [`Refusal`], at once where the line is full or it is of no use to wait.
    pub async fn enter(&self, need: Need, weight: Weight) -> Result<Slot, Refusal> {
        let begun = {
            let mut state = self.0.state();
            self.0.refuse(&mut state, need, weight)?;
            let (start, begun) = oneshot::channel();
            let waiter = Waiter { need, weight, start };
            match weight {
                Weight::Full => state.line.push_back(waiter),
                Weight::Light => {
                    let light = |waiter: &Waiter| waiter.weight == Weight::Light;
                    let behind = state.line.iter().take_while(|waiter| light(waiter)).count();
                    state.line.insert(behind, waiter);
                }
            }
            begun
        };
        Door::advance(&self.0);
        let patience = self.0.rules.patience;
        match tokio::time::timeout(patience, begun).await {
            Ok(Ok(slot)) => Ok(slot),
            // The sender is never dropped unsent, so only patience can run out.
            Ok(Err(_)) | Err(_) => Err(Refusal::TooLong(patience)),
        }
    }

    /// Lets in whoever fits by now: called from time to time, since memory may come free elsewhere.
    pub fn advance(&self) {
        Door::advance(&self.0);
    }

    /// Requests at work.
    #[must_use]
    pub fn at_work(&self) -> usize {
        let state = self.0.state();
        state.full + state.light
    }

    /// Requests in line.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.0.state().line.len()
    }
}

impl Door {
    /// The state, without those who have left the line.
    fn state(&self) -> MutexGuard<'_, State> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.line.retain(|waiter| !waiter.start.is_closed());
        state
    }

    fn refuse(&self, state: &mut State, need: Need, weight: Weight) -> Result<(), Refusal> {
        if self.gauge.level() == Level::Full {
            return Err(Refusal::Memory);
        }
        let length = self.rules.length;
        // Each weight has a line of its own to be full: a health check is not refused for photos that wait.
        let ahead = state.line.iter().filter(|waiter| waiter.weight == weight).count();
        let free = self.has_slot(state, weight) && ahead == 0;
        if !free && ahead >= length {
            return Err(Refusal::Full { length });
        }
        while let Some(missing) = self.ledger.short_of(need) {
            if (self.make_room)() {
                continue;
            }
            let never = self.ledger.never_fits(need).is_some();
            if !never && state.full + state.light > 0 {
                // The models in the way are at work; they can go when that has ended.
                break;
            }
            let needed = need.instance.saturating_add(need.activation);
            return Err(Refusal::NeverFits { needed, missing });
        }
        Ok(())
    }

    fn has_slot(&self, state: &State, weight: Weight) -> bool {
        match weight {
            Weight::Full => state.full < self.rules.slots,
            Weight::Light => state.light < LIGHT_SLOTS,
        }
    }

    /// Starts as many from the head of the line as have a slot and fit.
    fn advance(door: &Arc<Self>) {
        // A slot that nobody takes any more is dropped after the lock, which its end needs.
        let mut untaken = Vec::new();
        let mut state = door.state();
        let mut position = 0;
        while let Some(waiter) = state.line.get(position) {
            let (need, weight) = (waiter.need, waiter.weight);
            if !door.has_slot(&state, weight) {
                // Those without a body need another kind of slot than those behind them.
                position += 1;
                continue;
            }
            let Some(reservation) = door.reserve(need) else { break };
            let Some(waiter) = state.line.remove(position) else { break };
            match weight {
                Weight::Full => state.full += 1,
                Weight::Light => state.light += 1,
            }
            let reservation = Some(reservation);
            untaken.extend(
                waiter.start.send(Slot { door: Arc::clone(door), weight, reservation }).err(),
            );
        }
        drop(state);
        drop(untaken);
    }

    fn reserve(&self, need: Need) -> Option<Reservation> {
        if self.gauge.level() >= Level::Tight {
            // Whoever tidies up calls again.
            return None;
        }
        loop {
            if let Some(reservation) = self.ledger.try_reserve(need) {
                return Some(reservation);
            }
            // Nothing but idle models may be in the way; requests at work are waited for.
            if !(self.make_room)() {
                return None;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Admission, Refusal, Rules, Weight};
    use crate::memory::{Budget, Gauge, Ledger, Need};
    use std::sync::Arc;
    use std::time::Duration;

    const NEED: Need = Need { instance: 10, activation: 0 };

    fn door(slots: usize, length: usize, budget: Option<u64>) -> Admission {
        let patience = Duration::from_secs(2);
        let gauge = Arc::new(Gauge::new(Budget::default()));
        let ledger = Arc::new(Ledger::new(budget, 0, 0));
        Admission::new(Rules { slots, length, patience }, ledger, gauge, Box::new(|| false))
    }

    #[tokio::test(start_paused = true)]
    async fn the_line_has_an_end_and_a_patience() {
        let door = door(1, 1, None);
        let slot = door.enter(NEED, Weight::Full).await.unwrap();
        let mut second = Box::pin(door.enter(NEED, Weight::Full));
        assert!(polled(&mut second).is_none(), "the second one waits");
        assert_eq!((door.at_work(), door.waiting()), (1, 1));
        let full = Refusal::Full { length: 1 };
        assert_eq!(door.check(NEED, Weight::Full), Err(full.clone()));
        assert_eq!(door.enter(NEED, Weight::Full).await.err(), Some(full));
        assert_eq!(door.waiting(), 1, "who was refused has left the line");
        drop(slot);
        let slot = second.await.unwrap();
        assert_eq!((door.at_work(), door.waiting()), (1, 0));
        let late = door.enter(NEED, Weight::Full).await.err();
        assert_eq!(late, Some(Refusal::TooLong(Duration::from_secs(2))));
        drop(slot);
        assert_eq!((door.at_work(), door.waiting()), (0, 0));
    }

    #[tokio::test]
    async fn who_hangs_up_leaves_the_line() {
        let door = door(1, 8, None);
        let _slot = door.enter(NEED, Weight::Full).await.unwrap();
        let mut second = Box::pin(door.enter(NEED, Weight::Full));
        assert!(polled(&mut second).is_none());
        drop(second);
        assert_eq!(door.waiting(), 0);
    }

    #[tokio::test]
    async fn what_does_not_fit_waits_and_what_never_fits_is_told() {
        let door = door(4, 8, Some(25));
        let first = door.enter(NEED, Weight::Full).await.unwrap();
        let _second = door.enter(NEED, Weight::Full).await.unwrap();
        let mut third = Box::pin(door.enter(NEED, Weight::Full));
        assert!(polled(&mut third).is_none(), "there are slots, but no room");
        drop(first);
        assert!(polled(&mut third).is_some_and(|slot| slot.is_ok()));
        let vast = Need { instance: 20, activation: 6 };
        let refusal = Refusal::NeverFits { needed: 26, missing: 1 };
        assert_eq!(door.enter(vast, Weight::Full).await.err(), Some(refusal));
    }

    #[tokio::test]
    async fn a_request_without_a_body_does_not_wait_behind_those_with_one() {
        let door = door(1, 1, None);
        let slot = door.enter(NEED, Weight::Full).await.unwrap();
        let mut waiting = Box::pin(door.enter(NEED, Weight::Full));
        assert!(polled(&mut waiting).is_none());
        assert!(door.check(NEED, Weight::Full).is_err(), "the line is full of those with one");
        let light = door.enter(NEED, Weight::Light).await.unwrap();
        assert_eq!((door.at_work(), door.waiting()), (2, 1));
        drop(light);
        assert!(polled(&mut waiting).is_none(), "a light slot is not for it");
        drop(slot);
        assert!(polled(&mut waiting).is_some());
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
