//! A started application: its compiled components, their models, and the memory they share.
//!
//! Left out: answering a request (`handler`), and where requests come from (`server`, `skincell classify`).

use crate::admission::{Admission, HIGH_PRIORITY_PERMITS, MakeRoom, Refusal, Rules};
use crate::allocator;
use crate::app::{App, AppComponent, Target};
use crate::compose::{ComposeError, compose, is_concurrent};
use crate::key_value::{self, KeyValueStore};
use crate::memory::{Budget, Followed, Gauge, Ledger, MemoryLimit, ModelNeeds, Overrides, Plan};
use crate::metrics::Metrics;
use crate::mounts::{self, Stage};
use crate::nn::{Engine, Engines, Grants, Models, Rten, Selection};
use crate::outbound::{Outbound, unused_schemes};
use crate::routes::{Match, Routes};
use crate::sandbox::{
    CompileCache, Compiled, Instances, Limits, Output, Reply, ReplyBody, Sandbox,
};
use crate::settings::{Settings, StateFolder};
use crate::threads::Threads;
use crate::upload::Uploads;
use anyhow::{Context, bail};
use http::header;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// An application that is ready to answer.
pub struct Service {
    pub(crate) app: App,
    pub(crate) components: Vec<Component>,
    pub(crate) models: Arc<Models>,
    pub(crate) admission: Admission,
    pub(crate) ledger: Arc<Ledger>,
    pub(crate) gauge: Arc<Gauge>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) uploads: Uploads,
    pub(crate) plan: Plan,
    unload_after: Duration,
    draining: AtomicBool,
    /// Why the components cannot answer as they are configured.
    pub(crate) misconfigured: Option<String>,
    /// A thread for background work that must not block the threads of the sockets, and must go on when the
    /// system has no threads to spare.
    pub(crate) keeper: Threads,
    /// Whether the runner's own endpoints have a port of their own.
    pub(crate) admin_apart: bool,
    /// Routes by which metrics and traces name requests; their targets are components.
    named_routes: Routes,
    pub(crate) outbound: Arc<Outbound>,
    /// The budget, if its limit may change while the process runs.
    followed: Option<Followed>,
    /// The staged files, kept while instances may open them.
    files: Mutex<Vec<Stage>>,
}

/// A component, and the models its requests may use.
pub(crate) struct Component {
    pub(crate) instances: Instances,
    pub(crate) grants: Grants,
}

/// How often idle models are unloaded and memory is checked.
const TIDY_EVERY: Duration = Duration::from_millis(250);

/// How often the allocator's free memory is returned to the system. Without it, fragmentation keeps a MiB or
/// two after thousands of requests. One call takes a fraction of a millisecond.
const TRIM_EVERY: Duration = Duration::from_secs(5);

/// How much more private memory the same load may seem to take another time, in bytes.
const LOADS_DIFFER: u64 = 256 << 10;

