//! The life of one model: loaded at first use by exactly one thread, measured on its first run, shared by all
//! requests, reloaded when its files were replaced, and unloaded when idle or when memory is needed, but
//! never while in use. Choosing the model to evict is left to `registry`.

use super::accounts::{ModelAccounts, Unload};
use super::counts::RunCounts;
use super::figures::{Figures, Run};
use super::files::{Loading, ModelFiles};
use crate::memory::{ModelHold, Sampled, sampled};
use crate::shortage;
use skincell_engines::{
    Engine, Engines, LoadError, Model as LoadedModel, NamedTensor, RunError, Source,
};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// A model granted to a component.
pub(crate) struct Model {
    name: String,
    folder: PathBuf,
    engines: Engines,
    accounts: Arc<ModelAccounts>,
    /// Locked during a load, so that other callers wait for the same load.
    loaded: Mutex<Option<Arc<Loaded>>>,
    /// What is known of its memory; kept when it is unloaded.
    figures: Mutex<Figures>,
    /// The last load, if it failed.
    failure: Mutex<Option<LoadFailure>>,
    counts: RunCounts,
}

/// Why the last load failed, and when.
struct LoadFailure {
    reason: String,
    at: Instant,
}

/// A model in memory. Users hold an `Arc`: it is idle when [`Model`] holds the only one.
pub(crate) struct Loaded {
    engine: &'static str,
    /// Declared before the model, so that the guards are dropped before the mappings.
    files: Arc<ModelFiles>,
    model: Arc<dyn LoadedModel>,
    load_time: Duration,
    is_measured: AtomicBool,
    /// Held during a measured run, so that only one is measured at a time.
    measuring_run: Mutex<()>,
    /// In milliseconds since the accounts were created.
    last_used: AtomicU64,
    /// Declared last, so that the ledger counts the memory until it is freed.
    hold: ModelHold,
}

/// Assumed size of a run's outputs, in bytes, if the engine reports its workspace only, until a run has more.
const OUTPUTS: u64 = 1 << 20;

/// How often a load is tried whose files are replaced meanwhile.
const LOADS: usize = 3;

/// Why there is no loaded model.
#[derive(Debug, thiserror::Error)]
pub enum AcquireError {
    /// It cannot be loaded.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// Its files cannot be opened now.
    #[error("the model's files cannot be opened now: {0}")]
    Files(#[from] io::Error),
}

impl AcquireError {
    /// The error as clients may know it, with what helps.
    pub(crate) fn to_clients(&self) -> &'static str {
        let passes = match self {
            Self::Load(error) => error.may_pass(),
            Self::Files(error) => !matches!(
                error.kind(),
                io::ErrorKind::InvalidInput
                    | io::ErrorKind::PermissionDenied
                    | io::ErrorKind::NotFound
                    | io::ErrorKind::NotADirectory
            ),
        };
        if passes {
            "the machine cannot do it now: try again later"
        } else {
            "its files are damaged, missing or of another version: trying again does not help, the service's \
             operator must mend the model's folder, which `skincell model check` tests"
        }
    }

    /// The reason without the paths of this machine.
    fn in_short(&self) -> String {
        match self {
            Self::Load(error) => error.in_short(),
            Self::Files(_) => self.to_string(),
        }
    }
}

/// Why a model did not run.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RunFailure {
    /// The engine failed.
    #[error(transparent)]
    Engine(#[from] RunError),
    /// Its inputs are larger than any before, and there is no memory for the run.
    #[error(
        "a run on {inputs} bytes of inputs may take {more} bytes more than the request's reservation, and \
         the memory limit has no room for them now"
    )]
    NoRoom {
        /// Bytes of all inputs.
        inputs: u64,
        /// Bytes it may take beyond the request's reservation.
        more: u64,
    },
}

type Outputs = Result<Vec<NamedTensor>, RunFailure>;

/// How soon a failed load is tried again.
const RETRY_AFTER: Duration = Duration::from_secs(2);

/// A model as `/memory` reports it.
#[derive(Debug, Clone, serde::Serialize)]
pub struct ModelStatus {
    /// The name under which it is granted.
    pub name: String,
    /// The engine that runs it.
    pub engine: &'static str,
    /// Whether it is in memory.
    pub loaded: bool,
    /// How long loading took, in milliseconds.
    pub load_ms: Option<f64>,
    /// Private memory it holds, in bytes: at rest, and kept after its last run.
    pub private_bytes: u64,
    /// Its files' size in bytes, mapped.
    pub mapped_bytes: u64,
    /// Peak memory of one run in bytes, once known.
    pub activation_bytes: Option<u64>,
    /// Why the last load failed or the next one will, if so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failure: Option<String>,
}

