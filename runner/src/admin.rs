//! The runner's own endpoints: `/healthz`, `/readyz`, `/memory`, `/metrics`, and Spin's
//! `/.well-known/spin/…`.
//!
//! They use no component and need no permit, so they answer while everything else is busy. Counting is left
//! to `metrics`.

use crate::memory::ProcessMemory;
use crate::metrics::{self, Process};
use crate::nn::ModelStatus;
use crate::service::Service;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use serde::Serialize;
use serde_json::Value;
use std::collections::BTreeMap;

/// Their paths, without Spin's own.
pub(crate) const PATHS: [&str; 4] = ["/healthz", "/readyz", "/memory", "/metrics"];

/// The beginning of Spin's own paths.
pub(crate) const SPINS: &str = "/.well-known/spin/";

/// Answers a request to the application's port if it is for the runner itself. If the runner has a port of
/// its own, only Spin's paths are answered here.
pub(crate) fn answer<B>(service: &Service, request: &Request<B>) -> Option<Response<Full<Bytes>>> {
    let is_spins = request.uri().path().starts_with(SPINS);
    (is_spins || !service.admin_apart).then(|| answer_all(service, request)).flatten()
}

/// Answers a request if it is for the runner itself, on any port.
pub(crate) fn answer_all<B>(
    service: &Service,
    request: &Request<B>,
) -> Option<Response<Full<Bytes>>> {
    let get = |answer: &dyn Fn() -> Response<Full<Bytes>>| Some(checked(request, answer));
    match request.uri().path() {
        "/healthz" => get(&|| plain(StatusCode::OK, "ok")),
        "/readyz" => get(&|| ready(service)),
        "/metrics" => get(&|| scraped(service, request.headers())),
        "/memory" => get(&|| json(&memory(service))),
        // Spin answers these to every method.
        "/.well-known/spin/health" => Some(plain(StatusCode::OK, "OK")),
        "/.well-known/spin/info" => Some(json(&info(&service.app.name, &service.app.version))),
        path if path.starts_with(SPINS) => Some(plain(StatusCode::NOT_FOUND, "")),
        _ => None,
    }
}

/// Spin's description of the application.
fn info(name: &str, version: &str) -> Value {
    serde_json::json!({ "name": name, "version": version })
}

/// Answers GET and HEAD only.
fn checked<B>(
    request: &Request<B>,
    answer: &dyn Fn() -> Response<Full<Bytes>>,
) -> Response<Full<Bytes>> {
    if matches!(*request.method(), Method::GET | Method::HEAD) {
        return answer();
    }
    let mut refusal = plain(StatusCode::METHOD_NOT_ALLOWED, "use GET");
    refusal.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
    refusal
}

/// Ready unless the process is stopping, the components are misconfigured, a model could not be loaded, or a
/// model's folder is missing. A model that is merely not loaded yet does not count.
pub(crate) fn ready(service: &Service) -> Response<Full<Bytes>> {
    let models = service.models.status();
    let reasons: BTreeMap<&str, &str> = models
        .iter()
        .filter_map(|model| Some((model.name.as_str(), model.failure.as_deref()?)))
        .collect();
    let status = match service.misconfigured.as_deref() {
        _ if service.is_draining() => "shutting down",
        Some(wrong) => wrong,
        None if !reasons.is_empty() => "a model cannot be loaded",
        None => return plain(StatusCode::OK, "ready"),
    };
    let mut answer = json(&serde_json::json!({ "status": status, "models": reasons }));
    *answer.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    answer
}

/// The answer of `/memory`: the members of the original app first, under the same names, then further ones
/// for operators. Sizes in `_mb` are MiB, as in that app.
#[derive(Serialize)]
struct MemoryReport {
    status: &'static str,
    memory: MemoryMib,
    model_loaded: bool,
    gradcam_enabled: bool,
    models: Vec<ModelStatus>,
    requests: Requests,
}

#[derive(Serialize)]
struct MemoryMib {
    rss_mb: f64,
    /// `held_mb` as a percentage of the budget.
    percent: Option<f64>,
    private_mb: f64,
    mapped_mb: f64,
    peak_mb: f64,
    /// Memory that the kernel cannot reclaim, of this process or of the whole control group; it is what the
    /// memory levels are measured by.
    held_mb: f64,
    /// `--memory-limit`, or the limit found on this machine.
    budget_mb: Option<f64>,
    /// Reserved for the runner, models and requests.
    reserved_mb: f64,
}