impl Service {
    /// Divides the budget, compiles (or maps) the application's components and grants their models. Models
    /// are read only if all are to be preloaded, or in a small budget.
    ///
    /// # Errors
    /// When the budget has no room for a single request, a component cannot be compiled or linked, its files
    /// cannot be staged, or a model cannot be preloaded.
    pub fn start(app: App, settings: &Settings) -> anyhow::Result<Self> {
        let budget = Budget::new(settings.memory_limit);
        check(&app, &settings.output.follow)?;
        let key_value = key_value_store(&app, settings)?;
        let engines = engines(settings, budget.bytes)?;
        let plan = Plan::new(&budget, overrides(settings, key_value.is_some()), || {
            model_needs(&app, &engines, settings)
        })?;
        let limits = limits(&plan, settings)?;
        let wasms = wasms(&app)?;
        let mut sandbox = Sandbox::new(limits, wasms.iter().any(|wasm| is_concurrent(wasm)))?;
        sandbox.key_value = key_value;
        let cache = compile_cache(settings);
        let metrics = Arc::new(Metrics::new());
        let ledger = Arc::new(Ledger::new(budget.bytes, plan.fixed(), plan.pages));
        let limit = budget.bytes;
        let followed = (settings.memory_limit == MemoryLimit::Auto).then(|| budget.followed());
        let gauge = Arc::new(Gauge::new(budget));
        let mut models = Models::new(Arc::clone(&ledger), Arc::clone(&gauge), Arc::clone(&metrics));
        let (mut components, mut files) = (Vec::new(), Vec::new());
        let sources = app.components.iter().map(|component| &component.source).zip(wasms);
        let compiled: Vec<Compiled> = sources
            .map(|(path, wasm)| sandbox.compile(path, wasm, cache.as_ref(), limit))
            .collect::<anyhow::Result<_>>()?;
        let grants = granted(&app, &mut models, &engines, settings);
        let models = Arc::new(models);
        preload(&models, &plan, settings)?;
        // Files are staged after all that takes long: a signal that ends the process meanwhile leaves none.
        for ((component, compiled), grants) in app.components.iter().zip(&compiled).zip(grants) {
            let stage = mounts::stage(component, &app.folder)?;
            let mounted = stage.as_ref().map(Stage::path);
            let output = Output::open(&settings.output, &component.id)?;
            let (granted, counted) = (grants.clone(), Arc::clone(&metrics));
            let instances =
                Instances::new(&sandbox, compiled, component, mounted, granted, counted, output)?;
            components.push(Component { instances, grants });
            files.extend(stage);
        }
        let make_room = evicting(&models);
        let rules = rules(&plan, settings);
        let largest = settings.max_body.min(plan.uploads);
        Ok(Self {
            named_routes: app.named_routes()?,
            app,
            components,
            models,
            admission: Admission::new(rules, Arc::clone(&ledger), Arc::clone(&gauge), make_room),
            ledger,
            gauge,
            metrics,
            uploads: Uploads::new(plan.uploads, largest, settings.request_timeout),
            plan,
            unload_after: settings.unload_after,
            draining: AtomicBool::new(false),
            misconfigured: settings.misconfigured.clone(),
            keeper: Threads::start("keeper", 1)?,
            files: Mutex::new(files),
            admin_apart: settings.admin_apart,
            outbound: sandbox.outbound,
            followed,
        })
    }

    /// The route by which metrics and traces name a request for `path` that matched `found`: the component's
    /// own, or else the trigger's.
    pub(crate) fn named_route(&self, found: &Match, path: &str) -> String {
        let own = self.named_routes.find(path).filter(|own| {
            matches!(self.target(found), Some(Target::Component(index)) if *index == own.target)
        });
        own.map_or_else(|| found.route.clone(), |own| own.route)
    }

    /// Unloads idle models and lets in requests that wait for memory, at intervals. Never returns.
    pub async fn tidy(&self) {
        let mut trimmed = Instant::now();
        loop {
            tokio::time::sleep(TIDY_EVERY).await;
            let (models, unload_after) = (Arc::clone(&self.models), self.unload_after);
            let due = trimmed.elapsed() >= TRIM_EVERY;
            if due {
                trimmed = Instant::now();
            }
            // This may load a model, which would block a thread of the sockets.
            let tidied = self.keeper.run(move || {
                models.tidy(unload_after);
                if due {
                    allocator::trim();
                }
            });
            if tidied.await.is_err() {
                tracing::error!("unloading idle models failed; it is tried again");
            }
            self.follow_limit();
            self.admission.advance();
        }
    }

    /// Adopts a changed limit of the control group; Kubernetes changes those of running pods.
    fn follow_limit(&self) {
        let Some(followed) = &self.followed else { return };
        let Some(limit) = followed.change() else { return };
        let peaks = self.components.iter().map(|component| component.grants.run_peak());
        let need = self.plan.need(peaks.max().unwrap_or(0));
        let one = self.plan.fixed().saturating_add(need.instance).saturating_add(need.activation);
        let budget = followed.taken_up(limit, one);
        tracing::info!(bytes = limit, "the memory limit was changed");
        if budget > limit {
            tracing::warn!(
                needed = budget,
                "the new memory limit has no room for a request with the memory plan made at the start: \
                 requests are still served, and the kernel may end the process; restart it to make a new plan"
            );
        }
        self.ledger.set_budget(budget);
        self.gauge.set_limit(budget);
    }

