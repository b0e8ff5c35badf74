//! The ledger of reservations: a request starts only if the most it may take still fits the budget.
//!
//! Numbers only: waiting for room is left to `admission`, and models are held by `nn`.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Stands for no limit: more than any machine has.
const NO_LIMIT: u64 = u64::MAX;

/// The most memory that one request may take, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Need {
    /// Its instance's linear memory, and the host's memory for it: tensors, the answer.
    pub instance: u64,
    /// The peak of one run of the models it may use.
    pub activation: u64,
}

/// All reservations, against a budget.
#[derive(Debug)]
pub struct Ledger {
    /// In bytes; [`NO_LIMIT`] stands for no budget.
    budget: AtomicU64,
    /// The runner itself, connections and uploads: reserved once, at the start.
    fixed: u64,
    /// Left to cached pages of mapped files. A request that is alone may take it, so that a small budget
    /// still serves one.
    pages: u64,
    accounts: Mutex<Accounts>,
}

/// Memory of one loaded model, in bytes.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ModelShare {
    /// Private memory, whether it runs or not.
    pub(crate) private: u64,
    /// Memory kept after its last run and reused by the next.
    pub(crate) kept: u64,
}

#[derive(Debug, Default)]
struct Accounts {
    /// The reservations of all requests at work.
    requests: Need,
    /// Answers that clients are still reading.
    answers: u64,
    /// All loaded models, in the order of loading.
    models: BTreeMap<u64, ModelShare>,
    loads: u64,
}

impl Accounts {
    /// The sum of reservations with these requests and answers.
    fn total(&self, fixed: u64, requests: Need, answers: u64) -> u64 {
        let sum = |part: fn(&ModelShare) -> u64| self.models.values().map(part).fold(0, add);
        let (private, kept) = (sum(|model| model.private), sum(|model| model.kept));
        // Memory that a model keeps is reused by its next run, so it does not count twice. Which model will
        // run is not known; the one that keeps the least is assumed.
        let least = self.models.values().map(|model| model.kept).min().unwrap_or(0);
        let runs = requests.activation.saturating_add(kept - least).max(kept);
        [fixed, private, requests.instance, runs, answers].into_iter().fold(0, add)
    }
}

fn add(a: u64, b: u64) -> u64 {
    a.saturating_add(b)
}

impl Ledger {
    /// A ledger in which `fixed` bytes of `budget` are reserved, and `pages` bytes unless a request is alone.
    #[must_use]
    pub fn new(budget: Option<u64>, fixed: u64, pages: u64) -> Self {
        let budget = AtomicU64::new(budget.unwrap_or(NO_LIMIT));
        Self { budget, fixed, pages, accounts: Mutex::default() }
    }

    /// Changes the budget. Existing reservations stay.
    pub fn set_budget(&self, bytes: u64) {
        self.budget.store(bytes, Ordering::Relaxed);
    }

    /// Reserves `need`, if it fits beside all other reservations.
    #[must_use]
    pub fn try_reserve(self: &Arc<Self>, need: Need) -> Option<Reservation> {
        let mut accounts = self.accounts();
        let now = accounts.requests;
        let with = Need {
            instance: now.instance.saturating_add(need.instance),
            activation: now.activation.saturating_add(need.activation),
        };
        let pages = if now == Need::default() { 0 } else { self.pages };
        let total = accounts.total(self.fixed, with, accounts.answers).saturating_add(pages);
        if self.budget().is_some_and(|budget| total > budget) {
            return None;
        }
        accounts.requests = with;
        Some(Reservation { ledger: Arc::clone(self), need })
    }

    /// Bytes missing for `need` beside the loaded models alone; `None` if it fits.
    #[must_use]
    pub fn short_of(&self, need: Need) -> Option<u64> {
        self.missing(&self.accounts(), need)
    }

    /// Bytes missing for `need` without any model or other request; `None` if it fits.
    #[must_use]
    pub fn never_fits(&self, need: Need) -> Option<u64> {
        self.missing(&Accounts::default(), need)
    }

    /// Bytes missing for `need` beside the models of `accounts`.
    fn missing(&self, accounts: &Accounts, need: Need) -> Option<u64> {
        let total = accounts.total(self.fixed, need, 0);
        total.checked_sub(self.budget()?).filter(|&missing| missing > 0)
    }

    /// Counts an answer's bytes until its client has read it. Never refused: the answer exists already.
    pub(crate) fn hold_answer(self: &Arc<Self>, bytes: u64) -> AnswerHold {
        let mut accounts = self.accounts();
        accounts.answers = accounts.answers.saturating_add(bytes);
        AnswerHold { ledger: Arc::clone(self), bytes }
    }

    /// Counts a loaded model's memory until it is unloaded. Never refused: the model is loaded already.
    pub(crate) fn hold_model(self: &Arc<Self>, share: ModelShare) -> ModelHold {
        let mut accounts = self.accounts();
        accounts.loads += 1;
        let number = accounts.loads;
        accounts.models.insert(number, share);
        ModelHold { ledger: Arc::clone(self), number }
    }