#[derive(Serialize)]
struct Requests {
    at_work: usize,
    waiting: usize,
    instances: u64,
    refused: u64,
    failed: u64,
}

fn memory(service: &Service) -> MemoryReport {
    let memory = ProcessMemory::now();
    let rounded = |value: f64| (value * 100.0).round() / 100.0;
    let mib = |bytes: u64| rounded(bytes as f64 / f64::from(1 << 20));
    let (held, budget) = (service.gauge.held_bytes(), service.ledger.budget());
    let models = service.models.status();
    MemoryReport {
        status: "ok",
        memory: MemoryMib {
            rss_mb: mib(memory.resident_bytes),
            percent: budget.map(|budget| rounded(held as f64 * 100.0 / budget as f64)),
            private_mb: mib(memory.private_bytes),
            mapped_mb: mib(memory.mapped_bytes),
            peak_mb: mib(memory.peak_resident_bytes),
            held_mb: mib(held),
            budget_mb: budget.map(mib),
            reserved_mb: mib(service.ledger.reserved()),
        },
        model_loaded: models.iter().any(|model| model.loaded),
        gradcam_enabled: gradcam_enabled(service),
        models,
        requests: Requests {
            at_work: service.admission.at_work(),
            waiting: service.admission.waiting(),
            instances: service.metrics.instances_created.get(),
            refused: service.metrics.refused_count(),
            failed: service.metrics.failed_count(),
        },
    }
}

/// All metrics for Prometheus, in the format it asks for.
fn scraped(service: &Service, headers: &HeaderMap) -> Response<Full<Bytes>> {
    let format = metrics::Format::asked(headers);
    with_type(StatusCode::OK, format.content_type(), scrape(service, format))
}

/// The counters, and the gauges as they are now.
fn scrape(service: &Service, format: metrics::Format) -> String {
    let (memory, metrics) = (ProcessMemory::now(), &service.metrics);
    for (kind, bytes) in [
        ("private", memory.private_bytes),
        ("mapped", memory.mapped_bytes),
        ("resident", memory.resident_bytes),
        ("peak", memory.peak_resident_bytes),
        ("held", service.gauge.held_bytes()),
        ("reserved", service.ledger.reserved()),
    ] {
        metrics.set_memory(kind, bytes);
    }
    if let Some(budget) = service.ledger.budget() {
        metrics.set_memory("budget", budget);
    }
    for model in service.models.status() {
        metrics.set_model(&model.name, "private", model.private_bytes);
        metrics.set_model(&model.name, "mapped", model.mapped_bytes);
        metrics.set_model(&model.name, "activation", model.activation_bytes.unwrap_or(0));
    }
    metrics.set_line(service.admission.at_work(), service.admission.waiting());
    metrics.set_process(&Process::now());
    metrics.text(format)
}

/// The original app's switch, from the components' environment; on by default.
fn gradcam_enabled(service: &Service) -> bool {
    let mut settings = service.app.components.iter().flat_map(|component| &component.environment);
    let last = settings.rfind(|(name, _)| name == "ENABLE_GRADCAM");
    last.is_none_or(|(_, value)| {
        matches!(value.to_ascii_lowercase().as_str(), "true" | "1" | "yes")
    })
}

pub(crate) fn json(value: &impl Serialize) -> Response<Full<Bytes>> {
    match serde_json::to_string(value) {
        Ok(text) => with_type(StatusCode::OK, "application/json", text),
        Err(_) => plain(StatusCode::INTERNAL_SERVER_ERROR, "a figure has no JSON form"),
    }
}

fn plain(status: StatusCode, text: &'static str) -> Response<Full<Bytes>> {
    with_type(status, "text/plain; charset=utf-8", text.to_owned())
}

fn with_type(status: StatusCode, kind: &'static str, text: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(text));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

#[cfg(test)]
mod tests {
    #[test]
    fn spins_description_has_no_member_without_a_value() {
        let info = super::info("a", "1.0.0");
        assert_eq!(info, serde_json::json!({ "name": "a", "version": "1.0.0" }));
    }
}
