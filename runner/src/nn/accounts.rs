//! The accounts of all models: the memory that they share with requests, and their metrics. Choosing the
//! model to evict is left to `registry`, through a callback.

use crate::memory::{Gauge, Ledger, Level, ModelHold, ModelShare, Need, Reservation};
use crate::metrics::Metrics;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Why a model was unloaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unload {
    /// It was unused for a while.
    Idle,
    /// Its memory was needed.
    Evicted,
    /// Its files were replaced or damaged.
    Changed,
}

impl Unload {
    /// The reason as a metric's label.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Evicted => "evicted",
            Self::Changed => "changed",
        }
    }
}

/// Unloads one idle model, but not the one of this name. Returns whether there was one.
type MakeRoom = Box<dyn Fn(Option<&str>) -> bool + Send + Sync>;

/// The accounts of all models together.
pub(super) struct ModelAccounts {
    began: Instant,
    ledger: Arc<Ledger>,
    gauge: Arc<Gauge>,
    metrics: Arc<Metrics>,
    make_room: MakeRoom,
}

impl ModelAccounts {
    pub(super) fn new(
        ledger: Arc<Ledger>,
        gauge: Arc<Gauge>,
        metrics: Arc<Metrics>,
        make_room: MakeRoom,
    ) -> Self {
        Self { began: Instant::now(), ledger, gauge, metrics, make_room }
    }

    /// Whether memory is nearly used up.
    pub(super) fn is_tight(&self) -> bool {
        self.gauge.level() >= Level::Tight
    }

    /// Unloads idle models until a model with this share fits, or none is idle.
    pub(super) fn make_room_for(&self, name: &str, share: ModelShare) {
        let fits = || self.ledger.has_room_for(share) && !self.is_tight();
        while !fits() && (self.make_room)(Some(name)) {}
    }

    /// Reserves `more` bytes for a run, beyond its request's reservation; `None` if there is no room, even
    /// after unloading idle models.
    pub(super) fn reserve(&self, more: u64) -> Option<Reservation> {
        let need = Need { instance: 0, activation: more };
        loop {
            if let Some(reservation) = self.ledger.try_reserve(need) {
                return Some(reservation);
            }
            if !(self.make_room)(None) {
                return None;
            }
        }
    }

    /// Counts a model's memory in the ledger.
    pub(super) fn hold(&self, share: ModelShare) -> ModelHold {
        self.ledger.hold_model(share)
    }

    /// Creates the model's counters, at 0.
    pub(super) fn expect(&self, name: &str) {
        self.metrics.expect_model(name);
    }

    pub(super) fn loaded(&self, name: &str, took: Duration) {
        self.metrics.loaded(name, took);
    }

    pub(super) fn load_failed(&self, name: &str) {
        self.metrics.load_failed(name);
    }

    pub(super) fn unloaded(&self, name: &str, why: Unload) {
        self.metrics.unloaded(name, why.label());
    }

    pub(super) fn ran(&self, took: Duration) {
        self.metrics.stage("inference", took);
    }

    /// Milliseconds since the accounts were created.
    pub(super) fn milliseconds(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}