    /// Whether a model of this size fits beside all reservations.
    pub(crate) fn has_room_for(&self, share: ModelShare) -> bool {
        let wanted = share.private.saturating_add(share.kept);
        self.budget().is_none_or(|budget| self.reserved().saturating_add(wanted) <= budget)
    }

    /// Bytes reserved in all.
    #[must_use]
    pub fn reserved(&self) -> u64 {
        let accounts = self.accounts();
        let total = accounts.total(self.fixed, accounts.requests, accounts.answers);
        total.saturating_add(self.pages)
    }

    /// The budget in bytes, if there is one.
    #[must_use]
    pub fn budget(&self) -> Option<u64> {
        Some(self.budget.load(Ordering::Relaxed)).filter(|&bytes| bytes != NO_LIMIT)
    }

    fn accounts(&self) -> MutexGuard<'_, Accounts> {
        self.accounts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A request's reservation, until dropped.
#[derive(Debug)]
pub struct Reservation {
    ledger: Arc<Ledger>,
    need: Need,
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let mut accounts = self.ledger.accounts();
        accounts.requests.instance -= self.need.instance;
        accounts.requests.activation -= self.need.activation;
    }
}

/// An answer's bytes, until dropped.
#[derive(Debug)]
pub(crate) struct AnswerHold {
    ledger: Arc<Ledger>,
    bytes: u64,
}

impl Drop for AnswerHold {
    fn drop(&mut self) {
        self.ledger.accounts().answers -= self.bytes;
    }
}

/// A loaded model's entry, until dropped.
#[derive(Debug)]
pub(crate) struct ModelHold {
    ledger: Arc<Ledger>,
    number: u64,
}

impl ModelHold {
    /// Replaces the entry by what is known now.
    pub(crate) fn correct(&self, share: ModelShare) {
        self.ledger.accounts().models.insert(self.number, share);
    }
}

impl Drop for ModelHold {
    fn drop(&mut self) {
        self.ledger.accounts().models.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::{Ledger, ModelShare, Need};
    use std::sync::Arc;

    #[test]
    fn needs_beyond_the_budget_are_not_reserved() {
        let ledger = Arc::new(Ledger::new(Some(100), 20, 0));
        let need = Need { instance: 20, activation: 10 };
        let first = ledger.try_reserve(need).unwrap();
        let second = ledger.try_reserve(need).unwrap();
        assert_eq!(ledger.reserved(), 80);
        assert!(ledger.try_reserve(need).is_none());
        let model = ledger.hold_model(ModelShare { private: 15, kept: 0 });
        assert!(ledger.try_reserve(Need { instance: 6, activation: 0 }).is_none());
        drop(first);
        assert_eq!(ledger.reserved(), 65);
        model.correct(ModelShare { private: 15, kept: 25 });
        assert_eq!(ledger.reserved(), 80, "memory that a model keeps is reused by its next run");
        drop(second);
        let answer = ledger.hold_answer(7);
        assert_eq!(ledger.reserved(), 20 + 15 + 25 + 7);
        drop(answer);
        assert_eq!(ledger.short_of(Need { instance: 60, activation: 30 }), Some(25));
        assert_eq!(ledger.short_of(need), None);
        drop(model);
        assert_eq!(ledger.reserved(), 20, "a model that is gone holds nothing");
    }

    #[test]
    fn memory_kept_by_other_models_counts_beside_a_run() {
        let ledger = Arc::new(Ledger::new(Some(1000), 0, 0));
        let [_a, _b] = [10, 30].map(|kept| ledger.hold_model(ModelShare { private: 1, kept }));
        assert_eq!(ledger.reserved(), 2 + 40);
        let _run = ledger.try_reserve(Need { instance: 0, activation: 30 }).unwrap();
        assert_eq!(ledger.reserved(), 2 + 30 + 30);
    }

    #[test]
    fn a_request_that_is_alone_may_take_the_memory_of_pages() {
        let ledger = Arc::new(Ledger::new(Some(100), 20, 30));
        let need = Need { instance: 60, activation: 10 };
        let alone = ledger.try_reserve(need).unwrap();
        drop(alone);
        let small = Need { instance: 20, activation: 0 };
        let _first = ledger.try_reserve(small).unwrap();
        let _second = ledger.try_reserve(small).unwrap();
        assert!(ledger.try_reserve(small).is_none(), "pages come before a third");
    }

    #[test]
    fn the_budget_may_shrink_and_grow() {
        let ledger = Arc::new(Ledger::new(Some(100), 20, 0));
        let need = Need { instance: 50, activation: 0 };
        let first = ledger.try_reserve(need).unwrap();
        ledger.set_budget(60);
        drop(first);
        assert_eq!((ledger.never_fits(need), ledger.budget()), (Some(10), Some(60)));
        ledger.set_budget(130);
        let _two = [ledger.try_reserve(need).unwrap(), ledger.try_reserve(need).unwrap()];
        assert!(ledger.try_reserve(need).is_none());
    }

    #[test]
    fn without_a_budget_everything_fits_and_is_still_counted() {
        let ledger = Arc::new(Ledger::new(None, 1, 0));
        let _held = ledger.try_reserve(Need { instance: u64::MAX, activation: 1 }).unwrap();
        assert_eq!(ledger.reserved(), u64::MAX);
    }
}
