//! Settings of a service, from the command line. `memory::Plan` divides the budget they name.

use crate::memory::MemoryLimit;
use crate::sandbox::{CompileCache, OutputSettings};
pub use skincell_engines::EngineChoice;
use std::path::PathBuf;
use std::time::Duration;

/// Default of [`Settings::max_head`].
pub const MAX_HEAD: u32 = 16 << 10;

/// Settings of a service.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The memory budget.
    pub memory_limit: MemoryLimit,
    /// Largest linear memory of one instance, in bytes; `None` is 64 MiB, or less if the budget is small.
    pub max_instance_memory: Option<usize>,
    /// Requests at work at the same time; `None` is as many as cores and budget allow.
    pub max_concurrency: Option<usize>,
    /// Wall-clock time for reading a request's body, and again for its instance until the end of the answer.
    pub request_timeout: Duration,
    /// Threads for inference, for all requests together.
    pub threads: usize,
    /// Folder that caches compiled components; `None` compiles at every start.
    pub cache_folder: Option<PathBuf>,
    /// Requests that may wait for a permit.
    pub queue: usize,
    /// How long each may wait.
    pub queue_timeout: Duration,
    /// Longest request body, in bytes.
    pub max_body: u64,
    /// Longest head of a request, in bytes: target and fields together; a longer one is answered 431.
    pub max_head: u32,
    /// The engine that runs the models.
    pub engine: EngineChoice,
    /// The ONNX Runtime library, if there is one.
    pub engine_library: Option<PathBuf>,
    /// Bytes of ONNX models that a component may load itself, for each request; `None` allows none.
    pub guest_models: Option<u64>,
    /// Whether every granted model is loaded at the start.
    pub preload: bool,
    /// How long an unused model stays loaded.
    pub unload_after: Duration,
    /// Where the application's state is kept, such as its key-value store.
    pub state: StateFolder,
    /// Largest sum of the entries of the key-value store, in bytes.
    pub key_value_limit: u64,
    /// Why the components cannot answer as they are configured, if the caller knows of a reason: `/readyz`
    /// fails with it.
    pub misconfigured: Option<String>,
    /// Whether the runner's own endpoints have a port of their own.
    pub admin_apart: bool,
    /// Where components' output goes.
    pub output: OutputSettings,
}

/// The folder for an application's state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StateFolder {
    /// `.spin` beside the manifest, as in Spin.
    Default,
    /// This one.
    At(PathBuf),
    /// None: components that need state are refused at the start.
    Off,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            memory_limit: MemoryLimit::Auto,
            max_instance_memory: None,
            max_concurrency: None,
            request_timeout: Duration::from_secs(30),
            threads: std::thread::available_parallelism().map_or(1, usize::from),
            cache_folder: CompileCache::default_folder(),
            queue: 64,
            queue_timeout: Duration::from_secs(10),
            max_body: 16 << 20,
            max_head: MAX_HEAD,
            engine: EngineChoice::Auto,
            engine_library: None,
            guest_models: None,
            preload: false,
            unload_after: Duration::from_secs(600),
            state: StateFolder::Default,
            key_value_limit: 64 << 20,
            misconfigured: None,
            admin_apart: false,
            output: OutputSettings::default(),
        }
    }
}
