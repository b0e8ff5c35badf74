//! wasi-nn for the guest: models by name, loaded at first use, run by an engine of this host.
//!
//! `host` is what the guest calls, `registry` holds the models and what each component was granted, `model`
//! is one model's life, `accounts` where its memory is accounted for, `figures` what it takes, `files` what it was
//! mapped from, and `sigbus` the guard of those mappings. `skincell-engines` computes a model; nothing here knows
//! of photos.

mod accounts;
mod figures;
mod files;
mod host;
mod model;
mod registry;
#[cfg(unix)]
mod sigbus;

pub(crate) use host::{Deadline, NnState, NnView, add_to_linker};
pub use model::{AcquireError, ModelStatus};
pub use registry::{Grants, Models};
pub use skincell_engines::{
    Cellnet, Engine, Engines, LoadError, Model as LoadedModel, Rten, RunError, Selection, Source,
    TensorError,
};
#[cfg(feature = "onnxruntime")]
pub use skincell_engines::{NoLibrary, OnnxRuntime};
