//! The main path: an application started, and each request taken from its route to a fresh instance.
//!
//! No sockets: `server` brings requests in from the network, `skincell classify` straight from disk.

use crate::admin;
use crate::admission::Admission;
use crate::app::{App, AppComponent, Target};
use crate::manifest::StaticResponse;
use crate::mounts::{self, Stage};
use crate::nn::{Cellnet, Engine, Engines, Models, Rten};
use crate::problem::Problem;
use crate::request_id;
use crate::sandbox::{
    CompileCache, Failure, Instances, Limits, Output, OutputSettings, ReplyBody, Sandbox,
};
use crate::spin_headers;
use crate::upload::Uploads;
use bytes::Bytes;
use http::{HeaderName, HeaderValue, Request, Response};
use http_body_util::{Either, Full};
use hyper::body::Body;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// How a service is run.
#[derive(Debug, Clone)]
pub struct Settings {
    /// What one request may not exceed, and how many run at once.
    pub limits: Limits,
    /// Threads for inference, all requests together.
    pub threads: usize,
    /// Where machine code is kept; `None` compiles at every start.
    pub cache_folder: Option<PathBuf>,
    /// Requests that may wait for a slot.
    pub queue: usize,
    /// How long they may.
    pub queue_timeout: Duration,
    /// Longest request body, in bytes.
    pub max_body: u64,
    /// Who runs the models.
    pub engine: EngineChoice,
    /// Where components print.
    pub output: OutputSettings,
}

/// Which engine runs a model.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum EngineChoice {
    /// cellnet where the folder has a `model.cell`, rten otherwise.
    #[default]
    Auto,
    /// cellnet only.
    Cellnet,
    /// rten only.
    Rten,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            limits: Limits::default(),
            threads: std::thread::available_parallelism().map_or(1, usize::from),
            cache_folder: CompileCache::default_folder(),
            queue: 64,
            queue_timeout: Duration::from_secs(10),
            max_body: 16 << 20,
            engine: EngineChoice::Auto,
            output: OutputSettings::default(),
        }
    }
}

/// Bodies of the largest size that may be in memory together; smaller ones may be more.
const UPLOADS_AT_ONCE: u64 = 4;

/// An application, ready to answer.
pub struct Service {
    pub(crate) app: App,
    components: Vec<Instances>,
    pub(crate) models: Models,
    pub(crate) admission: Admission,
    uploads: Uploads,
    pub(crate) counters: Counters,
    draining: AtomicBool,
    /// Keeps the staged files while instances may open them.
    _files: Vec<Stage>,
}

/// What has happened so far.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    /// Instances made, which is requests handed to a component.
    pub(crate) instances: AtomicU64,
    /// Requests turned away at the door.
    pub(crate) refused: AtomicU64,
    /// Instances that gave no answer.
    pub(crate) failed: AtomicU64,
}

/// An answer: the runner's own, or a component's that may still be coming.
pub type Answer = Response<Either<Full<Bytes>, ReplyBody>>;

impl Service {
    /// Compiles (or maps) the application's components and grants their models. No model is read.
    ///
    /// # Errors
    /// When a component cannot be compiled or linked, or its files cannot be staged.
    pub fn start(app: App, settings: &Settings) -> anyhow::Result<Self> {
        let sandbox = Sandbox::new(settings.limits.clone())?;
        let cache = settings.cache_folder.as_deref().and_then(|folder| {
            CompileCache::open(folder)
                .inspect_err(|error| tracing::warn!("starts will be slow: {error:#}"))
                .ok()
        });
        let engines = engines(settings);
        let mut service = Self {
            components: Vec::with_capacity(app.components.len()),
            models: Models::default(),
            admission: Admission::new(
                settings.limits.max_concurrency,
                settings.queue,
                settings.queue_timeout,
            ),
            uploads: Uploads::new(
                settings.max_body.saturating_mul(UPLOADS_AT_ONCE),
                settings.max_body,
                settings.limits.request_timeout,
            ),
            counters: Counters::default(),
            draining: AtomicBool::new(false),
            _files: Vec::new(),
            app: app.clone(),
        };
        for component in &app.components {
            let output = Output::open(&settings.output, &component.id)?;
            service.add(component, &sandbox, cache.as_ref(), &engines, output)?;
        }
        Ok(service)
    }

    fn add(
        &mut self,
        component: &AppComponent,
        sandbox: &Sandbox,
        cache: Option<&CompileCache>,
        engines: &Engines,
        output: Output,
    ) -> anyhow::Result<()> {
        let compiled = sandbox.compile(&component.source, cache)?;
        let files = mounts::stage(component, &self.app.folder)?;
        let grants = self.models.grant(&component.models, &component.models_folder, engines);
        let mounted = files.as_ref().map(Stage::path);
        let instances = Instances::new(sandbox, &compiled, component, mounted, grants, output)?;
        self.components.push(instances);
        self._files.extend(files);
        Ok(())
    }