impl Model {
    pub(super) fn new(
        name: &str,
        folder: &Path,
        engines: Engines,
        accounts: Arc<ModelAccounts>,
    ) -> Self {
        Self {
            name: name.to_owned(),
            folder: folder.to_path_buf(),
            engines,
            accounts,
            loaded: Mutex::default(),
            figures: Mutex::default(),
            failure: Mutex::default(),
            counts: RunCounts::default(),
        }
    }

    pub(super) fn counts(&self) -> &RunCounts {
        &self.counts
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// The loaded model. A failure is not cached: the next caller tries again.
    pub(crate) fn acquire(&self) -> Result<Arc<Loaded>, AcquireError> {
        let mut slot = self.slot();
        if let Some(loaded) = &*slot {
            if loaded.files.are_current() {
                loaded.touch(&self.accounts);
                return Ok(Arc::clone(loaded));
            }
            tracing::info!(model = self.name, "the model's files were replaced; loading it again");
            *slot = None;
            self.accounts.unloaded(&self.name, Unload::Changed);
        }
        self.accounts.make_room_for(&self.name, self.figures().share);
        let outcome = self.load_settled();
        self.note_failure(outcome.as_ref().err());
        let loaded = Arc::new(outcome?);
        *slot = Some(Arc::clone(&loaded));
        Ok(loaded)
    }

    /// Loads the model, and loads it again if its files were replaced meanwhile, because they may then belong
    /// to different models.
    fn load_settled(&self) -> Result<Loaded, AcquireError> {
        let mut outcome = self.load();
        for _ in 1..LOADS {
            if !matches!(outcome, Err(AcquireError::Load(LoadError::Changed))) {
                break;
            }
            outcome = self.load();
        }
        outcome
    }

    fn load(&self) -> Result<Loaded, AcquireError> {
        let start = Instant::now();
        let source = Source::Folder(&self.folder);
        let engine = self.engines.choose(&source);
        let loading = Loading::begin();
        let mut files = ModelFiles::open(&self.folder)?;
        let (model, memory) = sampled(|| self.loaded_by(engine.as_ref()));
        let model = model?;
        files.guard()?;
        if loading.met_a_cut() || files.damage().is_some() || !files.are_current() {
            return Err(LoadError::Changed.into());
        }
        let load_time = start.elapsed();
        self.accounts.loaded(&self.name, load_time);
        let private = memory.after.saturating_sub(memory.before);
        let is_measured = self.learn_workspace(private, model.workspace_bytes());
        tracing::info!(model = self.name, engine = engine.name(), ?load_time, "model loaded");
        let (files, model) = (Arc::new(files), Arc::from(model));
        read_ahead(&files, &model);
        let loaded = Loaded {
            engine: engine.name(),
            files,
            model,
            load_time,
            is_measured: AtomicBool::new(is_measured),
            measuring_run: Mutex::default(),
            last_used: AtomicU64::new(0),
            hold: self.accounts.hold(self.figures().share),
        };
        loaded.touch(&self.accounts);
        Ok(loaded)
    }

    /// Loads the model with `engine`. A panic, for example because no thread could be started for a pool,
    /// counts as a failed load that may succeed later.
    fn loaded_by(&self, engine: &dyn Engine) -> Result<Box<dyn LoadedModel>, AcquireError> {
        shortage::memory()?;
        let load = || engine.load(Source::Folder(&self.folder));
        let outcome = catch_unwind(AssertUnwindSafe(load)).unwrap_or_else(|_| {
            let (engine, model) = (engine.name(), self.folder.display().to_string());
            let reason = "the engine panicked; its message is on standard error".to_owned();
            Err(LoadError::Shortage { engine, model, reason })
        });
        Ok(outcome?)
    }

    /// Records what is known of the model's memory before its first run. Returns whether that is everything.
    fn learn_workspace(&self, private: u64, workspace: Option<u64>) -> bool {
        let mut figures = self.locked_figures();
        figures.share.private = private;
        if let Some(bytes) = workspace {
            figures.share.kept = bytes;
            figures.activation = Some(bytes.saturating_add(OUTPUTS));
        }
        workspace.is_some()
    }

    /// Records that a load failed or succeeded. The same reason is not logged again.
    fn note_failure(&self, error: Option<&AcquireError>) {
        let mut failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(error) = error else {
            *failure = None;
            return;
        };
        self.accounts.load_failed(&self.name);
        let reason = error.in_short();
        if failure.as_ref().is_none_or(|earlier| earlier.reason != reason) {
            tracing::warn!(model = self.name, "{error}");
        }
        *failure = Some(LoadFailure { reason, at: Instant::now() });
    }

    /// Tries a failed load again after a while: `/readyz` reports the failure, so a load balancer may send no
    /// request that would try it.
    pub(super) fn retry(&self) {
        let failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
        let is_due = failure.as_ref().is_some_and(|failure| failure.at.elapsed() >= RETRY_AFTER);
        drop(failure);
        if is_due {
            // The outcome is recorded for `/readyz`.
            let _ = self.acquire();
        }
    }

    /// Runs the model. The first run after a load, and any run with larger inputs than before, is measured,
    /// one at a time.
    pub(crate) fn run(&self, loaded: &Arc<Loaded>, inputs: &[NamedTensor]) -> Outputs {
        let start = Instant::now();
        let outputs = self.checked_run(loaded, inputs);
        self.counts.add(start.elapsed(), outputs.is_ok());
        outputs
    }

    fn checked_run(&self, loaded: &Arc<Loaded>, inputs: &[NamedTensor]) -> Outputs {
        let start = Instant::now();
        let bytes = bytes_of(inputs);
        let more = self.figures().beyond_activation(bytes);
        let room = if more == 0 { None } else { Some(self.accounts.reserve(more)) };
        if let Some(None) = room {
            return Err(RunFailure::NoRoom { inputs: bytes, more });
        }
        let is_measured = loaded.is_measured.load(Ordering::Acquire);
        let outputs = if is_measured && !self.figures().is_beyond_measure(bytes) {
            loaded.model.run(inputs)
        } else {
            self.measured_run(loaded, inputs)
        };
        drop(room);
        loaded.touch(&self.accounts);
        self.accounts.ran(start.elapsed());
        if let Some(damage) = loaded.files.damage() {
            self.forget(loaded);
            return Err(RunError::Damaged(damage).into());
        }
        let outputs = outputs?;
        self.learn_outputs(loaded, bytes_of(&outputs));
        Ok(outputs)
    }

    fn measured_run(
        &self,
        loaded: &Loaded,
        inputs: &[NamedTensor],
    ) -> Result<Vec<NamedTensor>, RunError> {
        let measuring = loaded.measuring_run.lock().unwrap_or_else(PoisonError::into_inner);
        let bytes = bytes_of(inputs);
        let is_measured = loaded.is_measured.load(Ordering::Acquire);
        if is_measured && !self.figures().is_beyond_measure(bytes) {
            drop(measuring);
            return loaded.model.run(inputs);
        }
        let (outputs, memory) = sampled(|| loaded.model.run(inputs));
        // A failed run is no measure of a successful one.
        if outputs.is_ok() {
            self.learn_run(loaded, bytes, &memory);
        }
        outputs
    }

    /// Records what a run took. If it could not be sampled, the next one is measured.
    fn learn_run(&self, loaded: &Loaded, inputs: u64, memory: &Sampled) {
        let Some(peak) = memory.peak else { return };
        let mut figures = self.locked_figures();
        let kept = memory.after.saturating_sub(memory.before);
        let run = Run { inputs, peak: peak.saturating_sub(memory.before).max(kept) };
        if loaded.is_measured.load(Ordering::Acquire) {
            figures.measured = figures.measured.map(|(first, _)| (first, run));
            figures.share.kept = figures.share.kept.saturating_add(kept);
        } else {
            figures.measured = Some((run, run));
            figures.share.kept = kept;
            figures.activation = figures.activation.max(Some(run.peak));
        }
        loaded.hold.correct(figures.share);
        drop(figures);
        loaded.is_measured.store(true, Ordering::Release);
    }

    /// Records outputs larger than [`OUTPUTS`], for an engine that reports its workspace only.
    fn learn_outputs(&self, loaded: &Loaded, bytes: u64) {
        if bytes > OUTPUTS
            && let Some(workspace) = loaded.model.workspace_bytes()
        {
            let mut figures = self.locked_figures();
            figures.activation = figures.activation.max(Some(workspace.saturating_add(bytes)));
        }
    }

    /// Drops `loaded`, so that the next request loads the model again.
    fn forget(&self, loaded: &Arc<Loaded>) {
        let mut slot = self.slot();
        if slot.as_ref().is_some_and(|current| Arc::ptr_eq(current, loaded)) {
            *slot = None;
            self.accounts.unloaded(&self.name, Unload::Changed);
        }
    }

    /// Unloads it if it is not in use and `wanted` accepts the time it has been idle. Returns whether it was
    /// unloaded.
    pub(super) fn unload_if(&self, why: Unload, wanted: impl FnOnce(Duration) -> bool) -> bool {
        // A held lock means that it is being loaded or used: then it is not idle.
        let Ok(mut slot) = self.loaded.try_lock() else { return false };
        let idle = slot.as_ref().is_some_and(|loaded| {
            Arc::strong_count(loaded) == 1 && wanted(loaded.idle(&self.accounts))
        });
        if !idle {
            return false;
        }
        *slot = None;
        tracing::info!(model = self.name, reason = why.label(), "model unloaded");
        self.accounts.unloaded(&self.name, why);
        true
    }

    /// How long it has been idle; `None` if it is in use or not loaded.
    pub(super) fn idle(&self) -> Option<Duration> {
        let slot = self.loaded.try_lock().ok()?;
        let loaded = slot.as_ref().filter(|loaded| Arc::strong_count(loaded) == 1)?;
        Some(loaded.idle(&self.accounts))
    }

    pub(crate) fn figures(&self) -> Figures {
        *self.locked_figures()
    }

    pub(crate) fn status(&self) -> ModelStatus {
        let slot = self.loaded.try_lock().ok();
        let loaded = slot.as_ref().and_then(|slot| slot.as_ref());
        let figures = self.figures();
        let held = figures.share.private.saturating_add(figures.share.kept);
        let source = Source::Folder(&self.folder);
        let engine = self.engines.choose(&source);
        let is_there = loaded.is_some() || engine.takes(&source);
        let missing = || (!is_there).then(|| LoadError::Missing(self.folder.clone()).in_short());
        let failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
        let reason = failure.as_ref().map(|failure| failure.reason.clone());
        ModelStatus {
            name: self.name.clone(),
            engine: loaded.map_or_else(|| engine.name(), |loaded| loaded.engine),
            loaded: loaded.is_some(),
            load_ms: loaded.map(|loaded| loaded.load_time.as_secs_f64() * 1e3),
            private_bytes: loaded.map_or(0, |_| held),
            mapped_bytes: loaded.map_or(0, |loaded| loaded.files.mapped_bytes()),
            activation_bytes: figures.activation,
            failure: reason.or_else(missing),
        }
    }

    fn slot(&self) -> MutexGuard<'_, Option<Arc<Loaded>>> {
        self.loaded.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn locked_figures(&self) -> MutexGuard<'_, Figures> {
        self.figures.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Bytes of elements in all these tensors.
fn bytes_of(tensors: &[NamedTensor]) -> u64 {
    tensors.iter().map(|(_, tensor)| tensor.data.len() as u64).sum()
}

/// Reads the weights in the background. The files stay guarded until that ends, even if the model is unloaded
/// meanwhile.
fn read_ahead(files: &Arc<ModelFiles>, model: &Arc<dyn LoadedModel>) {
    let (files, model) = (Arc::clone(files), Arc::clone(model));
    let thread = std::thread::Builder::new().name("read-ahead".to_owned());
    let read = move || {
        model.read_ahead();
        drop(files);
        drop(model);
    };
    // Without a thread, the first run reads the weights itself.
    if let Err(error) = shortage::thread().and_then(|()| thread.spawn(read)) {
        tracing::debug!(%error, "weights are not read ahead");
    }
}

impl Loaded {
    fn touch(&self, accounts: &ModelAccounts) {
        self.last_used.store(accounts.milliseconds(), Ordering::Relaxed);
    }

    fn idle(&self, accounts: &ModelAccounts) -> Duration {
        let last = self.last_used.load(Ordering::Relaxed);
        Duration::from_millis(accounts.milliseconds().saturating_sub(last))
    }
}
