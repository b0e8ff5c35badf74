//! The main path: an application started, and each request taken from its route to a fresh instance.
//!
//! No sockets: `server` brings requests in from the network, `skincell classify` straight from disk.

use crate::admin;
use crate::admission::{Admission, LIGHT_SLOTS, MakeRoom, Refusal, Rules, Weight};
use crate::allocator;
use crate::app::{App, Target};
use crate::compose::compose;
use crate::door::ClientAddress;
use crate::manifest::StaticResponse;
use crate::memory::{Budget, Followed, Gauge, Ledger, MemoryLimit, Plan, Wishes};
use crate::metrics::Metrics;
use crate::mounts::{self, Stage};
use crate::nn::{Engine, Engines, Grants, Models, Rten, Selection};
use crate::problem::Problem;
use crate::request_id;
use crate::routes::Match;
use crate::sandbox::{CompileCache, Failure, Instances, Limits, Output, ReplyBody, Sandbox};
use crate::settings::Settings;
use crate::spin_headers;
use crate::threads::Threads;
use crate::trace;
use crate::upload::Uploads;
use anyhow::Context;
use bytes::Bytes;
use http::request::Parts;
use http::{HeaderValue, Method, Request, Response};
use http_body_util::{Either, Full};
use hyper::body::Body;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// An application, ready to answer.
pub struct Service {
    pub(crate) app: App,
    components: Vec<Component>,
    pub(crate) models: Arc<Models>,
    pub(crate) admission: Admission,
    pub(crate) ledger: Arc<Ledger>,
    pub(crate) gauge: Arc<Gauge>,
    pub(crate) metrics: Arc<Metrics>,
    uploads: Uploads,
    plan: Plan,
    unload_after: Duration,
    draining: AtomicBool,
    /// For what must not hold up the threads of the sockets, and must go on when threads are short.
    pub(crate) keeper: Threads,
    admin_apart: bool,
    /// The budget, where its limit may be changed while we run.
    followed: Option<Followed>,
    /// Keeps the staged files while instances may open them.
    files: Mutex<Vec<Stage>>,
}

/// A component, and what its requests may come to take.
struct Component {
    instances: Instances,
    grants: Grants,
}

/// An answer: the runner's own, or a component's that may still be coming.
pub type Answer = Response<Either<Full<Bytes>, ReplyBody>>;

/// What is known of a request once its head is read: worked out once, whatever becomes of it.
pub(crate) struct Asked {
    start: Instant,
    id: String,
    method: Method,
    /// Where it leads in the application, if it does.
    found: Option<Match>,
    /// The route it is answered under, as the manifest or we spell it; never a client's own words.
    pub(crate) route: Option<String>,
}

/// How often idle models and tight memory are looked after.
const TIDY_EVERY: Duration = Duration::from_millis(250);

/// How often the allocator gives back what lies free between what is in use. Without it, thousands of
/// requests leave a MiB or two of such holes; it takes a fraction of a millisecond.
const TRIM_EVERY: Duration = Duration::from_secs(5);

