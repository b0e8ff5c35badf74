//! Traces of requests: W3C `traceparent` in and out, one span for the request and one for each stage, sent by
//! OTLP over HTTP if the environment names a collector. Metrics are left to `metrics`.
//!
//! By default tracing is off: nothing is recorded, and a client's `traceparent` reaches the component
//! unchanged. Stages inside the component come from its `Server-Timing` header: the last one ended when the
//! head of the answer came, and each began when the one before it ended.

mod context;
mod export;
mod otlp;
mod settings;
mod timing;

pub use settings::{TraceSettings, TraceSettingsError};

use context::{Context, HEADER};
use export::Exporter;
use http::request::Parts;
use http::{HeaderMap, HeaderValue, StatusCode};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

/// Records and sends the traces of requests. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Tracer {
    exporter: Arc<Exporter>,
    settings: Arc<TraceSettings>,
}

/// A finished piece of work.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Span {
    name: String,
    id: u64,
    /// The id of the parent span; 0 if there is none.
    parent: u64,
    start: SystemTime,
    end: SystemTime,
}

/// A finished request and its stages.
#[derive(Debug)]
struct Trace {
    id: u128,
    /// The request itself.
    root: Span,
    stages: Vec<Span>,
    method: String,
    path: String,
    route: Option<String>,
    request_id: Option<String>,
    /// `None` if the client disconnected before there was an answer.
    status: Option<u16>,
}

tokio::task_local! {
    /// The request that this task answers.
    static CURRENT: Recording;
}

/// A request being recorded. It is sent when the last clone is dropped.
#[derive(Debug, Clone)]
pub(crate) struct Recording(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    tracer: Tracer,
    context: Context,
    parent: u64,
    /// The same moment on both clocks: spans are reported by the wall clock, and measured by the monotonic
    /// one.
    start: (SystemTime, Instant),
    method: String,
    path: String,
    route: Option<String>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    stages: Vec<Span>,
    status: Option<StatusCode>,
    request_id: Option<String>,
    head_at: Option<Instant>,
}

/// Longest path kept in a span, in characters, because clients choose it.
const LONGEST_PATH: usize = 128;

impl Tracer {
    /// A tracer that sends to the collector in `settings`, from a thread of its own.
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub fn new(settings: TraceSettings) -> std::io::Result<Self> {
        let settings = Arc::new(settings);
        let exporter = Arc::new(Exporter::start(Arc::clone(&settings))?);
        Ok(Self { exporter, settings })
    }

    /// Begins to record a request to `route`, if it is sampled, and sets `traceparent` for the component.
    pub(crate) fn begin(&self, head: &mut Parts, route: Option<String>) -> Option<Recording> {
        let given = Context::read(&head.headers);
        let (context, parent) = match given {
            Some(given) => (given.child(), given.span),
            None => (Context::new(), 0),
        };
        let is_sampled =
            self.settings.sampler.samples(given.map(|given| given.is_sampled), context.trace);
        let context = Context { is_sampled, ..context };
        if let Ok(value) = HeaderValue::from_str(&context.to_string()) {
            head.headers.insert(HEADER, value);
        }
        is_sampled.then(|| {
            Recording(Arc::new(Inner {
                tracer: self.clone(),
                context,
                parent,
                start: (SystemTime::now(), Instant::now()),
                method: head.method.to_string(),
                path: head.uri.path().chars().take(LONGEST_PATH).collect(),
                route,
                state: Mutex::default(),
            }))
        })
    }

    /// Sends the remaining traces, but no longer than for `timeout`.
    pub fn finish(&self, timeout: Duration) {
        self.exporter.finish(timeout);
    }
}

impl Recording {
    /// The trace id, 32 hexadecimal digits, for the log.
    pub(crate) fn trace_id(&self) -> String {
        format!("{:032x}", self.0.context.trace)
    }

    /// Records the head of the answer, and the stages in its `Server-Timing`.
    pub(crate) fn answered(&self, status: StatusCode, headers: &HeaderMap) {
        let now = Instant::now();
        let reported = headers.get("server-timing").and_then(|value| value.to_str().ok());
        let mut end = now;
        for (name, took) in timing::stages(reported.unwrap_or_default()).into_iter().rev() {
            let start = end.checked_sub(took).unwrap_or(end);
            self.0.stage(name, start, end);
            end = start;
        }
        let mut state = self.0.state();
        state.status = Some(status);
        state.head_at = Some(now);
        let id = headers.get(crate::request_id::HEADER).and_then(|value| value.to_str().ok());
        state.request_id = id.map(str::to_owned);
    }
}

/// Records a stage of the request that this task answers, if it is traced.
pub(crate) fn record(stage: &'static str, start: Instant) {
    let end = Instant::now();
    let _ = CURRENT.try_with(|recording| recording.0.stage(stage.to_owned(), start, end));
}

/// Runs `work`; stages that it [`record`]s belong to `recording`.
pub(crate) async fn scope<F: Future>(recording: Option<&Recording>, work: F) -> F::Output {
    match recording {
        Some(recording) => CURRENT.scope(recording.clone(), work).await,
        None => work.await,
    }
}

impl Inner {
    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wall-clock time of a moment; moments before the start count as the start.
    fn at(&self, moment: Instant) -> SystemTime {
        self.start.0 + moment.saturating_duration_since(self.start.1)
    }

    fn stage(&self, name: String, start: Instant, end: Instant) {
        let parent = self.context.span;
        let (start, end) = (self.at(start), self.at(end));
        let span = Span { name, id: context::new_span_id(), parent, start, end };
        self.state().stages.push(span);
    }
}

impl Drop for Inner {
    /// The request has ended: its answer was written, or its client has disconnected.
    fn drop(&mut self) {
        let end = Instant::now();
        let head_at = self.state().head_at;
        if let Some(head_at) = head_at {
            self.stage("write".to_owned(), head_at, end);
        }
        let state = std::mem::take(&mut *self.state());
        let root = Span {
            name: match &self.route {
                Some(route) => format!("{} {route}", self.method),
                None => self.method.clone(),
            },
            id: self.context.span,
            parent: self.parent,
            start: self.start.0,
            end: self.at(end),
        };
        let mut stages = state.stages;
        stages.sort_by_key(|stage| stage.start);
        self.tracer.exporter.send(Trace {
            id: self.context.trace,
            root,
            stages,
            method: std::mem::take(&mut self.method),
            path: std::mem::take(&mut self.path),
            route: self.route.take(),
            request_id: state.request_id,
            status: state.status.map(|status| status.as_u16()),
        });
    }
}
