//! The flags shared by `up`, `serve` and `classify`: the environment of components, engines and limits.

use crate::engine_library::EngineLibrary;
use crate::machine_flags::{CacheFlag, MemoryFlag};
use crate::variables;
use anyhow::Context;
use bytesize::ByteSize;
use clap::Args;
use skincell_runner::admission::HIGH_PRIORITY_PERMITS;
use skincell_runner::app::App;
use skincell_runner::settings::{EngineChoice, Settings, StateFolder};
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

/// Flags for components, engines and limits.
#[derive(Debug, Args)]
pub struct RunOptions {
    /// Set an environment variable for every component; may be given several times. Components with models
    /// have those of SKINCELL_ from this program's environment too.
    #[arg(short, long = "env", value_name = "KEY=VALUE", value_parser = key_value)]
    pub environment: Vec<(String, String)>,

    /// The engine that runs the models: cellnet takes folders with a model.cell; rten takes every ONNX
    /// graph; so does onnxruntime, if its library is named. auto takes the first of cellnet, onnxruntime
    /// (if half the memory limit has room for its private copy of the weights) and rten.
    #[arg(long, value_name = "ENGINE", env = "SKINCELL_ENGINE", default_value = "auto")]
    engine: EngineChoice,

    #[command(flatten)]
    engine_lib: EngineLibrary,

    /// Threads for inference, shared by all requests [default: the number of cores].
    #[arg(long, value_name = "N", env = "OMP_NUM_THREADS")]
    #[arg(value_parser = clap::value_parser!(u16).range(1..))]
    threads: Option<u16>,

    #[command(flatten)]
    memory: MemoryFlag,

    /// Requests processed at the same time [default: as cores and memory allow].
    #[arg(long, value_name = "N", env = "SKINCELL_MAX_CONCURRENCY")]
    #[arg(value_parser = clap::value_parser!(u16).range(1..=1000))]
    max_concurrency: Option<u16>,

    /// Memory of one instance; a photo that needs more is answered 413 [default: 64MiB, or less if the
    /// memory limit requires it].
    #[arg(long, value_name = "SIZE", env = "SPIN_MAX_INSTANCE_MEMORY")]
    max_instance_memory: Option<ByteSize>,

    /// Let components load ONNX models from bytes (wasi:nn load), up to this size per request. Only for
    /// components you trust: the memory such a graph needs when it runs is not known beforehand.
    #[arg(long, value_name = "SIZE", env = "SKINCELL_ALLOW_GUEST_MODELS")]
    allow_guest_models: Option<ByteSize>,

    /// Time limit for receiving a request's body and for its instance to answer, without the time in the
    /// queue.
    #[arg(long, value_name = "TIME", env = "SKINCELL_REQUEST_TIMEOUT", default_value = "30s")]
    #[arg(value_parser = humantime::parse_duration)]
    request_timeout: Duration,

    /// Largest request body; larger ones are answered 413. Sets SKINCELL_MAX_BODY of components too, if the
    /// manifest does [default: 16MiB, and what the manifest says].
    #[arg(long, value_name = "SIZE", env = "SKINCELL_MAX_BODY")]
    max_body: Option<ByteSize>,

    #[command(flatten)]
    cache: CacheFlag,

    /// Folder for the application's state, such as its key-value store [default: .spin beside the manifest].
    /// Empty means none: applications that need state are then refused.
    #[arg(long, value_name = "FOLDER", env = "SKINCELL_STATE_DIR")]
    state_dir: Option<OsString>,

    /// Largest sum of the keys and values in the key-value store; a component that would exceed it gets an
    /// error.
    #[arg(long, value_name = "SIZE", env = "SKINCELL_KEY_VALUE_LIMIT", default_value = "64MiB")]
    key_value_limit: ByteSize,

    /// Compile at every start, without a cache.
    #[arg(long, conflicts_with = "cache_dir")]
    disable_cache: bool,
}

impl RunOptions {
    /// The settings given by these flags and the process's environment, which the components of `app` get
    /// too; the rest are defaults.
    pub fn settings_for(&self, app: &mut App) -> anyhow::Result<Settings> {
        let max_body = self.max_body.map(|size| size.as_u64());
        let process = variables::of_process();
        let misconfigured = variables::apply(app, &self.environment, max_body, &process);
        let settings = self.settings()?;
        if settings.cache_folder.is_none() && !self.disable_cache {
            tracing::warn!(
                "every start compiles the components anew: neither HOME nor XDG_CACHE_HOME names a folder to \
                 keep them in; name one with --cache-dir"
            );
        }
        Ok(Settings { misconfigured, ..settings })
    }

    /// The settings given by these flags alone.
    pub fn settings(&self) -> anyhow::Result<Settings> {
        let instance = self.max_instance_memory.map(|size| usize::try_from(size.as_u64()));
        let default = Settings::default();
        Ok(Settings {
            memory_limit: self.memory.memory_limit,
            max_instance_memory: instance
                .transpose()
                .context("--max-instance-memory is more than this machine can address")?,
            max_body: self.max_body.map_or(default.max_body, |size| size.as_u64()),
            max_concurrency: self.max_concurrency.map(usize::from),
            request_timeout: self.request_timeout,
            guest_models: self.allow_guest_models.map(|size| size.as_u64()),
            engine: self.engine,
            engine_library: self.engine_lib.path(),
            threads: self.threads.map_or(default.threads, usize::from),
            state: match &self.state_dir {
                None => StateFolder::Default,
                Some(folder) if folder.is_empty() => StateFolder::Off,
                Some(folder) => StateFolder::At(PathBuf::from(folder)),
            },
            key_value_limit: self.key_value_limit.as_u64(),
            cache_folder: self.cache.folder().filter(|_| !self.disable_cache),
            ..default
        })
    }
}

/// A runtime for the service. Its worker threads serve the sockets and start requests without a body, so
/// there is one more worker than such requests; a request that becomes long work moves to its own thread.
pub fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(HIGH_PRIORITY_PERMITS + 1)
        .enable_all()
        .build()
        .context("cannot start the runtime")
}

fn key_value(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("write it as KEY=VALUE".to_owned()),
    }
}