    /// Tells components that may call `http://self` where this service listens, without TLS.
    pub fn listens_at(&self, address: SocketAddr) {
        self.outbound.listens_at(address);
    }

    /// The target of a route.
    pub(crate) fn target(&self, found: &Match) -> Option<&Target> {
        self.app.triggers.get(found.target).map(|trigger| &trigger.target)
    }

    /// Whether requests wait although none is at work. They then wait for memory, which answers that are not
    /// read may hold.
    pub(crate) fn is_held_up(&self) -> bool {
        self.admission.waiting() > 0 && self.admission.at_work() == 0
    }

    /// A component's answer whose unsent bytes the ledger counts, and which counts as failed if it breaks
    /// off or has more bytes than it announced.
    pub(crate) fn accounted(&self, reply: Reply, id: &str) -> Reply {
        let length = reply.headers().get(header::CONTENT_LENGTH);
        let length = length.and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
        let most = length.unwrap_or(ReplyBody::BYTES).min(ReplyBody::BYTES);
        let hold = self.ledger.hold_answer(most);
        let (metrics, id) = (Arc::clone(&self.metrics), id.to_owned());
        let broke_off = Box::new(move |reason: &'static str| {
            metrics.failed("broke-off");
            tracing::warn!(request_id = id, "the component's answer {reason}");
        });
        reply.map(|body| body.announced(length).holding(hold).when_broken_off(broke_off))
    }

    /// Counts a connection that was refused because of its address.
    pub(crate) fn turned_away(&self) {
        self.metrics.refused(Refusal::Address.label());
    }

    /// Makes `/readyz` fail from now on. Requests are still served.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Release);
    }

    /// Removes the files that were staged for components, at the end. Without this call they would be removed
    /// when the last user of the service is dropped, and the process may end before that.
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

    /// How the budget is divided.
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

    /// The state of each granted model.
    #[must_use]
    pub fn models(&self) -> Vec<crate::nn::ModelStatus> {
        self.models.status()
    }
}

/// What each component may use of the models.
fn granted(app: &App, models: &mut Models, engines: &Engines, settings: &Settings) -> Vec<Grants> {
    let guest_engine: Arc<dyn Engine> = Arc::new(Rten::new(settings.threads));
    let grant = |component: &AppComponent| {
        let grants = models.grant(&component.models, &component.models_folder, engines);
        match settings.guest_models {
            Some(limit) => grants.with_guest_models(Arc::clone(&guest_engine), limit),
            None => grants,
        }
    };
    app.components.iter().map(grant).collect()
}

/// Loads the models if the settings say so, or if their runs are in the plan, which are then not assumed to
/// take more; a load that fails is then logged, and tried again.
fn preload(models: &Models, plan: &Plan, settings: &Settings) -> anyhow::Result<()> {
    if settings.preload {
        models.preload().context("--preload")?;
    } else if plan.models.is_some() {
        models.preload().ok();
    }
    Ok(())
}

/// Loads all models and tells their memory. A load that fails is logged, and its run assumed.
fn model_needs(app: &App, engines: &Engines, settings: &Settings) -> ModelNeeds {
    let unlimited = Arc::new(Ledger::new(None, 0, 0));
    let gauge = Arc::new(Gauge::new(Budget::default()));
    let mut models = Models::new(unlimited, gauge, Arc::new(Metrics::new()));
    granted(app, &mut models, engines, settings);
    models.preload().ok();
    let needs = models.needs();
    drop(models);
    crate::allocator::trim();
    ModelNeeds { private: needs.private.saturating_add(LOADS_DIFFER), ..needs }
}

fn wasms(app: &App) -> anyhow::Result<Vec<Vec<u8>>> {
    app.components.iter().map(|component| wasm(app, component)).collect()
}