    /// Answers one request. `client` is who sent it, where it came over a socket.
    ///
    /// Dropping the future stops whatever was begun.
    pub async fn handle<B>(&self, request: Request<B>, client: Option<SocketAddr>) -> Answer
    where
        B: Body<Data = Bytes>,
    {
        let start = Instant::now();
        let id = request_id::of(request.headers());
        let method = request.method().clone();
        let mut answer = match admin::answer(self, &request) {
            Some(answer) => answer.map(Either::Left),
            None => match self.dispatch(request, &id, client).await {
                Ok(answer) => answer,
                Err(problem) => self.problem(&problem, &id),
            },
        };
        if let Ok(value) = HeaderValue::from_str(&id) {
            answer.headers_mut().insert(request_id::HEADER, value);
        }
        let (status, head_after) = (answer.status().as_u16(), start.elapsed());
        tracing::debug!(request_id = id, %method, status, ?head_after, "answered");
        answer
    }

    async fn dispatch<B>(
        &self,
        request: Request<B>,
        id: &str,
        client: Option<SocketAddr>,
    ) -> Result<Answer, Problem>
    where
        B: Body<Data = Bytes>,
    {
        let path = request.uri().path();
        let found = self.app.routes.find(path).ok_or_else(|| Problem::NoRoute(shortened(path)))?;
        let trigger = self.app.triggers.get(found.target);
        let component = match trigger.map(|trigger| &trigger.target) {
            Some(Target::Component(index)) => self.components.get(*index),
            Some(Target::Static(response)) => return Ok(static_answer(response)),
            None => None,
        };
        let component = component.ok_or_else(|| Problem::NoRoute(shortened(path)))?;
        let request = spin_headers::prepare(request, &found, id, client)?;
        if self.is_draining() {
            return Err(Problem::Draining);
        }
        self.admission.check().map_err(Problem::Busy)?;
        let (head, body) = request.into_parts();
        let upload = self.uploads.read(&head.headers, body).await.map_err(Problem::Upload)?;
        let slot = self.admission.enter().await.map_err(Problem::Busy)?;
        self.counters.instances.fetch_add(1, Ordering::Relaxed);
        let reply = component
            .respond(Request::from_parts(head, upload), slot)
            .await
            .map_err(Problem::Failed)?;
        Ok(reply.map(Either::Right))
    }

    fn problem(&self, problem: &Problem, id: &str) -> Answer {
        match problem {
            Problem::Failed(failure) => {
                self.counters.failed.fetch_add(1, Ordering::Relaxed);
                let reason = match failure {
                    Failure::Trap(reason) => reason.clone(),
                    other => other.to_string(),
                };
                tracing::warn!(request_id = id, "{reason}");
            }
            Problem::Busy(refusal) => {
                self.counters.refused.fetch_add(1, Ordering::Relaxed);
                tracing::debug!(request_id = id, "{refusal}");
            }
            _ => {}
        }
        problem.response(id).map(Either::Left)
    }

    /// From now on, requests for components are refused with 503 and `/readyz` says so.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Release);
    }

    /// Whether [`Self::drain`] was called.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Acquire)
    }

    /// Longest request body, in bytes.
    #[must_use]
    pub fn max_body(&self) -> u64 {
        self.uploads.largest()
    }

    /// The application.
    #[must_use]
    pub fn app(&self) -> &App {
        &self.app
    }

    /// How each granted model stands.
    #[must_use]
    pub fn models(&self) -> Vec<crate::nn::ModelStatus> {
        self.models.status()
    }
}

/// Ours for what was packed for it, rten for every other graph.
fn engines(settings: &Settings) -> Engines {
    let rten: Arc<dyn Engine> = Arc::new(Rten::new(settings.threads));
    match settings.engine {
        EngineChoice::Auto => Engines::new(vec![Arc::new(Cellnet::new(settings.threads))], rten),
        EngineChoice::Cellnet => Engines::new(Vec::new(), Arc::new(Cellnet::new(settings.threads))),
        EngineChoice::Rten => Engines::new(Vec::new(), rten),
    }
}

/// Longest path quoted back to a client.
const MAX_ECHO: usize = 128;

fn shortened(path: &str) -> String {
    path.chars().take(MAX_ECHO).collect()
}

fn static_answer(response: &StaticResponse) -> Answer {
    let body = Bytes::from(response.body.clone().unwrap_or_default());
    let mut answer = Response::new(Either::Left(Full::from(body)));
    if let Ok(status) = http::StatusCode::from_u16(response.status_code) {
        *answer.status_mut() = status;
    }
    for (name, value) in &response.headers {
        if let (Ok(name), Ok(value)) =
            (HeaderName::from_bytes(name.as_bytes()), HeaderValue::from_str(value))
        {
            answer.headers_mut().insert(name, value);
        }
    }
    answer
}
