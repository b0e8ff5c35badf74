//! Counters of everything that has happened, for Prometheus and for `/memory`.
//!
//! Standard units and names: `_seconds`, `_bytes`, `_total`. Gauges (memory, models, the queue) are set by
//! `admin` when they are read.

mod answers;
mod process;
mod text;

pub(crate) use process::Process;
pub(crate) use text::Format;

use crate::certainty::Certainty;
use crate::output_queue;
use answers::Answers;
use http::Method;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

type Labels<const N: usize> = [(&'static str, String); N];

/// Why requests are refused. Each reason is a series from the start: a missing series is not the same as 0.
const REFUSED: [&str; 9] = [
    "queue-full",
    "queue-timeout",
    "memory",
    "never-fits",
    "callers",
    "connections",
    "address",
    "rate",
    "token",
];
/// Why instances fail; series as above.
const FAILED: [&str; 5] = ["broke-off", "deadline", "memory", "no-instance", "trap"];

/// Histogram bounds in seconds: OpenTelemetry's for server request durations.
const SECONDS: [f64; 14] =
    [0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0];

type Timings = Family<Labels<1>, Histogram, fn() -> Histogram>;

/// All counters of one service.
pub struct Metrics {
    registry: Registry,
    requests: Family<Labels<3>, Counter>,
    duration: Family<Labels<2>, Histogram, fn() -> Histogram>,
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
    cpu_seconds: Counter<f64, AtomicU64>,
    open_files: Gauge,
    start_seconds: Gauge<f64, AtomicU64>,
    lines_dropped: Counter,
    answers: Answers,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// All counters at 0.
    #[must_use]
    pub fn new() -> Self {
        let histogram = || Histogram::new(SECONDS);
        let mut metrics = Self {
            registry: Registry::default(),
            requests: Family::default(),
            duration: Family::new_with_constructor(histogram),
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
            cpu_seconds: Counter::default(),
            open_files: Gauge::default(),
            start_seconds: Gauge::default(),
            lines_dropped: Counter::default(),
            answers: Answers::default(),
        };
        metrics.register_process();
        metrics.register_requests();
        metrics.register_models();
        metrics.answers.register(&mut metrics.registry);
        // Creates the series of all reasons.
        let _ = (metrics.refused_count(), metrics.failed_count());
        metrics
    }

    /// Creates the counters of a model that may be loaded, at 0.
    pub(crate) fn expect_model(&self, model: &str) {
        let label = [("model", model.to_owned())];
        self.answers.expect(model);
        drop(self.loads.get_or_create(&label));
        drop(self.load_failures.get_or_create(&label));
        for reason in ["idle", "evicted", "changed"] {
            let labels = [("model", model.to_owned()), ("reason", reason.to_owned())];
            drop(self.unloads.get_or_create(&labels));
        }
    }

    fn register_process(&mut self) {
        let to = &mut self.registry;
        let build: Family<Labels<1>, Gauge> = Family::default();
        build.get_or_create(&[("version", env!("CARGO_PKG_VERSION").to_owned())]).set(1);
        to.register("skincell_build_info", "The runner's version; always 1", build);
        let words = "Time on the CPU, user and system";
        to.register_with_unit("process_cpu", words, Unit::Seconds, self.cpu_seconds.clone());
        to.register("process_open_fds", "Open files", self.open_files.clone());
        let words = "Lines of the log and of components dropped because they were not read in time";
        to.register("skincell_output_dropped", words, self.lines_dropped.clone());
        let words = "When the process started, in seconds since 1970";
        let start = self.start_seconds.clone();
        to.register_with_unit("process_start_time", words, Unit::Seconds, start);
    }

    fn register_requests(&mut self) {
        let to = &mut self.registry;
        let words = "Answers by method, route and status";
        to.register("http_requests", words, self.requests.clone());
        let words = "From a request's head to the head of its answer";
        to.register_with_unit("http_request_duration", words, Unit::Seconds, self.duration.clone());
        let words = "Stages of a request: read, wait, instance, inference";
        to.register_with_unit("skincell_stage_duration", words, Unit::Seconds, self.stages.clone());
        let words = "Requests refused with 401, 429 or 503, by reason";
        to.register("skincell_requests_refused", words, self.refused.clone());
        let words = "Requests whose instance gave no complete answer, by reason";
        to.register("skincell_requests_failed", words, self.failed.clone());
        to.register("skincell_requests_in_flight", "Requests at work", self.in_flight.clone());
        to.register("skincell_requests_waiting", "Requests in the queue", self.waiting.clone());
        let created = self.instances_created.clone();
        to.register(
            "skincell_instances_created",
            "Instances created, one for each request",
            created,
        );
        let dropped = self.instances_dropped.clone();
        to.register("skincell_instances_dropped", "Instances dropped, with their memory", dropped);
    }

    fn register_models(&mut self) {
        let to = &mut self.registry;
        to.register("skincell_model_loads", "Models loaded", self.loads.clone());
        let failures = self.load_failures.clone();
        to.register("skincell_model_load_failures", "Model loads that failed", failures);
        let seconds = self.load_seconds.clone();
        to.register_with_unit(
            "skincell_model_load",
            "Time to load a model",
            Unit::Seconds,
            seconds,
        );
        let words = "Models unloaded: idle, evicted, or changed on disk";
        to.register("skincell_model_unloads", words, self.unloads.clone());
        let words = "Memory by kind: private, mapped, resident, peak, budget, reserved, held";
        to.register_with_unit("skincell_memory", words, Unit::Bytes, self.memory.clone());
        let words =
            "Memory of loaded models by kind: private, mapped, activation (peak of one run)";
        to.register_with_unit("skincell_model_memory", words, Unit::Bytes, self.models.clone());
    }

    /// Counts an answer. `route` is the manifest's or the runner's own, `None` if none matched; text from
    /// clients never becomes a label.
    pub(crate) fn answered(
        &self,
        method: &Method,
        route: Option<&str>,
        status: u16,
        after: Duration,
    ) {
        let method = ("method", known(method).to_owned());
        let route = ("route", route.unwrap_or("none").to_owned());
        let status = ("status", status.to_string());
        self.duration.get_or_create(&[method.clone(), route.clone()]).observe(after.as_secs_f64());
        self.requests.get_or_create(&[method, route, status]).inc();
    }

    pub(crate) fn set_process(&self, process: &Process) {
        self.cpu_seconds.inner().store(process.cpu_seconds.to_bits(), Ordering::Relaxed);
        self.open_files.set(i64::try_from(process.open_files).unwrap_or(i64::MAX));
        self.start_seconds.set(process.start_seconds);
        let dropped = output_queue::stdout().dropped() + output_queue::stderr().dropped();
        self.lines_dropped.inner().store(dropped, Ordering::Relaxed);
    }

    pub(crate) fn stage(&self, name: &'static str, took: Duration) {
        self.stages.get_or_create(&[("stage", name.to_owned())]).observe(took.as_secs_f64());
    }

    pub(crate) fn refused(&self, reason: &'static str) {
        debug_assert!(REFUSED.contains(&reason), "{reason} is missing in the list");
        self.refused.get_or_create(&[("reason", reason.to_owned())]).inc();
    }

    pub(crate) fn failed(&self, reason: &'static str) {
        debug_assert!(FAILED.contains(&reason), "{reason} is missing in the list");
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

    /// Counts what an answer says of itself. Its model is one of the manifest's.
    pub(crate) fn judged(&self, answer: &Certainty) {
        self.answers.add(answer);
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

    /// Requests refused, for any reason.
    pub(crate) fn refused_count(&self) -> u64 {
        sum(&self.refused, &REFUSED)
    }

    /// Requests whose instance failed.
    pub(crate) fn failed_count(&self) -> u64 {
        sum(&self.failed, &FAILED)
    }

    /// All metrics as text.
    pub(crate) fn text(&self, format: Format) -> String {
        let mut text = String::new();
        // Writing to a string does not fail.
        let _ = encode(&mut text, &self.registry);
        match format {
            Format::OpenMetrics => text,
            Format::Prometheus => text::older(&text),
        }
    }
}

/// A method as a label: one of nine, or `other`.
fn known(method: &Method) -> &str {
    const KNOWN: [Method; 9] = [
        Method::GET,
        Method::HEAD,
        Method::POST,
        Method::PUT,
        Method::DELETE,
        Method::OPTIONS,
        Method::PATCH,
        Method::TRACE,
        Method::CONNECT,
    ];
    if KNOWN.contains(method) { method.as_str() } else { "other" }
}

/// The sum of a counter's series for these reasons, which it creates if they are missing.
fn sum(counter: &Family<Labels<1>, Counter>, reasons: &[&'static str]) -> u64 {
    let of = |reason: &&str| counter.get_or_create(&[("reason", (*reason).to_owned())]).get();
    reasons.iter().map(of).sum()
}

#[cfg(test)]
mod tests {
    use super::{Format, Metrics};
    use http::Method;
    use std::time::Duration;

    #[test]
    fn the_text_has_standard_names_and_units() {
        let metrics = Metrics::new();
        let invented = Method::from_bytes(b"BREW").unwrap();
        metrics.answered(&Method::POST, Some("/..."), 200, Duration::from_millis(30));
        metrics.answered(&invented, None, 404, Duration::from_millis(30));
        metrics.stage("wait", Duration::from_millis(3));
        metrics.refused("memory");
        metrics.refused("token");
        metrics.unloaded("skin", "idle");
        metrics.set_memory("private", 42);
        let text = metrics.text(Format::OpenMetrics);
        for line in [
            "http_requests_total{method=\"POST\",route=\"/...\",status=\"200\"} 1",
            "http_requests_total{method=\"other\",route=\"none\",status=\"404\"} 1",
            "http_request_duration_seconds_count{method=\"POST\",route=\"/...\"} 1",
            "skincell_stage_duration_seconds_bucket{le=\"0.005\",stage=\"wait\"} 1",
            "skincell_requests_refused_total{reason=\"memory\"} 1",
            "skincell_requests_refused_total{reason=\"rate\"} 0",
            "skincell_model_unloads_total{model=\"skin\",reason=\"idle\"} 1",
            "skincell_memory_bytes{kind=\"private\"} 42",
            "# EOF",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
        }
        assert_eq!(metrics.refused_count(), 2, "a missing token is a reason too");
    }
}
