//! What has happened so far, counted for Prometheus and for `/memory`.
//!
//! Standard units and names: `_seconds`, `_bytes`, `_total`. How things stand now (memory, models, the
//! line) is read when somebody asks, by `admin`.

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};
use std::sync::atomic::AtomicU64;
use std::time::Duration;

/// The type of the text: OpenMetrics, which Prometheus asks for first.
pub(crate) const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

type Labels<const N: usize> = [(&'static str, String); N];

/// Seconds, as OpenTelemetry cuts a server's request durations.
const SECONDS: [f64; 14] =
    [0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0];

type Timings = Family<Labels<1>, Histogram, fn() -> Histogram>;

/// All counters of one service.
pub struct Metrics {
    registry: Registry,
    requests: Family<Labels<1>, Counter>,
    duration: Histogram,
    stages: Timings,
    refused: Family<Labels<1>, Counter>,
    failed: Family<Labels<1>, Counter>,
    pub(crate) instances_created: Counter,
    pub(crate) instances_dropped: Counter,
    loads: Family<Labels<1>, Counter>,
    load_failures: Family<Labels<1>, Counter>,
    load_seconds: Histogram,
    unloads: Family<Labels<2>, Counter>,
    memory: Family<Labels<1>, Gauge<u64, AtomicU64>>,
    models: Family<Labels<2>, Gauge<u64, AtomicU64>>,
    in_flight: Gauge,
    waiting: Gauge,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// Nothing has happened yet.
    #[must_use]
    pub fn new() -> Self {
        let histogram = || Histogram::new(SECONDS);
        let mut metrics = Self {
            registry: Registry::default(),
            requests: Family::default(),
            duration: histogram(),
            stages: Family::new_with_constructor(histogram),
            refused: Family::default(),
            failed: Family::default(),
            instances_created: Counter::default(),
            instances_dropped: Counter::default(),
            loads: Family::default(),
            load_failures: Family::default(),
            load_seconds: histogram(),
            unloads: Family::default(),
            memory: Family::default(),
            models: Family::default(),
            in_flight: Gauge::default(),
            waiting: Gauge::default(),
        };
        metrics.register_requests();
        metrics.register_models();
        metrics
    }

    fn register_requests(&mut self) {
        let to = &mut self.registry;
        to.register("http_requests", "Answers by status", self.requests.clone());
        let words = "From a request's head to the head of its answer";
        to.register_with_unit("http_request_duration", words, Unit::Seconds, self.duration.clone());
        let words = "Stages of a request: upload, wait, instance, inference";
        to.register_with_unit("skincell_stage_duration", words, Unit::Seconds, self.stages.clone());
        let words = "Requests turned away with 503, by reason";
        to.register("skincell_requests_refused", words, self.refused.clone());
        let words = "Requests whose instance gave no answer, by reason";
        to.register("skincell_requests_failed", words, self.failed.clone());
        to.register("skincell_requests_in_flight", "Requests at work", self.in_flight.clone());
        to.register("skincell_requests_waiting", "Requests in line", self.waiting.clone());
        let created = self.instances_created.clone();
        to.register("skincell_instances_created", "Instances made, one a request", created);
        let dropped = self.instances_dropped.clone();
        to.register("skincell_instances_dropped", "Instances gone with their memory", dropped);
    }

    fn register_models(&mut self) {
        let to = &mut self.registry;
        to.register("skincell_model_loads", "Models loaded", self.loads.clone());
        let failures = self.load_failures.clone();
        to.register("skincell_model_load_failures", "Models not loaded", failures);
        let seconds = self.load_seconds.clone();
        to.register_with_unit("skincell_model_load", "Loading", Unit::Seconds, seconds);
        let words = "Models unloaded: idle, evicted, or changed on disk";
        to.register("skincell_model_unloads", words, self.unloads.clone());
        let words = "Memory by kind: private, mapped, resident, peak, budget, reserved, held";
        to.register_with_unit("skincell_memory", words, Unit::Bytes, self.memory.clone());
        let words =
            "Memory of loaded models by kind: private, mapped, activation (peak of one run)";
        to.register_with_unit("skincell_model_memory", words, Unit::Bytes, self.models.clone());
    }

    pub(crate) fn answered(&self, status: u16, after: Duration) {
        self.requests.get_or_create(&[("status", status.to_string())]).inc();
        self.duration.observe(after.as_secs_f64());
    }

    pub(crate) fn stage(&self, name: &'static str, took: Duration) {
        self.stages.get_or_create(&[("stage", name.to_owned())]).observe(took.as_secs_f64());
    }

    pub(crate) fn refused(&self, reason: &'static str) {
        self.refused.get_or_create(&[("reason", reason.to_owned())]).inc();
    }

    pub(crate) fn failed(&self, reason: &'static str) {
        self.failed.get_or_create(&[("reason", reason.to_owned())]).inc();
    }

    pub(crate) fn loaded(&self, model: &str, took: Duration) {
        self.loads.get_or_create(&[("model", model.to_owned())]).inc();
        self.load_seconds.observe(took.as_secs_f64());
    }

    pub(crate) fn load_failed(&self, model: &str) {
        self.load_failures.get_or_create(&[("model", model.to_owned())]).inc();
    }

    pub(crate) fn unloaded(&self, model: &str, reason: &'static str) {
        let labels = [("model", model.to_owned()), ("reason", reason.to_owned())];
        self.unloads.get_or_create(&labels).inc();
    }

    pub(crate) fn set_memory(&self, kind: &'static str, bytes: u64) {
        self.memory.get_or_create(&[("kind", kind.to_owned())]).set(bytes);
    }

    pub(crate) fn set_model(&self, model: &str, kind: &'static str, bytes: u64) {
        let labels = [("model", model.to_owned()), ("kind", kind.to_owned())];
        self.models.get_or_create(&labels).set(bytes);
    }

    pub(crate) fn set_line(&self, in_flight: usize, waiting: usize) {
        self.in_flight.set(i64::try_from(in_flight).unwrap_or(i64::MAX));
        self.waiting.set(i64::try_from(waiting).unwrap_or(i64::MAX));
    }

    /// Requests turned away, whatever the reason.
    pub(crate) fn refused_count(&self) -> u64 {
        let reasons = ["line-full", "waited-too-long", "memory", "never-fits"];
        reasons
            .iter()
            .map(|reason| self.refused.get_or_create(&[("reason", (*reason).to_owned())]).get())
            .sum()
    }

    /// Instances that gave no answer.
    pub(crate) fn failed_count(&self) -> u64 {
        let reasons = ["deadline", "memory", "trap"];
        reasons
            .iter()
            .map(|reason| self.failed.get_or_create(&[("reason", (*reason).to_owned())]).get())
            .sum()
    }

    /// All of it as text.
    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        // Writing to a string does not fail.
        let _ = encode(&mut text, &self.registry);
        text
    }
}

#[cfg(test)]
mod tests {
    use super::Metrics;
    use std::time::Duration;

    #[test]
    fn the_text_has_standard_names_and_units() {
        let metrics = Metrics::new();
        metrics.answered(200, Duration::from_millis(30));
        metrics.stage("wait", Duration::from_millis(3));
        metrics.refused("memory");
        metrics.unloaded("skin", "idle");
        metrics.set_memory("private", 42);
        let text = metrics.text();
        for line in [
            "http_requests_total{status=\"200\"} 1",
            "http_request_duration_seconds_count 1",
            "skincell_stage_duration_seconds_bucket{le=\"0.005\",stage=\"wait\"} 1",
            "skincell_requests_refused_total{reason=\"memory\"} 1",
            "skincell_model_unloads_total{model=\"skin\",reason=\"idle\"} 1",
            "skincell_memory_bytes{kind=\"private\"} 42",
            "# EOF",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
        }
        assert_eq!(metrics.refused_count(), 1);
    }
}