impl Service {
    /// Divides the budget, compiles (or maps) the application's components and grants their models. No
    /// model is read, unless all are to be loaded beforehand.
    ///
    /// # Errors
    /// When the budget has no room for a single request, a component cannot be compiled or linked, its
    /// files cannot be staged, or a model cannot be loaded beforehand.
    pub fn start(app: App, settings: &Settings) -> anyhow::Result<Self> {
        let budget = Budget::new(settings.memory_limit);
        let plan = Plan::new(&budget, wishes(settings))?;
        let limits = limits(&plan, settings)?;
        let sandbox = Sandbox::new(limits)?;
        let cache = compile_cache(settings);
        let metrics = Arc::new(Metrics::new());
        let ledger = Arc::new(Ledger::new(budget.bytes, plan.fixed(), plan.pages));
        let engines = engines(settings, budget.bytes)?;
        let followed = (settings.memory_limit == MemoryLimit::Auto).then(|| budget.followed());
        let gauge = Arc::new(Gauge::new(budget));
        let mut models = Models::new(Arc::clone(&ledger), Arc::clone(&gauge), Arc::clone(&metrics));
        let (mut components, mut files) = (Vec::new(), Vec::new());
        let guest_engine: Arc<dyn Engine> = Arc::new(Rten::new(settings.threads));
        for component in &app.components {
            let mut grants = models.grant(&component.models, &component.models_folder, &engines);
            if let Some(limit) = settings.guest_models {
                grants = grants.with_guest_models(Arc::clone(&guest_engine), limit);
            }
            let stage = mounts::stage(component, &app.folder)?;
            let mounted = stage.as_ref().map(Stage::path);
            let wasm = compose(&component.source, &component.dependencies)?;
            let compiled = sandbox.compile(&component.source, wasm, cache.as_ref())?;
            let output = Output::open(&settings.output, &component.id)?;
            let (granted, counted) = (grants.clone(), Arc::clone(&metrics));
            let instances =
                Instances::new(&sandbox, &compiled, component, mounted, granted, counted, output)?;
            components.push(Component { instances, grants });
            files.extend(stage);
        }
        let models = Arc::new(models);
        if settings.preload {
            models.preload().context("--preload")?;
        }
        let evict = Arc::clone(&models);
        let make_room: MakeRoom = Box::new(move || evict.evict_one());
        let rules = rules(&plan, settings);
        Ok(Self {
            app,
            components,
            models,
            admission: Admission::new(rules, Arc::clone(&ledger), Arc::clone(&gauge), make_room),
            ledger,
            gauge,
            metrics,
            uploads: Uploads::new(
                plan.uploads,
                settings.max_body.min(plan.uploads),
                settings.request_timeout,
            ),
            plan,
            unload_after: settings.unload_after,
            draining: AtomicBool::new(false),
            keeper: Threads::start("keeper", 1)?,
            files: Mutex::new(files),
            admin_apart: settings.admin_apart,
            followed,
        })
    }

    /// Looks after models and memory, for ever: unloads what is idle, and lets in who waits for memory.
    pub async fn tidy(&self) {
        let mut trimmed = Instant::now();
        loop {
            tokio::time::sleep(TIDY_EVERY).await;
            let (models, unload_after) = (Arc::clone(&self.models), self.unload_after);
            let due = trimmed.elapsed() >= TRIM_EVERY;
            if due {
                trimmed = Instant::now();
            }
            // It may load a model, which is no work for a thread of the sockets.
            let tidied = self.keeper.run(move || {
                models.tidy(unload_after);
                if due {
                    allocator::trim();
                }
            });
            if tidied.await.is_err() {
                tracing::error!("looking after the models failed; it is tried again");
            }
            self.follow_limit();
            self.admission.advance();
        }
    }

    /// Takes up a control group's limit that was changed, as Kubernetes does to pods in place.
    fn follow_limit(&self) {
        let Some(followed) = &self.followed else { return };
        let Some(limit) = followed.change() else { return };
        let activations = self.components.iter().map(|component| component.grants.activation());
        let need = self.plan.need(activations.max().unwrap_or(0));
        let one = self.plan.fixed().saturating_add(need.instance).saturating_add(need.activation);
        let budget = followed.taken_up(limit, one);
        tracing::info!(bytes = limit, "the memory limit was changed");
        if budget > limit {
            tracing::warn!(
                needed = budget,
                "the memory limit has no room for a request as memory was divided at the start: requests are \
                 served all the same, and the kernel may end the process; start it again to divide it anew"
            );
        }
        self.ledger.set_budget(budget);
        self.gauge.set_limit(budget);
    }

    /// What is asked by a request with this head.
    pub(crate) fn asked(&self, head: &Parts) -> Asked {
        let path = head.uri.path();
        let ours = admin::PATHS.iter().find(|known| **known == path);
        let is_own = ours.is_some() && !self.admin_apart;
        let found = if is_own { None } else { self.app.routes.find(path) };
        let route = ours.map(|known| (*known).to_owned());
        Asked {
            start: Instant::now(),
            id: request_id::of(&head.headers),
            method: head.method.clone(),
            route: route.or_else(|| found.as_ref().map(|found| found.route.clone())),
            found,
        }
    }

