//! wasi-nn for guests: models found by name, loaded at first use, run by one of the host's engines.
//!
//! `host` implements the guest's calls, `registry` holds the models and each component's grants, `model`
//! loads, runs and unloads one model, `accounts` counts its memory, `counts` its
//! runs, `figures` estimates it, `files` watches
//! the files it is mapped from, and `sigbus` guards those mappings. Computing a model is left to
//! `skincell-engines`; photos are left to the component.

mod accounts;
mod counts;
mod figures;
mod files;
mod host;
mod model;
mod registry;
#[cfg(unix)]
mod sigbus;

pub(crate) use counts::RunCounts;
pub(crate) use host::{Deadline, NnState, NnView, add_to_linker};
pub use model::{AcquireError, ModelStatus};
pub use registry::{Grants, Models};
pub use skincell_engines::{
    Cellnet, Engine, Engines, LoadError, Model as LoadedModel, Rten, RunError, Selection, Source,
    TensorError,
};
#[cfg(feature = "onnxruntime")]
pub use skincell_engines::{NoLibrary, OnnxRuntime};
