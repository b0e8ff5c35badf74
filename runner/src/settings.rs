//! How a service is run: what the command line asks for, before the budget has its say.

use crate::memory::MemoryLimit;
use crate::sandbox::{CompileCache, OutputSettings};
pub use skincell_engines::EngineChoice;
use std::path::PathBuf;
use std::time::Duration;

/// How a service is run.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The budget.
    pub memory_limit: MemoryLimit,
    /// Bytes of linear memory of one instance; `None` is 64 MiB, or less where the budget is small.
    pub max_instance_memory: Option<usize>,
    /// Requests at work at the same time; `None` is what cores and budget allow.
    pub max_concurrency: Option<usize>,
    /// Wall-clock time for a request's body to come, and again for its instance to the end of the answer.
    pub request_timeout: Duration,
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
    /// The ONNX Runtime library, where there is one.
    pub engine_library: Option<PathBuf>,
    /// Bytes of ONNX models that a component may bring itself, for each request; `None` is none at all.
    pub guest_models: Option<u64>,
    /// Load every granted model at the start.
    pub preload: bool,
    /// How long a model stays loaded that nobody asks for.
    pub unload_after: Duration,
    /// Whether the runner's own endpoints have a port of their own.
    pub admin_apart: bool,
    /// Where components print.
    pub output: OutputSettings,
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
            engine: EngineChoice::Auto,
            engine_library: None,
            guest_models: None,
            preload: false,
            unload_after: Duration::from_secs(600),
            admin_apart: false,
            output: OutputSettings::default(),
        }
    }
}