    /// Answers one request. `client` is who sent it, where it came over a socket.
    ///
    /// Dropping the future stops whatever was begun.
    pub async fn handle<B>(&self, request: Request<B>, client: Option<SocketAddr>) -> Answer
    where
        B: Body<Data = Bytes>,
    {
        let (head, body) = request.into_parts();
        let asked = self.asked(&head);
        self.answer(Request::from_parts(head, body), &asked, client).await
    }

    /// The same of a request of which it is known what it asks.
    pub(crate) async fn answer<B>(
        &self,
        request: Request<B>,
        asked: &Asked,
        client: Option<SocketAddr>,
    ) -> Answer
    where
        B: Body<Data = Bytes>,
    {
        let own = if self.admin_apart {
            admin::spins(self, &request)
        } else {
            admin::answer(self, &request)
        };
        let answer = match own {
            Some(answer) => answer.map(Either::Left),
            None => match self.dispatch(request, asked, client).await {
                Ok(answer) => answer,
                Err(problem) => self.problem(&problem, &asked.id),
            },
        };
        self.finished(answer, asked, asked.start.elapsed())
    }

    /// Answers one request to the admin port.
    pub(crate) fn handle_admin<B>(&self, request: &Request<B>) -> Answer {
        let path = request.uri().path();
        let own = admin::answer(self, request).map(|answer| answer.map(Either::Left));
        let id = request_id::of(request.headers());
        own.unwrap_or_else(|| self.problem(&Problem::NoRoute(shortened(path)), &id))
    }

    /// Whether requests wait although none is at work: for memory, which answers that are not read may hold.
    pub(crate) fn is_held_up(&self) -> bool {
        self.admission.waiting() > 0 && self.admission.at_work() == 0
    }

    /// Notes a connection that was refused for its address.
    pub(crate) fn turned_away(&self) {
        self.metrics.refused(Refusal::Address.label());
    }

    /// What is answered to a request that did not get in, or lost its place.
    pub(crate) fn refuse(&self, asked: &Asked, problem: &Problem) -> Answer {
        self.finished(self.problem(problem, &asked.id), asked, Duration::ZERO)
    }

    /// Names the request in its answer, and counts it.
    fn finished(&self, mut answer: Answer, asked: &Asked, head_after: Duration) -> Answer {
        let Asked { id, method, route, .. } = asked;
        if let Ok(value) = HeaderValue::from_str(id) {
            answer.headers_mut().insert(request_id::HEADER, value);
        }
        let status = answer.status().as_u16();
        self.metrics.answered(method, route.as_deref(), status, head_after);
        let trace_id = trace::current_id();
        tracing::debug!(request_id = id, trace_id, %method, status, ?head_after, "answered");
        answer
    }

    async fn dispatch<B>(
        &self,
        request: Request<B>,
        asked: &Asked,
        client: Option<SocketAddr>,
    ) -> Result<Answer, Problem>
    where
        B: Body<Data = Bytes>,
    {
        let no_route = || Problem::NoRoute(shortened(request.uri().path()));
        let found = asked.found.as_ref().ok_or_else(no_route)?;
        let trigger = self.app.triggers.get(found.target);
        let component = match trigger.map(|trigger| &trigger.target) {
            Some(Target::Component(index)) => self.components.get(*index),
            Some(Target::Static(response)) => return Ok(static_answer(response)),
            None => None,
        };
        let component = component.ok_or_else(no_route)?;
        let request = spin_headers::prepare(request, found, &asked.id, client)?;
        let (head, body) = request.into_parts();
        let need = self.plan.need(component.grants.activation());
        let weight = if body.is_end_stream() { Weight::Light } else { Weight::Full };
        self.admission.check(need, weight).map_err(Problem::Busy)?;
        let address = head.extensions.get::<ClientAddress>().map(|client| client.0);
        let upload = self.timed("read", self.uploads.read(&head.headers, address, body)).await;
        let upload = upload.map_err(Problem::Upload)?;
        let slot = self.timed("wait", self.admission.enter(need, weight)).await;
        let reply = component
            .instances
            .respond(Request::from_parts(head, upload), weight, slot.map_err(Problem::Busy)?)
            .await
            .map_err(Problem::Failed)?;
        let length = reply.headers().get(http::header::CONTENT_LENGTH);
        let length = length.and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
        let most = length.unwrap_or(ReplyBody::BYTES).min(ReplyBody::BYTES);
        let hold = self.ledger.hold_answer(most);
        let (metrics, id) = (Arc::clone(&self.metrics), asked.id.clone());
        let broke_off = Box::new(move || {
            metrics.failed("broke-off");
            tracing::warn!(request_id = id, "the component's answer broke off after its head");
        });
        Ok(reply.map(|body| Either::Right(body.holding(hold).when_broken_off(broke_off))))
    }