/// Makes room for a request by unloading a model.
fn evicting(models: &Arc<Models>) -> MakeRoom {
    let models = Arc::clone(models);
    Box::new(move || models.evict_one())
}

/// The bytes of a component, composed with its dependencies.
fn wasm(app: &App, component: &AppComponent) -> anyhow::Result<Vec<u8>> {
    if let Some(wasm) = component.embedded {
        return Ok(wasm.to_vec());
    }
    // Only what the manifest builds can be built.
    let is_built = component.build.is_some() || !app.other_builds.is_empty();
    let advice = if is_built { "; build it with `--build`" } else { "" };
    compose(&component.source, &component.dependencies).map_err(|error| match error {
        ComposeError::Read { path, source, .. } => {
            ComposeError::Read { path, advice, source }.into()
        }
        other => other.into(),
    })
}

/// Refuses to follow a component that the application does not have, as Spin does, and warns about hosts that
/// Spin lets a component call by interfaces that are not offered here.
fn check(app: &App, follow: &[String]) -> anyhow::Result<()> {
    let known: Vec<&str> = app.components.iter().map(|component| &*component.id).collect();
    if let Some(id) = follow.iter().find(|id| !known.contains(&id.as_str())) {
        bail!("--follow: there is no component {id:?}; there are [{}]", known.join(", "));
    }
    for component in &app.components {
        for scheme in unused_schemes(&component.allowed_outbound_hosts) {
            tracing::warn!(
                component = component.id,
                "allowed_outbound_hosts has a host of {scheme}://, which nothing uses: components connect by \
                 HTTP alone here"
            );
        }
    }
    Ok(())
}

/// The application's default key-value store, if a component may open it.
fn key_value_store(app: &App, settings: &Settings) -> anyhow::Result<Option<Arc<KeyValueStore>>> {
    let Some(user) = app.components.iter().find(|c| !c.key_value_stores.is_empty()) else {
        return Ok(None);
    };
    let folder = match &settings.state {
        StateFolder::Default => app.folder.join(".spin"),
        StateFolder::At(folder) => folder.clone(),
        StateFolder::Off => bail!(
            "component {:?} has `key_value_stores`, and --state-dir is empty; name a folder for the store",
            user.id
        ),
    };
    KeyValueStore::open(&folder, settings.key_value_limit).map(Arc::new).map(Some)
}

/// The cache of compiled components. Without one, only the starts are slower.
fn compile_cache(settings: &Settings) -> Option<CompileCache> {
    CompileCache::open(settings.cache_folder.as_deref()?)
        .inspect_err(|error| {
            tracing::warn!("starts will be slow without the compile cache: {error:#}")
        })
        .ok()
}

fn overrides(settings: &Settings, has_key_value: bool) -> Overrides {
    Overrides {
        instance: settings.max_instance_memory.map(|bytes| bytes as u64),
        concurrency: settings.max_concurrency,
        max_body: settings.max_body,
        max_head: settings.max_head,
        key_value: if has_key_value { key_value::STORE } else { 0 },
        guest_models: settings.guest_models.unwrap_or(0),
    }
}

fn rules(plan: &Plan, settings: &Settings) -> Rules {
    Rules { permits: plan.concurrency, length: settings.queue, timeout: settings.queue_timeout }
}

fn limits(plan: &Plan, settings: &Settings) -> anyhow::Result<Limits> {
    let bytes = |bytes: u64| usize::try_from(bytes).context("more than this machine can address");
    Ok(Limits {
        max_instances: plan.concurrency + HIGH_PRIORITY_PERMITS,
        max_instance_memory: bytes(plan.instance)?,
        max_host_memory: bytes(plan.host_share())?,
        max_guest_model: bytes(plan.guest_models)?,
        request_timeout: settings.request_timeout,
    })
}

/// The engines that the settings choose. A model may take half the budget as private memory; requests need
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
        tracing::warn!("graphs that cellnet does not support run on rten: {error}");
    }
    Ok(engines)
}
