//! Counts what answers say of their own worth, by model, and looks for drift among the latest of each.

use super::Labels;
use crate::certainty::{Certainty, FEWEST, WINDOW, drift};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use std::collections::{HashMap, VecDeque};
use std::sync::atomic::AtomicU64;
use std::sync::{Mutex, PoisonError};

/// Histogram bounds of scores, whose limit is 1.
const SCORES: [f64; 14] = [0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.25, 1.5, 2.0, 3.0, 5.0, 10.0];
const VERDICTS: [&str; 3] = ["certain", "uncertain", "unfamiliar"];

/// The counters, and the latest deviations of each model.
pub(super) struct Answers {
    verdicts: Family<Labels<2>, Counter>,
    scores: Family<Labels<1>, Histogram, fn() -> Histogram>,
    drifts: Family<Labels<1>, Gauge<f64, AtomicU64>>,
    latest: Mutex<HashMap<String, VecDeque<f64>>>,
}

impl Default for Answers {
    fn default() -> Self {
        Self {
            verdicts: Family::default(),
            scores: Family::new_with_constructor(|| Histogram::new(SCORES)),
            drifts: Family::default(),
            latest: Mutex::default(),
        }
    }
}

impl Answers {
    pub(super) fn register(&self, to: &mut Registry) {
        let words =
            "Answers by model and what they say of themselves: certain, uncertain, unfamiliar";
        to.register("skincell_answers", words, self.verdicts.clone());
        let words = "Distance from what the model knows; above 1 the input is unfamiliar";
        to.register("skincell_familiarity_score", words, self.scores.clone());
        let words = format!(
            "Welch's statistic of the latest {WINDOW} inputs against those the model knows; 0 for fewer than \
             {FEWEST}"
        );
        to.register("skincell_familiarity_drift", words, self.drifts.clone());
    }

    /// Creates the series of a model at 0.
    pub(super) fn expect(&self, model: &str) {
        for verdict in VERDICTS {
            drop(self.verdicts.get_or_create(&verdict_of(model, verdict)));
        }
        let label = [("model", model.to_owned())];
        drop(self.scores.get_or_create(&label));
        drop(self.drifts.get_or_create(&label));
    }

    /// Counts an answer, whose model must be one that the component was granted.
    pub(super) fn add(&self, answer: &Certainty) {
        let model = answer.model.as_str();
        self.verdicts.get_or_create(&verdict_of(model, answer.verdict())).inc();
        let Some(familiarity) = answer.familiarity else { return };
        let label = [("model", model.to_owned())];
        self.scores.get_or_create(&label).observe(familiarity.score);
        let mut latest = self.latest.lock().unwrap_or_else(PoisonError::into_inner);
        let window = latest.entry(model.to_owned()).or_default();
        window.push_back(familiarity.deviation);
        if window.len() > WINDOW {
            window.pop_front();
        }
        let drift = drift(window.make_contiguous(), familiarity.reference).unwrap_or_default();
        self.drifts.get_or_create(&label).set(drift);
    }
}

fn verdict_of(model: &str, verdict: &str) -> Labels<2> {
    [("model", model.to_owned()), ("verdict", verdict.to_owned())]
}