    async fn timed<F: Future>(&self, stage: &'static str, work: F) -> F::Output {
        let start = Instant::now();
        let outcome = work.await;
        self.metrics.stage(stage, start.elapsed());
        trace::record(stage, start);
        outcome
    }

    fn problem(&self, problem: &Problem, id: &str) -> Answer {
        match problem {
            Problem::Failed(failure) => {
                self.metrics.failed(failure.label());
                let reason = match failure {
                    Failure::Trap(reason) => reason.clone(),
                    other => other.to_string(),
                };
                tracing::warn!(request_id = id, "{reason}");
            }
            Problem::Token(_) => self.metrics.refused("token"),
            Problem::TooOften(_) => self.metrics.refused("rate"),
            Problem::Busy(refusal) => {
                self.metrics.refused(refusal.label());
                tracing::debug!(request_id = id, "{refusal}");
            }
            _ => {}
        }
        problem.response(id).map(Either::Left)
    }

    /// From now on `/readyz` says that no more requests are wanted. Those that come are still served.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Release);
    }

    /// Removes the files that were staged for components, at the end: to wait until everything that holds the
    /// service is gone would be to race the end of the process.
    pub fn remove_files(&self) {
        self.files.lock().unwrap_or_else(PoisonError::into_inner).clear();
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

    /// How the budget is spent.
    #[must_use]
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// The budget in bytes, if there is one.
    #[must_use]
    pub fn budget(&self) -> Option<u64> {
        self.ledger.budget()
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

/// The cache of compiled components; without one, starts are slow and all else is the same.
fn compile_cache(settings: &Settings) -> Option<CompileCache> {
    CompileCache::open(settings.cache_folder.as_deref()?)
        .inspect_err(|error| tracing::warn!("starts will be slow: {error:#}"))
        .ok()
}

fn wishes(settings: &Settings) -> Wishes {
    Wishes {
        instance: settings.max_instance_memory.map(|bytes| bytes as u64),
        concurrency: settings.max_concurrency,
        max_body: settings.max_body,
        guest_models: settings.guest_models.unwrap_or(0),
    }
}

fn rules(plan: &Plan, settings: &Settings) -> Rules {
    Rules { slots: plan.concurrency, length: settings.queue, patience: settings.queue_timeout }
}

fn limits(plan: &Plan, settings: &Settings) -> anyhow::Result<Limits> {
    let bytes = |bytes: u64| usize::try_from(bytes).context("more than this machine can address");
    Ok(Limits {
        max_instances: plan.concurrency + LIGHT_SLOTS,
        max_instance_memory: bytes(plan.instance)?,
        max_host_memory: bytes(plan.host_share())?,
        max_guest_model: bytes(plan.guest_models)?,
        request_timeout: settings.request_timeout,
    })
}

/// Longest path quoted back to a client.
const MAX_ECHO: usize = 128;

/// The engines that the settings ask for. Half the budget may become one model's private memory: requests need
/// the rest.
fn engines(settings: &Settings, budget: Option<u64>) -> anyhow::Result<Engines> {
    let selection = Selection {
        choice: settings.engine,
        threads: settings.threads,
        library: settings.engine_library.clone(),
        allowance: budget.map(|bytes| bytes / 2),
    };
    let (engines, missing) = selection.engines()?;
    if let Some(error) = missing {
        tracing::warn!("rten runs what cellnet does not: {error}");
    }
    Ok(engines)
}

fn shortened(path: &str) -> String {
    path.chars().take(MAX_ECHO).collect()
}

fn static_answer(response: &StaticResponse) -> Answer {
    let body = Bytes::from(response.body.clone().unwrap_or_default());
    // It was checked when the application was read.
    let head = response.head().unwrap_or_else(|_| Response::new(()).into_parts().0);
    Response::from_parts(head, Either::Left(Full::from(body)))
}
